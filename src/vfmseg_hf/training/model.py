# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The model that a training starts from, and which part of it trains."""

import os
from collections.abc import Collection, Mapping
from typing import Literal, get_args

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import EomtConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from ..methods import (
    METHODS,
    SingleStageModel,
    VFMSegMask2FormerHead,
    auto_class_of,
    eomt_config,
    model_class_of,
    start_eomt,
)
from ..model.adapters import holds_adapter_only, lora_arguments, lora_config, read_adapter_config
from ..model.configuration_vfmseg import VFMSegConfig
from ..model.encoders import get_encoder_family
from ..model.foundation import load_backbone_config, read_config
from ..model.heads import VFMSegClassifier, VFMSegRefineHead
from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from ..model.presets import PRESETS, nearest_presets, published_options
from ..utils.files import read_settings
from .class_change import ClassChange
from .other_models import check_other, other_config, say_random, start_other


logger = logging.get_logger(__name__)

Tune = Literal["lora", "full", "heads", "none"]
TUNES = get_args(Tune)
EOMT = "eomt"  # a method whose models are transformers' own
METHOD_NAMES = (*METHODS, EOMT)
# What the weights of a model are made for.
OF_WEIGHTS = (
    "patch_size",
    "out_indices",
    "refine_hidden_size",
    "refine_num_layers",
    "refine_num_attention_heads",
    "refine_head_dim",
)


def start_model(
    name_or_path: str, recipe: str = "paper", method: str | None = None, **overrides
) -> VFMSegForSemanticSegmentation | SingleStageModel | PreTrainedModel:
    """
    A model to train.

    Args:
        name_or_path: a foundation model or a VFMSeg checkpoint (Hub id or directory), a preset of
            [`VFMSegConfig.from_preset`] if there is no directory of its name, or a JSON file of [`VFMSegConfig`] fields
            for random weights. A segmentation model of transformers, or what one can start from, stays one; a JSON file
            that names its `model_type` is one with random weights. See [`start_other`].
        recipe: `"published-code"` builds on foundation models with the authors' options ([`published_options`], and for
            presets their blocks). Checkpoints and JSON files keep their own.
        method: what a new model has on its foundation model: VFMSeg's two heads, or by one of the names of
            `methods.METHODS` what others have. A checkpoint keeps its own. `"eomt"` makes an EoMT of a DINOv2.
        overrides: fields of `VFMSegConfig`, or of the method's configuration (of `EomtConfig`, with `image_size` for
            the squares that it sees, by default 512). With `id2label` a checkpoint keeps what belongs to classes of the
            same name, as [`change_classes`] does.

    Raises:
        ValueError: if it is neither a directory nor a preset, and cannot be a Hub id (user/name), or the published code
            has no configuration of a preset; as [`check_fields`].
        FileNotFoundError: if there is no such JSON file.
    """
    if method is not None and method not in METHOD_NAMES:
        raise ValueError(f"method must be one of {list(METHOD_NAMES)}, or None for VFMSeg, got {method!r}")
    fields = {name: value for name, value in overrides.items() if name != "id2label"}
    base = check_fields(name_or_path, recipe, fields, method)
    if base is not None and auto_class_of(base):
        return start_other(name_or_path, base, overrides.get("id2label"))
    if method == EOMT:
        config = _eomt_config(base, fields, overrides.get("id2label"))
        if random := name_or_path.endswith(".json"):
            say_random(name_or_path)
        return start_eomt(None if random else base.backbone_name_or_path, base.backbone_config, config)
    if method is not None and isinstance(base, VFMSegConfig):
        return _start_method(METHODS[method], name_or_path, base, fields, overrides.get("id2label"))
    if name_or_path.endswith(".json"):
        config = VFMSegConfig.from_dict(read_settings(name_or_path), **overrides)
        say_random(name_or_path)
        return VFMSegForSemanticSegmentation(config)
    if not os.path.dirname(name_or_path) and not os.path.isdir(name_or_path):
        return VFMSegForSemanticSegmentation.from_preset(name_or_path, _recipe_of_model(recipe), **overrides)
    config = read_config(name_or_path, {})
    if model_class := model_class_of(config):
        id2label = overrides.pop("id2label", None)
        adapter = {"is_trainable": True} if model_class is VFMSegForSemanticSegmentation else {}
        model = model_class.from_pretrained(name_or_path, **adapter, **overrides)
        if id2label is not None:
            change_classes(model, id2label)
        return model
    return VFMSegForSemanticSegmentation.from_backbone(name_or_path, **{**_options_of(config, recipe), **overrides})


def _start_method(
    model_class: type[SingleStageModel],
    name_or_path: str,
    base: VFMSegConfig,
    fields: Mapping[str, object],
    id2label: Mapping[int, str] | None,
) -> SingleStageModel:
    """A new model of a method on the encoder that VFMSeg would have."""
    if id2label is not None:
        base.id2label, base.label2id = dict(id2label), {name: index for index, name in id2label.items()}
    config = model_class.config_class.of(base, **_of_method_alone(model_class, fields))
    if name_or_path.endswith(".json"):
        say_random(name_or_path)
        return model_class(config)
    return model_class.from_backbone(config.backbone_name_or_path, config)


def _of_method_alone(model_class: type[SingleStageModel] | None, fields: Mapping[str, object]) -> dict[str, object]:
    """Those fields that a method's configuration has and VFMSeg's has not."""
    if model_class is None:
        return {}
    shared = model_class.config_class.shared_fields()
    return {
        name: fields[name] for name in model_class.config_class.own_fields() if name in fields and name not in shared
    }


def _eomt_config(base: VFMSegConfig, fields: Mapping[str, object], id2label: Mapping[int, str] | None) -> EomtConfig:
    """Of an EoMT on the encoder that VFMSeg would have."""
    sizes = {"image_size": base.backbone_config.image_size, "patch_size": base.patch_size}
    own = {name: value for name, value in fields.items() if name != "backbone_name_or_path"}
    return eomt_config(base.backbone_config, id2label=id2label, **{**sizes, **own})


def check_fields(
    name_or_path: str, recipe: str, fields: Mapping[str, object], method: str | None = None
) -> PreTrainedConfig:
    """
    Looks at what a model is to start from, and at fields of its configuration, before weights and data are read.

    Args:
        name_or_path, recipe, method: as for [`start_model`].
        fields: of `VFMSegConfig`, or of the method's configuration, without its classes.

    Returns:
        What VFMSeg's configuration would be on a foundation model, or that of a checkpoint;
        that of a segmentation model of transformers.

    Raises:
        ValueError: as [`start_model`], if no such model can have a field, or the weights of a checkpoint are made for
            another value of it.
    """
    try:
        if (other := other_config(name_or_path)) is not None:
            check_other(name_or_path, other, fields, method)
            return other
        if method == EOMT:
            of_encoder = {name: value for name, value in fields.items() if name == "backbone_name_or_path"}
            base = _check_fields(name_or_path, recipe, of_encoder, method)
            _eomt_config(base, fields, None)
            return base
        model_class = METHODS[method] if method is not None else None
        alone = _of_method_alone(model_class, fields)
        shared = {name: value for name, value in fields.items() if name not in alone}
        base = _check_fields(name_or_path, recipe, shared, method)
        if model_class is None or not isinstance(base, VFMSegConfig):
            return base
        names = model_class.config_class.shared_fields()
        if unknown := [name for name in shared if name not in names]:
            raise ValueError(f"--method {method} has no {unknown[0]}; leave it out")
        model_class.config_class.of(base, **alone)
        return base
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error


def _check_fields(name_or_path: str, recipe: str, fields: Mapping[str, object], method: str | None) -> PreTrainedConfig:
    given, base = dict(fields), fields.get("backbone_name_or_path")
    if name_or_path.endswith(".json"):
        settings = read_settings(name_or_path)
        if not isinstance(settings, dict):
            raise ValueError(f"{name_or_path} must hold an object, {{...}}, of fields of VFMSegConfig")
        config = VFMSegConfig.from_dict(settings, **given)
    elif not os.path.dirname(name_or_path) and not os.path.isdir(name_or_path):
        if name_or_path not in PRESETS:
            raise ValueError(f"there is no directory and no preset {name_or_path!r}{nearest_presets(name_or_path)}")
        return VFMSegConfig.from_preset(name_or_path, _recipe_of_model(recipe), **given)
    else:
        config = read_config(name_or_path, {})
        if model_class := model_class_of(config):
            if method is not None and model_class is not METHODS.get(method):
                raise ValueError(
                    f"{name_or_path} is a {config.model_type} model and stays one; leave --method {method} out, or "
                    "start from a foundation model"
                )
            _check_weights(name_or_path, config, given)
            if unknown := [name for name in given if name not in type(config).__dataclass_fields__]:
                raise ValueError(f"{name_or_path} is a {config.model_type}, which has no {unknown[0]}; leave it out")
            type(config).from_dict(config.to_dict(), **given)
            if base and holds_adapter_only(name_or_path, {}):
                return config
        else:
            native = load_backbone_config(name_or_path, {})
            encoder = get_encoder_family(native).adapted_config(
                native, given.get("patch_size", VFMSegConfig.patch_size)
            )
            fields = {"backbone_config": encoder, "backbone_name_or_path": name_or_path, **_options_of(config, recipe)}
            config = VFMSegConfig(**{**fields, **given})
    if base:
        raise ValueError(
            f"backbone_name_or_path={base!r} says where the weights under a preset or an adapter are, which "
            f"{name_or_path} is not; leave it out"
        )
    return config


def check_adapter(
    name_or_path: str, config: PreTrainedConfig, lora: Mapping[str, object], asked: Collection[str]
) -> None:
    """
    Looks at arguments of LoRA before weights and data are read.

    Args:
        name_or_path: of what a training starts from.
        config: from [`check_fields`].
        lora: arguments of [`lora_config`].
        asked: names of those that an adapter must have that it starts from, if it does; it keeps its other ones.

    Raises:
        ValueError: as [`lora_config`], or the adapter has others.
    """
    wanted = lora_arguments(lora_config(config, **lora), config)
    preset = not os.path.dirname(name_or_path) and not os.path.isdir(name_or_path)
    if preset or not holds_adapter_only(name_or_path, {}):
        return
    own = lora_arguments(read_adapter_config(name_or_path), config)
    for name in asked:
        if wanted[name] != own[name]:
            raise ValueError(
                f"LoRA's {name}={wanted[name]!r} is not what the adapter {name_or_path} has, which is {own[name]!r}; "
                "leave it out, or start from a foundation model"
            )


def _check_weights(name_or_path: str, config: VFMSegConfig, fields: Mapping[str, object]) -> None:
    for name in OF_WEIGHTS:
        own = getattr(config, name, None)
        if name in fields and fields[name] != own:
            raise ValueError(
                f"{name}={fields[name]} is not what the weights of {name_or_path} are made for, which is {own}; leave "
                "it out, or start from a foundation model"
            )


def _recipe_of_model(recipe: str) -> str:
    """Which of the two that presets know: a recipe of our own trains the paper's model."""
    return recipe if recipe == "published-code" else "paper"


def _options_of(config: PreTrainedConfig, recipe: str) -> Mapping[str, object]:
    """What a recipe changes in a model on a foundation model of this configuration, for which there is no preset."""
    if recipe != "published-code":
        return {}
    of_timm = "eva02" in getattr(config, "architecture", "")  # whose model_type is that of all timm models
    return published_options("eva02" if of_timm else config.model_type)


def change_classes(model: VFMSegForSemanticSegmentation | SingleStageModel, id2label: Mapping[int, str]) -> None:
    """
    Give a model other classes, in place: what belongs to a class of the same name is kept, all else of classes is new.

    That is a row of the classifiers and an input channel of the refine head's mask embedding for every class. Classes
    in another order are put into the new one. What was kept and what is new is said in a warning.

    Args:
        model: with or without LoRA.
        id2label: names of the new ids 0, 1, ...

    Raises:
        ValueError: two classes have the same name.
    """
    change = ClassChange.of(model.config.id2label, id2label)
    before, origins = change.before, change.origins
    if not change.keeps_all:
        for module in model.modules():  # with LoRA a head is there twice: as it was loaded, and as it trains
            if isinstance(module, VFMSegClassifier):
                _choose_classes(model, module, origins, 0)
            if isinstance(module, VFMSegRefineHead):
                _choose_classes(model, module.mask_embedding.conv1, origins, 1)
            if isinstance(module, VFMSegMask2FormerHead):
                _choose_classes(model, module.class_predictor, [*origins, len(before)], 0)  # the last is no class
                module.config.num_labels = len(change.after)
    model.config.id2label, model.config.label2id = change.after, change.label2id
    model.num_labels = len(change.after)
    said_of_weights = _follow_classes(model.config, origins, len(before))
    model.config.validate()
    if said := change.describe():
        logger.warning("%s: %s%s.", model.name_or_path, said, said_of_weights)


def _follow_classes(config: VFMSegConfig, origins: list[int | None], before: int) -> str:
    """The weights of the classes in the loss go along with them, or go, which is said."""
    if getattr(config, "class_weights", None) is None or origins == list(range(before)):
        return ""
    if None in origins or len(origins) != before:
        config.class_weights = None
        return "; its class_weights are those of its former classes and are dropped"
    config.class_weights = [config.class_weights[index] for index in origins]
    return ""


@torch.no_grad()
def _choose_classes(
    model: VFMSegForSemanticSegmentation | SingleStageModel,
    layer: nn.Conv2d | nn.Linear,
    origins: list[int | None],
    axis: int,
) -> None:
    """New weights, but for classes that it had, for a layer with an output (`axis` 0) or input (1) for each class."""
    kept = [index for index, origin in enumerate(origins) if origin is not None]
    sizes, weight, bias = list(layer.weight.shape), layer.weight, layer.bias
    sizes[axis] = len(origins)
    layer.weight = nn.Parameter(weight.new_empty(sizes), weight.requires_grad)
    layer.bias = nn.Parameter(bias.new_empty(sizes[0]), bias.requires_grad)
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = sizes
    else:
        layer.out_channels, layer.in_channels = sizes[:2]
    model._init_weights(layer)
    old = [origins[index] for index in kept]
    if axis == 0:
        layer.weight[kept], layer.bias[kept] = weight[old], bias[old]
    else:
        layer.weight[:, kept] = weight[:, old]
        layer.bias.copy_(bias)


def choose_trained_part(
    model: VFMSegForSemanticSegmentation | SingleStageModel | PreTrainedModel, tune: Tune | None = None, **lora
) -> None:
    """
    Freeze what does not train, in place.

    Args:
        tune: `"lora"`: LoRA on the encoder, and the heads (the paper); `"full"`: everything; `"heads"`, or by another
            name `"none"` (nothing of the encoder): all heads, and what a method has beside the encoder's own weights
            (Rein's tokens). None: `"heads"` for a method that has such, `"full"` for a model of transformers, which has
            nothing else, else `"lora"`. The refine head does not train where its loss does not count
            (`detail_loss_weight` 0).
        lora: arguments of [`lora_config`], for a model that has no adapter yet.

    Raises:
        ValueError: there is no such `tune`, or LoRA is asked for on top of a method's own adapter.
    """
    if auto_class_of(model.config):
        check_tune(model.config.model_type, tune)
        tune = "full"
    own_adapter = getattr(model, "own_adapter", None)
    if tune is None:
        tune = "heads" if own_adapter else "lora"
    if tune == "lora":
        if not model._hf_peft_config_loaded:
            model.add_adapter(lora_config(model.config, **lora))
    elif tune in ("heads", "none"):
        model.model.requires_grad_(False)
        if own_adapter:
            getattr(model.model, own_adapter).requires_grad_(True)
    elif tune == "full":
        model.requires_grad_(True)
    else:
        raise ValueError(f"tune must be one of {list(TUNES)}, got {tune!r}")
    if getattr(model.config, "detail_loss_weight", None) == 0:
        model.refine_head.requires_grad_(False)


def check_tune(model_type: str, tune: str | None) -> None:
    """Raise a `ValueError` if a segmentation model of transformers is to train in another way than as a whole."""
    if tune not in (None, "full"):
        raise ValueError(f"{model_type} models of transformers train as a whole; leave --tune {tune} out")
