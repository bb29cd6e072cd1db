# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Datasets: layouts, ids that stay mapped whatever is done to a dataset, and errors that say what to do."""

import csv
import os
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset, Image, concatenate_datasets, interleave_datasets, load_from_disk
from datasets.table import embed_table_storage
from torch.utils.data import DataLoader

from tests.support.dataset_copies import IGNORE, TREES, save_turned, write_csv, write_frame
from vfmseg_hf.data import (
    DATASETS,
    DatasetDescription,
    LabelMap,
    NamedDataset,
    base,
    camvid,
    carla,
    classes_of,
    columns,
    dataset_of_frames,
    describe_dataset,
    open_dataset,
    reading,
    register_dataset,
    registry,
)
from vfmseg_hf.data import street_scenes as streets
from vfmseg_hf.data.domains import Domain, evaluation_domains, parse_domain
from vfmseg_hf.evaluation import confusion_matrix, iou_scores
from vfmseg_hf.model.labels import CITYSCAPES_CLASSES, CITYSCAPES_ID2LABEL


@pytest.fixture
def make_tree(tmp_path):
    return lambda name: TREES[name](tmp_path / name)


@pytest.fixture(params=list(TREES))
def tree(request, make_tree):
    return make_tree(request.param)


# --- what comes out -----------------------------------------------------------------------------------------------


def check_row(row: dict, expected: dict[str, np.ndarray]) -> None:
    assert row["image"].mode == "RGB" and row["label"].mode == "L"
    assert row["image"].size == row["label"].size
    np.testing.assert_array_equal(np.asarray(row["label"]), expected[row["file_name"]])


class TestLayouts:
    def test_splits(self, tree):
        info = describe_dataset(tree.spec)
        assert set(info.splits) == set(tree.counts)
        for split, count in tree.counts.items():
            dataset = tree.load(split)
            assert isinstance(dataset, Dataset) and len(dataset) == count
            assert dataset.column_names == ["image", "label", "file_name"]
            assert dataset.split == split and dataset.info.license == info.licence
            for row in dataset:
                check_row(row, tree.expected)
        assert open_dataset(tree.spec).split == info.splits[0]

    def test_image_and_label_are_of_the_same_frame(self, tree):
        table = (camvid if "camvid" in tree.spec else carla).TRAIN_IDS
        for row in tree.load(next(iter(tree.counts))):
            first_id = int(np.asarray(row["image"])[0, 0, 0])  # as written by `write_frame`
            assert table[first_id] == np.asarray(row["label"])[0, 0]

    def test_images_are_opened_when_read_only(self, tree):
        split = next(iter(tree.counts))
        dataset = tree.load(split)
        for path in tree.folder.rglob("*.*g"):
            path.write_bytes(b"")
        assert dataset["file_name"][0] in tree.expected
        with pytest.raises(OSError, match=r"Cannot read .*\.png"):
            dataset["label"][0]

    def test_sunset_and_rain(self, make_tree):
        tree = make_tree("carla")
        assert tree.load("rainy_sunset")["file_name"][:] == ["Town01Sunset_2"]
        assert all("images_rainy" in row["image"].filename for row in tree.load("rainy"))
        assert [row["file_name"] for row in tree.load("clear_day")] == ["Town01_3", "Town02_4"]

    def test_home_folder_and_relative_paths(self, make_tree, monkeypatch):
        tree = make_tree("camvid")
        monkeypatch.chdir(tree.folder.parent)
        monkeypatch.setenv("HOME", str(tree.folder.parent))
        for spec in ("camvid:camvid", "camvid:~/camvid"):
            dataset = open_dataset(spec, "val")
            monkeypatch.chdir("/")
            check_row(dataset[0], tree.expected)
            monkeypatch.chdir(tree.folder.parent)


# --- what is done to datasets ------------------------------------------------------------------------------------


def rows_of(dataset) -> list[dict]:
    return [dict(row) for row in dataset]


def reloaded(dataset, path):
    dataset.save_to_disk(path)
    return load_from_disk(path)


def through_parquet(dataset, path):
    dataset.to_parquet(f"{path}.parquet")
    return Dataset.from_parquet(f"{path}.parquet", cache_dir=f"{path}.cache")


def embedded(dataset):
    """With all files inside, as `push_to_hub` sends datasets."""
    dataset = dataset.with_format("arrow").map(embed_table_storage, batched=True, keep_in_memory=True)
    return dataset.with_format(None)


def touched(row):
    assert row["label"].mode == "L"
    row["seen"] = int(np.asarray(row["label"]).max())
    return row


def spread(batch):
    return {"label": [np.asarray(label) for label in batch["label"]]}


def from_batches(loader) -> list[dict]:
    return [row for batch in loader for row in batch]


OPERATIONS = {
    "rows": lambda d, p: [d[index] for index in range(len(d))],
    "negative rows": lambda d, p: [d[-index - 1] for index in range(len(d))],
    "iteration": lambda d, p: rows_of(d),
    "slice": lambda d, p: [dict(zip(d[:], row, strict=True)) for row in zip(*d[:].values(), strict=True)],
    "columns": lambda d, p: [
        dict(zip(d.column_names, row, strict=True)) for row in zip(*(d[name] for name in d.column_names), strict=True)
    ],
    "column slice": lambda d, p: [{**d[index], "label": label} for index, label in enumerate(d["label"][0 : len(d)])],
    "batches": lambda d, p: [
        dict(zip(batch, row, strict=True)) for batch in d.iter(2) for row in zip(*batch.values(), strict=True)
    ],
    "select": lambda d, p: rows_of(d.select(range(len(d))[::-1])),
    "shuffle": lambda d, p: rows_of(d.shuffle(seed=0)),
    "shuffle and flatten": lambda d, p: rows_of(d.shuffle(seed=0).flatten_indices()),
    "sort": lambda d, p: rows_of(d.sort("file_name", reverse=True)),
    "shard": lambda d, p: [row for index in range(2) for row in d.shard(2, index)],
    "split": lambda d, p: [row for part in d.train_test_split(0.5, seed=0).values() for row in part],
    "filter by label": lambda d, p: rows_of(d.filter(lambda row: np.asarray(row["label"]).min() >= 0)),
    "filter by name": lambda d, p: rows_of(d.filter(bool, input_columns="file_name")),
    "map beside": lambda d, p: rows_of(d.map(lambda row: {"length": len(row["file_name"])})),
    "map that looks": lambda d, p: rows_of(d.map(lambda row: {"seen": row["label"].size})),
    "map that returns rows": lambda d, p: rows_of(d.map(touched)),
    "map to arrays": lambda d, p: rows_of(d.map(lambda row: {"label": np.asarray(row["label"])})),
    "map to wide arrays": lambda d, p: rows_of(d.map(lambda row: {"label": np.asarray(row["label"]).astype(np.int64)})),
    "map batches": lambda d, p: rows_of(d.map(spread, batched=True)),
    "map to a file": lambda d, p: rows_of(d.map(touched, cache_file_name=f"{p}.arrow")),
    "map in processes": lambda d, p: rows_of(d.map(touched, num_proc=2)),
    "map twice and reload": lambda d, p: rows_of(reloaded(d.map(touched).map(spread, batched=True), p)),
    "map arrow tables": lambda d, p: rows_of(
        d.with_format("arrow").map(lambda table: table, batched=True).with_format(None)
    ),
    "map formatted": lambda d, p: rows_of(
        d.with_format("numpy").map(lambda row: {"seen": row["label"].max()}).with_format(None)
    ),
    "iterable": lambda d, p: rows_of(d.to_iterable_dataset()),
    "iterable shards": lambda d, p: rows_of(d.to_iterable_dataset(num_shards=2).shuffle(seed=0, buffer_size=2)),
    "iterable map": lambda d, p: rows_of(d.to_iterable_dataset().map(touched).filter(lambda row: row["seen"] >= 0)),
    "iterable map with features": lambda d, p: rows_of(
        d.to_iterable_dataset().map(lambda row: {"label": row["label"]}, features=d.features)
    ),
    "disk": lambda d, p: rows_of(reloaded(d, p)),
    "disk of a selection": lambda d, p: rows_of(reloaded(d.select(range(len(d))[::-1]), p)),
    "parquet": lambda d, p: rows_of(through_parquet(d, p)),
    "pickle": lambda d, p: rows_of(pickle.loads(pickle.dumps(d))),
    "generator": lambda d, p: rows_of(Dataset.from_generator(lambda: iter(d), cache_dir=str(p))),
    "concatenate": lambda d, p: rows_of(concatenate_datasets([d.select([0]), d.map(touched).select(range(1, len(d)))])),
    "interleave": lambda d, p: rows_of(interleave_datasets([d, d])),
    "transform": lambda d, p: rows_of(d.with_transform(lambda batch: batch)),
    "transform of one column": lambda d, p: [
        {**d[index], "label": row["label"]}
        for index, row in enumerate(d.with_transform(lambda batch: batch, columns=["label"]))
    ],
    "rename": lambda d, p: rows_of(d.rename_column("label", "map").rename_column("map", "label")),
    "flatten": lambda d, p: rows_of(d.flatten()),
    "cast": lambda d, p: rows_of(d.cast(d.features)),
    "repeat": lambda d, p: rows_of(d.repeat(2)),
    "workers that fork": lambda d, p: from_batches(
        DataLoader(d, 2, num_workers=2, collate_fn=list, multiprocessing_context="fork")
    ),
}


class TestOperations:
    """Every expected map differs from the original ids, so a lost translation cannot pass."""

    @pytest.mark.parametrize("operation", list(OPERATIONS))
    def test_ids_stay_mapped(self, tree, tmp_path, operation):
        dataset = tree.load("train" if "camvid" in tree.spec else "rainy")
        rows = OPERATIONS[operation](dataset, tmp_path / "stored")
        assert {row["file_name"] for row in rows} == set(dataset["file_name"])
        for row in rows:
            check_row(row, tree.expected)

    @pytest.mark.parametrize("kind, as_array", [("numpy", np.asarray), ("torch", lambda label: label[0].numpy())])
    def test_formats(self, tree, kind, as_array):
        dataset = tree.load(describe_dataset(tree.spec).splits[0])
        for row in dataset.with_format(kind):
            np.testing.assert_array_equal(as_array(row["label"]), tree.expected[row["file_name"]])

    def test_a_table_of_files_is_no_map(self, tree):
        """Formats that show the storage itself show files, which nobody takes for pixels."""
        dataset = tree.load(describe_dataset(tree.spec).splits[0])
        cell = dataset.with_format("arrow")[0]["label"][0].as_py()
        assert cell["file"].endswith(".png") and cell["data"] is None
        again = Dataset.from_list([{"label": cell}])
        assert again[0]["label"] == cell

    def test_casts_away_from_the_type_raise(self, tree):
        dataset = tree.load(describe_dataset(tree.spec).splits[0])
        with pytest.raises(ValueError, match="path"):
            dataset.cast_column("label", Image())[0]
        with pytest.raises((TypeError, ValueError)):
            dataset.cast_column("label", datasets.Value("string"))[0]

    def test_two_datasets_in_one(self, make_tree, tmp_path):
        trees = [make_tree(name) for name in TREES]
        parts = [tree.load(describe_dataset(tree.spec).splits[0]) for tree in trees]
        expected = {**trees[0].expected, **trees[1].expected}
        for dataset in (
            concatenate_datasets(parts),
            interleave_datasets(parts),
            reloaded(concatenate_datasets(parts), tmp_path / "d"),
        ):
            for row in dataset:
                check_row(row, expected)

    def test_what_goes_to_the_hub_holds_maps_instead_of_files(self, make_tree):
        tree = make_tree("camvid")
        shared = embedded(tree.load("train"))
        for path in tree.folder.rglob("*.*g"):
            path.unlink()
        for row in shared:
            check_row(row, tree.expected)
        assert str(tree.folder) not in str(shared.with_format("arrow")[:]["label"].to_pylist())
        check_row(embedded(shared)[0], tree.expected)

    def test_new_labels_may_have_another_size(self, make_tree):
        dataset = make_tree("camvid").load("train").map(lambda row: {"label": row["label"].resize((8, 6), 0)})
        assert isinstance(dataset.features["label"], LabelMap)
        assert dataset[0]["label"].size == (8, 6)

    def test_a_column_of_another_kind_may_take_its_place(self, make_tree):
        dataset = make_tree("camvid").load("train")
        dataset = dataset.map(lambda row: {"label": sorted(set(np.asarray(row["label"]).ravel().tolist()))})
        assert 255 in dataset[0]["label"]

    def test_what_the_user_puts_in_counts_as_final(self, make_tree, tmp_path):
        """Opened files too, although Pillow's images remember where they came from."""
        ids = np.array([[0, 18, IGNORE]], np.uint8)
        PIL.Image.fromarray(ids).save(tmp_path / "own.png")
        dataset = make_tree("camvid").load("train").remove_columns("image")
        for label in (ids, PIL.Image.fromarray(ids), PIL.Image.open(tmp_path / "own.png")):
            for row in dataset.map(lambda row, label=label: {"label": label}):
                np.testing.assert_array_equal(np.asarray(row["label"]), ids)
            row = Dataset.from_list([{"label": label}], features=datasets.Features({"label": LabelMap()}))[0]
            np.testing.assert_array_equal(np.asarray(row["label"]), ids)

    def test_labels_that_are_no_ids_raise(self, make_tree):
        dataset = make_tree("camvid").load("train")
        with pytest.raises(ValueError, match="ids from 1000 to 1255"):
            dataset.map(lambda row: {"label": np.asarray(row["label"]).astype(np.int64) + 1000})
        with pytest.raises(ValueError, match="has colours"):
            dataset.map(lambda row: {"label": np.zeros((4, 4, 3), np.uint8)})

    def test_workers_that_spawn(self, make_tree):
        tree = make_tree("carla")
        loader = DataLoader(tree.load("clear"), 2, num_workers=1, collate_fn=list, multiprocessing_context="spawn")
        rows = from_batches(loader)
        assert len(rows) == 4
        for row in rows:
            check_row(row, tree.expected)

    def test_without_the_library_a_stored_data_set_raises(self, make_tree, tmp_path):
        make_tree("camvid").load("train").save_to_disk(tmp_path / "stored")
        code = f"import datasets; print(datasets.load_from_disk({str(tmp_path / 'stored')!r})[0])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
        assert done.returncode != 0 and "Feature type 'Vfmseg" in done.stderr


# --- bad input ----------------------------------------------------------------------------------------------------


def rewrite(path: Path, change) -> np.ndarray:
    with PIL.Image.open(path) as image:
        palette, ids = image.getpalette(), np.array(image)
    ids = change(ids)
    label = PIL.Image.fromarray(ids)
    if palette:
        label.putpalette(palette)
    label.save(path)
    return ids


def grey_png(path: Path, ids: np.ndarray, bits: int) -> None:
    """A grey PNG of less than 8 bits per pixel, as optimisers make them; Pillow cannot write one."""
    height, width = ids.shape
    digits = np.unpackbits(ids[..., None], axis=2)[..., 8 - bits :].reshape(height, width * bits)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(digits, axis=1))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in chunks:
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


class TestLabelFiles:
    @pytest.fixture
    def label(self, make_tree):
        self.tree = make_tree("camvid")
        return self.tree.folder / "val" / "labels" / "0016E5_07959.png"

    def read(self):
        return np.asarray(self.tree.load("val")[0]["label"])

    def test_unknown_ids(self, label):
        def change(ids):
            ids[0, :3] = 12, 77, 200
            return ids

        rewrite(label, change)
        with pytest.raises(ValueError, match=rf"{label} holds ids \[12, 77, 200\].*it has \[0, 1, .*11\].*Restore"):
            self.read()

    @pytest.mark.parametrize("mode", ["I;16", "P", "LA"])
    def test_modes(self, label, mode):
        expected = self.tree.expected["0016E5_07959"]
        with PIL.Image.open(label) as image:
            ids = np.array(image)
        if mode == "P":
            changed = PIL.Image.fromarray(ids)
            changed.putpalette(list(range(255, 255 - 36, -1)))
        elif mode == "LA":
            changed = PIL.Image.fromarray(np.stack([ids, ids], axis=2))
        else:
            changed = PIL.Image.fromarray(ids.astype(np.uint16))
        changed.save(label)
        if mode == "LA":
            with pytest.raises(ValueError, match=rf"{label} has colours"):
                self.read()
        else:
            np.testing.assert_array_equal(self.read(), expected)

    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_grey_files_of_few_bits_are_not_stretched(self, label, bits):
        ids = (np.arange(24 * 32).reshape(24, 32) % min(2**bits, 12)).astype(np.uint8)
        grey_png(label, ids, bits)
        table = np.array([10, 2, 5, 0, 1, 8, 7, 4, 13, 11, 12, 255])
        np.testing.assert_array_equal(self.read(), table[ids])

    def test_ids_beyond_a_byte(self, label):
        rewrite(label, lambda ids: ids.astype(np.uint16) + 600)
        with pytest.raises(ValueError, match=rf"{label} holds ids from 600 to 611"):
            self.read()

    def test_another_size(self, label):
        rewrite(label, lambda ids: ids[:, :30])
        with pytest.raises(ValueError, match=rf"{label} is 30x24 pixels, its image .*0016E5_07959.jpg is 32x24"):
            self.read()

    @pytest.mark.parametrize("orientation", range(2, 9))
    def test_images_stay_as_their_label_maps(self, label, orientation, tmp_path):
        """Whatever the EXIF tag says: owners' label maps are for the stored pixels."""
        image = label.parents[1] / "images" / "0016E5_07959.jpg"
        pixels = np.zeros((24, 32, 3), np.uint8)
        pixels[:12, :16] = 200
        save_turned(pixels, image, orientation)
        dataset = self.tree.load("val")
        stored = reloaded(embedded(dataset), tmp_path / "stored")
        for row in (dataset[0], dataset.map(lambda row: {**row})[0], stored[0]):
            check_row(row, self.tree.expected)
            shown = np.asarray(row["image"]).astype(int)
            assert shown.shape == (24, 32, 3) and abs(shown - pixels).max() < 60
        if orientation >= 5:  # what a label map for the turned image looks like
            rewrite(label, lambda ids: np.ascontiguousarray(ids.T))
            with pytest.raises(ValueError, match="is 24x32 pixels, its image .* is 32x24, before the turn .* EXIF"):
                self.read()

    def test_broken_files(self, label):
        dataset = self.tree.load("val")
        label.write_bytes(label.read_bytes()[:60])
        with pytest.raises(OSError, match=rf"Cannot read {label}.*Restore"):
            dataset[0]
        label.unlink()
        with pytest.raises(FileNotFoundError, match=rf"{label} is gone"):
            dataset["label"][0]


class TestBadSpecs:
    def test_missing_folder(self, tmp_path):
        with pytest.raises(
            FileNotFoundError, match=rf"No folder {tmp_path}/nowhere for the dataset camvid.*camvid:/path"
        ):
            open_dataset(f"camvid:{tmp_path}/nowhere", "train")
        for spec in ("carla", "carla:"):
            with pytest.raises(ValueError, match="carla needs the folder.*carla:/path"):
                open_dataset(spec, "clear")

    def test_not_the_layout(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/train/images is missing"):
            open_dataset(f"camvid:{tmp_path}", "train")
        with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/frames.csv is missing"):
            open_dataset(f"camvid:{tmp_path}", "target_dusk")

    def test_unknown_names(self, tree):
        with pytest.raises(ValueError, match="Unknown dataset 'kamvid'.*camvid:/path.*streets:<domain>"):
            open_dataset("kamvid:/somewhere")
        with pytest.raises(ValueError, match="no split 'dusk', only"):
            tree.load("dusk")
        with pytest.raises(FileNotFoundError, match="'no/such_dataset' is neither"):
            open_dataset("no/such_dataset", "train")
        with pytest.raises(ValueError, match="Unknown dataset"):
            describe_dataset("kamvid:/somewhere")

    @pytest.mark.parametrize("split", ["train", "source_train"])
    def test_an_image_without_its_label(self, make_tree, split):
        tree = make_tree("camvid")
        (tree.folder / "train" / "labels" / "0016E5_00390.png").unlink()
        with pytest.raises(FileNotFoundError, match=r"train/labels lacks 1 of \d files: 0016E5_00390.png"):
            tree.load(split)
        (tree.folder / "train" / "images" / "0016E5_00390.jpg").unlink()
        if split == "train":
            assert len(tree.load(split)) == 2

    def test_a_label_without_its_image(self, make_tree):
        tree = make_tree("carla")
        for name in tree.expected:
            (tree.folder / "images_rainy" / f"{name}.jpg").unlink()
        with pytest.raises(FileNotFoundError, match=r"images_rainy lacks 4 of 4 files: Town01Night_1.jpg"):
            tree.load("rainy")
        assert len(tree.load("clear")) == 4

    def test_empty_splits(self, make_tree):
        tree = make_tree("camvid")
        for path in (tree.folder / "val").rglob("*.*g"):
            path.unlink()
        with pytest.raises(ValueError, match="split 'val' of camvid is empty"):
            tree.load("val")
        write_csv(tree.folder / "frames.csv", "stem,split,suggested_role", [])
        with pytest.raises(ValueError, match="split 'target_dusk' of camvid is empty"):
            tree.load("target_dusk")

    def test_frames_csv_without_its_columns(self, make_tree):
        tree = make_tree("carla")
        write_csv(tree.folder / "frames.csv", "stem,weather", [])
        with pytest.raises(ValueError, match=r"frames.csv has no column \['light'\]"):
            tree.load("clear_day")


# --- classes and rules --------------------------------------------------------------------------------------------


class TestRules:
    def test_camvid(self):
        rule = describe_dataset("camvid").evaluation
        assert len(rule.names) == 11 and rule.groups[16] == rule.groups[17] == 11
        # Wall is part of Building; train is of no group; a truck is a Car.
        labels, predictions = np.array([2, 2, 2, 13, 13]), np.array([3, 2, 16, 14, 2])
        merged = rule.merge(confusion_matrix(predictions, labels, 19))
        assert merged.shape == (11, 12)
        ious = dict(zip(rule.names, iou_scores(merged)["per_category_iou"], strict=True))
        assert ious.pop("Building") == 2 / 4 and ious.pop("Car") == 1 / 2
        assert np.isnan(list(ious.values())).all()

    def test_others_are_scored_class_by_class(self):
        for spec in ("carla", "streets:game"):
            rule = describe_dataset(spec).evaluation
            assert rule.names == tuple(CITYSCAPES_ID2LABEL.values())
            matrix = np.random.default_rng(0).integers(0, 9, (19, 19))
            np.testing.assert_array_equal(rule.merge(matrix)[:, :19], matrix)

    @pytest.mark.parametrize("name", [name for name, dataset in DATASETS.items() if dataset.describe is None])
    def test_infos(self, name):
        info = describe_dataset(name)
        assert info is describe_dataset(f"{name}:/anywhere") and info.name == name
        assert info.usage.startswith(f"{name}:") and info.licence and info.id2label == CITYSCAPES_ID2LABEL
        assert set(info.evaluation.groups) <= set(range(len(info.evaluation.names) + 1))
        pickle.loads(pickle.dumps(info))


class TestOnTheOwnersData:
    def classes(self, shared, name):
        with open(shared / "data" / name / "classes.csv", newline="") as file:
            return list(csv.DictReader(file))

    @pytest.mark.parametrize("module, folder", [(camvid, "camvid"), (carla, "carlarain")])
    def test_tables(self, shared, module, folder):
        rows = self.classes(shared, folder)
        assert module.TRAIN_IDS == {int(row["id"]): int(row["cityscapes_train_id"]) for row in rows}
        names = {**CITYSCAPES_ID2LABEL, IGNORE: "ignore"}
        assert [names[module.TRAIN_IDS[int(row["id"])]] for row in rows] == [row["cityscapes_name"] for row in rows]

    def test_groups(self, shared):
        rows = [row for row in self.classes(shared, "camvid") if row["merged_train_ids_for_eval"]]
        rule = camvid.INFO.evaluation
        assert rule.names == tuple(row["name"] for row in rows)
        for index, row in enumerate(rows):
            members = [train_id for train_id, group in enumerate(rule.groups) if group == index]
            assert members == [int(train_id) for train_id in row["merged_train_ids_for_eval"].split(";")]
            assert camvid.TRAIN_IDS[int(row["id"])] in members

    @pytest.mark.parametrize(
        "spec, counts",
        [
            ("camvid:camvid", {"train": 367, "val": 101, "source_train": 305, "source_val": 101, "target_dusk": 62}),
            (
                "carla:carlarain",
                {"clear": 23, "rainy": 23, "clear_day": 8, "rainy_sunset": 8, "clear_night": 7, "rainy_night": 7},
            ),
        ],
    )
    def test_rows(self, shared, spec, counts):
        name, folder = spec.split(":")
        table = np.full(256, -1)
        for row in self.classes(shared, folder):
            table[int(row["id"])] = int(row["cityscapes_train_id"])
        for split, count in counts.items():
            dataset = open_dataset(f"{name}:{shared}/data/{folder}", split)
            assert len(dataset) == count
            for index in {0, count // 2, count - 1}:
                row = dataset[index]
                with PIL.Image.open(dataset.with_format("arrow")[index]["label"][0].as_py()["file"]) as original:
                    expected = {row["file_name"]: table[np.asarray(original)]}
                check_row(row, expected)

    def test_dusk_is_dark(self, shared):
        means = {
            split: np.asarray(open_dataset(f"camvid:{shared}/data/camvid", split)[0]["image"]).mean()
            for split in ("source_train", "target_dusk")
        }
        assert means["target_dusk"] < 80 < means["source_train"]

    def test_every_map_of_camvid_is_known(self, shared):
        seen = set()
        for label in open_dataset(f"camvid:{shared}/data/camvid", "val")["label"]:
            seen.update(np.flatnonzero(np.bincount(np.asarray(label).ravel(), minlength=256)).tolist())
        assert seen == set(camvid.TRAIN_IDS.values())


# --- datasets of others ------------------------------------------------------------------------------------------


class TestTables:
    @pytest.fixture
    def own(self, tmp_path):
        """Images with palette label maps of three classes."""
        rows = []
        for index in range(3):
            ids = np.full((6, 8), index, np.uint8)
            ids[0] = IGNORE
            label = PIL.Image.fromarray(ids)
            label.putpalette([200, 100, 50] * 256)
            label.save(tmp_path / f"map{index}.png")
            PIL.Image.new("L", (8, 6), index).save(tmp_path / f"image{index}.png")
            rows.append({"image": str(tmp_path / f"image{index}.png"), "label": str(tmp_path / f"map{index}.png")})
        features = datasets.Features({"image": Image(), "label": Image()})
        return Dataset.from_list(rows, features=features)

    def check(self, dataset, names):
        assert dataset["file_name"][:] == names
        for index, row in enumerate(dataset):
            assert row["image"].mode == "RGB" and row["label"].mode == "L"
            labels = np.asarray(row["label"])
            assert (labels[0] == IGNORE).all() and (labels[1:] == index).all()

    def test_stored(self, own, tmp_path):
        own.save_to_disk(tmp_path / "stored")
        self.check(open_dataset(f"{tmp_path}/stored?id2label=cityscapes"), ["image0", "image1", "image2"])

    def test_parquet_with_the_images_inside(self, own, tmp_path, monkeypatch):
        (tmp_path / "parquet").mkdir()
        embedded(own).to_parquet(tmp_path / "parquet" / "data.parquet")
        for path in tmp_path.glob("*.png"):
            path.unlink()
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
        for split in (None, "train"):
            self.check(open_dataset(f"{tmp_path}/parquet?id2label=cityscapes", split), [f"image{i}" for i in range(3)])
        assert len(open_dataset(f"{tmp_path}/parquet?id2label=cityscapes", "train[1:]")) == 2

    def test_palettes_are_not_looked_up(self, own, tmp_path):
        own = own.cast_column("label", Image(mode="L"))
        assert np.asarray(own[0]["label"]).max() == 124  # what a palette makes of ids
        own.save_to_disk(tmp_path / "stored")
        self.check(open_dataset(f"{tmp_path}/stored?id2label=cityscapes"), ["image0", "image1", "image2"])

    def test_a_stored_dataset(self, make_tree, tmp_path):
        tree = make_tree("camvid")
        tree.load("train").save_to_disk(tmp_path / "stored")
        rows = rows_of(open_dataset(str(tmp_path / "stored")))
        assert len(rows) == 3
        for row in rows:
            check_row(row, tree.expected)

    def test_beside_another_dataset(self, own, make_tree, tmp_path):
        own.save_to_disk(tmp_path / "stored")
        tree = make_tree("camvid")
        both = concatenate_datasets([open_dataset(f"{tmp_path}/stored?id2label=cityscapes"), tree.load("val")])
        self.check(both.select(range(3)), ["image0", "image1", "image2"])
        check_row(both[3], tree.expected)

    @pytest.mark.parametrize("inside", [False, True], ids=["files", "bytes"])
    def test_images_that_a_tag_turns(self, own, tmp_path, inside):
        save_turned(np.zeros((6, 8, 3), np.uint8), tmp_path / "turned.jpg", 3)
        rows = [*({key: row[key] for key in ("image", "label")} for row in own), {**own[0]}]
        rows[3]["image"] = str(tmp_path / "turned.jpg")
        dataset = Dataset.from_list(rows, features=own.features)
        (embedded(dataset) if inside else dataset).save_to_disk(tmp_path / "stored")
        with pytest.raises(ValueError, match=r"1 images have an EXIF tag .*turned.*exif_transpose"):
            open_dataset(f"{tmp_path}/stored?id2label=cityscapes")

    def test_bad_tables(self, own, tmp_path):
        own.rename_column("label", "mask").save_to_disk(tmp_path / "renamed")
        with pytest.raises(ValueError, match="'label' is missing.*mask"):
            open_dataset(str(tmp_path / "renamed"))
        rows = [own[0], {**own[1], "label": None}]
        Dataset.from_list(rows, features=own.features).save_to_disk(tmp_path / "gaps")
        with pytest.raises(ValueError, match=r"1 rows of .* have no label"):
            open_dataset(str(tmp_path / "gaps"))
        parts = datasets.DatasetDict({"a": own, "b": own})
        parts.save_to_disk(tmp_path / "parts")
        with pytest.raises(ValueError, match="has the splits a, b"):
            open_dataset(str(tmp_path / "parts"))
        assert len(open_dataset(f"{tmp_path}/parts?id2label=cityscapes", "b")) == 3
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match=f"{tmp_path}/empty.* is neither"):
            open_dataset(str(tmp_path / "empty"))
        own.select([]).save_to_disk(tmp_path / "none")
        with pytest.raises(ValueError, match=f"{tmp_path}/none.* empty"):
            open_dataset(str(tmp_path / "none"))


# --- streets ------------------------------------------------------------------------------------------------------


class TestStreets:
    @pytest.fixture
    def drawn(self, monkeypatch):
        """In place of the generator: a scene is its seed's digits, an image is its labels; returns what was drawn."""
        drawn = []

        def draw_scene(seed, height, width, version):
            drawn.append(seed)
            labels = np.random.default_rng(seed).integers(0, 19, (height, width)).astype(np.uint8)
            return SimpleNamespace(labels=labels)

        def render(scene, domain, seed):
            return np.repeat(scene.labels[..., None] + 10 * ("game", "city").index(domain), 3, axis=2)

        monkeypatch.setattr(streets.geometry, "draw_scene", draw_scene)
        monkeypatch.setattr(streets.look, "render", render)
        monkeypatch.setattr(streets.look, "DOMAINS", ("game", "city"))
        for cached in (streets._scene, streets._labels):
            cached.cache_clear()
        yield drawn
        for cached in (streets._scene, streets._labels):
            cached.cache_clear()

    def check(self, row, offset=0):
        seed = int(row["file_name"].split("-")[-1])
        height, width = row["label"].size[::-1]
        expected = np.random.default_rng(seed).integers(0, 19, (height, width))
        assert row["image"].mode == "RGB" and row["label"].mode == "L"
        np.testing.assert_array_equal(np.asarray(row["label"]), expected)
        np.testing.assert_array_equal(np.asarray(row["image"])[..., 1], expected + offset)

    def test_rows(self, drawn):
        dataset = open_dataset("streets:city?n=13&size=12x20")
        assert len(dataset) == 13 and drawn == []
        assert dataset[12]["file_name"] == "streets-city-000012"
        assert dataset[3]["image"].size == (20, 12)
        for row in dataset:
            self.check(row, 10)

    def test_defaults(self, drawn):
        dataset = open_dataset("streets:game", "test")
        assert len(dataset) == 200
        row = dataset[0]
        assert row["image"].size == (1024, 512)
        self.check(row)

    def test_each_scene_is_drawn_once(self, drawn):
        dataset = open_dataset("streets:game?n=6&size=8x8")
        for row in dataset:
            self.check(row)
        batch = dataset[0:6]
        assert len(batch["label"]) == 6
        assert sorted(drawn) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]

    @pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "map arrow tables"])
    def test_operations(self, drawn, tmp_path, operation):
        dataset = open_dataset("streets:game?n=3&size=8x12")
        rows = OPERATIONS[operation](dataset, tmp_path / "stored")
        assert {row["file_name"] for row in rows} == set(dataset["file_name"])
        for row in rows:
            self.check(row)

    def test_images_may_be_replaced(self, drawn):
        dataset = open_dataset("streets:game?n=3&size=8x12").map(lambda row: {"image": np.asarray(row["image"]) // 2})
        image = np.asarray(dataset[2]["image"])
        np.testing.assert_array_equal(image[..., 0], np.asarray(dataset[2]["label"]) // 2)

    def test_images_may_come_from_files(self, drawn, tmp_path):
        def replace(row, index):
            if index == 1:
                return {"image": PIL.Image.new("RGB", (12, 8), (1, 2, 3))}
            PIL.Image.new("RGB", (12, 8), (index, 0, 0)).save(tmp_path / f"{index}.png")
            return {"image": PIL.Image.open(tmp_path / f"{index}.png")}

        dataset = open_dataset("streets:game?n=3&size=8x12").map(replace, with_indices=True)
        assert [row["image"].getpixel((3, 3)) for row in dataset] == [(0, 0, 0), (1, 2, 3), (2, 0, 0)]

    def test_domains_share_their_label_maps(self, drawn):
        game, city = (open_dataset(f"streets:{domain}?n=2&size=8x8&seed=3") for domain in ("game", "city"))
        for one, other in zip(game, city, strict=True):
            assert one["label"].tobytes() == other["label"].tobytes()
            assert one["image"].tobytes() != other["image"].tobytes()
        both = concatenate_datasets([game, city])
        self.check(both[1])
        self.check(both[3], 10)

    def test_no_two_images_share_a_scene(self):
        last = streets.MAX_IMAGES - 1
        assert streets.scene_seed("train", 0, 12) == 12
        assert streets.scene_seed("train", 0, last) + 1 == streets.scene_seed("validation", 0, 0)
        assert streets.scene_seed("validation", 5, last) + 1 == streets.scene_seed("test", 5, 0)
        assert streets.scene_seed("test", 0, last) + 1 == streets.scene_seed("train", 1, 0)
        assert streets.scene_seed("test", streets.MAX_SEED, last) < 2**63

    def test_another_version_of_the_scenes(self, drawn, tmp_path, monkeypatch):
        open_dataset("streets:game?n=2&size=8x8").save_to_disk(tmp_path / "stored")
        stored = load_from_disk(tmp_path / "stored")
        self.check(stored[0])
        monkeypatch.setattr(streets.geometry, "VERSIONS", {7: None})
        for column in ("image", "label"):
            with pytest.raises(ValueError, match="version 1 of the streets.*draws version 7"):
                stored[column][0]

    @pytest.mark.parametrize(
        "rest, message",
        [
            ("mars", "no domain 'mars', only game, city"),
            ("", "no domain ''"),
            ("game?m=3", "does not know 'm'"),
            ("game?n=3&n=4", "'n'.*twice"),
            ("game?n=0", "n=0 is no whole number from 1"),
            ("game?n=1000001", "n=1000001"),
            ("game?n=", "n= is no whole number"),
            ("game?size=512", "size=512 is no height x width"),
            ("game?size=0x8", "size=0x8"),
            ("game?size=-8x8", "size=-8x8"),
            ("game?seed=-1", "seed=-1"),
            ("game?seed=1.5", "seed=1.5"),
            ("game?version=0", "version=0 is no whole number from 1 to 2"),
            ("game?version=3", "version=3 is no whole number from 1 to 2"),
        ],
    )
    def test_bad_queries(self, drawn, rest, message):
        with pytest.raises(ValueError, match=message):
            open_dataset(f"streets:{rest}")

    def test_unknown_split(self, drawn):
        with pytest.raises(ValueError, match="no split 'val', only train, validation, test"):
            open_dataset("streets:game", "val")

    def test_the_generator(self):
        """The real one: sizes agree, only known ids, every domain renders."""
        expected = None
        for domain in streets.look.DOMAINS:
            row = open_dataset(f"streets:{domain}?n=1&size=96x160&seed=7", "validation")[0]
            assert row["image"].size == row["label"].size == (160, 96)
            ids = np.asarray(row["label"])
            assert set(np.unique(ids)) <= {*range(len(CITYSCAPES_CLASSES)), IGNORE}
            expected = ids if expected is None else expected
            np.testing.assert_array_equal(ids, expected)


# --- registration -------------------------------------------------------------------------------------------------


@pytest.fixture
def own(monkeypatch):
    """A dataset of one's own: what its file has to hold is a table, a layout, and a `NamedDataset` of them."""
    info = DatasetDescription(
        "mine", splits=("train", "dusk", "val"), licence="none", usage="mine:/path", id2label={0: "a"}
    )

    def load(path, split):
        folder = base.open_folder(path, info) / split
        return dataset_of_frames(base.frames_of_folders(folder, folder), {7: 0, 9: IGNORE}, info, split)

    monkeypatch.setattr(registry, "DATASETS", dict(DATASETS))
    return NamedDataset(info, load)


def test_a_registered_dataset_opens_wherever_a_spec_is_taken(own, tmp_path):
    with pytest.raises(ValueError, match="Unknown dataset 'mine'"):
        open_dataset(f"mine:{tmp_path}")
    register_dataset("mine", own)
    for number, split in enumerate(own.info.splits):
        labels = np.array([[7, 9, 9]], np.uint8)[:, : number + 1]
        write_frame(tmp_path / split / f"{split}.jpg", tmp_path / split / f"{split}.png", labels, None)
    dataset = open_dataset(f"mine:{tmp_path}")
    np.testing.assert_array_equal(np.asarray(dataset[0]["label"]), [[0]])
    assert dataset[0]["file_name"] == "train" and classes_of(dataset) == {0: "a"}
    assert open_dataset(f"mine:{tmp_path}", held_out=True)[0]["file_name"] == "val"
    assert describe_dataset(f"mine:{tmp_path}") is own.info
    assert evaluation_domains([f"mine:{tmp_path}", f"night=mine:{tmp_path}@dusk"]) == [
        Domain("mine", f"mine:{tmp_path}", "val"),
        Domain("night", f"mine:{tmp_path}", "dusk"),
    ]
    assert parse_domain(f"mine:{tmp_path}@dusk") == Domain("dusk", f"mine:{tmp_path}", "dusk")
    with pytest.raises(ValueError, match="Unknown dataset 'other'.*mine:/path"):
        open_dataset("other:/data")


def test_what_cannot_be_registered(own):
    register_dataset("mine", own)
    register_dataset("mine", own)  # a module may run twice
    other = NamedDataset(own.info, own.load, own.load)
    with pytest.raises(ValueError, match="'mine' already; .*exist_ok=True"):
        register_dataset("mine", other)
    register_dataset("mine", other, exist_ok=True)
    assert registry.DATASETS["mine"] is other
    with pytest.raises(ValueError, match="'yours', but its info has the name 'mine'"):
        register_dataset("yours", own)
    with pytest.raises(ValueError, match="letters, digits, - and _, got 'my:own'"):
        register_dataset("my:own", own)
    with pytest.raises(TypeError, match=r"is a \w+\(info, load\), got function"):
        register_dataset("mine", own.load)


def test_tables_translate_every_byte():
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    table = tuple(columns.id_table({index: 255 - index for index in range(256)}))
    np.testing.assert_array_equal(reading.translate(ids, table, "x"), 255 - ids)
    assert torch.equal(torch.tensor(columns.id_table({2: 5, 0: 1})), torch.tensor([1, -1, 5]))
