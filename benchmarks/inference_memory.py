# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Peak memory of large images, against what is stated, for whole logits and for strips.

A small model with random weights refines all windows of one image, for every size and mode in a process of its own.
The peak is what the inference takes beside weights and image. Labels are compared with those of logits on the device.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from vfmseg_hf.model.modeling_vfmseg import VFMSegForSemanticSegmentation
from vfmseg_hf.model.window_batches import choose_window_batch_size, inference_memory
from vfmseg_hf.model.windows import label_map, plan_windows, resize_bilinear
from vfmseg_hf.prediction.predict import choose_device

from .measuring import PeakMemory, synchronize
from .own_process import call_in_own_process
from .random_models import small_model, spread_classes


# What an allocator holds back, and what other threads of the process take meanwhile: a factor and bytes.
HELD_BACK, BESIDE = 1.1, 2**24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sizes = ["1024x1024", "2048x4096", "4096x8192"]
    parser.add_argument("--sizes", nargs="+", default=sizes, help="heights x widths of the images")
    parser.add_argument("--device", default="auto", help="e.g. cpu or cuda:0")


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """
    Seconds, peak and labels of every size and mode.

    Raises:
        ValueError: if a peak is above what is stated, if strips give other labels than logits on the device, or if a
            process fails; the message has its last line.
    """
    device = choose_device(arguments.device)
    rows = []
    for size in arguments.sizes:
        height, width = (int(edge) for edge in size.split("x"))
        labels = {}
        for mode in ("device", "strips"):
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "labels.npy"
                found = call_in_own_process(segment_and_measure, mode, height, width, str(device), str(file))
                labels[mode] = np.load(file)
            check_peak(size, mode, found["peak"], found["stated"])
            rows.append(
                {
                    "megapixels": height * width / 2**20,
                    "windows": found["windows"],
                    "windows at once": found["batch"],
                    "mode": mode,
                    "seconds": found["seconds"],
                    "peak MiB": found["peak"] / 2**20,
                    "stated MiB": found["stated"] / 2**20,
                    "same labels": float((labels[mode] == labels["device"]).mean()),
                    "most frequent label": float(np.bincount(labels[mode].ravel()).max() / labels[mode].size),
                }
            )
        if not np.array_equal(labels["strips"], labels["device"]):
            raise ValueError(
                f"{size} in strips has {int((labels['strips'] != labels['device']).sum())} labels that differ from "
                "those of logits on the device; they have to be the same"
            )
    return {"sizes": arguments.sizes, "device": str(device), "rows": rows}


def check_peak(size: str, mode: str, peak: int, stated: int) -> None:
    """Raise a `ValueError` if an inference took more bytes than stated."""
    if peak > HELD_BACK * stated + BESIDE:
        raise ValueError(
            f"{size} in mode {mode!r} took {peak / 2**20:.0f} MiB, but inference_memory states "
            f"{stated / 2**20:.0f} MiB: mend what it adds up, or what takes more"
        )


def segment_and_measure(mode: str, height: int, width: int, device: str, file: str) -> dict[str, float]:
    """Segments an image in this process; bytes, seconds, windows. Its labels go into a `file` of NumPy's."""
    torch.manual_seed(0)
    model = spread_classes(small_model()).to(device)
    image = draw_blobs(height, width).to(device)
    config, boxes = model.config, plan_windows(height, width, model.config.window_size, model.config.window_stride)
    first = image[..., : config.window_size, : config.window_size]
    # A batch of another size rounds otherwise. With whole rows of windows or even parts of them, all modes have the
    # same batches.
    columns = sum(box[0] == boxes[0][0] for box in boxes)
    most = min(choose_window_batch_size(config, first[0]), columns)
    config.window_batch_size = max(number for number in range(1, most + 1) if columns % number == 0)
    with torch.inference_mode():
        infer(model, first, mode)  # what torch sets up once
        synchronize(image.device)
        with PeakMemory(image.device) as memory:
            start = time.perf_counter()
            result = infer(model, image, mode)
            synchronize(image.device)
            seconds = time.perf_counter() - start
        labels = result if mode == "strips" else label_map(result)[0]
    np.save(file, labels.cpu().numpy())
    stated = inference_memory(config, height, width, config.window_batch_size, mode == "strips", device)
    batch = config.window_batch_size
    return {"peak": memory.peak, "stated": stated, "seconds": seconds, "windows": len(boxes), "batch": batch}


def infer(model: VFMSegForSemanticSegmentation, image: torch.Tensor, mode: str) -> torch.Tensor:
    """Logits `[C, H, W]` of an image `[1, 3, H, W]`, or its labels `[H, W]` in mode `"strips"`."""
    if mode == "strips":
        return model.segment(image, refine="all", in_strips=True)[0].labels
    return model(image, refine="all").logits[0]


def draw_blobs(height: int, width: int) -> torch.Tensor:
    """An image `[1, 3, height, width]` of smooth blobs of some dozens of pixels: quick to draw at any size."""
    noise = torch.randn(1, 3, height // 48 + 2, width // 48 + 2)
    return 2 * resize_bilinear(noise, (height, width))
