# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What happens beside the steps of a training: progress is shown, and SIGTERM is heeded."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import CallbackHandler, ProgressCallback
from transformers.utils import logging


logger = logging.get_logger(__name__)


class StopOnSigterm(TrainerCallback):
    """
    After SIGTERM, as schedulers send it before they take a machine away, the running step is finished, a checkpoint
    written and the training ended. All processes of a distributed run stop at the same step, whichever was told.

    An evaluation that has begun is finished first; one that is due after the last step is left out, because the time
    that is left is short: `torchrun` kills its processes 30 seconds after it was told.
    """

    def __init__(self, device: torch.device, world_size: int):
        self.device, self.world_size = device, world_size
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """SIGTERM is heeded inside, and does afterwards what it did before."""
        self.asked = False
        if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
            yield
            return
        before = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _ask(self, number, frame) -> None:
        self.asked = True

    def agreed(self) -> bool:
        """Whether any process was asked to stop; all processes call this together."""
        if self.world_size == 1:
            return self.asked
        asked = torch.tensor(float(self.asked), device=self.device)
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        return bool(asked)

    def on_step_end(self, args, state, control, **kwargs):
        if self.agreed():
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False
            if state.is_world_process_zero:
                logger.warning("SIGTERM: saving a checkpoint at step %d and stopping", state.global_step)


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
