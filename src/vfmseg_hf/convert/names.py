# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Published tensors under this library's names."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch


StateDict = dict[str, torch.Tensor]


@dataclass
class ConvertedWeights:
    """
    Foreign weights under this library's names.

    Attributes:
        encoder: the frozen foundation model's tensors, named as in the library class that runs it.
        lora: LoRA factors by adapted layer: `{"encoder.layer.0.attention.q_proj": (A, B)}`.
        heads: tensors of `coarse_head.` and `refine_head.`.
        dropped: foreign keys left out, with the reason.
    """

    encoder: StateDict = field(default_factory=dict)
    lora: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    heads: StateDict = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """r of the LoRA, or 0 without one."""
        return next(iter(self.lora.values()))[0].shape[0] if self.lora else 0


def renamer(rules: Sequence[tuple[str, str | tuple[str, ...]]]) -> Callable[[str], tuple[str, ...]]:
    """
    A function from a published key to the keys here that share its rows, in this order; none where no rule matches.

    Args:
        rules: (regular expression, template or templates); the first full match decides.
    """
    compiled = [(re.compile(pattern), (new,) if isinstance(new, str) else new) for pattern, new in rules]

    def rename(key: str) -> tuple[str, ...]:
        for pattern, templates in compiled:
            if match := pattern.fullmatch(key):
                return tuple(match.expand(template) for template in templates)
        return ()

    return rename
