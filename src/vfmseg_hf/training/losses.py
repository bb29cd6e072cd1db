# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Options of the loss, and losses of the user's own, on their way from a trainer's arguments into the model."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers.trainer_utils import unwrap_peft_model

from ..model.objective import check_loss_options
from ..model.outputs import VFMSegSemanticSegmenterOutput
from .arguments import VFMSegTrainingArguments


def set_loss_options(model: nn.Module, args: VFMSegTrainingArguments) -> None:
    """
    Write `class_weights` and `label_smoothing_factor` into the model's configuration where the arguments give them.

    Raises:
        ValueError: they do not fit the model's classes.
    """
    given = {"class_weights": args.class_weights, "label_smoothing_factor": args.label_smoothing_factor}
    given = {name: value for name, value in given.items() if value is not None}
    if unknown := [name for name in given if not hasattr(model.config, name)]:
        raise ValueError(f"the loss of a {model.config.model_type} model has no {unknown[0]}; leave it out")
    checked = copy.deepcopy(model.config)
    try:
        for name, value in given.items():
            setattr(checked, name, value)
        checked.validate()
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error
    for name, value in given.items():
        setattr(model.config, name, value)


class OwnLoss:
    """
    transformers' `compute_loss_func(outputs, labels, num_items_in_batch)` as the loss of each stage of a model.

    Args:
        function: gets the stage's logits `[B, num_labels, H, W]` in `outputs.logits`, labels `[B, H, W]` and `None`.
    """

    def __init__(self, function: Callable[..., torch.Tensor]):
        self.function = function

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.function(VFMSegSemanticSegmenterOutput(logits=logits), labels, num_items_in_batch=None)

    def check(self, model: nn.Module) -> None:
        """Raise a `ValueError` if the model has a loss, or options of its loss, that this one would replace."""
        model = unwrap_peft_model(model)
        if model.loss_function is not None:
            raise ValueError("compute_loss_func and model.loss_function are both set; leave out one or the other")
        with self.applied(model):
            check_loss_options(model)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model has this loss inside."""
        model = unwrap_peft_model(model)
        before, model.loss_function = model.loss_function, self
        try:
            yield
        finally:
            model.loss_function = before
