# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""How each vision foundation model becomes an encoder: one table entry per family.

An encoder embeds a picture, runs its own blocks one after the other and hands out the residual stream after four of
them. The library's modules do all arithmetic; only the walk over the blocks is ours, because feature maps that are
captured by hooks lose their gradient under reentrant gradient checkpointing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig


@dataclass(frozen=True)
class EncoderFamily:
    """
    What VFMSeg needs to know of one family of foundation models.

    Attributes:
        embed: `(encoder, pixel_values, position_interpolation) -> hidden_states`, the input of the first block.
        blocks: `(encoder) -> nn.ModuleList`, the transformer blocks in order.
        num_prefix_tokens: tokens (class, registers) before the patch tokens.
        lora_targets: names of the linear layers inside a block that LoRA adapts by default.
        patch_kernel, position_table: state dict keys of the two tensors that depend on the patch and picture size.
        native_grid: patches per edge of the position table after resampling (512 pixels at patch 16, as published).
    """

    embed: Callable[[nn.Module, torch.Tensor, str], torch.Tensor]
    blocks: Callable[[nn.Module], nn.ModuleList]
    num_prefix_tokens: int
    lora_targets: tuple[str, ...]
    patch_kernel: str
    position_table: str
    native_grid: int = 32

    def hidden_size(self, config: PreTrainedConfig) -> int:
        return config.hidden_size

    def patch_size(self, config: PreTrainedConfig) -> int:
        size = config.patch_size
        if isinstance(size, int):
            return size
        if size[0] != size[1]:
            raise ValueError(f"the encoder must have square patches, got {tuple(size)}")
        return size[0]

    def to_feature_map(self, hidden_states: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """Patch tokens `[B, prefix + rows * columns, C]` in row-major order as a map `[B, C, rows, columns]`."""
        patches = hidden_states[:, self.num_prefix_tokens :]
        return patches.transpose(1, 2).reshape(patches.shape[0], -1, rows, columns)


def _embed_dinov2(encoder: nn.Module, pixel_values: torch.Tensor, position_interpolation: str) -> torch.Tensor:
    embeddings = encoder.embeddings
    if position_interpolation == "size":
        return embeddings(pixel_values)
    patches = embeddings.patch_embeddings(pixel_values)
    tokens = torch.cat([embeddings.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)
    patch = embeddings.patch_embeddings.patch_size
    rows, columns = pixel_values.shape[-2] // patch[0], pixel_values.shape[-1] // patch[1]
    positions = scale_offset_positions(embeddings.position_embeddings, rows, columns)
    return embeddings.dropout(tokens + positions.to(tokens.dtype))


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


ENCODER_FAMILIES: dict[str, EncoderFamily] = {
    "dinov2": EncoderFamily(
        embed=_embed_dinov2,
        blocks=lambda encoder: encoder.encoder.layer,
        num_prefix_tokens=1,
        lora_targets=("q_proj", "k_proj", "v_proj"),
        patch_kernel="embeddings.patch_embeddings.projection.weight",
        position_table="embeddings.position_embeddings",
    ),
}


def get_encoder_family(backbone_config: PreTrainedConfig) -> EncoderFamily:
    """
    The table entry for a foundation model's configuration.

    Raises:
        ValueError: if the architecture is not supported; the message names those that are.
    """
    model_type = getattr(backbone_config, "model_type", None)
    if model_type not in ENCODER_FAMILIES:
        raise ValueError(
            f"{model_type!r} is not a supported encoder; backbone_config.model_type must be one of "
            f"{sorted(ENCODER_FAMILIES)}"
        )
    return ENCODER_FAMILIES[model_type]


def encoder_depth(backbone_config: PreTrainedConfig) -> int:
    """Number of transformer blocks of a supported encoder."""
    get_encoder_family(backbone_config)
    return backbone_config.num_hidden_layers


def adapted_backbone_config(native_config: PreTrainedConfig, patch_size: int) -> PreTrainedConfig:
    """A foundation model's configuration with another patch size and the family's position grid."""
    family = get_encoder_family(native_config)
    settings = native_config.to_dict()
    settings.update(patch_size=patch_size, image_size=family.native_grid * patch_size)
    return type(native_config).from_dict(settings)


def resample_encoder_weights(
    state_dict: dict[str, torch.Tensor], family: EncoderFamily, backbone_config: PreTrainedConfig
) -> dict[str, torch.Tensor]:
    """
    Bring pretrained weights to the patch and picture size of `backbone_config`, as the published converters do.

    The patch kernel `[C, 3, p, p]` becomes `[C, 3, patch_size, patch_size]`, the grid part of the position table
    `[1, prefix + n * n, C]` becomes `[1, prefix + grid * grid, C]`; both bicubic, half-pixel centres, no antialiasing.
    Other tensors are returned as they are, and so are these two where the sizes agree already.
    """
    patch_size = family.patch_size(backbone_config)
    image_size = backbone_config.image_size
    grid = (image_size if isinstance(image_size, int) else image_size[0]) // patch_size
    table = state_dict[family.position_table]
    prefix, positions = table[:, : family.num_prefix_tokens], table[:, family.num_prefix_tokens :]
    edge = round(positions.shape[1] ** 0.5)
    positions = positions.reshape(1, edge, edge, -1).permute(0, 3, 1, 2)
    positions = _bicubic(positions, (grid, grid)).flatten(2).transpose(1, 2)
    return {
        **state_dict,
        family.patch_kernel: _bicubic(state_dict[family.patch_kernel], (patch_size, patch_size)),
        family.position_table: torch.cat([prefix, positions], dim=1),
    }


def _bicubic(tensor: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if tuple(tensor.shape[-2:]) == size:
        return tensor
    return nn.functional.interpolate(tensor.float(), size=size, mode="bicubic", align_corners=False).to(tensor.dtype)
