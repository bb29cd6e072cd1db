# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What happens beside the steps of a training: progress is shown, and signals are heeded."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState
from transformers.trainer_callback import CallbackHandler, ProgressCallback
from transformers.utils import logging

from ..methods import mask_probabilities


logger = logging.get_logger(__name__)


class AnnealMasks(TrainerCallback):
    """
    Takes the masks out of an EoMT's attention step by step, as its authors do, so that it needs none in the end: its
    buffer `attn_mask_probs` is what [`mask_probabilities`] says of the steps that are made. What is scored or saved
    before that still draws masks, as theirs does.
    """

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self._anneal(model, state)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self._anneal(model, state)

    def _anneal(self, model: torch.nn.Module, state: TrainerState) -> None:
        masked = model.attn_mask_probs
        probabilities = mask_probabilities(state.global_step, state.max_steps, len(masked))
        masked.copy_(torch.tensor(probabilities, dtype=masked.dtype))


class TrainingStopped(Exception):
    """A training was stopped by a signal, after a checkpoint; `status` is what shells give for that."""

    def __init__(self, number: signal.Signals):
        super().__init__(f"stopped by {number.name} after a checkpoint")
        self.status = 128 + number


class StopOnSignal(TrainerCallback):
    """
    After SIGTERM, as schedulers send it before they take a machine away, and after Ctrl-C (SIGINT), the running step is
    finished, a checkpoint written and the training ended. All processes of a distributed run stop at the same step,
    whichever was told. A second Ctrl-C aborts at once.

    An evaluation that has begun is finished first; one that is due after the last step is left out, because the time
    that is left is short: `torchrun` kills its processes 30 seconds after it was told.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)
    # A terminal tells all processes of torchrun of one Ctrl-C, and so does torchrun: nobody presses twice so fast.
    SAME_KEYSTROKE = 1.0

    def __init__(self, device: torch.device, world_size: int):
        self.device, self.world_size = device, world_size
        self.asked: signal.Signals | None = None
        self._when = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Both signals are heeded inside, and do afterwards what they did before."""
        self.asked = None
        if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number, frame) -> None:
        again = self.asked == signal.SIGINT == number
        if again and (self.world_size == 1 or time.monotonic() - self._when > self.SAME_KEYSTROKE):
            raise KeyboardInterrupt
        if not again:
            self.asked, self._when = signal.Signals(number), time.monotonic()

    def agreed(self) -> signal.Signals | None:
        """The signal by which any process was asked to stop; all processes call this together."""
        if self.world_size == 1:
            return self.asked
        asked = torch.full((), float(self.asked or 0), device=self.device)
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        return signal.Signals(int(asked)) if asked else None

    def on_step_end(self, args, state, control, **kwargs):
        if number := self.agreed():
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False
            if state.is_world_process_zero:
                logger.warning("%s: saving a checkpoint at step %d and stopping", number.name, state.global_step)


@contextmanager
def without_early_stopping(handler: CallbackHandler) -> Iterator[None]:
    """
    Early stopping is told nothing inside: of each of several domains it would say that its metric is missing, and
    count a domain's own metric again when it is told of all.
    """
    callbacks = handler.callbacks
    handler.callbacks = [callback for callback in callbacks if not isinstance(callback, EarlyStoppingCallback)]
    try:
        yield
    finally:
        handler.callbacks = callbacks


class RecipeProgress(ProgressCallback):
    """Progress bar with the losses, both learning rates and the speed behind it."""

    SHOWN = {
        "loss": "loss",
        "content_loss": "content",
        "detail_loss": "detail",
        "learning_rate": "lr",
        "encoder_learning_rate": "encoder lr",
        "images_per_second": "img/s",
    }

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or self.training_bar is None:
            return
        if "loss" in logs:
            shown = {short: f"{logs[key]:.3g}" for key, short in self.SHOWN.items() if key in logs}
            self.training_bar.set_postfix(shown, refresh=False)
        else:
            scores = {key: value for key, value in logs.items() if key.endswith("mean_iou")}
            if scores:
                self.training_bar.write(
                    f"step {state.global_step}: "
                    + ", ".join(f"{key} {100 * value:.2f} %" for key, value in scores.items())
                )
