# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Foundation models in their original files, turned into directories that `from_backbone` takes."""

import os

from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ..model.encoders import get_encoder_family
from .base import reason_to_drop
from .names import ConvertedWeights, StateDict
from .reading import read_weights
from .registry import get_published_encoder
from .writing import bad_settings_are_value_errors, check_finite, check_same, fill, new_directory


def convert_foundation(
    weights: str | os.PathLike,
    output: str | os.PathLike,
    backbone: str,
    overrides: dict[str, object] | None = None,
    trust_torchscript: bool = False,
) -> ConvertedWeights:
    """
    Convert a foundation model's original file into a directory that transformers and `from_backbone` load.

    Patch size and position table stay as they are, `from_backbone` resamples them. Everything becomes float32. What
    was written is loaded back and compared before the directory gets its name.

    Args:
        weights: file under the original key names: DINOv2's and SAM's `.pth`, OpenAI's CLIP, EVA02's `.pt`.
        output: directory to create; it appears only when it is complete.
        backbone: `"dinov2"`, `"clip"`, `"sam"` or `"eva02"`.
        overrides: fields of the encoder's configuration, where the tensors do not tell them or tell them wrong.
        trust_torchscript: read OpenAI's CLIP as it is published, as a TorchScript archive; see [`read_weights`].

    Raises:
        ValueError: if the weights, the configuration and the architecture do not agree, or the weights hold values
            that are not finite.
        FileExistsError: if `output` is there already.
        ImportError: if the encoder needs timm and it is not installed.
    """
    encoder = get_published_encoder(backbone)
    with new_directory(output) as staging:
        state_dict = read_weights(weights, trust_torchscript)
        converted = convert_foundation_weights(state_dict, backbone)
        check_finite(state_dict, converted)
        config = foundation_config(state_dict, backbone, overrides or {})
        with bad_settings_are_value_errors():
            model = encoder.native_model(config)
        fill(model, converted.encoder)
        model.save_pretrained(staging)
        loaded = type(model).from_pretrained(staging)
        check_same(loaded.state_dict(), model.state_dict(), "the new directory")
    return converted


def convert_foundation_weights(state_dict: StateDict, backbone: str) -> ConvertedWeights:
    """
    Rename the tensors of an original file, in float32.

    Raises:
        ValueError: on keys that are neither mapped nor knowingly dropped.
    """
    encoder, converted = get_published_encoder(backbone), ConvertedWeights()
    kept = {}
    for key, tensor in state_dict.items():
        if reason := reason_to_drop(key, encoder.raw_dropped):
            converted.dropped[key] = reason
        else:
            kept[key] = tensor.float()
    unknown = encoder.convert(kept, converted, prefix=encoder.raw_prefix_of(kept))
    if unknown or converted.lora:
        examples = sorted(unknown)[:5] or [f"LoRA on {next(iter(converted.lora))}"]
        raise ValueError(
            f"{len(unknown) or len(converted.lora)} keys are none of the original {backbone} model's, e.g. {examples}; "
            "these weights are of another architecture, or of a model that was trained further (without --raw)"
        )
    return converted


@bad_settings_are_value_errors()
def foundation_config(state_dict: StateDict, backbone: str, overrides: dict[str, object]) -> PreTrainedConfig:
    """
    The configuration of a foundation model, read off its tensors.

    Args:
        state_dict: tensors under their original names; only their shapes are looked at.
        backbone: the published encoder.
        overrides: fields that replace what the tensors tell.

    Raises:
        ValueError: on a field that neither tells, or that the configuration does not know, or on a value that it
            cannot have.
    """
    encoder = get_published_encoder(backbone)
    prefix = encoder.raw_prefix_of(state_dict)
    weights = {key.removeprefix(prefix): tensor for key, tensor in state_dict.items() if key.startswith(prefix)}
    settings = {"model_type": encoder.model_type, **encoder.native_config(weights), **overrides}
    model_type = settings.pop("model_type")
    if untold := sorted(key for key, value in settings.items() if value is None):
        raise ValueError(
            f"the tensors do not tell {' and '.join(untold)} of this {backbone} model; give them with --config"
            " (overrides)"
        )
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"the overrides have the unknown model_type {model_type!r}; use e.g. {encoder.model_type!r}")
    config_class = CONFIG_MAPPING[model_type]
    known = {*config_class().to_dict(), *encoder.backbone_options}
    if unknown := sorted(set(overrides) - known):
        raise ValueError(f"the overrides have fields that {config_class.__name__} does not know: {unknown}")
    config = config_class(**settings)
    get_encoder_family(config)
    return config
