# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""A dataset of coloured blocks in memory."""

import numpy as np
from PIL import Image


def rows(count: int, sizes=((80, 112),), seed: int = 0, classes: int = 19) -> list[dict]:
    """Blocks of classes, and images whose colours depend on them."""
    random = np.random.default_rng(seed)
    result = []
    for index in range(count):
        height, width = sizes[index % len(sizes)]
        label = np.kron(random.integers(0, classes, (height // 16, width // 16)), np.ones((16, 16))).astype(np.uint8)
        ids = label.astype(int)
        image = (np.stack([ids * 13, 255 - ids * 7, ids * 29], axis=-1) % 256).astype(np.uint8)
        result.append({"image": Image.fromarray(image), "label": Image.fromarray(label), "file_name": f"frame{index}"})
    return result
