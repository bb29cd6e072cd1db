# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Trainer with the paper's recipe: two learning rates, streaming mIoU over domains, exact resume."""

import os
import shutil
import time
from collections import defaultdict

import numpy as np
import torch
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput

from ..adapters_vfmseg import read_adapter_weights
from ..evaluation import STAGES, count_pictures, score_domain
from .arguments import VFMSegTrainingArguments
from .data import EpochSampler, TrainingPictures, collate


class VFMSegTrainer(Trainer):
    """
    transformers' [`Trainer`] for VFMSeg models; arguments as there.

    Train on [`TrainingPictures`], evaluate on [`EvaluationPictures`], or on several by name:
    `eval_dataset={"night": ..., "rain": ...}` gives `eval_night_mean_iou`, `eval_night_coarse_mean_iou`, ... and their
    means `eval_mean_iou`, `eval_coarse_mean_iou`. Scores are fractions, at each label map's own size.

    Both losses, both learning rates and the images per second are logged. A loss that is not finite ends the training
    with a `FloatingPointError` that names the batch's files; checkpoints are left as they are.
    """

    args: VFMSegTrainingArguments

    def __init__(self, model=None, args: VFMSegTrainingArguments | None = None, data_collator=None, **kwargs):
        super().__init__(model, args, data_collator=data_collator or collate, **kwargs)
        self.train_sampler: EpochSampler | None = None
        self._sums, self._since_log = defaultdict(float), time.perf_counter()
        if self.pop_callback(ProgressCallback):
            self.add_callback(RecipeProgress())
        self.add_callback(TellEpoch(self))

    # --- recipe

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """All parameters but weights and biases of normalisations (other biases and the mask token decay)."""
        norms = {name for name, module in model.named_modules() if "Norm" in type(module).__name__}
        return [name for name, _ in model.named_parameters() if name.rpartition(".")[0] not in norms]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over four groups: heads and encoder, with and without weight decay."""
        if self.optimizer is None:
            model = self.model if model is None else model
            decaying = set(self.get_decay_parameter_names(model))
            trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
            groups = []
            # The heads come first: the first group's rate is the one that Trainer logs as learning_rate.
            for of_encoder, rate in ((False, self.args.learning_rate), (True, self.args.encoder_learning_rate)):
                for decays, weight_decay in ((True, self.args.weight_decay), (False, 0.0)):
                    parameters = [
                        parameter
                        for name, parameter in trained
                        if ("model.encoder." in name) == of_encoder and (name in decaying) == decays
                    ]
                    groups.append({"params": parameters, "lr": rate, "weight_decay": weight_decay})
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class([group for group in groups if group["params"]], **settings)
        return self.optimizer

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(dataset, TrainingPictures):
            return super()._get_train_sampler(dataset)
        self.train_sampler = EpochSampler(len(dataset), self.args.seed)
        return self.train_sampler

    # --- training steps and their log

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        files = inputs.pop("file_name", ["(no file names)"])
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if not torch.isfinite(loss):
            last = self._last_checkpoint()
            raise FloatingPointError(
                f"the loss is {float(loss.detach())} at step {self.state.global_step} on {', '.join(files)}. Look at "
                f"these files and lower the learning rates; {last}"
            )
        for name in ("content_loss", "detail_loss"):
            self._sums[name] += outputs[name].detach().mean()
        self._sums["batches"] += 1
        self._sums["images"] += len(inputs["pixel_values"]) * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def _last_checkpoint(self) -> str:
        directory = self.args.output_dir
        steps = [
            int(name.rpartition("-")[2])
            for name in (os.listdir(directory) if os.path.isdir(directory) else [])
            if name.startswith(PREFIX_CHECKPOINT_DIR) and name.rpartition("-")[2].isdigit()
        ]
        if not steps:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is {os.path.join(directory, f'{PREFIX_CHECKPOINT_DIR}-{max(steps)}')}"

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._sums["batches"]:
            for name in ("content_loss", "detail_loss"):
                logs[name] = float(self._sums[name] / self._sums["batches"])
            ratio = self.args.encoder_learning_rate / self.args.learning_rate if self.args.learning_rate else 0.0
            logs["encoder_learning_rate"] = logs["learning_rate"] * ratio
            now = time.perf_counter()
            logs["images_per_second"] = round(self._sums["images"] / (now - self._since_log), 2)
            self._sums, self._since_log = defaultdict(float), now
        super().log(logs, start_time)

    # --- evaluation

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            counts = count_pictures(
                model,
                list(inputs["pixel_values"]),
                list(inputs["labels"]),
                self.model.config.num_labels,
                self.model.config.semantic_loss_ignore_index,
            )
        return None, counts, None

    def evaluation_loop(self, dataloader, description, *args, metric_key_prefix="eval", **kwargs) -> EvalLoopOutput:
        output = super().evaluation_loop(dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        matrices, windows = output.predictions
        name = metric_key_prefix.removeprefix("eval_")
        domain = score_domain(matrices, windows, dataloader.dataset.evaluation, name)
        for stage, prefix in zip(STAGES, ("coarse_", ""), strict=True):
            output.metrics[f"{metric_key_prefix}_{prefix}mean_iou"] = domain.scores[stage]["mean_iou"]
        output.metrics[f"{metric_key_prefix}_num_classes"] = domain.num_classes
        output.metrics[f"{metric_key_prefix}_refined"] = domain.refined
        return output

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        datasets = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(datasets, dict):
            means = {
                f"{metric_key_prefix}_{key}": float(
                    np.mean([metrics[f"{metric_key_prefix}_{name}_{key}"] for name in datasets])
                )
                for key in ("mean_iou", "coarse_mean_iou")
            }
            self.log(dict(means))
            metrics.update(means)
        self._since_log = time.perf_counter()
        return metrics

    # --- checkpoints

    def _save_checkpoint(self, model, trial) -> None:
        folder = os.path.join(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        try:
            super()._save_checkpoint(model, trial)
        except BaseException as error:  # an interrupted save as well: a resume would pick the half checkpoint
            shutil.rmtree(folder, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            raise OSError(
                f"the checkpoint {folder} could not be written and was removed ({error}); {self._last_checkpoint()}"
            ) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        model = self.model if model is None else model
        if getattr(model, "_hf_peft_config_loaded", False):
            read_adapter_weights(model, resume_from_checkpoint, model.active_adapters()[0])
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if getattr(self.model, "_hf_peft_config_loaded", False):
            read_adapter_weights(self.model, self.state.best_model_checkpoint, self.model.active_adapters()[0])
        else:
            super()._load_best_model()


class TellEpoch(TrainerCallback):
    """Tells the sampler the epoch: accelerate does not pass it on to the sampler of a sharded data loader."""

    def __init__(self, trainer: VFMSegTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.trainer.train_sampler is not None:
            self.trainer.train_sampler.set_epoch(int(state.epoch or 0))

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer._since_log = time.perf_counter()


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
