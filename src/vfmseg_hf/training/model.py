# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The model that a training starts from, and which part of it trains."""

import os
from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn
from transformers.utils import logging

from ..evaluation.classes import by_number, is_generic, listed, same_classes
from ..model.adapters import lora_config
from ..model.configuration_vfmseg import VFMSegConfig
from ..model.foundation import read_config
from ..model.heads import VFMSegCoarseHead, VFMSegRefineHead
from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from ..model.presets import PRESETS, nearest_presets, published_options
from ..utils.files import read_settings


logger = logging.get_logger(__name__)

Tune = Literal["lora", "full", "heads"]


def start_model(name_or_path: str, recipe: str = "paper", **overrides) -> VFMSegForSemanticSegmentation:
    """
    A model to train.

    Args:
        name_or_path: a foundation model or a VFMSeg checkpoint (Hub id or directory), a preset of
            [`VFMSegConfig.from_preset`] if there is no directory of its name, or a JSON file of [`VFMSegConfig`] fields
            for random weights.
        recipe: `"published-code"` builds on foundation models with the authors' options ([`published_options`], and for
            presets their blocks). Checkpoints and JSON files keep their own.
        overrides: fields of `VFMSegConfig`. With `id2label` a checkpoint keeps what belongs to classes of the same
            name, as [`change_classes`] does.

    Raises:
        ValueError: if it is neither a directory nor a preset, and cannot be a Hub id (user/name), or the published code
            has no configuration of a preset.
        FileNotFoundError: if there is no such JSON file.
    """
    if name_or_path.endswith(".json"):
        fields = read_settings(name_or_path)
        if not isinstance(fields, dict):
            raise ValueError(f"{name_or_path} must hold an object, {{...}}, of fields of VFMSegConfig")
        config = VFMSegConfig.from_dict(fields, **overrides)
        logger.warning("Random weights by %s: nothing pretrained is in this model.", name_or_path)
        return VFMSegForSemanticSegmentation(config)
    if not os.path.dirname(name_or_path) and not os.path.isdir(name_or_path):
        if name_or_path not in PRESETS:
            raise ValueError(f"there is no directory and no preset {name_or_path!r}{nearest_presets(name_or_path)}")
        return VFMSegForSemanticSegmentation.from_preset(name_or_path, recipe, **overrides)
    config = read_config(name_or_path, {})
    if isinstance(config, VFMSegConfig):
        id2label = overrides.pop("id2label", None)
        model = VFMSegForSemanticSegmentation.from_pretrained(name_or_path, is_trainable=True, **overrides)
        if id2label is not None:
            change_classes(model, id2label)
        return model
    if recipe == "published-code":
        of_timm = "eva02" in getattr(config, "architecture", "")  # whose model_type is that of all timm models
        overrides = {**published_options("eva02" if of_timm else config.model_type), **overrides}
    return VFMSegForSemanticSegmentation.from_backbone(name_or_path, **overrides)


def change_classes(model: VFMSegForSemanticSegmentation, id2label: Mapping[int, str]) -> None:
    """
    Give a model other classes, in place: what belongs to a class of the same name is kept, all else of classes is new.

    That is a row of both classifiers and an input channel of the refine head's mask embedding for every class. Classes
    in another order are put into the new one. What was kept and what is new is said in a warning.

    Args:
        model: with or without LoRA.
        id2label: names of the new ids 0, 1, ...

    Raises:
        ValueError: two classes have the same name.
    """
    id2label = dict(sorted(id2label.items()))
    before = dict(sorted(model.config.id2label.items()))
    numbered = by_number(before, id2label)
    if numbered and is_generic(id2label):
        id2label = before  # names that say nothing do not replace others
    origins = same_classes(before, id2label, ("model", "dataset"))
    if origins != list(before):
        for module in model.modules():  # with LoRA a head is there twice: as it was loaded, and as it trains
            if isinstance(module, VFMSegCoarseHead | VFMSegRefineHead):
                _choose_classes(model, module.classifier, origins, 0)
            if isinstance(module, VFMSegRefineHead):
                _choose_classes(model, module.mask_embedding.conv1, origins, 1)
    model.config.id2label, model.config.label2id = id2label, {name: index for index, name in id2label.items()}
    model.num_labels = len(id2label)
    said_of_weights = _follow_classes(model.config, origins, len(before))
    model.config.validate()
    if said := _describe_change(before, id2label, origins, numbered):
        logger.warning("%s: %s%s.", model.name_or_path, said, said_of_weights)


def _follow_classes(config: VFMSegConfig, origins: list[int | None], before: int) -> str:
    """The weights of the classes in the loss go along with them, or go, which is said."""
    if config.class_weights is None or origins == list(range(before)):
        return ""
    if None in origins or len(origins) != before:
        config.class_weights = None
        return "; its class_weights are those of its former classes and are dropped"
    config.class_weights = [config.class_weights[index] for index in origins]
    return ""


@torch.no_grad()
def _choose_classes(
    model: VFMSegForSemanticSegmentation, layer: nn.Conv2d, origins: list[int | None], axis: int
) -> None:
    """New weights, but for classes that it had, for a layer with an output (`axis` 0) or input (1) for each class."""
    kept = [index for index, origin in enumerate(origins) if origin is not None]
    sizes, weight, bias = list(layer.weight.shape), layer.weight, layer.bias
    sizes[axis] = len(origins)
    layer.weight = nn.Parameter(weight.new_empty(sizes), weight.requires_grad)
    layer.bias = nn.Parameter(bias.new_empty(sizes[0]), bias.requires_grad)
    layer.out_channels, layer.in_channels = sizes[:2]
    model._init_weights(layer)
    old = [origins[index] for index in kept]
    if axis == 0:
        layer.weight[kept], layer.bias[kept] = weight[old], bias[old]
    else:
        layer.weight[:, kept] = weight[:, old]
        layer.bias.copy_(bias)


def _describe_change(
    before: Mapping[int, str], after: Mapping[int, str], origins: list[int | None], numbered: bool
) -> str | None:
    if numbered:
        return f"its {len(after)} classes are kept by number, as LABEL_0, LABEL_1, ... says nothing of them"
    if origins == list(before):
        return None
    kept = [after[index] for index, origin in enumerate(origins) if origin is not None]
    new = [after[index] for index, origin in enumerate(origins) if origin is None]
    if len(kept) == len(before) == len(after):
        return f"its classes were put into the order of the training set: {listed(kept)}"
    return f"kept {len(kept)} of its {len(before)} classes: {listed(kept) or 'none'}; new: {listed(new) or 'none'}"


def choose_trained_part(model: VFMSegForSemanticSegmentation, tune: Tune, **lora) -> None:
    """
    Freeze what does not train, in place.

    Args:
        tune: `"lora"`: LoRA on the encoder, and the heads (the paper); `"full"`: everything; `"heads"`: both heads.
        lora: arguments of [`lora_config`].
    """
    if tune == "lora":
        if not model._hf_peft_config_loaded:
            model.add_adapter(lora_config(model.config, **lora))
    elif tune == "heads":
        model.model.requires_grad_(False)
    elif tune == "full":
        model.requires_grad_(True)
    else:
        raise ValueError(f"tune must be 'lora', 'full' or 'heads', got {tune!r}")
