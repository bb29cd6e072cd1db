# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""How much memory there is, and how much the two-stage inference takes."""

import math
import os

import torch
from accelerate.utils.memory import should_reduce_batch_size

from .configuration_vfmseg import VFMSegConfig
from .encoders import get_encoder_family


# More at once make nothing faster: two cores are busy with one window of 512 x 512 and want it in their cache, a large
# accelerator with some thirty.
MAX_TOKENS = {"cpu": 1024}
MAX_TOKENS_ON_ACCELERATORS = 32 * 1024
# Values in a temporary tensor at the picture's size; larger ones are worked off in parts.
PART_VALUES = 2**24

# The rest is for what fragmentation and other processes take.
SHARE_OF_FREE_MEMORY = 0.5


def choose_window_batch_size(config: VFMSegConfig, window: torch.Tensor) -> int:
    """
    How many windows like `window`, `[3, height, width]`, to refine at once: what the configuration says, or else what
    the free memory of its device holds.
    """
    if config.window_batch_size is not None:
        return config.window_batch_size
    height, width = window.shape[-2:]
    most = MAX_TOKENS.get(window.device.type, MAX_TOKENS_ON_ACCELERATORS) // num_patches(config, height, width)
    free = free_memory(window.device)
    if free is not None:
        most = min(most, int(SHARE_OF_FREE_MEMORY * free / window_memory(config, height, width, window.element_size())))
    return max(most, 1)


def num_patches(config: VFMSegConfig, height: int, width: int) -> int:
    """Patches of a window, with those that are filled up."""
    return math.ceil(height / config.patch_size) * math.ceil(width / config.patch_size)


def window_memory(config: VFMSegConfig, height: int, width: int, itemsize: int) -> int:
    """
    Bytes that refining one window takes at its peak, with attention that keeps no score matrix (SDPA).

    Of the encoder: the four maps, the residual stream and the inner layer of a block (four times as wide). Of the
    heads: the maps side by side. And picture, context and refined logits at the window's size.

    Args:
        itemsize: bytes of a number in the encoder.
    """
    channels = get_encoder_family(config.backbone_config).hidden_size(config.backbone_config)
    tokens = num_patches(config, height, width)
    return 16 * tokens * channels * itemsize + (3 * config.num_labels + 3) * 4 * height * width


def keeps_coarse_whole(device: torch.device) -> bool:
    """Whether strips are cut from coarse logits of the picture's size, or resized anew: slow on a CPU."""
    return device.type == "cpu"


def inference_memory(
    config: VFMSegConfig,
    height: int,
    width: int,
    windows: int,
    in_strips: bool = False,
    device: torch.device | str = "cpu",
    itemsize: int = 4,
) -> int:
    """
    Bytes on its device that the two-stage inference of one picture takes at most, beside weights and picture.

    It depends on the size of the picture and on how many windows make a batch, not on how many windows there are.

    Args:
        windows: how many make a batch.
        in_strips: as in the model's `segment`.
        itemsize: bytes of a number in the encoder.
    """
    device = torch.device(device)
    edge_y, edge_x = min(config.window_size, height), min(config.window_size, width)
    logits, row_of_windows = 4 * config.num_labels * height * width, 4 * config.num_labels * edge_y * width
    kept = 3 * row_of_windows + keeps_coarse_whole(device) * logits if in_strips else 2 * logits
    parts = 3 * max(4 * PART_VALUES, row_of_windows, 4 * height * width)
    masks = 6 * height * width  # certain and unusable pixels, labels, confidence
    return kept + masks + max(windows * window_memory(config, edge_y, edge_x, itemsize), min(parts, 3 * logits))


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device, or `None` where that cannot be found out."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "cpu" and "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device or the machine had no memory left; not every allocator has an exception of its own."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
