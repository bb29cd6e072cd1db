# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The old name of `vfmseg_hf.data`."""

import warnings

from .data import (
    CORPORA,
    ClassMap,
    ClassMatch,
    Corpus,
    CorpusInfo,
    EvaluationGroups,
    LabelMap,
    classes_of,
    corpus_info,
    count_class_pixels,
    each_class,
    load_corpus,
    match_classes,
)


__all__ = [
    "CORPORA",
    "ClassMap",
    "ClassMatch",
    "Corpus",
    "CorpusInfo",
    "EvaluationGroups",
    "LabelMap",
    "classes_of",
    "corpus_info",
    "count_class_pixels",
    "each_class",
    "load_corpus",
    "match_classes",
]

warnings.warn("vfmseg_hf.corpora is now vfmseg_hf.data; the old name will go.", DeprecationWarning, stacklevel=2)
