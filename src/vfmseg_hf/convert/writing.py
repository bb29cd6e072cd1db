# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Weights into models and models into directories, with nothing left behind on a failure."""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from .names import ConvertedWeights, StateDict


# What transformers, timm and torch raise, beside ValueError, when they build something from values of the wrong kind.
BAD_SETTINGS = (
    StrictDataclassError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
)


@contextmanager
def bad_settings_are_value_errors() -> Iterator[None]:
    """
    Around the building of a configuration or a model from settings that a user gave; also a decorator.

    Raises:
        ValueError: in place of what the libraries raise on an unknown name or a value of the wrong kind.
    """
    try:
        yield
    except BAD_SETTINGS as error:
        # A strict dataclass has the reason, without its own words around it, as the cause.
        reason = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
        raise ValueError(
            f"the overrides give a configuration that no model can have ({type(reason).__name__}: {reason}); check "
            "the names and the kinds of their values"
        ) from error


@contextmanager
def new_directory(output: str | os.PathLike) -> Iterator[Path]:
    """
    A directory beside `output` to write into; it takes the name of `output` only if the block ends well.

    Raises:
        FileExistsError: if `output` is there already and not empty.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{str(output)!r} exists and is not empty; choose a new directory or remove it first")
    missing = [parent for parent in output.parents if not parent.exists()]
    staging = output.with_name(f".{output.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        if output.exists():
            output.rmdir()
        os.replace(staging, output)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):  # someone else has put something there meanwhile
            for parent in missing:
                parent.rmdir()
        raise


def fill(model: nn.Module, weights: StateDict, optional: tuple[str, ...] = ()) -> None:
    """
    Copy every tensor into the model.

    Args:
        optional: beginnings of the model's keys that `weights` need not hold; such tensors become zero.

    Raises:
        ValueError: if tensors are missing, too many, or of another shape.
    """
    own = model.state_dict()
    absent = set(own) - set(weights)
    spare = {key for key in absent if key.startswith(optional)}
    missing, unexpected = sorted(absent - spare), sorted(set(weights) - set(own))
    if missing or unexpected:
        raise ValueError(
            f"the weights do not fit the configuration: {len(missing)} tensors are missing, e.g. {missing[:3]}, and "
            f"{len(unexpected)} are too many, e.g. {unexpected[:3]}; check num_hidden_layers, refine_num_layers and "
            "the other fields of the overrides"
        )
    for key in spare:
        own[key].zero_()
    for key, tensor in weights.items():
        copy(own[key], tensor, key)


@torch.no_grad()
def copy(target: torch.Tensor, source: torch.Tensor, name: str) -> None:
    """Copy one tensor in place; a `ValueError` names it if the shapes differ."""
    if target.shape != source.shape:
        raise ValueError(
            f"{name} has the shape {tuple(source.shape)} in the weights but {tuple(target.shape)} by the "
            "configuration; check the widths, num_labels and image_size in the overrides"
        )
    target.copy_(source)


def check_finite(state_dict: StateDict, converted: ConvertedWeights) -> None:
    """
    Look for values that no model computes anything with.

    Args:
        state_dict: tensors under their foreign names.
        converted: what became of them; the dropped ones may hold anything.

    Raises:
        ValueError: naming the first tensors with NaN or infinity, or with values that float32 does not hold.
    """
    kept = (key for key in state_dict if key not in converted.dropped)
    if broken := sorted(key for key in kept if not state_dict[key].float().isfinite().all()):
        raise ValueError(
            f"{len(broken)} tensors of the weights hold NaN or infinity, e.g. {broken[:3]}; the file is damaged or the "
            "training has diverged; nothing was written"
        )


def check_same(found: StateDict, expected: StateDict, what: str, resampled: Collection[str] = ()) -> None:
    """
    Compare what was read back from a directory with what was to be written.

    Args:
        what: the directory's content, for the message.
        resampled: keys whose tensors were computed twice and may differ by rounding.

    Raises:
        ValueError: naming the first tensors that differ.
    """

    def same(key: str) -> bool:
        if key not in found or key not in expected or found[key].shape != expected[key].shape:
            return False
        if key in resampled:
            return torch.allclose(found[key], expected[key], rtol=1e-4, atol=1e-5)
        return torch.equal(found[key], expected[key])

    if differing := sorted(key for key in set(found) | set(expected) if not same(key)):
        raise ValueError(
            f"{what} does not give back what was converted, {len(differing)} tensors differ, e.g. {differing[:3]}; "
            "nothing was written"
        )
