# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Size of a quickstart run, and of its model."""

from dataclasses import dataclass

from ..model.configuration_vfmseg import VFMSegConfig


@dataclass(frozen=True)
class QuickstartSettings:
    """
    Size of the run; the defaults take about four minutes on two CPU cores.

    Args:
        seed: of the weights, the order and the augmentation. The images are the same for every seed.
        height, width: of all images, multiples of 32.
        train_images: how many images of the source there are to train on.
        test_images: how many images of each domain are scored; the same scenes in all of them.
        steps: optimizer steps.
        batch_size: crops per step.
        learning_rate: of encoder and heads alike: nothing in a random encoder has to be preserved.

    Raises:
        ValueError: on a number that is out of range.
    """

    seed: int = 0
    height: int = 256
    width: int = 512
    train_images: int = 200
    test_images: int = 20
    steps: int = 1100
    batch_size: int = 8
    learning_rate: float = 3e-3

    def __post_init__(self):
        for name, value in vars(self).items():
            if value < (0 if name == "seed" else 1) and name != "learning_rate":
                raise ValueError(f"{name} must be a positive whole number, got {value}")
        for name in ("height", "width"):
            if getattr(self, name) % 32:
                raise ValueError(f"{name} must be a multiple of 32, got {getattr(self, name)}")


def quickstart_config() -> VFMSegConfig:
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
        # A short training from random weights underfits; dropout would only slow it down.
        refine_dropout=0.0,
        head_dropout=0.0,
        coarse_size=128,
        window_size=128,
        window_stride=80,
        confidence_threshold=0.8,
        certainty_threshold=0.9,
        window_batch_size=8,
    )
