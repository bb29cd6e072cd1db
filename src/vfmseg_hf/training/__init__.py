# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Training with the paper's recipe."""

from .arguments import VFMSegTrainingArguments
from .augmentation import Augmentation
from .data import CropRequest, EvaluationPictures, TrainingPictures
from .recipes import RECIPES, Recipe, get_recipe
from .sampling import RareClassSampler, rare_class_probabilities
from .trainer import VFMSegTrainer


__all__ = [
    "RECIPES",
    "Augmentation",
    "CropRequest",
    "EvaluationPictures",
    "RareClassSampler",
    "Recipe",
    "TrainingPictures",
    "VFMSegTrainer",
    "VFMSegTrainingArguments",
    "get_recipe",
    "rare_class_probabilities",
]
