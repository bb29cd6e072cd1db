# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""How many pixels of which class every image of a dataset has: counted once, kept until the dataset changes."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load, save
from transformers.utils import logging

from ..model.labels import IGNORE_INDEX
from ..utils.files import write_file
from .parallel import read_in_parallel
from .storage import file_state, plain_location, split_location


logger = logging.get_logger(__name__)

FORMAT = 1  # of the kept file and of its key
TENSOR = "class_pixels"
MIN_PIXELS = 3000  # the recipe's: an image shows a class if it has more pixels of it than this


def count_class_pixels(
    dataset: datasets.Dataset,
    num_classes: int,
    cache_dir: str | os.PathLike | None = None,
    num_proc: int | None = None,
) -> np.ndarray:
    """
    Counts the pixels of every class in every image. Label maps are read, images are not.

    The counts are kept in a file whose name is derived from the cells of the column `label` and from size and time of
    change of the files that they name. Whatever changes in the dataset, its order or its split, is counted again.

    Args:
        dataset (`datasets.Dataset`):
            As `open_dataset` returns it; only its column `label` is needed. `file_name` serves messages.
        num_classes (`int`):
            K: labels are 0..K-1, and 255 = ignore.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where counts are kept; by default `vfmseg_class_pixels` in the cache of `datasets` (`HF_DATASETS_CACHE`).
            A folder that cannot be written to is no error: the counts are then made again next time.
        num_proc (`int`, *optional*):
            Processes that count; 1 counts in this one. By default one per core that may be used.

    Returns:
        `np.ndarray`: `int64` `[N, K]`, pixels at the size of the label maps, rows in the order of the dataset.

    Raises:
        `TypeError`: `dataset` is not a `datasets.Dataset`.
        `ValueError`: no rows, an id that is neither a class nor 255 (the message names the image), or whatever
            reading a row raises, like `OSError`.
    """
    if not isinstance(dataset, datasets.Dataset):
        raise TypeError(
            f"class pixels are counted in a datasets.Dataset, as open_dataset returns it, got {type(dataset)}"
        )
    if len(dataset) == 0:
        raise ValueError("the dataset has no rows, so there are no pixels to count")
    path = class_pixels_file(dataset, num_classes, cache_dir)
    counts = read_class_pixels(path, (len(dataset), num_classes))
    if counts is None:
        counts = _count(dataset, num_classes, num_proc)
        write_class_pixels(path, counts)
    return counts


def class_pixels_file(dataset: datasets.Dataset, num_classes: int, cache_dir: str | os.PathLike | None = None) -> Path:
    """Where the counts of a dataset, in its present state, are or will be kept. Arguments as `count_class_pixels`."""
    folder = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "vfmseg_class_pixels").expanduser()
    return folder / f"{_content_key(dataset, num_classes)}.safetensors"


def read_class_pixels(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The kept counts; None if there are none, or the file is broken or holds something else."""
    if not path.is_file():
        return None
    try:
        counts = load(path.read_bytes())[TENSOR]
    except (OSError, SafetensorError, KeyError) as error:
        logger.warning("The pixels per class in %s cannot be read and are counted again: %s", path, error)
        return None
    return counts if counts.shape == shape and counts.dtype == np.int64 else None


def write_class_pixels(path: Path, counts: np.ndarray) -> bool:
    """Keeps counts, `int64` `[N, K]`. False, with a warning, where that is not possible."""
    try:
        # Of a view, safetensors would store whatever lies in its memory.
        write_file(path, save({TENSOR: np.ascontiguousarray(counts)}))
    except OSError as error:
        logger.warning("The pixels per class cannot be kept in %s and will be counted again: %s", path, error)
        return False
    logger.info("Pixels per class of %d images are kept in %s", len(counts), path)
    return True


def _content_key(dataset: datasets.Dataset, num_classes: int) -> str:
    """What decides the counts, as a hash: the cells, and the state of the files that are named in them."""
    digest = hashlib.sha256(f"{FORMAT} {num_classes} {len(dataset)}".encode())
    states: dict[str | None, str] = {}
    # In batches, as cells may hold whole images; one record batch each, as the layout of chunks is no content.
    for table in dataset.select_columns(["label"]).with_format("arrow").iter(batch_size=1000):
        table = table.combine_chunks()
        digest.update(str(table.schema.types).encode())
        for batch in table.to_batches():
            digest.update(batch.serialize())
        for column in table.flatten().columns:
            for value in column.to_pylist() if pa.types.is_string(column.type) else ():
                if (file := _file_of(value or "")) and file not in states:
                    states[file] = _file_state(file)
                digest.update(states.get(file, "").encode())
    return digest.hexdigest()[:40]


def _file_of(value: str) -> str | None:
    """The file that an absolute path or a location in an archive stands for."""
    inside = split_location(value)
    path = inside[0] if inside else plain_location(value)
    return path if os.path.isabs(path) else None


def _file_state(path: str) -> str:
    try:
        return "{} {};".format(*file_state(path))
    except OSError:
        return "absent;"


class Histograms:
    """Pixels per id, `int64` `[256]`, of every label map; the error in place of those that cannot be read."""

    def __init__(self, rows: datasets.Dataset | Sequence[Mapping[str, Any]]):
        is_table = isinstance(rows, datasets.Dataset)
        self.labels = rows.select_columns(["label"]).with_format(None) if is_table else rows

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> "np.ndarray | Exception":
        try:
            return np.array(self.labels[index]["label"].histogram(), dtype=np.int64)
        except (OSError, ValueError, ImportError) as error:  # raised in a worker, it would bury its message
            return error


def _count(dataset: datasets.Dataset, num_classes: int, num_proc: int | None) -> np.ndarray:
    counts = np.zeros((len(dataset), num_classes), dtype=np.int64)
    histograms = read_in_parallel(Histograms(dataset), num_proc, "Counting pixels per class")
    for row, histogram in enumerate(histograms):
        if isinstance(histogram, Exception):
            raise histogram
        counts[row] = _of_classes(histogram, num_classes, dataset, row)
    return counts


def _of_classes(histogram: np.ndarray, num_classes: int, dataset: datasets.Dataset, row: int) -> np.ndarray:
    present = np.flatnonzero(histogram)
    unknown = present[(present >= num_classes) & (present != IGNORE_INDEX)]
    if len(unknown):
        name = f"row {row}"
        if "file_name" in dataset.column_names:
            name = repr(dataset.select_columns(["file_name"])[row]["file_name"])
        raise ValueError(
            f"the label map of {name} holds ids {unknown.tolist()}; known are 0..{num_classes - 1} and {IGNORE_INDEX} "
            "(ignore). Does num_classes fit the dataset?"
        )
    return histogram[:num_classes]
