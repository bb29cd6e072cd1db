# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Two-stage inference in every mode against the published loop, in turns in one run.

The published loop takes one window at a time with LoRA as it is attached, in the same process, with the same weights
and threads. Labels are compared with the loop's in float32. Images are procedural street scenes. Without --model the
weights are random, and the thresholds are put where half of the windows of the first image are certain.

Other models of transformers (--others) take their turns between the modes. Their weights are random, so that only what
an image costs them can be compared.
"""

import argparse
import time

import torch

from vfmseg_hf.model.windows import plan_windows
from vfmseg_hf.prediction.predict import choose_device
from vfmseg_hf.utils.plotting import import_figure

from .measuring import ModuleClock, PeakMemory, matmul_peak, synchronize, trim_heap
from .operators import profile_operators
from .two_stage_modes import (
    LOOP,
    Mode,
    Outcome,
    draw_images,
    halve_certainty,
    make_models,
    make_modes,
    make_other_modes,
)
from .two_stage_report import (
    check_float32,
    count_stages,
    describe,
    describe_limit,
    describe_profile,
    half_limit,
    plot_seconds,
    scale_operations,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="directory of a trained model; without it, random weights of --preset")
    parser.add_argument("--preset", default="dinov2-base", help="a foundation model by name")
    parser.add_argument("--size", default="1024x2048", help="height x width of the images")
    parser.add_argument("--images", type=int, default=1, help="images, one after the other")
    parser.add_argument("--device", default="auto", help="e.g. cpu or cuda:0")
    parser.add_argument("--repeats", type=int, default=3, help="times that every mode is run; the medians count")
    parser.add_argument("--modes", nargs="+", help="some of the modes only; the baselines come along")
    parser.add_argument("--compile", action="store_true", help="also with compiled windows (takes minutes at first)")
    parser.add_argument(
        "--others",
        action="store_true",
        help="also other models of transformers, with random weights (needs the extra 'benchmarks')",
    )
    parser.add_argument("--plot", help="file for a chart of the seconds (needs the extra 'train')")


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """
    Seconds, ratios, agreement, operations and memory of every mode; where the time goes, and what the device could do.

    Raises:
        ValueError: on arguments that do not fit, or if a mode in float32 decides or labels otherwise than the loop.
        ImportError: without what --others or --plot need; the message names the extra.
    """
    if arguments.plot:
        import_figure()  # before it takes minutes
    height, width = (int(edge) for edge in arguments.size.split("x"))
    device = choose_device(arguments.device)
    described = arguments.model or f"{arguments.preset} with random weights"
    torch.manual_seed(0)
    images = draw_images(arguments.images, arguments.size, device)
    adapted, model = make_models(arguments.model, arguments.preset, device)
    stages = count_stages(model.config, height, width)
    others = make_other_modes(model.config.num_labels, images[0]) if arguments.others else {}
    with torch.inference_mode():
        if arguments.model is None:
            halve_certainty(model, images[0])
            adapted.config = model.config
        modes = choose_modes(make_modes(adapted, model, arguments.compile), arguments.modes, bool(others)) | others
        measured = measure(modes, images, arguments.repeats)
        profiled = (LOOP, "float32", "int8" if device.type == "cpu" else "bfloat16")
        profiles = {
            name: profile_operators(lambda mode=modes[name]: mode.run(images[0]), device)
            for name in profiled
            if name in modes
        }
    windows = len(plan_windows(height, width, model.config.window_size, model.config.window_stride))
    peaks = {dtype: matmul_peak(device, dtype) for dtype in {mode.dtype for mode in modes.values()} - {torch.int8}}
    operations = {
        name: mode.operations or scale_operations(stages, measured[name]["outcomes"]) for name, mode in modes.items()
    }
    rows = [describe(name, modes, measured, operations, windows, peaks) for name in modes]
    check_float32(rows)
    limits = [describe_limit(name, modes, measured, operations, peaks) for name in modes]
    tables = {
        "What is left to gain: the counted operations at the measured peak of matrix products": limits,
        "Where the time of an image goes, under the profiler": [
            row for name, profile in profiles.items() for row in describe_profile(name, profile, operations[name])
        ],
    }
    if others:
        models = {f"this library's: {described}": modes["float32" if "float32" in modes else LOOP], **others}
        tables["Models, the others all with random weights"] = [
            {"model": name, "million weights": mode.weights / 1e6} for name, mode in models.items()
        ]
    result = {
        "size": [height, width],
        "model": described,
        "repeats": arguments.repeats,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "device": str(device),
        "windows": windows,
        "operations": stages,
        "limit of half of the windows": half_limit(stages, windows),
        "matmul_peak": {str(dtype).removeprefix("torch."): peak for dtype, peak in peaks.items()},
        "seconds": {name: values["seconds"] for name, values in measured.items()},
        "rows": rows,
        "tables": {title: table for title, table in tables.items() if table},
    }
    if arguments.plot:
        plot_seconds(result, modes, arguments.plot)
    return result


def choose_modes(modes: dict[str, Mode], names: list[str] | None, with_loop: bool) -> dict[str, Mode]:
    """
    The modes of these names with their baselines, or all; `with_loop`: the published loop in any case.

    Raises:
        ValueError: if there is no mode of a name.
    """
    if not names:
        return modes
    if unknown := set(names) - set(modes):
        raise ValueError(f"there is no mode {sorted(unknown)}; there are {list(modes)}")
    wanted = {*names, *(modes[name].baseline for name in names), *([LOOP] if with_loop else [])}
    return {name: mode for name, mode in modes.items() if name in wanted}


def measure(modes: dict[str, Mode], images: list[torch.Tensor], repeats: int) -> dict[str, dict[str, object]]:
    """
    Run the modes in turns: seconds per image and share of time outside of each repeat; outcomes and memory.

    Memory is of a run before these that is not timed: where freed memory is given back first, taking it anew takes
    time. It warms up as well; what is compiled is compiled before it.
    """
    device = images[0].device
    measured = {name: {"seconds": [], "outside": []} for name in modes}
    for name, mode in modes.items():
        if mode.is_compiled:
            mode.run(images[0])
        trim_heap()
        with PeakMemory(device) as memory:
            mode.run(images[0])
        measured[name]["memory"] = memory.peak
    for _ in range(repeats):
        for name, mode in modes.items():
            modules, values = mode.parts(), measured[name]
            if modules and device.type != "cpu":  # where the clock makes the host wait, it gets a run of its own
                with ModuleClock(modules, device) as clock:
                    seconds, _ = time_mode(mode, images)
                values["outside"].append(1 - clock.seconds / seconds)
                modules = ()
            with ModuleClock(modules, device) as clock:
                seconds, values["outcomes"] = time_mode(mode, images)
            if modules:
                values["outside"].append(1 - clock.seconds / seconds)
            values["seconds"].append(seconds / len(images))
    return measured


def time_mode(mode: Mode, images: list[torch.Tensor]) -> tuple[float, list[Outcome]]:
    """Seconds until the device is done, and what came out."""
    synchronize(images[0].device)
    start = time.perf_counter()
    outcomes = [mode.run(image) for image in images]
    synchronize(images[0].device)
    return time.perf_counter() - start, outcomes
