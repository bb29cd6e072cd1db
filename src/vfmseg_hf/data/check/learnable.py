# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Whether a model can learn anything from labels: what would train without a word, and without a result."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers.utils import logging

from ...evaluation import ClassMatch
from ...model.labels import IGNORE_INDEX
from ..class_statistics import Histograms
from ..columns import LabelMap
from ..findings import ALL_IGNORED, LABELS_ARE_IMAGES, ONE_CLASS, Kind
from ..parallel import read_in_parallel
from ..reading import read_label


logger = logging.get_logger(__name__)

LABEL_MAPS, IMAGES = 200, 8  # rows that are looked at before a training, evenly spaced


def hopeless(pixels: np.ndarray, id2label: Mapping[int, str]) -> Iterator[tuple[Kind, str]]:
    """
    Why nothing can be learnt from labels, each with a detail.

    Args:
        pixels: `int64` `[K + 1]`, of every class, and ignored.
        id2label: names of the K classes.
    """
    if len(id2label) == 1:
        yield ONE_CLASS, f"the only class is {next(iter(id2label.values()))!r}"
    if not pixels[:-1].any():
        yield ALL_IGNORED, f"all {int(pixels[-1]):,} pixels are ignored"


def doubtful(pixels: np.ndarray, id2label: Mapping[int, str]) -> Iterator[str]:
    """What is not learnt from labels, in sentences with remedies; arguments as for `hopeless`."""
    names = list(id2label.values())
    present = np.flatnonzero(pixels[:-1])
    if len(names) == 1 or not len(present):
        return
    only = names[present[0]]
    absent = [name for index, name in enumerate(names) if index not in present]
    if len(present) == 1 and present[0] == 0 and pixels[-1]:
        yield (
            f"the labels hold only 0 ({only!r}) and {IGNORE_INDEX}, which is ignored, so that nothing but {only!r} is "
            f"learnt. Are these masks of 0 and {IGNORE_INDEX}? Describe them with `folder:` and `ids: {{{names[0]}: 0, "
            f"{names[1]}: {IGNORE_INDEX}}}`, or divide them by {IGNORE_INDEX}."
        )
    elif len(present) == 1:
        yield (
            f"{only!r} is the only class that occurs in the labels, so that every pixel will get it. Label the others "
            f"as well ({', '.join(absent)}), or check what the ids mean."
        )
    elif absent:
        yield (
            f"classes without a pixel: {', '.join(absent)}. Nothing is learnt of them; if they should be there, check "
            "what the ids mean."
        )


def is_its_own_image(stored: np.ndarray, image: np.ndarray) -> bool:
    """
    Whether what a label file holds is the image itself: `[H, W]`, ids or colours as `reading.read_label` returns
    them, against `[H, W, 3]`. Every fourth pixel each way is looked at; a map of one value is no evidence.
    """
    stored, image = stored[::4, ::4], image[::4, ::4].astype(np.int32)
    if stored.shape != image.shape[:2] or stored.min() == stored.max():
        return False
    red, green, blue = np.moveaxis(image, 2, 0)
    grey = np.array_equal(stored, red) and np.array_equal(red, green) and np.array_equal(red, blue)
    return grey or np.array_equal(stored, red << 16 | green << 8 | blue)


def check_labels_teach(
    rows: "Dataset | Sequence[Mapping[str, Any]]",
    id2label: Mapping[int, str],
    class_pixels: np.ndarray | None = None,
    match: ClassMatch | None = None,
    model_id2label: Mapping[int, str] | None = None,
) -> None:
    """
    Looks at labels before a training, and warns of what will not be learnt from them.

    Args:
        rows: with `image` and `label`, from `open_dataset` or a list of such.
        id2label: names of the classes in them.
        class_pixels: `int64` `[N, K]`, from `count_class_pixels`, if they have been counted; otherwise at most
            `LABEL_MAPS` evenly spaced label maps are counted.
        match: which classes of the model they are, if these have other names or another order.
        model_id2label: names of the model's classes, with `match`.

    Raises:
        `ValueError`: nothing can be learnt: a single class, no pixel of any class, or label maps that are the images
            themselves. The message says what to do. Or whatever reading a row raises, like `OSError`.
    """
    classes = len(id2label)
    few = _spread(rows, IMAGES)
    looked = few if class_pixels is not None else _spread(rows, LABEL_MAPS)
    pixels = np.zeros(classes + 1, np.int64)
    for histogram in read_in_parallel(Histograms(looked), None, "Looking at label maps"):
        if isinstance(histogram, Exception):
            raise histogram
        pixels += np.append(histogram[:classes], histogram[IGNORE_INDEX])
    count = len(looked)
    if class_pixels is not None:
        pixels[:-1], count = class_pixels.sum(axis=0), len(rows)
    if match is not None:
        id2label, pixels = model_id2label, _as_the_models(pixels, match, len(model_id2label))
    problems = list(hopeless(pixels, id2label))
    if own := sum(_shows_itself(few, number) for number in range(len(few))):
        problems.append((LABELS_ARE_IMAGES, f"{own} of {len(few)} that were compared"))
    of = f"of {len(rows)} label maps" if count == len(rows) else f"of {count} label maps looked at"
    if problems:
        kind, detail = problems[0]
        raise ValueError(f"nothing can be learnt from these labels: {kind.what} ({detail}; {of}). {kind.remedy}")
    for sentence in doubtful(pixels, id2label):
        logger.warning(f"{of}: {sentence}")


def _as_the_models(pixels: np.ndarray, match: ClassMatch, num_labels: int) -> np.ndarray:
    """Pixels of every class, and ignored ones, `int64` `[K + 1]`, by the classes of a model."""
    counts = np.zeros(num_labels + 1, np.int64)
    counts[-1] = pixels[-1]
    for count, theirs in zip(pixels[:-1], match.model_ids, strict=True):
        counts[theirs[0] if theirs else -1] += count
    return counts


def _spread(rows: "Dataset | Sequence[Mapping[str, Any]]", count: int) -> "Dataset | list[Mapping[str, Any]]":
    """At most `count` evenly spaced rows."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)).tolist()
    return rows.select(places) if isinstance(rows, Dataset) else [rows[place] for place in places]


def _shows_itself(rows: "Dataset | list[Mapping[str, Any]]", number: int) -> bool:
    """Whether the label map of a row is its image: the same file, or the same pixels."""
    row = rows[number]
    stored = None
    if isinstance(rows, Dataset) and isinstance(rows.features["label"], LabelMap):
        (cells,) = rows.select([number]).with_format("arrow")[:].to_pylist()
        if (cell := cells["label"])["data"] is None:
            if cell["file"] == cell["image"]:
                return True
            stored = read_label(cell)
    stored = np.asarray(row["label"]) if stored is None else stored
    return is_its_own_image(stored, np.asarray(row["image"]))
