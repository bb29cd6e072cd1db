# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Scores of a model on one domain, in one process or in several that share the images."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from ..utils.processes import process_rank, sum_over_processes
from .confusion import check_ids, iou_scores
from .counting import STAGES, ImageCounts, count_images
from .groups import EvaluationGroups


@dataclass
class DomainScores:
    """
    Scores of one domain.

    Attributes:
        classes: names of what is scored, from the dataset's rule.
        scores: `{"coarse": ..., "final": ...}`, each as `iou_scores` returns it (fractions).
        images: how many were scored.
        refined: share of the windows that were refined, 0..1; None of a model without windows, whose coarse and final
            scores are the same.
        seconds: from the first image's loading to the last one's count, where it was measured.
    """

    classes: tuple[str, ...]
    scores: dict[str, dict[str, object]]
    images: int
    refined: float | None
    seconds: float | None = None

    @property
    def num_classes(self) -> int:
        """Classes that occur, and so count in the mean of the final result."""
        return self.count_classes("final")

    def count_classes(self, stage: str) -> int:
        """Classes that are labelled or, wrongly, predicted in a stage, and so count in its mean."""
        return int(np.sum(~np.isnan(self.scores[stage]["per_category_iou"])))

    @property
    def images_per_second(self) -> float | None:
        """Of everything: reading, resizing, both stages, counting, in all processes together."""
        return self.images / self.seconds if self.seconds else None


def score_domain(matrices: np.ndarray, windows: np.ndarray, rule: EvaluationGroups, name: str) -> DomainScores:
    """
    Scores of a domain from what [`count_images`] returned for its images.

    Raises:
        ValueError: if no pixel of the domain is labelled with a class.
    """
    return _score_sums(matrices.sum(axis=0), windows.sum(axis=0), len(matrices), rule, name)


def _score_sums(
    matrices: np.ndarray, windows: np.ndarray, images: int, rule: EvaluationGroups, name: str
) -> DomainScores:
    if not matrices.any():
        raise ValueError(
            f"no pixel of the domain {name!r} has a class: all {images} label maps are ignored. Check the "
            "dataset and its split."
        )
    scores = {stage: iou_scores(rule.merge(matrix)) for stage, matrix in zip(STAGES, matrices, strict=True)}
    refined, count = windows
    return DomainScores(rule.names, scores, images, float(refined / count) if count else None)


def evaluate_domain(
    model: VFMSegForSemanticSegmentation,
    images: torch.utils.data.Dataset,
    name: str,
    refine: bool | str | None = None,
    flip: bool = False,
    num_workers: int = 0,
    progress: Callable[[Iterable], Iterable] | None = None,
    batch_size: int = 1,
) -> DomainScores:
    """
    Score a model on the images of one domain; nothing is kept of them but sums of counts.

    In a distributed run every process calls this, takes its share of the images, and gets the scores of all.

    Args:
        images: [`EvaluationImages`]; their classes are compared with the model's, by name, and brought into its
            order.
        refine, flip: as for [`count_images`].
        num_workers: processes that read and resize images while the model computes, two batches ahead.
        progress: wraps the iteration over this process's share, e.g. `tqdm`.
        batch_size: images, of different sizes if need be, that go through the model together. Each decides alone
            which of its windows are refined, but rounding in larger products can change the class of a pixel where
            two are equally likely.

    Raises:
        ValueError: if the model has other classes than the domain and nothing says which belong together, a label
            is none of its classes, no pixel is labelled with a class, or `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    images = images.for_model(model.config.id2label, name)
    classes, ignore_index = model.config.num_labels, model.config.semantic_loss_ignore_index
    rank, processes = process_rank()
    loader = DataLoader(
        images,
        batch_size=None,
        sampler=range(rank, len(images), processes),
        num_workers=num_workers,
        prefetch_factor=max(2, math.ceil(2 * batch_size / num_workers)) if num_workers else None,
        pin_memory=model.device.type == "cuda",
        generator=torch.Generator(),  # otherwise it draws from the global one
    )
    sums = ImageCounts.none(classes, model.device)
    start = time.perf_counter()
    for batch in _batches((progress or iter)(loader), batch_size):
        counts = count_images(
            model,
            [item["pixel_values"].to(model.device, model.dtype, non_blocking=True) for item in batch],
            [item["labels"].to(model.device, non_blocking=True) for item in batch],
            classes,
            ignore_index,
            refine,
            flip,
        )
        for total, of_images in zip(sums, counts, strict=True):
            total += of_images.sum(0)
    # Only here the host waits for the counts.
    matrices, windows, unknown = (sum_over_processes(counts).cpu().numpy() for counts in sums)
    check_ids(unknown, classes, ignore_index)
    domain = _score_sums(matrices, windows, len(images), images.evaluation, name)
    domain.seconds = time.perf_counter() - start
    return domain


def _batches(items: Iterable[dict], size: int) -> Iterator[list[dict]]:
    # Single images come from the loader, so that workers are ahead by images and progress shows images.
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def mean_over_domains(domains: Mapping[str, DomainScores], stage: str = "final", key: str = "mean_iou") -> float:
    """Unweighted mean over the domains of a score that `iou_scores` gives: by default the mean IoU."""
    return float(np.mean([domain.scores[stage][key] for domain in domains.values()]))
