# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What `vfmseg reproduce` runs: settings and budgets as data, and the command lines that they and rows come to."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

from ..data.domains import parse_domain
from ..training.recipes import get_recipe
from .rows import Row, Table


RARE_CLASS_PIXELS = 3000 / 1024**2  # of a crop: the recipe's 3000 pixels of 1024 x 1024
SCENES_VERSION = 2
SAVE_STEPS = 1000  # between checkpoints of long trainings
# How long things take on a CPU, see `Plan.minutes`.
SCORE_SECONDS = 1.2  # of a core, for an image of 256 x 512, in the mean of the rows
START_SECONDS = 9.0  # of a command
PAPER_IMAGES = 1000  # of a domain of which all are scored, roughly


@dataclass(frozen=True)
class Budget:
    """
    How much is run.

    Attributes:
        steps, batch_size: of every training.
        size: shortest edge of the images as they are scored, a multiple of 32, and edge of the crops. The coarse pass,
            windows and their stride are the paper's shares of it.
        seeds: of everything random; rates are chosen with the first.
        learning_rates: tried for every row.
        encoder_rate: the encoder's, as a share of the heads'.
        max_images: scored of every domain; None for all.
        train_images: of procedural sources.
        resolutions: shortest edges at which the last row is scored as well.
        protocol: of `vfmseg evaluate`.
        scale_heads: whether VFMSeg's new heads start at the scales of the feature maps. The linear head has a batch
            norm, which does so in every step; without, a short training compares starts and not decoders.
    """

    steps: int
    batch_size: int
    size: int
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    encoder_rate: float
    max_images: int | None
    train_images: int
    resolutions: tuple[int, ...]
    protocol: str
    scale_heads: bool


SMALL = Budget(
    steps=200,
    batch_size=4,
    size=256,
    seeds=(0, 1, 2),
    learning_rates=(1e-4, 3e-4, 1e-3),
    encoder_rate=1.0,
    max_images=20,
    train_images=400,
    resolutions=(512,),
    protocol="default",
    scale_heads=True,
)
PAPER = Budget(
    steps=40_000,
    batch_size=2,
    size=1024,
    seeds=(0, 1, 2),
    learning_rates=(1e-4,),
    encoder_rate=0.1,
    max_images=None,
    train_images=400,
    resolutions=(),
    protocol="published",
    scale_heads=False,
)


def budget_of(table: Table, small: bool) -> Budget:
    """In small, or the paper's, with what a table has of its own."""
    seeds = tuple(range(table.seeds))
    if small:
        own = {"learning_rates": table.learning_rates, "resolutions": table.resolutions}
        return replace(SMALL, seeds=seeds, scale_heads=table.scale_heads, **own)
    return replace(PAPER, seeds=seeds)


def average_decay(steps: int) -> float:
    """Of an exponential average over a quarter of the steps, or over the last thousand, as the recipe `strong` has."""
    return min(get_recipe("strong").training["ema_decay"], 1 - 4 / max(8, steps))


@dataclass(frozen=True)
class Setting:
    """
    A source, and what is scored.

    Attributes:
        name: in files.
        title: in tables.
        source: what is trained on, `dataset[@split]`.
        validation: images of the source that rates are chosen on, `name=dataset[@split]`; None where there is one rate.
        targets: what is scored once all rates are chosen, `name=dataset[@split]` each.
        train: options of `vfmseg train` for this source.
    """

    name: str
    title: str
    source: str
    validation: str | None
    targets: tuple[str, ...]
    train: tuple[str, ...] = ()


def small_settings(
    table: Table, budget: Budget, camvid: str | None = None, carla: str | None = None
) -> tuple[tuple[Setting, ...], list[str]]:
    """
    Procedural game to everything else, and CamVid's day to its dusk, with what folders of data there are.

    A setting stands before those that train or choose on its targets. What is chosen by a table that is held back has
    drawn looks alone, and images of them that no other table is scored on.

    Returns:
        The settings, and what is left out, in words.
    """
    drawn = f"n={budget.max_images or 20}&size={2 * budget.size}x{4 * budget.size}&version={SCENES_VERSION}"
    split = "validation" if table.held_back else "test"
    targets = [f"{look}=streets:{look}?{drawn}@{split}" for look in ("day", "night", "rain", "camera")]
    left_out = []
    if table.held_back:
        camvid = carla = None
        left_out.append("all but validation images of the drawn looks, so that nothing is chosen on what others score")
    elif carla is None:
        left_out.append("no CARLA renders (--carla DIR): the target carla_rain is left out")
    else:
        targets.append(f"carla_rain=carla:{carla}@rainy")
    scaled = ("--scale_range", "1.0", "1.5")
    camvid_settings: tuple[Setting, ...] = ()
    if camvid is None and not table.held_back:
        second = ", and the setting camvid," if table.from_photographs else ""
        left_out.append(f"no CamVid (--camvid DIR): the targets camvid_day and camvid_dusk{second} are left out")
    if camvid is not None:
        # The day frames of the training split: those of the other may be what the streets are judged by.
        targets += [f"camvid_day=camvid:{camvid}@source_train", f"camvid_dusk=camvid:{camvid}@target_dusk"]
    if camvid is not None and table.from_photographs:
        width = budget.size * 4 // 3  # of its frames of 480 x 360
        camvid_settings = (
            Setting(
                "camvid",
                "CamVid day → CamVid dusk",
                f"camvid:{camvid}@source_train",
                f"source=camvid:{camvid}@source_val",
                (f"camvid_dusk=camvid:{camvid}@target_dusk",),
                ("--resize", str(budget.size), str(width), *scaled),
            ),
        )
    streets = Setting(
        "streets",
        "procedural game → everything else",
        f"streets:game?n={budget.train_images}&size={budget.size}x{2 * budget.size}&version={SCENES_VERSION}@train",
        f"source=streets:game?{drawn}@validation",
        tuple(targets),
        scaled,
    )
    return (streets, *camvid_settings), left_out


def own_setting(budget: Budget, source: str, validation: str | None, targets: Sequence[str]) -> Setting:
    """A source and targets of one's own, such as the paper's; what the recipe resizes keeps its scale to the crops."""
    if validation is not None:
        domain = parse_domain(validation)
        validation = f"source={domain.spec}" + (f"@{domain.split}" if domain.split else "")
    before_crop = get_recipe("paper").resize.get(source.partition(":")[0])
    scaled = [str(side * budget.size // PAPER.size) for side in before_crop or ()]
    resize = ("--resize", *scaled) if scaled and budget.size != PAPER.size else ()
    return Setting("own", f"{source} → {', '.join(targets)}", source, validation, tuple(targets), resize)


def place_of_run(setting: str, row: str, rate: float, seed: int) -> Path:
    """The folder of a training below the output folder."""
    return Path(setting, row, f"rate={rate:g}", f"seed={seed}")


class Run(NamedTuple):
    """A training with its scores."""

    setting: Setting
    row: Row
    rate: float
    seed: int

    @property
    def place(self) -> Path:
        """Its folder below the output folder."""
        return place_of_run(self.setting.name, self.row.name, self.rate, self.seed)

    def __str__(self) -> str:
        return f"{self.setting.name}, {self.row.title}, rate {self.rate:g}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """
    All of a reproduction.

    Attributes:
        table: whose rows are run.
        encoder: folder of the foundation model.
        encoder_sha256: of its weights.
        parameters: how many weights it has.
        device, dtype: of the trainings; scores are computed in float32.
        num_workers: processes that read images, for each run.
    """

    table: Table
    settings: tuple[Setting, ...]
    budget: Budget
    encoder: str
    encoder_sha256: str
    parameters: int = 22_000_000
    device: str = "auto"
    dtype: str = "float32"
    num_workers: int = 0
    left_out: list[str] = field(default_factory=list)

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.table.rows

    def seeds_of(self, row: Row) -> tuple[int, ...]:
        """The seeds that a row is trained with."""
        return self.budget.seeds[: row.seeds]

    def trials(self, setting: Setting) -> list[Run]:
        """What rates are chosen by: every row with every rate, with the first seed."""
        first = self.budget.seeds[0]
        return [Run(setting, row, rate, first) for row in self.rows for rate in self.budget.learning_rates]

    def runs(self, setting: Setting, rates: dict[str, float | None]) -> list[Run]:
        """Every row that has a rate with every seed, a seed after the other."""
        return [
            Run(setting, row, rates[row.name], seed)
            for seed in self.budget.seeds
            for row in self.rows
            if rates.get(row.name) is not None and seed in self.seeds_of(row)
        ]

    @property
    def number_of_runs(self) -> int:
        """Trainings in all; those of the first seed are among the trials."""
        return len(self.settings) * sum(map(self._trainings, self.rows))

    def _trainings(self, row: Row) -> int:
        return len(self.budget.learning_rates) + len(self.seeds_of(row)) - 1

    def train_words(
        self, run: Run, source: str, folder: str | os.PathLike, start: str | os.PathLike | None = None
    ) -> list[str]:
        """
        Options of `vfmseg train`.

        Args:
            source: where the source is read from.
            folder: of the model.
            start: what it starts from, if not from the encoder.
        """
        budget, size, looks = self.budget, self.budget.size, run.row.looks
        encoder_rate = budget.encoder_rate if run.row.encoder_rate is None else run.row.encoder_rate
        windows = {"window_size": int(size * run.row.window), "window_stride": int(size * run.row.stride)}
        options = {
            "model": self.encoder if start is None else os.fspath(start),
            "data": source,
            "output": os.fspath(folder),
            "device": self.device,
            "dtype": self.dtype,
            "seed": run.seed,
            "max_steps": budget.steps,
            "per_device_train_batch_size": budget.batch_size,
            "learning_rate": f"{run.rate:g}",
            "encoder_learning_rate": f"{run.rate * encoder_rate:g}",
            **({"coarse_size": size // 2} if looks in ("windows", "once") else {}),
            **({"ema_decay": f"{average_decay(budget.steps):g}"} if run.row.averaged else {}),
            **(windows if looks == "windows" else {}),
            "rare_class_min_pixels": round(size**2 * RARE_CLASS_PIXELS),
            "dataloader_num_workers": self.num_workers,
            "logging_steps": max(1, min(50, budget.steps // 4)),
            "report_to": "none",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        words += ["--crop_size", str(size), str(size)]
        if looks != "squares":  # whose shortest edge is that of the crops
            words += ["--size", str(size), str(2 * size)]
        saving = ["steps", "--save_steps", str(SAVE_STEPS), "--save_total_limit", "1"]
        if budget.scale_heads and looks == "windows":
            words.append("--scale_heads")
        words += ["--save_strategy", *(saving if budget.steps > SAVE_STEPS else ["no"])]
        return [*words, *run.setting.train, *run.row.train]

    def score_words(
        self,
        run: Run,
        domains: Sequence[str],
        folder: str | os.PathLike,
        output: str | os.PathLike,
        resolution: int | None = None,
    ) -> list[str]:
        """
        Options of `vfmseg evaluate`.

        Args:
            domains: `name=where it is read from` each.
            folder, output: of the model, and the file for its scores.
            resolution: shortest edge that images are fitted to, if not as the budget says.
        """
        size = ["--size", str(resolution), str(2 * resolution)] if resolution else []
        limit = ["--max_images", str(self.budget.max_images)] if self.budget.max_images else []
        refine = ["--refine", run.row.refine] if run.row.looks == "windows" else []
        alone = run.row.looks in ("alone", "squares")  # with an image processor of its own
        return [
            "--model", os.fspath(folder), "--output", os.fspath(output), *refine,
            "--protocol", "default" if resolution or alone else self.budget.protocol,
            "--device", self.device, "--num_workers", str(self.num_workers), *size, *limit, "--data", *domains,
        ]  # fmt: skip

    def decided(self, setting: Setting) -> dict[str, object]:
        """What the choice of rates depends on, as JSON has it."""
        without = {"seeds", "resolutions", "protocol"}
        budget = {name: value for name, value in asdict(self.budget).items() if name not in without}
        return {
            "setting": setting.name,
            "source": setting.source,
            "validation": setting.validation,
            "first_seed": self.budget.seeds[0],
            **budget,
            "learning_rates": list(self.budget.learning_rates),
            "rows": {row.name: self._decided_of(row) for row in self.rows},
            "encoder_sha256": self.encoder_sha256,
        }

    @staticmethod
    def _decided_of(row: Row) -> list[str]:
        """What its training depends on beyond the budget; where all is as it always is, its options alone."""
        usual = {each.name: each.default for each in fields(Row)}
        own = ("encoder_rate", "averaged", "config")
        return [*row.train, *(f"{name}={value}" for name in own if (value := getattr(row, name)) != usual[name])]

    def minutes(self, cores: int) -> float:
        """
        About how long all runs take on a CPU.

        Measured with a ViT-S on two busy cores of an Intel Xeon, scaled by weights and pixels.
        """
        budget = self.budget
        scale = self.parameters / 22e6 * (budget.size / 256) ** 2
        scored_at = 1 + sum((edge / budget.size) ** 2 for edge in budget.resolutions) / len(self.rows)
        seconds = 0.0
        for setting in self.settings:
            images = sum(map(self._images, setting.targets))
            validated = self._images(setting.validation) if len(budget.learning_rates) > 1 else 0
            for row in self.rows:
                training = row.work * budget.steps * budget.batch_size / 4 * self._trainings(row)
                scored = len(budget.learning_rates) * validated + len(self.seeds_of(row)) * images * scored_at
                seconds += scale * (training + SCORE_SECONDS * scored)
        seconds += START_SECONDS * self.number_of_runs * 3
        return seconds / 60 / cores

    def _images(self, domain: str | None) -> int:
        return self.budget.max_images or PAPER_IMAGES if domain else 0
