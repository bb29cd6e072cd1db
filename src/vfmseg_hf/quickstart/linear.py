# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The frozen foundation model with a linear head: what its features tell before anything of VFMSeg is trained."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from ..model.image_processing_pil_vfmseg import VFMSegImageProcessorMixin
from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from ..model.windows import plan_windows, resize_bilinear


STEPS, PATCHES, RATE, DECAY = 300, 2048, 3e-3, 1e-2


class LinearHead:
    """
    A logistic classifier of patches on an encoder's four feature maps, at the resolution of the refined windows.

    It learns the shares of the classes in each patch; a prediction is enlarged bilinearly to the image's size.

    Args:
        model: its encoder is used as it is; its heads are not.
        processor: resizes and normalises the images.
        rows: images and label maps of the source.
        seed: of the order of the patches.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: VFMSegForSemanticSegmentation,
        processor: VFMSegImageProcessorMixin,
        rows: Iterable[Mapping[str, object]],
        seed: int = 0,
    ):
        self.encoder, self.config, self.processor = model.model.eval(), model.config, processor
        features, shares = [], []
        for row in rows:
            maps = self.extract(row["image"])
            features.append(maps.flatten(1).T)
            shares.append(self._shares(np.array(row["label"]), maps.shape[-2:]).flatten(1).T)
        features, shares = torch.cat(features), torch.cat(shares)
        self.mean, self.scale = features.mean(0), features.std(0).clamp(min=1e-6)
        self.classifier = torch.nn.Linear(features.shape[1], model.config.num_labels)
        torch.nn.init.zeros_(self.classifier.weight)
        torch.nn.init.zeros_(self.classifier.bias)
        self._fit(features.sub_(self.mean).div_(self.scale), shares, torch.Generator().manual_seed(seed))

    @torch.enable_grad()
    def _fit(self, features: torch.Tensor, shares: torch.Tensor, generator: torch.Generator) -> None:
        optimizer = torch.optim.AdamW(self.classifier.parameters(), RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
        for _ in range(STEPS):
            chosen = torch.randint(len(features), (PATCHES,), generator=generator)
            losses = -(shares[chosen] * self.classifier(features[chosen]).log_softmax(1)).sum(1)
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
            schedule.step()

    def _shares(self, labels: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        """Shares of the classes in each patch `[num_labels, rows, columns]`; what is ignored has none."""
        ids = torch.from_numpy(labels).long().clamp(max=self.config.num_labels)
        classes = F.one_hot(ids, self.config.num_labels + 1)[..., :-1].permute(2, 0, 1).float()
        return F.adaptive_avg_pool2d(classes, size)

    def extract(self, image: Image.Image) -> torch.Tensor:
        """Feature maps `[4 * hidden_size, rows, columns]` of an image, taken window by window as in the refinement."""
        pixels = self.processor(image, return_tensors="pt")["pixel_values"]
        patch, side = self.config.patch_size, self.config.window_size
        height, width = (max(patch, round(edge / patch) * patch) for edge in pixels.shape[-2:])
        pixels = resize_bilinear(pixels, (height, width))
        maps = None
        for top, left, bottom, right in plan_windows(height, width, side, side):
            window = torch.cat(self.encoder(pixels[..., top:bottom, left:right]).feature_maps, dim=1)[0]
            if maps is None:
                maps = window.new_empty(len(window), height // patch, width // patch)
            maps[:, top // patch : bottom // patch, left // patch : right // patch] = window
        return maps

    @torch.no_grad()
    def predict(self, image: Image.Image) -> np.ndarray:
        """Label map `uint8` `[H, W]` of an image."""
        maps = self.extract(image)
        features = (maps.flatten(1).T - self.mean) / self.scale
        logits = self.classifier(features).T.unflatten(1, maps.shape[-2:])
        return resize_bilinear(logits[None], image.size[::-1])[0].argmax(0).to(torch.uint8).numpy()
