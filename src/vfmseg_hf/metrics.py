# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The old name of what `vfmseg_hf.evaluation` counts and scores with."""

import warnings

from . import evaluation
from .evaluation import confusion_matrix, iou_scores, load_mean_iou, merge_classes


__all__ = ["confusion_matrix", "iou_scores", "load_mean_iou", "mean_iou", "merge_classes"]

mean_iou = evaluation.mean_iou
warnings.warn("vfmseg_hf.metrics is now vfmseg_hf.evaluation; the old name will go.", DeprecationWarning, stacklevel=2)
