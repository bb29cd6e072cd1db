# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What the converter needs to know of an encoder of the published code."""

import re
from collections.abc import Iterable
from typing import ClassVar

import torch
from transformers import AutoModel, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from .names import ConvertedWeights, StateDict, renamer


LORA_FACTOR = re.compile(r"(.+)\.lora_([AB])\.default\.weight")


class PublishedEncoder:
    """
    One encoder of the published code. A subclass holds its names and habits; it has no state.

    Attributes:
        model_type: of the library's configuration that this encoder has here.
        rules: (regular expression of a published key, name or names here). Several names share the rows of one tensor
            in this order: a fused qkv layer, and a LoRA on it, which is three LoRAs with the same A.
        dropped: (regular expression of a published key, reason to leave the tensor out).
        backbone_options: fields of the encoder's configuration as the published code has them, where the library's
            class has other defaults.
        no_named_base: why an adapter cannot name the original foundation model as its base, if so.
        raw_prefix: what the encoder's keys begin with in the foundation model's original file; see `raw_prefix_of`.
        raw_dropped: as `dropped`, for that file's whole keys.
    """

    model_type: ClassVar[str]
    rules: ClassVar[tuple[tuple[str, str | tuple[str, ...]], ...]]
    dropped: ClassVar[tuple[tuple[str, str], ...]] = ()
    backbone_options: ClassVar[dict[str, object]] = {}
    no_named_base: ClassVar[str | None] = None
    raw_prefix: ClassVar[str] = ""
    raw_dropped: ClassVar[tuple[tuple[str, str], ...]] = ()

    def convert(self, weights: StateDict, converted: ConvertedWeights, prefix: str) -> list[str]:
        """
        Sort published tensors into `converted`.

        Args:
            weights: tensors under the published names.
            converted: receives the encoder's tensors, the LoRA factors and the dropped keys.
            prefix: what precedes the encoder's names; keys without it are unknown.

        Returns:
            The keys that no rule knows.

        Raises:
            ValueError: if a LoRA has only one of its factors, or tensors that belong together do not fit.
        """
        rename, unknown, factors = renamer(self.rules), [], {}
        for key, tensor in weights.items():
            name = key.removeprefix(prefix)
            if not key.startswith(prefix):
                unknown.append(key)
                continue
            if reason := reason_to_drop(name, self.dropped):
                converted.dropped[key] = reason
                continue
            lora = LORA_FACTOR.fullmatch(name)
            targets = rename(f"{lora[1]}.weight" if lora else name.replace(".base_layer.", "."))
            if not targets:
                unknown.append(key)
                continue
            shared = len(targets) == 1 or (lora and lora[2] == "A")
            parts = [tensor] * len(targets) if shared else split_rows(tensor, len(targets), key)
            for target, part in zip(targets, parts, strict=True):
                if lora:
                    factors.setdefault(target.removesuffix(".weight"), {})[lora[2]] = part
                else:
                    converted.encoder[target] = part
        for layer, pair in factors.items():
            if set(pair) != {"A", "B"}:
                raise ValueError(f"the LoRA of {layer} is incomplete: the weights hold only its {sorted(pair)} factor")
            converted.lora[layer] = (pair["A"], pair["B"])
            check_lora(layer, converted)
        return unknown

    def adopt_habits(self, weights: StateDict, config: PreTrainedConfig) -> StateDict:
        """
        Weights that make the library's encoder compute what the published one does.

        Args:
            weights: a published model's encoder under the names here.
            config: the encoder's configuration.
        """
        return weights

    def raw_prefix_of(self, keys: Iterable[str]) -> str:
        """What the encoder's keys begin with in an original file that has these keys."""
        return self.raw_prefix

    def native_config(self, weights: StateDict) -> dict[str, object]:
        """
        What the tensors of an original foundation model tell of its configuration.

        Args:
            weights: the foundation model's tensors under their original names, without `raw_prefix`.

        Returns:
            Fields of the configuration, those that the tensors do not tell `None`; with a `model_type` where it is
            another than the published encoder's.

        Raises:
            ValueError: if a tensor that is needed for it is not there.
        """
        raise NotImplementedError

    def native_model(self, config: PreTrainedConfig) -> PreTrainedModel:
        """The library's model that holds all weights of the original one."""
        return AutoModel.from_config(config)


def reason_to_drop(key: str, dropped: tuple[tuple[str, str], ...]) -> str | None:
    """The reason beside the first pattern that matches the whole key, or `None`."""
    return next((reason for pattern, reason in dropped if re.fullmatch(pattern, key)), None)


def split_rows(tensor: torch.Tensor, parts: int, key: str) -> tuple[torch.Tensor, ...]:
    """Equal parts of a fused layer's rows; a `ValueError` names the layer if there are none."""
    if tensor.dim() == 0 or len(tensor) % parts:
        raise ValueError(f"{key} should hold {parts} layers of one size, but has the shape {tuple(tensor.shape)}")
    return tensor.chunk(parts)


def check_lora(layer: str, converted: ConvertedWeights) -> None:
    """Raise a `ValueError` unless the factors of a layer, A `[rank, in]` and B `[out, rank]`, fit it and the others."""
    a, b = (tuple(factor.shape) for factor in converted.lora[layer])
    weight = converted.encoder.get(f"{layer}.weight")
    rank = converted.rank
    if weight is None or (a, b) != ((rank, weight.shape[-1]), (weight.shape[0], rank)):
        found = None if weight is None else tuple(weight.shape)
        raise ValueError(f"the LoRA of {layer}, A {a} and B {b}, does not fit its weight {found} and the rank {rank}")


def shape_of(weights: StateDict, key: str, dimensions: int) -> tuple[int, ...]:
    """Shape of a tensor; a `ValueError` names it if it is not there, or has another number of dimensions."""
    if key not in weights or weights[key].dim() != dimensions:
        raise ValueError(f"there is no {dimensions}-d tensor {key!r} in the weights; they are of another architecture")
    return tuple(weights[key].shape)


def number_of_blocks(weights: StateDict, pattern: str) -> int:
    """One more than the highest number in the first group of the keys that begin with `pattern`."""
    return 1 + max((int(match[1]) for key in weights if (match := re.match(pattern, key))), default=-1)
