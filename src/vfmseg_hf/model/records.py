# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The record of a training that lies beside the weights, and goes with them where they are saved again."""

import os
import shutil

from transformers.utils import cached_file


RECORD_NAME = "recipe.json"  # in every checkpoint and saved model
OPTIONAL_FILE = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}


def carry_record(place: str | os.PathLike | None, directory: str | os.PathLike) -> None:
    """
    Copy the record beside the weights that a model was loaded from to where it is saved.

    It says by itself which weights it is of: if the model was trained meanwhile, it no longer counts.
    """
    path = None if place is None else cached_file(place, RECORD_NAME, **OPTIONAL_FILE)
    target = os.path.join(directory, RECORD_NAME)
    if path is not None and os.path.abspath(path) != os.path.abspath(target) and not os.path.isfile(directory):
        os.makedirs(directory, exist_ok=True)
        shutil.copyfile(path, target)
