# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Procedural street scenes as a dataset: `streets:<domain>?n=200&size=512x1024&seed=0&version=1`, stored as seeds."""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import pyarrow as pa
from datasets import Dataset, Features, Value

from .base import DatasetDescription, NamedDataset, make_dataset, parse_query
from .columns import LazyImage, register
from .reading import as_ids
from .streets import geometry, look


MAX_IMAGES = 1_000_000  # of one split and seed
MAX_SEED = 10**9
MAX_SIDE = 16384
DEFAULTS = {"n": "200", "size": "512x1024", "seed": "0", "version": str(geometry.STREETS_VERSION)}

INFO = DatasetDescription(
    name="streets",
    splits=("train", "validation", "test"),
    licence="made by this library, Apache-2.0",
    usage="streets:<domain>?n=200&size=512x1024&seed=0&version=1, where size is height x width and version 1 or 2 "
    "(more varied)",
)


# --- columns ------------------------------------------------------------------------------------------------------


class _OfScene(LazyImage):
    """A cell names a scene by what it is drawn from, or holds the finished image in `data`."""

    pa_type: ClassVar[pa.StructType] = pa.struct(
        {
            "domain": pa.string(),
            "seed": pa.int64(),
            "height": pa.int32(),
            "width": pa.int32(),
            "version": pa.int32(),
            "data": pa.binary(),
        }
    )

    def read(self, cell: dict[str, Any]) -> PIL.Image.Image:
        if cell["version"] not in geometry.VERSIONS:
            raise ValueError(
                f"This dataset was stored with version {cell['version']} of the streets, this library draws version "
                f"{' and '.join(map(str, geometry.VERSIONS))}: the same seeds give other scenes. Make it again with "
                "open_dataset, or install the library version that it was made with."
            )
        scene = cell["seed"], cell["height"], cell["width"], cell["version"]
        return PIL.Image.fromarray(self.draw(cell["domain"], *scene))

    def draw(self, domain: str, seed: int, height: int, width: int, version: int) -> np.ndarray:
        raise NotImplementedError


@register
@dataclass
class StreetsImage(_OfScene):
    """Images of street scenes, rendered when read: PIL images of mode RGB."""

    _type: str = field(default="VfmsegStreetsPicture", init=False, repr=False)

    def draw(self, domain: str, seed: int, height: int, width: int, version: int) -> np.ndarray:
        _labels(seed, height, width, version)  # most readers ask for the label map next
        return look.render(_scene(seed, height, width, version), domain, seed)

    def check(self, pixels: np.ndarray) -> np.ndarray:
        if pixels.ndim == 3 and pixels.shape[0] == 3 != pixels.shape[2]:  # as torch's formatter gives images
            pixels = np.ascontiguousarray(pixels.transpose(1, 2, 0))
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype.kind not in "ui":
            raise TypeError(f"Expected an RGB image [H, W, 3], got {pixels.dtype} {pixels.shape}.")
        if pixels.min() < 0 or pixels.max() > 255:
            raise ValueError(f"Images hold values 0..255, got {pixels.min()}..{pixels.max()}.")
        return pixels.astype(np.uint8, copy=False)


@register
@dataclass
class StreetsLabels(_OfScene):
    """Label maps of street scenes, drawn when read: PIL images of mode L with train ids, 255 = ignore."""

    names: list[str] | None = None  # of the ids, as in `LabelMap`
    _type: str = field(default="VfmsegStreetsLabels", init=False, repr=False)

    def draw(self, domain: str, seed: int, height: int, width: int, version: int) -> np.ndarray:
        return _labels(seed, height, width, version)

    def check(self, pixels: np.ndarray) -> np.ndarray:
        return as_ids(pixels)


@lru_cache(maxsize=1)  # a scene of 512x1024 takes 8 MB
def _scene(seed: int, height: int, width: int, version: int) -> Any:
    return geometry.draw_scene(seed, height, width, version)


@lru_cache(maxsize=16)  # datasets read a batch column by column
def _labels(seed: int, height: int, width: int, version: int) -> np.ndarray:
    return _scene(seed, height, width, version).labels


# --- dataset -------------------------------------------------------------------------------------------------------


def scene_seed(split: str, seed: int, index: int) -> int:
    """The seed of image `index` of a split: another one for every (split, seed, index), the same in all domains."""
    return (len(INFO.splits) * seed + INFO.splits.index(split)) * MAX_IMAGES + index


def load(rest: str, split: str) -> Dataset:
    """
    Images that are rendered when read. Splits of one seed, and equal splits of different seeds, share no scene;
    domains share all: label maps are identical in all of them. Versions of the generator share no scene.
    """
    domain, values = parse_query(rest, DEFAULTS, INFO)
    if domain not in look.DOMAINS:
        raise ValueError(f"streets has no domain {domain!r}, only {', '.join(look.DOMAINS)}. Usage: {INFO.usage}")
    count, height, width, seed, version = _parse(values)
    seeds = [scene_seed(split, seed, index) for index in range(count)]
    cells = [
        {
            "domain": domain,
            "seed": number,
            "height": height,
            "width": width,
            "version": version,
            "data": None,
        }
        for number in seeds
    ]
    columns = {"image": cells, "label": cells, "file_name": [f"streets-{domain}-{number:06d}" for number in seeds]}
    labels = StreetsLabels(names=list(INFO.id2label.values()))
    features = Features({"image": StreetsImage(), "label": labels, "file_name": Value("string")})
    return make_dataset(columns, features, INFO, split)


def _parse(values: dict[str, str]) -> tuple[int, int, int, int, int]:
    """Number of images, height, width, seed and version of a query; `ValueError` names the key that is wrong."""
    size = re.fullmatch(r"(\d+)x(\d+)", values["size"])
    if not size or not all(1 <= int(side) <= MAX_SIDE for side in size.groups()):
        raise ValueError(f"size={values['size']} is no height x width from 1x1 to {MAX_SIDE}x{MAX_SIDE}: {INFO.usage}")
    height, width = map(int, size.groups())
    seed, version = _number(values, "seed", 0, MAX_SEED), _number(values, "version", 1, max(geometry.VERSIONS))
    return _number(values, "n", 1, MAX_IMAGES), height, width, seed, version


def _number(values: dict[str, str], key: str, low: int, high: int) -> int:
    if not re.fullmatch(r"\d+", values[key]) or not low <= int(values[key]) <= high:
        raise ValueError(f"{key}={values[key]} is no whole number from {low} to {high}. Usage: {INFO.usage}")
    return int(values[key])


DATASET = NamedDataset(INFO, load)
