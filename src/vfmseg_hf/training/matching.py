# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Images whose label maps have named classes: as the dataset numbers them, or as a model does."""

import copy
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import PIL.Image
import torch
from torch.utils.data import ConcatDataset, Subset

from ..data import ClassMap, ClassMatch, classes_of, match_classes
from ..data.findings import notify
from ..data.reading import as_ids, translate
from ..model.image_inputs import as_stored, to_rgb


class NamedImages(torch.utils.data.Dataset):
    """
    Base of training and evaluation images.

    Args:
        dataset: rows with `image`, `label` and `file_name`, from `open_dataset`.
        id2label: names of the ids in `label`, by default those that the dataset has.
        class_map: which classes of a model they are, where names differ, as for `data.match_classes`.

    Attributes:
        class_match: how labels became the model's, in what [`for_model`] has made; None where nothing had to be done.
    """

    class_match: ClassMatch | None = None
    groups: ClassMap | None = None  # of the dataset, for models with other classes; labels to learn from have none
    _source: Self | None = None

    def __init__(self, dataset: Any, id2label: Mapping[int, str] | None, class_map: ClassMap | None):
        self.dataset, self.class_map = dataset, class_map
        self.id2label = classes_of(dataset) if id2label is None else dict(sorted(id2label.items()))
        if class_map and self.id2label is None:
            raise ValueError("a class map needs the names of the dataset's classes: pass id2label={0: ..., 1: ...}")
        if self.id2label is not None:
            # Which ids there are has to be known when labels are read, or others would pass for classes of a model.
            self._table = match_classes(self.id2label, self.id2label).label_table

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def unmatched(self) -> Self:
        """These images with labels in the ids of the dataset."""
        return self._source or self

    def for_model(self, id2label: Mapping[int, str], name: str) -> Self:
        """
        These images with labels in the ids of a model; itself where they are that already.

        What is assumed is said, once. Of images without known classes nothing can be compared.

        Args:
            id2label: of the model.
            name: what messages call these images.

        Raises:
            ValueError: the classes are not the model's, as for `data.match_classes`.
        """
        source = self.unmatched
        if source.id2label is None:
            return source
        try:
            match = match_classes(id2label, source.id2label, source.class_map, source.groups)
            if match.said is None:
                return source
            matched = copy.copy(source)
            matched._source, matched._table, matched.class_match = source, match.label_table, match
            matched.id2label, matched.class_map = dict(sorted(id2label.items())), None
            matched._follow(match)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        notify(f"{name}: {match.said}.")
        return matched

    def _follow(self, match: ClassMatch) -> None:
        """Brings what else is by class into the order of the model's."""
        raise NotImplementedError

    def read_image(self, row: Mapping[str, Any]) -> Any:
        """
        The image of a row, its pixels where they are stored: as RGB if it is one of Pillow's, others as they are.

        Raises:
            ValueError: it has another size than its label map, or modes and values that the image processor refuses.
        """
        image = row["image"]
        if not isinstance(image, PIL.Image.Image):
            return image
        image = to_rgb(as_stored(image), f"The image {row['file_name']}")
        if image.size != (size := row["label"].size if isinstance(row["label"], PIL.Image.Image) else image.size):
            raise ValueError(
                f"the label map of {row['file_name']} is {size[0]}x{size[1]} pixels, its image "
                f"{image.size[0]}x{image.size[1]} as it is stored"
            )
        return image

    def read_labels(self, row: Mapping[str, Any]) -> torch.Tensor:
        """
        The label map of a row: `int64` `[H, W]`.

        Raises:
            ValueError: ids that are no class, where the classes are known.
        """
        ids = np.array(row["label"])
        if self.id2label is not None:
            ids = translate(as_ids(ids), self._table, row["file_name"])
        return torch.from_numpy(ids.astype(np.int64))


def match_images(images: Any, id2label: Mapping[int, str], name: str) -> Any:
    """
    [`NamedImages.for_model`] of images, or of each of several by name; other datasets stay as they are.

    Raises:
        ValueError: as [`NamedImages.for_model`], or images inside a dataset of torch's, which hides their classes.
    """
    if isinstance(images, dict):
        return {key: match_images(value, id2label, key) for key, value in images.items()}
    inside = [getattr(images, "dataset", None), *(getattr(images, "datasets", None) or [])]
    if isinstance(images, (Subset, ConcatDataset)) and any(isinstance(each, NamedImages) for each in inside):
        raise ValueError(
            f"{name}: torch's {type(images).__name__} hides the classes of its images, so that nothing can be "
            "compared with the model's. Choose rows first, dataset.select(range(100)), or join images to train on with "
            "vfmseg_hf.training.JoinedImages([...])"
        )
    return images.for_model(id2label, name) if isinstance(images, NamedImages) else images
