# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Foundation models by short names, as data: where their weights are, their licence, their configuration, and what
the authors' code sets for them.

The configuration is the foundation model's own, before anything is brought to patch 16. It names every field on which
the encoder's output depends, so that a model can be built without the Hub and weights that differ are noticed. What
belongs to a family (LoRA targets, mean, standard deviation) is in `encoders`.
"""

import copy
import difflib
from dataclasses import dataclass, field

from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .encoders import encoder_config, get_encoder_family


@dataclass(frozen=True)
class Preset:
    """
    A foundation model on the Hub.

    Args:
        hub_id: name of its repository.
        licence: of its weights.
        fields: its configuration, of models with a text or a decoder part the vision encoder's.
        published_encoder: the encoder's name in the published code, if that has a configuration of this very model.
        published_out_indices: 0-based numbers of the four blocks whose output the published code uses.
        published_fields: fields of the encoder's configuration as the published code has them, where they differ.
    """

    hub_id: str
    licence: str
    fields: dict[str, object]
    published_encoder: str | None = None
    published_out_indices: tuple[int, ...] | None = None
    published_fields: dict[str, object] = field(default_factory=dict)

    def native_config(self) -> PreTrainedConfig:
        """
        The foundation model's configuration as the Hub has it, made without it.

        Raises:
            ImportError: if the model is timm's and timm is not installed.
        """
        fields = copy.deepcopy(self.fields)
        return encoder_config(CONFIG_MAPPING[fields.pop("model_type")](**fields))

    def check(self, config: PreTrainedConfig, source: str) -> None:
        """
        Raises a `ValueError` that names the first field unless a foundation model has this preset's configuration.

        Args:
            config: the foundation model's own configuration.
            source: where it is, for the message.
        """
        for key, expected in self.fields.items():
            found = getattr(config, key, None)
            if _as_in_json(found) != _as_in_json(expected):
                raise ValueError(
                    f"the foundation model {source!r} has {key}={found!r}, but the preset's, {self.hub_id!r}, has "
                    f"{expected!r}; models without a preset load with from_backbone(...)"
                )


def _as_in_json(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _shape(width: int, depth: int, heads: int) -> dict[str, object]:
    return {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}


_SMALL, _BASE, _LARGE = _shape(384, 12, 6), _shape(768, 12, 12), _shape(1024, 24, 16)
_DINOV2_GIANT = {**_shape(1536, 40, 24), "use_swiglu_ffn": True}
_SO400M = {**_shape(1152, 27, 16), "intermediate_size": 4304}
_BASE_MLP, _LARGE_MLP = {**_BASE, "intermediate_size": 3072}, {**_LARGE, "intermediate_size": 4096}

_DINOV2 = {
    "model_type": "dinov2",
    "patch_size": 14,
    "image_size": 518,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "use_swiglu_ffn": False,
    "qkv_bias": True,
    "layerscale_value": 1.0,
    "layer_norm_eps": 1e-6,
}
_REGISTERS = {**_DINOV2, "model_type": "dinov2_with_registers", "num_register_tokens": 4}
_DINOV3 = {
    "model_type": "dinov3_vit",
    "patch_size": 16,
    "image_size": 224,
    "hidden_act": "gelu",
    "use_gated_mlp": False,
    "query_bias": True,
    "key_bias": False,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "layerscale_value": 1.0,
    "num_register_tokens": 4,
    "rope_theta": 100.0,
    "pos_embed_shift": None,
    "pos_embed_jitter": None,
    "pos_embed_rescale": 2.0,
    "layer_norm_eps": 1e-5,
}
_DINOV3_GATED = {**_DINOV3, "use_gated_mlp": True, "hidden_act": "silu"}
_DINOV3_7B = {**_DINOV3_GATED, **_shape(4096, 40, 32), "query_bias": False, "value_bias": False}
_CLIP = {"model_type": "clip_vision_model", "image_size": 224, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_SIGLIP = {"model_type": "siglip_vision_model", "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_SIGLIP_512 = {**_SIGLIP, "patch_size": 16, "image_size": 512}
_SAM = {
    "model_type": "sam_vision_model",
    "patch_size": 16,
    "image_size": 1024,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "use_abs_pos": True,
    "use_rel_pos": True,
    "window_size": 14,
    "output_channels": 256,
    "layer_norm_eps": 1e-6,
}
# Of timm's models the architecture says everything.
_TIMM = {"model_type": "timm_wrapper", "num_labels": 0}

_APACHE = "Apache-2.0"
_DINOV3_LICENCE = "DINOv3 License (gated)"
_OPENAI = "MIT (of the repository)"  # OpenAI's model cards name none

PRESETS: dict[str, Preset] = {
    "dinov2-small": Preset("facebook/dinov2-small", _APACHE, {**_DINOV2, **_SMALL}),
    "dinov2-base": Preset("facebook/dinov2-base", _APACHE, {**_DINOV2, **_BASE}),
    "dinov2-large": Preset(
        "facebook/dinov2-large",
        _APACHE,
        {**_DINOV2, **_LARGE},
        published_encoder="dinov2",
        published_out_indices=(7, 11, 15, 23),
    ),
    "dinov2-giant": Preset("facebook/dinov2-giant", _APACHE, {**_DINOV2, **_DINOV2_GIANT}),
    "dinov2-registers-small": Preset("facebook/dinov2-with-registers-small", _APACHE, {**_REGISTERS, **_SMALL}),
    "dinov2-registers-base": Preset("facebook/dinov2-with-registers-base", _APACHE, {**_REGISTERS, **_BASE}),
    "dinov2-registers-large": Preset("facebook/dinov2-with-registers-large", _APACHE, {**_REGISTERS, **_LARGE}),
    "dinov2-registers-giant": Preset("facebook/dinov2-with-registers-giant", _APACHE, {**_REGISTERS, **_DINOV2_GIANT}),
    "dinov3-small": Preset(
        "facebook/dinov3-vits16-pretrain-lvd1689m", _DINOV3_LICENCE, {**_DINOV3, **_SMALL, "intermediate_size": 1536}
    ),
    "dinov3-base": Preset("facebook/dinov3-vitb16-pretrain-lvd1689m", _DINOV3_LICENCE, {**_DINOV3, **_BASE_MLP}),
    "dinov3-large": Preset("facebook/dinov3-vitl16-pretrain-lvd1689m", _DINOV3_LICENCE, {**_DINOV3, **_LARGE_MLP}),
    "dinov3-huge": Preset(
        "facebook/dinov3-vith16plus-pretrain-lvd1689m",
        _DINOV3_LICENCE,
        {**_DINOV3_GATED, **_shape(1280, 32, 20), "intermediate_size": 5120},
    ),
    "dinov3-7b": Preset(
        "facebook/dinov3-vit7b16-pretrain-lvd1689m", _DINOV3_LICENCE, {**_DINOV3_7B, "intermediate_size": 8192}
    ),
    "clip-base": Preset("openai/clip-vit-base-patch16", _OPENAI, {**_CLIP, **_BASE_MLP, "patch_size": 16}),
    "clip-large": Preset(
        "openai/clip-vit-large-patch14",
        _OPENAI,
        {**_CLIP, **_LARGE_MLP, "patch_size": 14},
        published_encoder="clip",
        published_out_indices=(7, 11, 15, 23),
    ),
    "siglip-base": Preset("google/siglip-base-patch16-512", _APACHE, {**_SIGLIP_512, **_BASE_MLP}),
    "siglip-large": Preset(
        "google/siglip-large-patch16-384", _APACHE, {**_SIGLIP, **_LARGE_MLP, "patch_size": 16, "image_size": 384}
    ),
    "siglip-so400m": Preset(
        "google/siglip-so400m-patch14-384", _APACHE, {**_SIGLIP, **_SO400M, "patch_size": 14, "image_size": 384}
    ),
    "siglip2-base": Preset("google/siglip2-base-patch16-512", _APACHE, {**_SIGLIP_512, **_BASE_MLP}),
    "siglip2-large": Preset("google/siglip2-large-patch16-512", _APACHE, {**_SIGLIP_512, **_LARGE_MLP}),
    "siglip2-so400m": Preset("google/siglip2-so400m-patch16-512", _APACHE, {**_SIGLIP_512, **_SO400M}),
    "sam-base": Preset(
        "facebook/sam-vit-base", _APACHE, {**_SAM, **_BASE, "mlp_dim": 3072, "global_attn_indexes": [2, 5, 8, 11]}
    ),
    "sam-large": Preset(
        "facebook/sam-vit-large", _APACHE, {**_SAM, **_LARGE, "mlp_dim": 4096, "global_attn_indexes": [5, 11, 17, 23]}
    ),
    "sam-huge": Preset(
        "facebook/sam-vit-huge",
        _APACHE,
        {**_SAM, **_shape(1280, 32, 16), "mlp_dim": 5120, "global_attn_indexes": [7, 15, 23, 31]},
        published_encoder="sam",
        published_out_indices=(7, 15, 23, 31),
    ),
    "eva02-base": Preset(
        "timm/eva02_base_patch14_224.mim_in22k", "MIT", {**_TIMM, "architecture": "eva02_base_patch14_224"}
    ),
    "eva02-large": Preset(
        "timm/eva02_large_patch14_224.mim_m38m",
        "MIT",
        {**_TIMM, "architecture": "eva02_large_patch14_224"},
        published_encoder="eva02",
        published_out_indices=(7, 11, 15, 23),
        # The published code asks for 1e-6 but does not hand it on to its layer norms.
        published_fields={"layer_norm_eps": 1e-5},
    ),
    "eva02-clip-base": Preset(
        "timm/eva02_base_patch16_clip_224.merged2b", "MIT", {**_TIMM, "architecture": "eva02_base_patch16_clip_224"}
    ),
    "eva02-clip-large": Preset(
        "timm/eva02_large_patch14_clip_224.merged2b", "MIT", {**_TIMM, "architecture": "eva02_large_patch14_clip_224"}
    ),
}


# What the authors' code does where this library's defaults differ (see the fields' documentation), for every encoder
# and for one of them.
PUBLISHED_OPTIONS: dict[str, object] = {
    "coarse_size": [512, 1024],
    "loss_normalization": "all",
    "detail_crop_includes_end": False,
    "certainty_scope": "batch",
    "keep_at_threshold": True,
}
PUBLISHED_ENCODER_OPTIONS: dict[str, dict[str, object]] = {
    "dinov2": {"position_interpolation": "scale_offset"},
    "clip": {"position_interpolation": "bilinear"},
    "sam": {"coarse_mode": "sliding"},
    "eva02": {"coarse_mode": "sliding"},
}


def get_preset(name: str) -> Preset:
    """
    The table's entry of a name.

    Raises:
        ValueError: if there is none; the message has the nearest names and all of them.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}{nearest_presets(name)}")
    return PRESETS[name]


def nearest_presets(name: str) -> str:
    """The end of a message on a name that no entry has: those that are like it, and all."""
    near = difflib.get_close_matches(name, PRESETS, n=3)
    hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
    return f"{hint}; the presets are {', '.join(PRESETS)}"


def published_options(encoder: str) -> dict[str, object]:
    """
    Fields of [`VFMSegConfig`] as the authors' code has them, where they differ from the defaults.

    Args:
        encoder: a published encoder (`"dinov2"`, `"clip"`, `"sam"`, `"eva02"`) or a `model_type`. Of others it gives
            what the published code does whatever the encoder is.
    """
    return {**PUBLISHED_OPTIONS, **PUBLISHED_ENCODER_OPTIONS.get(encoder.removesuffix("_vision_model"), {})}


def preset_fields(
    name: str, recipe: str, overrides: dict[str, object], patch_size: int, native: PreTrainedConfig | None = None
) -> dict[str, object]:
    """
    Fields of [`VFMSegConfig`] that a preset sets, and `overrides` over them.

    Args:
        name, recipe: as in [`VFMSegConfig.from_preset`].
        overrides: fields of `VFMSegConfig`.
        patch_size: of the model, where `overrides` has none.
        native: the foundation model's own configuration. Default: the preset's.

    Raises:
        ValueError: as [`VFMSegConfig.from_preset`].
    """
    preset, fields = get_preset(name), {}
    native = preset.native_config() if native is None else copy.deepcopy(native)
    if recipe == "published-code":
        if preset.published_encoder is None:
            published = [other for other, entry in PRESETS.items() if entry.published_encoder]
            raise ValueError(
                f"the published code has no configuration of {name!r}, only of {', '.join(published)}; use "
                "recipe='paper', which fits every preset"
            )
        fields.update(published_options(preset.published_encoder), out_indices=list(preset.published_out_indices))
        for key, value in preset.published_fields.items():
            setattr(native, key, value)
    elif recipe != "paper":
        raise ValueError(f"recipe must be 'paper' or 'published-code', got {recipe!r}")
    if "backbone_config" not in overrides:
        family = get_encoder_family(native)
        fields["backbone_config"] = family.adapted_config(native, overrides.get("patch_size", patch_size))
    return {**fields, **overrides}
