# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Models with random weights in which, as in trained ones, classes stand out and LoRA does something."""

from torch import nn

from ..adapters_vfmseg import lora_config
from ..configuration_vfmseg import VFMSegConfig
from ..modeling_vfmseg import VFMSegForSemanticSegmentation


def random_model(preset: str) -> VFMSegForSemanticSegmentation:
    """A model by the name of its foundation model, its classifiers scaled up: they start near zero."""
    model = VFMSegForSemanticSegmentation(VFMSegConfig.from_preset(preset))
    for head in (model.coarse_head, model.refine_head):
        head.classifier.weight.data.mul_(60)
    return model


def attach_random_lora(model: VFMSegForSemanticSegmentation) -> None:
    """Attach LoRA as the recipe does, in place, with a B that is not the zero it starts from."""
    model.add_adapter(lora_config(model.config))
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.02)
