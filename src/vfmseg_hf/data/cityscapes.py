# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Cityscapes: 2975 + 500 finely labelled images of 2048x1024 from German and neighbouring cities."""

from datasets import Dataset

from ..model.labels import IGNORE_INDEX
from .base import DatasetDescription, NamedDataset, dataset_of_frames, open_storage, pair


LAYOUT = (
    "leftImg8bit/<split>/<city>/*_leftImg8bit.png and gtFine/<split>/<city>/*_gtFine_labelIds.png, or "
    "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip side by side"
)

# The ids 0..33 of the label table of the benchmark. Its last one, -1 (license plate), would be 255 in a byte.
EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
TRAIN_IDS = (
    dict.fromkeys(range(34), IGNORE_INDEX)
    | {original: train_id for train_id, original in enumerate(EVALUATED)}
    | {255: IGNORE_INDEX}
)

INFO = DatasetDescription(
    name="cityscapes",
    splits=("train", "val"),
    licence="Cityscapes, Cordts et al. 2016; non-commercial use, registration at cityscapes-dataset.com",
    usage="cityscapes:/path/to/cityscapes",
    pairs={"train": 2975, "val": 500},
)


def load(path: str, split: str) -> Dataset:
    """The owners' `train` and `val`; the labels of their test set are not published."""
    storage = open_storage(path, INFO, LAYOUT)
    images = storage.expect(f"leftImg8bit/{split}", "_leftImg8bit.png")
    labels = storage.expect(f"gtFine/{split}", "_gtFine_labelIds.png")
    return dataset_of_frames(pair(images, labels, INFO.name), TRAIN_IDS, INFO, split)


DATASET = NamedDataset(INFO, load)
