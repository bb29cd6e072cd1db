#!/usr/bin/env python
# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Train a tiny VFMSeg on a clean, game-like street and hold it on streets by day, at night, in rain, through another
camera: no data, no weights, no GPU; about four minutes on two CPU cores. Writes the model, panels and results.json."""

import argparse
import sys
from pathlib import Path

from vfmseg_hf.cli.options import check_output_folder, whole_number
from vfmseg_hf.quickstart import QuickstartSettings, run_quickstart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"), help="folder for the results")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of the weights and the order of training")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    arguments = parser.parse_args()
    check_output_folder(arguments.output)
    run_quickstart(arguments.output, QuickstartSettings(seed=arguments.seed), arguments.resume)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command with --resume goes on from the last checkpoint")
