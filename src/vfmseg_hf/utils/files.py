# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Reading the files that users write, and writing result files."""

import json
import os
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from PIL import Image


def read_settings(path: str | os.PathLike) -> Any:
    """
    What a YAML or JSON file says, the latter where its name ends with `.json`. Nothing of it is lost or turned into
    something else without a word: both formats let the last of two equal keys win, and YAML takes 010 for 8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML or JSON, or a key stands twice in one place; the message names both, and the line.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    is_json = path.suffix.lower() == ".json"
    try:
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=_distinct) if is_json else yaml.load(text, _StrictLoader)
    except (ValueError, yaml.YAMLError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        reason = (f"line {mark.line + 1}: " if mark else "") + " ".join(str(problem).split())
        raise ValueError(f"{path} cannot be read as {'JSON' if is_json else 'YAML'}: {reason}") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return content


class _StrictLoader(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        seen = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode) and name.tag != "tag:yaml.org,2002:merge":
                key = self.construct_object(name)
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} stands twice", name.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node):
        value = super().construct_yaml_int(node)
        if re.fullmatch(r"[-+]?(0[0-9_]+|.*:.*)", node.value):
            problem = f"YAML takes {node.value} for {value}; write {value}, or quotes around a text"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)


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


def encode_image(image: Image.Image, file_format: str, **options) -> bytes:
    """The bytes of an image file; `options` are those of Pillow's `save`."""
    buffer = BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()
