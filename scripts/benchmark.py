#!/usr/bin/env python
# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Measure one thing, print its tables, and keep figures, command and machine with --output.

example:
  python scripts/benchmark.py mean-iou --output benchmarks
"""

import argparse
import shlex
import sys
from pathlib import Path


# Python looks for modules beside the script first, and would take evaluate.py there for the package of that name.
sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]

from vfmseg_hf.benchmarks import BENCHMARKS  # noqa: E402
from vfmseg_hf.benchmarks.report import describe_machine, format_tables, write_benchmark  # noqa: E402
from vfmseg_hf.cli.options import check_output_folder  # noqa: E402


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = parser.add_subparsers(dest="benchmark", required=True)
    for name, module in BENCHMARKS.items():
        subparser = subparsers.add_parser(name, help=module.__doc__.splitlines()[0], description=module.__doc__)
        module.add_arguments(subparser)
        subparser.add_argument("--output", help="folder for <benchmark>.json and <benchmark>.md")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.output:
        check_output_folder(arguments.output)
    command = f"python scripts/{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}"
    result = {
        "benchmark": arguments.benchmark,
        "command": command,
        "machine": describe_machine(),
        **BENCHMARKS[arguments.benchmark].run(arguments),
    }
    print(format_tables(result))
    if arguments.output:
        write_benchmark(arguments.output, arguments.benchmark, result)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
