# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Weights under the key names of the authors' mmsegmentation code, turned into this library's checkpoints."""

import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ..adapters_vfmseg import lora_config
from ..configuration_vfmseg import PUBLISHED_OPTIONS, VFMSegConfig
from ..encoders_vfmseg import get_encoder_family
from ..foundation_vfmseg import ENCODER_PREFIX, fingerprint
from ..modeling_vfmseg import VFMSegForSemanticSegmentation


StateDict = dict[str, torch.Tensor]

# Every published key starts with one of these. The encoder is wrapped by peft there.
ENCODER = "backbone.model.base_model.model."
COARSE_HEAD = "decode_head."
REFINE_HEAD = "aux_decoder."


@dataclass
class ConvertedWeights:
    """
    Published weights under this library's names.

    Attributes:
        encoder: the frozen foundation model's tensors, named as in transformers' own class.
        lora: LoRA factors by adapted layer: `{"encoder.layer.0.attention.q_proj": (A, B)}`.
        heads: tensors of `coarse_head.` and `refine_head.`.
        dropped: published keys left out, with the reason.
    """

    encoder: StateDict = field(default_factory=dict)
    lora: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    heads: StateDict = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """r of the LoRA, or 0 without one."""
        return next(iter(self.lora.values()))[0].shape[0] if self.lora else 0


def _renamer(rules: list[tuple[str, str]]) -> Callable[[str], str | None]:
    """First full match of a pattern (a regular expression) decides the new name; `None` where none matches."""
    compiled = [(re.compile(pattern), target) for pattern, target in rules]

    def rename(key: str) -> str | None:
        for pattern, target in compiled:
            if match := pattern.fullmatch(key):
                return match.expand(target)
        return None

    return rename


rename_coarse_head = _renamer(
    [
        (r"conv_seg\.(.+)", r"classifier.\1"),
        (r"fusion_conv\.conv\.(.+)", r"fusion.\1"),
        (r"fusion_conv\.gn\.(.+)", r"fusion_norm.\1"),
        (r"output_upscaling\.0\.(.+)", r"upsample1.\1"),
        (r"output_upscaling\.1\.(.+)", r"upsample_norm.\1"),
        (r"output_upscaling\.3\.(.+)", r"upsample2.\1"),
    ]
)

_REFINE_LAYER = r"transformer_decoder\.transformer_blocks\.(\d+)\."
rename_refine_head = _renamer(
    [
        (r"conv_seg\.(.+)", r"classifier.\1"),
        (r"fuse_conv\.0\.(.+)", r"fusion.\1"),
        (r"fuse_conv\.1\.(.+)", r"fusion_norm.\1"),
        *(
            (rf"seg_logits_embed\.{index}\.(.+)", rf"mask_embedding.{name}.\1")
            for index, name in ((0, "conv1"), (1, "norm1"), (3, "conv2"), (4, "norm2"), (6, "conv3"), (7, "norm3"))
        ),
        (r"transformer_decoder\.(mask_token|norm\..+)", r"\1"),
        *(
            (rf"{_REFINE_LAYER}{block}\.{old}\.(.+)", rf"layers.\1.{attention}.{new}.\2")
            for block, attention in (("attn1", "self_attention"), ("attn2", "cross_attention"))
            for old, new in (
                ("to_q", "to_query"),
                ("to_k", "to_key"),
                ("to_v", "to_value"),
                (r"to_out\.0", "to_output"),
            )
        ),
        (rf"{_REFINE_LAYER}ff\.net\.0\.proj\.(.+)", r"layers.\1.feed_forward.input.\2"),
        (rf"{_REFINE_LAYER}ff\.net\.2\.(.+)", r"layers.\1.feed_forward.output.\2"),
        (rf"{_REFINE_LAYER}(norm[123]\..+)", r"layers.\1.\2"),
    ]
)

rename_dinov2 = _renamer(
    [
        (r"cls_token|mask_token", r"embeddings.\g<0>"),
        (r"pos_embed", "embeddings.position_embeddings"),
        (r"patch_embed\.proj\.(.+)", r"embeddings.patch_embeddings.projection.\1"),
        (r"blocks\.(\d+)\.(norm[12]\..+)", r"encoder.layer.\1.\2"),
        (r"blocks\.(\d+)\.attn\.proj\.(.+)", r"encoder.layer.\1.attention.o_proj.\2"),
        (r"blocks\.(\d+)\.ls([12])\.gamma", r"encoder.layer.\1.layer_scale\2.lambda1"),
        (r"blocks\.(\d+)\.mlp\.(fc[12]\..+)", r"encoder.layer.\1.mlp.\2"),
        (r"blocks\.(\d+)\.mlp\.w3\.(.+)", r"encoder.layer.\1.mlp.down_proj.\2"),
        (r"norm\.(.+)", r"layernorm.\1"),
    ]
)

# Fused published layers: our layers, in the order of the fused rows.
DINOV2_FUSED = (
    (re.compile(r"blocks\.(\d+)\.attn\.qkv"), "encoder.layer.{}.attention.{}", ("q_proj", "k_proj", "v_proj")),
    (re.compile(r"blocks\.(\d+)\.mlp\.w12"), "encoder.layer.{}.mlp.{}", ("gate_proj", "up_proj")),
)


def convert_dinov2_encoder(weights: StateDict, converted: ConvertedWeights) -> list[str]:
    """
    Sort the published DINOv2 tensors (without their common prefix) into `converted`; returns the unknown keys.

    A LoRA on the fused qkv layer, with one A and a B of three parts, equals three LoRAs on q, k and v that share A.
    """
    unknown, factors = [], {}
    for key, tensor in weights.items():
        layer, _, kind = key.replace(".base_layer.", ".").rpartition(".")
        lora = re.fullmatch(r"(.+)\.lora_([AB])\.default", layer)
        layer = lora[1] if lora else layer
        fused = next(((m, name, parts) for pattern, name, parts in DINOV2_FUSED if (m := pattern.fullmatch(layer))), 0)
        if fused:
            match, name, parts = fused
            names = [name.format(match[1], part) for part in parts]
            rows = (tensor,) * len(parts) if lora and lora[2] == "A" else tensor.chunk(len(parts))
            for target, part in zip(names, rows, strict=True):
                if lora:
                    factors.setdefault(target, {})[lora[2]] = part
                else:
                    converted.encoder[f"{target}.{kind}"] = part
        elif lora and (target := rename_dinov2(f"{layer}.weight")):
            factors.setdefault(target.removesuffix(".weight"), {})[lora[2]] = tensor
        elif not lora and (target := rename_dinov2(key.replace(".base_layer.", "."))):
            converted.encoder[target] = tensor
        else:
            unknown.append(key)
    for layer, pair in factors.items():
        if set(pair) != {"A", "B"}:
            raise ValueError(f"the LoRA of {layer} is incomplete: the weights hold only its {sorted(pair)} factor")
        converted.lora[layer] = (pair["A"], pair["B"])
    return unknown


ENCODER_CONVERTERS: dict[str, Callable[[StateDict, ConvertedWeights], list[str]]] = {"dinov2": convert_dinov2_encoder}


def convert_weights(state_dict: StateDict, backbone: str) -> ConvertedWeights:
    """
    Rename published weights.

    Args:
        state_dict: tensors under the published key names.
        backbone: the published encoder, one of `ENCODER_CONVERTERS`.

    Raises:
        ValueError: on keys that are neither mapped nor knowingly dropped.
    """
    if backbone not in ENCODER_CONVERTERS:
        raise ValueError(f"unknown backbone {backbone!r}; the converter knows {sorted(ENCODER_CONVERTERS)}")
    converted = ConvertedWeights()
    encoder, unknown = {}, []
    for key, tensor in state_dict.items():
        if key.startswith(ENCODER):
            encoder[key.removeprefix(ENCODER)] = tensor
        elif key.startswith(COARSE_HEAD) and (name := rename_coarse_head(key.removeprefix(COARSE_HEAD))):
            converted.heads[f"coarse_head.{name}"] = tensor
        elif key.startswith(REFINE_HEAD) and (name := rename_refine_head(key.removeprefix(REFINE_HEAD))):
            converted.heads[f"refine_head.{name}"] = tensor
        elif key.startswith("data_preprocessor."):
            converted.dropped[key] = "normalisation constants; the image processor has them"
        else:
            unknown.append(key)
    unknown += [ENCODER + key for key in ENCODER_CONVERTERS[backbone](encoder, converted)]
    if unknown:
        raise ValueError(
            f"{len(unknown)} keys are none of the published {backbone} model's, e.g. {sorted(unknown)[:5]}; these "
            "weights are of another architecture or another version of the code"
        )
    return converted


def read_weights(path: str | os.PathLike) -> StateDict:
    """
    Tensors of a safetensors file or of a torch checkpoint (`state_dict` unwrapped), without running code from it.

    Raises:
        ValueError: if the file is damaged, or a pickle with anything but tensors and plain containers in it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}; WEIGHTS must be a .safetensors or torch checkpoint")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{str(path)!r} is a pickle that holds more than tensors and could run code when it is loaded, so it is "
            f"refused; save its state dict alone, best as safetensors ({str(error).splitlines()[0]})"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{str(path)!r} is empty, truncated or no weights file at all ({error})") from error
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ValueError(f"{str(path)!r} does not hold a state dict of tensors")
    return loaded


def published_config(overrides: dict[str, object]) -> VFMSegConfig:
    """
    The configuration of a published model: `overrides` on top of the options that the published code uses.

    Args:
        overrides: fields of [`VFMSegConfig`], among them a full `backbone_config`.
    """
    if "backbone_config" not in overrides:
        raise ValueError(
            "the overrides need a full 'backbone_config' (with its 'model_type'), the weights do not say it"
        )
    known = set(VFMSegConfig.__dataclass_fields__) | {"num_labels"}
    if unknown := sorted(set(overrides) - known):
        raise ValueError(f"the overrides have fields that VFMSegConfig does not know: {unknown}")
    return VFMSegConfig(**{**PUBLISHED_OPTIONS, **overrides})


def convert_official(
    weights: str | os.PathLike,
    output: str | os.PathLike,
    backbone: str,
    overrides: dict[str, object],
    adapter_only: bool = False,
    base: str | None = None,
) -> ConvertedWeights:
    """
    Convert a published checkpoint into a directory that `from_pretrained` and the Auto classes load.

    Args:
        weights: file under the published key names.
        output: directory to create; it appears only when it is complete.
        backbone: the published encoder, e.g. `"dinov2"`.
        overrides: fields of `VFMSegConfig` with a full `backbone_config`, plus `lora_alpha` if there is LoRA.
        adapter_only: write adapter, heads and configuration, and the frozen foundation model to `output/base`.
        base: with `adapter_only`, name this foundation model instead of writing `output/base`.

    Raises:
        ValueError: if the weights, the configuration and the architecture do not agree.
        FileExistsError: if `output` is there already.
    """
    output = Path(output)
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{str(output)!r} exists and is not empty; choose a new directory or remove it first")
    overrides = dict(overrides)
    alpha = overrides.pop("lora_alpha", None)
    config = published_config(overrides)
    converted = convert_weights(read_weights(weights), backbone)
    if converted.rank and alpha is None:
        raise ValueError(
            f"the weights hold LoRA factors of rank {converted.rank}, but the overrides have no 'lora_alpha'; the "
            "paper's models use 32"
        )
    if adapter_only and not converted.rank:
        raise ValueError(
            "adapter_only needs weights with LoRA factors, these have none; convert them into a merged model"
        )
    if not adapter_only:
        for layer, (a, b) in converted.lora.items():
            key = f"{layer}.weight"
            converted.encoder[key] = converted.encoder[key] + alpha / converted.rank * (b @ a)
    model = VFMSegForSemanticSegmentation(config)
    _fill(model, {ENCODER_PREFIX + key: value for key, value in converted.encoder.items()} | converted.heads)
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = output.with_name(f".{output.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        if adapter_only:
            if base is None:
                model.model.encoder.save_pretrained(staging / "base", save_original_format=False)
            model.adapter_base = base or "base"
            model.adapter_base_fingerprint = fingerprint(converted.encoder, get_encoder_family(config.backbone_config))
            model.add_adapter(lora_config(config, r=converted.rank, lora_alpha=alpha))
            for layer, (a, b) in converted.lora.items():
                adapted = model.model.encoder.get_submodule(layer)
                _copy(adapted.lora_A["default"].weight, a, f"{layer}.lora_A")
                _copy(adapted.lora_B["default"].weight, b, f"{layer}.lora_B")
        model.save_pretrained(staging)
        if output.exists():
            output.rmdir()
        os.replace(staging, output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return converted


def _fill(model: nn.Module, weights: StateDict) -> None:
    """Copy every tensor into the model; a `ValueError` names what does not fit."""
    own = model.state_dict()
    missing, unexpected = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    if missing or unexpected:
        raise ValueError(
            f"the weights do not fit the configuration: {len(missing)} tensors are missing, e.g. {missing[:3]}, and "
            f"{len(unexpected)} are too many, e.g. {unexpected[:3]}; check num_hidden_layers, refine_num_layers and "
            "the other fields of the overrides"
        )
    for key, tensor in weights.items():
        _copy(own[key], tensor, key)


@torch.no_grad()
def _copy(target: torch.Tensor, source: torch.Tensor, name: str) -> None:
    if target.shape != source.shape:
        raise ValueError(
            f"{name} has the shape {tuple(source.shape)} in the weights but {tuple(target.shape)} by the "
            "configuration; check the widths, num_labels and image_size in the overrides"
        )
    target.copy_(source)


__all__ = ["ConvertedWeights", "convert_official", "convert_weights", "published_config", "read_weights"]
