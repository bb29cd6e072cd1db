# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What a quickstart run reports: tables, sentences and a JSON file."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from ..evaluation import STAGES, plain_scores, software_versions
from ..files import write_file
from ..labels import CITYSCAPES_ID2LABEL, THIN_CLASSES
from .settings import QuickstartSettings


SOURCE = "game"
UNSEEN = ("day", "night", "rain", "camera")
REFERENCES = ("position prior", "colour lookup")
METHODS = (*REFERENCES, *STAGES)
GROUPS: dict[str, tuple[str, ...]] = {
    "all classes": tuple(CITYSCAPES_ID2LABEL.values()),
    "thin classes": THIN_CLASSES,
    "other classes": tuple(name for name in CITYSCAPES_ID2LABEL.values() if name not in THIN_CLASSES),
}

Scores = dict[str, dict[str, dict[str, float]]]  # domain -> method -> group -> mean IoU in 0..1


def group_means(scores: Mapping[str, object]) -> dict[str, float]:
    """Mean IoU of each of `GROUPS` over the classes that occur, from `metrics.iou_scores`."""
    ious = dict(zip(CITYSCAPES_ID2LABEL.values(), scores["per_category_iou"], strict=True))
    return {group: float(np.nanmean([ious[name] for name in names])) for group, names in GROUPS.items()}


def unseen_mean(scores: Scores, method: str, group: str = "all classes") -> float:
    """Mean over the unseen domains."""
    return float(np.mean([scores[domain][method][group] for domain in UNSEEN]))


def format_scores(scores: Scores) -> str:
    """One block per class group: references, coarse and final result by domain, mean IoU in percent."""
    head = "".join(f"{name:>9}" for name in (SOURCE, *UNSEEN, "unseen"))
    lines = [f"{'mean IoU in %':<17}{head}", f"{'':<17}{'(source)':>9}{'':>{9 * len(UNSEEN)}}{'(mean)':>9}"]
    for group in GROUPS:
        lines.append(group)
        for method in METHODS:
            values = [scores[domain][method][group] for domain in (SOURCE, *UNSEEN)]
            values.append(unseen_mean(scores, method, group))
            lines.append(f"  {method:<15}" + "".join(f"{100 * value:>9.1f}" for value in values))
    return "\n".join(lines)


def draw_conclusions(scores: Scores) -> list[str]:
    """What the scores say, in sentences, favourable or not."""
    beaten = [
        domain
        for domain in (SOURCE, *UNSEEN)
        if all(scores[domain]["final"]["all classes"] > scores[domain][name]["all classes"] for name in REFERENCES)
    ]
    lost = [domain for domain in (SOURCE, *UNSEEN) if domain not in beaten]
    lines = [
        "The model beats both references on the source and on every unseen domain."
        if not lost
        else f"The model does not beat both references on: {', '.join(lost)}."
    ]
    for group in GROUPS:
        gain = 100 * (unseen_mean(scores, "final", group) - unseen_mean(scores, "coarse", group))
        verb = "adds" if gain > 0 else "does not help:"
        lines.append(f"Refinement, {group}, mean of the unseen domains: {verb} {gain:+.1f} points.")
    return lines


def write_results(
    path: str | os.PathLike,
    settings: QuickstartSettings,
    scores: Scores,
    details: Mapping[str, Mapping[str, Mapping[str, object]]],
    parameters: int,
    seconds: float,
) -> None:
    """Everything that was measured, as JSON: fractions, `null` for classes that do not occur."""
    names = tuple(CITYSCAPES_ID2LABEL.values())
    result = {
        "what": "a toy run on procedural pictures; no figure of the paper",
        "settings": asdict(settings),
        "parameters": parameters,
        "seconds": round(seconds, 1),
        "groups": {group: list(members) for group, members in GROUPS.items()},
        "mean_iou": scores,
        "unseen_mean_iou": {
            method: {group: unseen_mean(scores, method, group) for group in GROUPS} for method in METHODS
        },
        "conclusions": draw_conclusions(scores),
        "domains": {
            domain: {method: plain_scores(names, value) for method, value in methods.items()}
            for domain, methods in details.items()
        },
        "versions": software_versions(),
    }
    write_file(path, json.dumps(result, indent=2) + "\n")
