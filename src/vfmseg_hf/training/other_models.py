# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Segmentation models of transformers to train: where they start, with which classes, and how they see images."""

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches

import torch
from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation
from transformers.configuration_utils import PreTrainedConfig
from transformers.image_processing_base import ImageProcessingMixin
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
    MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
)
from transformers.utils import is_torchvision_available, logging

from ..methods import MASK_CLASSIFIERS, auto_class_of, check_square, in_encoder, needs_scipy
from ..model.configuration_vfmseg import VFMSegConfig
from ..model.foundation import checkpoint_place, read_config, without_warnings
from ..model.image_processing_vfmseg import VFMSegImageProcessor
from ..model.labels import IGNORE_INDEX
from ..utils.files import read_settings
from .class_change import ClassChange


logger = logging.get_logger(__name__)

SEGMENTATION = (*MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES, *MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES)
SQUARES = ("eomt", "eomt_dinov3")  # that see squares of one size
PROBE = (64, 256)  # height and width of an image that shows whether an image processor keeps an aspect ratio


def say_random(name_or_path: str) -> None:
    logger.warning("Random weights by %s: nothing pretrained is in this model.", name_or_path)


def other_config(name_or_path: str) -> PreTrainedConfig | None:
    """
    The configuration of a segmentation model of transformers, or of what one can start from; None for all else.

    Args:
        name_or_path: Hub id, directory, or a JSON file with its `model_type`.
    """
    if name_or_path.endswith(".json"):
        settings = read_settings(name_or_path)
        kind = settings.get("model_type") if isinstance(settings, Mapping) else None
        if kind in (None, VFMSegConfig.model_type):
            return None
        if kind not in CONFIG_MAPPING or auto_class_of(CONFIG_MAPPING[kind]) is None:
            raise ValueError(
                f"{name_or_path}: transformers has no segmentation model of model_type {kind!r}"
                f"{_meant(str(kind), SEGMENTATION)}"
            )
        _check_names(name_or_path, settings)
        return CONFIG_MAPPING[kind].from_dict(dict(settings))
    if os.path.dirname(name_or_path) or os.path.isdir(name_or_path):
        config = read_config(name_or_path, {})
        return config if auto_class_of(config) else None
    return None  # a preset


def _meant(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _check_names(file: str, settings: Mapping[str, object]) -> None:
    """Raises `ValueError` for a field that is misspelt; others that mean nothing are said, as old files have some."""
    kind = CONFIG_MAPPING[settings["model_type"]]
    known = {*kind().to_dict(), *kind.attribute_map, *PreTrainedConfig().to_dict(), "num_labels", "torch_dtype"}
    for name, value in settings.items():
        if name not in known:
            if meant := _meant(name, known):
                raise ValueError(f"{file}: a {settings['model_type']} has no field {name}{meant}")
            logger.warning("%s: %s means nothing to a %s.", file, name, settings["model_type"])
        elif isinstance(value, Mapping) and value.get("model_type") in CONFIG_MAPPING:
            _check_names(file, value)


def check_other(name_or_path: str, config: PreTrainedConfig, fields: Mapping[str, object], method: str | None) -> None:
    """
    Look at what is asked of a segmentation model of transformers before its weights are read.

    Args:
        fields: of `VFMSegConfig`, none of which it has.
        method: as for `start_model`, and likewise.

    Raises:
        ValueError: for these, and for mask classifiers that cannot learn from label maps alone.
    """
    kind = config.model_type
    if method is not None:
        raise ValueError(
            f"{name_or_path} is a {kind} model and stays one; leave --method {method} out, or start from a foundation "
            "model"
        )
    if fields:
        raise ValueError(f"{name_or_path} is a {kind}, which has no {next(iter(fields))}; leave it out")
    if auto_class_of(config) is AutoModelForUniversalSegmentation and kind not in MASK_CLASSIFIERS:
        raise ValueError(
            f"{name_or_path} is a {kind}, which needs more than label maps to learn from; of mask classifiers "
            f"{', '.join(MASK_CLASSIFIERS)} can be trained"
        )
    if name_or_path.endswith(".json"):
        try:
            with torch.device("meta"), torch.random.fork_rng(devices=[]), _asking_for_scipy(config):
                _new_model(config)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{name_or_path}: its fields do not fit together, so that no {kind} can be made of them "
                f"({type(error).__name__}: {error})"
            ) from error


def check_squares(kind: str, made_for: Mapping[str, object], crop_size: Sequence[int], size: Sequence[int]) -> None:
    """
    Raise a `ValueError` if crops and images do not fit a model that sees squares of one size; others see any.

    Args:
        kind: its `model_type`.
        made_for: its `patch_size` and `image_size`, in pixels.
        crop_size, size: as on the command line; `size` empty where it is not given.
    """
    if kind not in SQUARES:
        return
    edge, own = check_square(list(crop_size), made_for["patch_size"]), made_for["image_size"]
    if own != edge:
        raise ValueError(
            f"the {kind} is made for squares of {own} pixels, and --crop_size {edge} are others; give --crop_size {own}"
        )
    if size and list(size) != [edge]:
        raise ValueError(
            f"an {kind} sees squares of --crop_size {edge} pixels, so that this is the shortest edge of every image, "
            f"and the longest has no limit; leave --size {' '.join(map(str, size))} out"
        )


def start_other(
    name_or_path: str, config: PreTrainedConfig, id2label: Mapping[int, str] | None = None
) -> PreTrainedModel:
    """
    A segmentation model of transformers to train, in float32.

    Args:
        name_or_path: a checkpoint of it, one of its encoder alone (`nvidia/mit-b0`), or a JSON file of its
            configuration for random weights.
        config: from [`other_config`].
        id2label: names of its classes; what a segmentation model has of a class of the same name is kept. None: its
            own.

    Raises:
        ImportError: without scipy, for mask classifiers.
        ValueError: the encoder has no weights, or two classes have the same name.
    """
    auto_class, config = auto_class_of(config), copy.deepcopy(config)
    if hasattr(config, "semantic_loss_ignore_index"):
        config.semantic_loss_ignore_index = IGNORE_INDEX
    with _asking_for_scipy(config):
        if name_or_path.endswith(".json"):
            say_random(name_or_path)
            return _new_model(config if id2label is None else _with_classes(config, id2label))
        with without_warnings():
            model, loading = auto_class.from_pretrained(
                name_or_path, config=config, dtype=torch.float32, output_loading_info=True
            )
    missing = sorted(loading["missing_keys"] & {name for name, _ in model.named_parameters()})
    if lost := [name for name in missing if in_encoder(model, name)]:
        raise ValueError(
            f"{name_or_path} has no weights for {lost[0]}, so that a {config.model_type} cannot start there"
        )
    if not missing:
        if id2label is not None:
            model = change_other_classes(model, id2label)
        model.loaded_from = checkpoint_place(name_or_path, {})
        return model
    logger.warning("%s: the encoder is kept, the head is new.", name_or_path)
    started = _new_model(config if id2label is None else _with_classes(config, id2label))
    kept = {name: tensor for name, tensor in model.state_dict().items() if in_encoder(model, name)}
    started.load_state_dict(kept, strict=False)
    started.name_or_path = started.config.name_or_path = name_or_path
    return started


def _asking_for_scipy(config: PreTrainedConfig) -> AbstractContextManager:
    """Mask classifiers cannot be made without it."""
    masks = auto_class_of(config) is AutoModelForUniversalSegmentation
    return needs_scipy(f"a {config.model_type} model") if masks else nullcontext()


def _new_model(config: PreTrainedConfig) -> PreTrainedModel:
    return auto_class_of(config).from_config(config, dtype=torch.float32)


def _with_classes(config: PreTrainedConfig, id2label: Mapping[int, str]) -> PreTrainedConfig:
    config = copy.deepcopy(config)
    config.id2label = dict(sorted(id2label.items()))
    config.label2id = {name: index for index, name in config.id2label.items()}
    return config


@torch.no_grad()
def change_other_classes(model: PreTrainedModel, id2label: Mapping[int, str]) -> PreTrainedModel:
    """
    The model with other classes: as `change_classes`, for models of transformers, and a new model.

    Which tensors have a place for each class is seen from those of a model with one class more. A tensor of a mask
    classifier has one place more, for none, which is kept.

    Raises:
        ValueError: two classes have the same name.
    """
    change = ClassChange.of(model.config.id2label, id2label)
    if said := change.describe():
        logger.warning("%s: %s.", model.name_or_path, said)
    if change.keeps_all:
        model.config.id2label, model.config.label2id = change.after, change.label2id
        return model
    count = len(change.before)
    with torch.device("meta"):
        wider = _new_model(_with_classes(model.config, {index: f"class {index}" for index in range(count + 1)}))
    shapes = {name: tensor.shape for name, tensor in wider.state_dict().items()}
    changed = _new_model(_with_classes(model.config, change.after))
    kept = [index for index, origin in enumerate(change.origins) if origin is not None]
    former = [change.origins[index] for index in kept]
    tensors = changed.state_dict()  # the model's own memory
    for name, tensor in model.state_dict().items():
        if tensor.shape == shapes[name]:
            tensors[name].copy_(tensor)
            continue
        none = [] if len(tensor) == count else [count]
        rows = [*kept, *(len(change.after) for _ in none)]
        tensors[name][rows] = tensor[[*former, *none]]
    changed.name_or_path = changed.config.name_or_path = model.name_or_path
    return changed


def own_processor(
    name_or_path: str | None, config: PreTrainedConfig, size: int | Mapping[str, int]
) -> ImageProcessingMixin:
    """
    The image processor that a model of transformers is trained and saved with, which is one of its own kind.

    It is that of the checkpoint, or the usual one of such models, without cropping and without reducing labels.

    Args:
        name_or_path: where the model starts; None for a new one.
        size: as of a VFMSeg image processor: images are fitted into it with their aspect ratio. It is not for an EoMT,
            whose shortest edge is that of the squares that it sees in windows over the longer one.

    Raises:
        ValueError: such an image processor cannot keep the aspect ratio at this size, or gives channels in another
            order.
    """
    usual = _usual_processor(name_or_path, config)
    kind = type(usual).__name__
    if getattr(usual, "do_flip_channel_order", False):
        raise ValueError(f"its {kind} gives blue, green, red, and crops of training are red, green, blue")
    mean, std = (usual.image_mean, usual.image_std) if usual.do_normalize else (None, None)
    changes = {
        "do_resize": True,
        "size": size,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": mean or [0.0] * 3,
        "image_std": std or [1.0] * 3,
    }
    known = {"do_reduce_labels": False, "do_center_crop": False, "crop_size": None}
    if config.model_type in SQUARES:
        known |= {"size": {"shortest_edge": config.image_size, "longest_edge": None}}
        known |= {"do_pad": False, "do_split_image": True}
    changes |= {name: value for name, value in known.items() if hasattr(usual, name)}
    processor = type(usual).from_dict({**usual.to_dict(), **changes})
    if config.model_type not in SQUARES:
        _check_aspect_ratio(processor, size)
    return processor


def _usual_processor(name_or_path: str | None, config: PreTrainedConfig) -> ImageProcessingMixin:
    classes = IMAGE_PROCESSOR_MAPPING[type(config)]
    usual = classes.get("torchvision" if is_torchvision_available() else "pil", next(iter(classes.values())))
    if name_or_path is None or name_or_path.endswith(".json"):
        return usual()
    try:
        stored = AutoImageProcessor.from_pretrained(name_or_path)
    except OSError:  # an encoder without one
        return usual()
    if hasattr(stored, "post_process_semantic_segmentation"):
        return stored
    return usual(image_mean=stored.image_mean, image_std=stored.image_std)  # that of a classifier


def _check_aspect_ratio(processor: ImageProcessingMixin, size: int | Mapping[str, int]) -> None:
    kind = type(processor).__name__
    remedy = "models with such image processors cannot be trained here"
    try:
        images = processor(images=torch.zeros(3, *PROBE, dtype=torch.uint8), return_tensors="pt")["pixel_values"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        given = f"the shortest edge {size}" if isinstance(size, int) else "a shortest and a longest edge"
        remedy = "give --size SHORTEST LONGEST" if isinstance(size, int) else remedy
        raise ValueError(f"a {kind} cannot resize images to {given} ({error}); {remedy}") from error
    height, width = images.shape[-2:]
    if height >= width:
        if isinstance(size, int):
            raise ValueError(
                f"a {kind} cannot fit images by their shortest edge alone; give two edges, --size {size} {2 * size}"
            )
        raise ValueError(f"a {kind} distorts images ({PROBE[0]}x{PROBE[1]} become {height}x{width}); {remedy}")


def crop_processor(processor: ImageProcessingMixin) -> VFMSegImageProcessor:
    """What normalises crops of training as an image processor of transformers does images."""
    names = ("rescale_factor", "image_mean", "image_std")
    return VFMSegImageProcessor(do_resize=False, **{name: getattr(processor, name) for name in names})
