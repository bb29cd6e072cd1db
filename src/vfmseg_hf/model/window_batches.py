# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Windows through encoder and head, in batches of one shape whatever pictures they come from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers.utils import logging

from .memory import choose_window_batch_size, is_out_of_memory
from .resizing import pad_to_patches, resize_bilinear


if TYPE_CHECKING:
    from .modeling_vfmseg import VFMSegForSemanticSegmentation

logger = logging.get_logger(__name__)

# Full batches that have to fit before twice as many windows are tried: at first, and at most.
FIRST_PATIENCE, MOST_PATIENCE = 16, 512


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


def run_windows(
    model: "VFMSegForSemanticSegmentation",
    step: Callable[..., torch.Tensor],
    windows: Sequence[tuple[torch.Tensor, ...]],
    fill: bool = False,
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """
    Logits of some windows, batch by batch.

    A batch that does not fit into memory is halved, and so are those of windows of this size after it, with one
    warning. After some that fit twice as many are tried again ([`WindowBatchLimit`]): what took the memory may be gone.

    Args:
        model: decides how many windows make a batch.
        step: from stacked inputs to logits `[M, num_labels, any height, any width]`.
        windows: the inputs of each window, each a view `[channels, height, width]`. Windows of one size share batches;
            they are padded to whole patches at the bottom and right by repeating the border.
        fill: whether the last batch is filled up to a power of two, so that there are few shapes; the surplus is
            dropped.

    Yields:
        The numbers of the M windows of a batch, and their logits `[M, num_labels, height, width]`, float32, at the
        windows' size.
    """
    of_size: dict[tuple[int, int], list[int]] = {}
    for number, inputs in enumerate(windows):
        of_size.setdefault(tuple(inputs[0].shape[-2:]), []).append(number)
    for (height, width), numbers in of_size.items():
        most = choose_window_batch_size(model.config, windows[numbers[0]][0])
        device = windows[numbers[0]][0].device
        while numbers:
            limit = model.window_batch_limits.get((device, height, width))
            size = min(most, limit.size) if limit else most
            batch = numbers[:size]
            full = min(size, 1 << (len(batch) - 1).bit_length()) if fill else len(batch)
            filled = batch + batch[-1:] * (full - len(batch))
            try:
                logits = run_batch(step, [windows[number] for number in filled], model.config.patch_size)
            except RuntimeError as error:
                if len(filled) == 1 or not is_out_of_memory(error):
                    raise
                logits = None
            if logits is None:  # outside the handler, whose traceback would hold on to the memory
                halve_window_batch(model, len(filled), (device, height, width))
                continue
            if limit:
                limit.fits(len(filled))
            yield batch, logits[: len(batch), :, :height, :width]
            numbers = numbers[size:]


def run_batch(
    step: Callable[..., torch.Tensor], windows: Sequence[tuple[torch.Tensor, ...]], patch_size: int
) -> torch.Tensor:
    """Logits `[M, num_labels, height, width]`, float32, of windows padded to whole patches."""
    stacked = [pad_to_patches(torch.stack(views), patch_size) for views in zip(*windows, strict=True)]
    return resize_bilinear(step(*stacked).float().contiguous(), stacked[0].shape[-2:])


def halve_window_batch(model: "VFMSegForSemanticSegmentation", size: int, kind: tuple[torch.device, int, int]) -> None:
    """Remember that `size` windows of a kind (device, height, width) do not fit, with a warning the first time."""
    device, *_ = kind
    if not model.window_batch_limits:
        logger.warning(
            f"{size} windows at once do not fit into the memory of {device}: going on with half as many, and trying "
            "more from time to time. Set config.window_batch_size to a number that fits to avoid failed attempts."
        )
    model.window_batch_limits.setdefault(kind, WindowBatchLimit(size)).fails(size)
    if device.type != "cpu":
        torch.accelerator.empty_cache()
