# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Models with random weights, for benchmarks of what depends on sizes and not on what a model has learnt."""

from torch import nn

from vfmseg_hf.model.adapters import lora_config
from vfmseg_hf.model.configuration_vfmseg import VFMSegConfig
from vfmseg_hf.model.modeling_vfmseg import VFMSegForSemanticSegmentation


def small_model(**settings: object) -> VFMSegForSemanticSegmentation:
    """A four-block DINOv2 of width 64 with a small refine head, in eval mode; `settings` are of `VFMSegConfig`."""
    backbone = {"model_type": "dinov2", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = VFMSegConfig(
        backbone_config={**backbone, "patch_size": 16, "image_size": 64},
        refine_hidden_size=128,
        refine_num_layers=1,
        **settings,
    )
    return VFMSegForSemanticSegmentation(config).eval()


def random_model(preset: str) -> VFMSegForSemanticSegmentation:
    """A model by the name of its foundation model, in eval mode, with classes that stand out as in a trained one."""
    return spread_classes(VFMSegForSemanticSegmentation(VFMSegConfig.from_preset(preset)).eval())


def spread_classes(model: VFMSegForSemanticSegmentation) -> VFMSegForSemanticSegmentation:
    """The model itself, with larger weights in both classifiers, so that labels and certainty vary over an image."""
    for head in (model.coarse_head, model.refine_head):
        head.classifier.weight.data.mul_(60)
    return model


def attach_random_lora(model: VFMSegForSemanticSegmentation) -> None:
    """Attach LoRA as the recipe does, in place, with a B that is not the zero it starts from."""
    model.add_adapter(lora_config(model.config))
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.02)
