# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Size of a quickstart run, on a foundation model and on random weights, and the models of both."""

import os
from dataclasses import dataclass

import numpy as np

from ..model.adapters import lora_config
from ..model.configuration_vfmseg import VFMSegConfig
from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation


RAREST = 1e-4  # share of the pixels; what is rarer weighs no more


@dataclass(frozen=True)
class QuickstartSettings:
    """
    Size of the run. The defaults are those of the toy from random weights: about four minutes on two CPU cores.

    Args:
        seed: of the weights, the order and the augmentation. The images are the same for every seed.
        height, width: of all images; enlarged, they are multiples of 32.
        version: of the streets that are drawn.
        train_images: how many images of the source there are to train on.
        test_images: how many images of each domain are scored; the same scenes in all of them.
        enlarge: so many times larger the model sees the images, for things that are thinner than a patch.
        window_size, window_stride: of the refinement, in pixels of the enlarged image; the coarse pass has this size
            as well.
        steps: optimizer steps.
        batch_size: crops per step.
        learning_rate: of the heads.
        encoder_learning_rate: of the encoder or its LoRA.
        rare_class_power: classes weigh in the loss by their share of the pixels to the power of minus this.
        rare_class_sampling: whether images and crops with rare classes are drawn more often.

    Raises:
        ValueError: on a number that is out of range.
    """

    seed: int = 0
    height: int = 256
    width: int = 512
    version: int = 1
    train_images: int = 200
    test_images: int = 20
    enlarge: float = 1.0
    window_size: int = 128
    window_stride: int = 80
    steps: int = 1100
    batch_size: int = 8
    learning_rate: float = 3e-3
    encoder_learning_rate: float = 3e-3
    rare_class_power: float = 0.0
    rare_class_sampling: bool = False

    def __post_init__(self):
        for name, value in vars(self).items():
            if type(value) is int and value < (0 if name == "seed" else 1):
                raise ValueError(f"{name} must be a positive whole number, got {value}")
        if self.enlarge <= 0:
            raise ValueError(f"enlarge must be positive, got {self.enlarge}")
        for name, edge in zip(("height", "width"), self.size, strict=True):
            if edge % 32:
                raise ValueError(f"{name} must be a multiple of 32 as the model sees it, got {edge}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image as the model sees it."""
        return round(self.height * self.enlarge), round(self.width * self.enlarge)


TOY = QuickstartSettings()
FOUNDATION = QuickstartSettings(
    version=2,
    enlarge=2.0,
    window_size=256,
    window_stride=192,
    steps=300,
    batch_size=2,
    learning_rate=1e-3,
    encoder_learning_rate=1e-3,
    rare_class_power=0.5,
    rare_class_sampling=True,
)


def make_model(settings: QuickstartSettings, encoder: str | os.PathLike | None) -> VFMSegForSemanticSegmentation:
    """
    What is trained: new heads, and LoRA on a foundation model, or all of a toy of random weights.

    Args:
        encoder: directory of the foundation model; `None` for the toy.
    """
    if encoder is None:
        return VFMSegForSemanticSegmentation(toy_config(settings))
    model = load_frozen(settings, encoder)
    model.add_adapter(lora_config(model.config, lora_dropout=0.0))
    return model


def rare_class_weights(class_pixels: np.ndarray, power: float) -> list[float]:
    """
    Weights of the classes in the loss: their share of the pixels to the power of `-power`, 1 in the mean of all pixels.

    Args:
        class_pixels: how many pixels of each class there are `[K]`; a class without any has the weight 0.
    """
    shares = class_pixels / class_pixels.sum()
    weights = np.where(shares > 0, np.maximum(shares, RAREST) ** -power, 0.0)
    return (weights / (weights * shares).sum()).tolist()


def load_frozen(settings: QuickstartSettings, encoder: str | os.PathLike) -> VFMSegForSemanticSegmentation:
    """New heads on a foundation model, as it is."""
    return VFMSegForSemanticSegmentation.from_backbone(os.fspath(encoder), **short_training_fields(settings))


def short_training_fields(settings: QuickstartSettings) -> dict[str, float]:
    """Fields of the configuration; a short training underfits, and dropout would only slow it down."""
    size = settings.window_size
    return {
        "head_dropout": 0.0,
        "refine_dropout": 0.0,
        "coarse_size": size,
        "window_size": size,
        "window_stride": settings.window_stride,
        "window_batch_size": 8,
    }


def toy_config(settings: QuickstartSettings) -> VFMSegConfig:
    """A VFMSeg of 1.3 million random weights, with window sizes for images of 256 x 512."""
    return VFMSegConfig(
        backbone_config={
            "model_type": "dinov2",
            "hidden_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "patch_size": 16,
            "image_size": 128,
            "initializer_range": 0.05,
        },
        refine_hidden_size=128,
        refine_num_layers=2,
        refine_num_attention_heads=4,
        refine_head_dim=32,
        confidence_threshold=0.8,
        certainty_threshold=0.9,
        **short_training_fields(settings),
    )
