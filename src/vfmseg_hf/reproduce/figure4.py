# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""
What the paper's Figure 4 shows and what belongs beside it: mIoU against test resolution, mIoU against time, and how
reliable the certainty is that windows are chosen by.

Test resolution r is the shortest edge of the image that a model is given. A model of two stages keeps its own size of
the coarse pass, so that its windows see r and its coarse pass does not. A model that looks once sees the whole image at
r. Of another model the image processor is told r, unless its model takes one size only: that has one point.
"""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median

import torch

from ..data.domains import spread
from ..evaluation import Reliability, count_reliability, evaluate_domain, mean_over_domains, software_versions
from ..evaluation.counting import stage_arguments
from .figures import ONE_LOOK, OTHER, TWO_STAGES, Progress, ShownDomain, ShownModel, progress_bar


COARSE, GATED, ALL = "coarse", "gated", "all"
REFINE = {GATED: True, ALL: "all"}
TIMED_IMAGES = 2  # of each domain
LONGEST = 4  # times the shortest edge: as long as an image may be before it sees less than r
WINDOW_BINS, PIXEL_BINS = 10, 15


@dataclass(frozen=True)
class Look:
    """
    A way to segment with a model.

    Attributes:
        windows: which are refined: `"gated"`, `"all"`, or a number of the least certain; None of a model without.
        resolution: shortest edge of the image; None for the model's own.
    """

    shown: ShownModel
    windows: int | str | None
    resolution: int | None = None

    @property
    def refine(self) -> bool | str | None:
        return None if self.windows is None else REFINE.get(self.windows, "all")

    def segment(self, image: object, size: tuple[int, int]) -> object:
        """What the model makes of an image as it is stored, a `VFMSegLabelMap` of this height and width."""
        model = self.shown.model
        pixel_values = self.shown.processor(image, return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
        return model.segment(pixel_values, [size], **stage_arguments(model, self.refine))[0]


@dataclass
class Score:
    """
    What a look comes to.

    Attributes:
        mean_iou: mean over the domains, 0..1.
        domains: the same by domain.
        refined: share of the windows that were refined, mean over the domains; None without windows.
        seconds: for an image, from its pixels to its label map, where they were measured.
        times_coarse: seconds as a multiple of those of the coarse pass.
    """

    model: str
    windows: int | str | None
    resolution: int | None
    mean_iou: float
    domains: Mapping[str, float]
    refined: float | None
    seconds: float | None = None
    times_coarse: float | None = None


@dataclass
class Figure4:
    """
    All that is measured.

    Attributes:
        resolutions: scores at every resolution: of two stages `"coarse"`, `"gated"` and `"all"`.
        budgets: scores at each model's own resolution, with seconds.
        reliability: of the models of two stages, by name.
        notes: what is left out or otherwise than for the rest, in sentences.
    """

    resolutions: list[Score]
    budgets: list[Score]
    reliability: dict[str, Reliability]
    notes: list[str]


def measure(
    models: Sequence[ShownModel],
    domains: Sequence[ShownDomain],
    resolutions: Sequence[int],
    max_windows: Sequence[int] | None,
    repeats: int,
) -> Figure4:
    """
    Score, time and count.

    Args:
        resolutions: shortest edges.
        max_windows: numbers of windows to refine at most; by default 0, 1, 2, 4, ... below the number there is.
        repeats: rounds in which times are taken.

    Raises:
        ValueError: a model cannot see a resolution.
    """
    notes: list[str] = []
    at_resolutions = [look for edge in resolutions for look in looks_at(models, edge)]
    for shown in models:
        if shown.kind == OTHER and (edge := fixed_edge(shown)):
            at_resolutions.append(Look(shown, None, edge))
            notes.append(f"{shown.name} takes images of one size, and has one point at its shortest edge {edge}.")
    timed = [row for domain in domains for row in timed_images(domain, models[0])]
    at_budgets = [look for shown in models for look in budgets_of(shown, max_windows, timed)]
    images = sum(len(domain.rows) for domain in domains)
    two_stages = [shown for shown in models if shown.kind == TWO_STAGES]
    passes = len(at_resolutions) + len(at_budgets) + len(two_stages)
    with progress_bar("figure 4", passes * images + (1 + repeats) * len(at_budgets) * len(timed)) as progress:
        scored = [score for look in at_resolutions for score in score_look(look, domains, progress)]
        budgets = [score_look(look, domains, progress)[-1] for look in at_budgets]
        for score, (seconds, ratio) in zip(budgets, time_looks(at_budgets, timed, repeats, progress), strict=True):
            score.seconds, score.times_coarse = seconds, ratio
        reliability = {
            shown.name: Reliability.joined(
                count_reliability(shown.model, domain.images(shown), domain.name, progress) for domain in domains
            )
            for shown in two_stages
        }
    return Figure4(scored, budgets, reliability, notes)


# --- ways to look -------------------------------------------------------------------------------------------------


def looks_at(models: Sequence[ShownModel], edge: int) -> Iterator[Look]:
    """How every model sees images of a shortest edge; other models with one size do not."""
    for shown in models:
        resized = {"do_resize": True, "size": {"shortest_edge": edge}}
        if shown.kind == TWO_STAGES:
            seen = shown.following(f"shortest edge {edge}", resized, {})
            yield from (Look(seen, windows, edge) for windows in (ALL, GATED))
        elif shown.kind == ONE_LOOK:
            yield Look(shown.following(f"shortest edge {edge}", resized, {"coarse_size": edge}), None, edge)
        elif fixed_edge(shown) is None:
            yield Look(_other_at(shown, edge), None, edge)


def fixed_edge(shown: ShownModel) -> int | None:
    """
    The shortest edge that another model's image processor gives it whatever the image; None if one can be chosen.

    One size have those of a height and width, of a square box, and of windows that are as large as the shortest edge.
    """
    size = shown.model.processor.size
    shortest = size.get("shortest_edge")
    if shortest is None:
        return min(size["height"], size["width"])
    fixed = getattr(shown.model.processor, "do_split_image", False) or size.get("longest_edge") == shortest
    return shortest if fixed else None


def _other_at(shown: ShownModel, edge: int) -> ShownModel:
    model, processor = copy.copy(shown.model), shown.model.processor
    longest = {"longest_edge": LONGEST * edge} if processor.size.get("longest_edge") else {}
    model.processor = type(processor).from_dict({**processor.to_dict(), "size": {"shortest_edge": edge, **longest}})
    return replace(shown, model=model)


def budgets_of(shown: ShownModel, max_windows: Sequence[int] | None, timed: Sequence[tuple]) -> list[Look]:
    """Every number of windows, then all, then those that the gate chooses; or a model's one look."""
    if shown.kind != TWO_STAGES:
        return [Look(shown, None)]
    numbers = set(max_windows or ())
    if max_windows is None:
        most = max(len(_limited(shown, 0).segment(*image).windows) for image in timed)
        numbers = {2**power for power in range((most - 1).bit_length())}
    looks = [_limited(shown, number) for number in sorted({0, *numbers})]
    return [*looks, replace(_limited(shown, None), windows=ALL), Look(shown, GATED)]


def _limited(shown: ShownModel, number: int | None) -> Look:
    limit = {"max_windows": number, "max_window_share": None}
    return Look(shown.following(f"{number} windows", {}, limit), number)


# --- measurements -------------------------------------------------------------------------------------------------


def score_look(look: Look, domains: Sequence[ShownDomain], progress: Progress) -> list[Score]:
    """The final result, after the coarse one of the same pass where windows are gated."""
    scores = {
        domain.name: evaluate_domain(
            look.shown.model, domain.images(look.shown), domain.name, look.refine, progress=progress
        )
        for domain in domains
    }
    shares = [each.refined for each in scores.values() if each.refined is not None]
    found = []
    for stage in (COARSE, "final") if look.windows == GATED else ("final",):
        means = {name: each.scores[stage]["mean_iou"] for name, each in scores.items()}
        refined = None if look.windows is None else 0.0 if stage == COARSE else fmean(shares)
        windows = COARSE if stage == COARSE else look.windows
        mean = mean_over_domains(scores, stage)
        found.append(Score(look.shown.name, windows, look.resolution, mean, means, refined))
    return found


def timed_images(domain: ShownDomain, shown: ShownModel) -> Iterator[tuple[object, tuple[int, int]]]:
    """Images as they are stored, and heights and widths of their labels, of a few rows."""
    rows = spread(domain.rows, TIMED_IMAGES)
    images = domain.images(shown, rows)
    for row in rows:
        yield images.read_image(row), tuple(images.read_labels(row).shape)


@torch.inference_mode()
def time_looks(
    looks: Sequence[Look], timed: Sequence[tuple], repeats: int, progress: Progress
) -> list[tuple[float, float | None]]:
    """
    Seconds of every look for an image, from its pixels to its label map on the host, and as a multiple of the coarse
    pass: the model's own, or else that of the first model that has one.

    Every round goes through all looks, so that what else the machine does meets all of them; the first one does not
    count. Medians over the rounds, and their mean over the images.
    """
    coarse_of = {look.shown.name: index for index, look in enumerate(looks) if look.windows == 0}
    first = next(iter(coarse_of.values()), None)
    base = [coarse_of.get(look.shown.name, first) for look in looks]
    seconds: list[list[float]] = [[] for _ in looks]
    ratios: list[list[float]] = [[] for _ in looks]
    for image in timed:
        rounds = []
        for _ in range(1 + repeats):
            rounds.append([])
            for look in progress(looks):
                start = time.perf_counter()
                look.segment(*image).labels.cpu()
                rounds[-1].append(time.perf_counter() - start)
        for index, reference in enumerate(base):
            seconds[index].append(median(taken[index] for taken in rounds[1:]))
            if reference is not None:
                ratios[index].append(median(taken[index] / taken[reference] for taken in rounds[1:]))
    return [(fmean(of_look), fmean(r) if r else None) for of_look, r in zip(seconds, ratios, strict=True)]


# --- results ------------------------------------------------------------------------------------------------------


def as_record(
    figure: Figure4, models: Sequence[ShownModel], domains: Sequence[ShownDomain], repeats: int
) -> dict[str, object]:
    """All of it as JSON has it."""
    fields = ("confidence_threshold", "certainty_threshold")
    thresholds = {
        shown.name: {field: getattr(shown.model.config, field) for field in fields}
        for shown in models
        if shown.name in figure.reliability
    }
    return {
        "models": {shown.name: {"place": shown.place, "kind": shown.kind} for shown in models},
        "domains": {
            domain.name: {"dataset": domain.spec, "split": domain.split, "images": len(domain.rows)}
            for domain in domains
        },
        "resolutions": [asdict(score) for score in figure.resolutions],
        "budgets": [asdict(score) for score in figure.budgets],
        "timing": {
            "device": str(models[0].model.device),
            "threads": torch.get_num_threads(),
            "images": sum(min(TIMED_IMAGES, len(domain.rows)) for domain in domains),
            "repeats": repeats,
        },
        "reliability": {
            name: {
                **thresholds[name],
                "expected_calibration_error": counts.calibration_error(PIXEL_BINS),
                **counts.kept_and_refined(),
                "windows_by_certainty": counts.by_certainty(WINDOW_BINS),
                "pixels_by_probability": counts.by_probability(PIXEL_BINS),
            }
            for name, counts in figure.reliability.items()
        },
        "notes": figure.notes,
        "versions": software_versions(),
    }
