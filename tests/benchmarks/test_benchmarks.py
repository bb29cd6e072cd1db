# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Benchmarks in tiny: that they measure what they say, check what they compare, and keep what they found."""

import argparse
import importlib
import json
import math
import re
import runpy
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from benchmarks import BENCHMARKS, evaluation_memory, inference_memory, mean_iou, own_process
from benchmarks.records import describe_machine, format_rows, write_benchmark
from tests.support import REPOSITORY
from vfmseg_hf.evaluation import load_mean_iou


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


def test_a_call_in_a_process_of_its_own(tmp_path, monkeypatch):
    """Which finds modules where this process does: `benchmarks` is installed nowhere."""
    (tmp_path / "only_here.py").write_text("def double(number):\n    return 2 * number\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert own_process.call_in_own_process(importlib.import_module("only_here").double, 3) == 6
    assert own_process.call_in_own_process(math.hypot, 3, 4) == 5
    with pytest.raises(ValueError, match=r"sqrt\(-1,\) failed in its own process: ValueError: "):
        own_process.call_in_own_process(math.sqrt, -1)


@pytest.fixture
def in_this_process(monkeypatch, capsys):
    """What is meant for a process of its own runs here: starting Python anew takes seconds."""

    def run_here(command, **kwargs):
        assert command[:2] == [sys.executable, "-c"]
        exec(command[2], {})
        return subprocess.CompletedProcess(command, 0, capsys.readouterr().out, "")

    monkeypatch.setattr(own_process.subprocess, "run", run_here)


def test_evaluation_memory_measures_the_process_that_evaluates(in_this_process):
    (row,) = evaluation_memory.run(argparse.Namespace(images=[2], size="64x128"))["rows"]
    assert row["images"] == 2 and row["peak MiB"] >= row["of it before"] > 50 and row["seconds"] > 0


def test_evaluation_memory_compares_the_most_with_the_fewest(monkeypatch):
    def measured(command, **kwargs):
        count = int(re.search(r"n=(\d+)&size=8x8", command[-1])[1])
        return subprocess.CompletedProcess(command, 0, f'a notice\n{{"peak MiB": {100 + count / 2}}}\n', "")

    monkeypatch.setattr(own_process.subprocess, "run", measured)
    result = evaluation_memory.run(argparse.Namespace(images=[30, 10], size="8x8"))
    assert result["rows"] == [{"images": 10, "peak MiB": 105.0}, {"images": 30, "peak MiB": 115.0}]
    assert result["growth_mib"] == 10
    failed = subprocess.CompletedProcess([], 1, "", "Traceback ...\nValueError: no size\n")
    monkeypatch.setattr(own_process.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(ValueError, match="n=10&size=8x8.* failed in its own process: ValueError: no size"):
        evaluation_memory.run(argparse.Namespace(images=[30, 10], size="8x8"))


@pytest.fixture
def small_windows(in_this_process, monkeypatch):
    settings = {"coarse_size": 64, "window_size": 64, "window_stride": 40}
    model = inference_memory.small_model
    monkeypatch.setattr(inference_memory, "small_model", lambda: model(**settings))
    monkeypatch.setattr(inference_memory, "choose_window_batch_size", lambda config, window: 5)
    return argparse.Namespace(sizes=["96x160", "150x230"], device="cpu")


def test_inference_memory_of_every_mode(small_windows):
    rows = json.loads(json.dumps(inference_memory.run(small_windows)))["rows"]
    assert [row["mode"] for row in rows] == ["device", "strips"] * 2
    for number, row in enumerate(rows):
        height, width, windows, at_once = (96, 160, 8, 4) if number < 2 else (150, 230, 24, 3)
        assert row["megapixels"] == height * width / 2**20
        assert row["windows"] == windows and row["windows at once"] == at_once
        assert row["seconds"] > 0 and 0 <= row["peak MiB"] < 1.1 * row["stated MiB"] + 16
        assert row["most frequent label"] < 0.9, "labels that are all the same compare nothing"
        assert row["same labels"] == 1


def test_inference_memory_finds_other_labels(small_windows, monkeypatch):
    infer = inference_memory.infer

    def change_a_label(model, image, mode):
        result = infer(model, image, mode)
        if mode == "strips":
            result[3, 4] += 1
        return result

    monkeypatch.setattr(inference_memory, "infer", change_a_label)
    with pytest.raises(ValueError, match="96x160 in strips has 1 labels that differ"):
        inference_memory.run(small_windows)


def test_inference_memory_finds_a_peak_above_what_is_stated(small_windows, monkeypatch):
    held, infer = [], inference_memory.infer

    def keep_much(model, image, mode):
        held.append(torch.ones(2**24))
        time.sleep(0.05)  # until it is noticed
        return infer(model, image, mode)

    monkeypatch.setattr(inference_memory, "infer", keep_much)
    with pytest.raises(ValueError, match=r"96x160 in mode 'device' took \d+ MiB, but inference_memory states \d+ MiB"):
        inference_memory.run(small_windows)


def test_every_benchmark_says_what_it_is():
    for name, module in BENCHMARKS.items():
        module.add_arguments(argparse.ArgumentParser(name))
        assert module.__doc__.splitlines()[0].endswith(".")
    assert describe_machine()["cpu"]


def test_tables():
    assert format_rows([{"way": "a", "s": 0.123456}, {"way": "b", "s": 12}]).splitlines() == [
        "| way | s |", "| --- | --- |", "| a | 0.1235 |", "| b | 12 |",
    ]  # fmt: skip


def test_values_stay_under_their_heading_where_rows_differ():
    assert format_rows([{"way": "a", "s": 1}, {"s": 2, "MiB": 3}, {"MiB": 4, "way": "c", "s": 5}]).splitlines()[2:] == [
        "| a | 1 | - |", "| - | 2 | 3 |", "| c | 5 | 4 |",
    ]  # fmt: skip


def test_further_tables_have_headings(tmp_path):
    result = {"command": "measure", "machine": describe_machine(), "rows": [{"way": "a"}]}
    write_benchmark(tmp_path, "plain", result)
    write_benchmark(tmp_path, "more", {**result, "tables": {"Operators": [{"group": "b", "s": 1.5}]}})
    plain, more = ((tmp_path / f"{name}.md").read_text() for name in ("plain", "more"))
    assert more.removeprefix("# more").startswith(plain.removeprefix("# plain").rstrip())
    assert more.endswith("| a |\n\n## Operators\n\n| group | s |\n| --- | --- |\n| b | 1.5 |\n")
