# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Mask2Former's decoder (Cheng et al. 2022), transformers' own, on a foundation model: see the paper's Table 3."""

from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.func import functional_call
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerLoss,
    Mask2FormerPixelDecoder,
    Mask2FormerPreTrainedModel,
    Mask2FormerTransformerModule,
)

from .configuration import MethodConfig
from .masks import class_masks, needs_scipy
from .pyramid import FACTORS, resize_to_pyramid
from .single_stage import SingleStageModel


MASK_LOSS = "matched masks and their classes, as Mask2Former"  # for the record of a training
# Ends of the names of parameters that have no weight decay, beside those of norms.
UNDECAYED = ("level_embed", "level_embed.weight", "queries_embedder.weight", "queries_features.weight")


@strict
class MaskMethodConfig(MethodConfig):
    """
    Of Mask2Former's decoder. All fields have the meaning of the same name in transformers' `Mask2FormerConfig`.

    Args:
        num_queries (`int`, defaults to 100): masks that are predicted.
        hidden_dim (`int`, defaults to 256): channels of both decoders, a multiple of 32.
        encoder_layers (`int`, defaults to 6): layers of the pixel decoder.
        decoder_layers (`int`, defaults to 10): predictions of the transformer decoder, one more than its layers.
        num_attention_heads (`int`, defaults to 8): of both.
        encoder_feedforward_dim (`int`, defaults to 1024), dim_feedforward (`int`, defaults to 2048): in between.
        train_num_points (`int`, defaults to 12544): pixels of each mask that the loss looks at.
    """

    num_queries: int = 100
    hidden_dim: int = 256
    encoder_layers: int = 6
    decoder_layers: int = 10
    num_attention_heads: int = 8
    encoder_feedforward_dim: int = 1024
    dim_feedforward: int = 2048
    train_num_points: int = 12544

    def as_mask2former(self) -> Mask2FormerConfig:
        """The decoder's side of it."""
        shared = {name: getattr(self, name) for name in self.own_fields() if name in OF_DECODER}
        width = {"feature_size": self.hidden_dim, "mask_feature_size": self.hidden_dim}
        return Mask2FormerConfig(**shared, **width, num_labels=self.num_labels)


OF_DECODER = set(MaskMethodConfig.__annotations__)


@strict
class VFMSegMask2FormerConfig(MaskMethodConfig):
    """Configuration of [`VFMSegMask2FormerForSemanticSegmentation`]; see [`MaskMethodConfig`] and [`MethodConfig`]."""

    model_type = "vfmseg_mask2former"


@dataclass
class Masks:
    """
    What the transformer decoder predicts.

    Attributes:
        classes: of every layer, logits `[B, num_queries, num_labels + 1]`; the last class is none.
        masks: of every layer, logits `[B, num_queries, H, W]`.
    """

    classes: list[torch.Tensor]
    masks: list[torch.Tensor]

    def as_logits(self) -> torch.Tensor:
        """How sure every class is of every pixel, `[B, num_labels, H, W]`, as its post-processing has it; from 0 up."""
        classes = self.classes[-1].float().softmax(-1)[..., :-1]
        return torch.einsum("bqc,bqhw->bchw", classes, self.masks[-1].float().sigmoid())


class VFMSegMask2FormerHead(Mask2FormerPreTrainedModel):
    """transformers' pixel decoder, transformer decoder and loss, with their start values, on pyramids of four maps."""

    def __init__(self, config: Mask2FormerConfig, channels: int):
        super().__init__(config)
        self.pixel_decoder = Mask2FormerPixelDecoder(config, [channels] * len(FACTORS))
        self.transformer_module = Mask2FormerTransformerModule(config.feature_size, config)
        self.class_predictor = nn.Linear(config.hidden_dim, config.num_labels + 1)
        self.weights = {
            "loss_cross_entropy": config.class_weight,
            "loss_mask": config.mask_weight,
            "loss_dice": config.dice_weight,
        }
        self.post_init()

    def forward(self, pyramid: tuple[torch.Tensor, ...], queries: dict[str, torch.Tensor] | None = None) -> Masks:
        """
        Args:
            pyramid: maps `[B, C, *, *]` at 1/4, 1/8, 1/16 and 1/32 of the images.
            queries: in place of the learnt `queries_embedder.weight` (positions) and `queries_features.weight`
                (contents), `[num_queries, hidden_dim]` each.
        """
        pixels = self.pixel_decoder(pyramid, output_hidden_states=False, output_attentions=False, return_dict=True)
        outputs = functional_call(
            self.transformer_module,
            queries or {},
            kwargs={
                "multi_scale_features": pixels.multi_scale_features,
                "mask_features": pixels.mask_features,
                "output_hidden_states": True,
                "output_attentions": False,
            },
        )
        classes = [self.class_predictor(hidden.transpose(0, 1)) for hidden in outputs.intermediate_hidden_states]
        return Masks(classes, list(outputs.masks_queries_logits))

    def loss(self, predicted: Masks, labels: torch.Tensor, ignore: int) -> torch.Tensor:
        """
        transformers' loss of every layer, weighted and added up; every class of an image is one mask.

        Args:
            labels: class ids `[B, H, W]`, or `ignore`, which is in no mask.

        Raises:
            ImportError: without scipy, which matches masks.
        """
        with needs_scipy("training with Mask2Former's decoder"):  # only here: a trained model needs none
            criterion = Mask2FormerLoss(self.config, self.weights).to(labels.device)
        masks, present = class_masks(labels, ignore)
        layers = [
            {"class_queries_logits": classes.float(), "masks_queries_logits": of_layer.float()}
            for classes, of_layer in zip(predicted.classes, predicted.masks, strict=True)
        ]
        with torch.autocast(labels.device.type, enabled=False):
            losses = criterion(**layers[-1], mask_labels=masks, class_labels=present, auxiliary_predictions=layers[:-1])
        return sum(self.weights[name.rstrip("_0123456789")] * loss for name, loss in losses.items())


class MaskModel(SingleStageModel):
    """
    A foundation model and Mask2Former's decoder: masks at a quarter of what it sees. Its `logits` are no
    log-probabilities, but how sure each class is. The loss matches masks: no weights of classes go into it, and no loss
    of one's own takes its place.
    """

    heads = ("mask2former_head",)
    loss_name = MASK_LOSS
    undecayed = UNDECAYED

    def __init__(self, config: MaskMethodConfig):
        super().__init__(config)
        self.mask2former_head = VFMSegMask2FormerHead(config.as_mask2former(), self.width)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "loss_function" and value is not None:
            raise ValueError(f"the loss of a {self.config.model_type} model matches masks; no other takes its place")
        super().__setattr__(name, value)

    def decode(self, feature_maps: tuple[torch.Tensor, ...]) -> Masks:
        return self.mask2former_head(resize_to_pyramid(feature_maps))

    def logits_of(self, decoded: Masks) -> torch.Tensor:
        return decoded.as_logits()

    def loss_of(self, decoded: Masks, labels: torch.Tensor) -> torch.Tensor:
        return self.mask2former_head.loss(decoded, labels, self.config.semantic_loss_ignore_index)


class VFMSegMask2FormerForSemanticSegmentation(MaskModel):
    """A foundation model and Mask2Former's decoder; see [`MaskModel`]."""

    config_class = VFMSegMask2FormerConfig

    def __init__(self, config: VFMSegMask2FormerConfig):
        super().__init__(config)
        self.post_init()
