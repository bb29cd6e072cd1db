# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""LoRA on the encoder through peft: what is adapted, merging it, and checkpoints that hold the adapter only.

An adapter-only checkpoint is a peft adapter (LoRA factors and both heads) next to the model's `config.json`, which
names the foundation model underneath and holds a fingerprint of its weights.
"""

import hashlib
import os
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_NAME,
    cached_file,
    logging,
)

from .configuration_vfmseg import VFMSegConfig
from .encoders_vfmseg import get_encoder_family, resample_encoder_weights


if TYPE_CHECKING:
    from .modeling_vfmseg import VFMSegForSemanticSegmentation

logger = logging.get_logger(__name__)

HEADS = ["coarse_head", "refine_head"]
ENCODER_PREFIX = "model.encoder."
PEFT_PREFIX = "base_model.model."
OPTIONAL_FILE = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}


def lora_config(config: VFMSegConfig, r: int = 32, lora_alpha: int = 32, lora_dropout: float = 0.1) -> LoraConfig:
    """
    The paper's LoRA: rank and alpha 32 on the encoder's default targets, both heads trained in full.

    Use it as `model.add_adapter(lora_config(model.config))` or `get_peft_model(model, lora_config(model.config))`.
    The target pattern is anchored on the encoder, so that it never adapts a head.

    Args:
        config: the model's configuration; it decides the targets.
        r, lora_alpha: rank and scale; the update is (lora_alpha / r) B A.
        lora_dropout: dropout on the input of A.
    """
    targets = "|".join(get_encoder_family(config.backbone_config).lora_targets)
    return LoraConfig(
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=rf"{ENCODER_PREFIX.replace('.', chr(92) + '.')}.*\.({targets})",
        modules_to_save=list(HEADS),
    )


def merge_lora(model: "VFMSegForSemanticSegmentation") -> "VFMSegForSemanticSegmentation":
    """
    Fold every attached LoRA into the weights it adapts and take peft's wrappers off, in place.

    Raises:
        ValueError: if the model has no adapter.
    """
    if not getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError("the model has no adapter to merge; attach one with add_adapter or load one first")
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            plain = module.get_base_layer()
        elif isinstance(module, ModulesToSaveWrapper):
            plain = module.modules_to_save[module.active_adapters[0]]
        else:
            continue
        model.set_submodule(name, plain)
    model.requires_grad_(True)
    del model.peft_config
    model._hf_peft_config_loaded = False
    return model


def save_adapter(
    model: "VFMSegForSemanticSegmentation | PeftModel",
    save_directory: str | os.PathLike,
    state_dict: dict[str, torch.Tensor] | None = None,
) -> None:
    """
    Write an adapter-only checkpoint: `config.json`, `adapter_config.json` and `adapter_model.safetensors`.

    Args:
        model: a model with one active LoRA, attached by `add_adapter` or by `peft.get_peft_model`.
        save_directory: written file by file; the weights last and under their final name only when complete.
        state_dict: the model's tensors, if it cannot be asked for them itself (distributed training).
    """
    wrapped = model
    if isinstance(model, PeftModel):
        model = model.get_base_model()
    name = wrapped.active_adapters() if callable(wrapped.active_adapters) else wrapped.active_adapters
    if len(name) != 1:
        raise ValueError(f"exactly one adapter must be active to be saved, got {name}; call set_adapter first")
    os.makedirs(save_directory, exist_ok=True)
    if model.config.backbone_name_or_path is None:
        logger.warning(
            "config.backbone_name_or_path is unset, so this checkpoint does not know its base: pass "
            "backbone_name_or_path=... when you load it, or save a merged model (merge_lora) instead."
        )
    model.config.backbone_fingerprint = fingerprint(model)
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(save_directory)
    peft_config = wrapped.peft_config[name[0]]
    peft_config.base_model_name_or_path = model.config.backbone_name_or_path
    inference_mode, peft_config.inference_mode = peft_config.inference_mode, True
    peft_config.save_pretrained(save_directory)
    peft_config.inference_mode = inference_mode
    # Without this argument peft asks the Hub whether the base's vocabulary has changed.
    weights = get_peft_model_state_dict(wrapped, state_dict, adapter_name=name[0], save_embedding_layers=False)
    weights = {PEFT_PREFIX + key.removeprefix(PEFT_PREFIX): value.contiguous() for key, value in weights.items()}
    path = os.path.join(save_directory, ADAPTER_SAFE_WEIGHTS_NAME)
    save_file(weights, path + ".part", metadata={"format": "pt"})
    os.replace(path + ".part", path)


def holds_adapter_only(name_or_path: str | os.PathLike, hub_kwargs: dict[str, object]) -> bool:
    """Whether a directory or Hub repository has an adapter but no weights of a whole model."""

    def has(filename: str) -> bool:
        found = cached_file(name_or_path, filename, **OPTIONAL_FILE, **hub_kwargs)
        return found is not None

    return has(ADAPTER_CONFIG_NAME) and not any(map(has, (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME)))


def load_adapter_checkpoint(
    model_class: type["VFMSegForSemanticSegmentation"],
    name_or_path: str | os.PathLike,
    config: VFMSegConfig,
    is_trainable: bool,
    ignore_base_mismatch: bool,
    hub_kwargs: dict[str, object],
    **model_kwargs,
) -> "VFMSegForSemanticSegmentation":
    """
    Build a model on its foundation model and put a saved adapter on it.

    Everything is frozen, unless `is_trainable`: then LoRA and both heads train, and nothing else.

    Raises:
        ValueError: if the checkpoint names no base, the base's weights are not those the adapter was trained on, or
            the adapter's weights do not fit.
    """
    base, expected = config.backbone_name_or_path, config.backbone_fingerprint
    if base is None:
        raise ValueError(
            f"the adapter-only checkpoint {str(name_or_path)!r} does not name the foundation model it was trained on; "
            "pass backbone_name_or_path=... (a directory or a Hub id)"
        )
    if os.path.isdir(os.path.join(name_or_path, base)):
        base = os.path.join(name_or_path, base)
    ignore_mismatched_sizes = model_kwargs.pop("ignore_mismatched_sizes", False)
    model = build_on_backbone(model_class, config, base, **model_kwargs)
    if expected is not None and (found := fingerprint(model)) != expected and not ignore_base_mismatch:
        raise ValueError(
            f"the weights in {base!r} are not the ones that the adapter {str(name_or_path)!r} was trained on "
            f"(fingerprint {found[:12]} instead of {expected[:12]}). Pass backbone_name_or_path=... of the right "
            "foundation model, or ignore_base_mismatch=True to load the adapter all the same."
        )
    peft_config = PeftConfig.from_pretrained(
        os.path.dirname(cached_file(name_or_path, ADAPTER_CONFIG_NAME, **hub_kwargs))
    )
    peft_config.inference_mode = not is_trainable
    model.add_adapter(peft_config)
    weights = load_file(cached_file(name_or_path, ADAPTER_SAFE_WEIGHTS_NAME, **hub_kwargs))
    weights = {key.removeprefix(PEFT_PREFIX): value for key, value in weights.items()}
    try:
        result = set_peft_model_state_dict(model, weights, ignore_mismatched_sizes=ignore_mismatched_sizes)
    except RuntimeError as error:
        raise ValueError(
            f"the adapter in {str(name_or_path)!r} has weights of other sizes than the model; to give it new classes "
            f"pass ignore_mismatched_sizes=True beside num_labels ({error})"
        ) from error
    missing = [key for key in result.missing_keys if ".lora_" in key or ".modules_to_save." in key]
    if (missing and not ignore_mismatched_sizes) or result.unexpected_keys:
        raise ValueError(
            f"the adapter in {str(name_or_path)!r} does not fit the model: missing {missing[:3]}, unexpected "
            f"{result.unexpected_keys[:3]}"
        )
    model.eval()
    if not is_trainable:
        model.requires_grad_(False)
    return model


def build_on_backbone(
    model_class: type["VFMSegForSemanticSegmentation"],
    config: VFMSegConfig,
    backbone_name_or_path: str | os.PathLike,
    hub_kwargs: dict[str, object] | None = None,
    **model_kwargs,
) -> "VFMSegForSemanticSegmentation":
    """
    A model whose encoder has pretrained weights and whose heads are new.

    The weights are loaded as they are and resampled to the patch and position grid of `config.backbone_config`.

    Raises:
        ValueError: if the foundation model is of another architecture or lacks weights.
    """
    hub_kwargs = hub_kwargs or {}
    name = str(backbone_name_or_path)
    native_config = load_backbone_config(name, hub_kwargs)
    family = get_encoder_family(config.backbone_config)
    for key in ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads"):
        expected, found = getattr(config.backbone_config, key), getattr(native_config, key, None)
        if expected != found:
            raise ValueError(
                f"the foundation model {name!r} has {key}={found!r}, but the encoder of this checkpoint has "
                f"{expected!r}; pass backbone_name_or_path=... of the model it was made for"
            )
    native, loading = AutoModel.from_pretrained(name, config=native_config, output_loading_info=True, **hub_kwargs)
    if loading["missing_keys"] or loading["mismatched_keys"]:
        raise ValueError(
            f"{name!r} does not hold all weights of a {native_config.model_type} encoder; missing: "
            f"{sorted(loading['missing_keys'])[:3]}, of another size: {sorted(loading['mismatched_keys'])[:3]}"
        )
    weights = resample_encoder_weights(native.state_dict(), family, config.backbone_config)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the loader would warn of every weight of the heads, which are new by intent
    try:
        model, loading = model_class.from_pretrained(
            None,
            config=config,
            state_dict={ENCODER_PREFIX + key: value for key, value in weights.items()},
            output_loading_info=True,
            **model_kwargs,
        )
    finally:
        logging.set_verbosity(verbosity)
    missing = [key for key in loading["missing_keys"] if key.startswith(ENCODER_PREFIX)]
    if missing or loading["unexpected_keys"]:
        raise ValueError(
            f"the weights in {name!r} do not fit the encoder; missing: {missing[:3]}, unexpected: "
            f"{sorted(loading['unexpected_keys'])[:3]}"
        )
    return model


def load_backbone_config(name_or_path: str, hub_kwargs: dict[str, object]) -> PreTrainedConfig:
    """The configuration of a foundation model; a `ValueError` if its architecture is unknown or not supported."""
    try:
        native_config = AutoConfig.from_pretrained(name_or_path, **hub_kwargs)
    except KeyError as error:
        raise ValueError(f"{name_or_path!r} has a config.json of the unknown model_type {error}") from error
    get_encoder_family(native_config)
    return native_config


def fingerprint(model: "VFMSegForSemanticSegmentation") -> str:
    """
    SHA-256 of the frozen encoder weights, whether or not LoRA is attached.

    It leaves out the two resampled tensors and rounds to bfloat16, so that it agrees between machines and between
    float32 and bfloat16 copies of one model.
    """
    family = get_encoder_family(model.config.backbone_config)
    digest = hashlib.sha256()
    for key, tensor in sorted(
        (key.replace(".base_layer.", "."), tensor)
        for key, tensor in model.model.encoder.state_dict().items()
        if ".lora_" not in key
    ):
        if key not in (family.patch_kernel, family.position_table):
            digest.update(f"{key}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()
