#!/usr/bin/env python
# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Convert a checkpoint of the authors' mmsegmentation code into one that from_pretrained loads, or a foundation model's
original file (--raw) into one that from_backbone takes."""

import argparse
from pathlib import Path

from vfmseg_hf.convert import PUBLISHED_ENCODERS, convert_foundation, convert_official
from vfmseg_hf.utils.files import read_settings


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
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
        "--adapter-only", action="store_true", help="write LoRA and heads, and the frozen encoder to OUT/base"
    )
    parser.add_argument("--base", metavar="NAME", help="with --adapter-only: name this foundation model instead")
    parser.add_argument("--raw", action="store_true", help="WEIGHTS is a foundation model in its original format")
    parser.add_argument(
        "--trust-torchscript",
        action="store_true",
        help="read WEIGHTS even if it is a TorchScript archive, which is a program: OpenAI's CLIP",
    )
    arguments = parser.parse_args()
    if arguments.base and not arguments.adapter_only:
        parser.error("--base goes with --adapter-only")
    if arguments.raw and arguments.adapter_only:
        parser.error("--raw weights have no adapter; leave --adapter-only out")
    if not arguments.raw and not arguments.config:
        parser.error("--config is needed, except with --raw")
    if arguments.trust_torchscript and not arguments.raw:
        parser.error("--trust-torchscript goes with --raw")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    try:
        overrides = read_settings(arguments.config) if arguments.config else {}
        if not isinstance(overrides, dict):
            raise ValueError(f"{str(arguments.config)!r} must hold an object, {{...}}")
        source, output, backbone = arguments.weights, arguments.output, arguments.backbone
        if arguments.raw:
            converted = convert_foundation(source, output, backbone, overrides, arguments.trust_torchscript)
        else:
            converted = convert_official(source, output, backbone, overrides, arguments.adapter_only, arguments.base)
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error
    for reason in sorted(set(converted.dropped.values())):
        keys = [key for key in converted.dropped if converted.dropped[key] == reason]
        print(f"dropped {len(keys)} tensor{'s' if keys[1:] else ''} ({keys[0]}{', ...' if keys[1:] else ''}): {reason}")
    lora = f" and {len(converted.lora)} LoRA pairs of rank {converted.rank}" if converted.rank else ""
    print(f"{arguments.output}: {len(converted.encoder) + len(converted.heads)} tensors{lora}")


if __name__ == "__main__":
    main()
