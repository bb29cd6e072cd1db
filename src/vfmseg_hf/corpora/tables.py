# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Corpora that are data sets already: a Hub id or a local folder, with the columns `image` and `label`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, Image, load_dataset, load_from_disk

from .base import HELD_OUT_SPLITS, TRAINING_SPLITS, default_split, first_named, is_held_out
from .columns import LabelMap, LazyPicture, Picture, picture_column, turn_column
from .findings import notify
from .reading import find_turned
from .storage import split_location


def load_table(spec: str, split: str | None, held_out: bool = False) -> Dataset:
    """
    A data set whose labels hold final ids, as `load_corpus` describes it, with its arguments.

    Raises:
        `FileNotFoundError`: nothing is found under `spec`.
        `ValueError`: `image` or `label` is missing or no picture, a cell is empty, there are several splits whose names
            do not tell which one is meant, or none of that name, or no rows; pictures with an EXIF tag that leaves in
            doubt what their label maps are for.
    """
    dataset = _open(spec, split)
    if isinstance(dataset, dict):
        dataset = dataset[_choose(spec, list(dataset), split, held_out)]
    if len(dataset) == 0:
        raise ValueError(f"The split {split!r} of {spec} is empty.")
    for column in ("image", "label"):
        feature = dataset.features.get(column)
        if not isinstance(feature, Image | LazyPicture):
            raise ValueError(
                f"{spec} needs pictures in the columns `image` and `label`; {column!r} is {feature or 'missing'}, its "
                f"columns are {dataset.column_names}. Rename or cast columns, then save_to_disk and load that folder."
            )
        empty = sum(chunk.null_count for chunk in dataset.with_format("arrow")[:][column].chunks)
        if empty:
            raise ValueError(f"{empty} rows of {spec} have no {column}. Filter them out first.")
    if "file_name" not in dataset.column_names:
        dataset = dataset.add_column("file_name", _file_names(dataset, split))
    if isinstance(dataset.features["image"], Image) and not isinstance(dataset.features["image"], Picture):
        if find_turned(_sources(dataset), spec, mixed=False):
            dataset = turn_column(dataset, "image")
        else:
            dataset = dataset.cast_column("image", picture_column())
    if isinstance(dataset.features["label"], Image):
        dataset = dataset.cast_column("label", LabelMap())
    return dataset.select_columns(["image", "label", "file_name"])


def table_splits(spec: str) -> tuple[str, ...]:
    """The splits to choose from; none for a data set that has no choice. Raises as `load_table` does."""
    dataset = _open(spec, None)
    return tuple(dataset) if isinstance(dataset, dict) else ()


def _choose(spec: str, splits: list[str], split: str | None, held_out: bool) -> str:
    if split is not None:
        chosen = split if split in splits else None
    elif held_out:
        chosen = splits[0] if len(splits) == 1 else first_named(splits, HELD_OUT_SPLITS)
    elif sum(not is_held_out(name) for name in splits) > 1:
        chosen = first_named(splits, TRAINING_SPLITS)
    else:
        chosen = default_split(spec, splits)
    if chosen is None:
        raise ValueError(
            f"{spec} has the splits {', '.join(splits)}; choose one of them as split ({spec}@{splits[0]}), got "
            f"{split!r}."
        )
    if split is None and (len(splits) > 1 or (held_out and not is_held_out(chosen))):
        notify(f"{spec} has the splits {', '.join(splits)}; {chosen!r} is taken, as none is named.")
    return chosen


def _open(spec: str, split: str | None) -> "Dataset | DatasetDict":
    folder = Path(spec).expanduser()
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        try:
            return load_from_disk(str(folder))
        except IndexError as error:  # how datasets reports a data set that was stored without rows
            raise ValueError(f"The data set in {folder} is empty.") from error
    try:
        return load_dataset(str(folder) if folder.exists() else spec, split=split)
    except (FileNotFoundError, ConnectionError) as error:  # DatasetNotFoundError is a FileNotFoundError
        raise FileNotFoundError(
            f"{spec!r} is neither a corpus, nor an existing folder, nor a data set on the Hub that can be reached from "
            f"here ({error})"
        ) from error


def _sources(dataset: Dataset) -> Iterator[tuple[str, Any, Any]]:
    """Names of the rows, and of picture and label map what `read_header` takes; None if it is yet to be downloaded."""
    table = dataset.select_columns(["image", "label", "file_name"]).with_format("arrow")
    for batch in table.iter(batch_size=1000):
        images, labels = (_sources_of(batch[column].combine_chunks()) for column in ("image", "label"))
        yield from zip(map(str, batch["file_name"].to_pylist()), images, labels, strict=True)


def _sources_of(cells: pa.StructArray) -> Iterator[Any]:
    """Of cells of `datasets.Image` or `LabelMap`; None for those of another type."""
    names = {field.name for field in cells.type}
    content, path = next((keys for keys in (("bytes", "path"), ("data", "file")) if names >= set(keys)), (None, None))
    if content is None:
        yield from [None] * len(cells)
        return
    for inside, file in zip(cells.field(content), cells.field(path).to_pylist(), strict=True):
        if inside.is_valid:
            yield pa.BufferReader(inside.as_buffer())
        else:
            yield None if "://" in file and not split_location(file) else file


def _file_names(dataset: Dataset, split: str | None) -> list[str]:
    """Stems of the pictures' files, where known; the arrow table has them without decoding anything."""
    cells = dataset.with_format("arrow")[:]["image"]
    paths = [None] * len(dataset)
    if isinstance(dataset.features["image"], Image):
        paths = [path for chunk in cells.chunks for path in chunk.field("path").to_pylist()]
    prefix = dataset.split or split or "row"
    return [Path(path).stem if path else f"{prefix}-{index:06d}" for index, path in enumerate(paths)]
