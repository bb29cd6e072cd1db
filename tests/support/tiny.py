# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""A four-block DINOv2 of width 32 with small heads and windows, as configurations have it, and a base for its LoRA."""

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


def give_base(model):
    """Random weights that say they are in a file, so that LoRA on them may train."""
    from vfmseg_hf.model.foundation import encoder_weights, fingerprint

    model.adapter_base, model.adapter_base_fingerprint = "base", fingerprint(encoder_weights(model), model.model.family)
    return model
