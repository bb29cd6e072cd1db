# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Several datasets in one training: which image is drawn how, classes by name, counts, records and the command."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.support.blocks import rows
from tests.support.commands import error_of
from vfmseg_hf import VFMSegForSemanticSegmentation, VFMSegImageProcessor
from vfmseg_hf.cli import train
from vfmseg_hf.training import (
    Augmentation,
    CropRequest,
    JoinedImages,
    RareClassSampler,
    TrainingImages,
    VFMSegTrainer,
    VFMSegTrainingArguments,
    get_recipe,
)
from vfmseg_hf.training.trained_on import TrainedOn, keys_of


ABC = {0: "road", 1: "sky", 2: "person"}
CAB = {0: "Person", 1: "road", 2: "sky"}


def images(frames, names=None, seed=3, counted=False, **more) -> TrainingImages:
    processor = VFMSegImageProcessor(do_resize=False)
    how = {key: more.pop(key) for key in ("resize", "flip_probability") if key in more}
    ids = np.array([np.bincount(np.asarray(frame["label"]).ravel(), minlength=256) for frame in frames])
    pixels = ids[:, : len(names)] if counted else None
    return TrainingImages(frames, processor, Augmentation(crop_size=(64, 64), **how), seed, pixels, names, **more)


def same(one, other) -> bool:
    return all(torch.equal(one[key], other[key]) for key in ("pixel_values", "labels"))


def test_one_after_the_other_as_if_they_were_one():
    """With one augmentation it is the training on all rows, whatever the boundaries."""
    frames = rows(7)
    whole, joined = images(frames), JoinedImages([images(frames[:2]), images(frames[2:3]), images(frames[3:])])
    assert len(joined) == 7 and len(joined.parts) == 3
    for request in (CropRequest(2, index, class_id=index, number=5) for index in range(7)):
        assert same(joined[request], whole[request]) and joined[request]["file_name"] == f"frame{request.index}"
    assert same(joined[4], whole[4]) and same(joined[1, 6], whole[1, 6])
    alone = JoinedImages([images(frames[:1])])
    assert same(alone[0], whole[0]) and np.array_equal(keys_of(alone), keys_of(images(frames[:1])))
    nested = JoinedImages([joined, images(frames[:1])])
    assert len(nested.parts) == 4 and len(nested) == 8 and nested[7]["file_name"] == "frame0"
    for index in (7, -1):
        with pytest.raises(IndexError, match=f"there are 7 images, got the index {index}"):
            joined[index]


def test_each_has_its_own_size_before_the_crop():
    frames = rows(2)
    joined = JoinedImages([images(frames), images(frames, resize=(160, 224))])
    assert same(joined[0, 1], images(frames)[0, 1])
    (expected,) = [images([*frames, *frames], resize=(160, 224))[0, 3]]
    assert same(joined[0, 3], expected) and not same(joined[0, 3], images([*frames, *frames])[0, 3])
    with pytest.raises(ValueError, match="augmented alike, but for the size before the crop"):
        JoinedImages([images(frames), images(frames, flip_probability=0.1)])
    with pytest.raises(ValueError, match="there are no images to join"):
        JoinedImages([])


def test_classes_are_compared_one_by_one():
    first, second = rows(2, classes=3), rows(2, seed=1, classes=3)
    joined = JoinedImages([images(first, ABC, counted=True), images(second, CAB, counted=True)])
    assert joined.class_pixels is None and joined.id2label is None, "the ids of the two mean different things"
    joined = joined.for_model(ABC, "the training set")
    assert joined.id2label == ABC and joined.unmatched is joined
    in_order = np.array([2, 0, 1], np.uint8)  # of CAB in ABC
    mapped = [{**frame, "label": Image.fromarray(in_order[np.asarray(frame["label"])])} for frame in second]
    whole = images([*first, *mapped], ABC, counted=True)
    assert all(same(joined[1, index], whole[1, index]) for index in range(4))
    assert np.array_equal(joined.class_pixels, whole.class_pixels)
    assert np.array_equal(joined.for_model(CAB, "x").class_pixels, whole.class_pixels[:, in_order])
    draws = list(RareClassSampler(joined.class_pixels, 0, min_pixels=10, crop_ratio=0))
    assert {draw.index for draw in draws} <= set(range(4)) and len(draws) == 4

    strange = images(second, {0: "road", 1: "sky", 2: "tree"})
    with pytest.raises(ValueError, match="the training set, a dataset without a name: the classes of the data are not"):
        JoinedImages([images(first, ABC), strange]).for_model(ABC, "the training set")
    mapped = images(second, {0: "road", 1: "sky", 2: "tree"}, class_map={"tree": None})
    joined = JoinedImages([images(first, ABC), mapped]).for_model(ABC, "the training set")
    assert set(np.unique(joined[3]["labels"])) <= {0, 1, 255}


def test_a_training_and_its_record(tiny_model, tmp_path):
    first, second = rows(3, classes=3), rows(2, seed=1, classes=3)
    joined = JoinedImages([images(first, ABC, counted=True), images(second, CAB, counted=True, resize=(96, 128))])
    settings = {"max_steps": 1, "use_cpu": True, "report_to": "none", "per_device_train_batch_size": 4}
    settings |= {"rare_class_sampling": True, "rare_class_min_pixels": 10, "rare_class_crop_ratio": 1.0}
    arguments = VFMSegTrainingArguments(str(tmp_path), save_strategy="no", **settings)
    trainer = VFMSegTrainer(tiny_model(id2label=ABC), arguments, train_dataset=joined)
    assert len(trainer._get_train_sampler()) == 5 and trainer.train_dataset.class_pixels.shape == (5, 3)
    trainer.train()
    record = json.loads(trainer.record())
    assert [source["images"] for source in record["data"]] == [3, 2] and record["trained_on"]["sources"] == record[
        "data"
    ]
    assert record["settings"]["augmentation"]["resize"] == [None, [96, 128]]
    assert "augmentation.resize [None, [96, 128]] instead of [None, None]" in record["differences"]["paper"]
    assert trainer.trained_on.overlap([second[0], *first])["images"] == 4
    of_all = TrainedOn.of(joined)
    assert np.array_equal(of_all.keys, np.union1d(TrainedOn.of(first).keys, TrainedOn.of(second).keys))

    nothing = [{**rows(1)[0], "label": Image.new("L", (112, 80), 255)}]
    broken = JoinedImages([images(first, ABC), images(nothing, ABC)])
    arguments = VFMSegTrainingArguments(str(tmp_path), save_strategy="no", max_steps=1, use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match="a dataset without a name: nothing can be learnt from these labels"):
        VFMSegTrainer(tiny_model(id2label=ABC), arguments, train_dataset=broken).train()


def command(tmp_path, data, *words) -> list:
    usual = [
        "--model",
        tmp_path / "tiny.json",
        "--tune",
        "full",
        "--device",
        "cpu",
        "--report_to",
        "none",
        "--crop_size",
        64,
    ]
    usual += ["--per_device_train_batch_size", 2, "--rare_class_min_pixels", 20, "--rare_class_crop_ratio", 1.0]
    return ["train", *usual, "--data", *data, "--output", *words]


def test_the_command(tiny_config, tmp_path, monkeypatch):
    """Over two looks of scenes; a run that was resumed has the weights of one that was not."""
    tiny_config().to_json_file(tmp_path / "tiny.json")
    data = ["streets:game?n=3&size=64x96", "streets:night?n=2&size=64x96&seed=7"]
    run = lambda *words: error_of(*command(tmp_path, data, *words))  # noqa: E731
    assert run(tmp_path / "whole", "--max_steps", 4, "--save_steps", 2) is None
    record = json.loads((tmp_path / "whole" / "recipe.json").read_text())
    assert [source["spec"] for source in record["data"]] == data and [s["images"] for s in record["data"]] == [3, 2]
    assert record["trained_on"]["complete"] and len(record["trained_on"]["sources"]) == 2
    (tmp_path / "again").mkdir()
    (tmp_path / "whole" / "checkpoint-2").rename(tmp_path / "again" / "checkpoint-2")
    assert run(tmp_path / "again", "--max_steps", 4, "--save_steps", 2, "--resume") is None
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "again")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_the_commands_datasets_have_one_set_of_classes(tiny_config, tmp_path):
    from tests.evaluation.test_classes import own_dataset

    tiny_config().to_json_file(tmp_path / "tiny.json")
    first, second = own_dataset(tmp_path / "a", ABC), own_dataset(tmp_path / "b", {0: "way", 1: "sky", 2: "person"})
    said = error_of(*command(tmp_path, [first, second], tmp_path / "run", "--max_steps", 1))
    assert said.startswith(
        f"error: the training set {second}: the classes of the data are not those of {first}; only in"
    )
    assert "only in the data: way. Say which belong together with --class_map" in said
    (tmp_path / "map.yaml").write_text("way: road\n")
    words = [tmp_path / "run", "--max_steps", 1, "--class_map", tmp_path / "map.yaml"]
    assert error_of(*command(tmp_path, [first, second], *words)) is None
    config = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "run").config
    assert list(config.id2label.values()) == list(ABC.values())


def test_each_dataset_has_the_recipes_size(tiny_config, tmp_path, monkeypatch):
    tiny_config().to_json_file(tmp_path / "tiny.json")
    monkeypatch.setitem(get_recipe("paper").resize, "streets", (96, 128))
    from tests.evaluation.test_classes import own_dataset

    data = ["streets:game?n=2&size=64x96", own_dataset(tmp_path / "own", dict(enumerate("abc")))]
    (tmp_path / "map.yaml").write_text("{a: road, b: sky, c: null}")
    words = [tmp_path / "run", "--class_map", tmp_path / "map.yaml", "--rare_class_sampling", "false"]
    own, arguments = train.parse_arguments(list(map(str, command(tmp_path, data, *words)))[1:])
    trainer = train.make_trainer(own, arguments, get_recipe("paper"))
    assert [part.augmentation.resize for part in trainer.train_dataset.parts] == [(96, 128), None]
    assert trainer.settings()["augmentation"]["resize"] == [(96, 128), None]
    assert trainer.model.config.num_labels == 19
