# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Several datasets as the images of one training."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from .data import CropRequest, TrainingImages


class JoinedImages(TrainingImages):
    """
    The images of several datasets, one after the other: each resized as its own [`Augmentation`] says, and with its own
    class map. Their classes are compared with the model's one by one, so that their ids may be in any order.

    Args:
        parts: what is joined.

    Attributes:
        class_pixels: of all images; None until all parts have the same ids, which [`for_model`] brings about.

    Raises:
        ValueError: nothing to join, or augmentations that differ in more than `resize`.
    """

    def __init__(self, parts: Sequence[TrainingImages]):
        self._parts = tuple(own for part in parts for own in part.parts)
        if not self._parts:
            raise ValueError("there are no images to join")
        first = self._parts[0]
        for part in self._parts[1:]:
            if replace(part.augmentation, resize=None) != replace(first.augmentation, resize=None):
                raise ValueError(
                    "images that are joined are augmented alike, but for the size before the crop (resize); got "
                    f"{first.augmentation} and {part.augmentation}"
                )
        self._ends = list(accumulate(map(len, self._parts)))
        self.augmentation, self.processor, self.seed = first.augmentation, first.processor, first.seed
        same = all(part.id2label == first.id2label for part in self._parts)
        counted = same and all(part.class_pixels is not None for part in self._parts)
        self.id2label = first.id2label if same else None
        self.class_map, self.class_match = None, None
        self.class_pixels = np.concatenate([part.class_pixels for part in self._parts]) if counted else None

    @property
    def parts(self) -> tuple[TrainingImages, ...]:
        return self._parts

    @property
    def name(self) -> str:
        return ", ".join(part.name for part in self._parts)

    def __len__(self) -> int:
        return self._ends[-1]

    def for_model(self, id2label: Mapping[int, str], name: str) -> "JoinedImages":
        """As [`TrainingImages.for_model`], of every part."""
        return JoinedImages([part.for_model(id2label, f"{name}, {part.name}") for part in self._parts])

    def __getitem__(self, key: CropRequest | tuple[int, int] | int) -> dict[str, object]:
        draw = CropRequest(*key) if isinstance(key, tuple) else CropRequest(0, key)
        if not 0 <= draw.index < len(self):
            raise IndexError(f"there are {len(self)} images, got the index {draw.index}")
        number = bisect.bisect_right(self._ends, draw.index)
        part = self._parts[number]
        return part.crop(part.dataset[draw.index - self._ends[number] + len(part)], draw)
