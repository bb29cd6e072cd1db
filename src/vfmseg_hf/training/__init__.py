# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Training with the paper's recipe."""

from .arguments import VFMSegTrainingArguments
from .augmentation import Augmentation
from .data import EvaluationPictures, TrainingPictures
from .trainer import VFMSegTrainer


__all__ = ["Augmentation", "EvaluationPictures", "TrainingPictures", "VFMSegTrainer", "VFMSegTrainingArguments"]
