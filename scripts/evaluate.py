#!/usr/bin/env python
# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Score a VFMSeg model on domains by a named protocol: IoU per class, mIoU, mAcc, aAcc, coarse and final, in one pass.

A domain is [name=]corpus[@split]; without @split it is the split that the corpus holds out (val, validation).

examples:
  python scripts/evaluate.py --model runs/gtav --protocol published --output scores.json \\
      --data cityscapes:/data/cityscapes bdd100k:/data/bdd100k mapillary:/data/mapillary
  torchrun --nproc_per_node 4 scripts/evaluate.py --model runs/gtav --num_workers 4 \\
      --data day=camvid:/data/camvid@source_val dusk=camvid:/data/camvid@target_dusk
"""

import sys
from dataclasses import dataclass, field
from functools import partial

import torch
from tqdm import tqdm
from transformers import HfArgumentParser

from vfmseg_hf.cli.options import check_counts, check_output_file
from vfmseg_hf.data import classes_of, describe_dataset, open_dataset
from vfmseg_hf.data.class_names import read_class_maps
from vfmseg_hf.data.domains import CLASS_MAP_HELP, ID2LABEL_HELP, evaluation_domains, name_classes
from vfmseg_hf.evaluation import (
    PROTOCOLS,
    describe_domain,
    describe_protocol,
    evaluate_domain,
    format_classes,
    format_domains,
    write_scores,
)
from vfmseg_hf.prediction.predict import DTYPES, REFINE_MODES, load_model
from vfmseg_hf.training import EvaluationPictures
from vfmseg_hf.training.trained_on import attention, read_trained_on, say_unknown
from vfmseg_hf.utils.picture_files import MAX_IMAGE_PIXELS, MAX_IMAGE_PIXELS_HELP, limit_pixels
from vfmseg_hf.utils.processes import join_processes, leave_processes, process_rank


@dataclass
class EvaluateArguments:
    model: str = field(metadata={"help": "Directory of a saved model, or its name on the Hub."})
    data: list[str] = field(metadata={"help": "Domains to score: [name=]corpus[@split], any number of them."})
    protocol: str = field(
        default="default",
        metadata={
            "help": "; ".join(f"{name}: {protocol.text}" for name, protocol in PROTOCOLS.items()),
            "choices": list(PROTOCOLS),
        },
    )
    class_map: str | None = field(
        default=None,
        metadata={"help": f"{CLASS_MAP_HELP} A list of model classes is scored as one class."},
    )
    id2label: str | None = field(default=None, metadata={"help": ID2LABEL_HELP})
    output: str | None = field(default=None, metadata={"help": "JSON file for the scores and how they were made."})
    refine: str = field(
        default="gated",
        metadata={"help": "Which windows are refined: unsure ones, all, or none.", "choices": list(REFINE_MODES)},
    )
    flip: bool = field(
        default=False, metadata={"help": "Average the probabilities of each picture and its mirror image."}
    )
    batch_size: int = field(default=1, metadata={"help": "Pictures, of any sizes, that go through the model together."})
    num_workers: int = field(
        default=0, metadata={"help": "Processes that read and resize pictures while the model computes."}
    )
    dtype: str = field(
        default="float32",
        metadata={"help": "What the model computes in; int8 on a CPU only.", "choices": list(DTYPES)},
    )
    max_image_pixels: str = field(default=MAX_IMAGE_PIXELS, metadata={"help": MAX_IMAGE_PIXELS_HELP})
    device: str = field(default="auto", metadata={"help": "Where to compute, e.g. cpu or cuda:1."})


def main() -> None:
    (arguments,) = HfArgumentParser(EvaluateArguments, description=__doc__).parse_args_into_dataclasses()
    limit_pixels(arguments.max_image_pixels)
    check_counts(arguments, batch_size=1, num_workers=0)
    check_output_file(arguments.output)
    device = join_processes(arguments.device)
    rank, processes = process_rank()
    protocol = PROTOCOLS[arguments.protocol]
    model, processor = protocol.apply(*load_model(arguments.model, device, getattr(torch, arguments.dtype)))
    trained_on = read_trained_on(arguments.model)
    pictures, corpora, results = {}, {}, {}
    domains = name_classes(evaluation_domains(arguments.data), arguments.id2label)
    # All are opened before hours go into the first.
    datasets = {name: open_dataset(spec, split, held_out=True) for name, spec, split in domains}
    maps = read_class_maps(arguments.class_map, {name: classes_of(dataset) for name, dataset in datasets.items()})
    for name, spec, _ in domains:
        dataset, rule = datasets[name], describe_dataset(spec).evaluation
        pictures[name] = EvaluationPictures(dataset, processor, rule, class_map=maps[name])
        pictures[name] = pictures[name].for_model(model.config.id2label, name)
        corpora[name] = {
            **describe_domain(spec, dataset, pictures[name].class_match),
            "trained_on": trained_on.overlap(pictures[name]),
        }
    seen = {name: attention(name, domain, trained_on) for name, domain in pictures.items()}
    if rank == 0:
        say_unknown(trained_on)
        for line in filter(None, seen.values()):
            print(line)
    about = {
        "model": arguments.model,
        # A model in 8 bits has float32 for all that is not a linear layer, and calls itself so.
        "protocol": {
            **describe_protocol(protocol, model, processor, arguments.refine, arguments.flip),
            "dtype": arguments.dtype,
        },
        "run": {
            "device": str(model.device),
            "processes": processes,
            "num_workers": arguments.num_workers,
            "batch_size": arguments.batch_size,
        },
    }
    for name, domain in pictures.items():
        progress = partial(tqdm, desc=name, unit="picture", disable=rank > 0)
        refine = REFINE_MODES[arguments.refine]
        results[name] = evaluate_domain(
            model,
            domain,
            name,
            refine,
            flip=arguments.flip,
            num_workers=arguments.num_workers,
            progress=progress,
            batch_size=arguments.batch_size,
        )
        if rank == 0:
            title = f"{corpora[name]['corpus']}@{corpora[name]['split']}"
            print(*filter(None, [title, seen[name], format_classes(name, results[name])]), sep="\n", end="\n\n")
            if arguments.output:  # what is finished is kept if a later domain fails
                write_scores(arguments.output, results, corpora, about)
    if rank == 0:
        print(f"Protocol {protocol.name}: {protocol.text}.\n{format_domains(results)}")
        for line in filter(None, seen.values()):
            print(line)
    leave_processes()


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        _, in_worker, trace = str(error).partition("Original Traceback")
        sys.exit(f"error: {trace.strip().splitlines()[-1] if in_worker else error}")
