# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Scores of a model on domains: what is counted and by which rule, named protocols, results for people and machines."""

from ..utils.old_names import old_names
from .classes import ClassMap, ClassMatch, match_classes
from .confusion import confusion_matrix, iou_scores, merge_classes
from .counting import STAGES, ImageCounts, count_images, count_outputs
from .domain import DomainScores, evaluate_domain, mean_over_domains, score_domain
from .groups import EvaluationGroups, each_class
from .mean_iou import load_mean_iou
from .protocols import PROTOCOLS, Protocol
from .reliability import Reliability, count_reliability
from .results import (
    describe_domain,
    describe_protocol,
    format_classes,
    format_domains,
    plain_scores,
    software_versions,
    write_scores,
)


__all__ = [
    "PROTOCOLS",
    "STAGES",
    "ClassMap",
    "ClassMatch",
    "DomainScores",
    "EvaluationGroups",
    "ImageCounts",
    "Protocol",
    "Reliability",
    "confusion_matrix",
    "count_images",
    "count_outputs",
    "count_reliability",
    "describe_domain",
    "describe_protocol",
    "each_class",
    "evaluate_domain",
    "format_classes",
    "format_domains",
    "iou_scores",
    "load_mean_iou",
    "match_classes",
    "mean_over_domains",
    "merge_classes",
    "plain_scores",
    "score_domain",
    "software_versions",
    "write_scores",
]

__getattr__ = old_names(
    __name__,
    {
        "PictureCounts": "ImageCounts",
        "count_pictures": "count_images",
        "describe_corpus": "describe_domain",
    },
)
