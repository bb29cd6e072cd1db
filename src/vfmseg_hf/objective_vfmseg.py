# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The joint training objective L = L_c + lambda L_d (section "Framework Overview" of the paper)."""

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from .configuration_vfmseg import VFMSegConfig, nearest_multiple
from .resizing_vfmseg import resize_bilinear
from .windows_vfmseg import Box, draw_crop_box


if TYPE_CHECKING:
    from .modeling_vfmseg import VFMSegForSemanticSegmentation


def joint_objective(
    model: "VFMSegForSemanticSegmentation", pixel_values: torch.Tensor, labels: torch.Tensor, box: Box | None
) -> dict[str, torch.Tensor]:
    """
    Content loss on the pictures at half resolution, detail loss on one crop at full resolution.

    The crop is the same region in all pictures of the batch; the refine head sees the detached coarse logits of that
    region. Where both inputs have one size, the encoder runs once on twice the batch.

    Args:
        pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): multiples of two patches.
        labels (`torch.Tensor` of shape `(batch_size, height, width)`).
        box: the crop, or `None` to draw one.

    Returns:
        The fields of `VFMSegSemanticSegmenterOutput` that training has.

    Raises:
        ValueError: on sizes or boxes that do not fit, naming legal ones.
    """
    config = model.config
    height, width = pixel_values.shape[-2:]
    step = 2 * config.patch_size
    if height % step or width % step:
        raise ValueError(
            f"training needs a height and width in multiples of {step}, got {height}x{width}; the nearest legal size "
            f"is {nearest_multiple(height, step)}x{nearest_multiple(width, step)}"
        )
    if labels.shape[-2:] != pixel_values.shape[-2:]:
        raise ValueError(
            f"in training mode labels must have the pictures' size {tuple(pixel_values.shape[-2:])}, got "
            f"{tuple(labels.shape[-2:])}; give the image processor segmentation_maps so that it resizes both"
        )
    box = draw_detail_crop(height, width, config) if box is None else check_detail_crop(box, height, width, config)
    top, left, bottom, right = box
    small = resize_bilinear(pixel_values, (height // 2, width // 2))
    crop = pixel_values[..., top:bottom, left:right]
    if small.shape == crop.shape:
        maps = model.model(torch.cat([small, crop]), return_dict=True).feature_maps
        coarse_maps, refine_maps = zip(*(feature_map.chunk(2) for feature_map in maps), strict=True)
    else:
        coarse_maps, refine_maps = (model.model(inputs, return_dict=True).feature_maps for inputs in (small, crop))
    coarse_logits = model.coarse_head(coarse_maps)
    content_loss = segmentation_loss(coarse_logits, labels[:, ::2, ::2], config)
    context = resize_bilinear(coarse_logits.detach(), (height // 2, width // 2))
    logits = model.refine_head(refine_maps, context[..., top // 2 : bottom // 2, left // 2 : right // 2])
    detail_loss = segmentation_loss(logits, labels[:, top:bottom, left:right], config)
    return {
        "loss": content_loss + config.detail_loss_weight * detail_loss,
        "logits": logits,
        "coarse_logits": coarse_logits,
        "content_loss": content_loss,
        "detail_loss": detail_loss,
        "windows": torch.tensor(box, device=pixel_values.device).repeat(pixel_values.shape[0], 1, 1),
    }


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor, config: VFMSegConfig) -> torch.Tensor:
    """
    Cross entropy (L_seg) at the labels' size, averaged over the labelled pixels or over all (`loss_normalization`).

    Without any labelled pixel it is 0, with gradients.
    """
    ignore = config.semantic_loss_ignore_index
    logits = resize_bilinear(logits.float(), labels.shape[-2:])
    total = F.cross_entropy(logits, labels.long(), ignore_index=ignore, reduction="sum")
    if config.loss_normalization == "all":
        return total / labels.numel()
    return total / (labels != ignore).sum().clamp(min=1)


def draw_detail_crop(height: int, width: int, config: VFMSegConfig) -> Box:
    """A random crop of `config.detail_crop_size`, or of half the picture, on the grid of `detail_crop_stride`."""
    size = config.detail_crop_size
    crop_height, crop_width = (height // 2, width // 2) if size is None else (size, size)
    if crop_height > height or crop_width > width:
        raise ValueError(
            f"config.detail_crop_size={size} is larger than the training picture {height}x{width}; use at most "
            f"{min(height, width)}, or None for half of the picture"
        )
    return draw_crop_box(
        height, width, crop_height, crop_width, config.detail_crop_stride, config.detail_crop_includes_end
    )


def check_detail_crop(box: Box, height: int, width: int, config: VFMSegConfig) -> Box:
    """The box as integers, or a `ValueError` if it is no crop of whole patches on even pixels of the picture."""
    patch = config.patch_size
    top, left, bottom, right = (int(edge) for edge in box) if len(box) == 4 else (0, 0, 0, 0)
    inside = 0 <= top < bottom <= height and 0 <= left < right <= width
    if not inside or (bottom - top) % patch or (right - left) % patch or top % 2 or left % 2:
        raise ValueError(
            f"detail_crop_box must be (top, left, bottom, right) inside the {height}x{width} picture, its height and "
            f"width multiples of {patch} and its offsets even, got {tuple(box)}"
        )
    return top, left, bottom, right
