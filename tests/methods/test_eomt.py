# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""EoMT on a DINOv2: the encoder is left as it was, its masks are annealed as the authors', and what does not fit."""

import json

import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForUniversalSegmentation,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from tests.methods.runs import ABC, trainer
from tests.support.commands import error_of
from vfmseg_hf import VFMSegForSemanticSegmentation
from vfmseg_hf.methods import OtherModel, mask_probabilities
from vfmseg_hf.training.model import start_model
from vfmseg_hf.training.other_models import own_processor


TINY = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
KINDS = {
    "plain": (Dinov2Model, Dinov2Config, {}),
    "registers": (Dinov2WithRegistersModel, Dinov2WithRegistersConfig, {"num_register_tokens": 3}),
    "swiglu": (Dinov2Model, Dinov2Config, {"use_swiglu_ffn": True, "layer_norm_eps": 1e-3}),
    "narrow": (Dinov2Model, Dinov2Config, {"mlp_ratio": 2, "hidden_act": "relu"}),
}


@pytest.fixture
def dinov2(tmp_path):
    """A random DINOv2 and where it is; nothing in it is 0 or 1, so that nothing can be lost unseen."""

    def make(kind="plain", **more):
        model_class, config_class, fields = KINDS[kind]
        model = model_class(config_class(**{**TINY, **fields, **more})).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.1, 0.2)
        model.save_pretrained(tmp_path / "dinov2")
        return model, str(tmp_path / "dinov2")

    return make


def start(place, **fields):
    return start_model(place, method="eomt", **{"id2label": ABC, "num_queries": 5, "train_num_points": 64, **fields})


def without_queries(model, images: torch.Tensor) -> list[torch.Tensor]:
    """The tokens after each block, if no query joins them, and after the last norm."""
    tokens = [model.embeddings(images)]
    for layer in model.layers:
        tokens.append(layer(tokens[-1]))
    return [*tokens[1:], model.layernorm(tokens[-1])]


@torch.no_grad()
@pytest.mark.parametrize("kind, size", [*((kind, 56) for kind in KINDS), ("plain", 84)])
def test_features_are_those_of_dinov2(kind, size, dinov2):
    """
    At the size of its positions, and at another one, for which both resample them. There transformers smooths those of
    the model with registers, which neither the authors of DINOv2 nor this library's encoders do.
    """
    native, place = dinov2(kind)
    model = start(place, image_size=size, patch_size=14).eval()
    images = torch.randn(2, 3, size, size)
    expected = native(images).last_hidden_state
    torch.testing.assert_close(without_queries(model, images)[-1], expected, atol=1e-5, rtol=1e-5)
    assert model.config.num_register_tokens == getattr(native.config, "num_register_tokens", 0)


@torch.no_grad()
def test_features_are_those_of_vfmseg(dinov2):
    """At patch 16: of the coarse pass, which looks at the same weights at 512 pixels."""
    _, place = dinov2("registers")
    ours = VFMSegForSemanticSegmentation.from_backbone(place, out_indices=[0, 1, 2, 3]).eval()
    images = torch.randn(1, 3, 512, 512)
    found = without_queries(start(place, image_size=512).eval(), images)
    for tokens, expected in zip(found, ours.model(images).feature_maps, strict=False):
        maps = tokens[:, 4:].transpose(1, 2).reshape(expected.shape)
        torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("depth, blocks", [(4, 3), (12, 3), (24, 4), (40, 5)])
def test_blocks_with_queries(depth, blocks, dinov2):
    model = start(dinov2(num_hidden_layers=depth)[1], image_size=64)
    assert model.config.num_blocks == blocks and model.attn_mask_probs.tolist() == [1] * blocks
    assert model.config.num_upscale_blocks == 2 and model.config.id2label == ABC


# Steps of the authors' configurations (tue-mps/eomt, configs/dinov2), with the steps of their epochs.
AUTHORS = {
    "ade20k large": (31 * 1263, [6520, 13040, 19560, 26080], 6520),
    "ade20k giant": (31 * 1263, [6520, 11410, 16300, 21190, 26080], 6520),
    "cityscapes large": (107 * 186, [3317, 6634, 9951, 13268], 3317),
    "coco small": (12 * 7391, [14782, 36955, 59128], 14782),
    "coco giant": (12 * 7391, [14782, 25869, 36955, 48042, 59128], 14782),
}


@pytest.mark.parametrize("name", AUTHORS)
def test_masks_are_annealed_as_by_the_authors(name):
    total, starts, duration = AUTHORS[name]
    slack = 0.005 * total  # their steps are rounded, and their images counted as the authors loaded them
    for block, start_step in enumerate(starts):

        def at(step, block=block):
            return mask_probabilities(step, total, len(starts))[block]

        assert at(0) == at(start_step - slack) == 1 and 0.8 < at(start_step + slack) < 1
        assert at(start_step + duration / 2) == pytest.approx(0.5**0.9, abs=0.03)
        assert at(start_step + duration + slack) == at(total) == 0 < at(start_step + duration - slack)


def test_it_trains_and_resumes_exactly(dinov2, tmp_path):
    """The masks that are left are drawn, so that what is resumed needs the same draws too."""
    place, rates = dinov2()[1], {"learning_rate": 1e-3, "encoder_learning_rate": 1e-4, "max_steps": 5, "ema_decay": 0.5}
    model = start(place, image_size=64)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    processor = own_processor(None, model.config, 64)
    run = trainer(model, tmp_path / "run", processor=processor, **rates)
    run.train()
    assert not model.attn_mask_probs.any(), "it needs no masks any more"
    unchanged = {name for name, weight in model.named_parameters() if torch.equal(weight, before[name])}
    assert unchanged == {"embeddings.register_tokens"}, "of which there are none"
    middle = AutoModelForUniversalSegmentation.from_pretrained(tmp_path / "run" / "checkpoint-2")
    assert (
        middle.attn_mask_probs.tolist() == pytest.approx(mask_probabilities(2, 5, 3)) and middle.attn_mask_probs.any()
    )
    again = start(place, image_size=64)
    trainer(again, tmp_path / "run", processor=processor, **rates).train(
        resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2")
    )
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())

    run.save_model(str(tmp_path / "saved"))
    saved = AutoModelForUniversalSegmentation.from_pretrained(tmp_path / "saved").eval()
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(saved(images).masks_queries_logits, model.eval()(images).masks_queries_logits)
    windows = AutoImageProcessor.from_pretrained(tmp_path / "saved")(torch.zeros(3, 70, 200, dtype=torch.uint8))
    assert [image.shape for image in windows["pixel_values"]] == [(3, 64, 64)] * 3
    record = json.loads((tmp_path / "saved" / "recipe.json").read_text())
    assert record["run"]["tune"] == "full" and record["run"]["loss_function"].startswith("matched masks")


def test_what_is_annealed_stays_so(dinov2, tmp_path):
    """A training that starts from a finished EoMT has no masks again."""
    model = start(dinov2()[1], image_size=64)
    model.attn_mask_probs.zero_()
    processor = own_processor(None, model.config, 64)
    trainer(model, tmp_path, processor=processor, max_steps=1).train()
    assert not model.attn_mask_probs.any()


def test_an_image_without_labels_is_learnt_as_nothing(dinov2):
    model = start(dinov2()[1], image_size=64).train()
    other = OtherModel(model, own_processor(None, model.config, 64))
    for labels in (torch.full((2, 64, 64), 255), torch.stack([torch.full((64, 64), 255), torch.ones(64, 64)]).long()):
        loss, _ = other.loss(model, torch.randn(2, 3, 64, 64), labels)
        loss.backward()
        assert loss.isfinite() and loss > 0


@pytest.mark.parametrize(
    "words, message",
    [
        (["--crop_size", 64, 80], "--crop_size 64 80 must be one number, and a multiple of 16, e.g. 64"),
        (["--crop_size", 72], "--crop_size 72 must be one number, and a multiple of 16"),
        (["--tune", "lora"], "eomt models of transformers train as a whole; leave --tune lora out"),
        (
            ["--size", 128],
            "this is the shortest edge of every image, and the longest has no limit; leave --size 128 out",
        ),
        (["--size", 64, 128], "leave --size 64 128 out"),
        (["--coarse_size", 64], "--method eomt has no coarse_size; leave it out"),
        (["--class_weights", 1, 2, 3], "--method eomt has no class_weights; leave it out"),
        (["--scale_heads"], "--method eomt has another; leave it out"),
    ],
)
def test_what_does_not_fit(words, message, dinov2, tmp_path):
    run = ["--data", "streets:game?n=1&size=64x96", "--device", "cpu", "--output", tmp_path / "run"]
    run += ["--rare_class_sampling", "false", "--crop_size", 64]
    assert message in error_of("train", "--model", dinov2()[1], "--method", "eomt", *run, *words)
    assert not (tmp_path / "run").exists()


def test_other_encoders(tmp_path, dinov2):
    sizes = {name: TINY[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    DINOv3ViTModel(DINOv3ViTConfig(**sizes, intermediate_size=64)).save_pretrained(tmp_path / "dinov3")
    with pytest.raises(ValueError, match=r"eomt is made of a DINOv2, and the foundation model is a dinov3_vit"):
        start(str(tmp_path / "dinov3"))
    with pytest.raises(ValueError, match="needs an encoder with biases in q, k and v"):
        start(dinov2(qkv_bias=False)[1])
    with pytest.raises(ValueError, match=r"num_blocks must be in 1\.\.4"):
        start(dinov2()[1], num_blocks=5)


def test_it_needs_scipy(monkeypatch, dinov2):
    monkeypatch.setattr("transformers.models.eomt.modeling_eomt.requires_backends", _without)
    with pytest.raises(ImportError, match=r"EoMT needs scipy: pip install 'vfmseg-hf\[methods\]'"):
        start(dinov2()[1])


def _without(*_):
    raise ImportError("requires scipy")
