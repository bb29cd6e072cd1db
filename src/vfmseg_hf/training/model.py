# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The model that a training starts from, and which part of it trains."""

import json
import os
from pathlib import Path
from typing import Literal

from transformers import AutoConfig
from transformers.utils import logging

from ..adapters_vfmseg import lora_config
from ..configuration_vfmseg import VFMSegConfig
from ..modeling_vfmseg import VFMSegForSemanticSegmentation


logger = logging.get_logger(__name__)

Tune = Literal["lora", "full", "heads"]


def start_model(name_or_path: str, **overrides) -> VFMSegForSemanticSegmentation:
    """
    A model to train.

    Args:
        name_or_path: a foundation model or a VFMSeg checkpoint (Hub id or directory), or a JSON file of
            [`VFMSegConfig`] fields for random weights.
        overrides: fields of `VFMSegConfig`.
    """
    if name_or_path.endswith(".json"):
        if not os.path.isfile(name_or_path):
            raise FileNotFoundError(f"there is no file {name_or_path!r} with a model's configuration")
        config = VFMSegConfig.from_dict(json.loads(Path(name_or_path).read_text()), **overrides)
        logger.warning("Random weights by %s: nothing pretrained is in this model.", name_or_path)
        return VFMSegForSemanticSegmentation(config)
    if isinstance(AutoConfig.from_pretrained(name_or_path), VFMSegConfig):
        return VFMSegForSemanticSegmentation.from_pretrained(name_or_path, is_trainable=True, **overrides)
    return VFMSegForSemanticSegmentation.from_backbone(name_or_path, **overrides)


def choose_trained_part(model: VFMSegForSemanticSegmentation, tune: Tune) -> None:
    """
    Freeze what does not train, in place.

    Args:
        tune: `"lora"`: LoRA on the encoder, and the heads (the paper); `"full"`: everything; `"heads"`: both heads.
    """
    if tune == "lora":
        if not model._hf_peft_config_loaded:
            model.add_adapter(lora_config(model.config))
    elif tune == "heads":
        model.model.requires_grad_(False)
    elif tune == "full":
        model.requires_grad_(True)
    else:
        raise ValueError(f"tune must be 'lora', 'full' or 'heads', got {tune!r}")
