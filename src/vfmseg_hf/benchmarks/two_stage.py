# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Two-stage inference in every mode against the published loop, in turns in one run.

The published loop takes one window at a time with LoRA as it is attached, in the same process, with the same weights
and threads. Labels are compared with the loop's in float32. Pictures are procedural street scenes. Without --model the
weights are random, and the thresholds are put where half of the windows of the first picture are certain.
"""

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from ..adapters_vfmseg import lora_config
from ..configuration_vfmseg import VFMSegConfig
from ..corpora import load_corpus
from ..image_processing_pil_vfmseg import VFMSegImageProcessorPil
from ..modeling_vfmseg import VFMSegForSemanticSegmentation
from ..plotting import new_figure
from ..prediction import choose_device, load_model
from ..quantization import quantize_int8
from ..resizing_vfmseg import coarse_size
from ..windows_vfmseg import plan_windows
from .measuring import ModuleClock, PeakMemory, count_operations, matmul_peak, synchronize
from .other_models import OTHER_MODELS, build_model, segment_with
from .random_weights import attach_random_lora, random_model
from .reference_loop import reference_inference


@dataclass
class Outcome:
    """Labels `[H, W]` of a picture, which windows were refined, and the logits `[C, H, W]` where there are any."""

    labels: torch.Tensor
    refined: list[bool]
    logits: torch.Tensor | None = None


@dataclass
class Mode:
    """
    One way to segment a picture.

    Args:
        run: segments a picture `[1, 3, H, W]`.
        baseline: name of the mode whose seconds are divided by this one's, and whose labels are compared.
        model: whose modules are timed for the share of time outside encoder and heads.
        dtype: what matrix products compute in, for the peak that the achieved operations are compared with.
    """

    run: Callable[[torch.Tensor], Outcome]
    baseline: str
    model: VFMSegForSemanticSegmentation
    dtype: torch.dtype = torch.float32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="directory of a trained model; without it, random weights of --preset")
    parser.add_argument("--preset", default="dinov2-base", help="a foundation model by name")
    parser.add_argument("--size", default="1024x2048", help="height x width of the pictures")
    parser.add_argument("--pictures", type=int, default=1, help="pictures, one after the other")
    parser.add_argument("--device", default="auto", help="e.g. cpu or cuda:0")
    parser.add_argument("--repeats", type=int, default=3, help="times that every mode is run; the medians count")
    parser.add_argument("--modes", nargs="+", help="some of the modes only; the baselines come along")
    parser.add_argument("--compile", action="store_true", help="also with compiled windows (takes minutes at first)")
    parser.add_argument("--others", action="store_true", help="also other models of transformers, with random weights")
    parser.add_argument("--plot", help="file for a chart of the seconds (needs the extra 'train')")


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """
    Seconds, ratios, agreement, operations and memory of every mode.

    Raises:
        ValueError: on arguments that do not fit, or if a mode in float32 decides or labels otherwise than the loop.
    """
    height, width = (int(edge) for edge in arguments.size.split("x"))
    device = choose_device(arguments.device)
    torch.manual_seed(0)
    pictures = draw_pictures(arguments.pictures, arguments.size, device)
    adapted, model = make_models(arguments.model, arguments.preset, device)
    with torch.inference_mode():
        if arguments.model is None:
            halve_certainty(model, pictures[0])
            adapted.config = model.config
        modes = make_modes(adapted, model, arguments.compile)
        if arguments.modes:
            wanted = set(arguments.modes) | {modes[name].baseline for name in arguments.modes if name in modes}
            if unknown := wanted - set(modes):
                raise ValueError(f"there is no mode {sorted(unknown)}; there are {list(modes)}")
            modes = {name: mode for name, mode in modes.items() if name in wanted}
        measured = measure(modes, pictures, arguments.repeats)
        if arguments.others:
            others = measure_others(pictures[0], model.config.num_labels, arguments.repeats)
    operations = operations_of_stages(model.config, height, width)
    peaks = {dtype: matmul_peak(device, dtype) for dtype in {mode.dtype for mode in modes.values()} - {torch.int8}}
    rows = [describe(name, modes, measured, operations, peaks) for name in modes]
    check_float32(rows)
    result = {
        "size": [height, width],
        "model": arguments.model or f"random weights of {arguments.preset}",
        "repeats": arguments.repeats,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "device": str(device),
        "operations": operations,
        "matmul_peak": {str(dtype).removeprefix("torch."): peak for dtype, peak in peaks.items()},
        "seconds": {name: values["seconds"] for name, values in measured.items()},
        "rows": rows,
    }
    if arguments.others:
        result["others"] = others
    if arguments.plot:
        plot_seconds(result, arguments.plot)
    return result


def draw_pictures(count: int, size: str, device: torch.device) -> list[torch.Tensor]:
    """Street scenes as a model sees them, `[1, 3, height, width]` each."""
    processor = VFMSegImageProcessorPil(do_resize=False)
    rows = load_corpus(f"streets:night?n={count}&size={size}")
    return [processor(row["image"], return_tensors="pt")["pixel_values"].to(device) for row in rows]


def make_models(
    directory: str | None, preset: str, device: torch.device
) -> tuple[VFMSegForSemanticSegmentation, VFMSegForSemanticSegmentation]:
    """The same model twice: with LoRA attached, as it is trained, and merged, as this library predicts."""
    model = random_model(preset).eval().to(device) if directory is None else load_model(directory, str(device))[0]
    adapted = copy.deepcopy(model)
    if directory is None:
        attach_random_lora(adapted)
    else:
        adapted.add_adapter(lora_config(model.config))
    return adapted.eval(), copy.deepcopy(adapted).merge_and_unload().eval()


def halve_certainty(model: VFMSegForSemanticSegmentation, picture: torch.Tensor) -> None:
    """Put both thresholds in the middle of what occurs, so that about half of the windows are certain enough."""
    config = model.config
    confidence = model(picture, refine=False).logits.softmax(1).amax(1)
    config.confidence_threshold = float(confidence.median())
    config.certainty_threshold = float(model(picture, refine=False).certainty.median())


def make_modes(
    adapted: VFMSegForSemanticSegmentation,
    model: VFMSegForSemanticSegmentation,
    compiled: bool,
) -> dict[str, Mode]:
    """Every mode that the device has, by name; baselines first."""
    on_cpu = model.device.type == "cpu"

    def loop(each: VFMSegForSemanticSegmentation, refine: bool | str, picture: torch.Tensor) -> Outcome:
        result = reference_inference(each, picture.to(each.dtype), refine)
        return Outcome(result.logits[0].argmax(0), result.refined[0], result.logits[0])

    def forward(each: VFMSegForSemanticSegmentation, refine: bool | str, picture: torch.Tensor, **options) -> Outcome:
        output = each(picture.to(each.dtype), refine=refine, **options)
        return Outcome(output.logits[0].argmax(0), output.refined[0].tolist(), output.logits[0])

    def segment(each: VFMSegForSemanticSegmentation, refine: bool | str, picture: torch.Tensor, **options) -> Outcome:
        result = each.segment(picture.to(each.dtype), refine=refine, **options)[0]
        return Outcome(result.labels, result.refined)

    everything, gated = "published loop", "published loop, gated"
    modes = {
        everything: Mode(partial(loop, adapted, "all"), everything, adapted),
        gated: Mode(partial(loop, adapted, True), gated, adapted),
        "float32": Mode(partial(forward, model, "all"), everything, model),
        "float32, gated": Mode(partial(forward, model, True), gated, model),
        "float32, half of the windows": Mode(partial(forward, model, "all", refine_budget=0.5), everything, model),
        "float32, labels": Mode(partial(segment, model, "all"), everything, model),
        "float32, strips": Mode(partial(segment, model, "all", in_strips=True), everything, model),
    }
    dtypes = [torch.bfloat16] if on_cpu else [torch.bfloat16, torch.float16]
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        if not on_cpu:
            cast = copy.deepcopy(adapted).to(dtype)
            modes[f"published loop, {name}"] = Mode(partial(loop, cast, "all"), everything, cast, dtype)
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


def measure(modes: dict[str, Mode], pictures: list[torch.Tensor], repeats: int) -> dict[str, dict[str, object]]:
    """Run the modes in turns: seconds per picture and share of time outside of each repeat; outcomes and memory."""
    device = pictures[0].device
    measured = {name: {"seconds": [], "outside": []} for name in modes}
    for _ in range(repeats):
        for name, mode in modes.items():
            modules, values = (mode.model.model, mode.model.coarse_head, mode.model.refine_head), measured[name]
            if device.type != "cpu":  # where the clock makes the host wait, it gets a run of its own
                with ModuleClock(modules, device) as clock:
                    seconds, _ = time_mode(mode, pictures)
                values["outside"].append(1 - clock.seconds / seconds)
                modules = ()
            with PeakMemory(device) as memory, ModuleClock(modules, device) as clock:
                seconds, values["outcomes"] = time_mode(mode, pictures)
            if modules:
                values["outside"].append(1 - clock.seconds / seconds)
            values["seconds"].append(seconds / len(pictures))
            values["memory"] = max(values.get("memory", 0), memory.peak)
    return measured


def time_mode(mode: Mode, pictures: list[torch.Tensor]) -> tuple[float, list[Outcome]]:
    """Seconds until the device is done, and what came out."""
    synchronize(pictures[0].device)
    start = time.perf_counter()
    outcomes = [mode.run(picture) for picture in pictures]
    synchronize(pictures[0].device)
    return time.perf_counter() - start, outcomes


def operations_of_stages(config: VFMSegConfig, height: int, width: int) -> dict[str, int]:
    """Operations of the coarse pass and of one window, each in the encoder and with its head; and how many windows."""
    model = VFMSegForSemanticSegmentation(config)
    small = coarse_size((height, width), config.coarse_size, config.patch_size)
    boxes = plan_windows(height, width, config.window_size, config.window_stride)
    top, left, bottom, right = boxes[0]
    window = (1, 3, bottom - top, right - left)
    context = (1, config.num_labels, *window[2:])
    coarse = (1, 3, *small)
    return {
        "coarse encoder": count_operations(model, coarse, call=lambda each, pixels: each.model(pixels)),
        "coarse": count_operations(
            model, coarse, call=lambda each, pixels: each.coarse_head(each.model(pixels).feature_maps)
        ),
        "window encoder": count_operations(model, window, call=lambda each, pixels: each.model(pixels)),
        "window": count_operations(model, window, context, call=type(model).refine_windows),
        "windows": len(boxes),
    }


def describe(
    name: str,
    modes: dict[str, Mode],
    measured: dict[str, dict[str, object]],
    operations: dict[str, int],
    peaks: dict[torch.dtype, float],
) -> dict[str, object]:
    """The row of a mode."""
    mode, values = modes[name], measured[name]
    baseline, outcomes = measured[mode.baseline], values["outcomes"]
    pairs = list(zip(outcomes, baseline["outcomes"], strict=True))
    seconds, refined = median(values["seconds"]), sum(sum(outcome.refined) for outcome in outcomes) / len(outcomes)
    ratios = [b / s for b, s in zip(baseline["seconds"], values["seconds"], strict=True)]
    achieved = (operations["coarse"] + refined * operations["window"]) / seconds
    same_decisions = all(outcome.refined == expected.refined for outcome, expected in pairs)
    labels = [(outcome.labels.long() == expected.labels.long()).float().mean() for outcome, expected in pairs]
    differences = "-"
    if same_decisions and outcomes[0].logits is not None:
        differences = max(float((outcome.logits - expected.logits).abs().max()) for outcome, expected in pairs)
    return {
        "mode": name,
        "seconds": seconds,
        "times as fast": median(ratios),
        "pictures/s": 1 / seconds,
        "windows refined": refined / operations["windows"],
        "same decisions": same_decisions,
        "same labels": float(torch.stack(labels).mean()),
        "largest difference": differences,
        "outside encoder and heads": median(values["outside"]),
        "GFLOP/s": achieved / 1e9,
        "of the matmul peak": achieved / peaks[mode.dtype] if mode.dtype in peaks else "-",
        "peak MiB": values["memory"] / 2**20,
    }


def check_float32(rows: list[dict[str, object]]) -> None:
    """Raise a `ValueError` unless the modes in float32 say what the loop says."""
    for row in rows:
        exact = row["mode"] in ("float32", "float32, gated", "float32, labels", "float32, strips")
        if exact and not (row["same decisions"] and row["same labels"] > 0.9999):
            raise ValueError(f"{row['mode']!r} is not what the published loop gives: {row}")


def measure_others(picture: torch.Tensor, num_labels: int, repeats: int) -> list[dict[str, object]]:
    """Seconds per picture of other models, one after the other so that each fits."""
    rows = []
    for name, configuration in OTHER_MODELS.items():
        model = build_model(configuration(num_labels)).to(picture.device)
        with PeakMemory(picture.device) as memory:
            seconds = [time_other(model, picture) for _ in range(repeats)]
        parameters = sum(parameter.numel() for parameter in model.parameters())
        rows.append(
            {
                "model": name,
                "million weights": parameters / 1e6,
                "seconds": median(seconds),
                "pictures/s": 1 / median(seconds),
                "peak MiB": memory.peak / 2**20,
            }
        )
    return rows


def time_other(model: torch.nn.Module, picture: torch.Tensor) -> float:
    """Seconds until the device has the labels of a picture."""
    synchronize(picture.device)
    start = time.perf_counter()
    segment_with(model, picture)
    synchronize(picture.device)
    return time.perf_counter() - start


def plot_seconds(result: dict[str, object], path: str) -> None:
    """
    A bar for the seconds of each mode and other model.

    Raises:
        ImportError: without matplotlib; the message names the extra.
    """
    bars = {row["mode"]: row["seconds"] for row in result["rows"]}
    bars |= {row["model"]: row["seconds"] for row in result.get("others", [])}
    figure, axes = new_figure(8, 0.5 + 0.35 * len(bars))
    drawn = axes.barh(list(bars), list(bars.values()))
    axes.bar_label(drawn, fmt="%.3g", padding=3)
    axes.invert_yaxis()
    axes.set_xlabel(f"seconds per picture of {result['size'][0]}x{result['size'][1]}")
    figure.savefig(path)
