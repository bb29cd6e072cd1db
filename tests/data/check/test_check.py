# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The check of a dataset: all that is wrong is listed, classes are counted, and counts are kept for training."""

import csv
import json
import re
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from datasets import Dataset, Features, Image

from tests.support import dataset_copies
from tests.support.commands import call, launch
from tests.support.dataset_copies import IGNORE, LAYOUTS, TREES, Layout, write_frame
from vfmseg_hf.data import bdd100k, cityscapes, class_statistics, count_class_pixels, open_dataset
from vfmseg_hf.data.check import check_dataset, checking, class_chart, format_report, report_as_dict
from vfmseg_hf.model.labels import CITYSCAPES_ID2LABEL
from vfmseg_hf.prediction.visualization import class_colours


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where counts are kept; also for scripts that a test starts."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vfmseg_class_pixels"


@pytest.fixture
def counted(monkeypatch):
    """How many label maps `count_class_pixels` has read, by its calls."""
    numbers = []
    count = class_statistics._count
    monkeypatch.setattr(class_statistics, "_count", lambda data, *rest: numbers.append(len(data)) or count(data, *rest))
    return numbers


def check(spec: str, split: str | None = None, num_proc: int = 1):
    return check_dataset(spec, split, num_proc)


def problems(report, split: str) -> dict[str, dict[str, str]]:
    """`{kind: {file: detail}}` of a split; files by their last two path components."""
    found = report_as_dict(report)["splits"][split]["problems"]
    return {kind: {short(file): detail for file, detail in files.items()} for kind, files in found.items()}


def short(file: str) -> str:
    return "/".join(file.partition("::")[0].split("/")[-2:])


def save_table(folder: Path, ids: np.ndarray) -> None:
    """A stored dataset of one row with these final ids."""
    write_frame(folder.with_suffix(".jpg"), folder.with_suffix(".png"), ids, None)
    rows = [{"image": str(folder.with_suffix(".jpg")), "label": str(folder.with_suffix(".png"))}]
    Dataset.from_list(rows, features=Features({"image": Image(), "label": Image()})).save_to_disk(folder)


# --- clean datasets ------------------------------------------------------------------------------------------------


class TestClean:
    @pytest.mark.parametrize("packed", [False, True], ids=["folders", "archives"])
    @pytest.mark.parametrize("name", list(LAYOUTS))
    def test_owners_layouts(self, tmp_path, counted, name, packed):
        """Counts are those of the maps that were written, and `count_class_pixels` finds them."""
        copy = dataset_copies.make_copy(tmp_path, name, packed)
        report = check(copy.spec)
        assert report.clean and copy.layout.splits <= {split.name for split in report.splits}
        for split in report.splits:
            dataset = copy.load(split.name)
            maps = np.stack([copy.expected[file_name] for file_name in dataset["file_name"]])
            pixels = np.stack([(maps == index).sum(axis=(1, 2)) for index in range(19)], axis=1)
            assert split.pairs == split.classes.label_maps == len(maps)
            assert np.array_equal(split.classes.pixels, pixels.sum(axis=0))
            assert np.array_equal(split.classes.images, (pixels > 0).sum(axis=0))
            assert split.classes.ignored == (maps == IGNORE).sum() and split.classes.total == maps.size
            assert np.array_equal(count_class_pixels(dataset, 19), pixels)
        assert counted == []

    @pytest.mark.parametrize("name", list(TREES))
    def test_folders_with_a_list_of_frames(self, tmp_path, monkeypatch, counted, name):
        tree = TREES[name](tmp_path / name)
        inspected = []
        inspect = checking.inspect_frame
        monkeypatch.setattr(checking, "inspect_frame", lambda *args: inspected.append(args) or inspect(*args))
        report = check(tree.spec)
        assert report.clean and {split.name: split.pairs for split in report.splits} == tree.counts
        assert len(inspected) == max(4, sum(tree.counts[s] for s in ("clear", "rainy") if s in tree.counts))
        for split in report.splits:
            counts = count_class_pixels(tree.load(split.name), 19)
            assert np.array_equal(counts.sum(axis=0), split.classes.pixels)
            assert str(split.statistics) in format_report(report)
        assert counted == []

    def test_own_data_streets_and_tables(self, tmp_path, counted):
        plan = {"images": "photos", "labels": "masks", "ids": {"way": [7, 24], "car": 26}, "ignore": [0]}
        (tmp_path / "dataset.json").write_text(json.dumps(plan))
        ids = np.array([[7, 24, 26, 0]], np.uint8)
        write_frame(tmp_path / "photos/a/1.jpg", tmp_path / "masks/a/1.png", ids, None)
        save_table(tmp_path / "table", np.array([[0, 18, 255, 255]], np.uint8))
        for spec, splits, pixels, ignored in (
            (f"folder:{tmp_path}/dataset.json", ["all"], [2, 1], 1),
            (f"{tmp_path}/table?id2label=cityscapes", ["all"], [1, *[0] * 17, 1], 2),
            ("streets:night?n=2&size=32x64", ["train", "validation", "test"], None, None),
        ):
            report = check(spec)
            assert report.clean and [split.name for split in report.splits] == splits
            if pixels:
                (split,) = report.splits
                assert split.classes.pixels.tolist() == pixels and split.classes.ignored == ignored
            for split in report.splits:
                dataset = open_dataset(spec, split.name if len(splits) > 1 else None)
                counts = count_class_pixels(dataset, len(report.info.id2label))
                assert np.array_equal(counts.sum(axis=0), split.classes.pixels)
        assert counted == []

    def test_the_mapping_of_mapillary_is_stated(self, tmp_path):
        spec = dataset_copies.make_copy(tmp_path, "mapillary").spec
        for query, mapping in (("", "hrda"), ("?mapping=name_rules", "name_rules")):
            report, note = check(spec + query, "training"), f"2 of 18000 pairs, version=1.2, mapping={mapping}"
            assert f"\ntraining: {note}\n" in format_report(report)
            assert report_as_dict(report)["splits"]["training"]["note"] == note


class TestNotices:
    def test_pairs_that_are_left_out(self, tmp_path):
        """Of bdd100k: label maps of another view, and label maps whose images were never published."""
        copy = dataset_copies.make_copy(tmp_path, "bdd100k")
        for index, name in enumerate(bdd100k.WRONG_VIEW):
            split = "train" if index < 4 else "val"
            files = f"images/10k/{split}/{name}.jpg", f"labels/sem_seg/masks/{split}/{name}.png"
            dataset_copies.add_pair(copy, *files, size=(12, 16))
        (copy.folder / f"labels/sem_seg/masks/val/{bdd100k.LONELY[5]}.png").write_bytes(b"")
        report = check(copy.spec)
        assert report.clean and [split.pairs for split in report.splits] == [1, 1]
        train, val = (split.findings.notices for split in report.splits)
        assert all(name in train[0] for name in bdd100k.WRONG_VIEW[:4]) and "are of another view" in train[0]
        assert all(name in val[0] for name in bdd100k.WRONG_VIEW[4:]) and bdd100k.LONELY[5] in val[1]
        text = format_report(report)
        assert f"\n  notice: {train[0]}\n" in text and f"\n  notice: {val[0]}\n" in text
        assert f"\nval: 1 of 1000 pairs without {' and '.join(bdd100k.WRONG_VIEW[4:])}\n" in text

    def test_the_number_of_pairs(self, tmp_path, monkeypatch):
        copy = dataset_copies.make_copy(tmp_path, "cityscapes")
        monkeypatch.setitem(cityscapes.INFO.pairs, "val", 1)
        report = check(copy.spec)
        train, val = report.splits
        assert report.clean and train.findings.notices == ["cityscapes: this copy has 2 of the 2975 pairs of train."]
        assert val.findings.notices == [] and "\nval: 1 pairs\n" in format_report(report)

    def test_converted_copies(self, tmp_path):
        copy = dataset_copies.make_copy(tmp_path, "gtav")
        PIL.Image.new("L", (16, 12), 200).save(copy.folder / "labels/00001_labelTrainIds.png")
        report = check(copy.spec)
        assert report.clean and "_labelTrainIds.png are skipped" in report.splits[0].findings.notices[0]


# --- what is wrong ------------------------------------------------------------------------------------------------


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: round(path.stat().st_size * share)])


class TestProblems:
    @pytest.fixture(params=["folders", "archives"])
    def damaged(self, request, tmp_path):
        """Cityscapes with one trouble of every kind, each in another frame, in `train`, and none in `val`."""
        image, label = "leftImg8bit/{}/ulm/ulm_{}_leftImg8bit.png", "gtFine/{}/ulm/ulm_{}_gtFine_labelIds.png"
        numbers = [*(("train", number) for number in range(12)), ("val", 0)]
        frames = [(split, image.format(split, n), label.format(split, n)) for split, n in numbers]
        archives = {"leftImg8bit": "leftImg8bit_trainvaltest.zip", "gtFine": "gtFine_trainvaltest.zip"}
        layout = Layout(frames, cityscapes.TRAIN_IDS, archives=archives)
        folder = tmp_path / "cityscapes"
        layout.write(folder)
        images, labels = ([folder / frame[column] for frame in frames if frame[0] == "train"] for column in (1, 2))
        labels[0].unlink()
        images[1].unlink()
        cut(images[2], 0.6)
        images[3].write_bytes(b"")
        cut(labels[4], 0.6)
        content = bytearray(labels[5].read_bytes())
        content[-20] ^= 1  # of a sum: the pixels can be decoded all the same
        labels[5].write_bytes(content)
        PIL.Image.new("L", (8, 6), 7).save(labels[6])
        for index, values in ((7, (77, 200)), (8, (200,))):
            ids = np.array(PIL.Image.open(labels[index]))
            ids[0, : len(values)] = values
            PIL.Image.fromarray(ids).save(labels[index])
        PIL.Image.new("L", (16, 12), 0).save(labels[9])
        # Two at once in a frame.
        PIL.Image.new("L", (5, 4), 99).save(labels[10])
        cut(images[11], 0.5)
        PIL.Image.new("L", (16, 12), 98).save(labels[11])
        if request.param == "archives":
            (tmp_path / "packed").mkdir()
            for first, name in archives.items():
                with zipfile.ZipFile(tmp_path / "packed" / name, "w") as archive:
                    for path in sorted((folder / first).rglob("*.png")):
                        archive.write(path, path.relative_to(folder))
            folder = tmp_path / "packed"
        return f"cityscapes:{folder}"

    def test_all_are_found_at_once(self, damaged, cache):
        report = check(damaged)
        found = problems(report, "train")
        image, label = "ulm/ulm_{}_leftImg8bit.png", "ulm/ulm_{}_gtFine_labelIds.png"
        assert found["images_without_labels"] == {image.format(0): ""}
        assert found["labels_without_image"] == {label.format(1): ""}
        assert set(found["unreadable_images"]) == {image.format(n) for n in (2, 3, 11)}
        assert found["unreadable_images"][image.format(3)] == "an empty file"
        assert set(found["unreadable_labels"]) == {label.format(n) for n in (4, 5)}
        assert "checksum" in found["unreadable_labels"][label.format(5)]
        assert found["size_mismatches"] == {
            label.format(6): "8x6 pixels, its image 16x12",
            label.format(10): "5x4 pixels, its image 16x12",
        }
        assert found["unknown_ids"] == {
            label.format(n): text for n, text in ((7, "77, 200"), (8, "200"), (10, "99"), (11, "98"))
        }
        assert len(found) == 6
        train, val = report.splits
        assert train.pairs == 10 and train.classes.label_maps == 4 and train.statistics is None
        values = report_as_dict(report)["splits"]["train"]["unknown_values"]
        assert {value: entry["images"] for value, entry in values.items()} == {"200": 2, "77": 1, "99": 1, "98": 1}
        assert short(values["77"]["example"]) == label.format(7)
        ((kind, files),) = report_as_dict(report)["splits"]["train"]["noticed_files"].items()
        assert kind == "ignored_labels" and [short(file) for file in files] == [label.format(9)]
        # The clean split is told apart, and only its counts are kept.
        assert not report.clean and problems(report, "val") == {} and len(list(cache.iterdir())) == 1
        assert val.statistics is not None and check(damaged, "val").clean
        with pytest.raises(FileNotFoundError, match="1 of 11 files have no label map"):
            open_dataset(damaged, "train")

    def test_the_text_says_it_all(self, damaged):
        text = format_report(check(damaged))
        for line in (
            r"train: 10 of 2975 pairs",
            r"  problem: images without label map: 1\n    \S*ulm_0_left\S*\n    -> Complete the copy, or move",
            r"  problem: images that cannot be read, or not to their end: 3",
            r"    \S*ulm_3_leftImg8bit.png\S*: an empty file",
            r"  problem: label maps with ids or colours that this dataset does not have: 4\n    200 in 2, such as \S*7",
            r"  notice: label maps without a pixel of any class: 1",
            r"  class statistics for rare class sampling: not kept, because of the problems",
            r"problems: train 13, val none",
        ):
            assert re.search(f"^{line}", text, re.MULTILINE), f"{line}\n{text}"

    def test_long_lists_are_cut_in_the_text_only(self, tmp_path):
        for index in range(9):
            write_frame(tmp_path / f"p/{index}.jpg", tmp_path / f"m/{index}.png", np.array([[3]], np.uint8), None)
            cut(tmp_path / f"p/{index}.jpg", 0.9)
        (tmp_path / "c.yaml").write_text("images: p\nlabels: m\nids: {way: 3, car: 4}\n")
        report = check(f"folder:{tmp_path}/c.yaml")
        assert len(problems(report, "all")["unreadable_images"]) == 9
        text = format_report(report)
        assert len(re.findall(r"^    \S*/p/\d.jpg: .", text, re.MULTILINE)) == 5 and "\n    and 4 more\n" in text

    @pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
    @pytest.mark.parametrize("suffix", ["jpg", "png"])
    def test_files_that_end_early(self, tmp_path, suffix, share):
        pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
        (tmp_path / "p").mkdir()
        (tmp_path / "m").mkdir()
        PIL.Image.fromarray(pixels).save(tmp_path / f"p/a.{suffix}")
        PIL.Image.new("L", (50, 40), 3).save(tmp_path / "m/a.png")
        (tmp_path / "c.yaml").write_text("images: p\nlabels: m\nids: {way: 3, car: 4}\n")
        assert check(f"folder:{tmp_path}/c.yaml").clean
        cut(tmp_path / f"p/a.{suffix}", share)
        assert set(problems(check(f"folder:{tmp_path}/c.yaml"), "all")) == {"unreadable_images"}

    def test_damage_inside_of_an_archive(self, tmp_path):
        copy = dataset_copies.make_copy(tmp_path, "bdd100k", packed=True)
        path = copy.folder / "bdd100k_images_10k.zip"
        content = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            member = next(m for m in archive.infolist() if m.filename.startswith("bdd100k/images/10k/val"))
        content[member.header_offset + 30 + len(member.filename) + member.compress_size // 2] ^= 1
        path.write_bytes(content)
        report = check(copy.spec)
        ((file, detail),) = problems(report, "val")["unreadable_images"].items()
        assert file.startswith("val/") and "CRC" in detail and problems(report, "train") == {}

    def test_frames_of_a_list(self, tmp_path):
        tree = TREES["camvid"](tmp_path / "camvid")
        (tree.folder / "train/labels/0006R0_f00930.png").unlink()
        (tree.folder / "train/images/0016E5_00390.jpg").unlink()
        for path in ("train/labels/0001TP_006690.png", "train/images/0001TP_006690.jpg"):
            (tree.folder / path).unlink()
        report = check(tree.spec)
        half = {
            "images_without_labels": {"images/0006R0_f00930.jpg": ""},
            "labels_without_image": {"labels/0016E5_00390.png": ""},
        }
        empty = {"not_opened"}
        assert {kind: files for kind, files in problems(report, "train").items() if kind not in empty} == half
        assert {kind: files for kind, files in problems(report, "source_train").items() if kind not in empty} == half
        dusk = problems(report, "target_dusk")
        assert dusk.pop("listed_but_missing") == {"images/0001TP_006690.jpg": ""} and set(dusk) == {"not_opened"}
        assert problems(report, "val") == problems(report, "source_val") == {}

    def test_a_split_that_is_not_there(self, tmp_path):
        copy = dataset_copies.make_copy(tmp_path, "cityscapes")
        for kind in ("leftImg8bit", "gtFine"):
            (copy.folder / kind / "train").rename(tmp_path / kind)
        report = check(copy.spec)
        ((name, detail),) = problems(report, "train")["not_opened"].items()
        assert name == "train" and "No leftImg8bit/train" in detail and "train: not opened" in format_report(report)
        assert check(copy.spec, "val").clean
        with pytest.raises(FileNotFoundError, match="No leftImg8bit/train"):
            check(copy.spec, "train")

    def test_archives_that_cannot_be_read(self, tmp_path):
        """A dataset opens without them; that something is missing is only seen by who knows how much there is."""
        copy = dataset_copies.make_copy(tmp_path, "gtav", packed=True)
        for name in ("05_images.zip", "05_labels.zip"):
            cut(copy.folder / name, 0.5)
        report = check(copy.spec)
        found = problems(report, "train")
        assert set(found) == {"unreadable_archives"} and not report.clean and report.splits[0].pairs == 2
        assert set(found["unreadable_archives"]) == {"packed/05_images.zip", "packed/05_labels.zip"}
        text = format_report(report)
        assert re.search(r"\n    Cannot read the archive \S*/05_images.zip: File is not a zip file\. ", text)
        assert text.count("05_images.zip") == 1
        assert len(copy.load("train")) == 2

    def test_images_that_a_tag_turns(self, tmp_path):
        """Where sizes do not tell what their label maps are for; other troubles of these frames are found as well."""
        (tmp_path / "p").mkdir()
        for index, orientation in enumerate((1, 3, 6, 6, 6)):
            dataset_copies.save_turned(np.zeros((6, 8, 3), np.uint8), tmp_path / f"p/{index}.jpg", orientation)
            ids = np.zeros({3: (8, 6), 4: (5, 8)}.get(index, (6, 8)), np.uint8)
            ids[0] = 4
            (tmp_path / "m").mkdir(exist_ok=True)
            PIL.Image.fromarray(ids).save(tmp_path / f"m/{index}.png")
        (tmp_path / "c.yaml").write_text("images: p\nlabels: m\nids: {way: 0, car: 4}\n")
        report = check(f"folder:{tmp_path}/c.yaml")
        assert problems(report, "all") == {
            "turned_images": {"p/1.jpg": ""},
            "size_mismatches": {"m/4.png": "8x5 pixels, its image 8x6, before the turn that its EXIF tag asks for"},
        }
        (notice,) = report.splits[0].findings.notices
        assert notice.endswith("2 images have an EXIF tag that asks to turn them; by their label maps' sizes 1 are "
                               "read as stored and 1 turned.")  # fmt: skip
        assert report.splits[0].pairs == 5 and "`exif: turned`" in format_report(report)
        (tmp_path / "d.yaml").write_text("images: p\nlabels: m\nids: {way: 0, car: 4}\nexif: turned\n")
        assert problems(check(f"folder:{tmp_path}/d.yaml"), "all") == {
            "size_mismatches": {
                f"m/{index}.png": f"{size} pixels, its image 6x8, after the turn that its EXIF tag asks for"
                for index, size in ((2, "8x6"), (4, "8x5"))
            },
        }
        rows = [{"image": str(tmp_path / f"p/{index}.jpg"), "label": str(tmp_path / "m/0.png")} for index in (0, 1)]
        features = Features({"image": Image(), "label": Image()})
        Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "table")
        assert problems(check(f"{tmp_path}/table?id2label=cityscapes"), "all") == {"turned_images": {"1": ""}}

    def test_files_in_two_archives(self, tmp_path):
        copy = dataset_copies.make_copy(tmp_path, "cityscapes", packed=True)
        (copy.folder / "copy.zip").write_bytes((copy.folder / "gtFine_trainvaltest.zip").read_bytes())
        report = check(copy.spec)
        twice = report_as_dict(report)["splits"]["train"]["problems"]["files_twice"]
        assert len(twice) == 2
        for file, detail in twice.items():
            assert {file.partition("::")[2], detail.partition("::")[2]} == {
                f"{copy.folder}/copy.zip", f"{copy.folder}/gtFine_trainvaltest.zip"
            }  # fmt: skip

    def test_gtav(self, tmp_path):
        """Foreign names are a problem; missing numbers, left-out pairs and parts without the split file are not."""
        copy = dataset_copies.make_copy(tmp_path, "gtav")
        for folder in ("images", "labels"):
            for name in ("15188", "17705"):
                (copy.folder / folder / f"{name}.png").write_bytes(b"")
        report = check(copy.spec)
        assert report.clean and [split.name for split in report.splits] == ["train"]
        left_out, missing = report_as_dict(report)["splits"]["train"]["notices"]
        assert "15188 and 17705 are left out" in left_out and "24961 of 24966 pairs are not in this copy" in missing
        assert "\nnotice: not checked: val, test. The parts of gtav are known from" in format_report(report)
        for folder in ("images", "labels"):
            (copy.folder / folder / "00001.png").rename(copy.folder / folder / "first.png")
        assert problems(check(copy.spec), "train") == {"foreign_files": {"images/first.png": ""}}
        with pytest.raises(ValueError, match="owners' split file only"):
            check(copy.spec, "val")

    def test_codings(self, tmp_path):
        copy = dataset_copies.make_copy(tmp_path, "mapillary (instances)")
        PIL.Image.new("L", (16, 12)).save(copy.folder / "validation/v1.2/instances/q_1.png")
        assert "expected 16-bit" in problems(check(copy.spec), "validation")["unreadable_labels"]["instances/q_1.png"]
        copy = dataset_copies.make_copy(tmp_path, "synthia")
        PIL.Image.new("RGB", (16, 12)).save(copy.folder / "GT/LABELS/0000000.png")
        assert "16 bits per channel" in problems(check(copy.spec), "train")["unreadable_labels"]["LABELS/0000000.png"]
        copy = dataset_copies.make_copy(tmp_path, "bdd100k")
        (label,) = (copy.folder / "labels/sem_seg/masks/val").iterdir()
        PIL.Image.fromarray(np.full((12, 16), 600, np.uint16)).save(label)
        assert problems(check(copy.spec), "val") == {"unknown_ids": {f"val/{label.name}": "600"}}

    def test_colours(self, tmp_path):
        (tmp_path / "c.json").write_text(
            json.dumps({"images": "p", "labels": "m", "colours": {"way": [1, 2, 3], "car": [9, 9, 9]}})
        )
        for name, colours in (("a", [(1, 2, 3)]), ("b", [(1, 2, 3), (255, 0, 9)]), ("c", [(255, 0, 9), (7, 7, 7)])):
            pixels = np.array([colours], np.uint8)
            for folder in ("p", "m"):
                (tmp_path / folder).mkdir(exist_ok=True)
                PIL.Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
        report = check(f"folder:{tmp_path}/c.json")
        assert problems(report, "all") == {"unknown_ids": {"m/b.png": "#ff0009", "m/c.png": "#070707, #ff0009"}}
        assert report.splits[0].findings.values["#ff0009"] == (2, str(tmp_path / "m/b.png"))

    def test_ids_of_tables(self, tmp_path):
        save_table(tmp_path / "table", np.array([[19, 40]], np.uint8))
        ((kind, files),) = problems(check(f"{tmp_path}/table?id2label=cityscapes"), "all").items()
        assert kind == "unknown_ids" and list(files.values()) == ["19, 40"]

    def test_in_several_processes(self, tmp_path):
        for index in range(70):
            ids = np.full((3, 4), index % 3, np.uint8)
            write_frame(tmp_path / f"p/{index:02}.jpg", tmp_path / f"m/{index:02}.png", ids, None)
        cut(tmp_path / "p/05.jpg", 0.9)
        PIL.Image.new("L", (4, 3), 9).save(tmp_path / "m/66.png")
        (tmp_path / "c.yaml").write_text("images: p\nlabels: m\nids: {a: 0, b: 1, c: 2}\n")
        one, two = (check(f"folder:{tmp_path}/c.yaml", num_proc=number) for number in (1, 2))
        assert report_as_dict(one) == report_as_dict(two)
        assert {kind: list(files) for kind, files in problems(two, "all").items()} == {
            "unreadable_images": ["p/05.jpg"], "unknown_ids": ["m/66.png"]
        }  # fmt: skip


# --- what is kept -------------------------------------------------------------------------------------------------


class TestStatistics:
    def test_a_second_check_finds_them(self, tmp_path, cache):
        spec = TREES["camvid"](tmp_path / "camvid").spec
        first, second = (check(spec, "train") for _ in range(2))
        (path,) = cache.iterdir()
        assert first.splits[0].statistics == second.splits[0].statistics == path
        assert f"now kept in {path}" in format_report(first) and f"found unchanged in {path}" in format_report(second)

    def test_a_changed_file_is_noticed(self, tmp_path, cache):
        tree = TREES["camvid"](tmp_path / "camvid")
        before = check(tree.spec, "train").splits[0]
        label = tree.folder / "train/labels/0006R0_f00930.png"
        PIL.Image.new("L", (32, 24), 3).save(label)
        after = check(tree.spec, "train").splits[0]
        assert not after.statistics_found and after.statistics != before.statistics
        assert np.array_equal(count_class_pixels(tree.load("train"), 19).sum(axis=0), after.classes.pixels)
        assert after.classes.pixels[0] > before.classes.pixels[0] and after.classes.total == before.classes.total

    def test_wrong_counts_are_replaced(self, tmp_path, cache):
        """A disk may forget, and the state of a file may be forged."""
        tree = TREES["camvid"](tmp_path / "camvid")
        (split,) = check(tree.spec, "val").splits
        class_statistics.write_class_pixels(split.statistics, np.zeros((1, 19), np.int64))
        assert not check(tree.spec, "val").splits[0].statistics_found
        assert np.array_equal(count_class_pixels(tree.load("val"), 19).sum(axis=0), split.classes.pixels)

    @pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b""), Path.unlink], ids=["empty", "missing"])
    def test_nothing_is_kept_of_a_split_with_problems(self, tmp_path, cache, damage):
        """Although all label maps of its pairs can be counted."""
        tree = TREES["camvid"](tmp_path / "camvid")
        damage(tree.folder / "train/images/0006R0_f00930.jpg")
        (split,) = check(tree.spec, "train").splits
        assert split.classes.label_maps == split.pairs and split.statistics is None and not cache.exists()

    def test_a_cache_that_cannot_be_written(self, tmp_path, cache):
        tree = TREES["camvid"](tmp_path / "camvid")
        cache.parent.mkdir()
        cache.touch()
        report = check(tree.spec, "val")
        assert report.clean and report.splits[0].statistics is None


# --- real data ----------------------------------------------------------------------------------------------------


class TestSharedData:
    def test_camvid(self, shared):
        """Against the shares of the data's own README, in percent."""
        report = check(f"camvid:{shared}/data/camvid")
        assert report.clean
        counts = {split.name: split.pairs for split in report.splits}
        assert counts == {"train": 367, "val": 101, "source_train": 305, "source_val": 101, "target_dusk": 62}
        row = re.compile(r"\| \d+ \| \w+ \| ([\d.]+) / ([\d.]+) / [\d.]+ \| (\d+) \|")
        rows = row.findall((shared / "data/README.md").read_text())
        assert len(rows) == 12
        for split, column in zip(report.splits[:2], (0, 1), strict=True):
            shares = np.append(split.classes.pixels, split.classes.ignored) / split.classes.total * 100
            for numbers in rows:
                share = shares[-1 if int(numbers[2]) == IGNORE else int(numbers[2])]
                assert share == pytest.approx(float(numbers[column]), abs=0.00501)
        bicyclists = np.array(
            [(np.asarray(PIL.Image.open(path)) == 10).sum() for path in (shared / "data/camvid/train/labels").iterdir()]
        )
        train = report.splits[0].classes
        assert (train.images[12], train.showing[12]) == ((bicyclists > 0).sum(), (bicyclists > 3000).sum())

    def test_carla(self, shared):
        report = check(f"carla:{shared}/data/carlarain", "rainy")
        (split,) = report.splits
        expected = np.zeros(20)
        with open(shared / "data/carlarain/classes.csv", newline="") as file:
            for row in csv.DictReader(file):
                train_id = int(row["cityscapes_train_id"])
                expected[-1 if train_id == IGNORE else train_id] += float(row["pixel_percent"])
        shares = np.append(split.classes.pixels, split.classes.ignored) / split.classes.total * 100
        assert report.clean and split.pairs == 23 and np.allclose(shares, expected, atol=5e-4)


# --- the script ---------------------------------------------------------------------------------------------------


@pytest.fixture
def main(capsys):
    """The command in this process: the exit status, and what it says on stderr."""

    def run(*arguments) -> tuple[int, str]:
        return call("check", *arguments), capsys.readouterr().err

    return run


class TestScript:
    @pytest.fixture(scope="class")
    def runs(self, tmp_path_factory):
        """As a user starts it, all at once: a clean split, a dataset with a problem, and no dataset."""
        folder = tmp_path_factory.mktemp("runs")
        clean, broken = (TREES["camvid"](folder / name) for name in ("clean", "broken"))
        cut(broken.folder / "val/images/0016E5_07959.jpg", 0.9)
        arguments = {
            "clean": [f"{clean.spec}@train", "--chart", folder / "out/c.png", "--json", folder / "out/clean.json"],
            "broken": [broken.spec, "--json", folder / "broken.json"],
            "nowhere": [f"camvid:{folder}/nowhere", "--json", folder / "nowhere.json"],
        }
        started = {name: launch("check", *rest, "--num_proc", 1) for name, rest in arguments.items()}
        ended = {name: process.wait() for name, process in started.items()}
        done = {name: (each.stdout, each.stderr, each.returncode) for name, each in ended.items()}
        return SimpleNamespace(folder=folder, done=done)

    def test_a_clean_dataset(self, runs):
        output, errors, status = runs.done["clean"]
        assert status == 0, errors
        assert re.match(r"camvid:\S*/clean\n\ntrain: 3 pairs\n", output) and output.endswith("\nclean: train\n")
        assert "Checking train" in errors and "3/3" in errors
        assert sorted(path.name for path in (runs.folder / "out").iterdir()) == ["c.png", "clean.json"]
        report = json.loads((runs.folder / "out/clean.json").read_text())
        assert report["clean"] is True and report["splits"]["train"]["pairs"] == 3
        classes = report["splits"]["train"]["classes"]
        shares = [entry["share"] for entry in classes["classes"]]
        assert sum(shares) + classes["ignored"]["share"] == pytest.approx(1) and len(shares) == 19
        with PIL.Image.open(runs.folder / "out/c.png") as chart:
            assert chart.width > 300 and chart.height > 300

    def test_problems(self, runs):
        output, errors, status = runs.done["broken"]
        assert status == 1, errors
        assert output.endswith("\nproblems: train none, val 1, source_train none, source_val 1, target_dusk none\n")
        assert json.loads((runs.folder / "broken.json").read_text())["clean"] is False

    def test_nothing_to_check(self, runs):
        output, errors, status = runs.done["nowhere"]
        assert status == 2 and output == "" and not (runs.folder / "nowhere.json").exists()
        assert re.fullmatch(r"error: there is no \S*/nowhere, where .*\n", errors)

    def test_it_could_not_run(self, tmp_path, main):
        tree = TREES["camvid"](tmp_path / "camvid")
        (tmp_path / "bad.yaml").write_text("a: [\n b")
        for arguments, message in (
            (["kamvid:/x"], "there is no dataset 'kamvid' in 'kamvid:/x'; did you mean camvid?"),
            ([f"{tree.spec}@dusk"], "camvid has no split 'dusk', only train, val"),
            ([tree.spec, "--split", "dusk"], "camvid has no split 'dusk', only train, val"),
            ([f"mapillary:{tmp_path}?version=3"], "no version '3'"),
            ([f"folder:{tmp_path}/bad.yaml"], "cannot be read as YAML"),
            ([f"gtav:{tmp_path}"], "No images/**/*.png"),
        ):
            status, text = main(*arguments)
            assert status == 2 and text.startswith("error: ") and message in text and text.count("\n") == 1, text
        for arguments, message in (
            ([f"{tree.spec}@val", "--split", "train"], "--split train and @val contradict each other"),
            ([tree.spec, "--num_proc", "0"], "a whole number from 1 up, got '0'"),
            ([tree.spec, "--chart", "x.jpg"], "whose name ends with .png, got 'x.jpg'"),
        ):
            status, text = main(*arguments)
            assert status == 2 and message in text

    def test_results_that_cannot_be_saved(self, tmp_path, main):
        tree = TREES["camvid"](tmp_path / "camvid")
        (tmp_path / "file").touch()
        status, text = main(f"{tree.spec}@val", "--json", tmp_path / "file/r.json", "--num_proc", 1)
        assert status == 2 and "file" in text.splitlines()[-1] and text.splitlines()[-1].startswith("error: ")

    def test_missing_packages_are_named_before_anything_is_read(self, tmp_path, main, monkeypatch):
        tree = TREES["camvid"](tmp_path / "camvid")
        synthia = dataset_copies.make_copy(tmp_path, "synthia").spec
        chart = [tree.spec, "--chart", tmp_path / "c.png"]
        for package, arguments in (("matplotlib", chart), ("torchvision", [synthia])):
            with monkeypatch.context() as context:
                context.setitem(sys.modules, package, None)
                for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
                    context.setitem(sys.modules, name, None)
                status, text = main(*arguments)
            assert status == 2 and re.search(r"pip install ['\"]vfmseg-hf\[train\]['\"]", text), text
            assert text.count("\n") == 1


# --- the chart ----------------------------------------------------------------------------------------------------


TWO = {0: "a", 1: "b"}


class TestChart:
    def test_a_bar_for_every_class_however_rare(self):
        """Bars are as wide as the logarithm of their shares says, in the colours of the classes."""
        shares = np.full(19, 1e-4)
        shares[0], shares[13], shares[16] = 0.5, 3e-9, 0
        colours = class_colours(CITYSCAPES_ID2LABEL)
        chart = class_chart({"train": shares}, CITYSCAPES_ID2LABEL, colours, "a $ title")
        pixels = np.asarray(PIL.Image.open(BytesIO(chart)))
        widths = [int((pixels[..., :3] == colour).all(axis=2).sum(axis=1).max()) for colour in colours]
        assert widths[0] > 1.5 * widths[1] > 0 and 0 < widths[13] < widths[1] / 4 and widths[16] == 0
        assert len({widths[index] for index in (1, 2, 3, 7, 18)}) <= 2

    def test_panels_and_other_classes(self):
        shares = {f"split {number}": np.array([0.6, 0.1]) for number in range(5)}
        sizes = [
            PIL.Image.open(BytesIO(class_chart(dict(list(shares.items())[:count]), TWO, class_colours(TWO), ""))).size
            for count in (1, 5)
        ]
        assert sizes[1][0] > 2 * sizes[0][0] and sizes[1][1] > 1.2 * sizes[0][1]

    def test_long_titles_stay_in_the_image(self):
        title = f"train\n6996 of 7000 pairs without {', '.join(bdd100k.WRONG_VIEW)}"
        chart = PIL.Image.open(BytesIO(class_chart({title: np.array([0.6, 0.1])}, TWO, class_colours(TWO), "")))
        assert (np.asarray(chart.convert("L"))[:, [0, -1]] == 255).all()

    def test_nothing_to_draw(self):
        for shares in ({}, {"train": np.zeros(2)}):
            with pytest.raises(ValueError, match="nothing to draw"):
                class_chart(shares, TWO, class_colours(TWO), "")
