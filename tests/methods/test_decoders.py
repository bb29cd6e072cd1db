# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Decoders of transformers on a foundation model, and Rein: what they compute, and that they train and are saved."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    AutoModelForSemanticSegmentation,
    Mask2FormerForUniversalSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)
from transformers.modeling_outputs import BackboneOutput

from tests.methods.runs import ABC, trainer
from tests.support.commands import call, error_of
from tests.support.tiny import BACKBONE
from vfmseg_hf import lora_config
from vfmseg_hf.methods import METHODS
from vfmseg_hf.methods.mask2former import Masks
from vfmseg_hf.methods.pyramid import resize_to_pyramid
from vfmseg_hf.training.model import change_classes, choose_trained_part, start_model


SMALL = {
    "linear": {},
    "segformer": {"decoder_hidden_size": 32},
    "mask2former": {
        "num_queries": 6,
        "hidden_dim": 64,
        "encoder_layers": 1,
        "decoder_layers": 3,
        "num_attention_heads": 4,
        "encoder_feedforward_dim": 32,
        "dim_feedforward": 32,
        "train_num_points": 64,
    },
}
SMALL["rein"] = {**SMALL["mask2former"], "rein_rank": 4}
DECODERS = ["segformer", "mask2former", "rein"]


def make(method: str, **fields):
    model_class = METHODS[method]
    usual = {"backbone_config": BACKBONE, "coarse_size": 64, "id2label": ABC, **SMALL[method]}
    return model_class(model_class.config_class(**{**usual, **fields})).eval()


@pytest.fixture
def places(tmp_path, tiny_model):
    tiny_model().model.encoder.save_pretrained(tmp_path / "foundation")
    return tmp_path


@pytest.mark.parametrize("method", DECODERS)
def test_logits_are_at_a_quarter(method):
    model, images = make(method), torch.randn(2, 3, 80, 120)
    assert model(images).logits.shape == (2, 3, 16, 24), "a quarter of 64x96, the size that VFMNet would see"
    sizes = [(40, 50), (80, 120)]
    for image, size, result in zip(images, sizes, model.segment(images, sizes), strict=True):
        expected = F.interpolate(model(image[None]).logits, size, mode="bilinear").argmax(1)[0]
        assert torch.equal(result.labels, expected.to(torch.uint8))


def test_the_pyramid():
    maps = [torch.randn(1, 2, 5, 7, dtype=torch.double) for _ in range(4)]
    for factor, before, after in zip((4, 2, 1, 0.5), maps, resize_to_pyramid(maps), strict=True):
        expected = F.interpolate(before, scale_factor=factor, mode="bilinear", recompute_scale_factor=True)
        torch.testing.assert_close(after, expected)


class Features(torch.nn.Module):
    """Stands for the backbone of a whole model of transformers."""

    channels = [32] * 4

    def __init__(self, maps):
        super().__init__()
        self.maps = maps

    def forward(self, pixel_values, **_):
        return BackboneOutput(feature_maps=self.maps)


def test_mask2former_is_that_of_transformers():
    """Masks, classes and the loss, against its own whole model on the same maps."""
    model = make("mask2former")
    head = model.mask2former_head
    maps = resize_to_pyramid([torch.randn(2, 32, 4, 6) for _ in range(4)])
    whole = Mask2FormerForUniversalSegmentation(head.config).eval()
    whole.model.pixel_level_module.encoder = Features(maps)
    whole.model.pixel_level_module.decoder = head.pixel_decoder
    whole.model.transformer_module, whole.class_predictor = head.transformer_module, head.class_predictor
    labels = torch.randint(0, 3, (2, 64, 96))
    labels[0] = labels[0].where(labels[0] != 1, 255)
    masks = [torch.stack([labels[0] == 0, labels[0] == 2]).float()]
    masks += [torch.stack([labels[1] == number for number in range(3)]).float()]
    classes = [torch.tensor([0, 2]), torch.tensor([0, 1, 2])]
    torch.manual_seed(1)
    expected = whole(torch.zeros(2, 3, 64, 96), mask_labels=masks, class_labels=classes)
    found = head(maps)
    torch.testing.assert_close(found.masks[-1], expected.masks_queries_logits)
    torch.testing.assert_close(found.classes[-1], expected.class_queries_logits)
    torch.manual_seed(1)  # of the points that are looked at
    torch.testing.assert_close(head.loss(found, labels, 255), expected.loss.squeeze())

    from transformers import Mask2FormerImageProcessorPil

    maps_of_classes = Mask2FormerImageProcessorPil().post_process_semantic_segmentation(expected, [(384, 384)] * 2)
    logits = F.interpolate(found.as_logits(), (384, 384), mode="bilinear", align_corners=False)
    agreement = (logits.argmax(1) == torch.stack(maps_of_classes)).float().mean()
    assert agreement > 0.98, "it resizes the masks before the classes are chosen"


def test_segformer_is_that_of_transformers():
    head = make("segformer").segformer_head
    whole = SegformerForSemanticSegmentation(
        SegformerConfig(hidden_sizes=[32] * 4, decoder_hidden_size=32, num_labels=3)
    )
    whole.decode_head.load_state_dict(head.decode_head.state_dict())
    maps = [torch.randn(2, 32, 4, 6) for _ in range(4)]
    torch.testing.assert_close(head(maps), whole.eval().decode_head(resize_to_pyramid(maps)))


@pytest.mark.parametrize("labelled", [True, False])
def test_what_is_not_labelled_is_in_no_mask(labelled):
    """An image without any labelled pixel has nothing to match; its queries learn that there is nothing."""
    model = make("mask2former").train()
    labels = torch.full((2, 64, 64), 255)
    if labelled:
        labels[0, :20] = 1
    loss = model(torch.randn(2, 3, 64, 64), labels=labels).loss
    loss.backward()
    assert loss.isfinite()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


def test_how_sure_classes_are():
    classes = torch.tensor([[[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]]])
    masks = torch.randn(1, 2, 4, 5)
    expected = torch.zeros(1, 2, 4, 5)
    for query in range(2):
        for number in range(2):
            expected[0, number] += classes[0, query].softmax(0)[number] * masks[0, query].sigmoid()
    torch.testing.assert_close(Masks([classes], [masks]).as_logits(), expected)


@pytest.mark.parametrize("method", DECODERS)
def test_it_trains_and_is_saved(method, places):
    fields = {"id2label": ABC, "coarse_size": 64, **SMALL[method]}
    model = start_model(str(places / "foundation"), method=method, **fields)
    assert type(model) is METHODS[method] and model.config.id2label == ABC
    choose_trained_part(model, r=2)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    run = trainer(model, places / "run", learning_rate=1e-2, encoder_learning_rate=1e-3)
    run.train()
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    of_encoder = {name for name in changed if name.startswith("model.encoder.")}
    if method == "rein":
        assert not of_encoder and any(name.startswith("model.reins.") for name in changed) and changed == trained
    else:
        assert of_encoder and all(".lora_" in name for name in of_encoder) and changed <= trained
    run.save_model(str(places / "saved"))
    loaded = AutoModelForSemanticSegmentation.from_pretrained(places / "saved").eval()
    assert type(loaded) is METHODS[method]
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(images).logits, model.eval()(images).logits, atol=1e-4, rtol=1e-4)
    record = json.loads((places / "saved" / "recipe.json").read_text())
    assert record["run"]["tune"] == ("heads" if method == "rein" else "lora")
    assert record["run"]["loss_function"].startswith("cross entropy" if method == "segformer" else "matched masks")
    if method == "rein":
        resumed = start_model(str(places / "foundation"), method=method, **fields)
        choose_trained_part(resumed)
        again = trainer(resumed, places / "run", learning_rate=1e-2, encoder_learning_rate=1e-3)
        again.train(resume_from_checkpoint=str(places / "run" / "checkpoint-1"))
        for name, weight in resumed.named_parameters():
            assert torch.equal(weight, dict(model.named_parameters())[name]), name


def test_weight_decay_of_rein(places):
    model = start_model(str(places / "foundation"), method="rein", id2label=ABC, coarse_size=64, **SMALL["rein"])
    choose_trained_part(model)
    decaying = set(trainer(model, places / "run").get_decay_parameter_names(model))
    spared = {name for name, weight in model.named_parameters() if weight.requires_grad} - decaying
    assert {"model.reins.learnable_tokens_a", "model.reins.learnable_tokens_b", "model.reins.scale"} <= spared
    assert {"model.reins.mlp_delta_f.weight", "model.reins.mlp_delta_f.bias", "query_contents.weight"} <= decaying
    norms = {name for name, module in model.named_modules() if "Norm" in type(module).__name__}
    rest = {name for name in spared if name.rpartition(".")[0] not in norms}
    assert all("level_embed" in name or name.startswith("model.reins.") for name in rest)


def test_queries_of_rein():
    """Linked, they are the adapter's; not linked, tables of the decoder; of SAM only the positions are linked."""
    names = {name for name, _ in make("rein").named_parameters()}
    assert not any("queries_" in name for name in names) and "query_contents.weight" in names
    names = {name for name, _ in make("rein", link_queries=False).named_parameters()}
    assert sum("queries_" in name for name in names) == 2 and "query_contents.weight" not in names
    sam = {**BACKBONE, "model_type": "sam_vision_model", "global_attn_indexes": [1, 3], "mlp_dim": 64, "window_size": 2}
    sam = {name: value for name, value in sam.items() if name not in ("intermediate_size", "mlp_ratio")}
    model = make("rein", backbone_config=sam)
    assert model.model.adapted_blocks == [1, 3] and model.config.link_contents is False
    assert sum("queries_" in name for name, _ in model.named_parameters()) == 1
    model(torch.randn(1, 3, 64, 64))
    with pytest.raises(ValueError, match="link_contents=True needs link_queries=True"):
        make("rein", link_queries=False, link_contents=True)
    with pytest.raises(ValueError, match="rein_rank must be at least 1"):
        make("rein", rein_rank=0)


def test_what_has_no_place():
    with pytest.raises(ValueError, match="adapts its encoder by itself, so that LoRA has no place in it"):
        model = make("rein")
        model.add_adapter(lora_config(model.config))
    for field in ("class_weights", "label_smoothing_factor", "window_size"):
        with pytest.raises(ValueError, match=rf"\['{field}'\] are no fields of VFMSegMask2FormerConfig"):
            make("mask2former", **{field: [1.0]})


def test_a_loss_of_ones_own_is_refused(places):
    model = make("mask2former")
    with pytest.raises(ValueError, match="the loss of a vfmseg_mask2former model matches masks"):
        model.loss_function = torch.nn.CrossEntropyLoss()
    with pytest.raises(ValueError, match="matches masks"):
        trainer(
            model, places / "run", compute_loss_func=lambda outputs, labels, num_items_in_batch: outputs.logits.sum()
        )


def test_only_training_needs_scipy(monkeypatch):
    def without(*_):
        raise ImportError("requires scipy")

    monkeypatch.setattr("vfmseg_hf.methods.mask2former.Mask2FormerLoss", without)
    model = make("mask2former")
    assert model(torch.randn(1, 3, 64, 64)).logits.isfinite().all()
    with pytest.raises(ImportError, match=r"needs scipy: pip install 'vfmseg-hf\[methods\]'"):
        model.train()(torch.randn(2, 3, 64, 64), labels=torch.zeros(2, 64, 64, dtype=torch.long))


def test_classes_by_name():
    model = make("segformer")
    before = model.segformer_head.decode_head.classifier.weight.detach().clone()
    change_classes(model, {0: "person", 1: "tree", 2: "road"})
    after = model.segformer_head.decode_head.classifier.weight
    assert torch.equal(after[0], before[2]) and torch.equal(after[2], before[0])
    model = make("mask2former")
    images, head = torch.randn(1, 3, 64, 64), model.mask2former_head
    before, old = head(resize_to_pyramid(model.model(images).feature_maps)), model(images).logits
    change_classes(model, {0: "person", 1: "tree", 2: "road"})
    after = head(resize_to_pyramid(model.model(images).feature_maps))
    assert torch.equal(after.masks[-1], before.masks[-1])
    torch.testing.assert_close(after.classes[-1][..., [0, 2, 3]], before.classes[-1][..., [2, 0, 3]])
    change_classes(model, {0: "person", 1: "road"})
    assert model(images).logits.shape[1] == 2 and old.shape[1] == 3
    model.train()(images, labels=torch.zeros(1, 64, 64, dtype=torch.long)).loss.backward()


@pytest.mark.parametrize("method", DECODERS)
def test_the_commands(method, places, capsys):
    size = ["--size", 64, 96, "--crop_size", 64, "--rare_class_sampling", "false", "--report_to", "none"]
    words = ["--data", "streets:game?n=2&size=64x96", "--device", "cpu", "--max_steps", 1, "--coarse_size", 64, *size]
    first = ["--model", places / "foundation", "--method", method]
    assert error_of("train", *first, *words, "--output", places / "run") is None
    assert "the model is in" in capsys.readouterr().out
    scored = ["--data", "streets:night?n=1&size=64x96@test", "--device", "cpu", "--output", places / "scores.json"]
    assert error_of("evaluate", "--model", places / "run", *scored) is None
    assert json.loads((places / "scores.json").read_text())["domains"]["test"]["refined"] is None
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(places / "a.png")
    out = ["--output", places / "out", "--device", "cpu"]
    assert call("predict", "--model", places / "run", places / "a.png", *out) == 0


@pytest.mark.parametrize(
    "words, message",
    [
        (["--method", "rein", "--tune", "lora"], "--method rein adapts the encoder by itself; leave --tune lora out"),
        (
            ["--method", "mask2former", "--class_weights", 1, 2, 3],
            "--method mask2former has no class_weights; leave it out",
        ),
        (["--method", "segformer", "--feature_mask_ratio", 0], "--method segformer has no feature_mask_ratio"),
        (
            ["--method", "rein", "--label_smoothing_factor", 0.1],
            "--method rein has no label_smoothing_factor; leave it out",
        ),
    ],
)
def test_what_does_not_go_together(words, message, places):
    usual = ["--data", "streets:game?n=1&size=64x96", "--output", places / "run", "--device", "cpu", "--crop_size", 64]
    usual += ["--rare_class_sampling", "false"]
    assert message in error_of("train", "--model", places / "foundation", *usual, *words)
    assert not (places / "run").exists()
