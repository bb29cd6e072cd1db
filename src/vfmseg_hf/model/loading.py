# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Loading and saving, as two mixins: of whole models with checks, and of models on a foundation or with an adapter."""

import inspect
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, Self

import torch
from safetensors import SafetensorError
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ADAPTER_CONFIG_NAME

from .adapters import check_can_be_adapted, holds_adapter_only, load_adapter_checkpoint, merge_lora, save_adapter
from .arguments import refuse_unknown
from .checks import check_local_directory
from .configuration_vfmseg import VFMSegConfig, check_field_names
from .encoders import get_encoder_family
from .foundation import (
    ENCODER_PREFIX,
    HUB_KWARGS,
    build_on_backbone,
    checkpoint_place,
    load_backbone_config,
    place_of_weights,
    pop_hub_kwargs,
)
from .presets import get_preset, preset_fields
from .quantised_weights import check_is_not_packed, leave_heads_out
from .records import carry_record


if TYPE_CHECKING:
    from peft import PeftConfig

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


class WholeModelMixin:
    """Loading and saving of weights under the modules' names, before [`~transformers.PreTrainedModel`]'s own."""

    # The directory or Hub id of the VFMSeg checkpoint that the weights come from, if they come from one.
    loaded_from: str | None = None

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


class LoadingMixin:
    """Building on a foundation model, and checkpoints that hold an adapter only, before [`WholeModelMixin`]."""

    # The file or Hub id that holds the encoder's weights as they are, and their fingerprint: the base of an adapter.
    adapter_base: str | None = None
    adapter_base_fingerprint: str | None = None

    @classmethod
    def from_backbone(cls, name_or_path: str | os.PathLike, dtype: torch.dtype | str = torch.float32, **kwargs) -> Self:
        """
        Build a model on a pretrained foundation model, with new heads.

        The patch kernel and the position grid are resampled to `patch_size` (16) and to images of 512 x 512, as the
        published converters do. (The grids of SAM and of SigLIP2's NaFlex form keep their size.)

        Args:
            name_or_path: Hub id or directory of the foundation model, e.g. `"facebook/dinov2-large"`. Of a CLIP, SigLIP
                or SAM model only the vision encoder is loaded.
            dtype: of the new model. Training wants float32 weights under autocast, whatever the checkpoint's dtype.
            kwargs: fields of [`VFMSegConfig`] to override, arguments of `from_pretrained` that find files on the Hub
                (`revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`, `force_download`), and
                `attn_implementation`.

        Raises:
            ValueError: if the foundation model's architecture is not supported or a field is invalid.

        Example:

        ```python
        >>> model = VFMSegForSemanticSegmentation.from_backbone("facebook/dinov2-large", num_labels=3)
        ```
        """
        hub_kwargs = pop_hub_kwargs(kwargs)
        attention = (
            {"attn_implementation": kwargs.pop("attn_implementation")} if "attn_implementation" in kwargs else {}
        )
        check_field_names(kwargs)
        native_config = load_backbone_config(str(name_or_path), hub_kwargs)
        patch_size = kwargs.get("patch_size", 16)
        kwargs.setdefault(
            "backbone_config", get_encoder_family(native_config).adapted_config(native_config, patch_size)
        )
        config = VFMSegConfig(backbone_name_or_path=str(name_or_path), **kwargs)
        return build_on_backbone(cls, config, name_or_path, hub_kwargs, dtype=dtype, **attention)

    @classmethod
    def from_preset(
        cls,
        name: str,
        recipe: Literal["paper", "published-code"] = "paper",
        backbone_name_or_path: str | os.PathLike | None = None,
        **kwargs,
    ) -> Self:
        """
        Build a model on a well-known foundation model, with new heads.

        Args:
            name, recipe: as in [`VFMSegConfig.from_preset`].
            backbone_name_or_path: a copy of the foundation model, if it is not to come from the Hub.
            kwargs: as in [`from_backbone`](VFMSegForSemanticSegmentation.from_backbone), which this calls.

        Raises:
            ValueError: as `VFMSegConfig.from_preset` and `from_backbone`, and if the foundation model's own
                configuration is not the preset's.
            OSError: if the weights cannot be had. Those of DINOv3 need a token that has access (`token=...`).

        Example:

        ```python
        >>> model = VFMSegForSemanticSegmentation.from_preset("dinov2-large", recipe="published-code")
        ```
        """
        preset = get_preset(name)
        VFMSegConfig.from_preset(name, recipe)  # what is wrong with the recipe is said before anything is fetched
        place = os.fspath(backbone_name_or_path or preset.hub_id)
        native = load_backbone_config(place, {key: kwargs[key] for key in HUB_KWARGS if key in kwargs})
        preset.check(native, place)
        return cls.from_backbone(place, **preset_fields(name, recipe, kwargs, VFMSegConfig.patch_size, native))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args,
        config: VFMSegConfig | str | os.PathLike | None = None,
        is_trainable: bool = False,
        ignore_base_mismatch: bool = False,
        **kwargs,
    ) -> Self:
        """
        Load a merged model or an adapter-only checkpoint (see [`~PreTrainedModel.from_pretrained`]).

        Args:
            is_trainable (`bool`, defaults to `False`):
                For adapter-only checkpoints: let LoRA and both heads train. Otherwise everything is frozen.
            backbone_name_or_path (`str`, *optional*):
                For adapter-only checkpoints: where the foundation model is, if not where the checkpoint says. A
                relative path is tried against the checkpoint's directory first.
            ignore_base_mismatch (`bool`, defaults to `False`):
                Load an adapter on foundation weights that it was not trained on.
            kwargs: as usual; `num_labels=K, ignore_mismatched_sizes=True` gives the model new classes, and
                `quantization_config` quantises the encoder, under an adapter as well. On adapter-only checkpoints
                `state_dict`, `key_mapping`, `variant`, `gguf_file` and what distributes a model are refused.
        """
        if pretrained_model_name_or_path is not None:
            check_local_directory(pretrained_model_name_or_path)
            adapter = (kwargs.get("adapter_kwargs") or {}).get("_adapter_model_path")
            if adapter is not None and str(adapter) != str(pretrained_model_name_or_path):
                raise ValueError(
                    f"transformers' Auto classes load the base of the adapter {str(adapter)!r} with the base's "
                    f"configuration; load it with {cls.__name__}.from_pretrained({str(adapter)!r})"
                )
            hub_kwargs = {key: kwargs[key] for key in HUB_KWARGS if key in kwargs}
            if holds_adapter_only(pretrained_model_name_or_path, hub_kwargs):
                if model_args:
                    raise TypeError(f"from_pretrained takes an adapter's arguments by name only, got {model_args}")
                with_info = kwargs.pop("output_loading_info", False)
                model = load_adapter_checkpoint(
                    cls, pretrained_model_name_or_path, config, is_trainable, ignore_base_mismatch, **kwargs
                )
                model.loaded_from = checkpoint_place(pretrained_model_name_or_path, hub_kwargs)
                nothing = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
                return (model, nothing) if with_info else model
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)
        if pretrained_model_name_or_path is not None:
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            model.adapter_base = place_of_weights(pretrained_model_name_or_path, kwargs)
            model.loaded_from = checkpoint_place(pretrained_model_name_or_path, kwargs)
        return loaded

    def add_adapter(self, adapter_config: "PeftConfig", adapter_name: str | None = None) -> None:
        """
        Attach a new adapter of peft, as everywhere in transformers.

        Raises:
            ValueError: if heads that should train with it are quantised, or weights are not in memory.
        """
        check_can_be_adapted(self, adapter_config)
        super().add_adapter(adapter_config, adapter_name)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs,
    ) -> None:
        """
        Save the model so that `from_pretrained` and the Auto classes load it; arguments as everywhere in transformers.

        With LoRA attached only the adapter, the heads and the configuration are written; call
        [`merge_and_unload`](VFMSegForSemanticSegmentation.merge_and_unload) first for a model that needs neither peft
        nor its base.

        Raises:
            ValueError: if the directory holds a checkpoint of the other kind, on arguments that do not apply, or as
                [`save_adapter`].
            TypeError: on arguments that there are not.
        """
        if self._hf_peft_config_loaded:
            if push_to_hub:
                raise ValueError("an adapter is not pushed while it is saved; call model.push_to_hub(repo_id) instead")
            check_saving(kwargs, of_adapter=True)
            if is_main_process:
                save_adapter(self, save_directory, state_dict)
            return
        super().save_pretrained(
            save_directory, is_main_process=is_main_process, state_dict=state_dict, push_to_hub=push_to_hub, **kwargs
        )

    def merge_and_unload(self) -> Self:
        """Fold the attached LoRA into the encoder, in place, and return the plain model."""
        merge_lora(self)
        return self


def check_encoder_is_loaded(model: PreTrainedModel, place: str, info: dict[str, Iterable]) -> None:
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
