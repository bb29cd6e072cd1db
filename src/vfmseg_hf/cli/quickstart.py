# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Train a tiny model and hold it on streets that look different: no data, no weights, no GPU.

In about four minutes it trains on a clean, game-like street, and is held on streets by day, at night, in rain and
through another camera. Writes the model, panels and results.json.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..quickstart import QuickstartSettings, run_quickstart
from ..training.callbacks import TrainingStopped
from .options import Parser, check_output_folder, whole_number


GROUPS = {"options": ("output", "seed", "resume")}


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="vfmseg quickstart", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"), help="folder for the results")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of the weights and the order of training")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = build_parser().parse_args(argv)
    check_output_folder(arguments.output)
    try:
        run_quickstart(arguments.output, QuickstartSettings(seed=arguments.seed), arguments.resume)
    except TrainingStopped as stopped:
        print(f"{stopped}; the same command with --resume goes on", file=sys.stderr)
        return stopped.status
    return 0
