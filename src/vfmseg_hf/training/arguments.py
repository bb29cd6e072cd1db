# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The paper's training recipe as TrainingArguments."""

from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.integrations import is_tensorboard_available

from ..data.class_statistics import MIN_PIXELS
from .averaging import check_decay, check_start


POLYNOMIAL = {"power": 0.9, "lr_end": 0.0}
MAX_STEPS = 40_000
DECAY_SCHEDULES = ("constant", "cosine")


@dataclass
class VFMSegTrainingArguments(TrainingArguments):
    """
    [`~transformers.TrainingArguments`] with the paper's recipe as defaults (section "Implementation Details").

    AdamW, learning rates 1e-5 for the encoder and 1e-4 for the heads, weight decay 0.05 on everything but
    normalisations, polynomial decay of power 0.9 to 0 over 40,000 steps of two images, no warm-up, no clipping.

    Args:
        encoder_learning_rate (`float`, defaults to 1e-5):
            Learning rate of the encoder (of its LoRA, if there is one); `learning_rate` is that of the heads.
        rare_class_sampling (`bool`, defaults to `False`):
            Draw rare classes first and then an image for them, see [`RareClassSampler`]. It belongs to the paper's
            recipe; it is off because it needs [`TrainingImages`] that know their `class_pixels`.
        rare_class_temperature (`float`, defaults to 0.01), rare_class_min_pixels (`int`, defaults to 3000),
        rare_class_crop_ratio (`float`, defaults to 2.0):
            Its settings, with the published code's values for crops of 1024x1024.
        max_steps (`int`, *optional*), num_train_epochs (`float`, *optional*):
            How long to train: by steps, 40,000 without either of them, or by epochs. What is not asked for is -1 in the
            finished arguments.
        class_weights (`list[float]`, *optional*), label_smoothing_factor (`float`, *optional*):
            Of the cross entropy of both stages; the trainer writes them into the model's configuration, see
            [`VFMSegConfig`]. Left out, those of the model hold.
        scale_heads (`bool`, defaults to `False`):
            Before the first step, divide the first weights of new heads by the scales of the encoder's feature maps,
            see [`scale_heads`]: for trainings of some hundred steps. The paper does not.
        ema_decay (`float`, *optional*):
            Keep an exponential moving average of the trained weights with this decay, such as 0.999; evaluations and
            saved models then have the average. The paper has none; 0 is none, too.
        ema_start (`float`, defaults to 0):
            Share of the steps, in [0, 1), after which averaging begins, from the weights of then (rounded to a whole
            step); until then evaluations and saved models have the weights themselves.
        weight_decay_schedule (`str`, defaults to `"constant"`):
            `"cosine"`: step t = 0, 1, ... of T has the weight decay weight_decay * (1 + cos(pi t / T)) / 2, which comes
            to 0 at the end (as in SoMA, Yun et al., CVPR 2025).
        report_to (`str` or `list[str]`, *optional*):
            Where to log; by default TensorBoard where it is installed. `"none"` logs nowhere.

    Raises:
        ValueError: steps and epochs at once, or neither positive; arguments of transformers that would have no effect
            on this model or this recipe.
    """

    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for checkpoints, the model and its scores.", "aliases": ["--output"]},
    )
    encoder_learning_rate: float = field(
        default=1e-5, metadata={"help": "Learning rate of the encoder or its LoRA; learning_rate is the heads'."}
    )
    rare_class_sampling: bool = field(
        default=False, metadata={"help": "Draw images for rare classes first; the paper does."}
    )
    rare_class_temperature: float = field(
        default=0.01, metadata={"help": "Temperature of rare class sampling; lower prefers the rarest more."}
    )
    rare_class_min_pixels: int = field(
        default=MIN_PIXELS, metadata={"help": "An image shows a class if it has more pixels of it than this."}
    )
    rare_class_crop_ratio: float = field(
        default=2.0, metadata={"help": "Redraw crops without more than this times min_pixels of the class; 0 does not."}
    )
    scale_heads: bool = field(
        default=False,
        metadata={"help": "Start new heads at the scales of the feature maps: for trainings of some hundred steps."},
    )
    ema_decay: float | None = field(
        default=None,
        metadata={"help": "Average the trained weights with this decay, e.g. 0.999, and use the average; 0 does not."},
    )
    ema_start: float = field(
        default=0.0, metadata={"help": "Share of the steps after which averaging begins, from the weights of then."}
    )
    class_weights: list[float] | None = field(
        default=None,
        metadata={
            "help": "Weight of every class in both training losses, in the model's order; by default the model's own."
        },
    )
    label_smoothing_factor: float | None = field(
        default=None, metadata={"help": "Label smoothing of both training losses, 0..1; by default the model's."}
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate of both heads."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of all but norm layers."})
    weight_decay_schedule: str = field(
        default="constant",
        metadata={"help": "Whether weight decay falls to 0 over the steps.", "choices": list(DECAY_SCHEDULES)},
    )
    max_grad_norm: float = field(default=0.0, metadata={"help": "Clip gradients to this norm; 0 does not clip."})
    lr_scheduler_type: str = field(default="polynomial", metadata={"help": "Shape of the learning rate decay."})
    lr_scheduler_kwargs: dict | str | None = field(
        default_factory=lambda: dict(POLYNOMIAL), metadata={"help": "Settings of the decay, as JSON."}
    )
    max_steps: int | None = field(
        default=None, metadata={"help": f"Optimizer steps in all; {MAX_STEPS} if no num_train_epochs are given."}
    )
    num_train_epochs: float | None = field(
        default=None, metadata={"help": "Passes over the training images, instead of max_steps."}
    )
    per_device_train_batch_size: int = field(default=2, metadata={"help": "Images per device and step."})
    per_device_eval_batch_size: int = field(default=1, metadata={"help": "Images per device in evaluation."})
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
        self.settle_duration()
        if self.ema_decay == 0:
            self.ema_decay = None
        if self.ema_decay is not None:
            check_decay(self.ema_decay)
        check_start(self.ema_start, self.ema_decay)
        if self.weight_decay_schedule not in DECAY_SCHEDULES:
            raise ValueError(
                f"weight_decay_schedule must be one of {list(DECAY_SCHEDULES)}, got {self.weight_decay_schedule!r}"
            )
        self._refuse_what_has_no_effect()
        if self.lr_scheduler_type != "polynomial" and self.lr_scheduler_kwargs == POLYNOMIAL:
            self.lr_scheduler_kwargs = None  # they are no settings of another shape
        if self.report_to is None:
            self.report_to = ["tensorboard"] if is_tensorboard_available() else []
        super().__post_init__()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # which is for copies to another device, and torch warns of it

    def settle_duration(self) -> None:
        """Fill in `max_steps` or `num_train_epochs`, and -1 for the other, as Trainer reads them."""
        given = {"max_steps": self.max_steps, "num_train_epochs": self.num_train_epochs}
        given = {name: value for name, value in given.items() if value not in (None, -1)}
        if len(given) > 1:
            raise ValueError(
                f"max_steps={self.max_steps} and num_train_epochs={self.num_train_epochs} are both given; leave one of "
                "them out (-1 in arguments that are copied)"
            )
        for name, value in given.items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if not given and self.max_steps == -1:
            raise ValueError("max_steps=-1 trains by epochs: give num_train_epochs as well, or the number of steps")
        self.num_train_epochs = given.get("num_train_epochs", -1)
        self.max_steps = given.get("max_steps", -1 if "num_train_epochs" in given else MAX_STEPS)

    def _refuse_what_has_no_effect(self) -> None:
        layerwise = str(getattr(self.optim, "value", self.optim)).startswith(("galore", "apollo", "lomo", "adalomo"))
        refused = {
            "label_names": (self.label_names not in (None, ["labels"]), "the model's labels are called labels"),
            "train_sampling_strategy": (
                self.train_sampling_strategy in ("group_by_length", "batch_rebalance"),
                "images have no length to group them by; 'random' and 'sequential' work",
            ),
            "neftune_noise_alpha": (self.neftune_noise_alpha is not None, "there are no token embeddings"),
            "use_liger_kernel": (self.use_liger_kernel, "there are no Liger kernels for this model"),
            "optim_target_modules": (self.optim_target_modules is not None, "it is for GaLore and APOLLO"),
            "optim": (layerwise, "such optimizers replace the groups with the recipe's learning rates"),
            "enable_jit_checkpoint": (self.enable_jit_checkpoint, "on SIGTERM a checkpoint is saved in any case"),
        }
        for name, (asked, reason) in refused.items():
            if asked:
                raise ValueError(f"{name}={getattr(self, name)!r} does not work with VFMSegTrainer: {reason}")
