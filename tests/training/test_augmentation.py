# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Photometric distortion against HSV of the standard library; how often a crop is drawn; orders of epochs."""

import colorsys

import numpy as np
import pytest
import torch

from vfmseg_hf.training import Augmentation, augmentation
from vfmseg_hf.training.augmentation import distort_colours, restyle, scale_saturation
from vfmseg_hf.training.data import EpochSampler, seeded_generator
from vfmseg_hf.training.sampling import RareClassSampler


NEVER = 0.75, 0.5  # what is drawn for a step: whether it happens (below 1/2), and its factor within its range
COLOURS = [(200, 30, 30), (20, 60, 180), (70, 110, 40), (0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 7)]


def image() -> torch.Tensor:
    """Random colours beside those that are hard: grey, black, white, fully saturated."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3))
    pixels[0, : len(COLOURS)] = COLOURS
    return torch.tensor(pixels / 255, dtype=torch.float32).permute(2, 0, 1)


def in_hsv(image: torch.Tensor, change) -> torch.Tensor:
    """`change(hue, saturation, value)` in every pixel, by the standard library."""
    rows = [
        [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in row]
        for row in image.permute(1, 2, 0).double().tolist()
    ]
    return torch.tensor(rows, dtype=torch.float32).permute(2, 0, 1)


@pytest.fixture
def distort(monkeypatch):
    """Distorts with given draws in place of random ones: pairs of each step, and which place the contrast has."""

    def run(image, brightness=NEVER, contrast=NEVER, saturation=NEVER, hue=NEVER, contrast_first=True):
        draws = iter([*brightness, *contrast, *saturation, *hue, 0.25 if contrast_first else 0.75])
        monkeypatch.setattr(augmentation, "_uniform", lambda generator: next(draws))
        result = distort_colours(image, None)
        assert next(draws, None) is None
        return result

    return run


# What is drawn as 0, 0.5 and (almost) 1, as factors.
PLACES = (0.0, 0.5, 1.0)


def test_one_number_is_a_square_and_a_fixed_scale():
    pixels, label = torch.zeros(3, 96, 160, dtype=torch.uint8), torch.arange(96)[:, None].expand(96, 160) % 19
    one = Augmentation(64, 96, 1.5)
    assert one == Augmentation((64, 64), (96, 96), (1.5, 1.5)) == Augmentation([64], [96], [1.5])
    cropped, labels = one(pixels, label, torch.Generator().manual_seed(0))
    assert cropped.shape == (3, 64, 64) and labels.shape == (64, 64)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"crop_size": (60, 100)}, r"crop_size.*multiples of 32, got \(60, 100\); the nearest is \(64, 96\)"),
        ({"crop_size": 5}, r"the nearest is \(32, 32\)"),
        ({"crop_size": (64, 64, 3)}, r"crop_size takes HEIGHT WIDTH or one number.*got \(64, 64, 3\)"),
        ({"crop_size": ()}, "crop_size takes HEIGHT WIDTH"),
        ({"crop_size": (-64, 64)}, "crop_size takes .* greater than 0"),
        ({"crop_size": 64.5}, "crop_size takes .* whole numbers"),
        ({"crop_size": "64"}, "crop_size takes .*got '64'"),
        ({"resize": 0}, "resize takes HEIGHT WIDTH or one number.* greater than 0; got 0"),
        ({"resize": (1, 2, 3)}, "resize takes HEIGHT WIDTH"),
        ({"scale_range": (0.5, 1.0, 2.0)}, "scale_range takes LOWEST HIGHEST"),
        ({"scale_range": (2.0, 0.5)}, r"scale_range must be \(lowest, highest\), got \(2.0, 0.5\)"),
        ({"scale_range": (0.0, 1.0)}, "scale_range takes .* greater than 0"),
        ({"scale_range": float("nan")}, "scale_range takes"),
        ({"cat_max_ratio": 75}, r"cat_max_ratio must be within \[0, 1\], got 75"),
        ({"flip_probability": -0.1}, "flip_probability must be within"),
    ],
)
def test_fields_outside_their_range_are_refused_at_construction(fields, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**fields)


def test_nothing_happens_without_being_drawn(distort):
    assert torch.equal(distort(image()), image())


@pytest.mark.parametrize("place, factor", zip(PLACES, (-32 / 255, 0, 32 / 255), strict=True))
def test_brightness_is_added(distort, place, factor):
    expected = (image() + factor).clamp(0, 1)
    torch.testing.assert_close(distort(image(), brightness=(0.25, place)), expected)


@pytest.mark.parametrize("contrast_first", [True, False])
@pytest.mark.parametrize("place, factor", zip(PLACES, (0.5, 1, 1.5), strict=True))
def test_contrast_multiplies(distort, place, factor, contrast_first):
    expected = (image() * factor).clamp(0, 1)
    actual = distort(image(), contrast=(0.25, place), contrast_first=contrast_first)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("place, factor", zip(PLACES, (0.5, 1, 1.5), strict=True))
def test_saturation_is_that_of_hsv(distort, place, factor):
    expected = in_hsv(image(), lambda h, s, v: (h, min(s * factor, 1), v))
    torch.testing.assert_close(distort(image(), saturation=(0.25, place)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("place, factor", zip(PLACES, (-0.1, 0, 0.1), strict=True))
def test_hue_is_that_of_hsv(distort, place, factor):
    expected = in_hsv(image(), lambda h, s, v: ((h + factor) % 1, s, v))
    torch.testing.assert_close(distort(image(), hue=(0.25, place)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("contrast_first", [True, False])
def test_order(distort, contrast_first):
    """Each step cuts at 0 and 1, so that any other order gives other colours."""
    steps = {"brightness": (0.25, 0.9), "contrast": (0.25, 0.8), "saturation": (0.25, 0.1), "hue": (0.25, 0.8)}
    order = ["brightness", "saturation", "hue"]
    order.insert(1 if contrast_first else 3, "contrast")
    expected = image()
    for name in order:
        expected = distort(expected, **{name: steps[name]})
    actual = distort(image(), **steps, contrast_first=contrast_first)
    torch.testing.assert_close(actual, expected)
    assert (actual - distort(image(), **steps, contrast_first=not contrast_first)).abs().max() > 0.05


def test_each_step_happens_half_of_the_time():
    """A grey image shows brightness and contrast only; what stays as it is had neither."""
    image = torch.full((3, 1, 1), 0.5)
    results = [float(distort_colours(image, seeded_generator(0, number))[0, 0, 0]) for number in range(400)]
    assert np.mean(np.isclose(results, 0.5)) == pytest.approx(0.25, abs=0.07)
    assert min(results) < 0.25 and max(results) > 0.75 and 0 <= min(results) and max(results) <= 1


@pytest.mark.parametrize("factor", [0.5, 1.5, 100.0])
def test_saturation_stays_within_its_bounds(factor):
    for dtype in (torch.float32, torch.float64):
        image = torch.rand(3, 64, 64, dtype=dtype, generator=torch.Generator().manual_seed(0))
        scaled = scale_saturation(image, factor)
        assert scaled.dtype == dtype and scaled.min() >= 0 and scaled.max() <= 1
        torch.testing.assert_close(scaled.amax(dim=0), image.amax(dim=0))


@pytest.mark.parametrize("ratio, boxes", [(0.75, 11), (1.0, 1)])
def test_how_often_a_crop_of_one_class_is_drawn(ratio, boxes, monkeypatch):
    """Once, and ten times more; with a ratio of 1 nothing is looked at."""
    drawn = []
    randint = torch.randint
    monkeypatch.setattr(torch, "randint", lambda *args, **rest: drawn.append(randint(*args, **rest)) or drawn[-1])
    road = torch.zeros(64, 96, dtype=torch.long)
    Augmentation((32, 32), cat_max_ratio=ratio)._draw_crop(road, torch.Generator())
    assert len(drawn) == 2 * boxes


def test_orders_of_seeds_and_epochs_differ():
    def order(sampler_type, content, seed, epoch):
        sampler = sampler_type(content, seed)
        sampler.set_epoch(epoch)
        return [draw[1] for draw in sampler]

    pixels = np.full((50, 2), 9000)
    orders = [order(EpochSampler, 50, seed, epoch) for seed in range(3) for epoch in range(3)]
    orders += [order(RareClassSampler, pixels, seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len(set(map(tuple, orders))) == len(orders)
    assert all(sorted(numbers) == list(range(50)) for numbers in orders[:9])


def test_channels_get_means_and_deviations_that_photographs_have(monkeypatch):
    monkeypatch.setattr(augmentation, "_uniform", lambda generator: 1.0)  # nothing of what it was
    pixels = 0.5 + 0.02 * torch.randn(3, 40, 40, generator=torch.Generator().manual_seed(1))
    seen = []
    for seed in range(20):
        styled = restyle(pixels, torch.Generator().manual_seed(seed))
        for channel, before in zip(styled, pixels, strict=True):
            unclipped = (channel > 0) & (channel < 1)  # there the order of pixels is kept, on a straight line
            assert np.corrcoef(channel[unclipped], before[unclipped])[0, 1] == pytest.approx(1, abs=1e-5)
        seen.append(styled.mean((1, 2)))
    seen = torch.stack(seen)
    assert 0.1 < seen.min() < 0.3 and 0.6 < seen.max() < 0.8 and (seen[:, 0] - seen[:, 1]).abs().max() > 0.2
    monkeypatch.setattr(augmentation, "_uniform", lambda generator: 0.0)
    torch.testing.assert_close(restyle(pixels, torch.Generator().manual_seed(0)), pixels.clamp(0, 1))


def test_restyling_keeps_labels_and_flat_images_finite():
    pixels, label = torch.full((3, 64, 64), 90, dtype=torch.uint8), torch.arange(64)[:, None].expand(64, 64) % 19
    plain, styled = (
        Augmentation(64, flip_probability=0.0, photometric=False, restyle_probability=share) for share in (0.0, 1.0)
    )
    results = [each(pixels, label, torch.Generator().manual_seed(3)) for each in (plain, styled)]
    assert torch.equal(results[0][1], results[1][1]) and not torch.equal(results[0][0], results[1][0])
    assert results[1][0].isfinite().all() and 0 <= results[1][0].min() and results[1][0].max() <= 1
    with pytest.raises(ValueError, match=r"restyle_probability must be within \[0, 1\], got 2"):
        Augmentation(64, restyle_probability=2)
