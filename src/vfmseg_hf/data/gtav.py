# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""GTAV ("Playing for Data"): 24,966 rendered images of about 1914x1052 with the ids of Cityscapes.

`train` is every pair that is found, as in papers on generalisation. The owners' split into three parts takes their file
of it: `gtav:/path?split_file=/path/to/split.mat`, or a JSON file `{"train": [1, 2, ...], "val": ..., "test": ...}`.
"""

from pathlib import Path

from datasets import Dataset

from ..model.labels import IGNORE_INDEX
from ..utils.files import read_settings
from .base import (
    DatasetDescription,
    Frame,
    NamedDataset,
    UndefinedSplit,
    dataset_of_frames,
    enumeration,
    frame_name,
    incomplete_note,
    leave_out,
    open_storage,
    pair,
    parse_query,
    without_converted,
)
from .cityscapes import TRAIN_IDS as CITYSCAPES_TRAIN_IDS
from .findings import FOREIGN, notify, report_problem
from .reading import read_header


LAYOUT = (
    "images/00001.png and labels/00001.png, or 01_images.zip ... 10_images.zip and 01_labels.zip ... 10_labels.zip "
    "side by side"
)
COUNT = 24966  # numbered from 1 in the full release
WRONG_SIZE = ("15188", "17705")  # label maps of another size than their images
# Published lists do not agree on which of these have another size too: all of them, 35, or none.
DOUBTFUL = tuple(f"{number:05d}" for number in range(20801, 20861))
SPLITS = ("train", "val", "test")

# Cityscapes' ids, and 34: the owners number the license plate, which is -1 there, last.
TRAIN_IDS = {index: CITYSCAPES_TRAIN_IDS[index] for index in range(34)} | {34: IGNORE_INDEX}

INFO = DatasetDescription(
    name="gtav",
    splits=SPLITS,
    licence="Playing for Data, Richter et al. 2016; research and educational use, see its page at TU Darmstadt",
    usage="gtav:/path/to/gtav, or gtav:/path/to/gtav?split_file=/path/to/split.mat for the owners' three parts",
)


def load(rest: str, split: str) -> Dataset:
    """
    `train`: all pairs but those whose sizes differ; with `split_file`: the part of the owners' split.

    The published code resizes the image and the label map each for itself, so that it trains on these pairs as well.

    Raises:
        `ValueError`: `val` or `test` without a split file, or a split file that cannot be understood.
        `FileNotFoundError`: an image without its label map or the other way round. Numbers that lack both are
            reported only, because many copies are incomplete.
        `ImportError`: a `.mat` file without scipy.
    """
    path, settings = parse_query(rest, {"split_file": None}, INFO)
    if settings["split_file"] is None and split != "train":
        raise UndefinedSplit(
            f"The parts of gtav are known from the owners' split file only; without it there is @train, all images. "
            f"Usage: {INFO.usage}"
        )
    storage = open_storage(path, INFO, LAYOUT)
    images = storage.expect("images", ".png")
    labels = without_converted(storage.expect("labels", ".png"), INFO.name)
    left_out = {frame_name(key) for key in images}.intersection(WRONG_SIZE)
    frames = pair(*(leave_out(files, WRONG_SIZE) for files in (images, labels)), INFO.name)
    left_out.update(frame.name for frame in frames if frame.name in DOUBTFUL and _sizes_differ(frame))
    frames = [frame for frame in frames if frame.name not in left_out]
    if foreign := [frame.image for frame in frames if not frame.name.isdecimal()]:
        message = f"{foreign[0]} is no image of gtav, whose names are numbers. Expected: {LAYOUT}."
        report_problem(FOREIGN, dict.fromkeys(foreign, ""), ValueError(message))
        frames = [frame for frame in frames if frame.name.isdecimal()]
    wanted, source = set(range(1, COUNT + 1)), ""
    if settings["split_file"] is not None:
        wanted = read_split(Path(settings["split_file"]).expanduser(), split)
        frames = [frame for frame in frames if int(frame.name) in wanted]
        source = f"split_file={Path(settings['split_file']).name}"
    names = sorted(name for name in left_out if int(name) in wanted)
    if names:
        notify(f"gtav: {enumeration(names)} are left out, because their label maps have another size than the images.")
    _report_missing(frames, wanted.difference(map(int, WRONG_SIZE), map(int, left_out)), len(wanted))
    note = ", ".join(filter(None, (incomplete_note(len(frames), len(wanted), names), source)))
    return dataset_of_frames(frames, TRAIN_IDS, INFO, split, note=note)


def read_split(path: Path, split: str) -> set[int]:
    """
    Numbers of the images of a part.

    Raises:
        `FileNotFoundError`, `ValueError`, `ImportError`: the file is missing, holds no such part, or needs scipy.
    """
    if not path.is_file():
        raise FileNotFoundError(f"The split file {path} is missing. It comes with the owners' code to read the labels.")
    if path.suffix == ".mat":
        try:
            from scipy.io import loadmat
        except ImportError as error:
            raise ImportError(f"Reading {path} needs scipy: pip install scipy, or pass a JSON file.") from error
        part = loadmat(path).get(f"{split}Ids")
        numbers = None if part is None else part.ravel().tolist()
    else:
        parts = read_settings(path)
        numbers = parts.get(split) if isinstance(parts, dict) else None
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise ValueError(f"{path} holds no list of whole numbers for the part {split!r}, of {', '.join(SPLITS)}.")
    return set(numbers)


def _sizes_differ(frame: Frame) -> bool:
    """Whether the headers of both files tell different sizes. Broken files are left to whoever reads them."""
    try:
        return read_header(frame.image, frame.image).size != read_header(frame.labels, frame.labels).size
    except OSError:
        return False


def _report_missing(frames: list[Frame], wanted: set[int], total: int) -> None:
    missing = sorted(wanted - {int(frame.name) for frame in frames})
    if missing:
        shown = ", ".join(f"{number:05d}" for number in missing[:10]) + (", ..." if len(missing) > 10 else "")
        notify(f"gtav: {len(missing)} of {total} pairs are not in this copy: {shown}")


DATASET = NamedDataset(INFO, load)
