# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""How much memory there is, and how much the two-stage inference takes."""

import os

import torch

from .configuration_vfmseg import VFMSegConfig
from .encoders_vfmseg import get_encoder_family


# More windows at once make nothing faster: two cores are busy with one, a large accelerator with some thirty thousand
# tokens.
MAX_WINDOWS = {"cpu": 4}
MAX_WINDOWS_ON_ACCELERATORS = 32
# The rest is for what fragmentation and other processes take.
SHARE_OF_FREE_MEMORY = 0.5


def choose_window_batch_size(config: VFMSegConfig, window: torch.Tensor) -> int:
    """
    How many windows like `window`, `[3, height, width]`, to refine at once: what the configuration says, or else what
    the free memory of its device holds.
    """
    if config.window_batch_size is not None:
        return config.window_batch_size
    most = MAX_WINDOWS.get(window.device.type, MAX_WINDOWS_ON_ACCELERATORS)
    free = free_memory(window.device)
    if free is None:
        return most
    needed = window_memory(config, *window.shape[-2:], window.element_size())
    return max(min(most, int(SHARE_OF_FREE_MEMORY * free / needed)), 1)


def window_memory(config: VFMSegConfig, height: int, width: int, itemsize: int) -> int:
    """
    Bytes that refining one window takes at its peak, with attention that keeps no score matrix (SDPA).

    Of the encoder: the four maps, the residual stream and the inner layer of a block (four times as wide). Of the
    heads: the maps side by side. And picture, context and refined logits at the window's size.

    Args:
        itemsize: bytes of a number in the encoder.
    """
    tokens = (height // config.patch_size + 1) * (width // config.patch_size + 1)
    channels = get_encoder_family(config.backbone_config).hidden_size(config.backbone_config)
    return 16 * tokens * channels * itemsize + (3 * config.num_labels + 3) * 4 * height * width


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device, or `None` where that cannot be found out."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "cpu" and "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device or the machine had no memory left; torch's CPU allocator has no exception of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
