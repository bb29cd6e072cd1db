# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""ACDC: images of 1920x1080 in fog, at night, in rain and in snow, labelled with the ids of Cityscapes."""

from datasets import Dataset

from .base import DatasetDescription, NamedDataset, dataset_of_frames, open_storage, pair
from .cityscapes import TRAIN_IDS


TRAIN_PAIRS = {"fog": 400, "night": 400, "rain": 400, "snow": 400}
VAL_PAIRS = {"fog": 100, "night": 106, "rain": 100, "snow": 100}
CONDITIONS = tuple(TRAIN_PAIRS)
LAYOUT = (
    "rgb_anon/<condition>/<split>/<sequence>/*_rgb_anon.png and gt/<condition>/<split>/<sequence>/*_gt_labelIds.png, "
    "or rgb_anon_trainvaltest.zip and gt_trainval.zip side by side"
)

INFO = DatasetDescription(
    name="acdc",
    splits=("train", "val", *(f"{split}_{condition}" for split in ("train", "val") for condition in CONDITIONS)),
    licence="ACDC, Sakaridis et al. 2021; non-commercial use, registration at acdc.vision.ee.ethz.ch",
    usage="acdc:/path/to/acdc",
    pairs={"train": sum(TRAIN_PAIRS.values()), "val": sum(VAL_PAIRS.values())}
    | {f"train_{condition}": count for condition, count in TRAIN_PAIRS.items()}
    | {f"val_{condition}": count for condition, count in VAL_PAIRS.items()},
)


def load(path: str, split: str) -> Dataset:
    """`train` or `val` of all conditions, or of one, such as `val_night`; the test labels are not published."""
    storage = open_storage(path, INFO, LAYOUT)
    part, _, condition = split.partition("_")
    frames = []
    for name in (condition,) if condition else CONDITIONS:
        images = storage.expect(f"rgb_anon/{name}/{part}", "_rgb_anon.png")
        labels = storage.expect(f"gt/{name}/{part}", "_gt_labelIds.png")
        frames += pair(images, labels, INFO.name)
    return dataset_of_frames(frames, TRAIN_IDS, INFO, split)


DATASET = NamedDataset(INFO, load)
