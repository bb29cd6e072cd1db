# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Segmentation models of transformers are scored as their own image processors put label maps together."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    EomtConfig,
    EomtForUniversalSegmentation,
    EomtImageProcessorPil,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
    SwinConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from tests.support.commands import error_of
from vfmseg_hf.data import open_dataset


NAMES = ["sky", "Road", "person"]  # in another order than the data's, and in other letters
OTHERS = {0: "road", 1: "person", 2: "sky"}
CLASSES = {"id2label": dict(enumerate(NAMES)), "label2id": {name: index for index, name in enumerate(NAMES)}}


def segformer():
    config = SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=16, **CLASSES
    )
    processor = SegformerImageProcessorPil(size={"height": 64, "width": 64}, do_reduce_labels=True)
    return SegformerForSemanticSegmentation(config), processor


def mask2former():
    swin = SwinConfig(
        embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=2, out_features=[f"stage{n}" for n in (1, 2, 3, 4)]
    )
    small = {"encoder_layers": 1, "decoder_layers": 2, "num_queries": 5, "hidden_dim": 32, "feature_size": 32}
    config = Mask2FormerConfig(backbone_config=swin, mask_feature_size=32, num_attention_heads=2, **small, **CLASSES)
    processor = Mask2FormerImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128})
    return Mask2FormerForUniversalSegmentation(config), processor


def eomt():
    config = EomtConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_blocks=2,
        num_queries=5,
        image_size=64,
        **CLASSES,
    )
    processor = EomtImageProcessorPil(size={"shortest_edge": 64, "longest_edge": None}, do_split_image=True)
    return EomtForUniversalSegmentation(config), processor


@pytest.fixture
def folder(tmp_path):
    """Two images of other sizes, with classes of their own."""
    images = tmp_path / "data" / "images"
    labels = tmp_path / "data" / "labels"
    images.mkdir(parents=True)
    labels.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a", (70, 100)), ("b", (64, 150))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(images / f"{name}.png")
        ids = rng.integers(0, 3, size).astype(np.uint8)
        ids[:5] = 255
        Image.fromarray(ids).save(labels / f"{name}.png")
    (tmp_path / "data.json").write_text(
        json.dumps(
            {
                "images": "data/images",
                "labels": "data/labels",
                "ids": {name: index for index, name in OTHERS.items()},
                "ignore": [255],
            }
        )
    )
    return tmp_path / "data.json"


@pytest.mark.parametrize("make", [segformer, mask2former, eomt])
def test_scores_are_those_of_its_own_label_maps(make, folder, tmp_path, capsys):
    torch.manual_seed(0)
    model, processor = make()
    for module in model.modules():
        if (isinstance(module, torch.nn.Conv2d) and module.out_channels == 3) or isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.5)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    scored = ["--data", f"own=folder:{folder}", "--device", "cpu", "--output", tmp_path / "scores.json"]
    assert error_of("evaluate", "--model", tmp_path / "model", *scored) is None
    result = json.loads((tmp_path / "scores.json").read_text())
    matrix = np.zeros((3, 3))
    own = AutoImageProcessor.from_pretrained(tmp_path / "model")
    for row in open_dataset(f"folder:{folder}"):
        inputs = own(images=row["image"], return_tensors="pt")
        with torch.no_grad():
            outputs = model.eval()(**inputs)
        labels = np.asarray(row["label"])
        (found,) = own.post_process_semantic_segmentation(outputs, target_sizes=[labels.shape])
        for true in OTHERS:
            for guess, other in enumerate(NAMES):
                column = next(number for number, each in OTHERS.items() if each == other.lower())
                matrix[true, column] += int(((labels == true) & (found.numpy() == guess)).sum())
    assert matrix.sum() > 0 and (matrix.sum(0) > 0).sum() > 1, "it predicts several classes"
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    expected = dict(zip(OTHERS.values(), np.diag(matrix) / union, strict=True))
    domain = result["domains"]["own"]
    found = {name.lower(): value for name, value in domain["final"]["iou"].items()}
    assert found == pytest.approx(expected) and domain["coarse"] == domain["final"]
    assert result["protocol"]["image_processor"] == type(own).__name__ and domain["refined"] is None
    assert "looks at an image once" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["--protocol", "published"], "and --protocol published is for these; leave it out"),
        (["--flip"], "and --flip is for these"),
        (["--refine", "all"], "sees images as its own image processor has them; leave --refine out"),
        (["--size", 64], "leave --size out"),
        (["--dtype", "int8"], "leave --dtype int8 out"),
    ],
)
def test_what_is_for_vfmseg_alone(words, message, folder, tmp_path):
    model, processor = segformer()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    scored = ["--model", tmp_path / "model", "--data", f"folder:{folder}", "--device", "cpu"]
    assert message in error_of("evaluate", *scored, *words)


def test_what_segments_nothing(folder, tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 32, "patch_size": 16}
    ViTForImageClassification(ViTConfig(**sizes)).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil().save_pretrained(tmp_path / "vit")
    scored = ["--data", f"folder:{folder}", "--device", "cpu"]
    assert "it is a vit, of which transformers has no segmentation model" in error_of(
        "evaluate", "--model", tmp_path / "vit", *scored
    )
    model, processor = segformer()
    model.segformer.save_pretrained(tmp_path / "encoder")
    processor.save_pretrained(tmp_path / "encoder")
    said = error_of("evaluate", "--model", tmp_path / "encoder", *scored)
    assert "it has no trained weights for decode_head." in said and "no trained segmentation model" in said
