#!/usr/bin/env python
# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Train a VFMSeg model on one domain and watch it on others.

example:
  python scripts/train.py --model dinov2-large --train camvid:/data/camvid@source_train \\
      --domains day=camvid:/data/camvid@source_val dusk=camvid:/data/camvid@target_dusk --output_dir runs/camvid

All arguments of transformers' TrainingArguments work as well; the defaults are the paper's recipe.
"""

import sys
from dataclasses import dataclass, field

from transformers import HfArgumentParser, set_seed

from vfmseg_hf import VFMSegImageProcessor, image_constants
from vfmseg_hf.corpora import corpus_info, count_class_pixels, load_corpus
from vfmseg_hf.corpora.domains import parse_domain, parse_domains
from vfmseg_hf.training import (
    Augmentation,
    EvaluationPictures,
    TrainingPictures,
    VFMSegTrainer,
    VFMSegTrainingArguments,
)
from vfmseg_hf.training.model import choose_trained_part, start_model


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
        default_factory=list, metadata={"help": "Domains to evaluate on: name=corpus@split, any number of them."}
    )
    tune: str = field(
        default="lora",
        metadata={
            "help": "What trains: LoRA and heads, everything, or the heads.",
            "choices": ["lora", "full", "heads"],
        },
    )
    crop_size: list[int] = field(default_factory=lambda: [1024, 1024], metadata={"help": "Height and width of crops."})
    resize: list[int] = field(
        default_factory=list, metadata={"help": "Height and width before the crop; by default the picture's own."}
    )
    scale_range: list[float] = field(
        default_factory=lambda: [1.0, 1.0], metadata={"help": "Random scaling before the crop, from and to."}
    )
    size: list[int] = field(
        default_factory=lambda: [1024, 2048],
        metadata={"help": "Shortest and longest edge that pictures are fitted into for evaluation."},
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint in output_dir."})


def main() -> None:
    own, arguments = HfArgumentParser(
        (TrainArguments, VFMSegTrainingArguments), description=__doc__
    ).parse_args_into_dataclasses()
    set_seed(arguments.seed)
    source, domains = parse_domain(own.train), parse_domains(own.domains)
    info = corpus_info(source.spec)
    augmentation = Augmentation(tuple(own.crop_size), tuple(own.resize) if own.resize else None, tuple(own.scale_range))
    corpus, class_pixels = load_corpus(source.spec, source.split), None
    if arguments.rare_class_sampling:
        with arguments.main_process_first(desc="counting pixels per class"):  # the others find its counts
            class_pixels = count_class_pixels(corpus, len(info.id2label))
    watched = {name: (load_corpus(spec, split), corpus_info(spec).evaluation) for name, spec, split in domains}
    model = start_model(own.model, id2label=dict(info.id2label))
    processor = VFMSegImageProcessor(
        size={"shortest_edge": own.size[0], "longest_edge": own.size[1]},
        **image_constants(model.config.backbone_config),
    )
    train = TrainingPictures(corpus, processor, augmentation, arguments.seed, class_pixels)
    evaluation = {name: EvaluationPictures(rows, processor, scored) for name, (rows, scored) in watched.items()}
    choose_trained_part(model, own.tune)
    trainer = VFMSegTrainer(
        model, arguments, train_dataset=train, eval_dataset=evaluation or None, processing_class=processor
    )
    trainer.train(resume_from_checkpoint=own.resume)
    trainer.save_model()
    if evaluation:
        trainer.save_metrics("eval", trainer.evaluate())


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, ImportError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
