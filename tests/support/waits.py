# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What makes the host wait for a device, counted without one."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode


class CountWaits(TorchDispatchMode):
    """Counts the operations that make the host wait for a device, or copy to or from it."""

    WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "item")

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        boolean_index = name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if any(wait in name for wait in self.WAITS) or boolean_index:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def count_copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the methods that have copied a tensor to the host since; grows with every copy."""
    copies = []
    for name in ("tolist", "item", "cpu", "numpy"):
        copy_to_host = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor,
            name,
            lambda *inputs, name=name, copy_to_host=copy_to_host: copies.append(name) or copy_to_host(*inputs),
        )
    return copies


def count_copies_of_numbers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the functions that have since made a tensor of the host's numbers on a device: torch waits there."""
    copies = []
    for name in ("tensor", "as_tensor"):
        make = getattr(torch, name)

        def make_counted(data, *arguments, name=name, make=make, **options):
            if options.get("device") is not None and not isinstance(data, torch.Tensor):
                copies.append(name)
            return make(data, *arguments, **options)

        monkeypatch.setattr(torch, name, make_counted)
    return copies
