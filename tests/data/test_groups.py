# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""`groups:` in the file of a dataset: models with more classes are scored on the classes that the file tells apart."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.commands import call, error_of
from tests.support.numbers import lively
from vfmseg_hf import VFMSegForSemanticSegmentation, VFMSegImageProcessor
from vfmseg_hf.data import describe_dataset, match_classes, open_dataset
from vfmseg_hf.data.domains import Domain
from vfmseg_hf.evaluation import evaluate_domain
from vfmseg_hf.model.labels import CITYSCAPES_ID2LABEL
from vfmseg_hf.training import EvaluationImages
from vfmseg_hf.training.ablation import prior_scores


IDS = {"way": 7, "building": [11, 12], "nature": 21, "drone": 30}
GROUPS = {"way": ["road", "sidewalk"], "building": ["building", "wall"], "Nature": "vegetation", "drone": None}
SCORED = {"way": {0, 1}, "building": {2, 3}, "nature": {8}}  # train ids of Cityscapes


@pytest.fixture
def write(tmp_path):
    """Writes label maps of the values of `IDS`, 0 among them, and the file `name` that explains them; its spec."""

    def make(name: str = "dataset.json", **plan) -> str:
        generator = np.random.default_rng(5)
        for kind in ("photos", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
        for number in range(2):
            pixels = generator.integers(0, 256, (64, 96, 3), np.uint8)
            values = generator.choice([7, 11, 12, 21, 30, 0], (8, 12)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
            Image.fromarray(values.repeat(8, 0).repeat(8, 1)).save(tmp_path / "masks" / f"{number}.png")
        content = {"images": "photos", "labels": "masks", "ids": IDS, "ignore": 0, **plan}
        (tmp_path / name).write_text(json.dumps(content))
        return f"folder:{tmp_path / name}"

    return make


@pytest.fixture
def processor():
    return VFMSegImageProcessor(do_resize=False)


def varied(model):
    """A model of 19 classes that predicts most of them somewhere."""
    for head in (model.coarse_head, model.refine_head):
        torch.nn.init.normal_(head.classifier.weight, std=3.0)
    return model


def counted_by_hand(model, processor, tmp_path, stage: str) -> dict[str, float]:
    """IoU of each group, pixel by pixel, from the values in the files and what the model predicts."""
    of_value = {value: name for name, values in IDS.items() for value in np.atleast_1d(values).tolist()}
    hits, unions = dict.fromkeys(SCORED, 0), dict.fromkeys(SCORED, 0)
    for number in range(2):
        image = Image.open(tmp_path / "photos" / f"{number}.png")
        values = np.asarray(Image.open(tmp_path / "masks" / f"{number}.png"))
        with torch.no_grad():
            outputs = model(processor(image, return_tensors="pt")["pixel_values"], refine=stage == "final")
        predicted = outputs.logits[0].argmax(0).numpy()
        for value, prediction in zip(values.ravel().tolist(), predicted.ravel().tolist(), strict=True):
            label = of_value.get(value)
            if label not in SCORED:  # ignored, and the drone
                continue
            guess = next((name for name, ids in SCORED.items() if prediction in ids), None)
            for name in SCORED:
                hits[name] += name == label == guess
                unions[name] += name in (label, guess)
    return {name: hits[name] / unions[name] for name in SCORED}


def test_scores_are_those_counted_by_hand(write, tmp_path, tiny_model, processor):
    spec = write(groups=GROUPS)
    info = describe_dataset(spec)
    assert info.id2label == dict(enumerate(IDS))
    assert info.evaluation.class_map == {"nature": "vegetation", **{k: v for k, v in GROUPS.items() if k != "Nature"}}
    model = varied(tiny_model())
    domain = evaluate_domain(model, EvaluationImages(open_dataset(spec), processor, info.evaluation), "own")
    assert domain.classes == ("way", "building", "nature", "drone")
    for stage in ("coarse", "final"):
        ious = dict(zip(domain.classes, domain.scores[stage]["per_category_iou"], strict=True))
        assert np.isnan(ious.pop("drone"))
        expected = counted_by_hand(model, processor, tmp_path, stage)
        assert ious == pytest.approx(expected, abs=1e-12)
        assert domain.scores[stage]["mean_iou"] == pytest.approx(np.mean(list(expected.values())), abs=1e-12)
    assert sum(value > 0 for value in expected.values()) > 1


def test_labels_with_ids_of_cityscapes(write, tmp_path, tiny_model, processor):
    """As `camvid` has it: labels of 19 classes to learn from, scored by fewer."""
    ids = {"road": 7, "building": [11, 12], "vegetation": 21}
    groups = {"road": ["road", "sidewalk"], "building": ["building", "wall"]}
    spec = write(ids=ids, ignore=[0, 30], classes="cityscapes", groups=groups)
    info = describe_dataset(spec)
    assert info.id2label == CITYSCAPES_ID2LABEL and info.evaluation.names == ("road", "building", "vegetation")
    outside = {index: group for index, group in enumerate(info.evaluation.groups) if group < 3}
    assert outside == {0: 0, 1: 0, 2: 1, 3: 1, 8: 2}
    model = varied(tiny_model())
    domain = evaluate_domain(model, EvaluationImages(open_dataset(spec), processor, info.evaluation), "own")
    expected = counted_by_hand(model, processor, tmp_path, "final")
    assert domain.scores["final"]["per_category_iou"] == pytest.approx(list(expected.values()), abs=1e-12)


def test_models_with_the_files_own_classes_have_no_groups(write, tiny_model, processor):
    own = dict(enumerate(IDS))
    spec, plain = write(groups=GROUPS), write("plain.json")
    model = varied(tiny_model(id2label={3 - index: name for index, name in own.items()}))
    scores = [
        evaluate_domain(
            model, EvaluationImages(open_dataset(each), processor, describe_dataset(each).evaluation), "own"
        )
        for each in (spec, plain)
    ]
    assert scores[0].classes == scores[1].classes
    for stage in ("coarse", "final"):
        for key, value in scores[0].scores[stage].items():
            np.testing.assert_array_equal(value, scores[1].scores[stage][key])


def test_a_class_map_goes_before_groups():
    data, model = {0: "way", 1: "sky"}, {0: "road", 1: "sidewalk", 2: "sky", 3: "car"}
    match = match_classes(model, data, groups={"way": ["road", "sidewalk"]})
    assert match.model_ids == ((0, 1), (2,))
    assert match.said == (
        "by the dataset's groups way is road or sidewalk; classes of the model that are none of the data: car"
    )
    match = match_classes(model, data, {"Way": "road", "sky": "sky"}, {"way": ["nowhere"]})
    assert match.model_ids == ((0,), (2,))
    match = match_classes(model, data, {"sky": None}, {"way": "road"})
    assert match.model_ids == ((0,), ()) and "by the class map and the dataset's groups way is road" in match.said
    with pytest.raises(ValueError, match="'rode' counts as way, but it is no class of the model, which has road, side"):
        match_classes(model, data, groups={"way": ["sidewalk", "rode"]})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"groups": []}, r"`groups` maps classes of the file to lists of classes of a model, got \[\]"),
        ({"groups": {}}, "`groups` maps classes"),
        ({"groups": {"way": []}}, "the group way is empty; null says that models have nothing of it"),
        ({"groups": {"water": ["road"]}}, "'water' is no class of the file, whose labels hold way, building, nature"),
        ({"groups": {"way": ["road"], "WAY": ["sidewalk"]}}, "lists the group way twice"),
        ({"groups": {"way": [0, 1]}}, "names of classes of a model, got 0; as a train id of Cityscapes that is road"),
        ({"groups": {"way": ["road"], "nature": ["Road"]}}, "'Road' counts as way and as nature; a class belongs to"),
        ({"groups": {"way": ["road", "building"]}}, "'building' counts as way and as building"),
        (
            {"groups": {"road": ["road", "rode"]}, "classes": "cityscapes", "ids": {"road": 7}},
            "'rode' in the group road is no class of Cityscapes",
        ),
        (
            {"groups": {"road": ["sidewalk"]}, "classes": "cityscapes", "ids": {"road": 7}},
            r"the group road has to name it as well: \[road, sidewalk\]",
        ),
        (
            {"groups": {"road": None}, "classes": "cityscapes", "ids": {"road": 7}},
            r"the group road has to name it as well: \[road\]",
        ),
    ],
)
def test_mistakes(write, change, message):
    with pytest.raises(ValueError, match=f"dataset.json.*{message}"):
        describe_dataset(write(**change))


def test_commands(write, tmp_path, tiny_model, capsys):
    spec = write(groups=GROUPS)
    lively(tiny_model()).save_pretrained(tmp_path / "model")
    VFMSegImageProcessor(do_resize=False).save_pretrained(tmp_path / "model")
    words = ["--model", tmp_path / "model", "--output", tmp_path / "scores.json", "--device", "cpu", "--data", spec]
    assert error_of("evaluate", *words) is None
    (domain,) = json.loads((tmp_path / "scores.json").read_text())["domains"].values()
    assert domain["class_mapping"]["classes"] == {"nature": "vegetation", **{k: GROUPS[k] for k in IDS if k in GROUPS}}
    assert list(domain["final"]["iou"]) == list(IDS) and domain["final"]["iou"]["drone"] is None
    capsys.readouterr()

    assert call("check", spec, "--num_proc", 1) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "groups, in scores of models with other classes: way is road or sidewalk, building is" in out
    assert call("check", spec, "--num_proc", 1, "--model", tmp_path / "model") == 0
    assert "classes and model: by the dataset's groups way is road or sidewalk" in " ".join(
        capsys.readouterr().out.split()
    )
    strange = write("strange.json", groups={**GROUPS, "way": ["road", "path"]})
    assert call("check", strange, "--num_proc", 1, "--model", tmp_path / "model") == 1
    assert "'path' counts as way, but it is no class of the model" in capsys.readouterr().out
    assert "'path' counts as way" in error_of("evaluate", *words[:-1], strange)


def test_training(write, tmp_path, tiny_config):
    """On the file the model learns its classes; 19 classes are watched on it by its groups, beside a position prior."""
    spec = write(groups=GROUPS)
    tiny_config().to_json_file(tmp_path / "tiny.json")
    usual = ["--model", tmp_path / "tiny.json", "--tune", "full", "--max_steps", 1, "--device", "cpu"]
    usual += ["--crop_size", 64, "--rare_class_sampling", "false", "--report_to", "none", "--size", 64, "96"]
    streets = "streets:game?n=2&size=64x96"
    assert error_of("train", *usual, "--data", spec, "--eval_data", spec, "--output", tmp_path / "own") is None
    config = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "own").config
    assert list(config.id2label.values()) == list(IDS)
    assert error_of("train", *usual, "--data", streets, "--eval_data", spec, "--output", tmp_path / "streets") is None
    assert VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "streets").config.num_labels == 19
    scores = json.loads((tmp_path / "streets" / "eval_results.json").read_text())
    assert scores["eval_folder_num_classes"] <= 3, "the drone is ignored"
    prior = prior_scores(Domain("", streets, None), [Domain("own", spec, None)])
    assert 0 <= prior["own"] <= 1
