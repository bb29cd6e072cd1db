# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The 19 evaluated classes of Cityscapes: the default label space of the library.

Train ids, names and colours are those of the Cityscapes benchmark; see the label table of cityscapesScripts.
"""

import re


CITYSCAPES_CLASSES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("road", (128, 64, 128)),
    ("sidewalk", (244, 35, 232)),
    ("building", (70, 70, 70)),
    ("wall", (102, 102, 156)),
    ("fence", (190, 153, 153)),
    ("pole", (153, 153, 153)),
    ("traffic light", (250, 170, 30)),
    ("traffic sign", (220, 220, 0)),
    ("vegetation", (107, 142, 35)),
    ("terrain", (152, 251, 152)),
    ("sky", (70, 130, 180)),
    ("person", (220, 20, 60)),
    ("rider", (255, 0, 0)),
    ("car", (0, 0, 142)),
    ("truck", (0, 0, 70)),
    ("bus", (0, 60, 100)),
    ("train", (0, 80, 100)),
    ("motorcycle", (0, 0, 230)),
    ("bicycle", (119, 11, 32)),
)

CITYSCAPES_ID2LABEL: dict[int, str] = {index: name for index, (name, _) in enumerate(CITYSCAPES_CLASSES)}
CITYSCAPES_PALETTE: list[tuple[int, int, int]] = [colour for _, colour in CITYSCAPES_CLASSES]
IGNORE_INDEX = 255  # of label maps as images: no class

# What a street image shows a few pixels wide: the classes that the refinement at full resolution is for.
THIN_CLASSES = ("pole", "traffic light", "traffic sign", "person", "rider", "motorcycle", "bicycle")


def fold(name: str) -> str:
    """A class's name as names are compared: without case, and with space, `-` and `_` alike."""
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip()
