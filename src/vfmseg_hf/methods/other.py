# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Segmentation models of transformers as their authors made them, behind what evaluation asks of a model."""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation
from transformers.configuration_utils import PreTrainedConfig
from transformers.image_processing_base import BatchFeature, ImageProcessingMixin
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING,
    MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING,
)

from ..model.foundation import checkpoint_place
from ..model.image_inputs import SingleImage, image_to_tensor
from ..model.outputs import VFMSegLabelMap


IGNORE_INDEX = 255  # in label maps of all datasets


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
    """

    dtype = torch.uint8
    loaded_from: str | None = None

    def __init__(self, model: PreTrainedModel, processor: ImageProcessingMixin):
        super().__init__()
        self.model, self.processor = model, processor
        self.config = copy.copy(model.config)
        self.config.semantic_loss_ignore_index = IGNORE_INDEX

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
        if type(config) in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING:
            auto_class = AutoModelForSemanticSegmentation
        elif type(config) in MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING:
            auto_class = AutoModelForUniversalSegmentation
        else:
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
