# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What VFMSeg needs to know of a family of foundation models, and what all families share.

An encoder embeds an image, runs its own blocks one after the other and hands out the residual stream after four of
them. The library's modules do all arithmetic; only the walk over the blocks is ours, because feature maps that are
captured by hooks lose their gradient under reentrant gradient checkpointing.
"""

import math
from collections.abc import Collection, Iterable
from typing import ClassVar

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


class EncoderFamily:
    """
    One family of foundation models. A subclass says where its modules and tensors are; it holds no state.

    Attributes:
        lora_targets: names of the linear layers inside a block that LoRA adapts by default.
        patch_kernel: state dict key of the patch convolution's kernel `[C, 3, p, p]`.
        position_table: state dict key of the position table, or `None` for encoders with rotary positions only.
        native_grid: patches per edge of the position table after resampling (512 pixels at patch 16, as published).
        position_interpolations: the values of `VFMSegConfig.position_interpolation` that the family has a meaning for.
        gives_attentions: whether the attention maps can be had.
        fixed_attentions: where `attn_implementation` only counts when the encoder is built, what it can be then.
        classifier_fields: what the configuration says of a classifier, which is not part of the encoder, as it should
            be written in a dict.
        unused: beginnings of the state dict keys of tensors that no feature map depends on.
    """

    lora_targets: ClassVar[tuple[str, ...]]
    patch_kernel: ClassVar[str]
    position_table: ClassVar[str | None]
    native_grid: ClassVar[int] = 32
    position_interpolations: ClassVar[tuple[str, ...]] = ("size",)
    gives_attentions: ClassVar[bool] = True
    fixed_attentions: ClassVar[tuple[str, ...]] = ()
    classifier_fields: ClassVar[dict[str, object]] = {}
    unused: ClassVar[tuple[str, ...]] = ()

    # --- what the configuration says

    def member(self, config: PreTrainedConfig) -> "EncoderFamily":
        """The family that a configuration belongs to, where one `model_type` covers several."""
        return self

    def hidden_size(self, config: PreTrainedConfig) -> int:
        """Channels of the feature maps."""
        return config.hidden_size

    def width_step(self, config: PreTrainedConfig) -> int:
        """What `hidden_size` is a multiple of in a valid model: the heads' 32 groups, and the attention heads."""
        return math.lcm(32, config.num_attention_heads)

    def depth(self, config: PreTrainedConfig) -> int:
        """Number of transformer blocks."""
        return config.num_hidden_layers

    def num_prefix_tokens(self, config: PreTrainedConfig) -> int:
        """Tokens (class, registers) before the patch tokens."""
        return 1

    def num_prefix_positions(self, config: PreTrainedConfig) -> int:
        """Rows of the position table before the grid's."""
        return self.num_prefix_tokens(config)

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

    def traits(self, config: PreTrainedConfig) -> dict[str, object]:
        """Kind and sizes: where they differ, the weights of one model are not those of another."""
        keys = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads")
        return {key: getattr(config, key) for key in keys}

    def check(self, config: PreTrainedConfig) -> None:
        """Raises `ValueError` for members of the family that cannot be used, naming what is in the way."""

    def image_mean(self, config: PreTrainedConfig) -> list[float]:
        """Mean of each colour channel, of pixels in 0..1, that the encoder's images are normalised with."""
        return list(IMAGENET_DEFAULT_MEAN)

    def image_std(self, config: PreTrainedConfig) -> list[float]:
        """Standard deviation that goes with `image_mean`."""
        return list(IMAGENET_DEFAULT_STD)

    def encoder_config(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """The configuration without parts of the encoder that no feature map depends on; a copy if it has any."""
        return config

    def adapted_config(self, native: PreTrainedConfig, patch_size: int) -> PreTrainedConfig:
        """A foundation model's configuration with another patch size and the family's position grid."""
        settings = native.to_dict()
        settings.update(patch_size=patch_size, image_size=self.native_grid * patch_size)
        return type(native).from_dict(settings)

    # --- the module

    def check_attention(self, config: PreTrainedConfig) -> None:
        """Raises `ValueError` if the encoder cannot have the attention that its configuration asks for."""
        wanted, fixed = config._attn_implementation, self.fixed_attentions
        if fixed and wanted not in (None, *fixed):
            raise ValueError(
                f"attn_implementation={wanted!r} does not work for a {config.model_type!r} encoder, only {list(fixed)} "
                f"do. For the heads alone pass attn_implementation={{'': {wanted!r}, 'backbone_config': 'sdpa'}}"
            )

    def build(self, config: PreTrainedConfig) -> nn.Module:
        """The encoder with random weights, in torch's default dtype whatever dtype the configuration was saved with."""
        return AutoModel.from_config(config, dtype=torch.get_default_dtype())

    def input_embeddings(self, encoder: nn.Module) -> nn.Module:
        """The module that an image goes through first."""
        return encoder.get_input_embeddings()

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

    def load(
        self, name_or_path: str, config: PreTrainedConfig, **kwargs
    ) -> tuple[PreTrainedModel, dict[str, Collection[object]]]:
        """
        The foundation model as it is stored, and transformers' report on its keys.

        Tensors of another size are in the report, which the caller has to look at, and random in the model.
        """
        return AutoModel.from_pretrained(
            name_or_path, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )

    def resampled_keys(self, keys: Iterable[str]) -> set[str]:
        """Those of a state dict's keys whose tensors depend on the patch and image size."""
        return {self.patch_kernel, self.position_table} & set(keys)

    def resample(
        self, state_dict: dict[str, torch.Tensor], config: PreTrainedConfig, position_interpolation: str = "size"
    ) -> dict[str, torch.Tensor]:
        """
        Bring pretrained weights to the patch and image size of `config`, as the published converters do.

        The patch kernel `[C, 3, p, p]` becomes `[C, 3, patch_size, patch_size]`, the grid part of the position table
        `[..., prefix + n * n, C]` becomes `[..., prefix + grid * grid, C]`; half-pixel centres, no antialiasing,
        bicubic but for the table with the position interpolation `"bilinear"`. Other tensors are returned as they
        are, and so are these two where the sizes agree already.
        """
        patch_size = self.patch_size(config)
        resampled = {self.patch_kernel: resize(state_dict[self.patch_kernel], (patch_size, patch_size))}
        if self.position_table in state_dict:
            mode = "bilinear" if position_interpolation == "bilinear" else "bicubic"
            resampled[self.position_table] = resize_positions(
                state_dict[self.position_table], self.num_prefix_positions(config), (self.grid(config),) * 2, mode
            )
        return {**state_dict, **resampled}


def resize_positions(
    table: torch.Tensor, prefix: int, size: tuple[int, int], mode: str = "bicubic", antialias: bool = False
) -> torch.Tensor:
    """A position table `[..., prefix + n * n, C]` for another grid: `[..., prefix + rows * columns, C]`."""
    head, positions = table[..., :prefix, :], table[..., prefix:, :]
    edge = round(positions.shape[-2] ** 0.5)
    maps = positions.reshape(1, edge, edge, -1).permute(0, 3, 1, 2)
    positions = resize(maps, size, mode, antialias).flatten(2).transpose(1, 2)
    return torch.cat([head, positions.reshape(*head.shape[:-2], size[0] * size[1], -1)], dim=-2)


def resize(tensor: torch.Tensor, size: tuple[int, int], mode: str = "bicubic", antialias: bool = False) -> torch.Tensor:
    """`[N, C, h, w]` at another size: half-pixel centres, computed in float32; as it is where the size agrees."""
    if tuple(tensor.shape[-2:]) == tuple(size):
        return tensor
    resized = nn.functional.interpolate(tensor.float(), size=size, mode=mode, align_corners=False, antialias=antialias)
    return resized.to(tensor.dtype)
