# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""DINOv2."""

import torch
from torch import nn

from .encoder_base_vfmseg import EncoderFamily


class Dinov2Family(EncoderFamily):
    """transformers' `Dinov2Model`."""

    lora_targets = ("q_proj", "k_proj", "v_proj")
    patch_kernel = "embeddings.patch_embeddings.projection.weight"
    position_table = "embeddings.position_embeddings"

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
        return embeddings.dropout(tokens + positions.to(tokens.dtype)), {}


def scale_offset_positions(table: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """
    DINOv2's original resampling of its position table.

    The bicubic sampling coordinates follow the ratios (n + 0.1) / grid rather than n / grid, which shifts them by up
    to a tenth of a patch. Published VFMSeg models were trained with it.

    Args:
        table (`torch.Tensor` of shape `(1, 1 + grid * grid, hidden_size)`): class position, then grid positions.
        rows, columns (`int`): patches of the picture.

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
