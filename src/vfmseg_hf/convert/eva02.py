# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""EVA02 as the published code and its original repository name it; timm's `Eva` runs it in transformers' wrapper."""

from ..model.encoders import get_encoder_family
from .base import PublishedEncoder, number_of_blocks, shape_of


_BLOCK = r"blocks\.(\d+)\."
_LAYER = r"timm_model.blocks.\1."
HEAD_DIM = 64  # of every EVA02 model
CLIP_PREFIX = "visual."


class Eva02(PublishedEncoder):
    model_type = "timm_wrapper"
    rules = (
        (r"cls_token|pos_embed|patch_embed\.proj\..+", r"timm_model.\g<0>"),
        (_BLOCK + r"(norm[12]\..+|attn\.(?:[qkv]_)?proj\..+)", _LAYER + r"\2"),
        (_BLOCK + r"attn\.([qv])_bias", _LAYER + r"attn.\2_proj.bias"),
        (_BLOCK + r"attn\.inner_attn_ln\.(.+)", _LAYER + r"attn.norm.\2"),
        (_BLOCK + r"mlp\.w1\.(.+)", _LAYER + r"mlp.fc1_g.\2"),
        (_BLOCK + r"mlp\.w2\.(.+)", _LAYER + r"mlp.fc1_x.\2"),
        (_BLOCK + r"mlp\.w3\.(.+)", _LAYER + r"mlp.fc2.\2"),
        (_BLOCK + r"mlp\.ffn_ln\.(.+)", _LAYER + r"mlp.norm.\2"),
    )
    dropped = (
        (r"(?:.+\.)?rope\.freqs_(?:cos|sin)", "the rotary table of one image size; it is computed for each image"),
        (
            r".+\.attn\.[qkv]_proj\.lora_[AB]\..+",
            "without effect in the published code: its attention reads the wrapped weight and passes the adapter by",
        ),
    )
    raw_dropped = (
        *dropped,
        (
            r"(?:visual\.)?(?:norm|fc_norm|head|lm_head)\..+",
            "follows the last block; feature maps are taken before it",
        ),
        (r"(?:visual\.)?mask_token", "only masked image modelling uses it"),
        (r"text\..+", "the text encoder"),
        (r"logit_scale", "temperature of the comparison of images with texts"),
    )
    # The published code asks for 1e-6 but does not hand it on to its layer norms.
    backbone_options = {"layer_norm_eps": 1e-5}

    def raw_prefix_of(self, keys):
        """The files of EVA02-CLIP hold a text encoder as well, those of masked image modelling nothing else."""
        return CLIP_PREFIX if any(key.startswith(CLIP_PREFIX) for key in keys) else self.raw_prefix

    def native_config(self, weights):
        if "blocks.0.attn.qkv.weight" in weights:
            raise ValueError(
                "these are weights with one layer for q, k and v (EVA02 tiny, small or enormous), on which LoRA would "
                "have no effect; the base and large models are supported"
            )
        width, _, patch_size, _ = shape_of(weights, "patch_embed.proj.weight", 4)
        size = "large_patch14" if width == 1024 else "base_patch14"
        if "blocks.0.attn.inner_attn_ln.weight" in weights:
            size = "large_patch14_clip" if width == 1024 else "base_patch16_clip"
        head_dim = shape_of(weights, "rope.freqs_cos", 2)[1] if "rope.freqs_cos" in weights else HEAD_DIM
        return {
            "architecture": f"eva02_{size}_224",
            "model_args": {
                "embed_dim": width,
                "depth": number_of_blocks(weights, _BLOCK),
                "num_heads": width // head_dim,
                "patch_size": patch_size,
                "img_size": round((shape_of(weights, "pos_embed", 3)[1] - 1) ** 0.5) * patch_size,
            },
            "num_labels": 0,
        }

    def native_model(self, config):
        return get_encoder_family(config).build(config)
