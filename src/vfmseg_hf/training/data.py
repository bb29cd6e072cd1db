# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Rows of a dataset as training crops and evaluation images, and the order in which they are drawn."""

import copy
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Sampler

from ..data import ClassMap, ClassMatch, EvaluationGroups, each_class
from ..model.image_processing_pil_vfmseg import VFMSegImageProcessorMixin
from .augmentation import Augmentation
from .matching import NamedImages


class CropRequest(NamedTuple):
    """
    What a sampler asks [`TrainingImages`] for.

    Attributes:
        epoch: of the training.
        index: row of the dataset.
        class_id: the class that the image was drawn for, if any; the crop should show it.
        crop_pixels: more pixels of that class than this make a crop that shows it; a negative number takes every crop.
            The default is the recipe's, 3000 pixels times 2.
        number: of the draw within the epoch, where an image can be drawn twice: it then gives two different crops.
    """

    epoch: int
    index: int
    class_id: int | None = None
    crop_pixels: float = 6000.0
    number: int = 0


class TrainingImages(NamedImages):
    """
    Augmented crops of a dataset.

    An item is asked for by (epoch, index), as [`EpochSampler`] draws them, or by a whole [`CropRequest`], and
    depends on nothing but these and the seed: any number of workers, and an interrupted run, see the same crops.

    Args:
        dataset: rows with `image`, `label` and `file_name`, from `open_dataset`.
        processor: rescales and normalises the crops, as it does with images in evaluation; its `size` and how it
            resizes do not apply to them.
        augmentation: what else happens to them.
        seed: of everything random.
        class_pixels (`np.ndarray` of shape `(N, K)`): pixels of every class in every row, from
            `data.count_class_pixels` for this dataset in this order, which nothing checks; needed for rare class
            sampling only.
        id2label: names of the ids in `label`, by default those that the dataset has; [`VFMSegTrainer`] compares them
            with the model's.
        class_map: `{data class: model class}` where names differ; None in place of a model class: ignored.

    Raises:
        `ValueError`: `class_pixels` has not one row for every row of `dataset`, or `processor` reduces labels.
    """

    def __init__(
        self,
        dataset: Dataset,
        processor: VFMSegImageProcessorMixin,
        augmentation: Augmentation,
        seed: int = 0,
        class_pixels: np.ndarray | None = None,
        id2label: Mapping[int, str] | None = None,
        class_map: ClassMap | None = None,
    ):
        if class_pixels is not None and (class_pixels.ndim != 2 or len(class_pixels) != len(dataset)):
            raise ValueError(
                f"class_pixels need one row per image, [{len(dataset)}, classes], got shape {class_pixels.shape}; "
                "count them in this dataset"
            )
        super().__init__(dataset, id2label, class_map)
        check_final_ids(processor)
        self.processor, self.augmentation, self.seed = processor, augmentation, seed
        self.class_pixels = class_pixels

    def _follow(self, match: ClassMatch) -> None:
        for name, partners in match.mapping.items():
            if isinstance(partners, list):
                raise ValueError(f"a label can be learnt as one class only, but {name} is {' or '.join(partners)}")
        if self.class_pixels is not None:
            counts = np.zeros((len(self.class_pixels), len(self.id2label)), self.class_pixels.dtype)
            for own, theirs in zip(self.class_pixels.T, match.model_ids, strict=True):
                if theirs:
                    counts[:, theirs[0]] += own
            self.class_pixels = counts

    @property
    def parts(self) -> "tuple[TrainingImages, ...]":
        """The images of each dataset: these, or what [`JoinedImages`] has joined."""
        return (self,)

    @property
    def name(self) -> str:
        """Spec and split of the dataset, for messages."""
        spec = getattr(getattr(self.dataset, "info", None), "dataset_name", None)
        split = getattr(self.dataset, "split", None)
        return f"{spec}@{split}" if spec and split else spec or "a dataset without a name"

    def __getitem__(self, key: CropRequest | tuple[int, int] | int) -> dict[str, object]:
        draw = CropRequest(*key) if isinstance(key, tuple) else CropRequest(0, key)
        return self.crop(self.dataset[draw.index], draw)

    def crop(self, row: Mapping[str, object], draw: CropRequest) -> dict[str, object]:
        """The crop of a row of the dataset that a request asks for, whose `index` does not choose the row any more."""
        generator = seeded_generator(self.seed, draw.epoch, draw.index, draw.number)
        image = torch.from_numpy(np.array(self.read_image(row))).permute(2, 0, 1)
        label = self.read_labels(row)
        image, label = self.augmentation(image, label, generator, draw.class_id, draw.crop_pixels)
        return {"pixel_values": self.processor.normalise(image), "labels": label, "file_name": row["file_name"]}


class EvaluationImages(NamedImages):
    """
    Images of a dataset at the processor's size, with label maps of their own size.

    Args:
        dataset, processor: as for [`TrainingImages`].
        evaluation: the dataset's rule for scores, `describe_dataset(spec).evaluation`; by default every class counts
            alone.
        id2label: as for [`TrainingImages`]; what scores them compares them with the model's.
        class_map: likewise; a list of model classes in place of one: they are scored as one.

    Raises:
        `ValueError`: `processor` reduces labels, or `evaluation` is a rule for another number of classes.
    """

    def __init__(
        self,
        dataset: Dataset,
        processor: VFMSegImageProcessorMixin,
        evaluation: EvaluationGroups | None = None,
        id2label: Mapping[int, str] | None = None,
        class_map: ClassMap | None = None,
    ):
        super().__init__(dataset, id2label, class_map)
        check_final_ids(processor)
        self.processor = processor
        self.evaluation = each_class(self.id2label) if evaluation is None and self.id2label else evaluation
        if self.id2label and len(self.evaluation.groups) != len(self.id2label):
            raise ValueError(
                f"the rule for scores is for {len(self.evaluation.groups)} classes, but the labels have "
                f"{len(self.id2label)}; use the rule of the dataset that they come from"
            )

    @property
    def groups(self) -> ClassMap | None:
        return self.evaluation and self.evaluation.class_map

    def for_model(self, id2label: Mapping[int, str], name: str) -> "EvaluationImages":
        """As [`NamedImages.for_model`], with the rule for scores over the model's ids as well."""
        matched = super().for_model(id2label, name)
        if matched.evaluation is None:  # nothing is known of them: their ids are the model's
            matched = copy.copy(matched)
            matched.evaluation = each_class(id2label)
        elif len(matched.evaluation.groups) != len(id2label):
            raise ValueError(
                f"the model has {len(id2label)} classes, but the domain {name!r} is scored by a rule for "
                f"{len(matched.evaluation.groups)}. Score it on a dataset with the classes that it was trained on."
            )
        return matched

    def _follow(self, match: ClassMatch) -> None:
        self.evaluation = self.evaluation.for_model(match.model_ids, len(self.id2label))

    def __getitem__(self, index: int) -> dict[str, object]:
        row = self.dataset[index]
        pixel_values = self.processor(self.read_image(row), return_tensors="pt")["pixel_values"][0]
        return {
            "pixel_values": pixel_values,
            "labels": self.read_labels(row),
            "file_name": row["file_name"],
        }


def check_final_ids(processor: VFMSegImageProcessorMixin) -> None:
    """Raise a `ValueError` if an image processor would count the classes of a dataset anew."""
    if processor.do_reduce_labels:
        raise ValueError(
            "the image processor has do_reduce_labels=True, but label maps of a dataset hold final ids, which nothing "
            "shifts: set processor.do_reduce_labels = False (in preprocessor_config.json), and map ids in the file of "
            "`folder:`, or with the `map` of a dataset of `datasets` before it is saved"
        )


class EpochSampler(Sampler):
    """Draws (epoch, index) in an order that depends on the seed and the epoch only."""

    def __init__(self, length: int, seed: int):
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        # Five numbers: crops are seeded by four, and none of them may share this generator's stream.
        generator = seeded_generator(self.seed, epoch, 0, 0, 2)
        yield from ((epoch, index) for index in torch.randperm(self.length, generator=generator).tolist())


def seeded_generator(*numbers: int) -> torch.Generator:
    """A generator for a purpose that is told by numbers, none of them negative; trailing zeros tell nothing."""
    seed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed))


def collate(rows: list[dict[str, object]]) -> dict[str, object]:
    """
    Stacks images and label maps of one size into tensors; keeps lists where sizes differ, and file names.

    Rows hold `pixel_values`, and `labels` and `file_name` if they have them; what else they hold is left out.

    Raises:
        ValueError: rows without `pixel_values`.
    """
    if "pixel_values" not in rows[0]:
        raise ValueError(
            f"rows need pixel_values [3, height, width] and labels [height, width], got {sorted(rows[0])}; the image "
            "processor makes both"
        )
    batch = {"file_name": [row["file_name"] for row in rows]} if "file_name" in rows[0] else {}
    for key in ("pixel_values", "labels"):
        if key in rows[0]:
            values = [torch.as_tensor(row[key]) for row in rows]
            batch[key] = torch.stack(values) if len({value.shape for value in values}) == 1 else values
    return batch
