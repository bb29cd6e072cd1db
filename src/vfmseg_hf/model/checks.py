# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What the model refuses, and how it says so."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .configuration_vfmseg import VFMSegConfig
from .protocols import Networks


def check_pixel_values(pixel_values: torch.Tensor, config: VFMSegConfig, minimum: int = 1) -> None:
    """Raise a `ValueError` that names type and shape unless `pixel_values` can be a batch of images."""
    if not isinstance(pixel_values, torch.Tensor):
        raise ValueError(
            f"pixel_values are a {type(pixel_values).__name__}, not one tensor: images of a batch need one size, "
            "or a batch each"
        )
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values are {pixel_values.dtype}, as images are before they are normalised; the image processor "
            "makes floats of them"
        )
    channels = getattr(config.backbone_config, "num_channels", 3)
    if pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
        raise ValueError(
            f"pixel_values must have the shape (batch_size, {channels}, height, width), got "
            f"{tuple(pixel_values.shape)}; the image processor makes such tensors"
        )
    if pixel_values.shape[0] == 0:
        raise ValueError("pixel_values hold no image: the batch is empty")
    if min(pixel_values.shape[-2:]) < minimum:
        raise ValueError(
            f"images must be at least one patch ({minimum} pixels) high and wide, got "
            f"{pixel_values.shape[-2]}x{pixel_values.shape[-1]}; enlarge them first"
        )


def unusable_pixels(pixel_values: torch.Tensor) -> torch.Tensor:
    """How many values of each image are NaN or infinite: `int64` `[B]`, on the images' device."""
    return (~torch.isfinite(pixel_values)).flatten(1).sum(1)


def check_unusable_pixels(counts: list[int]) -> None:
    """Raise a `ValueError` unless the counts of [`unusable_pixels`] are zero."""
    if any(counts):
        raise ValueError(
            f"pixel_values hold NaN or infinite values (per image of the batch: {counts}); check the decoding and "
            "normalisation of these images"
        )


def check_labels(labels: torch.Tensor, pixel_values: torch.Tensor) -> None:
    """Raise a `ValueError` unless `labels` can be maps of class ids for these images."""
    batch = len(pixel_values)
    if labels.ndim != 3 or len(labels) != batch:
        raise ValueError(
            f"labels must have the shape (batch_size={batch}, height, width) with one class id per pixel, got "
            f"{tuple(labels.shape)}"
        )
    if torch.is_floating_point(labels):
        raise ValueError(f"labels must be integer class ids, got {labels.dtype}")


def unknown_labels(labels: torch.Tensor, config: VFMSegConfig) -> torch.Tensor:
    """Which labels are no class of the model and not ignored: bool, of the shape of `labels`, on their device."""
    return ((labels < 0) | (labels >= config.num_labels)) & (labels != config.semantic_loss_ignore_index)


def check_known_labels(labels: torch.Tensor, config: VFMSegConfig) -> None:
    """Raise a `ValueError` that names the ids of [`unknown_labels`], if there are any; it waits for the device."""
    unknown = unknown_labels(labels, config)
    if unknown.any():
        raise ValueError(
            f"labels hold the ids {torch.unique(labels[unknown]).tolist()}, but the model's classes are "
            f"0..{config.num_labels - 1} and {config.semantic_loss_ignore_index} is ignored; map the ids of your data "
            "to these, or load the model with num_labels=... and ignore_mismatched_sizes=True"
        )


def check_values(pixel_values: torch.Tensor, labels: torch.Tensor, config: VFMSegConfig) -> None:
    """Raise a `ValueError` for pixels or labels that cannot be trained on; the host waits once for the device."""
    *unusable, unknown = torch.cat([unusable_pixels(pixel_values), unknown_labels(labels, config).sum()[None]]).tolist()
    check_unusable_pixels(unusable)
    if unknown:
        check_known_labels(labels, config)


@contextmanager
def checks_without_waiting(model: Networks) -> Iterator[None]:
    """
    Inside, a training step on values that [`check_values`] refuses raises nothing but has NaN for its loss, so that
    the host need not wait for the device. Whoever reads the loss then calls [`check_values`].
    """
    before, model.checks_raise = model.checks_raise, False
    try:
        yield
    finally:
        model.checks_raise = before


def check_local_directory(name_or_path: str | os.PathLike) -> None:
    """Raise an `OSError` if this can only be a local directory, by its spelling, and is not there."""
    path = os.fspath(name_or_path)
    spelled_as_path = os.path.isabs(path) or path.startswith((".", "~")) or path.count("/") > 1
    if spelled_as_path and not os.path.exists(path):
        raise OSError(f"there is no directory {path!r}; pass one that save_pretrained wrote, or a Hub id (user/name)")
