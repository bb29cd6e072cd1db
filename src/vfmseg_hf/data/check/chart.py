# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Charts of what is in a dataset."""

import math
import textwrap
from collections.abc import Mapping
from io import BytesIO

import numpy as np

from ...utils.plotting import new_figure
from .summary import percent


COLUMNS = 4  # panels side by side, at most
TITLE_WIDTH = 42  # characters above a panel
LOWEST_SHARE = 1e-5  # where the axis starts, unless something is rarer


def class_chart(
    shares: Mapping[str, np.ndarray], id2label: Mapping[int, str], colours: np.ndarray, title: str
) -> bytes:
    """
    A bar chart of how frequent every class is, on a logarithmic axis, or rare classes could not be seen.

    Args:
        shares: for every panel, by its title, the share of the pixels of every class, `[K]` in 0..1.
        id2label: names of the classes `0..K - 1`.
        colours: of the classes, `uint8` `[K, 3]`, as label maps are shown in.
        title: of the whole chart.

    Returns:
        A PNG file.

    Raises:
        `ImportError`: matplotlib is not installed.
        `ValueError`: no panel, or no class that occurs.
    """
    present = np.concatenate([values[values > 0] for values in shares.values()]) if shares else np.array([])
    if len(present) == 0:
        raise ValueError("there is nothing to draw: no pixel has a class")
    names = [f"{name}  {index}" for index, name in id2label.items()]
    columns = min(COLUMNS, math.ceil(len(shares) ** 0.5))
    rows = math.ceil(len(shares) / columns)
    width, height = 1.6 + 3.4 * columns, 1.3 + (0.6 + 0.22 * len(names)) * rows
    figure, axes = new_figure(width, height, nrows=rows, ncols=columns, sharex=True, sharey=True, squeeze=False)
    figure.suptitle(title, parse_math=False)
    start = 10.0 ** math.floor(math.log10(min(present.min(), LOWEST_SHARE)))
    ticks = 10.0 ** np.arange(math.log10(start), 1)
    places, colours = np.arange(len(names)), colours / 255
    for axis in axes.flat[len(shares) :]:
        axis.remove()
    for axis, (name, values) in zip(axes.flat, shares.items(), strict=False):
        axis.barh(places, np.maximum(values - start, 0), left=start, color=colours, edgecolor="0.3", linewidth=0.5)
        for place, value in zip(places, values, strict=True):
            end, text = (value, percent(value)) if value else (start, "none")
            axis.annotate(text, (end, place), (3, 0), textcoords="offset points", va="center", size="x-small")
        axis.set(xscale="log", xlim=(start, 10), ylim=(len(names) - 0.4, -0.6))  # texts fit between 1 and 10
        axis.set_xticks(ticks, [f"{100 * tick:g} %" for tick in ticks], size="small", rotation=45)
        axis.set_yticks(places, names, parse_math=False)
        axis.minorticks_off()
        axis.tick_params(labelbottom=True)  # of shared axes, only the lowest ones have labels
        lines = [part for line in name.splitlines() for part in textwrap.wrap(line, TITLE_WIDTH)]
        axis.set_title("\n".join(lines), size="medium", parse_math=False)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
    content = BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()
