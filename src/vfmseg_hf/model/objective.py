# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The joint training objective L = L_c + lambda L_d (section "Framework Overview" of the paper)."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch.nn import functional as F
from transformers.modeling_outputs import BackboneOutput
from transformers.utils import logging

from .checks import check_values, unknown_labels, unusable_pixels
from .configuration_vfmseg import VFMSegConfig, nearest_multiple
from .protocols import Networks
from .windows import Box, draw_crop_box, on_device_of, resize_bilinear


logger = logging.get_logger(__name__)


def usable_labels(
    model: Networks, pixel_values: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    Labels that a loss can be taken of, and whether the values are such that it may be: a bool on their device.

    In eval mode it always raises.

    Raises:
        ValueError: on values that [`check_values`] refuses, if `model.checks_raise` and nothing is compiled; None is
            then in the place of the bool.
    """
    if pixel_values.is_meta:  # there are no values
        return labels, None
    if (model.checks_raise or not model.training) and not torch.compiler.is_compiling():
        check_values(pixel_values, labels, model.config)
        return labels, None
    unknown = unknown_labels(labels, model.config)  # an unknown id would end the process on some accelerators
    usable = ~(unknown.any() | unusable_pixels(pixel_values).any())
    return labels.long().masked_fill(unknown, model.config.semantic_loss_ignore_index), usable


def spoil_unless(usable: torch.Tensor | None, loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """
    The loss, or, where the values of [`usable_labels`] may not be trained on, NaN: so are its gradients, by way of the
    first of the logits, also where no label is left to learn from.
    """
    if usable is None:
        return loss
    return loss + torch.zeros_like(loss).masked_fill(~usable, torch.nan) * logits.reshape(-1)[0]


def joint_objective(
    model: Networks,
    pixel_values: torch.Tensor,
    labels: torch.Tensor,
    box: Box | None,
    encoder_kwargs: Mapping[str, bool] = MappingProxyType({}),
) -> dict[str, object]:
    """
    Content loss on the images at half resolution, detail loss on one crop at full resolution.

    The crop is the same region in all images of the batch; the refine head sees the detached coarse logits of that
    region. Where both inputs have one size, the encoder runs once on twice the batch. With `detail_loss_weight` 0 the
    objective is that of VFMNet alone: nothing is computed of a loss that would not count.

    Args:
        pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): multiples of two patches.
        labels (`torch.Tensor` of shape `(batch_size, height, width)`).
        box: the crop, or `None` to draw one.
        encoder_kwargs: `output_hidden_states` and `output_attentions` for the encoder's `forward`.

    Returns:
        The fields of `VFMSegSemanticSegmenterOutput` that training has; those of the crop are None if there is none.

    Raises:
        ValueError: on sizes or boxes that do not fit, naming legal ones; if `model.checks_raise`, on values that do
            not.
    """
    config = model.config
    labels, usable = usable_labels(model, pixel_values, labels)
    height, width = pixel_values.shape[-2:]
    step = 2 * config.patch_size
    if height % step or width % step:
        raise ValueError(
            f"training needs a height and width in multiples of {step}, got {height}x{width}; the nearest legal size "
            f"is {nearest_multiple(height, step)}x{nearest_multiple(width, step)}"
        )
    if labels.shape[-2:] != pixel_values.shape[-2:]:
        raise ValueError(
            f"in training mode labels must have the images' size {tuple(pixel_values.shape[-2:])}, got "
            f"{tuple(labels.shape[-2:])}; give the image processor segmentation_maps so that it resizes both"
        )
    box = draw_detail_crop(height, width, config) if box is None else check_detail_crop(box, height, width, config)
    top, left, bottom, right = box
    small = resize_bilinear(pixel_values, (height // 2, width // 2))
    crop = pixel_values[..., top:bottom, left:right]
    encode = partial(model.model, return_dict=True, **encoder_kwargs)
    if config.detail_loss_weight == 0:
        coarse, refine = encode(small), None
    elif small.shape == crop.shape:
        coarse, refine = _halves(encode(torch.cat([small, crop])))
    else:
        coarse, refine = encode(small), encode(crop)
    coarse_logits = model.coarse_head(coarse.feature_maps)
    content_loss = stage_loss(model, coarse_logits, labels[:, ::2, ::2], training=True)
    fields = {
        "coarse_logits": coarse_logits,
        "content_loss": content_loss,
        "hidden_states": coarse.hidden_states,
        "attentions": coarse.attentions,
    }
    loss = content_loss
    if refine is not None:
        context = resize_bilinear(coarse_logits.detach(), (height // 2, width // 2))
        logits = model.refine_head(refine.feature_maps, context[..., top // 2 : bottom // 2, left // 2 : right // 2])
        detail_loss = stage_loss(model, logits, labels[:, top:bottom, left:right], training=True)
        loss = content_loss + config.detail_loss_weight * detail_loss
        windows = on_device_of(pixel_values, box).repeat(pixel_values.shape[0], 1, 1)
        fields.update(logits=_watched(logits), detail_loss=detail_loss, windows=windows)
    return {"loss": spoil_unless(usable, loss, coarse_logits), **fields}


def _halves(output: BackboneOutput) -> list[BackboneOutput]:
    """What the encoder gave for twice the batch, as two outputs."""
    chunks = {key: [tensor.chunk(2) for tensor in tensors] for key, tensors in output.items()}
    return [
        BackboneOutput(**{key: tuple(pair[half] for pair in pairs) for key, pairs in chunks.items()}) for half in (0, 1)
    ]


def _watched(logits: torch.Tensor) -> torch.Tensor:
    """The same logits; a loss of one's own that is computed from them is told whose they are."""
    logits = logits.view_as(logits)  # our own loss is not computed from these
    if logits.requires_grad and not torch.compiler.is_compiling():
        logits.register_hook(_say_whose_logits)
    return logits


def _say_whose_logits(gradient: torch.Tensor | None) -> None:
    if gradient is not None:
        logger.warning_once(
            "A loss is computed from outputs.logits of the training mode: they are the refine head's and belong to "
            "the crop outputs.windows, not to the whole image, and this loss does not train the coarse head. For a "
            "loss of your own in both stages set model.loss_function, or class_weights and label_smoothing_factor in "
            "model.config, and use outputs.loss."
        )


def stage_loss(model: Networks, logits: torch.Tensor, labels: torch.Tensor, training: bool) -> torch.Tensor:
    """
    Loss of one stage at the labels' size: that of `model.loss_function`, or [`segmentation_loss`].

    Raises:
        ValueError: as [`check_loss_options`].
    """
    if model.loss_function is None:
        return segmentation_loss(logits, labels, model.config, training)
    check_loss_options(model)
    return model.loss_function(resize_bilinear(logits.float(), labels.shape[-2:]), labels.long())


def check_loss_options(model: Networks) -> None:
    """Raise a `ValueError` if a loss of the user's own would leave options of the cross entropy without effect."""
    config = model.config
    if model.loss_function is not None and (config.class_weights is not None or config.label_smoothing_factor):
        raise ValueError(
            f"class_weights={config.class_weights} and label_smoothing_factor={config.label_smoothing_factor} belong "
            "to the cross entropy, which a loss function of your own replaces; leave out one or the other"
        )


def segmentation_loss(
    logits: torch.Tensor, labels: torch.Tensor, config: VFMSegConfig, training: bool = False
) -> torch.Tensor:
    """
    Cross entropy (L_seg) at the labels' size, averaged over the labelled pixels or over all (`loss_normalization`).

    Without any labelled pixel it is 0, with gradients.

    Args:
        training: whether `class_weights` and `label_smoothing_factor` count. An average over the labelled pixels is
            then one by their classes' weights, as torch's.
    """
    ignore = config.semantic_loss_ignore_index
    logits, labels = resize_bilinear(logits.float(), labels.shape[-2:]), labels.long()
    weights, smoothing = None, config.label_smoothing_factor if training else 0.0
    if training and config.class_weights is not None:
        weights = on_device_of(logits, config.class_weights, logits.dtype)
    total = F.cross_entropy(logits, labels, weights, ignore_index=ignore, reduction="sum", label_smoothing=smoothing)
    if config.loss_normalization == "all":
        return total / labels.numel()
    valid = labels != ignore
    if weights is None:
        return total / valid.sum().clamp(min=1)
    weight = (weights[labels.where(valid, 0)] * valid).sum()
    return total / weight.where(weight > 0, 1)


def draw_detail_crop(height: int, width: int, config: VFMSegConfig) -> Box:
    """A random crop of `config.detail_crop_size`, or of half the image, on the grid of `detail_crop_stride`."""
    size = config.detail_crop_size
    crop_height, crop_width = (height // 2, width // 2) if size is None else (size, size)
    if crop_height > height or crop_width > width:
        raise ValueError(
            f"config.detail_crop_size={size} is larger than the training image {height}x{width}; use at most "
            f"{min(height, width)}, or None for half of the image"
        )
    return draw_crop_box(
        height, width, crop_height, crop_width, config.detail_crop_stride, config.detail_crop_includes_end
    )


def check_detail_crop(box: Box, height: int, width: int, config: VFMSegConfig) -> Box:
    """The box as integers, or a `ValueError` if it is no crop of whole patches on even pixels of the image."""
    patch = config.patch_size
    top, left, bottom, right = (int(edge) for edge in box) if len(box) == 4 else (0, 0, 0, 0)
    inside = 0 <= top < bottom <= height and 0 <= left < right <= width
    if not inside or (bottom - top) % patch or (right - left) % patch or top % 2 or left % 2:
        raise ValueError(
            f"detail_crop_box must be (top, left, bottom, right) inside the {height}x{width} image, its height and "
            f"width multiples of {patch} and its offsets even, got {tuple(box)}"
        )
    return top, left, bottom, right
