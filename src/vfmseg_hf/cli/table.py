# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The table by which `vfmseg_cli` judges command lines: `python -m vfmseg_hf.cli.table` writes it anew."""

import argparse
import json
import re
from pathlib import Path
from types import ModuleType

from .. import __version__
from ..data import DATASETS
from ..model.presets import PRESETS
from . import (
    check,
    convert,
    evaluate,
    fetch_encoder,
    merge,
    options,
    predict,
    quickstart,
    reproduce,
    reproduce_figure4,
    reproduce_figure5,
    train,
)


PATH = Path(__file__).with_name("options.json")
VERBS: dict[str, ModuleType] = {
    "quickstart": quickstart,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "check": check,
    "merge": merge,
    "convert": convert,
    "fetch-encoder": fetch_encoder,
    "reproduce": reproduce,
    "reproduce figure4": reproduce_figure4,
    "reproduce figure5": reproduce_figure5,
}
FIRST = ("--model", "--data", "--output", "--device", "--dtype", "--size")  # the same words everywhere
OTHERS = "arguments of transformers' Trainer"


def make_table() -> dict[str, object]:
    """All that can be said of command lines without doing what they say."""
    return {
        "summary": "VFMSeg: semantic segmentation that keeps working on domains it was never trained on.",
        "version": __version__,
        "verbs": {verb: describe(module) for verb, module in VERBS.items()},
        "presets": sorted(PRESETS),
        "label_sets": ["cityscapes"],
        "datasets": {
            name: {
                "usage": dataset.info.usage,
                "splits": [] if dataset.describe else list(dataset.info.splits),
                "has_path": "/path" in dataset.info.usage,
            }
            for name, dataset in DATASETS.items()
        },
    }


def describe(module: ModuleType) -> dict[str, object]:
    """A verb: what it does, and its options in groups; those in no group of its are shown by `--help-all`."""
    parser = module.build_parser()
    actions: dict[str, list[argparse.Action]] = {}
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction):
            actions.setdefault(action.dest, []).append(action)
    groups = [
        {
            "title": title,
            "hidden": False,
            "options": [as_option(action) for name in names for action in actions.pop(name)],
        }
        for title, names in module.GROUPS.items()
    ]
    for title, names in getattr(module, "HIDDEN_GROUPS", {}).items():
        hidden = [as_option(action) for name in names for action in actions.pop(name)]
        groups.append({"title": title, "hidden": True, "options": hidden})
    if actions:
        others = [as_option(action) for same in actions.values() for action in same]
        groups.append({"title": OTHERS, "hidden": True, "options": others})
    return {
        "summary": module.__doc__.splitlines()[0],
        "usage": describe_positionals(parser),
        "description": parser.description,
        "epilog": parser.epilog,
        "refused": getattr(module, "REFUSED", {}),
        "groups": groups,
    }


def describe_positionals(parser: argparse.ArgumentParser) -> str:
    shown = [
        f"[{action.metavar} ...]"
        if action.nargs == "*"
        else action.metavar + " ..." * (action.nargs == "+" and action.metavar != "...")
        for action in parser._actions
        if not action.option_strings and action.help != argparse.SUPPRESS
    ]
    rest = ["--", *shown] if shown == ["..."] else []
    return " ".join(["[options]", *rest] if rest else [*shown, "[options]"])


def as_option(action: argparse.Action) -> dict[str, object]:
    """An option as JSON has it."""
    kinds = {argparse._StoreTrueAction: "store_true", argparse._StoreFalseAction: "store_false"}
    flags = sorted(action.option_strings, key=lambda flag: flag not in FIRST) or [action.dest]
    default = action.default
    negates = type(action) is argparse._StoreFalseAction
    empty = default in (None, False, "", []) or default is argparse.SUPPRESS
    option = {
        "flags": flags,
        "dest": action.dest,
        "action": kinds.get(type(action), "store"),
        "nargs": action.nargs if action.nargs != 0 else None,
        "const": action.const if action.nargs == "?" else None,
        "type": describe_type(action.type),
        "choices": None if action.choices is None else [str(choice) for choice in action.choices],
        "required": bool(action.option_strings and action.required),
        "default": None if empty or negates else as_text(default),
        "metavar": action.metavar,
        "help": None if negates or action.help == argparse.SUPPRESS else " ".join((action.help or "").split()) or "-",
    }
    return {key: value for key, value in option.items() if value not in (None, False)}


def describe_type(kind: object) -> list[object]:
    """The name of a type that `vfmseg_cli` knows as well, and what it is made with; of others it takes any text."""
    if isinstance(kind, options.whole_number):
        return ["whole_number", kind.least]
    if isinstance(kind, options.name_ending):
        return ["name_ending", kind.ending]
    names = {int: "int", float: "float", options.fraction: "fraction", options.yes_or_no: "yes_or_no"}
    names[options.positive_number] = "positive_number"
    if getattr(kind, "__name__", "") == "string_to_bool":  # of transformers
        return ["yes_or_no"]
    return [names.get(kind, "str")]


def as_text(value: object) -> str:
    value = getattr(value, "value", value)  # of an enumeration
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def write_table() -> str:
    """The table as JSON, an option in a line."""
    text = json.dumps(make_table(), indent=1, ensure_ascii=False) + "\n"
    option = r'\{\s+"flags".*?\n\s+\}'  # no option has an object in it, and texts have no line ends
    return re.sub(option, lambda found: json.dumps(json.loads(found[0]), ensure_ascii=False), text, flags=re.DOTALL)


if __name__ == "__main__":
    PATH.write_text(write_table(), encoding="utf-8")
