# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The vision encoder of SAM."""

import torch
from torch import nn

from .encoder_base import EncoderFamily, resize


class SamFamily(EncoderFamily):
    """
    transformers' `SamVisionModel`.

    Its hidden states are maps `[B, rows, columns, C]` without prefix tokens. The position grid keeps its size (64 x 64)
    and is resized bicubically to every image; the library does the same, linearly, to the tables of relative
    positions. At 512 x 512 that equals the published conversion, which resizes the grid once.

    Which attention runs is decided when the model is built.
    """

    lora_targets = ("qkv",)
    patch_kernel = "vision_encoder.patch_embed.projection.weight"
    position_table = "vision_encoder.pos_embed"
    fixed_attentions = ("eager", "sdpa")
    unused = ("vision_encoder.neck.",)

    def num_prefix_tokens(self, config):
        return 0

    def adapted_config(self, native, patch_size):
        settings = {**native.to_dict(), "patch_size": patch_size, "image_size": self.grid(native) * patch_size}
        return type(native).from_dict(settings)

    def input_embeddings(self, encoder):
        return encoder.vision_encoder.patch_embed.projection

    def blocks(self, encoder):
        return encoder.vision_encoder.layers

    def embed(self, encoder, pixel_values, position_interpolation):
        encoder = encoder.vision_encoder
        # Around the patch embedding's own forward, which takes one image size only.
        projection = encoder.patch_embed.projection
        maps = projection(pixel_values.to(projection.weight.dtype))
        if encoder.pos_embed is not None:
            maps = maps + resize(encoder.pos_embed.permute(0, 3, 1, 2), maps.shape[-2:])
        return maps.permute(0, 2, 3, 1), {}

    def to_feature_map(self, hidden_states, config, rows, columns):
        return hidden_states.permute(0, 3, 1, 2)

    def resampled_keys(self, keys):
        keys = set(keys)
        return super().resampled_keys(keys) | {key for key in keys if is_relative_table(key)}

    def resample(self, state_dict, config, position_interpolation="size"):
        patch, grid = self.patch_size(config), self.grid(config)
        resampled = {self.patch_kernel: resize(state_dict[self.patch_kernel], (patch, patch))}
        if self.position_table in state_dict:
            positions = resize(state_dict[self.position_table].permute(0, 3, 1, 2), (grid, grid))
            resampled[self.position_table] = positions.permute(0, 2, 3, 1).contiguous()
        for key in filter(is_relative_table, state_dict):
            block = int(key.removeprefix("vision_encoder.layers.").split(".")[0])
            edge = grid if block in config.global_attn_indexes else config.window_size
            resampled[key] = resize_relative_table(state_dict[key], 2 * edge - 1)
        return {**state_dict, **resampled}


def is_relative_table(key: str) -> bool:
    """Whether this names a table `[2 * edge - 1, head_dim]` of positions of a key relative to a query."""
    return key.endswith((".attn.rel_pos_h", ".attn.rel_pos_w"))


def resize_relative_table(table: torch.Tensor, rows: int) -> torch.Tensor:
    """A table `[n, head_dim]` with another number of rows: linear, half-pixel centres, as the library does it."""
    if len(table) == rows:
        return table
    resized = nn.functional.interpolate(table.float().T[None], size=rows, mode="linear", align_corners=False)
    return resized[0].T.to(table.dtype).contiguous()
