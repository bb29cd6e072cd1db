# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""
EoMT (Kerssies et al. 2025), transformers' own model, on the weights of a DINOv2: the encoder itself is the decoder of
masks, by queries that join its tokens in the last blocks.
"""

import math
from collections.abc import Mapping

import torch
from transformers import EomtConfig, EomtForUniversalSegmentation
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from ..model.encoders import get_encoder_family
from ..model.foundation import load_foundation
from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from .masks import needs_scipy


logger = logging.get_logger(__name__)

ENCODERS = ("dinov2", "dinov2_with_registers")
BLOCKS = {12: 3, 24: 4, 40: 5}  # by the encoder's depth, how many of its blocks the authors give to the queries
QUERIES = 100  # the authors' for semantic segmentation
POWER = 0.9  # of the annealing


def check_square(size: int | list[int] | tuple[int, ...], patch_size: int) -> int:
    """
    The edge of the squares that an EoMT sees, of which it knows one size only.

    Args:
        size: height and width of the training crops, or one number for both.

    Raises:
        ValueError: the crops are no squares of whole patches.
    """
    edges = [size] if isinstance(size, int) else list(size)
    if min(edges) != max(edges) or edges[0] % patch_size or edges[0] < patch_size:
        nearest = max(1, round(min(edges) / patch_size)) * patch_size
        raise ValueError(
            f"an EoMT sees squares of whole patches, of one size; --crop_size {' '.join(map(str, edges))} must be one "
            f"number, and a multiple of {patch_size}, e.g. {nearest}"
        )
    return edges[0]


def eomt_config(
    encoder: PreTrainedConfig,
    image_size: int,
    patch_size: int = 16,
    id2label: Mapping[int, str] | None = None,
    **fields: object,
) -> EomtConfig:
    """
    The configuration of an EoMT that has all that an encoder has, and its authors' numbers for the rest.

    Args:
        encoder: of a DINOv2, with or without registers.
        image_size: edge of the squares that it sees, in pixels.
        patch_size: in pixels.
        id2label: names of the classes.
        fields: of `EomtConfig`, instead of the authors'.

    Raises:
        ValueError: for other encoders, sizes as [`check_square`], and fields that are none or belong to the encoder.
    """
    if encoder.model_type not in ENCODERS:
        raise ValueError(
            f"--method eomt is made of a DINOv2, and the foundation model is a {encoder.model_type}; choose one of "
            f"{', '.join(ENCODERS)}"
        )
    if not encoder.qkv_bias:
        raise ValueError("--method eomt needs an encoder with biases in q, k and v, which this DINOv2 has not")
    own = {
        "hidden_size": encoder.hidden_size,
        "num_hidden_layers": encoder.num_hidden_layers,
        "num_attention_heads": encoder.num_attention_heads,
        "hidden_act": encoder.hidden_act,
        "hidden_dropout_prob": encoder.hidden_dropout_prob,
        "attention_dropout": encoder.attention_probs_dropout_prob,
        "layer_norm_eps": encoder.layer_norm_eps,
        "mlp_ratio": encoder.mlp_ratio,
        "layerscale_value": encoder.layerscale_value,
        "drop_path_rate": encoder.drop_path_rate,
        "use_swiglu_ffn": encoder.use_swiglu_ffn,
        "num_register_tokens": getattr(encoder, "num_register_tokens", 0),
        "image_size": check_square(image_size, patch_size),
        "patch_size": patch_size,
    }
    known = set(EomtConfig.__annotations__) - set(own) - {"model_type"}
    if unknown := sorted(set(fields) - known):
        raise ValueError(f"--method eomt has no {unknown[0]}; leave it out")
    depth = encoder.num_hidden_layers
    usual = {
        "num_blocks": min(depth, next((n for blocks, n in BLOCKS.items() if depth <= blocks), max(BLOCKS.values()))),
        "num_queries": QUERIES,
        "num_upscale_blocks": max(1, int(math.log2(patch_size)) - 2),  # masks at a quarter of the image
    }
    classes = {}
    if id2label is not None:
        classes = {"id2label": dict(id2label), "label2id": {name: index for index, name in id2label.items()}}
    config = EomtConfig(**own, **{**usual, **fields}, **classes)
    if not 0 < config.num_blocks <= depth:
        raise ValueError(f"num_blocks must be in 1..{depth}, the encoder's blocks, got {config.num_blocks}")
    return config


def start_eomt(name_or_path: str | None, encoder: PreTrainedConfig, config: EomtConfig) -> EomtForUniversalSegmentation:
    """
    An EoMT whose encoder has the weights of a DINOv2, and whose queries and heads are new.

    The patch kernel and the grid of positions are resampled as for all models of this library, the class token has its
    position added, as there is none for it in an EoMT, and the mask token stays behind.

    Args:
        name_or_path: Hub id or directory of the DINOv2; None for random weights.
        encoder: its configuration.
        config: from [`eomt_config`].

    Raises:
        ImportError: without scipy, which its loss needs.
        ValueError: as `load_foundation`.
    """
    with needs_scipy("EoMT"):
        model = EomtForUniversalSegmentation(config)
    if name_or_path is None:
        return model
    foundation = load_foundation(VFMSegForSemanticSegmentation, name_or_path, {})
    seen = {"image_size": config.image_size, "patch_size": config.patch_size}
    target = type(encoder).from_dict({**foundation.config.to_dict(), **seen})
    weights = get_encoder_family(target).resample(foundation.weights, target)
    missing, unexpected = model.load_state_dict(eomt_weights(weights), strict=False)
    if unexpected or any(name.startswith(("embeddings.", "layers.", "layernorm.")) for name in missing):
        raise ValueError(
            f"the weights in {name_or_path!r} do not fit an EoMT; missing: {missing[:3]}, unexpected: {unexpected[:3]}"
        )
    model.name_or_path = model.config.name_or_path = name_or_path
    return model


def eomt_weights(dinov2: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A DINOv2's state dict under the names of an EoMT; positions `[1, 1 + patches, C]` become those of the patches."""
    weights = {}
    for name, tensor in dinov2.items():
        if name.endswith("mask_token"):
            continue
        name = name.replace("encoder.layer.", "layers.").replace(".o_proj.", ".out_proj.")
        weights[name] = tensor.float()
    positions = weights.pop("embeddings.position_embeddings")
    weights["embeddings.cls_token"] = weights["embeddings.cls_token"] + positions[:, :1]
    weights["embeddings.position_embeddings.weight"] = positions[0, 1:]
    # A plain DINOv2 has no registers, which is a parameter without numbers in an EoMT.
    weights.setdefault("embeddings.register_tokens", positions.new_zeros(1, 0, positions.shape[-1]))
    return weights


def mask_probabilities(step: int, total: int, num_blocks: int) -> list[float]:
    """
    How often the attention of a query is masked, of each block that has queries, when `step` of `total` are made.

    A block's probability is 1, goes to 0 over a sixth of the training as (1 - progress)^0.9, and stays there. The first
    block begins after a sixth of it, the last after four, and those between at equal distances. In the authors' code
    (tue-mps/eomt, configs/dinov2) these are steps of each configuration: with 4 blocks the sixths follow each other,
    with 3 there are pauses, with 5 they overlap.
    """
    duration = total / 6
    probabilities = []
    for block in range(num_blocks):
        start = duration * (1 + 3 * block / max(1, num_blocks - 1))
        progress = min(max((step - start) / duration, 0.0), 1.0)
        probabilities.append((1 - progress) ** POWER)
    return probabilities
