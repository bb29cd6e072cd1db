# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The frozen foundation model with a linear head: what its features tell before anything of VFMSeg is trained."""

from collections.abc import Iterable, Mapping, Sequence

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

    It learns the shares of the classes in each patch of some windows of each image; a prediction is enlarged
    bilinearly to the image's size.

    Args:
        model: its encoder is used as it is; its heads are not.
        processor: resizes and normalises the images.
        rows: images and label maps of the source.
        seed: of the windows and the order of the patches.
        windows_per_image: so many windows of each image are learnt from, chosen at random.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: VFMSegForSemanticSegmentation,
        processor: VFMSegImageProcessorMixin,
        rows: Iterable[Mapping[str, object]],
        seed: int = 0,
        windows_per_image: int = 2,
    ):
        self.encoder, self.config, self.processor = model.model.eval(), model.config, processor
        generator = torch.Generator().manual_seed(seed)
        features, shares = [], []
        for row in rows:
            pixels = self._read(row["image"])
            windows = self._windows(pixels)
            windows = [
                windows[index] for index in torch.randperm(len(windows), generator=generator)[:windows_per_image]
            ]
            of_patches = self._shares(np.array(row["label"]), pixels.shape[-2:])
            for (rows_, columns), maps in zip(map(self._patches, windows), self._maps(pixels, windows), strict=True):
                features.append(maps.flatten(1).T)
                shares.append(of_patches[:, rows_, columns].flatten(1).T)
        features, shares = torch.cat(features), torch.cat(shares)
        self.mean, self.scale = features.mean(0), features.std(0).clamp(min=1e-6)
        self.classifier = torch.nn.Linear(features.shape[1], model.config.num_labels)
        torch.nn.init.zeros_(self.classifier.weight)
        torch.nn.init.zeros_(self.classifier.bias)
        with torch.autocast("cpu", enabled=False):
            self._fit(features.sub_(self.mean).div_(self.scale), shares, generator)

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
        return F.adaptive_avg_pool2d(classes, [edge // self.config.patch_size for edge in size])

    def _read(self, image: Image.Image) -> torch.Tensor:
        """Pixels `[1, 3, height, width]` as the model sees them, of whole patches."""
        pixels = self.processor(image, return_tensors="pt")["pixel_values"]
        patch = self.config.patch_size
        return resize_bilinear(pixels, [max(patch, round(edge / patch) * patch) for edge in pixels.shape[-2:]])

    def _windows(self, pixels: torch.Tensor) -> list[tuple[int, int, int, int]]:
        """Those of the refinement, without overlap where they fit."""
        return plan_windows(*pixels.shape[-2:], self.config.window_size, self.config.window_size)

    def _patches(self, window: tuple[int, int, int, int]) -> tuple[slice, slice]:
        """Rows and columns of the patches in a window."""
        top, left, bottom, right = (edge // self.config.patch_size for edge in window)
        return slice(top, bottom), slice(left, right)

    def _maps(self, pixels: torch.Tensor, windows: Sequence[tuple[int, int, int, int]]) -> torch.Tensor:
        """Feature maps `[M, 4 * hidden_size, rows, columns]` of windows, which are of one size."""
        cut = [pixels[..., top:bottom, left:right] for top, left, bottom, right in windows]
        return torch.cat(self.encoder(torch.cat(cut)).feature_maps, dim=1).float()

    @torch.no_grad()
    def predict(self, image: Image.Image) -> np.ndarray:
        """Label map `uint8` `[H, W]` of an image."""
        pixels = self._read(image)
        windows = self._windows(pixels)
        size = (edge // self.config.patch_size for edge in pixels.shape[-2:])
        logits = pixels.new_empty(self.config.num_labels, *size)
        for (rows, columns), maps in zip(map(self._patches, windows), self._maps(pixels, windows), strict=True):
            features = (maps.flatten(1).T - self.mean) / self.scale
            with torch.autocast("cpu", enabled=False):
                logits[:, rows, columns] = self.classifier(features).T.unflatten(1, maps.shape[-2:])
        return resize_bilinear(logits[None], image.size[::-1])[0].argmax(0).to(torch.uint8).numpy()
