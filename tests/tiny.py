# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""A four-block DINOv2 of width 32 with small heads and windows, as configurations have it."""

BACKBONE = {
    "model_type": "dinov2",
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "patch_size": 16,
    "image_size": 64,
}
REFINER = {
    "refine_hidden_size": 128,
    "refine_num_layers": 1,
    "refine_num_attention_heads": 2,
    "refine_head_dim": 16,
    "coarse_size": 64,
    "window_size": 64,
    "window_stride": 40,
}
