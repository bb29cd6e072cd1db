# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Measure one thing, print its tables, and keep figures, command and machine with --output.

example:
  python scripts/benchmark.py mean-iou --output benchmarks
"""

import argparse
import shlex
import sys

from vfmseg_hf.cli.options import check_output_folder

from . import BENCHMARKS
from .records import describe_machine, format_tables, write_benchmark


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
    result = {
        "benchmark": arguments.benchmark,
        "command": f"python scripts/benchmark.py {shlex.join(sys.argv[1:])}",
        "machine": describe_machine(),
        **BENCHMARKS[arguments.benchmark].run(arguments),
    }
    print(format_tables(result))
    if arguments.output:
        write_benchmark(arguments.output, arguments.benchmark, result)


def run() -> None:
    """`main`, whose errors of one line end the process."""
    try:
        main()
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    run()
