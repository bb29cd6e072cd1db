# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Options of commands that cannot work are refused before anything is loaded, read or trained."""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path


def whole_number(least: int) -> Callable[[str], int]:
    """A type for `argparse`: whole numbers from `least` up."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?\d+", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} up, got {text!r}")
        return int(text)

    return parse


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
