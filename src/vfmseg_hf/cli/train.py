# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Train a model on one domain and watch it on others.

example:
  vfmseg train --model dinov2-large --data gtav:/data/gtav --output runs/gtav --dtype bfloat16 \\
      --eval_data cityscapes:/data/cityscapes bdd100k:/data/bdd100k mapillary:/data/mapillary

on several GPUs:
  torchrun --nproc_per_node 2 -m vfmseg_hf train ... --per_device_train_batch_size 1

All arguments of transformers' TrainingArguments work as well; what is not given comes from the recipe. Ctrl-C and
SIGTERM save a checkpoint and end with status 130 or 143; --resume goes on from the last checkpoint to the same weights.
"""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from transformers import HfArgumentParser, TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from ..data import classes_of, count_class_pixels, describe_dataset, open_dataset
from ..data.class_names import read_class_maps
from ..data.domains import CLASS_MAP_HELP, ID2LABEL_HELP, evaluation_domains, name_classes, parse_domain
from ..evaluation import format_classes
from ..evaluation.classes import ClassMap, match_classes, renames
from ..methods import METHODS, RawImages, SingleStageModel, auto_class_of, check_square
from ..model.configuration_vfmseg import VFMSegConfig
from ..model.encoders import image_constants
from ..model.image_processing_vfmseg import VFMSegImageProcessor
from ..training import (
    Augmentation,
    EvaluationImages,
    JoinedImages,
    TrainingImages,
    VFMSegTrainer,
    VFMSegTrainingArguments,
    get_recipe,
)
from ..training.curves import plot_curves
from ..training.model import (
    EOMT,
    METHOD_NAMES,
    TUNES,
    check_adapter,
    check_fields,
    check_tune,
    choose_trained_part,
    start_model,
)
from ..training.other_models import check_squares, crop_processor, other_config, own_processor
from ..training.recipes import RECIPES, Recipe
from ..training.record import describe_training
from ..training.sampling import check_rare_class_crops
from ..utils.image_files import MAX_IMAGE_PIXELS, MAX_IMAGE_PIXELS_HELP, limit_pixels
from ..utils.processes import leave_processes
from .common import edges_as_size
from .fields import FIELDS, ModelFields, given_fields
from .options import Parser, check_counts, check_output_folder


MODEL_FIELDS = (
    "method",
    "feature_mask_ratio",
    "detail_loss_weight",
    "detail_crop_size",
    "loss_normalization",
    "refine_dropout",
    "head_dropout",
)
GROUPS = {
    "options": (
        "model",
        "data",
        "eval_data",
        "output_dir",
        "resume",
        "dtype",
        "device",
        "max_steps",
        "per_device_train_batch_size",
        "tune",
    ),
    "images": ("size", "crop_size", "resize", "scale_range", "photometric", "restyle_probability", "max_image_pixels"),
    "model (by default its own; --help-all has all fields of VFMSegConfig)": MODEL_FIELDS,
    "classes": ("class_map", "id2label", "class_weights"),
    "recipe": (
        "recipe",
        "learning_rate",
        "encoder_learning_rate",
        "weight_decay",
        "num_train_epochs",
        "gradient_accumulation_steps",
        "weight_decay_schedule",
        "ema_decay",
        "ema_start",
        "scale_heads",
        "seed",
        "rare_class_sampling",
        "rare_class_temperature",
        "rare_class_min_pixels",
        "rare_class_crop_ratio",
    ),
    "LoRA (by default the recipe's)": (
        "lora_r",
        "lora_alpha",
        "lora_dropout",
        "lora_targets",
        "use_dora",
        "init_lora_weights",
        "frozen_share",
    ),
    "checkpoints and scores": ("save_steps", "save_total_limit", "eval_strategy", "eval_steps", "logging_steps"),
    "loading": ("dataloader_num_workers", "per_device_eval_batch_size"),
}
HIDDEN_GROUPS = {"fields of VFMSegConfig": tuple(name for name in FIELDS if name not in MODEL_FIELDS)}
REFUSED = {
    "num_labels": "the classes are those of the training set, or with --class_map the model's",
    "backbone_config": "the foundation model is what --model names",
    "semantic_loss_ignore_index": "it is 255 everywhere; give the ignored pixels of your label maps this id",
}
# The arguments of `lora_config` by the options that set them, of which four are called as in peft.
LORA_OPTIONS = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_targets": "targets",
    "use_dora": "use_dora",
    "init_lora_weights": "init_lora_weights",
    "frozen_share": "frozen_share",
}
SIZE = (1024, 2048)
DTYPES = {"float32": (), "bfloat16": ("--bf16",), "float16": ("--fp16",)}


@dataclass
class TrainArguments:
    model: str = field(
        metadata={
            "help": "Foundation model or VFMSeg checkpoint (Hub id or directory), a preset such as dinov2-large, or a "
            "JSON file of VFMSegConfig. Segmentation models of transformers too, or an encoder that one starts from "
            "(nvidia/mit-b0), or a JSON file with their model_type."
        }
    )
    data: list[str] = field(
        metadata={
            "help": "Datasets to train on: dataset[@split], e.g. camvid:/data/camvid@source_train; several are joined.",
            "aliases": ["--train"],
        }
    )
    eval_data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Domains to evaluate on: [name=]dataset[@split], any number of them.",
            "aliases": ["--domains"],
        },
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
    method: str | None = field(
        default=None,
        metadata={
            "help": "What a foundation model gets instead of VFMSeg's two stages; they look at an image once. linear: "
            "one linear layer; segformer, mask2former: their decoders; rein: its adapter and Mask2Former's decoder; "
            "eomt: queries in the last blocks of a DINOv2, transformers' EoMT for squares of --crop_size.",
            "choices": list(METHOD_NAMES),
            "aliases": ["--decoder"],
        },
    )
    tune: str | None = field(
        default=None,
        metadata={
            "help": "What trains: LoRA and heads, everything, or heads alone (heads, none: nothing of the encoder). "
            "Default: lora; of a method with an adapter of its own (rein) that adapter and the head; of eomt and of "
            "models of transformers full, and nothing else.",
            "choices": list(TUNES),
        },
    )
    lora_r: int | None = field(default=None, metadata={"help": "Rank of LoRA."})
    lora_alpha: int | None = field(default=None, metadata={"help": "Scale of LoRA: its update counts alpha / r."})
    lora_dropout: float | None = field(default=None, metadata={"help": "Dropout on what LoRA sees, 0..1."})
    lora_targets: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Layers that LoRA adapts: default (the encoder family's), all-linear (every linear layer in its "
            "blocks), or ends of their names."
        },
    )
    use_dora: bool | None = field(
        default=None, metadata={"help": "Train the norms of a weight's rows too (DoRA).", "nargs": "?", "const": True}
    )
    init_lora_weights: str | None = field(
        default=None,
        metadata={
            "help": "How LoRA starts: true or gaussian (A random, B zero), mica (A zero, B the minor singular "
            "directions, which do not train).",
            "choices": ["true", "gaussian", "mica"],
        },
    )
    frozen_share: float | None = field(
        default=None, metadata={"help": "Share of the encoder's first blocks without LoRA, rounded to whole blocks."}
    )
    crop_size: list[int] = field(
        default_factory=list, metadata={"help": "Height and width of crops; one number is a square."}
    )
    resize: list[int] = field(
        default_factory=list,
        metadata={
            "help": "Height and width before the crop, or one number for a square; by default the recipe's for the "
            "dataset, or its own."
        },
    )
    scale_range: list[float] = field(
        default_factory=list, metadata={"help": "Random scaling before the crop, from and to, or by one number."}
    )
    photometric: bool = field(
        default=True, metadata={"help": "Distort brightness, contrast, saturation and hue of training images."}
    )
    restyle_probability: float = field(
        default=0.0,
        metadata={"help": "Share of training images whose channels get means and deviations drawn anew, from 0 to 1."},
    )
    size: list[int] = field(
        default_factory=list,
        metadata={
            "help": "Shortest and longest edge that images are fitted into to be scored, and by the saved model (1024 "
            "2048 by default; an EoMT has its --crop_size as the shortest); one number is the shortest. Crops of "
            "training are cut from images of their own size, or --resize."
        },
    )
    max_image_pixels: str = field(default=MAX_IMAGE_PIXELS, metadata={"help": MAX_IMAGE_PIXELS_HELP})
    device: str = field(default="auto", metadata={"help": "Where to train: cpu, cuda:1, or the GPU if there is one."})
    dtype: str = field(
        default="float32",
        metadata={"help": "What is computed in; weights and losses are float32.", "choices": list(DTYPES)},
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint in --output, if any."})
    fields: dict[str, object] = field(default_factory=dict, init=False)  # of VFMSegConfig, that are given

    @property
    def lora(self) -> dict[str, object]:
        """Those arguments of `lora_config` that are given."""
        given = {option: getattr(self, option) for option in LORA_OPTIONS}
        given = {LORA_OPTIONS[option]: value for option, value in given.items() if value not in (None, [])}
        if given.get("init_lora_weights") == "true":
            given["init_lora_weights"] = True
        if len(given.get("targets", ())) == 1:
            (given["targets"],) = given["targets"]  # which may be the name of a choice
        return given


class TrainParser(Parser, HfArgumentParser):
    """Reads both kinds of arguments."""


def build_parser(recipe: Recipe | None = None, **instead: object) -> TrainParser:
    """The options over the settings of a recipe; `instead` of it where its settings go with others that are not."""
    recipe = recipe or get_recipe(TrainArguments.recipe)
    parser = TrainParser(
        (TrainArguments, ModelFields, VFMSegTrainingArguments),
        prog="vfmseg train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    given = {
        key: recipe.augmentation[key] for key in ("crop_size", "scale_range", "photometric", "restyle_probability")
    }
    parser.set_defaults(**{**recipe.training_arguments, **given, **instead})
    parser.refused = REFUSED
    next(action for action in parser._actions if action.dest == "output_dir").required = True
    return parser


def parse_arguments(argv: Sequence[str]) -> tuple[TrainArguments, VFMSegTrainingArguments]:
    """The command line, over the settings of the recipe that it names."""
    first = Parser(add_help=False)
    first.add_argument("--recipe", default=TrainArguments.recipe)
    first.add_argument("--num_train_epochs")
    first.add_argument("--ema_decay")
    first.add_argument("--encoder_learning_rate")
    first.add_argument("--device", default="auto")
    first.add_argument("--dtype", choices=list(DTYPES), default="float32")
    asked = first.parse_known_args(argv)[0]
    words = [*argv, *DTYPES[asked.dtype], *choose_device(asked.device)]
    instead: dict[str, object] = {}
    if asked.num_train_epochs is not None:
        instead["max_steps"] = None  # either is asked for
    if asked.ema_decay is not None and re.fullmatch(r"0*\.?0*", asked.ema_decay):
        instead["ema_start"] = 0.0  # of no average
    parser = build_parser(get_recipe(asked.recipe), **instead)
    own, fields, arguments = parser.parse_args_into_dataclasses(words)
    own.fields = given_fields(fields)
    if asked.encoder_learning_rate is None and own.model.endswith(".json") and other_kind(own):
        arguments.encoder_learning_rate = arguments.learning_rate  # nothing of it is pretrained
    return own, arguments


def choose_device(name: str) -> list[str]:
    """
    What `--device` means to transformers, which has no such option: GPUs that it should not see are hidden from it.

    Raises:
        ValueError: there is no such device, or several processes have one each.
    """
    if name == "auto":
        return []
    if name == "cpu":
        return ["--use_cpu"]
    if name == "cuda":
        check_gpu(name)
        return []
    kind, _, number = name.partition(":")
    if kind != "cuda" or not number.isdecimal():
        raise ValueError(f"--device takes auto, cpu, cuda or cuda:N, got {name!r}")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(f"each of several processes has a device of its own; leave --device {name} out")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else None
    if devices is not None and int(number) >= len(devices):
        raise ValueError(f"there is no device {name}: CUDA_VISIBLE_DEVICES={visible} shows {len(devices)}")
    os.environ["CUDA_VISIBLE_DEVICES"] = devices[int(number)] if devices else number
    check_gpu(name)
    return []


def check_gpu(name: str) -> None:
    """Raise a `ValueError` if torch sees no GPU where one is asked for: Trainer would take the CPU without a word."""
    if not torch.cuda.is_available():
        raise ValueError(f"device {name} is not available; --device auto takes the GPU if there is one, cpu the CPU")


def find_checkpoint(output_dir: str, resume: bool) -> str | None:
    """What to go on from. Raises `ValueError` rather than mix a new run into the checkpoints of another one."""
    last = get_last_checkpoint(output_dir) if os.path.isdir(output_dir) else None
    if last and not resume:
        raise ValueError(f"{output_dir} holds {os.path.basename(last)} of an earlier run; add --resume or go elsewhere")
    return last


def check_arguments(own: TrainArguments, arguments: VFMSegTrainingArguments) -> str | None:
    """Raises an error for what cannot work; returns the checkpoint to go on from."""
    check_counts(
        arguments,
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=1,
        dataloader_num_workers=0,
        seed=0,
    )
    method = METHODS.get(own.method)  # none of VFMSeg, and of models of transformers
    adapted = method is not None and method.own_adapter is not None
    own.tune = own.tune or ("heads" if adapted else None)
    if adapted and own.tune == "lora":
        raise ValueError(f"--method {own.method} adapts the encoder by itself; leave --tune lora out")
    if other := other_kind(own):
        check_tune(other, own.tune)
        own.tune = "full"
    if own.lora and own.tune not in (None, "lora"):
        option = next(option for option, name in LORA_OPTIONS.items() if name in own.lora)
        reason = f"--tune {own.tune}" if not adapted else f"--method {own.method}, which adapts the encoder by itself"
        raise ValueError(f"--{option} is for LoRA and has no effect with {reason}; leave it out")
    if own.tune in (None, "lora") and own.model.endswith(".json"):
        raise ValueError(
            f"{own.model} gives random weights, which are in no file, so that nobody could load LoRA on them: train "
            "everything (--tune full)"
        )
    whose = f"--method {own.method}" if own.method else f"a {other} model"
    if (own.method or other) and arguments.scale_heads:
        raise ValueError(f"--scale_heads is for VFMSeg's heads, and {whose} has another; leave it out")
    if arguments.eval_strategy != "no" and not own.eval_data:
        strategy = arguments.eval_strategy.value
        raise ValueError(f"--eval_strategy {strategy} needs something to score: --eval_data DOMAIN ...")
    for name in ("class_weights", "label_smoothing_factor"):
        if getattr(arguments, name) and (other or (method and name not in method.config_class.own_fields())):
            raise ValueError(f"{whose} has no {name}; leave it out")
    edges = own.crop_size if len(own.crop_size) == 2 else 2 * own.crop_size
    if arguments.rare_class_sampling and len(edges) == 2:  # others are refused in their place
        check_rare_class_crops(arguments.rare_class_min_pixels, arguments.rare_class_crop_ratio, edges)
    check_output_folder(arguments.output_dir)
    if own.method == EOMT:
        own.fields.setdefault("patch_size", VFMSegConfig.patch_size)
        own.fields["image_size"] = check_square(own.crop_size, own.fields["patch_size"])
    config = check_fields(own.model, own.recipe, own.fields, own.method)
    if other:
        check_squares(other, own.fields if own.method == EOMT else config.to_dict(), own.crop_size, own.size)
    if own.tune in (None, "lora"):
        recipe = get_recipe(own.recipe)
        try:
            check_adapter(own.model, config, {**recipe.lora, **own.lora}, own.lora)
        except ValueError as error:
            usual = get_recipe(TrainArguments.recipe).lora
            told = [f"{name} {value}" for name, value in recipe.lora.items() if value != usual[name]]
            raise ValueError(
                f"{error}; --recipe {recipe.name} has {', '.join(told)}" if told else str(error)
            ) from error
    if method and own.tune in (None, "lora") and os.path.isdir(arguments.output_dir):
        if last := get_last_checkpoint(arguments.output_dir):
            raise ValueError(
                f"{last} is of an earlier run and has LoRA folded in, so that no run can go on from it; "
                "choose another --output"
            )
    checkpoint = arguments.resume_from_checkpoint or find_checkpoint(arguments.output_dir, own.resume)
    if checkpoint and not os.path.isdir(checkpoint):
        raise ValueError(f"there is no checkpoint {checkpoint!r}; --resume goes on from the last one in --output")
    done = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME)).global_step if checkpoint else 0
    if 0 < arguments.max_steps < done:
        raise ValueError(f"{checkpoint} has made {done} steps already; --max_steps {arguments.max_steps} is less")
    return checkpoint


def make_trainer(own: TrainArguments, arguments: VFMSegTrainingArguments, recipe: Recipe) -> VFMSegTrainer:
    """Data, model and recipe, put together."""
    size = edges_as_size(own.size or SIZE)
    named = name_classes([*map(parse_domain, own.data), *evaluation_domains(own.eval_data)], own.id2label)
    sources, domains = named[: len(own.data)], named[len(own.data) :]
    augmentations = [
        Augmentation(
            tuple(own.crop_size),
            tuple(own.resize) if own.resize else recipe.resize.get(describe_dataset(source.spec).name),
            tuple(own.scale_range),
            recipe.augmentation["cat_max_ratio"],
            recipe.augmentation["flip_probability"],
            own.photometric,
            own.restyle_probability,
        )
        for source in sources
    ]
    datasets = [open_dataset(source.spec, source.split) for source in sources]
    classes = [classes_of(dataset) for dataset in datasets]
    watched = {
        name: (open_dataset(spec, split, held_out=True), describe_dataset(spec).evaluation)
        for name, spec, split in domains
    }
    known = {name: classes_of(rows) for name, (rows, _) in watched.items()}
    titles = ["the training set", *(f"the training set {text}" for text in own.data[1:])]
    maps = read_class_maps(own.class_map, {**dict(zip(titles, classes, strict=True)), **known})
    follows = not renames(maps[titles[0]])  # whether the model takes the classes of the first
    for title, others in zip(titles[1:], classes[1:], strict=True):
        if follows:
            check_same_classes(own.data[0], classes[0], title, others, maps[title])
    class_pixels = [None for _ in datasets]
    if arguments.rare_class_sampling:
        with arguments.main_process_first(desc="counting pixels per class"):  # the others find its counts
            class_pixels = [count_class_pixels(*each) for each in zip(datasets, map(len, classes), strict=True)]
    named = {"id2label": classes[0]} if follows else {}
    model = start_model(own.model, own.recipe, own.method, **own.fields, **named)
    if auto_class_of(model.config):
        processor = own_processor(None if own.method == EOMT else own.model, model.config, size)
        crops, scored_images = crop_processor(processor), RawImages()
    else:
        processor = VFMSegImageProcessor(size=size, **image_constants(model.config.backbone_config))
        crops = scored_images = processor
    parts = [
        TrainingImages(dataset, crops, augmentation, arguments.seed, pixels, class_map=maps[title])
        for title, dataset, augmentation, pixels in zip(titles, datasets, augmentations, class_pixels, strict=True)
    ]
    train = JoinedImages(parts) if len(parts) > 1 else parts[0]
    evaluation = {
        name: EvaluationImages(rows, scored_images, scored, class_map=maps[name])
        for name, (rows, scored) in watched.items()
    }
    choose_trained_part(model, own.tune, **{**recipe.lora, **own.lora})
    return VFMSegTrainer(
        model, arguments, train_dataset=train, eval_dataset=evaluation or None, processing_class=processor
    )


def other_kind(own: TrainArguments) -> str | None:
    """The `model_type` of a model of transformers that is asked for; None for VFMSeg's and the methods'."""
    if own.method == EOMT:
        return EOMT
    config = other_config(own.model)
    return config.model_type if config is not None else None


def check_same_classes(
    first: str, classes: Mapping[int, str], title: str, others: Mapping[int, str], class_map: ClassMap | None
) -> None:
    """Raises `ValueError` for a dataset whose classes are not those of the first one that is trained on."""
    try:
        match_classes(classes, others, class_map)
    except ValueError as error:
        reason = str(error).replace("the model's", f"those of {first}").replace("in the model", f"in {first}")
        raise ValueError(f"{title}: {reason}") from error


def run(argv: Sequence[str]) -> int:
    own, arguments = parse_arguments(argv)
    limit_pixels(own.max_image_pixels)
    checkpoint = check_arguments(own, arguments)
    recipe = get_recipe(own.recipe)
    set_seed(arguments.seed)
    trainer = make_trainer(own, arguments, recipe)
    first = trainer.is_world_process_zero()
    if first:
        print(describe_training(trainer.settings(), recipe, trainer.train_dataset))
        if checkpoint:
            print(f"going on from {checkpoint}")
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.stopped_by:
        if first:
            print(say_how_to_go_on(trainer, arguments.output_dir), file=sys.stderr)
        leave_processes()
        return 128 + trainer.stopped_by
    trainer.save_model()
    if trainer.eval_dataset:
        trainer.save_metrics("eval", trainer.evaluate())
    if first:
        try:
            plot_curves(trainer.state.log_history, os.path.join(arguments.output_dir, "curves.png"))
        except ImportError as error:
            print(f"no curves are drawn: {error}")
        print(describe_result(arguments.output_dir, trainer, own.eval_data))
    leave_processes()
    return 0


def say_how_to_go_on(trainer: VFMSegTrainer, output_dir: str) -> str:
    said = f"stopped by {trainer.stopped_by.name}; {get_last_checkpoint(output_dir)} is saved"
    if getattr(trainer.model, "_hf_peft_config_loaded", False) and isinstance(trainer.model, SingleStageModel):
        return f"{said}, with LoRA folded in, so that no run can go on from it; --model takes it to start anew"
    return f"{said}, the same command with --resume goes on from there"


def describe_result(output_dir: str, trainer: VFMSegTrainer, eval_data: Sequence[str]) -> str:
    """Scores by class, where there are any, where the model is, and what can be done with it."""
    lines = [format_classes(name, domain) + "\n" for name, domain in trainer.domain_scores.items()]
    adapter = getattr(trainer.model, "_hf_peft_config_loaded", False)
    adapter = adapter and not isinstance(trainer.model, SingleStageModel)  # which are saved whole
    what = "the adapter (LoRA and heads)" if adapter else "the model"
    commands: Mapping[str, list[str]] = {
        "score it": ["vfmseg", "evaluate", "--model", output_dir, "--data", *(eval_data or ["DATASET"])],
        "see it": ["vfmseg", "predict", "--model", output_dir, "IMAGES", "--output", "predictions"],
        "share it": ["hf", "upload", "USER/NAME", output_dir, "--exclude", "checkpoint-*/*"],
    }
    if trainer.other is not None:
        del commands["see it"]  # which is for VFMSeg's models and methods
    if adapter:
        commands["make it one folder"] = ["vfmseg", "merge", output_dir, f"{output_dir.rstrip('/')}-merged"]
    lines.append(f"{what} is in {output_dir}; next:")
    lines += [f"  {what:<20}{shlex.join(words)}" for what, words in commands.items()]
    return "\n".join(lines)
