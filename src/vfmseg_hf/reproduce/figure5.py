# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""
What the paper's Figure 5 shows: images, their labels, and what every model makes of them, with a region enlarged that
the labels alone choose.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ..data.base import enumeration
from ..evaluation import DomainScores, confusion_matrix, match_classes, score_domain
from ..evaluation.classes import is_generic, same_classes
from ..prediction import prepare_image
from ..prediction.visualization import ComparedImage, comparison_image
from .figure4 import GATED, Look
from .figures import TWO_STAGES, ShownDomain, ShownModel, progress_bar
from .table import NONE, markdown_table


SMALL_CLASSES = ("pole", "traffic light", "traffic sign", "person", "rider", "motorcycle", "bicycle")
LEAST_SHARE = 1e-3  # of a region, for a class to be in it
STEPS = 16  # of a region's edge: how far apart regions are that are tried

Box = tuple[int, int, int, int]


@dataclass
class ComparedRow:
    """
    An image in the figure.

    Attributes:
        domain, file_name: where it is from.
        image: RGB, as it is stored.
        maps: label maps of the image's size in the first model's ids: the labels first, then by model.
        zoom: (top, left, bottom, right) of the region that is enlarged, exclusive ends.
        inside: names of the small classes in it.
    """

    domain: str
    file_name: str
    image: Image.Image
    maps: dict[str, np.ndarray]
    zoom: Box
    inside: list[str]


@dataclass
class Figure5:
    """
    All that is shown.

    Attributes:
        id2label: of the maps.
        rows: the images.
        scores: of every model on the images of every domain, by model and domain.
    """

    id2label: Mapping[int, str]
    rows: list[ComparedRow]
    scores: dict[str, dict[str, DomainScores]]


TRUTH = "Ground truth"


def compare(
    models: Sequence[ShownModel],
    domains: Sequence[ShownDomain],
    zoom: float,
    zoom_classes: Sequence[str] | None,
) -> Figure5:
    """
    Segment every image with every model as it is saved, two stages as their gate has it.

    Args:
        zoom: height and width of the region that is enlarged, as a share of the image's.
        zoom_classes: names of the classes that it is chosen by; by default the small and thin ones of Cityscapes.

    Raises:
        ValueError: two models have different classes, or there is no class of such a name.
    """
    id2label = models[0].model.config.id2label
    tables = {shown.name: ids_of(shown, models[0]) for shown in models}
    small = small_ids(id2label, zoom_classes)
    rows, scores = [], {shown.name: {} for shown in models}
    with progress_bar("figure 5", len(models) * sum(len(domain.rows) for domain in domains)) as progress:
        for domain in domains:
            of_domain = list(_rows_of(domain, models[0], id2label, small, zoom))
            for shown in models:
                images = domain.images(shown)
                classes, found = len(shown.model.config.id2label), []
                look = Look(shown, GATED if shown.kind == TWO_STAGES else None)
                for index, row in enumerate(progress(of_domain)):
                    stored = images.dataset[index]
                    truth = images.read_labels(stored)
                    with torch.inference_mode():
                        labels = look.segment(images.read_image(stored), tuple(truth.shape)).labels.cpu().numpy()
                    found.append(confusion_matrix(labels, truth.numpy(), classes))
                    row.maps[shown.name] = tables[shown.name][labels]
                matrices = np.stack([found, found], axis=1)  # final results in the place of both stages
                none = np.zeros((len(found), 2), np.int64)
                scores[shown.name][domain.name] = score_domain(matrices, none, images.evaluation, domain.name)
            rows += of_domain
    return Figure5(id2label, rows, scores)


def _rows_of(
    domain: ShownDomain, first: ShownModel, id2label: Mapping[int, str], small: Sequence[int], zoom: float
) -> Iterator[ComparedRow]:
    images = domain.images(first)
    for stored in images.dataset:
        truth = images.read_labels(stored).numpy().astype(np.uint8)
        top, left, bottom, right = box = zoom_box(truth, small, zoom)
        region = truth[top:bottom, left:right]
        inside = [id2label[index] for index in small if (region == index).sum() >= LEAST_SHARE * region.size]
        image = prepare_image(first.processor, images.read_image(stored)).image
        yield ComparedRow(domain.name, stored["file_name"], image, {TRUTH: truth}, box, inside)


def ids_of(shown: ShownModel, first: ShownModel) -> np.ndarray:
    """
    The first model's id for every id of a model, by name: `uint8` `[num_labels]`.

    Raises:
        ValueError: their classes are not the same.
    """
    try:
        match = match_classes(first.model.config.id2label, shown.model.config.id2label)
    except ValueError as error:
        reason = str(error).partition(";")[2].partition(". ")[0]
        raise ValueError(
            f"{shown.name} and {first.name} cannot be shown in the same colours, as they have different classes:"
            f"{reason.replace('the data', shown.name).replace('the model', first.name)}; leave one of them out"
        ) from error
    return np.array([ids[0] for ids in match.model_ids], np.uint8)


# --- the region ---------------------------------------------------------------------------------------------------


def small_ids(id2label: Mapping[int, str], names: Sequence[str] | None) -> list[int]:
    """
    Ids of the classes that the region is chosen by; none where the defaults are no classes of the model.

    Raises:
        ValueError: there is no class of a name that was asked for.
    """
    wanted = dict(enumerate(SMALL_CLASSES if names is None else names))
    sides = ("model", "option --zoom_classes")
    ids = [None] * len(wanted) if is_generic(id2label) else same_classes(id2label, wanted, sides)
    if names is not None and None in ids:
        known = ", ".join(id2label.values())
        raise ValueError(f"--zoom_classes names {names[ids.index(None)]!r}, which is no class; there are {known}")
    return [index for index in ids if index is not None]


def zoom_box(labels: np.ndarray, small: Sequence[int], share: float) -> Box:
    """
    The region with the most small classes, of those the one with most of their pixels, then the first in reading order;
    the middle where there are none. Nothing but the labels is looked at.

    A class is in a region if a thousandth of the region is of it. Regions that are tried are a sixteenth of their edge
    apart.

    Args:
        labels: ids `[H, W]`.
        small: ids of the small classes.
        share: the region's height and width, as a share of the image's, above 0 and up to 1.

    Returns:
        (top, left, bottom, right), exclusive ends.
    """
    height, width = (max(1, round(share * edge)) for edge in labels.shape)
    tops, lefts = (_starts(edge, size) for edge, size in zip(labels.shape, (height, width), strict=True))
    counts = np.zeros((len(small), len(tops), len(lefts)), np.int64)
    for of_class, index in zip(counts, small, strict=True):
        sums = np.pad(np.cumsum(np.cumsum(labels == index, axis=0), axis=1), ((1, 0), (1, 0)))
        rows = sums[tops + height] - sums[tops]
        of_class[:] = rows[:, lefts + width] - rows[:, lefts]
    if not counts.any():
        top, left = ((edge - size) // 2 for edge, size in zip(labels.shape, (height, width), strict=True))
        return top, left, top + height, left + width
    present = (counts >= LEAST_SHARE * height * width).sum(axis=0)
    rank = present * (height * width + 1) + counts.sum(axis=0)
    row, column = np.unravel_index(rank.argmax(), rank.shape)
    top, left = int(tops[row]), int(lefts[column])
    return top, left, top + height, left + width


def _starts(edge: int, size: int) -> np.ndarray:
    """Where regions of a size start along an edge; the last one ends at its end."""
    return np.unique([*range(0, edge - size, max(1, size // STEPS)), edge - size])


# --- results ------------------------------------------------------------------------------------------------------


def draw(figure: Figure5) -> Image.Image:
    """The image."""
    rows = [ComparedImage(f"{row.domain}: {row.file_name}", row.image, row.maps, row.zoom) for row in figure.rows]
    return comparison_image(rows, figure.id2label)


def write(
    figure: Figure5, models: Sequence[ShownModel], domains: Sequence[ShownDomain], zoom_classes: Sequence[str] | None
) -> str:
    """The Markdown file."""
    counts = [
        f"{len(domain.rows)} of {domain.total} of {domain.name} (`{domain.spec}"
        f"{'@' + domain.split if domain.split else ''}`)"
        for domain in domains
    ]
    lines = [
        "# Figure 5",
        "",
        "![Images, labels and predictions side by side, with a region of each enlarged](figure5.png)",
        "",
        f"Images, evenly spaced in their split: {enumeration(counts)}. Every model sees them as it is saved; models "
        "of two stages refine the windows that their gate chooses; label maps have the images' size. Under each image "
        "a region is enlarged. The labels alone choose it, and no prediction: the one with the most classes among "
        f"{', '.join(SMALL_CLASSES if zoom_classes is None else zoom_classes)}, and of those the one with most of "
        "their pixels; the middle of an image without them.",
        "",
    ]
    rows = []
    for row in figure.rows:
        top, left, bottom, right = row.zoom
        size = f"{row.image.width} × {row.image.height}"
        region = f"{left} to {right}, {top} to {bottom}"
        rows.append([row.domain, row.file_name, size, region, ", ".join(row.inside) or NONE])
    lines += markdown_table(["domain", "image", "width × height", "region: x, y", "small classes in it"], rows)
    lines += ["", "mIoU in percent on these images alone, which are too few to rank anything:", ""]
    scores = [
        [name, *(f"{100 * scores.scores['final']['mean_iou']:.2f}" for scores in of_model.values())]
        for name, of_model in figure.scores.items()
    ]
    lines += markdown_table(["model", *(domain.name for domain in domains)], scores)
    lines += ["", *(f"- {shown.name}: {shown.kind}, `{shown.place}`" for shown in models)]
    return "\n".join(lines) + "\n"
