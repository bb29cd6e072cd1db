# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What the model gives back."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import ModelOutput


@dataclass
class VFMSegSemanticSegmenterOutput(ModelOutput):
    """
    Output of [`VFMSegForSemanticSegmentation`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, returned when `labels` are given):
            content loss + lambda * detail loss.
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels, height, width)`):
            Final logits at the size of `pixel_values`. In training mode the refine head's raw logits of the crop,
            `(batch_size, num_labels, crop_height / 16, crop_width / 16)`: they belong to `windows`, not to the whole
            image and its `labels`.
        coarse_logits (`torch.FloatTensor` of shape `(batch_size, num_labels, coarse_height / 4, coarse_width / 4)`):
            The coarse head's raw logits. With `coarse_mode="sliding"` merged at the size of the coarse image.
        content_loss, detail_loss (`torch.FloatTensor` of shape `()`, *optional*, returned when `labels` are given):
            Cross entropy of the coarse and of the final (in training: crop) logits.
        windows (`torch.LongTensor` of shape `(batch_size, num_windows, 4)`):
            The windows as (top, left, bottom, right) in pixels of `pixel_values`, exclusive ends; the same for each
            image. In training mode the crop box.
        certainty (`torch.FloatTensor` of shape `(batch_size, num_windows)`, eval mode only):
            Share of each window's pixels whose best coarse class is more probable than *theta*, in 0..1.
        refined (`torch.BoolTensor` of shape `(batch_size, num_windows)`, eval mode only):
            Which windows the refine head has redone.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            Those of the encoder in the coarse pass (in training mode: of the images at half resolution), when asked
            for. None with `coarse_mode="sliding"` in eval mode.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    coarse_logits: torch.FloatTensor | None = None
    content_loss: torch.FloatTensor | None = None
    detail_loss: torch.FloatTensor | None = None
    windows: torch.LongTensor | None = None
    certainty: torch.FloatTensor | None = None
    refined: torch.BoolTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class VFMSegLabelMap:
    """
    One image segmented by [`VFMSegForSemanticSegmentation.segment`], on the model's device.

    Args:
        labels (`torch.Tensor` of shape `(height, width)`):
            Class ids, `uint8` (`int32` with more than 256 classes).
        confidence (`torch.Tensor` of shape `(height, width)`):
            Probability of that class, `uint8`: 255 is certain.
        coarse_logits (`torch.FloatTensor` of shape `(num_labels, coarse_height / 4, coarse_width / 4)`):
            What the coarse pass said, at its own size; `label_map` turns it into labels of any size.
        windows (`list[tuple[int, int, int, int]]`):
            (top, left, bottom, right) in pixels of the image that the model saw, exclusive ends.
        certainty (`list[float]`):
            Share of certain pixels of each window, 0..1.
        refined (`list[bool]`):
            Which windows the refine head has redone.
    """

    labels: torch.Tensor
    confidence: torch.Tensor
    coarse_logits: torch.Tensor
    windows: list[tuple[int, int, int, int]]
    certainty: list[float]
    refined: list[bool]
