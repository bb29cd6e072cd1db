# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What several processes need that train one model."""

import torch
from torch import nn
from transformers.utils import logging

from ..methods import auto_class_of


logger = logging.get_logger(__name__)


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> None:
    """
    Make the coarse head's batch norm compute its statistics over the batches of all processes, in place.

    torch's `SyncBatchNorm` has the same weights and buffers under the same names. It refuses tensors on the CPU: there
    every process keeps its own statistics, and that is said.
    """
    if device.type == "cpu":
        logger.warning_once(
            "The batch norm of the coarse head stays local: torch synchronises it on accelerators only. Every process "
            "normalises by its own part of the batch, and the statistics of the main process are saved."
        )
        return
    # The model itself stays the object that Trainer and peft know; only modules inside it are exchanged.
    nn.SyncBatchNorm.convert_sync_batchnorm(model)


def has_unused_parameters(model: nn.Module) -> bool:
    """
    Whether weights train that no loss reaches, so that DDP has to look for them: a foundation model's last norm, the
    mask token where no feature is masked, the refine head where its loss does not count, or Rein's map to queries that
    are not linked. With LoRA, or heads only, every other trained weight gets its gradient. Of models of transformers it
    is not known.
    """
    if auto_class_of(model.config):
        return True
    unmasked = getattr(model.config, "feature_mask_ratio", None) == 0
    unrefined = getattr(model.config, "detail_loss_weight", None) == 0
    unlinked = getattr(model.config, "link_queries", None) is False
    return any(
        parameter.requires_grad
        and (
            ("model.encoder." in name and ".lora_" not in name)
            or (unmasked and name.endswith("mask_token"))
            or (unrefined and "refine_head." in name)
            or (unlinked and ("reins.transform." in name or "reins.merge." in name))
        )
        for name, parameter in model.named_parameters()
    )
