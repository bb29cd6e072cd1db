# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Exponential moving average of the weights that train."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


FILE = "training_weights.safetensors"  # in a checkpoint, whose model files hold the average


def check_decay(decay: float) -> None:
    """Raise a `ValueError` if nothing can be averaged with it."""
    if not 0 < decay < 1:
        raise ValueError(f"ema_decay must lie between 0 and 1, such as 0.999, got {decay}")


def check_start(start: float, decay: float | None) -> None:
    """Raise a `ValueError` if no average can begin after this share of the steps."""
    if not 0 <= start < 1:
        raise ValueError(f"ema_start is a share of the steps and must lie in [0, 1), got {start}")
    if start and decay is None:
        raise ValueError(f"ema_start={start} needs an average that starts: give ema_decay, or leave ema_start out")


class WeightAverage:
    """
    Keeps average = decay * average + (1 - decay) * weight for every parameter that trains, from now on.

    Frozen weights are not copied, and the batch norm's running statistics are the model's own.

    Args:
        model: its trained parameters are averaged.
        decay: in (0, 1); 0.999 averages over about the last thousand steps.

    Raises:
        ValueError: the decay is outside (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        check_decay(decay)
        self.weights = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.average = [parameter.detach().clone() for parameter in self.weights.values()]
        self._average_in = get_ema_multi_avg_fn(decay)
        self._in_model = False

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self._average_in(self.average, [parameter.detach() for parameter in self.weights.values()], None)

    @torch.no_grad()
    def restart(self) -> None:
        """Forget the weights so far: the average is those of now."""
        torch._foreach_copy_(self.average, [parameter.detach() for parameter in self.weights.values()])

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights and their average."""
        for parameter, average in zip(self.weights.values(), self.average, strict=True):
            weight = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average inside, and its training weights again afterwards. Contexts may be nested."""
        if self._in_model:
            yield
            return
        self.swap()
        self._in_model = True
        try:
            yield
        finally:
            self._in_model = False
            self.swap()

    def save_weights(self, checkpoint: str | os.PathLike) -> None:
        """Write the weights that train on into a checkpoint whose model files hold the average."""
        weights = {name: parameter.detach().contiguous() for name, parameter in self.weights.items()}
        save_file(weights, os.path.join(checkpoint, FILE))

    @torch.no_grad()
    def load_weights(self, checkpoint: str | os.PathLike) -> None:
        """
        Go on from a checkpoint whose model files are in the model already.

        Raises:
            ValueError: other parameters train than in the checkpoint.
        """
        stored = load_file(os.path.join(checkpoint, FILE))
        if stored.keys() != self.weights.keys():
            differing = sorted(stored.keys() ^ self.weights.keys())
            raise ValueError(f"{checkpoint} was trained with other trained weights; it differs in {differing[:3]}")
        for (name, parameter), average in zip(self.weights.items(), self.average, strict=True):
            average.copy_(parameter)
            parameter.copy_(stored[name])
