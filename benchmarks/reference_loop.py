# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""
Two-stage inference as the published code does it: the oracle of the tests and the baseline of the benchmarks.

One window at a time, with a decision on the host for each, LoRA as it is attached. It shares nothing with the
library's inference but the model's modules and the size of the coarse pass.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from vfmseg_hf.model.modeling_vfmseg import VFMSegForSemanticSegmentation
from vfmseg_hf.model.windows import coarse_size


@dataclass
class ReferenceResult:
    """
    Args:
        logits (`torch.Tensor` of shape `(batch_size, num_labels, height, width)`).
        coarse_logits: those of the coarse head, `(batch_size, num_labels, any height, any width)`.
        windows: (top, left, bottom, right) in visiting order.
        certainty, refined: of each image and window.
    """

    logits: torch.Tensor
    coarse_logits: torch.Tensor
    windows: list[tuple[int, int, int, int]]
    certainty: list[list[float]]
    refined: list[list[bool]]


def reference_inference(
    model: VFMSegForSemanticSegmentation, pixel_values: torch.Tensor, refine: bool | str | None = None
) -> ReferenceResult:
    """
    Args:
        model: in eval mode, with or without LoRA attached.
        pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): with `certainty_scope="image"` the
            images go through one by one.
        refine: as in the model's `forward`.
    """
    if model.config.certainty_scope == "image" and len(pixel_values) > 1:
        parts = [reference_inference(model, image[None], refine) for image in pixel_values]
        return ReferenceResult(
            torch.cat([part.logits for part in parts]),
            torch.cat([part.coarse_logits for part in parts]),
            parts[0].windows,
            [part.certainty[0] for part in parts],
            [part.refined[0] for part in parts],
        )
    config = model.config
    size = tuple(pixel_values.shape[-2:])
    coarse_logits = reference_coarse(model, pixel_values)
    full = _resize(coarse_logits.float().contiguous(), size)  # resizing rounds by the layout in memory
    total, count = torch.zeros_like(full), torch.zeros_like(full[:, :1])
    windows, certainty, refined = reference_windows(*size, config.window_size, config.window_stride), [], []
    for top, left, bottom, right in windows:
        logits = full[..., top:bottom, left:right]
        share = (logits.softmax(1).amax(1) > config.confidence_threshold).float().mean()
        kept = bool(
            share >= config.certainty_threshold if config.keep_at_threshold else share > config.certainty_threshold
        )
        wanted = refine == "all" or (refine is not False and not kept)
        if wanted:
            pixels = pixel_values[..., top:bottom, left:right]
            logits = reference_window(model, model.refine_head, pixels, logits)
        total[..., top:bottom, left:right] += logits
        count[..., top:bottom, left:right] += 1
        certainty.append(float(share))
        refined.append(wanted)
    images = len(pixel_values)
    return ReferenceResult(total / count, coarse_logits, windows, [certainty] * images, [refined] * images)


def reference_coarse(model: VFMSegForSemanticSegmentation, pixel_values: torch.Tensor) -> torch.Tensor:
    """Coarse logits, in one piece or one window at a time (`config.coarse_mode`)."""
    config = model.config
    small = _resize(pixel_values, coarse_size(tuple(pixel_values.shape[-2:]), config.coarse_size, config.patch_size))
    if config.coarse_mode == "whole":
        return model.coarse_head(model.model(small, return_dict=True).feature_maps)
    total = small.new_zeros(len(small), config.num_labels, *small.shape[-2:], dtype=torch.float32)
    count = torch.zeros_like(total[:, :1])
    for top, left, bottom, right in reference_windows(*small.shape[-2:], config.window_size, config.window_stride):
        pixels = small[..., top:bottom, left:right]
        total[..., top:bottom, left:right] += reference_window(model, model.coarse_head, pixels)
        count[..., top:bottom, left:right] += 1
    return total / count


def reference_window(model: VFMSegForSemanticSegmentation, head, pixels: torch.Tensor, *context: torch.Tensor):
    """A head's logits of one window at its size; windows that are no whole patches are padded by their border."""
    height, width = pixels.shape[-2:]
    patch = model.config.patch_size
    padding = (0, -width % patch, 0, -height % patch)
    pixels, *context = (F.pad(tensor, padding, mode="replicate") for tensor in (pixels, *context))
    logits = head(model.model(pixels, return_dict=True).feature_maps, *context)
    return _resize(logits.float(), tuple(pixels.shape[-2:]))[..., :height, :width]


def reference_windows(height: int, width: int, window: int, stride: int) -> list[tuple[int, int, int, int]]:
    """Windows in visiting order, counted and shifted back as the published code does."""
    boxes = []
    for row in range(max(height - window + stride - 1, 0) // stride + 1):
        for column in range(max(width - window + stride - 1, 0) // stride + 1):
            bottom, right = min(row * stride + window, height), min(column * stride + window, width)
            boxes.append((max(bottom - window, 0), max(right - window, 0), bottom, right))
    return boxes


def _resize(tensor: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(tensor, size=size, mode="bilinear", align_corners=False)
