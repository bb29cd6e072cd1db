# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Rein against recordings of its official implementation: adapters alone, and whole encoders with them."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.support.golden import backbone_config
from tests.support.numbers import disagreement
from vfmseg_hf.convert.names import ConvertedWeights
from vfmseg_hf.convert.registry import get_published_encoder
from vfmseg_hf.methods import VFMSegReinConfig, VFMSegReinForSemanticSegmentation
from vfmseg_hf.methods.pyramid import resize_to_pyramid
from vfmseg_hf.methods.rein import ReinAdapter


SIZES = (
    "LoRAReins_ViT-L",
    "LoRAReins_ViT-L_unlinked",
    "Reins_ViT-L",
    "LoRAReins_SAM-H_published_4_layers",
    "LoRAReins_ViT-B",
    "LoRAReins_ViT-S",
)
PYRAMID = {"fpn1": "quarter", "fpn2": "eighth", "fpn3": "sixteenth", "fpn4": "thirty_second"}


@pytest.fixture(scope="session")
def recordings(shared):
    return shared / "golden" / "rein"


def agree(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    wrong = {name: disagreement(found[name], expected[name]) for name in expected}
    assert {name: value for name, value in wrong.items() if not value <= 1} == {}


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("form", ["lora_linked", "lora_unlinked", "plain_linked"])
def test_the_adapter(form, recordings):
    folder = recordings / form
    recorded, meta = load_file(folder / "forward.safetensors"), json.loads((folder / "meta.json").read_text())
    adapter = ReinAdapter(
        meta["layers"], meta["width"], meta["tokens"], meta["query_width"], meta["patch_size"], meta["rank"]
    )
    adapter.load_state_dict(load_file(folder / "weights.safetensors"))
    assert sum(parameter.numel() for parameter in adapter.parameters()) == meta["parameter_count"]
    inputs = recorded["input"].requires_grad_()
    outputs = [
        torch.cat([of_layer[:, :1], adapter(of_layer[:, 1:], layer)], 1) for layer, of_layer in enumerate(inputs)
    ]
    found = {"output": torch.stack(outputs), "tokens": adapter.tokens()}
    found["output_layer0_all_tokens_adapted"] = adapter(inputs[0], 0)
    loss = (found["output"] * recorded["probe_output"]).sum()
    if meta["linked_to_queries"]:
        found["queries"] = adapter.queries()
        loss = loss + (found["queries"] * recorded["probe_queries"]).sum()
    agree(found, {name: recorded[name] for name in found})
    loss.backward()
    expected = {
        name.removeprefix("grad/"): gradient for name, gradient in load_file(folder / "gradients.safetensors").items()
    }
    agree({"input": inputs.grad, **gradients(adapter)}, expected)


def make(name: str, meta: dict) -> VFMSegReinForSemanticSegmentation:
    """The recorded encoder with its adapter, in a model whose decoder is as small as can be."""
    said = {
        "backbone": name,
        "embed_dim": meta["width"],
        "num_heads": meta["heads"],
        **meta,
    }
    encoder = backbone_config({"mlp_ratio": 4, **said}, meta["position_table_image_size"])
    if name == "eva02":
        encoder["layer_norm_eps"] = 1e-6
    interpolation = {"dinov2": "scale_offset", "clip": "bilinear"}.get(name, "size")
    config = VFMSegReinConfig(
        backbone_config=encoder,
        out_indices=meta["taken_after_blocks"],
        num_queries=meta["tokens"],
        hidden_dim=32,
        rein_rank=meta["rank"],
        encoder_layers=1,
        decoder_layers=2,
        position_interpolation=interpolation,
    )
    return VFMSegReinForSemanticSegmentation(config)


@pytest.mark.parametrize("name", ["dinov2", "eva02", "sam", "clip"])
def test_whole_encoders(name, recordings):
    folder = recordings / "backbone" / name
    meta = json.loads((folder / "meta.json").read_text())
    weights = load_file(folder / "weights.safetensors")
    model = make(name, meta).eval()
    encoder = model.model
    assert encoder.adapted_blocks == meta["adapted_blocks"]
    encoder.reins = ReinAdapter(len(meta["adapted_blocks"]), meta["width"], meta["tokens"], 16, 16, meta["rank"])
    own = {key.removeprefix("reins."): weight for key, weight in weights.items() if key.startswith("reins.")}
    encoder.reins.load_state_dict(own)
    if name == "clip":
        pyramid = {
            f"{PYRAMID[key.split('.')[0]]}.{key.split('.', 1)[1]}": weight
            for key, weight in weights.items()
            if key.startswith("fpn")
        }
        model.pyramid.load_state_dict(pyramid)
    frozen = {key: weight for key, weight in weights.items() if not key.startswith(("reins.", "fpn"))}
    published, names = get_published_encoder(name), ConvertedWeights()
    assert not set(published.convert(frozen, names, prefix="")) - {"norm.weight", "norm.bias"}
    converted = published.adopt_habits(names.encoder, model.config.backbone_config)
    missing, unexpected = encoder.encoder.load_state_dict(converted, strict=False)
    assert not unexpected and all("post_layernorm" in key or ".neck." in key for key in missing), "unused ones"
    encoder.encoder.requires_grad_(False)
    for case in meta["cases"]:
        encoder.reins.zero_grad()
        recorded = load_file(folder / f"{case}.safetensors")
        outputs = encoder(recorded["image"].float(), output_hidden_states=True)
        maps = outputs.feature_maps
        features = model.pyramid(maps) if name == "clip" else resize_to_pyramid(maps)
        found = {f"feature_{number}": each for number, each in enumerate(features)}
        found["queries"] = encoder.reins.queries()
        after = [outputs.hidden_states[1 + block] for block in meta["adapted_blocks"]]
        expected = recorded["block_output_after_adapter"]
        agree({"after": torch.stack(after).reshape(expected.shape)}, {"after": expected})
        agree(found, {key: recorded[key] for key in found})
        sum((found[key] * recorded[f"probe_{key}"]).sum() for key in found).backward()
        of_adapter = {f"reins.{key}": gradient for key, gradient in gradients(encoder.reins).items()}
        if name == "clip":
            back = {value: key for key, value in PYRAMID.items()}
            for key, gradient in gradients(model.pyramid).items():
                place, _, rest = key.partition(".")
                of_adapter[f"{back[place]}.{rest}"] = gradient
        agree(of_adapter, {k.removeprefix("grad/"): v for k, v in recorded.items() if k.startswith("grad/")})


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name, recordings):
    """Shapes and start values at the sizes of the paper."""
    expected = json.loads((recordings / "published_sizes.json").read_text())[name]
    shapes = expected["shapes"]
    tokens = shapes.get("learnable_tokens") or [*shapes["learnable_tokens_a"][:2], shapes["learnable_tokens_b"][2]]
    rank = shapes["learnable_tokens_a"][2] if "learnable_tokens_a" in shapes else None
    adapter = ReinAdapter(tokens[0], tokens[2], tokens[1], 256, 16, rank)
    assert {key: list(parameter.shape) for key, parameter in adapter.named_parameters()} == shapes
    assert sum(parameter.numel() for parameter in adapter.parameters()) == expected["total"]
    torch.manual_seed(0)
    adapter.initialise(None)
    start = json.loads((recordings / "initialisation.json").read_text()).get(name)
    for key, value in (start or {}).items():
        drawn = dict(adapter.named_parameters())[key]
        assert drawn.abs().max().item() == pytest.approx(value["abs_max"], rel=0.02)
        if value["std"] is not None:
            assert drawn.std().item() == pytest.approx(value["std"], rel=0.15)
