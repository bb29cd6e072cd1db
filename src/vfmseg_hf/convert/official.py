# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of the authors' mmsegmentation code, turned into this library's."""

import math
import os
import re
from pathlib import Path

from safetensors.torch import load_file
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME

from ..model.adapters import PEFT_PREFIX, find_base, lora_config
from ..model.configuration_vfmseg import VFMSegConfig
from ..model.encoders import get_encoder_family
from ..model.foundation import ENCODER_PREFIX, fingerprint, load_foundation
from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from ..model.presets import published_options
from .heads import rename_head
from .names import ConvertedWeights, StateDict
from .reading import read_weights
from .registry import get_published_encoder
from .writing import bad_settings_are_value_errors, check_finite, check_same, copy, fill, new_directory


# What precedes the encoder's names; peft wraps it there.
ENCODER = "backbone.model.base_model.model."
# Blocks whose output the published heads see, by the encoder's depth.
PUBLISHED_OUT_INDICES = {24: [7, 11, 15, 23], 32: [7, 15, 23, 31]}


def convert_weights(state_dict: StateDict, backbone: str) -> ConvertedWeights:
    """
    Rename published weights.

    Args:
        state_dict: tensors under the published key names.
        backbone: the published encoder, one of `PUBLISHED_ENCODERS`.

    Raises:
        ValueError: on keys that are neither mapped nor knowingly dropped.
    """
    published = get_published_encoder(backbone)
    converted, encoder = ConvertedWeights(), {}
    for key, tensor in state_dict.items():
        if name := rename_head(key):
            converted.heads[name] = tensor
        elif key.startswith("data_preprocessor."):
            converted.dropped[key] = "normalisation constants; the image processor has them"
        else:
            encoder[key] = tensor
    if unknown := published.convert(encoder, converted, prefix=ENCODER):
        raise ValueError(
            f"{len(unknown)} keys are none of the published {backbone} model's, e.g. {sorted(unknown)[:5]}; these "
            "weights are of another architecture or another version of the code"
        )
    return converted


@bad_settings_are_value_errors()
def published_config(overrides: dict[str, object], backbone: str) -> VFMSegConfig:
    """
    The configuration of a published model: `overrides` on top of the options that the published code uses.

    Args:
        overrides: fields of [`VFMSegConfig`], among them a full `backbone_config`.
        backbone: the published encoder.

    Raises:
        ValueError: if there is no `backbone_config`, it is another encoder's, a field is unknown or has a value that
            it cannot have, or the blocks that the heads see are unknown.
    """
    if not isinstance(overrides.get("backbone_config"), dict):
        raise ValueError(
            "the overrides need a full 'backbone_config' (a dict with a 'model_type'), the weights do not say it"
        )
    known = set(VFMSegConfig.__dataclass_fields__) | {"num_labels"}
    if unknown := sorted(set(overrides) - known):
        raise ValueError(f"the overrides have fields that VFMSegConfig does not know: {unknown}")
    published = get_published_encoder(backbone)
    backbone_config = {**published.backbone_options, **overrides["backbone_config"]}
    config = VFMSegConfig(**{**published_options(backbone), **overrides, "backbone_config": backbone_config})
    if (found := config.backbone_config.model_type) != published.model_type:
        raise ValueError(
            f"the published encoder {backbone!r} is a {published.model_type!r} here, but the overrides have a "
            f"backbone_config of the model_type {found!r}"
        )
    if "out_indices" not in overrides:
        depth = get_encoder_family(config.backbone_config).depth(config.backbone_config)
        if depth not in PUBLISHED_OUT_INDICES:
            raise ValueError(f"the overrides need 'out_indices': none are published for an encoder of {depth} blocks")
        config.out_indices = list(PUBLISHED_OUT_INDICES[depth])
    return config


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

    What was written is loaded back and compared before the directory gets its name.

    Args:
        weights: file under the published key names.
        output: directory to create; it appears only when it is complete.
        backbone: the published encoder, e.g. `"dinov2"`.
        overrides: fields of `VFMSegConfig` with a full `backbone_config`, plus `lora_alpha` if there is LoRA.
        adapter_only: write adapter, heads and configuration, and the frozen foundation model to `output/base`.
        base: with `adapter_only`, name this foundation model, a directory or a Hub id, instead of writing
            `output/base`.

    Raises:
        ValueError: if the weights, the configuration, the architecture and the base do not agree, or the weights hold
            values that are not finite.
        FileExistsError: if `output` is there already.
        ImportError: if the encoder needs timm and it is not installed.
    """
    published = get_published_encoder(backbone)
    if base is not None and published.no_named_base:
        raise ValueError(f"a converted {backbone} adapter cannot name a base: {published.no_named_base}")
    if base is not None:
        base = find_base(str(output), "", base)
    with new_directory(output) as staging:
        overrides = dict(overrides)
        alpha = overrides.pop("lora_alpha", None)
        config = published_config(overrides, backbone)
        family = get_encoder_family(config.backbone_config)
        state_dict = read_weights(weights)
        converted = convert_weights(state_dict, backbone)
        check_finite(state_dict, converted)
        if converted.rank and alpha is None:
            raise ValueError(
                f"the weights hold LoRA factors of rank {converted.rank}, but the overrides have no 'lora_alpha'; the "
                "paper's models use 32"
            )
        if converted.rank and not (isinstance(alpha, int | float) and math.isfinite(alpha)):
            raise ValueError(f"lora_alpha must be a finite number, got {alpha!r}")
        if adapter_only and not converted.rank:
            raise ValueError(
                "adapter_only needs weights with LoRA factors, these have none; convert them into a merged model"
            )
        with bad_settings_are_value_errors():
            converted.encoder = published.adopt_habits(converted.encoder, config.backbone_config)
            model = VFMSegForSemanticSegmentation(config)
        if not adapter_only:
            merge(converted, alpha)
        weights = {ENCODER_PREFIX + key: tensor for key, tensor in converted.encoder.items()} | converted.heads
        fill(model, weights, tuple(ENCODER_PREFIX + key for key in family.unused))
        if adapter_only:
            if base is None:
                model.model.encoder.save_pretrained(staging / "base", save_original_format=False)
            model.adapter_base = base or "base"
            model.adapter_base_fingerprint = fingerprint(converted.encoder, family)
            check_base(model, base)
            attach_lora(model, converted, alpha)
        model.save_pretrained(staging)
        check_written(model, staging, base)
    return converted


def merge(converted: ConvertedWeights, alpha: float) -> None:
    """Fold the LoRA into the encoder's weights: W + (alpha / r) B A."""
    for layer, (a, b) in converted.lora.items():
        key = f"{layer}.weight"
        converted.encoder[key] = converted.encoder[key] + alpha / converted.rank * (b.float() @ a.float())


def attach_lora(model: VFMSegForSemanticSegmentation, converted: ConvertedWeights, alpha: float) -> None:
    """
    Give the model the published LoRA, on the layers where it has an effect and on no other.

    Raises:
        ValueError: if the encoder has layers of these names that the weights hold no factors for.
    """
    targets = sorted({re.sub(r".*\.\d+\.", "", layer) for layer in converted.lora})
    model.add_adapter(lora_config(model.config, r=converted.rank, lora_alpha=alpha, targets=targets))
    encoder = model.model.encoder
    adapted = {name.removesuffix(".lora_A.default") for name, _ in encoder.named_modules() if ".lora_A.d" in name}
    if differing := sorted(adapted ^ set(converted.lora)):
        raise ValueError(f"the weights hold LoRA factors for some of the layers {targets} only; without: {differing}")
    for layer, (a, b) in converted.lora.items():
        adapted = encoder.get_submodule(layer)
        copy(adapted.lora_A["default"].weight, a, f"{layer}.lora_A")
        copy(adapted.lora_B["default"].weight, b, f"{layer}.lora_B")


def check_base(model: VFMSegForSemanticSegmentation, base: str | None) -> None:
    """Raise a `ValueError` if the base is a directory whose weights are not those under the adapter."""
    if base is not None and os.path.isdir(base):
        found = load_foundation(VFMSegForSemanticSegmentation, base, {}).fingerprint
        if found != model.adapter_base_fingerprint:
            raise ValueError(f"the weights in the base {base!r} are not the ones that the adapter was trained on")


def check_written(model: VFMSegForSemanticSegmentation, directory: Path, base: str | None) -> None:
    """
    Load a new checkpoint back and compare it with the model that was saved.

    Of an adapter on a base that is not on this machine only its own file is compared.

    Raises:
        ValueError: if a tensor differs.
    """
    if base is not None and not os.path.isdir(base):
        from peft import get_peft_model_state_dict

        expected = get_peft_model_state_dict(model, save_embedding_layers=False)
        found = load_file(directory / ADAPTER_SAFE_WEIGHTS_NAME)
        check_same(found, {PEFT_PREFIX + key: value for key, value in expected.items()}, "the new adapter")
        return
    # peft keeps each head as it was before the adapter beside it, which no checkpoint holds.
    states = [
        {key: tensor for key, tensor in state.items() if ".original_module." not in key}
        for state in (VFMSegForSemanticSegmentation.from_pretrained(directory).state_dict(), model.state_dict())
    ]
    resampled, unused = set(), ()
    if base is not None:  # it is resampled when it is loaded, and has the unused parts that published weights lack
        family = get_encoder_family(model.config.backbone_config)
        resampled = {ENCODER_PREFIX + key for key in family.resampled_keys(model.model.encoder.state_dict())}
        unused = tuple(ENCODER_PREFIX + key for key in family.unused)
    states = [{key: tensor for key, tensor in state.items() if not key.startswith(unused)} for state in states]
    check_same(*states, "the new checkpoint", resampled)
