# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Column types of `datasets` whose images are worked out when a row is read.

What a cell means travels with the cell, not with a transform of the dataset: `map`, `save_to_disk`,
`concatenate_datasets` and workers of a DataLoader drop transforms in places, and would then hand out original ids.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Image
from datasets.features.features import _FEATURE_TYPES, register_feature
from datasets.table import array_cast

from ..evaluation.classes import UNKNOWN
from ..model.image_inputs import as_stored, to_rgb, turn_upright, unreadable
from .reading import RESTORE, as_ids, read_header, read_label, read_pixels, translate_label
from .storage import base_name, is_upright, plain_location, read_bytes, split_location, upright_location


def register(feature: type) -> type:
    """Class decorator: makes stored datasets with this column type readable wherever the library is imported."""
    name = feature._type
    if _FEATURE_TYPES.get(name) is not feature:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "register_feature is experimental"
            register_feature(feature, name)
    return feature


@dataclass
class LazyImage:
    """
    Base of column types. A cell is a struct of `pa_type`: it says where its image comes from, or holds the bytes of a
    finished one in `data`.

    Subclasses say how an image is had from there (`read`) and which finished images are welcome (`check`).
    """

    id: str | None = field(default=None, repr=False)
    dtype: ClassVar[str] = "PIL.Image.Image"
    pa_type: ClassVar[pa.StructType]

    def __call__(self) -> pa.DataType:
        return self.pa_type

    def read(self, cell: dict[str, Any]) -> PIL.Image.Image:
        raise NotImplementedError

    def check(self, pixels: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def from_file(self, path: str) -> dict[str, Any]:
        """A cell from the path of a finished image."""
        return {**self._empty(), "data": Path(path).read_bytes()}

    def encode_example(self, value: Any) -> dict[str, Any]:
        """
        Takes cells as they are; finished images as PIL images, arrays, or `{"bytes", "path"}` of `datasets.Image`.

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
        raise TypeError(f"Expected an image for a column of {self._type}, got {type(value)}.")

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> PIL.Image.Image:
        """The image of a cell."""
        if isinstance(value, PIL.Image.Image):  # iterable datasets decode what is decoded already
            return value
        if value["data"] is not None:
            return PIL.Image.fromarray(self.check(read_pixels(BytesIO(value["data"]), "A stored image")))
        return self.read(value)

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
        # Bytes in the table are not copied where possible: they may be all images of a large dataset.
        read = columns["data"]
        columns["data"] = data if read.null_count == len(read) else pc.coalesce(data, read)
        return pa.StructArray.from_arrays(list(columns.values()), fields=list(self.pa_type), mask=storage.is_null())

    def flatten(self) -> "LazyImage":
        return self

    def _fields(self) -> set[str]:
        return {f.name for f in self.pa_type}

    def _empty(self) -> dict[str, Any]:
        return dict.fromkeys(f.name for f in self.pa_type)


@register
@dataclass
class LabelMap(LazyImage):
    """
    Label maps: PIL images of mode L holding the ids of the dataset's `id2label`, 255 = ignore.

    A cell is either a file in the dataset's own coding with the table that translates it, or a finished map in `data`.
    Images, arrays and files that the user puts in count as finished: they hold final ids.

    Attributes:
        names: of the ids, as `datasets.ClassLabel` has them; they are stored with the dataset.
    """

    names: list[str] | None = None
    _type: str = field(default="VfmsegLabelMap", init=False, repr=False)
    # `file`: location of the label file; `image`: that of the image that it has to cover; `coding`: None or a
    # constant of `reading`; `table[original id]` = id, or with the coding `colours` `table[i]` = id of `colours[i]`.
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

    def read(self, cell: dict[str, Any]) -> PIL.Image.Image:
        """
        Raises:
            `ValueError`: ids or colours that the table does not know, a file in another coding, or another size than
                the image's.
            `OSError`: a file that is missing or cannot be read.
            `ImportError`: the coding needs torchvision, which is not installed.
        """
        ids = translate_label(read_label(cell), cell)
        if cell["image"] is not None:
            image = plain_location(cell["image"])
            header = read_header(cell["image"], image)
            if header.size != ids.shape[::-1]:
                raise ValueError(
                    f"The label map {cell['file']} is {ids.shape[1]}x{ids.shape[0]} pixels, its image "
                    f"{image} is {header}. Restore both files from the owner's, or leave out this frame."
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
                data = _png(np.asarray(self.read(cell)))
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
class StoredImage(Image):
    """
    `datasets.Image` for images that label maps were drawn on: their pixels stay where they are stored.

    An EXIF tag that asks for turning or mirroring is followed in cells whose path says so (see `storage`), and in no
    others, as nothing would turn their label maps. No image that is handed out has such a tag. Members of zip
    archives are read through the handle of this process. All datasets of files have this type, in folders and in
    archives, so that their datasets can be concatenated.
    """

    _type: str = field(default="VfmsegPicture", init=False, repr=False)

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> PIL.Image.Image:
        """
        The image. That of a file knows its file, so that `map` stores the name of it; any other one, and one that was
        turned, has no format, so that `map` stores it without loss.

        RGB is what the image processor makes of the image: 16 bits are scaled, not clipped.

        Raises:
            `OSError`: the file or member is missing or cannot be read; the message names it.
            `ValueError`: an image that the image processor refuses, such as one of floats.
        """
        if not isinstance(value, Mapping):  # iterable datasets decode what is decoded already
            return value
        content, upright = value["bytes"], is_upright(value["path"] or "")
        path = plain_location(value["path"] or "") or None
        if content is None and path is not None and "://" in path and not _is_member(value):
            return self._in_mode(Image().decode_example(value, token_per_repo_id), path)
        if content is None and _is_member(value):
            content = read_bytes(path)
        try:
            image = PIL.Image.open(path if content is None else BytesIO(content))
            position = turn_upright(image) if upright else as_stored(image)
            position.load()
        except FileNotFoundError:
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on broken files
            raise unreadable(f"the image {path or 'in a table'}", error, RESTORE) from error
        if position is not image and not upright:
            position.filename = image.filename
        return self._in_mode(position if content is None else position.copy(), path)  # a copy has no format

    def _in_mode(self, image: PIL.Image.Image, path: str | None) -> PIL.Image.Image:
        if self.mode == "RGB":
            return to_rgb(image, f"The image {path}" if path else "The image")
        return image if image.mode == (self.mode or image.mode) else image.convert(self.mode)

    def embed_storage(
        self,
        storage: pa.StructArray,
        token_per_repo_id: Any = None,
        local_files: bool = True,
        remote_files: bool = True,
    ) -> pa.StructArray:
        cells = storage.to_pylist()
        upright = [cell is not None and is_upright(cell["path"] or "") for cell in cells]
        if local_files:
            cells = [
                {"bytes": read_bytes(cell["path"]), "path": base_name(cell["path"])}
                if _is_member(cell) or (turned and cell["bytes"] is None)
                else cell
                for cell, turned in zip(cells, upright, strict=True)
            ]
            storage = pa.array(cells, self.pa_type)
        storage = super().embed_storage(storage, token_per_repo_id, local_files, remote_files)
        return _mark_upright(storage, upright, self.pa_type) if any(upright) else storage


@register
@dataclass
class _MarkedImage(StoredImage):
    """
    A step on the way of `turn_column`: marks its cells when they are cast to it.

    Images in a table stay where they are, where `map` would copy them all. The arrow type differs from that of other
    images, as `datasets` casts nothing otherwise.
    """

    _type: str = field(default="VfmsegMarkedPicture", init=False, repr=False)
    pa_type: ClassVar[pa.StructType] = pa.struct({"bytes": pa.binary(), "path": pa.large_string()})

    def cast_storage(self, storage: pa.StructArray) -> pa.StructArray:
        return _mark_upright(storage, [True] * len(storage), self.pa_type)


def turn_column(dataset: Dataset, column: str) -> Dataset:
    """The dataset with a column of images that are turned as their EXIF tags ask for."""
    return dataset.cast_column(column, _MarkedImage(mode="RGB")).cast_column(column, image_column())


def _mark_upright(cells: pa.StructArray, which: Sequence[bool], pa_type: pa.StructType) -> pa.StructArray:
    """Cells of images, those of `which` with paths that have them turned; their bytes are not copied."""
    paths = [
        upright_location(path or "") if upright else path
        for path, upright in zip(cells.field("path").to_pylist(), which, strict=True)
    ]
    columns = [cells.field("bytes"), pa.array(paths, pa_type.field("path").type)]
    return pa.StructArray.from_arrays(columns, fields=list(pa_type), mask=cells.is_null())


def _is_member(cell: Any) -> bool:
    """Whether a cell of an image column names a member of an archive that is still to be read."""
    return isinstance(cell, Mapping) and cell["bytes"] is None and split_location(cell["path"] or "") is not None


def image_column() -> StoredImage:
    """The column type of images in files: RGB, decoded when read."""
    return StoredImage(mode="RGB")


def _png(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
