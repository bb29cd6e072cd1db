# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Named recipes as data, and the record of what a training really did, held against them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ..evaluation import software_versions
from ..model.configuration_vfmseg import VFMSegConfig
from ..model.presets import PUBLISHED_OPTIONS
from .trained_on import describe_source, weights_digest


if TYPE_CHECKING:
    from .trainer import VFMSegTrainer

MODEL_FIELDS = (
    "detail_loss_weight",
    "feature_mask_ratio",
    "refine_dropout",
    "head_dropout",
    "loss_normalization",
    "class_weights",
    "label_smoothing_factor",
    "detail_crop_size",
    "detail_crop_includes_end",
)

Settings = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class Recipe:
    """
    All that a training is told, but for the data and the encoder. `print(recipe)` shows it.

    Attributes:
        name: as for [`get_recipe`].
        summary: where it comes from, in a sentence.
        training: fields of [`VFMSegTrainingArguments`]; `batch_size` is that of all processes and accumulation steps.
        augmentation: fields of [`Augmentation`].
        resize: (height, width) before the crop by corpus; pictures of other corpora keep their size.
        lora: arguments of `lora_config`.
        model: fields of [`VFMSegConfig`] that matter in training only.
    """

    name: str
    summary: str
    training: Mapping[str, object]
    augmentation: Mapping[str, object]
    resize: Mapping[str, tuple[int, int]]
    lora: Mapping[str, object]
    model: Mapping[str, object]

    @property
    def settings(self) -> Settings:
        """The parts that [`training_settings`] finds in a trainer."""
        return {part: getattr(self, part) for part in ("training", "augmentation", "lora", "model")}

    @property
    def training_arguments(self) -> dict[str, object]:
        """`training` as fields of [`VFMSegTrainingArguments`], for one process without accumulation."""
        fields = dict(self.training)
        return {"per_device_train_batch_size": fields.pop("batch_size"), **fields}

    def __str__(self) -> str:
        lines = [f"recipe {self.name}: {self.summary}"]
        for part, values in {**self.settings, "resize before the crop": self.resize}.items():
            lines.append(f"{part}:")
            lines.extend(f"  {key:<26}{_plain(value)}" for key, value in values.items())
        return "\n".join(lines)


_TRAINING = {
    "learning_rate": 1e-4,
    "encoder_learning_rate": 1e-5,
    "optim": "adamw_torch_fused",
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "weight_decay": 0.05,
    "max_grad_norm": 0.0,
    "lr_scheduler_type": "polynomial",
    "lr_scheduler_kwargs": {"power": 0.9, "lr_end": 0.0},
    "warmup_steps": 0,
    "max_steps": 40_000,
    "batch_size": 2,
    "rare_class_sampling": True,
    "rare_class_temperature": 0.01,
    "rare_class_min_pixels": 3000,
    "rare_class_crop_ratio": 2.0,
    "ema_decay": None,
}
_OF_OPTIMIZER = ("learning_rate", "encoder_learning_rate", "optim", "adam_beta1", "adam_beta2", "weight_decay")
_OF_SCHEDULER = ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps")
_AUGMENTATION = {
    "crop_size": (1024, 1024),
    "scale_range": (1.0, 1.0),
    "photometric": True,
    "cat_max_ratio": 0.75,
    "flip_probability": 0.5,
}
_RESIZE = {"gtav": (1440, 2560), "cityscapes": (1024, 2048)}
_LORA = {"r": 32, "lora_alpha": 32, "lora_dropout": 0.1}
_MODEL = {key: VFMSegConfig.__dataclass_fields__[key].default for key in MODEL_FIELDS}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "paper",
            "the paper's implementation details; sizes of the published configuration, where the paper has none",
            _TRAINING,
            _AUGMENTATION,
            _RESIZE,
            _LORA,
            _MODEL,
        ),
        Recipe(
            "published-code",
            "what the authors' code does: one learning rate, and losses divided by all pixels",
            {**_TRAINING, "encoder_learning_rate": 1e-4},
            _AUGMENTATION,
            _RESIZE,
            _LORA,
            {**_MODEL, **{key: value for key, value in PUBLISHED_OPTIONS.items() if key in MODEL_FIELDS}},
        ),
    )
}


def get_recipe(name: str) -> Recipe:
    """
    A recipe by name.

    Raises:
        ValueError: there is none of this name; the message lists them.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}, only {', '.join(RECIPES)}")
    return RECIPES[name]


def training_settings(trainer: "VFMSegTrainer") -> dict[str, dict[str, object]]:
    """What a trainer was really told, in the parts and words of [`Recipe`]; parts that it does not have are empty."""
    model = trainer.model
    augmentation = getattr(trainer.train_dataset, "augmentation", None)
    config = next(iter(getattr(model, "peft_config", {}).values()), None)
    return {
        "training": {key: _plain(value) for key, value in _training_fields(trainer).items()},
        "augmentation": asdict(augmentation) if augmentation else {},
        "lora": {key: getattr(config, key) for key in _LORA} if config else {},
        "model": {key: getattr(model.config, key) for key in MODEL_FIELDS},
    }


def _training_fields(trainer: "VFMSegTrainer") -> dict[str, object]:
    """The fields of `Recipe.training` as they hold, whatever the arguments say of what they do not decide."""
    args = trainer.args
    # Trainer may have found a smaller batch, and learns the number of steps of an epoch when it starts.
    batch_size = trainer._train_batch_size * args.gradient_accumulation_steps * args.world_size
    max_steps = args.max_steps if args.max_steps > 0 else trainer.state.max_steps or f"{args.num_train_epochs:g} epochs"
    done = {"batch_size": batch_size, "max_steps": max_steps}
    if trainer.optimizer_is_given:
        done |= dict.fromkeys(_OF_OPTIMIZER, "of the optimizer given")
    elif trainer.optimizer_cls_and_kwargs:
        done |= {"optim": trainer.optimizer_cls_and_kwargs[0].__name__, "adam_beta1": None, "adam_beta2": None}
    if trainer.scheduler_is_given:
        done |= dict.fromkeys(_OF_SCHEDULER, "of the scheduler given")
    return {key: done[key] if key in done else getattr(args, key) for key in _TRAINING}


def differences(settings: Settings, recipe: Recipe, corpus: str | None) -> list[str]:
    """
    In words, where `settings` are not those of a recipe; a part that is empty differs as a whole.

    Args:
        corpus: name of what is trained on, which decides the size before the crop.
    """
    found = []
    for part, expected in recipe.settings.items():
        actual = settings[part]
        if not actual:
            found.append(f"no {part}")
            continue
        if part == "augmentation":
            expected = {**expected, "resize": recipe.resize.get(corpus)}
        for key, value in expected.items():
            if _plain(actual[key]) != _plain(value):
                found.append(f"{part}.{key} {_plain(actual[key])} instead of {_plain(value)}")
    return found


def corpus_description(trainer: "VFMSegTrainer") -> str:
    """What the corpus of a trainer says of itself, beginning with its name; empty where it says nothing."""
    info = getattr(getattr(trainer.train_dataset, "dataset", None), "info", None)
    return getattr(info, "description", "")


def describe_training(trainer: "VFMSegTrainer", recipe: Recipe) -> str:
    """A sentence for the start of a training: the recipe, and in what the run differs from it."""
    found = differences(training_settings(trainer), recipe, corpus_description(trainer).partition(",")[0])
    return f"recipe {recipe.name}" + (", but " + ", ".join(found) if found else ", unchanged")


def record_training(trainer: "VFMSegTrainer", directory: str | None = None) -> str:
    """
    JSON of what a model was trained with: all settings, how they differ from each named recipe, data, versions.

    Args:
        directory: where its weights have just been saved, so that the record can say which weights it is of; without
            it, it is of none.
    """
    args, settings, corpus = trainer.args, training_settings(trainer), corpus_description(trainer)
    trained = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    whole_encoder = any("model.encoder." in name and ".lora_" not in name for name in trained)
    record = {
        "settings": settings,
        "differences": {
            name: differences(settings, recipe, corpus.partition(",")[0]) for name, recipe in RECIPES.items()
        },
        "data": None if trainer.train_dataset is None else describe_source(trainer.train_dataset),
        "run": {
            "seed": args.seed,
            "epochs": args.num_train_epochs if args.num_train_epochs > 0 else None,
            "loss_function": trainer.loss_name(),
            "step": trainer.state.best_global_step if trainer.best_loaded else trainer.state.global_step,
            "tune": "lora" if settings["lora"] else "full" if whole_encoder else "heads",
            "trained_parameters": trainer.get_num_trainable_parameters(),
            "processes": args.world_size,
            "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
            "gradient_checkpointing": args.gradient_checkpointing,
        },
        "versions": software_versions("peft", "accelerate"),
        "trained_on": {"weights": weights_digest(directory) if directory else None, **trainer.trained_on.as_record()},
    }
    return json.dumps(record, indent=2, default=str) + "\n"


def _plain(value: object) -> object:
    """A value as JSON has it."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return getattr(value, "value", value)  # of transformers' enumerations
