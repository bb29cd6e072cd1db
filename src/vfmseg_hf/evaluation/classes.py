# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Classes are compared by their names: those of a dataset with those of a model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..model.labels import IGNORE_INDEX, fold


ClassMap = Mapping[str, "str | list[str] | None"]  # class of a dataset: class or classes of a model, None = ignored
LISTED = 30  # names in a message
UNKNOWN = -1  # in tables of ids: a value that stands for no class, not even for ignored pixels


@dataclass(frozen=True)
class ClassMatch:
    """
    Which classes of a model the classes of a dataset are.

    Attributes:
        model_ids: for every id of the dataset the ids of the model that stand for it; none where it is ignored.
        mapping: the same in names, as a class map has it.
        said: what was assumed, in a sentence; None where both have the same names in the same order.
    """

    model_ids: tuple[tuple[int, ...], ...]
    mapping: ClassMap
    said: str | None = None

    @property
    def label_table(self) -> tuple[int, ...]:
        """The model's id for each of the 256 values of a label map; `UNKNOWN` where there is no class."""
        known = [ids[0] if ids else IGNORE_INDEX for ids in self.model_ids]
        return (*known, *[UNKNOWN] * (IGNORE_INDEX - len(known)), IGNORE_INDEX)


def is_generic(id2label: Mapping[int, str]) -> bool:
    """Whether the names are transformers' `LABEL_0`, `LABEL_1`, ..., which say nothing."""
    return all(fold(name) == f"label {index}" for index, name in id2label.items())


def same_classes(known: Mapping[int, str], wanted: Mapping[int, str], sides: tuple[str, str]) -> list[int | None]:
    """
    For every class of `wanted` the id in `known` of the same name; None where there is none.

    If one of them has generic names and both have the same number of classes, it is the same id.

    Raises:
        ValueError: two classes of one side have the same name; `sides` is what messages call them.
    """
    return sorted(wanted) if by_number(known, wanted) else _same_names(known, wanted, sides)


def _same_names(known: Mapping[int, str], wanted: Mapping[int, str], sides: tuple[str, str]) -> list[int | None]:
    ids, _ = _by_name(known, sides[0]), _by_name(wanted, sides[1])
    return [ids.get(fold(wanted[index])) for index in sorted(wanted)]


def by_number(first: Mapping[int, str], second: Mapping[int, str]) -> bool:
    """Whether names cannot be compared but numbers can."""
    return len(first) == len(second) and (is_generic(first) or is_generic(second))


def renames(class_map: ClassMap | None) -> bool:
    """Whether a class map says more than names do."""
    return any(partner is None or fold(str(partner)) != fold(name) for name, partner in (class_map or {}).items())


def match_classes(
    model_id2label: Mapping[int, str],
    data_id2label: Mapping[int, str],
    class_map: ClassMap | None = None,
    groups: ClassMap | None = None,
) -> ClassMatch:
    """
    Which classes of a model the classes of a dataset are, by their names.

    Args:
        model_id2label, data_id2label: names of the ids 0, 1, ...
        class_map: `{data class: model class}` for classes with different names; a list of model classes that are
            together the data class; None for a class that is ignored. Classes that it does not name are matched by
            their own names. With it the model may have classes that the dataset does not have.
        groups: a class map that the dataset itself has for models with other classes, [`EvaluationGroups.class_map`].
            It says nothing of a model with the same names, and `class_map` goes before it, entry by entry.

    Raises:
        ValueError: a class of one side has no partner on the other (without `class_map`; with it, of the dataset), a
            name of `class_map` is unknown, or two classes of one side have the same name.

    Example:

        >>> match_classes({0: "road", 1: "traffic light"}, {0: "Traffic_Light", 1: "road"}).model_ids
        ((1,), (0,))
    """
    model_id2label, data_id2label = dict(sorted(model_id2label.items())), dict(sorted(data_id2label.items()))
    if not class_map and by_number(model_id2label, data_id2label):
        said = (
            f"the {len(data_id2label)} classes are matched by number, as those of "
            f"{'the model' if is_generic(model_id2label) else 'the dataset'} are called LABEL_0, LABEL_1, ..."
        )
        return _match(model_id2label, data_id2label, [(index,) for index in data_id2label], said)
    origin = "class map"
    if groups and {fold(name) for name in model_id2label.values()} != {fold(name) for name in data_id2label.values()}:
        given = {fold(name) for name in class_map or {}}
        groups = {name: theirs for name, theirs in groups.items() if fold(name) not in given}
        _refuse_unknown_groups(groups, model_id2label)
        origin = "class map and the dataset's groups" if class_map else "dataset's groups"
        class_map = {**(class_map or {}), **groups}
    partners: list[tuple[int, ...] | None] = [
        None if index is None else (index,)
        for index in _same_names(model_id2label, data_id2label, ("model", "dataset"))
    ]
    for index, ids in _resolve(class_map or {}, model_id2label, data_id2label).items():
        partners[index] = ids
    lost = [data_id2label[index] for index, ids in enumerate(partners) if ids is None]
    used = {model_id for ids in partners for model_id in ids or ()}
    unused = [name for index, name in model_id2label.items() if index not in used]
    if lost or (unused and not class_map):
        only = (f"only in the {side}: {listed(names)}" for side, names in (("model", unused), ("data", lost)) if names)
        example = next(iter(data_id2label.values()))
        way_out = (
            "Say which belong together with --class_map FILE ({data class: model class, or null to ignore it} as YAML "
            "or JSON; class_map= in Python)"
            if lost
            else "Say so, if the model is to have more classes, with a class map that names one of the data's, "
            f"e.g. {{{example}: {example}}} (--class_map FILE; class_map= in Python)"
        )
        raise ValueError(f"the classes of the data are not the model's; {'; '.join(only)}. {way_out}")
    if not any(partners):
        raise ValueError("the class map ignores every class of the data; give at least one a class of the model")
    said = _describe(model_id2label, data_id2label, partners, unused, origin)
    return _match(model_id2label, data_id2label, partners, said)


def _refuse_unknown_groups(groups: ClassMap, model_id2label: Mapping[int, str]) -> None:
    known = {fold(name) for name in model_id2label.values()}
    for name, partners in groups.items():
        for partner in [partners] if isinstance(partners, str) else partners or ():
            if fold(partner) not in known:
                raise ValueError(
                    f"by the dataset's groups {partner!r} counts as {name}, but it is no class of the model, which has "
                    f"{listed(model_id2label.values())}. Correct `groups` in the dataset's file, or say what {name} is "
                    f"for this model with --class_map FILE, {{{name}: [classes of the model]}}"
                )


def _match(model: Mapping[int, str], data: Mapping[int, str], partners: list, said: str | None) -> ClassMatch:
    names = ([model[model_id] for model_id in ids] for ids in partners)
    plain = (each if len(each) > 1 else each[0] if each else None for each in names)
    return ClassMatch(tuple(partners), dict(zip(data.values(), plain, strict=True)), said)


def _describe(
    model: Mapping[int, str], data: Mapping[int, str], partners: list, unused: list[str], origin: str
) -> str | None:
    renamed, ignored = [], []
    for index, ids in enumerate(partners):
        names = [model[model_id] for model_id in ids]
        if not ids:
            ignored.append(data[index])
        elif [fold(name) for name in names] != [fold(data[index])]:
            renamed.append(f"{data[index]} is {' or '.join(names)}")
    moved = [f"{data[i]} {i} -> {ids[0]}" for i, ids in enumerate(partners) if len(ids) == 1 and ids != (i,)]
    parts = []
    if renamed or ignored or unused:
        parts += [f"by the {origin} {listed(renamed)}"] if renamed else []
        parts += [f"ignored: {listed(ignored)}"] if ignored else []
        parts += [f"classes of the model that are none of the data: {listed(unused)}"] if unused else []
    elif moved:
        parts = [f"the classes have the model's names in another order, ids are mapped: {listed(moved)}"]
    return "; ".join(parts) or None


def _by_name(id2label: Mapping[int, str], side: str) -> dict[str, int]:
    ids: dict[str, int] = {}
    for index, name in id2label.items():
        if (other := ids.setdefault(fold(name), index)) != index:
            raise ValueError(
                f"the classes {id2label[other]!r} and {name!r} of the {side} have one name, as case, space, - and _ do "
                "not count; rename one of them"
            )
    return ids


def _resolve(
    class_map: ClassMap, model_id2label: Mapping[int, str], data_id2label: Mapping[int, str]
) -> dict[int, tuple[int, ...]]:
    """A class map in ids."""
    model, data = _by_name(model_id2label, "model"), _by_name(data_id2label, "dataset")
    resolved = {}
    for name, partners in class_map.items():
        partners = [] if partners is None else [partners] if isinstance(partners, str) else list(partners)
        unknown = [(name, "data", data_id2label)] if fold(name) not in data else []
        unknown += [(other, "model", model_id2label) for other in partners if fold(other) not in model]
        for other, side, known in unknown:
            raise ValueError(
                f"the class map names {other!r}, which is no class of the {side}; it has {listed(known.values())}"
            )
        resolved[data[fold(name)]] = tuple(model[fold(other)] for other in partners)
    return resolved


def format_partners(partners: "str | list[str] | None") -> str:
    """What a class map says of a class, in words."""
    return "ignored" if partners is None else " or ".join([partners] if isinstance(partners, str) else partners)


def listed(names: Iterable[str]) -> str:
    """Names for a message, cut short where there are many."""
    names = list(names)
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
