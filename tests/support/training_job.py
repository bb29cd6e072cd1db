# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Trainings that tests run, in processes that they kill or start several of."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainerCallback, set_seed

from tests.support.blocks import rows
from tests.support.tiny import BACKBONE, REFINER, give_base
from vfmseg_hf import VFMSegConfig, VFMSegForSemanticSegmentation, VFMSegImageProcessor, lora_config
from vfmseg_hf.training import (
    Augmentation,
    EvaluationImages,
    TrainingImages,
    VFMSegTrainer,
    VFMSegTrainingArguments,
)
from vfmseg_hf.utils.processes import leave_processes


NOTHING_RANDOM = {"refine_dropout": 0.0, "head_dropout": 0.0, "feature_mask_ratio": 0.0}


class KillWhileSaving(TrainerCallback):
    """
    The main process dies by SIGKILL while it writes the checkpoint of a step, after the model and before the rest.

    Another one may be at its part of the rest before the main process begins with the model, and would die too early.
    """

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step and state.is_world_process_zero:
            torch.save = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)


class AskToStop(TrainerCallback):
    """The main process gets a signal in the middle of a step."""

    def __init__(self, step: int, number: int):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step and state.is_world_process_zero:
            os.kill(os.getpid(), self.number)


def make_model(lora: bool | dict, exact: bool, **options) -> VFMSegForSemanticSegmentation:
    """
    A tiny model with seeded weights.

    Args:
        lora: whether it has LoRA, or the arguments of `lora_config` that differ from rank 2.
        exact: without dropout and masking, and with a batch norm that keeps its statistics in training.
        options: fields of the model's configuration.
    """
    set_seed(7)
    model = VFMSegForSemanticSegmentation(
        VFMSegConfig(backbone_config=BACKBONE, **REFINER, **(NOTHING_RANDOM if exact else {}), **options)
    )
    for head in (model.coarse_head, model.refine_head):
        head.classifier.weight.data.mul_(60)
    if lora:
        given = {"r": 2, **({"lora_dropout": 0.0} if exact else {}), **(lora if isinstance(lora, dict) else {})}
        give_base(model).add_adapter(lora_config(model.config, **given))
    if exact:
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.train = lambda mode=True, module=module: module
                module.training = False
    return model


def run(
    output_dir: str,
    lora: bool | dict = False,
    steps: int = 6,
    batch_size: int = 2,
    images: int = 6,
    exact: bool = False,
    resume: bool = False,
    score: bool = False,
    kill_while_saving: int | None = None,
    stop_at: int | None = None,
    stop_by: int = signal.SIGTERM,
    options: dict | None = None,
    **settings,
) -> VFMSegTrainer:
    """Trains, and leaves `result.json` with the losses and scores, and the weights in `final`."""
    processor = VFMSegImageProcessor(do_resize=False)
    arguments = VFMSegTrainingArguments(
        output_dir=output_dir,
        **{"max_steps": steps, "logging_steps": 1, "save_steps": 1, "disable_tqdm": True, "use_cpu": True}
        | {"report_to": "none", "learning_rate": 1e-3, "encoder_learning_rate": 1e-3, "seed": 3}
        | {"per_device_train_batch_size": batch_size}
        | settings,
    )
    callbacks = [KillWhileSaving(kill_while_saving)] if kill_while_saving else []
    callbacks += [AskToStop(stop_at, stop_by)] if stop_at else []
    trainer = VFMSegTrainer(
        make_model(lora, exact, **(options or {})),
        arguments,
        train_dataset=TrainingImages(rows(images), processor, Augmentation(crop_size=(64, 64)), seed=3),
        eval_dataset={
            "mixed": EvaluationImages(rows(5, sizes=((80, 112), (96, 64))), processor),
            "other": EvaluationImages(rows(3, seed=5), processor),
        },
        callbacks=callbacks,
    )
    scores = trainer.evaluate() if score else None
    set_seed(3)  # loaders of evaluations draw from torch's generator, as often as there are processes
    trainer.train(resume_from_checkpoint=resume)
    if trainer.stopped_by:
        assert stop_at and trainer.stopped_by == stop_by
        return trainer
    trainer.save_model(os.path.join(output_dir, "final"))
    total = sum(float(weight.detach().double().sum()) for weight in trainer.model.parameters())
    state = {"weights": total, "best": trainer.state.best_model_checkpoint, "step": trainer.state.best_global_step}
    Path(output_dir, f"rank{trainer.args.process_index}.json").write_text(json.dumps(state))
    if trainer.is_world_process_zero():
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        result = {
            "losses": [[entry[key] for key in ("loss", "content_loss", "detail_loss")] for entry in logs],
            "scores": scores,
            "unused": getattr(trainer.model_wrapped, "find_unused_parameters", None),
        }
        Path(output_dir, "result.json").write_text(json.dumps(result))
    return trainer


def run_all(jobs: Sequence[dict]) -> None:
    """One job after the other, in this process or in those that were started together."""
    for job in jobs:
        run(**job)
    leave_processes()
