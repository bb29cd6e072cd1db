# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Noise of the procedural streets: two tiles with the same values on every machine, and where a place is in them."""

import numpy as np


def _noise_tiles() -> tuple[np.ndarray, np.ndarray]:
    """Noise around 0 that repeats every 256 steps, both float32 [65536]: white, and with waves of 4 to 64 steps."""
    raw = np.random.PCG64(19).random_raw(49152).astype("<u8").view(np.uint8).reshape(6, 256, 256)
    white, *lattices = raw.astype(np.float32) / 128 - 1
    smooth, place = np.zeros((256, 256), np.float32), np.arange(256)
    for lattice, step in zip(lattices, (4, 8, 16, 32, 64), strict=True):
        before, after = place // step * step, (place // step + 1) * step % 256
        t = (place % step / step).astype(np.float32)
        t = t * t * (3 - 2 * t)
        rows = lattice[before] + (lattice[after] - lattice[before]) * t[:, None]
        smooth += (rows[:, before] + (rows[:, after] - rows[:, before]) * t) * (0.1 + step / 180)
    return white.reshape(-1), smooth.reshape(-1)


WHITE, SMOOTH = _noise_tiles()


def place(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where the places u, v of a plane are in a noise tile that covers it."""
    return ((v.astype(np.int32) & 255) << 8) | (u.astype(np.int32) & 255)
