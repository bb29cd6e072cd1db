# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""BDD100K's semantic segmentation: 7000 + 1000 pictures of 1280x720 from the United States, labelled with train ids."""

from datasets import Dataset

from ..labels import CITYSCAPES_CLASSES, IGNORE_INDEX
from .base import Corpus, CorpusInfo, dataset_of_frames, open_storage, pair


LAYOUT = (
    "images/10k/<split>/*.jpg and labels/sem_seg/masks/<split>/*.png, or of the older release seg/images/<split>/*.jpg "
    "and seg/labels/<split>/*_train_id.png; or their zip archives side by side"
)

# The files hold train ids already. Any other value is an error, not something to ignore.
TRAIN_IDS = {index: index for index in range(len(CITYSCAPES_CLASSES))} | {IGNORE_INDEX: IGNORE_INDEX}

INFO = CorpusInfo(
    name="bdd100k",
    splits=("train", "val"),
    licence="BDD100K, Yu et al. 2020; its own licence for education, research and non-profit use",
    usage="bdd100k:/path/to/bdd100k",
)


def load(path: str, split: str) -> Dataset:
    """The owners' `train` and `val`, of the newer release where both lie in one folder."""
    storage = open_storage(path, INFO, LAYOUT)
    labels = storage.files(f"labels/sem_seg/masks/{split}", ".png")
    if labels:
        images = storage.expect(f"images/10k/{split}", ".jpg")
    elif labels := storage.files(f"seg/labels/{split}", "_train_id.png"):
        images = storage.expect(f"seg/images/{split}", ".jpg")
    else:
        raise storage.missing(f"labels/sem_seg/masks/{split}", ".png")
    return dataset_of_frames(pair(images, labels, INFO.name), TRAIN_IDS, INFO, split)


CORPUS = Corpus(INFO, load)
