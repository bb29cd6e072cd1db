# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Draw the paper's Figure 5 for models at hand: images, labels and predictions side by side, small objects enlarged.

The region that is enlarged is chosen by the labels alone: the one with the most classes of small and thin things.
Writes figure5.png and figure5.md.

examples:
  vfmseg reproduce figure5 --from outputs/table1/streets --eval_data dusk=camvid:/data/camvid@target_dusk
  vfmseg reproduce figure5 --models ours=runs/gtav rein=runs/rein --images 1 \\
      --eval_data cityscapes:/data/cityscapes bdd100k:/data/bdd100k mapillary:/data/mapillary
"""

import argparse
from collections.abc import Sequence

from ..reproduce import figure5, open_domains
from ..utils.files import encode_image, write_file
from .options import Parser, fraction, whole_number
from .reproduce_figures import add_figure_options, start_figure


GROUPS = {
    "options": ("models", "earlier", "eval_data", "output"),
    "what is shown": ("images_of_domain", "zoom", "zoom_classes"),
    "computing": ("device", "max_image_pixels"),
}


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="vfmseg reproduce figure5", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_figure_options(parser, "outputs/figure5")
    parser.add_argument(
        "--images",
        dest="images_of_domain",
        type=whole_number(1),
        default=2,
        metavar="N",
        help="shown of each domain, evenly spaced over its split",
    )
    parser.add_argument(
        "--zoom",
        type=fraction,
        default=0.25,
        metavar="SHARE",
        help="height and width of the region that is enlarged, as a share of the image's",
    )
    parser.add_argument(
        "--zoom_classes",
        nargs="+",
        metavar="CLASS",
        help=f"classes that the region is chosen by; by default {', '.join(figure5.SMALL_CLASSES)}",
    )
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = build_parser().parse_args(argv)
    models = start_figure(arguments)
    output = arguments.output
    domains = open_domains(arguments.eval_data, arguments.images_of_domain, models, output, enough=True)
    figure = figure5.compare(models, domains, arguments.zoom, arguments.zoom_classes)
    table = figure5.write(figure, models, domains, arguments.zoom_classes)
    image = encode_image(figure5.draw(figure), "PNG")
    write_file(output / "figure5.png", image)
    write_file(output / "figure5.md", table)
    print(table)
    return 0
