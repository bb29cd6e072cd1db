# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""EXIF orientation: images are where their label maps are, in training and evaluation, or it is said or refused."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from datasets import Dataset, Features, Image, concatenate_datasets, load_from_disk
from datasets.table import embed_table_storage
from PIL.PngImagePlugin import PngInfo

from tests.support.dataset_copies import LAYOUTS, TREES, corners, make_copy, save_turned
from vfmseg_hf import VFMSegImageProcessor, VFMSegImageProcessorPil
from vfmseg_hf.data import DATASETS, class_statistics, findings, open_dataset, storage
from vfmseg_hf.data.check import check_dataset
from vfmseg_hf.model import image_inputs as image_inputs_vfmseg
from vfmseg_hf.training import Augmentation, EvaluationImages, TrainingImages


BACKENDS = [VFMSegImageProcessor, VFMSegImageProcessorPil]
TURNS = range(2, 9)


def stored_pixels(path: Path) -> np.ndarray:
    """What Pillow decodes, which follows no tag but those of TIFF files."""
    return np.array(PIL.Image.open(path).convert("RGB"))


def upright_pixels(path: Path) -> np.ndarray:
    return np.array(PIL.ImageOps.exif_transpose(PIL.Image.open(path)).convert("RGB"))


def check_both_ways(dataset: Dataset, images: list[np.ndarray]) -> None:
    """Training and evaluation see these images, and label maps of their size."""
    raw = VFMSegImageProcessorPil(do_resize=False, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    training = TrainingImages(dataset, raw, lambda image, label, *rest: (image / 255, label))
    evaluation = EvaluationImages(dataset, raw)
    for index, image in enumerate(images):
        expected = torch.from_numpy(image.copy()).permute(2, 0, 1) / 255
        for item in (training[index], evaluation[index]):
            torch.testing.assert_close(item["pixel_values"], expected)
            assert item["labels"].shape == expected.shape[1:]


@pytest.fixture
def notices(monkeypatch):
    """What is said of EXIF tags."""
    texts = []

    def keep(text, *rest, **more):
        if "EXIF" in text:
            texts.append(text)

    for module in (findings, image_inputs_vfmseg):
        module.logger.warning_once.cache_clear()
        monkeypatch.setattr(module.logger, "warning", keep)
    yield texts
    findings.logger.warning_once.cache_clear()


# --- owners' layouts ----------------------------------------------------------------------------------------------


def test_every_dataset_of_files_is_tried():
    tried = {name.split()[0] for name in LAYOUTS} | set(TREES)
    assert set(DATASETS) - tried == {"folder", "streets"}  # own data, which is below, and scenes without files


@pytest.mark.parametrize("packed", [False, True], ids=["folders", "archives"])
@pytest.mark.parametrize("name", list(LAYOUTS))
def test_owners_images_are_as_stored(name, packed, tmp_path, notices):
    for orientation in TURNS:
        copy = make_copy(tmp_path / str(orientation), name, packed, orientation)
        place = tmp_path / str(orientation) / name.replace(" ", "_")
        files = {copy.layout.name(image): place / image for _, image, _ in copy.layout.frames}
        assert upright_pixels(next(iter(files.values()))).tobytes() != corners(16, 12).tobytes()
        for split in copy.layout.splits:
            dataset = copy.load(split)
            check_both_ways(dataset, [stored_pixels(files[file]) for file in dataset["file_name"]])
            for row in dataset:
                np.testing.assert_array_equal(np.asarray(row["label"]), copy.expected[row["file_name"]])
    assert not notices


@pytest.mark.parametrize("name", list(TREES))
@pytest.mark.parametrize("orientation", TURNS)
def test_owners_images_in_lists_are_as_stored(name, orientation, tmp_path, notices):
    tree = TREES[name](tmp_path / "tree")
    for path in tree.folder.rglob("*.jpg"):
        with PIL.Image.open(path) as image:
            size = image.size
        save_turned(corners(*size), path, orientation)
    for split in tree.counts:
        dataset = tree.load(split)
        check_both_ways(dataset, [stored_pixels(row["image"].filename) for row in dataset])
    assert not notices


# --- forms of the tag ---------------------------------------------------------------------------------------------


def tag_in_exif(pixels: np.ndarray, path: Path) -> None:
    save_turned(pixels, path, 6)


def tag_in_xmp(pixels: np.ndarray, path: Path) -> None:
    PIL.Image.fromarray(pixels).save(path, xmp=b'<x:xmpmeta tiff:Orientation="6"/>', quality=95)


def tag_behind_the_pixels(pixels: np.ndarray, path: Path) -> None:
    """Of a PNG file: its chunk with EXIF data is moved to the end."""
    save_turned(pixels, path, 6)
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    stop = start + 12 + int.from_bytes(content[start : start + 4], "big")
    end = content.index(b"IEND") - 4
    path.write_bytes(content[:start] + content[stop:end] + content[start:stop] + content[end:])


FORMS = {
    "jpg": (tag_in_exif, "a.jpg"),
    "jpg xmp": (tag_in_xmp, "a.jpg"),
    "png": (tag_in_exif, "a.png"),
    "png behind": (tag_behind_the_pixels, "a.png"),
    "webp": (tag_in_exif, "a.webp"),
    "tiff": (tag_in_exif, "a.tif"),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_forms_of_the_tag(form, tmp_path):
    """Nothing that is done with an image of a dataset brings the tag back."""
    save, name = FORMS[form]
    (tmp_path / "p").mkdir()
    save(corners(16, 12), tmp_path / "p" / name)
    upright = upright_pixels(tmp_path / "p" / name)
    stored = np.rot90(upright)  # orientation 6 turns clockwise
    assert upright.shape == (16, 12, 3)
    for exif, pixels in (("stored", stored), ("turned", upright)):
        spec = own_data(tmp_path / exif, [(tmp_path / "p" / name, pixels.shape[1::-1])], exif=exif)
        for rows in forms_of(open_dataset(spec), tmp_path / f"forms_{exif}"):
            image = rows[0]["image"]
            np.testing.assert_array_equal(np.asarray(image), pixels)
            for view in (image, image.copy(), image.convert("L").convert("RGB"), pickle.loads(pickle.dumps(image))):
                assert PIL.ImageOps.exif_transpose(view).size == image.size
            check_both_ways(rows, [pixels])


def own_data(folder: Path, pairs: list[tuple[Path, tuple[int, int]]], **keys: str) -> str:
    """Spec of own data: copies of images, with label maps of the given sizes (width, height)."""
    for index, (image, size) in enumerate(pairs):
        for kind in ("photos", "masks"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / "photos" / f"{index}{image.suffix}").write_bytes(image.read_bytes())
        mask = PIL.Image.new("L", size)
        mask.putpixel((0, 0), 1)
        mask.save(folder / "masks" / f"{index}.png")
    plan = {"images": "photos", "labels": "masks", "ids": {"way": 0, "wall": 1}, "image_suffix": image.suffix, **keys}
    (folder / "dataset.json").write_text(json.dumps(plan))
    return f"folder:{folder}/dataset.json"


def forms_of(dataset: Dataset, place: Path) -> list[Dataset]:
    """What users do with a dataset."""
    mapped = dataset.map(lambda row: {**row})
    dataset.save_to_disk(place / "stored")
    embedded = dataset.with_format("arrow").map(embed_table_storage, batched=True).with_format(None)
    embedded.to_parquet(place / "data.parquet")
    parquet = Dataset.from_parquet(str(place / "data.parquet"), cache_dir=str(place / "cache"))
    return [
        dataset,
        mapped,
        mapped.map(lambda row: {**row}),
        load_from_disk(place / "stored"),
        embedded,
        parquet,
        pickle.loads(pickle.dumps(dataset)),
        concatenate_datasets([dataset, mapped]).select([1]),
    ]


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_tags_that_mean_nothing(orientation, tmp_path, notices):
    save_turned(corners(16, 12), tmp_path / "a.jpg", orientation)
    for keys in ({}, {"exif": "turned"}, {"exif": "stored"}):
        dataset = open_dataset(own_data(tmp_path / "own", [(tmp_path / "a.jpg", (16, 12))], **keys))
        check_both_ways(dataset, [stored_pixels(tmp_path / "a.jpg")])
    assert not notices


def test_tags_that_cannot_be_read(tmp_path, notices):
    broken, text = PngInfo(), PIL.Image.Exif()
    broken.add_text("Raw profile type exif", "no\n\n\nhexadecimal numbers")
    text[0x010E] = "6"  # an orientation as text: by Pillow's own means it cannot be written
    content = text.tobytes().replace(b"\x01\x0e", b"\x01\x12").replace(b"\x0e\x01", b"\x12\x01")
    PIL.Image.fromarray(corners(16, 12)).save(tmp_path / "broken.png", pnginfo=broken)
    PIL.Image.fromarray(corners(16, 12)).save(tmp_path / "text.png", exif=content)
    with pytest.raises(ValueError):
        PIL.Image.open(tmp_path / "broken.png").getexif()
    assert PIL.Image.open(tmp_path / "text.png").getexif()[0x0112] == "6"
    for name in ("broken.png", "text.png"):
        for keys in ({}, {"exif": "turned"}):
            dataset = open_dataset(own_data(tmp_path / name[:-4], [(tmp_path / name, (16, 12))], **keys))
            check_both_ways(dataset, [corners(16, 12)])
        for backend in BACKENDS:
            inputs = backend(do_resize=False)(str(tmp_path / name), np.zeros((12, 16), np.uint8))
            assert inputs["pixel_values"][0].shape == (3, 12, 16)
    assert not notices


# --- own data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("size", [(16, 12), (12, 16)], ids=["as stored", "across"])
def test_own_data(orientation, size, tmp_path, notices):
    save_turned(corners(16, 12), tmp_path / "a.jpg", orientation)
    images = {"stored": stored_pixels(tmp_path / "a.jpg"), "turned": upright_pixels(tmp_path / "a.jpg")}
    for exif, pixels in images.items():
        spec = own_data(tmp_path / exif, [(tmp_path / "a.jpg", size)], exif=exif)
        if pixels.shape[1::-1] == size:
            check_both_ways(open_dataset(spec), [pixels])
            report = check_dataset(spec, num_proc=1, cache_dir=tmp_path / "cache")
            assert report.clean and not report.splits[0].findings.notices
        else:
            with pytest.raises(ValueError, match=f"label map .* is {size[0]}x{size[1]} pixels, its image /.*0.jpg"):
                open_dataset(spec)[0]
    assert not notices
    spec = own_data(tmp_path / "open", [(tmp_path / "a.jpg", size)])
    if orientation < 5:
        with pytest.raises(ValueError, match=r"1 images have an EXIF tag .*0.jpg.*`exif: stored` or `exif: turned`"):
            open_dataset(spec)
    else:
        exif = "stored" if size == (16, 12) else "turned"
        dataset = open_dataset(spec)
        check_both_ways(dataset, [images[exif]])
        (text,) = notices
        assert text.endswith(f"{int(exif == 'stored')} are read as stored and {int(exif == 'turned')} turned.")


def test_own_data_of_both_kinds(tmp_path, notices):
    """Each image has the position of its label map; one whose sizes tell nothing is named."""
    for name, orientation in (("a", 6), ("b", 8), ("c", 1)):
        save_turned(corners(16, 12), tmp_path / f"{name}.jpg", orientation)
    pairs = [(tmp_path / "a.jpg", (16, 12)), (tmp_path / "b.jpg", (12, 16)), (tmp_path / "c.jpg", (16, 12))]
    pixels = [stored_pixels(pairs[0][0]), upright_pixels(pairs[1][0]), stored_pixels(pairs[2][0])]
    dataset = open_dataset(own_data(tmp_path / "own", pairs))
    check_both_ways(dataset, pixels)
    check_both_ways(concatenate_datasets([dataset, dataset.map(lambda row: {**row})]), pixels * 2)
    (text,) = notices
    assert text.endswith("2 images have an EXIF tag that asks to turn them; by their label maps' sizes 1 are read as "
                         "stored and 1 turned.")  # fmt: skip
    save_turned(corners(16, 16), tmp_path / "square.jpg", 6)
    with pytest.raises(ValueError, match=r"1 images have an EXIF tag that asks to turn or mirror them \(\S*3.jpg\)"):
        open_dataset(own_data(tmp_path / "own", [*pairs, (tmp_path / "square.jpg", (16, 16))]))


@pytest.mark.parametrize("exif", ["stored", "turned", None])
def test_own_data_in_archives(exif, tmp_path):
    save_turned(corners(16, 12), tmp_path / "a.jpg", 6)
    pixels = stored_pixels(tmp_path / "a.jpg") if exif == "stored" else upright_pixels(tmp_path / "a.jpg")
    spec = own_data(tmp_path / "own", [(tmp_path / "a.jpg", pixels.shape[1::-1])], **({"exif": exif} if exif else {}))
    with zipfile.ZipFile(tmp_path / "own/all.zip", "w") as archive:
        for path in ("photos/0.jpg", "masks/0.png"):
            archive.write(tmp_path / "own" / path, path)
            (tmp_path / "own" / path).unlink()
    for rows in forms_of(open_dataset(spec), tmp_path / "forms"):
        check_both_ways(rows, [pixels])
    assert check_dataset(spec, num_proc=1, cache_dir=tmp_path / "cache").clean


@pytest.mark.parametrize("location", ["/a/b.jpg", "zip://a/b.jpg::/c.zip"])
def test_locations(location):
    upright = storage.upright_location(location)
    assert storage.is_upright(upright) and not storage.is_upright(location)
    for same in (storage.plain_location, storage.split_location, storage.base_name, class_statistics._file_of):
        assert same(upright) == same(location)
    assert storage.plain_location(upright) == location


def test_label_maps_with_a_tag(tmp_path):
    """The tag of both is that of neither; another one leaves it in doubt; alone, a label map's is not followed."""
    save_turned(corners(16, 12), tmp_path / "a.jpg", 3)
    spec = own_data(tmp_path / "own", [(tmp_path / "a.jpg", (16, 12))])
    ids = np.zeros((12, 16), np.uint8)
    ids[0] = 255
    (tmp_path / "own/dataset.json").write_text(
        (tmp_path / "own/dataset.json").read_text().replace('"ids"', '"ignore": 255, "ids"')
    )
    for orientation in (3, 6, 1):
        save_turned(ids, tmp_path / "own/masks/0.png", orientation)
        if orientation == 3:
            dataset = open_dataset(spec)
            check_both_ways(dataset, [stored_pixels(tmp_path / "a.jpg")])
            np.testing.assert_array_equal(np.asarray(dataset[0]["label"]), ids)
        else:
            with pytest.raises(ValueError, match="1 images have an EXIF tag"):
                open_dataset(spec)
    save_turned(corners(16, 12), tmp_path / "own/photos/0.jpg", 1)
    save_turned(ids, tmp_path / "own/masks/0.png", 3)
    np.testing.assert_array_equal(np.asarray(open_dataset(spec)[0]["label"]), ids)


# --- tables -------------------------------------------------------------------------------------------------------


def table(folder: Path, pairs: list[tuple[int, tuple[int, int]]], inside: bool) -> str:
    """Orientations of images of 16 x 12, and sizes of their label maps."""
    rows = []
    folder.mkdir()
    for index, (orientation, size) in enumerate(pairs):
        save_turned(corners(16, 12), folder / f"p{index}.jpg", orientation)
        PIL.Image.new("L", size).save(folder / f"m{index}.png")
        rows.append({"image": str(folder / f"p{index}.jpg"), "label": str(folder / f"m{index}.png")})
    dataset = Dataset.from_list(rows, features=Features({"image": Image(), "label": Image()}))
    if inside:
        dataset = dataset.with_format("arrow").map(embed_table_storage, batched=True).with_format(None)
    dataset.save_to_disk(folder / "table")
    return f"{folder / 'table'}?id2label=cityscapes"


@pytest.mark.parametrize("inside", [False, True], ids=["files", "bytes"])
@pytest.mark.parametrize("orientation", TURNS)
def test_tables(orientation, inside, tmp_path, notices):
    for size, pixels_of in (((16, 12), stored_pixels), ((12, 16), upright_pixels)):
        folder = tmp_path / f"{size[0]}"
        spec = table(folder, [(orientation, size), (1, (16, 12))], inside)
        if orientation < 5:
            with pytest.raises(ValueError, match="1 images have an EXIF tag .*exif_transpose"):
                open_dataset(spec)
            continue
        dataset = open_dataset(spec)
        assert dataset["file_name"][:] == ["p0", "p1"]
        pixels = [pixels_of(folder / "p0.jpg"), stored_pixels(folder / "p1.jpg")]
        for rows in forms_of(dataset, tmp_path / f"forms{size[0]}")[:-1] if orientation == 6 else [dataset]:
            check_both_ways(rows, pixels)
        check_both_ways(dataset.select([1]), pixels[1:])
    assert len(notices) == (2 if orientation >= 5 else 0)


def test_tables_of_both_kinds(tmp_path):
    spec = table(tmp_path / "both", [(6, (16, 12)), (6, (12, 16)), (1, (16, 12))], True)
    with pytest.raises(ValueError, match=r"2 images have an EXIF tag .*\(Of all, by .* 1 are .* stored and 1 turned"):
        open_dataset(spec)


# --- the image processor ------------------------------------------------------------------------------------------


@pytest.fixture(params=BACKENDS, ids=["torchvision", "pil"])
def processor(request):
    return request.param(do_resize=False, do_normalize=False)


def levels(pixel_values: object) -> np.ndarray:
    return np.rint(np.asarray(pixel_values) * 255).astype(np.uint8).transpose(1, 2, 0)


def drawn(pixels: np.ndarray) -> np.ndarray:
    """A label map of an image of `corners`: an id for each colour."""
    return (pixels.astype(int) > 100) @ np.array([1, 2, 3]).astype(np.uint8)


@pytest.mark.parametrize("orientation", TURNS)
def test_processor(processor, orientation, tmp_path, notices):
    path = tmp_path / "a.png"
    save_turned(corners(16, 12), path, orientation)
    images = [stored_pixels(path), upright_pixels(path)]
    for pixels in images:
        label = drawn(pixels).astype(np.uint8)
        for image in (str(path), PIL.Image.open(path)):
            for form in (label, PIL.Image.fromarray(label), torch.from_numpy(label)[None]):
                if orientation < 5:
                    with pytest.raises(ValueError, match=rf"Image 0 \(.*a.png\) has an EXIF tag \(orientation "
                                                         rf"{orientation}\).*exif_transpose.*np.array"):  # fmt: skip
                        processor(image, form)
                    continue
                inputs = processor(image, form)
                np.testing.assert_array_equal(levels(inputs["pixel_values"][0]), pixels)
                np.testing.assert_array_equal(inputs["labels"][0], label)
    assert len(notices) == (2 if orientation >= 5 else 0)
    # Without a map, and with one that has the same tag, it is turned.
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(drawn(images[0]).astype(np.uint8)).save(tmp_path / "label.png", exif=exif)
    np.testing.assert_array_equal(levels(processor(str(path))["pixel_values"][0]), images[1])
    inputs = processor(str(path), str(tmp_path / "label.png"))
    np.testing.assert_array_equal(levels(inputs["pixel_values"][0]), images[1])
    np.testing.assert_array_equal(inputs["labels"][0], drawn(images[1]))
    # What the error advises.
    for pixels, image in zip(
        images, (np.array(PIL.Image.open(path)), PIL.ImageOps.exif_transpose(PIL.Image.open(path))), strict=True
    ):
        np.testing.assert_array_equal(levels(processor(image, drawn(pixels))["pixel_values"][0]), pixels)


def test_processor_on_batches(processor, tmp_path, notices):
    """Every pair has its own position."""
    save_turned(corners(16, 12), tmp_path / "a.png", 6)
    save_turned(corners(12, 16), tmp_path / "b.png", 8)
    images = [corners(12, 16), str(tmp_path / "a.png"), str(tmp_path / "b.png"), str(tmp_path / "a.png")]
    pixels = [
        corners(12, 16),
        upright_pixels(tmp_path / "a.png"),
        stored_pixels(tmp_path / "b.png"),
        upright_pixels(tmp_path / "a.png"),
    ]
    inputs = processor(images, [drawn(item) for item in pixels], return_tensors="np")
    for item, pixel_values, labels in zip(pixels, inputs["pixel_values"], inputs["labels"], strict=True):
        np.testing.assert_array_equal(levels(pixel_values), item)
        np.testing.assert_array_equal(labels, drawn(item))
    assert len(notices) == 2
    with pytest.raises(ValueError, match=r"Segmentation map 1 is 5x16.*Image 1 \(.*a.png\) is 16x12"):
        processor(images[:2], [drawn(pixels[0]), np.zeros((5, 16), np.uint8)])
    save_turned(corners(16, 16), tmp_path / "square.png", 6)
    with pytest.raises(ValueError, match="square.png.*EXIF"):
        processor(str(tmp_path / "square.png"), np.zeros((16, 16), np.uint8))


def test_processor_on_maps_with_a_tag(processor, tmp_path, notices):
    """The same rule the other way round: an image without the tag that its label map has."""
    label = drawn(corners(16, 12)).astype(np.uint8)
    save_turned(label, tmp_path / "label.png", 6)
    upright = np.rot90(corners(16, 12), -1)
    for pixels in (corners(16, 12), upright):
        inputs = processor(pixels, str(tmp_path / "label.png"))
        np.testing.assert_array_equal(levels(inputs["pixel_values"][0]), pixels)
        np.testing.assert_array_equal(inputs["labels"][0], drawn(pixels))
    assert len(notices) == 2
    save_turned(label, tmp_path / "label.png", 3)
    with pytest.raises(ValueError, match=r"Segmentation map 0 \(.*label.png\) has an EXIF tag \(orientation 3\)"):
        processor(corners(16, 12), str(tmp_path / "label.png"))


# --- rows in memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16"])
def test_rows_in_memory_are_read_alike(mode, tmp_path):
    """As stored, in training and evaluation; other modes as the image processor has them."""
    if mode == "I;16":
        image = PIL.Image.fromarray(np.linspace(0, 65535, 64 * 96).reshape(64, 96).astype(np.uint16))
    else:
        image = PIL.Image.fromarray(corners(96, 64)).convert(mode)
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    image.save(tmp_path / "a.png", exif=exif)
    rows = [{"image": PIL.Image.open(tmp_path / "a.png"), "label": PIL.Image.new("L", (96, 64)), "file_name": "a"}]
    processor = VFMSegImageProcessorPil(do_resize=False, do_normalize=False)
    plain = Augmentation((64, 96), flip_probability=0.0, photometric=False)
    seen = [
        images[0]["pixel_values"]
        for images in (TrainingImages(rows, processor, plain), EvaluationImages(rows, processor))
    ]
    torch.testing.assert_close(*seen)
    turned = [{**rows[0], "label": PIL.Image.new("L", (64, 96))}]
    for images in (TrainingImages(turned, processor, plain), EvaluationImages(turned, processor)):
        with pytest.raises(ValueError, match="label map of a is 64x96 pixels, its image 96x64 as it is stored"):
            images[0]
