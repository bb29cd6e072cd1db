# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Column types of `datasets` whose pictures are worked out when a row is read.

What a cell means travels with the cell, not with a transform of the data set: `map`, `save_to_disk`,
`concatenate_datasets` and workers of a DataLoader drop transforms in places, and would then hand out original ids.
"""

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Image
from datasets.features.features import _FEATURE_TYPES, register_feature
from datasets.table import array_cast

from ..labels import IGNORE_INDEX
from .storage import base_name, open_location, read_bytes, split_location


UNKNOWN = -1  # in tables: an id that the corpus does not have
ORIENTATION_TAG = 0x0112
# Pillow stretches grey PNGs of 2 and 4 bits to 0..255; divided by these, the stored ids come back.
STRETCHED = {"L;2": 85, "L;4": 17}

# How a label file holds its ids, where it is not one id per pixel or palette entry.
INSTANCES = "instances"  # 16 bits: 256 * id + number of the instance
RED16 = "red16"  # RGB of 16 bits per channel: the first one holds the id
COLOURS = "colours"  # RGB of 8 bits per channel: a colour for each id
ANY_COLOUR = -1  # among the colours of a table: every colour that is not listed


def register(feature: type) -> type:
    """Class decorator: makes stored data sets with this column type readable wherever the library is imported."""
    name = feature._type
    if _FEATURE_TYPES.get(name) is not feature:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "register_feature is experimental"
            register_feature(feature, name)
    return feature


@dataclass
class LazyPicture:
    """
    Base of column types. A cell is a struct of `pa_type`: either a recipe, or `data`, the bytes of a finished picture.

    Subclasses say how a recipe becomes a picture (`cook`) and which finished pictures are welcome (`check`).
    """

    id: str | None = field(default=None, repr=False)
    dtype: ClassVar[str] = "PIL.Image.Image"
    pa_type: ClassVar[pa.StructType]

    def __call__(self) -> pa.DataType:
        return self.pa_type

    def cook(self, cell: dict[str, Any]) -> PIL.Image.Image:
        raise NotImplementedError

    def check(self, pixels: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def from_file(self, path: str) -> dict[str, Any]:
        """A cell from the path of a finished picture."""
        return {**self._empty(), "data": Path(path).read_bytes()}

    def encode_example(self, value: Any) -> dict[str, Any]:
        """
        Takes recipes as they are; finished pictures as PIL images, arrays, or `{"bytes", "path"}` of `datasets.Image`.

        Raises:
            `TypeError`: anything else; `map` then takes the column for one of another type.
        """
        if isinstance(value, Mapping):
            if set(value) == self._fields():
                return dict(value)
            if set(value) == {"bytes", "path"}:
                return {**self._empty(), "data": value["bytes"]} if value["bytes"] else self.from_file(value["path"])
        if isinstance(value, PIL.Image.Image):
            value = np.asarray(value)
        if isinstance(value, np.ndarray):
            return {**self._empty(), "data": _png(self.check(value))}
        raise TypeError(f"Expected a picture for a column of {self._type}, got {type(value)}.")

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> PIL.Image.Image:
        """The picture of a cell."""
        if isinstance(value, PIL.Image.Image):  # iterable data sets decode what is decoded already
            return value
        if value["data"] is not None:
            return PIL.Image.fromarray(self.check(read_pixels(BytesIO(value["data"]), "A stored picture")))
        return self.cook(value)

    def cast_storage(self, storage: pa.Array) -> pa.Array:
        """Cells from arrow arrays of cells, of nested lists of pixels, or of `datasets.Image`."""
        if pa.types.is_null(storage.type) or storage.type == self.pa_type:
            return array_cast(storage, self.pa_type)
        if pa.types.is_struct(storage.type):
            names = {f.name for f in storage.type}
            if names == self._fields():
                columns = [storage.field(f.name).cast(f.type) for f in self.pa_type]
                return pa.StructArray.from_arrays(columns, fields=list(self.pa_type), mask=storage.is_null())
            if names == {"bytes", "path"}:
                return self._from_images(storage)
        if pa.types.is_list(storage.type):
            cells = [None if value is None else self.encode_example(np.array(value)) for value in storage.to_pylist()]
            return pa.array(cells, self.pa_type)
        raise TypeError(f"Cannot cast {storage.type} to {self._type}.")

    def _from_images(self, storage: pa.StructArray) -> pa.Array:
        data, paths = storage.field("bytes").cast(pa.binary()), storage.field("path").to_pylist()
        cells = [
            self.from_file(path) if missing and path is not None else self._empty()
            for missing, path in zip(data.is_null().to_pylist(), paths, strict=True)
        ]
        columns = {f.name: pa.array([cell[f.name] for cell in cells], f.type) for f in self.pa_type}
        # Bytes in the table are not copied where possible: they may be all pictures of a large data set.
        read = columns["data"]
        columns["data"] = data if read.null_count == len(read) else pc.coalesce(data, read)
        return pa.StructArray.from_arrays(list(columns.values()), fields=list(self.pa_type), mask=storage.is_null())

    def flatten(self) -> "LazyPicture":
        return self

    def _fields(self) -> set[str]:
        return {f.name for f in self.pa_type}

    def _empty(self) -> dict[str, Any]:
        return dict.fromkeys(f.name for f in self.pa_type)


@register
@dataclass
class LabelMap(LazyPicture):
    """
    Label maps: PIL images of mode L holding the ids of the corpus's `id2label`, 255 = ignore.

    A cell is either a file in the corpus's own coding with the table that translates it, or a finished map in `data`.
    Pictures, arrays and files that the user puts in count as finished: they hold final ids.
    """

    _type: str = field(default="VfmsegLabelMap", init=False, repr=False)
    # `file`: location of the label file; `image`: that of the picture that it has to cover; `coding`: None or one of
    # the constants above; `table[original id]` = id, or with the coding `colours` `table[i]` = id of `colours[i]`.
    pa_type: ClassVar[pa.StructType] = pa.struct(
        {
            "file": pa.string(),
            "image": pa.string(),
            "coding": pa.string(),
            "colours": pa.list_(pa.int32()),
            "table": pa.list_(pa.int16()),
            "data": pa.binary(),
        }
    )

    def cook(self, cell: dict[str, Any]) -> PIL.Image.Image:
        """
        Raises:
            `ValueError`: ids or colours that the table does not know, a file in another coding, or another size than
                the picture's.
            `OSError`: a file that is missing or cannot be read.
            `ImportError`: the coding needs torchvision, which is not installed.
        """
        path, table = cell["file"], tuple(cell["table"])
        if cell["coding"] == COLOURS:
            ids = translate_colours(read_colours(path), tuple(cell["colours"]), table, path)
        else:
            ids = translate(as_ids(READERS[cell["coding"]](path), path), table, path)
        if cell["image"] is not None:
            expected = upright_size(cell["image"])
            if expected != ids.shape[::-1]:
                raise ValueError(
                    f"The label map {path} is {ids.shape[1]}x{ids.shape[0]} pixels, its picture {cell['image']} is "
                    f"{expected[0]}x{expected[1]}. Restore both files from the owner's, or leave out this frame."
                )
        return PIL.Image.fromarray(ids)

    def check(self, pixels: np.ndarray) -> np.ndarray:
        return as_ids(pixels)

    def from_file(self, path: str) -> dict[str, Any]:
        return {**self._empty(), "file": path, "table": list(range(256))}

    def embed_storage(
        self,
        storage: pa.StructArray,
        token_per_repo_id: Any = None,
        local_files: bool = True,
        remote_files: bool = True,
    ) -> pa.StructArray:
        """Finished maps in place of files: what `push_to_hub` sends (`save_to_disk` keeps files and tables)."""
        if not local_files:
            return storage
        cells = []
        for cell in storage.to_pylist():
            if cell is not None and cell["data"] is None:
                data = _png(np.asarray(self.cook(cell)))
                cell = {**self._empty(), "file": base_name(cell["file"]), "data": data}
            cells.append(cell)
        return pa.array(cells, self.pa_type)


def label_cell(
    file: str, image: str, table: list[int], coding: str | None = None, colours: list[int] | None = None
) -> dict[str, Any]:
    """A cell of a `LabelMap` column: locations of both files, `table` and `colours` as the type describes them."""
    return {"file": file, "image": image, "coding": coding, "colours": colours, "table": table, "data": None}


def id_table(mapping: Mapping[int, int]) -> list[int]:
    """The table of a `LabelMap` cell from `{original id: id}`; original ids that are not in it are unknown."""
    return [mapping.get(index, UNKNOWN) for index in range(max(mapping) + 1)]


@register
@dataclass
class Picture(Image):
    """
    `datasets.Image` that also reads members of zip archives through the handle of this process.

    All corpora of files have it, in folders and in archives, so that their data sets can be concatenated.
    """

    _type: str = field(default="VfmsegPicture", init=False, repr=False)

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> PIL.Image.Image:
        """Raises `OSError` for a file or member that is missing or cannot be read; the message names it."""
        content = {"bytes": read_bytes(value["path"]), "path": None} if _is_member(value) else value
        try:
            return super().decode_example(content, token_per_repo_id)
        except FileNotFoundError:
            raise  # names the file
        except OSError as error:
            raise OSError(
                f"Cannot read the picture {value['path']}: {error}. Restore the file from the owner's."
            ) from error

    def embed_storage(
        self,
        storage: pa.StructArray,
        token_per_repo_id: Any = None,
        local_files: bool = True,
        remote_files: bool = True,
    ) -> pa.StructArray:
        if local_files:
            cells = [
                {"bytes": read_bytes(cell["path"]), "path": base_name(cell["path"])} if _is_member(cell) else cell
                for cell in storage.to_pylist()
            ]
            storage = pa.array(cells, self.pa_type)
        return super().embed_storage(storage, token_per_repo_id, local_files, remote_files)


def _is_member(cell: Any) -> bool:
    """Whether a cell of a picture column names a member of an archive that is still to be read."""
    return isinstance(cell, Mapping) and cell["bytes"] is None and split_location(cell["path"] or "") is not None


def picture_column() -> Picture:
    """The column type of pictures in files: RGB, decoded when read."""
    return Picture(mode="RGB")


# --- reading label files ------------------------------------------------------------------------------------------


def read_pixels(source: Any, name: str) -> np.ndarray:
    """
    The values stored in a picture file: palettes are not looked up, 16-bit values are not scaled.

    Raises:
        `OSError`: the file is missing, empty, truncated or no picture; the message names it.
    """
    try:
        with (
            open_location(source) if isinstance(source, str) else nullcontext(source) as file,
            PIL.Image.open(file) as image,
        ):
            stored = image.tile[0][3] if image.tile else None
            pixels = np.asarray(image)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The file {name} is gone. Restore it, or load the corpus again from where it is now."
        ) from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on broken files
        raise OSError(f"Cannot read {name}: {error}. Restore the file from the owner's.") from error
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
            f"The file {path} is gone. Restore it, or load the corpus again from where it is now."
        ) from error
    except (RuntimeError, ValueError) as error:
        raise OSError(f"Cannot read {path}: {error}. Restore the file from the owner's.") from error
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
            pixels = np.asarray(image.convert("RGB"), dtype=np.int32) if mode in ("RGB", "RGBA", "P", "L") else None
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The file {path} is gone. Restore it, or load the corpus again from where it is now."
        ) from error
    except Exception as error:
        raise OSError(f"Cannot read {path}: {error}. Restore the file from the owner's.") from error
    if pixels is None:
        raise ValueError(f"{path} is of mode {mode}, expected colours of 8 bits per channel.")
    return pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]


READERS = {None: read_stored, INSTANCES: read_instances, RED16: read_red16}


def as_ids(pixels: np.ndarray, name: str = "A label map") -> np.ndarray:
    """
    `uint8` `[H, W]` from whole numbers `[H, W]` or `[1, H, W]`.

    Raises:
        `TypeError`: not an image of whole numbers.
        `ValueError`: colours, or ids outside 0..255.
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
            raise ValueError(
                f"{name} holds ids from {pixels.min()} to {pixels.max()}; ids are 0..255, where 255 = ignore."
            )
        pixels = pixels.astype(np.uint8)
    return pixels


def translate(ids: np.ndarray, table: tuple[int, ...], path: str) -> np.ndarray:
    """
    `table[id]` for every pixel of `ids` (`uint8` `[H, W]`).

    Raises:
        `ValueError`: ids that are not in the table.
    """
    by_byte, mark = _byte_table(table)
    mapped = ids.tobytes().translate(by_byte)
    if mark is not None and mark in mapped:
        unknown = [int(i) for i in np.unique(ids) if i >= len(table) or table[i] == UNKNOWN]
        known = [i for i, target in enumerate(table) if target != UNKNOWN]
        raise ValueError(
            f"The label map {path} holds ids {unknown}, which this corpus does not have; it has {known}. Is the file "
            "of this corpus and in its original coding? Restore it from the owner's, or correct these pixels."
        )
    return np.frombuffer(mapped, np.uint8).reshape(ids.shape)


def translate_colours(pixels: np.ndarray, colours: tuple[int, ...], table: tuple[int, ...], path: str) -> np.ndarray:
    """
    `table[i]` where a pixel of `pixels` (`[H, W]`, from `read_colours`) is `colours[i]`; ids as `uint8` `[H, W]`.

    Raises:
        `ValueError`: colours that are not listed, unless `ANY_COLOUR` is.
    """
    mapped = _colour_table(colours, table)[pixels]
    if mapped.min(initial=0) == UNKNOWN:
        unknown = [f"#{colour:06x}" for colour in np.unique(pixels[mapped == UNKNOWN])[:10]]
        known = [f"#{colour:06x}" for colour in colours]
        raise ValueError(
            f"The label map {path} holds colours {unknown}, which this corpus does not have; it has {known}. List them "
            "in the file of the corpus, or correct these pixels."
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


def upright_size(path: str) -> tuple[int, int]:
    """Width and height of a picture as `datasets.Image` gives it, turned by its EXIF tag; reads the header only."""
    try:
        with open_location(path) as file, PIL.Image.open(file) as image:
            # The plain method: that of PNG files decodes the picture to look for tags behind it.
            turned = PIL.Image.Image.getexif(image).get(ORIENTATION_TAG) in (5, 6, 7, 8)
            return image.size[::-1] if turned else image.size
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The picture {path} is gone. Restore it, or load the corpus again from where it is now."
        ) from error
    except OSError as error:
        raise OSError(f"Cannot read the picture {path}: {error}. Restore the file from the owner's.") from error


def _png(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
