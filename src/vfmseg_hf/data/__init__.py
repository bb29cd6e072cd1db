# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Driving-scene corpora as `datasets.Dataset`, all with the same columns and the same ids."""

import os

from datasets import Dataset

from ..evaluation.classes import ClassMap, ClassMatch, match_classes
from ..evaluation.groups import EvaluationGroups, each_class
from . import acdc, bdd100k, camvid, carla, cityscapes, folder, gtav, mapillary, street_scenes, synthia
from .base import Corpus, CorpusInfo, default_split, scored_split
from .class_names import classes_of
from .class_statistics import count_class_pixels
from .columns import LabelMap
from .tables import load_table


CORPORA: dict[str, Corpus] = {
    "acdc": acdc.CORPUS,
    "bdd100k": bdd100k.CORPUS,
    "camvid": camvid.CORPUS,
    "carla": carla.CORPUS,
    "cityscapes": cityscapes.CORPUS,
    "folder": folder.CORPUS,
    "gtav": gtav.CORPUS,
    "mapillary": mapillary.CORPUS,
    "streets": street_scenes.CORPUS,
    "synthia": synthia.CORPUS,
}


def corpus_info(spec: str) -> CorpusInfo:
    """
    What is known of a corpus: its classes, splits, terms, and the rule that it is scored by.

    Args:
        spec (`str`):
            A name (`"camvid"`), or anything that `load_corpus` takes. The classes of `folder:/path/to/corpus.yaml` are
            in its file; those of a data set that is not registered are known when it is open: `classes_of(dataset)`.

    Raises:
        `ValueError`: an unknown name before a colon, or a corpus file that cannot be understood.
        `FileNotFoundError`: there is no such corpus file.
    """
    corpus, rest = _find(spec)
    if corpus and corpus.describe and rest:
        return corpus.describe(rest)
    if corpus:
        return corpus.info
    return CorpusInfo(spec, splits=(), licence="see its own page", usage=spec, id2label=None, evaluation=None)


def load_corpus(spec: str, split: str | None = None, held_out: bool = False) -> Dataset:
    """
    Opens a corpus. No picture is read before its row is, and no converted copy is made. Of own pictures and tables the
    headers are looked at, for EXIF tags: label maps may be for the stored pixels or for what a tag makes of them. The
    sizes of label maps tell it of quarter turns, which is said; other tags are refused, unless the file of `folder:`
    says which it is.

    Args:
        spec (`str`):
            One of

            - `"cityscapes:/path"`, `"gtav:/path"`, `"mapillary:/path?version=2.0"`, ...: a corpus in its owner's
              layout, as folders or as the zip archives that it comes in; `corpus_info(name).usage` shows the settings;
            - `"folder:/path/to/corpus.yaml"`: own pictures and label maps with a file that explains them;
            - `"streets:<domain>?n=200&size=512x1024&seed=0"`: procedural scenes, rendered when read;
            - a Hub id, or a local folder: anything that `datasets.load_dataset` (or `load_from_disk`) opens and that
              has pictures in the columns `image` and `label`, the latter of final ids. Their names are those that the
              data set has (of `label`, of a `ClassLabel` in a column such as `classes`, in an `id2label.json` beside
              the data); `?id2label=names.json` or `?id2label=cityscapes` after it gives names, or other ones.
        split (`str`, *optional*):
            One of `corpus_info(spec).splits`; for a Hub id or a local folder, any expression of
            `datasets.load_dataset`. By default the one to train on: `train` or `training`, or else the first one whose
            name is none of `base.HELD_OUT_SPLITS`.
        held_out (`bool`, defaults to `False`):
            Whether the default is the split to be scored on instead, the `evaluation_split` of `corpus_info(spec)`.

    Returns:
        `datasets.Dataset` with the columns

        - `image`: PIL image of mode RGB without an EXIF tag that would turn it, its pixels where its label map has
          them: as they are stored, but for own data as told above; other modes and 16 bits are converted as the image
          processor converts them;
        - `label`: PIL image of mode L and the same size, of the ids whose names are `classes_of(dataset)`, for
          registered corpora those of `corpus_info(spec).id2label`; 255 = ignore;
        - `file_name` (`str`): name of the frame, without folder and suffix in the owner's layouts.

        Ids are translated when a row is read, in all that is made of the data set: selected, filtered, shuffled,
        mapped, concatenated, stored, reloaded, iterated, or sent to workers. A stored data set opens wherever
        `vfmseg_hf.data` has been imported.

    Raises:
        `ValueError`: an unknown corpus, split, domain or query key, a split without rows, no split named where all are
            held out or the names of several do not tell, a data set that does not say which classes its labels hold, or
            own pictures with an EXIF tag that leaves in doubt what their label maps are for.
        `FileNotFoundError`: the folder, a file of its layout, or the partner of a picture or label map is missing.
        `ImportError`: the labels of the corpus need a package that is not installed; the message names it.

        When a row is read: `ValueError` for unknown ids, for a label map of another size than its picture, and for
        pictures of floats, which the image processor refuses; `OSError` for files that cannot be read.

    Example:

        >>> dataset = load_corpus("camvid:/data/camvid", split="source_train")
        >>> row = dataset[0]
        >>> row["image"].size, row["label"].mode
        ((480, 360), 'L')
    """
    corpus, rest = _find(spec)
    if corpus is None:
        return _named(load_table(spec, split, held_out), spec)
    info = corpus_info(spec)
    if split is None:
        split = scored_split(spec, info) if held_out else default_split(spec, info.splits)
    if split not in info.splits:
        raise ValueError(f"{info.name} has no split {split!r}, only {', '.join(info.splits)}.")
    return _named(corpus.load(rest, split), spec)


def _named(dataset: Dataset, spec: str) -> Dataset:
    """The data set, with a name that records of trainings can have: the spec without the folders that data lies in."""
    corpus, colon, rest = spec.partition(":")
    if colon and corpus != "streets":
        spec = f"{corpus}:{os.path.basename(rest.partition('?')[0].rstrip('/'))}"
    elif not colon:
        place = spec if os.path.exists(spec) else spec.partition("?")[0]
        spec = os.path.basename(os.path.abspath(place)) if os.path.exists(place) else place
    dataset.info.dataset_name = spec
    return dataset


def _find(spec: str) -> tuple[Corpus | None, str]:
    """The registered corpus that a spec names, if any, and what follows the colon."""
    name, _, rest = spec.partition(":")
    if name in CORPORA:
        return CORPORA[name], rest
    if ":" in spec.partition("?")[0] and not os.path.exists(spec):  # Hub ids have no colon
        usages = "; ".join(corpus.info.usage for corpus in CORPORA.values())
        raise ValueError(
            f"Unknown corpus {name!r} in {spec!r}. Known: {usages}; or a Hub id or an existing folder, without a colon."
        )
    return None, spec


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
