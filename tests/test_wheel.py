"""What `pip install` gives: the wheel is built, installed beside the environment of the tests, and its command used."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.support import REPOSITORY
from tests.support.blocks import rows
from vfmseg_hf import VFMSegImageProcessor
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


@pytest.fixture(scope="module")
def vfmseg(wheel, tmp_path_factory):
    """The installed command, far away from the checkout, whose package it must not see."""
    place, elsewhere = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("elsewhere")
    install = [*PIP, "install", wheel, "--no-deps", "--no-index", "--target", place]
    done = subprocess.run(list(map(str, install)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "PYTHONPATH": str(place), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def run(*words: object) -> subprocess.CompletedProcess:
        command = [sys.executable, place / "bin" / "vfmseg", *words]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, cwd=elsewhere)

    code = "import vfmseg_hf, vfmseg_cli; print(vfmseg_hf.__file__, vfmseg_cli.__file__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=elsewhere)
    assert all(line.startswith(str(place)) for line in found.stdout.split()), found.stdout + found.stderr
    return run


def test_what_is_in_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"vfmseg_cli.py", "vfmseg_hf/cli/options.json", "vfmseg_hf/__main__.py"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "scripts", "benchmarks"))]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_helps(vfmseg, verb):
    done = vfmseg(verb, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: vfmseg {verb} "), done.stderr


def test_check_and_predict(vfmseg, tiny_model, tmp_path):
    checked = vfmseg("check", "--data", "streets:game?n=2&size=32x64", "--split", "train", "--num_proc", 1)
    assert checked.returncode == 0 and "clean: train" in checked.stdout, checked.stderr
    tiny_model().save_pretrained(tmp_path / "model")
    VFMSegImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(tmp_path / "model")
    rows(1)[0]["image"].save(tmp_path / "a.png")
    where = ["--output", tmp_path / "out", "--device", "cpu", "--num_workers", 0]
    predicted = vfmseg("predict", "--model", tmp_path / "model", tmp_path / "a.png", *where)
    assert predicted.returncode == 0 and (tmp_path / "out" / "labels" / "a.png").is_file(), predicted.stderr
