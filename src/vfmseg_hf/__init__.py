# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""VFMSeg in the Hugging Face ecosystem: generalisable semantic segmentation with vision foundation models.

Importing the package registers the model with transformers' Auto classes and pipelines. The rooms of `_ROOMS` are
attributes that are imported when they are asked for.
"""

from importlib import import_module
from types import ModuleType

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES

from .methods import METHODS
from .model.adapters import lora_config, save_adapter
from .model.configuration_vfmseg import VFMSegConfig
from .model.encoder_base import EncoderFamily
from .model.encoders import image_constants, register_encoder
from .model.image_processing_pil_vfmseg import VFMSegImageProcessorPil
from .model.image_processing_vfmseg import VFMSegImageProcessor
from .model.modeling_vfmseg import VFMSegForSemanticSegmentation, VFMSegModel, VFMSegPreTrainedModel
from .model.outputs import VFMSegLabelMap, VFMSegSemanticSegmenterOutput


__version__ = "0.2.0.dev0"

AutoModel.register(VFMSegConfig, VFMSegModel, exist_ok=True)
for _class in (VFMSegForSemanticSegmentation, *METHODS.values()):
    _config = _class.config_class
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForSemanticSegmentation.register(_config, _class, exist_ok=True)
    AutoImageProcessor.register(
        _config,
        image_processor_classes={"torchvision": VFMSegImageProcessor, "pil": VFMSegImageProcessorPil},
        exist_ok=True,
    )
    # The pipeline looks the class up by name and logs an error for one that it does not find.
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES.setdefault(_config.model_type, _class.__name__)
del _class, _config

__all__ = [
    "EncoderFamily",
    "VFMSegConfig",
    "VFMSegForSemanticSegmentation",
    "VFMSegImageProcessor",
    "VFMSegImageProcessorPil",
    "VFMSegLabelMap",
    "VFMSegModel",
    "VFMSegPreTrainedModel",
    "VFMSegSemanticSegmenterOutput",
    "image_constants",
    "lora_config",
    "register_encoder",
    "save_adapter",
]

# With training and data come accelerate, datasets and pyarrow, which a prediction does not need.
_ROOMS = ("convert", "corpora", "data", "evaluation", "metrics", "prediction", "quickstart", "training")


def __getattr__(name: str) -> ModuleType:
    if name in _ROOMS:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})
