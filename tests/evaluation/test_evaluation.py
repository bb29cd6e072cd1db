# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Protocols against the published code's arithmetic, counting against brute force, results for people and machines."""

import copy
import gc
import json
from collections import OrderedDict
from dataclasses import replace
from functools import partial

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F

from tests.support.golden import GoldenCase
from tests.support.processes import run_in_processes
from tests.support.waits import CountWaits, count_copies
from vfmseg_hf import VFMSegForSemanticSegmentation, VFMSegImageProcessor, VFMSegImageProcessorPil, lora_config
from vfmseg_hf.data import describe_dataset, each_class, open_dataset
from vfmseg_hf.data.domains import evaluation_domains
from vfmseg_hf.evaluation import (
    PROTOCOLS,
    DomainScores,
    count_images,
    counting,
    describe_domain,
    describe_protocol,
    evaluate_domain,
    format_classes,
    format_domains,
    iou_scores,
    mean_over_domains,
    score_domain,
    write_scores,
)
from vfmseg_hf.training import EvaluationImages
from vfmseg_hf.utils.processes import join_processes, process_rank


MEAN, STD = (torch.tensor(values)[:, None, None] for values in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def lively_model(tiny_model):
    """Random heads are nearly indifferent; these are not, and refine some windows of noise and keep others."""
    model = tiny_model(confidence_threshold=0.5, certainty_threshold=0.445)
    with torch.no_grad():
        model.coarse_head.classifier.weight *= 4000
        model.refine_head.classifier.weight *= 1000
    return model


# --- protocols --------------------------------------------------------------------------------------------------------


def published_input(image, longest, shortest):
    """mmcv's rescale to (longest, shortest) with ratio, 8-bit bilinear without antialiasing, mmseg's normalisation."""
    height, width = image.shape[:2]
    factor = min(longest / max(height, width), shortest / min(height, width))
    size = int(height * factor + 0.5), int(width * factor + 0.5)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    resized = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)[0]
    return ((resized + 0.5).floor() - MEAN) / STD


@pytest.mark.parametrize("backend", [VFMSegImageProcessor, VFMSegImageProcessorPil])
@pytest.mark.parametrize(
    "name, box, size, expected",
    [
        ("published", (2048, 1024), (360, 480), (1024, 1365)),
        ("published", (2048, 1024), (720, 320), (2048, 910)),  # portrait: the long edge may be the height
        ("published", (2048, 1024), (1030, 2300), (917, 2048)),
        ("published-1536", (3072, 1536), (720, 1280), (1536, 2731)),
        ("1024x512", (1024, 512), (720, 1280), (512, 910)),
        ("1024x512", (1024, 512), (1024, 2048), (512, 1024)),
    ],
)
def test_images_are_resized_as_published(tiny_model, backend, name, box, size, expected):
    image, own = noise(*size), backend(size={"height": 32, "width": 32}, resample=3)
    _, processor = PROTOCOLS[name].apply(tiny_model(), own)
    pixel_values = processor(PIL.Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
    assert pixel_values.shape[1:] == expected
    torch.testing.assert_close(pixel_values, published_input(image, *box), atol=1e-5, rtol=0)
    assert own.size == {"height": 32, "width": 32} and own.resample == 3 and own.antialias


def test_default_and_native_leave_the_checkpoint_alone(tiny_model):
    model, own = tiny_model(), VFMSegImageProcessor(size={"height": 32, "width": 48}, image_mean=[0.1, 0.2, 0.3])
    same, processor = PROTOCOLS["default"].apply(model, own)
    assert processor.to_dict() == own.to_dict() and same.config.to_dict() == model.config.to_dict()
    same, processor = PROTOCOLS["native"].apply(model, own)
    assert processor(noise(37, 53), return_tensors="pt")["pixel_values"].shape == (1, 3, 37, 53)
    assert processor.image_mean == own.image_mean and same.config.to_dict() == model.config.to_dict()


@pytest.mark.parametrize("size", [(96, 64), (64, 128)])
def test_published_coarse_pass_is_512x1024_whatever_the_image(tiny_model, size):
    model = tiny_model(certainty_threshold=1.0, confidence_threshold=0.0, certainty_scope="batch")
    published, _ = PROTOCOLS["published"].apply(model, VFMSegImageProcessor())
    with torch.no_grad():
        output, own = (each(torch.randn(1, 3, *size)) for each in (published, model))
    assert output.coarse_logits.shape[-2:] == (512 // 4, 1024 // 4)
    assert not output.refined.any() and own.refined.all(), "C_k = C_tau is kept as published, refined as in the paper"
    assert published.config.certainty_scope == "image" and model.config.certainty_scope == "batch"
    assert published.coarse_head is model.coarse_head and published is not model
    assert model.config.coarse_size == 64 and model.config.keep_at_threshold is False


def test_a_model_that_cannot_follow_is_refused(tiny_model):
    model = tiny_model(patch_size=24, coarse_size=72, backbone_config={"patch_size": 24, "image_size": 72})
    with pytest.raises(ValueError, match=r"published.*coarse_size must be .*patch_size=24.*\[504, 1032\]"):
        PROTOCOLS["published"].apply(model, VFMSegImageProcessor())


def test_the_recorded_inference_comes_out_of_an_evaluation(shared, tmp_path):
    """From the image file to the confusion matrix; unresized, because the recording began at the resized image."""
    case = GoldenCase(shared / "golden" / "dinov2", tmp_path)
    own_size = replace(PROTOCOLS["published"], processor={"do_resize": False})
    model, processor = own_size.apply(case.model("merged", for_inference=True).eval(), VFMSegImageProcessor())
    recorded, meta = case.inference["prediction_stride2"], case.meta["inference"]
    label = np.full(meta["output_size"], 255, dtype=np.uint8)
    label[::2, ::2] = recorded.numpy()
    rows = [{"image": PIL.Image.open(case.folder / meta["image"]), "label": label, "file_name": "golden"}]
    domain = evaluate_domain(model, EvaluationImages(rows, processor), "golden")
    assert domain.refined == np.mean(meta["window_refined"]) == 5 / 8
    wrong = (1 - domain.scores["final"]["overall_accuracy"]) * recorded.numel()
    assert wrong <= meta["pixels_with_margin_below_1e3"]
    assert domain.scores["coarse"]["overall_accuracy"] < 0.9, "the recording's coarse result is another"


# --- counting ---------------------------------------------------------------------------------------------------------


def brute_force(logits, label, num_labels):
    """Counts pixel by pixel what the best class of the logits at the label's size is."""
    best = F.interpolate(logits[None].double(), size=label.shape, mode="bilinear", align_corners=False)[0].argmax(0)
    matrix = torch.zeros(num_labels, num_labels, dtype=torch.int64)
    for labelled, predicted in zip(label.flatten().tolist(), best.flatten().tolist(), strict=True):
        if labelled != 255:
            matrix[labelled, predicted] += 1
    return matrix


def random_label(height, width, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).choice([*range(19), 255], (height, width)))


def test_both_stages_are_counted_at_the_labels_size(lively_model):
    model = lively_model
    sizes = [(96, 128), (96, 128), (64, 80)]
    images = [torch.randn(3, *size) for size in sizes]
    labels = [random_label(*size, seed=seed) for seed, size in enumerate([(50, 61), (96, 128), (130, 90)])]
    matrices, windows, _ = count_images(model, images, labels, 19, 255)
    for image, label, pair, (refined, count) in zip(images, labels, matrices, windows.tolist(), strict=True):
        with torch.no_grad():
            output = model(image[None])
        for matrix, logits in zip(pair, (output.coarse_logits[0], output.logits[0]), strict=True):
            difference = (matrix - brute_force(logits, label, 19)).abs().sum() / 2
            assert difference <= 2 and matrix.sum() == (label != 255).sum(), "up to two near ties"
        assert (refined, count) == (int(output.refined.sum()), output.refined.numel())
    assert (matrices[:, 0] != matrices[:, 1]).any(), "both stages say the same"


def test_flip_averages_the_probabilities_of_both_directions(lively_model):
    model = lively_model
    image, label = torch.randn(3, 64, 112), random_label(64, 112)
    matrices, windows, _ = count_images(model, [image], [label], 19, 255, flip=True)
    with torch.no_grad():
        plain, mirrored = model(image[None]), model(image.flip(-1)[None])
    mean = (plain.logits.softmax(1) + mirrored.logits.softmax(1).flip(-1)) / 2
    assert torch.equal(matrices[0, 1], brute_force(mean[0], label, 19))
    assert windows.tolist() == [[int(plain.refined.sum() + mirrored.refined.sum()), 2 * plain.refined.numel()]]
    assert not torch.equal(matrices[0, 1], brute_force(plain.logits[0], label, 19))
    # Whoever averages both directions cannot tell them apart.
    turned, *_ = count_images(model, [image.flip(-1)], [label.flip(-1)], 19, 255, flip=True)
    assert torch.equal(turned[:, 1], matrices[:, 1])


# --- domains ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    """Images and labels of three different sizes."""
    sizes = [(64, 96), (80, 64), (64, 96), (48, 100), (64, 64)]
    return [
        {"image": PIL.Image.fromarray(noise(*size, seed)), "label": random_label(*size, seed).byte().numpy(),
         "file_name": str(seed)}
        for seed, size in enumerate(sizes)
    ]  # fmt: skip


@pytest.fixture
def scored(lively_model, rows):
    return lively_model, EvaluationImages(rows, VFMSegImageProcessor(do_resize=False))


def same_scores(actual: DomainScores, expected: DomainScores) -> None:
    assert (actual.images, actual.refined, actual.classes) == (expected.images, expected.refined, expected.classes)
    for stage, scores in expected.scores.items():
        for key, value in scores.items():
            np.testing.assert_array_equal(actual.scores[stage][key], value)


def test_a_domain_is_the_sum_of_its_images(scored):
    model, images = scored
    items = [images[index] for index in range(len(images))]
    counts = count_images(model, [item["pixel_values"] for item in items], [item["labels"] for item in items], 19, 255)
    expected = score_domain(counts.matrices.numpy(), counts.windows.numpy(), each_class(), "noise")
    state = torch.get_rng_state()
    domain = evaluate_domain(model, images, "noise")
    same_scores(domain, expected)
    assert 0 < domain.refined < 1 and domain.images_per_second == pytest.approx(5 / domain.seconds)
    assert torch.equal(torch.get_rng_state(), state), "an evaluation must not change what training draws next"
    seen = []
    progress = lambda items: (seen.append(item["file_name"]) or item for item in items)  # noqa: E731
    same_scores(evaluate_domain(model, images, "noise", num_workers=2, progress=progress), expected)
    assert seen == ["0", "1", "2", "3", "4"], "workers keep the order"


@pytest.mark.parametrize("batch_size", [3, 7])
def test_batches_of_any_sizes_score_the_same(scored, batch_size):
    """Windows of images of three sizes go through the refine head together."""
    model, images = scored
    model.config.window_batch_size = 8
    batches = []
    model.refine_head.register_forward_pre_hook(lambda module, inputs: batches.append(len(inputs[0][0])))
    expected = evaluate_domain(model, images, "noise")
    alone, _ = batches.copy(), batches.clear()
    seen = []
    progress = lambda items: (seen.append(item["file_name"]) or item for item in items)  # noqa: E731
    same_scores(evaluate_domain(model, images, "noise", progress=progress, batch_size=batch_size), expected)
    assert seen == ["0", "1", "2", "3", "4"]
    assert sum(batches) == sum(alone) and len(batches) < len(alone)
    flipped = evaluate_domain(model, images, "noise", flip=True)
    same_scores(evaluate_domain(model, images, "noise", flip=True, batch_size=batch_size), flipped)


@pytest.mark.parametrize("flip", [False, True])
def test_images_decide_alone_whatever_the_scope(scored, flip):
    model, images = scored
    model.config.certainty_scope = "batch"
    expected = evaluate_domain(model, images, "noise", flip=flip)
    assert 0 < expected.refined < 1
    same_scores(evaluate_domain(model, images, "noise", flip=flip, batch_size=5), expected)


class Renamed(VFMSegForSemanticSegmentation):
    """A subclass that segments as its parent does."""


class Certain(VFMSegForSemanticSegmentation):
    """A subclass whose logits are its own: they say class 3 everywhere."""

    def forward(self, pixel_values, **kwargs):
        output = super().forward(pixel_values, **kwargs)
        output.logits[:, 3] = 100.0
        return output


def as_subclass(model, kind):
    twin = copy.copy(model)
    twin.__class__ = kind
    return twin


def with_lora(model):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(copy.deepcopy(model), lora_config(model.config, r=2)).eval()
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return wrapped


def wrapped(model):
    wrapper = torch.nn.Sequential(model)
    wrapper.forward = model.forward
    return wrapper


def hooked(model):
    """As FSDP 2 makes it: a subclass whose hooks gather the weights; without them it has none."""
    twin = as_subclass(model, type("FSDPModel", (Renamed,), {}))
    twin._forward_pre_hooks, twin._forward_hooks = OrderedDict(), OrderedDict()
    twin.ready = False
    twin.register_forward_pre_hook(lambda module, inputs: setattr(module, "ready", True))
    twin.register_forward_hook(lambda module, inputs, output: setattr(module, "ready", False))
    return twin


@pytest.mark.parametrize(
    "wrap, together",
    [
        (lambda model: model, True),
        (partial(as_subclass, kind=Renamed), True),
        (with_lora, True),
        (wrapped, False),
        (hooked, False),
        (lambda model: wrapped(with_lora(model)), False),
    ],
    ids=["itself", "subclass", "PeftModel", "wrapper", "hooks", "wrapped PeftModel"],
)
def test_both_roads_score_the_same(wrap, together, scored, monkeypatch):
    model, images = scored
    items = [images[index] for index in range(len(images))]
    inputs = [item["pixel_values"] for item in items], [item["labels"] for item in items]
    model, calls = wrap(model), []
    segment = VFMSegForSemanticSegmentation.segment
    monkeypatch.setattr(
        VFMSegForSemanticSegmentation, "segment", lambda *args, **how: (calls.append(1), segment(*args, **how))[1]
    )
    fast = count_images(model, *inputs, 19, 255)
    assert bool(calls) == together
    monkeypatch.setattr(counting, "plain_model", lambda model: None)
    for actual, expected in zip(fast, count_images(model, *inputs, 19, 255), strict=True):
        assert torch.equal(actual, expected)


def test_a_subclass_with_its_own_forward_is_called(scored):
    model, images = scored
    matrices, *_ = count_images(
        as_subclass(model, Certain), [images[0]["pixel_values"]], [images[0]["labels"]], 19, 255
    )
    assert matrices[0, 1, :, 3].sum() == matrices[0, 1].sum() > matrices[0, 0, :, 3].sum()


def test_counting_waits_for_the_device_once_a_domain(scored, monkeypatch):
    """Beside the one wait of a batch that inference takes for its decisions."""
    model, images = scored
    many = EvaluationImages(images.dataset * 4, images.processor)
    copies, taken = count_copies(monkeypatch), []
    for dataset in (images, many):
        copies.clear()
        with CountWaits() as waits:
            evaluate_domain(model, dataset, "noise", batch_size=5)
        batches = len(dataset) // 5
        # `tolist` is inference's; matrices, windows and unknown ids come to the host as arrays.
        assert copies.count("tolist") == batches
        taken.append([name for name in copies if name not in ("tolist", "tensor")])
        assert waits.names == ["_local_scalar_dense"]
    # The item is the seed that a loader draws on the host.
    assert taken[0] == taken[1] == ["item", *["cpu", "numpy"] * 3]


@pytest.mark.parametrize("workers", [False, True])
def test_unknown_labels_are_found_when_all_is_counted(workers, scored):
    model, images = scored
    items = [{**images[index], "labels": images[index]["labels"].clone()} for index in range(len(images))]
    items[1]["labels"][0, :3] = 77

    class Own(torch.utils.data.Dataset):
        evaluation = each_class()
        for_model = lambda self, *names: self  # noqa: E731
        __len__ = lambda self: len(items)  # noqa: E731
        __getitem__ = lambda self, index: items[index]  # noqa: E731

    with pytest.raises(
        ValueError, match=r"Labels hold unknown ids: 77 \(3 pixels\); known are 0\.\.18 and ignore_index"
    ):
        evaluate_domain(model, Own(), "own", num_workers=2 * workers)


def test_nothing_is_kept_of_a_image(scored):
    """Neither the image, its logits nor a matrix of its own: as many tensors live after the last as after a few."""
    model, images = scored
    many = EvaluationImages(images.dataset * 4, images.processor)
    alive = {}

    def watch(items):
        for index, item in enumerate(items):
            yield item
            del item
            if index in (2, 19):
                alive[index] = sum(type(value) is torch.Tensor for value in gc.get_objects())

    evaluate_domain(model, many, "noise", progress=watch)
    assert alive[19] <= alive[2]


def test_processes_share_the_images_and_agree_exactly(scored, tmp_path):
    model, images = scored
    expected = evaluate_domain(model, images, "noise")
    for domain in run_in_processes(2, lambda rank: evaluate_domain(model, images, "noise"), tmp_path):
        same_scores(domain, expected)


def test_refine_modes_and_flip_reach_the_model(scored):
    model, images = scored
    assert evaluate_domain(model, images, "noise", False).refined == 0
    assert evaluate_domain(model, images, "noise", "all").refined == 1
    plain, flipped = (evaluate_domain(model, images, "noise", flip=flip).scores["final"] for flip in (False, True))
    assert plain["mean_iou"] != flipped["mean_iou"]


def test_what_cannot_be_scored_is_said(scored, rows, tiny_model):
    model, images = scored
    with pytest.raises(ValueError, match="model has 3 classes, but the domain 'noise' is scored by a rule for 19"):
        evaluate_domain(tiny_model(num_labels=3), EvaluationImages(rows, images.processor, each_class()), "noise")
    ignored = [{**row, "label": np.full_like(row["label"], 255)} for row in rows]
    with pytest.raises(ValueError, match="no pixel of the domain 'noise' has a class: all 5 label maps are ignored"):
        evaluate_domain(model, EvaluationImages(ignored, images.processor), "noise")
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        evaluate_domain(model, images, "noise", batch_size=0)


@pytest.mark.parametrize(
    "spec, split",
    [
        ("cityscapes:/p", "val"), ("bdd100k:/p", "val"), ("mapillary:/p?version=2.0", "validation"), ("acdc:/p", "val"),
        ("camvid:/p", "val"), ("gtav:/p", "val"), ("synthia:/p", "train"), ("streets:night?n=2", "validation"),
        ("carla:/p", "clear"), ("user/data", None), ("cityscapes:/p@train", "train"),
        ("dusk=camvid:/p@target_dusk", "target_dusk"),
    ],
)  # fmt: skip
def test_domains_are_scored_on_the_split_that_is_held_out(spec, split):
    (domain,) = evaluation_domains([spec])
    assert domain.split == split
    assert domain.name == {"user/data": "data"}.get(spec, domain.name) and domain.spec in spec


@pytest.mark.parametrize("splits, expected", [(("day", "val"), "val"), (("night", "day"), "night")])
def test_own_datasets_hold_out_what_they_call_so(tmp_path, splits, expected):
    folders = {split: {"images": f"{split}/photos", "labels": f"{split}/masks"} for split in splits}
    (tmp_path / "dataset.json").write_text(json.dumps({"splits": folders, "ids": {"road": 7}, "ignore": "rest"}))
    assert describe_dataset(f"folder:{tmp_path / 'dataset.json'}").evaluation_split == expected


# --- results ----------------------------------------------------------------------------------------------------------


def made_up(coarse, final, seconds=2.0, names=("road", "tram")):
    """Two classes, of which the second does not occur where a score is None."""
    scores = {}
    for stage, iou in (("coarse", coarse), ("final", final)):
        hits = round(1000 * iou)
        scores[stage] = iou_scores(np.array([[hits, 0, 1000 - hits], [0, 0, 0]]))
    return DomainScores(names, scores, 10, 0.25, seconds)


def test_two_classes_of_one_name_are_not_scored_as_one():
    with pytest.raises(ValueError, match="'tram' is the name of two; rename one"):
        each_class({0: "tram", 1: "road", 2: "tram"})


def test_tables_are_percent_with_two_decimals():
    domains = {"day": made_up(0.5, 0.625), "night": made_up(0.25, 0.375)}
    lines = format_domains(domains).splitlines()
    assert lines[1].split() == ["day", "coarse", "50.00", "50.00", "50.00", "1"]
    assert lines[2].split() == ["final", "62.50", "62.50", "62.50", "1", "10", "25.0%", "5.00"]
    assert lines[-2].split() == ["mean", "coarse", "37.50", "37.50", "37.50", "1"]
    assert lines[-1].split() == ["final", "50.00", "50.00", "50.00", "1"]
    # A class that only the final result predicts, wrongly, counts in its mean with 0 and not in the coarse one.
    domains["night"].scores["final"] = iou_scores(np.array([[300, 100, 0], [0, 0, 0]]))
    lines = format_domains(domains).splitlines()
    assert lines[3].split()[-1] == "1" and lines[4].split() == "final 37.50 75.00 75.00 2 10 25.0% 5.00".split()
    assert lines[-2].split()[-1] == "1" and lines[-1].split()[-1] == "1/2"
    assert max(map(len, lines)) <= 80
    assert mean_over_domains(domains, "coarse", "overall_accuracy") == 0.375
    classes = format_classes("day", domains["day"]).splitlines()
    assert classes[1].split() == ["road", "50.00", "62.50", "50.00", "62.50"]
    assert classes[2].split() == ["tram", "-", "-", "-", "-"]


def test_results_hold_what_it_takes_to_repeat_them(tiny_model, tmp_path):
    model, processor = PROTOCOLS["published"].apply(tiny_model(confidence_threshold=0.9), VFMSegImageProcessor())
    dataset = open_dataset("streets:night?n=2&size=64x128", "test")
    datasets = {name: describe_domain("streets:night?n=2&size=64x128", dataset) for name in ("day", "night")}
    about = {"protocol": describe_protocol(PROTOCOLS["published"], model, processor, "all", True)}
    path = tmp_path / "scores.json"
    write_scores(path, {"day": made_up(0.5, 0.625)}, datasets, about)
    half = json.loads(path.read_text())
    assert half["complete"] is False and half["mean"] is None and list(half["domains"]) == ["day"]
    write_scores(path, {"day": made_up(0.5, 0.625), "night": made_up(0.25, 1 / 3)}, datasets, about)
    result = json.loads(path.read_text())
    assert result["complete"] is True
    assert result["mean"]["final"]["mean_iou"] == pytest.approx((0.625 + 0.333) / 2, abs=1e-12)
    night = result["domains"]["night"]
    assert night["final"]["iou"] == {"road": 0.333, "tram": None}
    assert night["final"]["accuracy"] == {"road": 0.333, "tram": None}
    assert night["split"] == "test" and night["dataset"].startswith("streets:night") and night["description"]
    assert (night["images"], night["refined"], night["images_per_second"]) == (10, 0.25, 5.0)
    protocol = result["protocol"]
    box = {"shortest_edge": 1024, "longest_edge": 2048}
    assert protocol["resize"] == {"size": box, "resample": "bilinear", "antialias": False}
    assert (protocol["name"], protocol["refine"], protocol["flip"]) == ("published", "all", True)
    assert protocol["coarse_size"] == [512, 1024] and protocol["confidence_threshold"] == 0.9
    assert (protocol["window_size"], protocol["window_stride"], protocol["dtype"]) == (64, 40, "float32")
    assert {"vfmseg_hf", "torch", "transformers", "datasets"} == set(result["versions"])


def test_native_results_name_no_size(tiny_model):
    model, processor = PROTOCOLS["native"].apply(tiny_model(), VFMSegImageProcessor())
    assert describe_protocol(PROTOCOLS["native"], model, processor, "gated", False)["resize"] is None


# --- processes --------------------------------------------------------------------------------------------------------


def test_a_process_alone_keeps_its_device_and_several_cannot_share_one(monkeypatch):
    assert join_processes("cuda:1") == "cuda:1" and process_rank() == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="device must be auto or cpu, got cuda:1"):
        join_processes("cuda:1")
