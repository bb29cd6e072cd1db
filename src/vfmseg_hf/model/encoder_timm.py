# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""timm's vision transformers, EVA02 first of all, through transformers' timm wrapper."""

import copy
import json
import math
from functools import lru_cache
from types import ModuleType

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from .encoder_base import EncoderFamily


class TimmFamily(EncoderFamily):
    """
    timm's `VisionTransformer`, and those of its `Eva` models whose attention has one layer for q, k and v.

    A `TimmWrapperConfig` names an architecture and little else, so what it does not say is read from the architecture
    itself. `layer_norm_eps` may be set on the configuration: published EVA02 models were trained with 1e-5, timm's
    architecture has 1e-6. timm's own code fits the positions to an image: the table bicubically with antialiasing,
    EVA02's rotary ones by index / patches of the axis * 16, as published.
    """

    lora_targets = ("qkv",)
    patch_kernel = "timm_model.patch_embed.proj.weight"
    position_table = "timm_model.pos_embed"
    gives_attentions = False
    fixed_attentions = ("eager", "sdpa")
    # Otherwise transformers fills in the names of ImageNet's thousand classes, or fails without a number of classes.
    classifier_fields = {"num_classes": 0, "label_names": []}

    def member(self, config):
        return SPLIT_TIMM_FAMILY if has_split_attention(architecture_of(config)) else self

    def hidden_size(self, config):
        return architecture_of(config).embed_dim

    def width_step(self, config):
        return math.lcm(32, 4 * architecture_of(config).blocks[0].attn.num_heads)  # some have rotary positions

    def depth(self, config):
        return len(architecture_of(config).blocks)

    def num_prefix_tokens(self, config):
        return architecture_of(config).num_prefix_tokens

    def num_prefix_positions(self, config):
        return 0 if architecture_of(config).no_embed_class else self.num_prefix_tokens(config)

    def patch_size(self, config):
        size = architecture_of(config).patch_embed.patch_size
        if size[0] != size[1]:
            raise ValueError(f"the encoder must have square patches, {config.architecture} has {tuple(size)}")
        return size[0]

    def grid(self, config):
        return architecture_of(config).patch_embed.grid_size[0]

    def traits(self, config):
        model = architecture_of(config)
        sizes = {"embed_dim": model.embed_dim, "depth": len(model.blocks), "num_heads": model.blocks[0].attn.num_heads}
        return {"model_type": config.model_type, **sizes}

    def image_mean(self, config):
        # Published VFMSeg models see ImageNet's constants, whatever EVA02 itself was trained with.
        return super().image_mean(config) if is_eva02(config) else list(pretrained_setting(config, "mean"))

    def image_std(self, config):
        return super().image_std(config) if is_eva02(config) else list(pretrained_setting(config, "std"))

    def check(self, config):
        if bypassed := bypassed_layers(architecture_of(config), self.lora_targets):
            raise ValueError(
                f"timm's {config.architecture} cannot be adapted: it reads the weight of {bypassed[0]} directly, so "
                "that LoRA on it has no effect. Of EVA02, the base and large models have separate layers for q, k and "
                "v, which work (e.g. eva02_large_patch14_448)"
            )

    def encoder_config(self, config):
        if not config.num_labels:
            return config
        config = copy.deepcopy(config)
        config.num_labels = 0  # the names of a classifier's classes, often a thousand, go with it
        return config

    def adapted_config(self, native, patch_size):
        settings = {"pretrained_cfg": {key: list(pretrained_setting(native, key)) for key in ("mean", "std")}}
        if (eps := getattr(native, "layer_norm_eps", None)) is not None:
            settings["layer_norm_eps"] = eps
        size = {"img_size": self.native_grid * patch_size, "patch_size": patch_size, "dynamic_img_size": True}
        return type(native)(
            architecture=native.architecture, model_args={**(native.model_args or {}), **size}, num_labels=0, **settings
        )

    def build(self, config):
        return timm_encoder_class()._from_config(config, dtype=torch.get_default_dtype())

    def load(self, name_or_path, config, **kwargs):
        return timm_encoder_class().from_pretrained(
            name_or_path, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )

    def blocks(self, encoder):
        return encoder.timm_model.blocks

    def embed(self, encoder, pixel_values, position_interpolation):
        model = encoder.timm_model
        tokens = model._pos_embed(model.patch_embed(pixel_values.to(model.patch_embed.proj.weight.dtype)))
        if isinstance(tokens, tuple):
            tokens, rotary = tokens
            return model.norm_pre(tokens), {"rope": rotary}
        return model.norm_pre(tokens), {}

    def to_feature_map(self, hidden_states, config, rows, columns):
        patches = hidden_states[:, hidden_states.shape[1] - rows * columns :]
        return patches.transpose(1, 2).reshape(patches.shape[0], -1, rows, columns)


class SplitTimmFamily(TimmFamily):
    """timm's `Eva` models with separate layers for q, k and v: EVA02 base and large."""

    lora_targets = ("q_proj", "k_proj", "v_proj", "attn.proj")


SPLIT_TIMM_FAMILY = SplitTimmFamily()


def import_timm() -> ModuleType:
    """
    timm, which is an optional dependency.

    Raises:
        ImportError: if it, or the torchvision that it needs, is missing; the message names the extra.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"encoders of timm need the extra 'timm': pip install 'vfmseg-hf[timm]' ({error})") from error
    return timm


@lru_cache(maxsize=1)
def timm_encoder_class() -> type[PreTrainedModel]:
    """The class of the encoder module, made when it is first needed: its base imports timm."""
    import_timm()
    from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperPreTrainedModel

    class TimmEncoder(TimmWrapperPreTrainedModel):
        """
        A timm vision transformer without what comes after its blocks.

        It differs from transformers' `TimmWrapperModel` in that images may have any size, no block is ever dropped at
        random, `config.layer_norm_eps` holds for all layer norms, and the attention is the one that
        `config._attn_implementation` asks for.
        """

        _no_split_modules = ["TimmEncoder"]
        # Norms after the last block, pooling, classifiers, and what masked image modelling has left behind.
        _keys_to_ignore_on_load_unexpected = [
            r"^(timm_model\.)?(norm|fc_norm|attn_pool|head|head_dist|lm_head)\.",
            r"^(timm_model\.)?mask_token$",
        ]

        def __init__(self, config):
            super().__init__(config)
            arguments = {**(config.model_args or {}), "dynamic_img_size": True, "drop_path_rate": 0.0}
            self.timm_model = create_timm_model(config.architecture, arguments)
            for name in ("norm", "fc_norm", "attn_pool"):
                setattr(self.timm_model, name, nn.Identity())
            eps = getattr(config, "layer_norm_eps", None)
            for module in self.timm_model.modules():
                if eps is not None and isinstance(module, nn.LayerNorm):
                    module.eps = eps
                if hasattr(module, "fused_attn"):
                    module.fused_attn = config._attn_implementation != "eager"
            self.post_init()

        def post_init(self):
            # The wrapper's own would say that timm takes no notice of attn_implementation.
            super(TimmWrapperPreTrainedModel, self).post_init()

        def get_input_embeddings(self) -> nn.Module:
            return self.timm_model.patch_embed

    TimmEncoder.__qualname__ = TimmEncoder.__name__
    return TimmEncoder


def __getattr__(name: str) -> object:
    """The class under its name, for models that are pickled."""
    if name == "TimmEncoder":
        return timm_encoder_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def create_timm_model(architecture: str, model_args: dict[str, object]) -> nn.Module:
    """
    A timm model without a classifier.

    Raises:
        ValueError: if timm has no such architecture, or it does not take these arguments.
    """
    timm = import_timm()
    if not timm.is_model(architecture):
        raise ValueError(f"timm {timm.__version__} has no architecture {architecture!r}; timm.list_models() names them")
    try:
        # timm writes `num_classes` among the arguments of the models that it saves.
        return timm.create_model(architecture, pretrained=False, **{**model_args, "num_classes": 0})
    except (TypeError, AssertionError, RuntimeError) as error:
        raise ValueError(f"timm's {architecture} cannot be built with model_args={model_args}: {error}") from error


def architecture_of(config: PreTrainedConfig) -> nn.Module:
    """
    The timm model of a configuration, without memory for its weights.

    Raises:
        ValueError: if it is no vision transformer of a kind that is supported, or cannot be built.
    """
    return _architecture(config.architecture, json.dumps(config.model_args or {}, sort_keys=True))


@lru_cache(maxsize=32)
def _architecture(name: str, model_args: str) -> nn.Module:
    arguments = json.loads(model_args)
    with torch.device("meta"):
        model = create_timm_model(name, arguments)
    check_architecture(model, name)
    return model


def check_architecture(model: nn.Module, name: str) -> None:
    """Raise a `ValueError` unless this timm model's blocks can be walked over."""
    timm = import_timm()
    classes = (timm.models.vision_transformer.VisionTransformer, timm.models.eva.Eva)
    if not isinstance(model, classes) or type(model.patch_embed) is not timm.layers.PatchEmbed:
        raise ValueError(
            f"timm's {name} is a {type(model).__name__}, which is not supported; of timm the classes VisionTransformer "
            "and Eva are, with a plain patch embedding, e.g. eva02_large_patch14_448 or vit_base_patch16_224"
        )
    block = model.blocks[0]
    if not isinstance(getattr(getattr(block, "attn", None), "proj", None), nn.Linear):
        raise ValueError(
            f"timm's {name} is not supported: its blocks are of the class {type(block).__name__}, which has no "
            "attention module of its own to adapt"
        )
    if getattr(model, "rope_mixed", False):
        raise ValueError(
            f"timm's {name} is not supported: its rotary positions differ from block to block; those of the EVA02 and "
            "DINOv3 architectures do not"
        )
    if model.patch_embed.proj.in_channels != 3:
        raise ValueError(f"in_chans must be 3 for {name}: images have three colours")
    if getattr(model.patch_drop, "prob", 0):
        raise ValueError(f"patch_drop_rate must be 0 for {name}: maps with missing patches cannot be segmented")
    rows, columns = model.patch_embed.grid_size
    if model.pos_embed is not None and rows != columns:
        raise ValueError(
            f"img_size must be square for {name}, whose position table is resampled; got {rows}x{columns} patches"
        )


def has_split_attention(model: nn.Module) -> bool:
    """Whether each block has separate layers for q, k and v."""
    return getattr(getattr(model.blocks[0], "attn", None), "q_proj", None) is not None


@lru_cache(maxsize=32)
def bypassed_layers(model: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """
    Names of the layers that LoRA should adapt but that a pass through the blocks does not call.

    A block that hands `layer.weight` to a function of its own takes no notice of a LoRA that wraps the layer.

    Args:
        model: a timm model on the meta device.
        targets: names of layers in the blocks' attention, as in `lora_targets`.
    """
    names = [
        f"blocks.{number}.attn.{target.removeprefix('attn.')}"
        for number in range(len(model.blocks))
        for target in targets
    ]
    called = set()
    hooks = [model.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name)) for name in names]
    try:
        tokens = torch.empty(1, model.num_prefix_tokens + 1, model.embed_dim, device="meta")
        with torch.no_grad():
            for block in model.blocks:
                tokens = block(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name in names if name not in called]


def is_eva02(config: PreTrainedConfig) -> bool:
    """Whether this is one of the EVA02 architectures, which published VFMSeg models were trained on."""
    return config.architecture.startswith("eva02_")


def pretrained_setting(config: PreTrainedConfig, key: str) -> object:
    """What the foundation model's own configuration says of its training, or timm's of its architecture."""
    settings = getattr(config, "pretrained_cfg", None) or {}
    return settings[key] if key in settings else architecture_of(config).pretrained_cfg[key]
