# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""One process of several, as `torchrun` and `accelerate launch` start them: its device, its share, sums over all."""

import os

import torch
from accelerate import PartialState
from torch import distributed


def join_processes(device: str) -> str:
    """
    Joins the others, if this process was started together with others.

    Args:
        device: where to compute: `"auto"`, `"cpu"`, or as torch names it.

    Returns:
        The device of this process; `device` itself where there is only one process.

    Raises:
        ValueError: if several processes are to share one accelerator.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return device
    if device not in ("auto", "cpu"):
        raise ValueError(f"each of several processes has a device of its own; device must be auto or cpu, got {device}")
    return str(PartialState(cpu=device == "cpu").device)


def leave_processes() -> None:
    """Ends what [`join_processes`], or a trainer, began; all processes call this together."""
    if distributed.is_initialized():
        distributed.barrier()  # nobody leaves while another one still sends
        distributed.destroy_process_group()


def process_rank() -> tuple[int, int]:
    """Number of this process, from 0, and how many there are."""
    if distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def sum_over_processes(counts: torch.Tensor) -> torch.Tensor:
    """
    The sum of everyone's counts, exact for whole numbers; all processes call this together.

    Args:
        counts: of the same shape everywhere, on the device of the process.
    """
    if distributed.is_initialized():
        counts = counts.clone()
        distributed.all_reduce(counts)
    return counts


def count_cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
