# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""SegFormer's all-MLP decoder (Xie et al. 2021), transformers' own, on a foundation model: see the paper's Table 3."""

import torch
from huggingface_hub.dataclasses import strict
from transformers import SegformerConfig
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead, SegformerPreTrainedModel

from ..model.heads import VFMSegClassifier
from .configuration import PixelwiseMethodConfig
from .pyramid import FACTORS, resize_to_pyramid
from .single_stage import SingleStageModel


@strict
class VFMSegSegformerConfig(PixelwiseMethodConfig):
    """
    Configuration of [`VFMSegSegformerForSemanticSegmentation`]; see [`MethodConfig`].

    Args:
        decoder_hidden_size (`int`, defaults to 256): channels of the decoder.
        classifier_dropout_prob (`float`, defaults to 0.1): dropout before the classifier.
    """

    model_type = "vfmseg_segformer"

    decoder_hidden_size: int = 256
    classifier_dropout_prob: float | int = 0.1


class VFMSegSegformerHead(SegformerPreTrainedModel):
    """transformers' decoder with its start values, and logits `[B, num_labels, 4h, 4w]` of four maps `[B, C, h, w]`."""

    def __init__(self, config: SegformerConfig):
        super().__init__(config)
        self.decode_head = SegformerDecodeHead(config)
        self.decode_head.classifier = VFMSegClassifier(config.decoder_hidden_size, config.num_labels)
        self.post_init()

    def forward(self, feature_maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return self.decode_head(resize_to_pyramid(feature_maps))


class VFMSegSegformerForSemanticSegmentation(SingleStageModel):
    """A foundation model and SegFormer's decoder: logits at a quarter of what it sees."""

    config_class = VFMSegSegformerConfig
    heads = ("segformer_head",)

    def __init__(self, config: VFMSegSegformerConfig):
        super().__init__(config)
        decoder = SegformerConfig(
            hidden_sizes=[self.width] * len(FACTORS),
            decoder_hidden_size=config.decoder_hidden_size,
            classifier_dropout_prob=config.classifier_dropout_prob,
            num_labels=config.num_labels,
        )
        self.segformer_head = VFMSegSegformerHead(decoder)
        self.post_init()

    def decode(self, feature_maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return self.segformer_head(feature_maps)
