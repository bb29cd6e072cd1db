# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""
A linear head on a foundation model: the baseline of the paper's Table 2 with a frozen encoder, and the first row of its
decoders (Table 3) with LoRA. The images are seen as by VFMNet, so that nothing but the decoder differs.
"""

import copy

import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers.configuration_utils import PreTrainedConfig

from ..model.configuration_vfmseg import BESIDE_FIELDS, VFMSegConfig
from ..model.encoders import get_encoder_family
from ..model.heads import VFMSegClassifier
from ..model.modeling_vfmseg import VFMSegModel
from .single_stage import SingleStageModel


@strict
class VFMSegLinearConfig(PreTrainedConfig):
    """
    Configuration of [`VFMSegLinearForSemanticSegmentation`]. All fields are those of the same name in [`VFMSegConfig`],
    with its defaults and limits; nothing is here of what only VFMSeg has.

    Raises:
        ValueError: as [`VFMSegConfig`], or for names that are no fields.
    """

    model_type = "vfmseg_linear"
    sub_configs_defaults = VFMSegConfig.sub_configs_defaults

    backbone_config: dict | PreTrainedConfig | None = None
    backbone_name_or_path: str | None = None
    patch_size: int = 16
    out_indices: list[int] | tuple[int, ...] | None = None
    coarse_size: int | list[int] | tuple[int, int] = 512
    semantic_loss_ignore_index: int = 255
    loss_normalization: str = "valid"
    class_weights: list[float | int] | tuple[float | int, ...] | None = None
    label_smoothing_factor: float | int = 0.0
    position_interpolation: str = "size"

    keys_to_ignore_at_inference = ["hidden_states", "attentions"]

    def __post_init__(self, **kwargs):
        if unknown := sorted(set(kwargs) - BESIDE_FIELDS):
            raise ValueError(f"{unknown} are no fields of VFMSegLinearConfig; it has {sorted(self.__annotations__)}")
        classes = {"id2label": self.id2label, "label2id": self.label2id, "num_labels": kwargs.get("num_labels")}
        known = self.as_vfmseg(**{name: value for name, value in classes.items() if value is not None})
        for name in self.__annotations__:
            setattr(self, name, getattr(known, name))
        self.id2label, self.label2id = known.id2label, known.label2id
        kwargs.pop("num_labels", None)
        super().__post_init__(**kwargs)
        self.label2id = {name: int(index) for name, index in known.label2id.items()}

    @classmethod
    def of(cls, config: VFMSegConfig) -> "VFMSegLinearConfig":
        """With the same encoder and classes, and all that both have."""
        return cls(**{name: getattr(config, name) for name in cls.__annotations__}, id2label=config.id2label)

    def as_vfmseg(self, **more) -> VFMSegConfig:
        """The encoder's side of it, as the modules of VFMSeg take it, and with their limits."""
        fields = {name: getattr(self, name) for name in self.__annotations__}
        # A copy, as a new configuration chooses the attention of the parts that it is given.
        fields["backbone_config"] = copy.deepcopy(self.backbone_config)
        try:
            return VFMSegConfig(**fields, **more)
        except StrictDataclassError as error:
            raise ValueError(str(error.__cause__ or error)) from error

    def validate_as_vfmseg(self) -> None:
        self.as_vfmseg(id2label=self.id2label)

    def to_diff_dict(self) -> dict[str, object]:
        """As in transformers, but always with the classes."""
        return {**super().to_diff_dict(), "id2label": self.id2label, "label2id": self.label2id}


class VFMSegLinearHead(nn.Module):
    """Batch norm of the concatenated feature maps and a 1×1 convolution, without an activation between."""

    def __init__(self, channels: int, num_labels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = VFMSegClassifier(channels, num_labels)

    def forward(self, feature_maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return self.classifier(self.norm(torch.cat(list(feature_maps), dim=1)))


class VFMSegLinearForSemanticSegmentation(SingleStageModel):
    """
    A foundation model and one linear layer: logits at a sixteenth of what it sees.

    Example:

    ```python
    >>> from vfmseg_hf.training.model import start_model

    >>> model = start_model("facebook/dinov2-small", decoder="linear", id2label={0: "free", 1: "blocked"})
    ```
    """

    config_class = VFMSegLinearConfig
    heads = ("linear_head",)

    def __init__(self, config: VFMSegLinearConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        encoder = config.as_vfmseg()
        encoder.backbone_config = config.backbone_config
        self.model = VFMSegModel(encoder)
        width = get_encoder_family(config.backbone_config).hidden_size(config.backbone_config)
        self.linear_head = VFMSegLinearHead(len(config.out_indices) * width, config.num_labels)
        self.post_init()

    def decode(self, feature_maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return self.linear_head(feature_maps)
