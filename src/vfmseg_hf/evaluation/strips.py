# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Whether the logits of images fit into memory, or labels have to be finished strip by strip."""

from collections.abc import Sequence

import torch

from ..methods import model_class_of
from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from ..model.window_batches import choose_window_batch_size, free_memory, inference_memory


def needs_strips(model: VFMSegForSemanticSegmentation, images: Sequence[torch.Tensor]) -> bool:
    """
    Whether `model.segment` of images `[3, height, width]`, together, would take more than the free memory of its
    device. Images that decide together (`certainty_scope="batch"`) are never finished in strips.
    """
    if model_class_of(model.config) is not VFMSegForSemanticSegmentation:
        return False  # its logits are those of the size that it sees
    config, free = model.config, free_memory(model.device)
    if free is None or config.certainty_scope != "image":
        return False
    edge = config.window_size
    needed = 0
    for image in images:
        height, width = image.shape[-2:]
        windows = choose_window_batch_size(config, image[:, :edge, :edge])
        needed += inference_memory(config, height, width, windows, device=model.device, itemsize=image.element_size())
    return needed > free
