# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What both models share: how weights are initialised, loaded and saved, and attention chosen."""

import inspect
import math
import os
from collections.abc import Iterable, Mapping

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ADAPTER_CONFIG_NAME

from .arguments import refuse_unknown
from .configuration_vfmseg import VFMSegConfig, check_attention
from .encoders import get_encoder_family
from .foundation import ENCODER_PREFIX
from .heads import VFMSegClassifier, VFMSegCoarseFusion, VFMSegRefineHead
from .quantised_weights import check_is_not_packed, leave_heads_out
from .records import carry_record


# DINOv3's blocks under the name that transformers reads: it takes the `layer` of `layer_scale1` for this name in keys
# that have the module's own already, as soon as a prefix comes or goes.
NAMES_TO_READ = {r"encoder\.model\.layer\.": "encoder.layer."}
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

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args,
        output_loading_info: bool = False,
        key_mapping: dict[str, str] | None = None,
        **kwargs,
    ):
        """
        As [`~PreTrainedModel.from_pretrained`], but never with random values in the encoder.

        Heads that a checkpoint lacks, or has for other classes where `ignore_mismatched_sizes` allows it, are new, and
        transformers says so. `quantization_config` leaves both heads as they are, so that they can train beside an
        adapter, unless its list of modules to leave out says otherwise (`[]`: none).

        Raises:
            ValueError: if tensors of the encoder are missing or of another size; the message names them.
            OSError: if the weights are damaged.
        """
        name = pretrained_model_name_or_path
        if kwargs.get("quantization_config") is not None:
            kwargs["quantization_config"] = leave_heads_out(kwargs["quantization_config"], by_default=True)
        try:
            model, info = super().from_pretrained(
                name,
                *model_args,
                output_loading_info=True,
                key_mapping={**(key_mapping or {}), **NAMES_TO_READ},
                **kwargs,
            )
        except SafetensorError as error:
            raise OSError(
                f"the weights in {str(name)!r} are damaged or truncated ({error}); copy or download them again"
            ) from error
        if name is not None or kwargs.get("state_dict"):
            check_encoder_is_loaded(model, "state_dict" if name is None else repr(str(name)), info)
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory, *args, save_original_format: bool = False, **kwargs):
        """
        As [`~PreTrainedModel.save_pretrained`], but key names are written as the modules have them.

        Trainer resumes with a plain `load_state_dict`, which knows nothing of the encoders' historical names that
        `save_original_format=True` would write.

        Raises:
            ValueError: if peft's layers are in the model, an adapter in the directory, or weights packed for this CPU.
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
        check_is_not_packed(self)
        if not kwargs.get("push_to_hub"):
            check_saving(kwargs)
        if kwargs.get("is_main_process", True):
            carry_record(self.loaded_from, save_directory)  # first, as the rest may push the folder
        super().save_pretrained(save_directory, *args, save_original_format=save_original_format, **kwargs)


def check_encoder_is_loaded(model: VFMSegPreTrainedModel, place: str, info: dict[str, Iterable]) -> None:
    """Raise a `ValueError` if transformers' report on a load has tensors of the encoder that it left random."""

    def of_encoder(keys: Iterable[str]) -> list[str]:
        prefixes = (ENCODER_PREFIX, ENCODER_PREFIX.removeprefix(f"{model.base_model_prefix}."))
        return sorted(key for key in keys if key.startswith(prefixes))

    missing, mismatched = of_encoder(info["missing_keys"]), of_encoder(key for key, *_ in info["mismatched_keys"])
    total = len(of_encoder(model.state_dict()))
    if len(missing) == total:
        raise ValueError(
            f"the weights in {place} hold no tensor of the encoder, so they are of another architecture; foundation "
            "models load with from_backbone(...)"
        )
    if missing or mismatched:
        raise ValueError(
            f"the weights in {place} do not fit the encoder, of whose {total} tensors {len(missing)} are missing "
            f"{missing[:3]} and {len(mismatched)} of another size {mismatched[:3]}: they would be random. Use the "
            "checkpoint's own configuration and a complete copy of it"
        )
