# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Segment images with a trained model: label maps, overlays, and panels that show how they came about."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..prediction.predict import REFINE_MODES, find_images, predict_files
from ..utils.image_files import limit_pixels, summarise
from .common import COMPUTING, DETAIL, MODEL, add_inference_options, add_model_options, load
from .options import Parser, check_output_folder, settle_positionals


RESULTS = """\
results, for each image:
  DIR/labels/NAME.png    class id of every pixel, at the image's own size; viewers show it in the classes' colours
  DIR/overlays/NAME.jpg  the image under these colours
  DIR/panels/NAME.png    input, first (coarse) result, its certainty with the refined windows, final result, legend

exit status: 0 if all went well, 1 if some images failed, 2 if the run could not start or not save its results

example:
  vfmseg predict --model runs/gtav street.jpg more_streets/ --output predictions
"""
GROUPS = {
    "options": ("images", "output", *MODEL, "size"),
    "looking again in detail": DETAIL,
    "computing": COMPUTING,
}


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="vfmseg predict",
        description=__doc__,
        epilog=RESULTS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files, and folders with images in or below")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    add_model_options(parser, required=False)  # it may be the first of the images, too
    add_inference_options(
        parser, 2, "processes that read and resize images, and threads that draw results, while the model computes"
    )
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = settle_positionals("predict", build_parser().parse_args(argv))
    limit_pixels(arguments.max_image_pixels)
    check_output_folder(arguments.output)
    images = find_images(arguments.images, arguments.output)
    model, processor = load(arguments, arguments.device)
    arguments.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    done, failed = [], []
    reports = predict_files(
        model,
        processor,
        images,
        arguments.output,
        REFINE_MODES[arguments.refine],
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
    )
    for report in tqdm(reports, total=len(images), unit="image"):
        (failed if report.error else done).append(report)
        if report.error:
            tqdm.write(f"failed: {report.path}: {report.error}", file=sys.stderr)
    seconds = time.perf_counter() - start
    print(f"{len(done)} of {len(images)} images done" + (f", {len(failed)} failed:" if failed else ""))
    for report in failed:
        print(f"  {report.path}: {report.error}")
    if others := images.left_out.total():
        why = summarise(images.left_out.elements())
        print(f"{others} of {others + len(images)} entries in the folders left out: {why}")
    if done:
        windows, refined = sum(report.windows for report in done), sum(report.refined for report in done)
        if windows:  # not of a model that looks once
            print(f"{refined} of {windows} windows refined ({refined / windows:.1%})")
        print(f"{len(done) / seconds:.2f} images per second")
        print(f"labels, overlays and panels are in {arguments.output}")
    return 1 if failed else 0
