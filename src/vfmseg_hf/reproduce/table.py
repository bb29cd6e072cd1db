# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What came out, as Markdown: scores over the seeds, classes, costs, trials, and what that says, in sentences."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from statistics import fmean, stdev

from ..data.base import enumeration
from ..data.domains import parse_domains
from .costs import Costs
from .plan import Plan, Setting
from .rows import Row, Table


FINAL, COARSE = "final", "coarse"
NONE = "–"


@dataclass
class Measured:
    """
    What the runs of a setting came to.

    Attributes:
        committed: its learning rates, with the trials.
        scores: by row, seed and target, as `vfmseg evaluate` writes them.
        resolutions: of the last row, by shortest edge, seed and target.
        seconds: of the trainings of a row.
        threads: that any of them had.
        versions: of the code that has made them, in words.
        costs: by row.
        sizes: width and height of the images of each target.
        failures: what has failed, in lines.
    """

    setting: Setting
    committed: Mapping[str, object]
    scores: dict[str, dict[int, Mapping]] = field(default_factory=dict)
    resolutions: dict[int, dict[int, Mapping]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    threads: set[int] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)
    costs: dict[str, Costs | None] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def targets(self) -> list[str]:
        """Names of all targets that any run has scores of, in the order of the setting."""
        found = {name for of_seeds in self.scores.values() for scores in of_seeds.values() for name in scores}
        return [domain.name for domain in parse_domains(list(self.setting.targets)) if domain.name in found]

    @property
    def common(self) -> list[str]:
        """Those that every run has."""
        runs = [scores for of_seeds in self.scores.values() for scores in of_seeds.values()]
        return [name for name in self.targets if all(name in scores for scores in runs)]

    def values(self, row: str, target: str, stage: str = FINAL) -> dict[int, float]:
        """mIoU in percent by seed."""
        seeds = self.scores.get(row, {})
        return {seed: 100 * scores[target][stage]["mean_iou"] for seed, scores in seeds.items() if target in scores}

    def means(self, row: str) -> dict[int, float]:
        """Mean over the common targets, by seed."""
        by_target = [self.values(row, target) for target in self.common]
        return {seed: fmean(values[seed] for values in by_target) for seed in self.scores.get(row, {}) if by_target}

    def as_record(self) -> dict[str, object]:
        """As JSON has it, with the scores of all seeds."""
        return {
            "committed": self.committed,
            "scores": self.scores,
            "resolutions": self.resolutions,
            "train_seconds": self.seconds,
            "threads_of_a_training": sorted(self.threads),
            "made_by": sorted(self.versions),
            "costs": {name: costs and asdict(costs) for name, costs in self.costs.items()},
            "image_sizes": self.sizes,
            "failures": self.failures,
        }


def write_table(plan: Plan, measured: Sequence[Measured]) -> str:
    """All tables and sentences of a reproduction."""
    budget, seeds = plan.budget, enumeration([str(seed) for seed in plan.budget.seeds])
    several = f"mean ± sample standard deviation over the seeds {seeds}"
    fewer = [row.title for row in plan.rows if len(plan.seeds_of(row)) < len(budget.seeds)]
    several += f" (fewer for {enumeration(fewer)})" if fewer else ""
    images = f"at most {budget.max_images}" if budget.max_images else "all"
    lines = [
        f"# {plan.table.title}",
        "",
        f"mIoU in percent, {several if len(budget.seeds) > 1 else f'seed {seeds}'}. {budget.steps} steps of "
        f"{budget.batch_size} crops of {budget.size} × {budget.size}; images fitted into {budget.size} × "
        f"{2 * budget.size}, {images} of each target. Encoder: weights of sha256 `{plan.encoder_sha256}`. Trained on "
        f"{plan.device} in {plan.dtype}, scored in float32. A mean is over the classes that are labelled or, wrongly, "
        "predicted in a target.",
    ]
    for each in measured:
        lines += ["", f"## {each.setting.title}", "", *of_setting(plan, each)]
    if plan.table.published:
        lines += ["", "## The paper's figures", "", plan.table.published]
    lines += [""] if plan.left_out else []
    lines += [f"- Left out: {text}." for text in plan.left_out]
    if len(made_by := sorted(set.union(*(each.versions for each in measured)))) > 1:
        lines.append(f"- Attention: the runs are not of one version: {enumeration(made_by)}.")
    return "\n".join(lines) + "\n"


def of_setting(plan: Plan, measured: Measured) -> Iterator[str]:
    """The part of a setting."""
    if measured.scores:
        yield from _main_table(plan, measured)
        yield ""
        yield from (f"- {sentence}" for sentence in conclusions(plan, measured))
        if plan.table.details:
            yield from ["", "### Refinement by resolution", "", *_refinement(plan, measured)]
            yield from ["", "### Classes", "", *_classes(plan.table, measured)]
    yield from ["", "### Costs and rates", "", *_costs(plan, measured)]
    if measured.failures:
        yield from ["", "### Failed", "", *(f"- {failure}" for failure in measured.failures)]


# --- tables -------------------------------------------------------------------------------------------------------


def spread_of(values: Sequence[float], sign: str = "") -> str:
    """`mean ± deviation`; the mean alone of one value, a dash of none."""
    if not values:
        return NONE
    return f"{fmean(values):{sign}.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _cell(values: Sequence[float], asked: int) -> str:
    """[`spread_of`], with the number of seeds where some have no score."""
    return spread_of(values) + (f" (n = {len(values)})" if 0 < len(values) < asked else "")


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table."""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _main_table(plan: Plan, measured: Measured) -> Iterator[str]:
    mean = "mean" if measured.common == measured.targets else f"mean of {enumeration(measured.common or ['none'])}"
    rows = []
    for row in plan.rows:
        values = [measured.values(row.name, target) for target in measured.targets]
        values += [measured.means(row.name)] if len(measured.targets) > 1 else []
        rows.append([row.title, *(_cell([*of_seeds.values()], len(plan.seeds_of(row))) for of_seeds in values)])
    return markdown_table(["", *measured.targets, mean][: len(rows[0])], rows)


def _refinement(plan: Plan, measured: Measured) -> Iterator[str]:
    """Coarse against final of the rows that have both, for each target at each size that the model sees."""
    rows = []
    for target in measured.targets:
        images = "{} × {}".format(*measured.sizes[target][::-1]) if target in measured.sizes else NONE
        base = plan.budget.size
        sources = [(row, base, measured.scores.get(row.name, {})) for row in plan.rows if row.refine != "none"]
        sources += [(plan.rows[-1], edge, seeds) for edge, seeds in measured.resolutions.items()]
        for row, edge, seeds in sources:
            scores = [of_seed[target] for of_seed in seeds.values() if target in of_seed]
            if not scores:
                continue
            coarse, final = ([100 * domain[stage]["mean_iou"] for domain in scores] for stage in (COARSE, FINAL))
            gains = [after - before for before, after in zip(coarse, final, strict=True)]
            refined = f"{fmean(domain['refined'] for domain in scores):.0%}"
            cells = [spread_of(coarse), spread_of(final), spread_of(gains, "+"), refined]
            rows.append([target, images, str(edge), row.title, *cells])
    head = ["target", "its images", "shortest edge seen", "row", "coarse", "final", "gain", "windows refined"]
    return markdown_table(head, rows)


def compared(table: Table) -> list[tuple[Row, Row]]:
    """What each row is compared with, and the row."""
    rows = {row.name: row for row in table.rows}
    return [(rows[row.against], row) for row in table.rows if row.against in rows]


def _classes(table: Table, measured: Measured) -> Iterator[str]:
    """What every row changes in the IoU of every class, over the targets that label the class, paired by seed."""
    labelled: dict[str, dict[str, None]] = {}
    for seeds in measured.scores.values():
        for scores in seeds.values():
            for target in measured.common:
                for name in _labelled(scores[target][FINAL]):
                    labelled.setdefault(name, {})[target] = None
    changes = [f"{after.title} against {before.title}" for before, after in compared(table)]
    head = ["IoU, points", "labelled in", *changes]
    lines = []
    for name, targets in labelled.items():
        everywhere = len(targets) == len(measured.common)
        cells = ["all targets" if everywhere else enumeration([*targets])]
        for before, after in compared(table):
            pairs = paired(_class_means(measured, before.name, name), _class_means(measured, after.name, name))
            cells.append(spread_of(pairs, "+"))
        lines.append([name, *cells])
    return markdown_table(head, lines)


def _class_means(measured: Measured, row: str, name: str) -> dict[int, float]:
    """IoU of a class in percent, mean over the common targets that label it, by seed."""
    found = {}
    for seed, scores in measured.scores.get(row, {}).items():
        domains = [scores[target][FINAL] for target in measured.common]
        if values := [100 * domain["iou"][name] for domain in domains if name in _labelled(domain)]:
            found[seed] = fmean(values)
    return found


def _labelled(scores: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Classes of a domain with labelled pixels. Others have an IoU too, of 0, where one is predicted by mistake."""
    return [name for name, accuracy in scores["accuracy"].items() if accuracy is not None]


def _costs(plan: Plan, measured: Measured) -> Iterator[str]:
    rates = plan.budget.learning_rates
    tried = [f"source at {rate:g}" for rate in rates] if len(rates) > 1 else []
    rows = []
    for row in plan.rows:
        costs, chosen = measured.costs.get(row.name), measured.committed["rows"][row.name]
        counted = [NONE] * 4
        if costs:
            counted = [
                f"{costs.trained:,}",
                f"{costs.parameters:,}",
                f"{costs.coarse_gflops:.1f}",
                f"{costs.gflops:.1f}",
            ]
        seconds = measured.seconds.get(row.name)
        rate = f"{chosen['learning_rate']:g}" if chosen["learning_rate"] is not None else "none"
        results = [_trial(chosen["trials"].get(f"{rate:g}")) for rate in rates] if tried else []
        rows.append([row.title, *counted, f"{fmean(seconds):.0f}" if seconds else NONE, *results, rate])
    size = f"{plan.budget.size} × {2 * plan.budget.size}"
    head = [
        "",
        "weights trained",
        "in all",
        f"GFLOPs, {size}, coarse pass",
        "with all windows",
        f"seconds of a training, {enumeration([str(count) for count in sorted(measured.threads)] or ['1'])} threads",
    ]
    return markdown_table([*head, *tried, "rate"], rows)


def _trial(result: float | str | None) -> str:
    return f"{100 * result:.2f}" if isinstance(result, float) else "failed" if result else NONE


# --- sentences ----------------------------------------------------------------------------------------------------


def paired(before: Mapping[int, float], after: Mapping[int, float]) -> list[float]:
    """Differences of the seeds that both have."""
    return [after[seed] - before[seed] for seed in before if seed in after]


def conclusions(plan: Plan, measured: Measured) -> Iterator[str]:
    """What the scores say, and what they do not."""
    if plan.table.ordered:
        yield _order(plan.rows, measured)
    for before, after in compared(plan.table):
        pairs = paired(measured.means(before.name), measured.means(after.name))
        change = f"{after.title} against {before.title}"
        paper = ""
        if before.paper and after.paper:
            paper = f" (the paper: {after.paper[-1] - before.paper[-1]:+.2f})"
        if not pairs:
            yield f"{change}: not known, as no seed has both{paper}."
            continue
        yield f"{change}: {fmean(pairs):+.2f} points in the mean{paper}{_against_chance(pairs)}."
    if plan.table.details:
        yield from _gains(plan, measured)
    yield from _edges(plan, measured)


def _order(rows: Sequence[Row], measured: Measured) -> str:
    if missing := [row.title for row in rows if not measured.means(row.name)]:
        return f"Whether the paper's order holds is not known: there are no scores of {enumeration(missing)}."
    seeds = sorted(set.intersection(*(set(measured.means(row.name)) for row in rows)))
    if not seeds:
        return "Whether the paper's order holds is not known: no seed has scores of all rows."
    means = {row.name: fmean(measured.means(row.name)[seed] for seed in seeds) for row in rows}
    shown = " < ".join(f"{means[row.name]:.2f}" for row in rows)
    wrong = [(low, high) for low, high in pairwise(rows) if means[low.name] >= means[high.name]]
    ordered = sum(
        all(measured.means(low.name)[seed] < measured.means(high.name)[seed] for low, high in pairwise(rows))
        for seed in seeds
    )
    of_seeds = f"; of {len(seeds)} seeds, {ordered} by themselves have it" if len(seeds) > 1 else ""
    if not wrong:
        return f"The paper's order holds in the mean: {shown}{of_seeds}."
    told = enumeration(
        [f"{h.title} ({means[h.name]:.2f}) is not above {b.title} ({means[b.name]:.2f})" for b, h in wrong]
    )
    return f"The paper's order does not hold in the mean: {told}{of_seeds}."


def _against_chance(pairs: Sequence[float]) -> str:
    if len(pairs) < 2:
        return ", with one seed, so that nothing tells it from chance"
    spread = stdev(pairs)
    if abs(fmean(pairs)) <= spread:
        return f", no difference beyond the spread of the seeds ({spread:.2f})"
    return f", more than the spread of the seeds ({spread:.2f})"


def _gains(plan: Plan, measured: Measured) -> Iterator[str]:
    """What refinement gives, at every size that images were seen at."""
    last = plan.rows[-1]
    sizes = {plan.budget.size: measured.scores.get(last.name, {}), **measured.resolutions}
    for edge, seeds in sizes.items():
        parts = []
        for target in measured.targets:
            domains = [scores[target] for scores in seeds.values() if target in scores]
            gains = [100 * (each[FINAL]["mean_iou"] - each[COARSE]["mean_iou"]) for each in domains]
            parts += [f"{fmean(gains):+.2f} on {target}"] if gains else []
        if parts:
            yield f"Refinement, final against coarse of {last.title}, images fitted to {edge}: {enumeration(parts)}."


def _edges(plan: Plan, measured: Measured) -> Iterator[str]:
    rates = plan.budget.learning_rates
    for row in plan.rows:
        chosen = measured.committed["rows"][row.name]["learning_rate"]
        if len(rates) > 1 and chosen in (min(rates), max(rates)):
            which = "highest" if chosen == max(rates) else "lowest"
            yield f"{row.title}: the rate {chosen:g} is the {which} that was tried; one beyond may be better."
