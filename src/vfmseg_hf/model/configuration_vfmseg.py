# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""VFMSeg model configuration."""

import math
import os
from collections.abc import Iterable, Mapping
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig
from transformers.utils import logging

from .encoders import ENCODER_FAMILIES, encoder_config, get_encoder_family
from .labels import CITYSCAPES_ID2LABEL, IGNORE_INDEX
from .presets import get_preset, preset_fields


logger = logging.get_logger(__name__)

NUM_FEATURE_MAPS = 4  # of the encoder, which both heads see

# What transformers keeps in a configuration beside its fields: arguments of its base class, and keys of its files.
BESIDE_FIELDS = {
    "_commit_hash",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "experts_implementation",
    "use_cache",  # transformers' Trainer sets it in every configuration
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "quantization_config",
    "torch_dtype",
}


def unknown_fields(names: Iterable[str], beside: Iterable[str] = BESIDE_FIELDS) -> list[str]:
    """The names that are no fields of [`VFMSegConfig`], nor among those `beside` them."""
    return sorted(set(names) - set(VFMSegConfig.__dataclass_fields__) - set(beside))


def check_field_names(names: Iterable[str], beside: Iterable[str] = ("num_labels",)) -> None:
    """Raise a `ValueError` that lists the names that are neither fields of [`VFMSegConfig`] nor in `beside`."""
    if unknown := unknown_fields(names, beside):
        raise ValueError(f"{unknown} are no fields of VFMSegConfig; it has {sorted(VFMSegConfig.__annotations__)}")


def quarter_depths(num_layers: int) -> list[int]:
    """0-based numbers of the blocks that end each quarter of an encoder, e.g. `[5, 11, 17, 23]` of 24 (the paper's)."""
    return [round(num_layers * quarter / 4) - 1 for quarter in range(1, NUM_FEATURE_MAPS + 1)]


def nearest_multiple(value: int | float, base: int) -> int:
    """The positive multiple of `base` that is nearest to `value`."""
    return max(base, round(value / base) * base)


@strict
class VFMSegConfig(PreTrainedConfig):
    r"""
    Configuration of [`VFMSegModel`] and [`VFMSegForSemanticSegmentation`].

    The defaults are those of the paper "Unleashing the Power of Visual Foundation Models for Generalizable Semantic
    Segmentation" with a DINOv2 ViT-L/16 encoder and the 19 Cityscapes classes. Greek letters are the paper's.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of the vision foundation model; a dict needs a `model_type`. Of CLIP, SigLIP and SAM also the
            whole model's configuration, whose vision part is taken. Its patch size must be
            `patch_size`; [`VFMSegForSemanticSegmentation.from_backbone`] takes models of other patch sizes. Of timm
            models (`"timm_wrapper"`) patch and image size are in `model_args`, and a field `layer_norm_eps` beside
            transformers' own holds for all layer norms (published EVA02 models: 1e-5).
        backbone_name_or_path (`str`, *optional*):
            Where the foundation model's weights came from: the base that an adapter-only checkpoint is loaded on.
        backbone_fingerprint (`str`, *optional*):
            Hash of those weights, written by an adapter-only save and checked when the adapter is loaded.
        patch_size (`int`, defaults to 16):
            Pixels per patch edge.
        out_indices (`list[int]`, *optional*):
            0-based numbers of the four blocks whose output the heads see. Default: the end of each quarter.
            (The published code uses [7, 11, 15, 23] of 24 and [7, 15, 23, 31] for SAM-H.)
        refine_hidden_size (`int`, defaults to 256):
            Width of the refine head, a multiple of 128.
        refine_num_layers (`int`, defaults to 3), refine_num_attention_heads (`int`, defaults to 8),
        refine_head_dim (`int`, defaults to 64):
            Transformer blocks of the refine head, attention heads per block, channels per head.
        refine_dropout (`float`, defaults to 0.1), head_dropout (`float`, defaults to 0.1):
            Channel dropout before the classifier of the refine head and of the coarse head.
        feature_mask_ratio (`float`, defaults to 0.2):
            Share *p* of image features that the mask token replaces in training ("Feature Masking").
        detail_loss_weight (`float`, defaults to 1.0):
            Weight *lambda* of the detail loss. With 0 the refine head does not train, and inference uses it only where
            `refine="all"` or a number of windows asks for it.
        coarse_size (`int` or `list[int]`, defaults to 512):
            Size in pixels of the coarse pass. An int is the shortest edge: the other follows the aspect ratio, up to
            four times the shorter, each rounded to a multiple of `patch_size`. A pair is (height, width).
        window_size (`int`, defaults to 512), window_stride (`int`, defaults to 320):
            Edge and step, in pixels, of the windows that are refined.
        confidence_threshold (`float`, defaults to 0.968):
            *theta*: a pixel is certain if its best class has a higher coarse probability than this.
        certainty_threshold (`float`, defaults to 0.8):
            *C_tau*: a window is kept as it is if more than this share of its pixels is certain.
        window_batch_size (`int`, *optional*):
            Windows refined at once in inference. Default: as the free memory has it, within what makes it faster.
        max_windows (`int`, *optional*), max_window_share (`float`, *optional*):
            At most so many windows of an image are refined, or such a share of them, 0..1, the least certain first: a
            bound on the time that an image takes. Not both. Default: no limit. (Saved by earlier versions in one field
            `refine_budget`, which is read.)
        semantic_loss_ignore_index (`int`, defaults to 255):
            Label id that no loss and no score counts: 255, as in label maps of all datasets. Nothing else is taken.
        coarse_mode (`"whole"` or `"sliding"`, defaults to `"whole"`):
            Whether the coarse pass sees the resized image in one piece or in windows.
        loss_normalization (`"valid"` or `"all"`, defaults to `"valid"`):
            Whether a loss is the mean over the labelled pixels or over all of them. (Published code: "all".)
        class_weights (`list[float]`, *optional*):
            Weight of every class in the training losses, as `weight` of torch's `cross_entropy`: with
            `loss_normalization="valid"` they are divided by the weights of the labelled pixels. Losses in eval mode
            have none. New classes drop the saved weights.
        label_smoothing_factor (`float`, defaults to 0.0):
            Share of every label, 0..1, that the training losses spread over all classes, as `label_smoothing` there.
        detail_crop_size (`int`, *optional*):
            Edge of the training crop of the refine head. Default: half of the input.
        detail_crop_stride (`int`, defaults to 32):
            Grid, in pixels, of that crop's random position.
        detail_crop_includes_end (`bool`, defaults to `True`):
            Whether the last grid position can be drawn. (Published code: never.)
        certainty_scope (`"image"` or `"batch"`, defaults to `"image"`):
            Whether each image of a batch decides for itself which windows to refine. (Published code: "batch".)
        keep_at_threshold (`bool`, defaults to `False`):
            What happens to a window whose certainty equals C_tau: refined, as in the paper's equation, or kept as in
            the published code.
        position_interpolation (`"size"`, `"scale_offset"` or `"bilinear"`, defaults to `"size"`):
            How the position table is resampled to an image's grid. `"size"`: to its exact size, as transformers' class
            does (bicubically, but for SigLIP2's NaFlex form). `"scale_offset"`, DINOv2 only: with the factor
            (n + 0.1) / grid of its original code, as published. `"bilinear"`, CLIP only: bilinearly, also when
            [`VFMSegForSemanticSegmentation.from_backbone`] loads the table, as published.

    Raises:
        ValueError: on values outside their range, naming the nearest valid one where there is one, and on names that
            are no fields. Of a file such names are kept, as a later version may have written them, and said.

    Example:

    ```python
    >>> from vfmseg_hf import VFMSegConfig, VFMSegForSemanticSegmentation

    >>> config = VFMSegConfig(num_labels=3)
    >>> model = VFMSegForSemanticSegmentation(config)  # random weights
    ```
    """

    model_type = "vfmseg"
    sub_configs_defaults = {
        "backbone_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="dinov2",
            init_kwargs={
                "hidden_size": 1024,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "patch_size": 16,
                "image_size": 512,
            },
        )
    }

    backbone_config: dict | PreTrainedConfig | None = None
    backbone_name_or_path: str | None = None
    backbone_fingerprint: str | None = None
    patch_size: int = 16
    out_indices: list[int] | tuple[int, ...] | None = None
    refine_hidden_size: int = 256
    refine_num_layers: int = 3
    refine_num_attention_heads: int = 8
    refine_head_dim: int = 64
    refine_dropout: float | int = 0.1
    head_dropout: float | int = 0.1
    feature_mask_ratio: float | int = 0.2
    detail_loss_weight: float | int = 1.0
    coarse_size: int | list[int] | tuple[int, int] = 512
    window_size: int = 512
    window_stride: int = 320
    confidence_threshold: float | int = 0.968
    certainty_threshold: float | int = 0.8
    window_batch_size: int | None = None
    max_windows: int | None = None
    max_window_share: float | int | None = None
    semantic_loss_ignore_index: int = 255
    coarse_mode: Literal["whole", "sliding"] = "whole"
    loss_normalization: Literal["valid", "all"] = "valid"
    class_weights: list[float | int] | tuple[float | int, ...] | None = None
    label_smoothing_factor: float | int = 0.0
    detail_crop_size: int | None = None
    detail_crop_stride: int = 32
    detail_crop_includes_end: bool = True
    certainty_scope: Literal["image", "batch"] = "image"
    keep_at_threshold: bool = False
    position_interpolation: Literal["size", "scale_offset", "bilinear"] = "size"

    # Trainer gathers what is not named here over the whole evaluation set.
    keys_to_ignore_at_inference = [
        "coarse_logits",
        "content_loss",
        "detail_loss",
        "windows",
        "certainty",
        "refined",
        "hidden_states",
        "attentions",
    ]

    def __post_init__(self, **kwargs):
        check_field_names(kwargs, BESIDE_FIELDS)
        if self.id2label is None and self.label2id is not None:
            self.id2label = {int(index): name for name, index in self.label2id.items()}
        num_labels = kwargs.get("num_labels")
        if num_labels is not None and (not isinstance(num_labels, int) or not 1 <= num_labels <= IGNORE_INDEX):
            raise ValueError(f"num_labels must be a whole number within 1..{IGNORE_INDEX}, got {num_labels!r}")
        if self.id2label is not None and num_labels not in (None, len(self.id2label)):
            raise ValueError(
                f"num_labels={num_labels} does not agree with the {len(self.id2label)} classes of id2label"
            )
        if isinstance(self.backbone_config, dict):
            check_backbone_type(self.backbone_config)
            family = ENCODER_FAMILIES.get(self.backbone_config["model_type"])
            self.backbone_config = {**self.backbone_config, **(family.classifier_fields if family else {})}
        if self.id2label is None and kwargs.get("num_labels", len(CITYSCAPES_ID2LABEL)) == len(CITYSCAPES_ID2LABEL):
            self.id2label = dict(CITYSCAPES_ID2LABEL)
        super().__post_init__(**kwargs)
        self.backbone_config = encoder_config(self.backbone_config)
        label2id = self.label2id or {name: index for index, name in self.id2label.items()}
        self.label2id = {name: int(index) for name, index in label2id.items()}
        if self.out_indices is None:
            self.out_indices = quarter_depths(get_encoder_family(self.backbone_config).depth(self.backbone_config))
        self.out_indices = list(self.out_indices)
        if isinstance(self.coarse_size, tuple):
            self.coarse_size = list(self.coarse_size)
        if isinstance(self.class_weights, tuple):
            self.class_weights = list(self.class_weights)

    @PreTrainedConfig._attn_implementation.setter
    def _attn_implementation(self, value):
        check_attention(value)
        PreTrainedConfig._attn_implementation.fset(self, value)

    def to_diff_dict(self) -> dict[str, object]:
        """As in transformers, but always with the classes: it leaves out two unnamed ones, its own default."""
        return {**super().to_diff_dict(), "id2label": self.id2label, "label2id": self.label2id}

    @classmethod
    def from_preset(
        cls, name: str, recipe: Literal["paper", "published-code"] = "paper", **overrides
    ) -> "VFMSegConfig":
        """
        The configuration for a well-known foundation model, without the Hub; with its weights too:
        [`VFMSegForSemanticSegmentation.from_preset`].

        LoRA's targets and the images' mean and standard deviation follow from it: `lora_config(config)` and
        `image_constants(config.backbone_config)`.

        Args:
            name: e.g. `"dinov2-large"`, `"clip-large"`, `"sam-huge"`, `"eva02-large"` (the paper's) or
                `"dinov3-large"`; `PRESETS` in `presets` has all.
            recipe: `"paper"`: the ends of the encoder's quarters and a coarse pass of 512 pixels, which are the
                defaults. `"published-code"`: what the authors' code does instead ([`published_options`], its own four
                blocks, and 1e-5 in EVA02's layer norms), for the paper's four encoders. It does not cover what the
                published code changes in the weights: CLIP's class vector, which it adds twice.
            overrides: fields of [`VFMSegConfig`].

        Raises:
            ValueError: if there is no such preset (the message names those that there are), recipe or field, or the
                published code does not have the encoder.
            ImportError: for EVA02 without timm; the message names the extra.

        Example:

        ```python
        >>> config = VFMSegConfig.from_preset("dinov3-large", num_labels=3)
        ```
        """
        check_field_names(overrides)
        overrides.setdefault("backbone_name_or_path", get_preset(name).hub_id)
        return cls(**preset_fields(name, recipe, overrides, cls.patch_size))

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs):
        """As in transformers, but a place without `config.json` raises an `OSError` and gives no default model."""
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if not config_dict:
            raise OSError(
                f"there is no config.json in {str(pretrained_model_name_or_path)!r}; pass a directory that "
                "save_pretrained wrote, or a Hub id"
            )
        return config_dict, kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, object], **kwargs):
        """
        As in transformers, with these differences: another model's configuration is refused, new classes replace the
        saved ones as a whole, overriding values are validated, and overrides that are no fields are refused, unless
        they are to be returned or an Auto class passes on what is meant for others.
        """
        from_auto = "name_or_path" in kwargs  # AutoConfig adds it; a pipeline's arguments for the model come with it
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"this is the configuration of a {model_type!r} model, not of {cls.model_type!r}. To build on a "
                "foundation model use VFMSegForSemanticSegmentation.from_backbone(...); other models load with their "
                "own class or with transformers' Auto classes."
            )
        config_dict = dict(config_dict)
        num_labels, id2label = kwargs.pop("num_labels", None), kwargs.pop("id2label", None)
        label2id = kwargs.pop("label2id", None)
        if id2label is not None or label2id is not None:
            names = list(label2id if id2label is None else id2label.values())
            if names != list((config_dict.get("id2label") or CITYSCAPES_ID2LABEL).values()):
                config_dict["class_weights"] = None  # they are those of the saved classes
            config_dict.update(id2label=id2label, label2id=label2id)
            if num_labels is not None:
                config_dict["num_labels"] = num_labels
        elif num_labels is not None and num_labels != len(config_dict.get("id2label") or CITYSCAPES_ID2LABEL):
            config_dict.update(id2label=None, label2id=None, num_labels=num_labels, class_weights=None)
        replace_window_limit(config_dict, kwargs)
        foreign = {key: config_dict.pop(key) for key in unknown_fields(config_dict)}
        return_unused = kwargs.pop("return_unused_kwargs", False)
        config, unused = super().from_dict(config_dict, return_unused_kwargs=True, **kwargs)
        if not return_unused and not from_auto:
            check_field_names(unused, BESIDE_FIELDS)
        config.validate()
        if foreign:
            logger.warning_once(f"The configuration has settings that this version does not know: {sorted(foreign)}")
        for key, value in foreign.items():
            setattr(config, key, value)
        return (config, unused) if return_unused else config

    def validate_backbone(self) -> None:
        family = get_encoder_family(self.backbone_config)
        width, depth = family.hidden_size(self.backbone_config), family.depth(self.backbone_config)
        if depth < NUM_FEATURE_MAPS:
            raise ValueError(
                f"the encoder has {depth} blocks, but the heads see the output of {NUM_FEATURE_MAPS}: use one with at "
                f"least {NUM_FEATURE_MAPS} blocks"
            )
        if width % 32:
            raise ValueError(
                f"the encoder's width must be a multiple of 32 for the heads' group norms, got {width}; the nearest "
                f"valid width is {nearest_multiple(width, family.width_step(self.backbone_config))}"
            )
        _check(self, "patch_size", self.patch_size >= 1, "at least 1")
        patch = family.patch_size(self.backbone_config)
        if patch != self.patch_size:
            raise ValueError(
                f"backbone_config has patch size {patch}, but VFMSegConfig.patch_size is {self.patch_size}. Use "
                "VFMSegForSemanticSegmentation.from_backbone(...) to resample pretrained weights, or set "
                f"backbone_config.patch_size={self.patch_size} (of timm models in model_args) for random ones."
            )
        if self.position_interpolation not in family.position_interpolations:
            raise ValueError(
                f"position_interpolation={self.position_interpolation!r} has no meaning for a "
                f"{self.backbone_config.model_type!r} encoder; it takes {list(family.position_interpolations)}"
            )
        indices = self.out_indices
        increasing = list(indices) == sorted(set(indices))
        if len(indices) != NUM_FEATURE_MAPS or not increasing or indices[0] < 0 or indices[-1] >= depth:
            raise ValueError(
                f"out_indices must be four increasing 0-based block numbers below {depth} (the encoder's depth), "
                f"got {list(indices)}; the default would be {quarter_depths(depth)}"
            )

    def validate_heads(self) -> None:
        if self.refine_hidden_size < 128 or self.refine_hidden_size % 128:
            raise ValueError(
                f"refine_hidden_size must be a multiple of 128, got {self.refine_hidden_size}; the nearest valid "
                f"value is {nearest_multiple(self.refine_hidden_size, 128)}"
            )
        for name in ("refine_num_layers", "refine_num_attention_heads", "refine_head_dim"):
            _check(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("refine_dropout", "head_dropout", "feature_mask_ratio"):
            _check(self, name, 0 <= getattr(self, name) <= 1, "within [0, 1]")
        _check(self, "detail_loss_weight", 0 <= self.detail_loss_weight < math.inf, "a finite number, at least 0")

    def validate_loss(self) -> None:
        _check(self, "label_smoothing_factor", 0 <= self.label_smoothing_factor <= 1, "within [0, 1]")
        weights = self.class_weights
        if weights is not None and not (
            len(weights) == len(self.id2label) and all(0 <= weight < math.inf for weight in weights) and any(weights)
        ):
            raise ValueError(
                f"class_weights must be one finite number from 0 up for each of the {len(self.id2label)} classes, and "
                f"not all 0, got {len(weights)}: {list(weights)}"
            )

    def validate_labels(self) -> None:
        if sorted(self.id2label) != list(range(len(self.id2label))) or not self.id2label:
            raise ValueError(
                f"id2label must number its classes 0, 1, 2, ... without gaps, got the ids {sorted(self.id2label)}"
            )
        expected = {name: index for index, name in self.id2label.items()}
        if len(expected) < len(self.id2label):
            names = list(self.id2label.values())
            raise ValueError(f"id2label has a name twice: {sorted({name for name in names if names.count(name) > 1})}")
        if self.label2id != expected:
            raise ValueError(
                f"label2id does not agree with id2label: {dict(list(self.label2id.items())[:3])}... and "
                f"{dict(list(self.id2label.items())[:3])}...; pass id2label alone"
            )
        if len(self.id2label) > IGNORE_INDEX:
            raise ValueError(f"id2label has {len(self.id2label)} classes; ids are 8-bit, so that {IGNORE_INDEX} fit")
        if self.semantic_loss_ignore_index != IGNORE_INDEX:
            raise ValueError(
                f"semantic_loss_ignore_index must be {IGNORE_INDEX}, as datasets, augmentation and class statistics "
                f"have it, got {self.semantic_loss_ignore_index}; give the ignored pixels of your label maps this id"
            )

    def validate_inference(self) -> None:
        for name in ("confidence_threshold", "certainty_threshold"):
            _check(self, name, 0 <= getattr(self, name) <= 1, "within [0, 1]")
        for name in ("window_size", "window_stride", "detail_crop_stride"):
            _check(self, name, getattr(self, name) >= 1, "at least 1")
        if self.window_stride > self.window_size:
            raise ValueError(
                f"window_stride={self.window_stride} is larger than window_size={self.window_size}: pixels between "
                "two windows would never be refined; choose a stride of at most the window size"
            )
        if self.window_batch_size is not None:
            _check(self, "window_batch_size", self.window_batch_size >= 1, "at least 1, or None")
        check_window_limit(self.max_windows, self.max_window_share)
        sizes = [self.coarse_size] if isinstance(self.coarse_size, int) else list(self.coarse_size)
        valid = [nearest_multiple(size, self.patch_size) for size in sizes or [VFMSegConfig.coarse_size]][:2]
        if (len(sizes) != 2 and not isinstance(self.coarse_size, int)) or sizes != valid:
            raise ValueError(
                f"coarse_size must be one edge or (height, width), in multiples of patch_size={self.patch_size}, got "
                f"{self.coarse_size}; the nearest valid value is {valid[0] if len(valid) == 1 else valid}"
            )
        if self.detail_crop_size is not None and (self.detail_crop_size < 1 or self.detail_crop_size % self.patch_size):
            raise ValueError(
                f"detail_crop_size must be a multiple of patch_size={self.patch_size}, got {self.detail_crop_size}; "
                f"the nearest valid value is {nearest_multiple(self.detail_crop_size, self.patch_size)}"
            )
        if self.detail_crop_stride % 2:
            raise ValueError(
                f"detail_crop_stride must be even, because the crop's context is cut at half resolution, got "
                f"{self.detail_crop_stride}; the nearest valid value is {nearest_multiple(self.detail_crop_stride, 2)}"
            )


def _check(config: VFMSegConfig, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {expected}, got {getattr(config, name)}")


def check_attention(attn_implementation: str | dict | None) -> None:
    """
    Raise a `ValueError` if this is no `attn_implementation` of a VFMSeg model: of parts that it does not have, or one
    for generating text. (transformers checks the names.)
    """
    parts = attn_implementation if isinstance(attn_implementation, dict) else {"": attn_implementation}
    if unknown := sorted(set(parts) - {"", "backbone_config"}):
        raise ValueError(
            f"attn_implementation names the parts {unknown}; this model has '' (the heads) and 'backbone_config' (the "
            "encoder)"
        )
    if "paged|eager" in parts.values():
        raise ValueError(
            "attn_implementation='paged|eager' is for generating text; use 'sdpa', 'eager', 'flex_attention' or "
            "'flash_attention_2'"
        )


def check_window_limit(max_windows: int | None, max_window_share: float | None) -> None:
    """Raise a `ValueError` unless this is a number of windows, or a share of them, or neither."""
    if max_windows is not None and max_window_share is not None:
        raise ValueError(
            f"max_windows={max_windows!r} and max_window_share={max_window_share!r} are two limits on one number; "
            "give one of them, and None for the other"
        )
    if max_windows is not None and (type(max_windows) is not int or max_windows < 0):
        raise ValueError(
            f"max_windows must be a whole number of windows, at least 0, or None, got {max_windows!r}; a share of them "
            "is max_window_share"
        )
    if max_window_share is not None and (type(max_window_share) not in (int, float) or not 0 <= max_window_share <= 1):
        raise ValueError(
            f"max_window_share must be a share of the windows, within [0, 1], or None, got {max_window_share!r}; a "
            "number of them is max_windows"
        )


def replace_window_limit(config_dict: dict[str, object], overrides: Mapping[str, object]) -> None:
    """Read the limit of earlier versions in a saved configuration; an override of one kind replaces the other."""
    budget = config_dict.pop("refine_budget", None)
    if budget is not None:
        config_dict["max_window_share" if isinstance(budget, float) else "max_windows"] = budget
    for name, other in (("max_windows", "max_window_share"), ("max_window_share", "max_windows")):
        if overrides.get(name) is not None:
            config_dict[other] = None


def check_backbone_type(backbone_config: dict) -> None:
    """Raise a `ValueError` that names the choices unless `backbone_config` has a known `model_type`."""
    model_type = backbone_config.get("model_type")
    if model_type is None:
        raise ValueError(
            f"backbone_config has no 'model_type', so its architecture is unknown; its keys are "
            f"{sorted(backbone_config)}. Add e.g. 'model_type': 'dinov2'."
        )
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"backbone_config has the unknown model_type {model_type!r}; use e.g. 'dinov2'.")


__all__ = ["VFMSegConfig"]
