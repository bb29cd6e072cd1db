# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Arguments that do not exist are refused, with the name that was probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches


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
