# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The fields of VFMSegConfig as options of `vfmseg train`, each by its own name."""

import re
from dataclasses import field, make_dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from ..model.configuration_vfmseg import VFMSegConfig


# What --model and the training set say, what has one value only, and what the trainer's arguments have.
SAID_OTHERWISE = {
    "backbone_config",
    "backbone_fingerprint",
    "semantic_loss_ignore_index",
    "class_weights",
    "label_smoothing_factor",
}
FIELDS = tuple(name for name in VFMSegConfig.__annotations__ if name not in SAID_OTHERWISE)


def option_type(annotation: Any) -> Any:
    """The type of a field as a command line has it: one or several numbers, a word, or yes and no."""
    kinds = [annotation] if get_origin(annotation) is Literal else get_args(annotation) or [annotation]
    if list[int] in kinds:
        return list[int] | None
    kinds = [kind for kind in kinds if kind is not NoneType]
    return (float if float in kinds else kinds[0]) | None


def described() -> dict[str, str]:
    """The first sentence on every field in the documentation of [`VFMSegConfig`]."""
    entries = re.findall(r"^ {8}(\w+ \([\s\S]*?\)):\n((?: {12}.*\n)+)", VFMSegConfig.__doc__ or "", re.MULTILINE)
    sentences = {}
    for head, text in entries:
        first = re.split(r"(?<=\.)\s", " ".join(text.split()))[0].replace("*", "").replace("`", "")
        sentences |= dict.fromkeys(re.findall(r"(\w+) \(`", head), first)
    return sentences


HELP = described()
ModelFields = make_dataclass(
    "ModelFields",
    [
        (name, option_type(VFMSegConfig.__annotations__[name]), field(default=None, metadata={"help": HELP.get(name)}))
        for name in FIELDS
    ],
)
ModelFields.__doc__ = "Fields of [`VFMSegConfig`]; None leaves a model its own."


def given_fields(fields: Any) -> dict[str, object]:
    """Those of [`ModelFields`] that are given, as [`VFMSegConfig`] takes them."""
    given = {name: value for name in FIELDS if (value := getattr(fields, name)) is not None}
    if len(given.get("coarse_size", ())) == 1:
        (given["coarse_size"],) = given["coarse_size"]
    return given
