# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""How right the coarse pass is where it is certain, and what refinement makes of the windows that it is unsure of."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from ..model.windows import Box, label_map


PROBABILITIES = 256  # steps of a probability: bytes, 255 for 1


@dataclass
class Reliability:
    """
    Counts over images. Windows overlap, so that a pixel counts in every window that it lies in.

    Attributes:
        certainty (`float32` `[N]`): C_k of every window, 0..1: its share of pixels above *theta*.
        refined (`bool` `[N]`): whether the gate has it refined.
        windows (`int64` `[N, 3]`): labelled pixels, and how many of these are right before and after refinement.
        pixels (`int64` `[256, 2]`): labelled pixels by the coarse probability of their best class, in steps of 1/255,
            and how many of these are right in the coarse pass.
    """

    certainty: np.ndarray
    refined: np.ndarray
    windows: np.ndarray
    pixels: np.ndarray

    @classmethod
    def joined(cls, parts: Iterable["Reliability"]) -> "Reliability":
        """The counts of all parts, of which there is at least one, together."""
        parts = list(parts)
        lists = ([getattr(part, name) for part in parts] for name in ("certainty", "refined", "windows"))
        return cls(*map(np.concatenate, lists), sum(part.pixels for part in parts))

    def by_certainty(self, bins: int) -> list[dict[str, float | int | None]]:
        """
        Windows by their certainty, in bins of one width, the last of which includes 1.

        Returns:
            Of every bin its bounds `from` and `to`, `windows`, `refined`, labelled `pixels`, and the shares that are
            right, `coarse` and `final`; None without pixels.
        """
        number = np.minimum((self.certainty * bins).astype(int), bins - 1)
        return [{"from": index / bins, "to": (index + 1) / bins, **self._of(number == index)} for index in range(bins)]

    def by_probability(self, bins: int) -> list[dict[str, float | int | None]]:
        """
        Pixels by the probability of their best class, likewise.

        Returns:
            Of every bin `from`, `to`, `pixels`, their mean `probability` and the share that is `right`.
        """
        steps = np.arange(PROBABILITIES)
        number = np.minimum(steps * bins // (PROBABILITIES - 1), bins - 1)
        result = []
        for index in range(bins):
            count, right = self.pixels[number == index].sum(axis=0)
            mean = _share(steps[number == index] @ self.pixels[number == index, 0], count * (PROBABILITIES - 1))
            bounds = {"from": index / bins, "to": (index + 1) / bins}
            result.append({**bounds, "pixels": int(count), "probability": mean, "right": _share(right, count)})
        return result

    def calibration_error(self, bins: int) -> float:
        """
        Expected calibration error (Guo et al. 2017, equation 3): the mean over pixels of |share right - probability| of
        their bin, 0..1.
        """
        found = [each for each in self.by_probability(bins) if each["pixels"]]
        total = sum(abs(each["right"] - each["probability"]) * each["pixels"] for each in found)
        return total / sum(each["pixels"] for each in found)

    def kept_and_refined(self) -> dict[str, dict[str, float | int | None]]:
        """The windows that the gate keeps and those that it has refined, as a bin of [`by_certainty`] has them."""
        return {"kept": self._of(~self.refined), "refined": self._of(self.refined)}

    def _of(self, chosen: np.ndarray) -> dict[str, float | int | None]:
        pixels, coarse, final = self.windows[chosen].sum(axis=0)
        return {
            "windows": int(chosen.sum()),
            "refined": int(self.refined[chosen].sum()),
            "pixels": int(pixels),
            "coarse": _share(coarse, pixels),
            "final": _share(final, pixels),
        }


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


@torch.no_grad()
def count_reliability(
    model: VFMSegForSemanticSegmentation,
    images: torch.utils.data.Dataset,
    name: str,
    progress: Callable[[Iterable], Iterable] | None = None,
) -> Reliability:
    """
    Segment the images of a domain as the model's gate has it, and count what is right and how certain it was.

    A pixel is right if its class is in the group of its label, by the domain's rule for scores. Labels are not resized:
    a window holds the labels whose centres lie in it.

    Args:
        model: of two stages, in eval mode.
        images: [`EvaluationImages`], at least one.
        name: of the domain, for messages.
        progress: wraps the iteration over the images, e.g. `tqdm`.

    Raises:
        ValueError: the model has other classes than the domain, or no pixel is labelled.
    """
    images = images.for_model(model.config.id2label, name)
    groups = np.array(images.evaluation.groups)
    parts = []
    for index in (progress or iter)(range(len(images))):
        item = images[index]
        labels = item["labels"].numpy()
        pixel_values = item["pixel_values"].to(model.device, model.dtype)
        (result,) = model.segment([pixel_values], [labels.shape])
        coarse, probability = (maps.cpu().numpy() for maps in label_map(result.coarse_logits, labels.shape))
        labelled = labels != model.config.semantic_loss_ignore_index
        truth = groups[np.where(labelled, labels, 0)]
        correct = [labelled & (groups[found] == truth) for found in (coarse, result.labels.cpu().numpy())]
        maps = np.stack([labelled, *correct], axis=-1)
        boxes = label_boxes(result.windows, pixel_values.shape[-2:], labels.shape)
        parts.append(
            Reliability(
                np.array(result.certainty, np.float32),
                np.array(result.refined, bool),
                np.stack([maps[top:bottom, left:right].sum(axis=(0, 1)) for top, left, bottom, right in boxes]),
                np.stack(
                    [np.bincount(probability[chosen], minlength=PROBABILITIES) for chosen in (labelled, correct[0])],
                    axis=-1,
                ),
            )
        )
    counts = Reliability.joined(parts)
    if not counts.pixels.any():
        raise ValueError(f"no pixel of the domain {name!r} has a class; check the dataset and its split")
    return counts


def label_boxes(boxes: Sequence[Box], seen: tuple[int, int], labelled: tuple[int, int]) -> list[Box]:
    """
    Boxes of the image that the model saw as boxes of a label map of another size: the labels whose centres are inside.

    Args:
        seen, labelled: height and width of either.
    """

    def first_from(edge: int, axis: int) -> int:
        """The first label whose centre (i + 1/2) / labelled is not before edge / seen."""
        return max(0, -((seen[axis] - 2 * edge * labelled[axis]) // (2 * seen[axis])))

    return [tuple(first_from(edge, axis % 2) for axis, edge in enumerate(box)) for box in boxes]
