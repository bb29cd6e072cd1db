# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What a quickstart run reports: tables, sentences and a JSON file."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import torch

from ..evaluation import STAGES, plain_scores, software_versions
from ..model.labels import CITYSCAPES_ID2LABEL, THIN_CLASSES
from ..utils.files import write_file
from .settings import QuickstartSettings


SOURCE = "game"
UNSEEN = ("day", "night", "rain", "camera")
COLOUR_STEPS = (16, 64)  # coarse enough to carry over to new images, and fine enough to know the palette
LINEAR = "linear head"  # on the frozen foundation model; the toy has none
REFERENCES = ("position prior", *(f"{steps}-step lookup" for steps in COLOUR_STEPS), LINEAR)
METHODS = (*REFERENCES, *STAGES)
GROUPS: dict[str, tuple[str, ...]] = {
    "all classes": tuple(CITYSCAPES_ID2LABEL.values()),
    "thin classes": THIN_CLASSES,
    "other classes": tuple(name for name in CITYSCAPES_ID2LABEL.values() if name not in THIN_CLASSES),
}

Scores = dict[str, dict[str, dict[str, float | None]]]  # domain -> method -> group -> mean IoU in 0..1


def methods_of(scores: Scores) -> list[str]:
    """Those of `METHODS` that a run has scored."""
    return [method for method in METHODS if method in scores[SOURCE]]


def group_means(scores: Mapping[str, object], labelled: np.ndarray) -> dict[str, float | None]:
    """
    Mean IoU of each of `GROUPS` over its classes that are labelled in the domain; `None` if there is none.

    Args:
        scores: from `iou_scores`.
        labelled: bools, one for each class.
    """
    ious = dict(zip(CITYSCAPES_ID2LABEL.values(), zip(scores["per_category_iou"], labelled, strict=True), strict=True))
    chosen = {group: [iou for iou, known in (ious[name] for name in names) if known] for group, names in GROUPS.items()}
    return {group: float(np.mean(values)) if values else None for group, values in chosen.items()}


def unseen_mean(scores: Scores, method: str, group: str) -> float | None:
    """Mean over the unseen domains; `None` if the group occurs in none of them (they show the same scenes)."""
    values = [scores[domain][method][group] for domain in UNSEEN]
    return None if None in values else float(np.mean(values))


def format_scores(scores: Scores) -> str:
    """One block per class group: references, coarse and final result by domain, mean IoU in percent."""
    head = "".join(f"{name:>9}" for name in (SOURCE, *UNSEEN, "unseen"))
    lines = [f"{'mean IoU in %':<17}{head}", f"{'':<17}{'(source)':>9}{'':>{9 * len(UNSEEN)}}{'(mean)':>9}"]
    for group in GROUPS:
        lines.append(group)
        for method in methods_of(scores):
            values = [scores[domain][method][group] for domain in (SOURCE, *UNSEEN)]
            values.append(unseen_mean(scores, method, group))
            cells = ("-" if value is None else f"{100 * value:.1f}" for value in values)
            lines.append(f"  {method:<15}" + "".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines)


def draw_conclusions(scores: Scores) -> list[str]:
    """What the scores say, in sentences, favourable or not."""
    lines = []
    for group in GROUPS:
        if unseen_mean(scores, "final", group) is None:
            continue
        for reference in (name for name in methods_of(scores) if name in REFERENCES):
            lost = [
                domain
                for domain in (SOURCE, *UNSEEN)
                if scores[domain]["final"][group] <= scores[domain][reference][group]
            ]
            if lost or group == "all classes":
                verdict = f"does not beat it on {', '.join(lost)}" if lost else "beats it on the source and all others"
                lines.append(f"{reference}, {group}: the model {verdict}.")
        gain = round(100 * (unseen_mean(scores, "final", group) - unseen_mean(scores, "coarse", group)), 1) + 0  # no -0
        verdict = f"adds {gain:.1f} points" if gain > 0 else f"does not help: {gain:+.1f} points"
        lines.append(f"refinement, {group}: it {verdict} in the mean of the unseen domains.")
    return lines


def write_results(
    path: str | os.PathLike,
    settings: QuickstartSettings,
    scores: Scores,
    details: Mapping[str, Mapping[str, Mapping[str, object]]],
    parameters: Mapping[str, int],
    seconds: Mapping[str, float] | None,
    encoder: Mapping[str, str] | None,
    products: str,
    photographs: Mapping[str, object],
) -> None:
    """
    Everything that was measured, as JSON: fractions, `null` for what does not occur.

    Args:
        seconds: of the parts of the run; `None` of one that went on after a stop.
        encoder: where the foundation model comes from; `None` of the toy.
        products: what matrices were multiplied in, in training and scoring.
        photographs: scores on real images, by name.
    """
    names = tuple(CITYSCAPES_ID2LABEL.values())
    result = {
        "what": "a small run on procedural images; no figure of the paper",
        "encoder": encoder,
        "settings": asdict(settings),
        "parameters": parameters,
        "resumed": seconds is None,
        "seconds": None if seconds is None else {part: round(value, 1) for part, value in seconds.items()},
        "threads": torch.get_num_threads(),
        "products": products,
        "groups": {group: list(members) for group, members in GROUPS.items()},
        "mean_iou": scores,
        "unseen_mean_iou": {
            method: {group: unseen_mean(scores, method, group) for group in GROUPS} for method in methods_of(scores)
        },
        "conclusions": draw_conclusions(scores),
        "domains": {
            domain: {method: plain_scores(names, value) for method, value in methods.items()}
            for domain, methods in details.items()
        },
        "photographs": photographs,
        "versions": software_versions(),
    }
    write_file(path, json.dumps(result, indent=2, allow_nan=False) + "\n")
