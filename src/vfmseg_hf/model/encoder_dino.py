# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""DINOv2, with and without registers, and DINOv3."""

import math

import torch
from torch import nn

from .encoder_base import EncoderFamily


class Dinov2Family(EncoderFamily):
    """transformers' `Dinov2Model`."""

    lora_targets = ("q_proj", "k_proj", "v_proj")
    patch_kernel = "embeddings.patch_embeddings.projection.weight"
    position_table = "embeddings.position_embeddings"
    position_interpolations = ("size", "scale_offset")

    def blocks(self, encoder):
        return encoder.encoder.layer

    def embed(self, encoder, pixel_values, position_interpolation):
        embeddings = encoder.embeddings
        if position_interpolation == "size":
            return embeddings(pixel_values), {}
        patches = embeddings.patch_embeddings(pixel_values)
        tokens = torch.cat([embeddings.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        patch = embeddings.patch_embeddings.patch_size
        rows, columns = pixel_values.shape[-2] // patch[0], pixel_values.shape[-1] // patch[1]
        positions = scale_offset_positions(embeddings.position_embeddings, rows, columns)
        tokens = self.add_registers(embeddings, tokens + positions.to(tokens.dtype))
        return embeddings.dropout(tokens), {}

    def add_registers(self, embeddings: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        """The tokens, which have their positions already, with those that have none."""
        return tokens


class Dinov2WithRegistersFamily(Dinov2Family):
    """transformers' `Dinov2WithRegistersModel`: register tokens without a position follow the class token."""

    def num_prefix_tokens(self, config):
        return 1 + config.num_register_tokens

    def num_prefix_positions(self, config):
        return 1

    def add_registers(self, embeddings, tokens):
        registers = embeddings.register_tokens.expand(tokens.shape[0], -1, -1)
        return torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)


class Dinov3Family(EncoderFamily):
    """
    transformers' `DINOv3ViTModel`: rotary positions, so that no table is resampled.

    `pos_embed_rescale`, a random scale of the positions in training mode, is left out: images have one scale, and a
    training step has to repeat. Set on `backbone_config`, it works.
    """

    lora_targets = ("q_proj", "k_proj", "v_proj")
    patch_kernel = "embeddings.patch_embeddings.weight"
    position_table = None

    def width_step(self, config):
        return math.lcm(32, 4 * config.num_attention_heads)  # rotary positions: sine and cosine, of two axes

    def num_prefix_tokens(self, config):
        return 1 + config.num_register_tokens

    def adapted_config(self, native, patch_size):
        settings = {**super().adapted_config(native, patch_size).to_dict(), "pos_embed_rescale": None}
        return type(native).from_dict(settings)

    def blocks(self, encoder):
        return encoder.model.layer

    def embed(self, encoder, pixel_values, position_interpolation):
        pixel_values = pixel_values.to(encoder.embeddings.patch_embeddings.weight.dtype)
        return encoder.embeddings(pixel_values), {"position_embeddings": encoder.rope_embeddings(pixel_values)}


def scale_offset_positions(table: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """
    DINOv2's original resampling of its position table.

    The bicubic sampling coordinates follow the ratios (n + 0.1) / grid rather than n / grid, which shifts them by up
    to a tenth of a patch. Published VFMSeg models were trained with it.

    Args:
        table (`torch.Tensor` of shape `(1, 1 + grid * grid, hidden_size)`): class position, then grid positions.
        rows, columns (`int`): patches of the image.

    Returns:
        `torch.Tensor` of shape `(1, 1 + rows * columns, hidden_size)`.
    """
    grid = round((table.shape[1] - 1) ** 0.5)
    if rows == columns == grid:
        return table
    positions = table[:, 1:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2).float()
    factors = ((rows + 0.1) / grid, (columns + 0.1) / grid)
    positions = nn.functional.interpolate(positions, scale_factor=factors, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], positions.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)
