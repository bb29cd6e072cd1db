# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Procedural scenes drawn once and kept: every run would draw them again, which takes as long as the training."""

import re
import shutil
from pathlib import Path

import datasets

from ..data import open_dataset
from ..data.domains import Domain


SCENES = "scenes"


def place_of(output: Path, domain: Domain) -> str:
    """What a command reads a domain from, `dataset[@split]`: the folder that keeps its scenes, or its own place."""
    if is_drawn(domain):
        return str(_folder(output, domain))
    return domain.spec + (f"@{domain.split}" if domain.split else "")


def is_drawn(domain: Domain) -> bool:
    """Whether it has procedural scenes."""
    return domain.spec.startswith("streets:")


def keep_scenes(output: Path, domain: Domain) -> None:
    """Draw the scenes of a domain, if it has any, unless they are kept already; a folder has all of them."""
    if not is_drawn(domain) or (folder := _folder(output, domain)).is_dir():
        return
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    scenes = open_dataset(domain.spec, domain.split)
    drawn = scenes.map(_decoded, keep_in_memory=True, load_from_cache_file=False, desc=f"draw {domain.spec}")
    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        drawn.save_to_disk(unfinished)
    finally:
        if not shown:
            datasets.enable_progress_bars()
    unfinished.rename(folder)


def _folder(output: Path, domain: Domain) -> Path:
    return output / SCENES / re.sub(r"\W+", "-", f"{domain.spec.partition(':')[2]}-{domain.split}")


def _decoded(row: dict[str, object]) -> dict[str, object]:
    """Cells that hold finished images, where those of procedural scenes say how they are drawn."""
    return {"image": row["image"], "label": row["label"]}
