# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The old name of `vfmseg_hf.data`, with the old names of what is in it."""

import warnings

from .data import (
    DATASETS,
    ClassMap,
    ClassMatch,
    DatasetDescription,
    EvaluationGroups,
    LabelMap,
    NamedDataset,
    classes_of,
    count_class_pixels,
    describe_dataset,
    each_class,
    match_classes,
    open_dataset,
)


CORPORA, Corpus, CorpusInfo = DATASETS, NamedDataset, DatasetDescription
corpus_info, load_corpus = describe_dataset, open_dataset

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
