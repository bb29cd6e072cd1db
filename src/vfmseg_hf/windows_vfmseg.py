# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Windows of the two-stage inference and crops of its training: pure functions of sizes and tensors.

A box is (top, left, bottom, right) in pixels with exclusive ends.
"""

import math
from collections.abc import Iterable

import torch


Box = tuple[int, int, int, int]


def plan_windows(height: int, width: int, window_size: int, stride: int) -> list[Box]:
    """
    Boxes of a sliding window in reading order ("Inference" in the paper's method).

    Windows start at multiples of `stride`; the last of each row and column is shifted back to end at the border. A
    picture smaller than a window gives boxes of the picture's size along that axis.
    """

    def starts(size: int) -> list[int]:
        steps = math.ceil(max(size - window_size, 0) / stride)
        return [max(min(step * stride, size - window_size), 0) for step in range(steps + 1)]

    return [
        (top, left, min(top + window_size, height), min(left + window_size, width))
        for top in starts(height)
        for left in starts(width)
    ]


def window_certainty(coarse_logits: torch.Tensor, boxes: list[Box], confidence_threshold: float) -> torch.Tensor:
    """
    Certainty C_k of every window: the share of its pixels whose best class has a probability above *theta*.

    Args:
        coarse_logits (`torch.Tensor` of shape `(batch_size, num_labels, height, width)`): at the picture's size.
        boxes: windows inside the picture.
        confidence_threshold: *theta*; the comparison is strict.

    Returns:
        `torch.Tensor` of shape `(batch_size, len(boxes))`, float32 in 0..1.
    """
    certain = coarse_logits.float().softmax(dim=1).amax(dim=1) > confidence_threshold
    # Counts by inclusion-exclusion on a summed-area table: integers, so that no window's share depends on rounding.
    table = torch.nn.functional.pad(certain.to(torch.int32).cumsum(1).cumsum(2), (1, 0, 1, 0))
    top, left, bottom, right = torch.tensor(boxes, device=table.device).unbind(1)
    counts = table[:, bottom, right] - table[:, top, right] - table[:, bottom, left] + table[:, top, left]
    return counts.float() / ((bottom - top) * (right - left)).float()


def select_windows(
    certainty: torch.Tensor, certainty_threshold: float, keep_at_threshold: bool, scope: str
) -> torch.Tensor:
    """
    Which windows to refine: those that are not certain enough (C_k against C_tau).

    Args:
        certainty (`torch.Tensor` of shape `(batch_size, num_windows)`): from [`window_certainty`].
        certainty_threshold: C_tau.
        keep_at_threshold: whether a window with exactly C_tau is kept.
        scope: `"image"`, or `"batch"` to decide by the mean over the pictures of a batch, for all of them alike.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_windows)`, bool; True where the window is refined.
    """
    if scope == "batch":
        certainty = certainty.mean(dim=0, keepdim=True).expand_as(certainty)
    kept = certainty >= certainty_threshold if keep_at_threshold else certainty > certainty_threshold
    return ~kept


def merge_windows(
    coarse_logits: torch.Tensor,
    refined_logits: Iterable[tuple[list[list[int]], torch.Tensor]],
    boxes: list[Box],
    refined: torch.Tensor,
) -> torch.Tensor:
    """
    Average overlapping windows with equal weight; a window that was not refined contributes its coarse logits.

    Args:
        coarse_logits (`torch.Tensor` of shape `(batch_size, num_labels, height, width)`): at the picture's size.
        refined_logits: batches of M windows, each as their (picture, box) numbers and logits `[M, num_labels, h, w]`;
            read one by one, so that a generator keeps only one batch in memory.
        boxes: all windows; together they cover the picture.
        refined (`torch.Tensor` of shape `(batch_size, len(boxes))`): True for the windows found in `refined_logits`.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_labels, height, width)`.
    """
    batch, _, height, width = coarse_logits.shape
    kept = torch.zeros(batch, 1, height, width, dtype=coarse_logits.dtype, device=coarse_logits.device)
    total = torch.zeros(1, 1, height, width, dtype=coarse_logits.dtype, device=coarse_logits.device)
    for (top, left, bottom, right), keep in zip(boxes, (~refined).to(coarse_logits.dtype).unbind(1), strict=True):
        total[..., top:bottom, left:right] += 1
        kept[..., top:bottom, left:right] += keep[:, None, None, None]
    merged = coarse_logits * kept
    for numbers, logits in refined_logits:
        for (picture, box), window in zip(numbers, logits, strict=True):
            top, left, bottom, right = boxes[box]
            merged[picture, :, top:bottom, left:right] += window
    return merged / total


def draw_crop_box(height: int, width: int, crop_height: int, crop_width: int, stride: int, includes_end: bool) -> Box:
    """
    A random training crop whose offsets are multiples of `stride`, drawn from torch's default CPU generator.

    Args:
        includes_end: whether the crop that touches the far border can be drawn. The published code leaves it out.
    """

    def draw(margin: int) -> int:
        positions = margin // stride + 1 if includes_end else max((margin + 1) // stride, 1)
        return int(torch.randint(positions, ())) * stride

    top, left = draw(height - crop_height), draw(width - crop_width)
    return top, left, top + crop_height, left + crop_width
