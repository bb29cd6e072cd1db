# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The rules that labels are scored by: which classes are told apart."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..model.labels import CITYSCAPES_ID2LABEL
from .classes import ClassMap
from .confusion import merge_classes


@dataclass(frozen=True)
class EvaluationGroups:
    """
    The classes that a dataset is scored by, where its labels tell fewer classes apart than the model does.

    Attributes:
        names: name of every group; the result has one IoU for each.
        groups: group of every id of `id2label`; `len(names)` for ids that the dataset knows nothing of.
        class_map: which classes of a model count as each class of `id2label`, where the model has other classes, as
            `match_classes` takes it; None where nothing is known of that.

    Raises:
        ValueError: two groups of one name, of which results by name would show one.
    """

    names: tuple[str, ...]
    groups: tuple[int, ...]
    class_map: ClassMap | None = field(default=None, hash=False)

    def __post_init__(self):
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise ValueError(f"scores are told by the classes' names, but {twice[0]!r} is the name of two; rename one")

    @classmethod
    def of(cls, members: Mapping[str, Iterable[int]], num_labels: int = len(CITYSCAPES_ID2LABEL)) -> "EvaluationGroups":
        """From `{group name: ids}`; ids up to `num_labels` that are in no group belong to none."""
        groups = [len(members)] * num_labels
        for group, ids in enumerate(members.values()):
            for index in ids:
                groups[index] = group
        return cls(tuple(members), tuple(groups))

    def for_model(self, model_ids: Sequence[Collection[int]], num_labels: int) -> "EvaluationGroups":
        """
        The same rule over the ids of a model. Groups that share a class of the model are scored as one, `car + truck`.

        Args:
            model_ids: for every id of this rule those of the model that stand for it, as `ClassMatch` has them.
            num_labels: K of the model.
        """
        members: dict[str, set[int]] = {}
        for group, name in enumerate(self.names):
            ids = {i for own, theirs in zip(self.groups, model_ids, strict=True) if own == group for i in theirs}
            for other in [other for other, taken in members.items() if taken & ids]:
                name, ids = f"{other} + {name}", ids | members.pop(other)
            members[name] = ids
        return EvaluationGroups.of(members, num_labels)

    def merge(self, confusion: "np.ndarray | torch.Tensor") -> "np.ndarray | torch.Tensor":
        """
        A confusion matrix `[K, K]` of ids as one of groups `[G, G + 1]`, ready for `iou_scores`.

        Predictions outside every group come into the last column: wrong for the labelled group, a false alarm of none.

        Raises:
            `ValueError`: another number of classes, or labelled pixels of a class that is in no group.
        """
        return merge_classes(confusion, self.groups, len(self.names))


def each_class(id2label: Mapping[int, str] = CITYSCAPES_ID2LABEL) -> EvaluationGroups:
    """The plain rule: every class is a group of its own."""
    return EvaluationGroups(tuple(id2label[index] for index in range(len(id2label))), tuple(range(len(id2label))))
