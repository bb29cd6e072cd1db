# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Evaluation and prediction of a Trainer: streaming mIoU over domains, beside what transformers' own returns."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from transformers.trainer_pt_utils import nested_detach
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput
from transformers.utils import logging

from ..data import each_class
from ..evaluation import STAGES, DomainScores, count_images, count_outputs, score_domain
from ..evaluation.classes import listed
from ..evaluation.confusion import check_ids
from ..methods import OtherModel, RawImages
from .callbacks import without_early_stopping
from .checkpointing import CheckpointedTrainer
from .data import EvaluationImages
from .matching import match_images
from .trained_on import NOT_KNOWN, TrainedOn, attention, read_trained_on, say_unknown


logger = logging.get_logger(__name__)


class ScoringTrainer(CheckpointedTrainer):
    """[`Trainer`] that scores segmentations by what it counts in them, see [`VFMSegTrainer`]."""

    other: OtherModel | None = None  # a model of transformers, as evaluation takes it
    domain_scores: Mapping[str, DomainScores] = {}  # by domain, of the last evaluation of each
    _since_log: float = 0.0  # when the time began that images_per_second is of

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """What happens inside is no time of training. Contexts may be nested."""
        before, start = self._since_log, time.perf_counter()
        try:
            yield
        finally:
            self._since_log = before + time.perf_counter() - start

    @property
    def trained_on(self) -> TrainedOn:
        """What the model has been trained on: before, by the record beside its weights, and by this trainer."""
        known = getattr(self.model, "trained_on", None)  # an attribute of the model, which may go to another trainer
        if known is not None:
            return known
        place = getattr(self.model, "loaded_from", None)
        if place is None:
            return NOT_KNOWN  # it comes from no checkpoint, but something else than this trainer may have trained it
        self.model.trained_on = read_trained_on(place)
        return self.model.trained_on

    def _say_what_was_seen(self, name: str, dataset) -> None:
        if self.is_world_process_zero():
            say_unknown(self.trained_on)
            if line := attention(name, dataset, self.trained_on):
                logger.warning(line)

    def _get_dataloader(self, dataset, *args, is_training: bool = False, **kwargs):
        """As in [`Trainer`], but `dataloader_drop_last` drops nothing of what is scored."""
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(dataset, *args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def get_test_dataloader(self, test_dataset):
        return super().get_test_dataloader(match_images(test_dataset, self.model.config.id2label, "the test set"))

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Counts what is scored, and returns loss, logits and labels where they are asked for."""
        inputs = self._prepare_inputs({key: value for key, value in inputs.items() if key != "file_name"})
        if self._counts_only and prediction_loss_only:
            # accelerate puts autocast on the model's forward only, and not all of the counting goes through it.
            with self.compute_loss_context_manager(), self.accelerator.autocast():
                self._count(count_images, self.other or model, list(inputs["pixel_values"]), list(inputs["labels"]))
            return None, None, None
        if not any(isinstance(value, list) for value in inputs.values()):
            return self._predict(model, inputs, prediction_loss_only, ignore_keys)
        if not prediction_loss_only:
            raise ValueError(self._different_sizes(inputs))
        images = [dict(zip(inputs, values, strict=True)) for values in zip(*inputs.values(), strict=True)]
        batches = [{key: value[None] for key, value in image.items()} for image in images]
        return torch.stack([self._predict(model, batch, True)[0] for batch in batches]).mean(), None, None

    def _predict(self, model, inputs, prediction_loss_only, ignore_keys=None):
        labels, loss = inputs.get("labels"), None
        with torch.no_grad(), self.compute_loss_context_manager():
            if labels is None:
                outputs = model(**inputs)
            else:
                loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
                loss = loss.detach().mean()
                self._count(count_outputs, outputs, labels)
        if prediction_loss_only:
            return loss, None, None
        ignored = self.model.config.keys_to_ignore_at_inference if ignore_keys is None else ignore_keys
        kept = nested_detach(tuple(value for key, value in outputs.items() if key not in ("loss", *ignored)))
        sizes = [tuple(value.shape[-2:]) for value in (inputs["pixel_values"], labels) if value is not None]
        if self.args.eval_do_concat_batches and self._predicted_sizes not in (None, sizes):
            raise ValueError(self._different_sizes(inputs))
        self._predicted_sizes = sizes
        return loss, kept[0] if len(kept) == 1 else kept, labels

    def _different_sizes(self, inputs) -> str:
        sizes = {key: sorted({tuple(value.shape[-2:]) for value in values}) for key, values in inputs.items()}
        return (
            f"predictions of images of different sizes cannot be one array (in this batch {sizes}): resize images "
            "and labels alike, or set eval_do_concat_batches=False and per_device_eval_batch_size=1 for a list of "
            "arrays; evaluation without compute_metrics takes any sizes"
        )

    def _count(self, count: Callable, *args) -> None:
        config = (self.other or self.model).config
        counts = count(*args, config.num_labels, config.semantic_loss_ignore_index)
        self._counts.append(self.gather_function(counts))

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        dataset = dataloader.dataset
        wants_loss = self.args.prediction_loss_only or (self.args.metric_for_best_model or "").endswith("loss")
        self._counts_only = isinstance(dataset, EvaluationImages) and not wants_loss
        self._counts, self._predicted_sizes = [], None
        if self.other is not None and not (self._counts_only and isinstance(dataset.processor, RawImages)):
            raise ValueError(
                f"a {self.model.config.model_type} model of transformers is evaluated through its own image processor: "
                "on EvaluationImages(rows, RawImages()), with RawImages from vfmseg_hf.methods"
            )
        self._refuse_lists(dataset, description == "Prediction" or self.compute_metrics is not None)
        if self.compute_metrics is not None and not self.preprocess_logits_for_metrics:
            if not self.args.batch_eval_metrics:
                logger.warning_once(
                    "The logits of all images are kept in memory for compute_metrics; "
                    "preprocess_logits_for_metrics can reduce them, and mean IoU is counted without compute_metrics."
                )
        with self.averaged():
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        if description != "Prediction":
            self._say_what_was_seen(metric_key_prefix.removeprefix("eval_"), dataset)
            if overlap := self.trained_on.overlap(dataset):
                output.metrics[f"{metric_key_prefix}_trained_on"] = overlap["share"]
        if self._counts:
            matrices, windows, unknown = (torch.cat(counts).cpu().numpy() for counts in zip(*self._counts, strict=True))
            ignored = (self.other or self.model).config.semantic_loss_ignore_index
            check_ids(unknown.sum(axis=0), matrices.shape[-1], ignored)
            if description != "Prediction" or matrices.any():  # what is predicted need not be labelled
                self._add_scores(output.metrics, matrices, windows, dataset, metric_key_prefix)
        return output

    def _refuse_lists(self, dataset, with_labels: bool) -> None:
        """Raises `ValueError` where labels or losses are wanted of data whose classes are several of the model's."""
        match = getattr(dataset, "class_match", None)
        if match is None or (self._counts_only and not with_labels):
            return
        if several := [name for name, partners in match.mapping.items() if isinstance(partners, list)]:
            raise ValueError(
                f"{listed(several)} each stands for several classes of the model by the class map; mean IoU "
                "counts these as one, but compute_metrics, predict and losses cannot"
            )

    def _add_scores(
        self, metrics: dict[str, float], matrices: np.ndarray, windows: np.ndarray, dataset, prefix: str
    ) -> None:
        rule = getattr(dataset, "evaluation", None) or each_class(self.model.config.id2label)
        domain_name = prefix.removeprefix("eval_")
        domain = score_domain(matrices, windows, rule, domain_name)
        self.domain_scores = {**self.domain_scores, domain_name: domain}
        scores = {"num_classes": domain.num_classes}
        if domain.refined is not None:
            scores["refined"] = domain.refined
        for stage, name in zip(STAGES, ("coarse_mean_iou", "mean_iou"), strict=True):
            scores[name] = domain.scores[stage]["mean_iou"]
        for name, value in scores.items():
            metrics.setdefault(f"{prefix}_{name}", value)  # compute_metrics may have one of this name

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        eval_dataset = match_images(eval_dataset, self.model.config.id2label, "the evaluation set")
        datasets = self.eval_dataset if eval_dataset is None else eval_dataset
        with self.clock_stopped():
            if not isinstance(datasets, dict):
                return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
            with without_early_stopping(self.callback_handler):
                metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
            means = {}
            for key in ("mean_iou", "coarse_mean_iou", "loss"):
                names = [f"{metric_key_prefix}_{name}_{key}" for name in datasets]
                if all(name in metrics for name in names):
                    means[f"{metric_key_prefix}_{key}"] = float(np.mean([metrics[name] for name in names]))
            self.log(dict(means))
            metrics.update(means)
            # Trainer has told the callbacks of every domain, but early stopping waits for the mean.
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix: str = "test") -> PredictionOutput:
        if self.other is not None:
            raise ValueError(
                f"predict does not work with a {self.model.config.model_type} model of transformers; its label maps "
                "are those of vfmseg_hf.methods.OtherModel(model, processor).segment(images)"
            )
        with self.clock_stopped():
            return super().predict(test_dataset, ignore_keys, metric_key_prefix)
