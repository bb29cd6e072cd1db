# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The vision encoders of CLIP, SigLIP and SigLIP2."""

import copy

import torch

from .encoder_base import EncoderFamily, resize, resize_positions


class ClipFamily(EncoderFamily):
    """transformers' `CLIPVisionModel`."""

    # The published out_proj, c_fc and c_proj under transformers' names.
    lora_targets = ("out_proj", "fc1", "fc2")
    patch_kernel = "embeddings.patch_embedding.weight"
    position_table = "embeddings.position_embedding.weight"
    position_interpolations = ("size", "bilinear")
    unused = ("post_layernorm.",)

    def blocks(self, encoder):
        return encoder.encoder.layers

    def embed(self, encoder, pixel_values, position_interpolation):
        embeddings = encoder.embeddings
        if position_interpolation == "size":
            tokens = embeddings(pixel_values, interpolate_pos_encoding=True)
        else:
            maps = embeddings.patch_embedding(pixel_values.to(embeddings.patch_embedding.weight.dtype))
            class_token = embeddings.class_embedding.expand(maps.shape[0], 1, -1)
            tokens = torch.cat([class_token, maps.flatten(2).transpose(1, 2)], dim=1)
            tokens = tokens + resize_positions(embeddings.position_embedding.weight, 1, maps.shape[-2:], "bilinear")
        return encoder.pre_layrnorm(tokens), {"attention_mask": None}


class SiglipFamily(EncoderFamily):
    """transformers' `SiglipVisionModel`: SigLIP, and SigLIP2 in the checkpoints of one fixed image size."""

    # As in DINOv2, the paper's default: no targets are published for SigLIP.
    lora_targets = ("q_proj", "k_proj", "v_proj")
    patch_kernel = "embeddings.patch_embedding.weight"
    position_table = "embeddings.position_embedding.weight"

    def num_prefix_tokens(self, config):
        return 0

    def image_mean(self, config):
        return [0.5, 0.5, 0.5]

    def image_std(self, config):
        return [0.5, 0.5, 0.5]

    def encoder_config(self, config):
        if not config.vision_use_head:
            return config
        config = copy.deepcopy(config)
        config.vision_use_head = False
        return config

    def blocks(self, encoder):
        return encoder.encoder.layers

    def embed(self, encoder, pixel_values, position_interpolation):
        return encoder.embeddings(pixel_values, interpolate_pos_encoding=True), {"attention_mask": None}


class Siglip2Family(SiglipFamily):
    """
    transformers' `Siglip2VisionModel`: the NaFlex checkpoints of SigLIP2, which take any aspect ratio.

    Their patch embedding is a linear layer on the values of a patch, and their position grid keeps its size: it is
    resized to every image, bilinearly with antialiasing as in pretraining.
    """

    def adapted_config(self, native, patch_size):
        return type(native).from_dict({**native.to_dict(), "patch_size": patch_size})

    def embed(self, encoder, pixel_values, position_interpolation):
        embeddings, patch = encoder.embeddings, self.patch_size(encoder.config)
        rows, columns = pixel_values.shape[-2] // patch, pixel_values.shape[-1] // patch
        # [B, 3, rows * p, columns * p] as [B, rows * columns, p * p * 3]: the colours of a pixel are neighbours.
        pieces = pixel_values.unflatten(2, (rows, patch)).unflatten(4, (columns, patch))
        pieces = pieces.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        tokens = embeddings.patch_embedding(pieces.to(embeddings.patch_embedding.weight.dtype))
        positions = resize_positions(embeddings.position_embedding.weight, 0, (rows, columns), "bilinear", True)
        return tokens + positions, {"attention_mask": None}

    def resample(self, state_dict, config, position_interpolation="size"):
        patch = self.patch_size(config)
        weight = state_dict[self.patch_kernel]
        edge = round((weight.shape[1] / config.num_channels) ** 0.5)
        kernel = resize(weight.unflatten(1, (edge, edge, -1)).permute(0, 3, 1, 2), (patch, patch))
        return {**state_dict, self.patch_kernel: kernel.permute(0, 2, 3, 1).flatten(1)}
