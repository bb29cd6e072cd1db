# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What all datasets share: their description, the rule they are scored by, and datasets made of files.

A dataset is one small file: its table of ids, its layout, its `DATASET`. One line in
`registry.py` registers it; `register_dataset` does so for one that is not of this library.
"""

import csv
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl

from datasets import Dataset, DatasetInfo, Features, NamedSplit, Value

from ..evaluation.groups import EvaluationGroups, each_class
from ..model.labels import CITYSCAPES_ID2LABEL
from ..utils.image_files import clutter
from .columns import LabelMap, id_table, image_column, label_cell
from .findings import NO_FILES, NO_IMAGE, NO_LABELS, notify, report_problem
from .reading import COLOURS
from .storage import Storage


# Maps of train ids that the converters of DAFormer, HRDA, Rein and VFMSeg write beside the owners' label maps.
CONVERTED = "_labelTrainIds"
# Names of splits, whatever their case: what is held out from training, the likeliest to be scored on first, and what is
# made for it.
HELD_OUT_SPLITS = ("val", "valid", "validation", "dev", "eval", "test")
TRAINING_SPLITS = ("train", "training")


@dataclass(frozen=True)
class DatasetDescription:
    """
    What is known of a dataset without opening it.

    Attributes:
        name: as before the colon of a `open_dataset` spec.
        splits: what `open_dataset` takes as `split`; its default is that of [`default_split`].
        id2label: names of the ids that labels are mapped to; None where the dataset itself has to be opened for them
            (`classes_of`), which is so for those that are not registered.
        evaluation: rule for the score; `evaluation.merge(confusion)` and `iou_scores` serve every dataset. None
            where `id2label` is: every class by itself.
        licence: terms of the data, which are not part of this library.
        usage: how a spec of this dataset looks.
        pairs: images with label maps in the splits of the full release, where these numbers are known.
        evaluation_split: what a model is scored on if nothing else is said. By default the first of `HELD_OUT_SPLITS`
            that there is, or else the first split; None where splits are not known beforehand.
    """

    name: str
    splits: tuple[str, ...]
    licence: str
    usage: str
    evaluation_split: str | None = None
    id2label: Mapping[int, str] | None = field(default_factory=lambda: dict(CITYSCAPES_ID2LABEL))
    evaluation: EvaluationGroups | None = field(default_factory=each_class)
    pairs: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self):
        if self.evaluation_split is None and self.splits:
            held_out = first_named(self.splits, HELD_OUT_SPLITS)
            object.__setattr__(self, "evaluation_split", held_out or self.splits[0])


def is_held_out(split: str) -> bool:
    """Whether the name of a split says that it is kept from training."""
    return split.lower() in HELD_OUT_SPLITS


def default_split(spec: str, splits: Sequence[str]) -> str:
    """
    The split to train on where none is named: `train` or `training`, or else the first that is not held out.

    A single split is taken whatever its name; if that is one of held out data, it is said.

    Raises:
        `ValueError`: several splits, and all are held out.
    """
    trained = first_named(splits, TRAINING_SPLITS) or next((name for name in splits if not is_held_out(name)), None)
    if trained is None and len(splits) > 1:
        raise ValueError(
            f"{spec} has the splits {', '.join(splits)}, which are all held out from training by their names. Name the "
            f"one that is meant: {spec}@{splits[0]}"
        )
    if trained is None:
        notify(f"{spec}: its only split is {splits[0]!r}, by its name data that is held out from training.")
    return trained or splits[0]


def scored_split(spec: str, info: DatasetDescription) -> str | None:
    """The split to be scored on where none is named; what is not known to be held out is said."""
    split = info.evaluation_split
    if split is not None and not is_held_out(split):
        notify(
            f"{spec}: {split!r} is scored, as no split is named and none of {', '.join(info.splits)} is known to be "
            f"held out, as {', '.join(HELD_OUT_SPLITS)} are."
        )
    return split


def first_named(splits: Sequence[str], names: Sequence[str]) -> str | None:
    """The split whose name, whatever its case, comes first in `names`."""
    return next((split for name in names for split in splits if split.lower() == name), None)


@dataclass(frozen=True)
class NamedDataset:
    """
    A registered dataset: `load(rest of the spec after the colon, split)` opens it.

    Where the classes or splits depend on the rest of the spec, `describe(rest)` returns the info for it.
    """

    info: DatasetDescription
    load: Callable[[str, str], Dataset]
    describe: Callable[[str], DatasetDescription] | None = None


class UndefinedSplit(ValueError):
    """A split that the dataset has, but that a setting is missing for in the spec."""


@dataclass(frozen=True)
class Frame:
    """Locations of the files of one row."""

    name: str
    image: str
    labels: str


# --- folders ------------------------------------------------------------------------------------------------------


def open_folder(path: str, info: DatasetDescription) -> Path:
    """The folder of a dataset. Raises `ValueError` for an empty path and `FileNotFoundError` for a missing folder."""
    folder = _place(path, info)
    if not folder.is_dir():
        raise _no_place(folder, info)
    return folder


def open_storage(path: str, info: DatasetDescription, layout: str) -> Storage:
    """
    The files of a dataset in its owner's layout: a folder, a folder of zip archives, or one archive.

    Raises:
        `ValueError`: an empty path, or a file that is no zip archive.
        `FileNotFoundError`: nothing there.
    """
    root = _place(path, info)
    if root.is_file() and root.suffix.lower() != ".zip":
        raise ValueError(f"{root} is no zip archive. Unpack it, and pass the folder: {info.usage}")
    if not root.exists():
        raise _no_place(root, info)
    return Storage(root, info.name, layout)


def _place(path: str, info: DatasetDescription) -> Path:
    if not path:
        raise ValueError(f"{info.name} needs the folder that it lies in: {info.usage}")
    return Path(path).expanduser().absolute()


def _no_place(path: Path, info: DatasetDescription) -> FileNotFoundError:
    return FileNotFoundError(
        f"No folder {path} for the dataset {info.name}. Download it ({info.licence}) and pass its place: {info.usage}"
    )


def parse_query(
    rest: str, defaults: Mapping[str, str | None], info: DatasetDescription
) -> tuple[str, dict[str, str | None]]:
    """
    Path and settings of `path?key=value&...`, with `defaults` for settings that are not given.

    Raises:
        `ValueError`: a key that is not among the defaults, or given twice.
    """
    path, _, query = rest.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    keys = [key for key, _ in pairs]
    for key in keys:
        if key not in defaults or keys.count(key) > 1:
            raise ValueError(f"{info.name} does not know {key!r} in {query!r}, or not twice. Usage: {info.usage}")
    return path, {**defaults, **dict(pairs)}


def without_converted(labels: Mapping[str, str], name: str) -> dict[str, str]:
    """The label maps `{key: location}` without those that other code has written beside the owners', with a notice."""
    kept = {key: location for key, location in labels.items() if not key.endswith(CONVERTED)}
    if len(kept) < len(labels):
        notify(f"{name}: label maps named *{CONVERTED}.png are skipped: other code has made them of the owners'.")
    return kept


def leave_out(files: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """The files `{key: location}` without those of the frames `names`."""
    return {key: location for key, location in files.items() if frame_name(key) not in names}


def frame_name(key: str) -> str:
    """The name of a frame from its key, which is its path below the folder of the images."""
    return key.rpartition("/")[2]


def pair(
    images: Mapping[str, str], labels: Mapping[str, str], name: str, named: Callable[[str], str] = frame_name
) -> list[Frame]:
    """
    Rows from `{key: location}` of images and of label maps, in the order of their keys; `named` names them.

    Raises:
        `FileNotFoundError`: an image without its label map or the other way round; the message names the first.
    """
    lacks = {NO_LABELS: (images, labels, "label map"), NO_IMAGE: (labels, images, "image")}
    for kind, (present, others, missing) in lacks.items():
        alone = [location for key, location in present.items() if key not in others]
        if alone:
            shown = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
            message = (
                f"{name}: {len(alone)} of {len(present)} files have no {missing}: {shown}. Complete the copy, or move "
                "the files without a partner elsewhere."
            )
            report_problem(kind, dict.fromkeys(alone, ""), FileNotFoundError(message))
    return [Frame(named(key), images[key], labels[key]) for key in sorted(images) if key in labels]


def frames_of_folders(images: Path, labels: Path, names: Sequence[str] | None = None) -> list[Frame]:
    """
    Pairs `images/<name>.jpg` with `labels/<name>.png`: all of both folders in the order of their names, or `names`.

    Raises:
        `FileNotFoundError`: a folder is missing, an image has no label map, or (only without `names`) a label map no
            image: an incomplete copy would score another set than the owner's.
    """
    for folder in (images, labels):
        if not folder.is_dir():
            raise FileNotFoundError(f"The folder {folder} is missing. Is the dataset complete and unpacked in place?")
    in_images, in_labels = (
        {path.stem for path in folder.glob(f"*{suffix}") if not clutter(path.name)}
        for folder, suffix in ((images, ".jpg"), (labels, ".png"))
    )
    wanted = list(names) if names is not None else sorted(in_images | in_labels)
    frames = {name: Frame(name, str(images / f"{name}.jpg"), str(labels / f"{name}.png")) for name in wanted}
    for present, folder, suffix in ((in_images, images, ".jpg"), (in_labels, labels, ".png")):
        missing = [name for name in wanted if name not in present]
        if missing:
            shown = ", ".join(name + suffix for name in missing[:5]) + (", ..." if len(missing) > 5 else "")
            message = (
                f"{folder} lacks {len(missing)} of {len(wanted)} files: {shown}. Every image needs its label map and "
                "the other way round; complete the copy, or move the files without a partner elsewhere."
            )
            for name in missing:
                if name in in_images:
                    kind, location = NO_LABELS, frames[name].image
                elif name in in_labels:
                    kind, location = NO_IMAGE, frames[name].labels
                else:
                    kind, location = NO_FILES, frames[name].image
                report_problem(kind, {location: ""}, FileNotFoundError(message))
    return [frame for name, frame in frames.items() if name in in_images and name in in_labels]


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """
    Rows of a CSV file.

    Raises:
        `FileNotFoundError`, `ValueError`: the file or one of `columns` is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"The file {path} is missing; it says which frame belongs to which split. Copy it from the owner's folder."
        )
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(
                f"{path} has no column {missing}, only {reader.fieldnames}: it is of another dataset, or changed. Name "
                "the folder of the dataset, or copy the file from its owner again."
            )
        return list(reader)


# --- datasets ----------------------------------------------------------------------------------------------------


def dataset_of_frames(
    frames: Sequence[Frame],
    mapping: Mapping[int, int],
    info: DatasetDescription,
    split: str,
    coding: str | None = None,
    note: str = "",
    left_out: Sequence[str] = (),
) -> Dataset:
    """
    A dataset with the columns `image`, `label`, `file_name`; no file is opened before its row is read.

    The description of a dataset that has not all pairs of the full release says so. A notice does if more is missing
    than is left out.

    Args:
        mapping: original id to id of `info.id2label` or 255; other ids are errors when a row is read. With the coding
            `reading.COLOURS` the keys are colours, `65536 * red + 256 * green + blue`, or `reading.ANY_COLOUR`.
        coding: how the label files hold their ids, one of the constants of `reading`; None: as they are.
        note: a choice that results depend on; kept in the description of the dataset.
        left_out: names of pairs of the release that are not among the frames on purpose.
    """
    total = info.pairs.get(split)
    if total is not None and len(frames) + len(left_out) != total:
        notify(f"{info.name}: this copy has {len(frames) + len(left_out)} of the {total} pairs of {split}.")
    colours = list(mapping) if coding == COLOURS else None
    table = list(mapping.values()) if coding == COLOURS else id_table(mapping)
    columns = {
        "image": [frame.image for frame in frames],
        "label": [label_cell(frame.labels, frame.image, table, coding, colours) for frame in frames],
        "file_name": [frame.name for frame in frames],
    }
    labels = LabelMap(names=list(info.id2label.values()))
    features = Features({"image": image_column(), "label": labels, "file_name": Value("string")})
    note = ", ".join(filter(None, (incomplete_note(len(frames), total, left_out), note)))
    return make_dataset(columns, features, info, split, note)


def incomplete_note(count: int, total: int | None, left_out: Sequence[str]) -> str:
    """What the description says of `count` pairs: `998 of 1000 pairs without <names>`. Empty if there are all."""
    if total is None or count == total:
        return ""
    return f"{count} of {total} pairs" + (f" without {enumeration(left_out)}" if left_out else "")


def enumeration(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def make_dataset(
    columns: dict[str, list], features: Features, info: DatasetDescription, split: str, note: str = ""
) -> Dataset:
    """Raises `ValueError` for a split without rows."""
    if not columns["file_name"]:
        raise ValueError(f"The split {split!r} of {info.name} is empty. Is the dataset complete and in its own layout?")
    description = ", ".join(filter(None, (info.name, split, note)))
    details = DatasetInfo(description=description, license=info.licence, features=features)
    return Dataset.from_dict(columns, features=features, info=details, split=NamedSplit(split))
