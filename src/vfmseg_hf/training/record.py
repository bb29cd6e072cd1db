# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The record of a training: what it was really told, how that differs from the recipes, and on what it was done."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn
from transformers import TrainerState, TrainingArguments

from ..evaluation import software_versions
from ..methods import MethodConfig, in_encoder
from ..model.adapters import LORA_FIELDS, frozen_blocks, lora_arguments, without_peft
from ..model.configuration_vfmseg import VFMSegConfig
from ..model.records import RECORD_NAME
from .recipes import MODEL_FIELDS, RECIPES, Recipe, Settings, get_recipe, plain
from .trained_on import TrainedOn, describe_source, parts_of, weights_digest


OF_OPTIMIZER = ("learning_rate", "encoder_learning_rate", "optim", "adam_beta1", "adam_beta2", "weight_decay")
OF_OPTIMIZER += ("weight_decay_schedule",)
SCHEDULES = ("weight_decay_schedule", "ema_decay", "ema_start")  # that no checkpoint has a state of
OF_SCHEDULER = ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps")


def training_settings(
    arguments: TrainingArguments, model: nn.Module, dataset: Any, decided: Mapping[str, object]
) -> Settings:
    """
    What a training was really told, in the parts and words of [`Recipe`]; parts that it does not have are empty.

    Args:
        dataset: what is trained on; its `augmentation` is a part of the settings, of several datasets with one `resize`
            for each.
        decided: fields of `Recipe.training` as they hold, where the arguments do not decide them.
    """
    paper = get_recipe("paper")  # all recipes have the same fields
    augmentation = asdict(dataset.augmentation) if getattr(dataset, "augmentation", None) else {}
    if len(parts := parts_of(dataset)) > 1:
        augmentation["resize"] = [part.augmentation.resize for part in parts]
    fields = {key: getattr(model.config, key) for key in MODEL_FIELDS if hasattr(model.config, key)}
    training = {key: decided[key] if key in decided else getattr(arguments, key) for key in paper.training}
    return {
        "training": {key: plain(value) for key, value in training.items()},
        "augmentation": augmentation,
        "lora": lora_settings(model),
        # A model of transformers has none of them, and it is no difference to a recipe that it has not.
        "model": fields or {"model_type": model.config.model_type},
    }


def lora_settings(model: nn.Module) -> dict[str, object]:
    """
    The arguments of `lora_config` that the attached LoRA comes from, as far as a model of another library has them;
    empty without one.

    Of a share of blocks the model knows the number of blocks only, and it is a recipe's share where that gives it.
    """
    lora = next(iter(getattr(model, "peft_config", {}).values()), None)
    if lora is None:
        return {}
    config = without_peft(model).config
    if not isinstance(config, VFMSegConfig | MethodConfig):
        return {name: getattr(lora, name, None) for name in LORA_FIELDS}
    found = lora_arguments(lora, config)
    share = found["frozen_share"]
    if isinstance(share, float):
        count = frozen_blocks(config, share)
        known = [recipe.lora["frozen_share"] for recipe in RECIPES.values()]
        found["frozen_share"] = next((each for each in known if frozen_blocks(config, each) == count), share)
    return found


def check_same_schedules(checkpoint: str | os.PathLike, settings: Settings) -> None:
    """
    Raise a `ValueError` where a training would go on from a checkpoint by another schedule than it was made by.

    Args:
        settings: of the training that goes on.
    """
    path = os.path.join(checkpoint, RECORD_NAME)
    if not os.path.isfile(path):
        return
    with open(path, encoding="utf-8") as file:
        training = json.load(file).get("settings", {}).get("training", {})
    for name in SCHEDULES:
        now = settings["training"][name]
        if None not in (now, training.get(name)) and training[name] != now:  # whether there is an average is seen later
            raise ValueError(
                f"{checkpoint} was trained with {name}={training[name]!r}, this run has {now!r}; resume with the same "
                "arguments"
            )
    before, now = (each.get("max_steps") for each in (training, settings["training"]))
    if settings["training"]["ema_start"] and isinstance(now, int) and before not in (None, now):
        raise ValueError(
            f"{checkpoint} was trained for {before} steps, this run has {now}, and ema_start is a share of them; "
            "resume with the same max_steps"
        )


def differences(settings: Settings, recipe: Recipe, names: Sequence[str]) -> list[str]:
    """
    In words, where `settings` are not those of a recipe; a part that is empty differs as a whole.

    Args:
        names: of the datasets that are trained on, which decide the size before the crop.
    """
    found = []
    for part, expected in recipe.settings.items():
        actual = settings[part]
        if not actual:
            found.append(f"no {part}")
            continue
        if part == "augmentation":
            sizes = [recipe.resize.get(name) for name in names]
            expected = {**expected, "resize": sizes if len(sizes) > 1 else sizes[0]}
        for key, value in expected.items():
            if key not in actual:
                continue  # a model of another method has not all fields
            if plain(actual[key]) != plain(value):
                found.append(f"{part}.{key} {plain(actual[key])} instead of {plain(value)}")
    return found


def dataset_names(dataset: Any) -> list[str]:
    """Names of the datasets that are trained on, as they stand before the colon of a spec; empty where one has none."""
    infos = [getattr(getattr(part, "dataset", None), "info", None) for part in parts_of(dataset)]
    return [(getattr(info, "description", None) or "").partition(",")[0] for info in infos]


def describe_training(settings: Settings, recipe: Recipe, dataset: Any) -> str:
    """A sentence for the start of a training: the recipe, and in what the run differs from it."""
    found = differences(settings, recipe, dataset_names(dataset))
    return f"recipe {recipe.name}" + (", but " + ", ".join(found) if found else ", unchanged")


def record_training(
    arguments: TrainingArguments,
    model: nn.Module,
    dataset: Any,
    state: TrainerState,
    *,
    settings: Settings,
    trained_on: TrainedOn,
    loss_name: str,
    best_loaded: bool = False,
    directory: str | None = None,
) -> str:
    """
    JSON of what a model was trained with: all settings, how they differ from each named recipe, data, versions.

    Args:
        settings: from [`training_settings`].
        trained_on: all that the model has been trained on, earlier trainings included.
        loss_name: what both stages are trained with.
        best_loaded: whether the weights are those of the best step, no longer of the last.
        directory: where its weights have just been saved, so that the record can say which weights it is of; without
            it, it is of none.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    whole_encoder = any(in_encoder(model, name) and ".lora_" not in name for name in trained)
    names = dataset_names(dataset)
    sources = [describe_source(part) for part in parts_of(dataset)] if dataset is not None else []
    record = {
        "settings": settings,
        "differences": {name: differences(settings, recipe, names) for name, recipe in RECIPES.items()},
        "data": None if dataset is None else sources if len(sources) > 1 else sources[0],
        "run": {
            "seed": arguments.seed,
            "epochs": arguments.num_train_epochs if arguments.num_train_epochs > 0 else None,
            "loss_function": loss_name,
            "step": state.best_global_step if best_loaded else state.global_step,
            "model_type": getattr(model.config, "model_type", None),
            "tune": "lora" if settings["lora"] else "full" if whole_encoder else "heads",
            "trained_parameters": sum(parameter.numel() for parameter in trained.values()),
            "processes": arguments.world_size,
            "precision": "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "fp32",
            "gradient_checkpointing": arguments.gradient_checkpointing,
        },
        "versions": software_versions("peft", "accelerate"),
        "trained_on": {"weights": weights_digest(directory) if directory else None, **trained_on.as_record()},
    }
    return json.dumps(record, indent=2, default=str) + "\n"
