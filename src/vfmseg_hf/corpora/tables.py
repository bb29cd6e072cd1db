# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Corpora that are data sets already: a Hub id or a local folder, with the columns `image` and `label`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, Image, load_dataset, load_from_disk

from .columns import LabelMap, LazyPicture, Picture, picture_column, turn_column
from .reading import find_turned
from .storage import split_location


def load_table(spec: str, split: str | None) -> Dataset:
    """
    A data set whose labels hold final ids, as `load_corpus` describes it.

    Raises:
        `FileNotFoundError`: nothing is found under `spec`.
        `ValueError`: `image` or `label` is missing or no picture, a cell is empty, there are several splits to choose
            from, or none of that name, or no rows; pictures with an EXIF tag that leaves in doubt what their label
            maps are for.
    """
    dataset = _open(spec, split)
    if isinstance(dataset, dict):
        if split is not None and split in dataset:
            dataset = dataset[split]
        elif split is None and len(dataset) == 1:
            dataset = next(iter(dataset.values()))
        else:
            raise ValueError(f"{spec} has the splits {', '.join(dataset)}; choose one of them as split, got {split!r}.")
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
