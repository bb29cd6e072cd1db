# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Checks a dataset: reads all of its files once, lists whatever is wrong with them, and counts its classes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import PIL.Image

from ...evaluation.classes import ClassMap, format_partners, listed, match_classes
from ...model.image_inputs import is_above_limit
from ...model.labels import IGNORE_INDEX
from ..base import DatasetDescription, UndefinedSplit
from ..class_names import classes_of
from ..class_statistics import MIN_PIXELS, class_pixels_file, read_class_pixels, write_class_pixels
from ..columns import LabelMap, StoredImage
from ..findings import (
    ABOVE_LIMIT,
    BROKEN_IMAGES,
    BROKEN_LABELS,
    IGNORED,
    LABELS_ARE_IMAGES,
    NOT_OPENED,
    REFUSED_IMAGES,
    SIZES,
    UNKNOWN_IDS,
    Findings,
    Kind,
    collect_findings,
)
from ..parallel import read_in_parallel
from ..reading import Header, UnknownValues, read_label, translate_label, verify_image
from ..registry import describe_dataset, open_dataset
from ..storage import is_upright, plain_location, read_bytes, split_location
from ..tables import table_splits
from .learnable import doubtful, hopeless, is_its_own_image


@dataclass(frozen=True)
class ClassFrequencies:
    """
    How often every class occurs in the label maps that can be read.

    Attributes:
        pixels: `int64` `[K]`, of every class.
        images: `int64` `[K]`, label maps with a pixel of the class.
        showing: `int64` `[K]`, label maps with more than `MIN_PIXELS` of it: those that rare class sampling draws.
        ignored: pixels of no class.
        label_maps: how many were counted.
    """

    pixels: np.ndarray
    images: np.ndarray
    showing: np.ndarray
    ignored: int
    label_maps: int

    @classmethod
    def of(cls, counts: np.ndarray) -> "ClassFrequencies":
        """From `int64` `[N, K + 1]`: pixels of every class, and ignored ones, in N label maps."""
        classes = counts[:, :-1]
        return cls(
            pixels=classes.sum(axis=0),
            images=(classes > 0).sum(axis=0),
            showing=(classes > MIN_PIXELS).sum(axis=0),
            ignored=int(counts[:, -1].sum()),
            label_maps=len(counts),
        )

    @property
    def total(self) -> int:
        """All pixels, ignored ones included."""
        return int(self.pixels.sum()) + self.ignored


@dataclass(frozen=True)
class SplitReport:
    """
    What was found in a split.

    Attributes:
        name: of the split.
        note: choices that its labels depend on, as the dataset's description has them.
        pairs: images with a label map; None if the split could not be opened.
        findings: what is wrong with its files.
        classes: None if no label map could be read.
        statistics: file with the class statistics for rare class sampling; None unless the split is clean.
        statistics_found: whether they were there, from an earlier count.
    """

    name: str
    note: str
    pairs: int | None
    findings: Findings
    classes: ClassFrequencies | None = None
    statistics: Path | None = None
    statistics_found: bool = False


@dataclass(frozen=True)
class DatasetReport:
    """
    What was found in a dataset.

    Attributes:
        spec: as for `open_dataset`.
        info: the dataset's classes, and more.
        splits: one report for each split that was checked.
        notices: what concerns no split in particular.
        problems: likewise, of what is wrong: with the classes, where a model's were given.
    """

    spec: str
    info: DatasetDescription
    splits: list[SplitReport]
    notices: list[str]
    problems: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong. Notices may be there."""
        return not self.problems and not any(split.findings.problems for split in self.splits)


def check_dataset(
    spec: str,
    split: str | None = None,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike | None = None,
    model_id2label: Mapping[int, str] | None = None,
    class_map: ClassMap | None = None,
) -> DatasetReport:
    """
    Reads every image and label map of a dataset to its end, and lists all that is wrong with them.

    Found are: files without their partner, files and archives that are damaged or end too early, label maps of another
    size than their images, own images that an EXIF tag may turn, images that are refused, such as those of floats
    or above Pillow's limit of pixels, ids or colours that the dataset does not have, and labels that no model can learn
    from: a single class, no pixel of any class, or the images themselves. JPEG files hold no sums: damage inside of
    them that can still be decoded is not found. A frame of several splits is read once.

    Of a split without problems the class statistics are kept where `count_class_pixels` looks for them.

    Args:
        spec (`str`):
            As for `open_dataset`.
        split (`str`, *optional*):
            By default all splits of the dataset.
        num_proc (`int`, *optional*):
            Processes that read. By default one per core that may be used.
        cache_dir (`str` or `os.PathLike`, *optional*):
            As for `count_class_pixels`.
        model_id2label (`Mapping[int, str]`, *optional*):
            Classes of a model, to be compared with those of the dataset. That they differ is a problem of the dataset.
        class_map (`Mapping`, *optional*):
            As for `match_classes`.

    Raises:
        `ValueError`, `OSError`, `ImportError`: as `open_dataset` does, if there is nothing to check: no split can be
            opened, and no file can be named as the reason.
    """
    info = describe_dataset(spec)
    opened: list[tuple[str, datasets.Dataset | None, Findings]] = []
    undefined: dict[str, list[str]] = {}
    errors = []
    for name in (info.splits or table_splits(spec) or (None,)) if split is None else (split,):
        with collect_findings() as findings:
            try:
                dataset = open_dataset(spec, name)
            except UndefinedSplit as error:
                if split is not None:
                    raise
                undefined.setdefault(str(error), []).append(name)
                continue
            except (OSError, ValueError) as error:
                dataset = None
                errors.append(error)
                findings.add(NOT_OPENED, str(name), " ".join(str(error).split()))
        shown = dataset.split if name is None and dataset is not None else name
        opened.append((str(shown or "all"), dataset, findings))
    if all(dataset is None and set(findings.files) == {NOT_OPENED} for _, dataset, findings in opened):
        raise errors[0]
    if info.id2label is None:
        info = replace(info, id2label=next(classes_of(dataset) for _, dataset, _ in opened if dataset is not None))
    known: dict[tuple, Inspection] = {}
    splits = [
        SplitReport(name, "", None, findings)
        if dataset is None
        else _check_split(name, dataset, info, findings, known, num_proc, cache_dir)
        for name, dataset, findings in opened
    ]
    notices = [f"not checked: {', '.join(names)}. {reason}" for reason, names in undefined.items()]
    problems = []
    groups = info.evaluation and info.evaluation.class_map
    if model_id2label is None and groups:
        counted = (f"{name} is {format_partners(partners)}" for name, partners in groups.items())
        notices.append(f"groups, in scores of models with other classes: {listed(counted)}")
    if model_id2label is not None:
        try:
            said = match_classes(model_id2label, info.id2label, class_map, groups).said
            notices.append(f"classes and model: {said or 'the same names in the same order'}")
        except ValueError as error:
            problems.append(str(error))
    return DatasetReport(spec, info, splits, notices, problems)


def _check_split(
    name: str,
    dataset: datasets.Dataset,
    info: DatasetDescription,
    findings: Findings,
    known: "dict[tuple, Inspection]",
    num_proc: int | None,
    cache_dir: str | os.PathLike | None,
) -> SplitReport:
    """Adds to `findings`, and to `known`, which holds what was found in the frames of other splits."""
    num_classes = len(info.id2label)
    # Before the files are read: what changes meanwhile does not pass for the state that was counted.
    statistics = class_pixels_file(dataset, num_classes, cache_dir)
    keys = _frame_keys(name, dataset)
    rows = {key: row for row, key in reversed(list(enumerate(keys))) if key not in known}
    unread = sorted(rows.values())
    inspections = _Inspections(dataset.select(unread), num_classes)
    for row, inspection in zip(unread, read_in_parallel(inspections, num_proc, f"Checking {name}"), strict=True):
        if isinstance(inspection, Exception):
            raise inspection
        known[keys[row]] = inspection
    counts = []
    for key in keys:
        for trouble in known[key].troubles:
            findings.add(*trouble)
        if known[key].pixels is not None:
            counts.append(known[key].pixels)
    if counts:
        pixels = np.stack(counts).sum(axis=0)
        for kind, detail in hopeless(pixels, info.id2label):
            findings.add(kind, detail)
        findings.notices += doubtful(pixels, info.id2label)
    found = kept = False
    if not findings.problems:
        class_pixels = np.stack(counts)[:, :num_classes]
        earlier = read_class_pixels(statistics, class_pixels.shape)
        found = earlier is not None and np.array_equal(earlier, class_pixels)
        kept = found or write_class_pixels(statistics, class_pixels)
    return SplitReport(
        name=name,
        note=(dataset.info.description or "").partition(f"{info.name}, {name}, ")[2],
        pairs=len(dataset),
        findings=findings,
        classes=ClassFrequencies.of(np.stack(counts)) if counts else None,
        statistics=statistics if kept else None,
        statistics_found=found,
    )


def _frame_keys(name: str, dataset: datasets.Dataset) -> list[tuple]:
    """What tells the frames of a dataset apart: the files of a row, where it has its own, or its number."""
    if not isinstance(dataset.features["label"], LabelMap):
        return [(name, row) for row in range(len(dataset))]
    cells = dataset.select_columns(["label"]).with_format("arrow")
    keys = []
    for table in cells.iter(batch_size=1000):
        cell = table["label"].combine_chunks()
        keys += zip(cell.field("image").to_pylist(), cell.field("file").to_pylist(), strict=True)
    return [key if None not in key else (name, row) for row, key in enumerate(keys)]


# --- one frame ----------------------------------------------------------------------------------------------------


class Inspection(NamedTuple):
    """
    What was found in a frame.

    Attributes:
        pixels: `int64` `[K + 1]`, of every class and ignored; None if the label map cannot be read.
        troubles: arguments of `Findings.add`.
    """

    pixels: np.ndarray | None
    troubles: list[tuple[Kind, str, str, Sequence[str]]]


class _Inspections:
    """The inspection of every row; an `ImportError` in place of those that need a package."""

    def __init__(self, dataset: datasets.Dataset, num_classes: int):
        self.dataset, self.features, self.num_classes = dataset.with_format("arrow"), dataset.features, num_classes

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Inspection | ImportError:
        (row,) = self.dataset[index].to_pylist()
        try:
            return inspect_frame(row, self.features, self.num_classes)
        except ImportError as error:
            return error


def inspect_frame(row: Mapping[str, Any], features: datasets.Features, num_classes: int) -> Inspection:
    """
    Reads the image and the label map of a row to their ends.

    Args:
        row: cells of `image` and `label` as they are stored, and `file_name`.
        features: of the dataset.
        num_classes: K.

    Raises:
        `ImportError`: a package is missing that the label map needs.
    """
    troubles = []
    image, header, ids = None, None, None
    place = _place(row["label"], row)
    try:
        image, header = _read_image(row["image"], features["image"])
    except ValueError as error:  # not of a decoder, whose errors come as OSError
        troubles.append((REFUSED_IMAGES, _place(row["image"], row), _reason(error), ()))
    except Exception as error:
        kind = ABOVE_LIMIT if is_above_limit(error) else BROKEN_IMAGES
        troubles.append((kind, _place(row["image"], row), _reason(error), ()))
    try:
        stored = _read_stored(row["label"], features["label"])
        if header is not None and header.size != stored.shape[::-1]:
            detail = f"{stored.shape[1]}x{stored.shape[0]} pixels, its image {header}"
            troubles.append((SIZES, place, detail, ()))
        elif image is not None and (
            (_is_file(row["label"]) and place == plain_location(row["image"].get("path") or ""))
            or is_its_own_image(stored, np.asarray(image))
        ):
            troubles.append((LABELS_ARE_IMAGES, place, "", ()))
        ids = translate_label(stored, row["label"]) if _is_file(row["label"]) else stored
    except UnknownValues as error:
        troubles.append((UNKNOWN_IDS, place, ", ".join(error.values), error.values))
    except ImportError:
        raise
    except Exception as error:
        kind = ABOVE_LIMIT if is_above_limit(error) else BROKEN_LABELS
        troubles.append((kind, place, _reason(error), ()))
    if ids is None:
        return Inspection(None, troubles)
    pixels = np.array(PIL.Image.fromarray(ids).histogram(), dtype=np.int64)
    if unknown := [str(value) for value in np.flatnonzero(pixels[:IGNORE_INDEX]) if value >= num_classes]:
        troubles.append((UNKNOWN_IDS, place, ", ".join(unknown), unknown))
        return Inspection(None, troubles)
    if not pixels[:num_classes].any():
        troubles.append((IGNORED, place, "", ()))
    return Inspection(np.append(pixels[:num_classes], pixels[IGNORE_INDEX]), troubles)


def _read_image(cell: Any, column: Any) -> tuple[PIL.Image.Image, Header]:
    """An image that was read to its end, and its header."""
    if not isinstance(column, StoredImage):
        image = column.decode_example(cell)
        return image, Header.of(image)
    path, content = cell["path"] or "", cell["bytes"]
    if content is None and ("://" not in plain_location(path) or split_location(path)):
        content = read_bytes(path)
    if content is None:
        image = column.decode_example(cell)
        return image, Header.of(image)
    verify_image(content)
    image = column.decode_example({**cell, "bytes": content})
    with PIL.Image.open(BytesIO(content)) as stored:  # the decoded one has lost its tag
        return image, Header.of(stored, is_upright(path))


def _read_stored(cell: Any, column: Any) -> np.ndarray:
    """The label map `[H, W]` before its ids are translated, or, where there is nothing to translate, as it is."""
    if not _is_file(cell):
        return np.asarray(column.decode_example(cell))
    verify_image(read_bytes(cell["file"]))
    return read_label(cell)


def _is_file(cell: Mapping[str, Any]) -> bool:
    """Whether a cell of the column `label` names a file in the dataset's own coding."""
    return cell.get("file") is not None and cell["data"] is None


def _place(cell: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The location of a cell's file, or the name of the frame where there is none."""
    return cell.get("file") or plain_location(cell.get("path") or "") or row["file_name"]


def _reason(error: Exception) -> str:
    """What a decoder said, in one short line; what this library says around it is said once for all such files."""
    cause = error.__cause__ or error
    if isinstance(cause, PIL.UnidentifiedImageError):
        return "not an image file"
    return " ".join(str(cause).split())[:200]
