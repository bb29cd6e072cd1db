# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Figure 4 as an image and as tables, from its record alone."""

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any

from ..data.base import enumeration
from ..utils.plotting import new_figure
from .figure4 import ALL, COARSE, GATED
from .figures import TWO_STAGES
from .table import NONE, markdown_table


LINES = {COARSE: (":", "o", "coarse only"), ALL: ("--", "s", "all windows"), GATED: ("-", "D", "gated (ours)")}

Record = Mapping[str, Any]


# --- image --------------------------------------------------------------------------------------------------------


def draw(record: Record) -> bytes:
    """
    The PNG file: scores against resolution and time; below, where a model has two stages, reliability.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    rows = 2 if record["reliability"] else 1
    figure, axes = new_figure(13, 5 * rows, nrows=rows, ncols=2, squeeze=False)
    colours = {name: f"C{number % 10}" for number, name in enumerate(record["models"])}
    _draw_resolutions(axes[0, 0], record, colours)
    _draw_budgets(axes[0, 1], record, colours)
    if rows > 1:
        _draw_windows(axes[1, 0], record, colours)
        _draw_pixels(axes[1, 1], record, colours)
    for panel in axes.flat:
        panel.grid(alpha=0.3)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def _draw_resolutions(panel: Any, record: Record, colours: Mapping[str, str]) -> None:
    for name, windows, scores in _lines(record):
        style, marker, label = LINES.get(windows, ("-", "^", "one look"))
        x, y = [score["resolution"] for score in scores], [100 * score["mean_iou"] for score in scores]
        panel.plot(x, y, style, marker=marker, markersize=5, color=colours[name], label=f"{name}, {label}")
    edges = sorted({score["resolution"] for score in record["resolutions"]})
    panel.set_xticks(edges, map(str, edges))
    panel.set_xlabel("test resolution: shortest edge of the image in pixels")
    panel.set(ylabel="mIoU in %, mean over the domains", title="(a) test resolution")
    panel.legend(fontsize="small")


def _draw_budgets(panel: Any, record: Record, colours: Mapping[str, str]) -> None:
    for name, about in record["models"].items():
        scores = [score for score in record["budgets"] if score["model"] == name]
        if about["kind"] != TWO_STAGES:
            (score,) = scores
            point = score["seconds"], 100 * score["mean_iou"]
            panel.plot(*point, "^", markersize=9, color=colours[name], label=f"{name}, one look")
            continue
        numbers = [score for score in scores if score["windows"] != GATED]
        x, y = [score["seconds"] for score in numbers], [100 * score["mean_iou"] for score in numbers]
        panel.plot(x, y, "-", marker=".", color=colours[name], label=f"{name}, windows at most")
        for score, *place in zip(numbers, x, y, strict=True):
            panel.annotate(str(score["windows"]), place, (0, 6), textcoords="offset points", ha="center", fontsize=8)
        (gated,) = (score for score in scores if score["windows"] == GATED)
        point = gated["seconds"], 100 * gated["mean_iou"]
        panel.plot(*point, "D", markersize=8, color=colours[name], markeredgecolor="black", label=f"{name}, gated")
    panel.set_xlim(left=0)
    panel.margins(y=0.12)
    panel.set_xlabel(f"seconds per image ({record['timing']['device']}, threads: {record['timing']['threads']})")
    panel.set(ylabel="mIoU in %, mean over the domains", title="(b) time, at each model's own resolution")
    panel.legend(fontsize="small")


def _draw_windows(panel: Any, record: Record, colours: Mapping[str, str]) -> None:
    counts = panel.twinx()
    several = len(record["reliability"])
    for number, (name, about) in enumerate(record["reliability"].items()):
        bins = about["windows_by_certainty"]
        _bars(counts, bins, [each["windows"] for each in bins], number, several, colours[name])
        for key, style, label in (("coarse", "o:", "coarse pass"), ("final", "D-", "after refinement")):
            known = [each for each in bins if each[key] is not None]
            middles = [(each["from"] + each["to"]) / 2 for each in known]
            shares = [100 * each[key] for each in known]
            panel.plot(middles, shares, style, markersize=5, color=colours[name], label=f"{name}, {label}")
        threshold = about["certainty_threshold"]
        panel.axvline(threshold, color=colours[name], linestyle="-.", label=f"{name}, refined up to {threshold:g}")
    _before(panel, counts)
    counts.set(ylabel="windows (bars)")
    panel.set(xlim=(0, 1), ylim=(0, 100), title="(c) windows by their certainty")
    panel.set(xlabel="certainty $C_k$ of a window", ylabel="labelled pixels that are right, in %")
    panel.legend(fontsize="small", loc="center right")


def _draw_pixels(panel: Any, record: Record, colours: Mapping[str, str]) -> None:
    counts = panel.twinx()
    panel.plot([0, 1], [0, 100], "--", color="grey", label="calibrated")
    several = len(record["reliability"])
    for number, (name, about) in enumerate(record["reliability"].items()):
        bins = about["pixels_by_probability"]
        total = sum(each["pixels"] for each in bins)
        _bars(counts, bins, [100 * each["pixels"] / total for each in bins], number, several, colours[name])
        known = [each for each in about["pixels_by_probability"] if each["pixels"]]
        error = f"{100 * about['expected_calibration_error']:.1f} %"
        x, y = [each["probability"] for each in known], [100 * each["right"] for each in known]
        panel.plot(x, y, "o-", markersize=5, color=colours[name], label=f"{name}, calibration error {error}")
    _before(panel, counts)
    counts.set(ylabel="share of the labelled pixels in % (bars)")
    panel.set(xlim=(0, 1), ylim=(0, 100), title="(d) pixels by their probability in the coarse pass")
    panel.set(xlabel="coarse probability of a pixel's best class", ylabel="labelled pixels that are right, in %")
    panel.legend(fontsize="small", loc="upper left")


def _bars(panel: Any, bins: Sequence[Record], heights: Sequence[float], number: int, several: int, colour: str) -> None:
    """A bar in every bin, in the place of one of several models."""
    width = (bins[0]["to"] - bins[0]["from"]) * 0.8 / several
    left = [each["from"] + 0.1 * (each["to"] - each["from"]) + number * width for each in bins]
    panel.bar(left, heights, width, align="edge", color=colour, alpha=0.2)


def _before(panel: Any, other: Any) -> None:
    """Draw a panel over the one that shares its place."""
    panel.set_zorder(other.get_zorder() + 1)
    panel.patch.set_visible(False)


def _lines(record: Record) -> Iterator[tuple[str, str | None, list[Record]]]:
    """Name of the model, its windows, and its scores by resolution."""
    for name in record["models"]:
        for windows in (COARSE, ALL, GATED, None):
            of_line = [s for s in record["resolutions"] if (s["model"], s["windows"]) == (name, windows)]
            if of_line:
                yield name, windows, sorted(of_line, key=lambda score: score["resolution"])


# --- tables -------------------------------------------------------------------------------------------------------


def write(record: Record) -> str:
    """The Markdown file."""
    domains = [
        f"{name} (`{about['dataset']}{'@' + about['split'] if about['split'] else ''}`, {about['images']} images)"
        for name, about in record["domains"].items()
    ]
    lines = [
        "# Figure 4",
        "",
        "![mIoU against resolution and time, reliability of the certainty](figure4.png)",
        "",
        f"mIoU in percent, mean over {enumeration(domains)}, by `vfmseg evaluate`'s rule. Labels are never resized.",
        *record["notes"],
        "",
        "## Test resolution",
        "",
        "The shortest edge of the image that a model is given. Models of two stages keep their own size of the coarse "
        "pass: their windows see the resolution, their coarse pass does not. Models that look once see the whole image "
        "at the resolution.",
        "",
        *_resolutions(record),
        "",
        "## Time",
        "",
        *_budgets(record),
    ]
    if record["reliability"]:
        lines += ["", "## Reliability of the certainty", "", *_reliability(record)]
    return "\n".join(lines) + "\n"


def _resolutions(record: Record) -> Iterator[str]:
    edges = sorted({score["resolution"] for score in record["resolutions"]})
    rows = []
    for name, windows, scores in _lines(record):
        by_edge = {score["resolution"]: _percent(score["mean_iou"]) for score in scores}
        rows.append([name, windows or NONE, *(by_edge.get(edge, NONE) for edge in edges)])
    return markdown_table(["model", "windows", *map(str, edges)], rows)


def _budgets(record: Record) -> Iterator[str]:
    timing = record["timing"]
    yield (
        "At each model's own resolution; a number is the most windows of an image that are refined, the least certain "
        f"first. Seconds are those of one image, from its pixels to its label map, on {timing['device']} "
        f"(threads: {timing['threads']}): medians of {timing['repeats']} rounds after one that does not count; in each "
        f"all rows took turns; and their mean over {timing['images']} images. They are said as multiples of the coarse "
        "pass too, the model's own or else that of the first model which has one."
    )
    yield ""
    rows = []
    for score in record["budgets"]:
        refined = NONE if score["refined"] is None else f"{100 * score['refined']:.0f} %"
        ratio = NONE if score["times_coarse"] is None else f"{score['times_coarse']:.2f}"
        windows = NONE if score["windows"] is None else str(score["windows"])
        rows.append([score["model"], windows, refined, _percent(score["mean_iou"]), f"{score['seconds']:.3f}", ratio])
    yield from markdown_table(["model", "windows", "refined", "mIoU", "seconds", "× coarse"], rows)


def _reliability(record: Record) -> Iterator[str]:
    yield (
        "Labelled pixels that are right, in percent: of the windows that the gate keeps and of those that it has "
        "refined, before and after, over all domains together. Windows overlap, so that some pixels count several "
        "times, and a window that is kept changes where it overlaps with one that is refined. The calibration error is "
        "that of the coarse probability of each pixel's best class."
    )
    yield ""
    shares = ["coarse pass", "after refinement"]
    rows = []
    for name, about in record["reliability"].items():
        error = f"{100 * about['expected_calibration_error']:.1f} %"
        rows += [[name, error, which, *_shares(about[which])] for which in ("kept", "refined")]
    yield from markdown_table(["model", "calibration error", "windows", "number", *shares], rows)
    for name, about in record["reliability"].items():
        yield ""
        yield f"Windows of {name} by their certainty, the share of their pixels above the threshold:"
        yield ""
        bins = about["windows_by_certainty"]
        rows = [[f"{each['from']:.1f} to {each['to']:.1f}", str(each["refined"]), *_shares(each)] for each in bins]
        yield from markdown_table(["certainty", "refined", "windows", *shares], rows)


def _shares(of: Record) -> list[str]:
    """How many windows, and what is right in them before and after."""
    return [str(of["windows"]), _percent(of["coarse"]), _percent(of["final"])]


def _percent(fraction: float | None) -> str:
    return NONE if fraction is None else f"{100 * fraction:.2f}"
