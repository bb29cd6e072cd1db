# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What the benchmark of the two-stage inference says of what it has measured: rows, limits, a chart."""

import math
from collections.abc import Mapping, Sequence
from statistics import median

import torch

from vfmseg_hf.model.configuration_vfmseg import VFMSegConfig
from vfmseg_hf.model.modeling_vfmseg import VFMSegForSemanticSegmentation
from vfmseg_hf.model.windows import coarse_size, plan_windows
from vfmseg_hf.utils.plotting import new_figure

from .measuring import count_operations
from .two_stage_modes import LOOP, Mode, Outcome


Operations = Mapping[str, float]  # of one image, by group of operators

OURS, OTHERS = "this library", "other models, random weights"
COLOURS = {LOOP: "#8c8c8c", OURS: "#2f6db3", OTHERS: "#d98032"}


def count_stages(config: VFMSegConfig, height: int, width: int) -> dict[str, dict[str, int]]:
    """
    Operations of the coarse pass and of one window, each in the encoder and with its head, by group of operators.

    Raises:
        ValueError: if the coarse pass slides, which is several windows of its own.
    """
    if config.coarse_mode != "whole":
        raise ValueError(f"operations are counted for coarse_mode='whole' only, the model has {config.coarse_mode!r}")
    model = VFMSegForSemanticSegmentation(config)
    small = coarse_size((height, width), config.coarse_size, config.patch_size)
    top, left, bottom, right = plan_windows(height, width, config.window_size, config.window_stride)[0]
    patch = config.patch_size
    window = (1, 3, *(math.ceil(edge / patch) * patch for edge in (bottom - top, right - left)))
    context = (1, config.num_labels, *window[2:])
    coarse = (1, 3, *small)
    return {
        "coarse encoder": count_operations(model, coarse, call=lambda each, pixels: each.model(pixels)),
        "coarse": count_operations(
            model, coarse, call=lambda each, pixels: each.coarse_head(each.model(pixels).feature_maps)
        ),
        "window encoder": count_operations(model, window, call=lambda each, pixels: each.model(pixels)),
        "window": count_operations(model, window, context, call=type(model).refine_windows),
    }


def scale_operations(stages: Mapping[str, Operations], outcomes: Sequence[Outcome]) -> Operations:
    """Operations of an image with as many windows as were refined; the mean over the images."""
    refined = sum(sum(outcome.refined) for outcome in outcomes) / len(outcomes)
    return {group: stages["coarse"][group] + refined * stages["window"][group] for group in stages["coarse"]}


def half_limit(stages: Mapping[str, Operations], windows: int) -> float:
    """How much faster refining half of the windows can be than refining all: the ratio of their operations."""
    coarse, window = sum(stages["coarse"].values()), sum(stages["window"].values())
    return (coarse + windows * window) / (coarse + windows / 2 * window)


def describe(
    name: str,
    modes: Mapping[str, Mode],
    measured: Mapping[str, Mapping[str, object]],
    operations: Mapping[str, Operations],
    windows: int,
    peaks: Mapping[torch.dtype, float],
) -> dict[str, object]:
    """The row of a mode; "-" for what another model has not, and for what is not known."""
    mode, values = modes[name], measured[name]
    baseline, outcomes = measured[mode.baseline], values["outcomes"]
    seconds = median(values["seconds"])
    ratios = [b / s for b, s in zip(baseline["seconds"], values["seconds"], strict=True)]
    achieved = sum(operations[name].values()) / seconds
    agreement = dict.fromkeys(
        ("windows refined", "same decisions", "same labels", "largest difference", "outside encoder and heads"), "-"
    )
    if mode.is_ours:
        agreement |= compare(outcomes, baseline["outcomes"])
        agreement["windows refined"] = sum(sum(outcome.refined) for outcome in outcomes) / len(outcomes) / windows
        if values["outside"]:
            agreement["outside encoder and heads"] = median(values["outside"])
    return {
        "mode": name,
        "seconds": seconds,
        "times as fast": median(ratios),
        "images/s": 1 / seconds,
        **agreement,
        "GFLOP/s": achieved / 1e9,
        "of the matmul peak": achieved / peaks[mode.dtype] if mode.dtype in peaks else "-",
        "peak MiB": values["memory"] / 2**20,
    }


def compare(outcomes: Sequence[Outcome], baseline: Sequence[Outcome]) -> dict[str, object]:
    """Decisions, labels and, where the decisions are the same and there are any, logits against the baseline's."""
    pairs = list(zip(outcomes, baseline, strict=True))
    same_decisions = all(outcome.refined == expected.refined for outcome, expected in pairs)
    labels = [(outcome.labels.long() == expected.labels.long()).float().mean() for outcome, expected in pairs]
    difference = "-"
    if same_decisions and outcomes[0].logits is not None:
        difference = max(float((outcome.logits - expected.logits).abs().max()) for outcome, expected in pairs)
    return {
        "same decisions": same_decisions,
        "same labels": float(torch.stack(labels).mean()),
        "largest difference": difference,
    }


def check_float32(rows: list[dict[str, object]]) -> None:
    """Raise a `ValueError` unless the modes in float32 say what the loop says."""
    for row in rows:
        exact = row["mode"] in ("float32", "float32, gated", "float32, labels", "float32, strips")
        if exact and not (row["same decisions"] and row["same labels"] > 0.9999):
            raise ValueError(f"{row['mode']!r} is not what the published loop gives: {row}")


def describe_limit(
    name: str,
    modes: Mapping[str, Mode],
    measured: Mapping[str, Mapping[str, object]],
    operations: Mapping[str, Operations],
    peaks: Mapping[torch.dtype, float],
) -> dict[str, object]:
    """What a mode would take if all its counted operations ran at the peak, and how far it is from that."""
    mode, seconds, counted = modes[name], median(measured[name]["seconds"]), sum(operations[name].values())
    limit = counted / peaks[mode.dtype] if mode.dtype in peaks else None
    return {
        "mode": name,
        "GFLOP": counted / 1e9,
        "times fewer operations": sum(operations[mode.baseline].values()) / counted,
        "seconds": seconds,
        "limit": "-" if limit is None else limit,
        "times the limit": "-" if limit is None else seconds / limit,
    }


def describe_profile(name: str, profile: Mapping[str, float], operations: Operations) -> list[dict[str, object]]:
    """
    A row for each group of operators of one mode.

    Args:
        profile: seconds of each group, for one image.
        operations: counted ones of that image.
    """
    whole = sum(profile.values())
    return [
        {
            "mode": name,
            "operators": group,
            "seconds": seconds,
            "share": seconds / whole,
            "GFLOP/s": operations[group] / seconds / 1e9 if operations.get(group) and seconds else "-",
        }
        for group, seconds in profile.items()
    ]


def plot_seconds(result: Mapping[str, object], modes: Mapping[str, Mode], path: str) -> None:
    """
    A bar for the seconds of each mode and other model, in the order of the table, with its ratio to its baseline.

    Raises:
        ImportError: without matplotlib; the message names the extra.
    """
    names, kinds = list(modes), {}
    for name, mode in modes.items():
        kind = OTHERS if not mode.is_ours else LOOP if name.startswith(LOOP) else OURS
        kinds.setdefault(kind, []).append(name)
    rows = {row["mode"]: row for row in result["rows"]}
    figure, axes = new_figure(9, 1.4 + 0.34 * len(names))
    for kind, chosen in kinds.items():
        seconds = [rows[name]["seconds"] for name in chosen]
        drawn = axes.barh([names.index(name) for name in chosen], seconds, color=COLOURS[kind], label=kind)
        texts = [f"{rows[name]['seconds']:.3g} s, {rows[name]['times as fast']:.3g} x" for name in chosen]
        axes.bar_label(drawn, texts, padding=3, size="small")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.2 * max(row["seconds"] for row in rows.values()))  # room for the texts
    height, width = result["size"]
    axes.set_title(f"Segmenting an image of {height} x {width}")
    axes.set_xlabel(f"seconds per image, median of {result['repeats']} (x: times as fast as the published loop)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(kinds), frameon=False)
    figure.savefig(path, dpi=110)
