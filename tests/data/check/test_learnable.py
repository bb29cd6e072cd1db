# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Data that cannot train anything is said: by the check, before the first step, and by the image processor."""

import json

import numpy as np
import pytest
from PIL import Image
from transformers.utils import logging

from tests.support.blocks import rows
from vfmseg_hf import VFMSegImageProcessor, VFMSegImageProcessorPil
from vfmseg_hf.data import count_class_pixels, open_dataset
from vfmseg_hf.data.check import check_dataset, format_report, report_as_dict
from vfmseg_hf.training import Augmentation, TrainingImages, VFMSegTrainer, VFMSegTrainingArguments


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def own(tmp_path):
    """Makes own data whose label maps hold the given values by chance; returns the spec."""

    def make(values=(0, 1, 2), count: int = 3, copies: bool = False, **plan) -> str:
        random = np.random.default_rng(0)
        for index in range(count):
            image = random.integers(0, 2, (64, 64)) if copies else random.integers(0, 256, (64, 64, 3))
            labels = image if copies else random.choice(np.array(values), (64, 64))
            for folder, pixels in (("p", image), ("m", labels)):
                (tmp_path / folder).mkdir(exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / folder / f"{index}.png")
        plan = {"images": "p", "labels": "m", "ids": {"a": 0, "b": 1, "c": 2}, **plan}
        (tmp_path / "c.json").write_text(json.dumps(plan))
        return f"folder:{tmp_path / 'c.json'}"

    return make


HOPELESS = {
    "one_class": ({"values": (0, 255), "ids": {"fg": 255}, "ignore": [0]}, "a single class.*'fg'.*background"),
    "all_ignored": ({"values": (7, 9), "ignore": [7, 9]}, "without a pixel of any class.*12,288 pixels are ignored"),
    "labels_are_images": ({"copies": True}, "the images themselves.*3 of 3"),
}
DOUBTFUL = {
    "masks of 0 and 255": (
        {"values": (0, 255), "ids": {"bg": 0, "fg": 1}, "ignore": [255]},
        "only 0 ('bg') and 255, which is ignored",
        "`ids: {bg: 0, fg: 255}`",
    ),
    "one class occurs": ({"values": (1,)}, "'b' is the only class that occurs in the labels", "others as well (a, c)"),
    "a class without a pixel": ({"values": (0, 2)}, "classes without a pixel: b.", "Nothing is learnt of them"),
}


def start(spec: str, model, directory, counted: bool = False, **settings) -> VFMSegTrainer:
    dataset = open_dataset(spec)
    class_pixels = count_class_pixels(dataset, model.config.num_labels) if counted else None
    arguments = VFMSegTrainingArguments(
        str(directory), max_steps=1, save_strategy="no", use_cpu=True, report_to="none", disable_tqdm=True, **settings
    )
    images = TrainingImages(dataset, VFMSegImageProcessor(), Augmentation((64, 64)), 0, class_pixels)
    return VFMSegTrainer(model, arguments, train_dataset=images)


def no_step(*args, **kwargs):
    raise AssertionError("a step was made")


@pytest.mark.parametrize("kind", HOPELESS)
def test_the_check_finds_what_nothing_can_be_learnt_from(own, kind):
    report = check_dataset(own(**HOPELESS[kind][0]), num_proc=1)
    assert not report.clean and list(report_as_dict(report)["splits"]["all"]["problems"]) == [kind]
    assert "    -> " in format_report(report) and report.splits[0].statistics is None


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("kind", HOPELESS)
def test_no_training_starts_on_it(own, kind, counted, tiny_model, tmp_path, monkeypatch):
    settings, message = HOPELESS[kind]
    spec = own(**settings)
    model = tiny_model(num_labels=len(settings.get("ids", "abc")))
    trainer = start(spec, model, tmp_path / "run", counted)
    monkeypatch.setattr(VFMSegTrainer, "training_step", no_step)
    with pytest.raises(ValueError, match=message if kind != "one_class" else "a single class.*background"):
        trainer.train()


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_the_check_notices_what_is_not_learnt(own, kind):
    settings, *words = DOUBTFUL[kind]
    report = check_dataset(own(**settings), num_proc=1)
    (notice,) = report.splits[0].findings.notices
    assert report.clean and all(word in notice for word in words) and f"  notice: {notice}" in format_report(report)


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("kind", DOUBTFUL)
def test_a_training_warns_of_it_first(own, kind, counted, tiny_model, tmp_path, monkeypatch, loading_log):
    settings, *words = DOUBTFUL[kind]
    spec = own(**settings)
    trainer = start(spec, tiny_model(id2label=dict(enumerate(settings.get("ids", "abc")))), tmp_path / "run", counted)
    monkeypatch.setattr(VFMSegTrainer, "training_step", no_step)
    with pytest.raises(AssertionError, match="a step was made"):
        trainer.train()
    (line,) = [record.message for record in loading_log.records if "of 3 label maps: " in record.message]
    assert all(word in line for word in words)


def test_good_labels_are_passed_without_a_word(own, tiny_model, tmp_path, loading_log):
    spec = own()
    assert check_dataset(spec, num_proc=1).splits[0].findings.notices == []
    start(spec, tiny_model(num_labels=3), tmp_path / "run").train()
    assert "label maps" not in loading_log.text


def test_many_label_maps_are_sampled(own, tiny_model, tmp_path, monkeypatch, loading_log):
    monkeypatch.setattr("vfmseg_hf.data.check.learnable.LABEL_MAPS", 2)
    trainer = start(own(values=(0, 2), count=5), tiny_model(id2label=dict(enumerate("abc"))), tmp_path / "run")
    trainer._check_labels()
    assert "of 2 label maps looked at: classes without a pixel: b" in loading_log.text


def test_one_folder_for_both_needs_names_that_differ(own, tmp_path):
    """Images are never paired with themselves."""
    spec = own(labels="p")
    with pytest.raises(ValueError, match="images and label maps are both in p.*`label_suffix`"):
        open_dataset(spec)


def test_colours_and_constant_maps(own, tmp_path):
    """Coloured copies of the images in the place of the labels are found; a black map of a black image is none."""
    spec = own()
    (tmp_path / "c.json").write_text(
        json.dumps({"images": "p", "labels": "q", "colours": {"a": [0, 0, 0], "b": [1, 1, 1]}, "ignore": "rest"})
    )
    (tmp_path / "q").mkdir()
    for path in (tmp_path / "p").iterdir():
        (tmp_path / "q" / path.name).write_bytes(path.read_bytes())
    assert list(report_as_dict(check_dataset(spec, num_proc=1))["splits"]["all"]["problems"]) == [
        "labels_are_images", "all_ignored"
    ]  # fmt: skip
    for path in (tmp_path / "p").iterdir():
        for folder, shape in (("p", (64, 64, 3)), ("q", (64, 64, 3))):
            Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / folder / path.name)
    assert check_dataset(spec, num_proc=1).clean


def test_rows_in_memory(tiny_model, tmp_path):
    made = rows(2)
    for row in made:
        row["label"] = row["image"].convert("L").point(lambda value: value % 19)
        row["image"] = row["label"].convert("RGB")
    arguments = VFMSegTrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to="none")
    images = TrainingImages(made, VFMSegImageProcessor(), Augmentation((64, 64)))
    with pytest.raises(ValueError, match="the images themselves"):
        VFMSegTrainer(tiny_model(), arguments, train_dataset=images).train()


@pytest.mark.parametrize("processor", [VFMSegImageProcessor, VFMSegImageProcessorPil])
def test_a_mask_of_0_and_255_is_noticed_once(processor, loading_log):
    logging.warning_once.cache_clear()
    processor, image = processor(size={"height": 32, "width": 32}), Image.new("RGB", (32, 32))
    mask = np.zeros((32, 32), np.uint8)
    for other in (mask, mask + 255, np.where(np.eye(32, dtype=bool), 255, 1)):
        processor(image, segmentation_maps=other)
    assert "255" not in loading_log.text
    mask[8:16] = 255
    for _ in range(2):
        processor([image, image], segmentation_maps=[mask, mask])
    assert loading_log.text.count("holds 0 and 255 only") == 1 and "mask // 255" in loading_log.text
