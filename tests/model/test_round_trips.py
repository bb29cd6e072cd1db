# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Every class's checkpoint into every class, for every encoder family and both name formats: bit-equal, or refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSemanticSegmentation

from tests.support.tiny import BACKBONE, REFINER
from vfmseg_hf import VFMSegConfig, VFMSegForSemanticSegmentation, VFMSegModel, lora_config
from vfmseg_hf.model.encoders import ENCODER_FAMILIES


OTHER = {**BACKBONE, "intermediate_size": 48}
TIMM = {"model_type": "timm_wrapper", "architecture": "vit_base_patch16_224"}
TIMM_ARGS = {"embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 64, "patch_size": 16}
BACKBONES = {
    "dinov2": BACKBONE,
    "dinov2, gated": {**BACKBONE, "use_swiglu_ffn": True},
    "dinov2_with_registers": {**BACKBONE, "model_type": "dinov2_with_registers"},
    "dinov3_vit": {**OTHER, "model_type": "dinov3_vit"},
    "dinov3_vit, gated": {**OTHER, "model_type": "dinov3_vit", "use_gated_mlp": True, "num_register_tokens": 2},
    "clip_vision_model": {**OTHER, "model_type": "clip_vision_model"},
    "siglip_vision_model": {**OTHER, "model_type": "siglip_vision_model"},
    "siglip2_vision_model": {**OTHER, "model_type": "siglip2_vision_model", "num_patches": 16},
    "sam_vision_model": {
        **BACKBONE,
        "model_type": "sam_vision_model",
        "window_size": 3,
        "global_attn_indexes": [1, 3],
        "output_channels": 16,
    },
    "timm_wrapper, vit": {**TIMM, "model_args": TIMM_ARGS},
    "timm_wrapper, vit with layer scales": {**TIMM, "model_args": {**TIMM_ARGS, "init_values": 1e-5}},
    "timm_wrapper, eva02": {**TIMM, "architecture": "eva02_base_patch14_224", "model_args": TIMM_ARGS},
}
LOADERS = {
    VFMSegForSemanticSegmentation: (VFMSegForSemanticSegmentation, AutoModelForSemanticSegmentation),
    VFMSegModel: (VFMSegModel, AutoModel),
}
HEADS = ("coarse_head.", "refine_head.")


def test_every_family_is_here():
    assert {name.partition(",")[0] for name in BACKBONES} == ENCODER_FAMILIES.keys()


def make_model(cls=VFMSegForSemanticSegmentation, backbone=BACKBONE):
    """Every tensor has values that no initialisation gives."""
    model = cls(VFMSegConfig(backbone_config=dict(backbone), **REFINER)).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.01, 0.1)
    return model


def tensors(model) -> dict[str, torch.Tensor]:
    """By the names of a segmentation model."""
    prefix = "model." if isinstance(model, VFMSegModel) else ""
    return {prefix + key: tensor for key, tensor in model.state_dict().items()}


def check_equal(loaded, expected: dict[str, torch.Tensor]) -> None:
    """All that both models have is bit-equal, and the encoder is all there."""
    found = tensors(loaded)
    differing = [key for key in found.keys() & expected.keys() if not torch.equal(found[key], expected[key])]
    assert differing == []
    assert all(key.startswith(HEADS) for key in found.keys() ^ expected.keys())


@pytest.mark.parametrize("original", [False, True], ids=["module names", "original names"])
@pytest.mark.parametrize("source", LOADERS)
@pytest.mark.parametrize("name", BACKBONES)
def test_whole_models(name, source, original, tmp_path):
    model = make_model(source, BACKBONES[name])
    model.save_pretrained(tmp_path / "first", save_original_format=original)
    for target, other in zip(LOADERS, reversed(LOADERS), strict=True):
        loader = LOADERS[target][original]
        loaded, info = loader.from_pretrained(tmp_path / "first", output_loading_info=True)
        assert type(loaded) is target
        check_equal(loaded, tensors(model))
        new = source is VFMSegModel and target is VFMSegForSemanticSegmentation
        assert info["missing_keys"] == ({key for key in tensors(loaded) if key.startswith(HEADS)} if new else set())
        loaded.save_pretrained(tmp_path / "second", save_original_format=not original)  # and on, from what was loaded
        check_equal(other.from_pretrained(tmp_path / "second"), tensors(loaded))


@pytest.mark.parametrize(
    "name, base", [*((name, VFMSegForSemanticSegmentation) for name in BACKBONES), ("dinov3_vit", VFMSegModel)]
)
def test_adapters(name, base, tmp_path):
    make_model(base, BACKBONES[name]).save_pretrained(tmp_path / "base")
    model = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "base")
    model.add_adapter(lora_config(model.config, r=2))
    for key, tensor in model.state_dict().items():
        if ".lora_" in key or (key.startswith(HEADS) and tensor.is_floating_point()):
            tensor.uniform_(0.01, 0.1)
    model.save_pretrained(tmp_path / "adapter")
    expected = tensors(model)
    for loader in (AutoModelForSemanticSegmentation, AutoModel):
        found = tensors(loader.from_pretrained(tmp_path / "adapter"))
        assert any(".lora_B." in key for key in found)
        read = [key for key in found if ".original_module." not in key]  # but for the heads under the adapter's
        assert [key for key in read if not torch.equal(found[key], expected[key])] == []


@pytest.mark.parametrize("loader", [VFMSegForSemanticSegmentation, VFMSegModel, AutoModel])
@pytest.mark.parametrize("source", LOADERS)
def test_an_encoder_with_a_tensor_missing_is_refused(source, loader, tmp_path):
    make_model(source).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = next(key for key in weights if key.endswith("layer_scale2.lambda1"))
    save_file(
        {k: v for k, v in weights.items() if k != gone}, tmp_path / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(ValueError, match=r"of whose \d+ tensors 1 are missing \['.*layer_scale2\.lambda1'\]"):
        loader.from_pretrained(tmp_path)


@pytest.mark.parametrize("loader", [VFMSegForSemanticSegmentation, VFMSegModel])
def test_an_encoder_of_another_size_is_refused(loader, tmp_path):
    make_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"of whose \d+ tensors .*1 of another size \['.*position_embeddings'\]"):
        loader.from_pretrained(
            tmp_path,
            config=VFMSegConfig(backbone_config={**BACKBONE, "image_size": 96}, **REFINER),
            ignore_mismatched_sizes=True,
        )


def test_weights_given_as_a_state_dict():
    model = make_model()
    heads = {key: tensor for key, tensor in model.state_dict().items() if key.startswith(HEADS)}
    loaded = VFMSegForSemanticSegmentation.from_pretrained(None, config=model.config, state_dict=model.state_dict())
    check_equal(loaded, model.state_dict())
    with pytest.raises(ValueError, match="the weights in state_dict hold no tensor of the encoder"):
        VFMSegForSemanticSegmentation.from_pretrained(None, config=model.config, state_dict=heads)
    # transformers' own way to ask for random weights
    assert VFMSegForSemanticSegmentation.from_pretrained(None, config=model.config, state_dict={}).num_labels == 19


def test_other_key_mappings_work_beside_ours(tmp_path):
    model = make_model(backbone=BACKBONES["dinov3_vit"])
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    renamed = {key.replace("coarse_head", "decoder"): value for key, value in weights.items()}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    mapping = {r"^decoder\.": "coarse_head."}
    check_equal(VFMSegForSemanticSegmentation.from_pretrained(tmp_path, key_mapping=mapping), model.state_dict())
