# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What both models share: how weights are initialised and saved, and attention chosen."""

import inspect
import math
import os
from collections.abc import Mapping

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ADAPTER_CONFIG_NAME

from .arguments_vfmseg import refuse_unknown
from .configuration_vfmseg import VFMSegConfig, check_attention
from .encoders_vfmseg import get_encoder_family
from .heads_vfmseg import VFMSegClassifier, VFMSegCoarseFusion, VFMSegRefineHead
from .records_vfmseg import carry_record


# Arguments of `save_pretrained`; earlier versions of transformers had the last two, and accelerate's guides pass them.
SAVING = {*inspect.signature(PreTrainedModel.save_pretrained).parameters, "safe_serialization", "save_function"}
# What an adapter is saved as, whatever these arguments say.
ADAPTER_FORMAT = {
    "distributed_checkpoint": False,
    "max_shard_size": "50GB",
    "save_peft_format": True,
    "variant": None,
}


def check_saving(arguments: Mapping[str, object], of_adapter: bool = False) -> None:
    """
    Refuse what `save_pretrained` would ignore where nothing is pushed to the Hub.

    Raises:
        TypeError: on names that it does not have.
        ValueError: on files that it does not write; the message names the argument.
    """
    refuse_unknown(arguments, SAVING - {"self", "kwargs"}, "save_pretrained, without push_to_hub=True,")
    if not arguments.get("safe_serialization", True):
        raise ValueError("safe_serialization=False is not supported: weights are saved as safetensors; leave it out")
    for name, value in ADAPTER_FORMAT.items() if of_adapter else ():
        if arguments.get(name, value) != value:
            raise ValueError(
                f"{name}={arguments[name]!r} does not apply to an adapter, which is saved as one file in peft's "
                f"format; leave {name} out, or call merge_and_unload() to save a whole model"
            )


class VFMSegPreTrainedModel(PreTrainedModel):
    # The directory or Hub id of the VFMSeg checkpoint that the weights come from, if they come from one.
    loaded_from: str | None = None

    config_class = VFMSegConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["VFMSegRefineLayer"]

    def set_attn_implementation(self, attn_implementation: str | dict[str, str], *args, **kwargs) -> None:
        """
        As in transformers; a dict has `""` for the heads and `"backbone_config"` for the encoder.

        Raises:
            ValueError: if there is no such attention, or the encoder's has been chosen for good when it was built.
        """
        check_attention(attn_implementation)
        encoder = self.config.backbone_config
        before = encoder._attn_implementation
        parts = (
            attn_implementation if isinstance(attn_implementation, dict) else {"backbone_config": attn_implementation}
        )
        if get_encoder_family(encoder).fixed_attentions and parts.get("backbone_config", before) != before:
            raise ValueError(
                f"the attention of a {encoder.model_type!r} encoder is chosen when it is built and stays {before!r}: "
                f"pass attn_implementation={attn_implementation!r} to from_pretrained or from_backbone instead"
            )
        super().set_attn_implementation(attn_implementation, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Classifiers, coarse fusion and mask token as published; everything else as torch initialises it."""
        if isinstance(module, VFMSegClassifier):
            init.normal_(module.weight, std=0.01)
            init.zeros_(module.bias)
        elif isinstance(module, VFMSegCoarseFusion):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                # torch counts the inputs of a transposed convolution by the second axis of its weight as well.
                bound = 1 / math.sqrt(module.weight[0].numel())
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, VFMSegRefineHead):
            init.normal_(module.mask_token)
        else:
            super()._init_weights(module)

    def save_pretrained(self, save_directory, *args, save_original_format: bool = False, **kwargs):
        """
        As [`~PreTrainedModel.save_pretrained`], but key names are written as the modules have them.

        Trainer resumes with a plain `load_state_dict`, which knows nothing of the encoders' historical names that
        `save_original_format=True` would write.

        Raises:
            ValueError: if peft's layers are in the model, or an adapter in the directory.
            TypeError: on arguments that there are not.
        """
        if any(".base_layer." in name for name, _ in self.named_parameters()):
            raise ValueError(
                "peft's layers are in this model, but it is not the one that they were attached to. Save that one: a "
                "PeftModel with vfmseg_hf.save_adapter(peft_model, directory), a segmentation model with its own "
                "save_pretrained; or call merge_and_unload() on it first"
            )
        if os.path.exists(os.path.join(save_directory, ADAPTER_CONFIG_NAME)):
            # Loading would find both and put the adapter on weights that it was not trained on.
            raise ValueError(f"{str(save_directory)!r} holds an adapter; save the whole model elsewhere")
        if not kwargs.get("push_to_hub"):
            check_saving(kwargs)
        if kwargs.get("is_main_process", True):
            carry_record(self.loaded_from, save_directory)  # first, as the rest may push the folder
        super().save_pretrained(save_directory, *args, save_original_format=save_original_format, **kwargs)
