# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What a limit on the refined windows costs: mean IoU and seconds per image of a trained model for several budgets.

The least certain windows are refined first, whatever the thresholds say, so that a budget of 1 refines all. Seconds are
of the whole evaluation, with drawing or reading the images.
"""

import argparse
import time

from vfmseg_hf.data import open_dataset
from vfmseg_hf.evaluation import evaluate_domain, mean_over_domains
from vfmseg_hf.prediction.predict import load_model
from vfmseg_hf.training import EvaluationImages
from vfmseg_hf.utils.plotting import new_figure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="directory of a trained model")
    parser.add_argument("--data", nargs="+", required=True, metavar="SPEC[@SPLIT]", help="datasets to score it on")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.0, 0.1, 0.25, 0.5, 0.75, 1.0], help="shares")
    parser.add_argument("--plot", help="file for a chart of the curve (needs the extra 'train')")
    parser.add_argument("--device", default="auto", help="e.g. cpu or cuda:0")


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """
    Scores of every budget, the domains' mean.

    Raises:
        ValueError: if a budget is no share, or a dataset cannot be scored.
    """
    model, processor = load_model(arguments.model, arguments.device)
    domains = {}
    for item in arguments.data:
        spec, _, split = item.partition("@")
        domains[item] = EvaluationImages(open_dataset(spec, split=split) if split else open_dataset(spec), processor)
    rows = []
    for budget in arguments.budgets:
        model.config.max_window_share = budget
        start = time.perf_counter()
        scores = {name: evaluate_domain(model, images, name, refine="all") for name, images in domains.items()}
        seconds = time.perf_counter() - start
        rows.append(
            {
                "budget": budget,
                "windows refined": sum(score.refined for score in scores.values()) / len(scores),
                "mean IoU": mean_over_domains(scores),
                "coarse mean IoU": mean_over_domains(scores, "coarse"),
                "seconds per image": seconds / sum(score.images for score in scores.values()),
            }
        )
    if arguments.plot:
        plot_curve(rows, arguments.plot)
    return {"model": arguments.model, "data": arguments.data, "rows": rows}


def plot_curve(rows: list[dict[str, float]], path: str) -> None:
    """
    Mean IoU over the share of windows that were refined.

    Raises:
        ImportError: without matplotlib; the message names the extra.
    """
    figure, axes = new_figure(6, 4)
    share, score = ([100 * row[key] for row in rows] for key in ("windows refined", "mean IoU"))
    axes.plot(share, score, marker="o", label="refined within the budget")
    axes.axhline(100 * rows[0]["coarse mean IoU"], color="#8c8c8c", linestyle="--", label="coarse pass alone")
    axes.set_xlabel("windows refined in %, the least certain first")
    axes.set_ylabel("mean IoU in %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
