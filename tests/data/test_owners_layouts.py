# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Datasets as their owners ship them, in folders and in zip archives; own folders; archives across processes."""

import csv
import json
import multiprocessing
import os
import pickle
import sys
import time
import zipfile
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from datasets import Dataset, concatenate_datasets, load_from_disk
from datasets.table import embed_table_storage
from torch.utils.data import DataLoader

from tests.support import dataset_copies
from tests.support.dataset_copies import IGNORE, LAYOUTS, Layout, add_pair, write_label
from vfmseg_hf.data import (
    acdc,
    bdd100k,
    cityscapes,
    describe_dataset,
    findings,
    gtav,
    mapillary,
    open_dataset,
    storage,
    synthia,
)
from vfmseg_hf.model.labels import CITYSCAPES_CLASSES, CITYSCAPES_ID2LABEL


@pytest.fixture
def make_copy(tmp_path):
    return lambda name, packed=False: dataset_copies.make_copy(tmp_path, name, packed)


@pytest.fixture
def notices(monkeypatch):
    texts = []
    findings.logger.warning_once.cache_clear()
    monkeypatch.setattr(findings.logger, "warning", lambda text, *rest, **more: texts.append(text))
    yield texts
    findings.logger.warning_once.cache_clear()


@pytest.fixture(params=["folders", "archives"])
def copy(request, make_copy):
    return make_copy("cityscapes", request.param == "archives")


# --- what comes out -----------------------------------------------------------------------------------------------


class TestLayouts:
    @pytest.mark.parametrize("packed", [False, True], ids=["folders", "archives"])
    @pytest.mark.parametrize("name", list(LAYOUTS))
    def test_rows(self, make_copy, name, packed):
        copy = make_copy(name, packed)
        assert copy.layout.splits <= set(describe_dataset(copy.spec).splits)
        for split in copy.layout.splits:
            dataset = copy.load(split)
            assert dataset.column_names == ["image", "label", "file_name"]
            names = [Layout.name(image) for s, image, _ in copy.layout.frames if s == split]
            assert sorted(dataset["file_name"]) == sorted(names)
            for row in dataset:
                copy.check(row)

    def test_one_archive_may_be_the_dataset(self, make_copy):
        copy = make_copy("synthia", packed=True)
        copy.spec = f"synthia:{copy.folder}/SYNTHIA_RAND_CITYSCAPES.zip"
        assert len([copy.check(row) for row in copy.load()]) == 2

    def test_archives_unpacked_into_folders_of_their_own(self, make_copy):
        copy = make_copy("acdc")
        for part in ("rgb_anon", "gt"):
            (copy.folder / f"{part}_unpacked").mkdir()
            (copy.folder / part).rename(copy.folder / f"{part}_unpacked" / part)
        assert len([copy.check(row) for row in copy.load("val")]) == 4

    def test_numbered_archives_unpacked_into_folders_of_their_own(self, make_copy):
        copy = make_copy("gtav")
        for kind in ("images", "labels"):
            for number, start in (("01", "00"), ("05", "12")):
                folder = copy.folder / f"{number}_{kind}" / kind
                folder.mkdir(parents=True)
                for path in (copy.folder / kind).glob(f"{start}*"):
                    path.rename(folder / path.name)
            (copy.folder / kind).rmdir()
        assert len([copy.check(row) for row in copy.load()]) == 3
        (copy.folder / "05_labels/labels/00001.png").write_bytes(b"")
        with pytest.raises(ValueError, match=r"one file twice: .*01_labels/labels/00001.png and .*05_labels"):
            copy.load()

    def test_archives_with_a_folder_around_everything_unpacked(self, make_copy):
        copy = make_copy("bdd100k")
        for kind, name in (("images", "bdd100k_images_10k"), ("labels", "bdd100k_sem_seg_labels_trainval")):
            (copy.folder / name / "bdd100k").mkdir(parents=True)
            (copy.folder / kind).rename(copy.folder / name / "bdd100k" / kind)
        (copy.folder / "bdd100k_images_10k/__MACOSX/images/10k/train").mkdir(parents=True)
        assert len([copy.check(row) for row in copy.load("train")]) == 1

    def test_the_folder_seg_may_be_the_dataset(self, make_copy):
        copy = make_copy("bdd100k (older)")
        copy.spec += "/seg"
        assert len([copy.check(row) for row in copy.load("val")]) == 1

    @pytest.mark.parametrize(
        "name, noticed",
        [("gtav", True), ("synthia", True), ("mapillary", True), ("mapillary (v1.2 release)", True),
         ("cityscapes", False), ("acdc", False)],
    )  # fmt: skip
    def test_what_other_code_has_written_is_skipped(self, make_copy, notices, name, noticed):
        copy = make_copy(name)
        for _, _, label in copy.layout.frames:
            path = copy.folder / label
            stem = path.stem.removesuffix("_labelIds")
            PIL.Image.new("L", (16, 12), 77).save(path.with_name(f"{stem}_labelTrainIds.png"))
        for split in copy.layout.splits:
            assert len([copy.check(row) for row in copy.load(split)]) > 0
        assert sum("_labelTrainIds.png are skipped" in text for text in notices) == noticed

    def test_only_what_other_code_has_written(self, make_copy):
        copy = make_copy("gtav")
        for path in (copy.folder / "labels").iterdir():
            path.rename(path.with_name(f"{path.stem}_labelTrainIds.png"))
        with pytest.raises(FileNotFoundError, match="3 of 3 files have no label map"):
            copy.load()

    def test_acdc_conditions(self, make_copy):
        copy = make_copy("acdc")
        assert len(copy.load("val")) == 4
        (row,) = copy.load("val_night")
        copy.check(row)
        assert row["file_name"] == "GOPR0475_frame_000005"

    def test_unpacked_folders_come_before_archives(self, make_copy):
        copy = make_copy("cityscapes")
        copy.layout.pack(copy.folder, copy.folder / "zips")
        for path in (copy.folder / "zips").iterdir():
            path.rename(copy.folder / path.name)
        cells = copy.load("train").with_format("arrow")[:]["image"].to_pylist()
        assert not any(cell["path"].startswith("zip://") for cell in cells)


class TestOperations:
    """On both kinds of storage; labels in folders are covered more widely in `test_datasets`."""

    @pytest.mark.parametrize(
        "operate",
        [
            lambda d, p: d.select(range(len(d))[::-1]),
            lambda d, p: d.shuffle(seed=0),
            lambda d, p: d.filter(lambda row: row["label"].size == (16, 12)),
            lambda d, p: d.map(lambda row: {**row, "seen": 1}),
            lambda d, p: d.map(lambda row: {"seen": 1}, num_proc=2),
            lambda d, p: d.to_iterable_dataset().shuffle(seed=0, buffer_size=2),
            lambda d, p: d.save_to_disk(p) or load_from_disk(p),
            lambda d, p: d.save_to_disk(p) or open_dataset(str(p)),
            lambda d, p: d.to_parquet(f"{p}.parquet") and Dataset.from_parquet(f"{p}.parquet", cache_dir=f"{p}.cache"),
            lambda d, p: pickle.loads(pickle.dumps(d)),
            lambda d, p: concatenate_datasets([d, d]).select([0, 3]),
            lambda d, p: d.with_format("arrow").map(embed_table_storage, batched=True).with_format(None),
            lambda d, p: [r for b in DataLoader(d, 1, num_workers=2, collate_fn=list, multiprocessing_context="fork")
                          for r in b],
        ],
        ids="select shuffle filter map processes iterable disk table parquet pickle concatenate embed workers".split(),
    )  # fmt: skip
    def test_ids_stay_mapped(self, copy, tmp_path, operate):
        rows = list(operate(copy.load("train"), tmp_path / "stored"))
        assert {row["file_name"] for row in rows} == {"aachen_000000_000019", "ulm_000007_000019"}
        for row in rows:
            copy.check(row)

    def test_folders_and_archives_in_one(self, make_copy):
        first, second = make_copy("cityscapes"), make_copy("gtav", packed=True)
        rows = list(concatenate_datasets([first.load("train"), second.load()]))
        for row in rows:
            (first if "000019" in row["file_name"] else second).check(row)
        assert len(rows) == 5

    def test_what_goes_to_the_hub_names_no_archive(self, make_copy):
        dataset = make_copy("cityscapes", packed=True).load("train").with_format("arrow")
        cells = dataset.map(embed_table_storage, batched=True, keep_in_memory=True)[:]
        assert ".zip" not in str([cells[name].to_pylist() for name in ("image", "label")])


# --- archives -----------------------------------------------------------------------------------------------------


def _read_all(copy, queue):
    rows = list(copy.load("train"))
    for row in rows:
        copy.check(row)
    queue.put((os.getpid(), sorted({process for process, _ in storage._handles}), len(storage._handles)))


class TestArchives:
    def test_one_handle_per_archive_and_process(self, make_copy, monkeypatch):
        copy = make_copy("cityscapes", packed=True)
        opened = []
        original = zipfile.ZipFile
        monkeypatch.setattr(storage, "_handles", {})
        monkeypatch.setattr(storage.zipfile, "ZipFile", lambda path: opened.append(path) or original(path))
        dataset = copy.load("train")
        for _ in range(3):
            list(dataset)
        assert len(opened) == 2

    def test_members_of_a_large_archive_open_at_once(self, tmp_path, monkeypatch):
        with zipfile.ZipFile(tmp_path / "large.zip", "w") as archive:
            for number in range(25_000):
                archive.writestr(f"labels/{number:05d}.png", b"label")
        monkeypatch.setattr(storage, "_handles", {})
        start = time.process_time()  # 0.1 seconds, for the list of contents; for every member again it takes 11
        for number in range(0, 25_000, 250):
            assert storage.read_bytes(f"zip://labels/{number:05d}.png::{tmp_path}/large.zip") == b"label"
        assert time.process_time() - start < 1.5

    def test_an_archive_that_is_replaced_is_opened_again(self, make_copy):
        """Also in place, where its length stays: what is read is never a mix of both."""
        copy = make_copy("cityscapes", packed=True)
        dataset = copy.load("val")
        copy.check(dataset[0])
        path = copy.folder / "gtFine_trainvaltest.zip"
        first = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            (member,) = [name for name in archive.namelist() if name.startswith("gtFine/val")]
        with storage.open_location(f"zip://{member}::{path}") as file:
            start = file.read(20)
            with zipfile.ZipFile(path.with_suffix(".new"), "w") as archive:
                archive.writestr("before", b"moves the member elsewhere")
                archive.writestr(member, b"another label map")
            os.replace(path.with_suffix(".new"), path)
            assert storage.read_bytes(f"zip://{member}::{path}") == b"another label map"
            with zipfile.ZipFile(BytesIO(first)) as archive:
                assert start + file.read() == archive.read(member), "a reader of the old file reads on in it"
        path.write_bytes(first)
        copy.check(dataset[0])
        changed = path.stat().st_mtime_ns + 1
        path.write_bytes(bytes(len(first)))
        os.utime(path, ns=(changed, changed))
        with pytest.raises(OSError, match="Cannot read the archive"):
            dataset["label"][0]

    def test_a_forked_process_opens_its_own(self, make_copy, monkeypatch):
        copy = make_copy("cityscapes", packed=True)
        monkeypatch.setattr(storage, "_handles", {})
        list(copy.load("train"))
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        process = context.Process(target=_read_all, args=(copy, queue))
        process.start()
        child, owners, count = queue.get(timeout=30)
        process.join()
        assert owners == [child] and count == 2
        assert {owner for owner, _ in storage._handles} == {os.getpid()}
        list(copy.load("train"))

    def test_damage(self, make_copy):
        copy = make_copy("cityscapes", packed=True)
        dataset = copy.load("val")
        path = copy.folder / "gtFine_trainvaltest.zip"
        content = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            member = next(m for m in archive.infolist() if "munster" in m.filename and "MACOSX" not in m.filename)
        start = member.header_offset + 30 + len(member.filename)
        content[start + 20 : start + 40] = bytes(20)
        path.write_bytes(content)
        with pytest.raises(OSError, match=r"Cannot read zip://gtFine/val/munster/.*gtFine_trainvaltest.zip"):
            dataset[0]
        path.write_bytes(b"nothing")
        with pytest.raises(OSError, match=r"Cannot read .*gtFine_trainvaltest.zip: .*Download"):
            dataset[0]
        with pytest.raises(OSError, match="Cannot read the archive .*gtFine_trainvaltest.zip"):
            copy.load("val")
        path.unlink()
        with pytest.raises(FileNotFoundError, match="gtFine_trainvaltest.zip"):
            dataset[0]

    @pytest.mark.parametrize("use", [lambda row: {**row}, lambda row: {"image": row["image"], "label": row["label"]}])
    @pytest.mark.parametrize("packed", [False, True], ids=["folders", "archives"])
    def test_mapped_images_lose_nothing(self, make_copy, use, packed):
        copy = make_copy("bdd100k")
        (image,) = (copy.folder / "images/10k/val").iterdir()
        noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        PIL.Image.fromarray(noise).save(image, quality=98, subsampling=0)
        if packed:
            copy.layout.pack(copy.folder, copy.folder.parent / "zips")
            copy.spec = f"bdd100k:{copy.folder.parent}/zips"
        dataset = copy.load("val")
        expected = np.asarray(dataset[0]["image"])
        for rows in (dataset.map(use), Dataset.from_list([dataset[0]])):
            np.testing.assert_array_equal(np.asarray(rows[0]["image"]), expected)

    def test_archives_that_do_not_matter_may_be_broken(self, make_copy, notices):
        copy = make_copy("cityscapes", packed=True)
        (copy.folder / "leftImg8bit_trainextra.zip").write_bytes(b"still downloading")
        assert len([copy.check(row) for row in copy.load("train")]) == 2
        assert sum("leftImg8bit_trainextra.zip: File is not a zip file" in text for text in notices) == 1
        (copy.folder / "gtFine_trainvaltest.zip").unlink()
        with pytest.raises(FileNotFoundError, match=r"No gtFine/train.*leftImg8bit_trainextra.zip: File is not a zip"):
            copy.load("train")

    def test_split_archives(self, make_copy, notices):
        copy = make_copy("mapillary", packed=True)
        path = copy.folder / "vistas.zip"
        content = path.read_bytes()
        path.with_suffix(".z01").write_bytes(content[: len(content) // 2])
        path.write_bytes(content[len(content) // 2 :])
        with pytest.raises(
            FileNotFoundError, match=r"split archive. Join the parts with `zip -s 0 vistas.zip --out whole.zip`"
        ):
            copy.load("training")
        (copy.folder / "whole.zip").write_bytes(content)
        assert len([copy.check(row) for row in copy.load("training")]) == 2

    def test_other_kinds_of_archives_have_to_be_unpacked(self, tmp_path):
        path = tmp_path / "SYNTHIA_RAND_CITYSCAPES.rar"
        path.write_bytes(b"Rar!")
        with pytest.raises(FileNotFoundError, match=r"Unpack SYNTHIA_RAND_CITYSCAPES.rar: only zip archives"):
            open_dataset(f"synthia:{tmp_path}")
        with pytest.raises(ValueError, match=r"RAND_CITYSCAPES.rar is no zip archive. Unpack it, and pass the folder"):
            open_dataset(f"synthia:{path}")

    def test_suffixes_in_capitals(self, make_copy):
        copy = make_copy("cityscapes", packed=True)
        for path in list(copy.folder.iterdir()):
            path.rename(path.with_suffix(".ZIP"))
        assert len([copy.check(row) for row in copy.load("train")]) == 2

    def test_broken_image(self, make_copy):
        copy = make_copy("gtav")
        (copy.folder / "images" / "00002.png").write_bytes(b"no image")
        with pytest.raises(OSError, match=r"Cannot read the image .*images/00002.png: "):
            open_dataset(f"gtav:{copy.folder}")[1]["image"]
        copy.layout.pack(copy.folder, copy.folder.parent / "zips")
        dataset = open_dataset(f"gtav:{copy.folder.parent}/zips")
        with pytest.raises(OSError, match=r"Cannot read the image zip://images/00002.png::.*01_images.zip"):
            dataset["image"][1]

    def test_a_file_in_two_archives(self, make_copy):
        copy = make_copy("cityscapes", packed=True)
        (copy.folder / "copy.zip").write_bytes((copy.folder / "gtFine_trainvaltest.zip").read_bytes())
        with pytest.raises(ValueError, match="holds one file twice.*copy.zip"):
            copy.load("train")


# --- bad input ----------------------------------------------------------------------------------------------------


class TestErrors:
    @pytest.mark.parametrize("name", ["cityscapes", "gtav", "bdd100k", "mapillary", "synthia", "acdc"])
    def test_not_the_layout(self, tmp_path, name):
        with pytest.raises(FileNotFoundError, match=r"read as its owners ship it: .*(/|\*)"):
            open_dataset(f"{name}:{tmp_path}")
        with pytest.raises(FileNotFoundError, match=f"No folder {tmp_path}/nowhere for the dataset {name}"):
            open_dataset(f"{name}:{tmp_path}/nowhere")
        with pytest.raises(ValueError, match=f"{name} needs the folder"):
            open_dataset(f"{name}:")

    @pytest.mark.parametrize("packed", [False, True], ids=["folders", "archives"])
    @pytest.mark.parametrize("name", list(LAYOUTS))
    def test_a_file_without_its_partner(self, make_copy, name, packed):
        copy = make_copy(name)
        split, image, label = copy.layout.frames[0]
        # Another frame of the split, so that its folder does not become empty.
        for path in (image, label):
            other = Path(path).with_name("zz" + Path(path).name)
            (copy.folder / other).write_bytes((copy.folder / path).read_bytes())
        (copy.folder / label).unlink()
        if packed:
            with zipfile.ZipFile(copy.folder / "all.zip", "w") as archive:
                for path in copy.folder.rglob("*.*g"):
                    archive.write(path, path.relative_to(copy.folder))
            copy.spec = copy.spec.replace(str(copy.folder), str(copy.folder / "all.zip"))
        with pytest.raises(FileNotFoundError, match=rf"1 of \d files have no label map: .*{image}"):
            copy.load(split)

    def test_unknown_ids(self, copy):
        dataset = copy.load("train")
        cells = dataset.with_format("arrow")[:]["label"].to_pylist()
        table = cells[0]["table"]
        missing = next(value for value in (7, 8, 11) if (copy.expected["aachen_000000_000019"] == table[value]).any())
        cells[0]["table"][missing] = -1
        changed = Dataset.from_dict({"label": cells[:1]}, features=dataset.select_columns("label").features)
        with pytest.raises(ValueError, match=rf"aachen_000000_000019_gtFine_labelIds.png.* holds ids \[{missing}\]"):
            changed[0]

    def test_settings(self, make_copy):
        copy = make_copy("mapillary")
        for query, message in (
            ("?version=3", "no version '3', only 1.2, 2.0"),
            ("?mapping=mine", "1.2 has no mapping 'mine', only hrda, name_rules"),
            ("?version=2.0&mapping=hrda", "2.0 has no mapping 'hrda', only fixed, name_rules"),
            ("?size=3", "does not know 'size'"),
        ):
            with pytest.raises(ValueError, match=message):
                copy.load(None, query)
        with pytest.raises(FileNotFoundError, match="training/v2.0/labels"):
            copy.load(None, "?version=2.0")


class TestMapillary:
    def test_the_choice_is_recorded_and_applied(self, make_copy):
        copy = make_copy("mapillary")
        assert copy.load("training").info.description.endswith(", version=1.2, mapping=hrda")
        dataset = copy.load("training", "?mapping=name_rules")
        assert "mapping=name_rules" in dataset.info.description
        with PIL.Image.open(copy.folder / "training/v1.2/labels/abc_DE-0.png") as image:
            table = mapillary.MAPPINGS["1.2"]["name_rules"]
            np.testing.assert_array_equal(np.asarray(dataset[0]["label"]), np.vectorize(table.get)(np.asarray(image)))

    def test_instances_of_8_bits(self, make_copy):
        copy = make_copy("mapillary (instances)")
        write_label(copy.folder / "validation/v1.2/instances/q_1.png", np.zeros((12, 16), np.uint8), "plain")
        with pytest.raises(ValueError, match="q_1.png is uint8 .*expected 16-bit"):
            copy.load("validation")[0]


class TestSynthia:
    def test_copies_of_8_bits_have_lost_their_ids(self, make_copy):
        copy = make_copy("synthia")
        PIL.Image.new("RGB", (16, 12)).save(copy.folder / "GT/LABELS/0000000.png")
        with pytest.raises(ValueError, match="0000000.png is torch.uint8 with 3 channels, expected.*16 bits"):
            copy.load()[0]
        (copy.folder / "GT/LABELS/0000000.png").write_bytes(b"")
        with pytest.raises(OSError, match="Cannot read .*0000000.png"):
            copy.load()[0]

    def test_without_torchvision(self, make_copy, monkeypatch):
        monkeypatch.setitem(sys.modules, "torchvision", None)
        with pytest.raises(ImportError, match=r"vfmseg-hf\[train\]"):
            make_copy("synthia").load()


class TestIncompleteCopies:
    @pytest.mark.parametrize(
        "name, splits",
        [
            ("cityscapes", {"train": (2, 2975), "val": (1, 500)}),
            ("bdd100k", {"train": (1, 7000), "val": (1, 1000)}),
            ("mapillary", {"training": (2, 18000), "validation": (1, 2000)}),
            ("synthia", {"train": (2, 9400)}),
            ("acdc", {"train": (4, 1600), "val": (4, 406), "val_night": (1, 106), "train_fog": (1, 400)}),
        ],
    )
    def test_are_noticed_and_recorded(self, make_copy, notices, name, splits):
        copy = make_copy(name)
        for split, (count, total) in splits.items():
            dataset = copy.load(split)
            assert dataset.info.description.startswith(f"{name}, {split}, {count} of {total} pairs")
            assert f"{name}: this copy has {count} of the {total} pairs of {split}." in notices

    def test_complete_ones_are_not(self, make_copy, notices, monkeypatch):
        monkeypatch.setitem(cityscapes.INFO.pairs, "train", 2)
        assert make_copy("cityscapes").load("train").info.description == "cityscapes, train"
        assert notices == []


class TestBdd100k:
    def test_pairs_of_different_views_are_left_out(self, make_copy, notices, monkeypatch):
        monkeypatch.setitem(bdd100k.INFO.pairs, "val", 3)
        copy = make_copy("bdd100k")
        for name in ("80a9e37d-e4548ac1", "9342e334-33d167eb"):
            files = f"images/10k/val/{name}.jpg", f"labels/sem_seg/masks/val/{name}.png"
            add_pair(copy, *files, size=(12, 16), label_size=(16, 12))
        (row,) = dataset = copy.load("val")
        copy.check(row)
        names = "80a9e37d-e4548ac1 and 9342e334-33d167eb"
        assert dataset.info.description == f"bdd100k, val, 1 of 3 pairs without {names}"
        (notice,) = notices
        assert notice.startswith(f"bdd100k: {names} are left out, because their label maps are of another view")

    def test_copies_from_before_the_images_were_mended(self, make_copy, notices, monkeypatch):
        """Six images without label map, and six label maps without image."""
        monkeypatch.setitem(bdd100k.INFO.pairs, "train", 5)
        copy = make_copy("bdd100k")
        for name in bdd100k.WRONG_VIEW[:4]:
            PIL.Image.new("RGB", (12, 16)).save(copy.folder / f"images/10k/train/{name}.jpg")
        for name in bdd100k.LONELY[:4]:
            PIL.Image.new("L", (16, 12)).save(copy.folder / f"labels/sem_seg/masks/train/{name}.png")
        (row,) = copy.load("train")
        copy.check(row)
        assert len(notices) == 2 and "fee92217-63b3f87f" in notices[1] and "are not published" in notices[1]
        # With their images they are pairs like all others; other label maps without image are still errors.
        add_pair(copy, f"images/10k/train/{name}.jpg", f"labels/sem_seg/masks/train/{name}.png")
        assert name in list(copy.load("train")["file_name"])
        PIL.Image.new("L", (16, 12)).save(copy.folder / "labels/sem_seg/masks/train/other.png")
        with pytest.raises(FileNotFoundError, match="have no image: .*other.png"):
            copy.load("train")


class TestGtav:
    def test_left_out_by_name(self, make_copy, notices):
        copy = make_copy("gtav")
        for name in gtav.WRONG_SIZE:
            add_pair(copy, f"images/{name}.png", f"labels/{name}.png", label_size=(8, 6))
        for _ in range(2):
            assert list(copy.load()["file_name"]) == ["00001", "00002", "12000"]
        assert copy.load().info.description == "gtav, train, 3 of 24966 pairs without 15188 and 17705"
        assert sum("15188 and 17705 are left out" in text for text in notices) == 1
        assert sum("24961 of 24966 pairs are not in this copy: 00003, 00004" in text for text in notices) == 1

    @pytest.mark.parametrize("packed", [False, True], ids=["folders", "archives"])
    def test_doubtful_pairs_are_left_out_if_their_sizes_differ(self, make_copy, notices, packed, tmp_path):
        copy = make_copy("gtav")
        for name, size in {"20801": (16, 11), "20802": (16, 12), "20860": (15, 12)}.items():
            add_pair(copy, f"images/{name}.png", f"labels/{name}.png", label_size=size)
        add_pair(copy, "images/20803.png", "labels/20803.png")
        (copy.folder / "labels/20803.png").write_bytes(b"broken")
        if packed:
            with zipfile.ZipFile(copy.folder / "all.zip", "w") as archive:
                for path in copy.folder.rglob("*.png"):
                    archive.write(path, path.relative_to(copy.folder))
            copy.spec += "/all.zip"
        dataset = copy.load()
        assert list(dataset["file_name"]) == ["00001", "00002", "12000", "20802", "20803"]
        assert dataset.info.description == "gtav, train, 5 of 24966 pairs without 20801 and 20860"
        assert "gtav: 20801 and 20860 are left out, because their label maps have another size" in "".join(notices)
        assert dataset[3]["label"].size == (16, 12)
        with pytest.raises(OSError, match="20803.png"):
            dataset[4]
        (tmp_path / "split.json").write_text(json.dumps({"val": [1, 2, 20801, 20802]}))
        dataset = copy.load("val", f"?split_file={tmp_path}/split.json")
        assert dataset.info.description == "gtav, val, 3 of 4 pairs without 20801, split_file=split.json"

    def test_the_owners_split(self, make_copy, tmp_path, notices):
        copy = make_copy("gtav")
        with pytest.raises(ValueError, match=r"owners' split file only.*split_file="):
            copy.load("val")
        (tmp_path / "split.json").write_text(json.dumps({"train": [1, 3], "val": [2, 12000]}))
        query = f"?split_file={tmp_path}/split.json"
        assert list(copy.load("val", query)["file_name"]) == ["00002", "12000"]
        dataset = copy.load("train", query)
        assert list(dataset["file_name"]) == ["00001"] and "split.json" in dataset.info.description
        assert notices == ["gtav: 1 of 2 pairs are not in this copy: 00003"]
        with pytest.raises(ValueError, match="no list of whole numbers for the part 'test'"):
            copy.load("test", query)
        with pytest.raises(FileNotFoundError, match="nowhere.mat is missing"):
            copy.load("val", "?split_file=nowhere.mat")

    def test_mat_files(self, make_copy, tmp_path, monkeypatch):
        """With a stand-in for scipy, which is no dependency; the owners' file holds columns of numbers."""
        copy = make_copy("gtav")
        (tmp_path / "split.mat").write_bytes(b"")
        query = f"?split_file={tmp_path}/split.mat"
        monkeypatch.setitem(sys.modules, "scipy", None)
        monkeypatch.setitem(sys.modules, "scipy.io", None)
        with pytest.raises(ImportError, match="needs scipy"):
            copy.load("val", query)
        io = SimpleNamespace(loadmat=lambda path: {"valIds": np.array([[2], [12000]], np.uint16)})
        monkeypatch.setitem(sys.modules, "scipy", SimpleNamespace(io=io))
        monkeypatch.setitem(sys.modules, "scipy.io", io)
        assert list(copy.load("val", query)["file_name"]) == ["00002", "12000"]
        with pytest.raises(ValueError, match="part 'test'"):
            copy.load("test", query)

    def test_names_that_are_no_numbers(self, make_copy):
        copy = make_copy("gtav")
        for folder in ("images", "labels"):
            (copy.folder / folder / "00001.png").rename(copy.folder / folder / "first.png")
        with pytest.raises(ValueError, match="first.png is no image of gtav"):
            copy.load()


# --- own data -----------------------------------------------------------------------------------------------------


class TestFolder:
    @pytest.fixture
    def write(self, tmp_path):
        def make(plan, labels: np.ndarray, name: str = "dataset.yaml") -> str:
            for path in ("photos/a", "masks/a"):
                (tmp_path / path).mkdir(parents=True, exist_ok=True)
            PIL.Image.new("RGB", labels.shape[1::-1]).save(tmp_path / "photos/a/1_left.jpg")
            PIL.Image.fromarray(labels).save(tmp_path / "masks/a/1_gt.png")
            text = plan if isinstance(plan, str) else json.dumps(plan)
            (tmp_path / name).write_text(text)
            return f"folder:{tmp_path}/{name}"

        return make

    FILES = {"images": "photos", "labels": "masks/", "image_suffix": "_left.jpg", "label_suffix": "_gt.png"}

    def test_ids(self, write, tmp_path):
        spec = write(
            "images: photos\nlabels: masks\nimage_suffix: _left.jpg\nlabel_suffix: _gt.png\n"
            "ids:\n  way: [7, 24]\n  car: 26\nignore: [0, 255]\n",
            np.array([[0, 7, 24, 26, 255]], np.uint8),
        )
        info = describe_dataset(spec)
        assert info.id2label == {0: "way", 1: "car"} and info.splits == ("all",)
        assert info.evaluation.names == ("way", "car")
        for dataset in (open_dataset(spec), open_dataset(spec, "all")):
            (row,) = dataset
            assert row["file_name"] == "a/1"
            np.testing.assert_array_equal(np.asarray(row["label"]), [[255, 0, 0, 1, 255]])
        PIL.Image.fromarray(np.array([[9, 0, 0, 0, 0]], np.uint8)).save(tmp_path / "masks/a/1_gt.png")
        with pytest.raises(ValueError, match=r"1_gt.png holds ids \[9\]"):
            open_dataset(spec)[0]

    @pytest.mark.parametrize("palette", [False, True])
    def test_colours(self, write, tmp_path, palette):
        colours = {"way": [128, 64, 128], "car": [[0, 0, 142], [0, 0, 70]]}
        pixels = np.array([[[128, 64, 128], [0, 0, 142], [0, 0, 70], [9, 9, 9]]], np.uint8)
        spec = write({**self.FILES, "colours": colours, "ignore": [9, 9, 9]}, pixels, "dataset.json")
        if palette:
            PIL.Image.fromarray(pixels).quantize(4).save(tmp_path / "masks/a/1_gt.png")
        dataset = open_dataset(spec)
        dataset.save_to_disk(tmp_path / "stored")
        for rows in (dataset, load_from_disk(tmp_path / "stored")):
            np.testing.assert_array_equal(np.asarray(rows[0]["label"]), [[0, 1, 1, 255]])
        pixels[0, 3] = 10
        PIL.Image.fromarray(pixels).save(tmp_path / "masks/a/1_gt.png")
        with pytest.raises(ValueError, match=r"1_gt.png holds colours \['#0a0a0a'\].*it has \['#804080'"):
            open_dataset(spec)[0]

    def test_the_rest_may_be_ignored(self, write):
        spec = write({**self.FILES, "ids": {"way": 7}, "ignore": "rest"}, np.array([[7, 0, 201]], np.uint8))
        np.testing.assert_array_equal(np.asarray(open_dataset(spec)[0]["label"]), [[0, 255, 255]])
        pixels = np.array([[[1, 2, 3], [3, 2, 1]]], np.uint8)
        spec = write({**self.FILES, "colours": {"way": [1, 2, 3]}, "ignore": "rest"}, pixels)
        np.testing.assert_array_equal(np.asarray(open_dataset(spec)[0]["label"]), [[0, 255]])

    def test_classes_of_cityscapes(self, write):
        plan = {**self.FILES, "ids": {"car": 1, "road": 2}, "classes": "cityscapes"}
        spec = write(plan, np.array([[1, 2]], np.uint8))
        assert describe_dataset(spec).id2label == CITYSCAPES_ID2LABEL
        np.testing.assert_array_equal(np.asarray(open_dataset(spec)[0]["label"]), [[13, 0]])

    def test_splits_and_archives(self, write, tmp_path):
        part = {"images": "photos", "labels": "masks"}
        plan = {**self.FILES, "ids": {"way": 7}, "splits": {"fit": part, "check": part}}
        del plan["images"], plan["labels"]
        spec = write(plan, np.array([[7]], np.uint8))
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
            for path in ("photos/a/1_left.jpg", "masks/a/1_gt.png"):
                archive.write(tmp_path / path, path)
                (tmp_path / path).unlink()
        assert describe_dataset(spec).splits == ("fit", "check")
        assert np.asarray(open_dataset(spec, "check")[0]["label"]).tolist() == [[0]]
        with pytest.raises(ValueError, match="no split 'test', only fit, check"):
            open_dataset(spec, "test")

    def test_full_paths(self, write, tmp_path):
        plan = {**self.FILES, "ids": {"way": 7}, "images": f"{tmp_path}/photos/", "labels": f"{tmp_path}/masks"}
        (tmp_path / "elsewhere").mkdir()
        spec = write(plan, np.array([[7]], np.uint8), "elsewhere/dataset.json")
        assert len(open_dataset(spec)) == 1
        spec = write({**plan, "images": f"{tmp_path}/nowhere"}, np.array([[7]], np.uint8), "elsewhere/dataset.json")
        with pytest.raises(FileNotFoundError, match=f"No {tmp_path}/nowhere/"):
            open_dataset(spec)

    def test_one_name_in_two_folders(self, write, tmp_path):
        spec = write({**self.FILES, "ids": {"way": 7}}, np.array([[7]], np.uint8))
        for kind in ("photos", "masks"):
            (tmp_path / kind / "b").mkdir()
            for path in (tmp_path / kind / "a").iterdir():
                (tmp_path / kind / "b" / path.name).write_bytes(path.read_bytes())
        assert list(open_dataset(spec)["file_name"]) == ["a/1", "b/1"]

    def test_suffixes(self, write, tmp_path):
        plan = {"images": "photos", "labels": "masks", "ids": {"way": 7}}
        spec = write(plan, np.array([[7]], np.uint8))
        (tmp_path / "photos/a/1_left.jpg").rename(tmp_path / "photos/a/1.JPG")
        (tmp_path / "masks/a/1_gt.png").rename(tmp_path / "masks/a/1.PNG")
        assert list(open_dataset(spec)["file_name"]) == ["a/1"]
        (tmp_path / "photos/a/1.png").write_bytes((tmp_path / "masks/a/1.PNG").read_bytes())
        with pytest.raises(ValueError, match=r"one file twice: .*a/1.*Or say with `image_suffix` in .*dataset.yaml"):
            open_dataset(spec)
        write({**plan, "image_suffix": ".JPG"}, np.array([[7]], np.uint8))
        (tmp_path / "photos/a/1_left.jpg").unlink()
        (tmp_path / "masks/a/1_gt.png").unlink()
        assert len(open_dataset(spec)) == 1

    @pytest.mark.parametrize("value", ["upright", True, ["stored"]])
    def test_exif_is_one_of_two_words(self, write, value):
        spec = write({**self.FILES, "ids": {"way": 7}, "exif": value}, np.array([[7]], np.uint8))
        with pytest.raises(ValueError, match="dataset.yaml: `exif` is .*`stored` or `turned`"):
            open_dataset(spec)

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"classs": 1}, "unknown key 'classs'"),
            ({"ids": None}, "maps names of classes"),
            ({"colours": {"way": [1, 2, 3]}}, "needs one of `ids` and `colours`"),
            ({"ids": {"way": "7"}}, "way is an id 0..255, or a list of ids, got"),
            ({"ids": {"way": 300}}, "way is an id 0..255"),
            ({"ids": {"way": 7, "car": [8, 7]}}, "car holds 7, which is listed before"),
            ({"ignore": 7}, "ignore holds 7, which is listed before"),
            ({"classes": "cityscapes"}, "'way' is no class of Cityscapes; they are road"),
            ({"classes": "ade"}, "`classes` is `cityscapes` or left out"),
            ({"images": 3}, "'all' needs the folders"),
            ({"splits": {"a": {}}}, "belong into each of them"),
            ({"label_suffix": 3}, "`label_suffix` is how file names end"),
        ],
    )
    def test_mistakes(self, write, change, message):
        spec = write({**self.FILES, "ids": {"way": 7}, **change}, np.array([[7]], np.uint8))
        with pytest.raises(ValueError, match=message):
            open_dataset(spec)

    def test_bad_files(self, write, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere.yaml for the dataset folder"):
            open_dataset(f"folder:{tmp_path}/nowhere.yaml")
        with pytest.raises(FileNotFoundError, match="No file given"):
            open_dataset("folder:")
        for text, message in (("a: [", "cannot be read as YAML"), ("- a", "holds no keys")):
            with pytest.raises(ValueError, match=message):
                open_dataset(write(text, np.array([[7]], np.uint8)))
        with pytest.raises(ValueError, match=r"way is a colour \[red, green, blue\]"):
            open_dataset(write({**self.FILES, "colours": {"way": [[1, 2]]}}, np.array([[7]], np.uint8)))


# --- tables -------------------------------------------------------------------------------------------------------


class TestTables:
    @pytest.fixture
    def rows(self, shared):
        def read(name: str) -> list[dict[str, str]]:
            with open(shared / "data" / "label_tables" / name, newline="") as file:
                return list(csv.DictReader(file))

        return read

    def test_cityscapes_and_acdc(self, rows):
        table = {int(row["id"]) % 256: int(row["train_id"]) % 256 for row in rows("cityscapes_labels.csv")}
        assert table == cityscapes.TRAIN_IDS
        assert acdc.TRAIN_IDS is cityscapes.TRAIN_IDS

    def test_gtav(self, rows):
        table = {int(row["id"]): int(row["cityscapes_train_id"]) for row in rows("gta5_labels.csv")}
        assert table | {34: IGNORE} == gtav.TRAIN_IDS

    def test_synthia(self, rows):
        table = rows("synthia_rand_cityscapes_labels.csv")
        assert {int(row["id"]): int(row["cityscapes_train_id"]) for row in table} == synthia.TRAIN_IDS

    def test_bdd100k(self, shared):
        names = (shared / "data/label_tables/mseg/names/bddsemseg_names.txt").read_text().split("\n")
        assert [name for name in names if name] == [name for name, _ in CITYSCAPES_CLASSES]
        assert bdd100k.TRAIN_IDS == {**{index: index for index in range(19)}, IGNORE: IGNORE}

    @pytest.mark.parametrize("version, mapping", [(v, m) for v in mapillary.MAPPINGS for m in mapillary.MAPPINGS[v]])
    def test_mapillary(self, rows, shared, version, mapping):
        table = rows(f"mapillary/v{version}_to_cityscapes19.csv")
        assert mapillary.MAPPINGS[version][mapping] == {int(r["id"]): int(r[f"train_id_{mapping}"]) for r in table}
        config = json.loads((shared / f"data/label_tables/mapillary/config_v{version}.json").read_text())
        assert len(config["labels"]) == mapillary.LABELS[version]

    def test_the_two_mappings_differ_on_11_labels(self):
        hrda, rules = mapillary.MAPPINGS["1.2"].values()
        assert sum(rules[label] != hrda[label] for label in rules) == 11
