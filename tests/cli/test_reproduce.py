"""`vfmseg reproduce`: every row on a tiny encoder, dry runs on small copies of the real datasets, what is refused."""

import json
import shutil

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

from tests.support import commands
from tests.support.dataset_copies import camvid_tree, make_copy
from tests.support.tiny import BACKBONE
from vfmseg_hf.cli import reproduce as command
from vfmseg_hf.reproduce import SMALL, TABLES, processes


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A foundation model in a folder."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("foundation") / "encoder"
    shape = {key: value for key, value in BACKBONE.items() if key != "model_type"}
    Dinov2Model(Dinov2Config(**shape)).save_pretrained(folder)
    return folder


def test_every_row(encoder, tmp_path, monkeypatch, capsys):
    """One seed, one rate, a step: all rows train, are saved, loaded and scored, and the table has them."""
    camvid = camvid_tree(tmp_path / "camvid")
    monkeypatch.setattr(processes, "start_command", commands.fork_command)
    words = ["table2", "--model", encoder, "--output", tmp_path / "out", "--device", "cpu", "--steps", 1]
    words += ["--batch_size", 2, "--size", 64, "--max_images", 1, "--seeds", 3, "--learning_rates", "1e-3"]
    words += ["--data", f"camvid:{camvid.folder}@source_train", "--resolutions", 96]
    words += ["--eval_data", f"camvid:{camvid.folder}@target_dusk"]
    status = commands.call("reproduce", *words)
    said = capsys.readouterr()
    assert status == 0, said.err + "".join(log.read_text() for log in (tmp_path / "out").rglob("*.log"))
    assert all(f"| {row.title} |" in said.out for row in TABLES["table2"].rows) and "Failed" not in said.out
    record = json.loads((tmp_path / "out" / "results.json").read_text())["settings"]["own"]
    costs = record["costs"]
    encoder_size = sum(value.numel() for value in Dinov2Model.from_pretrained(encoder).parameters())
    assert costs["frozen"]["trained"] < 5000 < encoder_size < costs["frozen"]["parameters"]
    assert costs["vfmnet"]["trained"] < costs["mgrnet"]["trained"] == costs["masking"]["trained"]
    assert costs["vfmnet"]["parameters"] < costs["mgrnet"]["parameters"] == costs["masking"]["parameters"]
    assert costs["vfmnet"]["gflops"] == costs["vfmnet"]["coarse_gflops"] == costs["mgrnet"]["coarse_gflops"]
    assert costs["mgrnet"]["gflops"] > 3 * costs["mgrnet"]["coarse_gflops"]
    assert record["scores"]["vfmnet"]["3"]["target_dusk"]["refined"] == 0
    assert record["resolutions"]["96"]["3"]["target_dusk"] and "|  | target_dusk |" in said.out
    assert record["image_sizes"] == {"target_dusk": [32, 24]}
    runs = {row.name: tmp_path / "out" / "own" / row.name / "rate=0.001" / "seed=3" for row in TABLES["table2"].rows}
    recipes = {name: json.loads((folder / "model" / "recipe.json").read_text()) for name, folder in runs.items()}
    masks = {name: recipe["settings"]["model"].get("feature_mask_ratio") for name, recipe in recipes.items()}
    assert masks == {"frozen": None, "vfmnet": 0.2, "mgrnet": 0, "masking": 0.2}
    assert {name: recipe["run"]["tune"] for name, recipe in recipes.items()} == {
        "frozen": "heads", "vfmnet": "lora", "mgrnet": "lora", "masking": "lora"
    }  # fmt: skip
    assert commands.call("reproduce", *words, "--seeds", 3, "--learning_rates", "1e-2") == 2
    assert "was committed for learning_rates 0.001, not 0.01" in capsys.readouterr().err


@pytest.mark.slow  # 23 trainings, among them of Mask2Former on a Swin-T: two minutes
@pytest.mark.parametrize("table", ["table1", "table3", "strong"])
def test_every_row_of_other_tables(table, encoder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "start_command", commands.fork_command)
    words = [table, "--model", encoder, "--output", tmp_path / "out", "--device", "cpu", "--steps", 1]
    words += ["--batch_size", 2, "--size", 64, "--max_images", 1, "--seeds", 3, "--learning_rates", "1e-3"]
    words += ["--data", "streets:game?n=4&size=64x128", "--eval_data", "day=streets:day?n=1&size=64x128"]
    status = commands.call("reproduce", *words)
    said = capsys.readouterr()
    assert status == 0, said.err + "".join(log.read_text() for log in (tmp_path / "out").rglob("*.log"))
    assert all(f"| {row.title} |" in said.out for row in TABLES[table].rows) and "Failed" not in said.out


def test_rows_that_an_encoder_does_not_suit_are_found_before_the_first_run(tmp_path, capsys):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(**shape, patch_size=16, image_size=64)).save_pretrained(tmp_path / "clip")
    assert commands.call("reproduce", "table1", "--model", tmp_path / "clip", "--dry_run") == 2
    assert "row EoMT: --method eomt is made of a DINOv2" in capsys.readouterr().err
    assert commands.call("reproduce", "table4", "--model", tmp_path / "clip", "--dry_run") == 0


def test_resolutions_are_of_table2(encoder, tmp_path, capsys):
    words = ["--model", encoder, "--resolutions", 512, "--dry_run", "--output", tmp_path / "out"]
    assert commands.call("reproduce", "table3", *words) == 2
    assert "what the models of table3 score at others is shown by `vfmseg reproduce figure4" in capsys.readouterr().err


@pytest.mark.parametrize("packed", [False, True])
def test_the_papers_own_setting_in_a_dry_run(packed, encoder, tmp_path, capsys):
    """On small copies in the owners' layouts: what would be run, at the paper's size."""
    names = ("gtav", "cityscapes", "bdd100k", "mapillary")
    copies = {}
    for name in names:
        (tmp_path / name).mkdir()
        copies[name] = make_copy(tmp_path / name, name, packed)
    words = ["table2", "--model", encoder, "--output", tmp_path / "out", "--dry_run", "--data", copies["gtav"].spec]
    words += ["--eval_data", *(copies[name].spec for name in names[1:])]
    assert commands.call("reproduce", *words) == 0
    said = capsys.readouterr().out
    assert "12 trainings of 40000 steps of 2 crops of 1024; rates 0.0001; seeds 0 1 2; all images" in said
    assert all(f"target {copies[name].spec}" in said for name in names[1:]) and "minutes on the" in said
    assert "row + MGRNet: --feature_mask_ratio 0; seeds 0 1 2\n" in said and not (tmp_path / "out").exists()
    shutil.rmtree(copies["gtav"].folder)
    assert commands.call("reproduce", *words) == 2
    assert "gtav" in capsys.readouterr().err


def test_the_small_setting_in_a_dry_run(encoder, tmp_path, capsys):
    camvid = camvid_tree(tmp_path / "camvid")
    words = ["table2", "--model", encoder, "--output", tmp_path / "out", "--dry_run", "--camvid", camvid.folder]
    assert commands.call("reproduce", *words) == 0
    said = capsys.readouterr().out
    assert "no CARLA renders (--carla DIR): the target carla_rain is left out" in said
    assert "40 trainings of 200 steps of 4 crops of 256; rates 0.0001 0.0003 0.001" in said
    assert f"target camvid_dusk=camvid:{camvid.folder}@target_dusk" in said and "chosen on streets:game" in said


def test_failures_end_with_status_1(encoder, tmp_path, monkeypatch, capsys):
    def fail(plan, output, jobs):
        (output / "table.md").parent.mkdir()
        (output / "table.md").write_text("# Table 2\n")
        return ["streets, + VFMNet: broken"]

    monkeypatch.setattr(command, "reproduce", fail)
    assert commands.call("reproduce", "table2", "--model", encoder, "--output", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "# Table 2" in said.out and "failed: streets, + VFMNet: broken" in said.err


def test_a_folder_without_weights(encoder, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    shutil.copy(encoder / "config.json", tmp_path / "model")
    assert commands.call("reproduce", "table2", "--model", tmp_path / "model", "--dry_run") == 2
    assert "has no weights: there is no model.safetensors in it" in capsys.readouterr().err


def test_defaults_in_the_help_are_those_of_the_budgets(capsys):
    assert commands.call("reproduce", "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"by default {SMALL.steps} in small, 40000 with --data" in said
    assert "by default 0.0001 0.0003 0.001 in small, 0.0001 with --data" in said
