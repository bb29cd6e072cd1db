# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What VFMSeg needs to know of a family of foundation models, and what all families share.

An encoder embeds a picture, runs its own blocks one after the other and hands out the residual stream after four of
them. The library's modules do all arithmetic; only the walk over the blocks is ours, because feature maps that are
captured by hooks lose their gradient under reentrant gradient checkpointing.
"""

from typing import ClassVar

import torch
from torch import nn
from transformers import AutoModel
from transformers.configuration_utils import PreTrainedConfig


class EncoderFamily:
    """
    One family of foundation models. A subclass says where its modules and tensors are; it holds no state.

    Attributes:
        lora_targets: names of the linear layers inside a block that LoRA adapts by default.
        patch_kernel: state dict key of the patch convolution's kernel `[C, 3, p, p]`.
        position_table: state dict key of the position table, or `None` for encoders with rotary positions only.
        native_grid: patches per edge of the position table after resampling (512 pixels at patch 16, as published).
    """

    lora_targets: ClassVar[tuple[str, ...]]
    patch_kernel: ClassVar[str]
    position_table: ClassVar[str | None]
    native_grid: ClassVar[int] = 32

    # --- what the configuration says

    def hidden_size(self, config: PreTrainedConfig) -> int:
        """Channels of the feature maps."""
        return config.hidden_size

    def depth(self, config: PreTrainedConfig) -> int:
        """Number of transformer blocks."""
        return config.num_hidden_layers

    def num_prefix_tokens(self, config: PreTrainedConfig) -> int:
        """Tokens (class, registers) before the patch tokens."""
        return 1

    def patch_size(self, config: PreTrainedConfig) -> int:
        """Pixels per patch edge."""
        size = config.patch_size
        if isinstance(size, int):
            return size
        if size[0] != size[1]:
            raise ValueError(f"the encoder must have square patches, got {tuple(size)}")
        return size[0]

    def grid(self, config: PreTrainedConfig) -> int:
        """Patches per edge of the position table."""
        image_size = config.image_size
        return (image_size if isinstance(image_size, int) else image_size[0]) // self.patch_size(config)

    def check(self, config: PreTrainedConfig) -> None:
        """Raises `ValueError` for members of the family that cannot be used, naming what is in the way."""

    def adapted_config(self, native: PreTrainedConfig, patch_size: int) -> PreTrainedConfig:
        """A foundation model's configuration with another patch size and the family's position grid."""
        settings = native.to_dict()
        settings.update(patch_size=patch_size, image_size=self.native_grid * patch_size)
        return type(native).from_dict(settings)

    # --- the module

    def build(self, config: PreTrainedConfig) -> nn.Module:
        """The encoder with random weights."""
        return AutoModel.from_config(config)

    def blocks(self, encoder: nn.Module) -> nn.ModuleList:
        """The transformer blocks in order."""
        raise NotImplementedError

    def embed(
        self, encoder: nn.Module, pixel_values: torch.Tensor, position_interpolation: str
    ) -> tuple[torch.Tensor, dict[str, object]]:
        """The input of the first block, and the arguments that every block takes beside it."""
        raise NotImplementedError

    def to_feature_map(
        self, hidden_states: torch.Tensor, config: PreTrainedConfig, rows: int, columns: int
    ) -> torch.Tensor:
        """A block's output, by default tokens `[B, prefix + rows * columns, C]`, as a map `[B, C, rows, columns]`."""
        patches = hidden_states[:, self.num_prefix_tokens(config) :]
        return patches.transpose(1, 2).reshape(patches.shape[0], -1, rows, columns)

    # --- weights

    def resampled_keys(self) -> set[str]:
        """Keys of the tensors that depend on the patch and picture size."""
        return {key for key in (self.patch_kernel, self.position_table) if key}

    def resample(self, state_dict: dict[str, torch.Tensor], config: PreTrainedConfig) -> dict[str, torch.Tensor]:
        """
        Bring pretrained weights to the patch and picture size of `config`, as the published converters do.

        The patch kernel `[C, 3, p, p]` becomes `[C, 3, patch_size, patch_size]`, the grid part of the position table
        `[..., prefix + n * n, C]` becomes `[..., prefix + grid * grid, C]`; both bicubic, half-pixel centres, no
        antialiasing. Other tensors are returned as they are, and so are these two where the sizes agree already.
        """
        patch_size = self.patch_size(config)
        resampled = {self.patch_kernel: bicubic(state_dict[self.patch_kernel], (patch_size, patch_size))}
        if self.position_table:
            resampled[self.position_table] = resize_positions(
                state_dict[self.position_table], self.num_prefix_tokens(config), self.grid(config)
            )
        return {**state_dict, **resampled}


def resize_positions(table: torch.Tensor, prefix: int, grid: int) -> torch.Tensor:
    """A position table `[..., prefix + n * n, C]` with a grid of another size, bicubically."""
    head, positions = table[..., :prefix, :], table[..., prefix:, :]
    edge = round(positions.shape[-2] ** 0.5)
    maps = positions.reshape(1, edge, edge, -1).permute(0, 3, 1, 2)
    positions = bicubic(maps, (grid, grid)).flatten(2).transpose(1, 2)
    return torch.cat([head, positions.reshape(*head.shape[:-2], grid * grid, -1)], dim=-2)


def bicubic(tensor: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`[N, C, h, w]` at another size: half-pixel centres, no antialiasing, computed in float32."""
    if tuple(tensor.shape[-2:]) == size:
        return tensor
    return nn.functional.interpolate(tensor.float(), size=size, mode="bicubic", align_corners=False).to(tensor.dtype)
