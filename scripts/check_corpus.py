#!/usr/bin/env python
# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Check a corpus: read all of its files, list whatever is wrong with them, and count its classes."""

import argparse
import json
import sys
from pathlib import Path

from vfmseg_hf import VFMSegConfig
from vfmseg_hf.cli.options import check_output_file, whole_number
from vfmseg_hf.data.check import check_dataset, class_chart, format_report, report_as_dict
from vfmseg_hf.data.class_names import read_class_map
from vfmseg_hf.data.domains import CLASS_MAP_HELP, ID2LABEL_HELP, Domain, name_classes, parse_place
from vfmseg_hf.model.foundation import read_config
from vfmseg_hf.prediction.visualization import class_colours
from vfmseg_hf.utils.files import write_file
from vfmseg_hf.utils.picture_files import MAX_IMAGE_PIXELS, MAX_IMAGE_PIXELS_HELP, limit_pixels
from vfmseg_hf.utils.plotting import import_figure


RESULTS = """\
Found are pictures and label maps without their partner, files and archives that are damaged or cut off, label maps of
another size than their pictures, own pictures that an EXIF tag may turn, pictures that training refuses (floats, or
more pixels than allowed), ids or colours that the corpus does not have, and labels that no model can learn from: a
single class, no pixel of any class, or the pictures themselves.
The pixels of every class are counted in the same pass; those of a split without problems are kept for rare class
sampling, where train.py finds them. With --model its classes are compared with the corpus's, by name.

exit status: 0 if the corpus is clean, 1 if there are problems, 2 if it could not be checked or a result not be saved

examples:
  python scripts/check_corpus.py gtav:/data/gtav
  python scripts/check_corpus.py folder:/data/corpus.yaml --model runs/gtav --class_map same.yaml
  python scripts/check_corpus.py camvid:/data/camvid@source_train --chart classes.png --json report.json
"""


def picture_file(text: str) -> Path:
    if not text.endswith(".png"):
        raise argparse.ArgumentTypeError(f"the chart is a PNG file, its name ends with .png, got {text!r}")
    return Path(text)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESULTS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", metavar="CORPUS[@SPLIT]", help="as for train.py, e.g. cityscapes:/data/cityscapes")
    parser.add_argument("--split", help="the same as @SPLIT; by default every split that the corpus has")
    parser.add_argument("--model", help="directory or Hub name of a model to compare the classes with")
    parser.add_argument("--class_map", metavar="FILE", help=CLASS_MAP_HELP)
    parser.add_argument("--id2label", metavar="FILE", help=ID2LABEL_HELP)
    parser.add_argument("--chart", type=picture_file, metavar="FILE.png", help="draw the frequencies of the classes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the report, with all files that have problems")
    parser.add_argument(
        "--num_proc", type=whole_number(1), metavar="N", help="processes that read; by default one per core"
    )
    parser.add_argument("--max_image_pixels", default=MAX_IMAGE_PIXELS, metavar="N", help=MAX_IMAGE_PIXELS_HELP)
    arguments = parser.parse_args()
    arguments.corpus, split = parse_place(arguments.corpus)
    if split and arguments.split and split != arguments.split:
        parser.error(f"--split {arguments.split} and @{split} contradict each other")
    arguments.split = arguments.split or split
    if arguments.class_map and not arguments.model:
        parser.error("--class_map says which classes are those of a model: --model is missing")
    return arguments


def model_classes(name_or_path: str) -> dict[int, str]:
    config = read_config(name_or_path, {})
    if not isinstance(config, VFMSegConfig):
        raise ValueError(
            f"{name_or_path} is no VFMSeg model but a {config.model_type}, which has no classes to compare"
        )
    return config.id2label


def main() -> int:
    arguments = parse_arguments()
    try:
        limit_pixels(arguments.max_image_pixels)
        for path in (arguments.json, arguments.chart):
            check_output_file(path)
        if arguments.chart:
            import_figure()  # else it would be missed after an hour of reading
        (corpus,) = name_classes([Domain("", arguments.corpus, arguments.split)], arguments.id2label)
        report = check_dataset(
            corpus.spec,
            corpus.split,
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
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0 if report.clean else 1


if __name__ == "__main__":
    raise SystemExit(main())
