# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""VFMSeg: a vision foundation model with a coarse head (VFMNet) and a mask-guided refine head (MGRNet)."""

import os
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BackboneOutput
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .adapters import check_can_be_adapted, holds_adapter_only, load_adapter_checkpoint, merge_lora, save_adapter
from .checks import check_labels, check_local_directory, check_pixel_values
from .configuration_vfmseg import VFMSegConfig, check_field_names, nearest_multiple, preset_fields
from .encoders import get_encoder_family
from .foundation import (
    HUB_KWARGS,
    build_on_backbone,
    checkpoint_place,
    load_backbone_config,
    place_of_weights,
    pop_hub_kwargs,
)
from .heads import VFMSegCoarseHead, VFMSegRefineHead
from .inference import InferenceMixin
from .objective import joint_objective, stage_loss
from .outputs import VFMSegLabelMap, VFMSegSemanticSegmenterOutput
from .presets import get_preset
from .pretrained import VFMSegPreTrainedModel, check_saving
from .window_batches import WindowBatchLimits


class VFMSegModel(VFMSegPreTrainedModel):
    """The shared encoder of VFMSeg: a vision foundation model that hands out four feature maps."""

    # A segmentation checkpoint holds the heads as well; they are left behind on purpose.
    _keys_to_ignore_on_load_unexpected = [r"^coarse_head\.", r"^refine_head\."]
    _can_record_outputs = {"attentions": OutputRecorder(target_class=None)}

    def __init__(self, config: VFMSegConfig):
        super().__init__(config)
        self.family = get_encoder_family(config.backbone_config)
        self.family.check_attention(config.backbone_config)
        self.encoder = self.family.build(config.backbone_config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.family.input_embeddings(self.encoder)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, *model_args, **kwargs):
        """As in transformers; of an adapter-only checkpoint it gives the adapted encoder."""
        hub_kwargs = {key: kwargs[key] for key in HUB_KWARGS if key in kwargs}
        name_or_path = pretrained_model_name_or_path
        if name_or_path is not None and holds_adapter_only(name_or_path, hub_kwargs):
            loaded = VFMSegForSemanticSegmentation.from_pretrained(name_or_path, *model_args, **kwargs)
            return (loaded[0].model, loaded[1]) if isinstance(loaded, tuple) else loaded.model
        return super().from_pretrained(name_or_path, *model_args, **kwargs)

    @capture_outputs
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,  # the decorator fills the output
    ) -> BackboneOutput:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`):
                Normalised pictures; height and width are multiples of `config.patch_size`.
            output_hidden_states (`bool`, *optional*): return the input of the first block and every block's output.
            output_attentions (`bool`, *optional*): return the attention maps (needs `attn_implementation="eager"`).

        Returns:
            `BackboneOutput`: `feature_maps`, four tensors `(batch_size, hidden_size, height / 16, width / 16)`: the
            residual stream after the blocks `config.out_indices`, without a final norm and without prefix tokens.

        Raises:
            ValueError: if the size is no multiple of the patch, the number of channels differs, or the encoder cannot
                give its attention maps.
        """
        check_pixel_values(pixel_values, self.config)
        patch = self.config.patch_size
        height, width = pixel_values.shape[-2:]
        if height % patch or width % patch:
            # The encoders themselves drop the remainder silently, which shifts every prediction.
            raise ValueError(
                f"the encoder needs a height and width in multiples of {patch}, got {height}x{width}; the nearest "
                f"legal size is {nearest_multiple(height, patch)}x{nearest_multiple(width, patch)}"
            )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if not self.family.gives_attentions and (output_attentions or self.config.output_attentions):
            raise ValueError(
                f"encoders of the kind {self.config.backbone_config.model_type!r} do not give their attention maps; "
                "leave output_attentions out"
            )
        blocks = self.family.blocks(self.encoder)
        hidden, block_arguments = self.family.embed(self.encoder, pixel_values, self.config.position_interpolation)
        if self.training and torch.is_grad_enabled() and self._checkpoints_trainable_blocks(blocks, hidden):
            # Reentrant checkpointing drops the gradients of a block (of its LoRA, say) whose inputs need none.
            hidden.requires_grad_()
        hidden_states, feature_maps = [hidden], []
        for number, block in enumerate(blocks):
            hidden = self._run_block(block, hidden, block_arguments)
            hidden_states.append(hidden)
            if number in self.config.out_indices:
                feature_maps.append(
                    self.family.to_feature_map(hidden, self.config.backbone_config, height // patch, width // patch)
                )
            if number == self.config.out_indices[-1] and not output_hidden_states:
                break
        return BackboneOutput(
            feature_maps=tuple(feature_maps), hidden_states=tuple(hidden_states) if output_hidden_states else None
        )

    def _run_block(self, block: nn.Module, hidden: torch.Tensor, arguments: dict[str, object]) -> torch.Tensor:
        if self.gradient_checkpointing and self.training and not isinstance(block, GradientCheckpointingLayer):
            return self._gradient_checkpointing_func(partial(block, **arguments), hidden)
        return block(hidden, **arguments)

    def _checkpoints_trainable_blocks(self, blocks: nn.ModuleList, hidden: torch.Tensor) -> bool:
        return (
            not hidden.requires_grad
            and (self.gradient_checkpointing or getattr(blocks[0], "gradient_checkpointing", False))
            and any(parameter.requires_grad for parameter in blocks.parameters())
        )


class VFMSegForSemanticSegmentation(InferenceMixin, VFMSegPreTrainedModel):
    """
    VFMSeg: coarse pass over the whole picture, then refinement of the windows that the coarse pass is unsure of.

    Example:

    ```python
    >>> from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
    >>> import vfmseg_hf

    >>> model = AutoModelForSemanticSegmentation.from_pretrained(directory)
    >>> processor = AutoImageProcessor.from_pretrained(directory)
    >>> outputs = model(**processor(image, return_tensors="pt"))
    >>> label_map = processor.post_process_semantic_segmentation(outputs, [image.size[::-1]])[0]
    ```
    """

    # The loss is a mean over labelled pixels, not a sum over tokens: Trainer has to average it over micro-batches.
    accepts_loss_kwargs = False

    # The file or Hub id that holds the encoder's weights as they are, and their fingerprint: the base of an adapter.
    adapter_base: str | None = None
    adapter_base_fingerprint: str | None = None

    # A loss of one's own for both stages instead of the cross entropy, e.g. torch.nn.CrossEntropyLoss(weight): a scalar
    # of logits [B, num_labels, H, W] and labels [B, H, W]. It is neither saved nor moved to a device.
    loss_function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    def __init__(self, config: VFMSegConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.window_batch_limits: WindowBatchLimits = {}  # where more windows at once did not fit into memory
        self.model = VFMSegModel(config)
        hidden_size = get_encoder_family(config.backbone_config).hidden_size(config.backbone_config)
        self.coarse_head = VFMSegCoarseHead(config, hidden_size)
        self.refine_head = VFMSegRefineHead(config, hidden_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def __setattr__(self, name: str, value: object) -> None:
        if name == "loss_function":  # torch would take a module for a part of this one, and save it with the weights
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    @classmethod
    def from_backbone(
        cls, name_or_path: str | os.PathLike, dtype: torch.dtype | str = torch.float32, **kwargs
    ) -> "VFMSegForSemanticSegmentation":
        """
        Build a model on a pretrained foundation model, with new heads.

        The patch kernel and the position grid are resampled to `patch_size` (16) and to pictures of 512 x 512, as the
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
    ) -> "VFMSegForSemanticSegmentation":
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
        return cls.from_backbone(place, **preset_fields(name, recipe, kwargs, native))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args,
        config: VFMSegConfig | str | os.PathLike | None = None,
        is_trainable: bool = False,
        ignore_base_mismatch: bool = False,
        **kwargs,
    ) -> "VFMSegForSemanticSegmentation":
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

    def add_adapter(self, adapter_config, adapter_name: str | None = None) -> None:
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

    def merge_and_unload(self) -> "VFMSegForSemanticSegmentation":
        """Fold the attached LoRA into the encoder, in place, and return the plain model."""
        return merge_lora(self)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        labels: torch.LongTensor | None = None,
        refine: bool | str | None = None,
        detail_crop_box: tuple[int, int, int, int] | None = None,
        refine_budget: int | float | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> VFMSegSemanticSegmenterOutput:
        """
        Logits take two tensors of the pictures' size: for label maps in less memory there is
        [`segment`](VFMSegForSemanticSegmentation.segment).

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`):
                Normalised pictures. In eval mode of any size from one patch up; in training mode multiples of 32.
            labels (`torch.LongTensor` of shape `(batch_size, label_height, label_width)`, *optional*):
                Class ids in `0..num_labels - 1`, or `config.semantic_loss_ignore_index`. Needed in training mode and
                then of the pictures' size; of any size in eval mode. `loss` is that of both stages: in training mode
                `logits` are the crop's (`windows`), and a loss of your own belongs into `loss_function`.
            refine (`bool` or `"all"`, *optional*, eval mode only):
                `None` or `True` refines the windows that are not certain enough, `False` none, `"all"` every one.
            detail_crop_box (`tuple[int]`, *optional*, training mode only):
                (top, left, bottom, right) of the refine head's crop instead of a random one: its height and width in
                multiples of `config.patch_size`, its offsets even.
            refine_budget (`int` or `float`, *optional*, eval mode only):
                At most so many windows of a picture are refined (`int`), or such a share of them (`float`, 0..1), the
                least certain first; with `refine="all"` too. Default: `config.refine_budget`.
            output_hidden_states, output_attentions, return_dict: as everywhere in transformers.

        Raises:
            ValueError: on inputs that do not fit (channels, sizes, label ids, non-finite pixels); the message names
                the value and what would be right.
        """
        # In eval mode the pixels are checked where inference waits for the device anyway.
        check_pixel_values(pixel_values, self.config, minimum=self.config.patch_size, finite=self.training)
        if labels is not None:
            check_labels(labels, pixel_values, self.config)
        if self.training:
            if refine is not None or refine_budget is not None:
                raise ValueError(
                    "refine and refine_budget say how pictures are segmented, which training mode does not do; leave "
                    "them out, or call model.eval()"
                )
        elif detail_crop_box is not None:
            raise ValueError("detail_crop_box is the crop of a training step; leave it out in eval mode")
        if (output_hidden_states or output_attentions) and not self.training and self.config.coarse_mode == "sliding":
            raise ValueError(
                "output_hidden_states and output_attentions are of a coarse pass over the whole picture; leave them "
                "out with coarse_mode='sliding', whose windows have no common ones"
            )
        encoder_kwargs = {
            key: value
            for key, value in (("output_hidden_states", output_hidden_states), ("output_attentions", output_attentions))
            if value is not None
        }
        if self.training:
            if labels is None:
                raise ValueError(
                    "labels are needed in training mode, where both losses are computed inside; call model.eval() for "
                    "predictions without them. A Trainer that keeps them back (label_smoothing_factor, "
                    "compute_loss_func, a compute_loss of your own) cannot train this model: set class_weights or "
                    "label_smoothing_factor in model.config, or model.loss_function"
                )
            fields = joint_objective(self, pixel_values, labels, detail_crop_box, encoder_kwargs)
            return VFMSegSemanticSegmenterOutput(**fields)
        fields = self._two_stage_inference(pixel_values, refine, refine_budget, encoder_kwargs)
        if labels is not None:
            content_loss = stage_loss(self, fields["coarse_logits"], labels, training=False)
            detail_loss = stage_loss(self, fields["logits"], labels, training=False)
            loss = content_loss + self.config.detail_loss_weight * detail_loss
            fields.update(loss=loss, content_loss=content_loss, detail_loss=detail_loss)
        return VFMSegSemanticSegmenterOutput(**fields)


__all__ = [
    "VFMSegForSemanticSegmentation",
    "VFMSegLabelMap",
    "VFMSegModel",
    "VFMSegPreTrainedModel",
    "VFMSegSemanticSegmenterOutput",
]
