# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The two heads: VFMNet's decoder for the coarse pass and MGRNet's for the refined windows."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_vfmseg import VFMSegConfig


GROUPS = 32


# These two are types of their own because transformers initialises models from outside its own package module by
# module and passes over modules without parameters of their own: a head cannot initialise its layers.
class VFMSegClassifier(nn.Conv2d):
    """1×1 convolution to class logits."""

    def __init__(self, channels: int, num_labels: int):
        super().__init__(channels, num_labels, kernel_size=1)


class VFMSegCoarseFusion(nn.Conv2d):
    """1×1 convolution, without bias, from the concatenated feature maps to the encoder's width."""

    def __init__(self, num_maps: int, hidden_size: int):
        super().__init__(num_maps * hidden_size, hidden_size, kernel_size=1, bias=False)


class VFMSegCoarseHead(nn.Module):
    """
    Decoder of VFMNet: fuse the four feature maps and upsample them four times by transposed convolutions.

    Args of forward:
        feature_maps (four `torch.Tensor` of shape `(batch_size, hidden_size, height / 16, width / 16)`).

    Returns:
        `torch.Tensor` of shape `(batch_size, num_labels, height / 4, width / 4)`: logits.
    """

    def __init__(self, config: VFMSegConfig, hidden_size: int):
        super().__init__()
        self.fusion = VFMSegCoarseFusion(len(config.out_indices), hidden_size)
        self.fusion_norm = nn.GroupNorm(GROUPS, hidden_size)
        self.upsample1 = nn.ConvTranspose2d(hidden_size, hidden_size // 2, kernel_size=2, stride=2)
        self.upsample_norm = nn.BatchNorm2d(hidden_size // 2)
        self.upsample2 = nn.ConvTranspose2d(hidden_size // 2, hidden_size // 4, kernel_size=2, stride=2)
        self.dropout = nn.Dropout2d(config.head_dropout)
        self.classifier = VFMSegClassifier(hidden_size // 4, config.num_labels)

    def forward(self, feature_maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        features = F.relu(self.fusion_norm(self.fusion(torch.cat(list(feature_maps), dim=1))))
        features = F.gelu(self.upsample_norm(self.upsample1(features)))
        features = F.gelu(self.upsample2(features))
        return self.classifier(self.dropout(features))


class VFMSegRefineHead(nn.Module):
    """
    Decoder of MGRNet: refine the image features of a window guided by the coarse prediction for the same window.

    Args of forward:
        feature_maps (four `torch.Tensor` of shape `(batch_size, hidden_size, height / 16, width / 16)`).
        coarse_logits (`torch.Tensor` of shape `(batch_size, num_labels, any height, any width)`):
            Coarse logits (no softmax) of the same region.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_labels, height / 16, width / 16)`: logits.
    """

    def __init__(self, config: VFMSegConfig, hidden_size: int):
        super().__init__()
        width = config.refine_hidden_size
        self.fusion = nn.Conv2d(len(config.out_indices) * hidden_size, width, kernel_size=1)
        self.fusion_norm = nn.GroupNorm(GROUPS, width)
        self.mask_embedding = VFMSegMaskEmbedding(config.num_labels, width)
        self.feature_mask_ratio = config.feature_mask_ratio
        self.mask_token = nn.Parameter(torch.empty(1, width, 1, 1))
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.layers = nn.ModuleList([VFMSegRefineLayer(config) for _ in range(config.refine_num_layers)])
        self.dropout = nn.Dropout2d(config.refine_dropout)
        self.classifier = VFMSegClassifier(width, config.num_labels)

    def forward(self, feature_maps: tuple[torch.Tensor, ...], coarse_logits: torch.Tensor) -> torch.Tensor:
        features = F.gelu(self.fusion_norm(self.fusion(torch.cat(list(feature_maps), dim=1))))
        rows, columns = features.shape[-2:]
        context = F.interpolate(
            coarse_logits.to(features.dtype), size=(4 * rows, 4 * columns), mode="bilinear", align_corners=False
        )
        semantics = self.mask_embedding(context).flatten(2).transpose(1, 2)
        if self.training and self.feature_mask_ratio > 0:
            draw = torch.rand(features.shape[0], 1, rows, columns, device=features.device)
            features = mask_features(features, self.mask_token, draw, self.feature_mask_ratio)
        tokens = self.norm(features).flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = layer(tokens, semantics)
        features = tokens.transpose(1, 2).reshape(features.shape)
        return self.classifier(self.dropout(features))


def mask_features(features: torch.Tensor, mask_token: torch.Tensor, draw: torch.Tensor, ratio: float) -> torch.Tensor:
    """
    Feature masking: M = [v > p], F M + T (1 - M) (section "Feature Masking").

    Args:
        features (`torch.Tensor` of shape `(batch_size, channels, rows, columns)`).
        mask_token (`torch.Tensor` of shape `(1, channels, 1, 1)`): T.
        draw (`torch.Tensor` of shape `(batch_size, 1, rows, columns)`): v, uniform in [0, 1).
        ratio: p; a draw that equals it is masked.
    """
    return torch.where(draw > ratio, features, mask_token.to(features.dtype))


class VFMSegMaskEmbedding(nn.Module):
    """Coarse logits `[B, num_labels, 4 h, 4 w]` to semantic features `[B, width, h, w]`."""

    def __init__(self, num_labels: int, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(num_labels, width // 4, kernel_size=2, stride=2)
        self.norm1 = nn.GroupNorm(GROUPS, width // 4)
        self.conv2 = nn.Conv2d(width // 4, width // 2, kernel_size=2, stride=2)
        self.norm2 = nn.GroupNorm(GROUPS, width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, kernel_size=1)
        self.norm3 = nn.GroupNorm(GROUPS, width)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        hidden = F.gelu(self.norm1(self.conv1(logits)))
        hidden = F.gelu(self.norm2(self.conv2(hidden)))
        return self.norm3(self.conv3(hidden))


class VFMSegRefineLayer(nn.Module):
    """Self-attention, feature-to-semantics attention and a gated feed-forward network, each pre-norm and residual."""

    def __init__(self, config: VFMSegConfig):
        super().__init__()
        width = config.refine_hidden_size
        self.norm1 = nn.LayerNorm(width)
        self.self_attention = VFMSegAttention(config)
        self.norm2 = nn.LayerNorm(width)
        self.cross_attention = VFMSegAttention(config)
        self.norm3 = nn.LayerNorm(width)
        self.feed_forward = VFMSegGatedFeedForward(width)

    def forward(self, tokens: torch.Tensor, semantics: torch.Tensor) -> torch.Tensor:
        hidden = self.norm1(tokens)
        tokens = tokens + self.self_attention(hidden, hidden)
        tokens = tokens + self.cross_attention(self.norm2(tokens), semantics)
        return tokens + self.feed_forward(self.norm3(tokens))


class VFMSegAttention(nn.Module):
    """
    Multi-head attention softmax(Q K^T / sqrt(d)) V; with semantic keys and values, the paper's feature-to-semantics
    attention. It is computed as `attn_implementation` says. The projections carry other names than the encoders' so
    that a LoRA target such as `"q_proj"` never matches a head.
    """

    is_causal = False  # attention functions look for it here

    def __init__(self, config: VFMSegConfig):
        super().__init__()
        width, inner = config.refine_hidden_size, config.refine_num_attention_heads * config.refine_head_dim
        self.config, self.head_dim = config, config.refine_head_dim
        self.to_query = nn.Linear(width, inner, bias=False)
        self.to_key = nn.Linear(width, inner, bias=False)
        self.to_value = nn.Linear(width, inner, bias=False)
        self.to_output = nn.Linear(inner, width)

    def forward(self, queries: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            project(tokens).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project, tokens in ((self.to_query, queries), (self.to_key, sources), (self.to_value, sources))
        )
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        attended, _ = attend(self, query, key, value, None, scaling=self.head_dim**-0.5)
        return self.to_output(attended.flatten(2))


def eager_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: None, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Attention in plain steps, in the form of transformers' attention functions.

    Args:
        query, key, value (`torch.Tensor` of shape `(batch_size, heads, tokens, head_dim)`).

    Returns:
        What is attended to, `[batch_size, tokens, heads, head_dim]`, and the weights.
    """
    weights = (query @ key.transpose(2, 3) * scaling).softmax(dim=-1)
    return (weights @ value).transpose(1, 2), weights


class VFMSegGatedFeedForward(nn.Module):
    """Linear to twice the inner width, value times GELU(gate), linear back."""

    def __init__(self, width: int, multiplier: int = 4):
        super().__init__()
        self.input = nn.Linear(width, 2 * multiplier * width)
        self.output = nn.Linear(multiplier * width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        value, gate = self.input(tokens).chunk(2, dim=-1)
        return self.output(value * F.gelu(gate))
