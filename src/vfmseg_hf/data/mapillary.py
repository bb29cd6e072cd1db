# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Mapillary Vistas: 18,000 + 2000 large images from all over the world; 66 labels in v1.2, 124 in v2.0.

How the labels become the 19 classes of Cityscapes is no property of the dataset, and scores depend on it:
`mapillary:/path?version=1.2&mapping=hrda`. For v1.2 two mappings are published, which differ on 11 labels (bike
lane, plain crosswalk, curb cut, parking, pedestrian area, service lane, zebra marking, manhole, street light, sign
frame, sign back):

- `hrda` (default): the list of HRDA's conversion script, which ignores what differs, but takes manholes for road. All
  evaluation configs of VFMSeg's published code read `validation/labels/*_labelTrainIds.png`; of the published scripts
  it is HRDA's that writes files of this name to this place;
- `name_rules`: rules on the names of the labels, of openseg and Rein. Their script is part of VFMSeg's published code,
  but what it writes, `cityscapes_trainIdLabel/val/label/*.png`, is read by none of its evaluation configs.

Which one the paper's figures were made with is said nowhere.

For v2.0 there are the same `name_rules`, which take parking meters for road, cyclists' traffic lights for riders and
ignore all other traffic lights, and `fixed` (default), which mends that and ignores the backs of other signs.
"""

from collections.abc import Iterable, Mapping

from datasets import Dataset

from ..model.labels import IGNORE_INDEX
from .base import (
    DatasetDescription,
    NamedDataset,
    dataset_of_frames,
    open_storage,
    pair,
    parse_query,
    without_converted,
)
from .reading import INSTANCES
from .storage import Storage


LAYOUT = (
    "{training,validation}/images/*.jpg with {training,validation}/v1.2/labels/*.png (v2.0/labels for version=2.0; "
    "labels in the v1.2 release), or 16-bit instances in place of labels; or zip archives of these"
)
LABELS = {"1.2": 66, "2.0": 124}


def _table(version: str, members: Mapping[int, Iterable[int]]) -> dict[int, int]:
    """`{label: train id}` from `{train id: labels}`; the version's other labels are ignored."""
    table = dict.fromkeys(range(LABELS[version]), IGNORE_INDEX)
    return table | {label: train_id for train_id, labels in members.items() for label in labels}


# Train ids as keys: 0 road, 1 sidewalk, 2 building, 3 wall, 4 fence, 5 pole, 6 traffic light, 7 traffic sign,
# 8 vegetation, 9 terrain, 10 sky, 11 person, 12 rider, 13 car, 14 truck, 15 bus, 16 train, 17 motorcycle, 18 bicycle.
_HRDA_12 = {
    **{0: (13, 24, 41), 1: (2, 15), 2: (17,), 3: (6,), 4: (3,), 5: (45, 47), 6: (48,), 7: (50,), 8: (30,), 9: (29,)},
    **{10: (27,), 11: (19,), 12: (20, 21, 22), 13: (55,), 14: (61,), 15: (54,), 16: (58,), 17: (57,), 18: (52,)},
}
_RULES_12 = _HRDA_12 | {0: (7, 8, 10, 13, 14, 23, 24), 1: (2, 9, 11, 15), 5: (44, 45, 47), 7: (46, 49, 50)}
_FIXED_20 = {
    **{0: (13, 14, 17, 18, 21, 23, *range(35, 59)), 1: (4, 15, 19, 24), 2: (27,), 3: (12,), 4: (5,)},
    **{5: (84, 85, 86, 88), 6: range(90, 96), 7: (87, *range(96, 104)), 8: (64,), 9: (63,), 10: (61,), 11: (30,)},
    **{12: (32, 33, 34), 13: (108,), 14: (114,), 15: (107,), 16: (111,), 17: (110,), 18: (105,)},
}
_RULES_20 = _FIXED_20 | {0: (*_FIXED_20[0], 75), 6: (), 7: (80, *_FIXED_20[7]), 12: (32, 33, 34, 94)}

# Version to its mappings by name; the first one is the default.
MAPPINGS = {
    "1.2": {"hrda": _table("1.2", _HRDA_12), "name_rules": _table("1.2", _RULES_12)},
    "2.0": {"fixed": _table("2.0", _FIXED_20), "name_rules": _table("2.0", _RULES_20)},
}

INFO = DatasetDescription(
    name="mapillary",
    splits=("training", "validation"),
    licence="Mapillary Vistas, Neuhold et al. 2017; research use, registration at mapillary.com",
    usage="mapillary:/path/to/mapillary?version=1.2&mapping=hrda, where version is 1.2 or 2.0 and mapping "
    "hrda or name_rules (1.2), fixed or name_rules (2.0)",
    pairs={"training": 18000, "validation": 2000},
)


def load(rest: str, split: str) -> Dataset:
    """
    The owners' `training` and `validation`; version and mapping stand in the description of the dataset.

    Raises:
        `ValueError`: an unknown version or mapping.
    """
    path, settings = parse_query(rest, {"version": "1.2", "mapping": None}, INFO)
    version = settings["version"]
    if version not in MAPPINGS:
        raise ValueError(f"mapillary has no version {version!r}, only {', '.join(MAPPINGS)}. Usage: {INFO.usage}")
    mapping = settings["mapping"] or next(iter(MAPPINGS[version]))
    if mapping not in MAPPINGS[version]:
        known = ", ".join(MAPPINGS[version])
        raise ValueError(f"mapillary {version} has no mapping {mapping!r}, only {known}. Usage: {INFO.usage}")
    storage = open_storage(path, INFO, LAYOUT)
    images = storage.expect(f"{split}/images", ".jpg")
    labels, coding = _find_labels(storage, split, version)
    frames = pair(images, labels, INFO.name)
    note = f"version={version}, mapping={mapping}"
    return dataset_of_frames(frames, MAPPINGS[version][mapping], INFO, split, coding=coding, note=note)


def _find_labels(storage: Storage, split: str, version: str) -> tuple[dict[str, str], str | None]:
    """Label files of a version and how they are coded; those for semantic segmentation before those of instances."""
    parents = [f"{split}/v{version}", *([split] if version == "1.2" else [])]
    for kind, coding in {"labels": None, "instances": INSTANCES}.items():
        for parent in parents:
            if labels := without_converted(storage.files(f"{parent}/{kind}", ".png"), INFO.name):
                return labels, coding
    raise storage.missing(f"{parents[0]}/labels", ".png")


DATASET = NamedDataset(INFO, load)
