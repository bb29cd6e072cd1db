# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""CamVid in its 480x360 reduction with 11 classes: real street scenes by day and at dusk.

Layout: `{train,val}/images/<name>.jpg`, `{train,val}/labels/<name>.png`, `frames.csv` (stem, split, suggested_role).
"""

from datasets import Dataset

from ..evaluation.groups import EvaluationGroups
from ..model.labels import IGNORE_INDEX
from .base import DatasetDescription, NamedDataset, dataset_of_frames, frames_of_folders, open_folder, read_rows


# Original id to the one train id to learn from.
TRAIN_IDS = {
    0: 10,  # sky
    1: 2,  # building, with brick walls
    2: 5,  # pole
    3: 0,  # road, with lane markings
    4: 1,  # pavement
    5: 8,  # tree, with hedges and grass
    6: 7,  # sign, with traffic lights and advertisements
    7: 4,  # fence
    8: 13,  # car, with buses and lorries
    9: 11,  # pedestrian
    10: 12,  # bicyclist, with the bicycle
    11: IGNORE_INDEX,
}

INFO = DatasetDescription(
    name="camvid",
    splits=("train", "val", "source_train", "source_val", "target_dusk"),
    licence="CamVid, Brostow et al. 2008 and 2009; non-commercial research use with attribution",
    usage="camvid:/path/to/camvid",
    # CamVid's classes are wider than the train ids above: whatever they contain counts as right.
    # Train (16) and motorcycle (17) have no class here.
    evaluation=EvaluationGroups.of(
        {
            "Sky": (10,),
            "Building": (2, 3),
            "Pole": (5,),
            "Road": (0,),
            "Pavement": (1,),
            "Tree": (8, 9),
            "SignSymbol": (6, 7),
            "Fence": (4,),
            "Car": (13, 14, 15),
            "Pedestrian": (11,),
            "Bicyclist": (12, 18),
        }
    ),
)


def load(path: str, split: str) -> Dataset:
    """The owners' `train` and `val`, or a role of `frames.csv`: day for training and validation, dusk as target."""
    folder = open_folder(path, INFO)
    if split in ("train", "val"):
        frames = frames_of_folders(folder / split / "images", folder / split / "labels")
    else:
        rows = read_rows(folder / "frames.csv", ("stem", "split", "suggested_role"))
        frames = []
        for part in ("train", "val"):
            names = [row["stem"] for row in rows if row["suggested_role"] == split and row["split"] == part]
            if names:
                frames += frames_of_folders(folder / part / "images", folder / part / "labels", names)
    return dataset_of_frames(frames, TRAIN_IDS, INFO, split)


DATASET = NamedDataset(INFO, load)
