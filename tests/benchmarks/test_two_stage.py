"""The benchmark of the two-stage inference on a tiny model: what it measures, and that it notices a wrong result."""

import argparse
import json
import sys
import time
from functools import partial, partialmethod

import pytest
import torch
from torch import nn

from benchmarks import BENCHMARKS, two_stage, two_stage_modes
from benchmarks.measuring import ModuleClock, PeakMemory, count_operations, matmul_peak
from benchmarks.operators import (
    ARITHMETIC,
    ATTENTION,
    BETWEEN,
    CONVOLUTION,
    COPIES,
    LINEAR,
    profile_operators,
)
from benchmarks.other_models import OTHER_MODELS, build_model, segment_with
from tests.support.numbers import lively
from vfmseg_hf import VFMSegForSemanticSegmentation, VFMSegImageProcessorPil
from vfmseg_hf.model import inference as inference_vfmseg


@pytest.fixture
def arguments(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(two_stage, "matmul_peak", partial(matmul_peak, size=256))
    lively(tiny_model()).save_pretrained(tmp_path / "model")
    VFMSegImageProcessorPil(do_resize=False).save_pretrained(tmp_path / "model")
    parser = argparse.ArgumentParser()
    BENCHMARKS["two-stage"].add_arguments(parser)
    fixed = ["--model", str(tmp_path / "model"), "--size", "96x160", "--device", "cpu"]
    return lambda *further: parser.parse_args([*fixed, "--repeats", "2", *further])


def test_rows_of_all_modes(arguments, tmp_path):
    pytest.importorskip("matplotlib")
    result = BENCHMARKS["two-stage"].run(arguments("--images", "2", "--plot", str(tmp_path / "chart.png")))
    rows = {row["mode"]: row for row in json.loads(json.dumps(result))["rows"]}
    assert list(rows)[:2] == ["published loop", "published loop, gated"]
    assert {"float32", "float32, gated", "float32, labels", "float32, strips", "bfloat16", "int8"} <= set(rows)
    for name, row in rows.items():
        assert row["seconds"] > 0 and row["images/s"] == pytest.approx(1 / row["seconds"])
        assert 0 < row["outside encoder and heads"] < 1 and row["same decisions"] == ("half" not in name)
    assert rows["float32"]["same labels"] == 1 and 0 < rows["float32"]["largest difference"] < 1e-3
    assert rows["float32"]["windows refined"] == 1 and rows["float32, half of the windows"]["windows refined"] == 0.5
    assert 0.9 < rows["int8"]["same labels"] <= 1
    assert all(len(seconds) == 2 for seconds in result["seconds"].values())
    assert (tmp_path / "chart.png").stat().st_size > 1000


def test_a_wrong_result_is_noticed(arguments, monkeypatch):
    read = inference_vfmseg.read_decisions

    def skip_a_window(plans):
        read(plans)
        plans[0].refined_on_host[0][0] = False

    monkeypatch.setattr(inference_vfmseg, "read_decisions", skip_a_window)
    with pytest.raises(ValueError, match="'float32' is not what the published loop gives"):
        BENCHMARKS["two-stage"].run(arguments("--modes", "float32"))


@pytest.mark.slow
def test_the_clock_does_not_break_a_compiled_graph(arguments, monkeypatch):
    compile_windows = VFMSegForSemanticSegmentation.compile_windows
    whole_graph = partialmethod(compile_windows, backend="eager", fullgraph=True)
    monkeypatch.setattr(VFMSegForSemanticSegmentation, "compile_windows", whole_graph)
    row = BENCHMARKS["two-stage"].run(arguments("--compile", "--modes", "float32, compiled"))["rows"][-1]
    assert (row["mode"], row["same labels"], row["outside encoder and heads"]) == ("float32, compiled", 1, "-")


def test_modes_are_chosen_by_name(arguments):
    result = BENCHMARKS["two-stage"].run(arguments("--modes", "float32, gated"))
    assert [row["mode"] for row in result["rows"]] == ["published loop, gated", "float32, gated"]
    with pytest.raises(ValueError, match="there is no mode"):
        BENCHMARKS["two-stage"].run(arguments("--modes", "quick"))


SMALL = {
    "SegFormer-B5": {"depths": [1, 1, 1, 1], "hidden_sizes": [32, 32, 64, 64], "decoder_hidden_size": 32},
    "Mask2Former Swin-L": {"decoder_layers": 2, "encoder_layers": 1, "num_queries": 5},
    "EoMT-L": {"hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2, "image_size": 64},
    "DINOv2-L, linear head": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
}


def small_config(name, num_labels):
    """A configuration of another model, made small."""
    config = OTHER_MODELS[name](num_labels)
    for key, value in SMALL[name].items():
        setattr(config, key, value)
    if name == "Mask2Former Swin-L":
        for key, value in {"embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 3, 4]}.items():
            setattr(config.backbone_config, key, value)
        config.backbone_config.hidden_size = 8 * 24
    return config


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_other_models_label_every_pixel(name):
    if name in ("Mask2Former Swin-L", "EoMT-L"):
        pytest.importorskip("scipy", reason="needs scipy: transformers builds this model with its loss only")
    with torch.no_grad():
        labels = segment_with(build_model(small_config(name, 7)), torch.randn(2, 3, 64, 128))
    assert labels.shape == (2, 64, 128) and 0 <= labels.min() <= labels.max() < 7


@pytest.fixture
def small_others(monkeypatch):
    pytest.importorskip("scipy", reason="needs scipy: transformers builds two of the models with their losses only")
    configurations = {name: partial(small_config, name) for name in SMALL}
    monkeypatch.setattr(two_stage_modes, "OTHER_MODELS", configurations)
    return configurations


@pytest.mark.slow
def test_other_models_take_their_turns(arguments, small_others, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    turns, time_mode = [], two_stage.time_mode

    def noted(mode, images):
        turns.append(mode)
        return time_mode(mode, images)

    monkeypatch.setattr(two_stage, "time_mode", noted)
    chart = tmp_path / "chart.svg"
    result = BENCHMARKS["two-stage"].run(arguments("--modes", "float32, gated", "--others", "--plot", str(chart)))
    rows = {row["mode"]: row for row in json.loads(json.dumps(result))["rows"]}
    assert list(rows) == ["published loop", "published loop, gated", "float32, gated", *small_others]
    assert turns == turns[: len(rows)] * 2 and len(turns) == 2 * len(rows)
    taken = result["seconds"]
    for name in small_others:
        row = rows[name]
        assert list(row) == list(rows["published loop"]) and row["same labels"] == row["windows refined"] == "-"
        ratios = [loop / seconds for loop, seconds in zip(taken["published loop"], taken[name], strict=True)]
        assert row["times as fast"] == pytest.approx(sum(ratios) / 2)
        assert row["GFLOP/s"] > 0 and 0 < row["of the matmul peak"] < 1
    weights = {
        row["model"]: row["million weights"] for row in result["tables"]["Models, the others all with random weights"]
    }
    assert list(weights)[1:] == list(small_others) and "this library" in next(iter(weights))
    assert all(0 < million < 10 for million in weights.values())
    assert all(f"<!-- {text} -->" in chart.read_text() for text in (*rows, "other models, random weights"))


def test_without_scipy_the_extra_is_named(arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    for name in ("Mask2Former Swin-L", "EoMT-L"):
        with pytest.raises(ImportError, match=r"vfmseg-hf\[methods\]"):
            build_model(small_config(name, 7))
    monkeypatch.setattr(two_stage_modes, "OTHER_MODELS", {"EoMT-L": partial(small_config, "EoMT-L")})
    with pytest.raises(ImportError, match=r"vfmseg-hf\[methods\]"):
        BENCHMARKS["two-stage"].run(arguments("--others"))


def test_limits_and_profile(arguments):
    result = json.loads(json.dumps(BENCHMARKS["two-stage"].run(arguments())))
    limits, profile = result["tables"].values()
    rows, limits = ({row["mode"]: row for row in table} for table in (result["rows"], limits))
    coarse, window = (sum(result["operations"][stage].values()) for stage in ("coarse", "window"))
    windows = result["windows"]
    half = result["limit of half of the windows"]
    assert windows == 8 and half == pytest.approx((coarse + 8 * window) / (coarse + 4 * window))
    assert limits["float32, half of the windows"]["times fewer operations"] == pytest.approx(half)
    assert limits["float32"]["times fewer operations"] == 1 and limits["int8"]["limit"] == "-"
    assert limits["float32"]["limit"] == pytest.approx((coarse + 8 * window) / result["matmul_peak"]["float32"])
    for name, row in limits.items():
        assert row["seconds"] == rows[name]["seconds"]
        if row["limit"] != "-":
            assert row["times the limit"] == pytest.approx(1 / rows[name]["of the matmul peak"])
    groups = [LINEAR, ATTENTION, CONVOLUTION, ARITHMETIC, COPIES, BETWEEN]
    for mode in ("published loop", "float32", "int8"):
        of_mode = {row["operators"]: row for row in profile if row["mode"] == mode}
        assert list(of_mode) == groups and sum(row["share"] for row in of_mode.values()) == pytest.approx(1)
        assert all(row["seconds"] > 0 for row in of_mode.values())
        assert [group for group in groups if of_mode[group]["GFLOP/s"] != "-"] == groups[:3]
    assert len(profile) == 3 * len(groups)


def test_time_goes_to_the_group_of_its_operators():
    device, square = torch.device("cpu"), torch.randn(512, 512)
    image, heads = torch.randn(1, 8, 256, 256), torch.randn(1, 2, 512, 32)
    calls = {
        LINEAR: lambda: nn.functional.linear(square, square),
        ATTENTION: lambda: nn.functional.scaled_dot_product_attention(heads, heads, heads),
        CONVOLUTION: lambda: nn.functional.conv2d(image, torch.ones(8, 8, 3, 3)),
        ARITHMETIC: lambda: image.exp_().add(1).softmax(1),
        COPIES: lambda: nn.functional.interpolate(image, scale_factor=4, mode="bilinear"),
        BETWEEN: lambda: time.sleep(0.05),
    }
    for group, call in calls.items():
        call()
        with torch.inference_mode():
            seconds = profile_operators(call, device)
        assert list(seconds) == list(calls)
        if group != BETWEEN:  # which has the profiler's own time
            del seconds[BETWEEN]
        assert max(seconds, key=seconds.get) == group


def test_operations_are_counted():
    module = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2, bias=False))
    assert count_operations(module, (3, 8)) == {LINEAR: 2 * 3 * (8 * 4 + 4 * 2), ATTENTION: 0, CONVOLUTION: 0}
    query = (1, 2, 5, 4)
    attention = partial(lambda module, *tensors: nn.functional.scaled_dot_product_attention(*tensors))
    counted = count_operations(module, query, query, query, call=attention)
    assert counted == {LINEAR: 0, ATTENTION: 2 * 2 * (2 * 5 * 5 * 4), CONVOLUTION: 0}
    counted = count_operations(nn.Conv2d(3, 4, 2), (1, 3, 5, 5))
    assert counted == {LINEAR: 0, ATTENTION: 0, CONVOLUTION: 2 * 4 * 4 * 4 * 3 * 2 * 2}


def test_memory_and_time_are_measured():
    with PeakMemory(torch.device("cpu"), interval=0.001) as memory:
        for _ in range(20):
            held = torch.ones(2**23)
            held.sum()
    assert 2**25 <= memory.peak < 2**27
    module = nn.Linear(64, 64)
    with ModuleClock([module], torch.device("cpu")) as clock:
        module(held[:64])
    counted = clock.seconds
    module(held[:64])
    assert 0 < clock.seconds == counted


def test_budgets_between_none_and_all(arguments, tmp_path):
    pytest.importorskip("matplotlib")
    parser = argparse.ArgumentParser()
    BENCHMARKS["refine-budget"].add_arguments(parser)
    command = ["--model", arguments().model, "--data", "streets:night?n=2&size=96x160"]
    shares = parser.parse_args(command).budgets
    assert all(type(share) is float for share in shares), "1 would be one window"
    command += ["--budgets", "0", "0.5", "1"]
    chart = ["--plot", str(tmp_path / "curve.svg")]
    rows = BENCHMARKS["refine-budget"].run(parser.parse_args([*command, *chart, "--device", "cpu"]))["rows"]
    assert "coarse pass alone" in (tmp_path / "curve.svg").read_text()
    assert [row["windows refined"] for row in rows] == [0, 0.5, 1]
    assert rows[0]["mean IoU"] == rows[0]["coarse mean IoU"] == rows[2]["coarse mean IoU"]
    assert rows[2]["mean IoU"] != rows[1]["mean IoU"] != rows[0]["mean IoU"]
    with pytest.raises(ValueError, match="max_window_share must be a share .*1.5"):
        BENCHMARKS["refine-budget"].run(parser.parse_args([*command[:-3], "1.5", "--device", "cpu"]))
