# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""`mean_iou` as an `evaluate` module (`evaluate.load` takes the path of this folder) and as an object."""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .mean_iou import MeanIoU


def load_mean_iou(**settings: Any) -> "MeanIoU":
    """
    The streaming `mean_iou` of this library; what `evaluate.load(".../vfmseg_hf/evaluation/mean_iou")` gives, without
    the copy that `evaluate` makes of the module.

    Args:
        settings:
            Any of `num_labels`, `ignore_index`, `label_map`, `groups`, `nan_to_num`: what `compute` would be told
            otherwise. With `num_labels` and `ignore_index` given here, unknown ids are errors of the batch that
            holds them.

    Example:

        >>> metric = load_mean_iou(num_labels=19, ignore_index=255)
        >>> metric.add_batch(predictions=[np.array([[0, 1]])], references=[np.array([[0, 255]])])
        >>> metric.compute()["mean_iou"]
        1.0
    """
    # Imported here because a script beside scripts/evaluate.py takes that file for the package `evaluate`.
    from .mean_iou import MeanIoU

    return MeanIoU(**settings)
