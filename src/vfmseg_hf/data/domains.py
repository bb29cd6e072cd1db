# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""How a command line names a domain: `name=dataset@split`, e.g. `dusk=camvid:/data/camvid@target_dusk`."""

import re
from typing import NamedTuple
from urllib.parse import quote

from datasets import Dataset

from .base import scored_split
from .registry import describe_dataset


CLASS_MAP_HELP = (
    "YAML or JSON file, {class of the data: class of the model}, for classes that have another name in the model; null "
    "in place of a class ignores it."
)
ID2LABEL_HELP = (
    "YAML or JSON file with the names of the classes, a list or {id: name}, of datasets of the Hub or `datasets`; "
    "`cityscapes` are the 19 of Cityscapes. By default the names that such a dataset has."
)


class Domain(NamedTuple):
    """A named part of a dataset."""

    name: str
    spec: str
    split: str | None


def parse_place(text: str) -> tuple[str, str | None]:
    """Spec and split of `spec[@split]`."""
    spec, split = re.fullmatch(r"(.*?)(?:@([\w-]+))?", text).groups()
    return spec, split


def parse_domain(text: str) -> Domain:
    """
    Reads `[name=]spec[@split]`. Without a name it is the dataset's, or its domain's or split's where there is one.

    Raises:
        ValueError: if there is no spec, or the name is not made of letters, digits, `-` and `_`, or ends with "coarse".
    """
    name, place = re.fullmatch(r"(?:([^=:?/]+)=)?(.*)", text).groups()
    spec, split = parse_place(place)
    if not spec:
        raise ValueError(f"expected [name=]dataset[@split], e.g. dusk=camvid:/data/camvid@target_dusk, got {text!r}")
    if name is None:
        dataset, _, rest = spec.partition("?")[0].partition(":")
        domain = rest
        name = split or (domain if dataset == "streets" else dataset.rpartition("/")[2])
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"the name of a domain is made of letters, digits, - and _, got {name!r} in {text!r}")
    if name == "coarse" or name.endswith("_coarse"):
        raise ValueError(f"no domain can be named {name!r}, which would be taken for the scores of coarse results")
    return Domain(name, spec, split)


def name_classes(domains: list[Domain], id2label: str | None) -> list[Domain]:
    """
    The same domains; datasets whose classes are not known by their spec, and without a query, have `id2label`'s.

    Args:
        id2label: as for [`class_names.read_id2label`]; None changes nothing.

    Raises:
        ValueError: no domain takes it.
    """
    if id2label is None:
        return domains
    takes = [describe_dataset(domain.spec).id2label is None and "?" not in domain.spec for domain in domains]
    if not any(takes):
        raise ValueError(
            f"--id2label {id2label} names the classes of datasets from the Hub or of `datasets`, but "
            f"{', '.join(domain.spec for domain in domains)} has its own"
        )
    return [
        domain._replace(spec=f"{domain.spec}?id2label={quote(id2label)}") if taken else domain
        for domain, taken in zip(domains, takes, strict=True)
    ]


def parse_domains(texts: list[str]) -> list[Domain]:
    """
    Several domains with different names.

    Raises:
        ValueError: if two have one name.
    """
    domains = [parse_domain(text) for text in texts]
    names = [domain.name for domain in domains]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two domains have the name {twice[0]!r}; name them: first=..., second=...")
    return domains


def evaluation_domains(texts: list[str]) -> list[Domain]:
    """
    As `parse_domains`, for scoring: without `@split` it is the split that the dataset holds out, not its first one.

    The split stays `None` where it is not known beforehand, as of Hub ids: `open_dataset(..., held_out=True)` finds it.

    Raises:
        ValueError, FileNotFoundError: as `parse_domains` and `describe_dataset`.
    """
    return [
        domain._replace(split=domain.split or scored_split(domain.spec, describe_dataset(domain.spec)))
        for domain in parse_domains(texts)
    ]


def spread(dataset: Dataset, count: int | None) -> Dataset:
    """At most `count` rows, evenly spaced and always the same ones; all of them with None."""
    if count is None or count >= len(dataset):
        return dataset
    return dataset.select([index * len(dataset) // count for index in range(count)])
