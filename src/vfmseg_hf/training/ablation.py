# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The same training with parts of the recipe on and off, over several seeds: runs, table, and what the table says."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..data import classes_of, describe_dataset, open_dataset
from ..data.class_names import read_class_maps
from ..data.domains import Domain, name_classes
from ..evaluation import confusion_matrix, iou_scores
from ..evaluation.baselines import PositionPrior
from ..model.image_processing_pil_vfmseg import VFMSegImageProcessorPil
from ..utils.files import write_file
from .data import EvaluationImages


RECORD, LOG = "command.json", "log.txt"
SCORES = "eval_results.json"  # of train, written when all else is done

Scores = dict[str, float]  # from `eval_<domain>_mean_iou` and the like to mean IoU in 0..1


@dataclass(frozen=True)
class Run:
    """
    One training.

    Attributes:
        switches: which parts are on, by name of the argument of `vfmseg train`.
        seed: of everything random.
        folder: its output.
        arguments: of `vfmseg train`.
    """

    switches: tuple[tuple[str, bool], ...]
    seed: int
    folder: Path
    arguments: tuple[str, ...]


def plan_runs(output_dir: str | os.PathLike, names: Sequence[str], seeds: Sequence[int], arguments: Sequence[str]):
    """
    All on/off combinations of the switches `names` times all `seeds`, in an order that finishes a seed before the next.

    Raises:
        ValueError: `arguments` set what is varied; the message names it.
    """
    given = {word.partition("=")[0].removeprefix("--").removeprefix("no_") for word in arguments if word[:2] == "--"}
    if taken := sorted(given & {*names, "seed", "output", "output_dir"}):
        raise ValueError(f"the ablation itself sets {', '.join(taken)}; leave it out of the arguments of train")
    runs = []
    for seed, values in product(seeds, product((True, False), repeat=len(names))):
        switches = tuple(zip(names, values, strict=True))
        folder = Path(output_dir, " ".join(f"{name}={_word(value)}" for name, value in switches), f"seed={seed}")
        varied = [part for name, value in switches for part in (f"--{name}", _word(value))]
        own = (*arguments, *varied, "--seed", str(seed), "--output_dir", str(folder))
        runs.append(Run(switches, seed, folder, own))
    return runs


def execute(runs: Sequence[Run], command: Sequence[str | os.PathLike], jobs: int = 1) -> Iterator[tuple[Run, Scores]]:
    """
    Train what is not there yet, `jobs` runs at a time that share the cores, and yield every run with its scores.

    Args:
        command: what the arguments of a run follow, such as `["vfmseg", "train"]`.

    Raises:
        ValueError: a folder holds a run of other arguments.
        ChildProcessError: a run failed; the message has the end of its log. Finished runs stay, and are not made again.
    """
    for run in runs:
        record = run.folder / RECORD
        if record.is_file() and json.loads(record.read_text()) != list(run.arguments):
            raise ValueError(f"{run.folder} holds a run of other arguments, see {RECORD} there; choose another folder")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores // jobs))}
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(_train, run, command, environment): run for run in runs}
        try:
            for future in tqdm(as_completed(futures), total=len(runs), desc="runs", unit="run"):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _train(run: Run, command: Sequence[str | os.PathLike], environment: Mapping[str, str]) -> Scores:
    if not (run.folder / SCORES).is_file():
        write_file(run.folder / RECORD, json.dumps(run.arguments))
        words = [*map(str, command), *run.arguments, "--resume"]
        with open(run.folder / LOG, "w", encoding="utf-8") as log:
            done = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, env=environment)
        if done.returncode or not (run.folder / SCORES).is_file():
            tail = (run.folder / LOG).read_text(encoding="utf-8", errors="replace")[-500:]
            raise ChildProcessError(f"the run in {run.folder} ended with status {done.returncode}: ...{tail}")
    scores = json.loads((run.folder / SCORES).read_text())
    return {key: value for key, value in scores.items() if key.endswith("mean_iou")}


def prior_scores(
    train: Domain, domains: Sequence[Domain], id2label: str | None = None, class_map: str | None = None
) -> dict[str, float]:
    """
    Mean IoU on every domain of the training labels' majority class at each position: what needs no image.

    Args:
        id2label, class_map: as for `vfmseg train`; the model's classes are those of the training set.
    """
    train, *domains = name_classes([train, *domains], id2label)
    labels = open_dataset(train.spec, train.split).select_columns(["label"])
    classes = classes_of(labels)
    prior = PositionPrior([np.array(row["label"]) for row in labels], len(classes))
    rows = {domain.name: open_dataset(domain.spec, domain.split, held_out=True) for domain in domains}
    known = {name: classes_of(dataset) for name, dataset in rows.items()}
    maps = read_class_maps(class_map, {"the training set": classes, **known})
    scores, processor = {}, VFMSegImageProcessorPil()
    for name, spec, _ in domains:
        rule = describe_dataset(spec).evaluation
        images = EvaluationImages(rows[name], processor, rule, class_map=maps[name]).for_model(classes, name)
        total = sum(
            confusion_matrix(prior.predict(row["image"]), images.read_labels(row).numpy(), len(classes))
            for row in rows[name]
        )
        scores[name] = float(iou_scores(images.evaluation.merge(total))["mean_iou"])
    return scores


def summarise(results: Sequence[tuple[Run, Scores]], prior: Mapping[str, float]) -> str:
    """
    A table (mean and sample standard deviation over the seeds, in percent) and what it says, in sentences.

    The effect of a switch is the mean difference of runs that differ in it alone; it is called smaller than the spread
    if it does not exceed the standard deviation of runs that differ in the seed alone.
    """
    domains = list(prior)
    variants = list(dict.fromkeys(run.switches for run, _ in results))
    head = [*(f"{domain}, coarse" for domain in domains), *domains]
    lines = ["| | " + " | ".join(head) + " |", "| --- |" + " --- |" * len(head)]
    cells = ["", *[""] * (len(domains) - 1), *(f"{100 * prior[domain]:.2f}" for domain in domains)]
    lines.append("| position prior of the training labels | " + " | ".join(cells) + " |")
    for variant in variants:
        cells = []
        for key in (*(f"eval_{domain}_coarse_mean_iou" for domain in domains), *map(_final, domains)):
            values = 100 * _values(results, variant, key)
            cells.append(f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""))
        lines.append(f"| {describe(variant)} | " + " | ".join(cells) + " |")
    sentences = [_against_prior(results, domain, prior[domain]) for domain in domains]
    names = [name for name, _ in variants[0]]
    sentences += [_effect(results, variants, name, domain) for name in names for domain in domains]
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in sentences)]) + "\n"


def describe(variant: tuple[tuple[str, bool], ...]) -> str:
    """A combination of switches in words."""
    return ", ".join(f"{'with' if on else 'without'} {name.replace('_', ' ')}" for name, on in variant) or "all runs"


def _against_prior(results, domain: str, prior: float) -> str:
    scores = [scores[_final(domain)] for _, scores in results]
    won = sum(score > prior for score in scores)
    verdict = "every run beats" if won == len(scores) else f"only {won} of {len(scores)} runs beat"
    return f"{domain}: {verdict} the position prior ({100 * prior:.2f}; lowest run {100 * min(scores):.2f})."


def _effect(results, variants, name: str, domain: str) -> str:
    scores = {(run.switches, run.seed): 100 * run_scores[_final(domain)] for run, run_scores in results}
    pairs = []
    for (switches, seed), score in scores.items():
        if dict(switches)[name]:
            without = tuple((other, on and other != name) for other, on in switches)
            pairs.append(score - scores[without, seed])
    change = f"{name.replace('_', ' ')}, {domain}: {np.mean(pairs):+.2f} points"
    seeds = {seed for _, seed in scores}
    if len(seeds) < 2:
        return f"{change} with one seed, so that nothing tells it from chance."
    variances = [(100 * _values(results, variant, _final(domain))).var(ddof=1) for variant in variants]
    spread = float(np.sqrt(np.mean(variances)))
    if abs(np.mean(pairs)) <= spread:
        return f"{change}, no difference beyond the spread of the seeds ({spread:.2f})."
    return f"{change}, more than the spread of the seeds ({spread:.2f})."


def _values(results, variant, key: str) -> np.ndarray:
    return np.array([scores[key] for run, scores in results if run.switches == variant])


def _final(domain: str) -> str:
    return f"eval_{domain}_mean_iou"


def _word(value: bool) -> str:
    return str(value).lower()
