# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""DINOv2 as the published code and its original repository name it; transformers' `Dinov2Model` runs it."""

from .base import PublishedEncoder, number_of_blocks, shape_of


_BLOCK = r"blocks\.(\d+)\."
_LAYER = r"encoder.layer.\1."
HEADS_OF_WIDTH = {384: 6, 768: 12, 1024: 16, 1536: 24}


class Dinov2(PublishedEncoder):
    """DINOv2 of all sizes; the original weights with registers become transformers' `Dinov2WithRegistersModel`."""

    model_type = "dinov2"
    rules = (
        (r"cls_token|mask_token|register_tokens", r"embeddings.\g<0>"),
        (r"pos_embed", "embeddings.position_embeddings"),
        (r"patch_embed\.proj\.(.+)", r"embeddings.patch_embeddings.projection.\1"),
        (_BLOCK + r"(norm[12]\..+)", _LAYER + r"\2"),
        (
            _BLOCK + r"attn\.qkv\.(.+)",
            tuple(_LAYER + rf"attention.{part}.\2" for part in ("q_proj", "k_proj", "v_proj")),
        ),
        (_BLOCK + r"attn\.proj\.(.+)", _LAYER + r"attention.o_proj.\2"),
        (_BLOCK + r"ls([12])\.gamma", _LAYER + r"layer_scale\2.lambda1"),
        (_BLOCK + r"mlp\.(fc[12]\..+)", _LAYER + r"mlp.\2"),
        (_BLOCK + r"mlp\.w12\.(.+)", tuple(_LAYER + rf"mlp.{part}.\2" for part in ("gate_proj", "up_proj"))),
        (_BLOCK + r"mlp\.w3\.(.+)", _LAYER + r"mlp.down_proj.\2"),
        (r"norm\.(.+)", r"layernorm.\1"),
    )

    def native_config(self, weights):
        width, _, patch_size, _ = shape_of(weights, "patch_embed.proj.weight", 4)
        gated = "blocks.0.mlp.w3.weight" in weights
        hidden = shape_of(weights, f"blocks.0.mlp.{'w3' if gated else 'fc2'}.weight", 2)[1]
        grid = round((shape_of(weights, "pos_embed", 3)[1] - 1) ** 0.5)
        settings = {
            "hidden_size": width,
            "num_hidden_layers": number_of_blocks(weights, _BLOCK),
            "num_attention_heads": HEADS_OF_WIDTH.get(width),
            "mlp_ratio": next((ratio for ratio in range(1, 9) if mlp_width(width, ratio, gated) == hidden), None),
            "use_swiglu_ffn": gated,
            "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
            "patch_size": patch_size,
            "image_size": grid * patch_size,
        }
        if "register_tokens" in weights:
            registers = shape_of(weights, "register_tokens", 3)[1]
            settings.update(model_type="dinov2_with_registers", num_register_tokens=registers)
        return settings


def mlp_width(width: int, ratio: int, gated: bool) -> int:
    """Hidden channels of a block's MLP; the gated one has two thirds, rounded up to a multiple of eight."""
    return (int(width * ratio * 2 / 3) + 7) // 8 * 8 if gated else width * ratio
