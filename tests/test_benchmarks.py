# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Benchmarks in tiny: that they measure what they say, check what they compare, and keep what they found."""

import argparse
import json
import re
import runpy
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY

from vfmseg_hf.benchmarks import BENCHMARKS, evaluation_memory, mean_iou, own_process
from vfmseg_hf.benchmarks.report import describe_machine, format_rows, write_benchmark
from vfmseg_hf.metrics import load_mean_iou


def run_script(monkeypatch, *arguments):
    script = REPOSITORY / "scripts" / "benchmark.py"
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    monkeypatch.syspath_prepend(script.parent)  # as Python does, where evaluate.py would hide the package evaluate
    runpy.run_path(str(script), run_name="__main__")


def test_mean_iou_streams_against_arrow(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mean_iou, "SIZE", (64, 128))
    run_script(monkeypatch, "mean-iou", "--maps", 2, "--repeats", 2, "--output", tmp_path)
    result = json.loads((tmp_path / "mean-iou.json").read_text())
    assert result["command"] == f"python scripts/benchmark.py mean-iou --maps 2 --repeats 2 --output {tmp_path}"
    streaming, wide, stored = result["rows"]
    assert streaming["way"] == "streaming, uint8" and streaming["times the first"] == 1
    assert stored["seconds per map"] > streaming["seconds per map"] > 0 and wide["way"] == "streaming, int64"
    assert all(len(taken) == 2 for taken in result["seconds_per_map"].values())
    assert result["machine"]["cores"] >= 1 and "torch" in result["machine"]["versions"]
    table = (tmp_path / "mean-iou.md").read_text()
    assert result["command"] in table and "| stored in Arrow |" in table
    assert "| stored in Arrow |" in capsys.readouterr().out


def test_another_module_is_measured_and_a_wrong_score_is_noticed(monkeypatch):
    monkeypatch.setattr(mean_iou, "SIZE", (64, 128))
    arguments = argparse.Namespace(maps=1, repeats=1, module="somewhere")
    monkeypatch.setattr(mean_iou.evaluate, "load", lambda name, cache_dir: load_mean_iou())
    assert mean_iou.run(arguments)["rows"][-1]["way"] == "evaluate's mean_iou"
    monkeypatch.setattr(mean_iou.evaluate, "load", lambda name, cache_dir: load_mean_iou(label_map={0: 1, 1: 0}))
    with pytest.raises(ValueError, match='by the way "evaluate\'s mean_iou" is .*, expected'):
        mean_iou.run(arguments)


def test_maps_are_label_maps_with_ignored_pixels_and_errors(monkeypatch):
    monkeypatch.setattr(mean_iou, "SIZE", (128, 256))
    for prediction, label in mean_iou.draw_maps(2):
        assert prediction.dtype == label.dtype == np.uint8 and prediction.shape == label.shape == (128, 256)
        assert prediction.max() < 19 and 0.1 < (prediction == label).mean() < 0.95


def test_evaluation_memory_measures_the_process_that_evaluates(monkeypatch, capsys):
    def run_here(command, **kwargs):
        assert command[:2] == [sys.executable, "-c"], "starting Python anew takes seconds"
        exec(command[2], {})
        return subprocess.CompletedProcess(command, 0, capsys.readouterr().out, "")

    monkeypatch.setattr(own_process.subprocess, "run", run_here)
    (row,) = evaluation_memory.run(argparse.Namespace(pictures=[2], size="64x128"))["rows"]
    assert row["pictures"] == 2 and row["peak MiB"] >= row["of it before"] > 50 and row["seconds"] > 0


def test_evaluation_memory_compares_the_most_with_the_fewest(monkeypatch):
    def measured(command, **kwargs):
        count = int(re.search(r"n=(\d+)&size=8x8", command[-1])[1])
        return subprocess.CompletedProcess(command, 0, f'a notice\n{{"peak MiB": {100 + count / 2}}}\n', "")

    monkeypatch.setattr(own_process.subprocess, "run", measured)
    result = evaluation_memory.run(argparse.Namespace(pictures=[30, 10], size="8x8"))
    assert result["rows"] == [{"pictures": 10, "peak MiB": 105.0}, {"pictures": 30, "peak MiB": 115.0}]
    assert result["growth_mib"] == 10
    failed = subprocess.CompletedProcess([], 1, "", "Traceback ...\nValueError: no size\n")
    monkeypatch.setattr(own_process.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(ValueError, match="n=10&size=8x8.* failed in its own process: ValueError: no size"):
        evaluation_memory.run(argparse.Namespace(pictures=[30, 10], size="8x8"))


def test_every_benchmark_says_what_it_is():
    for name, module in BENCHMARKS.items():
        module.add_arguments(argparse.ArgumentParser(name))
        assert module.__doc__.splitlines()[0].endswith(".")
    assert describe_machine()["cpu"]


def test_tables():
    assert format_rows([{"way": "a", "s": 0.123456}, {"way": "b", "s": 12}]).splitlines() == [
        "| way | s |", "| --- | --- |", "| a | 0.1235 |", "| b | 12 |",
    ]  # fmt: skip


def test_further_tables_have_headings(tmp_path):
    result = {"command": "measure", "machine": describe_machine(), "rows": [{"way": "a"}]}
    write_benchmark(tmp_path, "plain", result)
    write_benchmark(tmp_path, "more", {**result, "tables": {"Operators": [{"group": "b", "s": 1.5}]}})
    plain, more = ((tmp_path / f"{name}.md").read_text() for name in ("plain", "more"))
    assert more.removeprefix("# more").startswith(plain.removeprefix("# plain").rstrip())
    assert more.endswith("| a |\n\n## Operators\n\n| group | s |\n| --- | --- |\n| b | 1.5 |\n")
