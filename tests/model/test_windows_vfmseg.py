"""Window plan, certainty, gate, merge and crop against the recordings and against brute force."""

import json

import pytest
import torch
from safetensors.torch import load_file

from vfmseg_hf.model.heads import mask_features
from vfmseg_hf.model.windows import (
    WindowAverage,
    certain_pixels,
    count_certain,
    draw_crop_box,
    least_certain,
    most_windows,
    plan_windows,
    select_windows,
    window_certainty,
)


@pytest.fixture(scope="module")
def gate(shared):
    folder = shared / "golden" / "gate"
    return json.loads((folder / "meta.json").read_text()), load_file(folder / "tensors.safetensors")


def corner_order(boxes: list[list[int]]) -> list[tuple[int, ...]]:
    """Recorded boxes are y1, y2, x1, x2."""
    return [(top, left, bottom, right) for top, bottom, left, right in boxes]


def decide(logits, case, keep_at_threshold=True, scope="batch"):
    boxes = plan_windows(*case["image"], case["window"], case["stride"])
    certainty = window_certainty(count_certain(certain_pixels(logits, case["threshold"]), boxes), boxes, scope)
    return boxes, select_windows(certainty, case["confidence"], keep_at_threshold)


def test_recorded_decisions(gate):
    meta, tensors = gate
    for case in meta["decision_cases"]:
        boxes, refined = decide(tensors[case["logits"]], case)
        assert boxes == corner_order(case["boxes_y1_y2_x1_x2"]), case
        assert all(row == case["refined"] for row in refined.tolist()), case


@pytest.mark.parametrize("broken", [{"keep_at_threshold": False}, {"scope": "image"}])
def test_recorded_decisions_notice_a_broken_gate(broken, gate):
    meta, tensors = gate
    wrong = [
        case["name"]
        for case in meta["decision_cases"]
        if any(row != case["refined"] for row in decide(tensors[case["logits"]], case, **broken)[1].tolist())
    ]
    assert wrong


def test_recorded_window_grids(gate):
    for grid in gate[0]["window_grids"]:
        planned = plan_windows(*grid["image"], grid["window"], grid["stride"])
        assert planned == corner_order(grid["boxes_y1_y2_x1_x2"]), grid["image"]


def test_recorded_overlap_average(gate):
    """In the recording every refined window gave zero logits."""
    meta, tensors = gate
    case = next(case for case in meta["decision_cases"] if case["name"] == "overlap")
    logits = tensors["overlap"]
    boxes, refined = decide(logits, case)
    merged = []
    for image, decisions in zip(logits, refined.tolist(), strict=True):
        average = WindowAverage(image, boxes, decisions)
        for box, is_refined in zip(boxes, decisions, strict=True):
            if is_refined:
                average.add(box, torch.zeros(logits.shape[1], case["window"], case["window"]))
        merged.append(average.finish())
    torch.testing.assert_close(torch.stack(merged), tensors["overlap_result_refined_zero"], atol=1e-6, rtol=1e-6)


def test_recorded_crop_offsets(gate):
    for case in gate[0]["training_crop_offsets"]:
        height, width = case["image"]
        crop, step = case["crop"], case["divisible"]
        drawn = {draw_crop_box(height, width, crop, crop, step, includes_end=False)[:2] for _ in range(4000)}
        for axis, name in enumerate(("distinct_y", "distinct_x")):
            first, last, count = case[name]
            offsets = sorted({box[axis] for box in drawn})
            assert (offsets[0], offsets[-1], len(offsets)) == (first, last, count)


def test_recorded_feature_masking(shared):
    folder = shared / "golden" / "mask_feature"
    meta, tensors = json.loads((folder / "meta.json").read_text()), load_file(folder / "tensors.safetensors")
    draw = tensors["uniform_draw"]
    assert (draw == meta["mask_ratio"]).any(), "the recording should hold a draw that equals the ratio"
    masked = mask_features(tensors["features"], tensors["mask_token"], draw, meta["mask_ratio"])
    torch.testing.assert_close(masked, tensors["masked_features"], atol=0, rtol=0)
    at_least = torch.where(draw >= meta["mask_ratio"], tensors["features"], tensors["mask_token"])
    assert not torch.equal(at_least, tensors["masked_features"]), "the equality rule must be visible"


def test_crop_can_touch_the_far_border():
    drawn = {draw_crop_box(128, 96, 64, 64, 32, includes_end=True) for _ in range(300)}
    assert drawn == {(top, left, top + 64, left + 64) for top in (0, 32, 64) for left in (0, 32)}


def test_crop_follows_the_torch_seed():
    torch.manual_seed(3)
    first = [draw_crop_box(1024, 1024, 512, 512, 32, includes_end=True) for _ in range(5)]
    torch.manual_seed(3)
    assert [draw_crop_box(1024, 1024, 512, 512, 32, includes_end=True) for _ in range(5)] == first


@pytest.mark.parametrize("height, width, window, stride", [(37, 90, 16, 10), (16, 16, 16, 7), (9, 40, 16, 16)])
def test_windows_cover_every_pixel_and_stay_inside(height, width, window, stride):
    covered = torch.zeros(height, width)
    for top, left, bottom, right in plan_windows(height, width, window, stride):
        assert 0 <= top < bottom <= height and 0 <= left < right <= width
        assert (bottom - top, right - left) == (min(window, height), min(window, width))
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1


def test_certainty_counts_pixels():
    """Against a loop over the pixels, with probabilities that straddle the threshold."""
    logits = torch.randn(2, 3, 13, 21) * 2
    boxes = plan_windows(13, 21, 8, 5)
    certainty = window_certainty(count_certain(certain_pixels(logits, 0.6), boxes), boxes)
    for image in range(2):
        for number, (top, left, bottom, right) in enumerate(boxes):
            top_probability = logits[image, :, top:bottom, left:right].softmax(0).amax(0)
            count = sum(float(p) > 0.6 for p in top_probability.flatten())
            assert certainty[image, number] == torch.tensor(count / top_probability.numel())
    assert 0 < certainty.min() < certainty.max() < 1


@pytest.mark.parametrize("in_strips", [False, True])
def test_average_has_equal_weights(in_strips):
    coarse = torch.randn(4, 23, 17)
    boxes = plan_windows(23, 17, 8, 6)
    refined = (torch.rand(len(boxes)) > 0.5).tolist()
    windows = torch.randn(len(boxes), 4, 8, 8)
    total, count = torch.zeros_like(coarse), torch.zeros(1, 23, 17)
    for (top, left, bottom, right), is_refined, window in zip(boxes, refined, windows, strict=True):
        total[:, top:bottom, left:right] += window if is_refined else coarse[:, top:bottom, left:right]
        count[:, top:bottom, left:right] += 1
    assert 0 < sum(refined) < len(refined)

    average = WindowAverage(coarse[:, :8] if in_strips else coarse, boxes, refined)
    done, last_top = [], 0
    for (top, left, bottom, right), is_refined, window in zip(boxes, refined, windows, strict=True):
        if in_strips and top > last_top:
            done.append(average.pop(top))
            average.extend(coarse[:, average.bottom : bottom])
            last_top = top
        if is_refined:
            average.add((top, left, bottom, right), window)
    done.append(average.finish())
    assert len(done) == (4 if in_strips else 1)
    torch.testing.assert_close(torch.cat(done, dim=1), total / count)


def test_scope_decides_alone_or_together():
    boxes = [(0, 0, 5, 2), (0, 2, 5, 4)]
    counts = torch.tensor([[9, 2], [6, 4]], dtype=torch.int32)
    alone, together = (window_certainty(counts, boxes, scope) for scope in ("image", "batch"))
    assert select_windows(alone, 0.7, False).tolist() == [[False, True], [True, True]]
    assert select_windows(together, 0.7, False).tolist() == [[False, True], [False, True]]
    at_threshold = torch.tensor([[1, 1], [1, 1], [1, 2]], dtype=torch.int32)  # 0.1 is no sum of rounded shares
    assert select_windows(window_certainty(at_threshold, boxes, "batch"), 0.1, True)[0].tolist() == [False, False]


def test_the_least_certain_windows():
    certainty = torch.tensor([[0.5, 0.1, 0.9, 0.1, 0.3], [0.9, 0.9, 0.9, 0.9, 0.2]])
    two = [[False, True, False, True, False], [True, False, False, False, True]]
    assert least_certain(certainty, 2).tolist() == two
    assert least_certain(certainty, 1)[0].tolist() == [False, True, False, False, False]
    assert not least_certain(certainty, 0).any() and least_certain(certainty, 5).all()


def test_most_windows_are_a_number_or_a_share():
    assert [most_windows(18, number, None) for number in (None, 0, 1, 7, 99)] == [18, 0, 1, 7, 18]
    assert [most_windows(100, None, share) for share in (0.0, 0.29, 0.5, 1.0, 1)] == [0, 29, 50, 100, 100]
    assert most_windows(3, None, 0.5) == 1
