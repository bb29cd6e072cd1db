# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Two classifiers that see no shapes: what a trained model has to beat before its scores mean anything."""

from collections.abc import Iterable

import numpy as np
from PIL import Image


IGNORE_INDEX = 255


class PositionPrior:
    """
    Per pixel the majority class of the source's labels: what is known without looking at the picture.

    Args:
        label_maps: `uint8` `[H, W]` of the source, all of one size; 255 is ignored.
        num_labels: number of classes.

    Raises:
        ValueError: if the sizes differ, or there is no label map.
    """

    def __init__(self, label_maps: Iterable[np.ndarray], num_labels: int):
        votes = None
        for label_map in label_maps:
            if votes is None:
                votes = np.zeros((num_labels, *label_map.shape), dtype=np.int32)
            if label_map.shape != votes.shape[1:]:
                raise ValueError(
                    f"a position prior needs label maps of one size, got {votes.shape[1:]} and {label_map.shape}; "
                    "resize them to one (nearest neighbour)"
                )
            rows, columns = np.nonzero(label_map != IGNORE_INDEX)
            votes[label_map[rows, columns], rows, columns] += 1
        if votes is None:
            raise ValueError("a position prior needs at least one label map")
        self.label_map = votes.argmax(axis=0).astype(np.uint8)

    def predict(self, image: Image.Image) -> np.ndarray:
        """The same label map for every picture, at its size: `uint8` `[H, W]`."""
        return np.array(Image.fromarray(self.label_map).resize(image.size, Image.Resampling.NEAREST))


class ColourLookup:
    """
    Per colour the majority class of the source's pixels of that colour; unseen colours get the commonest class.

    Args:
        pairs: pictures `uint8` `[H, W, 3]` of the source and their label maps `[H, W]`; 255 is ignored.
        num_labels: number of classes.
        bits: colours are told apart by this many bits per channel, 1..8.
    """

    def __init__(self, pairs: Iterable[tuple[np.ndarray, np.ndarray]], num_labels: int, bits: int = 4):
        self.bits = bits
        votes = np.zeros((8**bits) * num_labels, dtype=np.int64)
        for image, label_map in pairs:
            known = label_map != IGNORE_INDEX
            cells = self._bins(image)[known] * num_labels + label_map[known]
            votes += np.bincount(cells, minlength=len(votes))
        votes = votes.reshape(-1, num_labels)
        self.classes = np.where(votes.any(axis=1), votes.argmax(axis=1), votes.sum(axis=0).argmax()).astype(np.uint8)

    def _bins(self, image: np.ndarray) -> np.ndarray:
        red, green, blue = np.moveaxis(image.astype(np.int64) >> (8 - self.bits), -1, 0)
        return (red << 2 * self.bits) | (green << self.bits) | blue

    def predict(self, image: Image.Image) -> np.ndarray:
        """Label map `uint8` `[H, W]` of a picture."""
        return self.classes[self._bins(np.asarray(image.convert("RGB")))]
