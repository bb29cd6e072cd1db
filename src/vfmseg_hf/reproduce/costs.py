# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What a row takes: weights that train, weights in all, operations for an image."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from ..methods import OtherModel, auto_class_of
from ..prediction.predict import load_model


@dataclass(frozen=True)
class Costs:
    """
    Attributes:
        trained: weights that train.
        parameters: weights that a result takes, with LoRA folded into the encoder.
        coarse_gflops, gflops: operations for an image, in 1e9, multiplications and additions each counted: of the
            coarse pass, and with every window refined. Both are the same where there is one pass.
    """

    trained: int
    parameters: int
    coarse_gflops: float
    gflops: float


def measure_costs(model_folder: Path, refine: str, height: int, width: int) -> Costs:
    """
    Look at a trained model.

    Args:
        refine: the windows of its row; with `"none"` the refine head is not counted.
        height, width: of the image, as the model sees it; a model of transformers sees what its own image processor
            makes of such an image, an EoMT all windows of it.
    """
    trained = json.loads((model_folder / "recipe.json").read_text(encoding="utf-8"))["run"]["trained_parameters"]
    config = AutoConfig.from_pretrained(model_folder)
    if auto_class_of(config):
        other = OtherModel.from_pretrained(str(model_folder), config)
        inputs = other.processor(images=torch.zeros(3, height, width, dtype=torch.uint8), return_tensors="pt")
        operations = _operations(other.model, **inputs)
        return Costs(trained, _count(other), operations / 1e9, operations / 1e9)
    model, _ = load_model(str(model_folder), "cpu", torch.float32)
    image = torch.zeros(1, 3, height, width)
    if not hasattr(model, "refine_head"):
        operations = _operations(model, image)
        return Costs(trained, _count(model), operations / 1e9, operations / 1e9)
    coarse = _operations(model, image, refine=False)
    if refine == "none":
        return Costs(trained, _count(model) - _count(model.refine_head), coarse / 1e9, coarse / 1e9)
    windows = len(model(image, refine=False).windows[0])
    one = _operations(model, image, refine="all", max_windows=1)
    return Costs(trained, _count(model), coarse / 1e9, (coarse + windows * (one - coarse)) / 1e9)


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _operations(model: torch.nn.Module, *images: torch.Tensor, **how: object) -> int:
    # Fused attention on CPUs is not counted; its parts are.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(*images, **how)
    return counter.get_total_flops()
