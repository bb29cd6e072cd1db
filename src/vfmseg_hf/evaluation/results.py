# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Scores as tables for people, in percent, and as JSON with everything that it takes to repeat them."""

import json
import os
from collections.abc import Mapping, Sequence
from importlib import import_module

import numpy as np
from datasets import Dataset
from PIL.Image import Resampling
from transformers.image_processing_base import ImageProcessingMixin

from ..methods import OtherModel, SingleStageModel
from ..model.image_processing_pil_vfmseg import VFMSegImageProcessorMixin
from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from ..utils.files import write_file
from .classes import ClassMatch
from .counting import STAGES, looks_twice
from .domain import DomainScores, mean_over_domains
from .protocols import Protocol


MEANS = {"mIoU": "mean_iou", "mAcc": "mean_accuracy", "aAcc": "overall_accuracy"}
INFERENCE_FIELDS = (
    "coarse_size",
    "coarse_mode",
    "window_size",
    "window_stride",
    "confidence_threshold",
    "certainty_threshold",
    "keep_at_threshold",
    "certainty_scope",
    "position_interpolation",
    "max_windows",
    "max_window_share",
)


# --- for people ---------------------------------------------------------------------------------------------------


def format_classes(name: str, domain: DomainScores) -> str:
    """IoU and accuracy of every class of a domain in percent, coarse against final; `-` for what does not occur."""
    lines = [f"{name:<20}{'IoU coarse':>12}{'final':>8}{'Acc coarse':>13}{'final':>8}"]
    keys = ("per_category_iou", "per_category_accuracy")
    for index, label in enumerate(domain.classes):
        values = [_percent(domain.scores[stage][key][index]) for key in keys for stage in STAGES]
        lines.append("{:<20}{:>12}{:>8}{:>13}{:>8}".format(label, *values))
    return "\n".join(lines)


def format_domains(domains: Mapping[str, DomainScores]) -> str:
    """Means over the classes in percent, coarse and final, per domain and over the domains; windows refined, speed."""
    header = "".join(f"{title:>8}" for title in MEANS)
    lines = [f"{'domain':<14}{'stage':<7}{header}{'classes':>8}{'images':>9}{'refined':>9}{'images/s':>9}"]
    for name, domain in domains.items():
        for stage, label in zip(STAGES, (name, ""), strict=True):
            values = "".join(f"{_percent(domain.scores[stage][key]):>8}" for key in MEANS.values())
            lines.append(f"{label:<14}{stage:<7}{values}{domain.count_classes(stage):>8}")
        refined = "-" if domain.refined is None else f"{domain.refined:.1%}"
        speed = f"{domain.images_per_second:.2f}" if domain.seconds else "-"
        lines[-1] += f"{domain.images:>9}{refined:>9}{speed:>9}"
    if any(domain.refined is None for domain in domains.values()):
        lines.append("The model looks at an image once: coarse and final are the same.")
    if len(domains) > 1:
        for stage, label in zip(STAGES, ("mean", ""), strict=True):
            means = "".join(f"{_percent(mean_over_domains(domains, stage, key)):>8}" for key in MEANS.values())
            counts = sorted({domain.count_classes(stage) for domain in domains.values()})
            lines.append(f"{label:<14}{stage:<7}{means}{'/'.join(map(str, counts)):>8}")
    return "\n".join(lines)


def _percent(fraction: float) -> str:
    return "-" if np.isnan(fraction) else f"{100 * fraction:.2f}"


# --- for machines -------------------------------------------------------------------------------------------------


def describe_protocol(
    protocol: Protocol,
    model: VFMSegForSemanticSegmentation | SingleStageModel | OtherModel,
    processor: VFMSegImageProcessorMixin | ImageProcessingMixin,
    refine: str,
    flip: bool,
) -> dict[str, object]:
    """
    What decides a score beside the weights and the data.

    Args:
        model, processor: as the protocol has made them.
        refine: a key of `prediction.REFINE_MODES`.
        flip: whether each image's mirror image was seen as well.
    """
    return {
        "name": protocol.name,
        "text": protocol.text,
        **_describe_processor(processor),
        **{name: getattr(model.config, name) for name in INFERENCE_FIELDS if hasattr(model.config, name)},
        **({"refine": refine} if looks_twice(model) else {}),
        "flip": flip,
        "labels": "never resized; logits are resized to them, bilinearly",
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def _describe_processor(processor: VFMSegImageProcessorMixin | ImageProcessingMixin) -> dict[str, object]:
    if not isinstance(processor, VFMSegImageProcessorMixin):  # another library's, which has fields of its own
        return {"image_processor": type(processor).__name__, "image_processor_settings": processor.to_dict()}
    resize = {
        "size": dict(processor.size),
        "resample": Resampling(processor.resample).name.lower(),
        "antialias": processor.antialias,
    }
    return {
        "resize": resize if processor.do_resize else None,
        "image_processor": type(processor).__name__,
        "image_mean": list(processor.image_mean),
        "image_std": list(processor.image_std),
    }


def describe_domain(spec: str, dataset: Dataset, match: ClassMatch | None = None) -> dict[str, object]:
    """
    Which images were scored: the spec, the split, and what the dataset says of itself, with its mapping of ids.

    Args:
        match: how its classes became the model's; None where they are the same in the same order.
    """
    return {
        "dataset": spec,
        "split": None if dataset.split is None else str(dataset.split),
        "description": dataset.info.description,
        "class_mapping": match and {"said": match.said, "classes": match.mapping},
    }


def software_versions(*more: str) -> dict[str, str]:
    """
    What decides a score beside weights, data and protocol.

    Args:
        more: modules to name beside the usual ones.

    Returns:
        Versions by module: of the module that runs, which need not be installed; `"unknown"` where it does not say.
    """
    names = ("vfmseg_hf", "torch", "transformers", "datasets", *more)
    return {name: str(getattr(import_module(name), "__version__", "unknown")) for name in names}


def plain_scores(classes: Sequence[str], scores: Mapping[str, object]) -> dict[str, object]:
    """`iou_scores` as JSON has it: fractions by class name, `None` for classes that do not occur."""
    plain = {key: _or_none(scores[key]) for key in MEANS.values()}
    for title, key in (("iou", "per_category_iou"), ("accuracy", "per_category_accuracy")):
        plain[title] = {name: _or_none(value) for name, value in zip(classes, scores[key], strict=True)}
    return plain


def _or_none(fraction: float) -> float | None:
    return None if np.isnan(fraction) else float(fraction)


def write_scores(
    path: str | os.PathLike,
    domains: Mapping[str, DomainScores],
    datasets: Mapping[str, Mapping[str, object]],
    about: Mapping[str, object],
) -> None:
    """
    Write the scores as JSON: fractions, not rounded, `null` for absent classes.

    The file of a run that is not over is valid too: `complete` is false in it, and its means are `null`.

    Args:
        domains: the scores so far.
        datasets: of all domains of the run, by name, from [`describe_domain`]; and with it, under `trained_on`, how
            many of the images the model was trained on, None where that is not known.
        about: what else belongs to the result: the model, [`describe_protocol`], ...
    """
    complete = set(domains) == set(datasets)
    result = {
        "complete": complete,
        **about,
        "mean": {
            stage: {key: _or_none(mean_over_domains(domains, stage, key)) for key in MEANS.values()} for stage in STAGES
        }
        if complete
        else None,
        "domains": {
            name: {
                **datasets[name],
                "images": domain.images,
                "num_classes": domain.num_classes,
                "refined": domain.refined,
                "images_per_second": domain.images_per_second,
                **{stage: plain_scores(domain.classes, domain.scores[stage]) for stage in STAGES},
            }
            for name, domain in domains.items()
        },
        "versions": software_versions(),
    }
    write_file(path, json.dumps(result, indent=2, allow_nan=False) + "\n")
