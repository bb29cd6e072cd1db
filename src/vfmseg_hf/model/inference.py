# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""
Two-stage coarse-to-fine inference (section "Inference" of the paper) in three steps.

Plan: the coarse pass and all decisions of a batch of pictures, on the device. Run: the uncertain windows of all
pictures together, in batches. Merge: each batch is added to the pictures' averages in place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers.modeling_outputs import BackboneOutput

from .checks import check_unusable_pixels, unusable_pixels
from .memory import PART_VALUES, keeps_coarse_whole
from .resizing import coarse_size, resize_bilinear
from .window_batches import run_windows
from .windows import (
    Box,
    WindowAverage,
    certain_pixels,
    certainty_ranks,
    count_certain,
    grid_spans,
    plan_windows,
    select_windows,
    window_budget,
    window_certainty,
)


if TYPE_CHECKING:
    from .modeling_vfmseg import VFMSegForSemanticSegmentation


class CoarseLogits:
    """
    Coarse logits at the picture's size, to be had by rows.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, num_labels, any height, any width)`).
        size: height and width of the picture.
        whole: whether to keep them all in memory. Otherwise every call computes its rows anew, with the same result:
            the cost of resizing all of them, which is nothing on an accelerator.
    """

    def __init__(self, logits: torch.Tensor, size: tuple[int, int], whole: bool):
        # Resizing rounds by the layout in memory, and a few classes have no other layout than this one.
        self.logits, self.size = logits.contiguous(), size
        # Under autocast and in half precision the average of overlaps would tie the best classes of many pixels.
        self.whole = resize_bilinear(self.logits.float(), size) if whole else None

    def rows(self, top: int, bottom: int, picture: int | None = None) -> torch.Tensor:
        """`[batch_size, num_labels, bottom - top, width]`, float32; of one picture without the batch axis."""
        chosen = slice(None) if picture is None else picture
        if self.whole is not None:
            return self.whole[chosen, ..., top:bottom, :]
        # Resizing some rows alone would round differently. Whole planes, a few classes at a time, are exact.
        logits = self.logits if picture is None else self.logits[picture : picture + 1]
        rows = logits.new_empty(*logits.shape[:2], bottom - top, self.size[1], dtype=torch.float32)
        for classes in class_slices(logits.shape[1], len(logits) * self.size[0] * self.size[1]):
            rows[:, classes] = resize_bilinear(logits[:, classes].float(), self.size)[:, :, top:bottom]
        return rows if picture is None else rows[0]


def class_slices(num_labels: int, pixels: int) -> Iterator[slice]:
    """The classes in as few parts as keep a tensor of `pixels` values per class below `PART_VALUES`, or one by one."""
    step = max(PART_VALUES // pixels, 1)
    return (slice(start, min(start + step, num_labels)) for start in range(0, num_labels, step))


@dataclass
class RefinementPlan:
    """
    What is known of a batch of pictures of one size after the coarse pass.

    Args:
        pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`).
        coarse: the coarse logits.
        encoder_output: the encoder's output in the coarse pass.
        boxes: the windows of each picture.
        certainty, refined (`torch.Tensor` of shape `(batch_size, num_windows)`): C_k, and which to refine.
        unusable (`torch.Tensor` of shape `(batch_size)`): pixel values that are no numbers.
        decisions, shares: `refined` and `certainty` on the host, from [`read_decisions`].
    """

    pixel_values: torch.Tensor
    coarse: CoarseLogits
    encoder_output: BackboneOutput
    boxes: list[Box]
    certainty: torch.Tensor
    refined: torch.Tensor
    unusable: torch.Tensor
    decisions: list[list[bool]] = field(default_factory=list)
    shares: list[list[float]] = field(default_factory=list)


def two_stage_inference(
    model: "VFMSegForSemanticSegmentation",
    pixel_values: torch.Tensor,
    refine: bool | str | None,
    refine_budget: int | float | None,
    encoder_kwargs: dict[str, object],
) -> dict[str, object]:
    """
    Coarse pass, certainty per window, refinement of the uncertain ones, average of the overlaps.

    Args:
        model: the model; its `config` has the sizes and thresholds.
        pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): of any size from one patch up.
        refine: `None` or `True`: uncertain windows, `False`: none, `"all"`: every one.
        refine_budget: at most so many windows of a picture, or such a share of them, the least certain first.
        encoder_kwargs: what else to ask of the encoder in the coarse pass.

    Returns:
        The fields of `VFMSegSemanticSegmenterOutput` that need no labels.

    Raises:
        ValueError: if pixel values are no numbers.
    """
    plan = plan_refinement(model, pixel_values, refine, refine_budget, encoder_kwargs=encoder_kwargs)
    windows = torch.tensor(plan.boxes).to(pixel_values.device, non_blocking=True)
    read_decisions([plan])
    return {
        "logits": refine_plans(model, [plan])[0],
        "coarse_logits": plan.coarse.logits,
        "windows": windows.repeat(len(pixel_values), 1, 1),
        "certainty": plan.certainty,
        "refined": plan.refined,
        "hidden_states": plan.encoder_output.hidden_states,
        "attentions": plan.encoder_output.attentions,
    }


def plan_refinement(
    model: "VFMSegForSemanticSegmentation",
    pixel_values: torch.Tensor,
    refine: bool | str | None,
    refine_budget: int | float | None,
    in_strips: bool = False,
    encoder_kwargs: dict[str, object] | None = None,
) -> RefinementPlan:
    """
    The coarse pass and all decisions, without waiting for the device.

    Args:
        pixel_values, refine, refine_budget, encoder_kwargs: as in [`two_stage_inference`].
        in_strips: whether [`refine_in_strips`] follows, and not [`refine_plans`].
    """
    config = model.config
    height, width = pixel_values.shape[-2:]
    coarse_logits, encoder_output = coarse_pass(model, pixel_values, encoder_kwargs or {})
    coarse = CoarseLogits(coarse_logits, (height, width), not in_strips or keeps_coarse_whole(pixel_values.device))
    boxes = plan_windows(height, width, config.window_size, config.window_stride)
    step = max(PART_VALUES // (len(pixel_values) * config.num_labels * width), config.window_size)
    certain = [
        certain_pixels(coarse.rows(top, min(top + step, height)), config.confidence_threshold)
        for top in range(0, height, step)
    ]
    counts = count_certain(torch.cat(certain, dim=1), boxes)
    deciding = window_certainty(counts, boxes, config.certainty_scope)
    budget = window_budget(refine_budget, len(boxes))
    if refine is False:
        refined = torch.zeros_like(deciding, dtype=torch.bool)
    elif refine == "all":
        refined = certainty_ranks(deciding) < (len(boxes) if budget is None else budget)
    else:
        refined = select_windows(deciding, config.certainty_threshold, config.keep_at_threshold, budget)
    return RefinementPlan(
        pixel_values,
        coarse,
        encoder_output,
        boxes,
        window_certainty(counts, boxes),
        refined,
        unusable_pixels(pixel_values),
    )


def read_decisions(plans: Sequence[RefinementPlan]) -> None:
    """
    Bring the decisions of all plans to the host: the one time that inference waits for the device.

    Everything travels as integers, the certainties bit by bit, so that there is one tensor to wait for.

    Raises:
        ValueError: if pixel values are no numbers.
    """
    columns = [
        (plan.unusable[:, None], plan.refined.long(), plan.certainty.contiguous().view(torch.int32).long())
        for plan in plans
    ]
    values = torch.cat([torch.cat(parts, dim=1).flatten() for parts in columns]).tolist()
    for plan in plans:
        pictures, windows = plan.refined.shape
        width = 1 + 2 * windows
        rows = [values[start : start + width] for start in range(0, pictures * width, width)]
        values = values[pictures * width :]
        check_unusable_pixels([row[0] for row in rows])
        plan.decisions = [[bool(value) for value in row[1 : 1 + windows]] for row in rows]
        plan.shares = [np.array(row[1 + windows :], dtype=np.int32).view(np.float32).tolist() for row in rows]


def refine_plans(model: "VFMSegForSemanticSegmentation", plans: Sequence[RefinementPlan]) -> list[torch.Tensor]:
    """
    Run and merge: the uncertain windows of all plans in common batches.

    Returns:
        Final logits `[batch_size, num_labels, height, width]` of each plan, which may be its coarse logits.
    """
    results, averages, jobs, views = [], [], [], []
    for plan in plans:
        coarse = plan.coarse.whole
        logits = torch.empty_like(coarse) if any(map(any, plan.decisions)) else coarse
        results.append(logits)
        for picture, refined in enumerate(plan.decisions):
            if any(refined):
                average = WindowAverage(coarse[picture], plan.boxes, refined, out=logits[picture])
                averages.append(average)
                chosen = [box for box, wanted in zip(plan.boxes, refined, strict=True) if wanted]
                jobs += [(average, box) for box in chosen]
                views += [(cut(plan.pixel_values[picture], box), cut(coarse[picture], box)) for box in chosen]
            elif logits is not coarse:
                logits[picture] = coarse[picture]
    for numbers, refined_logits in run_windows(model, model.refine_windows, views, fill=model.windows_are_compiled):
        for number, window in zip(numbers, refined_logits, strict=True):
            average, box = jobs[number]
            average.add(box, window)
    for average in averages:
        average.finish()
    return results


def refine_in_strips(
    model: "VFMSegForSemanticSegmentation", plan: RefinementPlan, picture: int
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """
    Run and merge one picture by rows of windows; rows of pixels that no later window touches are given out at once.

    It keeps three tensors of the size of a row of windows, beside coarse logits that are whole and what a batch of
    windows needs. A batch never reaches over the row: to fill it up as [`refine_plans`] does would take the context of
    the rows below, which are not there yet. So where several windows make a batch, rounding may differ from there.

    Yields:
        First row, row after the last, and the final logits `[num_labels, rows, width]` of a strip, from top to bottom.
    """
    refined = plan.decisions[picture]
    spans, _ = grid_spans(plan.boxes)
    average, pixels = None, plan.pixel_values[picture]
    for (top, bottom), (next_top, _) in zip(spans, [*spans[1:], (spans[-1][1], None)], strict=True):
        band = plan.coarse.rows(top, bottom, picture)
        if not any(refined):
            yield top, next_top, band[:, : next_top - top]
            continue
        if average is None:
            average = WindowAverage(band, plan.boxes, refined)
        else:
            average.extend(band[:, average.bottom - top :])
        jobs = [box for box, wanted in zip(plan.boxes, refined, strict=True) if wanted and box[0] == top]
        views = [(cut(pixels, box), band[:, :, box[1] : box[3]]) for box in jobs]
        for numbers, logits in run_windows(model, model.refine_windows, views, fill=model.windows_are_compiled):
            for number, window in zip(numbers, logits, strict=True):
                average.add(jobs[number], window)
        yield top, next_top, average.pop(next_top)


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
    blank = small.new_zeros(len(small), config.num_labels, *small.shape[-2:], dtype=torch.float32)
    every = [True] * len(boxes)
    averages = [WindowAverage(blank[picture], boxes, every, out=blank[picture]) for picture in range(len(small))]
    jobs = [(picture, box) for picture in range(len(small)) for box in boxes]
    views = [(cut(small[picture], box),) for picture, box in jobs]

    def step(windows: torch.Tensor) -> torch.Tensor:
        return model.coarse_head(model.model(windows, return_dict=True).feature_maps)

    for numbers, logits in run_windows(model, step, views):
        for number, window in zip(numbers, logits, strict=True):
            picture, box = jobs[number]
            averages[picture].add(box, window)
    for average in averages:
        average.finish()
    return blank, BackboneOutput()


def cut(tensor: torch.Tensor, box: Box) -> torch.Tensor:
    """A view of a box, `[channels, height, width]`."""
    top, left, bottom, right = box
    return tensor[:, top:bottom, left:right]
