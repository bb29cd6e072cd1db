# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Training with the paper's recipe."""

from ..utils.old_names import old_names
from .arguments import VFMSegTrainingArguments
from .augmentation import Augmentation
from .data import CropRequest, EvaluationImages, TrainingImages
from .joining import JoinedImages
from .recipes import RECIPES, Recipe, get_recipe
from .sampling import RareClassSampler, rare_class_probabilities
from .trainer import VFMSegTrainer


__all__ = [
    "RECIPES",
    "Augmentation",
    "CropRequest",
    "EvaluationImages",
    "JoinedImages",
    "RareClassSampler",
    "Recipe",
    "TrainingImages",
    "VFMSegTrainer",
    "VFMSegTrainingArguments",
    "get_recipe",
    "rare_class_probabilities",
]

__getattr__ = old_names(
    __name__,
    {
        "Draw": "CropRequest",
        "EvaluationPictures": "EvaluationImages",
        "TrainingPictures": "TrainingImages",
    },
)
