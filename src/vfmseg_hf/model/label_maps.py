# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""From pictures of any sizes to label maps, so that little memory is needed and only bytes leave the device."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .inference import RefinementPlan, class_slices, plan_refinement, read_decisions, refine_in_strips, refine_plans
from .outputs import VFMSegLabelMap
from .resizing import resize_bilinear


if TYPE_CHECKING:
    from .modeling_vfmseg import VFMSegForSemanticSegmentation

MAX_CLASSES_IN_A_BYTE = 256


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


def segment_pictures(
    model: "VFMSegForSemanticSegmentation",
    pictures: Sequence[torch.Tensor],
    target_sizes: Sequence[tuple[int, int]] | None,
    refine: bool | str | None,
    refine_budget: int | float | None,
    in_strips: bool,
    alone: bool,
) -> list[VFMSegLabelMap]:
    """
    Label maps of pictures; pictures of one size share the coarse pass, and windows of all pictures share batches.

    Args:
        pictures: tensors `[3, height, width]` of any sizes.
        target_sizes: height and width of each label map. Default: the pictures'.
        refine, refine_budget: as in the model's `forward`.
        in_strips: whether to finish each picture row of windows by row of windows, and to keep its labels only.
        alone: whether each picture has a coarse pass and decisions of its own.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, picture in enumerate(pictures):
        groups.setdefault((*picture.shape, number if alone else 0), []).append(number)
    # Strips are for little memory, and on a CPU a plan has coarse logits of its pictures' size: one after the other.
    rounds = [[numbers] for numbers in groups.values()] if in_strips else [list(groups.values())]
    results: dict[int, VFMSegLabelMap] = {}
    for together in rounds:
        plans = [
            plan_refinement(
                model, torch.stack([pictures[number] for number in numbers]), refine, refine_budget, in_strips
            )
            for numbers in together
        ]
        read_decisions(plans)
        final = [None] * len(plans) if in_strips else refine_plans(model, plans)
        for numbers in together:
            plan, logits = plans.pop(0), final.pop(0)  # what has become labels is not kept
            if not in_strips:
                plan.coarse.whole = None  # it has served, and is as large as the result
            for row, number in enumerate(numbers):
                size = None if target_sizes is None else target_sizes[number]
                maps = label_strips(model, plan, row) if in_strips else label_map(logits[row], size)
                results[number] = VFMSegLabelMap(
                    *maps, plan.coarse.logits[row], plan.boxes, plan.shares[row], plan.decisions[row]
                )
    return [results[number] for number in range(len(pictures))]


def label_strips(
    model: "VFMSegForSemanticSegmentation", plan: RefinementPlan, picture: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """[`label_map`] of one picture of a plan, strip by strip."""
    strips = [label_map(logits) for _, _, logits in refine_in_strips(model, plan, picture)]
    labels, confidence = (torch.cat(parts) for parts in zip(*strips, strict=True))
    return labels, confidence
