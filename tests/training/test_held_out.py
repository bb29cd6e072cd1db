# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What is held out is held out: splits by their names, and images that a model was trained on are known again."""

import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature
from PIL import Image
from transformers import Trainer, TrainingArguments
from transformers.utils import logging

from tests.support.blocks import rows
from tests.support.commands import call
from vfmseg_hf import VFMSegForSemanticSegmentation, VFMSegImageProcessor, lora_config
from vfmseg_hf.data import describe_dataset, each_class, open_dataset
from vfmseg_hf.data.check import check_dataset
from vfmseg_hf.data.domains import evaluation_domains
from vfmseg_hf.data.frames import frame_keys
from vfmseg_hf.model.records import RECORD_NAME
from vfmseg_hf.training import (
    Augmentation,
    EvaluationImages,
    TrainingImages,
    VFMSegTrainer,
    VFMSegTrainingArguments,
)
from vfmseg_hf.training.trained_on import read_trained_on


CLASSES = {0: "floor", 1: "shelf", 2: "pallet"}
HELD_OUT = ["val", "valid", "validation", "dev", "eval", "test", "Valid", "TEST"]


def write_pairs(folder, count: int, seed: int) -> None:
    for index, row in enumerate(rows(count, ((64, 96),), seed, classes=3)):
        for column, name in (("image", "photos"), ("label", "masks")):
            (folder / name).mkdir(parents=True, exist_ok=True)
            row[column].save(folder / name / f"{index}.png")


@pytest.fixture
def own(tmp_path):
    """Makes own data with splits, each with images of its own under the same names; returns the spec."""

    def make(name: str, *splits: str, count: int = 2) -> str:
        for seed, split in enumerate(splits):
            write_pairs(tmp_path / name / split, count, seed)
        parts = {split: {"images": f"{split}/photos", "labels": f"{split}/masks"} for split in splits}
        plan = {"ids": {label: index for index, label in CLASSES.items()}, "splits": parts}
        (tmp_path / name / "own.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
        return f"folder:{tmp_path / name / 'own.yaml'}"

    return make


# --- splits by their names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("held_out", HELD_OUT)
def test_a_held_out_split_is_scored_and_not_trained_on(own, held_out):
    """Wherever it is in the list."""
    for training in ("train", "Training", "mine"):
        spec = own(f"{held_out}-{training}", held_out, training)
        assert describe_dataset(spec).evaluation_split == evaluation_domains([spec])[0].split == held_out
        assert open_dataset(spec).split == training and open_dataset(spec, held_out=True).split == held_out


def test_what_is_held_out_is_never_trained_on_in_silence(own, loading_log):
    several = own("several", "test", "val")
    with pytest.raises(ValueError, match=r"splits test, val, which are all held out.*own.yaml@test"):
        open_dataset(several)
    assert open_dataset(several, "val").split == "val" and "held out" not in loading_log.text
    assert open_dataset(own("single", "test")).split == "test" and "only split is 'test'" in loading_log.text


def test_a_training_split_is_never_scored_in_silence(own, loading_log):
    spec = own("plain", "all")
    assert evaluation_domains([spec])[0].split == "all"
    assert "'all' is scored, as no split is named and none of all is known to be held out" in loading_log.text


@pytest.mark.parametrize("held_out", ["valid", "dev", "Test"])
def test_tables_with_splits(tmp_path, loading_log, held_out):
    table = Dataset.from_list([{"image": row["image"], "label": row["label"]} for row in rows(2)])
    spec = f"{tmp_path / held_out}?id2label=cityscapes"
    DatasetDict({held_out: table, "train": table.select([0])}).save_to_disk(tmp_path / held_out)
    assert len(open_dataset(spec)) == 1 and f"splits {held_out}, train; 'train' is taken" in loading_log.text
    assert len(open_dataset(spec, held_out=True)) == 2 and f"{held_out!r} is taken" in loading_log.text
    assert [split.pairs for split in check_dataset(spec, num_proc=1).splits] == [2, 1]
    other = str(tmp_path / "other")
    DatasetDict({"train": table, "more": table}).save_to_disk(other)
    with pytest.raises(ValueError, match="has the splits train, more; choose one"):
        open_dataset(other, held_out=True)


# --- images that are known again --------------------------------------------------------------------------------


def test_images_are_known_wherever_they_lie(own, tmp_path):
    spec = own("here", "train", "test", count=4)
    train, test = (frame_keys(open_dataset(spec, split)) for split in ("train", "test"))
    assert len(set(train) | set(test)) == 8, "files of one name are not one image"
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert np.array_equal(frame_keys(open_dataset(f"folder:{tmp_path / 'there/own.yaml'}", "train")), train)
    (tmp_path / "packed").mkdir()
    shutil.copy(tmp_path / "here/own.yaml", tmp_path / "packed")
    with zipfile.ZipFile(tmp_path / "packed/all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "here").rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path / "here"))
    assert np.array_equal(frame_keys(open_dataset(f"folder:{tmp_path / 'packed/own.yaml'}", "train")), train)
    stored = open_dataset(spec, "train").select([2, 0])
    stored.save_to_disk(tmp_path / "stored")
    assert frame_keys(open_dataset(str(tmp_path / "stored"))).tolist() == train[[2, 0]].tolist()


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".tif", ".png"])
def test_images_that_begin_alike_are_told_apart(tmp_path, suffix):
    """Files of pixels as they are begin with whatever a border of the image shows."""
    tables = []
    for value in (0, 1):
        image = np.zeros((128, 128, 3), np.uint8)
        image[64] = value
        path = tmp_path / str(value) / f"0{suffix}"
        path.parent.mkdir()
        Image.fromarray(image).save(path)
        tables.append(Dataset.from_dict({"image": [str(path)]}).cast_column("image", ImageFeature()))
    first, second = map(frame_keys, tables)
    assert first != second


def test_rows_without_images_have_no_keys():
    assert frame_keys(Dataset.from_dict({"image": ["a.png"], "pixel_values": [[1.0]]})) is None


def test_scenes_are_known_by_domain_and_seed():
    game, larger, night, other = (
        set(frame_keys(open_dataset(f"streets:{text}", split)).tolist())
        for text, split in (
            ("game?n=3&size=64x128", "train"),
            ("game?n=5&size=32x64", "train"),
            ("night?n=3&size=64x128", "train"),
            ("game?n=3&size=64x128", "test"),
        )
    )
    assert game < larger and not game & night and not game & other


def test_rows_in_memory_and_rows_without_images():
    first, second = frame_keys(rows(3)), frame_keys(rows(3, seed=1))
    assert np.array_equal(first, frame_keys(rows(3))) and not set(first) & set(second)
    assert frame_keys([{"pixel_values": 0}]) is None and frame_keys(Dataset.from_dict({"labels": [1]})) is None


def test_splits_of_camvid_share_images(shared):
    keys = {
        split: frame_keys(open_dataset(f"camvid:{shared}/data/camvid", split))
        for split in ("train", "source_train", "source_val", "target_dusk")
    }
    overlap = {split: int(np.isin(keys[split], keys["train"]).sum()) for split in keys}
    assert overlap == {"train": 367, "source_train": 305, "source_val": 0, "target_dusk": 62}


# --- what a model was trained on ----------------------------------------------------------------------------------


def make_trainer(model, directory, dataset, domains=None, **settings) -> VFMSegTrainer:
    arguments = VFMSegTrainingArguments(
        str(directory), max_steps=1, save_steps=1, use_cpu=True, report_to="none", disable_tqdm=True, **settings
    )
    processor = VFMSegImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    train = TrainingImages(dataset, processor, Augmentation(crop_size=(64, 64)))
    rule = each_class(CLASSES)
    evaluation = {name: EvaluationImages(rows, processor, rule) for name, rows in (domains or {}).items()}
    return VFMSegTrainer(
        model, arguments, train_dataset=train, eval_dataset=evaluation or None, processing_class=processor
    )


def train(model, directory, dataset) -> str:
    """Trains for a step; returns where the model is saved."""
    trainer = make_trainer(model, directory / "run", dataset)
    trainer.train()
    trainer.save_model(str(directory))
    return str(directory)


@pytest.fixture
def model(tiny_model):
    return lambda: tiny_model(id2label=CLASSES)


@pytest.fixture
def evaluate(capsys, tmp_path):
    """`vfmseg evaluate` in this process: its output, and `trained_on` of every domain."""

    def run(checkpoint, *domains: str) -> tuple[str, dict]:
        output = tmp_path / "scores.json"
        words = ["--model", checkpoint, "--protocol", "native", "--output", output, "--data", *domains]
        capsys.readouterr()
        assert call("evaluate", *words) == 0
        result = json.loads(output.read_text())["domains"]
        return capsys.readouterr().out, {name: domain["trained_on"] for name, domain in result.items()}

    return run


def test_the_record_says_what_was_trained_on(own, model, tmp_path):
    spec = own("data", "train", count=3)
    train(model(), tmp_path / "m", open_dataset(spec))
    record = json.loads((tmp_path / "m" / RECORD_NAME).read_text())
    (source,) = record["trained_on"]["sources"]
    assert source == record["data"]
    assert (source["spec"], source["split"], source["images"]) == ("folder:own.yaml", "train", 3)
    assert source["dataset"] == "folder, train, own.yaml" and str(tmp_path) not in json.dumps(record["trained_on"])


def test_scored_images_that_were_trained_on_are_said(own, model, tmp_path, evaluate):
    """Under another name of the split, of a part, and by a copy in another place."""
    spec = own("data", "train", "val", count=3)
    checkpoint = train(model(), tmp_path / "m", open_dataset(spec, "train").select([0, 2]))
    shutil.copytree(tmp_path / "data/train", tmp_path / "copy/everything")
    plan = {"ids": {label: index for index, label in CLASSES.items()}, "images": "photos", "labels": "masks"}
    (tmp_path / "copy/everything/c.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    output, found = evaluate(checkpoint, f"new={spec}", f"old=folder:{tmp_path}/copy/everything/c.yaml")
    assert found == {"new": {"images": 0, "share": 0}, "old": {"images": 2, "share": pytest.approx(2 / 3)}}
    line = "ATTENTION: 2 of 3 images of the domain 'old' were trained on: these are no scores of unseen data"
    places = [place for place, text in enumerate(output.splitlines()) if text == line]
    assert len(places) == 3 and places[0] == 0, "before the run, beside the classes' scores, and below the table"
    assert "'new'" not in output


def test_what_is_not_known_is_said(own, model, tmp_path, evaluate, loading_log):
    spec = own("data", "train", "val")
    checkpoint = train(model(), tmp_path / "m", open_dataset(spec, "train"))
    record = tmp_path / "m" / RECORD_NAME
    content = json.loads(record.read_text())
    del content["trained_on"]
    for text in (json.dumps(content), "{", None):  # of an earlier version, damaged, absent
        record.unlink() if text is None else record.write_text(text)
        logging.warning_once.cache_clear()
        loading_log.clear()
        output, found = evaluate(checkpoint, f"a={spec}@train", f"b={spec}@val")
        assert found == {"a": None, "b": None} and "ATTENTION" not in output
        assert loading_log.text.count("What this model was trained on is not known") == 1


def test_a_plain_trainer_makes_it_unknown(own, model, tmp_path):
    """It saves with the record that the model came with, which is not of the new weights."""
    spec = own("data", "train")
    checkpoint = train(model(), tmp_path / "m", open_dataset(spec))
    loaded = VFMSegForSemanticSegmentation.from_pretrained(checkpoint)
    loaded.save_pretrained(tmp_path / "copy")
    loaded.to(dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    for place in ("copy", "half"):
        assert read_trained_on(tmp_path / place).complete and len(read_trained_on(tmp_path / place).keys) == 2
    crops = TrainingImages(rows(2, classes=3), VFMSegImageProcessor(), Augmentation((64, 64)))
    plain = [{key: crops[index][key] for key in ("pixel_values", "labels")} for index in (0, 1)]
    arguments = TrainingArguments(
        str(tmp_path / "plain"), max_steps=1, use_cpu=True, report_to="none", save_strategy="no", learning_rate=1e-3
    )
    trainer = Trainer(VFMSegForSemanticSegmentation.from_pretrained(checkpoint), arguments, train_dataset=plain)
    trainer.train()
    trainer.save_model(str(tmp_path / "plain"))
    assert (tmp_path / "plain" / RECORD_NAME).exists() and not read_trained_on(tmp_path / "plain").complete
    assert not len(read_trained_on(tmp_path / "plain").keys)


@pytest.mark.parametrize("lora", [False, True])
def test_what_came_before_a_fine_tuning_counts(own, model, tmp_path, lora):
    spec = own("data", "first", "second", "third")
    first = train(model(), tmp_path / "one", open_dataset(spec, "first"))
    tuned = VFMSegForSemanticSegmentation.from_pretrained(first)
    if lora:
        tuned.add_adapter(lora_config(tuned.config))
    second = train(tuned, tmp_path / "two", open_dataset(spec, "second"))
    if lora:
        VFMSegForSemanticSegmentation.from_pretrained(second).merge_and_unload().save_pretrained(tmp_path / "merged")
        second = tmp_path / "merged"
    known = read_trained_on(second)
    assert known.complete and [source["split"] for source in known.sources] == ["first", "second"]
    shares = [known.overlap(open_dataset(spec, split))["share"] for split in ("first", "second", "third")]
    assert shares == [1, 1, 0]


def test_the_trainer_says_it_and_has_it_among_its_metrics(own, model, tmp_path, loading_log):
    logging.warning_once.cache_clear()  # said once in a process
    spec = own("data", "train", "val")
    domains = {"day": open_dataset(spec, "train"), "dusk": open_dataset(spec, "val")}
    trainer = make_trainer(model(), tmp_path / "run", domains["day"], domains)
    before = trainer.evaluate()
    assert "eval_day_trained_on" not in before and "ATTENTION" not in loading_log.text
    assert "is not known" in loading_log.text, "something else may have trained a model in memory"
    trainer.train()
    line = "ATTENTION: 2 of 2 images of the domain 'day' were trained on"
    assert loading_log.text.count(line) == 1, "before the first step"
    after = trainer.evaluate()
    assert (after["eval_day_trained_on"], after["eval_dusk_trained_on"]) == (1, 0)
    assert loading_log.text.count(line) == 2 and "'dusk'" not in loading_log.text
    again = make_trainer(model(), tmp_path / "run", open_dataset(spec, "val"))
    again.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-1"))
    assert again.trained_on.complete and len(again.trained_on.keys) == 4, "what the checkpoint was trained on as well"
