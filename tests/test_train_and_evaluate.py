"""scripts/train.py and scripts/evaluate.py as a user runs them, on procedural scenes, and how domains are named."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import REPOSITORY

from vfmseg_hf.corpora.domains import parse_domain, parse_domains


@pytest.mark.parametrize(
    "text, expected",
    [
        ("dusk=camvid:/data/camvid@target_dusk", ("dusk", "camvid:/data/camvid", "target_dusk")),
        ("camvid:/data/camvid@source_val", ("source_val", "camvid:/data/camvid", "source_val")),
        ("streets:night?n=20&size=64x128", ("night", "streets:night?n=20&size=64x128", None)),
        ("rain=streets:rain?n=2&seed=3@validation", ("rain", "streets:rain?n=2&seed=3", "validation")),
        ("user/data", ("data", "user/data", None)),
    ],
)
def test_domains_are_named(text, expected):
    assert tuple(parse_domain(text)) == expected


@pytest.mark.parametrize("text, message", [("", "expected"), ("night=", "expected"), ("a b=camvid:/x", "'a b'")])
def test_bad_domains(text, message):
    with pytest.raises(ValueError, match=message):
        parse_domain(text)
    with pytest.raises(ValueError, match="two domains have the name 'night'"):
        parse_domains(["streets:night", "night=streets:rain"])


def run(script: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, REPOSITORY / "scripts" / script, *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)


def test_train_then_evaluate(tiny_config, tmp_path):
    tiny_config().to_json_file(tmp_path / "tiny.json")
    domains = ["streets:night?n=2&size=64x128@validation", "rain=streets:rain?n=2&size=64x128@validation"]
    trained = run(
        "train.py", "--model", tmp_path / "tiny.json", "--tune", "full", "--train", "streets:game?n=4&size=64x128",
        "--domains", *domains, "--crop_size", 64, 64, "--size", 64, 128, "--max_steps", 3, "--logging_steps", 1,
        "--rare_class_sampling", "false", "--output_dir", tmp_path / "run", "--use_cpu",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert "img/s" in trained.stderr and "encoder lr" in trained.stderr
    scores = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    expected = (scores["eval_validation_mean_iou"] + scores["eval_rain_mean_iou"]) / 2
    assert scores["eval_mean_iou"] == pytest.approx(expected)

    evaluated = run(
        "evaluate.py", "--model", tmp_path / "run", "--output", tmp_path / "scores.json", "--domains", *domains
    )
    assert evaluated.returncode == 0, evaluated.stderr
    result = json.loads((tmp_path / "scores.json").read_text())
    assert result["domains"]["rain"]["final"]["mean_iou"] == pytest.approx(scores["eval_rain_mean_iou"])
    assert result["domains"]["rain"]["coarse"]["mean_iou"] == pytest.approx(scores["eval_rain_coarse_mean_iou"])
    assert result["protocol"]["confidence_threshold"] == 0.968 and "mean " in evaluated.stdout


def test_sigterm_saves_and_exits(tiny_config, tmp_path):
    """With the status that a shell gives for SIGTERM; a new run does not mix into the old one's checkpoints."""
    tiny_config().to_json_file(tmp_path / "tiny.json")
    words = [
        "--model", tmp_path / "tiny.json", "--tune", "full", "--train", "streets:game?n=4&size=64x128", "--use_cpu",
        "--crop_size", 64, 64, "--rare_class_sampling", "false", "--output_dir", tmp_path / "run", "--save_steps", 2,
    ]  # fmt: skip
    command = list(map(str, [sys.executable, REPOSITORY / "scripts" / "train.py", *words]))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not (tmp_path / "run" / "checkpoint-2").exists() and process.poll() is None:
            time.sleep(0.1)
        process.terminate()
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, output
    (step,) = map(int, re.findall(r"SIGTERM: saving a checkpoint at step (\d+)", output))
    checkpoint = tmp_path / "run" / f"checkpoint-{step}"
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == step
    assert json.loads((checkpoint / "recipe.json").read_text())["settings"]["augmentation"]["crop_size"] == [64, 64]
    again = run("train.py", *words)
    assert again.returncode == 1 and f"holds checkpoint-{step} of an earlier run; add --resume" in again.stderr
    resumed = run("train.py", *words, "--resume", "--max_steps", step + 1)
    assert resumed.returncode == 0 and f"checkpoint-{step}" in resumed.stdout, resumed.stderr
    assert "recipe paper, but training.max_steps" in resumed.stdout


def test_errors_are_one_line(tiny_config, tmp_path):
    tiny_config().to_json_file(tmp_path / "tiny.json")
    result = run("train.py", "--model", tmp_path / "tiny.json", "--train", "camvid:/no/such", "--output_dir", tmp_path)
    assert result.returncode == 1 and "error: No folder /no/such" in result.stderr
    assert "Traceback" not in result.stderr
