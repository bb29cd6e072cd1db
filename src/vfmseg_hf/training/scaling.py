# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""New heads that see all four feature maps from the first step: their first weights are divided by the maps' scales."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from ..model.windows import resize_bilinear


CROPS = 16  # that the scales are taken from
LEAST = 1e-3  # of the median deviation: what hardly varies is not blown up


def scale_new_heads(model: nn.Module, train_dataset: Sequence[Mapping[str, object]]) -> None:
    """
    [`scale_heads`] by some images of a training set, evenly spaced; once for a model, however often it is asked for.

    Raises:
        ValueError: if the model has other heads, or what they have learnt would be spoilt, or the images have no
            numbers.
    """
    if not isinstance(model, VFMSegForSemanticSegmentation):
        raise ValueError(f"scale_heads is for the heads of VFMSeg, and {type(model).__name__} has others; leave it out")
    if getattr(model, "heads_are_scaled", False):
        return
    if model.loaded_from is not None:
        raise ValueError(f"scale_heads is for new heads, and this model's are of {model.loaded_from}; leave it out")
    if any(bool(head.classifier.bias.any()) for head in (model.coarse_head, model.refine_head)):
        raise ValueError("scale_heads is for new heads, and those of this model are trained; leave it out")
    if not (hasattr(train_dataset, "__getitem__") and hasattr(train_dataset, "__len__")):
        raise ValueError(f"scale_heads needs images with numbers, and {type(train_dataset).__name__} has none")
    count = len(train_dataset)
    chosen = range(count) if count <= CROPS else [round(k * (count - 1) / (CROPS - 1)) for k in range(CROPS)]
    scale_heads(model, (train_dataset[index]["pixel_values"] for index in chosen))
    model.heads_are_scaled = True


@torch.no_grad()
def scale_heads(model: VFMSegForSemanticSegmentation, crops: Iterable[torch.Tensor]) -> None:
    """
    Divide the first weights of both heads, in place, by the standard deviation that each channel of the maps has.

    The maps are taken from the residual stream, which grows from block to block: the last of DINOv2 ViT-S's has thirty
    times the scale of the first. The published training of 40,000 steps learns that. In a few hundred, the heads hardly
    see the first three, which tell where thin things are. The paper does not do this.

    Args:
        crops: of the training set, normalised, `[3, height, width]` each, at least one; the encoder sees them at half
            their size, as in training.
    """
    first = model.coarse_head.fusion.weight
    count, total, squares = 0, 0.0, 0.0
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        for crop in crops:
            pixels = crop[None].to(first.device, first.dtype)
            pixels = resize_bilinear(pixels, tuple(edge // 2 for edge in pixels.shape[-2:]))
            channels = torch.cat(model.model(pixels).feature_maps, dim=1)[0].flatten(1).double()
            count, total, squares = (
                count + channels.shape[1],
                total + channels.sum(1),
                squares + channels.square().sum(1),
            )
    finally:
        for module in training:
            module.training = True
    if not count:
        raise ValueError("there is no crop to take the scales of the feature maps from")
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    deviation = deviation.clamp(min=max(LEAST * float(deviation.median()), torch.finfo(torch.float32).tiny))
    for head in (model.coarse_head, model.refine_head):
        head.fusion.weight /= deviation[:, None, None].to(first.dtype)
    refine = model.refine_head.fusion  # the coarse one has no bias
    refine.bias -= refine.weight.flatten(1) @ mean.to(first.dtype)
