# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints that are whole or absent, and give back adapters and averaged weights exactly."""

import os
import shutil
from contextlib import nullcontext

from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint, rotate_checkpoints

from ..adapters_vfmseg import read_adapter_weights
from .averaging import FILE as TRAINING_WEIGHTS
from .averaging import WeightAverage


UNFINISHED = ".unfinished"  # folder in output_dir; no resume looks into it


class CheckpointedTrainer(Trainer):
    """
    [`Trainer`] whose checkpoints appear under their name when all of their files are written, by all processes.

    With `ema_decay` their model files hold the averaged weights, which are also those that are evaluated.
    """

    average: WeightAverage | None = None
    _unfinished: str | None = None

    # --- saving

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        run_dir = self._get_output_dir(trial)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        unfinished = os.path.join(run_dir, UNFINISHED)
        if self.args.should_save:
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that died
        self.accelerator.wait_for_everyone()
        self._unfinished = unfinished
        try:
            super()._save_checkpoint(model, trial)
            self._unfinished = None
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._finish_checkpoint(run_dir, name)
            self.accelerator.wait_for_everyone()
        except BaseException as error:
            self._unfinished = None
            shutil.rmtree(unfinished, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            raise OSError(
                f"the checkpoint {os.path.join(run_dir, name)} could not be written and was removed ({error}); "
                f"{self._last_checkpoint()}"
            ) from error
        if self.args.push_to_hub:
            super()._push_from_checkpoint(os.path.join(run_dir, name))

    def _finish_checkpoint(self, run_dir: str, name: str) -> None:
        source, target = os.path.join(run_dir, UNFINISHED, name), os.path.join(run_dir, name)
        best = self.state.best_global_step
        if best:
            folder = os.path.join(run_dir, f"{PREFIX_CHECKPOINT_DIR}-{best}")
            if best == self.state.global_step or os.path.isdir(folder):
                self.state.best_model_checkpoint = folder
            self.state.save_to_json(os.path.join(source, TRAINER_STATE_NAME))
        shutil.rmtree(target, ignore_errors=True)  # a run that went on from an earlier checkpoint comes by again
        os.replace(source, target)
        os.rmdir(os.path.dirname(source))
        rotate_checkpoints(
            output_dir=run_dir,
            save_total_limit=self.args.save_total_limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
            use_mtime=True,
        )

    def _get_output_dir(self, trial) -> str:
        return self._unfinished or super()._get_output_dir(trial)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing yet: the folder is still to be renamed, `_save_checkpoint` pushes it then."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with self.averaged():
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.average is not None and self.args.should_save:
            self.average.save_weights(output_dir)

    def _last_checkpoint(self) -> str:
        directory = self.args.output_dir
        last = get_last_checkpoint(directory) if os.path.isdir(directory) else None
        return f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"

    # --- loading

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        averaged = os.path.isfile(os.path.join(resume_from_checkpoint, TRAINING_WEIGHTS))
        if averaged != (self.args.ema_decay is not None):
            raise ValueError(
                f"{resume_from_checkpoint} was trained {'with' if averaged else 'without'} ema_decay, this run is "
                f"{'with' if self.args.ema_decay is not None else 'without'} it; resume with the same arguments"
            )
        model = self.model if model is None else model
        if getattr(model, "_hf_peft_config_loaded", False):
            read_adapter_weights(model, resume_from_checkpoint, model.active_adapters()[0])
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.args.ema_decay is not None:
            self.average = WeightAverage(self.model, self.args.ema_decay)
            if resume_from_checkpoint is not None:
                self.average.load_weights(resume_from_checkpoint)
        return prepared

    def _load_best_model(self) -> None:
        if getattr(self.model, "_hf_peft_config_loaded", False):
            read_adapter_weights(self.model, self.state.best_model_checkpoint, self.model.active_adapters()[0])
        else:
            super()._load_best_model()
        self.average = None  # it is in the model now

    def _finalize_training(self, *args, **kwargs):
        output = super()._finalize_training(*args, **kwargs)
        if self.average is not None:
            self.average.swap()
            self.average = None
        return output

    def averaged(self):
        """A context in which the model has the averaged weights, if there are any."""
        return nullcontext() if self.average is None else self.average.applied()
