# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The classes of a model, and those that it is to have instead: which of them it has already, by their names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from ..evaluation.classes import by_number, is_generic, listed, same_classes


@dataclass(frozen=True)
class ClassChange:
    """
    Attributes:
        before, after: names by id, in order.
        origins: for every new id the former one of the same name; None where the class is new.
        numbered: whether names could not be compared, so that numbers were.
    """

    before: dict[int, str]
    after: dict[int, str]
    origins: list[int | None]
    numbered: bool

    @classmethod
    def of(cls, before: Mapping[int, str], after: Mapping[int, str]) -> Self:
        """Raises `ValueError` if two classes have the same name."""
        before, after = dict(sorted(before.items())), dict(sorted(after.items()))
        numbered = by_number(before, after)
        if numbered and is_generic(after):
            after = before  # names that say nothing do not replace others
        return cls(before, after, same_classes(before, after, ("model", "dataset")), numbered)

    @property
    def keeps_all(self) -> bool:
        """Whether the weights stay as they are."""
        return self.origins == list(self.before)

    @property
    def label2id(self) -> dict[str, int]:
        return {name: index for index, name in self.after.items()}

    def describe(self) -> str | None:
        """What is kept and what is new, in a sentence; None where nothing has to be said."""
        if self.numbered:
            return f"its {len(self.after)} classes are kept by number, as LABEL_0, LABEL_1, ... says nothing of them"
        if self.keeps_all:
            return None
        kept = [self.after[index] for index, origin in enumerate(self.origins) if origin is not None]
        new = [self.after[index] for index, origin in enumerate(self.origins) if origin is None]
        if len(kept) == len(self.before) == len(self.after):
            return f"its classes were put into the order of the training set: {listed(kept)}"
        kept_of = f"kept {len(kept)} of its {len(self.before)} classes"
        return f"{kept_of}: {listed(kept) or 'none'}; new: {listed(new) or 'none'}"
