# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What is wrong with the files of a dataset: an error when it is opened for use, a list when it is checked.

Opening a dataset stops at the first trouble, as an incomplete copy would score another set than its owner's. Inside
`collect_findings` it goes on with what is complete, and keeps a list of the rest.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from transformers.utils import logging


logger = logging.get_logger(__name__)

MAX_VALUES = 1000  # different unknown ids or colours that are kept: a label map stored as JPEG has 100,000


@dataclass(frozen=True)
class Kind:
    """
    A kind of trouble.

    Attributes:
        name: in files for programs.
        what: the files that have it, in the plural.
        remedy: what to do.
        notice: whether a dataset that has it is clean all the same.
    """

    name: str
    what: str
    remedy: str
    notice: bool = False


_COMPLETE = "Complete the copy, or move these files elsewhere."
_RESTORE = "Restore these files from the owner's."

NO_LABELS = Kind("images_without_labels", "images without label map", _COMPLETE)
NO_IMAGE = Kind("labels_without_image", "label maps without image", _COMPLETE)
NO_FILES = Kind("listed_but_missing", "frames of the dataset's list without any file", "Complete the copy.")
TWICE = Kind("files_twice", "files that are there twice", "Move one of each two elsewhere.")
FOREIGN = Kind("foreign_files", "files that, by their names, are not of this dataset", "Move them elsewhere.")
BROKEN_IMAGES = Kind("unreadable_images", "images that cannot be read, or not to their end", _RESTORE)
BROKEN_LABELS = Kind("unreadable_labels", "label maps that cannot be read, or not to their end", _RESTORE)
REFUSED_IMAGES = Kind(
    "refused_images",
    "images whose values have no known meaning, such as floats, so that training, evaluation and prediction refuse "
    "them",
    "Store them with 8 or 16 bits per channel.",
)
ABOVE_LIMIT = Kind(
    "above_pixel_limit",
    "files with more pixels than Pillow's limit against decompression bombs lets through",
    "If they are what you expect, lift the limit, here and in training: --max_image_pixels N, 0 for no limit.",
)
SIZES = Kind("size_mismatches", "label maps of another size than their images", _RESTORE)
UNKNOWN_IDS = Kind(
    "unknown_ids",
    "label maps with ids or colours that this dataset does not have",
    "Are they of this dataset and in their original coding? Restore them from the owner's, or correct these pixels.",
)
TURNED = Kind(
    "turned_images",
    "images with an EXIF tag that asks to turn or mirror them, so that their label maps may be for either position",
    "Where a file describes the data (`folder:`), say there which it is: `exif: stored` or `exif: turned`. Otherwise "
    "store turned pixels without the tag (PIL.ImageOps.exif_transpose), or, where the label maps fit the stored "
    "pixels, remove the tag.",
)
BROKEN_ARCHIVES = Kind(
    "unreadable_archives",
    "archives that cannot be read and are skipped",
    "Download them again from the owner, or move them elsewhere if they are not of this dataset.",
)
NOT_OPENED = Kind("not_opened", "splits that cannot be opened", "Complete the copy, or check another split.")
LABELS_ARE_IMAGES = Kind(
    "labels_are_images",
    "label maps that are the images themselves",
    "Say where the label maps are, or what their names end with (`labels`, `label_suffix`).",
)
ONE_CLASS = Kind(
    "one_class",
    "a single class, which every pixel would get, so that the loss is 0 from the first step",
    "List the background as a class as well, such as `ids: {background: 0, object: 255}`.",
)
ALL_IGNORED = Kind(
    "all_ignored",
    "labels without a pixel of any class",
    "Check what the ids or colours mean, and which of them are ignored.",
)
IGNORED = Kind(
    "ignored_labels", "label maps without a pixel of any class", "Nothing is learnt from these.", notice=True
)


@dataclass
class Findings:
    """
    What was found in a dataset.

    Attributes:
        files: of every kind of trouble the files that have it, each with details or an empty text.
        values: unknown ids and colours, each with the number of label maps that hold it and the first of these.
        notices: what is worth knowing, but no trouble.
    """

    files: dict[Kind, dict[str, str]] = field(default_factory=dict)
    values: dict[str, tuple[int, str]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def add(self, kind: Kind, file: str, detail: str = "", values: Iterable[str] = ()) -> None:
        """`values`: the unknown ids or colours of this file."""
        self.files.setdefault(kind, {})[file] = detail
        for value in values:
            if value in self.values or len(self.values) < MAX_VALUES:
                count, first = self.values.get(value, (0, file))
                self.values[value] = count + 1, first

    def add_all(self, kind: Kind, files: Mapping[str, str]) -> None:
        """Files with details."""
        for file, detail in files.items():
            self.add(kind, file, detail)

    @property
    def problems(self) -> dict[Kind, dict[str, str]]:
        """`files` without the kinds that are notices only."""
        return {kind: files for kind, files in self.files.items() if not kind.notice}


_collecting: ContextVar[Findings | None] = ContextVar("collecting", default=None)


@contextmanager
def collect_findings() -> Iterator[Findings]:
    """Inside, `open_dataset` opens what is complete, and adds the rest to the `Findings` that this yields."""
    findings = Findings()
    token = _collecting.set(findings)
    try:
        yield findings
    finally:
        _collecting.reset(token)


def report_problem(kind: Kind, files: Mapping[str, str], error: Exception) -> None:
    """
    Reports files that cannot be used, with details; where findings are collected, the caller goes on to other ones.

    Raises:
        `error`, unless findings are collected.
    """
    findings = _collecting.get()
    if findings is None:
        raise error
    findings.add_all(kind, files)


def warn(kind: Kind, files: Mapping[str, str], text: str) -> None:
    """As `report_problem` for files that a dataset opens without: where nothing is collected, `text` is a warning."""
    findings = _collecting.get()
    if findings is None:
        logger.warning_once(text)
    else:
        findings.add_all(kind, files)


def notify(text: str) -> None:
    """Reports what is worth knowing: a finding where these are collected, else a warning, once."""
    findings = _collecting.get()
    if findings is None:
        logger.warning_once(text)
    elif text not in findings.notices:
        findings.notices.append(text)
