# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""CamVid's day frames for the tests: reading, training crops, and the score over CamVid's own classes.

It reads and scores without `vfmseg_hf.data` and `vfmseg_hf.evaluation`, so that its figures check theirs.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback


IGNORE = 255


class Classes:
    """
    CamVid's classes against the Cityscapes train ids that the model predicts.

    Attributes:
        names: CamVid's classes without "Unlabelled"; a class's position is its group in the score.
        to_train_id: `uint8` `[256]`, from CamVid's stored ids to train ids, 255 for void.
        to_group: `[256]`, from train ids to groups, `len(names)` for ids that CamVid knows no class of.
    """

    def __init__(self, table: Path):
        with open(table, newline="") as file:
            rows = list(csv.DictReader(file))
        scored = [row for row in rows if row["merged_train_ids_for_eval"]]
        self.names = [row["name"] for row in scored]
        self.to_train_id = np.full(256, IGNORE, dtype=np.uint8)
        for row in rows:
            self.to_train_id[int(row["id"])] = int(row["cityscapes_train_id"])
        self.to_group = np.full(256, len(scored))
        for group, row in enumerate(scored):
            self.to_group[[int(train_id) for train_id in row["merged_train_ids_for_eval"].split(";")]] = group

    def confusion(self, predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """
        Count pixels of one image by labelled (rows) and predicted group, both given as train ids.

        Returns `[G, G + 1]`: a prediction outside every group goes to the last column, where it is wrong for the
        labelled class and a false alarm of none. Void pixels are not counted.
        """
        count = len(self.names)
        valid = labels != IGNORE
        pairs = self.to_group[labels[valid]] * (count + 1) + self.to_group[predicted[valid]]
        return np.bincount(pairs, minlength=count * (count + 1)).reshape(count, count + 1)


def class_ious(confusion: np.ndarray) -> np.ndarray:
    """IoU per group of a matrix summed over images; nan for a group that neither occurs nor is predicted."""
    hits = np.diagonal(confusion).astype(float)
    union = confusion.sum(axis=1) + confusion[:, : len(confusion)].sum(axis=0) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def mean_iou(confusion: np.ndarray) -> float:
    return float(np.nanmean(class_ious(confusion)))


@dataclass(frozen=True)
class Frame:
    stem: str
    image_path: Path
    image: PIL.Image.Image
    labels: np.ndarray  # train ids, uint8 [360, 480]


def read_frames(folder: Path, role: str, classes: Classes) -> list[Frame]:
    """The frames that `frames.csv` suggests for a role, e.g. `"source_train"`, decoded (0.7 MB each)."""
    with open(folder / "frames.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["suggested_role"] == role]
    frames = []
    for row in rows:
        image_path = folder / row["split"] / "images" / f"{row['stem']}.jpg"
        label_path = folder / row["split"] / "labels" / f"{row['stem']}.png"
        with PIL.Image.open(image_path) as image, PIL.Image.open(label_path) as ids:
            labels = classes.to_train_id[np.asarray(ids)]
            frames.append(Frame(row["stem"], image_path, image.convert("RGB"), labels))
    return frames


def majority_map(maps: Iterable[np.ndarray], num_labels: int) -> np.ndarray:
    """The most frequent train id of every pixel over label maps of one size: what one can say without looking."""
    maps = list(maps)
    counts = np.stack([sum((labels == train_id).astype(np.int32) for labels in maps) for train_id in range(num_labels)])
    return counts.argmax(axis=0).astype(np.uint8)


class TrainingCrops(Dataset):
    """
    Random crops at random scales, flipped and relit at random, as the Trainer's default collator takes them.

    What an index gives depends on (seed, epoch, index) alone. Drawn from the global generators instead, a resumed run
    would see other crops: the data loader fetches ahead of the state that a checkpoint stores.
    """

    def __init__(
        self, frames, processor, size: tuple[int, int], scales: tuple[float, float] = (0.9, 1.6), seed: int = 0
    ):
        self.frames, self.processor, self.size, self.scales, self.seed = list(frames), processor, size, scales, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        random = np.random.default_rng((self.seed, self.epoch, index))
        frame = self.frames[index]
        (width, height), (rows, columns) = frame.image.size, self.size
        scale = max(random.uniform(*self.scales), rows / height, columns / width)
        left = random.uniform(0, width - columns / scale)
        top = random.uniform(0, height - rows / scale)
        box = (left, top, min(left + columns / scale, width), min(top + rows / scale, height))
        image = frame.image.resize((columns, rows), PIL.Image.Resampling.BILINEAR, box=box)
        labels = PIL.Image.fromarray(frame.labels).resize((columns, rows), PIL.Image.Resampling.NEAREST, box=box)
        pixels, labels = np.asarray(image, dtype=np.float32), np.asarray(labels)
        if random.random() < 0.5:
            pixels, labels = pixels[:, ::-1], labels[:, ::-1]
        contrast, brightness = random.uniform(0.7, 1.3), random.uniform(-30, 30)
        pixels = ((pixels - pixels.mean()) * contrast + pixels.mean() + brightness).clip(0, 255).astype(np.uint8)
        inputs = self.processor(pixels, np.ascontiguousarray(labels), do_resize=False, return_tensors="pt")
        return {key: value[0] for key, value in inputs.items()}


class TellEpoch(TrainerCallback):
    """Tells the training set its epoch; in the epoch that a run is resumed in, accelerate does not."""

    def __init__(self, dataset: TrainingCrops):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.dataset.epoch = int(state.epoch)


class MixedSizes(Dataset):
    """Whole frames at one size after the other, labels at the frames' own size."""

    def __init__(self, frames, processor, sizes: list[tuple[int, int]]):
        self.frames, self.processor, self.sizes = list(frames), processor, sizes

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        frame, (height, width) = self.frames[index], self.sizes[index % len(self.sizes)]
        inputs = self.processor(frame.image, size={"height": height, "width": width}, return_tensors="pt")
        return {"pixel_values": inputs["pixel_values"][0], "labels": torch.from_numpy(frame.labels.astype(np.int64))}
