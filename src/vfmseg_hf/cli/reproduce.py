# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Run the paper's tables again, in small or as they were: each row with its seeds, its learning rate chosen fairly.

table1: VFMSeg beside Rein, EoMT and models of transformers, and with other ways to adapt the encoder. table2: what
each part adds. table3: decoders. table4: mask ratio and weight of the detail loss. strong: what each part of the
recipe strong adds, in small on images that no other table is scored on.

Every row tries the same learning rates for the same steps. They are chosen on images of the source and committed to
settings.json before a target is read. Writes table.md and results.json; every run has a folder with its log and its
scores. The same command goes on with what was stopped or has failed; finished runs are kept.

examples:
  vfmseg reproduce table2 --camvid /data/camvid --carla /data/carlarain --jobs 2
  vfmseg reproduce table1 --model dinov2-large --data gtav:/data/gtav --dtype bfloat16 --output runs/table1 \\
      --eval_data cityscapes:/data/cityscapes bdd100k:/data/bdd100k mapillary:/data/mapillary

With --data it is the paper's own setting: 40,000 steps of 2 crops of 1024, one learning rate, all images of targets.

figure4 and figure5 have options of their own: vfmseg reproduce figure4 --help.
"""

import argparse
import hashlib
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors import safe_open

from ..convert import cached_encoder
from ..prediction.predict import choose_device
from ..reproduce import (
    PAPER,
    SMALL,
    TABLES,
    Plan,
    Run,
    Stopped,
    budget_of,
    check_data,
    check_plan,
    own_setting,
    reproduce,
    small_settings,
)
from ..utils.processes import count_cores
from .options import Parser, check_output_folder, check_reproduction, positive_number, whole_number
from .train import check_arguments, parse_arguments


GROUPS = {
    "options": ("table", "output", "model", "camvid", "carla", "data", "eval_data", "val_data", "dry_run"),
    "budget": ("steps", "batch_size", "max_images", "size", "seeds", "learning_rates", "resolutions"),
    "computing": ("device", "dtype", "jobs", "num_workers"),
}


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="vfmseg reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(TABLES), metavar="TABLE", help="what to reproduce")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for the runs and the table; by default outputs/TABLE"
    )
    parser.add_argument(
        "--model",
        "--encoder",
        help="the foundation model: a preset, Hub id or folder; it is downloaded once. By default dinov2-small, to be "
        "named with --data",
    )
    parser.add_argument("--camvid", metavar="DIR", help="folder of CamVid: two targets more, and a source")
    parser.add_argument("--carla", metavar="DIR", help="folder of CARLARain: a target more")
    parser.add_argument(
        "--data", metavar="DATASET", help="train on dataset[@split] of your own, at the paper's size; with --eval_data"
    )
    parser.add_argument("--eval_data", nargs="+", metavar="DOMAIN", help="its targets: [name=]dataset[@split] each")
    parser.add_argument(
        "--val_data", metavar="DATASET", help="images of the same source to choose among several learning rates on"
    )
    parser.add_argument("--dry_run", action="store_true", help="say what would be run, check the paths, and end")
    small = "by default {} in small, {} with --data".format
    parser.add_argument("--steps", type=whole_number(1), help=small(SMALL.steps, PAPER.steps))
    parser.add_argument("--batch_size", type=whole_number(1), help=small(SMALL.batch_size, PAPER.batch_size))
    parser.add_argument(
        "--max_images",
        "--images",
        type=whole_number(1),
        metavar="N",
        help=f"scored of each target, evenly spaced; {small(SMALL.max_images, 'all')}",
    )
    parser.add_argument(
        "--size",
        type=whole_number(32),
        metavar="PIXELS",
        help="shortest edge of images and edge of crops, a multiple of 32; windows and the coarse pass are the paper's "
        f"share of it; {small(SMALL.size, PAPER.size)}",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=whole_number(0),
        help="rates are chosen with the first, and some rows have no other; by default 0 1 2, or 0 (table3, table4)",
    )
    parser.add_argument(
        "--learning_rates",
        nargs="+",
        type=positive_number,
        metavar="RATE",
        help="tried for every row; "
        + small(*(" ".join(f"{rate:g}" for rate in each.learning_rates) for each in (SMALL, PAPER)))
        + "; table4 and strong have the one that table2 chose",
    )
    parser.add_argument(
        "--resolutions",
        nargs="*",
        type=whole_number(32),
        metavar="PIXELS",
        help="further shortest edges to score the last row at, for what refinement gives at which resolution; "
        + "by default 512 for table2 in small, else none",
    )
    parser.add_argument("--device", default="auto", help="where to compute, e.g. cpu or cuda:1; auto: the GPU if any")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        default="float32",
        help="what trainings compute in; scores are computed in float32",
    )
    parser.add_argument("--jobs", type=whole_number(1), default=1, help="runs at a time; they share the cores")
    parser.add_argument(
        "--num_workers", type=whole_number(0), default=0, metavar="N", help="processes of each run that read images"
    )
    return parser


def make_plan(arguments: argparse.Namespace) -> Plan:
    """What the command line asks for; the encoder is fetched where it is not on this machine."""
    names = ("steps", "batch_size", "max_images", "size", "seeds", "learning_rates", "resolutions")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    if given.get("size", PAPER.size) != PAPER.size:
        given["protocol"] = SMALL.protocol  # the paper's has sizes of its own
    table = TABLES[arguments.table]
    budget, left_out = replace(budget_of(table, small=not arguments.data), **given), []
    if arguments.resolutions and not table.details:
        raise ValueError(
            f"--resolutions are of table2; what the models of {table.name} score at others is shown by "
            "`vfmseg reproduce figure4 --from`"
        )
    if budget.size in budget.resolutions:
        raise ValueError(f"--resolutions are beside the size {budget.size}, which is scored in any case; leave it out")
    if arguments.data:
        settings = (own_setting(budget, arguments.data, arguments.val_data, arguments.eval_data),)
    else:
        folders = (path and os.path.abspath(os.path.expanduser(path)) for path in (arguments.camvid, arguments.carla))
        settings, left_out = small_settings(table, budget, *folders)
    check_data(settings)  # before an encoder is fetched
    encoder = Path(os.path.abspath(cached_encoder(arguments.model or "dinov2-small", report=print)))
    digest, parameters = read_weights(encoder)
    return Plan(
        table,
        settings,
        budget,
        str(encoder),
        digest,
        parameters,
        str(choose_device(arguments.device)),
        arguments.dtype,
        arguments.num_workers,
        left_out,
    )


def check_rows(plan: Plan, output: Path) -> None:
    """Raise a `ValueError` if a row cannot be trained on the encoder; rows with a configuration do without it."""
    on_cpu = replace(plan, device="cpu")  # nothing is computed, and other devices are hidden from the process
    for row in plan.rows:
        if not row.config:
            run = Run(plan.settings[0], row, plan.budget.learning_rates[0], 0)
            words = on_cpu.train_words(run, plan.settings[0].source, output / "row")
            try:
                check_arguments(*parse_arguments(words))
            except ValueError as error:
                raise ValueError(f"row {row.title}: {error}") from error


def read_weights(encoder: Path) -> tuple[str, int]:
    """SHA-256 of the weights of a foundation model, over all their files by name, and how many weights there are."""
    files = sorted(encoder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{encoder} has no weights: there is no model.safetensors in it")
    digest, count = hashlib.sha256(), 0
    for file in files:
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        with safe_open(file, "pt") as tensors:
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())
    return digest.hexdigest(), count


def describe_plan(plan: Plan, jobs: int) -> str:
    """What would be run, and about how long it takes."""
    budget = plan.budget
    rates = " ".join(f"{rate:g}" for rate in budget.learning_rates)
    lines = [
        f"encoder {plan.encoder}, {plan.parameters:,} weights, sha256 {plan.encoder_sha256[:12]}",
        f"{plan.number_of_runs} trainings of {budget.steps} steps of {budget.batch_size} crops of {budget.size}; rates "
        f"{rates}; seeds {' '.join(map(str, budget.seeds))}; {budget.max_images or 'all'} images of each target",
    ]
    for setting in plan.settings:
        lines.append(f"{setting.name}: {setting.source}")
        if setting.validation and len(budget.learning_rates) > 1:
            lines.append(f"  rates are chosen on {setting.validation.partition('=')[2]}")
        lines += [f"  target {target}" for target in setting.targets]
    for row in plan.rows:
        told = " ".join([*row.train, *(["from", row.config] if row.config else [])])
        lines.append(f"  row {row.title}: {told or 'as it is'}; seeds {' '.join(map(str, plan.seeds_of(row)))}")
    cores = count_cores()
    estimate = f"about {plan.minutes(cores):,.0f} minutes on the {cores} cores here"
    lines.append(f"{estimate}, {jobs} runs at a time; a GPU takes a fraction, which the progress bar tells after a run")
    return "\n".join(lines)


def run(argv: Sequence[str]) -> int:
    arguments = build_parser().parse_args(argv)
    arguments.output = arguments.output or Path("outputs", arguments.table)
    check_reproduction(arguments)
    check_output_folder(arguments.output)
    plan, output = make_plan(arguments), arguments.output.absolute()
    check_rows(plan, output)
    for line in plan.left_out:
        print(line)
    if arguments.dry_run:
        check_plan(plan, output)
        print(describe_plan(plan, arguments.jobs))
        return 0
    try:
        failures = reproduce(plan, output, arguments.jobs)
    except Stopped as stopped:
        print(f"{stopped}; the same command goes on", file=sys.stderr)
        return stopped.status
    print((output / "table.md").read_text(encoding="utf-8"))
    for line in failures:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failures else 0
