# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""One training step, with one encoder pass of twice the batch and a fused optimizer, against two passes in float32.

A step is forward, backward, AdamW and zero_grad, of LoRA and both heads as the recipe trains them. The reference takes
the coarse images and the detail crops through the encoder one after the other, as the published code does, in float32
and with the AdamW that loops over the parameters (`foreach=False, fused=False`). All modes start from the same random
weights and take turns in one process, with the same images (procedural street scenes) and the same crop.

The first step of every mode is not timed. The encoder has no dropout in it, which one pass would draw otherwise than
two; what the heads draw is the same. The table has the losses of that step, and in float32 the loss and the gradients
of one pass must be those of two. The second step is not timed either: its memory is measured.
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch.nn import functional as F

from vfmseg_hf.data import open_dataset
from vfmseg_hf.model.configuration_vfmseg import nearest_multiple
from vfmseg_hf.model.image_processing_pil_vfmseg import VFMSegImageProcessorPil
from vfmseg_hf.model.modeling_vfmseg import VFMSegForSemanticSegmentation
from vfmseg_hf.model.objective import joint_objective, segmentation_loss
from vfmseg_hf.model.windows import Box
from vfmseg_hf.prediction.predict import choose_device
from vfmseg_hf.training import get_recipe

from .measuring import PeakMemory, count_operations, matmul_peak, synchronize, trim_heap
from .random_models import attach_random_lora, random_model


TOLERANCE, ROUNDING = 1e-5, 1e-6
REFERENCE, EXACT = "two passes, float32", "one pass, float32"


@dataclass
class Batch:
    """Images `[B, 3, H, W]`, labels `[B, H, W]` and the detail crop."""

    pixel_values: torch.Tensor
    labels: torch.Tensor
    box: Box


Objective = Callable[[VFMSegForSemanticSegmentation, Batch], torch.Tensor]


class TrainingStep:
    """
    One way to train a copy of a model.

    Args:
        objective: gives the loss.
        dtype: of autocast; float32 is without. float16 comes with scaled losses.
        fused: whether AdamW is fused, or loops over the parameters.
    """

    def __init__(
        self,
        model: VFMSegForSemanticSegmentation,
        objective: Objective,
        dtype: torch.dtype = torch.float32,
        fused: bool = True,
    ):
        self.model, self.objective, self.dtype = copy.deepcopy(model).train(), objective, dtype
        recipe = get_recipe("paper").training
        self.optimizer = torch.optim.AdamW(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=recipe["learning_rate"],
            weight_decay=recipe["weight_decay"],
            foreach=False,
            fused=fused,
        )
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=dtype == torch.float16)

    def backward(self, batch: Batch) -> torch.Tensor:
        """The loss, its gradients left with the parameters."""
        with torch.autocast(self.model.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss = self.objective(self.model, batch)
        self.scaler.scale(loss).backward()
        return loss.detach()

    def update(self) -> None:
        """The optimizer's part, which takes the gradients away."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()


def one_pass(model: VFMSegForSemanticSegmentation, batch: Batch) -> torch.Tensor:
    """The library's loss: coarse images and crops go through the encoder as one batch."""
    return model(batch.pixel_values, labels=batch.labels, detail_crop_box=batch.box).loss


def two_passes(model: VFMSegForSemanticSegmentation, batch: Batch) -> torch.Tensor:
    """The same loss from the model's modules, the encoder run for the coarse images and then for the crops."""
    top, left, bottom, right = batch.box
    small = F.interpolate(batch.pixel_values, scale_factor=0.5, mode="bilinear", align_corners=False)
    coarse_logits = model.coarse_head(model.model(small).feature_maps)
    content_loss = segmentation_loss(coarse_logits, batch.labels[:, ::2, ::2], model.config)
    context = F.interpolate(coarse_logits.detach(), size=small.shape[-2:], mode="bilinear", align_corners=False)
    context = context[..., top // 2 : bottom // 2, left // 2 : right // 2]
    crop_maps = model.model(batch.pixel_values[..., top:bottom, left:right]).feature_maps
    logits = model.refine_head(crop_maps, context)
    detail_loss = segmentation_loss(logits, batch.labels[:, top:bottom, left:right], model.config)
    return content_loss + model.config.detail_loss_weight * detail_loss


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="dinov2-base", help="a foundation model by name")
    parser.add_argument("--crop", type=int, default=512, help="edge of the square images; the paper's are of 1024")
    parser.add_argument("--batch_size", type=int, default=2, help="images per step")
    parser.add_argument("--device", default="auto", help="e.g. cpu or cuda:0")
    parser.add_argument("--repeats", type=int, default=3, help="steps of every mode; the medians count")


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """
    Seconds, ratios, operations, memory and losses of every mode.

    Raises:
        ValueError: on arguments that do not fit, or if in float32 one pass does not give the loss and the gradients of
            two.
    """
    check_arguments(arguments)
    device = choose_device(arguments.device)
    torch.manual_seed(0)
    batch = draw_batch(arguments.batch_size, arguments.crop, device)
    model = random_model(arguments.preset).to(device)
    attach_random_lora(model)
    steps = {
        REFERENCE: TrainingStep(model, two_passes, fused=False),
        EXACT: TrainingStep(model, one_pass),
        **{
            f"one pass, {str(dtype).removeprefix('torch.')}": TrainingStep(model, one_pass, dtype)
            for dtype in ([torch.bfloat16] if device.type == "cpu" else [torch.bfloat16, torch.float16])
        },
    }
    losses, differences = first_steps(steps, batch)
    memory = {name: measure_memory(step, batch) for name, step in steps.items()}
    seconds = measure_seconds(steps, batch, arguments.repeats)
    operations = operations_of_step(model, batch)
    peaks = {dtype: matmul_peak(device, dtype) for dtype in {step.dtype for step in steps.values()}}
    return {
        "preset": arguments.preset,
        "size": [arguments.crop, arguments.crop],
        "batch_size": arguments.batch_size,
        "repeats": arguments.repeats,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "device": str(device),
        "operations": operations,
        "matmul_peak": {str(dtype).removeprefix("torch."): peak for dtype, peak in peaks.items()},
        "seconds": seconds,
        "one_pass_differs_by": differences,
        "rows": [
            {
                "mode": name,
                "seconds": median(seconds[name]),
                "times as fast": median(b / s for b, s in zip(seconds[REFERENCE], seconds[name], strict=True)),
                "images/s": arguments.batch_size / median(seconds[name]),
                "GFLOP/s": operations / median(seconds[name]) / 1e9,
                "of the matmul peak": operations / median(seconds[name]) / peaks[step.dtype],
                "peak MiB": memory[name] / 2**20,
                "loss": losses[name],
                "loss differs by": abs(losses[name] / losses[REFERENCE] - 1),
            }
            for name, step in steps.items()
        ],
    }


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raise a `ValueError` on a size or number that cannot be."""
    for name, step in (("crop", 32), ("batch_size", 1), ("repeats", 1)):
        value = getattr(arguments, name)
        if value < 1 or value % step:
            nearest = nearest_multiple(value, step)
            raise ValueError(f"--{name} must be a positive multiple of {step}, got {value}; the nearest is {nearest}")


def draw_batch(count: int, size: int, device: torch.device) -> Batch:
    """Street scenes as a model sees them, with the crop in the middle that is half as high and wide."""
    rows = list(open_dataset(f"streets:night?n={count}&size={size}x{size}"))
    pixel_values = VFMSegImageProcessorPil(do_resize=False)([row["image"] for row in rows], return_tensors="pt")
    labels = torch.stack([torch.from_numpy(np.array(row["label"])).long() for row in rows])
    start, end = size // 4, size // 4 + size // 2
    return Batch(pixel_values["pixel_values"].to(device), labels.to(device), (start, start, end, end))


def first_steps(steps: dict[str, TrainingStep], batch: Batch) -> tuple[dict[str, float], dict[str, float]]:
    """
    A step of every mode from the same weights, with the same draws.

    Returns:
        The loss of each mode; and the relative differences of one pass from two, in float32: of the loss, and of the
        gradients as in [`compare_gradients`].

    Raises:
        ValueError: if such a difference is more than 1e-5.
    """
    losses, gradients = {}, {}
    with without_tf32():
        for name, step in steps.items():
            torch.manual_seed(0)
            step.model.model.eval()
            losses[name] = float(step.backward(batch))
            if name in (REFERENCE, EXACT):
                gradients[name] = {
                    key: parameter.grad for key, parameter in step.model.named_parameters() if parameter.requires_grad
                }
            step.update()
            step.model.train()
    differences = {"loss": abs(losses[EXACT] / losses[REFERENCE] - 1)}
    differences |= compare_gradients(gradients[EXACT], gradients[REFERENCE])
    if wrong := {key: value for key, value in differences.items() if not value <= TOLERANCE}:
        raise ValueError(f"{EXACT!r} is not {REFERENCE!r}: relative differences {wrong}, allowed are {TOLERANCE}")
    return losses, differences


@contextmanager
def without_tf32() -> Iterator[None]:
    """float32 to its full precision, which convolutions on GPUs do not have by default."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    allowed = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, before in zip(backends, allowed, strict=True):
            backend.allow_tf32 = before


def compare_gradients(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """
    The largest relative difference (Euclidean) of a parameter's gradient in the encoder and in each head.

    Gradients below a millionth of their part's are zero but for rounding (of a bias before a normalisation, say) and
    are held against the part's.
    """
    largest = {}
    for part in ("model", "coarse_head", "refine_head"):
        names = [name for name in expected if name.startswith(f"{part}.")]
        whole = torch.cat([expected[name].flatten() for name in names]).norm()
        norms = {name: expected[name].norm() for name in names}
        largest[part] = max(
            float((actual[name] - expected[name]).norm() / (norm if norm > ROUNDING * whole else whole))
            for name, norm in norms.items()
        )
    return largest


def measure_memory(step: TrainingStep, batch: Batch) -> int:
    """By how many bytes memory rises in a step, at most."""
    trim_heap()
    with PeakMemory(batch.pixel_values.device) as memory:
        step.backward(batch)
        step.update()
    return memory.peak


def measure_seconds(steps: dict[str, TrainingStep], batch: Batch, repeats: int) -> dict[str, list[float]]:
    """Let the modes take turns: the seconds of every step."""
    seconds, device = {name: [] for name in steps}, batch.pixel_values.device
    for _ in range(repeats):
        for name, step in steps.items():
            synchronize(device)
            start = time.perf_counter()
            step.backward(batch)
            step.update()
            synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def operations_of_step(model: VFMSegForSemanticSegmentation, batch: Batch) -> int:
    """Operations of the forward and the backward pass, which are as many in one pass as in two."""

    @torch.enable_grad()
    def differentiate(model, pixel_values, labels):
        joint_objective(model.train(), pixel_values, labels, batch.box)["loss"].backward()

    return sum(count_operations(model, batch.pixel_values.shape, batch.labels.shape, call=differentiate).values())
