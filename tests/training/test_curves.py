# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The plot at the end of a training."""

import pytest
from PIL import Image

from vfmseg_hf.training.curves import domain_curves, plot_curves


HISTORY = [
    {"step": 1, "loss": 3.0, "content_loss": 2.0, "detail_loss": 1.0, "learning_rate": 1e-4},
    {"step": 1, "eval_day_mean_iou": 0.2, "eval_day_coarse_mean_iou": 0.1, "eval_day_refined": 1.0},
    {"step": 1, "eval_coarse_day_mean_iou": 0.5, "eval_coarse_day_coarse_mean_iou": 0.4},
    {"step": 1, "eval_mean_iou": 0.35, "eval_coarse_mean_iou": 0.25},
    {"step": 2, "loss": 2.0, "content_loss": 1.5, "detail_loss": 0.5},
    {"step": 2, "eval_day_mean_iou": 0.3, "eval_day_coarse_mean_iou": 0.2},
    {"step": 2, "eval_day_mean_iou": 0.4, "train_runtime": 3.0},
]


def test_points_of_domains():
    curves = domain_curves(HISTORY)
    assert curves["day", "final"] == [(1, 20.0), (2, 40.0)]
    assert curves["day", "coarse"] == [(1, 10.0), (2, 20.0)]
    assert curves["coarse_day", "final"] == [(1, 50.0)] and curves["coarse_day", "coarse"] == [(1, 40.0)]
    assert curves["", "final"] == [(1, 35.0)] and curves["", "coarse"] == [(1, 25.0)]
    assert len(curves) == 6


@pytest.mark.parametrize("history", [HISTORY, HISTORY[:1], []])
def test_plot_is_written(history, tmp_path):
    plot_curves(history, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > image.height and image.convert("L").getextrema() == (0, 255)
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    first = (0x1F, 0x77, 0xB4)  # of a line, or of its entry in the legend
    assert first in colours


def test_the_losses_of_a_single_log_are_seen(tmp_path):
    """Three points, not only the three entries of the legend."""
    counts = []
    for losses in ((3.0, 2.0, 1.0), (3.0, 3.0, 3.0)):  # in the second two points lie under the third
        entry = dict(zip(("loss", "content_loss", "detail_loss"), losses, strict=True))
        plot_curves([{"step": 5, **entry}], tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as image:
            colours = {colour: count for count, colour in image.convert("RGB").getcolors(1 << 24)}
        counts.append([colours[0x1F, 0x77, 0xB4], colours[0xFF, 0x7F, 0x0E], colours[0x2C, 0xA0, 0x2C]])
    apart, hidden = counts
    assert apart[0] > hidden[0] + 10 and apart[1] > hidden[1] + 10 and apart[2] == pytest.approx(hidden[2], abs=10)


def test_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'vfmseg-hf\[train\]'"):
        plot_curves(HISTORY, tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())
