# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The reproduction from the first trial to the table. No target is read before its setting's rates are committed."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout
from PIL import Image
from tqdm import tqdm

from ..data import describe_dataset, open_dataset
from ..data.domains import Domain, evaluation_domains, parse_domain, parse_domains
from ..evaluation import software_versions
from ..utils.files import write_file
from .choice import SETTINGS, choose, commit, read_committed, trial_result
from .costs import Costs, measure_costs
from .plan import Plan, Run, Setting
from .processes import Commands
from .runs import SOURCE, TARGETS, TRAIN, Outcome, RunFolder
from .scenes import is_drawn, keep_scenes, place_of
from .table import Measured, write_table


RESULTS, TABLE = "results.json", "table.md"

Say = Callable[[str], None]


def check_data(settings: Sequence[Setting]) -> None:
    """
    Whether the data are there. Of the sources the files are listed; of the targets nothing is, but whether their
    folders are there and their splits are known.

    Raises:
        ValueError, OSError: a dataset is not there; in one line.
    """
    for setting in settings:
        domains = parse_domains(list(setting.targets))
        if any(domain.name == SOURCE for domain in domains):
            raise ValueError(f"no target can be named {SOURCE!r}, which is the source's; name it otherwise")
        for domain in evaluation_domains(list(setting.targets)):
            known = describe_dataset(domain.spec).splits
            if known and domain.split not in known:
                raise ValueError(f"{domain.spec} has no split {domain.split!r}, only {', '.join(known)}")
        for domain in [parse_domain(setting.source), *_validation(setting)]:
            open_dataset(domain.spec, domain.split)


def check_plan(plan: Plan, output: Path) -> None:
    """
    Looks at all that can be wrong before the first run.

    Raises:
        ValueError, OSError: as [`check_data`], or the output folder holds something else; in one line.
    """
    check_data(plan.settings)
    for setting in plan.settings:
        committed = read_committed(output / setting.name / SETTINGS, plan, setting)
        rates = {name: row["learning_rate"] for name, row in (committed or {"rows": {}})["rows"].items()}
        source = place_of(output, parse_domain(setting.source))
        for run in dict.fromkeys([*plan.trials(setting), *plan.runs(setting, rates)]):
            RunFolder(output, run, plan).check(source)


def reproduce(plan: Plan, output: Path, jobs: int = 1, say: Say = tqdm.write) -> list[str]:
    """
    Run all that is not there yet, and write `table.md` and `results.json`.

    Args:
        output: an absolute path.
        jobs: runs at a time; they share the cores.
        say: takes a line for every run that is finished.

    Returns:
        What failed, in lines; everything else is in the table.

    Raises:
        Stopped: by a signal; the same call goes on.
        ValueError, OSError: as [`check_plan`], or another process is at work in the folder.
    """
    check_plan(plan, output)
    output.mkdir(parents=True, exist_ok=True)
    with locked(output):
        return _reproduce(plan, output, jobs, say)


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """No other process writes into the folder meanwhile; a `ValueError` if one does."""
    lock = FileLock(output / ".lock", timeout=0)
    try:
        with lock:
            yield
    except Timeout as error:
        raise ValueError(
            f"another process is at work in {output}; wait for its end, or name another --output"
        ) from error


def _reproduce(plan: Plan, output: Path, jobs: int, say: Say) -> list[str]:
    commands = Commands(jobs)
    with tqdm(total=plan.number_of_runs, desc="runs", unit="run") as bar:
        chosen = {}
        for setting in plan.settings:  # a setting's targets may be a later one's source
            chosen[setting.name] = _choose_rates(plan, setting, output, commands, bar, say)
        for setting in plan.settings:
            _score_targets(plan, setting, chosen[setting.name], output, commands, bar, say)
    measured = [_collect(plan, setting, chosen[setting.name], output) for setting in plan.settings]
    _write_results(plan, measured, output, commands)
    return [failure for each in measured for failure in each.failures]


# --- rates --------------------------------------------------------------------------------------------------------


def _choose_rates(
    plan: Plan, setting: Setting, output: Path, commands: Commands, bar: tqdm, say: Say
) -> Mapping[str, object]:
    """The committed settings of a setting; trials are made for rows that have none."""
    path = output / setting.name / SETTINGS
    committed = read_committed(path, plan, setting)
    trials = plan.trials(setting)
    known = (committed or {"rows": {}})["rows"]
    open_rows = {row.name for row in plan.rows if known.get(row.name, {}).get("learning_rate") is None}
    wanted = [run for run in trials if run.row.name in open_rows]
    bar.update(len(trials) - len(wanted))
    if not wanted:
        return committed
    if len(plan.budget.learning_rates) == 1:  # there is nothing to choose
        results = {run.row.name: {run.rate: None} for run in wanted}
        return commit(path, plan, setting, choose(results), committed)
    source = parse_domain(setting.source)
    (validation,) = _validation(setting)
    for domain in (source, validation):
        keep_scenes(output, domain)

    def try_rate(run: Run) -> tuple[Outcome, Outcome | None]:
        folder = RunFolder(output, run, plan)
        trained = folder.train(place_of(output, source), commands)
        if not trained.finished:
            return trained, None
        return trained, folder.score(SOURCE, [f"{SOURCE}={place_of(output, validation)}"], commands)

    results: dict[str, dict[float, float | str]] = {row: {} for row in open_rows}
    for run, (trained, scored) in commands.each(try_rate, wanted):
        scores = RunFolder(output, run, plan).scores(SOURCE)
        results[run.row.name][run.rate] = result = trial_result(trained, scored, scores)
        bar.update()
        if isinstance(result, str):
            say(f"{run}: failed: {result}")
        elif trained.made or scored.made:
            say(f"{run}: {trained.seconds:.0f} s, source {100 * result:.2f}")
    ordered = {
        row.name: {rate: results[row.name][rate] for rate in plan.budget.learning_rates}
        for row in plan.rows
        if row.name in open_rows
    }
    committed = commit(path, plan, setting, choose(ordered), committed)
    rates = ", ".join(f"{name} {row['learning_rate'] or 'none'}" for name, row in committed["rows"].items())
    say(f"{setting.name}: rates {rates}; committed to {path}, sha256 {committed['sha256'][:12]}")
    return committed


def _validation(setting: Setting) -> list[Domain]:
    return evaluation_domains([setting.validation]) if setting.validation else []


# --- targets ------------------------------------------------------------------------------------------------------


def _score_targets(
    plan: Plan, setting: Setting, committed: Mapping[str, object], output: Path, commands: Commands, bar: tqdm, say: Say
) -> None:
    rates = {name: row["learning_rate"] for name, row in committed["rows"].items()}
    source = parse_domain(setting.source)
    runs = plan.runs(setting, rates)
    tried = set(plan.trials(setting)) if len(plan.budget.learning_rates) > 1 else set()
    bar.update((len(plan.rows) - sum(rate is not None for rate in rates.values())) * len(plan.budget.seeds[1:]))
    keep_scenes(output, source)
    targets = evaluation_domains(list(setting.targets))
    for domain in targets:
        keep_scenes(output, domain)
    places = [f"{domain.name}={place_of(output, domain)}" for domain in targets]

    def finish(run: Run) -> list[Outcome]:
        folder = RunFolder(output, run, plan)
        outcomes = [folder.train(place_of(output, source), commands)]
        if not outcomes[0].finished:
            return outcomes
        outcomes += folder.score_each(TARGETS, places, commands)
        for edge in plan.budget.resolutions if run.row == plan.rows[-1] else ():
            outcomes += folder.score_each(resolution_step(edge), places, commands, edge)
        return outcomes

    for run, outcomes in commands.each(finish, runs):
        bar.update(run not in tried)
        if failed := next((outcome for outcome in outcomes if not outcome.finished), None):
            say(f"{run}: failed: {failed.reason}")
        elif any(outcome.made for outcome in outcomes):
            scores = RunFolder(output, run, plan).scores_of_each(TARGETS)
            shown = ", ".join(f"{name} {100 * domain['final']['mean_iou']:.2f}" for name, domain in scores.items())
            say(f"{run}: {sum(outcome.seconds for outcome in outcomes):.0f} s, {shown}")


def resolution_step(edge: int) -> str:
    return f"{TARGETS}_{edge}"


# --- what came out ------------------------------------------------------------------------------------------------


def _collect(plan: Plan, setting: Setting, committed: Mapping[str, object], output: Path) -> Measured:
    """All that the runs of a setting have left."""
    rates = {name: row["learning_rate"] for name, row in committed["rows"].items()}
    measured = Measured(setting, committed)
    for row in plan.rows:
        if rates.get(row.name) is None:
            reason = committed["rows"][row.name]["reason"]
            measured.failures.append(f"{setting.name}, {row.title}: no learning rate: {reason}")
    for run in plan.runs(setting, rates):
        folder = RunFolder(output, run, plan)
        edges = plan.budget.resolutions if run.row == plan.rows[-1] else ()
        wanted = {TRAIN, TARGETS, *map(resolution_step, edges)}
        measured.failures += [f"{run}, {step}: {reason}" for step, reason in folder.failures(wanted).items()]
        if scores := folder.scores_of_each(TARGETS):
            measured.scores.setdefault(run.row.name, {})[run.seed] = scores
            trained = folder.outcome(TRAIN)
            measured.seconds.setdefault(run.row.name, []).append(trained.seconds)
            measured.threads.add(trained.threads)
            measured.versions |= {str(known.get("made_by", "an earlier version")) for known in folder.steps().values()}
            if run.row.name not in measured.costs:
                measured.costs[run.row.name] = _costs(plan, run, folder, measured)
        for edge in edges:
            if scores := folder.scores_of_each(resolution_step(edge)):
                measured.resolutions.setdefault(edge, {})[run.seed] = scores
    measured.sizes.update(_sizes(setting, output) if measured.scores else {})
    return measured


def _costs(plan: Plan, run: Run, folder: RunFolder, measured: Measured) -> Costs | None:
    """A table without them is better than none."""
    try:
        return measure_costs(folder.model, run.row.refine, plan.budget.size, 2 * plan.budget.size)
    except Exception as error:
        measured.failures.append(f"{run}, costs: {type(error).__name__}: {' '.join(str(error).split())}")
        return None


def _sizes(setting: Setting, output: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Width and height of the first image of every target."""
    for domain in evaluation_domains(list(setting.targets)):
        place = parse_domain(place_of(output, domain)) if is_drawn(domain) else domain
        try:
            image: Image.Image = open_dataset(place.spec, place.split, held_out=True)[0]["image"]
        except (OSError, ValueError):  # it has failed before, with its reason
            continue
        yield domain.name, image.size


def _write_results(plan: Plan, measured: Sequence[Measured], output: Path, commands: Commands) -> None:
    results = {
        "plan": {**asdict(plan), "settings": [asdict(setting) for setting in plan.settings]},
        "runs_at_a_time": commands.jobs,
        "versions": software_versions("peft", "accelerate"),
        "settings": {each.setting.name: each.as_record() for each in measured},
    }
    write_file(output / RESULTS, json.dumps(results, indent=2) + "\n")
    write_file(output / TABLE, write_table(plan, measured))
