# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Building a model on the weights of a foundation model, and knowing these weights again."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from .configuration_vfmseg import VFMSegConfig
from .encoder_base import EncoderFamily
from .encoder_timm import import_timm
from .encoders import encoder_config, get_encoder_family
from .protocols import AdaptableModel


ENCODER_PREFIX = "model.encoder."
HEADS = ("coarse_head", "refine_head")
HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
FILE_KWARGS = ("use_safetensors", "weights_only")  # how files of weights are read, once they are found


def pop_hub_kwargs(kwargs: dict[str, object]) -> dict[str, object]:
    """Take the arguments that say where and how to find files out of `kwargs`."""
    return {key: kwargs.pop(key) for key in HUB_KWARGS if key in kwargs}


def place_of_weights(name_or_path: str | os.PathLike, hub_kwargs: dict[str, object]) -> str | None:
    """
    A name under which the weights are found again from anywhere: the absolute path of a directory, or a Hub id.

    `None` for a subfolder or revision of a Hub repository, which a name alone does not say.
    """
    path = os.path.join(name_or_path, hub_kwargs.get("subfolder") or "").rstrip("/")
    if os.path.isdir(path):
        return os.path.abspath(path)
    return None if hub_kwargs.get("subfolder") or hub_kwargs.get("revision") else os.fspath(name_or_path)


def checkpoint_place(name_or_path: str | os.PathLike, hub_kwargs: dict[str, object]) -> str:
    """As [`place_of_weights`], but a Hub id in any case: for the record beside weights, which knows its own."""
    return place_of_weights(name_or_path, hub_kwargs) or os.fspath(name_or_path)


@dataclass
class Foundation:
    """An encoder's configuration and weights under the names of transformers' own class, and their fingerprint."""

    config: PreTrainedConfig
    weights: dict[str, torch.Tensor]
    fingerprint: str


@contextmanager
def without_warnings() -> Iterator[None]:
    """
    Keep transformers from warning of what is left behind or new by intent: text models, mask decoders, heads.

    Whoever loads weights in it has to look at the loader's report.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def read_config(name_or_path: str, hub_kwargs: dict[str, object]) -> PreTrainedConfig:
    """
    The configuration of any model.

    Raises:
        ValueError: if its architecture is unknown.
    """
    try:
        with without_warnings():
            return AutoConfig.from_pretrained(name_or_path, **hub_kwargs)
    except KeyError as error:
        raise ValueError(f"{name_or_path!r} has a config.json of the unknown model_type {error}") from error
    except ImportError:
        import_timm()  # if it is missing, this says how to get it
        raise


def load_backbone_config(name_or_path: str, hub_kwargs: dict[str, object]) -> PreTrainedConfig:
    """
    The configuration of a foundation model, or of the encoder of a VFMSeg checkpoint.

    Of a model with a text or a decoder part beside its vision encoder it is the encoder's.

    Raises:
        ValueError: if the architecture is unknown or not supported.
    """
    config = read_config(name_or_path, hub_kwargs)
    config = config.backbone_config if isinstance(config, VFMSegConfig) else encoder_config(config)
    get_encoder_family(config)
    return config


def load_foundation(
    model_class: type[AdaptableModel], name_or_path: str, hub_kwargs: dict[str, object], **file_kwargs
) -> Foundation:
    """
    Load a foundation model, or the encoder of a whole VFMSeg checkpoint, in the dtype it is stored in.

    Args:
        file_kwargs: those of `FILE_KWARGS`.

    Raises:
        ValueError: if its architecture is not supported, weights are missing or of another size, or parts
            of it hold more than the configuration says.
    """
    config = load_backbone_config(name_or_path, hub_kwargs)
    if isinstance(read_config(name_or_path, hub_kwargs), VFMSegConfig):
        model = model_class.from_pretrained(name_or_path, **hub_kwargs, **file_kwargs)
        if getattr(model, "hf_quantizer", None) is not None:  # stored in 8 bits, say
            try:
                model = model.dequantize()
            except NotImplementedError as error:
                raise ValueError(
                    f"the weights in {name_or_path!r} are stored quantised in a way that has no way back ({error}); "
                    "use the model in full precision as the base, and quantization_config=... where it is loaded"
                ) from error
        weights = model.model.encoder.state_dict()
    else:
        family = get_encoder_family(config)
        with without_warnings():
            native, loading = family.load(name_or_path, config, **hub_kwargs, **file_kwargs)
        if loading["missing_keys"] or loading["mismatched_keys"]:
            raise ValueError(
                f"{name_or_path!r} does not hold all weights of a {config.model_type} encoder; missing: "
                f"{sorted(loading['missing_keys'])[:3]}, of another size: {sorted(loading['mismatched_keys'])[:3]}"
            )
        # The report names keys as they are stored: with or without the prefix of the module that holds the encoder.
        inner = getattr(native, native.base_model_prefix, native)
        parts = {name for module in (native, inner) for name, _ in module.named_children()}
        if surplus := sorted(key for key in loading["unexpected_keys"] if key.partition(".")[0] in parts):
            raise ValueError(
                f"{name_or_path!r} holds weights that its configuration, a {config.model_type} with "
                f"{family.depth(config)} blocks, does not tell of: {surplus[:3]}"
            )
        weights = native.state_dict()
    return Foundation(config, weights, fingerprint(weights, get_encoder_family(config)))


def build_on_backbone(
    model_class: type[AdaptableModel],
    config: VFMSegConfig,
    name_or_path: str | os.PathLike,
    hub_kwargs: dict[str, object],
    **model_kwargs,
) -> AdaptableModel:
    """
    A model whose encoder has pretrained weights and whose heads are new.

    The weights are resampled to the patch and position grid of `config.backbone_config`.

    Raises:
        ValueError: if the foundation model is of another architecture than `config` says.
    """
    name = str(name_or_path)
    file_kwargs = {key: model_kwargs.pop(key) for key in FILE_KWARGS if key in model_kwargs}
    foundation = load_foundation(model_class, name, hub_kwargs, **file_kwargs)
    family = get_encoder_family(config.backbone_config)
    found = get_encoder_family(foundation.config).traits(foundation.config)
    for key, expected in family.traits(config.backbone_config).items():
        if expected != found.get(key):
            raise ValueError(
                f"the foundation model {name!r} has {key}={found.get(key)!r}, but the encoder of this checkpoint has "
                f"{expected!r}; pass backbone_name_or_path=... of the model it was made for"
            )
    # torch.cat refuses float16 under an autocast to bfloat16, which a caller may be in.
    with torch.autocast("cpu", enabled=False):
        weights = family.resample(foundation.weights, config.backbone_config, config.position_interpolation)
    with without_warnings():
        model, loading = model_class.from_pretrained(
            None,
            config=config,
            state_dict={ENCODER_PREFIX + key: value for key, value in weights.items()},
            output_loading_info=True,
            **model_kwargs,
        )
    if loading["unexpected_keys"]:
        raise ValueError(
            f"the weights in {name!r} do not fit the encoder; unexpected: {sorted(loading['unexpected_keys'])[:3]}"
        )
    model.name_or_path = model.config.name_or_path = name
    if isinstance(read_config(name, hub_kwargs), VFMSegConfig):
        model.loaded_from = checkpoint_place(name, hub_kwargs)
    model.adapter_base, model.adapter_base_fingerprint = (
        place_of_weights(name, hub_kwargs),
        foundation.fingerprint,
    )
    return model


def encoder_weights(model: AdaptableModel) -> dict[str, torch.Tensor]:
    """The encoder's own tensors under the names of transformers' class, whether or not an adapter is attached."""
    tensors = model.model.encoder.state_dict()
    adapted = tuple({key.partition(".base_layer.")[0] + "." for key in tensors if ".base_layer." in key})
    return {
        key.replace(".base_layer.", "."): tensor
        for key, tensor in tensors.items()
        if ".base_layer." in key or not key.startswith(adapted)
    }


def fingerprint(weights: dict[str, torch.Tensor], family: EncoderFamily) -> str:
    """
    SHA-256 of an encoder's weights.

    It leaves out the tensors that are resampled or unused and rounds to bfloat16, so that it agrees between machines
    and between float32 and bfloat16 copies of one model.
    """
    digest = hashlib.sha256()
    used = {key for key in weights if not key.startswith(family.unused)}
    for key in sorted(used - family.resampled_keys(weights)):
        tensor = weights[key].detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(f"{key}{tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()
