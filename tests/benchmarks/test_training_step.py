"""The benchmark of the training step on a tiny model: what it measures, and that it notices a wrong result."""

import argparse
import json
import sys
from functools import partial

import pytest
import torch

from benchmarks import BENCHMARKS, training_step
from benchmarks.measuring import PeakMemory, matmul_peak, trim_heap
from tests.support.numbers import lively


@pytest.fixture
def measure(tiny_model, monkeypatch):
    """Runs the benchmark on a tiny model; arguments as on the command line."""
    monkeypatch.setattr(training_step, "matmul_peak", partial(matmul_peak, size=256))
    monkeypatch.setattr(training_step, "random_model", lambda preset: lively(tiny_model()))
    parser = argparse.ArgumentParser()
    BENCHMARKS["training-step"].add_arguments(parser)
    fixed = ["--crop", "64", "--device", "cpu", "--repeats", "2"]
    return lambda *further: BENCHMARKS["training-step"].run(parser.parse_args([*fixed, *further]))


def test_rows_of_all_modes(measure):
    result = json.loads(json.dumps(measure("--batch_size", "3")))
    reference, single, half = result["rows"]
    assert [row["mode"] for row in result["rows"]] == [
        "two passes, float32", "one pass, float32", "one pass, bfloat16"
    ]  # fmt: skip
    for row in result["rows"]:
        assert len(result["seconds"][row["mode"]]) == 2 and row["seconds"] > 0 and row["of the matmul peak"] > 0
        assert row["images/s"] == pytest.approx(3 / row["seconds"])
        assert row["GFLOP/s"] == pytest.approx(result["operations"] / row["seconds"] / 1e9)
    assert reference["times as fast"] == 1 and reference["loss differs by"] == 0
    assert single["loss differs by"] <= 1e-5 and set(result["matmul_peak"]) == {"float32", "bfloat16"}
    assert 0 < half["loss differs by"] < 0.01
    assert max(result["one_pass_differs_by"].values()) <= 1e-5


def loss_of_another_weight(model, batch):
    model.config.detail_loss_weight = 1.001
    return two_passes(model, batch)


def gradients_of_the_heads_only(model, batch):
    encode = model.model.forward

    def detached(pixel_values):
        output = encode(pixel_values)
        output.feature_maps = tuple(maps.detach() + 0 * maps for maps in output.feature_maps)
        return output

    model.model.forward = detached
    return two_passes(model, batch)


two_passes = training_step.two_passes


@pytest.mark.parametrize(
    ("mistake", "noticed"), [(loss_of_another_weight, "'loss': "), (gradients_of_the_heads_only, "{'model': ")]
)
def test_another_loss_or_gradient_is_noticed(mistake, noticed, measure, monkeypatch):
    monkeypatch.setattr(training_step, "two_passes", mistake)
    with pytest.raises(ValueError, match=f"'one pass, float32' is not 'two passes, float32'.*{noticed}"):
        measure()


def test_gradients_are_compared_one_by_one():
    """A small one is not hidden by a large one; one that is zero but for rounding does not count."""
    names = ("model.large", "model.small", "model.zero", "coarse_head.weight", "refine_head.weight")
    expected = dict(zip(names, torch.tensor([1.0, 1e-3, 1e-8, 1.0, 1.0]).split(1), strict=True))
    assert max(training_step.compare_gradients(expected, expected).values()) == 0
    actual = {**expected, "model.small": torch.tensor([1.1e-3]), "model.zero": torch.tensor([-1e-8])}
    differences = training_step.compare_gradients(actual, expected)
    assert differences == {"model": pytest.approx(0.1, rel=1e-3), "coarse_head": 0, "refine_head": 0}
    differences = training_step.compare_gradients({**expected, "model.zero": torch.tensor([-1e-8])}, expected)
    assert 0 < differences["model"] < 1e-7


def test_the_optimizers_are_what_they_are_said_to_be(measure, monkeypatch):
    taken = []
    step = torch.optim.AdamW.step

    def watch(optimizer, *args, **kwargs):
        taken.append((optimizer.defaults["fused"], optimizer.defaults["foreach"]))
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    measure("--repeats", "1")
    assert taken.count((False, False)) == 3 and taken.count((True, False)) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="needs a C library that can give memory back")
def test_memory_that_was_freed_before_is_measured_again():
    """Blocks that the C library keeps when they are freed, because the last one lies above them."""

    def take():
        return [torch.ones(2**14) for _ in range(1024)]

    blocks = take()
    last = blocks.pop()
    del blocks
    trim_heap()
    with PeakMemory(torch.device("cpu"), interval=0.001) as memory:
        for _ in range(5):
            take()
    assert last.sum() > 0 and 2**25 < memory.peak < 2**28


def test_float16_scales_the_loss_and_not_the_step(tiny_model):
    model = tiny_model()
    training_step.attach_random_lora(model)
    batch = training_step.draw_batch(2, 64, torch.device("cpu"))
    gradients, weights = [], []
    for dtype in (torch.float16, torch.float32):
        step = training_step.TrainingStep(model, training_step.one_pass, dtype)
        torch.manual_seed(0)
        step.backward(batch)
        bias = step.model.coarse_head.classifier.bias
        gradients.append(bias.grad.clone() / step.scaler.get_scale())
        step.update()
        weights.append(bias.detach().clone())
        assert bias.grad is None
    torch.testing.assert_close(*gradients, rtol=0.02, atol=1e-4)
    torch.testing.assert_close(*weights, rtol=0.02, atol=1e-6)
    assert weights[0].abs().min() > 0, "no gradient was so large that the step was left out"


def test_operations_are_those_of_forward_and_backward(tiny_model):
    model = lively(tiny_model())
    training_step.attach_random_lora(model)
    batches = [training_step.draw_batch(count, 64, torch.device("cpu")) for count in (1, 2)]
    one, two = (training_step.operations_of_step(model, batch) for batch in batches)
    assert two == 2 * one
    model.requires_grad_(False)
    model.coarse_head.classifier.requires_grad_(True)
    assert 0.3 * one < training_step.operations_of_step(model, batches[0]) < 0.7 * one, "mostly the forward pass"


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("--crop", "500", "--crop must be a positive multiple of 32, got 500; the nearest is 512"),
        ("--batch_size", "0", "--batch_size must be a positive multiple of 1, got 0; the nearest is 1"),
        ("--device", "cpu:x", "device cpu:x is not available"),
    ],
)
def test_arguments_that_do_not_fit(argument, value, expected, measure):
    with pytest.raises(ValueError, match=expected):
        measure(argument, value)
