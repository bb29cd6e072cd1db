# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Imports point downwards only, as the table in pyproject.toml says; and the reader of imports sees what it should."""

import ast
import sys

import pytest

from tests.support import REPOSITORY
from tests.support.import_graph import (
    PACKAGE,
    SOURCE,
    allowed_arrows,
    arrows_between_rooms,
    find_circle,
    import_graph,
    maps,
    read_modules,
    room_of,
    unreadable_loads,
    with_map,
)


# What they load is not written out: rooms by their public names, and packages whose versions are recorded.
LOADS_BY_NAME = {"vfmseg_hf", "vfmseg_hf.evaluation.results"}


@pytest.fixture(scope="module")
def modules():
    return read_modules()


def test_rooms_import_what_the_table_allows(modules):
    table = allowed_arrows()
    assert {room_of(name, modules) for name in modules} == set(table), "rooms, and rooms of the table"
    forbidden = {
        f"{room} -> {target}": files
        for (room, target), files in arrows_between_rooms(modules).items()
        if target not in table[room]
    }
    assert not forbidden


def test_the_table_points_downwards():
    below = []
    for room, allowed in allowed_arrows().items():
        assert set(allowed) <= set(below), f"{room} may import only rooms that stand above it in the table"
        below.append(room)


def test_no_circle(modules):
    files, arrows = import_graph(modules), arrows_between_rooms(modules)
    circle = find_circle(files)
    assert not circle, "of files"
    rooms = {room_of(name, modules) for name in modules}
    circle = find_circle({room: {target for start, target in arrows if start == room} for room in rooms})
    assert not circle, "of rooms"


def test_every_load_can_be_read(modules):
    assert unreadable_loads(modules) <= LOADS_BY_NAME


def test_model_is_what_travels(modules):
    """transformers copies the files of one folder."""
    graph = import_graph(modules)
    inside = {name for name in modules if room_of(name, modules) == "model"}
    assert not any(modules[name].is_package for name in modules if name.startswith("vfmseg_hf.model."))
    assert {target for name in inside for target in graph[name]} <= inside


def test_the_package_itself_loads_models_only(modules):
    assert {room_of(target, modules) for target in import_graph(modules)[PACKAGE]} == {"methods", "model"}


def test_few_loose_modules():
    assert len(list((SOURCE / PACKAGE).glob("*.py"))) <= 5


@pytest.mark.parametrize("path", ["vfmseg_cli.py", "vfmseg_hf/cli/options.py"])
def test_a_command_is_judged_with_the_standard_library(path):
    tree = ast.parse((SOURCE / path).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


def test_the_maps_are_those_of_the_code(modules):
    for name, map_ in maps(modules).items():
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        assert text == with_map(text, map_), f"`make map` writes the map into {name}"


@pytest.fixture
def made_up(tmp_path):
    """Reads a package of two rooms in which `low/a.py`, or another file, is what is given; `high.b` imports `low.a`."""

    def read(text, path="low/a.py"):
        files = {
            "__init__.py": "",
            "low/__init__.py": "",
            "low/a.py": "class Low: ...",
            "high/__init__.py": "",
            "high/b.py": "from ..low.a import Low\nclass High: ...",
        } | {path: text}
        for name, code in files.items():
            file = tmp_path / "package" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(code)
        return read_modules(tmp_path, "package")

    return read


@pytest.mark.parametrize(
    "text",
    [
        "from ..high.b import High",
        "from ..high import b",
        "import package.high.b",
        "from package.high import b as other",
        "def f():\n    from ..high.b import High",
        "try:\n    from ..high import b\nexcept ImportError:\n    b = None",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..high.b import High",
        "def f(value: 'High'): ...",
        "def f() -> 'list[High] | None': ...",
        "def f(value: list['High']): ...",
        "class A:\n    value: 'High'",
        "def f(value: 'package.high.b.High'): ...",
        "from typing import cast\nvalue = cast('High', None)",
        "from importlib import import_module\nimport_module('package.high.b')",
        "import importlib\ndef f():\n    importlib.import_module('..high.b', __package__)",
        "from importlib import import_module as load\nload(name='package.high.b')",
        "__import__('package.high.b')",
    ],
)
def test_an_arrow_is_seen(text, made_up):
    modules = made_up(text)
    assert import_graph(modules)["package.low.a"] == {"package.high.b"}
    assert find_circle(import_graph(modules)) == ["package.high.b", "package.low.a", "package.high.b"]
    assert arrows_between_rooms(modules) == {
        ("low", "high"): ["package.low.a -> package.high.b"],
        ("high", "low"): ["package.high.b -> package.low.a"],
    }


@pytest.mark.parametrize(
    "text",
    [
        "import numpy.high",
        "from numpy import high",
        "class High: ...\ndef f(value: 'High'): ...",
        "from numpy import High\ndef f(value: 'High'): ...",
        "def f(value: Literal['High', 'x']): ...",
        "'''from ..high.b import High'''",
    ],
)
def test_what_is_no_arrow(text, made_up):
    modules = made_up(text)
    assert not import_graph(modules)["package.low.a"] and not find_circle(import_graph(modules))


def test_a_room_is_the_door_of_the_rooms_inside(made_up):
    modules = made_up("from . import a", "low/__init__.py") | made_up("from .. import a", "low/in/__init__.py")
    modules |= made_up("from . import a\nfrom .inner import c", "low/__init__.py")
    modules |= made_up("from ..a import Low", "low/inner/c.py") | made_up("", "low/inner/__init__.py")
    assert ("low", "low.inner") not in arrows_between_rooms(modules) and not find_circle(import_graph(modules))
    assert arrows_between_rooms(modules)["low.inner", "low"] == ["package.low.inner.c -> package.low.a"]
    modules = made_up("from .inner import c", "low/a.py")
    assert ("low", "low.inner") in arrows_between_rooms(modules), "other files of the room are no door"


@pytest.mark.parametrize("text", ["import_module(name)", "importlib.import_module(f'{a}.b')", "__import__(name)"])
def test_what_cannot_be_read_is_said(text, made_up):
    assert unreadable_loads(made_up(text)) == {"package.low.a"}
