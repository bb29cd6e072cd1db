# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Segmentation models of transformers as their authors made them, behind what evaluation asks of a model."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation
from transformers.configuration_utils import PreTrainedConfig
from transformers.image_processing_base import BatchFeature, ImageProcessingMixin
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING,
    MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING,
)

from ..model.configuration_vfmseg import VFMSegConfig
from ..model.foundation import ENCODER_PREFIX, checkpoint_place
from ..model.image_inputs import SingleImage, image_to_tensor
from ..model.labels import IGNORE_INDEX
from ..model.outputs import VFMSegLabelMap
from .configuration import MethodConfig
from .mask2former import MASK_LOSS, UNDECAYED
from .masks import class_masks


# Mask classifiers whose losses need nothing but masks of classes; where their pretrained encoders are.
MASK_CLASSIFIERS = {
    "mask2former": ("model.pixel_level_module.encoder.",),
    "maskformer": ("model.pixel_level_module.encoder.",),
    "eomt": ("embeddings.", "layers.", "layernorm."),
    "eomt_dinov3": ("embeddings.", "layers.", "layernorm."),
}


def auto_class_of(config: PreTrainedConfig | type[PreTrainedConfig]) -> type | None:
    """The Auto class that makes segmentation models of a configuration of transformers; None for all others."""
    kind = config if isinstance(config, type) else type(config)
    if issubclass(kind, (VFMSegConfig, MethodConfig)):
        return None
    if kind in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING:
        return AutoModelForSemanticSegmentation
    if kind in MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING:
        return AutoModelForUniversalSegmentation
    return None


def in_encoder(model: nn.Module, name: str) -> bool:
    """
    Whether the parameter `name` belongs to what is pretrained, and not to what a training for new classes adds.

    That is the encoder of VFMSeg's models and of the methods, with LoRA too. Of models of transformers it is what they
    call their base model (`segformer.`), or their `backbone.`; of mask classifiers the encoder of their pixel level;
    and of an EoMT its embeddings, blocks and last norm without the queries.
    """
    if auto_class_of(model.config) is None:
        return ENCODER_PREFIX in name
    prefixes = MASK_CLASSIFIERS.get(model.config.model_type)
    if prefixes is None:
        base = model.base_model_prefix
        prefixes = (f"{base}.",) if base and hasattr(model, base) else ("backbone.",)
    return name.startswith(prefixes)


class RawImages:
    """In the place of an image processor, for models that have one of their own: `uint8` RGB of the image's size."""

    do_reduce_labels = False

    def __call__(self, image: SingleImage, return_tensors: str = "pt") -> BatchFeature:
        return BatchFeature({"pixel_values": image_to_tensor(image)[None]})


class OtherModel(nn.Module):
    """
    A semantic or universal segmentation model with its own image processor, which resizes, cuts and normalises images
    and puts together label maps, as its authors do.

    Attributes:
        config: the model's; labels have 255 where nothing is scored.
        dtype: of the images that it is given.
        loaded_from: as of a VFMSeg model.
        loss_name: what [`loss`] is, for the record of a training.
        undecayed: as of a [`SingleStageModel`].
    """

    dtype = torch.uint8
    loaded_from: str | None = None

    def __init__(self, model: PreTrainedModel, processor: ImageProcessingMixin):
        super().__init__()
        self.model, self.processor = model, processor
        self.config = copy.copy(model.config)
        self.config.semantic_loss_ignore_index = IGNORE_INDEX
        self.classifies_masks = auto_class_of(model.config) is AutoModelForUniversalSegmentation
        self.loss_name = MASK_LOSS if self.classifies_masks else "cross entropy"
        self.undecayed = UNDECAYED if model.config.model_type == "mask2former" else ()

    @property
    def device(self) -> torch.device:
        return self.model.device

    @torch.no_grad()
    def segment(
        self, images: Sequence[torch.Tensor], target_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[VFMSegLabelMap]:
        """
        Label maps of images.

        Args:
            images: `uint8` RGB `[3, height, width]` each.
            target_sizes: height and width of each label map; by default the image's.
        """
        found = []
        for number, image in enumerate(images):
            size = tuple(image.shape[-2:]) if target_sizes is None else tuple(target_sizes[number])
            inputs = self.processor(images=image.cpu(), return_tensors="pt").to(self.device, self.model.dtype)
            outputs = self.model(**inputs)
            (labels,) = self.processor.post_process_semantic_segmentation(outputs, target_sizes=[size])
            found.append(VFMSegLabelMap(labels, None, None, [], [], []))
        return found

    def loss(
        self, call: Callable[..., ModelOutput], pixel_values: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, ModelOutput]:
        """
        The model's own loss, and its outputs; 0 with gradients for a semantic model where nothing is labelled.

        Args:
            call: the model, or what a trainer has wrapped it in.
            pixel_values: normalised crops `[B, 3, H, W]`, which it sees at this size.
            labels: class ids `[B, H, W]`, 255 for none. To a mask classifier every class of an image is one mask.
        """
        if self.classifies_masks:
            masks, classes = class_masks(labels, IGNORE_INDEX)
            outputs = call(pixel_values=pixel_values, mask_labels=masks, class_labels=classes)
            return outputs.loss.mean(), outputs
        outputs = call(pixel_values=pixel_values, labels=labels)
        return (outputs.loss if (labels != IGNORE_INDEX).any() else 0 * outputs.logits.sum()), outputs

    @classmethod
    def from_pretrained(cls, name_or_path: str, config: PreTrainedConfig, **kwargs) -> "OtherModel":
        """
        Load a model and its image processor.

        Args:
            config: the model's, as it has been read.

        Raises:
            ValueError: if models of this kind segment nothing into classes, or their image processors make no label
                maps by themselves.
        """
        auto_class = auto_class_of(config)
        if auto_class is None:
            raise ValueError(f"it is a {config.model_type}, of which transformers has no segmentation model")
        processor = AutoImageProcessor.from_pretrained(name_or_path, **kwargs)
        if not hasattr(processor, "post_process_semantic_segmentation"):
            raise ValueError(f"its {type(processor).__name__} makes no label maps of what the model gives")
        model, loading = auto_class.from_pretrained(name_or_path, output_loading_info=True, **kwargs)
        if loading["missing_keys"]:
            raise ValueError(
                f"it has no trained weights for {sorted(loading['missing_keys'])[0]}, so that it is no trained "
                "segmentation model"
            )
        other = cls(model.eval(), processor)
        other.loaded_from = checkpoint_place(name_or_path, kwargs)
        return other
