# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""One reader and one walker: datasets, prediction and the image processor see the same files and the same pixels."""

import os
import zipfile
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from datasets import Dataset, Features, Image
from torch.utils.data import DataLoader

from tests.support.commands import call
from tests.support.dataset_copies import rgb16_png
from vfmseg_hf import VFMSegImageProcessor, VFMSegImageProcessorPil
from vfmseg_hf.data import findings, open_dataset
from vfmseg_hf.data.check import check_dataset, report_as_dict
from vfmseg_hf.model.image_inputs import open_image
from vfmseg_hf.prediction.predict import ImageFiles, find_images
from vfmseg_hf.prediction.visualization import overlay_image
from vfmseg_hf.utils.image_files import SUFFIXES, image_suffixes, limit_pixels, list_files, suffix_of, summarise


SIXTEEN_BITS = np.linspace(0, 65535, 12 * 16).reshape(12, 16).astype(np.uint16)


@pytest.fixture
def notices(monkeypatch):
    texts = []
    findings.logger.warning_once.cache_clear()
    monkeypatch.setattr(findings.logger, "warning", lambda text, *rest, **more: texts.append(text))
    yield texts
    findings.logger.warning_once.cache_clear()


@pytest.fixture(autouse=True)
def as_before(monkeypatch, tmp_path):
    """Limits that a test sets, and counts that it keeps, are its own."""
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", PIL.Image.MAX_IMAGE_PIXELS)
    monkeypatch.setenv("VFMSEG_MAX_IMAGE_PIXELS", "178956970")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def dataset(tmp_path):
    """A `folder:` dataset in `images` and `labels`; `add` puts a pair into it."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "c.yaml").write_text("images: images\nlabels: labels\nids: {a: 0, b: 1}\n")

    def add(name, content, label_folder="labels", **options):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content) if isinstance(content, bytes) else content.save(path, **options)
        label = (tmp_path / label_folder / name).with_suffix(".png")
        label.parent.mkdir(parents=True, exist_ok=True)
        with PIL.Image.open(path) as image:
            ids = np.arange(image.width * image.height).reshape(image.height, image.width) % 2
        PIL.Image.fromarray(ids.astype(np.uint8)).save(label)
        return path

    return SimpleNamespace(folder=tmp_path, spec=f"folder:{tmp_path}/c.yaml", add=add)


def image(seed=0, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def names(dataset):
    return list(open_dataset(dataset.spec)["file_name"])


# --- the same pixels --------------------------------------------------------------------------------------------------


def images_of_every_mode():
    modes = {mode: image(1, mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")}
    modes["I;16"] = PIL.Image.fromarray(SIXTEEN_BITS)
    modes["I;16B"] = PIL.Image.fromarray(SIXTEEN_BITS.astype(">u2"))
    modes["I"] = PIL.Image.fromarray(SIXTEEN_BITS.astype(np.int32))
    modes["RGB of 16 bits"] = rgb16_png(SIXTEEN_BITS)
    return modes


@pytest.mark.parametrize("mode", list(images_of_every_mode()))
@pytest.mark.parametrize("place", ["folder", "archive", "table", "bytes"])
def test_datasets_give_the_pixels_that_the_image_processor_sees(dataset, mode, place):
    path = dataset.add("a.tif" if mode in ("CMYK", "I", "I;16B") else "a.png", images_of_every_mode()[mode])
    seen = VFMSegImageProcessor(do_resize=False, do_normalize=False, do_rescale=False)(str(path), return_tensors="np")
    if place == "folder":
        row = open_dataset(dataset.spec)[0]
    elif place == "archive":
        with zipfile.ZipFile(dataset.folder / "all.zip", "w") as archive:
            for file in [path, dataset.folder / "labels/a.png"]:
                archive.write(file, file.relative_to(dataset.folder))
                file.unlink()
        row = open_dataset(dataset.spec)[0]
    else:
        cells = [{"bytes": path.read_bytes(), "path": None}] if place == "bytes" else [str(path)]
        columns = {"image": cells, "label": [str(dataset.folder / "labels/a.png")]}
        Dataset.from_dict(columns, features=Features({"image": Image(), "label": Image()})).save_to_disk(
            dataset.folder / "table"
        )
        row = open_dataset(f"{dataset.folder / 'table'}?id2label=cityscapes")[0]
    assert row["image"].mode == "RGB"
    np.testing.assert_array_equal(np.asarray(row["image"]).transpose(2, 0, 1), seen["pixel_values"][0])
    if "I" in mode.split(";"):
        scaled = np.floor(SIXTEEN_BITS / 65535 * 255 + 0.5)
        np.testing.assert_array_equal(np.asarray(row["image"])[..., 0], scaled)


def test_images_of_results_scale_16_bits_too():
    zeros, colours = np.zeros(SIXTEEN_BITS.shape, np.uint8), np.zeros((1, 3), np.uint8)
    shown = np.asarray(overlay_image(PIL.Image.fromarray(SIXTEEN_BITS), zeros, colours, opacity=0.0))
    np.testing.assert_array_equal(shown[..., 0], np.floor(SIXTEEN_BITS / 65535 * 255 + 0.5))


def test_floats_are_refused_alike_in_all_roads(dataset):
    path = dataset.add("a.tif", PIL.Image.fromarray(np.random.default_rng(0).random((12, 16), np.float32)))
    why = r"has mode F \(float\), whose value range is unknown. Store it with 8 or 16 bits"
    with pytest.raises(ValueError, match=f"The image .*a.tif {why}"):
        open_dataset(dataset.spec)[0]
    for backend in (VFMSegImageProcessor, VFMSegImageProcessorPil):
        with pytest.raises(ValueError, match=why):
            backend()(str(path))
    (reason,) = ImageFiles([path], VFMSegImageProcessor())
    assert "has mode F (float), whose value range is unknown. Store it with 8 or 16 bits" in reason


def test_the_check_names_what_training_refuses(dataset):
    dataset.add("a.png", PIL.Image.fromarray(SIXTEEN_BITS))
    assert check_dataset(dataset.spec, num_proc=1).clean
    dataset.add("b.tif", PIL.Image.fromarray(SIXTEEN_BITS.astype(np.float32)))
    dataset.add("c.tif", PIL.Image.fromarray(np.full((12, 16), 70000, np.int32)))
    dataset.add("d.png", PIL.Image.new("1", (40, 30)))
    limit_pixels(1000)
    (split,) = report_as_dict(check_dataset(dataset.spec, num_proc=1))["splits"].values()
    refused, above = split["problems"].pop("refused_images"), split["problems"].pop("above_pixel_limit")
    assert split["problems"] == {}
    assert [os.path.basename(file) for file in refused] == ["b.tif", "c.tif"] and "mode F" in next(
        iter(refused.values())
    )
    assert {os.path.relpath(file, dataset.folder) for file in above} == {"images/d.png", "labels/d.png"}
    assert all("1200 pixels" in detail for detail in above.values())


# --- the same files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", image_suffixes())
def test_every_suffix_in_every_case_is_a_image_everywhere(dataset, suffix, notices):
    options = {"format": "JPEG"} if suffix == ".jfif" else {}
    for name in (f"a{suffix}", f"b{suffix.upper()}", f"c{suffix.title()}"):
        dataset.add(name, image(), **options)
    assert names(dataset) == ["a", "b", "c"] and notices == []
    assert list(find_images([dataset.folder / "images"], "out").values()) == ["a", "b", "c"]
    read = np.asarray(open_dataset(dataset.spec)[0]["image"])
    np.testing.assert_array_equal(read, np.asarray(open_image(dataset.folder / f"images/a{suffix}").convert("RGB")))


def test_formats_of_plugins_are_taken_once_they_are_registered(dataset, monkeypatch, notices):
    dataset.add("a.png", image())
    dataset.add("b.heic", image(), format="PNG")
    (dataset.folder / "labels/b.png").unlink()
    assert ".heic" not in image_suffixes() and set(SUFFIXES) <= set(image_suffixes())
    assert names(dataset) == ["a"]
    (notice,) = notices
    assert "leaves out 1 .heic (Pillow opens these with a plugin, such as pillow-heif)" in notice
    assert find_images([dataset.folder / "images"], "out").left_out == {".heic": 1}
    monkeypatch.setitem(PIL.Image.EXTENSION, ".heic", "HEIF")
    assert list(find_images([dataset.folder / "images"], "out").values()) == ["a", "b"]
    with pytest.raises(FileNotFoundError, match="1 of 2 files have no label map: .*b.heic"):
        open_dataset(dataset.spec)


CLUTTER = [
    ".ipynb_checkpoints/a-checkpoint.png", ".hidden.png", "._a.png", ".git/a.png", "@eaDir/a.png/SYNOPHOTO_THUMB_M.png",
    "sub/@eaDir/b.png", "#recycle/a.png", "$RECYCLE.BIN/a.png", "System Volume Information/a.png", "__MACOSX/a.png",
    "lost+found/a.png",
]  # fmt: skip


@pytest.mark.parametrize("packed", [False, True], ids=["folders", "archive"])
@pytest.mark.parametrize("both", [False, True], ids=["images", "pairs"])
def test_hidden_and_system_files_are_no_data(dataset, notices, packed, both):
    dataset.add("a.png", image())
    dataset.add("sub/b.png", image(1))
    for name in CLUTTER:
        dataset.add(name, image(2), "labels" if both else "elsewhere")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (dataset.folder / "images" / name).touch()
    if packed:
        with zipfile.ZipFile(dataset.folder / "all.zip", "w") as archive:
            for file in sorted(dataset.folder.rglob("*.png")):
                archive.write(file, file.relative_to(dataset.folder))
        for folder in ("images", "labels"):
            (dataset.folder / folder).rename(dataset.folder / f".{folder}")
    assert names(dataset) == ["a", "sub/b"]
    (notice,) = notices
    hidden, system = (6, 12) if both else (3, 6)
    assert f"{hidden} hidden" in notice and f"{system} of the system" in notice, "without what macOS puts everywhere"


def test_predictions_say_what_was_left_out(dataset):
    for name in ["a.png", "sub/b.png", *CLUTTER]:
        dataset.add(name, image(), "elsewhere")
    for name in ("Thumbs.db", "notes.txt", "more.TXT", "README"):
        (dataset.folder / "images" / name).touch()
    found = find_images([dataset.folder / "images", dataset.folder / "images/README"], "out")
    assert list(found.values()) == ["a", "sub/b", "README"], "a file that is named is taken"
    assert found.left_out == {"hidden": 4, "of the system": 8, ".txt": 2}
    with pytest.raises(FileNotFoundError, match="no image in the folder .*but 8 of the system"):
        (dataset.folder / "images/a.png").unlink()
        (dataset.folder / "images/sub/b.png").unlink()
        find_images([dataset.folder / "images"], "out")


def test_a_list_of_frames_has_no_room_for_hidden_files(tmp_path):
    from tests.support.dataset_copies import camvid_tree

    tree = camvid_tree(tmp_path)
    for folder, suffix in (("images", "jpg"), ("labels", "png")):
        (tmp_path / f"val/{folder}/._0016E5_07959.{suffix}").write_bytes(b"AppleDouble")
    assert list(tree.load("val")["file_name"]) == ["0016E5_07959"]


def test_hidden_archives_are_no_archives(dataset, notices):
    dataset.add("a.png", image())
    with zipfile.ZipFile(dataset.folder / "all.zip", "w") as archive:
        for name in ("images/a.png", "labels/a.png"):
            archive.write(dataset.folder / name, name)
            (dataset.folder / name).unlink()
    (dataset.folder / "._all.zip").write_bytes(b"AppleDouble")
    assert names(dataset) == ["a"] and notices == []


def test_linked_folders_are_entered_once(tmp_path):
    for name in ("real/a.png", "elsewhere/b.png", "elsewhere/deep/c.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "in/elsewhere").rename(tmp_path / "elsewhere")
    for link, target in {
        "again": "real", "first": "../elsewhere", "second": "../elsewhere", "loop": ".", "real/up": "..",
        "gone.png": "nowhere.png", "itself.png": "itself.png", "itself": "itself", "link.png": "real/a.png",
    }.items():  # fmt: skip
        (tmp_path / "in" / link).symlink_to(target)
    listing = list_files(tmp_path / "in", lambda name: suffix_of(name) == ".png")
    taken = ["first/b.png", "first/deep/c.png", "gone.png", "itself.png", "link.png", "real/a.png"]
    assert sorted(listing.files) == taken, "a link that leads nowhere is listed, so that its reader complains"
    again = "linked to a folder that is taken already"
    assert listing.left_out == {"again/": again, "second/": again, "loop/": again, "real/up/": again, "itself": ""}


def test_pairs_below_links(dataset, notices):
    dataset.add("a.png", image())
    for folder in ("images", "labels"):
        (dataset.folder / folder).rename(dataset.folder / f"the_{folder}")
        (dataset.folder / folder).mkdir()
        for link in ("day", "night"):
            (dataset.folder / folder / link).symlink_to(f"../the_{folder}")
    assert names(dataset) == ["day/a"]
    assert "2 linked to a folder that is taken already, such as " in notices[0]


def test_listings_without_anything_odd_are_those_of_rglob(tmp_path):
    for name in ("b/2.png", "b/1.png", "a.png", "b/c/d.png", "z/y.PNG", "text"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listing = list_files(tmp_path, lambda name: True)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(listing.files) == sorted(path.relative_to(tmp_path).as_posix() for path in files)
    assert listing.left_out == {} and summarise([]) == ""


def test_folders_that_may_not_be_read_are_said(dataset, monkeypatch):
    dataset.add("a.png", image())
    dataset.add("closed/b.png", image())
    scan = os.scandir

    def refuse(place):
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", place)
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuse)
    assert find_images([dataset.folder / "images"], "out").left_out == {"that may not be read": 1}


def test_label_maps_beside_their_images(dataset):
    """Formats that are images by default are label maps where the file says so, or where they have no other place."""
    path = dataset.add("a.jpg", image())
    (dataset.folder / "labels/a.png").rename(path.with_suffix(".png"))
    (dataset.folder / "c.yaml").write_text("images: images\nlabels: images\nids: {a: 0, b: 1}\n")
    assert np.asarray(open_dataset(dataset.spec)[0]["label"]).max() == 1
    PIL.Image.open(path.with_suffix(".png")).save(path.with_suffix(".tif"))
    path.with_suffix(".png").unlink()
    (dataset.folder / "c.yaml").write_text("images: images\nlabels: images\nlabel_suffix: .tif\nids: {a: 0, b: 1}\n")
    assert np.asarray(open_dataset(dataset.spec)[0]["label"]).max() == 1


def test_an_empty_folder_says_what_is_in_it(dataset):
    dataset.add("a.xyz", image(), format="PNG")
    with pytest.raises(FileNotFoundError, match=r"No images/\*\*/\*.avif or .*Left out are 1 .xyz\."):
        open_dataset(dataset.spec)


# --- how many pixels --------------------------------------------------------------------------------------------------


def test_the_limit_is_the_number_that_was_given(tmp_path, recwarn):
    for width in (10, 11):
        PIL.Image.new("L", (width, 10)).save(tmp_path / f"{width}.png")
    limit_pixels("100")
    assert open_image(tmp_path / "10.png").size == (10, 10)
    with pytest.raises(OSError, match=r"11.png: Image size \(110 pixels\) exceeds limit of 100 .*not a broken file"):
        open_image(tmp_path / "11.png")
    for none in (0, "none", " NONE "):
        limit_pixels(none)
        assert PIL.Image.MAX_IMAGE_PIXELS is None and open_image(tmp_path / "11.png").size == (11, 10)
    assert not recwarn.list, "Pillow's warning from half of the limit on is off"
    for bad in ("-1", "1e9", "much", ""):
        with pytest.raises(ValueError, match="--max_image_pixels is a whole number"):
            limit_pixels(bad)


def test_base64_above_the_limit_is_not_taken_for_a_missing_file(tmp_path):
    import base64

    PIL.Image.new("L", (11, 10)).save(tmp_path / "a.png")
    limit_pixels(100)
    with pytest.raises(OSError, match="not a broken file"):
        open_image(base64.b64encode((tmp_path / "a.png").read_bytes()).decode())


def test_the_limit_holds_in_workers_that_spawn(tmp_path):
    PIL.Image.new("L", (32, 32)).save(tmp_path / "a.png")
    limit_pixels(100)
    files = ImageFiles([tmp_path / "a.png"], VFMSegImageProcessor())
    loader = DataLoader(files, 1, num_workers=1, collate_fn=list, multiprocessing_context="spawn")
    assert "1024 pixels) exceeds limit of 100" in next(iter(loader))[0]


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_rows_above_the_limit_say_so(dataset, kind):
    dataset.add("a.png", image())
    PIL.Image.new("L", (400, 300)).save(dataset.folder / kind / "a.png")
    limit_pixels(1000)
    with pytest.raises(OSError, match=rf"{kind}/a.png: Image size.*not a broken file.*--max_image_pixels"):
        open_dataset(dataset.spec)[0]


@pytest.fixture
def run(capsys):
    """Runs a command in this process: its exit status, and what it prints."""

    def run(verb, *arguments):
        status = call(verb, *arguments)
        return status, "".join(capsys.readouterr())

    return run


@pytest.fixture
def saved_model(tiny_model, tmp_path):
    tiny_model(num_labels=2).save_pretrained(tmp_path / "model")
    VFMSegImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def words_of(dataset, model, tiny_config):
    tiny_config(num_labels=2).to_json_file(dataset.folder / "tiny.json")
    train = ["--model", dataset.folder / "tiny.json", "--train", dataset.spec, "--tune", "full", "--max_steps", 1]
    train += ["--crop_size", 64, 64, "--size", 64, 96, "--output_dir", dataset.folder / "run", "--use_cpu"]
    return {
        "predict": [model, dataset.folder / "images", "--output", dataset.folder / "out", "--device", "cpu"],
        "evaluate": ["--model", model, "--data", f"own={dataset.spec}", "--device", "cpu"],
        "check": [dataset.spec, "--num_proc", 1],
        "train": [*train, "--rare_class_sampling", "false", "--report_to", "none", "--disable_tqdm", "true"],
    }


@pytest.mark.parametrize("name", ["predict", "evaluate", "check", "train"])
def test_commands_name_the_limit_and_lift_it(dataset, run, saved_model, tiny_config, name):
    dataset.add("a.png", image().resize((96, 64)))
    arguments = words_of(dataset, saved_model, tiny_config)[name]
    status, said = run(name, *arguments, "--max_image_pixels", 1000)
    assert status != 0 and "6144 pixels) exceeds limit of 1000" in said and "--max_image_pixels" in said
    PIL.Image.MAX_IMAGE_PIXELS = 500
    assert run(name, *arguments, "--max_image_pixels", 0)[0] == 0
    assert "whole number of pixels" in run(name, *arguments, "--max_image_pixels", "lots")[1]


# --- results beside their images ------------------------------------------------------------------------------------


def test_results_may_lie_beside_their_images(dataset, run, saved_model, monkeypatch):
    for name in ("a.png", "sub/b.jpg"):
        dataset.add(name, image().resize((96, 64)), "elsewhere")
    (dataset.folder / "images/notes.txt").touch()
    (dataset.folder / "images/.hidden.png").touch()
    monkeypatch.chdir(dataset.folder / "images")
    for again in (False, True):
        status, said = run("predict", saved_model, ".", "--output", ".", "--device", "cpu", "--num_workers", 0)
        assert status == 0 and "2 of 2 images done" in said, said
        why = "3 folder for results, 1 .txt, 1 hidden" if again else "1 .txt, 1 hidden"
        wanted = f"{5 if again else 2} of {7 if again else 4} entries in the folders left out: "
        assert wanted in said and sorted(said.split(wanted)[1].splitlines()[0].split(", ")) == sorted(why.split(", "))
    results = sorted(path.as_posix() for path in (dataset.folder / "images/labels").rglob("*.png"))
    assert [os.path.relpath(path, dataset.folder / "images/labels") for path in results] == ["a.png", "sub/b.png"]
    status, said = run("predict", saved_model, "labels", "--output", ".", "--device", "cpu")
    assert status == 2 and "no image in the folder labels" in said and "but 1 folder for results" in said
