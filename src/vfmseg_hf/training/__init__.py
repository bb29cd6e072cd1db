# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Training with the paper's recipe."""

from .arguments import VFMSegTrainingArguments
from .augmentation import Augmentation
from .data import Draw, EvaluationPictures, TrainingPictures
from .sampling import RareClassSampler, rare_class_probabilities
from .trainer import VFMSegTrainer


__all__ = [
    "Augmentation",
    "Draw",
    "EvaluationPictures",
    "RareClassSampler",
    "TrainingPictures",
    "VFMSegTrainer",
    "VFMSegTrainingArguments",
    "rare_class_probabilities",
]
