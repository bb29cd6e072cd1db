# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Datasets that are datasets already: a Hub id or a local folder, with the columns `image` and `label`."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pyarrow as pa
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    LargeList,
    List,
    NamedSplit,
    load_dataset,
    load_from_disk,
)
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from .base import HELD_OUT_SPLITS, TRAINING_SPLITS, default_split, first_named, is_held_out
from .class_names import read_id2label
from .columns import LabelMap, LazyImage, StoredImage, image_column, turn_column
from .findings import notify
from .reading import find_turned
from .storage import split_location


# Columns that list the classes of the label maps where they are `ClassLabel`s. Others may be of something else, such as
# the kind of scene.
CLASS_COLUMNS = ("classes", "categories", "class_names", "category_names", "label_names", "labels")
NAMES_FILE = "id2label.json"  # as the Hub's segmentation datasets have it


def holds_table(folder: str) -> bool:
    """Whether a folder has files that `datasets` reads rows from, and not images alone."""
    endings = ("json", "jsonl", "parquet", "arrow")
    return any(True for ending in endings for depth in ("*", "*/*") for _ in Path(folder).glob(f"{depth}.{ending}"))


def load_table(spec: str, split: str | None, held_out: bool = False) -> Dataset:
    """
    A dataset whose labels hold final ids, as `open_dataset` describes it, with its arguments.

    Raises:
        `FileNotFoundError`: nothing is found under `spec`.
        `ValueError`: `image` or `label` is missing or no image, a cell is empty, there are several splits whose names
            do not tell which one is meant, or none of that name, or no rows; nothing says which classes there are;
            images with an EXIF tag that leaves in doubt what their label maps are for.
    """
    place, names_file = _parse(spec)
    dataset = _open(place, split)
    if isinstance(dataset, dict):
        chosen = _choose(spec, list(dataset), split, held_out)
        dataset = dataset[chosen]
        dataset._split = NamedSplit(chosen)  # a stored dataset does not know it
    if len(dataset) == 0:
        raise ValueError(f"The split {split!r} of {spec} is empty.")
    for column in ("image", "label"):
        feature = dataset.features.get(column)
        if not isinstance(feature, Image | LazyImage):
            raise ValueError(
                f"{spec} needs images in the columns `image` and `label`; {column!r} is {feature or 'missing'}, its "
                f"columns are {dataset.column_names}. Rename or cast columns, then save_to_disk and load that folder."
            )
        empty = sum(chunk.null_count for chunk in dataset.with_format("arrow")[:][column].chunks)
        if empty:
            raise ValueError(f"{empty} rows of {spec} have no {column}. Filter them out first.")
    if "file_name" not in dataset.column_names:
        dataset = dataset.add_column("file_name", _file_names(dataset, split))
    if isinstance(dataset.features["image"], Image) and not isinstance(dataset.features["image"], StoredImage):
        if find_turned(_sources(dataset), spec, mixed=False):
            dataset = turn_column(dataset, "image")
        else:
            dataset = dataset.cast_column("image", image_column())
    id2label = read_id2label(names_file) if names_file else _own_classes(place, dataset.features)
    labels = LabelMap() if isinstance(dataset.features["label"], Image) else dataset.features["label"]
    dataset = dataset.cast_column("label", replace(labels, names=list(id2label.values())))
    return dataset.select_columns(["image", "label", "file_name"])


def table_splits(spec: str) -> tuple[str, ...]:
    """The splits to choose from; none for a dataset that has no choice. Raises as `load_table` does."""
    dataset = _open(_parse(spec)[0], None)
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


def _parse(spec: str) -> tuple[str, str | None]:
    """The Hub id or folder of a spec, and the file that names its classes, if there is one."""
    place, mark, query = spec.rpartition("?")
    if not mark or os.path.exists(spec):
        return spec, None
    settings = parse_qs(query, keep_blank_values=True)
    if list(settings) != ["id2label"] or len(settings["id2label"]) > 1 or not settings["id2label"][0]:
        raise ValueError(f"{place} has no setting but ?id2label=FILE or ?id2label=cityscapes, got {query!r}")
    return place, settings["id2label"][0]


def _own_classes(place: str, features: Features) -> dict[int, str]:
    """The classes in its label maps, by what a dataset says. Raises `ValueError` if that is nothing, or two things."""
    if names := getattr(features["label"], "names", None):
        return dict(enumerate(names))
    found = {}
    for column in CLASS_COLUMNS:
        feature = features.get(column)
        while isinstance(feature, List | LargeList):
            feature = feature.feature
        if isinstance(feature, ClassLabel):
            found[column] = tuple(feature.names)
    if len(set(found.values())) > 1:
        raise ValueError(
            f"the columns {' and '.join(map(repr, found))} of {place} name different classes; say which its label maps "
            f"hold: {place}?id2label=FILE, a list of names or {{id: name}} in JSON or YAML"
        )
    if found:
        column, names = next(iter(found.items()))
        notify(f"{place}: the ids in its label maps are taken for the {len(names)} classes of its column {column!r}.")
        return dict(enumerate(names))
    if file := _names_file(place):
        notify(f"{place}: its classes are those of its file {NAMES_FILE}.")
        return read_id2label(file)
    raise ValueError(
        f"{place} does not say which classes its label maps hold. Name them: {place}?id2label=FILE (or --id2label "
        "FILE), a list of names or {id: name} in JSON or YAML; ?id2label=cityscapes are the 19 of Cityscapes"
    )


def _names_file(place: str) -> Path | str | None:
    folder = Path(place).expanduser()
    if folder.exists():
        return folder / NAMES_FILE if (folder / NAMES_FILE).is_file() else None
    try:
        return hf_hub_download(place, NAMES_FILE, repo_type="dataset")
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError):  # no such file, or it cannot be asked for
        return None


def _open(spec: str, split: str | None) -> "Dataset | DatasetDict":
    folder = Path(spec).expanduser()
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        try:
            return load_from_disk(str(folder))
        except IndexError as error:  # how datasets reports a dataset that was stored without rows
            raise ValueError(f"The dataset in {folder} is empty.") from error
    try:
        return load_dataset(str(folder) if folder.exists() else spec, split=split)
    except (FileNotFoundError, ConnectionError) as error:  # DatasetNotFoundError is a FileNotFoundError
        raise FileNotFoundError(
            f"{spec!r} is neither a known dataset, nor an existing folder, nor one on the Hub that can be reached from "
            f"here ({error})"
        ) from error


def _sources(dataset: Dataset) -> Iterator[tuple[str, Any, Any]]:
    """Names of the rows, and of image and label map what `read_header` takes; None if it is yet to be downloaded."""
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
    """Stems of the images' files, where known; the arrow table has them without decoding anything."""
    cells = dataset.with_format("arrow")[:]["image"]
    paths = [None] * len(dataset)
    if isinstance(dataset.features["image"], Image):
        paths = [path for chunk in cells.chunks for path in chunk.field("path").to_pylist()]
    prefix = dataset.split or split or "row"
    return [Path(path).stem if path else f"{prefix}-{index:06d}" for index, path in enumerate(paths)]
