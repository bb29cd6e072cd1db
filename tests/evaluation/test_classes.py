# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Classes by name: those of datasets against those of a model, in scores, training, checkpoints and the check."""

import json
import re

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, load_from_disk
from huggingface_hub import hf_hub_download
from PIL import Image as Pillow
from torch.utils.data import ConcatDataset, Subset
from transformers.utils.logging import warning_once

from tests.support.blocks import rows
from tests.support.commands import call, error_of
from tests.support.numbers import lively
from vfmseg_hf import VFMSegForSemanticSegmentation, VFMSegImageProcessor, lora_config
from vfmseg_hf.data import EvaluationGroups, classes_of, describe_dataset, match_classes, open_dataset, tables
from vfmseg_hf.data.class_names import read_class_map, read_class_maps, read_id2label
from vfmseg_hf.data.domains import Domain, name_classes, parse_domain
from vfmseg_hf.evaluation import confusion_matrix, evaluate_domain, iou_scores
from vfmseg_hf.model.labels import CITYSCAPES_ID2LABEL
from vfmseg_hf.training import (
    Augmentation,
    EvaluationImages,
    TrainingImages,
    VFMSegTrainer,
    VFMSegTrainingArguments,
)
from vfmseg_hf.training.model import change_classes, start_model


ABC = {0: "road", 1: "Traffic light", 2: "person"}
CAB = {0: "person", 1: "road", 2: "traffic_light"}  # the same in another order and spelling
OWN = {0: "floor", 1: "person", 2: "road", 3: "shelf", 4: "pallet"}


@pytest.fixture
def said(loading_log):
    """What was said so far, in one text."""
    warning_once.cache_clear()
    return lambda: " ".join(record.getMessage() for record in loading_log.records)


@torch.no_grad()
def varied(model, frames):
    """A model that predicts each of its classes somewhere: no class has larger logits than others on the whole."""
    processor = VFMSegImageProcessor(do_resize=False)
    images = processor([frame["image"] for frame in frames], return_tensors="pt")["pixel_values"]
    for head, refine in ((model.coarse_head, False), (model.refine_head, "all")):
        torch.nn.init.normal_(head.classifier.weight, std=3.0)
        head.classifier.bias -= model(images, refine=refine).logits.mean(dim=(0, 2, 3))
    return model


@pytest.fixture
def processor():
    return VFMSegImageProcessor(do_resize=False)


# ------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    "names, ids, words",
    [
        (["road", "Traffic light", "person"], [0, 1, 2], None),
        (["ROAD", "traffic__-light", " Person"], [0, 1, 2], None),
        (["person", "road", "traffic-light"], [2, 0, 1], "another order, ids are mapped: person 0 -> 2, road 1 -> 0"),
        (
            ["LABEL_0", "LABEL_1", "LABEL_2"],
            [0, 1, 2],
            "matched by number, as those of the dataset are called LABEL_0",
        ),
    ],
)
def test_the_same_names(names, ids, words):
    match = match_classes(ABC, dict(enumerate(names)))
    assert match.model_ids == tuple((index,) for index in ids)
    assert match.said is None if words is None else words in match.said
    assert match.label_table == (*ids, *[-1] * 252, 255)
    assert match.mapping == {name: ABC[index] for name, index in zip(names, ids, strict=True)}
    assert match_classes(ABC, dict(reversed(list(enumerate(names))))).model_ids == match.model_ids, "order of a dict"


@pytest.mark.parametrize(
    "model, data, words",
    [
        (ABC, {**ABC, 2: "rider"}, "only in the model: person; only in the data: rider.*--class_map FILE"),
        (ABC, {0: "road", 1: "person"}, r"only in the model: Traffic light. Say so, .* e.g. \{road: road\}"),
        (ABC, {**ABC, 3: "car"}, "only in the data: car. Say"),
        (ABC, {0: "LABEL_0", 1: "LABEL_1"}, "only in the data: LABEL_0, LABEL_1"),
        ({0: "LABEL_1", 1: "LABEL_0"}, {0: "a", 1: "b"}, "only in the model: LABEL_1, LABEL_0"),
        (ABC, {0: "road", 1: "Road", 2: "person"}, "'road' and 'Road' of the dataset have one name"),
        ({0: "road", 1: "traffic light", 2: "traffic_light"}, ABC, "'traffic light' and 'traffic_light' of the model"),
        (dict(enumerate(map(str, range(99)))), ABC, r"29 and 69 more; only in the data: road"),
    ],
)  # fmt: skip
def test_other_names_are_an_error(model, data, words):
    with pytest.raises(ValueError, match=words):
        match_classes(model, data)


def test_a_class_map_is_not_filled_up_by_numbers():
    with pytest.raises(ValueError, match="only in the data: b"):
        match_classes({0: "LABEL_0", 1: "LABEL_1"}, {0: "a", 1: "b"}, {"a": "LABEL_1"})
    with pytest.raises(ValueError, match="ignores every class"):
        match_classes({0: "x", 1: "y"}, {0: "a", 1: "b"}, {"a": None, "b": None})


def test_a_class_map():
    data = {0: "tree", 1: "PERSON", 2: "lorry", 3: "sky"}
    model = {0: "person", 1: "truck", 2: "vegetation", 3: "terrain", 4: "bus"}
    match = match_classes(model, data, {"Tree": ["vegetation", "Terrain"], "lorry": "truck", "sky": None})
    assert match.model_ids == ((2, 3), (0,), (1,), ())
    assert match.mapping == {"tree": ["vegetation", "terrain"], "PERSON": "person", "lorry": "truck", "sky": None}
    assert match.label_table[:5] == (2, 0, 1, 255, -1)
    assert match.said == (
        "by the class map tree is vegetation or terrain, lorry is truck; ignored: sky; classes of the model that are "
        "none of the data: bus"
    )
    for entries, words in (
        ({"lorry": "truck", "sky": None}, "only in the data: tree"),
        ({"tree": "vegetaton"}, "'vegetaton', which is no class of the model; it has person, truck"),
        ({"trees": "vegetation"}, "'trees', which is no class of the data; it has tree, PERSON"),
    ):
        with pytest.raises(ValueError, match=words):
            match_classes(model, data, entries)


def test_files_that_name_classes(tmp_path):
    def write(text, name="file.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    assert read_id2label("cityscapes") == CITYSCAPES_ID2LABEL
    assert (
        read_id2label(write("- a\n- b")) == read_id2label(write('{"1": "b", "0": "a"}', "f.json")) == {0: "a", 1: "b"}
    )
    for text in ("a: 0\nb: 1", "1: a\n2: b", "[]", "- yes", "a", "0: a\n1: [b]"):
        with pytest.raises(ValueError, match="file.yaml does not name classes"):
            read_id2label(write(text))
    assert read_class_map(write("a: b\nc: [d, e]\nf: null")) == {"a": "b", "c": ["d", "e"], "f": None}
    for text in ("", "{}", "- a", "a: 1", "yes: b", "a: []", "a: [null]"):
        with pytest.raises(ValueError, match="file.yaml is no class map"):
            read_class_map(write(text))
    with pytest.raises(ValueError, match="cannot be read as YAML: line 1"):
        read_class_map(write("a: [b"))
    with pytest.raises(FileNotFoundError, match="there is no file .*none.yaml"):
        read_class_map(tmp_path / "none.yaml")
    path = write("Road: way\ncar: null")
    maps = read_class_maps(path, {"first": {0: "road"}, "second": {0: "car"}, "third": {0: "bus"}})
    assert maps == {"first": {"Road": "way"}, "second": {"car": None}, "third": {}}
    with pytest.raises(ValueError, match="names 'car', which is no class of the data; first has road"):
        read_class_maps(path, {"first": {0: "road"}})


# ------------------------------------------------------------------------------------------------ datasets


@pytest.fixture
def table():
    """A dataset of two classes; `features` are of further columns, whose cells are all `value`."""

    def make(features=None, value=None, ids=(0, 1)):
        columns = {
            "image": [np.zeros((8, 8, 3), np.uint8)] * 2,
            "label": [np.resize(np.array(ids, np.uint8), (8, 8))] * 2,
            **{name: [value] * 2 for name in features or {}},
        }
        return Dataset.from_dict(columns, features=Features({"image": Image(), "label": Image(), **(features or {})}))

    return make


NAMES = ClassLabel(names=["ground", "thing"])


@pytest.mark.parametrize(
    "features, value",
    [({"classes": List(NAMES)}, [0, 1]), ({"categories": List(List(NAMES))}, [[1]]), ({"label_names": NAMES}, 0)],
)
def test_a_class_label_names_the_classes(features, value, table, tmp_path, said):
    table(features, value).save_to_disk(tmp_path / "data")
    dataset = open_dataset(str(tmp_path / "data"))
    assert classes_of(dataset) == {0: "ground", 1: "thing"} and dataset.column_names == ["image", "label", "file_name"]
    assert f"taken for the 2 classes of its column {next(iter(features))!r}" in said()
    assert describe_dataset(str(tmp_path / "data")).id2label is None, "never 19 by assumption"


def test_what_names_no_class_is_refused(table, tmp_path):
    """A `ClassLabel` of whole images is none of their label maps."""
    place = str(tmp_path / "data")
    table({"scene_category": NAMES}, 0).save_to_disk(place)
    with pytest.raises(ValueError, match=r"data does not say which classes .*data\?id2label=FILE .*--id2label FILE"):
        open_dataset(place)
    (tmp_path / "names.json").write_text('{"0": "a", "1": "b"}')
    assert classes_of(open_dataset(f"{place}?id2label={tmp_path}/names.json")) == {0: "a", 1: "b"}
    assert classes_of(open_dataset(f"{place}?id2label=cityscapes")) == CITYSCAPES_ID2LABEL
    for query in ("names=x", "id2label=", "id2label=a&id2label=b", "id2label=a&n=1"):
        with pytest.raises(ValueError, match=r"has no setting but \?id2label=FILE"):
            open_dataset(f"{place}?{query}")
    table({"classes": NAMES, "labels": ClassLabel(names=["x", "y"])}, 0).save_to_disk(tmp_path / "two")
    with pytest.raises(ValueError, match="the columns 'classes' and 'labels' of .* name different classes"):
        open_dataset(str(tmp_path / "two"))


def test_a_file_beside_the_data_names_the_classes(table, tmp_path, said, monkeypatch):
    table().save_to_disk(tmp_path / "data")
    (tmp_path / "data" / "id2label.json").write_text('{"0": "a", "1": "b"}')
    assert classes_of(open_dataset(str(tmp_path / "data"))) == {0: "a", 1: "b"} and "its file id2label.json" in said()
    asked = []

    def download(place, name, repo_type):
        asked.append((place, name, repo_type))
        return str(tmp_path / "data" / "id2label.json") if place == "user/data" else hf_hub_download(place, name)

    monkeypatch.setattr(tables, "hf_hub_download", download)
    monkeypatch.setattr(tables, "_open", lambda spec, split: table())
    assert classes_of(open_dataset("user/data")) == {0: "a", 1: "b"}
    assert asked == [("user/data", "id2label.json", "dataset")]
    with pytest.raises(ValueError, match=r"user/other does not say which classes"):
        open_dataset("user/other")


def test_stored_data_sets_know_their_classes_again(tmp_path):
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
        Pillow.new("L", (8, 8)).save(tmp_path / folder / "a.png")
    (tmp_path / "own.yaml").write_text("images: photos\nlabels: masks\nids: {floor: 0, shelf: 1}\n")
    own = open_dataset(f"folder:{tmp_path}/own.yaml")
    streets = open_dataset("streets:night?n=2&size=16x32")
    for name, dataset, expected in (
        ("own", own, {0: "floor", 1: "shelf"}),
        ("streets", streets, CITYSCAPES_ID2LABEL),
        ("mapped", own.map(lambda row: {"label": row["label"], "more": 1}), {0: "floor", 1: "shelf"}),
    ):
        assert classes_of(dataset) == expected
        dataset.save_to_disk(tmp_path / name)
        DatasetDict({"train": dataset}).save_to_disk(tmp_path / f"{name}-parts")
        (tmp_path / f"{name}-files").mkdir()
        dataset.to_parquet(tmp_path / f"{name}-files" / "data.parquet")
        for stored in (name, f"{name}-parts", f"{name}-files"):
            assert classes_of(open_dataset(str(tmp_path / stored))) == expected
        assert classes_of(load_from_disk(tmp_path / name).select([0]).shuffle()) == expected
        yaml = dataset.features._to_yaml_list()  # as a card on the Hub has it
        assert Features._from_yaml_list(yaml) == dataset.features


def test_names_from_the_command_line():
    domains = [
        Domain("a", "user/data", None),
        Domain("b", "camvid:/p", "val"),
        Domain("c", "x/y?id2label=own.json", None),
    ]
    assert name_classes(domains, None) == domains
    assert [domain.spec for domain in name_classes(domains, "names.yaml")] == [
        "user/data?id2label=names.yaml", "camvid:/p", "x/y?id2label=own.json",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="--id2label names.yaml names the classes of .* but camvid:/p has its own"):
        name_classes(domains[1:2], "names.yaml")
    assert parse_domain("user/data?id2label=/etc/names.json@val") == (
        "val",
        "user/data?id2label=/etc/names.json",
        "val",
    )
    assert parse_domain("user/data?id2label=/etc/names.json").name == "data"


def test_ids_beyond_the_classes_are_an_error(table, tmp_path, processor, tiny_model):
    table(ids=(0, 2)).save_to_disk(tmp_path / "data")
    (tmp_path / "names.yaml").write_text("[a, b]")
    dataset = open_dataset(f"{tmp_path}/data?id2label={tmp_path}/names.yaml")
    message = r"holds ids \[2\], which this dataset does not have; it has \[0, 1, 255\]"
    with pytest.raises(ValueError, match=message):
        TrainingImages(dataset, processor, Augmentation((32, 32)))[0]
    images = EvaluationImages(dataset, processor, class_map={"a": "road", "b": "person"})
    with pytest.raises(ValueError, match=message):  # a model with a class 2 would take it in silence
        evaluate_domain(tiny_model(id2label=ABC), images, "x")


# ------------------------------------------------------------------------------------------------ scores


def in_order_of(frames: list[dict], own: dict[int, str], other: dict[int, str]) -> list[dict]:
    """The same frames, their label maps in the ids of `other`."""
    ids = {name.lower().replace("_", " "): index for index, name in other.items()}
    table = np.full(256, 255, np.uint8)
    table[list(own)] = [ids[name.lower().replace("_", " ")] for name in own.values()]
    return [{**frame, "label": Pillow.fromarray(table[np.array(frame["label"])])} for frame in frames]


def test_classes_in_another_order_score_the_same(tiny_model, processor, said):
    frames = rows(4, classes=3)
    model = varied(tiny_model(id2label=ABC), frames)
    expected = evaluate_domain(model, EvaluationImages(frames, processor, id2label=ABC), "own")
    assert not said()
    images = EvaluationImages(in_order_of(frames, ABC, CAB), processor, id2label=CAB)
    actual = evaluate_domain(model, images, "own")
    assert (
        actual.classes == tuple(CAB.values()) and "own: the classes have the model's names in another order" in said()
    )
    for stage, scores in expected.scores.items():
        assert len(set(np.round(scores["per_category_iou"], 6))) == 3
        assert np.array_equal(actual.scores[stage]["per_category_iou"], scores["per_category_iou"][[2, 0, 1]])
        assert actual.scores[stage]["mean_iou"] == scores["mean_iou"]
    matched = images.for_model(ABC, "own")
    assert torch.equal(matched[1]["labels"], EvaluationImages(frames, processor)[1]["labels"])
    twice = matched.for_model(ABC, "own")
    assert torch.equal(twice[1]["labels"], matched[1]["labels"]) and twice.evaluation == matched.evaluation
    assert torch.equal(matched.for_model(CAB, "own")[1]["labels"], images[1]["labels"])
    with pytest.raises(ValueError, match="own: the classes of the data are not the model's; only in the model: shelf"):
        evaluate_domain(tiny_model(id2label={0: "road", 1: "person", 2: "shelf"}), images, "own")
    with pytest.raises(ValueError, match="the rule for scores is for 19 classes, but the labels have 3"):
        EvaluationImages(frames, processor, describe_dataset("camvid").evaluation, id2label=ABC)
    with pytest.raises(ValueError, match="a class map needs the names"):
        EvaluationImages(frames, processor, class_map={"a": "b"})


def test_nothing_known_takes_the_models_names(tiny_model, processor):
    domain = evaluate_domain(tiny_model(id2label=ABC), EvaluationImages(rows(1, classes=3), processor), "own")
    assert domain.classes == tuple(ABC.values())


def test_groups_of_a_dataset_follow_the_models_order(tiny_model, processor):
    """camvid's rule, for a model with Cityscapes' classes in another order."""
    rule = describe_dataset("camvid").evaluation
    frames = [{**frame, "label": np.where(np.isin(frame["label"], (16, 17)), 255, frame["label"])} for frame in rows(3)]
    frames = [{**frame, "label": Pillow.fromarray(frame["label"].astype(np.uint8))} for frame in frames]
    images = EvaluationImages(frames, processor, rule, id2label=CITYSCAPES_ID2LABEL)
    model = lively(tiny_model())
    expected = evaluate_domain(model, images, "camvid")
    order = np.random.default_rng(3).permutation(19)
    change_classes(model, {index: CITYSCAPES_ID2LABEL[old] for index, old in enumerate(order)})
    actual = evaluate_domain(model, images, "camvid")
    assert actual.classes == expected.classes == rule.names
    for stage, scores in expected.scores.items():
        np.testing.assert_allclose(actual.scores[stage]["per_category_iou"], scores["per_category_iou"], atol=2e-3)


def test_a_class_map_scores_groups(tiny_model, processor):
    """Against counts per pixel: two model classes for one, one for two, an ignored class, one of the model alone."""
    names = {0: "sky", 1: "car", 2: "truck", 3: "plant"}
    frames = rows(3, classes=4)
    model = varied(tiny_model(id2label={0: "vehicle", 1: "tree", 2: "bush", 3: "wall"}), frames)
    class_map = {"car": "vehicle", "truck": "vehicle", "plant": ["tree", "bush"], "sky": None}
    domain = evaluate_domain(model, EvaluationImages(frames, processor, id2label=names, class_map=class_map), "x")
    assert domain.classes == ("sky", "car + truck", "plant")
    truth_of, predicted_as = np.array([255, 1, 1, 2]), np.array([1, 2, 2, 3])  # wall (3) is of no class
    count = 0
    for frame in frames:
        truth = truth_of[np.array(frame["label"])]
        predicted = model.segment(processor(frame["image"], return_tensors="pt")["pixel_values"], [truth.shape])[0]
        count = count + confusion_matrix(predicted_as[predicted.labels.numpy()], truth, 3, 255, num_predicted=4)
    expected = iou_scores(count)
    assert np.isnan(expected["per_category_iou"][0]) and (count.sum(axis=0)[1:] > 0).all(), "all are predicted"
    np.testing.assert_array_equal(domain.scores["final"]["per_category_iou"], expected["per_category_iou"])


def test_groups_that_share_a_class_are_one():
    rule = EvaluationGroups(("a", "b", "c", "d"), (0, 1, 2, 3, 4))
    merged = rule.for_model(((0,), (1, 2), (2, 3), (4,), (5,)), 6)
    assert merged.names == ("a", "b + c", "d") and merged.groups == (0, 1, 1, 1, 2, 3)


# ------------------------------------------------------------------------------------------------ training


def make_trainer(model, tmp_path, processor, train=None, evaluation=None):
    arguments = VFMSegTrainingArguments(
        str(tmp_path / "run"), max_steps=1, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no"
    )
    return VFMSegTrainer(model, arguments, train_dataset=train, eval_dataset=evaluation, processing_class=processor)


def test_the_trainer_compares_classes(tiny_model, tmp_path, processor, said):
    frames = rows(3, classes=3)
    permuted = in_order_of(frames, ABC, CAB)
    pixels = np.array([[np.sum(np.array(frame["label"]) == index) for index in range(3)] for frame in frames])
    of_own = np.array([[np.sum(np.array(frame["label"]) == index) for index in range(3)] for frame in permuted])
    crops = TrainingImages(permuted, processor, Augmentation((64, 64)), 1, of_own, id2label=CAB)
    scored = {"own": EvaluationImages(permuted, processor, id2label=CAB)}
    model = lively(tiny_model(id2label=ABC))
    trainer = make_trainer(model, tmp_path, processor, crops, scored)
    assert "the training set: the classes have" in said() and "own: the classes have" in said()
    expected = TrainingImages(frames, processor, Augmentation((64, 64)), 1)
    for key in ((0, 0), (0, 2), (3, 1, 2, 100.0)):  # the last one is drawn for a class, which is the model's
        actual, wanted = trainer.train_dataset[key], expected[key]
        assert all(torch.equal(actual[name], wanted[name]) for name in ("labels", "pixel_values"))
    assert np.array_equal(trainer.train_dataset.class_pixels, pixels)
    plain = make_trainer(model, tmp_path, processor, None, EvaluationImages(frames, processor)).evaluate()
    assert trainer.evaluate()["eval_own_mean_iou"] == plain["eval_mean_iou"]
    assert (
        trainer.evaluate(EvaluationImages(permuted, processor, id2label=CAB))["eval_mean_iou"] == plain["eval_mean_iou"]
    )
    other = tiny_model(id2label={0: "road", 1: "person", 2: "shelf"})
    words = "the classes of the data are not the model's; only in the model: shelf; only in the data: traffic_light"
    with pytest.raises(ValueError, match=f"the training set: {words}"):
        make_trainer(other, tmp_path, processor, crops)
    with pytest.raises(ValueError, match=f"own: {words}"):
        make_trainer(other, tmp_path, processor, None, scored)
    with pytest.raises(ValueError, match=f"the evaluation set: {words}"):
        make_trainer(other, tmp_path, processor).evaluate(scored["own"])
    with pytest.raises(ValueError, match=f"the test set: {words}"):
        make_trainer(other, tmp_path, processor).predict(scored["own"])


@pytest.mark.parametrize("kind", ["some", "joined"])
def test_images_inside_a_data_set_of_torch_are_refused(kind, tiny_model, tmp_path, processor):
    """Their classes could not be compared: the same ones in another order would score 0 without a word."""
    images = EvaluationImages(rows(2, classes=3), processor, id2label=CAB)
    wrapped = Subset(images, [0]) if kind == "some" else ConcatDataset([images])
    with pytest.raises(ValueError, match=f"torch's {type(wrapped).__name__} hides the classes"):
        make_trainer(tiny_model(id2label=ABC), tmp_path, processor, evaluation=wrapped)


def test_a_class_map_that_leaves_one_class_does_not_train(tiny_model, tmp_path, processor):
    frames = rows(2, classes=3)
    images = TrainingImages(
        frames, processor, Augmentation((64, 64)), id2label=ABC, class_map=dict.fromkeys(ABC.values(), "x")
    )
    trainer = make_trainer(tiny_model(id2label={0: "x"}), tmp_path, processor, train=images)
    with pytest.raises(ValueError, match="a single class"):
        trainer.train()


def test_lists_of_classes_are_for_scores_that_are_counted(tiny_model, tmp_path, processor):
    images = EvaluationImages(rows(2, classes=1), processor, id2label={0: "thing"}, class_map={"thing": ["x", "y"]})
    trainer = make_trainer(tiny_model(id2label={0: "x", 1: "y"}), tmp_path, processor, evaluation=images)
    assert trainer.evaluate()["eval_mean_iou"] == 1
    with pytest.raises(ValueError, match="thing each stands for several classes of the model"):
        trainer.predict(images)


def test_a_run_goes_on_with_its_own_classes_only(tiny_model, tmp_path, processor):
    def trained(classes: dict[int, str], resume: bool):
        images = TrainingImages(rows(2, classes=3), processor, Augmentation((64, 64)), id2label=classes)
        trainer = make_trainer(tiny_model(id2label=classes), tmp_path, processor, train=images)
        trainer.args.save_strategy, trainer.args.max_steps = "steps", 1 + resume
        trainer.args.save_steps = 1
        trainer.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-1") if resume else None)

    trained(ABC, False)
    with pytest.raises(ValueError, match="was trained on the classes road, Traffic light, person, this run has person"):
        trained(CAB, True)
    trained({0: "Road", 1: "traffic_light", 2: "person"}, True)


def test_weights_of_classes_go_along(tiny_model, tmp_path, said):
    """In the loss as in the heads; with other classes they are dropped, which is said."""
    tiny_model(id2label=ABC, class_weights=[1.0, 10.0, 100.0]).save_pretrained(tmp_path)
    assert start_model(str(tmp_path), id2label=CAB).config.class_weights == [100.0, 1.0, 10.0]
    assert start_model(str(tmp_path), id2label=OWN).config.class_weights is None and "are dropped" in said()


def test_what_a_trainer_has_saved_loads_without_a_word(tiny_model, tmp_path, processor, said):
    images = TrainingImages(rows(2, classes=3), processor, Augmentation((64, 64)), id2label=ABC)
    trainer = make_trainer(tiny_model(id2label=ABC), tmp_path, processor, train=images)
    trainer.train()
    trainer.save_model(str(tmp_path / "m"))
    VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "m")
    assert "does not know" not in said()


def test_training_with_a_class_map(tiny_model, tmp_path, processor):
    model = tiny_model(id2label=ABC)
    frames = rows(2, classes=4)
    names = {0: "walker", 1: "way", 2: "lorry", 3: "path"}
    class_map = {"walker": "person", "way": "road", "path": "road", "lorry": None}
    pixels = np.arange(8).reshape(2, 4)
    crops = TrainingImages(frames, processor, Augmentation((64, 64)), 0, pixels, names, class_map)
    matched = make_trainer(model, tmp_path, processor, crops).train_dataset
    assert matched.class_pixels.tolist() == [[1 + 3, 0, 0], [5 + 7, 0, 4]]
    for key in ((0, 0), (0, 1)):
        whole = Augmentation((64, 64), cat_max_ratio=1.0)
        labels = TrainingImages(frames, processor, whole)[key]["labels"]
        mapped = TrainingImages(frames, processor, whole, 0, None, names, class_map).for_model(ABC, "x")
        assert torch.equal(mapped[key]["labels"], torch.tensor([2, 0, 255, 0])[labels])
    crops.class_map = {**class_map, "way": ["road", "Traffic light"]}
    with pytest.raises(ValueError, match="one class only, but way is road or Traffic light"):
        make_trainer(model, tmp_path, processor, crops)


# ------------------------------------------------------------------------------------------------ checkpoints

CLASSED = {"coarse_head.classifier": 0, "refine_head.classifier": 0, "refine_head.mask_embedding.conv1": 1}


@pytest.fixture(params=["whole", "adapter"])
def checkpoint(request, tiny_model, tmp_path):
    """A saved model of three classes, and its heads and LoRA by plain names; no value is one of an initialisation."""
    model = lively(tiny_model(id2label=ABC), 7.0)
    for parameter in model.parameters():
        parameter.data.add_(0.01 * torch.randn_like(parameter))
    if request.param == "adapter":
        model.save_pretrained(tmp_path / "base")
        model = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "base")
        model.add_adapter(lora_config(model.config, r=2))
        for name, parameter in model.named_parameters():
            if ".lora_B." in name or ".modules_to_save." in name:
                parameter.data.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "first")
    return tmp_path / "first", model


def plain(model) -> dict[str, torch.Tensor]:
    return {
        key.replace(".modules_to_save.default", ""): value
        for key, value in model.state_dict().items()
        if ".original_module." not in key
    }


def test_rows_of_equal_names_are_kept(checkpoint, said, tmp_path):
    place, before = checkpoint
    model = start_model(str(place), id2label=OWN)
    assert "kept 2 of its 3 classes: person, road; new: floor, shelf, pallet" in said()
    assert model.config.id2label == OWN and model.config.label2id["pallet"] == 4 and model.num_labels == 5
    old, new = plain(before), plain(model)
    for key, value in old.items():
        module, _, kind = key.rpartition(".")
        axis = CLASSED.get(module)
        if axis is None or (axis == 1 and kind == "bias"):
            assert torch.equal(new[key], value), key
            continue
        kept = new[key].index_select(axis, torch.tensor([1, 2]))
        assert torch.equal(kept, value.index_select(axis, torch.tensor([2, 0]))), key
        fresh = new[key].index_select(axis, torch.tensor([0, 3, 4]))
        if module.endswith("classifier"):  # as published: N(0, 0.01), zero bias
            assert fresh.abs().max() < 0.06 and (kind == "bias") == (not fresh.any())
        else:  # torch's own: uniform within 1 / sqrt(fan in)
            assert 0 < fresh.abs().max() <= 1 / np.sqrt(5 * 4)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        a, b = (each.eval()(images, refine=False).coarse_logits for each in (before, model))
    assert torch.equal(b[:, [1, 2]], a[:, [2, 0]])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("coarse_head" in name and "classifier.weight" in name for name in trained)
    assert not any(".original_module." in name for name in trained)
    model.save_pretrained(tmp_path / "again")
    again = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "again").eval()
    with torch.no_grad():
        assert again.config.id2label == OWN and torch.equal(again(images).logits, model(images).logits)
    model.train()(images, labels=torch.zeros(1, 64, 96, dtype=torch.long)).loss.backward()


def test_the_same_names_in_another_order_are_permuted(checkpoint, said):
    place, before = checkpoint
    model = start_model(str(place), id2label=CAB)
    assert "its classes were put into the order of the training set: person, road, traffic_light" in said()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        a, b = (each.eval()(images, refine="all") for each in (before, model))
    assert torch.equal(b.coarse_logits, a.coarse_logits[:, [2, 0, 1]])
    torch.testing.assert_close(b.logits, a.logits[:, [2, 0, 1]], atol=1e-5, rtol=1e-5)


def test_the_same_classes_and_numbers(checkpoint, said):
    place, before = checkpoint
    same = start_model(str(place), id2label={0: "road", 1: "traffic_light", 2: "Person"})
    assert not said() and same.config.id2label[1] == "traffic_light"
    numbered = start_model(str(place), id2label={index: f"LABEL_{index}" for index in range(3)})
    assert "its 3 classes are kept by number" in said() and numbered.config.id2label == ABC
    for model in (same, numbered):
        assert all(torch.equal(value, plain(before)[key]) for key, value in plain(model).items())
    nothing = start_model(str(place), id2label={0: "shelf", 1: "pallet", 2: "floor"})
    assert "kept 0 of its 3 classes: none; new: shelf, pallet, floor" in said()
    assert nothing.coarse_head.classifier.weight.abs().max() < 0.06, "equal in number, but others"


# ------------------------------------------------------------------------------------------------ commands


def own_dataset(folder, classes: dict[int, str], name: str = "dataset.yaml", count: int = 3) -> str:
    """Frames of blocks whose ids are those of `classes`; returns the spec."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for frame in rows(count, sizes=((64, 96),), classes=len(classes)):
        frame["image"].save(folder / "images" / f"{frame['file_name']}.png")
        frame["label"].save(folder / "labels" / f"{frame['file_name']}.png")
    entries = {label: index for index, label in classes.items()}
    (folder / name).write_text(json.dumps({"images": "images", "labels": "labels", "ids": entries}))
    return f"folder:{folder / name}"


@pytest.fixture
def saved_model(tiny_model, tmp_path):
    lively(tiny_model(id2label=ABC)).save_pretrained(tmp_path / "model")
    VFMSegImageProcessor(do_resize=False).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_evaluate(saved_model, tmp_path, monkeypatch, capsys, table):
    """The files list the same ids in another order: c.yaml's order is the model's, d.yaml's is not."""
    same = own_dataset(tmp_path / "data", ABC)
    entries = json.loads((tmp_path / "data" / "dataset.yaml").read_text())
    entries["ids"] = {name: entries["ids"][name] for name in ("person", "road", "Traffic light")}
    (tmp_path / "data" / "other.yaml").write_text(json.dumps(entries))
    words = ["--model", saved_model, "--output", tmp_path / "scores.json", "--device", "cpu", "--data"]
    other = f"folder:{tmp_path / 'data' / 'other.yaml'}"
    assert error_of("evaluate", *words, f"a={same}", f"b={other}") is None
    domains = json.loads((tmp_path / "scores.json").read_text())["domains"]
    for stage in ("coarse", "final"):
        assert domains["a"][stage] == domains["b"][stage] and domains["a"][stage]["mean_iou"] > 0
        assert list(domains["b"][stage]["iou"]) == ["person", "road", "Traffic light"]
    assert domains["a"]["class_mapping"] is None
    assert domains["b"]["class_mapping"]["classes"] == {name: name for name in ABC.values()}
    assert "person 0 -> 2" in domains["b"]["class_mapping"]["said"]

    capsys.readouterr()
    strange = own_dataset(tmp_path / "strange", {0: "way", 1: "person", 2: "sky"})
    status = error_of("evaluate", *words, f"a={same}", f"b={strange}")
    assert status.startswith("error: b: the classes of the data are not the model's; only in the model: road")
    assert "IoU" not in capsys.readouterr().out, "before the first image of any domain"
    (tmp_path / "map.yaml").write_text("way: [road, Traffic light]\nsky: null\n")
    mapped = ["--class_map", tmp_path / "map.yaml"]
    assert error_of("evaluate", *words, f"a={same}", f"b={strange}", *mapped) is None
    domain = json.loads((tmp_path / "scores.json").read_text())["domains"]["b"]
    assert domain["class_mapping"]["classes"] == {"way": ["road", "Traffic light"], "person": "person", "sky": None}
    assert list(domain["final"]["iou"]) == ["way", "person", "sky"] and domain["final"]["iou"]["sky"] is None
    assert "names 'way', which is no class of the data" in error_of("evaluate", *words, same, *mapped)

    table(ids=(0, 1, 2)).save_to_disk(tmp_path / "table")
    assert "does not say which classes" in error_of("evaluate", *words, tmp_path / "table")
    (tmp_path / "names.json").write_text(json.dumps(ABC))
    named = ["--id2label", tmp_path / "names.json"]
    assert "has its own" in error_of("evaluate", *words, same, *named)


def test_check(saved_model, tmp_path, monkeypatch, capsys):
    def check(spec, *words):
        status = call("check", spec, "--model", saved_model, "--num_proc", 1, *words)
        return status, " ".join(capsys.readouterr().out.split())

    status, out = check(own_dataset(tmp_path / "same", ABC))
    assert status == 0 and "classes and model: the same names in the same order" in out
    status, out = check(own_dataset(tmp_path / "order", CAB))
    assert status == 0 and "another order, ids are mapped: person 0 -> 2" in out and out.endswith("clean: all")
    strange = own_dataset(tmp_path / "strange", {0: "way", 1: "person", 2: "sky"})
    status, out = check(strange, "--json", tmp_path / "report.json")
    assert status == 1 and "only in the model: road, Traffic light; only in the data: way, sky" in out
    assert out.endswith("problems: all none, classes 1")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["clean"] is False and "only in the data: way, sky" in report["problems"][0]
    (tmp_path / "map.yaml").write_text("{way: road, sky: null}")
    status, out = check(strange, "--class_map", tmp_path / "map.yaml")
    assert status == 0 and "way is road; ignored: sky" in out
    assert "--model is missing" in error_of("check", strange, "--class_map", tmp_path / "map.yaml")


TRAIN = [
    *("--use_cpu", "--tune", "full", "--crop_size", 64, 64, "--size", 64, 96, "--logging_steps", 1, "--max_steps", 1),
    *("--disable_tqdm", "true", "--report_to", "none", "--rare_class_sampling", "false", "--save_strategy", "no"),
]


def test_train_from_a_checkpoint(saved_model, tmp_path, monkeypatch, said):
    """Own classes give new heads; a class map for the training set keeps the checkpoint's classes."""
    spec = own_dataset(tmp_path / "own", OWN)
    words = ["--model", saved_model, "--train", spec, *TRAIN]
    assert error_of("train", *words, "--output_dir", tmp_path / "new", "--domains", f"own={spec}") is None
    assert "kept 2 of its 3 classes" in said()
    assert json.loads((tmp_path / "new" / "config.json").read_text())["id2label"] == {str(i): n for i, n in OWN.items()}
    assert "eval_own_mean_iou" in (tmp_path / "new" / "eval_results.json").read_text()

    other = own_dataset(tmp_path / "other", ABC)
    run = ["--output_dir", tmp_path / "none", "--domains", f"other={other}"]
    status = error_of("train", *words, *run)
    assert status.startswith("error: other: the classes of the data are not the model's; only in the model: floor")
    (tmp_path / "map.yaml").write_text("{floor: road, shelf: null, pallet: null}")
    run = ["--output_dir", tmp_path / "kept", "--class_map", tmp_path / "map.yaml"]
    assert error_of("train", *words, *run, "--domains", f"other={other}") is None
    assert "the training set: by the class map floor is road; ignored: shelf, pallet" in said()
    kept = json.loads((tmp_path / "kept" / "config.json").read_text())["id2label"]
    assert kept == {str(index): name for index, name in ABC.items()}


def test_train_on_a_stored_data_set(tiny_config, tmp_path, monkeypatch):
    """It has its own two classes, not Cityscapes' 19."""
    tiny_config().to_json_file(tmp_path / "tiny.json")
    frames = rows(3, sizes=((64, 96),), classes=2)
    features = Features({"image": Image(), "label": Image()})
    Dataset.from_list([{k: f[k] for k in features} for f in frames], features=features).save_to_disk(tmp_path / "two")
    words = ["--model", tmp_path / "tiny.json", "--train", tmp_path / "two", *TRAIN, "--output_dir", tmp_path / "run"]
    assert re.match("error: .*two does not say which classes", error_of("train", *words))
    (tmp_path / "names.yaml").write_text("[background, object]")
    assert error_of("train", *words, "--id2label", tmp_path / "names.yaml") is None
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["id2label"] == {"0": "background", "1": "object"}
