#!/usr/bin/env python
# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Segment pictures with a trained VFMSeg model: label maps, overlays, and panels that show how they came about."""

import argparse
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from vfmseg_hf.cli.options import check_output_folder, whole_number
from vfmseg_hf.prediction.predict import DTYPES, REFINE_MODES, find_pictures, load_model, predict_files
from vfmseg_hf.utils.picture_files import MAX_IMAGE_PIXELS, MAX_IMAGE_PIXELS_HELP, limit_pixels, summarise


RESULTS = """\
results, for each picture:
  DIR/labels/NAME.png    class id of every pixel, at the picture's own size; viewers show it in the classes' colours
  DIR/overlays/NAME.jpg  the picture under these colours
  DIR/panels/NAME.png    input, first (coarse) result, its certainty with the refined windows, final result, legend

exit status: 0 if all went well, 1 if some pictures failed, 2 if the run could not start or not save its results

example:
  python scripts/predict.py path/to/model street.jpg more_streets/ --output predictions
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESULTS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", help="directory of a saved model, or its name on the Hub")
    parser.add_argument(
        "pictures",
        metavar="PICTURES",
        nargs="+",
        type=Path,
        help="picture files, and folders with pictures in them or below them",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--refine",
        choices=REFINE_MODES,
        default="gated",
        help="which parts are looked at again in detail: those where the first look was unsure (gated, the default), "
        "all of them (slower), or none (fastest)",
    )
    parser.add_argument(
        "--device", default="auto", help="where to compute, e.g. cpu or cuda:1; by default the GPU if there is one"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="what the model computes in: halves are faster on GPUs, int8 on CPUs; they decide a few pixels otherwise",
    )
    parser.add_argument(
        "--batch_size", type=whole_number(1), default=1, metavar="N", help="pictures segmented together"
    )
    parser.add_argument(
        "--num_workers",
        type=whole_number(0),
        default=2,
        metavar="N",
        help="processes that read and resize pictures, and threads that draw results, while the model computes",
    )
    parser.add_argument("--max_image_pixels", default=MAX_IMAGE_PIXELS, metavar="N", help=MAX_IMAGE_PIXELS_HELP)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    try:
        limit_pixels(arguments.max_image_pixels)
        check_output_folder(arguments.output)
        pictures = find_pictures(arguments.pictures, arguments.output)
        model, processor = load_model(arguments.model, arguments.device, getattr(torch, arguments.dtype))
        arguments.output.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        done, failed = [], []
        reports = predict_files(
            model,
            processor,
            pictures,
            arguments.output,
            REFINE_MODES[arguments.refine],
            batch_size=arguments.batch_size,
            num_workers=arguments.num_workers,
        )
        for report in tqdm(reports, total=len(pictures), unit="picture"):
            (failed if report.error else done).append(report)
            if report.error:
                tqdm.write(f"failed: {report.path}: {report.error}", file=sys.stderr)
        seconds = time.perf_counter() - start
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    windows, refined = sum(report.windows for report in done), sum(report.refined for report in done)
    print(f"{len(done)} of {len(pictures)} pictures done" + (f", {len(failed)} failed:" if failed else ""))
    for report in failed:
        print(f"  {report.path}: {report.error}")
    if others := pictures.left_out.total():
        why = summarise(pictures.left_out.elements())
        print(f"{others} of {others + len(pictures)} entries in the folders left out: {why}")
    if done:
        print(f"{refined} of {windows} windows refined ({refined / windows:.1%})")
        print(f"{len(done) / seconds:.2f} pictures per second")
        print(f"labels, overlays and panels are in {arguments.output}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
