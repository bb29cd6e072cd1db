# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Ablations: which runs are made, what is kept, and what the table says, against numbers worked out by hand."""

import json
import sys

import numpy as np
import pytest

from tests.support.commands import start
from vfmseg_hf.data import open_dataset
from vfmseg_hf.data.domains import parse_domain, parse_domains
from vfmseg_hf.training import ablation
from vfmseg_hf.training.ablation import Run, execute, plan_runs, prior_scores, summarise


# Stands for train.py: scores by its arguments, and fails on demand.
TRAIN = """
import json, os, sys
from pathlib import Path
words = sys.argv[1:]
value = {name: words[words.index(f"--{name}") + 1] for name in ("photometric", "seed", "output_dir")}
folder = Path(value["output_dir"])
with open(folder.parent.parent / "calls.txt", "a") as calls:
    calls.write(folder.parent.name + " " + value["seed"] + "\\n")
print("threads", os.environ["OMP_NUM_THREADS"])
if "--fail" in words and value["seed"] == "1":
    sys.exit("the disk is full")
score = (0.3 if value["photometric"] == "true" else 0.2) + int(value["seed"]) / 100
(folder / "eval_results.json").write_text(json.dumps({"eval_dusk_mean_iou": score, "eval_dusk_coarse_mean_iou": 0.1}))
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path / "train.py"


def test_every_combination_runs_once(script, tmp_path):
    runs = plan_runs(tmp_path / "out", ["photometric"], [0, 2], ["--max_steps", "3"])
    assert [(dict(run.switches)["photometric"], run.seed) for run in runs] == [
        (True, 0), (False, 0), (True, 2), (False, 2)
    ]  # fmt: skip
    scores = {(run.switches, run.seed): scores for run, scores in execute(runs, [sys.executable, script], jobs=2)}
    assert scores[(("photometric", False),), 2]["eval_dusk_mean_iou"] == 0.22 and len(scores) == 4
    assert len(list(execute(runs, [sys.executable, script]))) == 4, "finished runs are read, not made again"
    assert len((tmp_path / "out" / "calls.txt").read_text().splitlines()) == 4
    assert "threads" in (runs[0].folder / "log.txt").read_text()
    others = plan_runs(tmp_path / "out", ["photometric"], [0], ["--max_steps", "4"])
    with pytest.raises(ValueError, match="holds a run of other arguments"):
        list(execute(others, [sys.executable, script]))


def test_a_run_that_fails_is_shown_and_made_again(script, tmp_path):
    runs = plan_runs(tmp_path / "out", ["photometric"], [0, 1], ["--fail"])
    with pytest.raises(ChildProcessError, match=r"(?s)seed=1 ended with status 1: .*the disk is full"):
        list(execute(runs, [sys.executable, script]))
    assert (runs[0].folder / "eval_results.json").is_file() and not (runs[2].folder / "eval_results.json").exists()


@pytest.mark.parametrize("word", ["--photometric", "--no_photometric", "--seed=3", "--output_dir"])
def test_what_is_varied_cannot_be_given(word, tmp_path):
    with pytest.raises(ValueError, match="the ablation itself sets"):
        plan_runs(tmp_path, ["photometric"], [0], [word])


def test_the_table_in_numbers(tmp_path):
    final = {(True, 0): 0.30, (True, 1): 0.34, (False, 0): 0.20, (False, 1): 0.21}
    results = [
        (
            Run((("rare_class_sampling", on),), seed, tmp_path, ()),
            {"eval_day_mean_iou": score, "eval_day_coarse_mean_iou": 0.1 + seed / 10}
            | {"eval_dusk_mean_iou": 0.1 + seed / 10 + on / 100, "eval_dusk_coarse_mean_iou": 0.05},
        )
        for (on, seed), score in final.items()
    ]
    lines = summarise(results, {"day": 0.15, "dusk": 0.12}).splitlines()
    assert lines[0] == "| | day, coarse | dusk, coarse | day | dusk |"
    assert lines[2] == "| position prior of the training labels |  |  | 15.00 | 12.00 |"
    deviation = f"{np.std([30, 34], ddof=1):.2f}"
    assert lines[3] == f"| with rare class sampling | 15.00 ± 7.07 | 5.00 ± 0.00 | 32.00 ± {deviation} | 16.00 ± 7.07 |"
    assert lines[4].startswith("| without rare class sampling | 15.00 ± 7.07 | 5.00 ± 0.00 | 20.50 ± 0.71 |")
    assert "- day: every run beats the position prior (15.00; lowest run 20.00)." in lines
    assert "- dusk: only 2 of 4 runs beat the position prior (12.00; lowest run 10.00)." in lines
    assert "- rare class sampling, day: +11.50 points, more than the spread of the seeds (2.06)." in lines
    assert "- rare class sampling, dusk: +1.00 points, no difference beyond the spread of the seeds (7.07)." in lines


def test_the_prior_is_the_majority_at_each_position():
    train, domain = parse_domain("streets:game?n=3&size=32x64"), parse_domains(["streets:night?n=2&size=32x64"])
    labels = np.stack([np.array(row["label"]) for row in open_dataset(train.spec)])
    counts = np.stack([(labels == index).sum(0) for index in range(19)])
    guess = counts.argmax(0)
    truth = np.stack([np.array(row["label"]) for row in open_dataset(domain[0].spec, held_out=True)])
    valid = truth != 255
    guesses = np.broadcast_to(guess, truth.shape)
    ious = []
    for index in range(19):
        union = ((truth == index) | (guesses == index)) & valid
        if union.any():
            ious.append((((truth == index) & (guesses == index)) & valid).sum() / union.sum())
    assert prior_scores(train, domain)["night"] == pytest.approx(np.mean(ious))


def test_the_command(tiny_config, tmp_path, monkeypatch):
    tiny_config().to_json_file(tmp_path / "tiny.json")

    def forked(words, stdout, **kwargs):
        """Trainings in processes of their own, as they should be, but not of a new Python each."""
        done = start(*words[3:])
        stdout.write(done.stdout + done.stderr)
        return done

    monkeypatch.setattr(ablation.subprocess, "run", forked)
    done = start(
        "ablate", "--output_dir", tmp_path / "out", "--vary", "photometric",
        "--seeds", 0, "--", "--model", tmp_path / "tiny.json", "--tune", "full", "--use_cpu",
        "--train", "streets:game?n=4&size=64x128", "--domains", "rain=streets:rain?n=2&size=64x128@validation",
        "--crop_size", 64, 64, "--size", 64, 128, "--max_steps", 2, "--rare_class_sampling", "false",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| with photometric |" in done.stdout and (tmp_path / "out" / "table.md").read_text() in done.stdout + "\n"
    assert "with one seed, so that nothing tells it from chance" in done.stdout and "±" not in done.stdout
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {run["photometric"] for run in record["runs"]} == {True, False} and record["position_prior"]["rain"] > 0
    curves = list((tmp_path / "out").rglob("curves.png"))
    assert len(curves) == 2
