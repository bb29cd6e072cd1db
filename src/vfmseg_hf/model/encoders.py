# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The table of supported foundation models: one entry per family."""

from transformers.configuration_utils import PreTrainedConfig

from .encoder_base import EncoderFamily
from .encoder_clip import ClipFamily, Siglip2Family, SiglipFamily
from .encoder_dino import Dinov2Family, Dinov2WithRegistersFamily, Dinov3Family
from .encoder_sam import SamFamily
from .encoder_timm import TimmFamily


ENCODER_FAMILIES: dict[str, EncoderFamily] = {
    "clip_vision_model": ClipFamily(),
    "dinov2": Dinov2Family(),
    "dinov2_with_registers": Dinov2WithRegistersFamily(),
    "dinov3_vit": Dinov3Family(),
    "sam_vision_model": SamFamily(),
    "siglip_vision_model": SiglipFamily(),
    "siglip2_vision_model": Siglip2Family(),
    "timm_wrapper": TimmFamily(),
}

# Models that have a vision encoder beside other parts, which are left behind.
FULL_MODELS = ("clip", "sam", "siglip", "siglip2")


def encoder_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """
    What VFMSeg uses of a foundation model, as a configuration.

    The vision part of a model that has more parts, e.g. of CLIP, and without parts that no feature map depends on.
    """
    if config.model_type in FULL_MODELS:
        config = config.vision_config
    family = ENCODER_FAMILIES.get(config.model_type)
    return family.encoder_config(config) if family else config


def image_constants(backbone_config: PreTrainedConfig) -> dict[str, list[float]]:
    """
    What the pictures of an encoder are normalised with, as arguments of an image processor.

    ImageNet's mean and standard deviation for DINOv2, CLIP, SAM and EVA02, as the published code has it whatever they
    were pretrained with; the foundation model's own for other encoders (of DINOv3 those of its web pictures, which are
    ImageNet's: its satellite models have others).

    Example:

    ```python
    >>> from vfmseg_hf import VFMSegConfig, VFMSegImageProcessor, image_constants

    >>> processor = VFMSegImageProcessor(**image_constants(VFMSegConfig().backbone_config))
    ```
    """
    family = get_encoder_family(backbone_config)
    return {"image_mean": family.image_mean(backbone_config), "image_std": family.image_std(backbone_config)}


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
    family = ENCODER_FAMILIES[model_type].member(backbone_config)
    family.check(backbone_config)
    return family
