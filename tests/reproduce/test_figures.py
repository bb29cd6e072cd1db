# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Figures 4 and 5: their numbers against `vfmseg evaluate` and plain counts, the enlarged region, what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from tests.methods.test_other import eomt, mask2former
from tests.support import commands
from tests.support.commands import error_of
from tests.support.tiny import BACKBONE, REFINER
from vfmseg_hf import VFMSegConfig, VFMSegForSemanticSegmentation, VFMSegImageProcessor
from vfmseg_hf.data import open_dataset
from vfmseg_hf.evaluation import Reliability
from vfmseg_hf.evaluation.reliability import label_boxes
from vfmseg_hf.methods.linear import VFMSegLinearConfig, VFMSegLinearForSemanticSegmentation
from vfmseg_hf.reproduce import models_of
from vfmseg_hf.reproduce.figure5 import small_ids, zoom_box


CLASSES = {0: "road", 1: "person", 2: "sky"}
SIZES = ((70, 100), (64, 150), (90, 90))


def data(folder: Path) -> str:
    """Three images of blocks of other sizes, with classes of their own; what names them on a command line."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number, (height, width) in enumerate(SIZES):
        ids = np.kron(rng.integers(0, 3, (height // 10, width // 10)), np.ones((10, 10))).astype(np.uint8)
        ids = np.pad(ids, ((0, height % 10), (0, width % 10)), mode="edge")
        noise = rng.integers(0, 60, (height, width, 3))
        Image.fromarray((80 * ids[..., None] + noise).astype(np.uint8)).save(folder / "images" / f"scene-{number}.png")
        ids[:5] = 255
        Image.fromarray(ids).save(folder / "labels" / f"scene-{number}.png")
    ids = {name: index for index, name in CLASSES.items()}
    about = {"images": "images", "labels": "labels", "ids": ids, "ignore": [255]}
    (folder / "data.json").write_text(json.dumps(about))
    return f"own=folder:{folder / 'data.json'}"


def ours() -> VFMSegForSemanticSegmentation:
    """Unsure enough that its gate keeps some windows and refines others, and not all pixels are of one class."""
    config = VFMSegConfig(
        backbone_config=BACKBONE, id2label=CLASSES, **{**REFINER, "window_size": 32, "window_stride": 24}
    )
    model = VFMSegForSemanticSegmentation(config).eval()
    for head in (model.coarse_head, model.refine_head):
        torch.nn.init.normal_(head.classifier.weight, std=0.5)
    return model


def gate(folder: Path, domain: str) -> None:
    """Thresholds of a saved model at medians, so that half of its windows are kept."""
    model, processor = (auto.from_pretrained(folder) for auto in (AutoModelForSemanticSegmentation, AutoImageProcessor))
    passes = [model(processor(row["image"], return_tensors="pt")["pixel_values"]) for row in rows_of(domain)]
    best = torch.cat([each.coarse_logits.softmax(1).amax(1).flatten() for each in passes])
    model.config.confidence_threshold = float(best.median())
    passes = [model(processor(row["image"], return_tensors="pt")["pixel_values"]) for row in rows_of(domain)]
    model.config.certainty_threshold = float(torch.cat([each.certainty.flatten() for each in passes]).median())
    model.config.save_pretrained(folder)


def rows_of(domain: str):
    return open_dataset(domain.partition("=")[2])


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Data, and a model of every kind."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("figures")
    domain = data(folder / "data")
    linear = VFMSegLinearForSemanticSegmentation(
        VFMSegLinearConfig(backbone_config=BACKBONE, coarse_size=64, id2label=CLASSES)
    )
    torch.nn.init.normal_(linear.linear_head.classifier.weight)
    made = {"eomt": eomt(), "mask2former": mask2former()}
    for model, _ in made.values():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.normal_(module.weight, std=0.5)
    processor = VFMSegImageProcessor(size={"shortest_edge": 80})
    made |= {"ours": (ours(), processor), "linear": (linear, processor)}
    for name, (model, processor) in made.items():
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    with torch.no_grad():
        gate(folder / "ours", domain)
    return folder, domain


def evaluated(place: Path, domain: str, *words: object, output: Path) -> dict:
    """What `vfmseg evaluate` scores."""
    told = ["--model", place, "--data", domain, "--device", "cpu", "--output", output / "scores.json", *words]
    assert error_of("evaluate", *told) is None
    return json.loads((output / "scores.json").read_text())["domains"]["own"]


# --- figure 4 -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(places):
    """Folder and record of a Figure 4 of all kinds of models."""
    folder, domain = places
    models = [f"{name}={folder / name}" for name in ("ours", "linear", "eomt", "mask2former")]
    words = ["--models", *models, "--eval_data", domain, "--output", folder / "out", "--device", "cpu"]
    words += ["--resolutions", 64, 96, "--max_windows", 1, 4, "--repeats", 1]
    assert error_of("reproduce", "figure4", *words) is None
    return folder / "out", json.loads((folder / "out" / "figure4.json").read_text())


def score_of(record: dict, part: str, **of: object) -> dict:
    (found,) = (score for score in record[part] if of.items() <= score.items())
    return found


@pytest.mark.parametrize("edge", [64, 96])
def test_scores_at_a_resolution_are_those_of_evaluate(edge, places, drawn, tmp_path):
    (folder, domain), (_, record) = places, drawn
    for windows in ("gated", "all"):
        expected = evaluated(folder / "ours", domain, "--size", edge, "--refine", windows, output=tmp_path)
        found = score_of(record, "resolutions", model="ours", windows=windows, resolution=edge)
        assert found["mean_iou"] == found["domains"]["own"] == expected["final"]["mean_iou"]
        assert found["refined"] == expected["refined"]
    coarse = score_of(record, "resolutions", model="ours", windows="coarse", resolution=edge)
    assert coarse["mean_iou"] == expected["coarse"]["mean_iou"] != expected["final"]["mean_iou"]


@pytest.mark.parametrize("edge", [64, 96])
def test_one_look_sees_the_whole_image_at_the_resolution(edge, places, drawn, tmp_path):
    (folder, domain), (_, record) = places, drawn
    shutil.copytree(folder / "linear", tmp_path / "linear")
    config = json.loads((tmp_path / "linear" / "config.json").read_text())
    (tmp_path / "linear" / "config.json").write_text(json.dumps({**config, "coarse_size": edge}))
    expected = evaluated(tmp_path / "linear", domain, "--size", edge, output=tmp_path)
    found = score_of(record, "resolutions", model="linear", resolution=edge)
    assert found["mean_iou"] == expected["final"]["mean_iou"] and found["windows"] is found["refined"] is None
    (tmp_path / "other").mkdir()
    shutil.copytree(folder / "mask2former", tmp_path / "mask2former")
    settings = json.loads((tmp_path / "mask2former" / "preprocessor_config.json").read_text())
    settings["size"] = {"shortest_edge": edge, "longest_edge": 4 * edge}
    (tmp_path / "mask2former" / "preprocessor_config.json").write_text(json.dumps(settings))
    expected = evaluated(tmp_path / "mask2former", domain, output=tmp_path / "other")
    assert score_of(record, "resolutions", model="mask2former", resolution=edge)["mean_iou"] == pytest.approx(
        expected["final"]["mean_iou"]
    )


def test_a_model_with_one_size_has_one_point(places, drawn, tmp_path):
    (folder, domain), (output, record) = places, drawn
    expected = evaluated(folder / "eomt", domain, output=tmp_path)["final"]["mean_iou"]
    found = score_of(record, "resolutions", model="eomt")
    assert found["resolution"] == 64 and found["mean_iou"] == expected
    assert record["notes"] == ["eomt takes images of one size, and has one point at its shortest edge 64."]
    assert record["notes"][0] in (output / "figure4.md").read_text()


def test_budgets(places, drawn, tmp_path):
    (folder, domain), (_, record) = places, drawn
    words = {number: ["--refine", "all", "--max_windows", number] for number in (0, 1, 4)}
    words |= {"all": ["--refine", "all"], "gated": []}
    assert [score["windows"] for score in record["budgets"] if score["model"] == "ours"] == [0, 1, 4, "all", "gated"]
    for windows, options in words.items():
        expected = evaluated(folder / "ours", domain, *options, output=tmp_path)
        found = score_of(record, "budgets", model="ours", windows=windows)
        assert found["mean_iou"] == expected["final"]["mean_iou"] and found["refined"] == expected["refined"]
    assert score_of(record, "budgets", model="ours", windows=0)["refined"] == 0
    assert 0 < score_of(record, "budgets", model="ours", windows="gated")["refined"] < 1
    coarse, whole = (score_of(record, "budgets", model="ours", windows=windows) for windows in (0, "all"))
    assert coarse["times_coarse"] == 1 < whole["times_coarse"] and 0 < coarse["seconds"] < whole["seconds"]
    for name in ("linear", "eomt", "mask2former"):
        found = score_of(record, "budgets", model=name)
        expected = evaluated(folder / name, domain, output=tmp_path)
        assert found["windows"] is None and found["mean_iou"] == expected["final"]["mean_iou"]
        assert found["seconds"] > 0 and found["times_coarse"] > 0
    assert record["timing"]["images"] == 2 and record["timing"]["repeats"] == 1


def test_reliability_against_a_plain_count(places, drawn):
    """Every label pixel by itself: its probability, whether it is right, and the windows that its centre lies in."""
    (folder, domain), (_, record) = places, drawn
    model = AutoModelForSemanticSegmentation.from_pretrained(folder / "ours")
    processor = AutoImageProcessor.from_pretrained(folder / "ours")
    windows, pixels = [], []
    for row in rows_of(domain):
        seen = processor(row["image"], return_tensors="pt")["pixel_values"]
        labels = np.asarray(row["label"])
        with torch.no_grad():
            outputs = model(seen)
        stages = [
            F.interpolate(logits, labels.shape, mode="bilinear", align_corners=False).softmax(1)[0].numpy()
            for logits in (outputs.coarse_logits, outputs.logits)
        ]
        right = [(stage.argmax(0) == labels) & (labels != 255) for stage in stages]
        pixels += zip(stages[0].max(0)[labels != 255], right[0][labels != 255], strict=True)
        y, x = np.mgrid[: labels.shape[0], : labels.shape[1]] + 0.5
        y, x = y * seen.shape[-2] / labels.shape[0], x * seen.shape[-1] / labels.shape[1]
        for box, certainty, refined in zip(outputs.windows[0], outputs.certainty[0], outputs.refined[0], strict=True):
            top, left, bottom, right_edge = box.tolist()
            inside = (y >= top) & (y < bottom) & (x >= left) & (x < right_edge)
            counted = [int((inside & each).sum()) for each in (labels != 255, *right)]
            windows.append((float(certainty), bool(refined), *counted))
    found = record["reliability"]["ours"]
    for which, flag in (("kept", False), ("refined", True)):
        of = [window for window in windows if window[1] == flag]
        total, coarse, final = (sum(window[part] for window in of) for part in (2, 3, 4))
        assert found[which] == {
            "windows": len(of), "refined": len(of) * flag, "pixels": total,
            "coarse": pytest.approx(coarse / total), "final": pytest.approx(final / total),
        }  # fmt: skip
        assert total > 0
    assert found["refined"]["coarse"] != found["refined"]["final"]
    for number, each in enumerate(found["windows_by_certainty"]):
        of = [window for window in windows if min(int(np.float32(window[0]) * 10), 9) == number]
        assert each["windows"] == len(of) and each["refined"] == sum(window[1] for window in of)
        if total := sum(window[2] for window in of):
            assert each["coarse"] == pytest.approx(sum(window[3] for window in of) / total)
    assert sum(each["pixels"] for each in found["pixels_by_probability"]) == len(pixels)
    # Probabilities are bytes: their bins are those of the rounded values.
    steps, was_right = np.round(255 * np.array([p for p, _ in pixels])), np.array([r for _, r in pixels])
    error = 0.0
    for number in range(15):
        chosen = (steps * 15 // 255).clip(max=14) == number
        if chosen.any():
            error += chosen.sum() * abs(was_right[chosen].mean() - steps[chosen].mean() / 255)
    assert found["expected_calibration_error"] == pytest.approx(error / len(pixels), abs=1e-4)


def test_reliability_by_hand():
    pixels = np.zeros((256, 2), np.int64)
    pixels[51], pixels[204] = (10, 5), (30, 21)  # a probability of 0.2 that is right in 0.5, of 0.8 in 0.7
    part = Reliability(np.array([0.95, 1.0, 0.4], np.float32), np.array([False, False, True]),
                       np.array([[10, 9, 9], [10, 10, 8], [20, 5, 15]]), pixels)  # fmt: skip
    both = Reliability.joined([part, part])
    assert both.calibration_error(10) == pytest.approx((10 * 0.3 + 30 * 0.1) / 40)
    kept = {"windows": 4, "refined": 0, "pixels": 40, "coarse": 0.95, "final": 0.85}
    assert both.kept_and_refined()["kept"] == kept
    bins = both.by_certainty(10)
    assert bins[9] == {"from": 0.9, "to": 1.0, **kept}
    assert bins[4]["coarse"] == 0.25 and bins[4]["final"] == 0.75 and bins[0]["coarse"] is None
    assert both.by_probability(5)[4] == {"from": 0.8, "to": 1, "pixels": 60, "probability": 0.8, "right": 0.7}


def test_windows_hold_the_labels_whose_centres_they_hold():
    for seen, labelled in ((64, 100), (100, 64), (7, 3), (30, 30)):
        spans = [(start, min(start + 5, seen)) for start in range(0, seen, 5)]
        boxes = label_boxes([(a, a, b, b) for a, b in spans], (seen, seen), (labelled, labelled))
        for (start, end), (top, left, bottom, right) in zip(spans, boxes, strict=True):
            inside = [i for i in range(labelled) if start * labelled <= (i + 0.5) * seen < end * labelled]
            assert list(range(top, bottom)) == list(range(left, right)) == inside


def test_figure_4_is_written_in_full(drawn):
    output, record = drawn
    assert {path.name for path in output.iterdir()} == {"figure4.png", "figure4.md", "figure4.json"}
    with Image.open(output / "figure4.png") as image:
        assert image.width > 1000 and image.height > 900
    table = (output / "figure4.md").read_text()
    for score in record["budgets"]:
        assert f"{100 * score['mean_iou']:.2f} | {score['seconds']:.3f}" in table
    assert "| ours | gated |" in table and "expected" not in table


def test_models_that_look_once_have_no_reliability(places, tmp_path):
    folder, domain = places
    words = ["--models", folder / "linear", "--eval_data", domain, "--output", tmp_path, "--device", "cpu"]
    assert error_of("reproduce", "figure4", *words, "--resolutions", 64, "--max_images", 1, "--repeats", 1) is None
    record = json.loads((tmp_path / "figure4.json").read_text())
    assert record["reliability"] == {} and record["domains"]["own"]["images"] == 1
    assert score_of(record, "budgets", model="linear")["times_coarse"] is None
    assert "Reliability" not in (tmp_path / "figure4.md").read_text()


def test_numbers_of_windows_go_up_to_what_there_is(places, tmp_path):
    folder, domain = places
    words = ["--models", folder / "ours", "--eval_data", domain, "--output", tmp_path, "--device", "cpu"]
    assert error_of("reproduce", "figure4", *words, "--resolutions", 32, "--max_images", 1, "--repeats", 1) is None
    record = json.loads((tmp_path / "figure4.json").read_text())
    # 70 x 100 is seen as 80 x 114: 3 x 5 windows of 32 every 24
    assert [score["windows"] for score in record["budgets"]] == [0, 1, 2, 4, 8, "all", "gated"]


# --- figure 5 -----------------------------------------------------------------------------------------------------


def test_figure_5(places, tmp_path):
    folder, domain = places
    models = [f"{name}={folder / name}" for name in ("ours", "eomt")]
    words = ["--models", *models, "--eval_data", domain, "--images", 2, "--zoom", 0.4, "--device", "cpu"]
    assert error_of("reproduce", "figure5", *words, "--output", tmp_path / "a") is None
    assert error_of("reproduce", "figure5", *words, "--output", tmp_path / "b") is None
    files = ["figure5.md", "figure5.png"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), "always the same"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == files
    table = (tmp_path / "a" / "figure5.md").read_text()
    for name in ("ours", "eomt"):
        expected = evaluated(folder / name, domain, "--max_images", 2, output=tmp_path)["final"]["mean_iou"]
        assert f"| {name} | {100 * expected:.2f} |" in table
    rows = rows_of(domain)
    assert rows[0]["file_name"] in table and rows[1]["file_name"] in table and rows[2]["file_name"] not in table
    top, left, bottom, right = zoom_box(np.asarray(rows[0]["label"]), [1], 0.4)
    assert f"| own | {rows[0]['file_name']} | 100 × 70 | {left} to {right}, {top} to {bottom} | person |" in table
    with Image.open(tmp_path / "a" / "figure5.png") as image:
        assert image.width == 16 + 4 * (384 + 16)


def test_labels_and_predictions_have_the_colours_of_their_classes(places, monkeypatch):
    """EoMT numbers its classes otherwise: the same names get the same ids, and so the same colours."""
    from vfmseg_hf.cli.reproduce_figure5 import build_parser
    from vfmseg_hf.cli.reproduce_figures import start_figure
    from vfmseg_hf.reproduce import figure5, open_domains

    folder, domain = places
    words = ["--models", str(folder / "ours"), str(folder / "eomt"), "--eval_data", domain, "--device", "cpu"]
    models = start_figure(build_parser().parse_args(words))
    figure = figure5.compare(models, open_domains([domain], 1, models, folder), 0.25, ["person"])
    (row,) = figure.rows
    other, processor = eomt()[0], models[1].model.processor
    other.load_state_dict(models[1].model.model.state_dict())
    with torch.no_grad():
        outputs = other.eval()(**processor(images=row.image, return_tensors="pt"))
    (found,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[row.image.size[::-1]])
    names = {index: name.lower() for index, name in other.config.id2label.items()}
    expected = np.vectorize(lambda index: next(k for k, name in CLASSES.items() if name == names[index]))(found)
    np.testing.assert_array_equal(row.maps["eomt"], expected)
    np.testing.assert_array_equal(row.maps["Ground truth"], np.asarray(rows_of(domain)[0]["label"]))
    assert list(row.maps) == ["Ground truth", "ours", "eomt"]


def test_the_region_has_most_small_classes_then_most_of_their_pixels():
    labels = np.zeros((64, 128), np.uint8)
    labels[:30, :30] = 1  # many pixels of one class
    labels[40:44, 100:104], labels[45:49, 104:108] = 1, 2  # few of two
    assert zoom_box(labels, [1, 2], 0.25)[1] > 70
    top, left, bottom, right = zoom_box(labels, [1, 2], 0.25)
    assert (bottom - top, right - left) == (16, 32)
    assert {1, 2} <= set(labels[top:bottom, left:right].ravel().tolist())
    top, left, bottom, right = zoom_box(labels, [1], 0.25)
    assert (labels[top:bottom, left:right] == 1).sum() == 16 * 30, "all of the width of the block"
    assert zoom_box(labels, [3], 0.5) == zoom_box(labels, [], 0.5) == (16, 32, 48, 96), "the middle"
    assert zoom_box(labels, [2], 1.0) == (0, 0, 64, 128)


def test_the_region_against_a_search(places):
    rng = np.random.default_rng(3)
    labels = (rng.random((50, 70)) < 0.03) + 2 * (rng.random((50, 70)) < 0.02).astype(np.uint8)
    height, width = 10, 14
    best, expected = (-1, -1), None
    for top in range(41):
        for left in range(57):
            region = labels[top : top + height, left : left + width]
            counts = [(region == index).sum() for index in (1, 2)]
            rank = sum(count >= 0.001 * region.size for count in counts), sum(counts)
            if rank > best:
                best, expected = rank, (top, left, top + height, left + width)
    assert zoom_box(labels, [1, 2], 0.2) == expected


def test_small_classes_by_name():
    id2label = {0: "road", 1: "Traffic_Light", 2: "pole"}
    assert small_ids(id2label, None) == [2, 1] and small_ids(id2label, ["road"]) == [0]
    assert small_ids(CLASSES, None) == [1] and small_ids({0: "LABEL_0", 1: "LABEL_1"}, None) == []
    with pytest.raises(ValueError, match="--zoom_classes names 'kite', which is no class; there are road, Traffic_L"):
        small_ids(id2label, ["kite"])


# --- models and what is refused -----------------------------------------------------------------------------------


def reproduction(folder: Path, settings: dict[str, dict[str, float | None]]) -> Path:
    """What `vfmseg reproduce` leaves, without weights."""
    for setting, rates in settings.items():
        rows = {row: {"learning_rate": rate} for row, rate in rates.items()}
        for row, rate in rates.items():
            (folder / setting / row / f"rate={rate or 0:g}" / "seed=3" / "model").mkdir(parents=True)
        (folder / setting / "settings.json").write_text(json.dumps({"decided": {"first_seed": 3}, "rows": rows}))
    return folder


def test_models_of_an_earlier_reproduction(tmp_path):
    one = reproduction(tmp_path / "one", {"streets": {"rein": 1e-4, "ours": 3e-4, "none": None}})
    places = {"rein": "rate=0.0001/seed=3/model", "ours": "rate=0.0003/seed=3/model"}
    models = {row: one / "streets" / row / place for row, place in places.items()}
    assert models_of(one) == models_of(one / "streets") == models
    two = reproduction(tmp_path / "two", {"streets": {"ours": 3e-4}, "camvid": {"ours": 1e-3}})
    assert list(models_of(two)) == ["camvid-ours", "streets-ours"] and list(models_of(two / "camvid")) == ["ours"]
    shutil.rmtree(one / "streets" / "ours")
    with pytest.raises(FileNotFoundError, match="there is no model .*rate=0.0003/seed=3/model; the same `vfmseg"):
        models_of(one)
    with pytest.raises(FileNotFoundError, match="there is no settings.json in it"):
        models_of(tmp_path / "two" / "streets" / "ours")
    with pytest.raises(ValueError, match="no row in .* has a learning rate yet"):
        models_of(reproduction(tmp_path / "three", {"streets": {"ours": None}}))


def test_models_of_a_reproduction_and_others(places, tmp_path):
    folder, domain = places
    earlier = reproduction(tmp_path / "out", {"streets": {"linear": 1e-4}})
    place = earlier / "streets/linear/rate=0.0001/seed=3/model"
    shutil.copytree(folder / "linear", place, dirs_exist_ok=True)
    words = ["--from", earlier, "--eval_data", domain, "--images", 1, "--device", "cpu", "--output", tmp_path / "a"]
    assert error_of("reproduce", "figure5", *words, "--models", folder / "ours") is None
    table = (tmp_path / "a" / "figure5.md").read_text()
    assert table.index(f"- linear: one look, `{place}`") < table.index(f"- ours: two stages, `{folder / 'ours'}`")
    assert f"--from {earlier} has a model 'linear' too" in error_of(
        "reproduce", "figure5", *words, "--models", folder / "linear"
    )


def test_a_folder_with_a_sign_of_equality_is_no_name(places, tmp_path, monkeypatch):
    folder, domain = places
    shutil.copytree(folder / "linear", tmp_path / "rate=1")
    monkeypatch.chdir(tmp_path)
    words = ["--eval_data", domain, "--images", 1, "--device", "cpu", "--output", "out"]
    assert error_of("reproduce", "figure5", "--models", "rate=1", *words) is None
    assert "- rate=1: one look, `rate=1`" in Path("out/figure5.md").read_text()


@pytest.mark.parametrize(
    "figure, words, message",
    [
        ("figure4", ["--models", "DIR/absent"], "there is no directory"),
        ("figure4", ["--models", "DIR/data"], "holds no model: there is no config.json in it"),
        ("figure4", [], "there is no folder outputs/table1 of an earlier `vfmseg reproduce`; name models"),
        ("figure5", ["--from", "DIR/absent"], "there is no folder DIR/absent of an earlier `vfmseg reproduce`"),
        ("figure5", ["--from", "DIR/data"], "DIR/data holds no earlier `vfmseg reproduce`"),
        ("figure4", ["--models", "DIR/ours", "a=DIR/ours", "a=DIR/linear"], "two of --models have the name 'a'"),
        ("figure4", ["--models", "a,b=DIR/ours"], "the name of a model is made of letters, digits, spaces and +-_."),
        ("figure4", ["--models", "DIR/ours", "--resolutions", "100"], "multiples of 32, got 100; the nearest is 96"),
        ("figure4", ["--models", "DIR/ours", "--resolutions", "64", "64"], "--resolutions has 64 twice; give it once"),
        ("figure4", ["--models", "DIR/ours", "--max_windows", "4", "4"], "--max_windows has 4 twice; give it once"),
        ("figure5", ["--models", "DIR/ours", "--zoom", "0"], "--zoom is the share of an image that is enlarged"),
        ("figure5", ["--models", "DIR/ours", "--zoom", "2"], "--zoom: expected a share from 0 to 1, got '2'"),
        ("figure5", ["--models", "DIR/ours", "--images", "4"], "4 images of each domain are wanted, but own has 3"),
        ("figure5", ["--models", "DIR/ours", "--zoom_classes", "kite"], "names 'kite', which is no class; there are"),
        ("figure4", ["--models", "DIR/ours", "--output", "DIR/data/data.json"], "is a file, not a folder"),
    ],
)  # fmt: skip
def test_what_is_refused(figure, words, message, places, tmp_path, monkeypatch):
    folder, domain = places
    monkeypatch.chdir(tmp_path)
    output = [] if "--output" in words else ["--output", tmp_path / "out"]
    words = [word.replace("DIR", str(folder)) for word in words]
    said = error_of("reproduce", figure, *words, "--eval_data", domain, *output, "--device", "cpu")
    assert message.replace("DIR", str(folder)) in said and not list(tmp_path.iterdir())


@pytest.mark.parametrize("figure", ["figure4", "figure5"])
def test_other_classes(figure, places, tmp_path):
    folder, _ = places
    words = ["--models", folder / "ours", "--eval_data", "day=streets:day?n=2&size=32x64&version=2@test"]
    said = error_of("reproduce", figure, *words, "--output", tmp_path, "--device", "cpu")
    assert "the model ours does not suit the domain day: the classes of the data are not the model's; only in" in said
    assert not list(tmp_path.iterdir()), "nothing is drawn for it"
    assert "Leave one of them out; `vfmseg evaluate --class_map` can score the model alone" in said


def test_models_that_cannot_share_colours(places, tmp_path, tiny_model):
    folder, domain = places
    tiny_model(id2label={**CLASSES, 3: "kite"}).save_pretrained(tmp_path / "kite")
    VFMSegImageProcessor(size={"shortest_edge": 80}).save_pretrained(tmp_path / "kite")
    words = ["--models", folder / "ours", tmp_path / "kite", "--eval_data", domain, "--output", tmp_path / "out"]
    said = error_of("reproduce", "figure5", *words, "--device", "cpu")
    assert "the model kite does not suit the domain own" in said and "only in the model: kite" in said


def test_without_matplotlib(places, tmp_path, monkeypatch):
    folder, domain = places
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    words = ["--models", folder / "ours", "--eval_data", domain, "--output", tmp_path / "out", "--device", "cpu"]
    assert "pip install 'vfmseg-hf[train]'" in error_of("reproduce", "figure4", *words)
    assert not (tmp_path / "out").exists()
    assert error_of("reproduce", "figure5", *words, "--images", 1) is None, "which needs none"


def test_help(capsys):
    for figure in ("figure4", "figure5"):
        assert commands.call("reproduce", figure, "--help") == 0
        assert capsys.readouterr().out.startswith(f"usage: vfmseg reproduce {figure} [options]")
