# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Names of classes where data has them: in a dataset, and in the files that name classes or match them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..evaluation.classes import ClassMap, listed
from ..model.labels import CITYSCAPES_ID2LABEL, IGNORE_INDEX, fold
from ..utils.files import read_settings


def classes_of(dataset: Any) -> dict[int, str] | None:
    """Names of the ids in the column `label` of what `open_dataset` returns; None for a dataset that has none."""
    names = getattr((getattr(dataset, "features", None) or {}).get("label"), "names", None)
    return dict(enumerate(names)) if names else None


def read_class_map(path: str | Path) -> dict[str, Any]:
    """
    The class map in a YAML or JSON file.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is no class map.
    """
    content = read_settings(path)
    if not isinstance(content, dict) or not content or not all(map(_is_entry, content, content.values())):
        raise ValueError(
            f"{path} is no class map, which is {{data class: model class}} in YAML or JSON, with a list for several "
            "model classes and null for a data class that is ignored; names that look like numbers or yes and no need "
            "quotes"
        )
    return content


def read_class_maps(path: str | Path | None, classes: Mapping[str, Mapping[int, str]]) -> dict[str, ClassMap | None]:
    """
    The class map of each of several datasets: the entries of one file for its classes. All None without a file.

    Args:
        classes: names of the ids of every dataset, by its name.

    Raises:
        FileNotFoundError, ValueError: as [`read_class_map`], or an entry for a class that none of them has.
    """
    if path is None:
        return dict.fromkeys(classes)
    class_map = read_class_map(path)
    known = {name: {fold(label) for label in id2label.values()} for name, id2label in classes.items()}
    for entry in class_map:
        if not any(fold(entry) in names for names in known.values()):
            sides = "; ".join(f"{name} has {listed(id2label.values())}" for name, id2label in classes.items())
            raise ValueError(f"the class map names {entry!r}, which is no class of the data; {sides}")
    return {
        name: {entry: partner for entry, partner in class_map.items() if fold(entry) in names}
        for name, names in known.items()
    }


def _is_entry(name: Any, partners: Any) -> bool:
    several = isinstance(partners, list) and partners
    names = [name, *(partners if several else [] if partners is None else [partners])]
    return all(isinstance(each, str) for each in names)


def read_id2label(source: str | Path) -> dict[int, str]:
    """
    Names of ids from a YAML or JSON file, `{id: name}` or a list of names; `"cityscapes"` are the 19 of Cityscapes.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it holds something else.
    """
    if str(source) == "cityscapes":
        return dict(CITYSCAPES_ID2LABEL)
    content = read_settings(source)
    if isinstance(content, list):
        content = dict(enumerate(content))
    whole = isinstance(content, dict) and all(re.fullmatch(r"\d+", str(index)) for index in content)
    id2label = {int(index): name for index, name in content.items()} if whole else {}
    good = sorted(id2label) == list(range(len(id2label))) and all(isinstance(name, str) for name in id2label.values())
    if not id2label or not good or len(id2label) > IGNORE_INDEX:
        raise ValueError(
            f"{source} does not name classes: it has to hold a list of names, or {{id: name}} with the ids 0, 1, 2, "
            f"... without gaps, at most {IGNORE_INDEX} of them; names that look like numbers or yes and no need quotes"
        )
    return dict(sorted(id2label.items()))
