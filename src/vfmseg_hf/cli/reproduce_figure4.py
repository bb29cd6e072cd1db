# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Draw the paper's Figure 4 for models at hand: mIoU by test resolution, by time, and how reliable the certainty is.

The test resolution is the shortest edge of the image that a model is given: coarse only, all windows and gated windows
of models of two stages, which keep their own size of the coarse pass; models that look once see the whole image at the
resolution. Time is measured in rounds in which all models take turns. Writes figure4.png, figure4.md and figure4.json.

examples:
  vfmseg reproduce figure4 --from outputs/table1/streets --models eomt=/models/eomt \\
      --eval_data dusk=camvid:/data/camvid@target_dusk --resolutions 256 512
  vfmseg reproduce figure4 --models ours=runs/gtav rein=runs/rein \\
      --eval_data cityscapes:/data/cityscapes bdd100k:/data/bdd100k mapillary:/data/mapillary
"""

import argparse
import json
from collections.abc import Sequence

from ..reproduce import figure4, figure4_report, open_domains
from ..utils.files import write_file
from ..utils.plotting import import_figure
from .options import Parser, whole_number
from .reproduce_figures import add_figure_options, start_figure


GROUPS = {
    "options": ("models", "earlier", "eval_data", "output", "max_images"),
    "measurements": ("resolutions", "max_windows", "repeats"),
    "computing": ("device", "max_image_pixels"),
}


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="vfmseg reproduce figure4", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_figure_options(parser, "outputs/figure4")
    parser.add_argument(
        "--max_images",
        type=whole_number(1),
        metavar="N",
        help="score at most N images of a domain, evenly spaced over its split; by default all",
    )
    parser.add_argument(
        "--resolutions",
        nargs="+",
        type=whole_number(32),
        default=[512, 1024, 1536, 2048],
        metavar="PIXELS",
        help="shortest edges, multiples of 32",
    )
    parser.add_argument(
        "--max_windows",
        nargs="+",
        type=whole_number(0),
        metavar="N",
        help="refine at most N windows of an image, for each N here, beside none, all and those of the gate; by "
        "default 1 2 4 8 ... up to the number there is",
    )
    parser.add_argument("--repeats", type=whole_number(1), default=5, metavar="N", help="rounds in which time is taken")
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = build_parser().parse_args(argv)
    import_figure()  # not after an hour
    models = start_figure(arguments)
    output = arguments.output
    domains = open_domains(arguments.eval_data, arguments.max_images, models, output)
    measured = figure4.measure(models, domains, arguments.resolutions, arguments.max_windows, arguments.repeats)
    record = figure4.as_record(measured, models, domains, arguments.repeats)
    table = figure4_report.write(record)
    files = {"png": figure4_report.draw(record), "md": table, "json": json.dumps(record, indent=2) + "\n"}
    for ending, content in files.items():
        write_file(output / f"figure4.{ending}", content)
    print(table)
    return 0
