# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""
Rare class sampling of the recipe ("Implementation Details", after DAFormer, Hoyer et al., CVPR 2022, section 3.2).

A class is drawn first, the rarer the likelier, and then an image that shows enough of it.
"""

from collections.abc import Iterator, Sequence
from itertools import repeat

import numpy as np
import torch
from transformers.utils import logging

from ..data.class_statistics import MIN_PIXELS
from .data import CropRequest, EpochSampler, seeded_generator


logger = logging.get_logger(__name__)


def rare_class_probabilities(class_pixels: np.ndarray, temperature: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    """
    How likely every class is drawn: softmax((1 - share of the pixels) / temperature), in float32 as published.

    Args:
        class_pixels (`np.ndarray` of shape `(N, K)`):
            Pixels of every class in every image, as `data.count_class_pixels` returns them.
        temperature (`float`):
            The lower, the more the rarest classes are preferred.

    Returns:
        Classes `int64` `[C]` with their probabilities `float32` `[C]`, from the rarest to the most frequent one.
        Classes without a pixel are left out.

    Raises:
        `ValueError`: the temperature is not positive, or no pixel has a class.
    """
    if not temperature > 0:
        raise ValueError(f"the temperature of rare class sampling must be positive, got {temperature}")
    totals = np.asarray(class_pixels).sum(axis=0)
    classes = np.argsort(totals, kind="stable")
    classes = classes[totals[classes] > 0]
    if len(classes) == 0:
        raise ValueError(f"rare class sampling has nothing to draw: no pixel of {len(class_pixels)} images has a class")
    pixels = torch.from_numpy(totals[classes])
    return classes, torch.softmax((1 - pixels / pixels.sum()) / temperature, dim=0).numpy()


def check_rare_class_crops(min_pixels: int, crop_ratio: float, crop_size: Sequence[int]) -> None:
    """Raise a `ValueError` if no crop of (height, width) can show as much of a class as is asked for."""
    height, width = crop_size
    needed = min_pixels * crop_ratio
    if needed >= height * width:
        raise ValueError(
            f"no crop of {height}x{width} pixels has more than {needed:g} of one class (rare_class_min_pixels "
            f"{min_pixels} x rare_class_crop_ratio {crop_ratio}); lower one of them, or train with "
            "rare_class_sampling=False"
        )


class RareClassSampler(EpochSampler):
    """
    Draws as many [`CropRequest`]s per epoch as there are images: a class, then an image with enough of it, both with
    replacement. Seed and epoch decide all of them.

    Classes of which no image holds enough are not drawn, with a warning; the others share their probability in
    proportion.

    Args:
        class_pixels (`np.ndarray` of shape `(N, K)`):
            Pixels of every class in every image, as `data.count_class_pixels` returns them.
        seed (`int`):
            Of everything random.
        temperature (`float`):
            As for [`rare_class_probabilities`].
        min_pixels (`int`):
            An image is drawn for a class if its label map has more pixels of it than this.
        crop_ratio (`float`):
            The crop should have more pixels of the class than `min_pixels * crop_ratio`, counted after the image is
            resized, which multiplies them (by 1.8 for GTAV at 2560x1440). 0 takes every crop.

    Attributes:
        classes, probabilities: `int64` `[C]` and `float64` `[C]`: what is drawn how likely.

    Raises:
        `ValueError`: as [`rare_class_probabilities`], negative `min_pixels` or `crop_ratio`, or no image holds enough
            of any class.
    """

    def __init__(
        self,
        class_pixels: np.ndarray,
        seed: int,
        temperature: float = 0.01,
        min_pixels: int = MIN_PIXELS,
        crop_ratio: float = 2.0,
    ):
        super().__init__(len(class_pixels), seed)
        if min_pixels < 0 or crop_ratio < 0:
            raise ValueError(
                f"min_pixels and crop_ratio of rare class sampling must not be negative, got {min_pixels}, {crop_ratio}"
            )
        classes, probabilities = rare_class_probabilities(class_pixels, temperature)
        enough = class_pixels[:, classes] > min_pixels
        drawn = enough.any(axis=0)
        if not drawn.all():
            lacking = ", ".join(f"{index} (at most {class_pixels[:, index].max()})" for index in classes[~drawn])
            what = f"no image holds more than {min_pixels} pixels of the classes {lacking}"
            if not drawn.any():
                raise ValueError(f"rare class sampling has nothing to draw: {what}. Lower min_pixels.")
            logger.warning("Rare class sampling never draws some classes: %s. Lower min_pixels to draw them.", what)
        probabilities = probabilities[drawn].astype(np.float64)
        if not probabilities.sum() > 0:  # at a low temperature the frequent classes have none in float32
            raise ValueError(
                f"rare class sampling has nothing to draw: only the classes {classes[drawn].tolist()} have images "
                f"with more than {min_pixels} pixels, and their probability is 0 at temperature {temperature}. Raise "
                "the temperature or lower min_pixels."
            )
        self.classes, self.probabilities = classes[drawn], probabilities / probabilities.sum()
        self.crop_pixels = min_pixels * crop_ratio if crop_ratio else -1
        images = [np.flatnonzero(column) for column in enough[:, drawn].T]
        # The images of all classes in one row, so that an epoch is drawn without a loop.
        self._images = np.concatenate(images)
        self._counts = np.array([len(of_class) for of_class in images])
        self._starts = np.cumsum(self._counts) - self._counts

    def __iter__(self) -> Iterator[CropRequest]:
        epoch = self.epoch
        # Five numbers: crops are seeded by four, and none of them may share this generator's stream.
        generator = seeded_generator(self.seed, epoch, 0, 0, 1)
        of_class, of_image = torch.rand(2, self.length, dtype=torch.float64, generator=generator).numpy()
        edges = np.cumsum(self.probabilities)
        edges[-1] = 1  # whatever the rounding of the sum
        which = np.searchsorted(edges, of_class, side="right")
        places = self._starts[which] + (of_image * self._counts[which]).astype(np.int64)
        indices, classes = self._images[places].tolist(), self.classes[which].tolist()
        yield from map(CropRequest, repeat(epoch), indices, classes, repeat(self.crop_pixels), range(self.length))
