# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Own data: images and label maps in two folders, and one YAML or JSON file that says what the labels mean.

    images: photos              # folders (or folders in zip archives) beside the file, or full paths; any depth
    labels: masks
    ids:                        # or `colours:`; the classes in this order get the ids 0, 1, ...
      road: [7, 24]             # several original ids make one class
      car: 26
    ignore: [0, 255]            # `rest`: whatever is not listed; otherwise that is an error when it is read

With `colours:` the values are `[red, green, blue]`, or a list of such. Instead of `images` and `labels` there may be
`splits: {train: {images: ..., labels: ...}, val: {...}}`. `image_suffix` and `label_suffix` are what file names differ
in, such as `_leftImg8bit.png` and `_labels.png` (by default any image's suffix and `.png`, also in capitals). Hidden
and system files and folders are left out, with a notice. `classes: cityscapes` keeps the ids of Cityscapes' 19 classes,
whose names the file then has to use.

`groups:` says which classes of a model count as each class of the file in scores, for models that tell more classes
apart: `{building: [building, wall]}`; null for a class that such a model has nothing of, which is not scored then. A
class that it does not name counts as itself. It says nothing of models with the file's own classes, and nothing in
training: what is learnt are the classes of the file. With `classes: cityscapes` the labels keep Cityscapes' ids, and
`groups` are what they are scored by; the classes of Cityscapes that are in no group and not listed are not scored.

`exif` says what label maps were drawn on where EXIF tags ask to turn or mirror images: `stored` (tags are not followed)
or `turned` (they are). Without it, sizes of label maps tell it of quarter turns, and other tags are an error. Label
maps' own tags are never followed. The `file_name` of a row is the path of its image below `images`, without suffix.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..evaluation.classes import ClassMap
from ..evaluation.groups import EvaluationGroups, each_class
from ..model.labels import CITYSCAPES_ID2LABEL, IGNORE_INDEX, fold
from ..utils.files import read_settings
from ..utils.image_files import (
    HIDDEN,
    LINKED_AGAIN,
    SYSTEM,
    UNREADABLE,
    image_suffixes,
    looks_like_image,
    summarise,
)
from .base import DatasetDescription, NamedDataset, dataset_of_frames, pair
from .findings import notify
from .reading import ANY_COLOUR, COLOURS, find_turned
from .storage import Storage, base_name, upright_location


KEYS = {"images", "labels", "splits", "ids", "colours", "ignore", "classes", "groups"}
KEYS |= {"image_suffix", "label_suffix", "exif"}
LABEL_SUFFIX = ".png"
USAGE = "folder:/path/to/dataset.yaml, a YAML or JSON file with images, labels, and ids or colours of every class"

INFO = DatasetDescription(name="folder", splits=("all",), licence="see where it comes from", usage=USAGE)


@dataclass(frozen=True)
class Plan:
    """What the file of a dataset says; `mapping` and `coding` are those of `dataset_of_frames`."""

    path: Path
    splits: Mapping[str, tuple[str, str]]
    id2label: Mapping[int, str]
    evaluation: EvaluationGroups
    mapping: Mapping[int, int]
    coding: str | None
    image_suffix: str | None
    label_suffix: str | None
    exif: str | None


def describe(rest: str) -> DatasetDescription:
    """
    The info of the dataset that a file describes, with its own classes and splits.

    Raises:
        As `read_plan` does.
    """
    plan = read_plan(rest)
    return DatasetDescription(
        name=INFO.name,
        splits=tuple(plan.splits),
        licence=INFO.licence,
        usage=USAGE,
        id2label=dict(plan.id2label),
        evaluation=plan.evaluation,
    )


def load(rest: str, split: str) -> Dataset:
    """
    All pairs of a split. Keys of pairs are the paths below both folders, without suffixes.

    Raises:
        As `read_plan` does; `FileNotFoundError`: no images, no label maps, or one without its partner; `ValueError`:
        two images that differ in nothing but the suffix, or, without `exif`, images with an EXIF tag that leaves in
        doubt what their label maps are for.
    """
    plan = read_plan(rest)
    storage = Storage(plan.path.parent, str(plan.path), f"the folders that {plan.path.name} names, beside it")
    image_folder, label_folder = plan.splits[split]
    suffixes = _image_suffixes(plan.label_suffix or LABEL_SUFFIX, image_folder == label_folder)
    try:
        images, others = _expect(storage, image_folder, plan.image_suffix, suffixes)
    except ValueError as error:
        raise ValueError(f"{error} Or say with `image_suffix` in {plan.path} how the images' names end.") from error
    except FileNotFoundError as error:
        if image_folder != label_folder or plan.image_suffix:
            raise
        raise ValueError(
            f"{plan.path}: images and label maps are both in {image_folder}, where all have the suffix {LABEL_SUFFIX}; "
            "say with `image_suffix` and `label_suffix` how the names of each end, such as `label_suffix: _mask.png`."
        ) from error
    label_maps, more = _expect(storage, label_folder, plan.label_suffix, (LABEL_SUFFIX,))
    taken = {*images.values(), *label_maps.values()}
    if left_out := {place: reason for place, reason in (others | more).items() if place not in taken}:
        notify(f"{plan.path} leaves out {summarise(left_out.values())}, such as {next(iter(left_out))}")
    frames = pair(images, label_maps, str(plan.path), named=str)
    if plan.exif is None:
        turned = find_turned(((frame.image, frame.image, frame.labels) for frame in frames), str(plan.path))
    else:
        turned = range(len(frames)) if plan.exif == "turned" else ()
    for row in turned:
        frames[row] = replace(frames[row], image=upright_location(frames[row].image))
    return dataset_of_frames(frames, plan.mapping, describe(rest), split, coding=plan.coding, note=plan.path.name)


def _image_suffixes(label_suffix: str, same_folder: bool) -> tuple[str, ...]:
    """The default suffixes of images, without that of label maps that lie beside them."""
    return tuple(suffix for suffix in image_suffixes() if not same_folder or suffix != label_suffix.lower())


def _expect(
    storage: Storage, folder: str, suffix: str | None, default: tuple[str, ...]
) -> tuple[dict[str, str], dict[str, str]]:
    """
    The files of a folder with exactly this suffix, or without one with any of the default's, in capitals too; and what
    looks like data of the user and is left out, with reasons.
    """
    files = storage.expect(folder, suffix) if suffix else storage.expect(folder, default, any_case=True)

    def matters(location: str, reason: str) -> bool:
        name = base_name(location.rstrip("/"))
        if name.startswith("._") or "__MACOSX" in location:  # macOS puts them beside every file
            return False
        if reason in (HIDDEN, SYSTEM):
            return looks_like_image(name) or os.path.isdir(location)
        return reason in (LINKED_AGAIN, UNREADABLE) or (suffix is None and looks_like_image(name))

    return files, {location: reason for location, reason in storage.left_out.items() if matters(location, reason)}


def read_plan(rest: str) -> Plan:
    """
    Reads and checks the file of a dataset.

    Raises:
        `FileNotFoundError`: there is no such file.
        `ValueError`: it is no YAML or JSON, lacks something, has a key, class, id or colour that is not understood, or
            one of them twice.
    """
    path = Path(rest).expanduser().absolute()
    if not rest or not path.is_file():
        raise FileNotFoundError(f"No file {path if rest else 'given'} for the dataset folder. Usage: {USAGE}")
    content = read_settings(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no keys. Usage: {USAGE}")
    if unknown := sorted(map(str, set(content) - KEYS)):
        raise ValueError(f"{path} has the unknown key {unknown[0]!r}; known are {', '.join(sorted(KEYS))}.")
    if ("ids" in content) == ("colours" in content):
        raise ValueError(f"{path} needs one of `ids` and `colours`, which map class names to what the labels hold.")
    coding = COLOURS if "colours" in content else None
    members = content["colours" if coding else "ids"]
    if not isinstance(members, dict) or not members or not all(isinstance(name, str) for name in members):
        raise ValueError(f"{path}: `{'colours' if coding else 'ids'}` maps names of classes (texts) to values.")
    id2label = _classes(path, content.get("classes"), list(members))
    return Plan(
        path=path,
        splits=_splits(path, content),
        id2label=id2label,
        evaluation=_evaluation(path, content, list(members), id2label),
        mapping=_mapping(path, members, content.get("ignore", []), id2label, coding),
        coding=coding,
        image_suffix=_suffix(path, content, "image_suffix"),
        label_suffix=_suffix(path, content, "label_suffix"),
        exif=_exif(path, content.get("exif")),
    )


def _classes(path: Path, wanted: Any, names: list[str]) -> dict[int, str]:
    spellings: dict[str, str] = {}
    for name in names:
        if (first := spellings.setdefault(fold(name), name)) != name:
            raise ValueError(
                f"{path} lists one class twice, as {first!r} and {name!r}; give all its values to one name."
            )
    if wanted is None:
        if len(names) > IGNORE_INDEX:
            raise ValueError(f"{path} has {len(names)} classes, at most {IGNORE_INDEX} fit into a label map.")
        return dict(enumerate(names))
    if wanted != "cityscapes":
        raise ValueError(f"{path}: `classes` is `cityscapes` or left out, got {wanted!r}.")
    if foreign := [name for name in names if name not in CITYSCAPES_ID2LABEL.values()]:
        known = ", ".join(CITYSCAPES_ID2LABEL.values())
        raise ValueError(f"{path}: {foreign[0]!r} is no class of Cityscapes; they are {known}.")
    return dict(CITYSCAPES_ID2LABEL)


def _evaluation(path: Path, content: dict[str, Any], names: list[str], id2label: Mapping[int, str]) -> EvaluationGroups:
    """The rule for scores, with the groups of the file."""
    if "groups" not in content:
        return each_class(id2label)
    groups = _groups(path, content["groups"], names)
    if content.get("classes") is None:
        return replace(each_class(id2label), class_map=groups)
    label2id = {fold(name): index for index, name in id2label.items()}
    members = {}
    for name in names:
        partners = groups.get(name, name)
        partners = [partners] if isinstance(partners, str) else partners or []
        if foreign := [partner for partner in partners if fold(partner) not in label2id]:
            known = ", ".join(id2label.values())
            raise ValueError(f"{path}: {foreign[0]!r} in the group {name} is no class of Cityscapes; they are {known}.")
        if fold(name) not in map(fold, partners):
            raise ValueError(
                f"{path}: with `classes: cityscapes` the labels of {name} have its id, so that the group {name} has to "
                f"name it as well: [{', '.join([name, *partners])}]."
            )
        members[name] = [label2id[fold(partner)] for partner in partners]
    return EvaluationGroups.of(members, len(id2label))


def _groups(path: Path, groups: Any, names: list[str]) -> ClassMap:
    """`groups` of the file, its keys as `ids` or `colours` have them."""
    if not isinstance(groups, dict) or not groups:
        raise ValueError(f"{path}: `groups` maps classes of the file to lists of classes of a model, got {groups!r}.")
    spelt = {fold(name): name for name in names}
    result: dict[str, list[str] | str | None] = {}
    for name, partners in groups.items():
        if fold(str(name)) not in spelt:
            known = ", ".join(names)
            raise ValueError(f"{path}: the group {name!r} is no class of the file, whose labels hold {known}.")
        if (own := spelt[fold(str(name))]) in result:
            raise ValueError(f"{path} lists the group {own} twice; give all its classes to one.")
        for partner in partners if isinstance(partners, list) else [] if partners is None else [partners]:
            if not isinstance(partner, str):
                name = CITYSCAPES_ID2LABEL.get(partner if type(partner) is int else None)
                hint = f"; as a train id of Cityscapes that is {name}" if name else ""
                raise ValueError(f"{path}: the group {own} holds names of classes of a model, got {partner!r}{hint}.")
        if partners == []:
            raise ValueError(f"{path}: the group {own} is empty; null says that models have nothing of it.")
        result[own] = partners
    owners: dict[str, str] = {}
    for name in names:
        partners = result.get(name, name)
        for partner in [partners] if isinstance(partners, str) else partners or ():
            if (other := owners.setdefault(fold(partner), name)) != name:
                raise ValueError(
                    f"{path}: {partner!r} counts as {other} and as {name}; a class belongs to one group, and what "
                    "`groups` does not name is one by itself."
                )
    return result


def _splits(path: Path, content: dict[str, Any]) -> dict[str, tuple[str, str]]:
    parts = content.get("splits")
    if parts is None:
        parts = {"all": {key: content[key] for key in ("images", "labels") if key in content}}
    elif "images" in content or "labels" in content:
        raise ValueError(f"{path} has `splits`; `images` and `labels` belong into each of them.")
    if not isinstance(parts, dict) or not parts:
        raise ValueError(f"{path}: `splits` maps names of splits to `images` and `labels`.")
    splits = {}
    for name, part in parts.items():
        places = [part.get(key) for key in ("images", "labels")] if isinstance(part, dict) else [None]
        if not all(isinstance(place, str) and place for place in places) or set(part) != {"images", "labels"}:
            raise ValueError(f"{path}: the split {name!r} needs the folders `images` and `labels`, and nothing else.")
        splits[str(name)] = tuple(place.rstrip("/") for place in places)
    return splits


def _mapping(
    path: Path, members: dict[str, Any], ignore: Any, id2label: Mapping[int, str], coding: str | None
) -> dict[int, int]:
    label2id = {name: index for index, name in id2label.items()}
    mapping: dict[int, int] = {}
    rows = [(name, values, label2id[name]) for name, values in members.items()]
    if ignore != "rest":
        rows.append(("ignore", ignore, IGNORE_INDEX))
    for name, values, target in rows:
        for value in _values(path, name, values, coding):
            if value in mapping:
                raise ValueError(f"{path}: {name} holds {_shown(value, coding)}, which is listed before.")
            mapping[value] = target
    if ignore == "rest":
        others = dict.fromkeys([ANY_COLOUR] if coding else range(256), IGNORE_INDEX)
        mapping = others | mapping
    return mapping


def _values(path: Path, name: str, values: Any, coding: str | None) -> list[int]:
    """Ids, or colours as single numbers."""
    whole = isinstance(values, list) and all(type(value) is int for value in values)
    if coding is None:
        values = values if isinstance(values, list) else [values]
        if all(type(value) is int and 0 <= value <= 255 for value in values):
            return values
        raise ValueError(f"{path}: {name} is an id 0..255, or a list of ids, got {values!r}.")
    colours = [values] if whole and values else values
    good = isinstance(colours, list) and all(
        isinstance(colour, list) and len(colour) == 3 and all(type(v) is int and 0 <= v <= 255 for v in colour)
        for colour in colours
    )
    if not good:
        raise ValueError(f"{path}: {name} is a colour [red, green, blue], or a list of colours, got {values!r}.")
    return [red << 16 | green << 8 | blue for red, green, blue in colours]


def _shown(value: int, coding: str | None) -> str:
    return f"#{value:06x}" if coding else str(value)


def _exif(path: Path, value: Any) -> str | None:
    if value not in (None, "stored", "turned"):
        raise ValueError(
            f"{path}: `exif` is what label maps were drawn on where images have EXIF tags, `stored` or `turned` "
            f"pixels, got {value!r}."
        )
    return value


def _suffix(path: Path, content: dict[str, Any], key: str) -> str | None:
    value = content.get(key)
    if value is not None and (not isinstance(value, str) or not value):
        raise ValueError(f"{path}: `{key}` is how file names end, got {value!r}.")
    return value


DATASET = NamedDataset(INFO, load, describe)
