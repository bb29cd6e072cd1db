# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Fields of the model's configuration, and what trains, on the command line of `vfmseg train`."""

import json

import pytest

from tests.support.commands import call, error_of
from vfmseg_hf import VFMSegConfig, VFMSegForSemanticSegmentation, VFMSegImageProcessor, lora_config
from vfmseg_hf.cli import fields, train
from vfmseg_hf.training.model import check_fields, choose_trained_part, start_model


USUAL = ("--data", "streets:game?n=2&size=64x64", "--device", "cpu", "--crop_size", 64, "--max_steps", 1)
USUAL += ("--rare_class_sampling", "false", "--report_to", "none", "--per_device_train_batch_size", 1)


@pytest.fixture
def places(tmp_path, tiny_config):
    """A JSON file, a whole model, an adapter on it and a foundation model, by kind."""
    tiny_config(feature_mask_ratio=0.5).to_json_file(tmp_path / "tiny.json")
    model = VFMSegForSemanticSegmentation(tiny_config(feature_mask_ratio=0.5, max_window_share=0.25))
    model.save_pretrained(tmp_path / "whole")
    VFMSegImageProcessor(do_resize=False).save_pretrained(tmp_path / "whole")
    model.model.encoder.save_pretrained(tmp_path / "foundation")
    model = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "whole")
    model.add_adapter(lora_config(model.config, r=2))
    model.save_pretrained(tmp_path / "adapter")
    return {
        kind: str(tmp_path / name)
        for kind, name in (
            ("json", "tiny.json"),
            ("whole", "whole"),
            ("adapter", "adapter"),
            ("foundation", "foundation"),
        )
    }


def test_every_field_is_an_option_but_what_is_said_otherwise():
    given = {
        "out_indices": [0, 1, 2, 3],
        "coarse_size": [64],
        "detail_crop_includes_end": False,
        "coarse_mode": "sliding",
    }
    given |= {"loss_normalization": "all", "certainty_scope": "batch", "keep_at_threshold": True}
    given |= {"position_interpolation": "bilinear", "backbone_name_or_path": "x", "max_windows": 3}
    words = []
    for name in fields.FIELDS:
        value = given.setdefault(name, 1)
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    own, arguments = train.parse_arguments(["--model", "m", "--data", "d", "--output", "o", "--device", "cpu", *words])
    assert own.fields == {**given, "coarse_size": 64}
    assert set(own.fields) | fields.SAID_OTHERWISE == set(VFMSegConfig.__annotations__)
    assert arguments.class_weights is None and not hasattr(arguments, "feature_mask_ratio")
    assert all(fields.HELP[name].endswith(".") for name in fields.FIELDS)
    own, _ = train.parse_arguments(["--model", "m", "--data", "d", "--output", "o", "--coarse_size", "64", "128"])
    assert own.fields == {"coarse_size": [64, 128]}


@pytest.mark.parametrize("kind", ["json", "whole", "adapter", "foundation"])
def test_given_fields_hold_and_others_stay(kind, places, tmp_path):
    words = ["--model", places[kind], "--tune", "full" if kind == "json" else "lora", "--output", tmp_path / "run"]
    given = ["--detail_loss_weight", 0.25, "--max_windows", 2, "--keep_at_threshold", "true"]
    small = ["--refine_hidden_size", 128, "--refine_num_layers", 1] if kind == "foundation" else []
    assert error_of("train", *words, *USUAL, *given, *small) is None
    config = VFMSegConfig.from_pretrained(tmp_path / "run")
    assert (config.detail_loss_weight, config.max_windows, config.keep_at_threshold) == (0.25, 2, True)
    assert config.max_window_share is None, "one limit replaces the other"
    assert config.feature_mask_ratio == (0.2 if kind == "foundation" else 0.5)
    record = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert record["settings"]["model"]["detail_loss_weight"] == 0.25
    assert "model.detail_loss_weight 0.25 instead of 1.0" in record["differences"]["paper"]


def test_the_ratio_reaches_the_head(places):
    for kind in ("whole", "adapter", "json"):
        assert start_model(places[kind], feature_mask_ratio=0.0).refine_head.feature_mask_ratio == 0


@pytest.mark.parametrize(
    "kind, words, message",
    [
        ("json", ["--feature_mask_ratio", "1.5"], "feature_mask_ratio must be within [0, 1], got 1.5"),
        ("whole", ["--detail_loss_weight", "nan"], "detail_loss_weight must be a finite number, at least 0, got nan"),
        ("adapter", ["--coarse_size", "100"], "in multiples of patch_size=16, got 100; the nearest valid value is 96"),
        (
            "foundation",
            ["--refine_hidden_size", "200"],
            "must be a multiple of 128, got 200; the nearest valid",
        ),
        (
            "dinov2-small",
            ["--out_indices", "1", "2"],
            "out_indices must be four increasing 0-based block numbers",
        ),
        ("whole", ["--max_windows", "1", "--max_window_share", "0.5"], "are two limits on one number"),
        (
            "whole",
            ["--refine_hidden_size", "256"],
            "is not what the weights of WHOLE are made for, which is 128;",
        ),
        ("adapter", ["--out_indices", "0", "1", "2", "3", "--patch_size", "8"], "patch_size=8 is not what the weights"),
        ("whole", ["--backbone_name_or_path", "x/y"], "'x/y' says where the weights under a preset or an adapter are"),
        ("json", ["--backbone_name_or_path", "x/y"], "which JSON is not; leave it out"),
        ("foundation", ["--backbone_name_or_path", "x/y"], "which FOUNDATION is not; leave it out"),
        ("json", ["--tune", "lora"], "nobody could load LoRA on them"),
    ],
)
def test_what_no_model_can_have(kind, words, message, places, tmp_path):
    """Before data are opened: that of this command is not there."""
    for name, place in places.items():
        message = message.replace(name.upper(), place)
    tune = [] if "--tune" in words else ["--tune", "full"]
    usual = ["--data", "streets:game", "--output", tmp_path / "run", "--device", "cpu", "--class_map", places["json"]]
    said = error_of("train", "--model", places.get(kind, kind), *tune, *usual, *words)
    assert said.startswith("error: ") and message in said


def test_a_preset_with_weights_elsewhere(places, monkeypatch):
    asked = []
    monkeypatch.setattr(
        VFMSegForSemanticSegmentation,
        "from_preset",
        lambda name, recipe, **fields: asked.append((name, recipe, fields)),
    )
    start_model("dinov2-small", backbone_name_or_path=places["foundation"])
    assert asked == [("dinov2-small", "paper", {"backbone_name_or_path": places["foundation"]})]
    check_fields(places["adapter"], "paper", {"backbone_name_or_path": places["whole"]})


def test_nothing_of_the_encoder(places, tmp_path):
    """`none` is `heads` by another name."""
    trained = []
    for tune in ("heads", "none"):
        model = start_model(places["whole"])
        choose_trained_part(model, tune)
        trained.append({name for name, weight in model.named_parameters() if weight.requires_grad})
    assert trained[0] == trained[1] and all("_head." in name for name in trained[0])
    assert call("train", "--model", places["whole"], "--tune", "none", "--output", tmp_path / "run", *USUAL) == 0
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["run"]["tune"] == "heads"
    with pytest.raises(ValueError, match="tune must be one of"):
        choose_trained_part(model, "nothing")
