# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""CLIP's image encoder as the published code and OpenAI's name it; transformers' `CLIPVisionModel` runs it."""

from .base import PublishedEncoder, number_of_blocks, shape_of


_BLOCK = r"transformer\.resblocks\.(\d+)\."
_LAYER = r"encoder.layers.\1."
HEADS_OF_WIDTH = {768: 12, 1024: 16}


class Clip(PublishedEncoder):
    """CLIP's vision transformers: B/32, B/16, L/14."""

    model_type = "clip_vision_model"
    rules = (
        (r"class_embedding", "embeddings.class_embedding"),
        (r"positional_embedding", "embeddings.position_embedding.weight"),
        (r"conv1\.weight", "embeddings.patch_embedding.weight"),
        (r"ln_pre\.(.+)", r"pre_layrnorm.\1"),
        (r"ln_post\.(.+)", r"post_layernorm.\1"),
        (_BLOCK + r"ln_([12])\.(.+)", _LAYER + r"layer_norm\2.\3"),
        (
            _BLOCK + r"attn\.in_proj_(weight|bias)",
            tuple(_LAYER + rf"self_attn.{part}.\2" for part in ("q_proj", "k_proj", "v_proj")),
        ),
        (_BLOCK + r"attn\.out_proj\.(.+)", _LAYER + r"self_attn.out_proj.\2"),
        (_BLOCK + r"mlp\.c_fc\.(.+)", _LAYER + r"mlp.fc1.\2"),
        (_BLOCK + r"mlp\.c_proj\.(.+)", _LAYER + r"mlp.fc2.\2"),
    )
    dropped = (
        (r"fpn\d\..+", "a feature pyramid that the published model holds but never runs"),
        (r"proj", "projection to the space that images share with texts"),
        (
            r".+\.attn\.out_proj\.lora_[AB]\..+",
            "without effect in the published code: its attention reads the wrapped weight and passes the adapter by",
        ),
    )
    no_named_base = (
        "the published code adds CLIP's class vector twice, so the weights under the adapter hold it doubled and are "
        "those of no original CLIP"
    )

    raw_prefix = "visual."
    raw_dropped = (
        (r"(transformer|token_embedding|ln_final)\..+|positional_embedding|text_projection", "the text encoder"),
        (r"logit_scale", "temperature of the comparison of images with texts"),
        (r"input_resolution|context_length|vocab_size", "a setting, not a weight"),
    )

    def adopt_habits(self, weights, config):
        """The published code adds the class vector once when it joins the tokens and once more with the positions."""
        key = "embeddings.class_embedding"
        return {name: 2 * tensor if name == key else tensor for name, tensor in weights.items()}

    def native_config(self, weights):
        width, _, patch_size, _ = shape_of(weights, "conv1.weight", 4)
        grid = round((shape_of(weights, "positional_embedding", 2)[0] - 1) ** 0.5)
        return {
            "hidden_size": width,
            "num_hidden_layers": number_of_blocks(weights, _BLOCK),
            "num_attention_heads": HEADS_OF_WIDTH.get(width),
            "intermediate_size": shape_of(weights, "transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
            "projection_dim": shape_of(weights, "proj", 2)[1],
            "patch_size": patch_size,
            "image_size": grid * patch_size,
        }
