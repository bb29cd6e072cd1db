# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Adapt a foundation model to one look of a street, and hold it on other looks and on your photographs.

In eight to nine minutes on two CPU cores LoRA and both heads are trained on a frozen DINOv2 ViT-S, on drawn streets of
one look only. The model is scored on streets by day, at night, in rain and through another camera, beside
references; model, panels and results.json are written, and your own IMAGEs segmented. Without a network, where the
encoder is not on this machine yet, a toy from random weights takes its place.

example:
  vfmseg quickstart my_street.jpg more_streets/
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..convert import EncoderUnavailable, cached_encoder
from ..data import open_dataset
from ..model.image_inputs import open_image
from ..prediction.predict import find_images
from ..quickstart import FOUNDATION, TOY, run_quickstart
from ..quickstart.run import CAMVID, PREDICTIONS
from ..training import Augmentation
from ..training.callbacks import TrainingStopped
from .options import Parser, check_output_folder, whole_number


ENCODER = "dinov2-small"
GROUPS = {"options": ("images", "output", "seed", "resume", "encoder", "offline", "camvid")}


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="vfmseg quickstart", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "images", metavar="IMAGE", nargs="*", help="your own photographs, or folders of them, to segment at the end"
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"), help="folder for the results")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of the weights and the order of training")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    parser.add_argument(
        "--encoder",
        metavar="NAME",
        help=f"a preset, a Hub id or a folder, instead of {ENCODER}; 'random' for the toy",
    )
    parser.add_argument("--offline", action="store_true", help="take only what is on this machine")
    parser.add_argument("--camvid", type=Path, metavar="DIR", help="score the model on photographs of this dataset too")
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = build_parser().parse_args(argv)
    check_output_folder(arguments.output)
    Augmentation(crop_size=(32, 32))  # the extra that it needs is missed now, and not after a download
    images = find_own_images(arguments.images, arguments.output)
    for split in CAMVID.values() if arguments.camvid else ():
        open_dataset(f"camvid:{arguments.camvid}", split)  # what is wrong with it is said now
    encoder = choose_encoder(arguments.encoder, arguments.offline, report)
    settings = replace(TOY if encoder is None else FOUNDATION, seed=arguments.seed)
    if arguments.resume and not any(Path(arguments.output).glob("training/settings.json")):
        report(f"there is nothing to resume in {arguments.output}; this run starts from the beginning")
    try:
        run_quickstart(
            arguments.output,
            settings,
            arguments.resume,
            report,
            encoder=encoder,
            images=images,
            camvid=arguments.camvid,
        )
    except TrainingStopped as stopped:
        print(f"{stopped}; the same command with --resume goes on", file=sys.stderr)
        return stopped.status
    return 0


def find_own_images(sources: Sequence[str], output: Path) -> Mapping[Path, str]:
    """
    The user's images, each opened once, and the names of their results.

    Raises:
        ValueError: a file is no image, or lies where results are written.
        FileNotFoundError: there is no such file or folder, or no image in it.
    """
    if not sources:
        return {}
    images = find_images(sources, output / PREDICTIONS)
    for path in images:
        if path.is_relative_to(os.path.abspath(output)):
            raise ValueError(f"{path} is in the folder for results, {output}, which is cleared; copy it elsewhere")
        try:
            open_image(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is no image that can be read: {error}") from error
    return images


def choose_encoder(name: str | None, offline: bool, say: Callable[[str], object]) -> Path | None:
    """
    The directory of the foundation model, or `None` for the toy, which takes its place where it cannot be had.

    Raises:
        EncoderUnavailable: if that is an encoder which was asked for by name.
    """
    if name == "random":
        return None
    try:
        return cached_encoder(name or ENCODER, offline=offline, report=say)
    except EncoderUnavailable as error:
        if name is not None:
            raise
        say(f"{error}. So this is a toy that starts from random weights; the method needs a foundation model.")
        return None


def report(line: str) -> None:
    print(line, flush=True)
