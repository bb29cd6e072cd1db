# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from PIL.PngImagePlugin import PngInfo
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

from tests.support.commands import call, start
from vfmseg_hf import VFMSegImageProcessor, lora_config
from vfmseg_hf.prediction.predict import find_images, load_model, predict_files, predict_image
from vfmseg_hf.prediction.visualization import class_colours, distinct_colours


EXIF_ORIENTATION = 0x0112


def noise(height, width, seed=0):
    """Soft blobs: a random model says something else about each corner of it."""
    blobs = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return PIL.Image.fromarray(blobs).resize((width, height), PIL.Image.Resampling.BICUBIC)


def saved(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def model_directory(tiny_model, tmp_path):
    """Saves a tiny model with lively maps, and its image processor."""

    def make(**overrides):
        model = tiny_model(confidence_threshold=0.5, certainty_threshold=0.5, **overrides)
        with torch.no_grad():
            model.coarse_head.classifier.weight *= 300
            model.refine_head.classifier.weight *= 100
        directory = tmp_path / "model"
        model.save_pretrained(directory)
        VFMSegImageProcessor(size={"shortest_edge": 96, "longest_edge": 192}).save_pretrained(directory)
        return directory

    return make


@pytest.fixture
def loaded(model_directory):
    return load_model(model_directory(), "cpu")


# --- which images, and what their results are called ---------------------------------------------------------------


def names_of(sources, output="nowhere"):
    return list(find_images(sources, output).values())


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_folders_are_searched_in_order_for_images(tmp_path):
    touch(tmp_path, "b.PNG", "a.jpg", "sub/c.webp", "notes.txt", ".hidden.png", "a.b.jpeg")
    assert names_of([tmp_path]) == ["a.b", "a", "b", "sub/c"]


def test_a_named_file_counts_whatever_its_extension_and_only_once(tmp_path):
    touch(tmp_path, "scan.dat", "a.png")
    assert names_of([tmp_path / "scan.dat", tmp_path / "a.png", tmp_path]) == ["scan", "a"]


def test_equal_names_are_told_apart(tmp_path):
    touch(tmp_path, "one/day/a.jpg", "two/day/a.jpg", "one/b.jpg", "one/b.png", "two/c.png")
    assert names_of([tmp_path / "one", tmp_path / "two"]) == ["b.jpg", "b.png", "one/day/a", "c", "two/day/a"]
    names = names_of([tmp_path / "one/day/a.jpg", tmp_path / "two/day/a.jpg", tmp_path / "one/b.png"])
    assert names == ["one/day/a", "two/day/a", "b"]


def test_names_that_some_disks_hold_equal_are_told_apart(tmp_path):
    touch(tmp_path, "a.jpg", "A.png")
    if len(list(tmp_path.iterdir())) == 2:
        assert sorted(names_of([tmp_path])) == ["A.png", "a.jpg"]
        touch(tmp_path, "A.jpg")
        with pytest.raises(ValueError, match="rename one"):
            names_of([tmp_path])


def test_earlier_results_are_no_images(tmp_path):
    touch(tmp_path, "a.png")
    written_by = PngInfo()
    written_by.add_text("Software", "vfmseg_hf")
    saved(tmp_path / "results" / "labels" / "b.png", noise(8, 8), pnginfo=written_by)
    assert names_of([tmp_path], tmp_path / "results") == ["a"]


@pytest.mark.parametrize("name", ["labels/a.png", "overlays/a.jpg", "panels/a.png"])
def test_files_of_users_are_never_replaced(model_directory, tmp_path, monkeypatch, capsys, name):
    """A dataset has its label maps in `labels` as well: `predict data/images --output data` would have lost them."""
    directory, data = model_directory(), tmp_path / "data"
    saved(data / "images" / "a.png", noise(64, 96))
    own = saved(data / name, noise(64, 96)).read_bytes()
    assert call("predict", directory, data / "images", "--output", data) == 2
    error = capsys.readouterr().err
    assert f"would replace {data / name}" in error or f"{data / 'labels'} holds label maps not written by this" in error
    assert (data / name).read_bytes() == own


def test_missing_paths_and_empty_folders_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        names_of([tmp_path / "absent.png"])
    with pytest.raises(FileNotFoundError, match="no image in the folder"):
        names_of([touch(tmp_path, "notes.txt")])


# --- models -----------------------------------------------------------------------------------------------------------


def test_models_that_cannot_be_used_are_named(tmp_path, model_directory):
    with pytest.raises(ValueError, match=r"cannot load .* from .*absent \(no such directory here"):
        load_model(str(tmp_path / "absent"), "cpu")
    with pytest.raises(ValueError, match="device nonsense is not available"):
        load_model(model_directory(), "nonsense")
    other = tmp_path / "segformer"
    tiny = {"hidden_sizes": [8, 8, 8, 8], "num_attention_heads": [1, 1, 1, 1], "decoder_hidden_size": 8}
    SegformerForSemanticSegmentation(SegformerConfig(depths=[1, 1, 1, 1], **tiny)).save_pretrained(other)
    SegformerImageProcessor().save_pretrained(other)
    with pytest.raises(ValueError, match="no VFMSeg model but a segformer"):
        load_model(str(other), "cpu")


# --- predictions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height, width", [(360, 480), (97, 203), (17, 33), (192, 96)])
def test_labels_are_the_best_class_at_the_images_own_size(model_directory, tmp_path, height, width):
    directory = model_directory()
    path = saved(tmp_path / "in" / "street.png", noise(height, width))
    reports = list(predict_files(*load_model(directory, "cpu"), find_images([path], "out"), tmp_path / "out"))

    model = AutoModelForSemanticSegmentation.from_pretrained(directory)
    inputs = AutoImageProcessor.from_pretrained(directory)(PIL.Image.open(path), return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    expected = F.interpolate(outputs.logits, size=(height, width), mode="bilinear", align_corners=False)[0].argmax(0)
    image = PIL.Image.open(tmp_path / "out" / "labels" / "street.png")
    assert image.mode == "P" and np.array_equal(np.asarray(image), expected.numpy())
    assert len(np.unique(expected)) > 2, "this test needs a model that sees several classes"
    assert image.getpalette()[: 19 * 3] == class_colours(model.config.id2label).reshape(-1).tolist()
    assert PIL.Image.open(tmp_path / "out" / "overlays" / "street.jpg").size == (width, height)
    assert PIL.Image.open(tmp_path / "out" / "panels" / "street.png").width > 700
    assert [(report.windows, report.refined) for report in reports] == [
        (outputs.refined.numel(), int(outputs.refined.sum()))
    ]


def test_coarse_pass_and_windows_are_the_models(loaded):
    model, processor = loaded
    # A threshold in the middle of what occurs, between two steps of the confidence, makes windows of both kinds.
    step = int(np.median(predict_image(model, processor, noise(100, 200)).confidence))
    model.config.confidence_threshold = (step + 0.5) / 255
    prediction = predict_image(model, processor, noise(100, 200))
    pixel_values = processor(noise(100, 200), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        coarse = model(pixel_values, refine=False)
    assert np.array_equal(prediction.coarse_labels, coarse.logits[0].argmax(0).numpy())
    assert 0 < prediction.refined.sum() < len(prediction.refined)
    assert np.array_equal(prediction.refined, prediction.certainty <= model.config.certainty_threshold)
    for (top, left, bottom, right), share in zip(prediction.windows, prediction.certainty, strict=True):
        certain = prediction.confidence[top:bottom, left:right] > step
        assert certain.mean() == pytest.approx(share, abs=1e-3)


def test_refine_chooses_the_windows(loaded):
    for refine, share in ((False, 0), ("all", 1)):
        assert predict_image(*loaded, noise(96, 192), refine).refined.mean() == share


def test_exif_orientation_is_applied(loaded):
    upright = noise(120, 80)
    turned = upright.transpose(PIL.Image.Transpose.ROTATE_90)
    turned.getexif()[EXIF_ORIENTATION] = 6  # to be shown rotated by 90 degrees clockwise
    prediction, expected = predict_image(*loaded, turned), predict_image(*loaded, upright)
    assert prediction.image.size == (80, 120)
    assert np.array_equal(np.asarray(prediction.image), np.asarray(upright))
    assert np.array_equal(prediction.labels, expected.labels)


def test_sixteen_bits_are_scaled_not_clipped(loaded, tmp_path):
    grey = np.asarray(noise(96, 160).convert("L"))
    deep = PIL.Image.open(saved(tmp_path / "deep.png", PIL.Image.fromarray(grey.astype(np.uint16) * 257)))
    assert deep.mode.startswith("I")
    prediction, expected = predict_image(*loaded, deep), predict_image(*loaded, PIL.Image.fromarray(grey))
    assert np.array_equal(np.asarray(prediction.image), np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(prediction.labels, expected.labels)


def test_own_classes_have_own_colours(model_directory, tmp_path):
    id2label = {0: "river", 1: "bank", 2: "boat"}
    model, processor = load_model(model_directory(id2label=id2label), "cpu")
    path = saved(tmp_path / "in" / "a.png", noise(96, 128))
    list(predict_files(model, processor, find_images([path], "out"), tmp_path / "out"))
    image = PIL.Image.open(tmp_path / "out" / "labels" / "a.png")
    ids = np.asarray(image)
    assert set(np.unique(ids)) <= {0, 1, 2} and len(np.unique(ids)) > 1
    assert np.array_equal(np.asarray(image.convert("RGB")), distinct_colours(3)[ids])


def test_broken_files_are_reported_and_the_rest_goes_on(loaded, tmp_path):
    folder = tmp_path / "in"
    saved(folder / "a_good.png", noise(64, 96))
    saved(folder / "cmyk.jpg", noise(64, 96).convert("CMYK"))
    whole = saved(folder / "z_good.png", noise(300, 300)).read_bytes()
    (folder / "empty.png").touch()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "words.jpg").write_text("no image at all")
    saved(folder / "float.tiff", PIL.Image.new("F", (64, 64)))
    saved(folder / "needle.png", noise(3000, 1))
    reports = list(predict_files(*loaded, find_images([folder], "out"), tmp_path / "out"))
    errors = {report.path.name: report.error for report in reports if report.error}
    assert list(errors) == ["empty.png", "float.tiff", "needle.png", "truncated.png", "words.jpg"]
    assert "empty (0 bytes)" in errors["empty.png"] and "truncated.png" in errors["truncated.png"]
    assert "mode F" in errors["float.tiff"] and "at least one patch" in errors["needle.png"]
    good = ["a_good", "cmyk", "z_good"]
    assert files_below(tmp_path / "out") == [
        *(f"labels/{name}.png" for name in good),
        *(f"overlays/{name}.jpg" for name in good),
        *(f"panels/{name}.png" for name in good),
    ]


def test_a_full_disk_ends_the_run_without_half_files(loaded, tmp_path, monkeypatch):
    path = saved(tmp_path / "in" / "a.png", noise(64, 96))
    written = []

    def full(self, content):
        if written:
            with self.open("wb") as stream:
                stream.write(content[:10])
            raise OSError("No space left on device")
        written.append(self)
        with self.open("wb") as stream:
            stream.write(content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        list(predict_files(*loaded, find_images([path], "out"), tmp_path / "out"))
    assert files_below(tmp_path / "out") == ["labels/a.png"]


@pytest.mark.parametrize("batch_size, num_workers", [(3, 0), (2, 2)])
def test_batches_and_workers_give_the_same_files_in_order(loaded, tmp_path, batch_size, num_workers):
    """Also with images of other sizes, broken ones and ones that the model refuses in the batch."""
    folder = tmp_path / "in"
    for number, size in enumerate([(64, 96), (97, 203), (64, 96), (192, 96), (64, 96)]):
        saved(folder / f"{number}.png", noise(*size, seed=number))
    (folder / "1b.png").write_bytes(b"no image")
    saved(folder / "2b.png", noise(3000, 1))
    images = find_images([folder], "out")
    alone = list(predict_files(*loaded, images, tmp_path / "alone"))
    together = list(
        predict_files(*loaded, images, tmp_path / "together", batch_size=batch_size, num_workers=num_workers)
    )
    assert together == alone
    assert [bool(report.error) for report in alone] == [name in ("1b", "2b") for name in images.values()]
    files = files_below(tmp_path / "alone")
    assert files == files_below(tmp_path / "together") and len(files) == 15
    for name in files:
        first, second = (np.asarray(PIL.Image.open(tmp_path / kind / name)) for kind in ("alone", "together"))
        assert np.mean(first != second) < 1e-3, name


@pytest.mark.parametrize("counts", [{"batch_size": 0}, {"num_workers": -1}], ids=str)
def test_counts_that_are_none(counts, loaded, tmp_path):
    saved(tmp_path / "in" / "a.png", noise(64, 96))
    with pytest.raises(ValueError, match=next(iter(counts))):
        list(predict_files(*loaded, find_images([tmp_path / "in"], "out"), tmp_path / "out", **counts))
    assert not (tmp_path / "out").exists()


def test_eight_bits_are_for_the_cpu():
    with pytest.raises(ValueError, match="8 bits are for the CPU, not for meta"):
        load_model("absent", "meta", torch.int8)


def test_results_are_written_while_the_next_image_is_read(loaded, tmp_path):
    """No more than a batch waits to be written."""
    for number in range(5):
        saved(tmp_path / "in" / f"{number}.png", noise(64, 96, seed=number))
    reports = predict_files(
        *loaded, find_images([tmp_path / "in"], "out"), tmp_path / "out", batch_size=1, num_workers=1
    )
    next(reports)
    assert len(files_below(tmp_path / "out" / "labels")) < 5
    reports.close()


def test_lora_is_merged_to_predict(tiny_model, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "base")
    model = type(model).from_pretrained(tmp_path / "base")
    model.add_adapter(lora_config(model.config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    VFMSegImageProcessor().save_pretrained(tmp_path / "adapter")
    for dtype in (torch.float32, torch.bfloat16):
        loaded = load_model(str(tmp_path / "adapter"), "cpu", dtype)[0]
        assert not any("lora" in name for name, _ in loaded.named_parameters()) and loaded.dtype == dtype
    assert (
        load_model(str(tmp_path / "adapter"), "cpu", torch.int8)[0](torch.randn(1, 3, 64, 64)).logits.isfinite().all()
    )
    loaded = load_model(str(tmp_path / "adapter"), "cpu")[0]
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        adapted = model.eval()(image, refine="all").logits
        torch.testing.assert_close(loaded(image, refine="all").logits, adapted, atol=1e-5, rtol=1e-4)


# --- the script -------------------------------------------------------------------------------------------------------


def test_script_as_a_user_runs_it(model_directory, tmp_path, monkeypatch):
    saved(tmp_path / "day" / "a.png", noise(64, 96))
    saved(tmp_path / "night" / "a.jpg", noise(97, 65))
    (tmp_path / "night" / "broken.png").write_bytes(b"\x89PNG")
    monkeypatch.chdir(tmp_path)
    done = start("predict", model_directory(), "day", "night", "--output", "out", "--device", "cpu")
    assert done.returncode == 1, done.stderr
    assert "2 of 3 images done, 1 failed" in done.stdout and "broken.png" in done.stdout
    assert "windows refined" in done.stdout and "images per second" in done.stdout
    assert "3/3" in done.stderr and "image" in done.stderr, "the progress bar goes to stderr"
    assert files_below(tmp_path / "out" / "labels") == ["day/a.png", "night/a.png"]


def test_script_succeeds_and_repeats(model_directory, tmp_path, monkeypatch, capsys):
    directory, output = model_directory(), tmp_path / "in" / "out"
    saved(tmp_path / "in" / "a.png", noise(64, 96))
    for refine, said in (("none", "0 of 6 windows"), ("all", "6 of 6 windows refined (100.0%)")):
        assert call("predict", directory, tmp_path / "in", "--output", output, "--refine", refine) == 0
        assert said in capsys.readouterr().out
    assert files_below(output) == ["labels/a.png", "overlays/a.jpg", "panels/a.png"]


def test_script_refuses_to_start_on_wrong_arguments(model_directory, tmp_path, monkeypatch, capsys):
    directory, output = model_directory(), tmp_path / "out"
    image = saved(tmp_path / "in" / "a.png", noise(64, 96))
    (tmp_path / "empty").mkdir()
    for model, source, said in (
        (tmp_path / "absent", image, "absent"),
        (directory, tmp_path / "absent.png", "no such file or folder"),
        (directory, tmp_path / "empty", "no image in the folder"),
    ):
        assert call("predict", model, source, "--output", output) == 2
        assert said in capsys.readouterr().err
        assert not output.exists()
    output.write_text("in the way")
    assert call("predict", directory, image, "--output", output) == 2
    assert "out" in capsys.readouterr().err
