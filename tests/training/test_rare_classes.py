"""Rare class sampling: counts per image and their file, probabilities, draws, crops, and exact resume."""

import json
import os
import shutil
import time

import datasets
import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from PIL import Image
from torch.utils.data import DataLoader
from transformers import HfArgumentParser, TrainerCallback, set_seed

from tests.support.commands import start
from tests.support.tiny import give_base
from vfmseg_hf import VFMSegForSemanticSegmentation, VFMSegImageProcessor, lora_config
from vfmseg_hf.data import class_statistics, count_class_pixels, open_dataset, parallel
from vfmseg_hf.data.base import DatasetDescription, Frame, dataset_of_frames, frames_of_folders
from vfmseg_hf.training import (
    Augmentation,
    CropRequest,
    RareClassSampler,
    TrainingImages,
    VFMSegTrainer,
    VFMSegTrainingArguments,
    rare_class_probabilities,
)
from vfmseg_hf.training.data import collate


INFO = DatasetDescription(name="blocks", splits=("train",), licence="none", usage="blocks")


@pytest.fixture
def source(tmp_path):
    """Writes images and label maps of the ids 0..3 and 9 (ignored), and opens them; `write` changes one."""
    folder = tmp_path / "source"

    class Source:
        path = folder

        def write(self, index: int, label: np.ndarray) -> None:
            for kind in ("images", "labels"):
                (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(label).save(folder / "labels" / f"frame{index:02d}.png")
            Image.new("RGB", label.shape[::-1]).save(folder / "images" / f"frame{index:02d}.jpg")

        def open(self) -> datasets.Dataset:
            frames = frames_of_folders(folder / "images", folder / "labels")
            return dataset_of_frames(frames, {0: 0, 1: 1, 2: 2, 3: 3, 9: 255}, INFO, "train")

    random = np.random.default_rng(0)
    source = Source()
    for index in range(6):
        source.write(index, random.choice(np.array([0, 1, 2, 3, 9], np.uint8), (24, 32)))
    return source


@pytest.fixture
def counted(monkeypatch):
    """How many images were counted, by reading their label maps."""
    numbers = []
    count = class_statistics._count
    monkeypatch.setattr(class_statistics, "_count", lambda data, *rest: numbers.append(len(data)) or count(data, *rest))
    return numbers


def brute_force(dataset, num_classes: int) -> np.ndarray:
    labels = [np.array(row["label"]) for row in dataset]
    return np.array([[(label == index).sum() for index in range(num_classes)] for label in labels])


# ------------------------------------------------------------------------------------------------ counts


@pytest.mark.parametrize("num_proc", [1, 2])
def test_counts_are_those_of_the_pixels(num_proc, source, tmp_path):
    """Also in a selection, in another order, with rows twice."""
    dataset = datasets.concatenate_datasets([source.open()] * 12).select([7, 3, *range(10, 72), *range(6), 7])
    assert len(dataset) // (2 * parallel.CHUNK) > 1, "too few for two processes"
    counts = count_class_pixels(dataset, 4, tmp_path / "cache", num_proc)
    assert counts.dtype == np.int64 and np.array_equal(counts, brute_force(dataset, 4))


def test_counts_of_drawn_scenes(tmp_path):
    dataset = open_dataset("streets:game?n=3&size=64x128")
    assert np.array_equal(count_class_pixels(dataset, 19, tmp_path), brute_force(dataset, 19))


def test_ignored_pixels_are_in_no_class(source, tmp_path):
    counts = count_class_pixels(source.open(), 4, tmp_path / "cache")
    assert np.array_equal(counts, brute_force(source.open(), 4)) and (counts.sum(axis=1) < 24 * 32).all()


def test_counts_are_kept(source, counted, tmp_path):
    first = count_class_pixels(source.open(), 4, tmp_path / "cache")
    again = count_class_pixels(source.open(), 4, tmp_path / "cache")
    assert counted == [6] and np.array_equal(first, again) and again.dtype == np.int64
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".safetensors"]


def test_a_change_is_noticed(source, counted, tmp_path):
    """Of a label map, of its time only, of the files, the classes, the order and the selection."""

    def count(dataset=None, num_classes=4):
        dataset = dataset or source.open()
        counts = count_class_pixels(dataset, num_classes, tmp_path / "cache")
        assert np.array_equal(counts, brute_force(dataset, num_classes))
        return len(counted)

    assert count() == 1
    source.write(2, np.full((24, 32), 3, np.uint8))
    assert count() == 2
    changed = source.path / "labels" / "frame04.png"
    os.utime(changed, ns=(time.time_ns(), changed.stat().st_mtime_ns + 1))
    assert count() == 3
    source.write(6, np.zeros((24, 32), np.uint8))
    assert count() == 4
    assert count(num_classes=5) == 5
    assert count(source.open().select([5, 0, 3])) == 6
    assert count(source.open().select([0, 5, 3])) == 7
    assert count() == 7


def test_a_change_of_an_archive_is_noticed(source, counted, tmp_path):
    def pack() -> datasets.Dataset:
        archive = shutil.make_archive(tmp_path / "packed", "zip", source.path)
        frame = Frame("frame03", f"zip://images/frame03.jpg::{archive}", f"zip://labels/frame03.png::{archive}")
        return dataset_of_frames([frame], {0: 0, 1: 1, 2: 2, 3: 3, 9: 255}, INFO, "train")

    rows = pack()
    counts = [count_class_pixels(rows, 4, tmp_path / "cache") for _ in range(2)]
    assert np.array_equal(*counts) and (counts[0] > 0).all() and counted == [1]
    source.write(3, np.full((24, 32), 2, np.uint8))
    assert count_class_pixels(pack(), 4, tmp_path / "cache").tolist() == [[0, 0, 24 * 32, 0]]


def test_streets_are_told_apart_by_what_is_drawn(counted, tmp_path):
    for spec in ("streets:game?n=2&size=32x64", "streets:game?n=2&size=32x64&seed=1", "streets:game?n=2&size=64x64"):
        for split in ("train", "validation"):
            for _ in range(2):
                count_class_pixels(open_dataset(spec, split), 19, tmp_path)
    assert counted == [2] * 6


@pytest.mark.parametrize("damage", [b"half", b""])
def test_a_broken_file_is_counted_again(damage, source, counted, tmp_path):
    expected = count_class_pixels(source.open(), 4, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(damage)
    for _ in range(2):
        assert np.array_equal(count_class_pixels(source.open(), 4, tmp_path / "cache"), expected)
    assert counted == [6, 6]


def test_a_cache_that_cannot_be_written(source, tmp_path):
    (tmp_path / "file").touch()
    assert len(count_class_pixels(source.open(), 4, tmp_path / "file" / "cache")) == 6


def test_counting_leaves_the_random_numbers(tmp_path):
    """Else weights would depend on whether counts were kept."""
    set_seed(3)
    expected = torch.rand(3)
    set_seed(3)
    count_class_pixels(open_dataset("streets:game?n=2&size=32x64"), 19, tmp_path)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("num_proc", [0, -1])
def test_no_process_counts_nothing(num_proc, source, tmp_path):
    with pytest.raises(ValueError, match=f"num_proc must be a whole number from 1 up.*got {num_proc}"):
        count_class_pixels(source.open(), 4, tmp_path / "cache", num_proc)


@pytest.mark.parametrize("num_proc", [1, 2])
def test_unknown_ids_and_broken_files(num_proc, source, tmp_path):
    for index in range(6, 64):
        source.write(index, np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"'frame00' holds ids \[3\]; known are 0..2 and 255"):
        count_class_pixels(source.open(), 3, tmp_path / "cache", num_proc)
    source.write(40, np.full((8, 8), 200, np.uint8))
    with pytest.raises(ValueError, match=r"^The label map .*frame40.png holds ids \[200\]"):
        count_class_pixels(source.open(), 4, tmp_path / "cache", num_proc)
    (source.path / "labels" / "frame40.png").write_bytes(b"no image")
    with pytest.raises(OSError, match="^Cannot read .*frame40.png"):
        count_class_pixels(source.open(), 4, tmp_path / "cache", num_proc)
    assert not (tmp_path / "cache").exists()


def test_what_is_counted_has_rows(source, tmp_path):
    with pytest.raises(ValueError, match="no rows"):
        count_class_pixels(source.open().select([]), 4, tmp_path)
    with pytest.raises(TypeError, match=r"datasets\.Dataset"):
        count_class_pixels([{}], 4, tmp_path)


# ------------------------------------------------------------------------------------------------ probabilities


def test_probabilities_are_the_published_ones(shared):
    recorded = json.loads((shared / "golden" / "rare_class_sampling" / "meta.json").read_text())
    pixels = np.zeros((len(recorded["image_stats"]), 19), np.int64)
    for row, statistics in enumerate(recorded["image_stats"]):
        for key, count in statistics.items():
            if key != "file":
                pixels[row, int(key)] = count
    assert set(recorded["by_temperature"]) == {"0.01", "0.1", "0.5"}
    # Without vector instructions torch sums in another order, which moves the last bit.
    bits = 1 if torch.backends.cpu.get_cpu_capability() == "DEFAULT" else 0
    for temperature, expected in recorded["by_temperature"].items():
        classes, probabilities = rare_class_probabilities(pixels, float(temperature))
        assert classes.tolist() == expected["classes"] and probabilities.dtype == expected["dtype"]
        np.testing.assert_array_max_ulp(probabilities, np.array(expected["probabilities"], np.float32), bits)


def test_probabilities_by_hand():
    pixels = np.array([[10, 0, 60, 0], [10, 0, 0, 20]])
    classes, probabilities = rare_class_probabilities(pixels, 0.5)
    weights = np.exp((1 - np.array([0.2, 0.2, 0.6])) / 0.5)
    assert classes.tolist() == [0, 3, 2]
    np.testing.assert_allclose(probabilities, weights / weights.sum(), rtol=1e-6)


def test_nothing_to_draw(caplog):
    with pytest.raises(ValueError, match="no pixel of 3 images has a class"):
        rare_class_probabilities(np.zeros((3, 19), np.int64))
    with pytest.raises(ValueError, match="no pixel of 0 images has a class"):
        RareClassSampler(np.zeros((0, 19), np.int64), seed=0)
    with pytest.raises(ValueError, match="must be positive, got 0"):
        rare_class_probabilities(np.ones((1, 2), np.int64), 0)
    with pytest.raises(ValueError, match=r"more than 3000 pixels of the classes 1 \(at most 5\), 0 \(at most 3000\)"):
        RareClassSampler(np.array([[3000, 0, 0], [0, 5, 0]]), seed=0)
    with pytest.raises(ValueError, match=r"only the classes \[1\].*probability is 0 at temperature 0.001"):
        RareClassSampler(np.array([[10, 10_000_000]]), seed=0, temperature=0.001)
    with pytest.raises(ValueError, match="not be negative, got -1"):
        RareClassSampler(np.array([[3001]]), seed=0, min_pixels=-1)


def test_classes_without_a_image_are_left_out(monkeypatch):
    warnings = []
    monkeypatch.setattr(
        "vfmseg_hf.training.sampling.logger.warning", lambda text, *values: warnings.append(text % values)
    )
    sampler = RareClassSampler(np.array([[9000, 100, 0], [100, 20, 4000]]), seed=0, temperature=0.1)
    assert len(warnings) == 1 and "more than 3000 pixels of the classes 1 (at most 100)" in warnings[0]
    classes, probabilities = rare_class_probabilities(np.array([[9000, 100, 0], [100, 20, 4000]]), 0.1)
    assert classes.tolist() == [1, 2, 0] and sampler.classes.tolist() == [2, 0]
    np.testing.assert_allclose(sampler.probabilities, probabilities[1:] / probabilities[1:].sum(), rtol=1e-6)
    assert {draw.class_id for draw in sampler} <= {0, 2}


# ------------------------------------------------------------------------------------------------ draws


def test_draws_have_the_frequencies():
    """Classes as their probabilities, images of a class alike: within five standard deviations."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 9000, (12, 5)) * random.integers(0, 2, (12, 5))
    sampler = RareClassSampler(pixels, seed=4, temperature=0.1)
    count = np.zeros(pixels.shape)
    epochs = 3000
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for draw in sampler:
            assert draw.epoch == epoch
            count[draw.index, draw.class_id] += 1
    classes, probabilities = rare_class_probabilities(pixels, 0.1)
    expected = np.zeros(pixels.shape)
    for class_id, probability in zip(classes, probabilities, strict=True):
        shown = pixels[:, class_id] > 3000
        expected[shown, class_id] = probability / shown.sum()
    draws = epochs * len(pixels)
    assert count.sum() == draws and not count[expected == 0].any()
    assert (abs(count - draws * expected) <= 5 * np.sqrt(draws * expected * (1 - expected))).all()


def test_draws_depend_on_seed_and_epoch_only():
    pixels = np.random.default_rng(1).integers(0, 9000, (50, 7))

    def draws(seed, epoch, sampler=None):
        sampler = sampler or RareClassSampler(pixels, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    used = RareClassSampler(pixels, 3)
    later = draws(3, 5, used)
    torch.rand(7)
    assert draws(3, 0, used) == draws(3, 0) and draws(3, 5) == later and draws(3, 5, used) == later
    plain = [[(draw.index, draw.class_id) for draw in draws(*key)] for key in ((3, 0), (3, 1), (4, 0), (4, 1))]
    assert all(plain[i] != plain[j] for i in range(4) for j in range(i))
    assert [draw.number for draw in later] == list(range(50)) == list(range(len(used)))
    assert {draw.crop_pixels for draw in later} == {6000}


def test_an_epoch_of_25000_images_is_drawn_in_no_time():
    pixels = np.random.default_rng(0).integers(0, 20_000, (25_000, 19))
    start = time.process_time()  # 0.02 seconds; looking through all images for every draw takes 1.4
    sampler = RareClassSampler(pixels, seed=0)
    assert len(list(sampler)) == 25_000
    assert time.process_time() - start < 0.5


# ------------------------------------------------------------------------------------------------ crops


def street_rows(count: int = 4) -> list[dict]:
    """64x256 of class 0 with a block of 24x24 of class 5 at another place in every row."""
    rows = []
    for index in range(count):
        label = np.zeros((64, 256), np.uint8)
        label[20:44, 60 * index + 10 : 60 * index + 34] = 5
        label[0] = 1
        rows.append(
            {"image": Image.fromarray(np.stack([label] * 3, -1)), "label": Image.fromarray(label), "file_name": "x"}
        )
    return rows


def crops(**settings) -> TrainingImages:
    settings = {"crop_size": (64, 64), "cat_max_ratio": 1.0, "photometric": False, **settings}
    return TrainingImages(street_rows(), VFMSegImageProcessor(), Augmentation(**settings), seed=2)


@pytest.mark.parametrize("scale_range", [(1.0, 1.0), (1.0, 1.3)])
def test_crops_are_redrawn_for_their_class(scale_range):
    """Shares of crops with all of the block: with eleven draws in place of one, 1 - (1 - p) ** 11."""
    images = crops(scale_range=scale_range)
    pixels = 24 * 24 - 1

    def share(*rest):
        labels = [images[CropRequest(epoch, 1, *rest)]["labels"] for epoch in range(150)]
        return np.mean([(label == 5).sum() > pixels for label in labels])

    once = share()
    assert share(5, -1) == once and 0.05 < once < 0.5
    assert share(5, pixels) == pytest.approx(1 - (1 - once) ** 11, abs=0.12) and share(5, pixels) > once + 0.2


def test_crops_are_redrawn_ten_times_at_most(monkeypatch):
    images = crops()
    drawn = []
    draw_crop = Augmentation._draw_crop
    monkeypatch.setattr(Augmentation, "_draw_crop", lambda *args: drawn.append(draw_crop(*args)) or drawn[-1])
    label = images[(0, 2, 18)]["labels"]  # a class that is nowhere
    assert len(drawn) == 11
    top, left = drawn[-1]
    window = torch.from_numpy(np.array(images.dataset[2]["label"])).long()[top : top + 64, left : left + 64]
    assert torch.equal(label, window) or torch.equal(label, window.flip(-1))
    for key in ((0, 2), CropRequest(0, 2, 18, -1), CropRequest(0, 2, 0, 64)):
        drawn.clear()
        images[key]
        assert len(drawn) == 1


def test_pixels_follow_the_redrawn_crop():
    item = crops(scale_range=(1.0, 1.0))[CropRequest(3, 0, 5, 500)]
    mean, std = VFMSegImageProcessor().image_mean[0], VFMSegImageProcessor().image_std[0]
    assert torch.equal(((item["pixel_values"][0] * std + mean) * 255).round().long(), item["labels"])


def test_two_draws_of_a_image_are_two_crops():
    images = crops()
    first, second = (images[CropRequest(0, 1, 5, 100, number)]["pixel_values"] for number in (0, 7))
    assert not torch.equal(first, second)
    assert torch.equal(second, images[CropRequest(0, 1, 5, 100, 7)]["pixel_values"])
    assert torch.equal(images[(0, 1)]["labels"], images[CropRequest(0, 1, 5, -1, 0)]["labels"])


def test_any_number_of_workers_sees_the_same(tmp_path):
    rows = open_dataset("streets:game?n=12&size=64x128")
    pixels = count_class_pixels(rows, 19, tmp_path)
    images = TrainingImages(rows, VFMSegImageProcessor(), Augmentation((32, 32)), 1, pixels)
    batches = []
    for workers in (0, 2):
        sampler = RareClassSampler(pixels, 1, min_pixels=50, crop_ratio=1.0)
        sampler.set_epoch(2)
        loader = DataLoader(images, batch_size=4, sampler=sampler, num_workers=workers, collate_fn=collate)
        batches.append(list(loader))
    for one, other in zip(*batches, strict=True):
        assert one["file_name"] == other["file_name"]
        assert torch.equal(one["pixel_values"], other["pixel_values"]) and torch.equal(one["labels"], other["labels"])


def test_two_processes_share_the_draws_of_one():
    class Keys(torch.utils.data.Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, key):
            return key

    def batches(batch_size, processes, process):
        sampler = RareClassSampler(np.random.default_rng(0).integers(0, 9000, (20, 4)), seed=3)
        loader = DataLoader(Keys(), batch_size=batch_size, sampler=sampler, collate_fn=list)
        return list(prepare_data_loader(loader, num_processes=processes, process_index=process, put_on_device=False))

    both = zip(batches(2, 2, 0), batches(2, 2, 1), strict=True)
    assert [first + second for first, second in both] == batches(4, 1, 0)


# ------------------------------------------------------------------------------------------------ training


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step >= self.step


@pytest.fixture(scope="module")
def street_images(tmp_path_factory):
    rows = open_dataset("streets:game?n=6&size=64x128")
    pixels = count_class_pixels(rows, 19, tmp_path_factory.mktemp("cache"))
    return TrainingImages(rows, VFMSegImageProcessor(), Augmentation((64, 64)), 0, pixels)


def make_trainer(tiny_config, directory, images, *callbacks, lora=False, **settings) -> VFMSegTrainer:
    set_seed(7)
    model = VFMSegForSemanticSegmentation(tiny_config())
    if lora:
        give_base(model).add_adapter(lora_config(model.config, r=2))
    settings = {
        "max_steps": 8, "logging_steps": 1, "save_steps": 1, "disable_tqdm": True, "use_cpu": True,
        "rare_class_sampling": True, "rare_class_min_pixels": 100, "rare_class_crop_ratio": 0.5,
        "learning_rate": 1e-3, **settings,
    }  # fmt: skip
    arguments = VFMSegTrainingArguments(output_dir=str(directory), **settings)
    return VFMSegTrainer(model, arguments, train_dataset=images, callbacks=list(callbacks))


# Three batches of two per epoch: in the middle of the second epoch, at its end, in the middle of the third.
@pytest.mark.parametrize("interrupted_at, lora, workers", [(4, False, 2), (6, True, 0), (7, False, 0)])
def test_resume_is_exact(interrupted_at, lora, workers, tiny_config, street_images, tmp_path):
    def trainer(directory, *callbacks):
        return make_trainer(
            tiny_config, tmp_path / directory, street_images, *callbacks, lora=lora, dataloader_num_workers=workers
        )

    whole = trainer("whole")
    whole.train()
    trainer("run", StopAfter(interrupted_at)).train()
    resumed = trainer("run")
    with torch.no_grad():  # all it knows has to come from the checkpoint
        for parameter in resumed.model.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    torch.rand(5)
    resumed.train(resume_from_checkpoint=True)
    expected, actual = whole.model.state_dict(), resumed.model.state_dict()
    assert [key for key in expected if not torch.equal(expected[key], actual[key])] == []
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (whole, resumed)]
    assert losses[0] == losses[1]


def test_the_trainer_draws_by_its_arguments(tiny_config, street_images, tmp_path):
    sampler = make_trainer(
        tiny_config, tmp_path, street_images, rare_class_temperature=0.2, seed=5
    )._get_train_sampler()
    expected = RareClassSampler(street_images.class_pixels, 5, 0.2, 100, 0.5)
    assert type(sampler) is RareClassSampler and list(sampler) == list(expected)
    plain = make_trainer(tiny_config, tmp_path, street_images, rare_class_sampling=False)._get_train_sampler()
    assert not isinstance(plain, RareClassSampler)


def test_arguments_of_the_command_line(tmp_path):
    (plain,) = HfArgumentParser(VFMSegTrainingArguments).parse_args_into_dataclasses(["--output_dir", str(tmp_path)])
    assert plain.rare_class_sampling is False
    (sampling,) = HfArgumentParser(VFMSegTrainingArguments).parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), "--rare_class_sampling", "--rare_class_min_pixels", "500"]
    )
    assert (sampling.rare_class_sampling, sampling.rare_class_min_pixels) == (True, 500)
    assert (sampling.rare_class_temperature, sampling.rare_class_crop_ratio) == (0.01, 2.0)


def test_what_cannot_be_sampled(tiny_config, street_images, tmp_path):
    uncounted = TrainingImages(street_images.dataset, VFMSegImageProcessor(), Augmentation((64, 64)))
    with pytest.raises(ValueError, match=r"class_pixels=data\.count_class_pixels"):
        make_trainer(tiny_config, tmp_path, uncounted).train()
    with pytest.raises(ValueError, match=r"no crop of 64x64 pixels has more than 6000 of one class"):
        make_trainer(
            tiny_config, tmp_path, street_images, rare_class_min_pixels=3000, rare_class_crop_ratio=2.0
        ).train()
    with pytest.raises(ValueError, match=r"one row per image, \[6, classes\], got shape \(5, 19\)"):
        TrainingImages(
            street_images.dataset, VFMSegImageProcessor(), Augmentation((64, 64)), 0, np.zeros((5, 19), np.int64)
        )


def test_the_script_counts_and_trains(tiny_config, tmp_path, monkeypatch):
    tiny_config().to_json_file(tmp_path / "tiny.json")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    result = start(
        "train", "--model", tmp_path / "tiny.json", "--tune", "full",
        "--train", "streets:game?n=4&size=64x128", "--crop_size", 64, 64, "--max_steps", 3, "--use_cpu",
        "--rare_class_sampling", "--rare_class_min_pixels", 100, "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Counting pixels per class" in result.stderr and (tmp_path / "run" / "model.safetensors").is_file()
    assert len(list((tmp_path / "cache" / "vfmseg_class_pixels").glob("*.safetensors"))) == 1
