# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What all methods share that look at an image once: what evaluation, prediction and training ask of a model."""

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils.generic import can_return_tuple

from ..model.adapters import HEADS, merge_lora
from ..model.arguments import as_target_sizes
from ..model.checks import check_labels, check_pixel_values, check_unusable_pixels, unusable_pixels
from ..model.configuration_vfmseg import VFMSegConfig, nearest_multiple
from ..model.encoders import get_encoder_family
from ..model.foundation import build_on_backbone, checkpoint_place
from ..model.modeling_vfmseg import VFMSegModel, VFMSegPreTrainedModel
from ..model.objective import spoil_unless, stage_loss, usable_labels
from ..model.outputs import VFMSegLabelMap
from ..model.windows import coarse_size, label_map, resize_bilinear
from .configuration import MethodConfig


class SingleStageModel(VFMSegPreTrainedModel):
    """
    An encoder in `model`, heads, and one look at an image: no windows, no second stage.

    `forward` gives raw `logits` of any size, and nothing else; by this it is told from VFMSeg's, and its coarse and its
    final result are the same. A subclass makes its heads, says how feature maps become logits, and ends its
    constructor with `post_init`. With LoRA of peft on the encoder (`add_adapter`) it is saved with LoRA folded in, as a
    whole model.

    Attributes:
        heads: names of the modules that train in full beside LoRA.
        own_adapter: name of a module in `model`, beside the encoder's own, that a method adapts it with; it trains
            wherever heads do, and takes LoRA's place.
        loss_name: what [`loss_of`] is, for the record of a training.
        undecayed: ends of the names of parameters, beside those of norms, that have no weight decay.
        width: channels of the encoder's feature maps.
    """

    heads: ClassVar[tuple[str, ...]]
    own_adapter: ClassVar[str | None] = None
    loss_name: ClassVar[str] = "cross entropy"
    undecayed: ClassVar[tuple[str, ...]] = ()
    accepts_loss_kwargs = False  # as VFMSeg's: the loss is a mean over labelled pixels
    loss_function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    checks_raise: bool = True  # as VFMSeg's

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        encoder = config.as_vfmseg()
        encoder.backbone_config = config.backbone_config
        self.model = self.make_encoder(encoder)
        self.width = get_encoder_family(config.backbone_config).hidden_size(config.backbone_config)

    def make_encoder(self, config: VFMSegConfig) -> VFMSegModel:
        """The encoder of such a configuration: VFMSeg's, if a method has no other."""
        return VFMSegModel(config)

    def decode(self, feature_maps: tuple[torch.Tensor, ...]) -> Any:
        """What the head makes of the encoder's four maps `[B, C, H / 16, W / 16]`; by default it is the logits."""
        raise NotImplementedError

    def logits_of(self, decoded: Any) -> torch.Tensor:
        """Logits `[B, num_labels, *, *]` of what [`decode`] gives."""
        return decoded

    def loss_of(self, decoded: Any, labels: torch.Tensor) -> torch.Tensor:
        """A loss of what [`decode`] gives at the size of labels `[B, H, W]`; by default VFMSeg's of a stage."""
        return stage_loss(self, decoded, labels, training=self.training)

    def add_adapter(self, adapter_config, adapter_name: str | None = None) -> None:
        """
        As everywhere in transformers, but that the heads, which are new, train in full beside LoRA.

        Raises:
            ValueError: if heads of another model are to train, or the method has an adapter of its own.
        """
        if self.own_adapter:
            raise ValueError(
                f"a {self.config.model_type} model adapts its encoder by itself, so that LoRA has no place in it; "
                "leave --tune out"
            )
        if set(adapter_config.modules_to_save or ()) <= {*HEADS, *self.heads}:
            adapter_config.modules_to_save = list(self.heads)
        else:
            raise ValueError(
                f"modules_to_save are {sorted(adapter_config.modules_to_save)}; the heads of a "
                f"{self.config.model_type} model are {list(self.heads)}"
            )
        super().add_adapter(adapter_config, adapter_name)

    def get_input_embeddings(self) -> torch.nn.Module:
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
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> SemanticSegmenterOutput:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`):
                Normalised images. In eval mode of any size from one patch up, and seen at `config.coarse_size`; in
                training mode crops in multiples of two patches, and seen at half of their size, as by VFMSeg.
            labels (`torch.LongTensor` of shape `(batch_size, label_height, label_width)`, *optional*):
                Class ids, or `config.semantic_loss_ignore_index`. Needed in training mode and then of the images' size.
            output_hidden_states, output_attentions, return_dict: as everywhere in transformers.

        Raises:
            ValueError: on inputs that do not fit; the message names the value and what would be right.
        """
        check_pixel_values(pixel_values, self.config, minimum=self.config.patch_size)
        usable = None
        if labels is not None:
            check_labels(labels, pixel_values)
            labels, usable = usable_labels(self, pixel_values, labels)
        elif not (torch.compiler.is_compiling() or pixel_values.is_meta):
            check_unusable_pixels(unusable_pixels(pixel_values).tolist())
        if self.training:
            size = self._training_size(pixel_values, labels)
        else:
            size = coarse_size(pixel_values.shape[-2:], self.config.coarse_size, self.config.patch_size)
        asked = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        asked = {name: value for name, value in asked.items() if value is not None}
        outputs = self.model(resize_bilinear(pixel_values, size), return_dict=True, **asked)
        decoded, loss = self.decode(outputs.feature_maps), None
        logits = self.logits_of(decoded)
        if labels is not None:
            loss = self.loss_of(decoded, labels[:, ::2, ::2] if self.training else labels)
            loss = spoil_unless(usable, loss, logits)
        return SemanticSegmenterOutput(loss, logits, outputs.hidden_states, outputs.attentions)

    def _training_size(self, pixel_values: torch.Tensor, labels: torch.Tensor | None) -> tuple[int, int]:
        height, width = pixel_values.shape[-2:]
        if labels is None:
            raise ValueError("labels are needed in training mode; call model.eval() for predictions without them")
        if labels.shape[-2:] != pixel_values.shape[-2:]:
            raise ValueError(
                f"in training mode labels must have the images' size {height, width}, got {tuple(labels.shape[-2:])}"
            )
        step = 2 * self.config.patch_size
        if height % step or width % step:
            raise ValueError(
                f"training needs a height and width in multiples of {step}, got {height}x{width}; the nearest legal "
                f"size is {nearest_multiple(height, step)}x{nearest_multiple(width, step)}"
            )
        return height // 2, width // 2

    @torch.no_grad()
    def segment(
        self,
        images: torch.Tensor | Sequence[torch.Tensor],
        target_sizes: Sequence[tuple[int, int]] | None = None,
        refine: bool | str | None = None,
        in_strips: bool = False,
    ) -> list[VFMSegLabelMap]:
        """
        Label maps of images, those of `forward`'s logits; without windows, and with these logits as the coarse ones.

        Args:
            images (`torch.Tensor` of shape `(batch_size, 3, height, width)`, or a sequence of `(3, height, width)`):
                Normalised images, of different sizes if need be.
            target_sizes (`list[tuple[int, int]]`, *optional*): height and width of each label map.
            refine (`bool`, *optional*): as of VFMSeg; there is nothing to refine, so that both are the same.
            in_strips (`bool`): as of VFMSeg; logits are small here, and `False` is all that there is.

        Raises:
            ValueError: in training mode, or on arguments that mean nothing here.
        """
        if self.training:
            raise ValueError("segment needs the model in eval mode; call model.eval() first")
        if refine not in (None, True, False) or in_strips:
            raise ValueError(
                f"a {self.config.model_type} model looks at an image once and has no windows: leave refine={refine!r} "
                f"and in_strips={in_strips} out"
            )
        if len(images) == 0:
            raise ValueError("there are no images to segment; the batch is empty")
        if target_sizes is None:
            target_sizes = [tuple(image.shape[-2:]) for image in images]
        target_sizes = as_target_sizes(target_sizes, len(images))
        of_size: dict[tuple[int, ...], list[int]] = {}
        for number, image in enumerate(images):
            of_size.setdefault(tuple(image.shape), []).append(number)
        results: dict[int, VFMSegLabelMap] = {}
        for numbers in of_size.values():
            logits = self(torch.stack([images[number] for number in numbers]), return_dict=True).logits
            for of_image, number in zip(logits, numbers, strict=True):
                results[number] = VFMSegLabelMap(*label_map(of_image, target_sizes[number]), of_image, [], [], [])
        return [results[number] for number in range(len(images))]

    # --- loading and saving

    @classmethod
    def from_backbone(cls, name_or_path: str | os.PathLike, config, dtype: torch.dtype = torch.float32) -> Self:
        """A model of this configuration with the encoder of a foundation model, and new heads."""
        model = build_on_backbone(cls, config, name_or_path, {}, dtype=dtype)
        del model.adapter_base, model.adapter_base_fingerprint  # adapters on these models are not saved by themselves
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, *model_args, **kwargs):
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        if pretrained_model_name_or_path is not None:
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            model.loaded_from = checkpoint_place(pretrained_model_name_or_path, kwargs)
        return loaded

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        **kwargs,
    ) -> None:
        """
        As everywhere in transformers; with LoRA attached a copy is saved that has it folded in.

        Args:
            state_dict: with LoRA, that of this model: what is folded in are these weights.
        """
        model = self
        if self._hf_peft_config_loaded:
            model = copy.deepcopy(self)
            if state_dict is not None:
                model.load_state_dict(state_dict)
                state_dict = None
            merge_lora(model)
        super(SingleStageModel, model).save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
