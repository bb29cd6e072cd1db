# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Convert a checkpoint of the authors' mmsegmentation code, or a foundation model's original file (--raw).

The first becomes a folder that from_pretrained loads, the second one that from_backbone takes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..convert import PUBLISHED_ENCODERS, convert_foundation, convert_official
from ..utils.files import read_settings
from .options import Parser, check_new_folder


GROUPS = {
    "options": ("weights", "output", "backbone", "config", "raw"),
    "adapters": ("adapter_only", "base"),
    "TorchScript": ("trust_torchscript",),
}


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="vfmseg convert", description=__doc__)
    parser.add_argument("weights", metavar="WEIGHTS", type=Path, help=".safetensors or torch checkpoint")
    parser.add_argument("output", metavar="OUT", type=Path, help="directory to create")
    parser.add_argument("--backbone", required=True, choices=sorted(PUBLISHED_ENCODERS), help="the published encoder")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="overrides.json",
        help="fields of VFMSegConfig with a full backbone_config, plus lora_alpha; all else as published. "
        "With --raw, and optional there: fields of the encoder's configuration",
    )
    parser.add_argument(
        "--adapter_only", action="store_true", help="write LoRA and heads, and the frozen encoder to OUT/base"
    )
    parser.add_argument("--base", metavar="NAME", help="with --adapter_only: name this foundation model instead")
    parser.add_argument("--raw", action="store_true", help="WEIGHTS is a foundation model in its original format")
    parser.add_argument(
        "--trust_torchscript",
        action="store_true",
        help="read WEIGHTS even if it is a TorchScript archive, which is a program: OpenAI's CLIP",
    )
    return parser


def read_arguments(argv: Sequence[str]) -> argparse.Namespace:
    arguments = build_parser().parse_args(argv)
    if arguments.base and not arguments.adapter_only:
        raise ValueError("--base goes with --adapter_only")
    if arguments.raw and arguments.adapter_only:
        raise ValueError("--raw weights have no adapter; leave --adapter_only out")
    if not arguments.raw and not arguments.config:
        raise ValueError("--config is needed, except with --raw")
    if arguments.trust_torchscript and not arguments.raw:
        raise ValueError("--trust_torchscript goes with --raw")
    return arguments


def run(argv: Sequence[str]) -> int:
    arguments = read_arguments(argv)
    check_new_folder(arguments.output)
    overrides = read_settings(arguments.config) if arguments.config else {}
    if not isinstance(overrides, dict):
        raise ValueError(f"{str(arguments.config)!r} must hold an object, {{...}}")
    source, output, backbone = arguments.weights, arguments.output, arguments.backbone
    if arguments.raw:
        converted = convert_foundation(source, output, backbone, overrides, arguments.trust_torchscript)
    else:
        converted = convert_official(source, output, backbone, overrides, arguments.adapter_only, arguments.base)
    for reason in sorted(set(converted.dropped.values())):
        keys = [key for key in converted.dropped if converted.dropped[key] == reason]
        print(f"dropped {len(keys)} tensor{'s' if keys[1:] else ''} ({keys[0]}{', ...' if keys[1:] else ''}): {reason}")
    lora = f" and {len(converted.lora)} LoRA pairs of rank {converted.rank}" if converted.rank else ""
    print(f"{arguments.output}: {len(converted.encoder) + len(converted.heads)} tensors{lora}")
    return 0
