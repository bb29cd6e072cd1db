# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
from io import BytesIO

import numpy as np
import PIL.Image
import pytest
import torch

from vfmseg_hf.model.labels import CITYSCAPES_ID2LABEL, CITYSCAPES_PALETTE
from vfmseg_hf.model.windows import plan_windows
from vfmseg_hf.prediction.visualization import (
    KEPT_COLOUR,
    PANEL_SIZE,
    PAPER,
    REFINED_COLOUR,
    SURE_COLOUR,
    ComparedImage,
    _class_legend,
    certainty_image,
    class_colours,
    comparison_image,
    distinct_colours,
    domains_image,
    label_image,
    overlay_image,
    panel_image,
)


CITYSCAPES = class_colours(CITYSCAPES_ID2LABEL)


def as_saved(image):
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return PIL.Image.open(buffer)


def contains(image, colour):
    return bool((np.asarray(image.convert("RGB")) == colour).all(axis=-1).any())


def test_cityscapes_classes_have_their_colours_in_any_selection_and_order():
    assert CITYSCAPES.tolist() == [list(colour) for colour in CITYSCAPES_PALETTE]
    assert class_colours({0: "sky", 1: "Road"}).tolist() == [list(CITYSCAPES_PALETTE[10]), list(CITYSCAPES_PALETTE[0])]


def test_names_of_cityscapes_are_known_in_any_spelling():
    names = {index: name.replace(" ", "_").title() for index, name in CITYSCAPES_ID2LABEL.items()}
    assert np.array_equal(class_colours(names), CITYSCAPES)


@pytest.mark.parametrize("names", [("road", "Road"), ("traffic light", "sky", "traffic_light"), ("a", "a", "a")])
def test_no_two_classes_have_one_colour(names):
    colours = class_colours(dict(enumerate(names)))
    assert len(np.unique(colours, axis=0)) == len(names)
    labels = np.arange(len(names), dtype=np.uint8)[None]
    legend = _class_legend([labels], colours, dict(enumerate(names)))
    assert [entry.text for entry in legend] == list(names)
    assert len({entry.swatch.getpixel((0, 0)) for entry in legend}) == len(names)


def test_one_foreign_name_gives_generated_colours():
    colours = class_colours({0: "road", 1: "river", 2: "boat"})
    assert np.array_equal(colours, distinct_colours(3))


@pytest.mark.parametrize("count", [1, 3, 19, 150, 255, 1000])
def test_generated_colours_are_distinct_and_repeatable(count):
    colours = distinct_colours(count)
    assert colours.shape == (count, 3) and colours.dtype == np.uint8
    assert np.array_equal(colours, distinct_colours(count))
    assert len(np.unique(colours, axis=0)) == count
    assert colours.max(axis=1).min() > 40, "black is the ignore colour"


def test_few_generated_colours_are_far_apart():
    colours = distinct_colours(20).astype(int)
    distance = np.abs(colours[:, None] - colours[None]).max(axis=-1)
    assert distance[~np.eye(20, dtype=bool)].min() > 45


@pytest.mark.parametrize("count", [3, 19, 150, 255])
def test_label_image_survives_png_with_ids_and_colours(count):
    colours = distinct_colours(count)
    labels = np.random.default_rng(0).integers(0, count, (37, 53))
    labels[:5] = 255
    image = as_saved(label_image(labels, colours))
    assert image.mode == "P" and image.size == (53, 37)
    assert np.array_equal(np.asarray(image), labels)
    expected = np.vstack([colours, np.zeros((256 - count, 3), dtype=np.uint8)])[labels]
    assert np.array_equal(np.asarray(image.convert("RGB")), expected)


def test_label_image_takes_tensors():
    labels = torch.tensor([[0, 18], [255, 7]])
    assert np.array_equal(np.asarray(label_image(labels, CITYSCAPES)), labels.numpy())


@pytest.mark.parametrize(
    "labels, colours, message",
    [
        (np.full((2, 2), 19), CITYSCAPES, r"\[19\].*0\.\.18"),
        (np.full((2, 2), -1), CITYSCAPES, r"\[-1\]"),
        (np.zeros((1, 2, 2), int), CITYSCAPES, r"\(1, 2, 2\)"),
        (np.zeros((2, 2), int), distinct_colours(256), "at most 255"),
    ],
)
def test_label_image_refuses_what_it_cannot_hold(labels, colours, message):
    with pytest.raises(ValueError, match=message):
        label_image(labels, colours)


def test_overlay_blends_and_leaves_ignored_pixels_alone():
    image = PIL.Image.new("L", (4, 2), 200)
    labels = np.array([[0, 0, 255, 255], [8, 8, 8, 8]])
    overlay = np.asarray(overlay_image(image, labels, CITYSCAPES, opacity=0.5)).astype(int)
    assert (overlay[0, 2:] == 200).all()
    assert np.abs(overlay[0, 0] - (200 + CITYSCAPES[0].astype(int)) / 2).max() <= 1
    assert np.abs(overlay[1, 0] - (200 + CITYSCAPES[8].astype(int)) / 2).max() <= 1
    with pytest.raises(ValueError, match=r"3x4 .*2x4"):
        overlay_image(image, np.zeros((3, 4), int), CITYSCAPES)


def test_certainty_image_separates_sure_from_unsure_and_refined_from_kept():
    confidence = np.zeros((320, 640))
    confidence[:, 320:] = 0.99
    windows = np.array(plan_windows(320, 640, 320, 320))
    image = np.asarray(
        certainty_image(confidence, windows, np.array([0.0, 1.0]), np.array([True, False]), confidence_threshold=0.968)
    )
    left, right = image[:, :320], image[:, 320:]
    assert (left[20, 20] == (255, 250, 190)).all() and (right[20, 20] == SURE_COLOUR).all()
    solid, dashed = left == REFINED_COLOUR, right == KEPT_COLOUR
    assert solid.all(axis=-1)[2, 1:-1].all(), "a refined window has an unbroken outline"
    share = dashed.all(axis=-1)[2].mean()
    assert 0.3 < share < 0.7, "a kept window has a broken one"
    assert not (left == KEPT_COLOUR).all(axis=-1).any() and not (right == REFINED_COLOUR).all(axis=-1).any()


def test_outlines_end_in_the_middle_of_overlaps():
    windows = np.array(plan_windows(100, 180, 100, 80))  # 0..100 and 80..180
    refined = np.array([True, True])
    image = np.asarray(certainty_image(np.ones((100, 180)), windows, np.ones(2), refined, 0.9))
    columns = np.flatnonzero((image[20] == REFINED_COLOUR).all(axis=-1))  # above the figures
    assert columns.tolist() == [1, 2, 3, 86, 87, 88, 91, 92, 93, 176, 177, 178]


def test_the_threshold_itself_is_not_certain():
    image = certainty_image(np.full((4, 4), 0.5), np.zeros((0, 4)), np.zeros(0), np.zeros(0, bool), 0.5)
    assert not contains(image, SURE_COLOUR)


def figure(height, width, id2label=CITYSCAPES_ID2LABEL, window=64, stride=40, truth=None, title="street.png"):
    windows = np.array(plan_windows(height, width, window, stride))
    confidence = np.random.default_rng(0).random((height, width))
    labels = np.arange(height * width).reshape(height, width) % len(id2label)
    refined = np.arange(len(windows)) % 2 == 0
    image = PIL.Image.new("RGB", (width, height), (10, 200, 10))
    return panel_image(
        image, labels, confidence, windows, confidence[0, : len(windows)] if width >= len(windows) else refined * 0.5,
        refined, labels, id2label, 0.9, truth, title,
    )  # fmt: skip


@pytest.mark.parametrize("with_truth", [False, True])
@pytest.mark.parametrize("height, width", [(64, 128), (128, 64), (90, 120), (17, 33), (20, 180), (180, 20), (1, 1)])
def test_panels_of_any_shape_keep_their_margins(height, width, with_truth):
    truth = np.full((height, width), 255) if with_truth else None
    panel = figure(height, width, truth=truth)
    assert panel.mode == "RGB" and panel.width <= PANEL_SIZE[0] + 6 * 16 + 360
    pixels = np.asarray(panel)
    for margin in (pixels[:15], pixels[-15:], pixels[:, :15], pixels[:, -15:]):
        assert (margin == PAPER).all(), "nothing spills over or is cut off"
    assert contains(panel, (10, 200, 10))


def test_a_panel_shows_the_truth_and_its_ignored_pixels():
    without, with_truth = figure(64, 128), figure(64, 128, truth=np.full((64, 128), 255))
    assert with_truth.height * with_truth.width > without.height * without.width
    assert (np.asarray(with_truth) == 0).all(axis=-1).sum() > 100_000


def test_long_titles_many_classes_and_long_names_fit():
    id2label = {index: f"class number {index} " + "x" * (400 if index == 3 else 0) for index in range(150)}
    panel = figure(64, 128, id2label, title="folder/" * 60 + "street.png")
    assert (np.asarray(panel)[:, -15:] == PAPER).all()


def test_domains_image_shows_every_input_over_its_prediction():
    inputs = {name: PIL.Image.new("RGB", (64, 32), colour) for name, colour in (("a", "red"), ("b", "lime"))}
    finals = {"a": np.full((32, 64), 10), "b": np.full((16, 32), 0)}
    image = domains_image(inputs, finals, np.full((32, 64), 8), CITYSCAPES_ID2LABEL, "Title")
    pixels = np.asarray(image)
    left = {colour: np.argwhere((pixels == colour).all(-1))[:, 1].min() for colour in ((255, 0, 0), (0, 255, 0))}
    assert left[(0, 255, 0)] - left[(255, 0, 0)] >= 384, "one column for each domain"
    for index in (0, 8, 10):
        assert (pixels == CITYSCAPES[index]).all(-1).sum() >= 384 * 192, "each map in full"
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (edges == PAPER).all()


def test_images_side_by_side_have_the_region_enlarged_below():
    labels = np.zeros((40, 80), np.uint8)
    labels[10:20, 20:40] = 10  # the region is all sky, and nothing else is
    image = PIL.Image.new("RGB", (80, 40), (200, 30, 40))
    rows = [ComparedImage("day: a.png", image, {"Ground truth": labels, "ours": np.full_like(labels, 8)},
                          (10, 20, 20, 40)), ComparedImage("b.png", image, {"Ground truth": labels, "ours": labels},
                          (0, 0, 20, 40))]  # fmt: skip
    figure = comparison_image(rows, CITYSCAPES_ID2LABEL, tile_width=160)
    assert figure.width == 16 + 3 * (160 + 16)
    pixels = np.asarray(figure)
    truth = pixels[:, 16 + 176 : 16 + 176 + 160]  # the column of the labels
    sky = (truth == CITYSCAPES[10]).all(axis=-1)
    whole = np.flatnonzero(sky.all(axis=1))
    assert len(whole) == 80, "the region of the first image fills a tile"
    above = sky[whole[0] - 8 - 80 : whole[0] - 8]
    assert above[24:36, 44:76].all() and not above[:18].any() and not above[42:].any(), "as large as in the image"
    outline = truth[whole[0] - 8 - 80 + 20, 40:80]
    assert len(np.unique(outline, axis=0)) == 1 and not (outline == CITYSCAPES[10]).all(), "inside the region's edge"
    assert contains(figure, CITYSCAPES[8]) and contains(figure, (200, 30, 40))
