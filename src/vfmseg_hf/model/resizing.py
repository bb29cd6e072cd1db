# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Sizes of pictures, and how tensors get them."""

import torch
from torch.nn import functional as F

from .configuration_vfmseg import nearest_multiple


MAX_COARSE_ASPECT = 4


def coarse_size(size: tuple[int, int], target: int | list[int], patch_size: int) -> tuple[int, int]:
    """
    Height and width of the coarse pass for a picture of `size` (see `VFMSegConfig.coarse_size`).

    An int is the shortest edge; the other follows the aspect ratio, at most four times as long. Both are rounded to
    the nearest multiple of `patch_size`.
    """
    if not isinstance(target, int):
        return target[0], target[1]
    shorter, longer = sorted(size)
    other = nearest_multiple(min(target * longer / shorter, MAX_COARSE_ASPECT * target), patch_size)
    return (target, other) if size[0] <= size[1] else (other, target)


def pad_to_patches(tensor: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Pad `[M, channels, height, width]` to multiples of the patch at the bottom and right by repeating the border."""
    padding = (0, -tensor.shape[-1] % patch_size, 0, -tensor.shape[-2] % patch_size)
    return F.pad(tensor, padding, mode="replicate") if any(padding) else tensor


def resize_bilinear(tensor: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`[B, C, *, *]` to `[B, C, *size]` with half-pixel centres and no antialiasing, as everywhere in the model."""
    if tuple(tensor.shape[-2:]) == tuple(size):
        return tensor
    return F.interpolate(tensor, size=tuple(size), mode="bilinear", align_corners=False)
