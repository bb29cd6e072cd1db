# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Scores of a model on domains, from confusion matrices of the coarse and the final result of one pass."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch

from .corpora import EvaluationGroups
from .files import write_file
from .image_processing_pil_vfmseg import VFMSegImageProcessorMixin
from .inference_vfmseg import resize_bilinear
from .metrics import confusion_matrix, iou_scores
from .modeling_vfmseg import VFMSegForSemanticSegmentation


STAGES = ("coarse", "final")


@dataclass
class DomainScores:
    """
    Scores of one domain.

    Attributes:
        classes: names of what is scored, from the corpus's rule.
        scores: `{"coarse": ..., "final": ...}`, each as `metrics.iou_scores` returns it (fractions).
        pictures: how many were scored.
        refined: share of the windows that were refined, 0..1.
    """

    classes: tuple[str, ...]
    scores: dict[str, dict[str, object]]
    pictures: int
    refined: float

    @property
    def num_classes(self) -> int:
        """Classes that occur, and so count in the mean."""
        return int(np.sum(~np.isnan(self.scores["final"]["per_category_iou"])))


@torch.no_grad()
def count_pictures(
    model: torch.nn.Module,
    pixel_values: Sequence[torch.Tensor],
    labels: Sequence[torch.Tensor],
    num_labels: int,
    ignore_index: int,
    refine: bool | str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Confusion matrices of some pictures, at their labels' sizes; the logits are resized, the labels never.

    Args:
        model: a [`VFMSegForSemanticSegmentation`] in eval mode, or a wrapper of one.
        pixel_values: pictures `[3, h, w]` of any sizes; runs of one size go through the model together.
        labels: label maps of any sizes.

    Returns:
        `int64` `[B, 2, num_labels, num_labels]` (coarse, final; labelled, predicted), and `int64` `[B, 2]`: windows
        refined, and windows.
    """
    matrices, windows = [], []
    start = 0
    while start < len(pixel_values):
        end = start + 1
        while end < len(pixel_values) and pixel_values[end].shape == pixel_values[start].shape:
            end += 1
        output = model(torch.stack(list(pixel_values[start:end])), refine=refine, return_dict=True)
        for number, label in enumerate(labels[start:end]):
            pair = [
                confusion_matrix(
                    resize_bilinear(logits[number : number + 1].float(), label.shape)[0].argmax(dim=0),
                    label,
                    num_labels,
                    ignore_index,
                )
                for logits in (output.coarse_logits, output.logits)
            ]
            matrices.append(torch.stack(pair))
        windows.append(
            torch.stack([output.refined.sum(1), torch.full_like(output.refined.sum(1), output.refined.shape[1])], 1)
        )
        start = end
    return torch.stack(matrices), torch.cat(windows)


def score_domain(matrices: np.ndarray, windows: np.ndarray, rule: EvaluationGroups, name: str) -> DomainScores:
    """
    Scores of a domain from what [`count_pictures`] returned for its pictures.

    Raises:
        ValueError: if no pixel of the domain is labelled with a class.
    """
    total = matrices.sum(axis=0)
    if not total.any():
        raise ValueError(
            f"no pixel of the domain {name!r} has a class: all {len(matrices)} label maps are ignored. Check the "
            "corpus and its split."
        )
    scores = {stage: iou_scores(rule.merge(matrix)) for stage, matrix in zip(STAGES, total, strict=True)}
    refined, count = windows.sum(axis=0)
    return DomainScores(rule.names, scores, len(matrices), float(refined / count))


def mean_over_domains(domains: Mapping[str, DomainScores], stage: str = "final") -> float:
    """Unweighted mean of the domains' mean IoU."""
    return float(np.mean([domain.scores[stage]["mean_iou"] for domain in domains.values()]))


def evaluate_domain(
    model: VFMSegForSemanticSegmentation,
    pictures: torch.utils.data.Dataset,
    name: str,
    refine: bool | str | None = None,
    progress=None,
) -> DomainScores:
    """
    Score a model on the pictures of one domain, one by one.

    Args:
        pictures: [`EvaluationPictures`].
        progress: wraps the iteration, e.g. `tqdm`.
    """
    counts = []
    for index in (progress or iter)(range(len(pictures))):
        item = pictures[index]
        counts.append(
            count_pictures(
                model,
                [item["pixel_values"].to(model.device, model.dtype)],
                [item["labels"].to(model.device)],
                model.config.num_labels,
                model.config.semantic_loss_ignore_index,
                refine,
            )
        )
    matrices, windows = (torch.cat(parts).cpu().numpy() for parts in zip(*counts, strict=True))
    return score_domain(matrices, windows, pictures.evaluation, name)


def format_domains(domains: Mapping[str, DomainScores]) -> str:
    """A table for people: mean IoU in percent, coarse against final, per domain and in the mean."""
    lines = [f"{'domain':<16}{'pictures':>9}{'classes':>9}{'coarse':>9}{'final':>9}{'refined':>9}"]
    for name, domain in domains.items():
        coarse, final = (100 * domain.scores[stage]["mean_iou"] for stage in STAGES)
        lines.append(
            f"{name:<16}{domain.pictures:>9}{domain.num_classes:>9}{coarse:>9.2f}{final:>9.2f}{domain.refined:>9.1%}"
        )
    if len(domains) > 1:
        counts = sorted({domain.num_classes for domain in domains.values()})
        coarse, final = (100 * mean_over_domains(domains, stage) for stage in STAGES)
        lines.append(f"{'mean':<16}{'':>9}{'/'.join(map(str, counts)):>9}{coarse:>9.2f}{final:>9.2f}")
    return "\n".join(lines)


def write_scores(
    path: str | os.PathLike,
    domains: Mapping[str, DomainScores],
    model: VFMSegForSemanticSegmentation,
    processor: VFMSegImageProcessorMixin,
    refine: str,
) -> None:
    """Write the scores as JSON (fractions, `null` for absent classes), with what one has to know to repeat them."""
    config = model.config
    keys = ("coarse_size", "coarse_mode", "window_size", "window_stride", "confidence_threshold", "certainty_threshold")
    result = {
        "domains": {
            name: {
                "pictures": domain.pictures,
                "num_classes": domain.num_classes,
                "refined": domain.refined,
                **{stage: plain_scores(domain.classes, domain.scores[stage]) for stage in STAGES},
            }
            for name, domain in domains.items()
        },
        "mean": {stage: {"mean_iou": mean_over_domains(domains, stage)} for stage in STAGES},
        "protocol": {
            "refine": refine,
            "size": dict(processor.size) if processor.do_resize else None,
            **{key: getattr(config, key) for key in keys},
            "dtype": str(model.dtype).removeprefix("torch."),
        },
        "versions": software_versions(),
    }
    write_file(path, json.dumps(result, indent=2) + "\n")


def software_versions() -> dict[str, str]:
    """What decides a score beside the weights."""
    return {name: version(name.replace("_", "-")) for name in ("vfmseg_hf", "torch", "transformers")}


def plain_scores(classes: Sequence[str], scores: Mapping[str, object]) -> dict[str, object]:
    """`metrics.iou_scores` as JSON has it: fractions by class name, `None` for classes that do not occur."""
    ious = [None if np.isnan(value) else float(value) for value in scores["per_category_iou"]]
    means = {key: scores[key] for key in ("mean_iou", "mean_accuracy", "overall_accuracy")}
    return means | {"iou": dict(zip(classes, ious, strict=True))}
