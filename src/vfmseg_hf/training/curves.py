# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The course of a training as an image: losses, and mean IoU per domain."""

import os
from collections.abc import Mapping, Sequence
from io import BytesIO

from ..utils.files import write_file
from ..utils.plotting import new_figure


LOSSES = {"loss": "joint", "content_loss": "content (coarse)", "detail_loss": "detail (refined)"}
SUFFIX = "_mean_iou"


def plot_curves(history: Sequence[Mapping[str, float]], path: str | os.PathLike) -> None:
    """
    Draw the losses, and the mean IoU of every evaluation: final results as lines, coarse ones dashed, one colour per
    domain, their mean in black.

    Args:
        history: `trainer.state.log_history`; mean IoU in 0..1, shown in percent.
        path: PNG file to write.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    scores = domain_curves(history)
    figure, axes = new_figure(11 if scores else 5.5, 4, ncols=2 if scores else 1, squeeze=False)
    losses = axes[0, 0]
    for key, label in LOSSES.items():
        points = [(entry["step"], entry[key]) for entry in history if key in entry]
        marker = "o" if len(points) == 1 else None  # a line through one point is none
        losses.plot(*zip(*points, strict=True) if points else ([], []), label=label, marker=marker)
    losses.set(xlabel="step", ylabel="loss", ylim=(0, None))
    losses.legend()
    if scores:
        panel = axes[0, 1]
        domains = sorted({name for name, _ in scores if name})
        for (name, stage), points in scores.items():
            colour = f"C{domains.index(name) % 10}" if name else "black"
            label = f"{name or 'mean of domains'}, {stage}"
            style = "--" if stage == "coarse" else "-"
            panel.plot(*zip(*points, strict=True), style, marker="o", markersize=3, color=colour, label=label)
        panel.set(xlabel="step", ylabel="mean IoU in %", ylim=(0, None))
        panel.legend(fontsize="small")
    for panel in axes.flat:
        panel.set_xlim(left=0)
        panel.grid(alpha=0.3)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_file(path, buffer.getvalue())


def domain_curves(history: Sequence[Mapping[str, float]]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """
    Points (step, mean IoU in percent) by domain and stage (`"final"`, `"coarse"`); the domain of the mean is `""`.

    Where several entries are of one step, as after a resume, the last one counts.
    """
    points: dict[tuple[str, str], dict[int, float]] = {}
    for entry in history:
        for key, value in entry.items():
            if not (key.startswith("eval_") and key.endswith(SUFFIX)):
                continue
            name = key.removeprefix("eval_").removesuffix("mean_iou").removesuffix("_")
            coarse = name == "coarse" or name.endswith("_coarse")
            name = name.removesuffix("coarse").removesuffix("_") if coarse else name
            points.setdefault((name, "coarse" if coarse else "final"), {})[entry["step"]] = 100 * value
    return {key: sorted(steps.items()) for key, steps in points.items()}
