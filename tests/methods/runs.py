# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Trainings of two steps, for models of all methods."""

from tests.support.blocks import rows
from vfmseg_hf import VFMSegImageProcessor
from vfmseg_hf.methods import RawImages
from vfmseg_hf.training import Augmentation, EvaluationImages, TrainingImages, VFMSegTrainer, VFMSegTrainingArguments
from vfmseg_hf.training.other_models import crop_processor


ABC = {0: "road", 1: "sky", 2: "person"}


def trainer(model, tmp_path, compute_loss_func=None, processor=None, **settings) -> VFMSegTrainer:
    """Of a model of transformers with its own image processor, of all others with VFMSeg's."""
    own = VFMSegImageProcessor(do_resize=False)
    crops, scored = (own, own) if processor is None else (crop_processor(processor), RawImages())
    usual = {"max_steps": 2, "use_cpu": True, "report_to": "none", "logging_steps": 1, "save_steps": 1}
    arguments = VFMSegTrainingArguments(str(tmp_path), **usual | settings)
    train = TrainingImages(rows(4, classes=3), crops, Augmentation(crop_size=(64, 64)), id2label=ABC)
    watched = EvaluationImages(rows(2, seed=1, classes=3), scored, id2label=ABC)
    return VFMSegTrainer(
        model,
        arguments,
        train_dataset=train,
        eval_dataset={"own": watched},
        processing_class=processor or own,
        compute_loss_func=compute_loss_func,
    )
