# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Peak memory of an evaluation against the number of images, each number in a process of its own.

A small model with random weights scores procedural images; its own memory does not matter, only whether more images
need more. The peak is that of the whole process (resident set), with everything that was imported.
"""

import argparse
import time

import torch

from vfmseg_hf.data import open_dataset
from vfmseg_hf.evaluation import evaluate_domain
from vfmseg_hf.model.image_processing_vfmseg import VFMSegImageProcessor
from vfmseg_hf.training import EvaluationImages

from .measuring import peak_resident_bytes
from .own_process import call_in_own_process
from .random_models import small_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, nargs="+", default=[20, 200], help="numbers of images to compare")
    parser.add_argument("--size", default="512x1024", help="height x width of the images")


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """
    Peak of every number of images, and the growth from the smallest to the largest.

    Raises:
        ValueError: if an evaluation fails; the message has its last line.
    """
    rows = []
    for count in sorted(arguments.images):
        spec = f"streets:night?n={count}&size={arguments.size}"
        rows.append({"images": count, **call_in_own_process(evaluate_and_measure, spec)})
    growth = rows[-1]["peak MiB"] - rows[0]["peak MiB"]
    return {"size": arguments.size, "growth_mib": growth, "rows": rows}


def evaluate_and_measure(spec: str) -> dict[str, float]:
    """Scores a domain in this process; the peak is the process's own since its start."""
    torch.manual_seed(0)
    model = small_model(coarse_size=128, window_size=256, window_stride=256)
    processor = VFMSegImageProcessor(do_resize=False)
    before, start = peak_resident_bytes(), time.perf_counter()
    evaluate_domain(model, EvaluationImages(open_dataset(spec), processor), "night")
    seconds = time.perf_counter() - start
    return {"peak MiB": peak_resident_bytes() / 2**20, "of it before": before / 2**20, "seconds": seconds}
