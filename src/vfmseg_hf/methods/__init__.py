# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Methods that are not ours, to compare with: one file each, trained, saved and scored as VFMSeg is."""

from transformers.configuration_utils import PreTrainedConfig

from ..model.configuration_vfmseg import VFMSegConfig
from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from .linear import VFMSegLinearConfig, VFMSegLinearForSemanticSegmentation
from .single_stage import SingleStageModel


METHODS: dict[str, type[SingleStageModel]] = {"linear": VFMSegLinearForSemanticSegmentation}  # by name


def model_class_of(config: PreTrainedConfig) -> "type[VFMSegForSemanticSegmentation | SingleStageModel] | None":
    """The class of VFMSeg's or a method's models that a configuration belongs to; None for those of other libraries."""
    if isinstance(config, VFMSegConfig):
        return VFMSegForSemanticSegmentation
    return next((method for method in METHODS.values() if isinstance(config, method.config_class)), None)


__all__ = [
    "METHODS",
    "SingleStageModel",
    "VFMSegLinearConfig",
    "VFMSegLinearForSemanticSegmentation",
    "model_class_of",
]
