# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Score a model on domains by a named protocol: IoU per class, mIoU, mAcc, aAcc, coarse and final, in one pass.

A domain is [name=]dataset[@split]; without @split it is the split that the dataset holds out (val, validation).
--model may also be another segmentation model of transformers; its own image processor is used.

examples:
  vfmseg evaluate --model runs/gtav --protocol published --output scores.json \\
      --data cityscapes:/data/cityscapes bdd100k:/data/bdd100k mapillary:/data/mapillary
  torchrun --nproc_per_node 4 -m vfmseg_hf evaluate --model runs/gtav --num_workers 4 \\
      --data day=camvid:/data/camvid@source_val dusk=camvid:/data/camvid@target_dusk
"""

import argparse
from collections.abc import Sequence
from functools import partial

from tqdm import tqdm

from ..data import classes_of, describe_dataset, open_dataset
from ..data.class_names import read_class_maps
from ..data.domains import evaluation_domains, name_classes, spread
from ..evaluation import (
    PROTOCOLS,
    describe_domain,
    describe_protocol,
    evaluate_domain,
    format_classes,
    format_domains,
    write_scores,
)
from ..methods import RawImages
from ..prediction.predict import REFINE_MODES
from ..training import EvaluationImages
from ..training.trained_on import attention, read_trained_on, say_unknown
from ..utils.image_files import limit_pixels
from ..utils.processes import join_processes, leave_processes, process_rank
from .common import (
    COMPUTING,
    DETAIL,
    MODEL,
    add_class_options,
    add_inference_options,
    add_model_options,
    config_of_other,
    load,
    load_other,
)
from .options import Parser, check_output_file, whole_number, yes_or_no


GROUPS = {
    "options": ("model", "data", "output", "protocol", "size", "max_images", *MODEL[1:]),
    "classes": ("class_map", "id2label"),
    "looking again in detail": (*DETAIL, "flip"),
    "computing": COMPUTING,
}


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="vfmseg evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser, required=True)
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="DOMAIN",
        help="domains to score: [name=]dataset[@split], any number",
    )
    parser.add_argument("--output", metavar="FILE", help="JSON file for the scores and how they were made")
    parser.add_argument(
        "--protocol",
        choices=list(PROTOCOLS),
        default="default",
        help="; ".join(f"{name}: {protocol.text}" for name, protocol in PROTOCOLS.items()),
    )
    parser.add_argument(
        "--max_images",
        type=whole_number(1),
        metavar="N",
        help="score at most N images of a domain, evenly spaced over its split; by default all",
    )
    add_class_options(parser, " A list of model classes is scored as one class.")
    parser.add_argument(
        "--flip",
        nargs="?",
        const=True,
        default=False,
        type=yes_or_no,
        help="average the probabilities of each image and its mirror image",
    )
    add_inference_options(parser, 0, "processes that read and resize images while the model computes")
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = build_parser().parse_args(argv)
    limit_pixels(arguments.max_image_pixels)
    check_output_file(arguments.output)
    protocol = PROTOCOLS[arguments.protocol]
    if arguments.size and protocol.processor:
        raise ValueError(f"--size has no effect beside --protocol {protocol.name}, which says the size; leave one out")
    device = join_processes(arguments.device)
    rank, processes = process_rank()
    if other := config_of_other(arguments):
        if protocol.name != "default" or arguments.flip:
            given = "--flip" if arguments.flip else f"--protocol {protocol.name}"
            raise ValueError(f"{arguments.model} is no VFMSeg model, and {given} is for these; leave it out")
        model, processor = load_other(arguments, other, device), RawImages()
        told = model.processor
    else:
        model, processor = protocol.apply(*load(arguments, device))
        told = processor
    trained_on = read_trained_on(model.loaded_from)
    images, scored, results = {}, {}, {}
    domains = name_classes(evaluation_domains(arguments.data), arguments.id2label)
    # All are opened before hours go into the first.
    datasets = {name: open_dataset(spec, split, held_out=True) for name, spec, split in domains}
    maps = read_class_maps(arguments.class_map, {name: classes_of(dataset) for name, dataset in datasets.items()})
    for name, spec, _ in domains:
        rows, rule = spread(datasets[name], arguments.max_images), describe_dataset(spec).evaluation
        images[name] = EvaluationImages(rows, processor, rule, class_map=maps[name])
        images[name] = images[name].for_model(model.config.id2label, name)
        scored[name] = {
            **describe_domain(spec, datasets[name], images[name].class_match),
            "images_of_split": len(datasets[name]),
            "trained_on": trained_on.overlap(images[name]),
        }
    seen = {name: attention(name, domain, trained_on) for name, domain in images.items()}
    if rank == 0:
        say_unknown(trained_on)
        for line in filter(None, seen.values()):
            print(line)
    about = {
        "model": arguments.model,
        # A model in 8 bits has float32 for all that is not a linear layer, and calls itself so.
        "protocol": {
            **describe_protocol(protocol, model, told, arguments.refine, arguments.flip),
            "dtype": arguments.dtype,
        },
        "run": {
            "device": str(model.device),
            "processes": processes,
            "num_workers": arguments.num_workers,
            "batch_size": arguments.batch_size,
        },
    }
    for name, domain in images.items():
        results[name] = evaluate_domain(
            model,
            domain,
            name,
            REFINE_MODES[arguments.refine],
            flip=arguments.flip,
            num_workers=arguments.num_workers,
            progress=partial(tqdm, desc=name, unit="image", disable=rank > 0),
            batch_size=arguments.batch_size,
        )
        if rank == 0:
            title = f"{scored[name]['dataset']}@{scored[name]['split']}"
            print(*filter(None, [title, seen[name], format_classes(name, results[name])]), sep="\n", end="\n\n")
            if arguments.output:  # what is finished is kept if a later domain fails
                write_scores(arguments.output, results, scored, about)
    if rank == 0:
        print(f"Protocol {protocol.name}: {protocol.text}.\n{format_domains(results)}")
        for line in filter(None, seen.values()):
            print(line)
    leave_processes()
    return 0
