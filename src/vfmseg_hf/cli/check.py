# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Check a dataset: read all of its files, list whatever is wrong with them, and count its classes."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ..data.check import check_dataset, class_chart, format_report, report_as_dict
from ..data.class_names import read_class_map
from ..data.domains import Domain, name_classes, parse_place
from ..methods import model_class_of
from ..model.foundation import read_config
from ..prediction.visualization import class_colours
from ..utils.files import write_file
from ..utils.image_files import limit_pixels
from ..utils.plotting import import_figure
from .common import add_class_options, add_pixel_limit
from .options import Parser, check_output_file, name_ending, settle_positionals, whole_number


RESULTS = """\
Found are images and label maps without their partner, files and archives that are damaged or cut off, label maps of
another size than their images, own images that an EXIF tag may turn, images that training refuses (floats, or
more pixels than allowed), ids or colours that the dataset does not have, and labels that no model can learn from: a
single class, no pixel of any class, or the images themselves.
The pixels of every class are counted in the same pass; those of a split without problems are kept for rare class
sampling, where `vfmseg train` finds them. With --model its classes are compared with the data's, by name.

exit status: 0 if the dataset is clean, 1 if there are problems, 2 if it could not be checked or a result not be saved

examples:
  vfmseg check --data gtav:/data/gtav
  vfmseg check --data folder:/data/dataset.yaml --model runs/gtav --class_map same.yaml
  vfmseg check --data camvid:/data/camvid@source_train --chart classes.png --json report.json
"""
GROUPS = {
    "options": ("data", "split", "chart", "json", "num_proc", "max_image_pixels"),
    "classes": ("model", "class_map", "id2label"),
}


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="vfmseg check",
        description=__doc__,
        epilog=RESULTS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--data", metavar="DATASET[@SPLIT]", help="as for train, e.g. cityscapes:/data/cityscapes")
    parser.add_argument("--split", help="the same as @SPLIT; by default every split that the dataset has")
    parser.add_argument("--model", help="directory or Hub id of a model to compare the classes with")
    add_class_options(parser)
    parser.add_argument(
        "--chart", type=name_ending(".png"), metavar="FILE.png", help="draw the frequencies of the classes"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the report, with all files that have problems")
    parser.add_argument(
        "--num_proc", type=whole_number(1), metavar="N", help="processes that read; by default one per core"
    )
    add_pixel_limit(parser)
    return parser


def read_arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, str, str | None]:
    """The options, and of `--data` what precedes the split, and the split."""
    arguments = settle_positionals("check", build_parser().parse_args(argv))
    spec, split = parse_place(arguments.data)
    if split and arguments.split and split != arguments.split:
        raise ValueError(f"--split {arguments.split} and @{split} contradict each other")
    if arguments.class_map and not arguments.model:
        raise ValueError("--class_map says which classes are those of a model: --model is missing")
    return arguments, spec, arguments.split or split


def model_classes(name_or_path: str) -> dict[int, str]:
    config = read_config(name_or_path, {})
    if model_class_of(config) is None:
        raise ValueError(
            f"{name_or_path} is no VFMSeg model but a {config.model_type}, which has no classes to compare"
        )
    return config.id2label


def run(argv: Sequence[str]) -> int:
    arguments, spec, split = read_arguments(argv)
    limit_pixels(arguments.max_image_pixels)
    for path in (arguments.json, arguments.chart):
        check_output_file(path)
    if arguments.chart:
        import_figure()  # else it would be missed after an hour of reading
    (dataset,) = name_classes([Domain("", spec, split)], arguments.id2label)
    report = check_dataset(
        dataset.spec,
        dataset.split,
        arguments.num_proc,
        model_id2label=model_classes(arguments.model) if arguments.model else None,
        class_map=read_class_map(arguments.class_map) if arguments.class_map else None,
    )
    print(format_report(report))
    if arguments.json:
        write_file(arguments.json, json.dumps(report_as_dict(report), indent=2) + "\n")
    if arguments.chart:
        shares = {
            f"{split.name}\n{split.note}".strip(): split.classes.pixels / split.classes.total
            for split in report.splits
            if split.classes
        }
        title = f"{report.info.name}: share of all pixels"
        names = report.info.id2label
        write_file(arguments.chart, class_chart(shares, names, class_colours(names), title))
    return 0 if report.clean else 1
