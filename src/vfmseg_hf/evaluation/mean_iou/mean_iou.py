# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""mean_iou as an `evaluate` module that keeps counts instead of images.

`evaluate` copies this file alone into its cache and reads the imports line by line, so it imports the library by name.
"""

import inspect

import datasets
import evaluate
import numpy as np
import torch

from vfmseg_hf.evaluation.confusion import NUM_IDS, count_pairs, iou_scores, select_classes


_DESCRIPTION = """
Intersection over union per class, summed over all images before dividing, and its mean over the classes. Pixel counts
are added up as batches arrive: memory does not depend on the number of images, which may all differ in size.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of `[H, W]` arrays, tensors or PIL images, or one `[B, H, W]` array or tensor):
        Predicted class ids. What is predicted on ignored pixels does not matter.
    references (as `predictions`, of the same sizes):
        Labelled ids.
    num_labels (`int`):
        Number of classes; ids are 0..num_labels-1, at most 256. Other ids are errors.
    ignore_index (`int`):
        Pixels labelled so are left out. If it lies outside 0..255, it has to be known when images are added.
    nan_to_num (`float`, *optional*):
        Replaces nan in the results, after the means have been taken.
    label_map (`dict[int, int]`, *optional*):
        From ids of `references` to others; ids that it does not hold stay as they are. Predictions are not mapped.
    reduce_labels (`bool`, *optional*, defaults to `False`):
        Only `False`: labels are never shifted silently. `label_map` does the same in plain sight.
    groups (*optional*):
        A rule that scores classes as groups, such as `describe_dataset("camvid").evaluation`: anything with
        `merge(confusion [K, K]) -> [G, G + 1]`. Results are then per group.

Returns:
    `dict`: `mean_iou`, `mean_accuracy`, `overall_accuracy` (`float`), `per_category_iou` and `per_category_accuracy`
    (`float64` `[num_labels]`): fractions, not rounded. A class that is neither labelled nor predicted has IoU
    nan, one that is not labelled has accuracy nan; the means leave nan out.
"""

_SETTINGS = ("num_labels", "ignore_index", "label_map", "groups", "nan_to_num")


class MeanIoU(evaluate.Metric):
    """
    Streaming mean IoU; see `compute` for the arguments.

    Args:
        num_labels, ignore_index, label_map, groups, nan_to_num (*optional*):
            What `compute` would be told otherwise. Given here, unknown ids are errors of the batch that holds them,
            and nothing that `compute` says may contradict.
    """

    def __init__(self, config_name=None, num_process=1, process_id=0, **kwargs):
        if num_process != 1:
            raise ValueError(
                "mean_iou keeps its counts in one process. With several, sum the confusion matrices "
                "(vfmseg_hf.evaluation.confusion_matrix) over the processes and pass the sum to iou_scores."
            )
        of_evaluate = inspect.signature(evaluate.EvaluationModule.__init__).parameters
        self.settings = _known_settings({name: kwargs.pop(name) for name in list(kwargs) if name not in of_evaluate})
        super().__init__(config_name=config_name, num_process=num_process, process_id=process_id, **kwargs)
        self._clear()

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()}),
        )

    def _build_data_dir(self):
        return self._data_dir_root  # nothing is ever written there, so it need not exist or be writable

    def __len__(self):
        """Number of images added since the last result."""
        return self._images

    def _clear(self):
        self._pairs, self._images = np.zeros((NUM_IDS, NUM_IDS), dtype=np.int64), 0

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """
        Adds images; only their pixel counts are kept. A batch with an error is not counted at all.

        Args and errors are those of `compute`; `num_labels`, `ignore_index` and the others belong there, or into
        `evaluate.load`.
        """
        if kwargs:
            raise ValueError(
                f"Bad inputs for mean_iou: {sorted(kwargs)}. add_batch takes predictions and references; pass the "
                "others to evaluate.load or to compute."
            )
        pairs, images = self._count(predictions, references, self.settings)
        self._pairs, self._images = self._pairs + pairs, self._images + images

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Adds one image; see `add_batch`."""
        if prediction is None or reference is None:
            raise ValueError("mean_iou needs a prediction and a reference.")
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)

    def compute(self, *, predictions=None, references=None, **kwargs):
        """
        Scores of everything added since the last result, together with `predictions` and `references` if given here.

        The counts are dropped afterwards; if an error is raised, they are kept for another try.

        Raises:
            `ValueError`: nothing was added, sizes differ, an id is neither a class nor ignored, a setting is missing or
                contradicts what was said when the metric was loaded, or `reduce_labels=True`.
            `TypeError`: maps that do not hold whole numbers.
        """
        settings = self._merged_settings(kwargs)
        pairs, images = self._pairs, self._images
        if predictions is not None or references is not None:
            new_pairs, new_images = self._count(predictions, references, settings)
            pairs, images = pairs + new_pairs, images + new_images
        if images == 0:
            raise ValueError("mean_iou has no image to score. Call add_batch first, or pass predictions here.")
        confusion = _select(pairs, settings)
        groups, nan_to_num = settings.get("groups"), settings.get("nan_to_num")
        scores = iou_scores(confusion if groups is None else groups.merge(confusion))
        if nan_to_num is not None:
            scores = {name: np.nan_to_num(value, nan=nan_to_num) for name, value in scores.items()}
        self._clear()
        return scores

    def _merged_settings(self, given):
        given = _known_settings(given)
        for name, value in given.items():
            if name in self.settings and self.settings[name] != value and name != "nan_to_num":
                raise ValueError(
                    f"compute got {name}={value}, but the metric was loaded with {self.settings[name]}, by which "
                    "images may have been counted already. Say it in one place."
                )
        settings = {**self.settings, **given}
        for name in ("num_labels", "ignore_index"):
            if name not in settings:
                raise ValueError(f"mean_iou needs {name}. Pass it to compute, or when the metric is loaded.")
        return settings

    def _count(self, predictions, references, settings):
        if predictions is None or references is None:
            raise ValueError("mean_iou needs predictions and references.")
        if len(predictions) != len(references):
            raise ValueError(f"Got {len(predictions)} predictions for {len(references)} references; they are pairs.")
        total = np.zeros((NUM_IDS, NUM_IDS), dtype=np.int64)
        for index, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
            try:
                # label_map comes first: it may send ignore_index itself elsewhere, then those pixels count.
                ignored = settings.get("ignore_index")
                ignored = None if ignored in (settings.get("label_map") or {}) else ignored
                pairs = count_pairs(_as_map(prediction), _as_map(reference), ignored)
                if "num_labels" in settings and "ignore_index" in settings:
                    _select(pairs, settings)
            except (TypeError, ValueError) as error:
                raise type(error)(f"Image {index} of the batch: {error}") from error
            total += pairs
        return total, len(predictions)


def _as_map(value):
    return value if isinstance(value, torch.Tensor) else np.asarray(value)


def _known_settings(given):
    """Those of `given` without `reduce_labels=False`; raises a `ValueError` for what mean_iou does not obey."""
    given = dict(given)
    if given.pop("reduce_labels", False):
        raise ValueError(
            "reduce_labels=True is not supported: labels are never shifted silently. Pass "
            "label_map={0: 255, 1: 0, 2: 1, ...} to say which id becomes which."
        )
    if unknown := sorted(set(given) - set(_SETTINGS)):
        raise ValueError(f"mean_iou does not know {unknown}; it takes {list(_SETTINGS)} and reduce_labels=False.")
    return given


def _select(pairs, settings):
    label_map = settings.get("label_map")
    if label_map:
        mapped = pairs.copy()
        mapped[[old for old in label_map if 0 <= old < NUM_IDS]] = 0
        for old, new in label_map.items():
            if 0 <= old < NUM_IDS and new != settings["ignore_index"]:
                if not 0 <= new < NUM_IDS:
                    raise ValueError(f"label_map sends {old} to {new}, neither in 0..255 nor ignore_index.")
                mapped[new] += pairs[old]
        pairs = mapped
    return select_classes(pairs, settings["num_labels"], settings["ignore_index"])
