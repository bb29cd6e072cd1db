# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Two-stage coarse-to-fine inference (section "Inference" of the paper)."""

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F
from transformers.modeling_outputs import BackboneOutput

from .configuration_vfmseg import nearest_multiple
from .windows_vfmseg import Box, merge_windows, plan_windows, select_windows, window_certainty


if TYPE_CHECKING:
    from .modeling_vfmseg import VFMSegForSemanticSegmentation

DEFAULT_WINDOW_BATCH_SIZE = 4
MAX_COARSE_ASPECT = 4


def two_stage_inference(
    model: "VFMSegForSemanticSegmentation",
    pixel_values: torch.Tensor,
    refine: bool | str | None,
    encoder_kwargs: dict[str, object],
) -> dict[str, object]:
    """
    Coarse pass, certainty per window, refinement of the uncertain ones, average of the overlaps.

    Args:
        model: the model; its `config` has the sizes and thresholds.
        pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): of any size from one patch up.
        refine: `None` or `True`: uncertain windows, `False`: none, `"all"`: every one.
        encoder_kwargs: what else to ask of the encoder in the coarse pass.

    Returns:
        The fields of `VFMSegSemanticSegmenterOutput` that need no labels.
    """
    config = model.config
    height, width = pixel_values.shape[-2:]
    coarse_logits, encoder_output = coarse_pass(model, pixel_values, encoder_kwargs)
    # Under autocast and in half precision the average of overlaps would tie the best classes of many pixels.
    full_logits = resize_bilinear(coarse_logits.float(), (height, width))
    boxes = plan_windows(height, width, config.window_size, config.window_stride)
    certainty = window_certainty(full_logits, boxes, config.confidence_threshold)
    if refine is False:
        refined = torch.zeros_like(certainty, dtype=torch.bool)
    elif refine == "all":
        refined = torch.ones_like(certainty, dtype=torch.bool)
    else:
        refined = select_windows(
            certainty, config.certainty_threshold, config.keep_at_threshold, config.certainty_scope
        )
    logits = full_logits
    numbers = refined.nonzero().tolist()
    if numbers:
        refined_logits = (
            (chunk, refine_windows(model, pixel_values, full_logits, boxes, chunk))
            for chunk in window_batches(numbers, config.window_batch_size)
        )
        logits = merge_windows(full_logits, refined_logits, boxes, refined)
    return {
        "logits": logits,
        "coarse_logits": coarse_logits,
        "windows": torch.tensor(boxes, device=pixel_values.device).repeat(len(pixel_values), 1, 1),
        "certainty": certainty,
        "refined": refined,
        "hidden_states": encoder_output.hidden_states,
        "attentions": encoder_output.attentions,
    }


def coarse_pass(
    model: "VFMSegForSemanticSegmentation", pixel_values: torch.Tensor, encoder_kwargs: dict[str, object]
) -> tuple[torch.Tensor, BackboneOutput]:
    """
    Logits of the coarse head on the resized picture, in one piece or in windows (`config.coarse_mode`).

    Returns:
        `(logits, encoder_output)`. `"whole"`: the head's raw output at a quarter of the coarse size. `"sliding"`: the
        windows' logits averaged at the coarse size, with an empty encoder output.
    """
    config = model.config
    small = resize_bilinear(pixel_values, coarse_size(pixel_values.shape[-2:], config.coarse_size, config.patch_size))
    if config.coarse_mode == "whole":
        encoder_output = model.model(small, return_dict=True, **encoder_kwargs)
        return model.coarse_head(encoder_output.feature_maps), encoder_output
    boxes = plan_windows(*small.shape[-2:], config.window_size, config.window_stride)
    every = torch.ones(len(small), len(boxes), dtype=torch.bool, device=small.device)
    logits = []
    for chunk in window_batches(every.nonzero().tolist(), config.window_batch_size):
        windows, size = cut_windows(small, boxes, chunk, config.patch_size)
        window_logits = model.coarse_head(model.model(windows, return_dict=True).feature_maps)
        window_logits = resize_bilinear(window_logits.float(), windows.shape[-2:])
        logits.append((chunk, window_logits[..., : size[0], : size[1]]))
    blank = logits[0][1].new_zeros(len(small), config.num_labels, *small.shape[-2:])
    return merge_windows(blank, logits, boxes, every), BackboneOutput()


def refine_windows(
    model: "VFMSegForSemanticSegmentation",
    pixel_values: torch.Tensor,
    coarse_logits: torch.Tensor,
    boxes: list[Box],
    numbers: list[list[int]],
) -> torch.Tensor:
    """
    The refine head on some windows.

    Args:
        coarse_logits (`torch.Tensor` of shape `(batch_size, num_labels, height, width)`): at the picture's size.
        numbers: the windows as (picture, box) pairs.

    Returns:
        `torch.Tensor` of shape `(len(numbers), num_labels, window_height, window_width)`: logits.
    """
    windows, (height, width) = cut_windows(pixel_values, boxes, numbers, model.config.patch_size)
    context, _ = cut_windows(coarse_logits, boxes, numbers, model.config.patch_size)
    logits = model.refine_head(model.model(windows, return_dict=True).feature_maps, context)
    return resize_bilinear(logits.float(), windows.shape[-2:])[..., :height, :width]


def cut_windows(
    tensor: torch.Tensor, boxes: list[Box], numbers: list[list[int]], patch_size: int
) -> tuple[torch.Tensor, tuple[int, int]]:
    """
    Cut the numbered windows and pad them to whole patches at the bottom and right by repeating the border.

    Returns:
        The windows `[M, channels, h, w]`, and their height and width without the padding.
    """
    top, left, bottom, right = boxes[0]
    height, width = bottom - top, right - left  # all windows of a picture have one size
    windows = torch.stack(
        [tensor[picture, :, boxes[box][0] : boxes[box][2], boxes[box][1] : boxes[box][3]] for picture, box in numbers]
    )
    padding = (0, -width % patch_size, 0, -height % patch_size)
    return F.pad(windows, padding, mode="replicate") if any(padding) else windows, (height, width)


def window_batches(numbers: list[list[int]], size: int | None) -> list[list[list[int]]]:
    """Split window numbers into batches of at most `size` (default 4)."""
    size = size or DEFAULT_WINDOW_BATCH_SIZE
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def resize_bilinear(tensor: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`[B, C, *, *]` to `[B, C, *size]` with half-pixel centres and no antialiasing, as everywhere in the model."""
    if tuple(tensor.shape[-2:]) == tuple(size):
        return tensor
    return F.interpolate(tensor, size=tuple(size), mode="bilinear", align_corners=False)


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
