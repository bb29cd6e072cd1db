# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Confusion matrices and mean IoU: against brute force, the recorded evaluation, and evaluate's conventions."""

import json
import tracemalloc
from pathlib import Path

import evaluate
import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.numpy import load_file

import vfmseg_hf.evaluation
from tests.support.processes import run_in_processes
from vfmseg_hf.data import EvaluationGroups
from vfmseg_hf.evaluation import confusion_matrix, iou_scores, load_mean_iou, merge_classes
from vfmseg_hf.evaluation.confusion import _count_on_device, check_ids, count_pairs, count_pixels
from vfmseg_hf.utils.processes import sum_over_processes


MODULE = Path(vfmseg_hf.evaluation.__file__).parent / "mean_iou"
IGNORE = 255


def by_brute_force(predictions, labels, num_labels, ignore_index=IGNORE, num_predicted=None):
    matrix = np.zeros((num_labels, num_predicted or num_labels), dtype=np.int64)
    for predicted, labelled in zip(np.ravel(predictions), np.ravel(labels), strict=True):
        if labelled != ignore_index:
            matrix[labelled, predicted] += 1
    return matrix


def random_maps(num_labels=7, shape=(13, 17), ignore_index=IGNORE, seed=0, dtype=np.int64):
    random = np.random.default_rng(seed)
    predictions, labels = random.integers(0, num_labels, (2, *shape))
    labels[random.random(shape) < 0.2] = ignore_index
    return predictions.astype(dtype), labels.astype(dtype)


def same(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value)


class TestConfusionMatrix:
    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint16])
    @pytest.mark.parametrize("num_labels", [1, 2, 19, 200])
    def test_equals_brute_force(self, dtype, num_labels):
        maps = random_maps(num_labels, dtype=dtype)
        matrix = confusion_matrix(*maps, num_labels)
        assert matrix.dtype == np.int64
        np.testing.assert_array_equal(matrix, by_brute_force(*maps, num_labels))

    @pytest.mark.parametrize("ignore_index", [-100, -1, 0, 3, 65535, None])
    def test_any_id_may_be_the_ignored_one(self, ignore_index):
        predictions, labels = random_maps(7, ignore_index=6 if ignore_index is None else ignore_index)
        expected = by_brute_force(predictions, labels, 7, ignore_index)
        np.testing.assert_array_equal(confusion_matrix(predictions, labels, 7, ignore_index), expected)

    def test_all_256_ids_may_be_classes(self):
        maps = random_maps(256, (40, 40), ignore_index=0)
        np.testing.assert_array_equal(confusion_matrix(*maps, 256, None), by_brute_force(*maps, 256, None))

    def test_tensors_give_tensors(self):
        maps = random_maps()
        matrix = confusion_matrix(*map(torch.from_numpy, maps), 7)
        assert isinstance(matrix, torch.Tensor) and matrix.dtype == torch.int64
        np.testing.assert_array_equal(matrix, by_brute_force(*maps, 7))

    @pytest.mark.parametrize("ignore_index", [255, -100])
    def test_the_way_of_accelerators_counts_the_same(self, ignore_index):
        maps = random_maps(ignore_index=ignore_index)
        pairs = _count_on_device(*map(torch.from_numpy, maps), ignore_index)
        np.testing.assert_array_equal(pairs[:7, :7], by_brute_force(*maps, 7, ignore_index))

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
    @pytest.mark.parametrize("num_labels, num_predicted", [(1, 1), (19, 19), (19, 20), (256, 256)])
    def test_counted_on_a_device_it_is_the_same(self, num_labels, num_predicted, dtype):
        predictions, labels = (torch.from_numpy(ids).to(dtype) for ids in random_maps(num_labels, ignore_index=3))
        counts = count_pixels(predictions, labels, num_labels, 3, num_predicted)
        assert counts.matrix.dtype == torch.int64 and counts.unknown.sum() == 0
        np.testing.assert_array_equal(counts.matrix, by_brute_force(predictions, labels, num_labels, 3, num_predicted))

    def test_unknown_ids_are_found_in_the_counts(self):
        predictions, labels = map(torch.from_numpy, random_maps())
        labelled = (labels.flatten() != IGNORE).nonzero().flatten()
        known = labelled[14:]
        expected = by_brute_force(predictions.flatten()[known], labels.flatten()[known], 7)
        labels.view(-1)[labelled[:7]] = torch.tensor([33, 33, 200, -1, 300, 300, 300])
        predictions.view(-1)[labelled[7:14]] = torch.tensor([7, 7, 7, 7, 255, -9, 1000])
        counts = count_pixels(predictions, labels, 7)
        np.testing.assert_array_equal(counts.matrix, expected)
        unknown = counts.unknown.numpy()
        listed = (
            r"33 \(2 pixels\), 200 \(1 pixels\), others than 0\.\.255 \(4 pixels\); known are 0\.\.6 and ignore_index"
        )
        with pytest.raises(ValueError, match=f"Labels hold unknown ids: {listed}"):
            check_ids(unknown, 7)
        unknown[0] = 0
        listed = r"7 \(4 pixels\), 255 \(1 pixels\), others than 0\.\.255 \(2 pixels\); known are 0\.\.6\."
        with pytest.raises(ValueError, match=f"Predictions hold unknown ids: {listed}"):
            check_ids(unknown, 7)

    @pytest.mark.parametrize("ignore_index", [255, -100, None])
    def test_counting_on_a_device_reads_nothing(self, ignore_index):
        """A meta tensor has no values: whatever asks for one, or for how many there are, raises."""
        maps = (torch.from_numpy(ids).to("meta") for ids in random_maps())
        counts = count_pixels(*maps, 7, ignore_index)
        assert counts.matrix.shape == (7, 7) and counts.matrix.is_meta
        with pytest.raises((NotImplementedError, RuntimeError)):
            counts.matrix.sum().item()

    @pytest.mark.parametrize("predicted", [255, -5, 10**6])
    def test_what_is_predicted_on_ignored_pixels_does_not_matter(self, predicted):
        predictions, labels = random_maps()
        expected = confusion_matrix(predictions, labels, 7)
        predictions[labels == IGNORE] = predicted
        np.testing.assert_array_equal(confusion_matrix(predictions, labels, 7), expected)

    def test_inputs_are_left_alone(self):
        maps = random_maps()
        before = [array.copy() for array in maps]
        confusion_matrix(*maps, 7)
        for array, copy in zip(maps, before, strict=True):
            np.testing.assert_array_equal(array, copy)

    @pytest.mark.parametrize("as_input", [np.asarray, torch.as_tensor])
    def test_unknown_ids_raise(self, as_input):
        predictions, labels = random_maps()
        labels[2, 3] = 33
        with pytest.raises(ValueError, match=r"Labels hold unknown ids: 33 \(1 pixels\); known are 0\.\.6"):
            confusion_matrix(as_input(predictions), as_input(labels), 7)
        labels[2, 3], predictions[2, 3] = 0, 7
        with pytest.raises(ValueError, match=r"Predictions hold unknown ids: 7 \(1 pixels\); known are 0\.\.6"):
            confusion_matrix(as_input(predictions), as_input(labels), 7)
        predictions[2, 3] = -1
        with pytest.raises(ValueError, match=r"Predictions hold ids from -1 to 6"):
            confusion_matrix(as_input(predictions), as_input(labels), 7)
        predictions[2, 3], labels[2, 3] = 0, 1000
        with pytest.raises(ValueError, match=r"Labels hold ids from 0 to 1000"):
            confusion_matrix(as_input(predictions), as_input(labels), 7)

    def test_a_column_for_no_class(self):
        predictions, labels = random_maps()
        predictions[:3] = 7
        matrix = confusion_matrix(predictions, labels, 7, num_predicted=8)
        np.testing.assert_array_equal(matrix, by_brute_force(predictions, labels, 7, num_predicted=8))
        assert matrix[:, 7].sum() > 0

    def test_other_bad_input(self):
        predictions, labels = random_maps()
        with pytest.raises(ValueError, match=r"\(12, 17\).*\(13, 17\)"):
            confusion_matrix(predictions[1:], labels, 7)
        with pytest.raises(TypeError, match="float32.*argmax"):
            confusion_matrix(predictions.astype(np.float32), labels, 7)
        with pytest.raises(TypeError, match="float32"):
            confusion_matrix(torch.zeros(13, 17), torch.from_numpy(labels), 7)
        with pytest.raises(ValueError, match="num_labels = 0"):
            confusion_matrix(predictions, labels, 0)
        with pytest.raises(ValueError, match="num_predicted = 6"):
            confusion_matrix(predictions, labels, 7, num_predicted=6)

    def test_nothing_at_all(self):
        empty = np.zeros((0, 5), dtype=np.int64)
        np.testing.assert_array_equal(confusion_matrix(empty, empty, 3), np.zeros((3, 3)))
        ignored = np.full((4, 4), IGNORE)
        assert confusion_matrix(np.zeros_like(ignored), ignored, 3).sum() == 0


class TestScores:
    def test_by_hand(self):
        scores = iou_scores(np.array([[3, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
        np.testing.assert_allclose(scores["per_category_iou"], [3 / 4, 0, 0, np.nan])
        np.testing.assert_allclose(scores["per_category_accuracy"], [3 / 4, 0, np.nan, np.nan])
        assert scores["mean_iou"] == 0.25 and scores["mean_accuracy"] == 0.375 and scores["overall_accuracy"] == 0.5

    def test_no_class_is_wrong_for_the_labelled_and_a_false_alarm_of_none(self):
        scores = iou_scores(np.array([[2, 0, 2], [0, 4, 0]]))
        np.testing.assert_allclose(scores["per_category_iou"], [0.5, 1.0])

    @pytest.mark.filterwarnings("error")
    def test_nothing_labelled_gives_nan_without_a_warning(self):
        scores = iou_scores(torch.zeros(2, 2, dtype=torch.int64))
        assert all(np.isnan(value).all() for value in scores.values())

    def test_no_confusion_matrix(self):
        with pytest.raises(ValueError, match=r"\(3, 2\)"):
            iou_scores(np.zeros((3, 2)))

    def test_groups(self):
        predictions, labels = random_maps(5, (30, 30))
        groups = (1, 0, 1, 2, 2)  # of two: classes 3 and 4 are in none
        labels[np.isin(labels, (3, 4))] = IGNORE
        merged = merge_classes(confusion_matrix(predictions, labels, 5), groups, 2)
        table = np.array([*groups, *[IGNORE] * 251])
        expected = by_brute_force(table[predictions], table[labels], 2, num_predicted=3)
        np.testing.assert_array_equal(merged, expected)
        assert isinstance(merge_classes(torch.zeros(5, 5, dtype=torch.int64), groups, 2), torch.Tensor)

    def test_predictions_of_no_class_stay_so_in_groups(self):
        merged = merge_classes(np.array([[1, 2, 4], [8, 16, 32]]), (0, 0), 1)
        np.testing.assert_array_equal(merged, [[27, 36]])

    def test_groups_of_another_dataset(self):
        with pytest.raises(ValueError, match=r"shape \(3, 3\).*of 2 classes"):
            merge_classes(np.ones((3, 3)), (0, 1), 2)
        with pytest.raises(ValueError, match=r"2 pixels are labelled with classes \[1\]"):
            merge_classes(np.ones((2, 2), dtype=np.int64), (0, 1), 1)


class TestRecordedEvaluation:
    @pytest.fixture(scope="class")
    def recorded(self, shared):
        maps = load_file(shared / "golden" / "mean_iou" / "maps.safetensors")
        meta = json.loads((shared / "golden" / "mean_iou" / "meta.json").read_text())
        return maps["predictions"], maps["labels"], meta

    @pytest.mark.parametrize("which", ["all_maps", "first_map"])
    def test_scores(self, recorded, which):
        predictions, labels, meta = recorded
        count = len(labels) if which == "all_maps" else 1
        metric = load_mean_iou()
        metric.add_batch(predictions=predictions[:count], references=labels[:count])
        scores = metric.compute(num_labels=meta["num_classes"], ignore_index=meta["ignore_index"])
        expected = meta[which]
        for ours, theirs in (("per_category_iou", "IoU"), ("per_category_accuracy", "Acc")):
            values = np.array([np.nan if value is None else value for value in expected[theirs]])
            np.testing.assert_allclose(scores[ours], values, atol=1e-6, rtol=0)
        for ours, theirs in (("mean_iou", "mIoU"), ("mean_accuracy", "mAcc"), ("overall_accuracy", "aAcc")):
            assert round(100 * scores[ours], 2) == expected["metrics"][f"data_{theirs}"]

    def test_areas(self, recorded):
        predictions, labels, meta = recorded
        matrix = confusion_matrix(predictions, labels, meta["num_classes"], meta["ignore_index"])
        areas = meta["all_maps"]["areas"]
        np.testing.assert_array_equal(np.diagonal(matrix), areas["intersect"])
        np.testing.assert_array_equal(matrix.sum(axis=0), areas["prediction"])
        np.testing.assert_array_equal(matrix.sum(axis=1), areas["label"])

    def test_two_processes(self, recorded, tmp_path):
        predictions, labels, meta = recorded

        def count(rank):
            mine = [confusion_matrix(*maps, meta["num_classes"]) for maps in zip(predictions, labels, strict=True)]
            return sum_over_processes(torch.from_numpy(sum(mine[rank::2]))).numpy()

        expected = sum(by_brute_force(*maps, meta["num_classes"]) for maps in zip(predictions, labels, strict=True))
        for matrix in run_in_processes(2, count, tmp_path):
            np.testing.assert_array_equal(matrix, expected)
            assert round(100 * iou_scores(matrix)["mean_iou"], 2) == meta["all_maps"]["metrics"]["data_mIoU"]

    def test_several_data_sets(self, recorded):
        predictions, labels, meta = recorded
        means = []
        for name in sorted(set(meta["dataset_of_map"])):
            chosen = [index for index, of in enumerate(meta["dataset_of_map"]) if of == name]
            scores = iou_scores(confusion_matrix(predictions[chosen], labels[chosen], meta["num_classes"]))
            means.append(round(100 * scores["mean_iou"], 2))
            assert means[-1] == meta["two_datasets"][f"{name}_mIoU"]
        assert np.mean(means) == pytest.approx(meta["two_datasets"]["mean_mIoU"])


@pytest.fixture(params=["evaluate.load", "load_mean_iou"])
def load(request, tmp_path, monkeypatch):
    """Both ways to the metric; evaluate's copy of the module goes elsewhere than into the user's cache."""
    if request.param == "load_mean_iou":
        return load_mean_iou
    modules = tmp_path / f"modules_of_{tmp_path.name}"
    modules.mkdir()
    (modules / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(evaluate.loading, "init_dynamic_modules", lambda: str(modules))
    return lambda **settings: evaluate.load(str(MODULE), **settings)


class TestMeanIoU:
    def test_streams(self, load):
        metric = load()
        maps = [random_maps(7, shape, seed=index) for index, shape in enumerate([(5, 9), (8, 8), (3, 40), (1, 1)])]
        predictions, labels = zip(*maps, strict=True)
        expected = iou_scores(sum(confusion_matrix(*pair, 7) for pair in maps))
        same(metric.compute(predictions=predictions, references=labels, num_labels=7, ignore_index=IGNORE), expected)
        metric.add_batch(predictions=predictions[:2], references=labels[:2])
        metric.add(prediction=predictions[2], reference=labels[2])
        assert len(metric) == 3
        actual = metric.compute(
            predictions=predictions[3:], references=labels[3:], num_labels=7, ignore_index=IGNORE, reduce_labels=False
        )
        same(actual, expected)
        assert len(metric) == 0

    def test_the_example_of_evaluate(self, load):
        predictions = [
            np.array([[1, 2], [3, 4], [5, 255]]),
            np.array([[2, 7], [9, 2], [3, 6]]),
            np.array([[2, 2, 3], [8, 2, 4], [3, 255, 2]]),
        ]
        labels = [
            np.array([[0, 3], [5, 4], [6, 255]]),
            np.array([[1, 7], [9, 2], [3, 6]]),
            np.array([[1, 2, 2], [8, 2, 1], [3, 255, 1]]),
        ]
        scores = load().compute(predictions=predictions, references=labels, num_labels=10, ignore_index=255)
        assert scores["mean_iou"] == pytest.approx(0.4775)
        assert scores["mean_accuracy"] == pytest.approx(0.5916666666666666)
        assert scores["overall_accuracy"] == pytest.approx(0.5263157894736842)
        np.testing.assert_allclose(scores["per_category_iou"], [0, 0, 0.375, 0.4, 0.5, 0, 0.5, 1, 1, 1])

    @pytest.mark.parametrize("kind", [torch.from_numpy, lambda a: PIL.Image.fromarray(a.astype(np.uint8)), list])
    def test_kinds_of_maps(self, kind):
        predictions, labels = random_maps()
        scores = load_mean_iou().compute(
            predictions=[kind(predictions)], references=[kind(labels)], num_labels=7, ignore_index=IGNORE
        )
        same(scores, iou_scores(confusion_matrix(predictions, labels, 7)))

    def test_nan_to_num_comes_after_the_means(self):
        maps = {"predictions": [np.zeros((2, 2), int)], "references": [np.zeros((2, 2), int)]}
        scores = load_mean_iou().compute(**maps, num_labels=2, ignore_index=IGNORE)
        np.testing.assert_array_equal(scores["per_category_iou"], [1, np.nan])
        scores = load_mean_iou().compute(**maps, num_labels=2, ignore_index=IGNORE, nan_to_num=-1)
        np.testing.assert_array_equal(scores["per_category_iou"], [1, -1])
        assert scores["mean_iou"] == 1

    def test_label_map_maps_original_ids_of_references_only(self):
        label_map = {0: 1, 1: 0, 30: 2, 31: IGNORE, IGNORE: 3}
        predictions, _ = random_maps(4, (20, 20))
        raw = np.random.default_rng(1).choice([0, 1, 2, 30, 31, IGNORE], (20, 20))
        mapped = np.vectorize(lambda index: label_map.get(index, index))(raw)
        expected = iou_scores(confusion_matrix(predictions, mapped, 4))
        for settings in ({}, {"num_labels": 4, "ignore_index": IGNORE, "label_map": label_map}):
            metric = load_mean_iou(**settings)
            metric.add_batch(predictions=[predictions], references=[raw])
            same(metric.compute(num_labels=4, ignore_index=IGNORE, label_map=label_map), expected)

    def test_label_map_does_not_lose_ids_that_cannot_be_counted(self):
        predictions, labels = random_maps(ignore_index=-100)
        with pytest.raises(ValueError, match="Labels hold ids from -100"):
            load_mean_iou().compute(
                predictions=[predictions], references=[labels], num_labels=7, ignore_index=-100, label_map={-100: 0}
            )

    def test_groups(self):
        predictions, labels = random_maps(5)
        labels[labels == 4] = IGNORE
        rule = EvaluationGroups.of({"a": (0, 2), "b": (1, 3)}, num_labels=5)
        scores = load_mean_iou().compute(
            predictions=[predictions], references=[labels], num_labels=5, ignore_index=IGNORE, groups=rule
        )
        same(scores, iou_scores(rule.merge(confusion_matrix(predictions, labels, 5))))
        assert len(scores["per_category_iou"]) == 2

    def test_labels_are_never_shifted_silently(self):
        predictions, labels = random_maps()
        with pytest.raises(ValueError, match="reduce_labels=True is not supported.*label_map"):
            load_mean_iou().compute(
                predictions=[predictions], references=[labels], num_labels=7, ignore_index=255, reduce_labels=True
            )

    @pytest.mark.parametrize("known_when", ["loaded", "computed"])
    def test_unknown_ids_raise_and_lose_nothing(self, known_when):
        settings = {"num_labels": 7, "ignore_index": IGNORE}
        metric = load_mean_iou(**(settings if known_when == "loaded" else {}))
        good, bad = random_maps(seed=1), random_maps(seed=2)
        bad[1][0, 0] = 19
        metric.add_batch(predictions=[good[0]], references=[good[1]])
        if known_when == "loaded":
            with pytest.raises(ValueError, match="Image 1 of the batch: Labels hold unknown ids: 19"):
                metric.add_batch(predictions=[good[0], bad[0]], references=[good[1], bad[1]])
            assert len(metric) == 1
            same(metric.compute(), iou_scores(confusion_matrix(*good, 7)))
        else:
            metric.add_batch(predictions=[bad[0]], references=[bad[1]])
            with pytest.raises(ValueError, match="Labels hold unknown ids: 19"):
                metric.compute(**settings)
            assert len(metric) == 2
            metric.compute(num_labels=20, ignore_index=IGNORE)

    def test_an_ignored_id_outside_a_byte_has_to_be_known_in_time(self):
        predictions, labels = random_maps(ignore_index=-100)
        expected = iou_scores(confusion_matrix(predictions, labels, 7, -100))
        settings = {"num_labels": 7, "ignore_index": -100}
        same(load_mean_iou().compute(predictions=[predictions], references=[labels], **settings), expected)
        metric = load_mean_iou(**settings)
        metric.add(prediction=predictions, reference=labels)
        same(metric.compute(), expected)
        with pytest.raises(ValueError, match="Image 0 of the batch: Labels hold ids from -100.*ignore_index"):
            load_mean_iou().add(prediction=predictions, reference=labels)

    def test_bad_calls(self):
        predictions, labels = random_maps()
        metric = load_mean_iou(num_labels=7)
        with pytest.raises(ValueError, match="no image to score"):
            metric.compute(ignore_index=IGNORE)
        with pytest.raises(ValueError, match="needs ignore_index"):
            metric.compute(predictions=[predictions], references=[labels])
        with pytest.raises(ValueError, match="num_labels=8.*loaded with 7"):
            metric.compute(num_labels=8, ignore_index=IGNORE)
        with pytest.raises(ValueError, match="does not know.*num_classes"):
            metric.compute(num_classes=7, ignore_index=IGNORE)
        with pytest.raises(ValueError, match="does not know.*num_classes"):
            load_mean_iou(num_classes=7)
        with pytest.raises(ValueError, match="reduce_labels=True is not supported"):
            load_mean_iou(num_labels=7, reduce_labels=True)
        with pytest.raises(ValueError, match="2 predictions for 1 references"):
            metric.add_batch(predictions=[predictions] * 2, references=[labels])
        with pytest.raises(ValueError, match=r"Image 1 of the batch.*\(12, 17\).*\(13, 17\)"):
            metric.add_batch(predictions=[predictions, predictions[1:]], references=[labels] * 2)
        with pytest.raises(TypeError, match="Image 0 of the batch.*argmax"):
            metric.add_batch(predictions=[predictions / 2], references=[labels])
        with pytest.raises(ValueError, match="Bad inputs.*num_labels"):
            metric.add_batch(predictions=[predictions], references=[labels], num_labels=7)
        with pytest.raises(ValueError, match="confusion matrices.*over the processes"):
            load_mean_iou(num_process=2, process_id=1)
        assert len(metric) == 0

    def test_memory_does_not_grow_with_the_images(self):
        metric, (predictions, labels) = load_mean_iou(), random_maps(19, (64, 64))

        def held(times: int) -> int:
            for _ in range(times):
                metric.add(prediction=predictions, reference=labels)
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            first = held(5)
            assert held(100) - first < predictions.nbytes
        finally:
            tracemalloc.stop()

    def test_combines_with_other_modules(self):
        predictions, labels = random_maps()
        both = evaluate.combine({"one": load_mean_iou(), "two": load_mean_iou()})
        scores = both.compute(predictions=[predictions], references=[labels], num_labels=7, ignore_index=IGNORE)
        assert scores["one_mean_iou"] == scores["two_mean_iou"]


def test_pairs_are_counted_as_stored():
    pairs = count_pairs(np.array([3, 255], np.uint8), np.array([200, 255], np.uint8))
    assert pairs[200, 3] == pairs[255, 255] == 1 and pairs.sum() == 2
