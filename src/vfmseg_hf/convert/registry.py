# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The encoders of the published code that the converter knows."""

from .base import PublishedEncoder
from .clip import Clip
from .dinov2 import Dinov2
from .eva02 import Eva02
from .sam import Sam


PUBLISHED_ENCODERS: dict[str, PublishedEncoder] = {"dinov2": Dinov2(), "clip": Clip(), "sam": Sam(), "eva02": Eva02()}


def get_published_encoder(backbone: str) -> PublishedEncoder:
    """
    The table entry of a published encoder.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if backbone not in PUBLISHED_ENCODERS:
        raise ValueError(f"unknown backbone {backbone!r}; the converter knows {sorted(PUBLISHED_ENCODERS)}")
    return PUBLISHED_ENCODERS[backbone]
