# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What the model refuses, and how it says so."""

import os

import torch

from .configuration_vfmseg import VFMSegConfig


def check_pixel_values(
    pixel_values: torch.Tensor, config: VFMSegConfig, minimum: int = 1, finite: bool = False
) -> None:
    """Raise a `ValueError` that names the shape or value unless `pixel_values` can be a batch of images."""
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
    if finite and not torch.compiler.is_compiling():
        check_unusable_pixels(unusable_pixels(pixel_values).tolist())


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


def check_labels(labels: torch.Tensor, pixel_values: torch.Tensor, config: VFMSegConfig) -> None:
    """Raise a `ValueError` unless `labels` are maps of known class ids for these images."""
    batch = len(pixel_values)
    if labels.ndim != 3 or len(labels) != batch:
        raise ValueError(
            f"labels must have the shape (batch_size={batch}, height, width) with one class id per pixel, got "
            f"{tuple(labels.shape)}"
        )
    if torch.is_floating_point(labels):
        raise ValueError(f"labels must be integer class ids, got {labels.dtype}")
    known = ((labels >= 0) & (labels < config.num_labels)) | (labels == config.semantic_loss_ignore_index)
    if not torch.compiler.is_compiling() and not known.all():
        raise ValueError(
            f"labels hold the ids {torch.unique(labels[~known]).tolist()}, but the model's classes are "
            f"0..{config.num_labels - 1} and {config.semantic_loss_ignore_index} is ignored; map the ids of your data "
            "to these, or load the model with num_labels=... and ignore_mismatched_sizes=True"
        )


def check_local_directory(name_or_path: str | os.PathLike) -> None:
    """Raise an `OSError` if this can only be a local directory, by its spelling, and is not there."""
    path = os.fspath(name_or_path)
    spelled_as_path = os.path.isabs(path) or path.startswith((".", "~")) or path.count("/") > 1
    if spelled_as_path and not os.path.exists(path):
        raise OSError(f"there is no directory {path!r}; pass one that save_pretrained wrote, or a Hub id (user/name)")
