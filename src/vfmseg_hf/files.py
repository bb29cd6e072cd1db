# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Writing result files."""

import os
from io import BytesIO
from pathlib import Path

from PIL import Image


def write_file(path: str | os.PathLike, content: bytes | str) -> None:
    """All of the file or none of it: whoever stops the run finds no truncated result. Missing folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # others may write the same file now
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def encode_picture(image: Image.Image, file_format: str, **options) -> bytes:
    """The bytes of a picture file; `options` are those of Pillow's `save`."""
    buffer = BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()
