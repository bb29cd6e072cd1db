# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""How command lines are read, and what is refused before anything is loaded, read or trained.

`vfmseg_cli` loads this file by its path, without the package around it: nothing but the standard library is imported.
"""

import argparse
import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType


EARLIER = "outputs/table1"  # where `vfmseg reproduce table1` leaves its models


class Parser(argparse.ArgumentParser):
    """
    Options are written `--like_this` or `--like-this`, and in full. What is wrong with a command line is a `ValueError`
    of one line, which says what may have been meant.

    Attributes:
        refused: names that somebody may look for, and why there is no such option.
    """

    refused: Mapping[str, str] = MappingProxyType({})

    def __init__(self, *args, **options):
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def add_argument(self, *names, **options):
        hyphens = [name.replace("_", "-") for name in names if name.startswith("--")]
        return super().add_argument(*dict.fromkeys([*names, *hyphens]), **options)

    def parse_args(self, args=None, namespace=None):
        self.refuse_unknown(args or [])
        namespace, rest = self.parse_known_args(args, namespace)
        if rest:
            raise ValueError(f"unexpected argument {rest[0]!r}; see {self.prog} --help")
        return namespace

    def refuse_unknown(self, words: Sequence[str]) -> None:
        """Before anything is missed that may be there under a wrong name."""
        words = words[: words.index("--")] if "--" in words else words
        for word in (word.partition("=")[0] for word in words if word.startswith("--")):
            if reason := self.refused.get(word[2:].replace("-", "_")):
                raise ValueError(f"there is no option {word}: {reason}")
            if word not in self._option_string_actions:
                near = did_you_mean(word, self._option_string_actions)
                raise ValueError(f"there is no option {word}{near or f'; see {self.prog} --help'}")

    def error(self, message: str):
        raise ValueError(re.sub(r"(?:argument )?(--[\w-]+)(?:/--[\w-]+)*", r"\1", message))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about a word that is not `known`; empty where none is like it."""
    near = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


@dataclass(frozen=True)
class whole_number:
    """A type for `argparse`: whole numbers from `least` up."""

    least: int

    def __call__(self, text: str) -> int:
        if not re.fullmatch(r"-?\d+", text) or int(text) < self.least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {self.least} up, got {text!r}")
        return int(text)


@dataclass(frozen=True)
class name_ending:
    """A type for `argparse`: names of files with this ending."""

    ending: str

    def __call__(self, text: str) -> Path:
        if not text.endswith(self.ending):
            raise argparse.ArgumentTypeError(f"expected a file whose name ends with {self.ending}, got {text!r}")
        return Path(text)


def fraction(text: str) -> float:
    """A type for `argparse`: a share, from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, got {text!r}")
    return value


def positive_number(text: str) -> float:
    """A type for `argparse`: numbers above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def yes_or_no(text: str) -> bool:
    """A type for `argparse`: what transformers' options take for true and false."""
    for value, words in ((True, ("yes", "true", "t", "y", "1")), (False, ("no", "false", "f", "n", "0"))):
        if text.lower() in words:
            return value
    raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")


def check_counts(options: object, **least: int) -> None:
    """Raise a `ValueError` that names the first of the `options` that is less than what `least` says."""
    for name, lowest in least.items():
        if getattr(options, name) < lowest:
            raise ValueError(f"--{name} must be {lowest} or more, got {getattr(options, name)}")


def check_output_file(path: str | os.PathLike | None) -> None:
    """Raise an `OSError` if a result cannot be written to this file: not after the hour that it takes to get it."""
    if path is None:
        return
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file for the result")
    check_output_folder(Path(path).absolute().parent)


def check_output_folder(path: str | os.PathLike) -> None:
    """Raise an `OSError` if results cannot be written to this folder, which need not be there yet."""
    path = Path(path).absolute()
    present = next(folder for folder in (path, *path.parents) if folder.exists())
    if not present.is_dir():
        raise NotADirectoryError(f"{present} is a file, not a folder; results cannot be written to {path}")
    if not os.access(present, os.W_OK | os.X_OK):
        raise PermissionError(f"results cannot be written to {path}: no permission to write in {present}")


def check_new_folder(path: str | os.PathLike) -> None:
    """As [`check_output_folder`]; raises a `FileExistsError` as well if there is something in it."""
    check_output_folder(path)
    if os.path.isdir(path) and os.listdir(path):
        raise FileExistsError(f"{str(path)!r} exists and is not empty; choose a new directory or remove it first")


def settle_positionals(verb: str, arguments: argparse.Namespace) -> argparse.Namespace:
    """
    The model of `predict` and the dataset of `check` may stand before the rest without their option.

    Raises:
        ValueError: it is missing, or given twice.
    """
    if verb == "predict" and arguments.model is None:
        arguments.model, *arguments.images = arguments.images
        if not arguments.images:
            raise ValueError("--model is missing, or there is no image to predict")
    if verb == "check":
        if (arguments.data is None) == (arguments.dataset is None):
            raise ValueError("name one dataset to check: --data DATASET[:PATH][@SPLIT], e.g. --data gtav:/data/gtav")
        arguments.data = arguments.data or arguments.dataset
    return arguments


def check_reproduction(arguments: argparse.Namespace) -> None:
    """
    Whether what `reproduce` is told goes together.

    Raises:
        ValueError, FileNotFoundError: it does not, or a folder is not there.
    """
    if arguments.data is None:
        for name in ("eval_data", "val_data"):
            if getattr(arguments, name) is not None:
                raise ValueError(f"--{name} goes with --data, which says what is trained on; without it name --camvid")
    else:
        if arguments.eval_data is None:
            raise ValueError(f"--data {arguments.data} has no targets; name them: --eval_data DOMAIN ...")
        for name in ("camvid", "carla"):
            if (folder := getattr(arguments, name)) is not None:
                raise ValueError(f"--{name} {folder} has no effect beside --data; write --eval_data {name}:{folder}")
        if len(arguments.learning_rates or ()) > 1 and arguments.val_data is None:
            raise ValueError(
                f"{len(arguments.learning_rates)} --learning_rates are chosen among on images of the source: name them "
                "with --val_data, or one rate"
            )
        if len(arguments.learning_rates or ()) < 2 and arguments.val_data is not None:
            raise ValueError(
                f"--val_data {arguments.val_data} is to choose a learning rate on, and there is one; name several with "
                "--learning_rates, or leave it out"
            )
        if arguments.model is None:
            raise ValueError("the paper's own setting needs --model, a foundation model; the paper's is dinov2-large")
    for name in ("camvid", "carla"):
        folder = getattr(arguments, name)
        if folder is not None and not os.path.isdir(os.path.expanduser(folder)):
            raise FileNotFoundError(f"there is no folder {folder}, where --{name} should be")
    if (arguments.model or "").endswith(".json"):
        raise ValueError(
            f"--model {arguments.model} has no weights; name a foundation model: a preset, Hub id or folder"
        )
    check_edges([arguments.size, *(arguments.resolutions or ())])
    for name in ("seeds", "learning_rates", "resolutions"):
        check_distinct(name, getattr(arguments, name))


def check_edges(edges: Iterable[int | None]) -> None:
    """Raise a `ValueError` if one of the sizes that images are scored at, where given, suits no model."""
    for edge in filter(None, edges):
        if edge % 32:
            near = max(32, round(edge / 32) * 32)
            raise ValueError(f"--size and --resolutions are multiples of 32, got {edge}; the nearest is {near}")


def check_distinct(name: str, values: Sequence[float] | None) -> None:
    """Raise a `ValueError` if an option has a value twice."""
    texts = [f"{value:g}" for value in values or ()]  # as they stand in names of folders
    if twice := [text for index, text in enumerate(texts) if text in texts[:index]]:
        raise ValueError(f"--{name} has {twice[0]} twice; give it once")


def check_figure(arguments: argparse.Namespace) -> None:
    """
    Whether what a figure of `reproduce` is told goes together.

    Raises:
        ValueError, FileNotFoundError: it does not, or there are no models.
    """
    for name in ("resolutions", "max_windows"):
        check_distinct(name, getattr(arguments, name, None))
    check_edges(getattr(arguments, "resolutions", None) or ())
    if getattr(arguments, "zoom", None) == 0:
        raise ValueError("--zoom is the share of an image that is enlarged, such as 0.25, got 0")
    names = [name for name, _ in map(named_model, arguments.models or ())]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two of --models have the name {twice[0]!r}; name them: first=..., second=...")
    if folder := earlier_models(arguments):
        if not os.path.isdir(folder):
            instead = "" if arguments.earlier else "; name models with --models, or such a folder with --from"
            raise FileNotFoundError(f"there is no folder {folder} of an earlier `vfmseg reproduce`{instead}")


def earlier_models(arguments: argparse.Namespace) -> str | None:
    """The folder of a reproduction whose models a figure shows, if it shows any."""
    return arguments.earlier or (None if arguments.models else EARLIER)


def named_model(text: str) -> tuple[str, str]:
    """
    Name and place of `[name=]model`; by default the name is the end of the place.

    Raises:
        ValueError: there is no place, or the name is not made of letters, digits, spaces and `+-_.`.
    """
    name, place = re.fullmatch(r"(?:([^=/]+)=)?(.*)", text, re.DOTALL).groups()
    if os.path.isdir(text):  # whose path may have a = in it
        name, place = None, text
    if not place:
        raise ValueError(f"expected [name=]model, e.g. ours=runs/gtav, got {text!r}")
    name = os.path.basename(os.path.normpath(place)) if name is None else name
    if not re.fullmatch(r"[\w+.=-]+(?: [\w+.=-]+)*", name):
        raise ValueError(f"the name of a model is made of letters, digits, spaces and +-_., got {name!r} in {text!r}")
    return name, place
