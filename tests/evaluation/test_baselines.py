"""The two reference classifiers against counts by hand."""

import numpy as np
import pytest
from PIL import Image

from vfmseg_hf.evaluation.baselines import ColourLookup, PositionPrior


def test_position_prior_is_the_majority_of_each_pixel():
    maps = np.random.default_rng(0).integers(0, 3, (9, 4, 6)).astype(np.uint8)
    maps[2, :, :3] = 255
    prior = PositionPrior(maps, 3)
    for row in range(4):
        for column in range(6):
            seen = maps[:, row, column]
            assert prior.label_map[row, column] == np.bincount(seen[seen != 255], minlength=3).argmax()
    doubled = prior.predict(Image.new("RGB", (12, 8)))
    np.testing.assert_array_equal(doubled, prior.label_map.repeat(2, axis=0).repeat(2, axis=1))


def test_position_prior_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match=r"one size, got \(2, 2\) and \(2, 3\)"):
        PositionPrior([np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8)], 3)
    with pytest.raises(ValueError, match="at least one"):
        PositionPrior([], 3)
    with pytest.raises(ValueError, match=r"ids \[3, 9\]; known are 0..2"):
        PositionPrior([np.array([[0, 3, 9, 255]], np.uint8)], 3)


def test_pixels_without_a_label_get_the_commonest_class():
    label_map = np.array([[2, 2, 1, 255]], np.uint8)
    assert PositionPrior([label_map], 3).label_map.tolist() == [[2, 2, 1, 2]]


@pytest.mark.parametrize(
    "pairs, steps, message",
    [
        ([], 16, "at least one"),
        ([(np.zeros((1, 1, 3), np.uint8), np.array([[3]], np.uint8))], 16, r"ids \[3\]"),
        ([(np.zeros((1, 1, 3), np.uint8), np.array([[0]], np.uint8))], 10, "got 10"),
    ],
)
def test_colour_lookup_refuses_what_it_cannot_count(pairs, steps, message):
    with pytest.raises(ValueError, match=message):
        ColourLookup(pairs, 3, steps)


def test_colour_lookup_is_the_majority_of_each_colour():
    image = np.array([[[200, 10, 10]] * 3, [[10, 10, 200]] * 3], dtype=np.uint8)
    label_map = np.array([[1, 1, 2], [0, 255, 255]], dtype=np.uint8)
    lookup = ColourLookup([(image, label_map)], 3)
    # 207 and 13 fall into the bins of 200 and 10; green was never seen, so it gets the commonest class.
    other = Image.fromarray(np.array([[[207, 13, 3], [9, 9, 199], [0, 255, 0]]], dtype=np.uint8))
    assert lookup.predict(other).tolist() == [[1, 0, 1]]
