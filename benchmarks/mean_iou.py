# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Streaming mean IoU against the way of `evaluate`, which stores every label map in Arrow until `compute`.

`evaluate` ships no metric: its `mean_iou` comes from the Hub. `--module mean_iou` loads it from there, or from a folder
with a copy. The row "stored in Arrow" needs neither: it is `evaluate.Metric`'s own `add_batch` and `compute` with the
features of that module (images, which Arrow holds as PNG), and this library's counting behind them. It shows what
storing costs. The maps are labels of procedural scenes, one scene as the prediction of another.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median

import datasets
import evaluate
import numpy as np

from vfmseg_hf.data import open_dataset
from vfmseg_hf.evaluation import confusion_matrix, iou_scores, load_mean_iou


CLASSES, IGNORED = 19, 255
SIZE = (1024, 2048)

Maps = Sequence[tuple[np.ndarray, np.ndarray]]


class StoredMeanIoU(evaluate.Metric):
    """Counts when it is asked to compute, after `evaluate` has written the maps to an Arrow file and read them back."""

    def _info(self):
        features = datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, num_labels, ignore_index):
        pairs = zip(predictions, references, strict=True)
        return iou_scores(sum(confusion_matrix(np.array(p), np.array(r), num_labels, ignore_index) for p, r in pairs))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--maps", type=int, default=8, help="label maps of 1024x2048 per repeat")
    parser.add_argument("--repeats", type=int, default=5, help="repeats; the medians count")
    parser.add_argument("--module", help="what evaluate.load takes, to measure evaluate's mean_iou itself as well")


def draw_maps(count: int) -> Maps:
    """`count` pairs of prediction and labels, `uint8` `[1024, 2048]`."""
    rows = open_dataset(f"streets:game?n={count + 1}&size={SIZE[0]}x{SIZE[1]}")
    labels = [np.array(row["label"]) for row in rows]
    return [(np.where(first == IGNORED, 0, first).astype(np.uint8), second) for first, second in pairwise(labels)]


def time_metric(make: Callable[[], evaluate.Metric], maps: Maps) -> tuple[float, dict[str, object]]:
    """Seconds per map from the first `add_batch` to the end of `compute`, and the scores."""
    metric, start = make(), time.perf_counter()
    for prediction, label in maps:
        metric.add_batch(predictions=[prediction], references=[label])
    scores = metric.compute(num_labels=CLASSES, ignore_index=IGNORED)
    return (time.perf_counter() - start) / len(maps), scores


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """
    Seconds per map of every way, taken in turns in one run.

    Raises:
        ValueError: if the ways disagree on a score by more than 1e-9.
    """
    maps = draw_maps(arguments.maps)
    with tempfile.TemporaryDirectory() as cache:
        ways = {
            "streaming, uint8": (load_mean_iou, maps),
            "streaming, int64": (load_mean_iou, [tuple(ids.astype(np.int64) for ids in pair) for pair in maps]),
            "stored in Arrow": (lambda: StoredMeanIoU(cache_dir=cache), maps),
        }
        if arguments.module:
            ways["evaluate's mean_iou"] = (lambda: evaluate.load(arguments.module, cache_dir=cache), maps)
        seconds = {way: [] for way in ways}
        for _ in range(arguments.repeats):
            for way, (make, given) in ways.items():
                taken, scores = time_metric(make, given)
                seconds[way].append(taken)
                check_scores(way, scores, maps)
    first = median(seconds["streaming, uint8"])
    return {
        "size": list(SIZE),
        "maps": arguments.maps,
        "repeats": arguments.repeats,
        "module": arguments.module,
        "seconds_per_map": seconds,
        "rows": [
            {"way": way, "seconds per map": median(taken), "times the first": median(taken) / first}
            for way, taken in seconds.items()
        ],
    }


def check_scores(way: str, scores: dict[str, object], maps: Maps) -> None:
    """Raises a `ValueError` unless the scores are those of the summed confusion matrices."""
    expected = iou_scores(sum(confusion_matrix(*pair, CLASSES, IGNORED) for pair in maps))
    for key, value in expected.items():
        if not np.allclose(scores[key], value, rtol=0, atol=1e-9, equal_nan=True):
            raise ValueError(f"{key} by the way {way!r} is {scores[key]}, expected {value}")
