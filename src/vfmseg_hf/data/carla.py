# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""CARLARain: rendered street scenes of 2048x1024, each clear and rainy with one label map, by day, sunset and night.

Layout: `images_clear/<name>.jpg`, `images_rainy/<name>.jpg`, `labels/<name>.png`, `frames.csv` (stem, light).
"""

from datasets import Dataset

from ..model.labels import IGNORE_INDEX
from .base import DatasetDescription, NamedDataset, dataset_of_frames, frames_of_folders, open_folder, read_rows


WEATHERS = ("clear", "rainy")
LIGHTS = ("day", "sunset", "night")

# CARLA's tags 1..19 are the train ids in order; 24 is lane marking. The others (unlabeled, static, dynamic, other,
# water, ground, bridge, rail track, guard rail) have no train id.
TRAIN_IDS = dict.fromkeys(range(29), IGNORE_INDEX) | {tag: tag - 1 for tag in range(1, 20)} | {24: 0}

INFO = DatasetDescription(
    name="carla",
    splits=(*WEATHERS, *(f"{weather}_{light}" for weather in WEATHERS for light in LIGHTS)),
    licence="CARLARain, arXiv 2502.16421 (MIT); CARLA's assets are CC BY",
    usage="carla:/path/to/carlarain",
)


def load(path: str, split: str) -> Dataset:
    """`<weather>` or `<weather>_<light>`, such as `rainy` or `clear_night`; the light is that of `frames.csv`."""
    folder = open_folder(path, INFO)
    weather, _, light = split.partition("_")
    names = None
    if light:
        rows = read_rows(folder / "frames.csv", ("stem", "light"))
        names = [row["stem"] for row in rows if row["light"] == light]
    frames = frames_of_folders(folder / f"images_{weather}", folder / "labels", names)
    return dataset_of_frames(frames, TRAIN_IDS, INFO, split)


DATASET = NamedDataset(INFO, load)
