# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Maps at 1/4, 1/8, 1/16 and 1/32 of an image, which decoders made for pyramids need, from the equal ones of a ViT."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


FACTORS = (4.0, 2.0, 1.0, 0.5)  # of the encoder's maps, which are at 1/16


def resize_to_pyramid(feature_maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Four maps `[B, C, h, w]`, resized bilinearly with half-pixel centres by [`FACTORS`], in this order."""
    return tuple(
        maps
        if factor == 1
        else F.interpolate(maps, size=[max(1, int(side * factor)) for side in maps.shape[-2:]], mode="bilinear")
        for maps, factor in zip(feature_maps, FACTORS, strict=True)
    )


class TrainedPyramid(nn.Module):
    """The same scales by layers that train, as Rein has them on CLIP: maps `[B, C, h, w]` to four of the pyramid."""

    def __init__(self, channels: int):
        super().__init__()

        def norm() -> nn.GroupNorm:
            return nn.GroupNorm(1, channels)

        def twice() -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(channels, channels, 2, stride=2)

        self.quarter = nn.Sequential(norm(), twice(), nn.BatchNorm2d(channels), nn.GELU(), twice())
        self.eighth = nn.Sequential(norm(), twice())
        self.sixteenth = norm()
        self.thirty_second = nn.Sequential(norm(), nn.MaxPool2d(2))

    def forward(self, feature_maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        layers = (self.quarter, self.eighth, self.sixteenth, self.thirty_second)
        return tuple(layer(maps) for layer, maps in zip(layers, feature_maps, strict=True))
