# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Scores of a model on domains: named protocols, counting, results for people and for machines."""

from .counting import STAGES, count_outputs, count_pictures
from .domain import DomainScores, evaluate_domain, mean_over_domains, score_domain
from .protocols import PROTOCOLS, Protocol
from .report import (
    describe_corpus,
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
    "DomainScores",
    "Protocol",
    "count_outputs",
    "count_pictures",
    "describe_corpus",
    "describe_protocol",
    "evaluate_domain",
    "format_classes",
    "format_domains",
    "mean_over_domains",
    "plain_scores",
    "score_domain",
    "software_versions",
    "write_scores",
]
