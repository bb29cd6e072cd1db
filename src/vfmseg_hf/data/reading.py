# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Reading the files of datasets: label files in all codings, as ids of the dataset, and the headers of images."""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from functools import lru_cache
from io import BytesIO
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch

from ..evaluation.classes import UNKNOWN
from ..model.image_inputs import as_stored, exif_orientation, stored_size, unreadable
from ..model.labels import IGNORE_INDEX
from .findings import TURNED, notify, report_problem
from .storage import is_upright, open_location, read_bytes


RESTORE = "Restore the file from the owner's."  # what to do with a broken one
# Pillow stretches grey PNGs of 2 and 4 bits to 0..255; divided by these, the stored ids come back.
STRETCHED = {"L;2": 85, "L;4": 17}

# How a label file holds its ids, where it is not one id per pixel or palette entry.
INSTANCES = "instances"  # 16 bits: 256 * id + number of the instance
RED16 = "red16"  # RGB of 16 bits per channel: the first one holds the id
COLOURS = "colours"  # RGB of 8 bits per channel: a colour for each id
ANY_COLOUR = -1  # among the colours of a table: every colour that is not listed


class UnknownValues(ValueError):
    """
    A label map holds ids or colours that its dataset does not have.

    Attributes:
        values: the first 256 of them, as numbers or `#rrggbb`.
    """

    def __init__(self, message: str, values: Iterable[int | str] = ()):  # a default, or it could not be pickled
        super().__init__(message)
        self.values = [str(value) for value in islice(values, 256)]


def read_label(cell: Mapping[str, Any]) -> np.ndarray:
    """
    What the label file of a `LabelMap` cell holds, `[H, W]`: original ids (`uint8`), or colours as in `read_colours`.

    Raises:
        As `LabelMap.read`, but for values that are not in the table and for the size.
    """
    path, coding = cell["file"], cell["coding"]
    return read_colours(path) if coding == COLOURS else as_ids(READERS[coding](path), path)


def translate_label(stored: np.ndarray, cell: Mapping[str, Any]) -> np.ndarray:
    """Ids `uint8` `[H, W]` from what `read_label` returned. Raises `UnknownValues`."""
    path, table = cell["file"], tuple(cell["table"])
    if cell["coding"] == COLOURS:
        return translate_colours(stored, tuple(cell["colours"]), table, path)
    return translate(stored, table, path)


def read_pixels(source: Any, name: str) -> np.ndarray:
    """
    The values stored in an image file: palettes are not looked up, 16-bit values are not scaled.

    Raises:
        `OSError`: the file is missing, empty, truncated or no image; the message names it.
    """
    try:
        with (
            open_location(source) if isinstance(source, str) else nullcontext(source) as file,
            PIL.Image.open(file) as image,
        ):
            stored = image.tile[0][3] if image.tile else None
            pixels = np.asarray(as_stored(image))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The file {name} is gone. Restore it, or load the dataset again from where it is now."
        ) from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on broken files
        raise unreadable(name, error, RESTORE) from error
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8)
    factor = STRETCHED.get(stored[0] if isinstance(stored, tuple) else stored) if pixels.ndim == 2 else None
    return pixels // factor if factor else pixels


def read_stored(path: str) -> np.ndarray:
    """The values of a label file whose pixels are ids. Raises as `read_pixels` does."""
    return read_pixels(path, path)


def read_instances(path: str) -> np.ndarray:
    """
    Ids `[H, W]` from 16-bit values of 256 * id + number of the instance.

    Raises:
        `ValueError`: a file of 8 bits, which would give id 0 everywhere.
    """
    pixels = read_pixels(path, path)
    if pixels.ndim != 2 or pixels.dtype.kind not in "ui" or pixels.dtype.itemsize < 2:
        raise ValueError(f"{path} is {pixels.dtype} {pixels.shape}, expected 16-bit values of 256 * id + instance.")
    return pixels // 256


def read_red16(path: str) -> np.ndarray:
    """
    The first channel `[H, W]` of an RGB file of 16 bits per channel; Pillow would keep its upper byte, 0, only.

    Raises:
        `ImportError`: torchvision is not installed.
        `ValueError`: another kind of file, such as a copy that was reduced to 8 bits and lost its ids.
    """
    io = png_decoder()
    try:
        data = torch.frombuffer(bytearray(read_bytes(path)), dtype=torch.uint8)
        pixels = io.decode_image(data, io.ImageReadMode.UNCHANGED)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The file {path} is gone. Restore it, or load the dataset again from where it is now."
        ) from error
    except (RuntimeError, ValueError) as error:
        raise unreadable(path, error, RESTORE) from error
    if pixels.dtype != torch.uint16 or pixels.shape[0] != 3:
        raise ValueError(
            f"{path} is {pixels.dtype} with {pixels.shape[0]} channels, expected an RGB file of 16 bits per channel, "
            "whose first channel holds the id. Copies of 8 bits have lost their ids: restore the owner's file."
        )
    return pixels[0].numpy()


def png_decoder() -> Any:
    """`torchvision.io`. Raises `ImportError` naming the extra that brings it."""
    try:
        from torchvision import io
    except ImportError as error:
        raise ImportError(
            "Label files of 16 bits per colour need torchvision's decoder, because Pillow cuts them to 8 bits and "
            'loses the ids: pip install "vfmseg-hf[train]"'
        ) from error
    return io


def read_colours(path: str) -> np.ndarray:
    """
    Colours `[H, W]` as `65536 * red + 256 * green + blue`; palettes are looked up, transparency is dropped.

    Raises:
        `OSError`, `ValueError`: a file that cannot be read, or has no colours of 8 bits per channel.
    """
    try:
        with open_location(path) as file, PIL.Image.open(file) as image:
            mode = image.mode
            stored = as_stored(image)
            pixels = np.asarray(stored.convert("RGB"), dtype=np.int32) if mode in ("RGB", "RGBA", "P", "L") else None
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The file {path} is gone. Restore it, or load the dataset again from where it is now."
        ) from error
    except Exception as error:
        raise unreadable(path, error, RESTORE) from error
    if pixels is None:
        raise ValueError(f"{path} is of mode {mode}, expected colours of 8 bits per channel.")
    return pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]


READERS = {None: read_stored, INSTANCES: read_instances, RED16: read_red16}


def as_ids(pixels: np.ndarray, name: str = "A label map") -> np.ndarray:
    """
    `uint8` `[H, W]` from whole numbers `[H, W]` or `[1, H, W]`.

    Raises:
        `TypeError`: not an image of whole numbers.
        `ValueError`: colours.
        `UnknownValues`: ids outside 0..255.
    """
    if pixels.ndim == 3 and pixels.shape[0] == 1:  # what torch's formatter makes of a map
        pixels = pixels[0]
    if pixels.ndim < 2 or pixels.dtype.kind not in "bui":
        raise TypeError(f"{name} of shape {pixels.shape} and type {pixels.dtype} does not hold one id per pixel.")
    if pixels.ndim > 2:
        raise ValueError(
            f"{name} has colours (shape {pixels.shape}), expected one id per pixel. Translate colours to ids first."
        )
    if pixels.dtype != np.uint8:
        if pixels.size and (pixels.min() < 0 or pixels.max() > IGNORE_INDEX):
            unknown = np.unique(pixels[(pixels < 0) | (pixels > IGNORE_INDEX)])
            raise UnknownValues(
                f"{name} holds ids from {pixels.min()} to {pixels.max()}; ids are 0..255, where 255 = ignore.", unknown
            )
        pixels = pixels.astype(np.uint8)
    return pixels


def translate(ids: np.ndarray, table: tuple[int, ...], path: str) -> np.ndarray:
    """
    `table[id]` for every pixel of `ids` (`uint8` `[H, W]`).

    Raises:
        `UnknownValues`: ids that are not in the table.
    """
    by_byte, mark = _byte_table(table)
    mapped = ids.tobytes().translate(by_byte)
    if mark is not None and mark in mapped:
        unknown = [int(i) for i in np.unique(ids) if i >= len(table) or table[i] == UNKNOWN]
        known = [i for i, target in enumerate(table) if target != UNKNOWN]
        raise UnknownValues(
            f"The label map {path} holds ids {unknown}, which this dataset does not have; it has {known}. Is the file "
            "of this dataset and in its original coding? Restore it from the owner's, or, of own data, list these ids "
            "under a class or `ignore`.",
            unknown,
        )
    return np.frombuffer(mapped, np.uint8).reshape(ids.shape)


def translate_colours(pixels: np.ndarray, colours: tuple[int, ...], table: tuple[int, ...], path: str) -> np.ndarray:
    """
    `table[i]` where a pixel of `pixels` (`[H, W]`, from `read_colours`) is `colours[i]`; ids as `uint8` `[H, W]`.

    Raises:
        `UnknownValues`: colours that are not listed, unless `ANY_COLOUR` is.
    """
    mapped = _colour_table(colours, table)[pixels]
    if mapped.min(initial=0) == UNKNOWN:
        unknown = [f"#{colour:06x}" for colour in np.unique(pixels[mapped == UNKNOWN])]
        known = [f"#{colour:06x}" for colour in colours]
        raise UnknownValues(
            f"The label map {path} holds colours {unknown[:10]}, which this dataset does not have; it has {known}. "
            "List them in the file of the dataset, or correct these pixels.",
            unknown,
        )
    return mapped.astype(np.uint8)


@lru_cache(maxsize=2)  # 32 MB each
def _colour_table(colours: tuple[int, ...], table: tuple[int, ...]) -> np.ndarray:
    """The id of every colour of 24 bits."""
    by_colour = dict(zip(colours, table, strict=True))
    ids = np.full(1 << 24, by_colour.pop(ANY_COLOUR, UNKNOWN), np.int16)
    ids[list(by_colour)] = list(by_colour.values())
    return ids


@lru_cache
def _byte_table(table: tuple[int, ...]) -> tuple[bytes, bytes | None]:
    """The table for `bytes.translate`, with unknown ids marked by a byte that stands for nothing else."""
    padded = [*table, *[UNKNOWN] * (256 - len(table))]
    if UNKNOWN not in padded:
        return bytes(padded), None
    mark = min(set(range(256)) - set(padded))
    return bytes(mark if target == UNKNOWN else target for target in padded), bytes([mark])


def verify_image(content: bytes) -> None:
    """
    Holds a PNG file against the sums in it, which decoders do not look at: pixels may be wrong though all are there.

    Raises:
        `OSError`: a file that is empty, damaged, cut off before its end, or no image; its cause is what Pillow said.
    """
    if not content:
        raise OSError("an empty file")
    try:
        with PIL.Image.open(BytesIO(content)) as image:
            image.verify()
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on broken files
        raise unreadable("a file", error, RESTORE) from error


class Header(NamedTuple):
    """
    What an image file says of itself. As text: the size, with a word on a tag that swaps width and height.

    Attributes:
        size: width and height of the pixels, as they are stored, or turned if they are read so.
        orientation: EXIF's number for how to show what is stored; 1 is as it is.
        upright: whether the image is turned as its tag asks for when it is read.
    """

    size: tuple[int, int]
    orientation: int
    upright: bool = False

    @classmethod
    def of(cls, image: PIL.Image.Image, upright: bool = False) -> "Header":
        """The header of an opened image that is not decoded yet."""
        size, orientation = stored_size(image), exif_orientation(image, decode=upright)
        return cls(size[::-1] if upright and orientation >= 5 else size, orientation, upright)

    def __str__(self) -> str:
        when = "after" if self.upright else "before"
        turned = f", {when} the turn that its EXIF tag asks for" if self.orientation >= 5 else ""
        return f"{self.size[0]}x{self.size[1]}{turned}"


def read_header(source: Any, name: str) -> Header:
    """
    The header of an image at a location, or in an open file; pixels are not read.

    Raises:
        `OSError`: the file is missing or no image; the message names it.
    """
    upright = isinstance(source, str) and is_upright(source)
    try:
        with (
            open_location(source) if isinstance(source, str) else nullcontext(source) as file,
            PIL.Image.open(file) as image,
        ):
            return Header.of(image, upright)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The image {name} is gone. Restore it, or load the dataset again from where it is now."
        ) from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on broken files
        raise unreadable(f"the image {name}", error, RESTORE) from error


def find_turned(frames: Iterable[tuple[str, Any, Any]], dataset: str, mixed: bool = True) -> list[int]:
    """
    Which images of own data have to be turned as their EXIF tags ask for, so that their label maps cover them.

    A tag that turns by a quarter is followed if the label map has the size after the turn, and not if it has the size
    before; how many of which is said. A label map with the same tag is for the stored pixels. Files that cannot be
    read, and label maps of neither size, are left to whoever reads them.

    Args:
        frames: name, image, label map of every row; the latter two as sources of `read_header`, or None if unknown.
        dataset: what they are from, for messages.
        mixed: whether some may be turned and others not.

    Returns: numbers of rows.

    Raises:
        `ValueError`: images whose sizes tell nothing: mirrored ones, half turns, squares; or both kinds, where they
            may not be mixed. Where findings are collected, these count as stored.
    """
    doubtful: list[str] = []
    stored: list[str] = []
    turned: dict[int, str] = {}
    for row, (name, image, label) in enumerate(frames):
        try:
            position = _position_of(image, label, name)
        except OSError:
            continue
        if position == "turned":
            turned[row] = name
        elif position is not None:
            (stored if position == "stored" else doubtful).append(name)
    counts = f"by their label maps' sizes {len(stored)} are read as stored and {len(turned)} turned"
    refused = bool(stored and turned and not mixed)
    if refused:
        doubtful += [*stored, *turned.values()]
    if doubtful:
        shown = ", ".join(doubtful[:5]) + (", ..." if len(doubtful) > 5 else "")
        told = f"(Of all, {counts}.) " if stored or turned else ""
        message = (
            f"{dataset}: {len(doubtful)} images have an EXIF tag that asks to turn or mirror them ({shown}). Nothing "
            "tells whether their label maps are for the stored pixels or for what the tag makes of them. "
            f"{told}{TURNED.remedy}"
        )
        report_problem(TURNED, dict.fromkeys(doubtful, ""), ValueError(message))
    if (stored or turned) and not refused:
        notify(f"{dataset}: {len(stored) + len(turned)} images have an EXIF tag that asks to turn them; {counts}.")
    return [] if refused else list(turned)


def _position_of(image: Any, label: Any, name: str) -> str | None:
    """
    What a label map is for if an EXIF tag asks to turn its image: "stored", "turned" or "doubtful". None without such
    a tag, or if the label map has neither size. Sources as for `find_turned`; raises as `read_header` does.
    """
    header = read_header(image, name) if image is not None else None
    if header is None or header.orientation == 1:
        return None
    drawn = read_header(label, name) if label is not None else None
    if drawn is not None and drawn.orientation == header.orientation:
        return "stored"
    if drawn is None or drawn.orientation != 1 or header.orientation < 5 or header.size == header.size[::-1]:
        return "doubtful"
    return {header.size: "stored", header.size[::-1]: "turned"}.get(drawn.size)
