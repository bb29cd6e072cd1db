# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Datasets by name: which there are, what is known of them, and opening them."""

import os
import re

from datasets import Dataset

from . import acdc, bdd100k, camvid, carla, cityscapes, folder, gtav, mapillary, street_scenes, synthia
from .base import DatasetDescription, NamedDataset, default_split, scored_split
from .tables import holds_table, load_table


DATASETS: dict[str, NamedDataset] = {
    "acdc": acdc.DATASET,
    "bdd100k": bdd100k.DATASET,
    "camvid": camvid.DATASET,
    "carla": carla.DATASET,
    "cityscapes": cityscapes.DATASET,
    "folder": folder.DATASET,
    "gtav": gtav.DATASET,
    "mapillary": mapillary.DATASET,
    "streets": street_scenes.DATASET,
    "synthia": synthia.DATASET,
}


def register_dataset(name: str, dataset: NamedDataset, exist_ok: bool = False) -> None:
    """
    Makes a dataset of one's own known by name, so that a spec `name:...` opens it everywhere: here, as a domain, and
    in the commands of a program that has called this.

    Args:
        name (`str`): before the colon of a spec; letters, digits, - and _.
        dataset ([`NamedDataset`]):
            Its `info`, of the same name, and `load(rest of the spec after the colon, split)`, which returns a
            `datasets.Dataset` with the columns that `open_dataset` tells of; `dataset_of_frames` makes one of files.
        exist_ok (`bool`, defaults to `False`): whether to replace another one of this name.

    Raises:
        `TypeError`: `dataset` is no [`NamedDataset`].
        `ValueError`: a name that no spec could have, that is not the one of the `info`, or that is taken.

    Example:

        >>> info = DatasetDescription("own", ("train", "val"), licence="my own", usage="own:/path")
        >>> register_dataset("own", NamedDataset(info, load))
        >>> open_dataset("own:/data/own", "val")
    """
    if not isinstance(dataset, NamedDataset):
        raise TypeError(f"a registered dataset is a {NamedDataset.__name__}(info, load), got {type(dataset).__name__}")
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"the name of a dataset is made of letters, digits, - and _, got {name!r}")
    if dataset.info.name != name:
        raise ValueError(
            f"the dataset is to be registered as {name!r}, but its info has the name {dataset.info.name!r}"
        )
    if name in DATASETS and DATASETS[name] is not dataset and not exist_ok:
        raise ValueError(f"there is a dataset {name!r} already; take another name, or pass exist_ok=True to replace it")
    DATASETS[name] = dataset


def describe_dataset(spec: str) -> DatasetDescription:
    """
    What is known of a dataset: its classes, splits, terms, and the rule that it is scored by.

    Args:
        spec (`str`):
            A name (`"camvid"`), or anything that `open_dataset` takes. The classes of `folder:/path/to/dataset.yaml`
            are in its file; those of a dataset that is not registered are known when it is open: `classes_of(dataset)`.

    Raises:
        `ValueError`: an unknown name before a colon, or a dataset file that cannot be understood.
        `FileNotFoundError`: there is no such dataset file.
    """
    dataset, rest = _find(spec)
    if dataset and dataset.describe and rest:
        return dataset.describe(rest)
    if dataset:
        return dataset.info
    return DatasetDescription(spec, splits=(), licence="see its own page", usage=spec, id2label=None, evaluation=None)


def open_dataset(spec: str, split: str | None = None, held_out: bool = False) -> Dataset:
    """
    Opens a dataset. No image is read before its row is, and no converted copy is made. Of own images and tables the
    headers are looked at, for EXIF tags: label maps may be for the stored pixels or for what a tag makes of them. The
    sizes of label maps tell it of quarter turns, which is said; other tags are refused, unless the file of `folder:`
    says which it is.

    Args:
        spec (`str`):
            One of

            - `"cityscapes:/path"`, `"gtav:/path"`, `"mapillary:/path?version=2.0"`, ...: a dataset in its owner's
              layout, as folders or as the zip archives that it comes in; `describe_dataset(name).usage` shows
              the settings;
            - `"folder:/path/to/dataset.yaml"`: own images and label maps with a file that explains them;
            - `"streets:<domain>?n=200&size=512x1024&seed=0&version=1"`: procedural scenes, rendered when read;
            - a Hub id, or a local folder: anything that `datasets.load_dataset` (or `load_from_disk`) opens and that
              has images in the columns `image` and `label`, the latter of final ids. Their names are those that the
              dataset has (of `label`, of a `ClassLabel` in a column such as `classes`, in an `id2label.json` beside
              the data); `?id2label=names.json` or `?id2label=cityscapes` after it gives names, or other ones.
        split (`str`, *optional*):
            One of `describe_dataset(spec).splits`; for a Hub id or a local folder, any expression of
            `datasets.load_dataset`. By default the one to train on: `train` or `training`, or else the first one whose
            name is none of `base.HELD_OUT_SPLITS`.
        held_out (`bool`, defaults to `False`):
            Whether the default is the split to be scored on instead, `describe_dataset(spec).evaluation_split`.

    Returns:
        `datasets.Dataset` with the columns

        - `image`: PIL image of mode RGB without an EXIF tag that would turn it, its pixels where its label map has
          them: as they are stored, but for own data as told above; other modes and 16 bits are converted as the image
          processor converts them;
        - `label`: PIL image of mode L and the same size, of the ids whose names are `classes_of(dataset)`, for
          registered datasets those of `describe_dataset(spec).id2label`; 255 = ignore;
        - `file_name` (`str`): name of the frame, without folder and suffix in the owner's layouts.

        Ids are translated when a row is read, in all that is made of the dataset: selected, filtered, shuffled,
        mapped, concatenated, stored, reloaded, iterated, or sent to workers. A stored dataset opens wherever
        `vfmseg_hf.data` has been imported.

    Raises:
        `ValueError`: an unknown dataset, split, domain or query key, a split without rows, no split named where all are
            held out or the names of several do not tell, a dataset that does not say which classes its labels hold, or
            own images with an EXIF tag that leaves in doubt what their label maps are for.
        `FileNotFoundError`: the folder, a file of its layout, or the partner of an image or label map is missing.
        `ImportError`: the labels of the dataset need a package that is not installed; the message names it.

        When a row is read: `ValueError` for unknown ids, for a label map of another size than its image, and for
        images of floats, which the image processor refuses; `OSError` for files that cannot be read.

    Example:

        >>> dataset = open_dataset("camvid:/data/camvid", split="source_train")
        >>> row = dataset[0]
        >>> row["image"].size, row["label"].mode
        ((480, 360), 'L')
    """
    dataset, rest = _find(spec)
    if dataset is None:
        return _named(load_table(spec, split, held_out), spec)
    info = describe_dataset(spec)
    if split is None:
        split = scored_split(spec, info) if held_out else default_split(spec, info.splits)
    if split not in info.splits:
        raise ValueError(f"{info.name} has no split {split!r}, only {', '.join(info.splits)}.")
    return _named(dataset.load(rest, split), spec)


def _named(dataset: Dataset, spec: str) -> Dataset:
    """The dataset, with a name that records of trainings can have: the spec without the folders that data lies in."""
    name, colon, rest = spec.partition(":")
    if colon and name != "streets":
        spec = f"{name}:{os.path.basename(rest.partition('?')[0].rstrip('/'))}"
    elif not colon:
        place = spec if os.path.exists(spec) else spec.partition("?")[0]
        spec = os.path.basename(os.path.abspath(place)) if os.path.exists(place) else place
    dataset.info.dataset_name = spec
    return dataset


def _find(spec: str) -> tuple[NamedDataset | None, str]:
    """The registered dataset that a spec names, if any, and what follows the colon."""
    name, _, rest = spec.partition(":")
    if name in DATASETS:
        return DATASETS[name], rest
    if ":" in spec.partition("?")[0] and not os.path.exists(spec):  # Hub ids have no colon
        usages = "; ".join(dataset.info.usage for dataset in DATASETS.values())
        raise ValueError(
            f"Unknown dataset {name!r} in {spec!r}. Known: {usages}; or a Hub id or an existing folder, without "
            "a colon."
        )
    folder = os.path.basename(os.path.abspath(spec))
    if folder.lower() in DATASETS and os.path.isdir(spec) and not holds_table(spec):
        raise ValueError(f"{spec} is a folder, and nothing says how it is laid out; is it {folder.lower()}:{spec}?")
    return None, spec
