# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The ways to segment an image that the benchmark of the two-stage inference compares."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from vfmseg_hf.data import open_dataset
from vfmseg_hf.model.adapters import lora_config
from vfmseg_hf.model.image_processing_pil_vfmseg import VFMSegImageProcessorPil
from vfmseg_hf.model.modeling_vfmseg import VFMSegForSemanticSegmentation
from vfmseg_hf.prediction.predict import load_model
from vfmseg_hf.prediction.quantization import quantize_int8

from .measuring import count_operations
from .other_models import OTHER_MODELS, build_model, segment_with
from .random_models import attach_random_lora, random_model
from .reference_loop import reference_inference


LOOP = "published loop"


@dataclass
class Outcome:
    """
    Labels `[H, W]` of an image, which windows were refined, and the logits `[C, H, W]` where there are any.

    A model without windows has refined none.
    """

    labels: torch.Tensor
    refined: list[bool]
    logits: torch.Tensor | None = None


@dataclass
class Mode:
    """
    One way to segment an image.

    Args:
        run: segments an image `[1, 3, H, W]`.
        baseline: name of the mode whose seconds are divided by this one's, and whose labels are compared.
        model: what segments.
        dtype: what matrix products compute in, for the peak that the achieved operations are compared with.
        operations: counted operations of an image by group, of a model that has no stages.
    """

    run: Callable[[torch.Tensor], Outcome]
    baseline: str
    model: nn.Module
    dtype: torch.dtype = torch.float32
    operations: dict[str, int] | None = None

    @property
    def is_ours(self) -> bool:
        return isinstance(self.model, VFMSegForSemanticSegmentation)

    @property
    def is_compiled(self) -> bool:
        return self.is_ours and self.model.windows_are_compiled

    @property
    def weights(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def parts(self) -> tuple[nn.Module, ...]:
        """
        Encoder and heads, which are timed for the share of time outside of them.

        Of another model nothing, and nothing of a compiled one, whose graph the clock's hooks would break.
        """
        if not self.is_ours or self.is_compiled:
            return ()
        return self.model.model, self.model.coarse_head, self.model.refine_head


def draw_images(count: int, size: str, device: torch.device) -> list[torch.Tensor]:
    """Street scenes as a model sees them, `[1, 3, height, width]` each."""
    processor = VFMSegImageProcessorPil(do_resize=False)
    rows = open_dataset(f"streets:night?n={count}&size={size}")
    return [processor(row["image"], return_tensors="pt")["pixel_values"].to(device) for row in rows]


def make_models(
    directory: str | None, preset: str, device: torch.device
) -> tuple[VFMSegForSemanticSegmentation, VFMSegForSemanticSegmentation]:
    """The same model twice: with LoRA attached, as it is trained, and merged, as this library predicts."""
    model = random_model(preset).to(device) if directory is None else load_model(directory, str(device))[0]
    adapted = copy.deepcopy(model)
    if directory is None:
        attach_random_lora(adapted)
    else:
        adapted.add_adapter(lora_config(model.config))
    return adapted.eval(), copy.deepcopy(adapted).merge_and_unload().eval()


def halve_certainty(model: VFMSegForSemanticSegmentation, image: torch.Tensor) -> None:
    """Put both thresholds in the middle of what occurs, so that about half of the windows are certain enough."""
    config = model.config
    confidence = model(image, refine=False).logits.softmax(1).amax(1)
    config.confidence_threshold = float(confidence.median())
    config.certainty_threshold = float(model(image, refine=False).certainty.median())


def make_modes(
    adapted: VFMSegForSemanticSegmentation,
    model: VFMSegForSemanticSegmentation,
    compiled: bool,
) -> dict[str, Mode]:
    """Every mode that the device has, by name; baselines first."""
    on_cpu = model.device.type == "cpu"

    def loop(each: VFMSegForSemanticSegmentation, refine: bool | str, image: torch.Tensor) -> Outcome:
        result = reference_inference(each, image.to(each.dtype), refine)
        return Outcome(result.logits[0].argmax(0), result.refined[0], result.logits[0])

    def forward(each: VFMSegForSemanticSegmentation, refine: bool | str, image: torch.Tensor, **options) -> Outcome:
        output = each(image.to(each.dtype), refine=refine, **options)
        return Outcome(output.logits[0].argmax(0), output.refined[0].tolist(), output.logits[0])

    def segment(each: VFMSegForSemanticSegmentation, refine: bool | str, image: torch.Tensor, **options) -> Outcome:
        result = each.segment(image.to(each.dtype), refine=refine, **options)[0]
        return Outcome(result.labels, result.refined)

    everything, gated = LOOP, f"{LOOP}, gated"
    modes = {
        everything: Mode(partial(loop, adapted, "all"), everything, adapted),
        gated: Mode(partial(loop, adapted, True), gated, adapted),
        "float32": Mode(partial(forward, model, "all"), everything, model),
        "float32, gated": Mode(partial(forward, model, True), gated, model),
        "float32, half of the windows": Mode(partial(forward, model, "all", max_window_share=0.5), everything, model),
        "float32, labels": Mode(partial(segment, model, "all"), everything, model),
        "float32, strips": Mode(partial(segment, model, "all", in_strips=True), everything, model),
    }
    dtypes = [torch.bfloat16] if on_cpu else [torch.bfloat16, torch.float16]
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        if not on_cpu:
            cast = copy.deepcopy(adapted).to(dtype)
            modes[f"{LOOP}, {name}"] = Mode(partial(loop, cast, "all"), everything, cast, dtype)
        cast = copy.deepcopy(model).to(dtype)
        modes[name] = Mode(partial(segment, cast, "all"), everything, cast, dtype)
    if on_cpu:
        quantized = quantize_int8(model)
        modes["int8"] = Mode(partial(segment, quantized, "all"), everything, quantized, torch.int8)
    if compiled:
        for name in ["float32", *(str(dtype).removeprefix("torch.") for dtype in dtypes)]:
            graph = copy.deepcopy(modes[name].model)
            graph.compile_windows()
            modes[f"{name}, compiled"] = Mode(partial(segment, graph, "all"), everything, graph, modes[name].dtype)
    return modes


def make_other_modes(num_labels: int, image: torch.Tensor) -> dict[str, Mode]:
    """
    Other models of transformers by name, in float32 on the device of an image `[1, 3, H, W]`.

    Raises:
        ImportError: without scipy; the message names the extra.
    """

    def segment(model: nn.Module, image: torch.Tensor) -> Outcome:
        return Outcome(segment_with(model, image)[0], [])

    modes = {}
    for name, configuration in OTHER_MODELS.items():
        model = build_model(configuration(num_labels))
        operations = count_operations(model, tuple(image.shape), call=segment_with)
        model.to(image.device)
        modes[name] = Mode(partial(segment, model), LOOP, model, operations=operations)
    return modes
