# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The table of supported foundation models, one entry per family, and how to add one."""

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


def register_encoder(model_type: str, family: EncoderFamily, exist_ok: bool = False) -> None:
    """
    Add a family of foundation models, in this process. Its configuration and model have to be known to transformers'
    `AutoConfig` and `AutoModel`, or the family's `build` and `load` have to make the model.

    Args:
        model_type: of the encoder's configuration, with `_vision_model` at the end where the foundation model of the
            name before it has other parts too, which are left behind (`"clip_vision_model"`).
        family: an object of a subclass of [`EncoderFamily`].
        exist_ok: whether an entry of this `model_type` is replaced.

    Raises:
        ValueError: if there is such an entry.
        TypeError: if `family` is none.

    Example:

    ```python
    >>> from vfmseg_hf import EncoderFamily, register_encoder

    >>> class MyFamily(EncoderFamily):
    ...     lora_targets = ("query", "value")
    ...     ...

    >>> register_encoder("my_vit", MyFamily())
    ```
    """
    if not isinstance(family, EncoderFamily):
        raise TypeError(f"family must be an object of a subclass of EncoderFamily, got {family!r}")
    if model_type in ENCODER_FAMILIES and not exist_ok:
        raise ValueError(f"there is an encoder family for {model_type!r}; pass exist_ok=True to replace it")
    ENCODER_FAMILIES[model_type] = family


def encoder_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """
    What VFMSeg uses of a foundation model, as a configuration.

    The vision part of a model that has more parts, e.g. of CLIP, and without parts that no feature map depends on.
    """
    vision = f"{config.model_type}_vision_model"
    if vision in ENCODER_FAMILIES and hasattr(config, "vision_config"):
        config = config.vision_config
    family = ENCODER_FAMILIES.get(config.model_type)
    return family.encoder_config(config) if family else config


def image_constants(backbone_config: PreTrainedConfig) -> dict[str, list[float]]:
    """
    What the images of an encoder are normalised with, as arguments of an image processor.

    ImageNet's mean and standard deviation for DINOv2, CLIP, SAM and EVA02, as the published code has it whatever they
    were pretrained with; the foundation model's own for other encoders (of DINOv3 those of its web images, which are
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
