# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints that are whole or absent, and give back adapters and averaged weights exactly."""

import os
import shutil
from contextlib import nullcontext

from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint, rotate_checkpoints

from ..methods import SingleStageModel, auto_class_of
from ..model.adapters import check_same_lora, read_adapter_weights
from .averaging import FILE as TRAINING_WEIGHTS
from .averaging import WeightAverage


UNFINISHED = "_unfinished"  # folder in output_dir; no resume looks into it, and names with _ are not pushed


def check_is_kept_apart(model: nn.Module) -> None:
    """Raise a `ValueError` if a model has LoRA, and is saved with it folded in, from where it cannot be had back."""
    if getattr(model, "_hf_peft_config_loaded", False) and isinstance(model, SingleStageModel):
        raise ValueError(
            f"checkpoints of a {model.config.model_type} model have LoRA folded in, so that a training with it can "
            "neither be resumed nor load its best model: leave --resume and load_best_model_at_end out, or train the "
            "whole encoder or none of it (--tune full, --tune none)"
        )


class CheckpointedTrainer(Trainer):
    """
    [`Trainer`] whose checkpoints appear under their name when all of their files are written, by all processes.

    With `ema_decay` their model files hold the averaged weights, which are also those that are evaluated.
    """

    average: WeightAverage | None = None
    best_loaded: bool = False  # whether the weights are those of the best step, no longer of the last
    _unfinished: str | None = None

    # --- saving

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        run_dir = self._get_output_dir(trial)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        unfinished, target = os.path.join(run_dir, UNFINISHED), os.path.join(run_dir, name)
        first_on_machine = self.args.local_process_index == 0
        if first_on_machine:
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that died
        self.accelerator.wait_for_everyone()
        self._unfinished = unfinished
        try:
            super()._save_checkpoint(model, trial)
            self._unfinished = None
            self._place_of_best(run_dir)
            if self.args.should_save:
                self.state.save_to_json(os.path.join(unfinished, name, TRAINER_STATE_NAME))
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                shutil.rmtree(
                    target, ignore_errors=True
                )  # a run that went on from an earlier checkpoint comes by again
                os.replace(os.path.join(unfinished, name), target)
        except BaseException as error:
            self._unfinished = None
            shutil.rmtree(unfinished, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            raise OSError(
                f"the checkpoint {target} could not be written and was removed ({error}); {self._last_checkpoint()}"
            ) from error
        self.accelerator.wait_for_everyone()
        if first_on_machine:
            if os.path.isdir(os.path.join(unfinished, name)):  # of a machine with a disk of its own
                os.replace(os.path.join(unfinished, name), target)
            shutil.rmtree(unfinished, ignore_errors=True)
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=run_dir,
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        if self.args.push_to_hub:
            super()._push_from_checkpoint(target)

    def _place_of_best(self, run_dir: str) -> None:
        """Every process learns where the best checkpoint will be, which is not in the folder it is written in."""
        best = self.state.best_global_step
        folder = os.path.join(run_dir, f"{PREFIX_CHECKPOINT_DIR}-{best}")
        if best and (best == self.state.global_step or os.path.isdir(folder)):
            self.state.best_model_checkpoint = folder

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
            check_is_kept_apart(model)
            check_same_lora(model, resume_from_checkpoint)
            read_adapter_weights(model, resume_from_checkpoint, model.active_adapters()[0])
        elif auto_class_of(self.model.config):
            self._read_weights(resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _read_weights(self, checkpoint: str) -> None:
        """Into a model of transformers, whose files may have other names of weights than it has."""
        stored = type(self.model).from_pretrained(checkpoint, dtype=self.model.dtype)
        self.model.load_state_dict(stored.state_dict())

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.args.ema_decay is not None:
            self.average = WeightAverage(self.model, self.args.ema_decay)
            if resume_from_checkpoint is not None:
                self.average.load_weights(resume_from_checkpoint)
        return prepared

    def _run_epoch(self, *args, **kwargs) -> None:
        """Nothing where all steps are made: Trainer would make one more, if a finished run is resumed."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _load_best_model(self) -> None:
        if getattr(self.model, "_hf_peft_config_loaded", False):
            read_adapter_weights(self.model, self.state.best_model_checkpoint, self.model.active_adapters()[0])
        elif auto_class_of(self.model.config):
            self._read_weights(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()
        self.average = None  # it is in the model now
        self.best_loaded = True

    def _finalize_training(self, *args, **kwargs):
        output = super()._finalize_training(*args, **kwargs)
        if self.average is not None:
            self.average.swap()
            self.average = None
        return output

    def averaged(self):
        """A context in which the model has the averaged weights, if there are any."""
        return nullcontext() if self.average is None else self.average.applied()
