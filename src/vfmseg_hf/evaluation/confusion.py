# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Scores of label maps from confusion matrices: pure functions on numpy arrays and torch tensors.

A confusion matrix adds up over images, batches and processes, so it is all that an evaluation has to keep.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch


# Ids are 8-bit throughout the library. Pairs of them fit one histogram that needs no look at the values beforehand.
NUM_IDS = 256


def confusion_matrix(
    predictions: "np.ndarray | torch.Tensor",
    labels: "np.ndarray | torch.Tensor",
    num_labels: int,
    ignore_index: int | None = 255,
    num_predicted: int | None = None,
) -> "np.ndarray | torch.Tensor":
    """
    Counts pixels by labelled class (rows) and predicted class (columns).

    Args:
        predictions, labels (`np.ndarray` or `torch.Tensor`):
            Whole numbers of any shape, the same for both; tensors may be on any device.
        num_labels (`int`):
            K, from 1 to 256: labels are 0..K-1.
        ignore_index (`int`, *optional*, defaults to 255):
            Pixels labelled so are not counted, whatever is predicted there. `None` counts every pixel.
        num_predicted (`int`, *optional*, defaults to `num_labels`):
            P >= K: predictions are 0..P-1. `num_labels + 1` makes room for "no class", which is wrong for the labelled
            class and a false alarm of none.

    Returns:
        `int64` `[K, P]`, of the kind of `labels` and on its device.

    Raises:
        `TypeError`: ids that are not whole numbers.
        `ValueError`: shapes differ, a label that is neither 0..K-1 nor ignored, or a prediction outside 0..P-1 on a
            pixel that counts.
    """
    num_predicted = num_labels if num_predicted is None else num_predicted
    if not 1 <= num_labels <= num_predicted <= NUM_IDS:
        raise ValueError(
            f"num_labels = {num_labels} and num_predicted = {num_predicted} must satisfy 1 <= num_labels <= "
            f"num_predicted <= {NUM_IDS}."
        )
    pairs = count_pairs(predictions, labels, ignore_index)
    matrix = select_classes(pairs, num_labels, ignore_index, num_predicted)
    return torch.from_numpy(matrix).to(labels.device) if isinstance(labels, torch.Tensor) else matrix


def count_pairs(
    predictions: "np.ndarray | torch.Tensor", labels: "np.ndarray | torch.Tensor", ignore_index: int | None = None
) -> np.ndarray:
    """
    Counts every pair of ids, before it is known which of them are classes.

    Returns:
        `int64` `[256, 256]`: pixels by labelled (row) and predicted (column) id. The row of `ignore_index` holds
        anything.

    Raises:
        `TypeError`, `ValueError`: as `confusion_matrix`, but only ids outside 0..255 are unknown.
    """
    _check_shapes(predictions, labels)
    tensors = [isinstance(ids, torch.Tensor) for ids in (predictions, labels)]
    if any(tensors):
        predictions, labels = torch.as_tensor(predictions), torch.as_tensor(labels)
        if predictions.device.type != "cpu" or labels.device.type != "cpu":
            return _count_on_device(predictions, labels, ignore_index)
        predictions, labels = predictions.detach().numpy(), labels.detach().numpy()  # share the tensors' memory
    _check_whole_numbers(predictions, predictions.dtype.kind in "bui")
    _check_whole_numbers(labels, labels.dtype.kind in "bui")
    if not (_fits(predictions) and _fits(labels)):
        # Rare: ignore_index is -100, say, or the predictions on ignored pixels are.
        valid = labels != ignore_index
        predictions, labels = predictions[valid], labels[valid]
        _check_range(predictions, labels)
    # One 16-bit number per pair: half the time of int64 arithmetic, a fifth of masking the ignored pixels first.
    pairs = labels.astype(np.uint16) << 8
    pairs |= predictions.astype(np.uint8, copy=False)
    return np.bincount(pairs.ravel(), minlength=NUM_IDS**2).reshape(NUM_IDS, NUM_IDS)


class PixelCounts(NamedTuple):
    """
    Pixels of an image by their ids, `int64`, on the device that they were counted on.

    Attributes:
        matrix (`[K, P]`): by labelled and predicted class.
        unknown (`[2, 257]`): labels and, where these are classes, predictions that are none, by id; those outside
            0..255 together at the end. For [`check_ids`].
    """

    matrix: torch.Tensor
    unknown: torch.Tensor


def count_pixels(
    predictions: torch.Tensor,
    labels: torch.Tensor,
    num_labels: int,
    ignore_index: int | None = 255,
    num_predicted: int | None = None,
) -> PixelCounts:
    """
    Counts as `confusion_matrix` does, but on the labels' device and without waiting for it: ids are looked at later.

    Raises:
        `TypeError`, `ValueError`: ids that are not whole numbers, or shapes that differ.
    """
    _check_shapes(predictions, labels)
    for ids in (predictions, labels):
        _check_whole_numbers(ids, not (ids.is_floating_point() or ids.is_complex()))
    num_predicted = num_labels if num_predicted is None else num_predicted
    labels, predictions = labels.to(torch.int64).flatten(), predictions.to(labels.device, torch.int64).flatten()
    # One table: the matrix, unknown labels, unknown predictions, ignored pixels.
    size = num_labels * num_predicted
    place = labels * num_predicted + predictions
    place = torch.where(_among(predictions, num_predicted), place, size + NUM_IDS + 1 + _as_counted(predictions))
    place = torch.where(_among(labels, num_labels), place, size + _as_counted(labels))
    if ignore_index is not None:
        place = torch.where(labels == ignore_index, size + 2 * (NUM_IDS + 1), place)
    table = torch.zeros(size + 2 * (NUM_IDS + 1) + 1, dtype=torch.int64, device=labels.device)
    table.scatter_add_(0, place, table.new_ones(1).expand(len(place)))
    return PixelCounts(table[:size].view(num_labels, num_predicted), table[size:-1].view(2, NUM_IDS + 1))


def _among(ids: torch.Tensor, count: int) -> torch.Tensor:
    return (ids >= 0) & (ids < count)


def _as_counted(ids: torch.Tensor) -> torch.Tensor:
    """Ids as `PixelCounts.unknown` has them: those outside 0..255 are one."""
    return torch.where(_among(ids, NUM_IDS), ids, NUM_IDS)


def check_ids(
    unknown: np.ndarray, num_labels: int, ignore_index: int | None = 255, num_predicted: int | None = None
) -> None:
    """
    Checks the `unknown` of [`PixelCounts`], or a sum of such.

    Raises:
        `ValueError`: there are any; the message names the ids and their number of pixels.
    """
    num_predicted = num_labels if num_predicted is None else num_predicted
    labelled, predicted = unknown
    _check_known("Labels", labelled, num_labels, f" and ignore_index = {ignore_index}")
    _check_known("Predictions", predicted, num_predicted, "")


def _count_on_device(predictions: torch.Tensor, labels: torch.Tensor, ignore_index: int | None) -> np.ndarray:
    counts = count_pixels(predictions, labels, NUM_IDS, ignore_index)
    check_ids(counts.unknown.cpu().numpy(), NUM_IDS, ignore_index)
    return counts.matrix.cpu().numpy()


def _check_shapes(predictions: Any, labels: Any) -> None:
    if tuple(predictions.shape) != tuple(labels.shape):
        raise ValueError(
            f"Predictions of shape {tuple(predictions.shape)} and labels of shape {tuple(labels.shape)} do not cover "
            "the same pixels. Resize the logits to the labels' size before taking the argmax; never resize labels."
        )


def _check_whole_numbers(ids: Any, whole: bool) -> None:
    if not whole:
        raise TypeError(f"Label maps hold whole numbers, got {ids.dtype}. Take the argmax of logits over the classes.")


def _fits(ids: np.ndarray) -> bool:
    return ids.dtype in (np.uint8, np.bool_) or ids.size == 0 or (ids.min() >= 0 and ids.max() < NUM_IDS)


def _check_range(predictions: np.ndarray, labels: np.ndarray) -> None:
    for what, ids in (("Labels", labels), ("Predictions", predictions)):
        if not _fits(ids):
            raise ValueError(
                f"{what} hold ids from {int(ids.min())} to {int(ids.max())}, known are 0..{NUM_IDS - 1} and the "
                "ignore_index of labels. If these are ignored pixels, pass their id as ignore_index."
            )


def select_classes(
    pairs: np.ndarray, num_labels: int, ignore_index: int | None, num_predicted: int | None = None
) -> np.ndarray:
    """
    Cuts the confusion matrix `int64` `[K, P]` out of the pairs `[256, 256]` that `count_pairs` returns.

    Raises:
        `ValueError`: pairs outside the matrix; the message names the ids and their number of pixels.
    """
    num_predicted = num_labels if num_predicted is None else num_predicted
    if ignore_index is not None and 0 <= ignore_index < NUM_IDS:
        pairs = pairs.copy()
        pairs[ignore_index] = 0
    unknown = np.zeros((2, NUM_IDS + 1), dtype=np.int64)
    unknown[0, num_labels:NUM_IDS] = pairs[num_labels:].sum(axis=1)
    unknown[1, num_predicted:NUM_IDS] = pairs[:num_labels, num_predicted:].sum(axis=0)
    check_ids(unknown, num_labels, ignore_index, num_predicted)
    return pairs[:num_labels, :num_predicted].copy()


def _check_known(what: str, counts: np.ndarray, known: int, besides: str) -> None:
    unknown = np.flatnonzero(counts)
    if len(unknown):
        names = [str(index) if index < NUM_IDS else f"others than 0..{NUM_IDS - 1}" for index in unknown[:8]]
        listed = ", ".join(f"{name} ({counts[index]} pixels)" for name, index in zip(names, unknown, strict=False))
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        raise ValueError(
            f"{what} hold unknown ids: {listed}{more}; known are 0..{known - 1}{besides}. Map ids to the model's "
            "classes, or set num_labels and ignore_index to what the maps hold."
        )


def merge_classes(
    confusion: "np.ndarray | torch.Tensor", groups: Sequence[int], num_groups: int
) -> "np.ndarray | torch.Tensor":
    """
    Scores classes as groups: adds up rows and columns of a confusion matrix.

    Args:
        confusion (`[K, P]`):
            As `confusion_matrix` returns it.
        groups (sequence of K `int`):
            The group of every class; a value outside 0..G-1 means that the class belongs to none.
        num_groups (`int`):
            G.

    Returns:
        `int64` `[G, G + 1]` of the kind of `confusion`. Predictions outside every group are in the last column, where
        they are wrong for the labelled group and a false alarm of none.

    Raises:
        `ValueError`: another number of classes, or labelled pixels whose class is in no group.
    """
    counts = confusion.detach().cpu().numpy() if isinstance(confusion, torch.Tensor) else np.asarray(confusion)
    if counts.ndim != 2 or counts.shape[0] != len(groups) or counts.shape[1] < len(groups):
        raise ValueError(
            f"The confusion matrix has shape {counts.shape}, but the groups are of {len(groups)} classes. Use the "
            "rule of the dataset that the matrix was counted on."
        )
    targets = np.full(counts.shape[1], num_groups)
    targets[: len(groups)] = [group if 0 <= group < num_groups else num_groups for group in groups]
    merged = np.zeros((num_groups + 1, num_groups + 1), dtype=np.int64)
    np.add.at(merged, (targets[: len(groups), None], targets[None, :]), counts)
    if merged[num_groups].any():
        classes = np.flatnonzero((targets[: len(groups)] == num_groups) & counts.any(axis=1))
        raise ValueError(
            f"{merged[num_groups].sum()} pixels are labelled with classes {classes.tolist()}, which belong to no group "
            "of this rule. Use the rule of the dataset that the labels come from."
        )
    merged = merged[:num_groups]
    return torch.from_numpy(merged).to(confusion.device) if isinstance(confusion, torch.Tensor) else merged


def iou_scores(confusion: "np.ndarray | torch.Tensor") -> dict[str, Any]:
    """
    Scores of a confusion matrix `[K, P]`, P >= K, summed over all images of a dataset.

    Columns from K on count predictions of no class.

    Returns:
        `dict`: `mean_iou`, `mean_accuracy`, `overall_accuracy` (`float`) and `per_category_iou`,
        `per_category_accuracy` (`float64` `[K]`); fractions in 0..1, not rounded. IoU is intersection / union, accuracy
        intersection / labelled pixels. A class that is neither labelled nor predicted has IoU nan, one without
        labelled pixels accuracy nan; means leave nan out, and are nan if nothing is left.

    Raises:
        `ValueError`: not a matrix with at least as many columns as rows.
    """
    counts = confusion.detach().cpu().numpy() if isinstance(confusion, torch.Tensor) else np.asarray(confusion)
    if counts.ndim != 2 or counts.shape[1] < counts.shape[0]:
        raise ValueError(f"Expected a confusion matrix [K, P] with P >= K, got shape {counts.shape}.")
    hits = np.diagonal(counts)
    labelled = counts.sum(axis=1)
    union = labelled + counts[:, : len(counts)].sum(axis=0) - hits
    ious, accuracies = _ratio(hits, union), _ratio(hits, labelled)
    return {
        "mean_iou": _mean(ious),
        "mean_accuracy": _mean(accuracies),
        "overall_accuracy": float(_ratio(hits.sum(), labelled.sum())),
        "per_category_iou": ious,
        "per_category_accuracy": accuracies,
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
