# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Which files of a folder are images, what is left out of it, and how many pixels an image may have.

Prediction and datasets of files both look through folders here, so that they see the same files.
"""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import PIL.Image


# The last three only where Pillow can open them: it has to be built with a codec, or extended by pillow-heif.
SUFFIXES = (".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
OPTIONAL_SUFFIXES = (".avif", ".heic", ".heif")
# What file managers, servers and archivers put beside files of users, apart from names that begin with a dot.
SYSTEM_NAMES = frozenset(
    ("#recycle", "#snapshot", "$recycle.bin", "@eadir", "@recycle", "__macosx", "lost+found")
    + ("desktop.ini", "system volume information", "thumbs.db")
)
HIDDEN, SYSTEM = "hidden", "of the system"
LINKED_AGAIN = "linked to a folder that is taken already"
UNREADABLE = "that may not be read"

MAX_IMAGE_PIXELS = "178956970"  # of an image that Pillow opens by itself, and the default of the commands
MAX_IMAGE_PIXELS_HELP = "Refuse larger images, which may be decompression bombs; 0 or none for no limit."
_LIMIT_VARIABLE = "VFMSEG_MAX_IMAGE_PIXELS"  # for processes that do not inherit what was set in this one


# --- names --------------------------------------------------------------------------------------------------------


def image_suffixes() -> tuple[str, ...]:
    """How names of images end, in lower case, without formats that Pillow cannot open here."""
    known = PIL.Image.registered_extensions()
    return tuple(sorted((*SUFFIXES, *(suffix for suffix in OPTIONAL_SUFFIXES if suffix in known))))


def looks_like_image(name: str) -> bool:
    """Whether a file is an image by its name, of any format that Pillow knows and of those that it may not know."""
    suffix = suffix_of(name)
    return suffix in OPTIONAL_SUFFIXES or suffix in PIL.Image.registered_extensions()


def suffix_of(name: str) -> str:
    """The suffix of a file name in lower case, with its dot; empty if there is none."""
    return os.path.splitext(name)[1].lower()


def clutter(name: str) -> str | None:
    """Why a file or folder of this name is nobody's data: it is hidden, or of the system. None for all others."""
    if name.startswith("."):
        return HIDDEN
    return SYSTEM if name.lower() in SYSTEM_NAMES else None


# --- folders ------------------------------------------------------------------------------------------------------


@dataclass
class Listing:
    """
    What was found in a folder and below it.

    Attributes:
        files: paths below the folder, with `/`, in the order of the folders and names.
        left_out: the other files, and folders that were not entered, each with the reason: a suffix such as `.txt`
            (empty for none), or one of the constants above.
    """

    files: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def list_files(
    folder: str | os.PathLike, wanted: Callable[[str], object], skipped: Iterable[str | os.PathLike] = (), why: str = ""
) -> Listing:
    """
    The files in a folder and below it whose names are `wanted`.

    Hidden and system files and folders are left out. Folders that are links are entered after all others, and no
    folder twice, whichever links lead to it. Links to files that are gone are listed, for the reader to complain.

    Args:
        folder: where to begin, whatever its name.
        wanted: is called with names of files, without their folders; what it returns is true for wanted ones.
        skipped, why: folders that are not entered, and the reason to record for them.
    """
    listing, seen = Listing(), set()
    skipped = {os.path.realpath(place) for place in skipped}
    folders, links = [(str(folder), "")], []  # places, and how their paths below the first one begin
    while folders or links:
        place, below = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(place)
        reason = why if real in skipped else LINKED_AGAIN if real in seen else None
        seen.add(real)
        try:
            entries = [] if reason else sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError:
            reason, entries = UNREADABLE, []
        if reason:
            listing.left_out[below] = reason
        inner = []
        for entry in entries:
            path, is_link = below + entry.name, entry.is_symlink()
            if reason := clutter(entry.name):
                listing.left_out[path] = reason
            elif os.path.isdir(entry.path) if is_link else entry.is_dir():
                (links if is_link else inner).append((entry.path, f"{path}/"))
            elif wanted(entry.name) and (is_link or entry.is_file()):
                listing.files.append(path)
            else:
                listing.left_out[path] = suffix_of(entry.name)
        folders += reversed(inner)
    return listing


def summarise(reasons: Iterable[str]) -> str:
    """Reasons of a [`Listing`] for people, the most frequent first: `4 .txt, 1 hidden`."""
    plugin = " (Pillow opens these with a plugin, such as pillow-heif)"
    return ", ".join(
        f"{count} {reason or 'without suffix'}{plugin if reason in OPTIONAL_SUFFIXES else ''}"
        for reason, count in Counter(reasons).most_common()
    )


# --- pixels -------------------------------------------------------------------------------------------------------


def limit_pixels(limit: str | int) -> None:
    """
    Sets how many pixels an image may have to be opened, in this process and in all that it starts from now on.

    Pillow's warning about half of that is switched off: what is over the limit is refused, what is not is welcome.

    Args:
        limit (`str` or `int`):
            0 or `"none"` for no limit.

    Raises:
        `ValueError`: no whole number from 0 up.
    """
    text = str(limit).strip().lower()
    if text != "none" and not text.isdecimal():
        raise ValueError(f"--max_image_pixels is a whole number of pixels, or 0 or none for no limit; got {limit!r}")
    os.environ[_LIMIT_VARIABLE] = text
    _apply_limit()


def _apply_limit() -> None:
    text = os.environ.get(_LIMIT_VARIABLE)
    if text is not None:
        pixels = 0 if text == "none" else int(text)
        PIL.Image.MAX_IMAGE_PIXELS = (pixels + 1) // 2 if pixels else None  # Pillow refuses what has twice as many
        warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)


_apply_limit()
