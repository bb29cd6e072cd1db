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


OFF = {
    "lora": ("--init_lora_weights", "true", "--frozen_share", "0", "--lora_targets", "default"),
    "decay": ("--weight_decay_schedule", "constant"),
    "average": ("--ema_decay", "0"),
}


def parse(*words: str):
    return train.parse_arguments(["--model", "m", "--data", "d", "--output", "o", "--device", "cpu", *words])


def test_parts_of_a_recipe_are_taken_one_by_one():
    """Each without the others, and each alone on the paper's, by their options."""
    own, arguments = parse("--recipe", "strong")
    assert own.lora == {} and (arguments.ema_decay, arguments.ema_start) == (0.999, 0.3)
    assert arguments.weight_decay_schedule == "cosine"
    own, arguments = parse("--recipe", "strong", *OFF["lora"])
    assert own.lora == {"init_lora_weights": True, "frozen_share": 0.0, "targets": "default"}
    assert arguments.ema_decay == 0.999 and arguments.weight_decay_schedule == "cosine"
    for zero in ("0", "0.0", ".0"):
        _, arguments = parse("--recipe", "strong", "--ema_decay", zero)
        assert (arguments.ema_decay, arguments.ema_start, arguments.weight_decay_schedule) == (None, 0.0, "cosine")
    _, arguments = parse("--recipe", "strong", "--ema_start", "0")
    assert (arguments.ema_decay, arguments.ema_start) == (0.999, 0.0)
    own, arguments = parse("--lora_targets", "q_proj", "fc1", "--use_dora", "--lora_r", "8", "--lora_alpha", "16")
    assert own.lora == {"targets": ["q_proj", "fc1"], "use_dora": True, "r": 8, "lora_alpha": 16}
    own, arguments = parse("--init_lora_weights", "mica", "--ema_decay", "0.9", "--ema_start", "0.5")
    assert own.lora == {"init_lora_weights": "mica"} and (arguments.ema_decay, arguments.ema_start) == (0.9, 0.5)
    with pytest.raises(ValueError, match="ema_start=0.5 needs an average that starts: give ema_decay"):
        parse("--ema_start", "0.5")
    with pytest.raises(ValueError, match="ema_start=0.5 needs an average that starts"):
        parse("--recipe", "strong", "--ema_decay", "0", "--ema_start", "0.5")


def test_the_strong_recipe(places, tmp_path):
    """Recorded, resumed, and without its parts no other than the paper's."""
    words = ["--model", places["whole"], "--recipe", "strong", *USUAL, "--max_steps", 2, "--save_steps", 1]
    assert error_of("train", *words, "--output", tmp_path / "run") is None
    record = json.loads((tmp_path / "run" / "recipe.json").read_text())
    lora = {"targets": "all-linear", "init_lora_weights": "mica", "frozen_share": 1 / 3}
    assert lora.items() <= record["settings"]["lora"].items()
    assert not any("lora" in item or "ema" in item for item in record["differences"]["strong"])
    assert {item.split()[0] for item in record["differences"]["paper"] if item.startswith("lora")} == {
        "lora.targets", "lora.init_lora_weights", "lora.frozen_share"
    }  # fmt: skip
    again = [*words, "--output", tmp_path / "run", "--resume"]
    assert error_of("train", *again, "--lora_r", 8).endswith("this run has 8; resume with the same arguments")
    assert error_of("train", *again) is None
    off = [word for words in OFF.values() for word in words]
    assert error_of("train", *words, "--output", tmp_path / "off", *off) is None
    record = json.loads((tmp_path / "off" / "recipe.json").read_text())
    assert not any(
        item.startswith(("lora", "training.ema", "training.weight")) for item in record["differences"]["paper"]
    )


@pytest.mark.parametrize(
    "kind, words, message",
    [
        ("whole", ["--tune", "full", "--lora_r", "8"], "--lora_r is for LoRA and has no effect with --tune full;"),
        ("whole", ["--tune", "none", "--use_dora"], "--use_dora is for LoRA and has no effect with --tune none;"),
        ("foundation", ["--method", "rein", "--frozen_share", "0.5"], "no effect with --method rein, which adapts"),
        ("adapter", ["--lora_r", "8"], "LoRA's r=8 is not what the adapter ADAPTER has, which is 2; leave it out"),
        ("adapter", ["--frozen_share", "0.5"], "frozen_share=0.5 is not what the adapter ADAPTER has, which is 0.0"),
        ("adapter", ["--lora_targets", "all-linear"], "targets='all-linear' is not what the adapter ADAPTER has"),
        ("foundation", ["--lora_targets", "qkv"], "the encoder has no layer 'qkv' for LoRA; its layers are called"),
        ("dinov2-small", ["--lora_targets", "qkv"], "the encoder has no layer 'qkv' for LoRA"),
        ("whole", ["--lora_dropout", "1"], "lora_dropout must lie in [0, 1), got 1.0"),
        ("whole", ["--recipe", "strong", "--use_dora"], "use_dora does not go with init_lora_weights='mica'"),
        ("whole", ["--init_lora_weights", "pissa"], "invalid choice: 'pissa'"),
    ],
)
def test_what_lora_cannot_have(kind, words, message, places, tmp_path):
    """Before data are opened, as above."""
    usual = ["--data", "streets:game", "--output", tmp_path / "run", "--device", "cpu", "--class_map", places["json"]]
    said = error_of("train", "--model", places.get(kind, kind), *usual, *words)
    assert said.startswith("error: ") and message.replace("ADAPTER", places["adapter"]) in said


def test_an_adapter_keeps_what_is_not_asked_for(places, tmp_path):
    words = ["--model", places["adapter"], "--output", tmp_path / "run", *USUAL, "--lora_r", 2]
    assert error_of("train", *words, "--recipe", "strong") is None
    record = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert record["settings"]["lora"]["targets"] == "default"
    assert "lora.targets default instead of all-linear" in record["differences"]["strong"]
