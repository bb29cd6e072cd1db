# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What mixins and functions beside the networks need of the model; they name these and never its class."""

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn
from transformers.modeling_outputs import BackboneOutput

from .configuration_vfmseg import VFMSegConfig
from .window_batches import WindowBatchLimits


if TYPE_CHECKING:
    from peft import PeftConfig


class Encoder(Protocol):
    """From images `[B, 3, height, width]` to four feature maps; `encoder` is the foundation model."""

    encoder: nn.Module

    def __call__(self, pixel_values: torch.Tensor, **kwargs: bool | None) -> BackboneOutput: ...


class Networks(Protocol):
    """An encoder, which both stages share, and their heads: what the training objective needs."""

    config: VFMSegConfig
    training: bool
    model: Encoder
    coarse_head: nn.Module
    refine_head: nn.Module
    checks_raise: bool
    loss_function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None


class TwoStageModel(Networks, Protocol):
    """How the second stage runs in batches of windows: what inference needs."""

    windows_are_compiled: bool
    window_batch_limits: WindowBatchLimits

    def refine_windows(self, windows: torch.Tensor, context: torch.Tensor) -> torch.Tensor: ...


class AdaptableModel(Networks, Protocol):
    """Where the weights come from, and peft's side of transformers' models: what loading and adapters need."""

    dtype: torch.dtype
    name_or_path: str
    loaded_from: str | None
    adapter_base: str | None
    adapter_base_fingerprint: str | None
    peft_config: dict[str, "PeftConfig"]

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike | None, **kwargs: object) -> "AdaptableModel": ...

    def add_adapter(self, adapter_config: "PeftConfig", adapter_name: str | None = None) -> None: ...

    def active_adapters(self) -> list[str]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def named_buffers(self) -> Iterator[tuple[str, torch.Tensor]]: ...

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...

    def get_submodule(self, target: str) -> nn.Module: ...

    def set_submodule(self, target: str, module: nn.Module) -> None: ...

    def requires_grad_(self, requires_grad: bool) -> "AdaptableModel": ...

    def eval(self) -> "AdaptableModel": ...
