"""The benchmark of the two-stage inference on a tiny model: what it measures, and that it notices a wrong result."""

import argparse
import json
from functools import partial

import pytest
import torch
from conftest import lively
from torch import nn

from vfmseg_hf import VFMSegImageProcessorPil, inference_vfmseg
from vfmseg_hf.benchmarks import BENCHMARKS, two_stage
from vfmseg_hf.benchmarks.measuring import ModuleClock, PeakMemory, count_operations, matmul_peak
from vfmseg_hf.benchmarks.other_models import OTHER_MODELS, build_model, segment_with


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
    result = BENCHMARKS["two-stage"].run(arguments("--pictures", "2", "--plot", str(tmp_path / "chart.png")))
    rows = {row["mode"]: row for row in json.loads(json.dumps(result))["rows"]}
    assert list(rows)[:2] == ["published loop", "published loop, gated"]
    assert {"float32", "float32, gated", "float32, labels", "float32, strips", "bfloat16", "int8"} <= set(rows)
    for name, row in rows.items():
        assert row["seconds"] > 0 and row["pictures/s"] == pytest.approx(1 / row["seconds"])
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
        plans[0].decisions[0][0] = False

    monkeypatch.setattr(inference_vfmseg, "read_decisions", skip_a_window)
    with pytest.raises(ValueError, match="'float32' is not what the published loop gives"):
        BENCHMARKS["two-stage"].run(arguments("--modes", "float32"))


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


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_other_models_label_every_pixel(name):
    """The configurations, made small."""
    config = OTHER_MODELS[name](7)
    if name in ("Mask2Former Swin-L", "EoMT-L"):
        pytest.importorskip("scipy", reason="needs scipy: transformers builds this model with its loss only")
    for key, value in SMALL[name].items():
        setattr(config, key, value)
    if name == "Mask2Former Swin-L":
        for key, value in {"embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 3, 4]}.items():
            setattr(config.backbone_config, key, value)
        config.backbone_config.hidden_size = 8 * 24
    with torch.no_grad():
        labels = segment_with(build_model(config), torch.randn(2, 3, 64, 128))
    assert labels.shape == (2, 64, 128) and 0 <= labels.min() <= labels.max() < 7


def test_operations_are_counted():
    module = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2, bias=False))
    assert count_operations(module, (3, 8)) == 2 * 3 * (8 * 4 + 4 * 2)
    query = (1, 2, 5, 4)
    attention = partial(lambda module, *tensors: nn.functional.scaled_dot_product_attention(*tensors))
    assert count_operations(module, query, query, query, call=attention) == 2 * 2 * (2 * 5 * 5 * 4)


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


def test_budgets_between_none_and_all(arguments):
    parser = argparse.ArgumentParser()
    BENCHMARKS["refine-budget"].add_arguments(parser)
    command = ["--model", arguments().model, "--data", "streets:night?n=2&size=96x160", "--budgets", "0", "0.5", "1"]
    rows = BENCHMARKS["refine-budget"].run(parser.parse_args([*command, "--device", "cpu"]))["rows"]
    assert [row["windows refined"] for row in rows] == [0, 0.5, 1]
    assert rows[0]["mean IoU"] == rows[0]["coarse mean IoU"] == rows[2]["coarse mean IoU"]
    assert rows[2]["mean IoU"] != rows[1]["mean IoU"] != rows[0]["mean IoU"]
    with pytest.raises(ValueError, match="refine_budget=1.5"):
        BENCHMARKS["refine-budget"].run(parser.parse_args([*command[:-3], "1.5", "--device", "cpu"]))
