# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""VFMSeg: a vision foundation model with a coarse head (VFMNet) and a mask-guided refine head (MGRNet)."""

import math
import os
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BackboneOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .adapters import holds_adapter_only
from .checks import check_known_labels, check_labels, check_pixel_values
from .configuration_vfmseg import VFMSegConfig, check_attention, nearest_multiple
from .encoders import get_encoder_family
from .foundation import HUB_KWARGS
from .heads import VFMSegClassifier, VFMSegCoarseFusion, VFMSegCoarseHead, VFMSegRefineHead
from .inference import Gate, InferenceMixin, two_stage_inference
from .loading import LoadingMixin, WholeModelMixin
from .objective import joint_objective, stage_loss
from .outputs import VFMSegLabelMap, VFMSegSemanticSegmenterOutput
from .window_batches import WindowBatchLimits


class VFMSegPreTrainedModel(WholeModelMixin, PreTrainedModel):
    """What both models share: how weights are initialised, and attention chosen."""

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
                Normalised images; height and width are multiples of `config.patch_size`.
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
            hidden = self.run_block(number, block, hidden, block_arguments)
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

    def run_block(
        self, number: int, block: nn.Module, hidden: torch.Tensor, arguments: dict[str, object]
    ) -> torch.Tensor:
        """What the block of this number gives; a method that changes features between blocks does it here."""
        if self.gradient_checkpointing and self.training and not isinstance(block, GradientCheckpointingLayer):
            return self._gradient_checkpointing_func(partial(block, **arguments), hidden)
        return block(hidden, **arguments)

    def _checkpoints_trainable_blocks(self, blocks: nn.ModuleList, hidden: torch.Tensor) -> bool:
        return (
            not hidden.requires_grad
            and (self.gradient_checkpointing or getattr(blocks[0], "gradient_checkpointing", False))
            and any(parameter.requires_grad for parameter in blocks.parameters())
        )


class VFMSegForSemanticSegmentation(LoadingMixin, InferenceMixin, VFMSegPreTrainedModel):
    """
    VFMSeg: coarse pass over the whole image, then refinement of the windows that the coarse pass is unsure of.

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

    # A loss of one's own for both stages instead of the cross entropy, e.g. torch.nn.CrossEntropyLoss(weight): a scalar
    # of logits [B, num_labels, H, W] and labels [B, H, W]. It is neither saved nor moved to a device.
    loss_function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    # Whether a training step on non-finite pixels or unknown label ids raises, for which the host waits for the device;
    # otherwise, and where it is compiled, its loss is NaN. See `checks.checks_without_waiting`.
    checks_raise: bool = True

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

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        labels: torch.LongTensor | None = None,
        refine: bool | str | None = None,
        detail_crop_box: tuple[int, int, int, int] | None = None,
        max_windows: int | None = None,
        max_window_share: float | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> VFMSegSemanticSegmenterOutput:
        """
        Logits take two tensors of the images' size: for label maps in less memory there is
        [`segment`](VFMSegForSemanticSegmentation.segment).

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`):
                Normalised images. In eval mode of any size from one patch up; in training mode multiples of 32.
            labels (`torch.LongTensor` of shape `(batch_size, label_height, label_width)`, *optional*):
                Class ids in `0..num_labels - 1`, or `config.semantic_loss_ignore_index`. Needed in training mode and
                then of the images' size; of any size in eval mode. `loss` is that of both stages: in training mode
                `logits` are the crop's (`windows`), and a loss of your own belongs into `loss_function`.
            refine (`bool` or `"all"`, *optional*, eval mode only):
                `None` or `True` refines the windows that are not certain enough, `False` none, `"all"` every one.
            detail_crop_box (`tuple[int]`, *optional*, training mode only):
                (top, left, bottom, right) of the refine head's crop instead of a random one: its height and width in
                multiples of `config.patch_size`, its offsets even.
            max_windows (`int`, *optional*), max_window_share (`float`, *optional*, 0..1), eval mode only:
                At most so many windows of an image are refined, or such a share of them, the least certain first; with
                `refine="all"` too. Not both. Default: the configuration's limit, which `max_window_share=1.0` lifts.
            output_hidden_states, output_attentions, return_dict: as everywhere in transformers.

        Raises:
            ValueError: on inputs that do not fit (channels, sizes, label ids, non-finite pixels); the message names
                the value and what would be right. A compiled training step, and one with `checks_raise=False`, cannot
                name values: its loss is NaN instead.
        """
        check_pixel_values(pixel_values, self.config, minimum=self.config.patch_size)
        if labels is not None:
            check_labels(labels, pixel_values)
            # The pixels are checked where inference waits for the device anyway, or in the training step.
            if not self.training and not torch.compiler.is_compiling():
                check_known_labels(labels, self.config)
        if self.training:
            if any(argument is not None for argument in (refine, max_windows, max_window_share)):
                raise ValueError(
                    "refine, max_windows and max_window_share say how images are segmented, which training mode does "
                    "not do; leave them out, or call model.eval()"
                )
        elif detail_crop_box is not None:
            raise ValueError("detail_crop_box is the crop of a training step; leave it out in eval mode")
        if (output_hidden_states or output_attentions) and not self.training and self.config.coarse_mode == "sliding":
            raise ValueError(
                "output_hidden_states and output_attentions are of a coarse pass over the whole image; leave them "
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
        gate = Gate.in_force(self.config, refine, max_windows, max_window_share)
        fields = two_stage_inference(self, pixel_values, gate, encoder_kwargs)
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
