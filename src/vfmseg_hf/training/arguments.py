# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The paper's training recipe as TrainingArguments."""

from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.integrations import is_tensorboard_available

from ..corpora.class_statistics import MIN_PIXELS


POLYNOMIAL = {"power": 0.9, "lr_end": 0.0}


@dataclass
class VFMSegTrainingArguments(TrainingArguments):
    """
    [`~transformers.TrainingArguments`] with the paper's recipe as defaults (section "Implementation Details").

    AdamW, learning rates 1e-5 for the encoder and 1e-4 for the heads, weight decay 0.05 on everything but
    normalisations, polynomial decay of power 0.9 to 0 over 40,000 steps of two pictures, no warm-up, no clipping.

    Args:
        encoder_learning_rate (`float`, defaults to 1e-5):
            Learning rate of the encoder (of its LoRA, if there is one); `learning_rate` is that of the heads.
        rare_class_sampling (`bool`, defaults to `False`):
            Draw rare classes first and then a picture for them, see [`RareClassSampler`]. It belongs to the paper's
            recipe; it is off because it needs [`TrainingPictures`] that know their `class_pixels`.
        rare_class_temperature (`float`, defaults to 0.01), rare_class_min_pixels (`int`, defaults to 3000),
        rare_class_crop_ratio (`float`, defaults to 2.0):
            Its settings, with the published code's values for crops of 1024x1024.
        ema_decay (`float`, *optional*):
            Keep an exponential moving average of the trained weights with this decay, such as 0.999; evaluations and
            saved models then have the average. The paper has none.
        report_to (`str` or `list[str]`, *optional*):
            Where to log; by default TensorBoard where it is installed. `"none"` logs nowhere.
    """

    encoder_learning_rate: float = field(
        default=1e-5, metadata={"help": "Learning rate of the encoder or its LoRA; learning_rate is the heads'."}
    )
    rare_class_sampling: bool = field(
        default=False, metadata={"help": "Draw pictures for rare classes first; the paper does."}
    )
    rare_class_temperature: float = field(
        default=0.01, metadata={"help": "Temperature of rare class sampling; lower prefers the rarest more."}
    )
    rare_class_min_pixels: int = field(
        default=MIN_PIXELS, metadata={"help": "A picture shows a class if it has more pixels of it than this."}
    )
    rare_class_crop_ratio: float = field(
        default=2.0, metadata={"help": "Redraw crops without more than this times min_pixels of the class; 0 does not."}
    )
    ema_decay: float | None = field(
        default=None, metadata={"help": "Average the trained weights with this decay, e.g. 0.999, and use the average."}
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate of both heads."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of all but norm layers."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Clip gradients to this norm; 0 does not clip."})
    lr_scheduler_type: str = field(default="polynomial", metadata={"help": "Shape of the learning rate decay."})
    lr_scheduler_kwargs: dict | str | None = field(
        default_factory=lambda: dict(POLYNOMIAL), metadata={"help": "Settings of the decay, as JSON."}
    )
    max_steps: int = field(default=40_000, metadata={"help": "Optimizer steps in all."})
    per_device_train_batch_size: int = field(default=2, metadata={"help": "Pictures per device and step."})
    per_device_eval_batch_size: int = field(default=1, metadata={"help": "Pictures per device in evaluation."})
    logging_steps: float = field(default=50, metadata={"help": "Log every so many steps."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Keep the file names for messages."})
    metric_for_best_model: str | None = field(
        default="eval_mean_iou", metadata={"help": "What makes a model the best: by default the mean over domains."}
    )
    greater_is_better: bool | None = field(default=True, metadata={"help": "Whether more of that metric is better."})
    # Trainer would replace a loss that is not finite by the mean of the earlier ones and train on.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide losses that are not finite."})
    # HfArgumentParser reads such a union in this order only.
    report_to: None | str | list[str] = field(  # noqa: RUF036
        default=None, metadata={"help": "Where to log; by default TensorBoard where it is installed, none: nowhere."}
    )

    def __post_init__(self):
        if self.lr_scheduler_type != "polynomial" and self.lr_scheduler_kwargs == POLYNOMIAL:
            self.lr_scheduler_kwargs = None  # they are no settings of another shape
        if self.report_to is None:
            self.report_to = ["tensorboard"] if is_tensorboard_available() else []
        super().__post_init__()
