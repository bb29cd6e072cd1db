# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What mixins and functions beside the networks need of the model; they name these and never its class."""

from typing import Protocol

import torch
from torch import nn
from transformers.modeling_outputs import BackboneOutput

from .configuration_vfmseg import VFMSegConfig
from .window_batches import WindowBatchLimits


class Encoder(Protocol):
    """From pictures `[B, 3, height, width]` to four feature maps; `encoder` is the foundation model."""

    encoder: nn.Module

    def __call__(self, pixel_values: torch.Tensor, **kwargs: bool | None) -> BackboneOutput: ...


class TwoStageModel(Protocol):
    """An encoder, which both stages share, their heads, and how the second one is run in batches of windows."""

    config: VFMSegConfig
    training: bool
    model: Encoder
    coarse_head: nn.Module
    refine_head: nn.Module
    windows_are_compiled: bool
    window_batch_limits: WindowBatchLimits

    def refine_windows(self, windows: torch.Tensor, context: torch.Tensor) -> torch.Tensor: ...
