"""What `pip install` gives: the wheel is built, installed beside the environment of the tests, and its command used."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.support import REPOSITORY, foundations
from tests.support.blocks import rows
from vfmseg_hf import VFMSegForSemanticSegmentation
from vfmseg_hf.cli.table import VERBS


pytest.importorskip("setuptools")
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    shutil.copytree(REPOSITORY / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):  # a build leaves files beside them
        shutil.copy(REPOSITORY / name, source)
    build = [*PIP, "wheel", source, "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder]
    done = subprocess.run(list(map(str, build)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.whl")
    return file


@dataclass
class Installed:
    """The command, and a Python that has it, both far away from the checkout."""

    python: Callable[..., subprocess.CompletedProcess]
    command: Path

    def __call__(self, *words: object) -> subprocess.CompletedProcess:
        return self.python(self.command, *words)


@pytest.fixture(scope="module")
def vfmseg(wheel, tmp_path_factory):
    """The installed command, far away from the checkout, whose package it must not see."""
    place, elsewhere = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("elsewhere")
    install = [*PIP, "install", wheel, "--no-deps", "--no-index", "--target", place]
    done = subprocess.run(list(map(str, install)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "PYTHONPATH": str(place), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def python(*words: object) -> subprocess.CompletedProcess:
        command = [sys.executable, *words]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, cwd=elsewhere)

    code = "import vfmseg_hf, vfmseg_cli; print(vfmseg_hf.__file__, vfmseg_cli.__file__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=elsewhere)
    assert all(line.startswith(str(place)) for line in found.stdout.split()), found.stdout + found.stderr
    return Installed(python, place / "bin" / "vfmseg")


def test_what_is_in_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"vfmseg_cli.py", "vfmseg_hf/cli/options.json", "vfmseg_hf/__main__.py"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "scripts", "benchmarks"))]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_helps(vfmseg, verb):
    done = vfmseg(verb, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: vfmseg {verb} "), done.stderr


# Runs the lines of a JSON file one after the other: torch is imported once. The toy of the quickstart is a smaller one.
RUN = """
import dataclasses, json, sys
import vfmseg_cli
from vfmseg_hf.cli import quickstart
quickstart.TOY = dataclasses.replace(
    quickstart.TOY, height=64, width=128, train_images=2, test_images=1, window_size=64, window_stride=32, steps=1,
    batch_size=1,
)
for number, words in enumerate(json.load(open(sys.argv[1]))):
    print("status", number, vfmseg_cli.main(words), flush=True)
"""


def test_every_verb_runs(vfmseg, tiny_config, tmp_path):
    """On data that it draws itself, from a folder that is not the checkout."""
    tiny_config().to_json_file(tmp_path / "tiny.json")
    tiny_model = VFMSegForSemanticSegmentation(tiny_config())
    tiny_model.model.encoder.save_pretrained(tmp_path / "encoder")
    weights = foundations.random_weights(foundations.clip(32, 4, grid=3, projection=16))
    torch.save(weights, tmp_path / "clip.pth")
    (tmp_path / "clip.json").write_text('{"num_attention_heads": 4}')
    rows(1)[0]["image"].save(tmp_path / "a.png")
    scenes, cpu = "streets:game?n=2&size=64x128", ["--device", "cpu"]
    small = ["--crop_size", 64, 64, "--size", 64, 128, "--max_steps", 1, "--per_device_train_batch_size", 1]
    small += ["--rare_class_sampling", "false", "--coarse_size", 64, "--report_to", "none", *cpu]
    head = ["--refine_hidden_size", 128, "--refine_num_layers", 1, "--window_size", 64, "--window_stride", 32]
    shown = ["--eval_data", f"{scenes}@test", "--output", tmp_path / "figures", *cpu]
    lines = {
        "check": ["--data", scenes, "--split", "train", "--num_proc", 1],
        "fetch-encoder": [tmp_path / "encoder", tmp_path / "copy"],
        "train": ["--model", tmp_path / "copy", "--data", scenes, "--output", tmp_path / "lora", *small, *head],
        "merge": [tmp_path / "lora", tmp_path / "merged"],
        "evaluate": ["--model", tmp_path / "merged", "--data", f"{scenes}@test", *cpu, "--output", tmp_path / "s.json"],
        "predict": ["--model", tmp_path / "merged", tmp_path / "a.png", "--output", tmp_path / "p", *cpu],
        "convert": [
            tmp_path / "clip.pth", tmp_path / "clip", "--raw", "--backbone", "clip", "--config", tmp_path / "clip.json"
        ],
        "reproduce": ["table2", "--encoder", tmp_path / "encoder", "--dry_run", "--output", tmp_path / "table2"],
        "reproduce figure4": ["--models", tmp_path / "merged", *shown, "--resolutions", 64, "--repeats", 1],
        "reproduce figure5": ["--models", tmp_path / "merged", *shown, "--images", 1],
        "quickstart": ["--encoder", "random", "--output", tmp_path / "quick"],
    }  # fmt: skip
    assert lines.keys() == set(VERBS)
    (tmp_path / "lines.json").write_text(json.dumps([[verb, *map(str, words)] for verb, words in lines.items()]))
    done = vfmseg.python("-c", RUN, tmp_path / "lines.json")
    said = [line for line in done.stdout.splitlines() if line.startswith("status ")]
    assert said == [f"status {number} 0" for number in range(len(lines))], done.stdout + done.stderr
    made = ("merged/model.safetensors", "s.json", "p/labels/a.png", "clip/model.safetensors", "quick/domains.png")
    assert all((tmp_path / name).is_file() for name in made)
