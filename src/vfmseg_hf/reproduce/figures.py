# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What both figures are made of: models of any kind, domains that suit all of them, and one progress bar."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from tqdm import tqdm

from ..data import EvaluationGroups, describe_dataset, open_dataset
from ..data.domains import Domain, evaluation_domains, spread
from ..evaluation import Protocol
from ..evaluation.counting import looks_twice
from ..training import EvaluationImages
from .choice import SETTINGS
from .plan import place_of_run
from .runs import MODEL
from .scenes import is_drawn, keep_scenes, place_of


TWO_STAGES, ONE_LOOK, OTHER = "two stages", "one look", "other"

Progress = Callable[[Iterable], Iterator]


@dataclass(frozen=True)
class ShownModel:
    """
    A model in a figure, in eval mode, with its image processor.

    Attributes:
        name: in the figure.
        place: that it was loaded from.
    """

    name: str
    place: str
    model: Any
    processor: Any

    @property
    def kind(self) -> str:
        """`"two stages"`; `"one look"` at `coarse_size`, where nothing refines; `"other"`: its own image processor."""
        if looks_twice(self.model):  # a weight of 0: the second stage was not trained, and is not used
            return TWO_STAGES if self.model.config.detail_loss_weight else ONE_LOOK
        return ONE_LOOK if hasattr(self.model.config, "coarse_size") else OTHER

    def following(self, name: str, processor: Mapping[str, object], config: Mapping[str, object]) -> "ShownModel":
        """
        The same weights with other settings of image processor and configuration.

        Raises:
            ValueError: the model cannot have them; `name` is what the message calls them.
        """
        model, processor = Protocol(name, name, processor, config).apply(self.model, self.processor)
        return replace(self, model=model, processor=processor)


@dataclass(frozen=True)
class ShownDomain:
    """
    Images of a domain.

    Attributes:
        name, spec, split: as `evaluation_domains` reads them.
        rows: the images that are used.
        total: how many the split has.
    """

    name: str
    spec: str
    split: str | None
    rows: Dataset
    total: int

    @property
    def rule(self) -> EvaluationGroups | None:
        return describe_dataset(self.spec).evaluation

    def images(self, shown: ShownModel, rows: Dataset | None = None) -> EvaluationImages:
        """
        The images as a model sees them, with labels in its ids.

        Args:
            rows: instead of all.

        Raises:
            ValueError: its classes are others.
        """
        images = EvaluationImages(self.rows if rows is None else rows, shown.processor, self.rule)
        try:
            return images.for_model(shown.model.config.id2label, self.name)
        except ValueError as error:
            reason = str(error).partition(". ")[0].removeprefix(f"{self.name}: ")
            raise ValueError(
                f"the model {shown.name} does not suit the domain {self.name}: {reason}. Leave one of them out; "
                "`vfmseg evaluate --class_map` can score the model alone"
            ) from error


def open_domains(
    texts: Sequence[str], count: int | None, models: Sequence[ShownModel], output: Path, enough: bool = False
) -> list[ShownDomain]:
    """
    The domains of a figure, each `[name=]dataset[@split]`.

    Args:
        count: images of each at most, evenly spaced; None for all.
        output: folder that keeps procedural scenes, as each is looked at dozens of times.
        enough: whether a domain with fewer images is refused.

    Raises:
        ValueError, OSError: a dataset is not there, has too few images, or a model does not suit it.
    """
    domains = []
    for domain in evaluation_domains(list(texts)):
        dataset = open_dataset(domain.spec, domain.split, held_out=True)
        if enough and len(dataset) < count:
            raise ValueError(f"{count} images of each domain are wanted, but {domain.name} has {len(dataset)}")
        domains.append(ShownDomain(*domain, spread(dataset, count), len(dataset)))
        for shown in models:
            domains[-1].images(shown)
    return [_kept(domain, count, output) for domain in domains]


def _kept(shown: ShownDomain, count: int | None, output: Path) -> ShownDomain:
    """With procedural scenes drawn; other domains as they are."""
    domain = Domain(shown.name, shown.spec, shown.split)
    if not is_drawn(domain):
        return shown
    keep_scenes(output, domain)
    return replace(shown, rows=spread(open_dataset(place_of(output, domain)), count))


def models_of(folder: Path) -> dict[str, Path]:
    """
    The models that an earlier `vfmseg reproduce` has trained with its first seed, at the rates that were committed.

    Args:
        folder: its `--output`, or the folder of one of its settings.

    Returns:
        Folders of models by their row; by setting and row, `streets-masking`, where there are several settings.

    Raises:
        FileNotFoundError: there are no settings in it, or a model of theirs is missing.
        ValueError: no row has a rate yet.
    """
    files = [folder / SETTINGS] if (folder / SETTINGS).is_file() else sorted(folder.glob(f"*/{SETTINGS}"))
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no earlier `vfmseg reproduce`: there is no {SETTINGS} in it; name models with --models"
        )
    models = {}
    for file in files:
        settings = json.loads(file.read_text(encoding="utf-8"))
        setting, seed = file.parent.name, settings["decided"]["first_seed"]
        for row, about in settings["rows"].items():
            if about["learning_rate"] is None:
                continue
            model = file.parent.parent / place_of_run(setting, row, about["learning_rate"], seed) / MODEL
            if not model.is_dir():
                raise FileNotFoundError(f"there is no model {model}; the same `vfmseg reproduce` trains it")
            models[row if len(files) == 1 else f"{setting}-{row}"] = model
    if not models:
        raise ValueError(f"no row in {folder} has a learning rate yet; finish with the same `vfmseg reproduce`")
    return models


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Progress]:
    """One bar over everything; what it gives wraps iterations and counts what they go over."""
    with tqdm(total=total, desc=title, unit="image") as bar:

        def count(items: Iterable) -> Iterator:
            for item in items:
                yield item
                bar.update()

        yield count
