# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Driving-scene datasets as `datasets.Dataset`, all with the same columns and the same ids."""

from ..evaluation.classes import ClassMap, ClassMatch, match_classes
from ..evaluation.groups import EvaluationGroups, each_class
from .base import DatasetDescription, Frame, NamedDataset, dataset_of_frames
from .class_names import classes_of
from .class_statistics import count_class_pixels
from .columns import LabelMap
from .registry import DATASETS, describe_dataset, open_dataset, register_dataset


__all__ = [
    "DATASETS",
    "ClassMap",
    "ClassMatch",
    "DatasetDescription",
    "EvaluationGroups",
    "Frame",
    "LabelMap",
    "NamedDataset",
    "classes_of",
    "count_class_pixels",
    "dataset_of_frames",
    "describe_dataset",
    "each_class",
    "match_classes",
    "open_dataset",
    "register_dataset",
]
