# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The linear decoder: what it computes, and that it trains, is saved, loaded, piped and scored as VFMSeg is."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    Trainer,
    TrainingArguments,
    pipeline,
)

from tests.methods.runs import ABC, trainer
from tests.support.blocks import rows
from tests.support.commands import call, error_of
from tests.support.tiny import BACKBONE
from vfmseg_hf import VFMSegImageProcessor, lora_config
from vfmseg_hf.evaluation import count_images
from vfmseg_hf.evaluation.counting import predict_together
from vfmseg_hf.methods import VFMSegLinearConfig, VFMSegLinearForSemanticSegmentation
from vfmseg_hf.model.windows import resize_bilinear
from vfmseg_hf.training.model import change_classes, choose_trained_part, start_model
from vfmseg_hf.training.trained_on import weights_digest


@pytest.fixture
def make():
    def make(**fields):
        config = VFMSegLinearConfig(backbone_config=BACKBONE, **{"coarse_size": 64, "id2label": ABC, **fields})
        model = VFMSegLinearForSemanticSegmentation(config)
        torch.nn.init.normal_(model.linear_head.classifier.weight)
        return model.eval()

    return make


@pytest.fixture
def places(tmp_path, tiny_model, make):
    tiny_model().model.encoder.save_pretrained(tmp_path / "foundation")
    tiny_model(id2label=ABC).save_pretrained(tmp_path / "vfmseg")
    make().save_pretrained(tmp_path / "linear")
    VFMSegImageProcessor(do_resize=False).save_pretrained(tmp_path / "linear")
    return tmp_path


def by_hand(model, images: torch.Tensor) -> torch.Tensor:
    """Batch norm with the saved statistics and one matrix, of the four maps side by side."""
    maps = torch.cat(model.model(images).feature_maps, dim=1)
    norm, layer = model.linear_head.norm, model.linear_head.classifier
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None]
    maps = (maps - norm.running_mean[:, None, None]) * scale + norm.bias[:, None, None]
    return torch.einsum("kc,bchw->bkhw", layer.weight[:, :, 0, 0], maps) + layer.bias[:, None, None]


def test_what_it_computes(make):
    model, images = make(), torch.randn(2, 3, 80, 120)
    model.linear_head.norm.running_mean.normal_()
    model.linear_head.norm.running_var.uniform_(0.5, 2)
    logits = model(images).logits
    assert logits.shape == (2, 3, 4, 6), "a sixteenth of 64x96, the size that VFMNet would see"
    torch.testing.assert_close(logits, by_hand(model, resize_bilinear(images, (64, 96))), atol=1e-5, rtol=1e-4)
    labels = torch.randint(0, 3, (2, 50, 70))
    labels[0, :9] = 255
    expected = F.cross_entropy(resize_bilinear(logits, (50, 70)), labels, ignore_index=255)
    torch.testing.assert_close(model(images, labels=labels).loss, expected)

    model.train()
    crops, labels = torch.randn(2, 3, 64, 96), torch.randint(0, 3, (2, 64, 96))
    outputs = model(crops, labels=labels)
    assert outputs.logits.shape == (2, 3, 2, 3)
    expected = F.cross_entropy(resize_bilinear(outputs.logits, (32, 48)), labels[:, ::2, ::2])
    torch.testing.assert_close(outputs.loss, expected)
    with pytest.raises(ValueError, match="multiples of 32, got 80x96; the nearest legal size is 64x96"):
        model(torch.randn(1, 3, 80, 96), labels=torch.zeros(1, 80, 96, dtype=torch.long))
    with pytest.raises(ValueError, match="labels are needed in training mode"):
        model(crops)


def test_label_maps_are_those_of_the_logits(make):
    model = make()
    images = [torch.randn(3, 80, 112), torch.randn(3, 64, 64), torch.randn(3, 80, 112)]
    sizes = [(40, 50), (64, 64), (81, 113)]
    for image, size, result in zip(images, sizes, model.segment(images, sizes), strict=True):
        logits = model(image[None]).logits
        assert torch.equal(result.labels, resize_bilinear(logits, size)[0].argmax(0).to(torch.uint8))
        torch.testing.assert_close(result.coarse_logits, logits[0])
        assert result.windows == result.refined == result.certainty == []
    with pytest.raises(ValueError, match="looks at an image once and has no windows: leave refine='all'"):
        model.segment(images, refine="all")


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"window_size": 64}, r"\['window_size'\] are no fields of VFMSegLinearConfig"),
        ({"coarse_size": 100}, "coarse_size must be one edge .* the nearest valid value is 96"),
        ({"out_indices": [1]}, "out_indices must be four increasing"),
        ({"class_weights": [1.0]}, "class_weights must be one finite number from 0 up for each of the 3 classes"),
    ],
)
def test_fields_have_the_limits_of_vfmseg(fields, message, make):
    with pytest.raises(ValueError, match=message):
        make(**fields)


def test_auto_classes_and_the_pipeline(places, make):
    model = AutoModelForSemanticSegmentation.from_pretrained(places / "linear")
    assert isinstance(model, VFMSegLinearForSemanticSegmentation) and model.loaded_from == str(places / "linear")
    config = AutoConfig.from_pretrained(places / "linear")
    assert isinstance(config, VFMSegLinearConfig) and config.id2label == ABC and config.coarse_size == 64
    assert AutoImageProcessor.from_pretrained(places / "linear").do_resize is False
    image = rows(1)[0]["image"]
    pieces = pipeline("image-segmentation", model=str(places / "linear"), device="cpu")(image)
    pixels = VFMSegImageProcessor(do_resize=False)(image, return_tensors="pt")["pixel_values"]
    labels = model.eval().segment(pixels)[0].labels.numpy()
    for piece in pieces:
        mask = labels == {name: index for index, name in ABC.items()}[piece["label"]]
        assert np.array_equal(np.asarray(piece["mask"]) > 0, mask)
    assert weights_digest(places / "linear"), "its record knows its weights"


def test_counts_are_one_result_twice(make):
    model = make()
    images, labels = [torch.randn(3, 80, 112)], [torch.randint(0, 3, (80, 112))]
    for flip in (False, True):
        counts = count_images(model, images, labels, 3, 255, refine=True, flip=flip)
        assert torch.equal(counts.matrices[:, 0], counts.matrices[:, 1]) and not counts.windows.any()
    assert counts.matrices[0, 0].sum() == 80 * 112


@pytest.mark.parametrize(
    "options",
    [{"use_dora": True}, {"targets": "all-linear", "init_lora_weights": "mica", "frozen_share": 1 / 3}],
    ids=["DoRA", "strong"],
)
def test_lora_of_every_kind_is_folded_in(options, places):
    model = start_model(str(places / "foundation"), method="linear", id2label=ABC, coarse_size=64)
    choose_trained_part(model, "lora", r=2, **options)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    settings = {"learning_rate": 1e-2, "encoder_learning_rate": 1e-2, "weight_decay_schedule": "cosine"}
    run = trainer(model, places / "run", ema_decay=0.5, ema_start=0.5, **settings)
    run.train()
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name, weight in model.named_parameters() if weight.requires_grad}
    run.save_model(str(places / "saved"))
    loaded, images = (
        AutoModelForSemanticSegmentation.from_pretrained(places / "saved").eval(),
        torch.randn(1, 3, 64, 64),
    )
    torch.testing.assert_close(loaded(images).logits, model.eval()(images).logits, atol=1e-4, rtol=1e-4)
    lora = json.loads((places / "saved" / "recipe.json").read_text())["settings"]["lora"]
    assert options.items() <= lora.items() and lora["r"] == 2


@pytest.mark.parametrize("tune", ["none", "lora", "full"])
def test_it_trains_as_vfmseg_does(tune, places):
    model = start_model(str(places / "foundation"), method="linear", id2label=ABC, coarse_size=64)
    assert isinstance(model, VFMSegLinearForSemanticSegmentation) and model.config.id2label == ABC
    choose_trained_part(model, tune, r=2)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    run = trainer(model, places / "run", learning_rate=1e-2, encoder_learning_rate=1e-3)
    run.train()
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    of_encoder = {name for name in changed if name.startswith("model.encoder.")}
    assert changed - of_encoder and all("linear_head" in name for name in changed - of_encoder)
    assert {"none": not of_encoder, "full": len(of_encoder) > 9}.get(tune, all(".lora_" in name for name in of_encoder))
    assert bool(of_encoder) == (tune != "none")
    logged = [entry for entry in run.state.log_history if "loss" in entry]
    assert len(logged) == 2 and "content_loss" not in logged[0]
    scores = run.evaluate()
    assert scores["eval_own_mean_iou"] == scores["eval_own_coarse_mean_iou"] > 0 and "eval_own_refined" not in scores
    run.save_model(str(places / "saved"))
    loaded = AutoModelForSemanticSegmentation.from_pretrained(places / "saved").eval()
    assert not hasattr(loaded, "peft_config") and not (places / "saved" / "adapter_config.json").exists()
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(images).logits, model.eval()(images).logits, atol=1e-4, rtol=1e-4)
    record = json.loads((places / "saved" / "recipe.json").read_text())
    assert record["run"]["model_type"] == "vfmseg_linear"
    assert record["run"]["tune"] == {"none": "heads"}.get(tune, tune)
    assert record["trained_on"]["weights"] == weights_digest(places / "saved")
    resumed = start_model(str(places / "foundation"), method="linear", id2label=ABC, coarse_size=64)
    choose_trained_part(resumed, tune, r=2)
    again = trainer(resumed, places / "run", learning_rate=1e-2, encoder_learning_rate=1e-3)
    if tune == "lora":
        with pytest.raises(ValueError, match="have LoRA folded in, so that a training with it can neither be resumed"):
            again.train(resume_from_checkpoint=str(places / "run" / "checkpoint-1"))
        with pytest.raises(ValueError, match="nor load its best model"):
            trainer(resumed, places / "run", load_best_model_at_end=True, eval_strategy="steps", eval_steps=1)
        return
    again.train(resume_from_checkpoint=str(places / "run" / "checkpoint-1"))
    for name, weight in resumed.named_parameters():
        assert torch.equal(weight, dict(model.named_parameters())[name]), name


def test_the_stock_trainer(make, tmp_path):
    crops = [{"pixel_values": torch.randn(3, 64, 64), "labels": torch.randint(0, 3, (64, 64))} for _ in range(2)]
    arguments = TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to="none", save_strategy="no")
    assert np.isfinite(Trainer(make(), arguments, train_dataset=crops).train().training_loss)


def test_classes_follow_their_names(make):
    model = make()
    before = model.linear_head.classifier.weight.detach().clone()
    change_classes(model, {0: "person", 1: "tree", 2: "Road"})
    after = model.linear_head.classifier.weight
    assert torch.equal(after[0], before[2]) and torch.equal(after[2], before[0])
    assert not torch.equal(after[1], before[1])


@pytest.mark.parametrize(
    "model, words, message",
    [
        (
            "foundation",
            ["--decoder", "linear", "--feature_mask_ratio", 0],
            "--method linear has no feature_mask_ratio",
        ),
        ("vfmseg", ["--decoder", "linear"], "is a vfmseg model and stays one; leave --method linear out"),
        ("linear", ["--detail_loss_weight", 1], "is a vfmseg_linear, which has no detail_loss_weight; leave it out"),
        ("foundation", ["--decoder", "liner"], "--method: invalid choice: 'liner'"),
    ],
)
def test_what_does_not_go_together(model, words, message, places):
    usual = ["--data", "streets:game", "--output", places / "run", "--device", "cpu"]
    assert message in error_of("train", "--model", places / model, *usual, *words)


def test_the_commands(places, capsys):
    """From a foundation model to scores and label maps; and on from there."""
    size = ["--size", 64, 96, "--crop_size", 64, "--rare_class_sampling", "false", "--report_to", "none"]
    words = ["--data", "streets:game?n=2&size=64x96", "--device", "cpu", "--max_steps", 1, *size]
    first = ["--model", places / "foundation", "--decoder", "linear", "--tune", "none", "--coarse_size", 64]
    assert error_of("train", *first, *words, "--output", places / "run") is None
    assert "the model is in" in capsys.readouterr().out
    scored = ["--data", "streets:night?n=2&size=64x96@test", "--device", "cpu", "--output", places / "scores.json"]
    for protocol in ("default", "published"):
        assert error_of("evaluate", "--model", places / "run", *scored, "--protocol", protocol) is None
        said = capsys.readouterr().out
        assert "The model looks at an image once: coarse and final are the same." in said
        result = json.loads((places / "scores.json").read_text())
        domain = result["domains"]["test"]
        assert domain["coarse"] == domain["final"] and domain["refined"] is None and domain["trained_on"]["images"] == 0
        assert result["protocol"]["coarse_size"] == (64 if protocol == "default" else [512, 1024])
        assert not {"window_size", "refine", "max_windows"} & set(result["protocol"])
    for option in (["--refine", "all"], ["--max_windows", 3]):
        assert "looks" in error_of("evaluate", "--model", places / "run", *scored, *option)
    rows(1, sizes=((64, 96),))[0]["image"].save(places / "a.png")
    assert (
        call("predict", "--model", places / "run", places / "a.png", "--output", places / "out", "--device", "cpu") == 0
    )
    assert Image.open(places / "out" / "labels" / "a.png").size == (96, 64)
    assert error_of("train", "--model", places / "run", "--tune", "full", *words, "--output", places / "more") is None
    assert AutoConfig.from_pretrained(places / "more").model_type == "vfmseg_linear"
    assert call("check", "streets:game?n=1&size=64x96", "--split", "test", "--model", places / "run") in (0, 1)


def test_the_encoder_is_that_of_vfmseg(places):
    """Same foundation model, same maps: nothing but the head differs."""
    ours = start_model(str(places / "foundation"), refine_hidden_size=128).eval()
    linear = start_model(str(places / "foundation"), method="linear").eval()
    assert linear.config.out_indices == ours.config.out_indices
    images = torch.randn(1, 3, 64, 96)
    for one, other in zip(ours.model(images).feature_maps, linear.model(images).feature_maps, strict=True):
        assert torch.equal(one, other)


def test_lora_trains_its_own_head(places):
    model = start_model(str(places / "foundation"), method="linear")
    model.add_adapter(lora_config(model.config))
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert any("linear_head" in name for name in trained) and any(".lora_A." in name for name in trained)
    assert all("linear_head" in name or ".lora_" in name for name in trained)


@pytest.mark.parametrize("checks_raise", [True, False])
def test_pixels_that_are_no_numbers_are_not_scored(checks_raise, make):
    model = make().eval()
    model.checks_raise = checks_raise
    images = torch.full((1, 3, 64, 64), torch.nan)
    with pytest.raises(ValueError, match="NaN or infinite"):
        model(images, labels=torch.zeros(1, 64, 64, dtype=torch.long))


def test_an_unknown_decoder_or_kind_of_refinement(make, places):
    with pytest.raises(ValueError, match="method must be one of"):
        start_model(str(places / "foundation"), method="bogus")
    with pytest.raises(ValueError, match="looks at an image once"):
        list(predict_together(make().eval(), [torch.zeros(3, 64, 64)], [torch.zeros(64, 64)], "all"))
