# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The model that a training starts from, and which part of it trains."""

import os
from typing import Literal

from transformers.utils import logging

from ..adapters_vfmseg import lora_config
from ..configuration_vfmseg import VFMSegConfig, published_options
from ..files import read_settings
from ..foundation_vfmseg import read_config
from ..modeling_vfmseg import VFMSegForSemanticSegmentation
from ..presets_vfmseg import PRESETS, nearest_presets


logger = logging.get_logger(__name__)

Tune = Literal["lora", "full", "heads"]


def start_model(name_or_path: str, recipe: str = "paper", **overrides) -> VFMSegForSemanticSegmentation:
    """
    A model to train.

    Args:
        name_or_path: a foundation model or a VFMSeg checkpoint (Hub id or directory), a preset of
            [`VFMSegConfig.from_preset`] if there is no directory of its name, or a JSON file of [`VFMSegConfig`] fields
            for random weights.
        recipe: `"published-code"` builds on foundation models with the authors' options ([`published_options`], and for
            presets their blocks). Checkpoints and JSON files keep their own.
        overrides: fields of `VFMSegConfig`.

    Raises:
        ValueError: if it is neither a directory nor a preset, and cannot be a Hub id (user/name), or the published code
            has no configuration of a preset.
        FileNotFoundError: if there is no such JSON file.
    """
    if name_or_path.endswith(".json"):
        fields = read_settings(name_or_path)
        if not isinstance(fields, dict):
            raise ValueError(f"{name_or_path} must hold an object, {{...}}, of fields of VFMSegConfig")
        config = VFMSegConfig.from_dict(fields, **overrides)
        logger.warning("Random weights by %s: nothing pretrained is in this model.", name_or_path)
        return VFMSegForSemanticSegmentation(config)
    if not os.path.dirname(name_or_path) and not os.path.isdir(name_or_path):
        if name_or_path not in PRESETS:
            raise ValueError(f"there is no directory and no preset {name_or_path!r}{nearest_presets(name_or_path)}")
        return VFMSegForSemanticSegmentation.from_preset(name_or_path, recipe, **overrides)
    config = read_config(name_or_path, {})
    if isinstance(config, VFMSegConfig):
        return VFMSegForSemanticSegmentation.from_pretrained(name_or_path, is_trainable=True, **overrides)
    if recipe == "published-code":
        of_timm = "eva02" in getattr(config, "architecture", "")  # whose model_type is that of all timm models
        overrides = {**published_options("eva02" if of_timm else config.model_type), **overrides}
    return VFMSegForSemanticSegmentation.from_backbone(name_or_path, **overrides)


def choose_trained_part(model: VFMSegForSemanticSegmentation, tune: Tune, **lora) -> None:
    """
    Freeze what does not train, in place.

    Args:
        tune: `"lora"`: LoRA on the encoder, and the heads (the paper); `"full"`: everything; `"heads"`: both heads.
        lora: arguments of [`lora_config`].
    """
    if tune == "lora":
        if not model._hf_peft_config_loaded:
            model.add_adapter(lora_config(model.config, **lora))
    elif tune == "heads":
        model.model.requires_grad_(False)
    elif tune == "full":
        model.requires_grad_(True)
    else:
        raise ValueError(f"tune must be 'lora', 'full' or 'heads', got {tune!r}")
