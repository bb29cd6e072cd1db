#!/usr/bin/env python
# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What parts of the recipe are worth: train with each on and off, over several seeds, and tabulate.

example (after --, the arguments of train.py):
  python scripts/ablate.py --output_dir runs/ablation --vary rare_class_sampling photometric --seeds 0 1 2 -- \\
      --model dinov2-base --train camvid:/data/camvid@source_train \\
      --domains day=camvid:/data/camvid@source_val dusk=camvid:/data/camvid@target_dusk

Writes table.md and results.json. A stopped ablation goes on with the same command; finished runs are kept.
"""

import argparse
import json
import sys
from pathlib import Path

from vfmseg_hf.cli.options import check_output_folder, whole_number
from vfmseg_hf.data.domains import evaluation_domains, parse_domain
from vfmseg_hf.training.ablation import execute, plan_runs, prior_scores, summarise
from vfmseg_hf.utils.files import write_file


def parse_arguments() -> tuple[argparse.Namespace, argparse.Namespace]:
    """Our own arguments, with those of train.py in `train_arguments`; and the data among the latter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the runs and the table")
    parser.add_argument("--vary", nargs="+", required=True, help="switches of train.py, each on and off")
    parser.add_argument(
        "--seeds", nargs="+", type=whole_number(0), default=[0, 1, 2], help="every combination runs with each"
    )
    parser.add_argument("--jobs", type=whole_number(1), default=1, help="runs at a time; they share the cores")
    parser.add_argument("train_arguments", nargs="+", metavar="...", help="after --: arguments of train.py")
    arguments = parser.parse_args()
    data = argparse.ArgumentParser("ablate.py, after --", allow_abbrev=False)
    data.add_argument("--train", required=True)
    data.add_argument("--domains", nargs="+", required=True)
    data.add_argument("--id2label")
    data.add_argument("--class_map")
    return arguments, data.parse_known_args(arguments.train_arguments)[0]


def main() -> None:
    arguments, data = parse_arguments()
    check_output_folder(arguments.output_dir)
    rest = arguments.train_arguments
    runs = plan_runs(arguments.output_dir, arguments.vary, arguments.seeds, rest)
    # First, as it finds what is wrong with the data before hours of training.
    domains = evaluation_domains(data.domains)
    prior = prior_scores(parse_domain(data.train), domains, data.id2label, data.class_map)
    results = sorted(
        execute(runs, Path(__file__).with_name("train.py"), arguments.jobs), key=lambda item: runs.index(item[0])
    )
    table = summarise(results, prior)
    record = {
        "arguments": rest,
        "position_prior": prior,
        "runs": [{**dict(run.switches), "seed": run.seed, **scores} for run, scores in results],
    }
    write_file(arguments.output_dir / "results.json", json.dumps(record, indent=2) + "\n")
    write_file(arguments.output_dir / "table.md", table)
    print(table)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
