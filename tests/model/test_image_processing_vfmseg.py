# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
import base64
import json
import logging
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from io import BytesIO
from math import floor
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.utils import httpx
from transformers import AutoImageProcessor, BeitImageProcessor, SegformerImageProcessor
from transformers.image_processing_utils import BatchFeature
from transformers.modeling_outputs import SemanticSegmenterOutput

from tests.support import SOURCE
from tests.support.blockers import run_without
from vfmseg_hf import VFMSegImageProcessor, VFMSegImageProcessorPil


MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32).reshape(3, 1, 1)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32).reshape(3, 1, 1)
BOX = {"shortest_edge": 64, "longest_edge": 128}
BACKENDS = [VFMSegImageProcessor, VFMSegImageProcessorPil]
EXIF_ORIENTATION = 0x0112


@pytest.fixture(params=BACKENDS, ids=["torchvision", "pil"])
def processor(request):
    return request.param(size=BOX)


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def grey_levels(pixel_values):
    """Undoes scaling and normalisation: [3, H, W] or [1, 3, H, W] pixel values to levels of 0..255."""
    values = np.asarray(pixel_values, dtype=np.float32)
    return ((values[0] if values.ndim == 4 else values) * STD + MEAN) * 255


def read(processor, image, **kwargs):
    """The image as the processor reads it, unresized: uint8 [H, W, 3]."""
    pixels = processor(image, do_resize=False, return_tensors="np", **kwargs).pixel_values
    levels = grey_levels(pixels).transpose(1, 2, 0)
    assert np.abs(levels - levels.round()).max() < 1e-2
    return levels.round().astype(np.uint8)


def png(path, image):
    image.save(path)
    return str(path)


# --- pixels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height, width", [(100, 200), (40, 50), (17, 33), (50, 410)])
def test_pixels_are_pillows_bilinear_resize_then_imagenet_normalised(processor, height, width):
    image = noise(height, width)
    pixels = processor(image, return_tensors="pt").pixel_values
    assert pixels.dtype == torch.float32 and pixels.shape[:2] == (1, 3)
    scale = min(64 / min(height, width), 128 / max(height, width))
    expected_size = (round(width * scale), round(height * scale))
    resized = PIL.Image.fromarray(image).resize(expected_size, PIL.Image.Resampling.BILINEAR)
    expected = (np.asarray(resized, dtype=np.float32).transpose(2, 0, 1) / 255 - MEAN) / STD
    assert pixels.shape[2:] == expected.shape[1:]
    one_level = 1.01 / 255 / STD.min()
    np.testing.assert_allclose(pixels[0].numpy(), expected, atol=one_level)


@pytest.mark.parametrize("height, width", [(64, 128), (300, 450), (512, 910), (17, 33), (30, 41), (40, 360)])
def test_backends_agree_within_one_grey_level(height, width):
    image = noise(height, width)
    fast = VFMSegImageProcessor(size={"shortest_edge": 256, "longest_edge": 512})(image, return_tensors="np")
    slow = VFMSegImageProcessorPil(size={"shortest_edge": 256, "longest_edge": 512})(image, return_tensors="np")
    assert fast.pixel_values.shape == slow.pixel_values.shape
    difference = np.abs(grey_levels(fast.pixel_values) - grey_levels(slow.pixel_values))
    assert difference.max() < 1.01
    assert difference.mean() < 0.02


@pytest.mark.parametrize("height, width", [(96, 144), (30, 40)])
def test_backends_agree_on_floats_without_8_bit_rounding(height, width):
    image = np.random.default_rng(0).random((height, width, 3), dtype=np.float32)
    fast, slow = (
        backend(size=BOX)(image, do_rescale=False, return_tensors="np").pixel_values[0] for backend in BACKENDS
    )
    expected = F.interpolate(
        torch.from_numpy(image.transpose(2, 0, 1))[None], size=fast.shape[1:], mode="bilinear", antialias=True
    )[0]
    np.testing.assert_allclose(fast * STD + MEAN, expected, atol=1e-5)
    np.testing.assert_allclose(slow * STD + MEAN, expected, atol=1e-4)


@pytest.mark.parametrize("height, width", [(96, 144), (30, 40), (64, 128), (300, 450)])
def test_without_antialias_each_pixel_is_made_of_four(height, width):
    image = noise(height, width)
    fast, slow = (backend(size=BOX, antialias=False)(image, return_tensors="np").pixel_values for backend in BACKENDS)
    np.testing.assert_allclose(fast, slow, atol=1e-5)
    levels = grey_levels(fast)
    exact = torch.from_numpy(image.transpose(2, 0, 1))[None].double()
    exact = F.interpolate(exact, size=levels.shape[1:], mode="bilinear", align_corners=False)[0].numpy()
    assert np.abs(levels - exact).max() < 0.501, "rounded to 8 bits, nothing else"
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    if height > 64:
        smoothed = grey_levels(VFMSegImageProcessor(size=BOX)(image, return_tensors="np").pixel_values)
        assert np.abs(smoothed - levels).max() > 20, "this test needs an image that smoothing changes"


def test_without_antialias_floats_stay_floats_and_maps_stay_nearest():
    image = np.random.default_rng(0).random((96, 144, 3), dtype=np.float32)
    settings = {"size": BOX, "do_rescale": False, "antialias": False, "return_tensors": "np"}
    fast, slow = (backend()(image, noise(96, 144, 0) % 19, **settings) for backend in BACKENDS)
    np.testing.assert_array_equal(fast["labels"], slow["labels"])
    np.testing.assert_allclose(fast["pixel_values"], slow["pixel_values"], atol=1e-5)
    values = fast["pixel_values"][0] * STD + MEAN
    assert np.abs(values * 255 - np.round(values * 255)).max() > 0.1


def test_without_antialias_only_bilinear(tmp_path):
    VFMSegImageProcessor(antialias=False).save_pretrained(tmp_path)
    processor = VFMSegImageProcessorPil.from_pretrained(tmp_path)
    assert processor.antialias is False
    with pytest.raises(ValueError, match=r"antialias=False needs resample=2 \(bilinear\), got .*3"):
        processor(noise(8, 8), resample=3)


@pytest.mark.parametrize("mean, std", [(MEAN.ravel().tolist(), STD.ravel().tolist()), ([0.5] * 3, [0.25] * 3)])
@pytest.mark.parametrize("factor", [1 / 255, 1 / 127.5])
@pytest.mark.parametrize("do_normalize", [True, False])
@pytest.mark.parametrize("do_rescale", [True, False])
def test_normalise_gives_a_float_image_what_the_call_gives_an_8_bit_one(do_rescale, do_normalize, factor, mean, std):
    image = noise(8, 9)
    for backend in BACKENDS:
        processor = backend(
            size=BOX,
            do_rescale=do_rescale,
            do_normalize=do_normalize,
            rescale_factor=factor,
            image_mean=mean,
            image_std=std,
        )
        expected = processor(image, do_resize=False, return_tensors="pt")["pixel_values"][0]
        pixels = processor.normalise(torch.from_numpy(image.transpose(2, 0, 1)) / 255)
        assert pixels.dtype == torch.float32
        torch.testing.assert_close(pixels, expected, rtol=2e-6, atol=2e-6)


def test_plain_images_as_segformers_processor():
    image = noise(50, 80)
    ours = VFMSegImageProcessor(size=BOX)(image, noise(50, 80, 0) % 19, return_tensors="pt")
    theirs = SegformerImageProcessor(size=BOX)(image, noise(50, 80, 0) % 19, return_tensors="pt")
    torch.testing.assert_close(ours["pixel_values"], theirs["pixel_values"])
    assert torch.equal(ours["labels"], theirs["labels"])


@pytest.mark.parametrize(
    "height, width, size, expected",
    [
        (1052, 1914, {"shortest_edge": 1024, "longest_edge": 2048}, (1024, 1863)),
        (512, 910, {"shortest_edge": 1024, "longest_edge": 2048}, (1024, 1820)),
        (90, 810, {"shortest_edge": 1024, "longest_edge": 2048}, (228, 2048)),
        (1024, 2049, {"shortest_edge": 1024, "longest_edge": 2048}, (1024, 2048)),
        (2049, 1024, {"shortest_edge": 1024, "longest_edge": 2048}, (2048, 1024)),
        (1, 500, {"shortest_edge": 64, "longest_edge": 100}, (1, 100)),
        (30, 60, {"height": 40, "width": 20}, (40, 20)),
        (30, 60, {"shortest_edge": 15}, (15, 30)),
        (30, 60, {"longest_edge": 40}, (20, 40)),
        (60, 30, {"longest_edge": 120}, (120, 60)),
        (30, 60, (20, 50), (20, 50)),
        (30, 60, {"max_height": 60, "max_width": 60}, (30, 60)),
        (30, 60, 15, (15, 30)),
    ],
)
def test_sizes(processor, height, width, size, expected):
    inputs = processor(noise(height, width), noise(height, width, 0), size=size, return_tensors="np")
    assert inputs.pixel_values.shape[2:] == expected
    assert inputs.labels.shape[1:] == expected


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"size": {"min_pixels": 4, "max_pixels": 9}}, r"longest_edge.*got"),
        ({"size": 0}, "size.*positive.*0"),
        ({"size": {"height": 32, "width": -1}}, "size.*positive.*-1"),
        ({"size": {"shortest_edge": 64, "longest_edge": 32}}, "shortest_edge above its longest_edge.*swap"),
        ({"size": [32]}, r"size=\[32\] has 1 numbers; pass \(height, width\)"),
        ({"size": (3, 32, 32)}, r"size=\(3, 32, 32\) has 3 numbers"),
        ({"do_pad": True}, "do_pad is not supported.*pad"),
        ({"do_center_crop": True, "crop_size": {"height": 2, "width": 2}}, "do_center_crop is not supported"),
        ({"crop_size": 32}, "crop_size is not supported"),
        ({"pad_size": {"height": 2, "width": 2}}, "pad_size is not supported"),
        ({"image_seq_length": 3}, "image_seq_length is not supported"),
        ({"data_format": "channels_last"}, "data_format='channels_last' is not supported"),
        ({"resample": 99}, "resample=99 is no filter"),
        ({"antialias": False, "resample": 3}, r"antialias=False needs resample=2 \(bilinear\), got .*3"),
        ({"rescale_factor": 0.0}, "rescale_factor must be greater than 0"),
        ({"image_std": 0.0}, "image_std must be greater than 0"),
        ({"image_mean": [0.5, 0.5]}, "image_mean must be one number or three"),
    ],
)
def test_settings_that_would_be_ignored_or_fail_are_refused(processor, tmp_path, setting, message):
    with pytest.raises(ValueError, match=message):
        processor(noise(4, 4), **setting)
    with pytest.raises(ValueError, match=message):
        type(processor)(**setting)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"image_processor_type": "VFMSegImageProcessor", **setting}))
    with pytest.raises(ValueError, match=message.replace(r"\(3, 32, 32\)", r"\[3, 32, 32\]")):
        type(processor).from_pretrained(tmp_path)


def test_unknown_arguments_are_refused_with_the_one_that_was_meant(processor):
    for call in (type(processor), lambda **setting: processor(noise(4, 4), **setting)):
        with pytest.raises(TypeError, match="no argument do_normalise; did you mean do_normalize?"):
            call(do_normalise=False)
        with pytest.raises(TypeError, match=r"no argument foo; there are antialias, .*, size$"):
            call(foo=3)


def test_a_file_of_a_later_version_keeps_what_it_has(processor, tmp_path, loading_log):
    processor.save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_dream": 3}))
    for load in (type(processor), AutoImageProcessor):
        loaded = load.from_pretrained(tmp_path)
        assert loaded.do_dream == 3 and loaded.to_dict()["do_dream"] == 3
    assert "does not know and does not obey: do_dream" in loading_log.text


def test_device_is_where_tensors_are_returned(processor):
    inputs = processor(noise(4, 4), noise(4, 4, 0), device="meta", do_resize=False, return_tensors="pt")
    assert inputs["pixel_values"].device.type == inputs["labels"].device.type == "meta"


@pytest.mark.parametrize("do_rescale", [True, False])
@pytest.mark.parametrize("do_normalize", [True, False])
def test_switches_keep_float32(processor, do_rescale, do_normalize):
    image = noise(8, 9)
    inputs = processor(image, do_resize=False, do_rescale=do_rescale, do_normalize=do_normalize, return_tensors="np")
    expected = image.transpose(2, 0, 1) / (255 if do_rescale else 1)
    expected = (expected - MEAN) / STD if do_normalize else expected
    assert inputs.pixel_values.dtype == np.float32
    np.testing.assert_allclose(inputs.pixel_values[0], expected, rtol=1e-5, atol=1e-5)


def test_return_types(processor):
    own = torch.Tensor if isinstance(processor, VFMSegImageProcessor) else np.ndarray
    inputs = processor([noise(10, 20), noise(20, 10)], [noise(10, 20, 0), noise(20, 10, 0)])
    assert [tuple(pixels.shape) for pixels in inputs["pixel_values"]] == [(3, 64, 128), (3, 128, 64)]
    assert all(isinstance(item, own) for item in inputs["pixel_values"] + inputs["labels"])
    assert isinstance(processor(noise(4, 4), return_tensors="pt")["pixel_values"], torch.Tensor)
    assert isinstance(processor(noise(4, 4), return_tensors="np")["pixel_values"], np.ndarray)


def test_different_output_sizes_do_not_make_one_array(processor):
    with pytest.raises(ValueError, match=r"\(64, 128\), \(128, 64\)"):
        processor([noise(10, 20), noise(20, 10)], return_tensors="pt")


# --- what an image may be ----------------------------------------------------------------------------------------


def test_every_form_of_the_same_image(processor, tmp_path):
    image = noise(6, 9)
    chw = np.ascontiguousarray(image.transpose(2, 0, 1))
    path = png(tmp_path / "a.png", PIL.Image.fromarray(image))
    encoded = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    forms = [
        PIL.Image.fromarray(image), image, chw, torch.from_numpy(image), torch.from_numpy(chw), image[None],
        [image], [[image]], image.astype(np.int64), image.astype(np.float32), torch.from_numpy(chw).double(),
        image[::-1].copy()[::-1], np.dstack([image, noise(6, 9, 0)]), np.concatenate([chw, chw[:1]]),
        path, [path], tmp_path / "a.png", encoded, f"data:image/png;base64,{encoded}",
    ]  # fmt: skip
    for index, form in enumerate(forms):
        np.testing.assert_array_equal(read(processor, form), image, err_msg=f"form {index}")


def test_address(processor, monkeypatch):
    image = noise(6, 9)
    buffer = BytesIO()
    PIL.Image.fromarray(image).save(buffer, "PNG")

    def get(address, **kwargs):
        if "offline" in address:
            raise httpx.ConnectError("no way there")
        there = "there" in address
        content = buffer.getvalue() if there else b"<html>not found</html>"
        return httpx.Response(200 if there else 404, content=content, request=httpx.Request("GET", address))

    monkeypatch.setattr(httpx, "get", get)
    np.testing.assert_array_equal(read(processor, "https://there/a.png"), image)
    for address in ("https://gone/a.png", "https://offline/a.png", "data:image/png;base64,AAAA"):
        with pytest.raises(OSError, match=f"Cannot read the image {re.escape(address)}.*Is it there"):
            processor(address)
    with pytest.raises(FileNotFoundError, match="No image found under 'a_file_that_is_not_there.png'"):
        processor("a_file_that_is_not_there.png")


def test_batches(processor):
    batch = np.stack([noise(5, 7, seed=seed) for seed in range(3)])
    for form in (batch, list(batch), torch.from_numpy(batch.transpose(0, 3, 1, 2)), [batch[0], batch[1:]]):
        pixels = processor(form, do_resize=False, return_tensors="np").pixel_values
        assert pixels.shape == (3, 3, 5, 7)
        for got, expected in zip(pixels, batch, strict=True):
            np.testing.assert_array_equal(grey_levels(got).round(), expected.transpose(2, 0, 1))


def test_grey_images_get_three_equal_channels(processor):
    grey = noise(5, 7, 0)
    expected = np.repeat(grey[..., None], 3, axis=2)
    for form in (PIL.Image.fromarray(grey), grey, grey[None], grey[..., None], torch.from_numpy(grey)):
        np.testing.assert_array_equal(read(processor, form), expected)
    with_alpha = PIL.Image.merge("LA", [PIL.Image.fromarray(grey), PIL.Image.new("L", (7, 5), 3)])
    np.testing.assert_array_equal(read(processor, with_alpha), expected)
    two_valued = PIL.Image.fromarray(grey > 100)
    assert two_valued.mode == "1"
    for form in (two_valued, grey > 100):
        np.testing.assert_array_equal(read(processor, form), np.where(expected > 100, 255, 0))


def test_alpha_is_dropped_even_where_transparent(processor):
    image = noise(5, 7)
    rgba = PIL.Image.fromarray(np.dstack([image, np.zeros((5, 7), np.uint8)]))
    assert rgba.mode == "RGBA"
    np.testing.assert_array_equal(read(processor, rgba), image)
    floats = np.dstack([image / 255, np.zeros((5, 7))]).astype(np.float32)
    np.testing.assert_array_equal(read(processor, floats, do_rescale=False), image)


def test_palette_images_show_their_colours(processor):
    palette = PIL.Image.fromarray(noise(5, 7, 0) % 3).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.info["transparency"] = 0
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]])
    np.testing.assert_array_equal(read(processor, palette), colours[noise(5, 7, 0) % 3])


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "RGBX", "RGBa", "La"])
def test_other_modes_are_converted(processor, mode):
    source = PIL.Image.new("LA" if mode == "La" else "RGB", (4, 3), (200, 255) if mode == "La" else (200, 100, 50))
    image = (source.convert("RGBA") if mode == "RGBa" else source).convert(mode)
    assert image.mode == mode
    expected = [200, 200, 200] if mode == "La" else [200, 100, 50]
    assert np.abs(read(processor, image)[1, 2].astype(int) - expected).max() <= 2


def test_16_bit_grey_is_scaled_not_clipped(processor, tmp_path):
    values = np.array([[0, 128, 129, 257, 1000], [20000, 32768, 40000, 65406, 65535]], dtype=np.uint16)
    expected = np.repeat((values / 257).round().astype(np.uint8)[..., None], 3, axis=2)
    little = PIL.Image.fromarray(values)
    big = PIL.Image.frombytes("I;16B", (5, 2), values.astype(">u2").tobytes())
    wide = PIL.Image.fromarray(values.astype(np.int32))
    assert (little.mode, big.mode, wide.mode) == ("I;16", "I;16B", "I")
    path = png(tmp_path / "deep.png", little)
    for form in (little, big, wide, values, values.astype(">u2"), torch.from_numpy(values), values[None], path):
        np.testing.assert_array_equal(read(processor, form), expected)
    np.testing.assert_array_equal(read(processor, np.repeat(values[..., None], 3, axis=2)), expected)


def test_unknown_value_ranges_are_refused(processor):
    for value in (-1, 65536):
        with pytest.raises(ValueError, match=f"Image 0 has mode I with values.*{value}"):
            processor(PIL.Image.fromarray(np.array([[0, value]], dtype=np.int32)))
    for value in (-1, 256):
        with pytest.raises(ValueError, match=f"integer array with values.*{value}.*uint16"):
            processor(np.full((4, 4, 3), value))
    with pytest.raises(ValueError, match="mode F"):
        processor(PIL.Image.new("F", (4, 4)))
    with pytest.raises(ValueError, match="complex"):
        processor(np.zeros((4, 4, 3), dtype=complex))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_applied(processor, tmp_path, orientation):
    stored = noise(6, 9)
    exif = PIL.Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    path = tmp_path / "rotated.png"
    PIL.Image.fromarray(stored).save(path, exif=exif)
    upright = np.rot90(stored, {1: 0, 3: 2, 6: 3, 8: 1}[orientation])
    np.testing.assert_array_equal(read(processor, str(path)), upright)
    np.testing.assert_array_equal(read(processor, PIL.Image.open(path)), upright)


def test_jpeg_paths_give_both_backends_the_same_pixels(tmp_path):
    path = str(tmp_path / "a.jpg")
    PIL.Image.fromarray(noise(40, 60)).save(path)
    np.testing.assert_array_equal(*(read(backend(), path) for backend in BACKENDS))
    np.testing.assert_array_equal(read(VFMSegImageProcessor(), path), np.asarray(PIL.Image.open(path)))


def test_inputs_stay_untouched(processor):
    image = torch.rand(3, 8, 8)
    label = torch.randint(0, 19, (8, 8))
    copies = image.clone(), label.clone()
    processor(image, label, do_resize=False, do_rescale=False)
    assert torch.equal(image, copies[0]) and torch.equal(label, copies[1])


@pytest.mark.parametrize("shape", [(8, 9, 2), (2, 8, 9), (5, 8, 9), (8, 9, 5), (7,), (1, 1, 1, 8, 9)])
def test_wrong_shapes_are_named(processor, shape):
    with pytest.raises(ValueError, match="Image 1 has shape " + re.escape(str(shape))):
        processor([noise(8, 9), np.zeros(shape, np.uint8)])


def test_channel_axis(processor):
    four_rows = noise(4, 9)  # [4, 9, 3]: four rows are likelier than four channels
    np.testing.assert_array_equal(read(processor, four_rows), four_rows)
    ambiguous = noise(3, 9)
    np.testing.assert_array_equal(read(processor, ambiguous), ambiguous.transpose(1, 2, 0))
    np.testing.assert_array_equal(read(processor, ambiguous, input_data_format="channels_last"), ambiguous)
    with pytest.raises(ValueError, match=r"\(8, 9, 3\) read as channels_first"):
        processor(noise(8, 9), input_data_format="channels_first")


def test_do_convert_rgb_false_wants_rgb(processor):
    np.testing.assert_array_equal(read(processor, noise(8, 9), do_convert_rgb=False), noise(8, 9))
    for image in (PIL.Image.new("L", (9, 8)), PIL.Image.new("RGBA", (9, 8)), noise(8, 9, 0), noise(8, 9, 4)):
        with pytest.raises(ValueError, match="do_convert_rgb=True"):
            processor(image, do_convert_rgb=False)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_pixels_are_counted(processor, value):
    image = np.full((8, 9, 3), 0.5, dtype=np.float32)
    broken = image.copy()
    broken[2, 3:5, 1] = value
    with pytest.raises(ValueError, match=r"Image 1 holds 2 NaN or infinite value\(s\) among 216"):
        processor([image, broken], do_rescale=False)


@pytest.mark.parametrize(
    "image",
    [np.zeros((0, 9, 3), np.uint8), torch.zeros(3, 8, 0), PIL.Image.new("RGB", (0, 5))],
    ids=["numpy", "torch", "pillow"],
)
def test_images_without_pixels(processor, image):
    with pytest.raises(ValueError, match=r"Image 0 has no pixels.*0"):
        processor(image)


def test_no_images_and_unknown_types(processor):
    for nothing in ([], [[]], np.zeros((0, 3, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match="no image"):
            processor(nothing)
    with pytest.raises(TypeError, match="NoneType"):
        processor([noise(4, 4), None])


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_broken_files_are_named(processor, tmp_path, suffix):
    whole, cut, empty, text = (tmp_path / f"{name}{suffix}" for name in ("whole", "cut", "empty", "text"))
    PIL.Image.fromarray(noise(50, 60)).save(whole)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    empty.touch()
    text.write_text("no image at all")
    for path in (cut, empty, text, tmp_path / "missing.png", tmp_path):
        with pytest.raises(OSError, match=path.name):
            processor([str(whole), str(path)])
    with pytest.raises(OSError, match="0 bytes"):
        processor(empty)


def test_errors_name_the_file(processor, tmp_path):
    path = png(tmp_path / "lone.png", PIL.Image.fromarray(noise(4, 4)))
    with pytest.raises(ValueError, match=r"Segmentation map 0 is 5x4.*Image 0 \(.*lone\.png\) is 4x4"):
        processor(path, np.zeros((5, 4), np.uint8))


def test_rescaling_twice_is_noticed(caplog, processor):
    logging.Logger.warning_once.cache_clear()
    processor(np.zeros((4, 4, 3), np.float32))
    processor(noise(4, 4) // 255)
    assert "nearly black" not in caplog.text
    processor(np.full((4, 4, 3), 0.5, np.float32))
    assert caplog.text.count("nearly black") == 1


# --- label maps ---------------------------------------------------------------------------------------------------


def test_every_form_of_the_same_map(processor, tmp_path):
    ids = noise(6, 9, 0) % 19
    ids[0, 0] = 255
    palette = PIL.Image.fromarray(ids).convert("P")
    palette.putpalette(list(noise(256, 3, 0).ravel()))
    path = png(tmp_path / "ids.png", palette)
    assert PIL.Image.open(path).mode == "P"
    forms = [
        PIL.Image.fromarray(ids), palette, path, [path], ids, [ids], [[ids]], ids[None], ids[..., None],
        ids[None, None], torch.from_numpy(ids), torch.from_numpy(ids).long(), torch.from_numpy(ids).float()[None],
        PIL.Image.fromarray(ids.astype(np.uint16)), PIL.Image.fromarray(ids.astype(np.int32)), ids.astype(">i4"),
    ]  # fmt: skip
    for index, form in enumerate(forms):
        labels = processor(noise(6, 9), form, do_resize=False, return_tensors="pt")["labels"]
        assert labels.dtype == torch.int64 and labels.shape == (1, 6, 9)
        np.testing.assert_array_equal(labels[0], ids, err_msg=f"form {index}")


def test_large_ids_survive(processor, tmp_path):
    ids = np.array([[0, 255, 256], [1000, 33000, 65535]])
    sixteen = PIL.Image.fromarray(ids.astype(np.uint16))
    for form in (sixteen, png(tmp_path / "ids.png", sixteen), PIL.Image.fromarray(ids.astype(np.int32)), ids):
        np.testing.assert_array_equal(processor(noise(2, 3), form, do_resize=False)["labels"][0], ids)
    huge = ids * 10**9 - 100
    np.testing.assert_array_equal(processor(noise(2, 3), huge, size=2, return_tensors="np")["labels"][0], huge)


@pytest.mark.parametrize("height, width", [(100, 200), (90, 150), (17, 33), (30, 250)])
def test_maps_take_the_id_under_each_pixels_centre(height, width):
    ids = np.random.default_rng(0).integers(0, 60000, (height, width), dtype=np.int32)
    fast, slow = (
        backend(size=BOX)(noise(height, width), ids, return_tensors="np")["labels"][0] for backend in BACKENDS
    )
    np.testing.assert_array_equal(fast, slow)
    rows, columns = (
        [floor(Fraction(2 * index + 1, 2) * before / after) for index in range(after)]
        for before, after in zip(ids.shape, fast.shape, strict=True)
    )
    np.testing.assert_array_equal(fast, ids[np.ix_(rows, columns)])
    # Pillow accumulates the centres in floats and may fall on the other side where one lies between two pixels.
    pillow = PIL.Image.fromarray(ids).resize(fast.shape[::-1], PIL.Image.Resampling.NEAREST)
    assert (fast != np.asarray(pillow)).mean() < 0.01


def test_map_batches(processor):
    images = [noise(5, 7, seed=seed) for seed in range(3)]
    maps = np.stack([noise(5, 7, 0, seed=seed) for seed in range(3)])
    for form in (maps, maps[:, None], list(maps), torch.from_numpy(maps), [PIL.Image.fromarray(item) for item in maps]):
        labels = processor(images, form, do_resize=False, return_tensors="np")["labels"]
        np.testing.assert_array_equal(labels, maps)


def test_wrong_maps(processor):
    image = noise(6, 9)
    label = noise(6, 9, 0)
    with pytest.raises(ValueError, match=r"5x9.*6x9.*nearest"):
        processor(image, label[:5])
    with pytest.raises(ValueError, match=r"9x6.*6x9.*transpose"):
        processor(image, label.T)
    for colours in (image, image.transpose(2, 0, 1), PIL.Image.fromarray(image), torch.from_numpy(image), [image]):
        with pytest.raises(ValueError, match=r"Segmentation map 0 has shape \(.*3.*Translate colours"):
            processor(image, colours)
    for maps, count in (([], 0), ([label], 1), ([label] * 3, 3), (np.stack([label] * 3), 1)):
        with pytest.raises(ValueError, match=rf"Got {count} segmentation map\(s\) for 2 image\(s\)"):
            processor([image, image], maps)
    for value in (0.5, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"54 value\(s\) that are not whole numbers"):
            processor(image, np.full((6, 9), value))
    with pytest.raises(ValueError, match="no pixels"):
        processor(image, np.zeros((0, 9), np.uint8))


def test_reduced_labels_as_beits(processor, tmp_path):
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = BeitImageProcessor(do_resize=False, do_reduce_labels=True)(noise(16, 16), ids, return_tensors="pt")
    by_call = processor(noise(16, 16), ids, do_resize=False, do_reduce_labels=True, return_tensors="pt")
    type(processor)(do_resize=False, do_reduce_labels=True).save_pretrained(tmp_path)
    by_file = type(processor).from_pretrained(tmp_path)(noise(16, 16), ids, return_tensors="pt")
    assert torch.equal(by_call["labels"], expected["labels"]) and torch.equal(by_file["labels"], expected["labels"])


def test_reduced_labels_lose_no_id_silently(processor):
    with pytest.raises(ValueError, match=r"map 0.* holds ids 0\.\.256; do_reduce_labels takes 0\.\.255"):
        processor(noise(2, 2), np.array([[0, 1], [2, 256]], np.uint16), do_reduce_labels=True)


# --- settings -----------------------------------------------------------------------------------------------------


def test_one_json_for_both_backends(tmp_path):
    texts = []
    for backend in BACKENDS:
        backend().save_pretrained(tmp_path / backend.__name__)
        texts.append((tmp_path / backend.__name__ / "preprocessor_config.json").read_text())
    assert texts[0] == texts[1]
    assert json.loads(texts[0]) == {
        "image_processor_type": "VFMSegImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 1024, "longest_edge": 2048},
        "resample": 2,
        "antialias": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_convert_rgb": True,
        "do_reduce_labels": False,
    }


def test_settings_travel_between_backends(tmp_path):
    first = VFMSegImageProcessor(size={"height": 12, "width": 34}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    first.save_pretrained(tmp_path)
    second = VFMSegImageProcessorPil.from_pretrained(tmp_path)
    assert second.backend == "pil"
    inputs = second(np.full((4, 4, 3), 255, np.uint8), return_tensors="np")
    assert inputs.pixel_values.shape == (1, 3, 12, 34)
    np.testing.assert_allclose(inputs.pixel_values, 2, atol=1e-6)
    assert VFMSegImageProcessor.from_pretrained(tmp_path, do_resize=False).do_resize is False
    assert second.to_json_string() == first.to_json_string()


# --- post-processing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [SemanticSegmenterOutput, dict, BatchFeature, SimpleNamespace])
def test_post_process_resizes_logits(processor, wrap):
    logits = torch.randn(2, 5, 8, 12, generator=torch.Generator().manual_seed(0))
    outputs = BatchFeature({"logits": logits}) if wrap is BatchFeature else wrap(logits=logits)
    targets = [(20, 31), (5, 3)]
    expected = [
        F.interpolate(logits[index : index + 1], size=size, mode="bilinear", align_corners=False)[0]
        for index, size in enumerate(targets)
    ]
    for sizes in (targets, torch.tensor(targets), [torch.tensor(size) for size in targets], np.array(targets)):
        maps = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
        for got, scores in zip(maps, expected, strict=True):
            assert got.dtype == torch.int64 and torch.equal(got, scores.argmax(0))


def test_post_process_as_segformers():
    outputs = SemanticSegmenterOutput(logits=torch.randn(2, 5, 8, 12, generator=torch.Generator().manual_seed(1)))
    for targets in (None, [(16, 24), (8, 12)]):
        ours = VFMSegImageProcessorPil().post_process_semantic_segmentation(outputs, targets, True)
        theirs = SegformerImageProcessor().post_process_semantic_segmentation(outputs, targets, True)
        for mine, other in zip(ours, theirs, strict=True):
            assert type(mine) is type(other) and set(mine) == set(other)
            assert torch.equal(mine.segmentation, other.segmentation)
            torch.testing.assert_close(mine.segmentation_scores, other.segmentation_scores)


def test_post_process_does_not_touch_logits_of_the_right_size(processor, monkeypatch):
    logits = torch.randn(2, 5, 8, 12, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(F, "interpolate", lambda *args, **kwargs: pytest.fail("interpolated"))
    for targets in (None, [(8, 12), (8, 12)]):
        results = processor.post_process_semantic_segmentation({"logits": logits}, targets, True)
        assert all(
            torch.equal(result.segmentation_scores, scores) for result, scores in zip(results, logits, strict=True)
        )


def test_post_process_refusals(processor):
    logits = torch.zeros(2, 5, 8, 12)
    for sizes in ([(8, 12)], torch.tensor([[8, 12]]), [(8, 12), (0, 5)], [(8, 12), (5.5, 6)], [8, 12], [(8,), (12,)]):
        with pytest.raises(ValueError, match=r"one \(height, width\) for each image, 2 in all.*got "):
            processor.post_process_semantic_segmentation({"logits": logits}, sizes)
    with pytest.raises(ValueError, match="no logits"):
        processor.post_process_semantic_segmentation({"loss": logits})
    with pytest.raises(ValueError, match=r"\(5, 8, 12\)"):
        processor.post_process_semantic_segmentation({"logits": logits[0]})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda():
    inputs = VFMSegImageProcessor(size=BOX)(noise(30, 40), noise(30, 40, 0), device="cuda", return_tensors="pt")
    assert inputs["pixel_values"].is_cuda and inputs["labels"].is_cuda
    outputs = {"logits": torch.randn(1, 5, 8, 12, device="cuda")}
    sizes = torch.tensor([[20, 31]], device="cuda")
    assert VFMSegImageProcessor().post_process_semantic_segmentation(outputs, sizes)[0].shape == (20, 31)
    VFMSegImageProcessorPil(size=BOX)(torch.zeros(3, 8, 8, device="cuda"))


def test_the_pipeline_takes_the_semantic_branch(processor):
    for other in ("panoptic", "instance"):
        assert not hasattr(processor, f"post_process_{other}_segmentation")


# --- without torchvision, and as remote code ----------------------------------------------------------------------

SCENARIOS = """
import json, logging, sys
import numpy as np
from transformers import AutoImageProcessor, PreTrainedConfig

class Records(list, logging.Handler):
    def __init__(self):
        logging.Handler.__init__(self)
    def emit(self, record):
        self.append(record.getMessage())
    __hash__ = object.__hash__

records = Records()
logging.getLogger().addHandler(records)
results = {{}}

def scenario(name, build):
    records.clear()
    logging.Logger.warning_once.cache_clear()
    processor = build()
    build()
    inputs = processor(np.zeros((8, 12, 3), np.uint8), np.zeros((8, 12), np.uint8), size=16, return_tensors="pt")
    results[name] = [type(processor).__name__, list(inputs["pixel_values"].shape), list(records)]

scenario("remote", lambda: AutoImageProcessor.from_pretrained({remote!r}, trust_remote_code=True))
scenario("remote_pil", lambda: AutoImageProcessor.from_pretrained({remote!r}, trust_remote_code=True, backend="pil"))
assert "vfmseg_hf" not in sys.modules

from vfmseg_hf import VFMSegImageProcessor, VFMSegImageProcessorPil

class StandInConfig(PreTrainedConfig):
    model_type = "vfmseg_stand_in"

classes = {{"torchvision": VFMSegImageProcessor, "pil": VFMSegImageProcessorPil}}
AutoImageProcessor.register(StandInConfig, image_processor_classes=classes, exist_ok=True)
scenario("class", VFMSegImageProcessor)
scenario("class_from_pretrained", lambda: VFMSegImageProcessor.from_pretrained({plain!r}))
scenario("auto", lambda: AutoImageProcessor.from_pretrained({plain!r}))
scenario("auto_pil", lambda: AutoImageProcessor.from_pretrained({plain!r}, backend="pil"))
scenario("pil", VFMSegImageProcessorPil)
scenario("pil_from_pretrained", lambda: VFMSegImageProcessorPil.from_pretrained({plain!r}))
print("torchvision" in sys.modules)
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The output of SCENARIOS with and without torchvision."""
    root = tmp_path_factory.mktemp("hub")
    plain, remote = root / "plain", root / "remote"
    VFMSegImageProcessor().save_pretrained(plain)
    shutil.copytree(plain, remote)
    for module in ("arguments", "image_inputs", "image_processing_pil_vfmseg", "image_processing_vfmseg"):
        shutil.copy(SOURCE / "vfmseg_hf" / "model" / f"{module}.py", remote)
    settings = json.loads((remote / "preprocessor_config.json").read_text())
    settings["auto_map"] = {
        "AutoImageProcessor": {
            "torchvision": "image_processing_vfmseg.VFMSegImageProcessor",
            "pil": "image_processing_pil_vfmseg.VFMSegImageProcessorPil",
        }
    }
    (remote / "preprocessor_config.json").write_text(json.dumps(settings))
    code = SCENARIOS.format(plain=str(plain), remote=str(remote))

    def run(hidden):
        return run_without(hidden, code, env={"HF_MODULES_CACHE": str(root / "_".join(["modules", *hidden]))})

    with ThreadPoolExecutor() as pool:
        return dict(zip(("present", "absent"), pool.map(run, ([], ["torchvision"])), strict=True))


@pytest.fixture(params=["present", "absent"])
def scenarios(request, runs):
    """(is torchvision there?, {how it was built: (class name, shape of the pixels, notices)})"""
    done = runs[request.param]
    assert done.returncode == 0, done.stderr
    imported, results = done.stdout.splitlines()[-2:]
    assert imported == str(request.param == "present")
    return request.param == "present", json.loads(results)


@pytest.mark.parametrize("how", ["class", "class_from_pretrained", "auto", "remote"])
def test_default_backend(scenarios, how):
    torchvision, results = scenarios
    name, shape, notices = results[how]
    assert name == ("VFMSegImageProcessor" if torchvision else "VFMSegImageProcessorPil")
    assert shape == [1, 3, 16, 24]
    assert len(notices) == (0 if torchvision else 1), notices
    assert all("pip install torchvision" in notice and "VFMSegImageProcessorPil" in notice for notice in notices)


@pytest.mark.parametrize("how", ["pil", "pil_from_pretrained", "auto_pil", "remote_pil"])
def test_pil_backend_on_request(scenarios, how):
    torchvision, results = scenarios
    name, shape, notices = results[how]
    assert name == "VFMSegImageProcessorPil" and shape == [1, 3, 16, 24]
    # transformers does not tell a class whether "pil" was asked for or fallen back to
    assert len(notices) == (1 if how in ("auto_pil", "remote_pil") and not torchvision else 0), notices


def test_run_without_hides_a_package_completely():
    done = run_without(
        ["numpy", "PIL"],
        """
        import importlib.metadata, importlib.util

        for module, distribution in (("numpy", "numpy"), ("PIL", "Pillow")):
            assert importlib.util.find_spec(module) is None
            try:
                __import__(module)
            except ModuleNotFoundError as error:
                assert error.name == module
            else:
                raise AssertionError("imported")
            try:
                importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                pass
            else:
                raise AssertionError("has a version")
        assert importlib.util.find_spec("torch") and importlib.metadata.version("torch")
        print("hidden")
        """,
    )
    assert done.stdout.strip() == "hidden", done.stderr
