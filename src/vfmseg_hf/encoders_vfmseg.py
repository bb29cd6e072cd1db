# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The table of supported foundation models: one entry per family."""

from transformers.configuration_utils import PreTrainedConfig

from .encoder_base_vfmseg import EncoderFamily
from .encoder_dino_vfmseg import Dinov2Family


ENCODER_FAMILIES: dict[str, EncoderFamily] = {
    "dinov2": Dinov2Family(),
}


def get_encoder_family(backbone_config: PreTrainedConfig) -> EncoderFamily:
    """
    The table entry for a foundation model's configuration.

    Raises:
        ValueError: if the architecture is not supported; the message names those that are.
    """
    model_type = getattr(backbone_config, "model_type", None)
    if model_type not in ENCODER_FAMILIES:
        raise ValueError(
            f"{model_type!r} is not a supported encoder; backbone_config.model_type must be one of "
            f"{sorted(ENCODER_FAMILIES)}"
        )
    family = ENCODER_FAMILIES[model_type]
    family.check(backbone_config)
    return family
