# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""SAM's image encoder as the published code and its original repository name it; `SamVisionModel` runs it."""

from ..model.encoder_sam import is_relative_table, resize_relative_table
from .base import PublishedEncoder, number_of_blocks, shape_of


_BLOCK = r"blocks\.(\d+)\."
_LAYER = r"vision_encoder.layers.\1."


class Sam(PublishedEncoder):
    """SAM's image encoder: B, L, H."""

    model_type = "sam_vision_model"
    rules = (
        (r"pos_embed", r"vision_encoder.pos_embed"),
        (r"patch_embed\.proj\.(.+)", r"vision_encoder.patch_embed.projection.\1"),
        (_BLOCK + r"norm([12])\.(.+)", _LAYER + r"layer_norm\2.\3"),
        (_BLOCK + r"attn\.((?:qkv|proj)\..+|rel_pos_[hw])", _LAYER + r"attn.\2"),
        (_BLOCK + r"mlp\.(lin[12]\..+)", _LAYER + r"mlp.\2"),
        *(
            (rf"neck\.{index}\.(.+)", rf"vision_encoder.neck.{name}.\1")
            for index, name in enumerate(("conv1", "layer_norm1", "conv2", "layer_norm2"))
        ),
    )
    raw_prefix = "image_encoder."
    raw_dropped = ((r"(prompt_encoder|mask_decoder)\..+|pixel_(mean|std)", "not part of the image encoder"),)

    def adopt_habits(self, weights, config):
        """
        The tables of relative positions at the size of the configuration's grid.

        The published model keeps those of its global blocks at twice the resolution, `[4 * grid - 1, head_dim]`, and
        resizes them linearly in every call.
        """
        grid, resized = config.image_size // config.patch_size, {}
        for key, tensor in weights.items():
            # A table of a window's size would be one that the configuration takes for a global block by mistake.
            if is_relative_table(key) and len(tensor) != 2 * config.window_size - 1:
                tensor = resize_relative_table(tensor, 2 * grid - 1)
            resized[key] = tensor
        return resized

    def native_config(self, weights):
        width, _, patch_size, _ = shape_of(weights, "patch_embed.proj.weight", 4)
        depth, grid = number_of_blocks(weights, _BLOCK), shape_of(weights, "pos_embed", 4)[1]
        rows = [shape_of(weights, f"blocks.{block}.attn.rel_pos_h", 2)[0] for block in range(depth)]
        # A table has 2n - 1 rows for n positions, so it tells global blocks from windows, unless all are alike.
        edges = [(count + 1) // 2 for count in rows]
        windows = set(edges) - {grid}
        return {
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": width // shape_of(weights, "blocks.0.attn.rel_pos_h", 2)[1],
            "mlp_dim": shape_of(weights, "blocks.0.mlp.lin1.weight", 2)[0],
            "output_channels": shape_of(weights, "neck.0.weight", 4)[0],
            "patch_size": patch_size,
            "image_size": grid * patch_size,
            "window_size": min(windows) if len(windows) == 1 else None,
            "global_attn_indexes": [n for n, edge in enumerate(edges) if edge == grid] if windows else None,
        }
