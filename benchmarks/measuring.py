# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Seconds, bytes and operations."""

import copy
import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from statistics import median

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .operators import ATTENTION, CONVOLUTION, LINEAR


PEAK_SIZE = 4096


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def matmul_peak(device: torch.device, dtype: torch.dtype, size: int = PEAK_SIZE, repeats: int = 3) -> float:
    """Operations per second of a large square matrix product: what the device can do at best."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(repeats + 1):  # the first is for warming up
        synchronize(device)
        start = time.perf_counter()
        left @ right
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / median(seconds[1:])


def count_operations(module: nn.Module, *shapes: tuple[int, ...], call: Callable | None = None) -> dict[str, int]:
    """
    Floating point operations of linear layers, attention and convolutions, counted without computing them.

    Returns:
        By the names of the groups that [`profile_operators`] has. On tensors without data, attention is a product of
        batches of matrices, and a linear layer one of two matrices.
    """
    weightless = copy.deepcopy(module).to("meta")
    inputs = [torch.empty(shape, device="meta") for shape in shapes]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        (call or type(module).__call__)(weightless, *inputs)
    counted = {LINEAR: 0, ATTENTION: 0, CONVOLUTION: 0}
    for operator, operations in counter.get_flop_counts()["Global"].items():
        name = operator.__name__
        counted[CONVOLUTION if "conv" in name else LINEAR if name in ("mm", "addmm") else ATTENTION] += operations
    return counted


class PeakMemory:
    """
    Context that measures how far memory rises above where it was on entry, in bytes (`peak`).

    On an accelerator what torch has allocated, on the CPU the process's resident set, looked at every few milliseconds.
    """

    def __init__(self, device: torch.device, interval: float = 0.005):
        self.device, self.interval, self.peak = device, interval, 0

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.start = torch.cuda.memory_allocated(self.device)
        else:
            self.start, self.stop = resident_bytes(), threading.Event()
            self.thread = threading.Thread(target=self._watch)
            self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device) - self.start
        else:
            self.stop.set()
            self.thread.join()

    def _watch(self) -> None:
        while not self.stop.wait(self.interval):
            self.peak = max(self.peak, resident_bytes() - self.start)


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def peak_resident_bytes() -> int:
    """The most memory that this process has had since its program was started; 0 where the system does not say."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 2**10 for line in file if line.startswith("VmHWM:"))
    except OSError:
        return 0


def trim_heap() -> None:
    """
    Give the memory that this process has freed back to the system, where the C library can.

    Otherwise [`PeakMemory`] would not see on the CPU what is taken from it again. Taking it anew costs time.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


class ModuleClock:
    """Context that adds up the seconds that some modules take on the host's clock (`seconds`)."""

    def __init__(self, modules: Iterable[nn.Module], device: torch.device):
        self.modules, self.device, self.seconds = list(modules), device, 0.0

    def __enter__(self) -> "ModuleClock":
        self.handles = []
        for module in self.modules:
            self.handles.append(module.register_forward_pre_hook(self._start))
            self.handles.append(module.register_forward_hook(self._stop))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _start(self, module: nn.Module, inputs: object) -> None:
        synchronize(self.device)
        self.started = time.perf_counter()

    def _stop(self, module: nn.Module, inputs: object, output: object) -> None:
        synchronize(self.device)
        self.seconds += time.perf_counter() - self.started
