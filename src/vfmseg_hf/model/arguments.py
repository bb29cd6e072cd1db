# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Arguments that do not exist, or have no meaning, are refused in one line."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import numpy as np
import torch


def refuse_unknown(given: Iterable[str], known: Iterable[str], owner: str) -> None:
    """
    Raise a `TypeError` that names the arguments of `owner` among `given` that are not among `known`.

    What is taken and ignored is a setting that its user believes to be in force.
    """
    known = sorted(set(known))
    if unknown := sorted(set(given) - set(known)):
        similar = [match for name in unknown for match in get_close_matches(name, known, n=1)]
        hint = f"did you mean {', '.join(similar)}?" if similar else f"there are {', '.join(known)}"
        raise TypeError(f"{owner} has no argument {', '.join(unknown)}; {hint}")


def as_target_sizes(sizes: Sequence[Sequence[int]] | torch.Tensor, count: int) -> list[tuple[int, int]]:
    """
    Height and width of `count` label maps as whole numbers.

    Raises:
        ValueError: if they are not one pair of whole numbers from 1 up for each.
    """
    try:
        pairs = np.asarray(sizes.cpu() if isinstance(sizes, torch.Tensor) else sizes, dtype=float)
    except (TypeError, ValueError):  # pairs beside single numbers, or no numbers
        pairs = np.empty(0)
    if pairs.shape != (count, 2) or (pairs < 1).any() or (pairs % 1).any():
        raise ValueError(
            f"target sizes must be one (height, width) for each image, {count} in all, in whole numbers from 1 up; "
            f"got {sizes}"
        )
    return [(int(height), int(width)) for height, width in pairs]
