# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""BDD100K's semantic segmentation: 7000 + 1000 images of 1280x720 from the United States, labelled with train ids."""

from datasets import Dataset

from ..model.labels import CITYSCAPES_CLASSES, IGNORE_INDEX
from .base import (
    DatasetDescription,
    NamedDataset,
    dataset_of_frames,
    enumeration,
    frame_name,
    leave_out,
    open_storage,
    pair,
)
from .findings import notify
from .storage import Storage


LAYOUT = (
    "images/10k/<split>/*.jpg and labels/sem_seg/masks/<split>/*.png, or of the older release seg/images/<split>/*.jpg "
    "and seg/labels/<split>/*_train_id.png, with or without seg/; or their zip archives side by side"
)
# Folder and suffix of the label maps, and where their images may be.
RELEASES = (
    ("labels/sem_seg/masks", ".png", ("images/10k", "10k")),
    ("seg/labels", "_train_id.png", ("seg/images",)),
    ("labels", "_train_id.png", ("images", "images/10k", "10k")),
)

# Their label maps are of another view: upright images (720x1280) beside lying label maps. In copies from before the
# owners mended their archives of images they have none, and the label maps below have no image.
WRONG_VIEW = (
    *("3d581db5-2564fb7e", "52e3fd10-c205dec2", "781756b0-61e0a182", "78ac84ba-07bd30c2"),  # train
    *("80a9e37d-e4548ac1", "9342e334-33d167eb"),  # val
)
LONELY = (
    *("fee92217-63b3f87f", "ff1e4d6d-f4d85cfd", "ff3d3536-04986e25", "ff3da814-c3463a43"),  # train
    *("ff55861e-a06b953c", "ff7b98c7-3cb964ac"),  # val
)

# The files hold train ids already. Any other value is an error, not something to ignore.
TRAIN_IDS = {index: index for index in range(len(CITYSCAPES_CLASSES))} | {IGNORE_INDEX: IGNORE_INDEX}

INFO = DatasetDescription(
    name="bdd100k",
    splits=("train", "val"),
    licence="BDD100K, Yu et al. 2020; its own licence for education, research and non-profit use",
    usage="bdd100k:/path/to/bdd100k",
    pairs={"train": 7000, "val": 1000},
)


def load(path: str, split: str) -> Dataset:
    """
    The owners' `train` and `val`, of the newer release where several lie in one folder.

    Four and two pairs whose label maps are of another view are left out: 6996 and 998 remain. Published figures do not
    say what was done with them.
    """
    images, labels = _find_files(open_storage(path, INFO, LAYOUT), split)
    left_out = sorted({frame_name(key) for key in images}.intersection(WRONG_VIEW))
    if left_out:
        names = enumeration(left_out)
        notify(f"bdd100k: {names} are left out, because their label maps are of another view than the images.")
    images, labels = (leave_out(files, WRONG_VIEW) for files in (images, labels))
    if lonely := sorted(set(LONELY).intersection(labels.keys() - images.keys())):
        notify(f"bdd100k: the label maps {enumeration(lonely)} are left out, because their images are not published.")
        labels = leave_out(labels, lonely)
    return dataset_of_frames(pair(images, labels, INFO.name), TRAIN_IDS, INFO, split, left_out=left_out)


def _find_files(storage: Storage, split: str) -> tuple[dict[str, str], dict[str, str]]:
    """Images and label maps of the first release that has label maps."""
    for folder, suffix, places in RELEASES:
        if labels := storage.files(f"{folder}/{split}", suffix):
            for place in places:
                if images := storage.files(f"{place}/{split}", ".jpg"):
                    return images, labels
            raise storage.missing(f"{places[0]}/{split}", ".jpg")
    raise storage.missing(f"{RELEASES[0][0]}/{split}", RELEASES[0][1])


DATASET = NamedDataset(INFO, load)
