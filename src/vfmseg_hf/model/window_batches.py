# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Windows through encoder and head in batches of one shape, whatever images they come from, as memory has it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psutil
import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers.utils import logging

from .configuration_vfmseg import VFMSegConfig
from .encoders import get_encoder_family
from .windows import MAX_TEMPORARY_VALUES, pad_to_patches, resize_bilinear


logger = logging.get_logger(__name__)

# Full batches that have to fit before twice as many windows are tried: at first, and at most.
FIRST_PATIENCE, MOST_PATIENCE = 16, 512
# More at once make nothing faster: two cores are busy with one window of 512 x 512 and want it in their cache, a large
# accelerator with some thirty.
MAX_TOKENS = {"cpu": 1024}
MAX_TOKENS_ON_ACCELERATORS = 32 * 1024
# The rest is for what fragmentation and other processes take.
SHARE_OF_FREE_MEMORY = 0.5


@dataclass
class WindowBatchLimit:
    """
    How many windows of one size fit into memory, as failures have taught, until successes say otherwise.

    Attributes:
        size: windows at once, at most.
        patience: how many full batches have to fit before the limit is doubled; twice as many after it was in vain.
        fitted: how many have.
        doubled: whether the limit was doubled since the last failure.
    """

    size: int
    patience: int = FIRST_PATIENCE
    fitted: int = 0
    doubled: bool = False

    def fits(self, size: int) -> None:
        """A batch of so many windows has been computed."""
        self.fitted += size >= self.size
        if self.fitted == self.patience:
            self.size, self.fitted, self.doubled = 2 * self.size, 0, True

    def fails(self, size: int) -> None:
        """A batch of so many windows was too large."""
        if self.doubled:
            self.patience = min(2 * self.patience, MOST_PATIENCE)
        self.size, self.fitted, self.doubled = max(size // 2, 1), 0, False


WindowBatchLimits = dict[tuple[torch.device, int, int], WindowBatchLimit]  # by device, height and width


def run_windows(
    config: VFMSegConfig,
    limits: WindowBatchLimits,
    step: Callable[..., torch.Tensor],
    windows: Sequence[tuple[torch.Tensor, ...]],
    fill: bool = False,
) -> Iterator[tuple[int, torch.Tensor]]:
    """
    Logits of some windows, computed batch by batch.

    A batch that does not fit into memory is halved, and so are those of windows of this size after it, with one
    warning. After some that fit twice as many are tried again ([`WindowBatchLimit`]): what took the memory may be gone.

    Args:
        config: decides how many windows make a batch, where memory allows it.
        limits: what earlier calls have learnt, which this one adds to.
        step: from stacked inputs to logits `[M, num_labels, any height, any width]`.
        windows: the inputs of each window, each a view `[channels, height, width]`. Windows of one size share batches;
            they are padded to whole patches at the bottom and right by repeating the border.
        fill: whether the last batch is filled up to a power of two, so that there are few shapes; the surplus is
            dropped.

    Yields:
        The number of a window, and its logits `[num_labels, height, width]`, float32, at its size.
    """
    of_size: dict[tuple[int, int], list[int]] = {}
    for number, inputs in enumerate(windows):
        of_size.setdefault(tuple(inputs[0].shape[-2:]), []).append(number)
    for (height, width), numbers in of_size.items():
        first = windows[numbers[0]][0]
        most, kind = choose_window_batch_size(config, first), (first.device, height, width)
        while numbers:
            limit = limits.get(kind)
            size = min(most, limit.size) if limit else most
            batch = numbers[:size]
            full = min(size, 1 << (len(batch) - 1).bit_length()) if fill else len(batch)
            filled = batch + batch[-1:] * (full - len(batch))
            try:
                logits = run_batch(step, [windows[number] for number in filled], config.patch_size)
            except RuntimeError as error:
                if len(filled) == 1 or not is_out_of_memory(error):
                    raise
                logits = None
            if logits is None:  # outside the handler, whose traceback would hold on to the memory
                halve_window_batch(limits, len(filled), kind)
                continue
            if limit:
                limit.fits(len(filled))
            yield from zip(batch, logits[: len(batch), :, :height, :width], strict=True)
            numbers = numbers[size:]


def run_batch(
    step: Callable[..., torch.Tensor], windows: Sequence[tuple[torch.Tensor, ...]], patch_size: int
) -> torch.Tensor:
    """Logits `[M, num_labels, height, width]`, float32, of windows padded to whole patches."""
    stacked = [pad_to_patches(torch.stack(views), patch_size) for views in zip(*windows, strict=True)]
    return resize_bilinear(step(*stacked).float().contiguous(), stacked[0].shape[-2:])


def halve_window_batch(limits: WindowBatchLimits, size: int, kind: tuple[torch.device, int, int]) -> None:
    """Remember that `size` windows of a kind (device, height, width) do not fit, with a warning the first time."""
    device, *_ = kind
    if not limits:
        logger.warning(
            f"{size} windows at once do not fit into the memory of {device}: going on with half as many, and trying "
            "more from time to time. Set config.window_batch_size to a number that fits to avoid failed attempts."
        )
    limits.setdefault(kind, WindowBatchLimit(size)).fails(size)
    if device.type != "cpu":
        torch.accelerator.empty_cache()


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
    heads: the maps side by side. And image, context and refined logits at the window's size.

    Args:
        itemsize: bytes of a number in the encoder.
    """
    channels = get_encoder_family(config.backbone_config).hidden_size(config.backbone_config)
    tokens = num_patches(config, height, width)
    return 16 * tokens * channels * itemsize + (3 * config.num_labels + 3) * 4 * height * width


def keeps_coarse_whole(device: torch.device) -> bool:
    """Whether strips are cut from coarse logits of the image's size, or resized anew: slow on a CPU."""
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
    Bytes on its device that the two-stage inference of one image takes at most, beside weights and image.

    It depends on the size of the image and on how many windows make a batch, not on how many windows there are.

    Args:
        windows: how many make a batch.
        in_strips: as in the model's `segment`.
        itemsize: bytes of a number in the encoder.
    """
    device = torch.device(device)
    edge_y, edge_x = min(config.window_size, height), min(config.window_size, width)
    logits, row_of_windows = 4 * config.num_labels * height * width, 4 * config.num_labels * edge_y * width
    kept = 3 * row_of_windows + keeps_coarse_whole(device) * logits if in_strips else 2 * logits
    parts = 3 * max(4 * MAX_TEMPORARY_VALUES, row_of_windows, 4 * height * width)
    masks = 6 * height * width  # certain and unusable pixels, labels, confidence
    return kept + masks + max(windows * window_memory(config, edge_y, edge_x, itemsize), min(parts, 3 * logits))


def free_memory(device: torch.device) -> int | None:
    """
    Bytes that can still be allocated on a device, or `None` where that cannot be found out. What a machine's memory
    holds of files is free: the system gives it up when it is asked for.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return psutil.virtual_memory().available if device.type == "cpu" else None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device or the machine had no memory left; not every allocator has an exception of its own."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
