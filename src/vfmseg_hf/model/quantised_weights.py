# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Weights that bitsandbytes or torchao hold in few bits: what is quantised, and what can be done with it."""

import copy

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.quantizers.auto import AutoQuantizationConfig

from .foundation import HEADS


def leave_heads_out(quantization_config: object, by_default: bool = False) -> object:
    """
    A copy of a quantization configuration whose list of modules to leave out holds the heads.

    Args:
        quantization_config: an object of transformers, or a dict of its fields.
        by_default: whether a list that the configuration has already stays as it is.

    Raises:
        ValueError: if such configurations have no such list, unless `by_default`.
    """
    if isinstance(quantization_config, dict):
        quantization_config = AutoQuantizationConfig.from_dict(quantization_config)
    fields = ("llm_int8_skip_modules", "modules_to_not_convert")
    field = next((name for name in fields if hasattr(quantization_config, name)), None)
    given = getattr(quantization_config, field) if field else None
    if by_default and (field is None or given is not None):
        return quantization_config
    if field is None:
        raise ValueError(
            f"{type(quantization_config).__name__} has no list of modules to leave out ({' or '.join(fields)}), but "
            "the heads, which are in the adapter, must not be quantised; use another kind of quantization_config"
        )
    quantization_config = copy.deepcopy(quantization_config)
    setattr(quantization_config, field, sorted({*(given or ()), *HEADS}))
    return quantization_config


def has_quantised_weights(module: nn.Module) -> bool:
    """Whether some weights have 8 bits or fewer: as bytes, or as torchao's tensors."""
    return any(w.element_size() == 1 or is_of_torchao(w) for w in module.parameters())


def is_of_torchao(weight: torch.Tensor) -> bool:
    """Whether this is one of torchao's quantised tensors, which call themselves floating."""
    return type(weight).__module__.startswith("torchao.")


def layer_without_gradient(encoder: PreTrainedModel) -> str | None:
    """The name of the first layer that torchao has quantised, if no gradient comes back to its inputs."""
    for name, layer in encoder.named_modules():
        if isinstance(layer, nn.Linear) and is_of_torchao(layer.weight):
            with torch.enable_grad():
                inputs = torch.ones(
                    1, layer.in_features, device=layer.weight.device, dtype=encoder.dtype
                ).requires_grad_()
                (gradient,) = torch.autograd.grad(layer(inputs).sum(), inputs, allow_unused=True)
            return f"{name} ({type(layer.weight).__name__})" if gradient is None else None
    return None


def check_is_not_packed(model: nn.Module) -> None:
    """
    Raise a `ValueError` if bitsandbytes has packed weights for inference on this CPU.

    It does so in the first prediction with weights in 4 bits, and neither merging nor saving gives what they were.
    """
    if any(getattr(getattr(w, "quant_state", None), "packing_format_for_cpu", False) for w in model.parameters()):
        raise ValueError(
            "bitsandbytes has packed the weights in 4 bits for inference on this CPU, which cannot be undone exactly; "
            "load the model again and merge or save it before its first prediction, or do it in full precision"
        )
