# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Linear layers in 8 bits, for inference on a CPU."""

import warnings

import torch
from torch import nn

from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation


def quantize_int8(model: VFMSegForSemanticSegmentation) -> VFMSegForSemanticSegmentation:
    """
    A copy of a model whose linear layers, in the encoder and in the refine head, multiply integers of 8 bits.

    Weights are rounded once, with a scale for each output channel; the inputs of a layer whenever it is called, with
    one scale for the tensor. Everything else stays in float32. The copy is for inference on a CPU and is not saved.

    Args:
        model: in float32 on the CPU, without LoRA attached.

    Raises:
        ValueError: if the model is not so.
    """
    if model.device.type != "cpu" or model.dtype != torch.float32:
        raise ValueError(f"8 bits are for float32 models on the CPU, this one is {model.dtype} on {model.device}")
    if model._hf_peft_config_loaded:
        raise ValueError("fold LoRA into the weights before they are rounded: call merge_and_unload() first")
    # torch warns that it will move quantised tensors to another package, which has no dynamic int8 for x86 yet.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layers = {nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
        return torch.ao.quantization.quantize_dynamic(model, layers).eval()
