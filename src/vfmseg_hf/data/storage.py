# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Where the files of a dataset lie: in folders, or in zip archives that are read in place.

A location is a path, or `zip://<member>::<archive>`, the way fsspec and `datasets` write members of archives. Members
are read through one open handle per archive and process: finding a member in an open archive costs microseconds, while
reading the list of contents of a large archive again would cost a good part of a second for every image.

A path on disk that is written as `file://<path>`, also that of an archive, says that the image there is turned as its
EXIF tag asks for. It is part of the location because that goes wherever rows of a dataset go, and is the same in the
cells of an image and its label map; and it looks so because `datasets` finds such files, where it asks for sizes.
"""

import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from ..utils.image_files import clutter, list_files, suffix_of, summarise
from .findings import BROKEN_ARCHIVES, TWICE, report_problem, warn


SCHEME = "zip://"
UPRIGHT = "file://"
OTHER_ARCHIVES = (".rar", ".7z", ".tar", ".tgz", ".tar.gz")


class _Handle(NamedTuple):
    """An open archive, and the state of its file when it was opened."""

    state: tuple[int, int]
    archive: zipfile.ZipFile


# Open archives by process and path. A handle that came through a fork shares its position in the file with the parent,
# so that both would read each other's bytes; hence the process in the key.
_handles: dict[tuple[int, str], _Handle] = {}


def file_state(path: str | Path) -> tuple[int, int]:
    """What tells a changed file: size in bytes, time of change in nanoseconds. Raises `OSError` for a missing one."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def member_location(archive: str | Path, member: str) -> str:
    """The location of a member of an archive."""
    return f"{SCHEME}{member}::{archive}"


def upright_location(location: str) -> str:
    """The location of an image that is to be turned as its EXIF tag asks for."""
    member, separator, path = location.rpartition("::")
    return f"{member}{separator}{UPRIGHT}{path}"


def is_upright(location: str) -> bool:
    """Whether a location is one of `upright_location`."""
    return location.rpartition("::")[2].startswith(UPRIGHT)


def plain_location(location: str) -> str:
    """A location without what `upright_location` has added, if it has."""
    member, separator, path = location.rpartition("::")
    return f"{member}{separator}{path.removeprefix(UPRIGHT)}"


def split_location(location: str) -> tuple[str, str] | None:
    """Archive and member of a location, None for a plain path."""
    location = plain_location(location)
    if not location.startswith(SCHEME):
        return None
    member, _, archive = location.removeprefix(SCHEME).rpartition("::")
    return archive, member


def base_name(location: str) -> str:
    """The name of the file at a location, without folders and archive."""
    inside = split_location(location)
    return inside[1].rpartition("/")[2] if inside else os.path.basename(location)


def open_archive(path: str) -> zipfile.ZipFile:
    """
    The handle of an archive in this process, opened when first asked for and when the file has changed; never close it.

    Raises:
        `FileNotFoundError`, `OSError`: the archive is missing or no zip archive; the message names it.
    """
    key = os.getpid(), path
    try:
        state = file_state(path)
        if key not in _handles or _handles[key].state != state:
            for other in [other for other in _handles if other[0] != key[0]]:  # the parent's, useless here
                _handles.pop(other, None)
            # A handle that this one replaces closes itself when the last of its readers is done.
            _handles[key] = _Handle(state, zipfile.ZipFile(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The archive {path} is gone. Restore it, or load the dataset again from where it is now."
        ) from error
    except zipfile.BadZipFile as error:
        raise OSError(f"Cannot read the archive {path}: {error}. Download it again from the owner.") from error
    return _handles[key].archive


@contextmanager
def open_location(location: str) -> "Iterator[str | IO[bytes]]":
    """
    What Pillow opens for a location: the path itself, or a member of an archive, decompressed as far as it is read.

    Raises:
        `FileNotFoundError`, `OSError`: the archive or its member is missing or damaged; the message names it.
    """
    inside = split_location(location)
    if inside is None:
        yield plain_location(location)
        return
    archive, member = inside
    handle = open_archive(archive)  # once: the archive may be replaced between two calls
    try:
        entry = handle.getinfo(member)
    except KeyError as error:
        raise FileNotFoundError(
            f"The archive {archive} has no member {member}. Restore it from the owner's."
        ) from error
    try:
        with handle.open(entry) as file:
            yield file
    except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:  # the last for encryption and odd codecs
        raise OSError(f"Cannot read {location}: {error}. Download the archive again from the owner.") from error


def read_bytes(location: str) -> bytes:
    """The content of a location. Raises as `open_location` does."""
    with open_location(location) as file:
        return Path(file).read_bytes() if isinstance(file, str) else file.read()


class Storage:
    """
    The files of one dataset: a folder in the owner's layout, archives in a folder, or one archive.

    Args:
        root: the folder, or the zip archive.
        name: the dataset, for messages.
        layout: what is expected below `root`, for messages.

    Attributes:
        left_out: what the last call of `files` did not take: location to reason, as of `image_files.Listing`.
    """

    def __init__(self, root: Path, name: str, layout: str):
        self.root, self.name, self.layout = root, name, layout
        self.archives = [root] if root.is_file() else [path for path in sorted(root.iterdir()) if _is_archive(path)]
        self.left_out: dict[str, str] = {}
        self._broken: dict[Path, str] = {}  # archives that cannot be read, with reasons

    def files(self, folder: str, suffixes: str | Sequence[str], any_case: bool = False) -> dict[str, str]:
        """
        All files below `folder`: `{path below the folder, without the suffix: location}`, in the order of the paths.

        The folder is looked for below the root, then one and two levels deeper (archives unpacked into folders of
        their own, whose contents are taken together), then in the archives under any parent. Unpacked folders come
        before archives. Empty if there is none. Archives that cannot be read are skipped, with a notice; hidden and
        system files and folders without one. `any_case`: whether suffixes in capitals count as well.

        Raises:
            `ValueError`: two folders or archives hold the same files, so that one would win by chance.
        """
        suffixes = (suffixes,) if isinstance(suffixes, str) else tuple(suffixes)

        def without_suffix(name: str) -> str | None:
            """The file name without its suffix, None for a name that has none of them."""
            ending = name.lower() if any_case else name
            return next((name[: -len(suffix)] for suffix in suffixes if ending.endswith(suffix)), None)

        self.left_out = {}
        found = self._unpacked(folder, without_suffix) or self._packed(folder, without_suffix)
        return dict(sorted(found.items()))

    def expect(self, folder: str, suffixes: str | Sequence[str], any_case: bool = False) -> dict[str, str]:
        """As `files`. Raises `FileNotFoundError` with the expected layout if there is none."""
        found = self.files(folder, suffixes, any_case)
        if not found:
            raise self.missing(folder, suffixes)
        return found

    def missing(self, folder: str, suffixes: str | Sequence[str]) -> FileNotFoundError:
        """The error for a folder that is not there; it names archives that cannot be read, as they may hold it."""
        wanted = suffixes if isinstance(suffixes, str) else " or ".join(suffixes)
        packed = f"{len(self.archives)} zip archive{'' if len(self.archives) == 1 else 's'}"
        foreign = [path.name for path in self.root.glob("*.*") if path.name.lower().endswith(OTHER_ARCHIVES)]
        reasons = [f"Unpack {', '.join(sorted(foreign))}: only zip archives are read in place."] if foreign else []
        reasons += self._broken.values()
        reasons += [f"Left out are {summarise(self.left_out.values())}."] if self.left_out else []
        return FileNotFoundError(
            f"No {folder}/**/*{wanted} in {self.root}, neither unpacked nor in its {packed}. "
            f"{''.join(f'{reason} ' for reason in reasons)}The dataset {self.name} is read as its owners ship it: "
            f"{self.layout}. Point to the folder that holds this, or complete the copy."
        )

    def _unpacked(self, folder: str, without_suffix: Callable[[str], str | None]) -> dict[str, str]:
        if self.root.is_file():
            return {}
        parents, places = [self.root], []
        for _ in range(3):
            if places := [parent / folder for parent in parents if os.path.isdir(parent / folder)]:
                break
            parents = [child for parent in parents for child in _subfolders(parent)]
        found: dict[str, str] = {}
        for place in places:
            listing = list_files(place, lambda name: without_suffix(name) is not None)
            for path in listing.files:
                below, slash, name = path.rpartition("/")
                self._add(found, below + slash + without_suffix(name), os.path.join(place, path))
            self.left_out.update((os.path.join(place, path), reason) for path, reason in listing.left_out.items())
        return found

    def _packed(self, folder: str, without_suffix: Callable[[str], str | None]) -> dict[str, str]:
        found: dict[str, str] = {}
        wanted = f"/{folder}/"
        for archive in self.archives:
            for member in self._members(archive):
                before, there, path = f"/{member}".partition(wanted)
                below, slash, name = path.rpartition("/")
                if not there or not name:
                    continue
                location, key = member_location(archive, member), without_suffix(name)
                reason = next(filter(None, map(clutter, f"{before}/{path}".split("/"))), None)
                if key is None or reason:
                    self.left_out[location] = reason or suffix_of(name)
                else:
                    self._add(found, below + slash + key, location)
        return found

    def _members(self, archive: Path) -> list[str]:
        try:
            # Asked beforehand: zipfile opens some of these, and then finds no member where it should be.
            if archive.with_suffix(".z01").exists():
                join = f"`zip -s 0 {archive.name} --out whole.zip`"
                raise OSError(f"Cannot read {archive}, the last part of a split archive. Join the parts with {join}.")
            return open_archive(str(archive)).namelist()
        except OSError as error:
            self._broken[archive] = str(error)
            warn(BROKEN_ARCHIVES, {str(archive): str(error)}, f"{self.name}: an archive is skipped. {error}")
            return []

    def _add(self, found: dict[str, str], key: str, location: str) -> None:
        if key in found:
            message = f"{self.name} holds one file twice: {found[key]} and {location}. Move one of them elsewhere."
            report_problem(TWICE, {location: f"also {found[key]}"}, ValueError(message))
        found.setdefault(key, location)


def _is_archive(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and not clutter(path.name)


def _subfolders(folder: Path) -> list[Path]:
    """In the order of their names; none of a folder that may not be read, such as `lost+found`."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and not clutter(entry.name)]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]
