#!/usr/bin/env python
# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Train a VFMSeg model on one domain and watch it on others.

example:
  python scripts/train.py --model dinov2-large --train gtav:/data/gtav --output_dir runs/gtav --bf16 \\
      --domains cityscapes:/data/cityscapes bdd100k:/data/bdd100k mapillary:/data/mapillary

on several GPUs:
  torchrun --nproc_per_node 2 scripts/train.py ... --per_device_train_batch_size 1

All arguments of transformers' TrainingArguments work as well; what is not given comes from the recipe. SIGTERM saves a
checkpoint and ends with status 143; --resume goes on from the last checkpoint to the same weights.
"""

import argparse
import os
import sys
from dataclasses import dataclass, field

from transformers import HfArgumentParser, set_seed
from transformers.trainer_utils import get_last_checkpoint

from vfmseg_hf import VFMSegImageProcessor, image_constants
from vfmseg_hf.cli.options import check_counts, check_output_folder
from vfmseg_hf.data import classes_of, count_class_pixels, describe_dataset, open_dataset
from vfmseg_hf.data.class_names import read_class_maps
from vfmseg_hf.data.domains import CLASS_MAP_HELP, ID2LABEL_HELP, evaluation_domains, name_classes, parse_domain
from vfmseg_hf.evaluation.classes import renames
from vfmseg_hf.training import (
    Augmentation,
    EvaluationPictures,
    TrainingPictures,
    VFMSegTrainer,
    VFMSegTrainingArguments,
    get_recipe,
)
from vfmseg_hf.training.curves import plot_curves
from vfmseg_hf.training.model import choose_trained_part, start_model
from vfmseg_hf.training.recipes import RECIPES
from vfmseg_hf.training.record import describe_training
from vfmseg_hf.utils.picture_files import MAX_IMAGE_PIXELS, MAX_IMAGE_PIXELS_HELP, limit_pixels
from vfmseg_hf.utils.processes import leave_processes


@dataclass
class TrainArguments:
    model: str = field(
        metadata={
            "help": "Foundation model or VFMSeg checkpoint (Hub id or directory), a preset such as dinov2-large, or a "
            "JSON file of VFMSegConfig."
        }
    )
    train: str = field(metadata={"help": "Corpus to train on: corpus[@split], e.g. camvid:/data/camvid@source_train."})
    domains: list[str] = field(
        default_factory=list, metadata={"help": "Domains to evaluate on: [name=]corpus[@split], any number of them."}
    )
    class_map: str | None = field(
        default=None,
        metadata={
            "help": f"{CLASS_MAP_HELP} If it renames classes of the training set, the model keeps its own classes."
        },
    )
    id2label: str | None = field(default=None, metadata={"help": ID2LABEL_HELP})
    recipe: str = field(
        default="paper",
        metadata={"help": "Where settings come from that are not given.", "choices": list(RECIPES)},
    )
    tune: str = field(
        default="lora",
        metadata={
            "help": "What trains: LoRA and heads, everything, or the heads.",
            "choices": ["lora", "full", "heads"],
        },
    )
    crop_size: list[int] = field(
        default_factory=list, metadata={"help": "Height and width of crops; one number is a square."}
    )
    resize: list[int] = field(
        default_factory=list,
        metadata={
            "help": "Height and width before the crop, or one number for a square; by default the recipe's for the "
            "corpus, or its own."
        },
    )
    scale_range: list[float] = field(
        default_factory=list, metadata={"help": "Random scaling before the crop, from and to, or by one number."}
    )
    photometric: bool = field(
        default=True, metadata={"help": "Distort brightness, contrast, saturation and hue of training pictures."}
    )
    size: list[int] = field(
        default_factory=lambda: [1024, 2048],
        metadata={
            "help": "Shortest and longest edge that pictures are fitted into to be scored; one number is the shortest."
        },
    )
    max_image_pixels: str = field(default=MAX_IMAGE_PIXELS, metadata={"help": MAX_IMAGE_PIXELS_HELP})
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint in output_dir, if any."})


def parse_arguments() -> tuple[TrainArguments, VFMSegTrainingArguments]:
    """The command line, over the settings of the recipe that it names."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe", default=TrainArguments.recipe)
    first.add_argument("--num_train_epochs", "--num-train-epochs")
    asked = first.parse_known_args()[0]
    recipe = get_recipe(asked.recipe)
    parser = HfArgumentParser(
        (TrainArguments, VFMSegTrainingArguments),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    given = {key: recipe.augmentation[key] for key in ("crop_size", "scale_range", "photometric")}
    if asked.num_train_epochs is not None:
        given["max_steps"] = None  # not the recipe's: either is asked for
    parser.set_defaults(**{**recipe.training_arguments, **given})
    return parser.parse_args_into_dataclasses()


def evaluation_size(edges: list[int]) -> int | dict[str, int]:
    """What --size means to the image processor, of which one integer is the shortest edge."""
    if len(edges) > 2 or min(edges) < 1 or edges != sorted(edges):
        given = " ".join(map(str, edges))
        raise ValueError(f"--size takes SHORTEST LONGEST, e.g. 1024 2048, or the shortest edge alone; got {given}")
    return edges[0] if len(edges) == 1 else dict(zip(("shortest_edge", "longest_edge"), edges, strict=True))


def find_checkpoint(output_dir: str, resume: bool) -> str | None:
    """What to go on from. Raises `ValueError` rather than mix a new run into the checkpoints of another one."""
    last = get_last_checkpoint(output_dir) if os.path.isdir(output_dir) else None
    if last and not resume:
        raise ValueError(f"{output_dir} holds {os.path.basename(last)} of an earlier run; add --resume or go elsewhere")
    return last


def main() -> None:
    own, arguments = parse_arguments()
    limit_pixels(own.max_image_pixels)
    check_counts(
        arguments,
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=1,
        dataloader_num_workers=0,
        seed=0,
    )
    check_output_folder(arguments.output_dir)
    checkpoint = arguments.resume_from_checkpoint or find_checkpoint(arguments.output_dir, own.resume)
    if checkpoint and not os.path.isdir(checkpoint):
        raise ValueError(f"there is no checkpoint {checkpoint!r}; --resume goes on from the last one in --output_dir")
    recipe = get_recipe(own.recipe)
    set_seed(arguments.seed)
    size = evaluation_size(own.size)
    source, *domains = name_classes([parse_domain(own.train), *evaluation_domains(own.domains)], own.id2label)
    info = describe_dataset(source.spec)
    augmentation = Augmentation(
        tuple(own.crop_size),
        tuple(own.resize) if own.resize else recipe.resize.get(info.name),
        tuple(own.scale_range),
        recipe.augmentation["cat_max_ratio"],
        recipe.augmentation["flip_probability"],
        own.photometric,
    )
    corpus, class_pixels = open_dataset(source.spec, source.split), None
    classes = classes_of(corpus)
    if arguments.rare_class_sampling:
        with arguments.main_process_first(desc="counting pixels per class"):  # the others find its counts
            class_pixels = count_class_pixels(corpus, len(classes))
    watched = {
        name: (open_dataset(spec, split, held_out=True), describe_dataset(spec).evaluation)
        for name, spec, split in domains
    }
    known = {name: classes_of(rows) for name, (rows, _) in watched.items()}
    maps = read_class_maps(own.class_map, {"the training set": classes, **known})
    source_map = maps.pop("the training set")
    model = start_model(own.model, own.recipe, **({} if renames(source_map) else {"id2label": classes}))
    processor = VFMSegImageProcessor(size=size, **image_constants(model.config.backbone_config))
    train = TrainingPictures(corpus, processor, augmentation, arguments.seed, class_pixels, class_map=source_map)
    evaluation = {
        name: EvaluationPictures(rows, processor, scored, class_map=maps[name])
        for name, (rows, scored) in watched.items()
    }
    choose_trained_part(model, own.tune, **recipe.lora)
    trainer = VFMSegTrainer(
        model, arguments, train_dataset=train, eval_dataset=evaluation or None, processing_class=processor
    )
    if trainer.is_world_process_zero():
        print(describe_training(trainer.settings(), recipe, trainer.train_dataset))
        if checkpoint:
            print(f"going on from {checkpoint}")
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    if evaluation:
        trainer.save_metrics("eval", trainer.evaluate())
    if trainer.is_world_process_zero():
        try:
            plot_curves(trainer.state.log_history, os.path.join(arguments.output_dir, "curves.png"))
        except ImportError as error:
            print(f"no curves are drawn: {error}")
    leave_processes()


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, ImportError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
