# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Label maps as the masks that mask classifiers learn from, and scipy, with which transformers matches them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def class_masks(labels: torch.Tensor, ignore: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """
    Every class of an image as one mask.

    Args:
        labels: class ids `[B, H, W]`, or `ignore`, which is in no mask.

    Returns:
        Of each image masks `[classes, H, W]` of 0 and 1 in float32, and their ids `[classes]`; none without labels.
    """
    present = [of_image.unique() for of_image in labels]
    present = [classes[classes != ignore].long() for classes in present]
    masks = [(of_image == classes[:, None, None]).float() for of_image, classes in zip(labels, present, strict=True)]
    return masks, present


@contextmanager
def needs_scipy(what: str) -> Iterator[None]:
    """An `ImportError` inside says that `what` needs scipy, and how to get it."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{what} needs scipy: pip install 'vfmseg-hf[methods]'") from error
