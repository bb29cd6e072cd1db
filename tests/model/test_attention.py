# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""`attn_implementation` works in encoder and heads alike, or is refused in one line."""

import pytest
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.support.numbers import disagreement, lively
from tests.support.tiny import BACKBONE, REFINER
from vfmseg_hf import VFMSegConfig, VFMSegForSemanticSegmentation
from vfmseg_hf.model.heads import VFMSegAttention


VIT = {**BACKBONE, "intermediate_size": 64}
SAM = {
    "model_type": "sam_vision_model",
    "mlp_dim": 64,
    "window_size": 2,
    "global_attn_indexes": [1],
    "output_channels": 8,
}
TIMM_SIZES = {"img_size": 64, "patch_size": 16, "depth": 4, "embed_dim": 32, "num_heads": 2}
ENCODERS = {
    "dinov2": BACKBONE,
    "dinov2_with_registers": {**BACKBONE, "model_type": "dinov2_with_registers"},
    "dinov3": {**VIT, "model_type": "dinov3_vit"},
    "clip": {**VIT, "model_type": "clip_vision_model"},
    "siglip": {**VIT, "model_type": "siglip_vision_model"},
    "siglip2": {**VIT, "model_type": "siglip2_vision_model", "num_patches": 16},
    "sam": {**BACKBONE, **SAM, "output_channels": 8},
    "timm": {"model_type": "timm_wrapper", "architecture": "vit_base_patch16_224", "model_args": TIMM_SIZES},
}
FIXED = ("sam", "timm")
EVERY = pytest.mark.parametrize("name", ENCODERS)


@pytest.fixture
def make(tmp_path):
    """A model of an encoder with any attention, always with the same weights."""

    def build(name: str, attn_implementation=None) -> VFMSegForSemanticSegmentation:
        if name == "timm":
            pytest.importorskip("timm")
        if not (tmp_path / name).exists():
            config = VFMSegConfig(backbone_config=dict(ENCODERS[name]), num_labels=4, **REFINER)
            lively(VFMSegForSemanticSegmentation(config)).save_pretrained(tmp_path / name)
        asked = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
        return VFMSegForSemanticSegmentation.from_pretrained(tmp_path / name, **asked).eval()

    return build


@torch.no_grad()
def logits(model: VFMSegForSemanticSegmentation) -> torch.Tensor:
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    return model(images, refine="all").logits


@pytest.fixture
def counted():
    """A user's own attention, under the name `"counted"`, and the modules that it was called for."""
    modules = []

    def attend(module, *args, **kwargs):
        modules.append(module)
        return sdpa_attention_forward(module, *args, **kwargs)

    AttentionInterface.register("counted", attend)
    yield modules
    AttentionInterface._global_mapping.pop("counted")


@EVERY
def test_eager_is_sdpa_up_to_rounding(name, make):
    expected, model = logits(make(name)), make(name, "eager")
    assert {part.config._attn_implementation for part in (model, model.model.encoder)} == {"eager"}
    assert disagreement(logits(model), expected) <= 1


@pytest.mark.slow
def test_flex_attention(make):
    model = make("dinov2")
    expected = logits(model)
    assert disagreement(logits(make("dinov2", "flex_attention")), expected) <= 1
    model.set_attn_implementation("flex_attention")
    assert disagreement(logits(model), expected) <= 1


@EVERY
def test_no_module_calls_another_attention_than_the_one_asked_for(name, make, counted, monkeypatch):
    if name in FIXED:
        with pytest.raises(ValueError, match=r"attn_implementation='counted' does not work for a .*, only \['eager'"):
            make(name, "counted")
        model = make(name, {"": "counted", "backbone_config": "sdpa"})  # as the message recommends
    else:
        model = make(name, "counted")
        calls = []
        function = torch.nn.functional.scaled_dot_product_attention
        monkeypatch.setattr(
            torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: (calls.append(1), function(*a, **k))[1]
        )
    logits(model)
    heads = [module for module in counted if isinstance(module, VFMSegAttention)]
    batches = len(heads) // (2 * REFINER["refine_num_layers"])
    assert batches > 0
    if name not in FIXED:
        assert len(counted) - len(heads) == BACKBONE["num_hidden_layers"] * (batches + 1)  # and the coarse pass
        assert len(calls) == len(counted)


def test_attention_can_be_changed_later(make, counted):
    model = make("dinov2")
    expected = logits(model)
    model.set_attn_implementation("eager")
    assert disagreement(logits(model), expected) <= 1 and not counted
    model.set_attn_implementation({"": "counted"})
    assert model.model.encoder.config._attn_implementation == "eager"
    assert disagreement(logits(model), expected) <= 1
    assert counted and all(isinstance(module, VFMSegAttention) for module in counted)


@pytest.mark.parametrize("name", FIXED)
def test_an_attention_that_was_chosen_for_good_is_not_changed_in_name_only(name, make):
    model = make(name)
    model.set_attn_implementation("sdpa")  # it has it
    for asked in ("eager", {"backbone_config": "eager"}):
        with pytest.raises(ValueError, match="chosen when it is built and stays 'sdpa'.*from_pretrained"):
            model.set_attn_implementation(asked)
    model.set_attn_implementation({"": "eager"})
    assert (model.config._attn_implementation, model.model.encoder.config._attn_implementation) == ("eager", "sdpa")


@pytest.mark.parametrize("name", ["dinov2", *FIXED])
@pytest.mark.parametrize(
    "asked, message",
    [
        ("nonsense", "nonsense"),
        ("paged|eager", "is for generating text"),
        ({"backbone_config": "paged|eager"}, "is for generating text"),
        (
            {"backbone": "eager"},
            r"names the parts \['backbone'\]; this model has '' \(the heads\) and 'back",
        ),
    ],
)
def test_what_is_no_attention_is_refused_in_one_line(name, asked, message, make):
    model = make(name)
    for attempt in (lambda: make(name, asked), lambda: model.set_attn_implementation(asked)):
        with pytest.raises(ValueError, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["dinov2", *FIXED])
def test_flash_attention_runs_or_is_refused_in_one_line(name, make):
    """Here it is not installed, or there is no accelerator."""
    with pytest.raises((ImportError, ValueError)) as caught:
        make(name, "flash_attention_2")
    assert "\n" not in str(caught.value)
