# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Telling images of datasets apart, so that one that was trained on is known again in another split or folder."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
from datasets import Dataset

from .columns import LazyImage
from .storage import base_name, open_archive, open_location, plain_location, split_location


PART = 4096  # bytes of an image file that are looked at, beside its name and size
# BMP, PPM and TIFF: their pixels may be as they are, so that the first ones may be those of any black border. Of these
# files the middle and the end are looked at as well.
UNCOMPRESSED = (b"BM", b"P5", b"P6", b"II*\x00", b"MM\x00*")


def frame_keys(rows: Dataset | Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """
    A number for the image of every row, `uint64` `[N]`; None if the rows hold no images that can be told apart.

    The image of a file is told by the name of the file, its size and some of its bytes, wherever it lies, in a folder
    or in an archive; its label map does not matter. Procedural scenes are told by their domain and seed, at any size.
    Two images with equal numbers are the same; the same image stored anew has another number.
    """
    if isinstance(rows, Dataset):
        if not isinstance(rows.features.get("image"), datasets.Image | LazyImage):
            return None
        identities = _of_cells(rows)
    elif isinstance(rows, (list, tuple)) and all(
        isinstance(row, Mapping) and isinstance(row.get("image"), PIL.Image.Image) for row in rows
    ):
        identities = (_of_image(row["image"]) for row in rows)
    else:
        return None
    digests = b"".join(hashlib.blake2b(identity, digest_size=8).digest() for identity in identities)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _of_cells(dataset: Dataset) -> Iterator[bytes]:
    for table in dataset.select_columns(["image"]).with_format("arrow").iter(batch_size=1000):
        cells = table["image"].combine_chunks()
        cells = cells.combine_chunks() if isinstance(cells, pa.ChunkedArray) else cells
        fields = {field.name for field in cells.type}
        stored = cells.field("data" if "data" in fields else "bytes")  # images in the table, which are not copied
        recipe = [field for field in ("domain", "seed", "version") if field in fields] or ["path"]
        columns = [cells.field(field).to_pylist() for field in recipe]
        for content, *values in zip(stored, *columns, strict=True):
            if content.is_valid:
                buffer = content.as_buffer()
                name = base_name(values[0] or "") if recipe == ["path"] else ""
                yield _identity(name, buffer.size, pa.BufferReader(buffer))
            elif recipe == ["path"]:
                yield _of_file(values[0])
            else:
                yield repr(values).encode()


def _of_image(image: PIL.Image.Image) -> bytes:
    """Of an image in memory: its file, if it comes from one, or its pixels."""
    file = getattr(image, "filename", "")
    return _of_file(file) if file and os.path.isfile(file) else repr(image.size).encode() + image.tobytes()


def _of_file(location: str) -> bytes:
    location = plain_location(location)
    inside = split_location(location)
    if inside is None and "://" in location:
        return location.encode()  # nothing is downloaded for this
    try:
        with open_location(location) as file:
            if inside:
                archive, member = inside
                return _identity(base_name(location), open_archive(archive).getinfo(member).file_size, file)
            with open(file, "rb") as stream:
                return _identity(base_name(location), os.fstat(stream.fileno()).st_size, stream)
    except OSError:  # whoever reads the row says what is wrong with it
        return location.encode()


def _identity(name: str, size: int, file: Any) -> bytes:
    """Of a file that is open for reading."""
    parts = [file.read(PART)]
    if parts[0].startswith(UNCOMPRESSED):
        for place in (size // 2, max(size - PART, 0)):
            file.seek(place)
            parts.append(file.read(PART))
    return b"".join([f"{name} {size} ".encode(), *parts])
