# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Image processor of VFMSeg, torchvision backend."""

import torch
from transformers.image_processing_backends import TorchvisionBackend
from transformers.utils import is_torchvision_available

from .image_processing_pil_vfmseg import VFMSegImageProcessorMixin, VFMSegImageProcessorPil, notify_torchvision_missing


class VFMSegImageProcessor(VFMSegImageProcessorMixin, TorchvisionBackend):
    """
    VFMSeg image processor on torchvision: the default, also computes on a GPU (`device="cuda"`).

    Fits images into a box (1024 x 2048 pixels by default), scales them to 0..1 and normalises them with `image_mean`
    and `image_std`: ImageNet's by default, `image_constants` gives those of a model's encoder. See `preprocess` for
    inputs, outputs and errors. Without torchvision, building or loading this class gives a
    [`VFMSegImageProcessorPil`] and says so once.

    Example:

    ```python
    >>> from PIL import Image
    >>> from vfmseg_hf import VFMSegImageProcessor

    >>> processor = VFMSegImageProcessor()
    >>> processor(Image.new("RGB", (640, 320)), return_tensors="pt")["pixel_values"].shape
    torch.Size([1, 3, 1024, 2048])
    ```
    """

    def __new__(cls, *args: object, **kwargs: object):
        # transformers' backend constructs without torchvision and fails at the first image, with a TypeError.
        if not is_torchvision_available():
            notify_torchvision_missing()
            return VFMSegImageProcessorPil(*args, **kwargs)
        return super().__new__(cls)

    def from_tensor(self, tensor: torch.Tensor, device: "str | torch.device | None" = None) -> torch.Tensor:
        """The tensor, moved to `device` if one is given."""
        return tensor if device is None else tensor.to(device)


__all__ = ["VFMSegImageProcessor"]
