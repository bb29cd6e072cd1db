# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""How far numbers lie apart, and models whose numbers are worth comparing."""

import torch


def disagreement(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> float:
    """
    Largest |actual - expected| / (atol + rtol |expected|) with atol = rtol = `tolerance`; up to 1 is agreement.

    Infinity where it is no number: NaN agrees with nothing.
    """
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    actual, expected = actual.detach().double(), expected.double()
    ratio = (actual - expected).abs() / (tolerance + tolerance * expected.abs())
    return float(ratio.nan_to_num(nan=float("inf"), posinf=float("inf")).max())


def lively(model, factor: float = 60.0):
    """Classifiers start near zero; scaled up, the logits and the certainty vary over the image."""
    for head in (model.coarse_head, model.refine_head):
        head.classifier.weight.data.mul_(factor)
    return model
