# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Windows, sizes and label maps of the two-stage inference, crops of its training: functions of sizes and tensors.

A box is (top, left, bottom, right) in pixels with exclusive ends.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional as F

from .configuration_vfmseg import nearest_multiple


Box = tuple[int, int, int, int]

MAX_COARSE_ASPECT = 4
MAX_CLASSES_IN_A_BYTE = 256
# Values in a temporary tensor at the image's size; larger ones are worked off in parts.
MAX_TEMPORARY_VALUES = 2**24


def plan_windows(height: int, width: int, window_size: int, stride: int) -> list[Box]:
    """
    Boxes of a sliding window in reading order ("Inference" in the paper's method).

    Windows start at multiples of `stride`; the last of each row and column is shifted back to end at the border. An
    image smaller than a window gives boxes of the image's size along that axis.
    """

    def starts(size: int) -> list[int]:
        steps = math.ceil(max(size - window_size, 0) / stride)
        return [max(min(step * stride, size - window_size), 0) for step in range(steps + 1)]

    return [
        (top, left, min(top + window_size, height), min(left + window_size, width))
        for top in starts(height)
        for left in starts(width)
    ]


def grid_spans(boxes: list[Box]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(top, bottom) of each row of windows and (left, right) of each column, in order, of [`plan_windows`]' boxes."""
    rows = sorted({(top, bottom) for top, _, bottom, _ in boxes})
    columns = sorted({(left, right) for _, left, _, right in boxes})
    return rows, columns


def cut(tensor: torch.Tensor, box: Box) -> torch.Tensor:
    """A view of a box, `[channels, height, width]`."""
    top, left, bottom, right = box
    return tensor[:, top:bottom, left:right]


def certain_pixels(coarse_logits: torch.Tensor, confidence_threshold: float) -> torch.Tensor:
    """
    Pixels whose best class has a probability above *theta*; the comparison is strict.

    Args:
        coarse_logits (`torch.Tensor` of shape `(batch_size, num_labels, height, width)`).

    Returns:
        `torch.Tensor` of shape `(batch_size, height, width)`, bool.
    """
    return coarse_logits.float().softmax(dim=1).amax(dim=1) > confidence_threshold


def count_certain(certain: torch.Tensor, boxes: list[Box]) -> torch.Tensor:
    """
    How many pixels of every window are certain: integers, so that no decision depends on the order of a sum.

    They are counted by columns of windows first: what is kept is a number per row of pixels and column of windows.

    Args:
        certain (`torch.Tensor` of shape `(batch_size, height, width)`): bool, from [`certain_pixels`].
        boxes: the windows of [`plan_windows`].

    Returns:
        `torch.Tensor` of shape `(batch_size, len(boxes))`, int32.
    """
    rows, columns = grid_spans(boxes)
    by_column = torch.stack([certain[:, :, left:right].sum(2, dtype=torch.int32) for left, right in columns], dim=2)
    counts = [by_column[:, top:bottom].sum(1, dtype=torch.int32) for top, bottom in rows]
    return torch.stack(counts, dim=1).flatten(1)


def window_certainty(counts: torch.Tensor, boxes: list[Box], scope: str = "image") -> torch.Tensor:
    """
    Certainty C_k of every window: the share of its pixels that are certain.

    Args:
        counts (`torch.Tensor` of shape `(batch_size, len(boxes))`): from [`count_certain`].
        scope: `"image"`, or `"batch"` for the share in all images of the batch, the same for each.

    Returns:
        `torch.Tensor` of shape `(batch_size, len(boxes))`, float32 in 0..1.
    """
    top, left, bottom, right = boxes[0]
    area = (bottom - top) * (right - left)  # all windows of an image have one size
    pixels, total = area, counts
    if scope == "batch":
        pixels, total = len(counts) * area, counts.sum(dim=0, keepdim=True)
    # By a tensor: by a number, CUDA multiplies with the reciprocal, which misses ties with the threshold by a bit.
    return (total.float() / torch.full_like(total, pixels, dtype=torch.float32)).expand_as(counts)


def select_windows(certainty: torch.Tensor, certainty_threshold: float, keep_at_threshold: bool) -> torch.Tensor:
    """
    Which windows to refine: those that are not certain enough (C_k against C_tau).

    Args:
        certainty (`torch.Tensor` of shape `(batch_size, num_windows)`): from [`window_certainty`].
        certainty_threshold: C_tau.
        keep_at_threshold: whether a window with exactly C_tau is kept.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_windows)`, bool; True where the window is refined.
    """
    return ~(certainty >= certainty_threshold if keep_at_threshold else certainty > certainty_threshold)


def least_certain(certainty: torch.Tensor, number: int) -> torch.Tensor:
    """So many windows of each image, bool `[B, num_windows]`; of equals the first in reading order."""
    return certainty.argsort(dim=1, stable=True).argsort(dim=1) < number


def most_windows(num_windows: int, max_windows: int | None, max_window_share: float | None) -> int:
    """How many windows of an image may be refined: at most a number, or a share of all, rounded down."""
    if max_window_share is not None:
        return int(max_window_share * num_windows + 1e-6)  # 0.29 * 100 is 28.999...
    return num_windows if max_windows is None else min(max_windows, num_windows)


class WindowAverage:
    """
    Average of overlapping windows with equal weight, accumulated in place over some rows of one image.

    A window that is not refined contributes its coarse logits. [`add`](WindowAverage.add) every refined one, then take
    [`finish`](WindowAverage.finish).

    Args:
        coarse_logits (`torch.Tensor` of shape `(num_labels, rows, width)`): the first rows, at the image's size.
        boxes: all windows of the image; together they cover it.
        refined: for each box whether it will be added.
        out (`torch.Tensor` of the shape of `coarse_logits`, *optional*): where to accumulate.
    """

    def __init__(
        self, coarse_logits: torch.Tensor, boxes: list[Box], refined: list[bool], out: torch.Tensor | None = None
    ):
        self.boxes, self.top = boxes, 0
        self.kept = [box for box, is_refined in zip(boxes, refined, strict=True) if not is_refined]
        self.total = coarse_logits.clone() if out is None else out.copy_(coarse_logits)
        self.total.mul_(self._counts(self.kept, 0, self.bottom))

    @property
    def bottom(self) -> int:
        """The row of the image after the last one held."""
        return self.top + self.total.shape[1]

    def add(self, box: Box, logits: torch.Tensor) -> None:
        """Add the refined logits `[num_labels, window height, window width]` of a window."""
        top, left, bottom, right = box
        self.total[:, top - self.top : bottom - self.top, left:right] += logits

    def extend(self, coarse_logits: torch.Tensor) -> None:
        """Take in further rows of coarse logits, `[num_labels, rows, width]`, below those there are."""
        counts = self._counts(self.kept, self.bottom, self.bottom + coarse_logits.shape[1])
        self.total = torch.cat([self.total, coarse_logits * counts], dim=1)

    def pop(self, bottom: int) -> torch.Tensor:
        """Give out the averages of the rows above `bottom`, `[num_labels, rows, width]`, and forget these rows."""
        done, self.total = self.total[:, : bottom - self.top], self.total[:, bottom - self.top :]
        averages = done / self._counts(self.boxes, self.top, bottom)
        self.top = bottom
        return averages

    def finish(self) -> torch.Tensor:
        """The averages of all rows, in place: `[num_labels, rows, width]`."""
        return self.total.div_(self._counts(self.boxes, self.top, self.bottom))

    def _counts(self, boxes: list[Box], top: int, bottom: int) -> torch.Tensor:
        """How many of the boxes cover each pixel of the rows `top` to `bottom`: `[bottom - top, width]`."""
        counts = self.total.new_zeros(bottom - top, self.total.shape[2])
        for box_top, left, box_bottom, right in boxes:
            if box_top < bottom and box_bottom > top:
                counts[max(box_top - top, 0) : box_bottom - top, left:right] += 1
        return counts


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


def coarse_size(size: tuple[int, int], target: int | list[int], patch_size: int) -> tuple[int, int]:
    """
    Height and width of the coarse pass for an image of `size` (see `VFMSegConfig.coarse_size`).

    An int is the shortest edge; the other follows the aspect ratio, at most four times as long. Both are rounded to
    the nearest multiple of `patch_size`.
    """
    if not isinstance(target, int):
        return target[0], target[1]
    shorter, longer = sorted(size)
    other = nearest_multiple(min(target * longer / shorter, MAX_COARSE_ASPECT * target), patch_size)
    return (target, other) if size[0] <= size[1] else (other, target)


def on_device_of(
    like: torch.Tensor, values: Sequence[float] | Sequence[Box], dtype: torch.dtype | None = None
) -> torch.Tensor:
    """A tensor of numbers of the host on the device of another; the host does not wait for the device."""
    return torch.tensor(values, dtype=dtype).to(like.device, non_blocking=True)


def pad_to_patches(tensor: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Pad `[M, channels, height, width]` to multiples of the patch at the bottom and right by repeating the border."""
    padding = (0, -tensor.shape[-1] % patch_size, 0, -tensor.shape[-2] % patch_size)
    return F.pad(tensor, padding, mode="replicate") if any(padding) else tensor


def resize_bilinear(tensor: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`[B, C, *, *]` to `[B, C, *size]` with half-pixel centres and no antialiasing, as everywhere in the model."""
    if tuple(tensor.shape[-2:]) == tuple(size):
        return tensor
    return F.interpolate(tensor, size=tuple(size), mode="bilinear", align_corners=False)


def class_slices(num_labels: int, pixels: int) -> Iterator[slice]:
    """The classes in as few parts as keep a tensor of `pixels` values per class small, or one by one."""
    step = max(MAX_TEMPORARY_VALUES // pixels, 1)
    return (slice(start, min(start + step, num_labels)) for start in range(0, num_labels, step))


def row_parts(height: int, values: int, least: int) -> list[tuple[int, int]]:
    """The rows in as few parts, (top, bottom), as keep a tensor of `values` per row small; of `least` rows or more."""
    step = max(MAX_TEMPORARY_VALUES // values, least)
    return [(top, min(top + step, height)) for top in range(0, height, step)]


class CoarseLogits:
    """
    Coarse logits at the image's size, to be had by rows.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, num_labels, any height, any width)`).
        size: height and width of the image.
        whole: whether to keep them all in memory. Otherwise every call computes its rows anew, with the same result:
            the cost of resizing all of them, which is nothing on an accelerator.
    """

    def __init__(self, logits: torch.Tensor, size: tuple[int, int], whole: bool):
        # Resizing rounds by the layout in memory, and a few classes have no other layout than this one.
        self.logits, self.size = logits.contiguous(), size
        # Under autocast and in half precision the average of overlaps would tie the best classes of many pixels.
        self.whole = resize_bilinear(self.logits.float(), size) if whole else None

    def rows(self, top: int, bottom: int, image: int | None = None) -> torch.Tensor:
        """`[batch_size, num_labels, bottom - top, width]`, float32; of one image without the batch axis."""
        chosen = slice(None) if image is None else image
        if self.whole is not None:
            return self.whole[chosen, ..., top:bottom, :]
        # Resizing some rows alone would round differently. Whole planes, a few classes at a time, are exact.
        logits = self.logits if image is None else self.logits[image : image + 1]
        rows = logits.new_empty(*logits.shape[:2], bottom - top, self.size[1], dtype=torch.float32)
        for classes in class_slices(logits.shape[1], len(logits) * self.size[0] * self.size[1]):
            rows[:, classes] = resize_bilinear(logits[:, classes].float(), self.size)[:, :, top:bottom]
        return rows if image is None else rows[0]


def label_map(logits: torch.Tensor, size: tuple[int, int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Best class of every pixel and its probability, exactly as the argmax of all resized logits.

    The classes are resized a few at a time, so that a large map needs no tensor of `num_labels` values per pixel.

    Args:
        logits (`torch.Tensor` of shape `(num_labels, height, width)`): of any floating dtype.
        size: height and width wanted. Default: the logits'.

    Returns:
        `(labels, confidence)`, both `[height, width]` on the logits' device: `uint8` class ids (`int32` with more than
        256 classes) and `uint8` probabilities, 255 for 1.
    """
    size = tuple(logits.shape[-2:]) if size is None else tuple(size)
    dtype = torch.uint8 if len(logits) <= MAX_CLASSES_IN_A_BYTE else torch.int32
    labels = best = total = None
    for classes in class_slices(len(logits), size[0] * size[1]):
        planes = resize_bilinear(logits[None, classes].float(), size)[0]
        part_best, part_labels = planes.max(dim=0)
        part_labels = (part_labels + classes.start).to(dtype)
        if best is None:
            labels, best = part_labels, part_best
            total = (planes - best).exp_().sum(dim=0)
        else:
            better = part_best > best
            labels = torch.where(better, part_labels, labels)
            new_best = torch.maximum(best, part_best)
            total = total * (best - new_best).exp_() + (planes - new_best).exp_().sum(dim=0)
            best = new_best
    return labels, (255 / total).round_().to(torch.uint8)
