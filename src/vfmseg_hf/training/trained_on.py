# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What a model has been trained on, from the records beside its weights, and which scored images are among that."""

import base64
import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers.trainer_utils import has_length
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_NAME, cached_file, logging

from ..data.frames import frame_keys
from ..model.records import OPTIONAL_FILE, RECORD_NAME
from .data import EvaluationImages, TrainingImages


logger = logging.get_logger(__name__)

UNKNOWN = (
    "What this model was trained on is not known, or not all of it: its weights, or those that they were trained from, "
    f"have no {RECORD_NAME} that tells it. Nothing here can tell whether the images that it is scored on are unseen."
)


@dataclass(frozen=True)
class TrainedOn:
    """
    What a model has been trained on, that which it was before a fine-tuning included.

    Attributes:
        sources: the datasets, oldest first, each as [`describe_source`] has it.
        keys: `uint64`, of all their images, from `data.frames.frame_keys`; sorted, each once.
        complete: whether that is all. Weights without a record, and images that cannot be told apart, are not known.
    """

    sources: tuple[dict[str, Any], ...] = ()
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    complete: bool = True

    def including(self, other: "TrainedOn") -> "TrainedOn":
        """This, and then the other; a dataset that is in both is there once."""
        sources = self.sources + tuple(source for source in other.sources if source not in self.sources)
        return TrainedOn(sources, np.union1d(self.keys, other.keys), self.complete and other.complete)

    @classmethod
    def of(cls, images: Any) -> "TrainedOn":
        """One dataset, or several joined: [`TrainingImages`], or rows."""
        parts = parts_of(images)
        if len(parts) > 1:
            return reduce(cls.including, map(cls.of, parts))
        source, keys = (describe_source(images),), keys_of(images)
        return cls(source, complete=False) if keys is None else cls(source, np.unique(keys))

    def overlap(self, images: Any) -> dict[str, float] | None:
        """
        How many of the images that are scored were trained on: `{"images": number, "share": 0..1}`; None if that is
        not known. Where a part is not known, what is known to be trained on is counted.
        """
        keys = keys_of(images)
        if keys is None or len(keys) == 0:
            return None
        count = int(np.isin(keys, self.keys).sum())
        return {"images": count, "share": count / len(keys)} if count or self.complete else None

    def as_record(self) -> dict[str, Any]:
        """As JSON has it; [`from_record`] reads it."""
        keys = base64.b64encode(self.keys.astype("<u8").tobytes()).decode()
        return {"sources": list(self.sources), "complete": self.complete, "keys": keys}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "TrainedOn":
        """Raises `KeyError`, `ValueError` or `TypeError` for what [`as_record`] has not written."""
        keys = np.frombuffer(base64.b64decode(record["keys"], validate=True), "<u8").astype(np.uint64)
        return cls(tuple(record["sources"]), keys, bool(record["complete"]))


NOT_KNOWN = TrainedOn(complete=False)
# Ends of names of weights: in VFMSeg's heads, the linear head and SegFormer's decoder, and in mask classifiers.
CLASSIFIERS = ("_head.classifier.weight", "_head.classifier.convolution.weight", "class_predictor.weight")


def keys_of(images: Any) -> np.ndarray | None:
    """As `frame_keys`, of rows, or of the images that training and evaluation make of them: once for these."""
    if not isinstance(images, TrainingImages | EvaluationImages):
        return frame_keys(images)
    if (parts := parts_of(images)) != (images,):
        keys = [keys_of(part) for part in parts]
        return None if any(of_part is None for of_part in keys) else np.concatenate(keys)
    if not hasattr(images, "frame_keys"):
        images.frame_keys = frame_keys(images.dataset)
    return images.frame_keys


def parts_of(images: Any) -> tuple[Any, ...]:
    """The datasets that are trained on."""
    return images.parts if isinstance(images, TrainingImages) else (images,)


def describe_source(images: Any) -> dict[str, Any]:
    """Spec without folders, split, what the dataset says of itself, number of images, and a digest of their keys."""
    keys = keys_of(images)
    rows = images.dataset if isinstance(images, TrainingImages | EvaluationImages) else images
    info, split = getattr(rows, "info", None), getattr(rows, "split", None)
    return {
        "spec": getattr(info, "dataset_name", None),
        "split": None if split is None else str(split),
        "dataset": getattr(info, "description", None) or None,
        "images": len(images) if has_length(images) else None,
        "digest": None if keys is None else hashlib.sha256(np.sort(keys).astype("<u8").tobytes()).hexdigest()[:16],
    }


# --- records beside weights ---------------------------------------------------------------------------------------


def read_trained_on(place: str | os.PathLike | None) -> TrainedOn:
    """
    What the weights in a directory or Hub repository were trained on.

    A record that is not of the weights beside it says nothing: another program has trained on from there.

    Args:
        place: None for weights that come from no VFMSeg checkpoint, which were trained on nothing.
    """
    if place is None:
        return TrainedOn()
    path = cached_file(place, RECORD_NAME, **OPTIONAL_FILE)
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))["trained_on"] if path else None
        if record is None or record["weights"] is None or record["weights"] != weights_digest(place):
            return NOT_KNOWN
        return TrainedOn.from_record(record)
    except (OSError, KeyError, TypeError, ValueError):  # of an earlier version, or damaged
        return NOT_KNOWN


def weights_digest(place: str | os.PathLike) -> str | None:
    """
    Tells saved weights from what another training has made of them: a hash of the classifiers, which every training
    changes and no merging of adapters does; None if there are none in the format of this library.

    Rounded to bfloat16, so that it is the same for float32 and bfloat16 copies of a model.
    """
    digest = hashlib.sha256()
    for name in (SAFE_WEIGHTS_NAME, ADAPTER_SAFE_WEIGHTS_NAME):
        path = cached_file(place, name, **OPTIONAL_FILE)
        if path is None:
            continue
        with safe_open(path, "pt") as file:
            keys = [key for key in file.keys() if key.endswith(CLASSIFIERS)]
            for key in sorted(keys):
                weight = file.get_tensor(key).to(torch.bfloat16).contiguous()
                digest.update(weight.view(torch.int16).numpy().tobytes())
        return digest.hexdigest()[:16] if keys else None
    return None


# --- what is said -------------------------------------------------------------------------------------------------


def attention(name: str, images: Any, trained_on: TrainedOn) -> str | None:
    """The line for a domain of which images were trained on; None for one of unseen data, or where it is unknown."""
    overlap = trained_on.overlap(images)
    if not overlap or not overlap["images"]:
        return None
    return (
        f"ATTENTION: {overlap['images']} of {len(images)} images of the domain {name!r} were trained on: these "
        "are no scores of unseen data"
    )


def say_unknown(trained_on: TrainedOn) -> None:
    """Warns, once, if it is not known what a model was trained on."""
    if not trained_on.complete:
        logger.warning_once(UNKNOWN)
