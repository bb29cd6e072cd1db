# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The one place that imports matplotlib."""

from typing import Any


def import_figure() -> Any:
    """`matplotlib.figure.Figure`. Raises `ImportError` naming the extra if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'vfmseg-hf[train]'") from error
    return Figure


def new_figure(width: float, height: float, **settings: Any) -> tuple[Any, Any]:
    """
    A matplotlib figure that draws into files only, and its axes.

    Args:
        width, height: in inches.
        settings: of `Figure.subplots`.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    figure = import_figure()(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**settings)
