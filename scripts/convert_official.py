#!/usr/bin/env python
# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Convert a checkpoint of the authors' mmsegmentation code into one that from_pretrained loads."""

import argparse
import json
from pathlib import Path

from vfmseg_hf.convert import ENCODER_CONVERTERS, convert_official


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", metavar="WEIGHTS", type=Path, help=".safetensors or torch checkpoint")
    parser.add_argument("output", metavar="OUT", type=Path, help="directory to create")
    parser.add_argument("--backbone", required=True, choices=sorted(ENCODER_CONVERTERS), help="the published encoder")
    parser.add_argument(
        "--config",
        required=True,
        type=Path,
        metavar="overrides.json",
        help="fields of VFMSegConfig with a full backbone_config, plus lora_alpha; all else as published",
    )
    parser.add_argument(
        "--adapter-only", action="store_true", help="write LoRA and heads, and the frozen encoder to OUT/base"
    )
    parser.add_argument("--base", metavar="NAME", help="with --adapter-only: name this foundation model instead")
    arguments = parser.parse_args()
    if arguments.base and not arguments.adapter_only:
        parser.error("--base goes with --adapter-only")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    try:
        overrides = json.loads(arguments.config.read_text())
        converted = convert_official(
            arguments.weights,
            arguments.output,
            arguments.backbone,
            overrides,
            adapter_only=arguments.adapter_only,
            base=arguments.base,
        )
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    for key, reason in converted.dropped.items():
        print(f"dropped {key}: {reason}")
    count = len(converted.encoder) + len(converted.heads)
    print(f"{arguments.output}: {count} tensors and {len(converted.lora)} LoRA pairs of rank {converted.rank}")


if __name__ == "__main__":
    main()
