# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""
Two-stage coarse-to-fine inference (section "Inference" of the paper): a mixin of the model, and its three steps.

Plan: the coarse pass and all decisions of a batch of images, on the device. Run: the uncertain windows of all
images together, in batches. Merge: each batch is added to the images' averages in place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers.modeling_outputs import BackboneOutput

from .arguments import as_target_sizes
from .checks import check_pixel_values, check_unusable_pixels, unusable_pixels
from .configuration_vfmseg import VFMSegConfig, check_window_limit
from .outputs import VFMSegLabelMap
from .protocols import TwoStageModel
from .window_batches import keeps_coarse_whole, run_windows
from .windows import (
    Box,
    CoarseLogits,
    WindowAverage,
    certain_pixels,
    coarse_size,
    count_certain,
    cut,
    grid_spans,
    label_map,
    least_certain,
    most_windows,
    on_device_of,
    plan_windows,
    resize_bilinear,
    row_parts,
    select_windows,
    window_certainty,
)


class InferenceMixin:
    """What a [`TwoStageModel`] does in eval mode."""

    # Whether batches of windows have one shape.
    windows_are_compiled: bool = False

    @torch.no_grad()
    def segment(
        self: TwoStageModel,
        images: torch.Tensor | Sequence[torch.Tensor],
        target_sizes: Sequence[tuple[int, int]] | None = None,
        refine: bool | str | None = None,
        max_windows: int | None = None,
        max_window_share: float | None = None,
        in_strips: bool = False,
    ) -> list[VFMSegLabelMap]:
        """
        Label maps of images, the same as those of `forward`'s logits, computed where the model is.

        The same to the bit where windows make the same batches, as with `config.window_batch_size=1`. In other batches,
        of several images or in strips, an accelerator rounds products otherwise, so that the label of a pixel can
        differ whose two best classes are equally likely.

        Args:
            images (`torch.Tensor` of shape `(batch_size, 3, height, width)`, or a sequence of `(3, height, width)`):
                Normalised images, of different sizes if need be; their windows are refined in common batches. With
                `certainty_scope="batch"` the images of a tensor decide together, those of a sequence each alone.
            target_sizes (`list[tuple[int, int]]`, *optional*):
                Height and width of each label map, for instance the image's before it was resized.
            refine, max_windows, max_window_share: as in `forward`.
            in_strips (`bool`, defaults to `False`):
                Whether to finish images from top to bottom and keep nothing of the finished rows but labels. It
                takes the least memory, for one image after the other; labels have the images' sizes then.

        Raises:
            ValueError: on inputs that do not fit; the message names the value and what would be right.

        Example:

        ```python
        >>> result = model.segment(processor(image, return_tensors="pt")["pixel_values"], [image.size[::-1]])[0]
        >>> result.labels.cpu().numpy()
        ```
        """
        if self.training:
            raise ValueError("segment needs the model in eval mode; call model.eval() first")
        if len(images) == 0:
            raise ValueError("there are no images to segment; the batch is empty")
        if in_strips and target_sizes is not None:
            raise ValueError("in_strips finishes labels at the images' sizes: leave target_sizes out")
        if target_sizes is not None:
            target_sizes = as_target_sizes(target_sizes, len(images))
        for image in images:
            if not isinstance(image, torch.Tensor):
                raise TypeError(
                    f"segment takes tensors (3, height, width), got a {type(image).__name__}; an image processor makes "
                    "them: processor(image, return_tensors='pt')['pixel_values']"
                )
            check_pixel_values(image[None], self.config, minimum=self.config.patch_size)
        gate = Gate.in_force(self.config, refine, max_windows, max_window_share)
        one_by_one = in_strips if self.config.certainty_scope == "image" else not isinstance(images, torch.Tensor)
        # Images of one size share the coarse pass, and windows of all images share batches.
        of_size: dict[tuple[int, ...], list[int]] = {}
        for number, image in enumerate(images):
            of_size.setdefault((*image.shape, number if one_by_one else 0), []).append(number)
        results: dict[int, VFMSegLabelMap] = {}
        # Strips are for little memory, but on a CPU a plan has whole coarse logits: one plan after the other.
        for groups in [[numbers] for numbers in of_size.values()] if in_strips else [list(of_size.values())]:
            plans = [
                plan_refinement(self, torch.stack([images[number] for number in numbers]), gate, in_strips)
                for numbers in groups
            ]
            read_decisions(plans)
            final = [None] * len(plans) if in_strips else refine_plans(self, plans)
            for numbers in groups:
                plan, logits = plans.pop(0), final.pop(0)  # what has become labels is not kept
                if not in_strips:
                    plan.coarse.whole = None  # it has served, and is as large as the result
                for row, number in enumerate(numbers):
                    size = None if target_sizes is None else target_sizes[number]
                    maps = label_strips(self, plan, row) if in_strips else label_map(logits[row], size)
                    gated = plan.boxes, plan.certainty_on_host[row], plan.refined_on_host[row]
                    results[number] = VFMSegLabelMap(*maps, plan.coarse.logits[row], *gated)
        return [results[number] for number in range(len(images))]

    def refine_windows(self: TwoStageModel, windows: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """
        The second stage on a batch of windows.

        Args:
            windows (`torch.Tensor` of shape `(batch_size, 3, height, width)`): cut from the image, whole patches.
            context (`torch.Tensor` of shape `(batch_size, num_labels, height, width)`): coarse logits of the same area.

        Returns:
            `torch.Tensor` of shape `(batch_size, num_labels, height / 16, width / 16)`: logits.
        """
        return self.refine_head(self.model(windows, return_dict=True).feature_maps, context)

    def compile_windows(self, **options) -> None:
        """
        Compile the second stage; from then on a batch has `window_batch_size` windows, or a power of two, so that a few
        graphs do.

        Set `config.window_batch_size` where free memory changes. Images smaller than a window compile graphs of their
        own, up to torch's limit (`torch._dynamo.config.recompile_limit`); further shapes run as they did before.

        Args:
            options: those of `torch.compile`, e.g. `mode="reduce-overhead"` for CUDA graphs.
        """
        self.refine_windows = torch.compile(type(self).refine_windows.__get__(self), dynamic=False, **options)
        self.windows_are_compiled = True

    def __getstate__(self) -> dict[str, object]:
        """A copy is not compiled: what `compile_windows` makes belongs to the weights that it was made with."""
        state = self.__dict__.copy()
        state.pop("refine_windows", None)
        state.pop("windows_are_compiled", None)
        return state


@dataclass(frozen=True)
class Gate:
    """
    Which windows of an image are refined.

    Args:
        refine: `None` or `True`: uncertain ones, `False`: none, `"all"`: every one.
        max_windows, max_window_share: at most so many, or such a share of them, the least certain first; `None` twice
            is no limit.
    """

    refine: bool | str | None
    max_windows: int | None = None
    max_window_share: float | None = None

    @classmethod
    def in_force(
        cls, config: VFMSegConfig, refine: bool | str | None, max_windows: int | None, max_window_share: float | None
    ) -> "Gate":
        """
        That of a call, after a check of its arguments; without a limit of its own it has the configuration's. A refine
        head that does not train (`detail_loss_weight` 0) is used only with `"all"` or a limit of the call.
        """
        if not (refine is None or isinstance(refine, bool) or refine == "all"):
            raise ValueError(f"refine must be True, False, 'all' or None, got {refine!r}")
        if max_windows is None and max_window_share is None:
            if config.detail_loss_weight == 0 and refine != "all":
                refine = False
            max_windows, max_window_share = config.max_windows, config.max_window_share
        check_window_limit(max_windows, max_window_share)
        return cls(refine, max_windows, max_window_share)

    def select(self, certainty: torch.Tensor, config: VFMSegConfig) -> torch.Tensor:
        """Which windows to refine: bool, of the shape of `certainty`, `(batch_size, num_windows)`."""
        if self.refine is False:
            return torch.zeros_like(certainty, dtype=torch.bool)
        allowed = least_certain(certainty, most_windows(certainty.shape[1], self.max_windows, self.max_window_share))
        if self.refine == "all":
            return allowed
        return allowed & select_windows(certainty, config.certainty_threshold, config.keep_at_threshold)


@dataclass
class RefinementPlan:
    """
    What is known of a batch of images of one size after the coarse pass.

    Args:
        pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`).
        coarse: the coarse logits.
        encoder_output: the encoder's output in the coarse pass.
        boxes: the windows of each image.
        certainty, refined (`torch.Tensor` of shape `(batch_size, num_windows)`): C_k, and which to refine.
        unusable (`torch.Tensor` of shape `(batch_size)`): pixel values that are no numbers.
        refined_on_host, certainty_on_host: the same for each image, from [`read_decisions`].
    """

    pixel_values: torch.Tensor
    coarse: CoarseLogits
    encoder_output: BackboneOutput
    boxes: list[Box]
    certainty: torch.Tensor
    refined: torch.Tensor
    unusable: torch.Tensor
    refined_on_host: list[list[bool]] = field(default_factory=list)
    certainty_on_host: list[list[float]] = field(default_factory=list)


def two_stage_inference(
    model: TwoStageModel,
    pixel_values: torch.Tensor,
    gate: Gate,
    encoder_kwargs: dict[str, bool],
) -> dict[str, object]:
    """
    Coarse pass, certainty per window, refinement of the uncertain ones, average of the overlaps.

    Args:
        pixel_values: as in the model's `forward`.
        encoder_kwargs: what else to ask of the encoder in the coarse pass.

    Returns:
        The fields of `VFMSegSemanticSegmenterOutput` that need no labels.

    Raises:
        ValueError: if pixel values are no numbers.
    """
    plan = plan_refinement(model, pixel_values, gate, encoder_kwargs=encoder_kwargs)
    windows = on_device_of(pixel_values, plan.boxes)
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
    model: TwoStageModel,
    pixel_values: torch.Tensor,
    gate: Gate,
    in_strips: bool = False,
    encoder_kwargs: dict[str, bool] | None = None,
) -> RefinementPlan:
    """
    The coarse pass and all decisions, without waiting for the device.

    Args:
        pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): of any size from one patch up.
        in_strips: whether [`refine_in_strips`] follows, and not [`refine_plans`].
        encoder_kwargs: what else to ask of the encoder.
    """
    config = model.config
    height, width = pixel_values.shape[-2:]
    coarse_logits, encoder_output = coarse_pass(model, pixel_values, encoder_kwargs or {})
    coarse = CoarseLogits(coarse_logits, (height, width), not in_strips or keeps_coarse_whole(pixel_values.device))
    boxes = plan_windows(height, width, config.window_size, config.window_stride)
    parts = row_parts(height, len(pixel_values) * config.num_labels * width, config.window_size)
    certain = [certain_pixels(coarse.rows(*rows), config.confidence_threshold) for rows in parts]
    counts = count_certain(torch.cat(certain, dim=1), boxes)
    refined = gate.select(window_certainty(counts, boxes, config.certainty_scope), config)
    certainty, unusable = window_certainty(counts, boxes), unusable_pixels(pixel_values)
    return RefinementPlan(pixel_values, coarse, encoder_output, boxes, certainty, refined, unusable)


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
        images, windows = plan.refined.shape
        width = 1 + 2 * windows
        rows = [values[start : start + width] for start in range(0, images * width, width)]
        values = values[images * width :]
        check_unusable_pixels([row[0] for row in rows])
        plan.refined_on_host = [[bool(value) for value in row[1 : 1 + windows]] for row in rows]
        plan.certainty_on_host = [
            np.array(row[1 + windows :], dtype=np.int32).view(np.float32).tolist() for row in rows
        ]


def refine_plans(model: TwoStageModel, plans: Sequence[RefinementPlan]) -> list[torch.Tensor]:
    """
    Run and merge: the uncertain windows of all plans in common batches.

    Returns:
        Final logits `[batch_size, num_labels, height, width]` of each plan, which may be its coarse logits.
    """
    results, averages, jobs, views = [], [], [], []
    for plan in plans:
        coarse = plan.coarse.whole
        logits = torch.empty_like(coarse) if any(map(any, plan.refined_on_host)) else coarse
        results.append(logits)
        for image, refined in enumerate(plan.refined_on_host):
            if any(refined):
                average = WindowAverage(coarse[image], plan.boxes, refined, out=logits[image])
                averages.append(average)
                chosen = [box for box, wanted in zip(plan.boxes, refined, strict=True) if wanted]
                jobs += [(average, box) for box in chosen]
                views += [(cut(plan.pixel_values[image], box), cut(coarse[image], box)) for box in chosen]
            elif logits is not coarse:
                logits[image] = coarse[image]
    for number, window in refine_in_batches(model, views):
        average, box = jobs[number]
        average.add(box, window)
    for average in averages:
        average.finish()
    return results


def refine_in_strips(model: TwoStageModel, plan: RefinementPlan, image: int) -> Iterator[torch.Tensor]:
    """
    Run and merge one image by rows of windows; rows of pixels that no later window touches are given out at once.

    It keeps three tensors of the size of a row of windows, beside coarse logits that are whole and what a batch of
    windows needs. A batch never reaches over the row: to fill it up as [`refine_plans`] does would take the context of
    the rows below, which are not there yet. So where several windows make a batch, rounding may differ from there.

    Yields:
        Final logits `[num_labels, rows, width]` of a strip, from top to bottom.
    """
    refined = plan.refined_on_host[image]
    spans, _ = grid_spans(plan.boxes)
    average, pixels = None, plan.pixel_values[image]
    for (top, bottom), (next_top, _) in zip(spans, [*spans[1:], (spans[-1][1], None)], strict=True):
        band = plan.coarse.rows(top, bottom, image)
        if not any(refined):
            yield band[:, : next_top - top]
            continue
        if average is None:
            average = WindowAverage(band, plan.boxes, refined)
        else:
            average.extend(band[:, average.bottom - top :])
        jobs = [box for box, wanted in zip(plan.boxes, refined, strict=True) if wanted and box[0] == top]
        views = [(cut(pixels, box), band[:, :, box[1] : box[3]]) for box in jobs]
        for number, window in refine_in_batches(model, views):
            average.add(jobs[number], window)
        yield average.pop(next_top)


def refine_in_batches(
    model: TwoStageModel, views: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> Iterator[tuple[int, torch.Tensor]]:
    """[`run_windows`] of the second stage; a window is given as its cuts of the image and of the coarse logits."""
    limits = model.window_batch_limits
    return run_windows(model.config, limits, model.refine_windows, views, fill=model.windows_are_compiled)


def coarse_pass(
    model: TwoStageModel, pixel_values: torch.Tensor, encoder_kwargs: dict[str, object]
) -> tuple[torch.Tensor, BackboneOutput]:
    """
    Logits of the coarse head on the resized image, in one piece or in windows (`config.coarse_mode`).

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
    averages = [WindowAverage(blank[image], boxes, every, out=blank[image]) for image in range(len(small))]
    jobs = [(image, box) for image in range(len(small)) for box in boxes]
    views = [(cut(small[image], box),) for image, box in jobs]

    def step(windows: torch.Tensor) -> torch.Tensor:
        return model.coarse_head(model.model(windows, return_dict=True).feature_maps)

    for number, window in run_windows(config, model.window_batch_limits, step, views):
        image, box = jobs[number]
        averages[image].add(box, window)
    for average in averages:
        average.finish()
    return blank, BackboneOutput()


def label_strips(model: TwoStageModel, plan: RefinementPlan, image: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[`label_map`] of one image of a plan, strip by strip."""
    strips = [label_map(logits) for logits in refine_in_strips(model, plan, image)]
    labels, confidence = (torch.cat(parts) for parts in zip(*strips, strict=True))
    return labels, confidence
