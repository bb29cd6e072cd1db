# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Named recipes of training, as data."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..model.configuration_vfmseg import VFMSegConfig
from ..model.presets import PUBLISHED_OPTIONS


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
        resize: (height, width) before the crop by dataset; images of other datasets keep their size.
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
        """The parts that `record.training_settings` finds in a training."""
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
            lines.extend(f"  {key:<26}{plain(value)}" for key, value in values.items())
        return "\n".join(lines)


_TRAINING = {
    "learning_rate": 1e-4,
    "encoder_learning_rate": 1e-5,
    "optim": "adamw_torch_fused",
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "weight_decay": 0.05,
    "weight_decay_schedule": "constant",
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
    "ema_start": 0.0,
    "scale_heads": False,
}
_AUGMENTATION = {
    "crop_size": (1024, 1024),
    "scale_range": (1.0, 1.0),
    "photometric": True,
    "restyle_probability": 0.0,
    "cat_max_ratio": 0.75,
    "flip_probability": 0.5,
}
_RESIZE = {"gtav": (1440, 2560), "cityscapes": (1024, 2048)}
_LORA = {
    "r": 32,
    "lora_alpha": 32,
    "lora_dropout": 0.1,
    "targets": "default",
    "use_dora": False,
    "init_lora_weights": True,
    "frozen_share": 0.0,
}
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
        # The average is over about the last thousand steps; trainings of less than some thousands need a lower decay.
        Recipe(
            "strong",
            "the paper's, after SoMA (CVPR 2025) with minor directions of all linear layers but the first third of "
            "the blocks', and weight decay that ends at 0; with averaged weights. Parts may go after the ablation",
            {**_TRAINING, "weight_decay_schedule": "cosine", "ema_decay": 0.999, "ema_start": 0.3},
            _AUGMENTATION,
            _RESIZE,
            {**_LORA, "targets": "all-linear", "init_lora_weights": "mica", "frozen_share": 1 / 3},
            _MODEL,
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


def plain(value: object) -> object:
    """A value as JSON has it."""
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return getattr(value, "value", value)  # of transformers' enumerations
