# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Two classifiers that see no shapes: what a trained model has to beat before its scores mean anything."""

from collections.abc import Iterable

import numpy as np
from PIL import Image

from ..model.labels import IGNORE_INDEX


class PositionPrior:
    """
    Per pixel the majority class of the source's labels: what is known without looking at the image.

    Pixels that are never labelled get the commonest class.

    Args:
        label_maps: `uint8` `[H, W]` of the source, all of one size; 255 is ignored.
        num_labels: number of classes, 1..255.

    Raises:
        ValueError: if there is no label map, their sizes differ, or an id is unknown.
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
            rows, columns = np.nonzero(_labelled(label_map, num_labels))
            votes[label_map[rows, columns], rows, columns] += 1
        if votes is None:
            raise ValueError("a position prior needs at least one label map, got none")
        commonest = votes.sum(axis=(1, 2)).argmax()
        self.label_map = np.where(votes.any(axis=0), votes.argmax(axis=0), commonest).astype(np.uint8)

    def predict(self, image: Image.Image) -> np.ndarray:
        """The same label map for every image, at its size: `uint8` `[H, W]`."""
        return np.array(Image.fromarray(self.label_map).resize(image.size, Image.Resampling.NEAREST))


class ColourLookup:
    """
    Per colour the majority class of the source's pixels of that colour; unseen colours get the commonest class.

    Args:
        pairs: images `uint8` `[H, W, 3]` of the source and their label maps `[H, W]`; 255 is ignored.
        num_labels: number of classes, 1..255.
        steps: so many steps per channel tell colours apart, a power of two up to 64. More steps fit the source better.

    Raises:
        ValueError: if there is no image, an id is unknown, or `steps` is another number.
    """

    def __init__(self, pairs: Iterable[tuple[np.ndarray, np.ndarray]], num_labels: int, steps: int = 16):
        if steps not in (2, 4, 8, 16, 32, 64):
            raise ValueError(f"steps must be a power of two from 2 to 64, got {steps}")
        self.steps = steps
        votes = np.zeros(steps**3 * num_labels, dtype=np.int64)
        for image, label_map in pairs:
            labelled = _labelled(label_map, num_labels)
            cells = self._bins(image)[labelled] * num_labels + label_map[labelled]
            votes += np.bincount(cells, minlength=len(votes))
        if not votes.any():
            raise ValueError("a colour lookup needs at least one labelled image, got none")
        votes = votes.reshape(-1, num_labels)
        self.classes = np.where(votes.any(axis=1), votes.argmax(axis=1), votes.sum(axis=0).argmax()).astype(np.uint8)

    def _bins(self, image: np.ndarray) -> np.ndarray:
        red, green, blue = np.moveaxis(image.astype(np.int64) * self.steps // 256, -1, 0)
        return (red * self.steps + green) * self.steps + blue

    def predict(self, image: Image.Image) -> np.ndarray:
        """Label map `uint8` `[H, W]` of an image."""
        return self.classes[self._bins(np.asarray(image.convert("RGB")))]


def _labelled(label_map: np.ndarray, num_labels: int) -> np.ndarray:
    """Which pixels have a class; a `ValueError` names ids that are none and not ignored."""
    labelled = label_map != IGNORE_INDEX
    if unknown := np.unique(label_map[labelled & (label_map >= num_labels)]).tolist():
        raise ValueError(
            f"a label map holds the ids {unknown}; known are 0..{num_labels - 1} and {IGNORE_INDEX} (ignored)"
        )
    return labelled
