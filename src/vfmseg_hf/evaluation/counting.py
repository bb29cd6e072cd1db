# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""From images to confusion matrices, of the coarse and the final result of one pass."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from transformers.modeling_outputs import ModelOutput

from ..methods import OtherModel, SingleStageModel, model_class_of
from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from ..model.windows import resize_bilinear
from .confusion import NUM_IDS, count_pixels
from .strips import needs_strips


STAGES = ("coarse", "final")


class ImageCounts(NamedTuple):
    """
    What is counted of B images: `int64`, on their device, and nothing that the host has waited for.

    Attributes:
        matrices (`[B, 2, num_labels, num_labels]`): coarse, final; labelled, predicted.
        windows (`[B, 2]`): windows refined, and windows.
        unknown (`[B, 2, 257]`): pixels of ids that are no classes, as in `confusion.PixelCounts`; for
            `confusion.check_ids`, once all images are counted.
    """

    matrices: torch.Tensor
    windows: torch.Tensor
    unknown: torch.Tensor

    @classmethod
    def none(cls, num_labels: int, device: torch.device) -> "ImageCounts":
        """Sums over no image, without the axis B."""
        shapes = (len(STAGES), num_labels, num_labels), (2,), (2, NUM_IDS + 1)
        return cls(*(torch.zeros(shape, dtype=torch.int64, device=device) for shape in shapes))


@torch.no_grad()
def count_images(
    model: torch.nn.Module,
    pixel_values: Sequence[torch.Tensor],
    labels: Sequence[torch.Tensor],
    num_labels: int,
    ignore_index: int,
    refine: bool | str | None = None,
    flip: bool = False,
) -> ImageCounts:
    """
    Confusion matrices of some images, at their labels' sizes; the logits are resized, the labels never.

    Args:
        model: a [`VFMSegForSemanticSegmentation`] or a model of `methods` in eval mode, or a wrapper of one. A model
            with one stage gives its result for both, and has no windows.
        pixel_values: images `[3, h, w]` of any sizes. Those of one size share the coarse pass, windows of all share
            batches; with `flip`, or where the model has to be called ([`plain_model`]), they go through it one by one.
            Each decides alone.
        labels: label maps of any sizes.
        refine: as for the model's `forward`.
        flip: average the probabilities of each image and its mirror image, in both stages. Probabilities at the
            labels' size, as mmsegmentation's `SegTTAModel` averages; windows of both passes are counted.

    Returns:
        [`ImageCounts`], on the labels' device.
    """
    plain = None if flip else plain_model(model)
    predict = (
        predict_together(plain, pixel_values, labels, refine)
        if plain is not None
        else predict_one_by_one(model, pixel_values, labels, refine, flip)
    )
    return _stack(
        _count_image(predictions, refined, label, num_labels, ignore_index)
        for label, (predictions, refined) in zip(labels, predict, strict=True)
    )


def _count_image(
    predictions: Sequence[torch.Tensor],
    refined: torch.Tensor,
    label: torch.Tensor,
    num_labels: int,
    ignore_index: int,
) -> ImageCounts:
    """Without the axis B; `refined` `[N]` says it of every window."""
    stages = [count_pixels(each, label, num_labels, ignore_index) for each in predictions]
    count = refined.to(label.device).sum()
    windows = torch.stack([count, torch.full_like(count, len(refined))])
    return ImageCounts(torch.stack([stage.matrix for stage in stages]), windows, stages[-1].unknown)


def _stack(images: Iterable[ImageCounts]) -> ImageCounts:
    return ImageCounts(*(torch.stack(each) for each in zip(*images, strict=True)))


def count_outputs(outputs: ModelOutput, labels: torch.Tensor, num_labels: int, ignore_index: int) -> ImageCounts:
    """What [`count_images`] counts, from what the model's `forward` gave for a batch with labels of one size."""
    images = zip(*two_stages(outputs), labels, strict=True)
    return _stack(
        _count_image(
            [best_classes([logits], label.shape) for logits in stages], refined, label, num_labels, ignore_index
        )
        for *stages, refined, label in images
    )


def two_stages(outputs: ModelOutput) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coarse and final logits, and which windows were refined `[B, N]`; of a model with one stage its logits twice."""
    logits = outputs.logits
    none = torch.zeros(len(logits), 0, dtype=torch.bool, device=logits.device)
    return outputs.get("coarse_logits", logits), logits, outputs.get("refined", none)


def plain_model(model: torch.nn.Module) -> VFMSegForSemanticSegmentation | SingleStageModel | OtherModel | None:
    """
    The model itself, or the one in a `PeftModel`, if its `segment` says the same as calling `model`.

    `None` where `model` has to be called: a subclass with a `forward` of its own; wrappers, which only then gather the
    weights that they have spread (DDP, FSDP 1); hooks, which do so in FSDP 2, whose class is a subclass; and methods of
    peft that act around the call.
    """
    from peft import PeftModel, PeftType  # takes a while

    inner = model
    if isinstance(model, PeftModel):
        method = model.active_peft_config
        if method.is_prompt_learning or method.peft_type == PeftType.XLORA:
            return None
        inner = model.get_base_model()
    if isinstance(inner, (SingleStageModel, OtherModel)):
        return inner  # whose `segment` calls it
    if getattr(type(inner), "forward", None) is not VFMSegForSemanticSegmentation.forward:
        return None
    hooked = any(module._forward_pre_hooks or module._forward_hooks for module in (model, inner))
    return None if hooked else inner


def predict_together(
    model: VFMSegForSemanticSegmentation | SingleStageModel | OtherModel,
    pixel_values: Sequence[torch.Tensor],
    labels: Sequence[torch.Tensor],
    refine: bool | str | None,
) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
    """Class ids of both stages at the labels' sizes, and which windows were refined, of each image."""
    sizes = [tuple(label.shape) for label in labels]
    # Labels of strips have the images' sizes, and labels are never resized here.
    own_sizes = all(tuple(image.shape[-2:]) == size for image, size in zip(pixel_values, sizes, strict=True))
    in_strips = own_sizes and needs_strips(model, pixel_values)
    how = stage_arguments(model, refine)
    if not looks_twice(model):
        for result in model.segment(pixel_values, sizes, **how):
            yield [result.labels, result.labels], torch.zeros(0, dtype=torch.bool)
        return
    results = model.segment(pixel_values, None if in_strips else sizes, in_strips=in_strips, **how)
    for label, result in zip(labels, results, strict=True):
        yield (
            [best_classes([result.coarse_logits], label.shape), result.labels],
            torch.tensor(result.refined, dtype=torch.bool),
        )


def predict_one_by_one(
    model: torch.nn.Module,
    pixel_values: Sequence[torch.Tensor],
    labels: Sequence[torch.Tensor],
    refine: bool | str | None,
    flip: bool,
) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
    """The same from the logits of the model's `forward`, with or without the mirror images."""
    how = stage_arguments(model, refine)
    for image, label in zip(pixel_values, labels, strict=True):
        directions = [image[None], image[None].flip(-1)][: 1 + flip]
        passes = [two_stages(model(each, **how, return_dict=True)) for each in directions]
        coarse, final, refined = ([each[0] for each in of_passes] for of_passes in zip(*passes, strict=True))
        yield [best_classes(coarse, label.shape), best_classes(final, label.shape)], torch.cat(refined)


def looks_twice(model: torch.nn.Module) -> bool:
    """Whether a model, or the one in a wrapper, has a coarse and a final result."""
    inner = getattr(model, "module", model)
    config = getattr(inner, "config", None)
    return not isinstance(inner, OtherModel) and not issubclass(
        model_class_of(config) or VFMSegForSemanticSegmentation, SingleStageModel
    )


def stage_arguments(model: torch.nn.Module, refine: bool | str | None) -> dict[str, bool | str | None]:
    """What tells a model which windows to refine; a `ValueError` if one that looks once is told to refine all."""
    if looks_twice(model):
        return {"refine": refine}
    if not (refine is None or isinstance(refine, bool)):
        raise ValueError(f"the model looks at an image once and has no windows; leave refine={refine!r} out")
    return {}


def best_classes(logits: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
    """
    The class of every pixel of one image.

    Args:
        logits: `[num_labels, *, *]` of the image, and after it, if at all, of its mirror image.
        size: height and width of the result.

    Returns:
        `int64` `[height, width]`.
    """
    scores, *mirrored = (resize_bilinear(each[None].float(), tuple(size))[0] for each in logits)
    for other in mirrored:
        scores = scores.softmax(dim=0) + other.flip(-1).softmax(dim=0)
    return scores.max(dim=0).indices  # on a CPU a third of the time of argmax
