# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Trainer with the paper's recipe: two learning rates, streaming mIoU over domains, exact resume."""

import os
import signal
import time
from collections import defaultdict

import numpy as np
import torch
from torch import nn
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import EvalLoopOutput

from ..adapters_vfmseg import check_result_can_be_loaded
from ..evaluation import STAGES, count_pictures, score_domain
from ..files import write_file
from .arguments import VFMSegTrainingArguments
from .callbacks import FollowSteps, RecipeProgress, StopOnSigterm
from .checkpointing import CheckpointedTrainer
from .data import EpochSampler, TrainingPictures, collate
from .distributed import has_unused_parameters, synchronise_batch_norm
from .recipes import RECORD_NAME, record_training
from .sampling import RareClassSampler


class VFMSegTrainer(CheckpointedTrainer):
    """
    transformers' [`Trainer`] for VFMSeg models; arguments as there.

    Train on [`TrainingPictures`], evaluate on [`EvaluationPictures`], or on several by name:
    `eval_dataset={"night": ..., "rain": ...}` gives `eval_night_mean_iou`, `eval_night_coarse_mean_iou`, ... and their
    means `eval_mean_iou`, `eval_coarse_mean_iou`. Scores are fractions, at each label map's own size.

    Both losses, both learning rates and the images per second are logged. A loss that is not finite ends the training
    with a `FloatingPointError` that names the batch's files; checkpoints are left as they are. Every checkpoint and
    saved model has a `recipe.json` that says what it was trained with.

    Raises:
        ValueError: `ema_decay` outside (0, 1), or together with FSDP, DeepSpeed or `save_only_model`; several GPUs for
            one process.
    """

    args: VFMSegTrainingArguments

    def __init__(self, model=None, args: VFMSegTrainingArguments | None = None, data_collator=None, **kwargs):
        args = VFMSegTrainingArguments(output_dir="trainer_output") if args is None else args
        if args.ddp_find_unused_parameters is None and model is not None:
            args.ddp_find_unused_parameters = has_unused_parameters(model)
        super().__init__(model, args, data_collator=data_collator or collate, **kwargs)
        self._check_arguments()
        self.train_sampler: EpochSampler | None = None
        self.restart_log()
        if self.args.world_size > 1:
            synchronise_batch_norm(self.model, self.args.device)
        if self.pop_callback(ProgressCallback):
            self.add_callback(RecipeProgress())
        self.termination = StopOnSigterm(self.args.device, self.args.world_size)
        self.add_callback(FollowSteps(self))
        self.add_callback(self.termination)

    def _check_arguments(self) -> None:
        args = self.args
        if args.n_gpu > 1:
            raise ValueError(
                f"one process cannot train on {args.n_gpu} GPUs: start one for each, torchrun --nproc_per_node "
                f"{args.n_gpu} scripts/train.py ..., or show it one of them, CUDA_VISIBLE_DEVICES=0"
            )
        if args.ema_decay is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError("ema_decay averages whole weights; it does not work with FSDP or DeepSpeed, leave it out")
        if args.ema_decay is not None and args.save_only_model:
            raise ValueError(
                "with ema_decay a checkpoint's model is the average, and save_only_model would lose the weights that "
                "train on; leave one of them out"
            )

    def train(self, *args, **kwargs):
        """
        As in [`Trainer`].

        Raises:
            ValueError: before the first step, if nobody could load the adapter that would be trained.
            SystemExit: on SIGTERM, after a checkpoint was saved, with the status that shells give for it (143): nothing
                that follows a finished training should follow then.
        """
        check_result_can_be_loaded(self.model)
        self._forget_evaluation()
        with self.termination.listening():
            output = super().train(*args, **kwargs)
            stopped = self.termination.agreed()  # also where it came after the last step
        if stopped:
            raise SystemExit(128 + signal.SIGTERM)
        return output

    def _forget_evaluation(self) -> None:
        """
        Undo what an evaluation before the training has prepared.

        accelerate leaves a model that it has prepared as it is. After an evaluation that is a model without DDP, whose
        processes would train it each for itself, without a word.
        """
        if self.args.world_size > 1 and self.model_wrapped is self.model and self.model in self.accelerator._models:
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
            self.accelerator._models.remove(self.model)
            del self.model._is_accelerate_prepared

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
            if lost := {"lr", "weight_decay"} & set((self.optimizer_cls_and_kwargs or (None, {}))[1]):
                raise ValueError(
                    f"optimizer_cls_and_kwargs sets {sorted(lost)}, which each group has from the training arguments: "
                    "set learning_rate, encoder_learning_rate and weight_decay there"
                )
            optimizer_class, settings = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(
                self.args, model
            )
            self.optimizer = optimizer_class([group for group in groups if group["params"]], **settings)
        return self.optimizer

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.rare_class_sampling:
            self.train_sampler = self._rare_class_sampler(dataset)
        elif isinstance(dataset, TrainingPictures):
            self.train_sampler = EpochSampler(len(dataset), self.args.seed)
        else:
            return super()._get_train_sampler(dataset)
        return self.train_sampler

    def _rare_class_sampler(self, dataset) -> RareClassSampler:
        args = self.args
        if not isinstance(dataset, TrainingPictures) or dataset.class_pixels is None:
            raise ValueError(
                "rare_class_sampling needs to know which picture shows which class: train on TrainingPictures(..., "
                "class_pixels=corpora.count_class_pixels(dataset, num_classes))"
            )
        height, width = dataset.augmentation.crop_size
        needed = args.rare_class_min_pixels * args.rare_class_crop_ratio
        if needed >= height * width:
            raise ValueError(
                f"no crop of {height}x{width} pixels has more than {needed:g} of one class (rare_class_min_pixels "
                f"{args.rare_class_min_pixels} x rare_class_crop_ratio {args.rare_class_crop_ratio}); lower one of "
                "them, or train with rare_class_sampling=False"
            )
        return RareClassSampler(
            dataset.class_pixels,
            args.seed,
            args.rare_class_temperature,
            args.rare_class_min_pixels,
            args.rare_class_crop_ratio,
        )

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
        self._sums["images"] += len(inputs["pixel_values"])
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._sums["batches"]:
            names = ("content_loss", "detail_loss", "batches", "images")
            sums = torch.stack([torch.as_tensor(self._sums[name], device=self.args.device).float() for name in names])
            content, detail, batches, images = self.accelerator.reduce(sums, "sum").tolist()  # over all processes
            logs["content_loss"], logs["detail_loss"] = content / batches, detail / batches
            ratio = self.args.encoder_learning_rate / self.args.learning_rate if self.args.learning_rate else 0.0
            logs["encoder_learning_rate"] = logs["learning_rate"] * ratio
            logs["images_per_second"] = round(images / (time.perf_counter() - self._since_log), 2)
            self.restart_log()
        super().log(logs, start_time)

    def restart_log(self) -> None:
        """What is logged next is of the batches from now on."""
        self._sums, self._since_log = defaultdict(float), time.perf_counter()

    # --- evaluation

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        # accelerate puts autocast on the model's forward only, and not all of the counting goes through it.
        with self.compute_loss_context_manager(), self.accelerator.autocast():
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
        with self.averaged():
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
            # Trainer has told the callbacks of every domain, but early stopping waits for the mean.
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._since_log = time.perf_counter()
        return metrics

    # --- what was done

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            write_file(os.path.join(output_dir or self.args.output_dir, RECORD_NAME), record_training(self))
