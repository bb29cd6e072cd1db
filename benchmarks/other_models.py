# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Other segmentation models of transformers that a user would pick, with random weights: what an image costs them."""

from collections.abc import Callable

import torch
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    EomtConfig,
    EomtForUniversalSegmentation,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PreTrainedConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SwinConfig,
)

from vfmseg_hf.model.windows import resize_bilinear


def segformer_b5(num_labels: int) -> SegformerConfig:
    return SegformerConfig(
        depths=[3, 6, 40, 3], hidden_sizes=[64, 128, 320, 512], decoder_hidden_size=768, num_labels=num_labels
    )


def mask2former_swin_large(num_labels: int) -> Mask2FormerConfig:
    backbone = SwinConfig(
        embed_dim=192,
        depths=[2, 2, 18, 2],
        num_heads=[6, 12, 24, 48],
        window_size=12,
        image_size=384,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    return Mask2FormerConfig(backbone_config=backbone, num_queries=200, num_labels=num_labels)


def eomt_large(num_labels: int) -> EomtConfig:
    """Takes square images of one size only: an image goes through it in squares of its height, as its authors do."""
    return EomtConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=1024,
        num_queries=100,
        num_labels=num_labels,
    )


def dinov2_large(num_labels: int) -> Dinov2Config:
    """With patches of 16 pixels."""
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    return Dinov2Config(**sizes, patch_size=16, image_size=512, num_labels=num_labels)


OTHER_MODELS: dict[str, Callable[[int], PreTrainedConfig]] = {
    "SegFormer-B5": segformer_b5,
    "Mask2Former Swin-L": mask2former_swin_large,
    "EoMT-L": eomt_large,
    "DINOv2-L, linear head": dinov2_large,
}


class LinearHead(nn.Module):
    """DINOv2 with a linear classifier on its patch tokens: logits at the size of the patch grid."""

    def __init__(self, config: Dinov2Config):
        super().__init__()
        self.patch = config.patch_size
        self.encoder, self.classifier = Dinov2Model(config), nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        rows, columns = (edge // self.patch for edge in pixel_values.shape[-2:])
        tokens = self.encoder(pixel_values).last_hidden_state[:, 1:]
        return self.classifier(tokens).transpose(1, 2).unflatten(2, (rows, columns))


def build_model(config: PreTrainedConfig) -> nn.Module:
    """
    A model with random weights, in eval mode.

    Raises:
        ImportError: Mask2Former and EoMT without scipy; the message names the extra.
    """
    if isinstance(config, Dinov2Config):
        return LinearHead(config).eval()
    if isinstance(config, SegformerConfig):
        return SegformerForSemanticSegmentation(config).eval()
    import_scipy()
    if isinstance(config, Mask2FormerConfig):
        return Mask2FormerForUniversalSegmentation(config).eval()
    model = EomtForUniversalSegmentation(config).eval()
    # Trained models attend without masks. As numbers of the host, they are there where no weights are computed with.
    del model.attn_mask_probs
    model.attn_mask_probs = [0.0] * config.num_blocks
    return model


def import_scipy() -> None:
    """Raise an `ImportError` that names the extra if scipy is missing, which the losses of mask classifiers import."""
    try:
        import scipy  # noqa: F401
    except ImportError as error:
        raise ImportError("Mask2Former and EoMT need scipy: pip install 'vfmseg-hf[methods]'") from error


def segment_with(model: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    """
    Class ids of every pixel of an image, `int64` `[B, height, width]`, the way each model is meant to be used.

    Args:
        model: from [`build_model`].
        pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`).
    """
    size = pixel_values.shape[-2:]
    if isinstance(model, EomtForUniversalSegmentation):
        edge = model.config.image_size
        crops = torch.cat(resize_to_height(pixel_values, edge).split(edge, dim=3))
        scores = torch.cat(class_scores(model(crops)).chunk(len(crops) // len(pixel_values)), dim=3)
    elif isinstance(model, Mask2FormerForUniversalSegmentation):
        scores = class_scores(model(pixel_values))
    else:
        output = model(pixel_values)
        scores = output if isinstance(output, torch.Tensor) else output.logits
    return resize_bilinear(scores, size).argmax(dim=1)


def resize_to_height(pixel_values: torch.Tensor, height: int) -> torch.Tensor:
    """Images `[B, 3, h, w]` at a height and the nearest width in multiples of it."""
    width = max(round(pixel_values.shape[3] / pixel_values.shape[2]), 1) * height
    return resize_bilinear(pixel_values, (height, width))


def class_scores(output: object) -> torch.Tensor:
    """Of a mask classifier: each class's probability summed over the queries' masks, `[B, num_labels, h, w]`."""
    classes = output.class_queries_logits.softmax(dim=-1)[..., :-1]
    return torch.einsum("bqc,bqhw->bchw", classes, output.masks_queries_logits.sigmoid())
