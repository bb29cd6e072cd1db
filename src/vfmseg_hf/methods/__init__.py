# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Methods that are not ours, to compare with: one file each, trained, saved and scored as VFMSeg is."""

from transformers.configuration_utils import PreTrainedConfig

from ..model.configuration_vfmseg import VFMSegConfig
from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from .configuration import MethodConfig
from .eomt import check_square, eomt_config, mask_probabilities, start_eomt
from .linear import VFMSegLinearConfig, VFMSegLinearForSemanticSegmentation
from .mask2former import VFMSegMask2FormerConfig, VFMSegMask2FormerForSemanticSegmentation, VFMSegMask2FormerHead
from .masks import class_masks, needs_scipy
from .other import MASK_CLASSIFIERS, OtherModel, RawImages, auto_class_of, in_encoder
from .rein import VFMSegReinConfig, VFMSegReinForSemanticSegmentation
from .segformer import VFMSegSegformerConfig, VFMSegSegformerForSemanticSegmentation
from .single_stage import SingleStageModel


METHODS: dict[str, type[SingleStageModel]] = {  # by name
    "linear": VFMSegLinearForSemanticSegmentation,
    "segformer": VFMSegSegformerForSemanticSegmentation,
    "mask2former": VFMSegMask2FormerForSemanticSegmentation,
    "rein": VFMSegReinForSemanticSegmentation,
}


def model_class_of(config: PreTrainedConfig) -> "type[VFMSegForSemanticSegmentation | SingleStageModel] | None":
    """The class of VFMSeg's or a method's models that a configuration belongs to; None for those of other libraries."""
    if isinstance(config, VFMSegConfig):
        return VFMSegForSemanticSegmentation
    return next((method for method in METHODS.values() if isinstance(config, method.config_class)), None)


__all__ = [
    "MASK_CLASSIFIERS",
    "METHODS",
    "MethodConfig",
    "OtherModel",
    "RawImages",
    "SingleStageModel",
    "VFMSegLinearConfig",
    "VFMSegLinearForSemanticSegmentation",
    "VFMSegMask2FormerConfig",
    "VFMSegMask2FormerForSemanticSegmentation",
    "VFMSegMask2FormerHead",
    "VFMSegReinConfig",
    "VFMSegReinForSemanticSegmentation",
    "VFMSegSegformerConfig",
    "VFMSegSegformerForSemanticSegmentation",
    "auto_class_of",
    "check_square",
    "class_masks",
    "eomt_config",
    "in_encoder",
    "mask_probabilities",
    "model_class_of",
    "needs_scipy",
    "start_eomt",
]
