# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What parts of the recipe are worth: train with each on and off, over several seeds, and tabulate.

example (after --, the options of `vfmseg train`):
  vfmseg ablate --output runs/ablation --vary rare_class_sampling photometric --seeds 0 1 2 -- \\
      --model dinov2-base --data camvid:/data/camvid@source_train \\
      --eval_data day=camvid:/data/camvid@source_val dusk=camvid:/data/camvid@target_dusk

Writes table.md and results.json. A stopped ablation goes on with the same command; finished runs are kept.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..data.domains import evaluation_domains, parse_domain
from ..training.ablation import execute, plan_runs, prior_scores, summarise
from ..utils.files import write_file
from .options import Parser, check_output_folder, whole_number


GROUPS = {"options": ("output", "vary", "seeds", "jobs", "train_arguments")}


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="vfmseg ablate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", "--output_dir", type=Path, required=True, help="folder for the runs and the table")
    parser.add_argument("--vary", nargs="+", required=True, help="switches of train, each on and off")
    parser.add_argument(
        "--seeds", nargs="+", type=whole_number(0), default=[0, 1, 2], help="every combination runs with each"
    )
    parser.add_argument("--jobs", type=whole_number(1), default=1, help="runs at a time; they share the cores")
    parser.add_argument("train_arguments", nargs="+", metavar="...", help="after --: options of train")
    return parser


def training_data(train_arguments: Sequence[str]) -> argparse.Namespace:
    """The data among the options of train."""
    parser = Parser(prog="vfmseg ablate, after --", add_help=False)
    parser.add_argument("--data", "--train", nargs="+", required=True)
    parser.add_argument("--eval_data", "--domains", nargs="+", required=True)
    parser.add_argument("--id2label")
    parser.add_argument("--class_map")
    data = parser.parse_known_args(train_arguments)[0]
    if len(data.data) > 1:
        raise ValueError(f"an ablation trains on one dataset, got --data {' '.join(data.data)}; leave out all but one")
    return data


def run(argv: Sequence[str]) -> int:
    arguments = build_parser().parse_args(argv)
    check_output_folder(arguments.output)
    rest = arguments.train_arguments
    data = training_data(rest)
    runs = plan_runs(arguments.output, arguments.vary, arguments.seeds, rest)
    # First, as it finds what is wrong with the data before hours of training.
    domains = evaluation_domains(data.eval_data)
    prior = prior_scores(parse_domain(data.data[0]), domains, data.id2label, data.class_map)
    command = [sys.executable, "-m", "vfmseg_hf", "train"]
    results = sorted(execute(runs, command, arguments.jobs), key=lambda item: runs.index(item[0]))
    table = summarise(results, prior)
    record = {
        "arguments": rest,
        "position_prior": prior,
        "runs": [{**dict(run.switches), "seed": run.seed, **scores} for run, scores in results],
    }
    write_file(arguments.output / "results.json", json.dumps(record, indent=2) + "\n")
    write_file(arguments.output / "table.md", table)
    print(table)
    return 0
