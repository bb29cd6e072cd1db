# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Augmentation of the recipe: resize, random crop, flip, photometric distortion. Labels stay labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ..model.configuration_vfmseg import nearest_multiple
from ..model.labels import IGNORE_INDEX


try:
    from torchvision.transforms.v2 import functional as tvF
except ImportError:
    tvF = None

CROP_STEP = 32  # two patches: training halves its images
CLASS_REDRAWS = 10  # of scale and crop, for one with enough pixels of the drawn class
SINGLE_CLASS_REDRAWS = 10  # of a crop, for one that is not of a single class


@dataclass(frozen=True)
class Augmentation:
    """
    What happens to a training image.

    Args:
        crop_size: (height, width) of the crop, in multiples of 32; smaller images are enlarged to it. One number is
            a square.
        resize: (height, width) before the crop, e.g. (1440, 2560) for GTAV, or one number for a square; `None` leaves
            the image's size.
        scale_range: the image is further scaled by a random factor from this range, or by this one number.
        cat_max_ratio: the crop is redrawn, up to ten times, while one class covers this share of what is labelled in
            it, or more; 1 takes every crop.
        flip_probability: of a horizontal flip.
        photometric: whether to distort brightness, contrast, saturation and hue, each with probability 1/2.
        restyle_probability: of [`restyle`], before that; 0 changes no other draw.

    Raises:
        `ValueError`: a value outside its range; the message names the field, and the nearest legal crop.
        `ImportError`: torchvision is not installed.
    """

    crop_size: tuple[int, int] | int = (1024, 1024)
    resize: tuple[int, int] | int | None = None
    scale_range: tuple[float, float] | float = (1.0, 1.0)
    cat_max_ratio: float = 0.75
    flip_probability: float = 0.5
    photometric: bool = True
    restyle_probability: float = 0.0

    def __post_init__(self):
        if tvF is None:
            raise ImportError("training needs torchvision for augmentation: pip install 'vfmseg-hf[train]'")
        for name in ("crop_size", "resize", "scale_range"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _pair(name, getattr(self, name)))
        if any(edge % CROP_STEP for edge in self.crop_size):
            nearest = tuple(nearest_multiple(edge, CROP_STEP) for edge in self.crop_size)
            raise ValueError(
                f"crop_size must be (height, width) in multiples of {CROP_STEP}, got {self.crop_size}; the nearest is "
                f"{nearest}"
            )
        if self.scale_range[0] > self.scale_range[1]:
            raise ValueError(f"scale_range must be (lowest, highest), got {self.scale_range}; turn it round")
        for name in ("cat_max_ratio", "flip_probability", "restyle_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be within [0, 1], got {getattr(self, name)}")

    def __call__(
        self,
        image: torch.Tensor,
        label: torch.Tensor,
        generator: torch.Generator,
        class_id: int | None = None,
        class_pixels: float = 0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            image (`torch.Tensor` of shape `(3, height, width)`): uint8.
            label (`torch.Tensor` of shape `(height, width)`): class ids; 255 is ignored.
            generator: everything random is drawn from it, so that a seed decides the result.
            class_id: scale and crop are redrawn, up to ten times, until the crop has more than `class_pixels` pixels
                of this class; the last one is taken as it is. `None`: nothing is redrawn for a class.
            class_pixels: at the size of the crop; no crop is redrawn where this is negative.

        Returns:
            Image as float32 in 0..1 `(3, *crop_size)`, and label map `(*crop_size)`.
        """
        # The label map alone decides about a crop: pixels of the image are resampled once, for the one that is taken.
        resized = label
        for _ in range(1 + CLASS_REDRAWS):
            size = self._draw_size(image.shape[-2:], generator)
            if size != tuple(resized.shape):
                resized = F.interpolate(label[None, None].float(), size=size, mode="nearest")[0, 0].to(label.dtype)
            top, left = self._draw_crop(resized, generator)
            window = (slice(top, top + self.crop_size[0]), slice(left, left + self.crop_size[1]))
            crop = resized[window]
            if class_id is None or int((crop == class_id).sum()) > class_pixels:
                break
        if size != tuple(image.shape[-2:]):
            image = tvF.resize(image, list(size), antialias=True)
        image, label = tvF.to_dtype(image[:, *window], torch.float32, scale=True), crop
        if _uniform(generator) < self.flip_probability:
            image, label = image.flip(-1), label.flip(-1)
        if self.restyle_probability and _uniform(generator) < self.restyle_probability:
            image = restyle(image, generator)
        if self.photometric:
            image = distort_colours(image, generator)
        return image, label

    def _draw_size(self, size: tuple[int, int], generator: torch.Generator) -> tuple[int, int]:
        """(height, width) that an image of `size` is resized to before the crop, never smaller than the crop."""
        height, width = self.resize or size
        low, high = self.scale_range
        scale = low + (high - low) * _uniform(generator)
        scale = max(scale, self.crop_size[0] / height, self.crop_size[1] / width)
        return max(round(height * scale), self.crop_size[0]), max(round(width * scale), self.crop_size[1])

    def _draw_crop(self, label: torch.Tensor, generator: torch.Generator) -> tuple[int, int]:
        for _ in range(1 + SINGLE_CLASS_REDRAWS):
            top, left = (
                int(torch.randint(edge - crop + 1, (), generator=generator))
                for edge, crop in zip(label.shape, self.crop_size, strict=True)
            )
            if self.cat_max_ratio >= 1:
                break
            crop = label[top : top + self.crop_size[0], left : left + self.crop_size[1]]
            counts = torch.bincount(crop.flatten(), minlength=IGNORE_INDEX + 1)  # far faster than sorting them
            counts[IGNORE_INDEX] = 0
            if (counts > 0).sum() > 1 and counts.max() < self.cat_max_ratio * counts.sum():
                break
        return top, left


def _pair(name: str, value: Sequence[float] | float) -> tuple:
    """Two numbers of one or two, as a field of [`Augmentation`] may be given."""
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    number, meaning = (float, "lowest highest") if name == "scale_range" else (int, "height width")
    if len(values) not in (1, 2) or not all(isinstance(v, (int, number)) and 0 < v < math.inf for v in values):
        raise ValueError(
            f"{name} takes {meaning.upper()} or one number for both, "
            f"{'' if number is float else 'whole numbers '}greater than 0; got {value!r}"
        )
    return values if len(values) == 2 else values * 2


def distort_colours(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """
    Photometric distortion in mmsegmentation's order: brightness, contrast (now or last), saturation, hue.

    Args:
        image (`torch.Tensor` of shape `(3, height, width)`): float32 in 0..1, and so is the result.
    """

    def factor(low: float, high: float) -> float | None:
        chosen, value = _uniform(generator) < 0.5, low + (high - low) * _uniform(generator)
        return value if chosen else None

    brightness, contrast = factor(-32 / 255, 32 / 255), factor(0.5, 1.5)
    saturation, hue = factor(0.5, 1.5), factor(-0.1, 0.1)
    contrast_first = _uniform(generator) < 0.5
    if brightness is not None:
        image = (image + brightness).clamp(0, 1)
    if contrast is not None and contrast_first:
        image = (image * contrast).clamp(0, 1)
    if saturation is not None:
        image = scale_saturation(image, saturation)
    if hue is not None:
        image = tvF.adjust_hue(image, hue)
    if contrast is not None and not contrast_first:
        image = (image * contrast).clamp(0, 1)
    return image


def restyle(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """
    Another camera, light and weather, as far as statistics of colours go: every channel gets a mean and a deviation
    drawn anew, from those that photographs have, and is mixed with what it was by a share drawn for the image.

    Args:
        image (`torch.Tensor` of shape `(3, height, width)`): float32 in 0..1, and so is the result.
    """
    deviation, mean = torch.std_mean(image, dim=(1, 2), keepdim=True)
    share, drawn = _uniform(generator), torch.rand(2, 3, 1, 1, generator=generator)
    new_mean, new_deviation = 0.15 + 0.6 * drawn[0], 0.1 + 0.2 * drawn[1]
    styled = (image - mean) / deviation.clamp(min=0.01) * new_deviation + new_mean
    return torch.lerp(image, styled, share).clamp_(0, 1)


def scale_saturation(image: torch.Tensor, factor: float) -> torch.Tensor:
    """
    S of HSV times a factor, at most 1, as mmsegmentation does it. (torchvision mixes with grey, which changes V.)

    With V and H fixed, every channel keeps its share of the distance to V, and that distance is proportional to S.

    Args:
        image (`torch.Tensor` of shape `(3, height, width)`): 0..1, and so is the result.
    """
    red, green, blue = image  # amax over the channels would take several times longer
    value, lowest = red.maximum(green).maximum(blue), red.minimum(green).minimum(blue)
    inverse = value / (value - lowest).clamp_(min=torch.finfo(image.dtype).tiny)  # 1 / S, the highest possible factor
    return (image - value).mul_(inverse.clamp_(max=factor)).add_(value).clamp_(min=0)


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))
