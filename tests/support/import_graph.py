# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""
What imports what in the package, read from its source without running it; and the maps that are made of it.

A room is a folder with modules in it, or what lies in the root beside the rooms. `[tool.vfmseg_hf.rooms]` in
pyproject.toml says which rooms there are, from bottom to top, and what each may import.

    python -m tests.support.import_graph    # writes the maps into CONTRIBUTING.md and README.md
"""

import ast
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import REPOSITORY, SOURCE


PACKAGE = "vfmseg_hf"
BEGIN, END = "<!-- map: begin, written by `make map` -->", "<!-- map: end -->"


@dataclass
class Module:
    """A syntax tree; a package's relative imports begin at itself."""

    tree: ast.Module
    is_package: bool = False


Graph = Mapping[str, set[str]]


def read_modules(source: Path = SOURCE, package: str = PACKAGE) -> dict[str, Module]:
    """Every module below `source / package`, by dotted name."""
    modules = {}
    for path in sorted((source / package).rglob("*.py")):
        *folders, name = path.relative_to(source).with_suffix("").parts
        dotted = ".".join(folders if name == "__init__" else [*folders, name])
        modules[dotted] = Module(ast.parse(path.read_text(encoding="utf-8"), str(path)), name == "__init__")
    return modules


def import_graph(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """
    What every module takes from the others, wherever it says so: at its top, in functions, under `TYPE_CHECKING`, with
    `import_module`, and by the name of a class in an annotation that is a string.
    """
    homes: dict[str, set[str]] = {}
    for name, module in modules.items():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, set()).add(name)
    graph = {}
    for name, module in modules.items():
        names = [*_imports(name, module), *filter(None, _loads(name, module))]
        found = {target for dotted in names for target in _known(dotted, modules)}
        for word in _words_in_strings(module.tree) - _own_names(module.tree):
            found |= homes.get(word) or _known(word, modules)
        graph[name] = found - {name}
    return graph


def unreadable_loads(modules: Mapping[str, Module]) -> set[str]:
    """The modules that load something by a name which is not written out, so that no arrow can be drawn."""
    return {name for name, module in modules.items() if None in _loads(name, module)}


def _absolute(dotted: str, level: int, name: str, is_package: bool) -> str:
    if not level:
        return dotted
    here = name.split(".")
    here = here[: len(here) + is_package - level]
    return ".".join([*here, dotted] if dotted else here)


def _imports(name: str, module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node.module or "", node.level, name, module.is_package)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _loads(name: str, module: Module) -> Iterator[str | None]:
    """What is loaded with `import_module` and `__import__`; None where it is not written out."""
    loaders = {"import_module", "__import__"}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module == "importlib":
            loaders |= {alias.asname for alias in node.names if alias.name == "import_module" and alias.asname}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in loaders:
            given = [*node.args[:1], *(keyword.value for keyword in node.keywords if keyword.arg == "name")]
            text = given[0].value if given and isinstance(given[0], ast.Constant) else None
            level = len(text) - len(text.lstrip(".")) if text else 0
            yield text and _absolute(text[level:], level, name, module.is_package)


def _known(dotted: str, modules: Mapping[str, Module]) -> set[str]:
    """The module that a dotted name is, or is a name of."""
    parent = dotted.rpartition(".")[0]
    return {dotted} if dotted in modules else {parent} if parent in modules else set()


def _words_in_strings(tree: ast.AST) -> set[str]:
    """Names, whole where they have dots, in the texts of annotations."""
    words = set()
    for node in ast.walk(tree):
        annotations = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "cast":
            annotations += node.args[:1]
        for text in (text for annotation in annotations if annotation for text in _texts(annotation)):
            inner = ast.walk(ast.parse(text, mode="eval"))
            words |= {ast.unparse(word) for word in inner if isinstance(word, ast.Name | ast.Attribute)}
    return {word for word in words if not any(other.startswith(f"{word}.") for other in words)}


def _texts(annotation: ast.AST) -> Iterator[str]:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        yield annotation.value
    elif not (isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).endswith("Literal")):
        for part in ast.iter_child_nodes(annotation):
            yield from _texts(part)


def _own_names(tree: ast.Module) -> set[str]:
    """What a module imports or defines, of which a string in it can speak."""
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    return imported | {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def find_circle(graph: Graph) -> list[str]:
    """A chain that ends where it begins; empty where there is none."""
    done: set[str] = set()

    def search(name: str, chain: list[str]) -> list[str]:
        if name in chain:
            return [*chain[chain.index(name) :], name]
        if name in done:
            return []
        found = next((circle for target in sorted(graph[name]) if (circle := search(target, [*chain, name]))), [])
        done.add(name)
        return found

    return next((circle for name in sorted(graph) if (circle := search(name, []))), [])


def room_of(name: str, modules: Mapping[str, Module]) -> str:
    """The folder that a module lies in, without the package's name; the package's name for what lies in its root."""
    package, *folders = name.split(".") if modules[name].is_package else name.split(".")[:-1]
    return ".".join(folders) or package


def arrows_between_rooms(modules: Mapping[str, Module]) -> dict[tuple[str, str], list[str]]:
    """
    The files behind every arrow from room to room.

    A room is the door of the rooms inside it: its own `__init__` may hand out what they have.
    """
    arrows: dict[tuple[str, str], list[str]] = {}
    for name, targets in import_graph(modules).items():
        for target in sorted(targets):
            ends = room_of(name, modules), room_of(target, modules)
            is_door = modules[name].is_package and ends[1].startswith(f"{ends[0]}.")
            if ends[0] != ends[1] and not is_door:
                arrows.setdefault(ends, []).append(f"{name} -> {target}")
    return arrows


def allowed_arrows() -> dict[str, list[str]]:
    """The table of pyproject.toml: what each room may import, from bottom to top."""
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"][PACKAGE]["rooms"]


def _what_is_in(room: str, modules: Mapping[str, Module]) -> str:
    name = PACKAGE if room == PACKAGE else f"{PACKAGE}.{room}"
    return (ast.get_docstring(modules[name].tree) or "").partition("\n")[0]


def maps(modules: Mapping[str, Module]) -> dict[str, str]:
    """The map of the rooms for each file that has one, from top to bottom, as Markdown."""
    whole, short = ["| room | what is in it | imports |", "| --- | --- | --- |"], ["| room | what |", "| --- | --- |"]
    for room, allowed in reversed(allowed_arrows().items()):
        path = f"`{room.replace('.', '/')}/`" if room != PACKAGE else "the root"
        what = _what_is_in(room, modules).rstrip(".")
        whole.append(f"| {path} | {what} | {', '.join(allowed) or 'nothing'} |")
        short.append(f"| {path} | {what} |")
    return {"CONTRIBUTING.md": "\n".join(whole), "README.md": "\n".join(short)}


def with_map(text: str, map_: str) -> str:
    """The text of a file with this map between the two marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{map_}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    for name, map_ in maps(read_modules()).items():
        file = REPOSITORY / name
        file.write_text(with_map(file.read_text(encoding="utf-8"), map_), encoding="utf-8")
