# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""
A linear head on a foundation model: the baseline of the paper's Table 2 with a frozen encoder, and the first row of its
decoders (Table 3) with LoRA. The images are seen as by VFMNet, so that nothing but the decoder differs.
"""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from ..model.heads import VFMSegClassifier
from .configuration import PixelwiseMethodConfig
from .single_stage import SingleStageModel


@strict
class VFMSegLinearConfig(PixelwiseMethodConfig):
    """Configuration of [`VFMSegLinearForSemanticSegmentation`]; see [`MethodConfig`]."""

    model_type = "vfmseg_linear"


class VFMSegLinearHead(nn.Module):
    """Batch norm of the concatenated feature maps and a 1×1 convolution, without an activation between."""

    def __init__(self, channels: int, num_labels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = VFMSegClassifier(channels, num_labels)

    def forward(self, feature_maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return self.classifier(self.norm(torch.cat(list(feature_maps), dim=1)))


class VFMSegLinearForSemanticSegmentation(SingleStageModel):
    """
    A foundation model and one linear layer: logits at a sixteenth of what it sees.

    Example:

    ```python
    >>> from vfmseg_hf.training.model import start_model

    >>> model = start_model("facebook/dinov2-small", method="linear", id2label={0: "free", 1: "blocked"})
    ```
    """

    config_class = VFMSegLinearConfig
    heads = ("linear_head",)

    def __init__(self, config: VFMSegLinearConfig):
        super().__init__(config)
        self.linear_head = VFMSegLinearHead(len(config.out_indices) * self.width, config.num_labels)
        self.post_init()

    def decode(self, feature_maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return self.linear_head(feature_maps)
