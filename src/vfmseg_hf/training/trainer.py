# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Trainer with the paper's recipe: two learning rates, streaming mIoU over domains, exact resume."""

import math
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.trainer_utils import unwrap_peft_model
from transformers.utils import CONFIG_NAME, logging

from ..data.check.learnable import check_labels_teach
from ..data.findings import ONE_CLASS
from ..evaluation.classes import listed
from ..methods import OtherModel, auto_class_of, in_encoder
from ..model.adapters import check_result_can_be_loaded
from ..model.checks import check_values, checks_without_waiting
from ..model.image_processing_pil_vfmseg import VFMSegImageProcessorMixin
from ..model.labels import fold
from ..model.records import RECORD_NAME
from ..utils.files import write_file
from .arguments import VFMSegTrainingArguments
from .callbacks import AnnealMasks, RecipeProgress, StopOnSignal
from .checkpointing import check_is_kept_apart
from .data import EpochSampler, TrainingImages, collate
from .distributed import has_unused_parameters, synchronise_batch_norm
from .losses import OwnLoss, set_loss_options
from .matching import match_images
from .recipes import Settings
from .record import OF_OPTIMIZER, OF_SCHEDULER, check_same_schedules, record_training, training_settings
from .sampling import RareClassSampler, check_rare_class_crops
from .scaling import scale_new_heads
from .scoring import ScoringTrainer
from .trained_on import TrainedOn, read_trained_on


logger = logging.get_logger(__name__)


class VFMSegTrainer(ScoringTrainer):
    """
    transformers' [`Trainer`] for VFMSeg models; arguments as there.

    Train on [`TrainingImages`], evaluate on [`EvaluationImages`], or on several by name:
    `eval_dataset={"night": ..., "rain": ...}` gives `eval_night_mean_iou`, `eval_night_coarse_mean_iou`, ... and their
    means `eval_mean_iou`, `eval_coarse_mean_iou`. Scores are fractions, at each label map's own size. The classes of
    both are compared with the model's by name, and their ids brought into its order. `eval_night_trained_on` is the
    share of the images that the model was trained on, where that is known; if it is not 0, it is said as well.
    Nothing is kept of these images but counts, and no loss is computed unless `prediction_loss_only` or a
    `metric_for_best_model` that ends in "loss" asks for `eval_loss`.

    Any other dataset of `pixel_values` and `labels` trains and evaluates as with [`Trainer`]: it has `eval_loss`
    beside these scores, for which every class of the model counts alone. With `compute_metrics`, and in `predict`,
    logits `[N, num_labels, height, width]` at the images' size and labels are gathered as there, which takes as much
    memory as there. Scores that `compute_metrics` returns go before those of the same name.

    Both losses, both learning rates and the images per second of training are logged. A loss that is not finite ends
    the training with a `FloatingPointError` that names the batch's files, or a `ValueError` where pixels or label ids
    of the batch are to blame; checkpoints are left as they are. The host waits for the device once a batch, to read
    the loss. Every checkpoint and saved model has a `recipe.json` that says what it was trained with.

    Segmentation models of transformers train as well, with the loss that is their own, and see crops at their full
    size. `processing_class` is their own image processor, and they are evaluated through it: on [`EvaluationImages`]
    that have [`RawImages`] for theirs. The host waits for the device more often. An EoMT whose masks are not annealed
    yet has them annealed ([`AnnealMasks`]).

    Args:
        compute_loss_func:
            `f(outputs, labels, num_items_in_batch)` as in [`Trainer`], called for each of the two stages with its
            logits at the labels' size in `outputs.logits`; `num_items_in_batch` is always `None`.

    Raises:
        ValueError: arguments of another class than [`VFMSegTrainingArguments`]; `ema_decay` outside (0, 1), or together
            with FSDP, DeepSpeed or `save_only_model`; several GPUs for one process; arguments that exclude each other;
            images of other classes than the model's; what models of transformers cannot do here.
    """

    args: VFMSegTrainingArguments
    stopped_by: signal.Signals | None = None
    _rates: dict[float | None, float] = {}  # at the last step, by what they were at the first
    weight_decays: list[float] = []  # of the optimizer's groups at the first step

    def __init__(
        self,
        model=None,
        args: VFMSegTrainingArguments | None = None,
        data_collator=None,
        *,
        compute_loss_func: Callable | None = None,
        **kwargs,
    ):
        args = VFMSegTrainingArguments(output_dir="trainer_output") if args is None else args
        if not isinstance(args, VFMSegTrainingArguments):
            raise ValueError(
                f"VFMSegTrainer needs VFMSegTrainingArguments, got {type(args).__name__}; they take the same arguments"
            )
        if model is not None:
            set_loss_options(model, args)
            if args.ddp_find_unused_parameters is None:
                args.ddp_find_unused_parameters = has_unused_parameters(model)
        super().__init__(model, args, data_collator=data_collator or collate, **kwargs)
        if auto_class_of(self.model.config):
            self.other = OtherModel(self.model, self.processing_class)
            self.model_accepts_loss_kwargs = False  # its loss is a mean over the batch
        self.label_smoother = None  # the model smooths: this one knows neither its two stages nor its ignored pixels
        self.own_loss = OwnLoss(compute_loss_func) if compute_loss_func is not None else None
        self.optimizer_is_given, self.scheduler_is_given = self.optimizer is not None, self.lr_scheduler is not None
        self._check_other()
        self._check_arguments()
        self.train_dataset = match_images(self.train_dataset, self.model.config.id2label, "the training set")
        self.eval_dataset = match_images(self.eval_dataset, self.model.config.id2label, "the evaluation set")
        self.train_sampler: EpochSampler | None = None
        self.restart_log()
        if self.args.world_size > 1:
            synchronise_batch_norm(self.model, self.args.device)
        if self.pop_callback(ProgressCallback):
            self.add_callback(RecipeProgress())
        self.termination = StopOnSignal(self.args.device, self.args.world_size)
        self.add_callback(TrackSteps(self))
        if self.other is not None and getattr(self.model, "attn_mask_probs", torch.zeros(1)).any():
            self.add_callback(AnnealMasks())
        self.add_callback(self.termination)

    def call_model_init(self, trial=None) -> nn.Module:
        """As in [`Trainer`]; every new model gets what the constructor gives to the first."""
        model = super().call_model_init(trial)
        set_loss_options(model, self.args)
        if self.args.world_size > 1:
            synchronise_batch_norm(model, self.args.device)
        return model

    def _check_arguments(self) -> None:
        args = self.args
        if args.scale_heads and (self.model_init is not None or self.is_deepspeed_enabled):
            raise ValueError("scale_heads does not work with model_init or DeepSpeed; leave it out")
        if args.n_gpu > 1:
            raise ValueError(
                f"one process cannot train on {args.n_gpu} GPUs: start one for each, torchrun --nproc_per_node "
                f"{args.n_gpu} -m vfmseg_hf train ..., or show it one of them, CUDA_VISIBLE_DEVICES=0"
            )
        if args.ema_decay is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError("ema_decay averages whole weights; it does not work with FSDP or DeepSpeed, leave it out")
        if args.ema_decay is not None and args.save_only_model:
            raise ValueError(
                "with ema_decay a checkpoint's model is the average, and save_only_model would lose the weights that "
                "train on; leave one of them out"
            )
        if args.weight_decay_schedule != "constant" and (self.optimizer_is_given or self.is_deepspeed_enabled):
            raise ValueError(
                f"weight_decay_schedule={args.weight_decay_schedule!r} is of the recipe's own optimizer; "
                "it does not work with one that is given, nor with DeepSpeed: leave one of them out"
            )
        if self.own_loss is not None:
            self.own_loss.check(self.model)
        if args.load_best_model_at_end:
            check_is_kept_apart(self.model)
        self._check_metrics()
        self._check_optimizer()
        epochs_are_drawn = args.rare_class_sampling or isinstance(self.train_dataset, TrainingImages)
        if epochs_are_drawn and args.train_sampling_strategy != "random":
            raise ValueError(
                f"train_sampling_strategy={args.train_sampling_strategy!r} does not work with TrainingImages or "
                "rare_class_sampling, which draw their images themselves; leave it out"
            )

    def _check_other(self) -> None:
        """Raises `ValueError` for what works with VFMSeg's models and methods alone."""
        if self.other is None:
            return
        kind, args = self.model.config.model_type, self.args
        asked = {
            "compute_loss_func": self.own_loss is not None,
            "compute_metrics": self.compute_metrics is not None,
            "prediction_loss_only": args.prediction_loss_only,
            "metric_for_best_model": (args.metric_for_best_model or "").endswith("loss"),
            "model_init": self.model_init is not None,
            "scale_heads": args.scale_heads,
            "fsdp": self.is_fsdp_enabled,
            "deepspeed": self.is_deepspeed_enabled,
        }
        if given := [name for name, is_asked in asked.items() if is_asked]:
            raise ValueError(f"{given[0]} does not work with a {kind} model of transformers; leave it out")
        processor = self.processing_class
        ours = isinstance(processor, VFMSegImageProcessorMixin)
        if ours or not hasattr(processor, "post_process_semantic_segmentation"):
            raise ValueError(
                f"a {kind} model of transformers needs its own image processor as processing_class, which puts label "
                f"maps together; got {type(processor).__name__}"
            )

    def _check_metrics(self) -> None:
        args = self.args
        if self.compute_metrics is not None and args.prediction_loss_only:
            raise ValueError("prediction_loss_only leaves nothing for compute_metrics; leave out one or the other")
        for name in ("include_for_metrics", "batch_eval_metrics"):
            if getattr(args, name) and self.compute_metrics is None:
                raise ValueError(f"{name}={getattr(args, name)} is for compute_metrics, which is not given")

    def _check_optimizer(self) -> None:
        optimizer_class, settings = self.optimizer_cls_and_kwargs or (None, {})
        if lost := {"lr", "weight_decay"} & set(settings):
            raise ValueError(
                f"optimizer_cls_and_kwargs sets {sorted(lost)}, which each group has from the training arguments: "
                "set learning_rate, encoder_learning_rate and weight_decay there"
            )
        if optimizer_class is not None and is_optimizer_factory(optimizer_class):
            raise ValueError(
                f"optimizer_cls_and_kwargs names the factory {optimizer_class.__name__}, which makes its own groups "
                "without the recipe's learning rates; give the optimizer that it makes as optimizers=(optimizer, None)"
            )

    def train(self, *args, **kwargs):
        """
        As in [`Trainer`]. On SIGTERM and Ctrl-C it saves a checkpoint and returns; `stopped_by` is the signal then, and
        `None` where the training came to its end.

        Raises:
            ValueError: before the first step, if nobody could load the adapter that would be trained, the labels of
                [`TrainingImages`] are such that no model can learn from them, the model has a single class, or
                `scale_heads` is asked for and the heads are not new.
            KeyboardInterrupt: on a second Ctrl-C.
        """
        check_result_can_be_loaded(self.model)
        self._forget_evaluation()
        self.best_loaded, self.stopped_by = False, None
        self._check_labels()
        self._remember_data()
        if self.args.scale_heads and not (kwargs.get("resume_from_checkpoint") or any(args[:1])):
            scale_new_heads(unwrap_peft_model(self.model), self.train_dataset)
        with self.termination.listening():
            output = super().train(*args, **kwargs)
            self.stopped_by = self.termination.agreed()  # also where it came after the last step
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

    def _hp_search_setup(self, trial) -> None:
        super()._hp_search_setup(trial)
        self.args.settle_duration()  # a trial, or the user by hand, may have set the other one

    # --- what can be learnt, and what is unseen

    def _check_labels(self) -> None:
        """Raises `ValueError` for labels that no model can learn from, before the first step."""
        if self.model.config.num_labels == 1:
            raise ValueError(f"the model has {ONE_CLASS.what}. {ONE_CLASS.remedy}")
        data = self.train_dataset
        if not isinstance(data, TrainingImages) or not self.is_world_process_zero():
            return
        for part in data.parts:
            own = part.unmatched  # as the dataset numbers its classes
            names = own.id2label or self.model.config.id2label
            try:
                check_labels_teach(own.dataset, names, own.class_pixels, part.class_match, self.model.config.id2label)
            except ValueError as error:
                raise ValueError(f"{part.name}: {error}" if len(data.parts) > 1 else str(error)) from error

    def _remember_data(self) -> None:
        """From now on the images that are trained on are seen; those among them that are to be scored are said."""
        if self.train_dataset is not None:
            if getattr(self.model, "loaded_from", None) is None and getattr(self.model, "trained_on", None) is None:
                self.model.trained_on = TrainedOn()  # new heads on a foundation model, as far as anybody can tell
            self.model.trained_on = self.trained_on.including(TrainedOn.of(self.train_dataset))
        datasets = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"eval": self.eval_dataset}
        for name, dataset in datasets.items():
            if dataset is not None:
                self._say_what_was_seen(name, dataset)

    def _check_classes_of(self, checkpoint: str) -> None:
        """Raises `ValueError` for a checkpoint of other classes, or in another order: rows go by their places."""
        if not os.path.isfile(os.path.join(checkpoint, CONFIG_NAME)):
            return
        saved, now = type(self.model.config).from_pretrained(checkpoint).id2label, self.model.config.id2label
        if list(map(fold, saved.values())) != list(map(fold, now.values())):
            raise ValueError(
                f"{checkpoint} was trained on the classes {listed(saved.values())}, this run has "
                f"{listed(now.values())}: go on with the same data, or start a new run from it (--model)"
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._check_classes_of(resume_from_checkpoint)
        check_same_schedules(resume_from_checkpoint, self.settings())
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.model.trained_on = read_trained_on(resume_from_checkpoint).including(self.trained_on)

    # --- recipe

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """
        All parameters but weights and biases of normalisations, and what a method's authors leave out. Other biases,
        the mask token and DoRA's magnitudes decay; for these neither peft nor transformers makes an exception.
        """
        norms = {name for name, module in model.named_modules() if "Norm" in type(module).__name__}
        undecayed = getattr(self.other or unwrap_peft_model(self.model), "undecayed", ())
        return [
            name
            for name, _ in model.named_parameters()
            if name.rpartition(".")[0] not in norms and not name.endswith(undecayed)
        ]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over four groups: heads and encoder, with and without weight decay."""
        if self.optimizer is None:
            model = self.model if model is None else model
            decaying = set(self.get_decay_parameter_names(model))
            trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
            groups = []
            for of_encoder, rate in ((False, self.args.learning_rate), (True, self.args.encoder_learning_rate)):
                for decays, weight_decay in ((True, self.args.weight_decay), (False, 0.0)):
                    parameters = [
                        parameter
                        for name, parameter in trained
                        if in_encoder(self.model, name) == of_encoder and (name in decaying) == decays
                    ]
                    groups.append({"params": parameters, "lr": rate, "weight_decay": weight_decay})
            optimizer_class, settings = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(
                self.args, model
            )
            groups = [group for group in groups if group["params"]]
            self.weight_decays = [group["weight_decay"] for group in groups]
            self.optimizer = optimizer_class(groups, **settings)
        return self.optimizer

    def schedule_weight_decay(self) -> None:
        """Set the weight decay of the next step, where it is not constant."""
        if self.args.weight_decay_schedule == "cosine":
            share = (1 + math.cos(math.pi * self.state.global_step / self.state.max_steps)) / 2
            for group, weight_decay in zip(self.optimizer.param_groups, self.weight_decays, strict=True):
                group["weight_decay"] = share * weight_decay

    def average_weights(self) -> None:
        """Take the weights after a step into the average, or start it with them."""
        if self.average is None:
            return
        if self.state.global_step <= round(self.args.ema_start * self.state.max_steps):
            self.average.restart()
        else:
            self.average.update()

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        if self.args.rare_class_sampling:
            self.train_sampler = self._rare_class_sampler(dataset, seed)
        elif isinstance(dataset, TrainingImages):
            self.train_sampler = EpochSampler(len(dataset), seed)
        else:
            return super()._get_train_sampler(dataset)
        return self.train_sampler

    def _rare_class_sampler(self, dataset, seed: int) -> RareClassSampler:
        args = self.args
        if not isinstance(dataset, TrainingImages) or dataset.class_pixels is None:
            raise ValueError(
                "rare_class_sampling needs to know which image shows which class: train on TrainingImages(..., "
                "class_pixels=data.count_class_pixels(dataset, num_classes))"
            )
        check_rare_class_crops(args.rare_class_min_pixels, args.rare_class_crop_ratio, dataset.augmentation.crop_size)
        return RareClassSampler(
            dataset.class_pixels,
            seed,
            args.rare_class_temperature,
            args.rare_class_min_pixels,
            args.rare_class_crop_ratio,
        )

    # --- training steps and their log

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        inputs = dict(inputs)
        files = inputs.pop("file_name", ["(no file names)"])
        if self.other is not None:  # which says nothing of such values, or ends the process
            self._check_values(inputs, files)
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            self._say_why_not_finite(float(loss), inputs, files)
        self._sums["batches"] += 1
        self._sums["images"] += len(inputs["pixel_values"])
        return loss

    def _check_values(self, inputs: dict, files: list[str]) -> None:
        """Raises `ValueError` for values that cannot be trained on, with the files that have them."""
        try:
            check_values(inputs["pixel_values"], inputs["labels"], (self.other or self.model).config)
        except ValueError as error:
            raise ValueError(f"{self._where(files)}: {error}") from None

    def _where(self, files: list[str]) -> str:
        return f"at step {self.state.global_step} on {', '.join(files)}"

    def _say_why_not_finite(self, loss: float, inputs: dict, files: list[str]) -> None:
        if "labels" in inputs:  # a `compute_loss` of one's own may do without
            self._check_values(inputs, files)
        raise FloatingPointError(
            f"the loss is {loss} {self._where(files)}. Look at these files and lower the learning rates; "
            f"{self._last_checkpoint()}"
        )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.other is not None:
            loss, outputs = self.other.loss(model, inputs["pixel_values"], inputs["labels"])
            return (loss, outputs) if return_outputs else loss
        with ExitStack() as inside:
            if model.training:  # `training_step` reads the loss anyway, and then says what is wrong with the values
                inside.enter_context(checks_without_waiting(unwrap_peft_model(self.model)))
            if self.own_loss is not None:
                inside.enter_context(self.own_loss.applied(self.model))
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            for name in {"content_loss", "detail_loss"}.intersection(outputs):  # a model with one stage has one loss
                self._sums[name] += outputs[name].detach().mean()
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._sums["batches"]:
            losses = [name for name in ("content_loss", "detail_loss") if name in self._sums]  # that were computed
            names = ("content_loss", "detail_loss", "batches", "images")
            # The host's numbers are added on the device; a tensor of them would be copied there, and waited for.
            sums = torch.stack([torch.zeros((), device=self.args.device).add_(self._sums[name]) for name in names])
            content, detail, batches, images = self.accelerator.reduce(sums, "sum").tolist()  # over all processes
            logs.update({name: {"content_loss": content, "detail_loss": detail}[name] / batches for name in losses})
            if losses and content == detail == 0:
                logger.warning_once(
                    "All losses have been exactly 0: no pixel of these batches has a class. Are all labels ignored "
                    "(255)?"
                )
            names = ("learning_rate", "encoder_learning_rate")
            rates = {name: self._rates[rate] for name in names if (rate := getattr(self.args, name)) in self._rates}
            if rates and not self.optimizer_is_given:
                # Trainer has logged that of the first group, which is the encoder's where no head trains.
                logs.pop("learning_rate", None)
                logs.update(rates)
            logs["images_per_second"] = round(images / (time.perf_counter() - self._since_log), 2)
            self.restart_log()
        super().log(logs, start_time)

    def _get_learning_rate(self) -> float:
        # Trainer asks before the scheduler goes on, and logs afterwards.
        self._rates = {group.get("initial_lr"): group["lr"] for group in self.optimizer.param_groups}
        return super()._get_learning_rate()

    def restart_log(self) -> None:
        """What is logged next is of the batches from now on."""
        self._sums, self._since_log = defaultdict(float), time.perf_counter()

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        with self.clock_stopped():
            super()._save_checkpoint(model, trial)

    # --- what was done

    def settings(self) -> Settings:
        """What this training is really told, as `record.training_settings` has it."""
        args = self.args
        # Trainer may have found a smaller batch, and learns the number of steps of an epoch when it starts.
        batch_size = self._train_batch_size * args.gradient_accumulation_steps * args.world_size
        steps = args.max_steps if args.max_steps > 0 else self.state.max_steps or f"{args.num_train_epochs:g} epochs"
        decided = {"batch_size": batch_size, "max_steps": steps}
        if self.optimizer_is_given:
            decided |= dict.fromkeys(OF_OPTIMIZER, "of the optimizer given")
        elif self.optimizer_cls_and_kwargs:
            decided |= {"optim": self.optimizer_cls_and_kwargs[0].__name__, "adam_beta1": None, "adam_beta2": None}
        if self.scheduler_is_given:
            decided |= dict.fromkeys(OF_SCHEDULER, "of the scheduler given")
        return training_settings(args, self.model, self.train_dataset, decided)

    def record(self, directory: str | None = None) -> str:
        """JSON of this training, as it stands in `recipe.json`; of the weights in `directory`, if there are some."""
        return record_training(
            self.args,
            self.model,
            self.train_dataset,
            self.state,
            settings=self.settings(),
            trained_on=self.trained_on,
            loss_name=self.loss_name(),
            best_loaded=self.best_loaded,
            directory=directory,
        )

    def loss_name(self) -> str:
        """What is trained with, for the record: the cross entropy, a method's loss, or the name of a loss given."""
        if self.other is not None:
            return self.other.loss_name
        model = unwrap_peft_model(self.model)
        own = self.own_loss.function if self.own_loss is not None else model.loss_function
        usual = getattr(model, "loss_name", "cross entropy")
        return usual if own is None else getattr(own, "__name__", type(own).__name__)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            output_dir = output_dir or self.args.output_dir
            write_file(os.path.join(output_dir, RECORD_NAME), self.record(output_dir))


class TrackSteps(TrainerCallback):
    """
    Tells the sampler its epoch, which accelerate does not pass on to the sampler of a sharded data loader, sets the
    weight decay before every step, and averages the weights after it.
    """

    def __init__(self, trainer: VFMSegTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.restart_log()

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.trainer.train_sampler is not None:
            self.trainer.train_sampler.set_epoch(int(state.epoch or 0))

    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer.schedule_weight_decay()

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.average_weights()
