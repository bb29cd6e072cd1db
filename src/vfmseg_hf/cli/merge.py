# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Turn an adapter and its foundation model into one folder: the model, its image processor and its record.

What was written is loaded back and compared before the folder appears.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..convert.merging import merge_checkpoint
from .options import Parser, check_new_folder


GROUPS = {"options": ("model", "output", "backbone_name_or_path", "revision")}


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="vfmseg merge", description=__doc__)
    parser.add_argument("model", metavar="DIR", help="folder of an adapter, or its Hub id")
    parser.add_argument("output", metavar="OUT", type=Path, help="folder to create")
    parser.add_argument(
        "--backbone_name_or_path",
        metavar="MODEL",
        help="where the foundation model is, if not where the adapter says",
    )
    parser.add_argument("--revision", help="of an adapter of the Hub: branch, tag or commit")
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = build_parser().parse_args(argv)
    check_new_folder(arguments.output)
    merge_checkpoint(
        arguments.model,
        arguments.output,
        backbone_name_or_path=arguments.backbone_name_or_path,
        revision=arguments.revision,
    )
    print(f"the model is in {arguments.output}, with nothing else needed to load it")
    return 0
