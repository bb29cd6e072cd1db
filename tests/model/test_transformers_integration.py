"""At home in transformers: Auto classes, the stock pipeline, push_to_hub, and a core that needs no extras."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForSemanticSegmentation,
    pipeline,
)

from tests.support.blockers import run_without
from tests.support.fake_hub import FakeHub
from vfmseg_hf import (
    VFMSegConfig,
    VFMSegForSemanticSegmentation,
    VFMSegImageProcessor,
    VFMSegImageProcessorPil,
    VFMSegModel,
)


NEW_PROCESS = """
import logging, sys
from transformers import pipeline
import vfmseg_hf
segments = pipeline("image-segmentation", model=sys.argv[1])(sys.argv[2])
print(sorted(segment["label"] for segment in segments))
"""


@pytest.fixture
def image():
    """Sky over road, so to speak: colours that differ between the halves."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (90, 130, 3), dtype=np.uint8)
    pixels[:45] += 180
    return Image.fromarray(pixels)


@pytest.fixture
def saved(tiny_model, tmp_path):
    """A directory with a model whose predictions vary over the image, and its processor at the image's size."""

    def save(**overrides):
        model = tiny_model(**overrides)
        for head in (model.coarse_head, model.refine_head):
            head.classifier.weight.data.mul_(60)
        model.save_pretrained(tmp_path / "model")
        VFMSegImageProcessor(do_resize=False).save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


def label_map(segments, config):
    """Joins the pipeline's masks; every pixel must be in exactly one."""
    masks = np.stack([np.array(segment["mask"]) == 255 for segment in segments])
    assert (masks.sum(0) == 1).all()
    ids = np.array([config.label2id[segment["label"]] for segment in segments])
    return ids[masks.argmax(0)]


def expected_map(directory, image):
    model = VFMSegForSemanticSegmentation.from_pretrained(directory)
    inputs = VFMSegImageProcessor.from_pretrained(directory)(image, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits[0].argmax(0).numpy()


def test_auto_classes(saved):
    directory = saved()
    assert type(AutoConfig.from_pretrained(directory)) is VFMSegConfig
    assert type(AutoModel.from_pretrained(directory)) is VFMSegModel
    assert type(AutoModelForSemanticSegmentation.from_pretrained(directory)) is VFMSegForSemanticSegmentation
    assert type(AutoImageProcessor.from_pretrained(directory)) is VFMSegImageProcessor
    assert type(AutoImageProcessor.from_pretrained(directory, backend="pil")) is VFMSegImageProcessorPil
    assert type(AutoModel.from_config(VFMSegConfig.from_pretrained(directory))) is VFMSegModel


@pytest.mark.parametrize("kind", ["PIL", "path", "turned", "list", "batch"])
@pytest.mark.parametrize("window_size", [256, 64], ids=["one window", "several windows"])
def test_pipeline(kind, window_size, saved, image, tmp_path, capfd):
    directory = saved(window_size=window_size)
    segment = pipeline("image-segmentation", model=str(directory))
    capfd.readouterr()
    expected = expected_map(directory, image)
    assert len(np.unique(expected)) > 1
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if kind == "PIL":
        results, images = [segment(image)], [image]
    elif kind == "path":
        image.save(tmp_path / "image.png")
        results, images = [segment(str(tmp_path / "image.png"))], [image]
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown rotated by 90 degrees clockwise
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "image.png", exif=exif)
        results, images = [segment(str(tmp_path / "image.png"))], [image]
    else:
        images = [image, mirrored, image]
        results = segment(images, batch_size=2 if kind == "batch" else 1)
    for result, source in zip(results, images, strict=True):
        assert (label_map(result, segment.model.config) == expected_map(directory, source)).all()
    assert "error" not in capfd.readouterr().err.lower()


def test_pipeline_logs_nothing_false(saved, image, tmp_path):
    """In a new process, as a user would: standard error may hold progress bars only."""
    image.save(tmp_path / "image.png")
    command = [sys.executable, "-c", NEW_PROCESS, str(saved()), str(tmp_path / "image.png")]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("['")
    # Beside them torch's word on torchao, which transformers imports where it is installed.
    allowed = ("Loading weights", "torch/utils/_pytree.py")
    lines = filter(None, result.stderr.replace("\r", "\n").splitlines())
    assert [line for line in lines if not any(words in line for words in allowed)] == []


@pytest.mark.parametrize("num_labels", [3, 150])
def test_pipeline_with_other_classes(num_labels, saved, image):
    names = {index: f"class {index}" for index in range(num_labels)}
    segments = pipeline("image-segmentation", model=str(saved(id2label=names)))(image)
    assert {segment["label"] for segment in segments} <= set(names.values()) and segments


def test_pipeline_on_an_adapter_directory(tiny_config, image, tmp_path):
    """Local adapter-only checkpoints work in the pipeline too."""
    from vfmseg_hf.model.adapters import lora_config

    model = VFMSegForSemanticSegmentation(tiny_config())
    model.model.encoder.save_pretrained(tmp_path / "model" / "base")
    model.adapter_base = str(tmp_path / "model" / "base")
    model.add_adapter(lora_config(model.config, r=2))
    model.save_pretrained(tmp_path / "model")
    VFMSegImageProcessor(do_resize=False).save_pretrained(tmp_path / "model")
    assert pipeline("image-segmentation", model=str(tmp_path / "model"))(image)


PUSH = """
import sys
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
import vfmseg_hf
directory, repository = sys.argv[1:]
AutoModelForSemanticSegmentation.from_pretrained(directory).push_to_hub(repository)
AutoImageProcessor.from_pretrained(directory).push_to_hub(repository)
"""

PULL = """
import sys
import torch
from transformers import pipeline
import vfmseg_hf
segment = pipeline("image-segmentation", model=sys.argv[1])
print(type(segment.model).__name__, type(segment.image_processor).__name__)
torch.save(segment.model.state_dict(), sys.argv[2])
"""


def test_push_to_hub_and_back(saved, tmp_path):
    """Against a Hub on localhost: what arrives there loads by its repository name, and from a folder."""
    directory = saved()
    with FakeHub() as hub:
        env = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_test"}
        env |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        for code, *arguments in ((PUSH, directory, "tester/street"), (PULL, "tester/street", tmp_path / "state.pt")):
            command = [sys.executable, "-c", code, *map(str, arguments)]
            result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
            assert result.returncode == 0, result.stderr
        assert result.stdout.split() == ["VFMSegForSemanticSegmentation", "VFMSegImageProcessor"]
        files = hub.files["tester/street"]
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= files.keys()
    expected = VFMSegForSemanticSegmentation.from_pretrained(directory).state_dict()
    pulled = torch.load(tmp_path / "state.pt", weights_only=True)
    assert pulled.keys() == expected.keys() and all(torch.equal(pulled[key], expected[key]) for key in expected)
    folder = tmp_path / "pulled"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    assert pipeline("image-segmentation", model=str(folder))


def test_core_works_without_any_extra(saved, image, tmp_path):
    """Import, load, predict and train without torchvision, timm, matplotlib, gradio and onnx."""
    image.save(tmp_path / "image.png")
    result = run_without(
        ["torchvision", "timm", "matplotlib", "gradio", "onnx"],
        f"""
        import torch
        from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline
        import vfmseg_hf, vfmseg_hf.convert, vfmseg_hf.data, vfmseg_hf.evaluation, vfmseg_hf.prediction.predict
        import vfmseg_hf.data.check.chart, vfmseg_hf.data.check.checking, vfmseg_hf.training
        segments = pipeline("image-segmentation", model={str(saved())!r})({str(tmp_path / "image.png")!r})
        print(len(segments) > 0)
        model = AutoModelForSemanticSegmentation.from_pretrained({str(saved())!r}).train()
        model(torch.randn(2, 3, 64, 64), labels=torch.zeros(2, 64, 64, dtype=torch.long)).loss.backward()
        print(type(AutoImageProcessor.from_pretrained({str(saved())!r})).__name__)
        """,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["True", "VFMSegImageProcessorPil"]
    assert result.stderr.count("torchvision is not installed") == 1, result.stderr


WITH_CODE = """
import sys
sys.modules["vfmseg_hf"] = None  # importing it fails
import torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
model = AutoModelForSemanticSegmentation.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
labels = model.segment(torch.ones(1, 3, 64, 64))[0].labels
print(type(model).__name__, AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True).size)
torch.save((model(torch.ones(1, 3, 64, 64)).logits.detach(), labels), sys.argv[2])
"""


def test_a_model_saved_with_its_code_needs_no_package(tiny_model, tmp_path, monkeypatch):
    """All files of the room model/ go along and find each other; nothing outside of it is asked for."""
    room = Path(inspect.getfile(VFMSegForSemanticSegmentation)).parent
    monkeypatch.setattr(VFMSegForSemanticSegmentation, "_auto_class", "AutoModelForSemanticSegmentation")
    monkeypatch.setattr(VFMSegConfig, "_auto_class", "AutoConfig")
    monkeypatch.setattr(VFMSegImageProcessor, "_auto_class", "AutoImageProcessor")
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    VFMSegImageProcessor().save_pretrained(tmp_path / "model")
    copied = {path.name for path in (tmp_path / "model").glob("*.py")} - {"__init__.py"}
    assert copied == {path.name for path in room.glob("*.py")} - {"__init__.py"}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", WITH_CODE, str(tmp_path / "model"), str(tmp_path / "result.pt")]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("VFMSegForSemanticSegmentation")
    logits, labels = torch.load(tmp_path / "result.pt")
    with torch.no_grad():
        expected = model(torch.ones(1, 3, 64, 64)).logits
    torch.testing.assert_close(logits, expected)
    assert torch.equal(labels.long(), expected[0].argmax(0))
