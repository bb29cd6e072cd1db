# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The configuration that methods share: an encoder and what it sees, as VFMSeg has them."""

import copy

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers.configuration_utils import PreTrainedConfig

from ..model.configuration_vfmseg import BESIDE_FIELDS, VFMSegConfig


@strict
class MethodConfig(PreTrainedConfig):
    """
    Configuration of a [`SingleStageModel`]. Fields that [`VFMSegConfig`] has too have its meaning, defaults and limits;
    a subclass adds those of its head.

    Raises:
        ValueError: as [`VFMSegConfig`], or for names that are no fields.
    """

    sub_configs_defaults = VFMSegConfig.sub_configs_defaults

    backbone_config: dict | PreTrainedConfig | None = None
    backbone_name_or_path: str | None = None
    patch_size: int = 16
    out_indices: list[int] | tuple[int, ...] | None = None
    coarse_size: int | list[int] | tuple[int, int] = 512
    semantic_loss_ignore_index: int = 255
    position_interpolation: str = "size"

    keys_to_ignore_at_inference = ["hidden_states", "attentions"]

    def __post_init__(self, **kwargs):
        if unknown := sorted(set(kwargs) - BESIDE_FIELDS):
            raise ValueError(f"{unknown} are no fields of {type(self).__name__}; it has {sorted(self.own_fields())}")
        classes = {"id2label": self.id2label, "label2id": self.label2id, "num_labels": kwargs.get("num_labels")}
        known = self.as_vfmseg(**{name: value for name, value in classes.items() if value is not None})
        for name in self.shared_fields():
            setattr(self, name, getattr(known, name))
        self.id2label, self.label2id = known.id2label, known.label2id
        kwargs.pop("num_labels", None)
        super().__post_init__(**kwargs)
        self.label2id = {name: int(index) for name, index in known.label2id.items()}

    @classmethod
    def own_fields(cls) -> list[str]:
        """Names of all fields but those that every configuration of transformers has."""
        return [name for name in cls.__dataclass_fields__ if name not in PreTrainedConfig.__dataclass_fields__]

    @classmethod
    def shared_fields(cls) -> list[str]:
        """Those of them that are VFMSeg's."""
        return [name for name in cls.own_fields() if name in VFMSegConfig.__dataclass_fields__]

    @classmethod
    def of(cls, config: VFMSegConfig, **fields) -> "MethodConfig":
        """With the same encoder and classes, and all that both have."""
        shared = {name: getattr(config, name) for name in cls.shared_fields()}
        return cls(**{**shared, **fields}, id2label=config.id2label)

    def as_vfmseg(self, **more) -> VFMSegConfig:
        """What it shares with VFMSeg, as its modules take it, and with its limits."""
        fields = {name: getattr(self, name) for name in self.shared_fields()}
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


@strict
class PixelwiseMethodConfig(MethodConfig):
    """Of a head whose loss is that of VFMSeg's: cross entropy of every pixel."""

    loss_normalization: str = "valid"
    class_weights: list[float | int] | tuple[float | int, ...] | None = None
    label_smoothing_factor: float | int = 0.0
