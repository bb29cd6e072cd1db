# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""SYNTHIA-RAND-CITYSCAPES: 9400 rendered images of 1280x760. Its files show no terrain, truck or train."""

from datasets import Dataset

from ..model.labels import IGNORE_INDEX
from .base import DatasetDescription, NamedDataset, dataset_of_frames, open_storage, pair, without_converted
from .reading import RED16, png_decoder


LAYOUT = "RGB/*.png and GT/LABELS/*.png (16 bits per channel), unpacked from SYNTHIA_RAND_CITYSCAPES.rar"

# Void (0), parking slot (13), road work (14) and lane marking (22) are ignored, as published code does.
TRAIN_IDS = {
    0: IGNORE_INDEX,
    1: 10,  # sky
    2: 2,  # building
    3: 0,  # road
    4: 1,  # sidewalk
    5: 4,  # fence
    6: 8,  # vegetation
    7: 5,  # pole
    8: 13,  # car
    9: 7,  # traffic sign
    10: 11,  # pedestrian
    11: 18,  # bicycle
    12: 17,  # motorcycle
    13: IGNORE_INDEX,
    14: IGNORE_INDEX,
    15: 6,  # traffic light
    16: 9,  # terrain
    17: 12,  # rider
    18: 14,  # truck
    19: 15,  # bus
    20: 16,  # train
    21: 3,  # wall
    22: IGNORE_INDEX,
}

INFO = DatasetDescription(
    name="synthia",
    splits=("train",),
    licence="SYNTHIA, Ros et al. 2016; CC BY-NC-SA 3.0, synthia-dataset.net",
    usage="synthia:/path/to/RAND_CITYSCAPES",
    pairs={"train": 9400},
)


def load(path: str, split: str) -> Dataset:
    """All pairs. Raises `ImportError` where torchvision, which alone reads these labels, is missing."""
    png_decoder()
    storage = open_storage(path, INFO, LAYOUT)
    images = storage.expect("RGB", ".png")
    labels = without_converted(storage.expect("GT/LABELS", ".png"), INFO.name)
    return dataset_of_frames(pair(images, labels, INFO.name), TRAIN_IDS, INFO, split, coding=RED16)


DATASET = NamedDataset(INFO, load)
