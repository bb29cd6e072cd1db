"""`vfmseg merge`, and what predict and evaluate take: adapters, revisions, limits of windows, strips."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.utils.logging import warning_once

from tests.support.blocks import rows
from tests.support.commands import call, error_of, start
from tests.support.fake_hub import REVISION, FakeHub
from tests.support.numbers import lively
from vfmseg_hf import VFMSegForSemanticSegmentation, VFMSegImageProcessor, lora_config
from vfmseg_hf.convert import merging
from vfmseg_hf.evaluation import strips
from vfmseg_hf.prediction.predict import load_model


SIZE = {"shortest_edge": 64, "longest_edge": 128}


@pytest.fixture
def adapter(tiny_model, tmp_path):
    """Folder of an adapter that changes what its base `base` says, with an image processor and a record."""
    lively(tiny_model()).save_pretrained(tmp_path / "base")
    model = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "base")
    model.add_adapter(lora_config(model.config, r=2))
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(tmp_path / "adapter")
    VFMSegImageProcessor(size=SIZE).save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "recipe.json").write_text('{"note": "goes along"}')
    return tmp_path / "adapter"


@pytest.fixture
def image(tmp_path):
    rows(1, sizes=((64, 128),))[0]["image"].save(tmp_path / "a.png")
    return tmp_path / "a.png"


def labels_of(output) -> np.ndarray:
    return np.array(Image.open(output / "labels" / "a.png"))


def predict(model, image, output, *words) -> np.ndarray:
    where = ["--output", output, "--device", "cpu", "--num_workers", 0]
    assert call("predict", "--model", model, image, *where, *words) == 0
    return labels_of(output)


def test_merge(adapter, tmp_path, image, capsys):
    assert call("merge", adapter, tmp_path / "merged") == 0
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "recipe.json"} == names
    assert json.loads((tmp_path / "merged" / "recipe.json").read_text()) == {"note": "goes along"}
    expected = predict(adapter, image, tmp_path / "a")
    assert not np.array_equal(expected, predict_with_base(tmp_path, image)), "the adapter says something else"
    shutil.rmtree(tmp_path / "base")
    shutil.rmtree(adapter)
    assert np.array_equal(predict(tmp_path / "merged", image, tmp_path / "b"), expected)
    assert "holds no adapter to merge" in error_of("merge", tmp_path / "merged", tmp_path / "again")
    assert "exists and is not empty" in error_of("merge", tmp_path / "merged", tmp_path / "merged")


def predict_with_base(tmp_path, image) -> np.ndarray:
    VFMSegImageProcessor(size=SIZE).save_pretrained(tmp_path / "base")
    return predict(tmp_path / "base", image, tmp_path / "plain")


def test_a_merge_that_does_not_come_back_leaves_nothing(adapter, tmp_path, monkeypatch, capsys):
    class Other(VFMSegForSemanticSegmentation):
        def save_pretrained(self, directory, **kwargs):
            self.coarse_head.classifier.weight.data[0, 0] += 1
            super().save_pretrained(directory, **kwargs)
            self.coarse_head.classifier.weight.data[0, 0] -= 1

    monkeypatch.setattr(merging, "VFMSegForSemanticSegmentation", Other)
    assert "1 tensors differ" in error_of("merge", adapter, tmp_path / "new" / "merged")
    assert not (tmp_path / "new").exists()


def test_a_base_that_has_moved(adapter, tmp_path, image, capsys):
    expected = predict(adapter, image, tmp_path / "a")
    (tmp_path / "base").rename(tmp_path / "moved")
    given = ["--output", tmp_path / "b", "--device", "cpu"]
    assert "backbone_name_or_path" in error_of("predict", "--model", adapter, image, *given)
    moved = ["--backbone_name_or_path", tmp_path / "moved"]
    assert np.array_equal(predict(adapter, image, tmp_path / "b", *moved), expected)
    words = ["--data", "streets:night?n=1&size=64x128@test", "--output", tmp_path / "scores.json", "--device", "cpu"]
    assert call("evaluate", "--model", adapter, *words, *moved) == 0
    assert call("merge", adapter, tmp_path / "merged", *moved) == 0
    assert "is for adapters" in error_of("evaluate", "--model", tmp_path / "merged", *words, *moved)


def test_an_adapter_of_the_hub_at_a_revision(adapter, tmp_path, image):
    expected = predict(adapter, image, tmp_path / "a")
    with FakeHub() as hub:
        hub.files["tester/street"] = {path.name: path.read_bytes() for path in adapter.iterdir()}
        environment = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        done = start(
            "predict", "--model", "tester/street", image, "--revision", REVISION, "--output", tmp_path / "b",
            "--backbone_name_or_path", tmp_path / "base", "--device", "cpu", "--num_workers", 0, **environment,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert np.array_equal(labels_of(tmp_path / "b"), expected)


@pytest.mark.parametrize("words, refined", [(["--max_windows", 0], 0), (["--max_windows", 1], 1),
                                            (["--max_window_share", 0], 0), ([], None)])  # fmt: skip
def test_limits_of_windows(words, refined, adapter, tmp_path, image, capsys):
    capsys.readouterr()
    predict(adapter, image, tmp_path / "out", "--refine", "all", *words)
    said = capsys.readouterr().out
    total = int(said.split(" windows refined")[0].rpartition(" ")[2])
    assert total > 1 and f"{total if refined is None else refined} of {total} windows refined" in said
    output = ["--output", tmp_path / "scores.json", "--refine", "all", "--device", "cpu"]
    data = ["--data", "streets:night?n=1&size=64x128@test"]
    assert call("evaluate", "--model", adapter, *data, *output, *words) == 0
    result = json.loads((tmp_path / "scores.json").read_text())
    assert result["domains"]["test"]["refined"] == pytest.approx(1 if refined is None else refined / total)
    assert result["protocol"]["max_windows"] == (words[1] if "--max_windows" in words else None)


@pytest.mark.parametrize("seen", [(64, 128), (48, 96)])
def test_strips_where_logits_do_not_fit(seen, adapter, tmp_path, image, monkeypatch, loading_log):
    """The same labels, and the same scores; of an image that was resized the labels are, not the logits: it is said."""
    warning_once.cache_clear()
    called = []
    segment = VFMSegForSemanticSegmentation.segment

    def watched(self, *args, in_strips=False, **kwargs):
        called.append(in_strips)
        return segment(self, *args, in_strips=in_strips, **kwargs)

    monkeypatch.setattr(VFMSegForSemanticSegmentation, "segment", watched)
    size = ["--size", *seen]
    words = ["--model", adapter, "--data", "streets:night?n=1&size=64x128@test", "--device", "cpu", *size, "--output"]
    labels, scores = [], []
    for name in ("whole", "strips"):
        labels.append(predict(adapter, image, tmp_path / name, *size))
        assert call("evaluate", *words, tmp_path / f"{name}.json") == 0
        scores.append(json.loads((tmp_path / f"{name}.json").read_text())["domains"]["test"]["final"])
        monkeypatch.setattr(strips, "free_memory", lambda device: 0)
    same_size = seen == (64, 128)
    assert called == [False, False, True, same_size], "scores come from logits that are resized, or not at all"
    assert scores[0] == scores[1] and labels[0].shape == labels[1].shape == (64, 128)
    assert np.mean(labels[0] == labels[1]) >= (1 if same_size else 0.8)
    assert ("finished in strips" in loading_log.text) != same_size


def test_unknown_memory_and_common_decisions_mean_no_strips(tiny_model, monkeypatch):
    model, image = tiny_model(), torch.zeros(3, 64, 128)
    monkeypatch.setattr(strips, "free_memory", lambda device: None)
    assert not strips.needs_strips(model, [image])
    monkeypatch.setattr(strips, "free_memory", lambda device: 0)
    assert strips.needs_strips(model, [image])
    model.config.certainty_scope = "batch"
    assert not strips.needs_strips(model, [image])


def test_fields_that_no_model_can_have(adapter):
    with pytest.raises(ValueError, match="no model can have"):
        load_model(str(adapter), "cpu", window_size=-1)
