# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Adapters on an encoder that bitsandbytes or torchao has quantised: train, save, load, merge."""

import json

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSemanticSegmentation, BitsAndBytesConfig, TorchAoConfig

from tests.support.numbers import lively
from vfmseg_hf import VFMSegForSemanticSegmentation, lora_config, save_adapter


pytestmark = pytest.mark.filterwarnings("ignore")  # of rounding, one for every layer
WIDE = {"hidden_size": 128}  # what the kernels take
HEADS = ["coarse_head", "refine_head"]


def bits8(**options):
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quantisation'")
    return BitsAndBytesConfig(load_in_8bit=True, **options)


def bits4(**options):
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quantisation'")
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", **options)


def torchao8(**options):
    quantization = pytest.importorskip("torchao.quantization", reason="needs the extra 'quantisation'")
    return TorchAoConfig(quantization.Int8WeightOnlyConfig(), **options)


KINDS = pytest.mark.parametrize("quantise", [bits8, bits4, torchao8])


@pytest.fixture
def base(tiny_model, tmp_path):
    lively(tiny_model(backbone_config=WIDE)).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def load(directory, quantise=None, **options):
    arguments = {"quantization_config": quantise(**options)} if quantise else {}
    return VFMSegForSemanticSegmentation.from_pretrained(directory, **arguments)


def train(model):
    """A step that leaves no factor of LoRA at zero."""
    model.train()
    model(torch.randn(2, 3, 64, 64), labels=torch.randint(0, 19, (2, 64, 64))).loss.backward()
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert any("lora_B" in name for name in trained) and all(weight.grad is not None for weight in trained.values())
    for name, weight in trained.items():
        weight.data.add_(0.02 * torch.randn_like(weight) if "lora_B" in name else 1e-3 * weight.grad)
    return model.eval()


def features(model):
    """Without gradients bitsandbytes packs weights in 4 bits for the CPU, inexactly: with them here."""
    images = torch.linspace(-2, 2, 3 * 64 * 64).view(1, 3, 64, 64).requires_grad_()
    return model.eval().model(images).feature_maps[-1].detach()


def is_quantised(model, part: str) -> bool:
    """By what is stored for a linear layer."""
    return any(
        weight.dtype in (torch.int8, torch.uint8) or "torchao" in type(weight).__module__
        for name, weight in model.named_parameters()
        if name.startswith(part)
    )


@KINDS
def test_trained_saved_and_loaded(quantise, base, tmp_path):
    model = load(base, quantise)
    assert is_quantised(model, "model.encoder.") and not is_quantised(model, "coarse_head")
    model.add_adapter(lora_config(model.config, r=4))
    train(model).save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert not any("base_layer" in key or ".absmax" in key or ".SCB" in key for key in saved)
    config = json.loads((tmp_path / "adapter" / "config.json").read_text())
    assert "quantization_config" not in config and len(config["backbone_fingerprint"]) == 64

    for loader in (VFMSegForSemanticSegmentation, AutoModelForSemanticSegmentation):
        again = loader.from_pretrained(tmp_path / "adapter", quantization_config=quantise())
        assert is_quantised(again, "model.encoder.") and not any(is_quantised(again, head) for head in HEADS)
        assert torch.equal(features(again), features(model))
        named = dict(again.named_parameters())
        kept = [(n, w) for n, w in model.named_parameters() if ".lora_" in n or ".modules_to_save." in n]
        assert all(torch.equal(named[name], weight) for name, weight in kept)
    full = load(tmp_path / "adapter")
    assert not is_quantised(full, "")
    assert 0 < (features(full) - features(model)).abs().mean() < 0.2 * features(full).std()
    encoder = AutoModel.from_pretrained(tmp_path / "adapter", quantization_config=quantise())
    assert is_quantised(encoder, "encoder.")


@KINDS
def test_by_get_peft_model(quantise, base, tmp_path):
    model = load(base, quantise)
    wrapped = train(get_peft_model(model, lora_config(model.config, r=4)))
    save_adapter(wrapped, tmp_path / "adapter")
    assert torch.equal(features(load(tmp_path / "adapter", quantise)), features(model))


@KINDS
def test_merged(quantise, base, tmp_path):
    model = load(base, quantise)
    model.add_adapter(lora_config(model.config, r=4))
    train(model).save_pretrained(tmp_path / "adapter")
    before = features(model)
    full = load(tmp_path / "adapter").merge_and_unload()
    rounded = (features(model.merge_and_unload()) - before).abs().mean()
    assert is_quantised(model, "model.encoder.") and rounded < 0.2 * before.std()
    assert (features(model) - features(full)).abs().mean() < 0.2 * before.std()
    assert all(weight.requires_grad == weight.is_floating_point() for weight in model.parameters())
    model.save_pretrained(tmp_path / "merged")
    again = load(tmp_path / "merged")
    assert is_quantised(again, "model.encoder.") and torch.equal(features(again), features(model))


@pytest.mark.parametrize("quantise", [bits8, bits4])
def test_a_base_that_is_stored_quantised(quantise, base, tmp_path):
    load(base, quantise).save_pretrained(tmp_path / "stored")
    model = load(tmp_path / "stored")
    model.add_adapter(lora_config(model.config, r=4))
    train(model).save_pretrained(tmp_path / "adapter")
    again = load(tmp_path / "adapter")
    assert not is_quantised(again, "")
    assert (features(again) - features(model)).abs().mean() < 0.05 * features(model).std()


def test_a_base_that_torchao_has_stored_is_refused(base, tmp_path):
    load(base, torchao8).save_pretrained(tmp_path / "stored")
    model = load(tmp_path / "stored")
    model.add_adapter(lora_config(model.config, r=4))
    with pytest.raises(ValueError, match="stored quantised in a way that has no way back.*full precision as the base"):
        model.save_pretrained(tmp_path / "adapter")


@KINDS
def test_heads_that_were_to_be_quantised_do_not_train(quantise, base):
    nothing = {"modules_to_not_convert": []} if quantise is torchao8 else {"llm_int8_skip_modules": []}
    model = load(base, quantise, **nothing)
    assert is_quantised(model, "refine_head.")
    with pytest.raises(
        ValueError, match=r"refine_head should train but is quantised.*\['coarse_head', 'refine_head'\]"
    ):
        model.add_adapter(lora_config(model.config, r=4))


def test_activations_that_stop_gradients_are_refused(base, tmp_path):
    quantization = pytest.importorskip("torchao.quantization", reason="needs the extra 'quantisation'")
    config = TorchAoConfig(quantization.Int8DynamicActivationInt8WeightConfig())
    model = VFMSegForSemanticSegmentation.from_pretrained(base, quantization_config=config)
    with pytest.raises(ValueError, match=r"no gradient comes back through .*layer\.0.*quantise the weights only"):
        model.add_adapter(lora_config(model.config, r=4))
    trained = load(base)
    trained.add_adapter(lora_config(trained.config, r=4))
    trained.save_pretrained(tmp_path / "adapter")
    VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "adapter", quantization_config=config)  # to predict


def test_weights_packed_for_inference_are_neither_merged_nor_saved(base, tmp_path):
    model = load(base, bits4)
    for layer in model.modules():
        if getattr(getattr(layer, "weight", None), "quant_state", None) is not None:
            layer.weight.quant_state.packing_format_for_cpu = True  # as a prediction does on CPUs with AVX512-BF16
    with pytest.raises(ValueError, match="packed the weights in 4 bits for inference on this CPU"):
        model.save_pretrained(tmp_path)
    model.add_adapter(lora_config(model.config, r=4))
    with pytest.raises(ValueError, match="packed the weights in 4 bits for inference on this CPU"):
        model.merge_and_unload()


@KINDS
def test_minor_directions_need_full_precision(quantise, base, tmp_path):
    """They cannot be found in rounded weights; an adapter that has them predicts on these all the same."""
    model = load(base, quantise)
    with pytest.raises(
        ValueError, match="init_lora_weights='mica' needs the singular vectors of the encoder's weights"
    ):
        model.add_adapter(lora_config(model.config, r=4, init_lora_weights="mica"))
    model = load(base)
    model.add_adapter(lora_config(model.config, r=4, init_lora_weights="mica"))
    for name, weight in model.named_parameters():
        if ".lora_A." in name:
            weight.data.normal_(std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    again = load(tmp_path / "adapter", quantise)
    assert is_quantised(again, "model.encoder.")
    assert 0 < (features(again) - features(model)).abs().mean() < 0.2 * features(model).std()
    with pytest.raises(ValueError, match="init_lora_weights='mica' needs"):
        VFMSegForSemanticSegmentation.from_pretrained(
            tmp_path / "adapter", is_trainable=True, quantization_config=quantise()
        )
