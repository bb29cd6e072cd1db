"""`vfmseg train` and `vfmseg evaluate` as a user runs them, on procedural scenes, and how domains are named."""

import json
import re
import signal
import time

import numpy as np
import pytest
from PIL import Image

from tests.support import commands
from tests.support.processes import run_distributed
from vfmseg_hf import VFMSegImageProcessor
from vfmseg_hf.data.domains import parse_domain, parse_domains


@pytest.mark.parametrize(
    "text, expected",
    [
        ("dusk=camvid:/data/camvid@target_dusk", ("dusk", "camvid:/data/camvid", "target_dusk")),
        ("camvid:/data/camvid@source_val", ("source_val", "camvid:/data/camvid", "source_val")),
        ("streets:night?n=20&size=64x128", ("night", "streets:night?n=20&size=64x128", None)),
        ("rain=streets:rain?n=2&seed=3@validation", ("rain", "streets:rain?n=2&seed=3", "validation")),
        ("user/data", ("data", "user/data", None)),
    ],
)
def test_domains_are_named(text, expected):
    assert tuple(parse_domain(text)) == expected


@pytest.mark.parametrize(
    "text, message",
    [("", "expected"), ("night=", "expected"), ("a b=camvid:/x", "'a b'"), ("coarse=camvid:/x", "named 'coarse'")],
)
def test_bad_domains(text, message):
    with pytest.raises(ValueError, match=message):
        parse_domain(text)
    with pytest.raises(ValueError, match="two domains have the name 'night'"):
        parse_domains(["streets:night", "night=streets:rain"])


def test_train_then_evaluate(tiny_config, tmp_path):
    tiny_config().to_json_file(tmp_path / "tiny.json")
    domains = ["streets:night?n=2&size=64x128", "rain=streets:rain?n=2&size=64x128@validation"]
    trained = commands.start(
        "train", "--model", tmp_path / "tiny.json", "--tune", "full", "--train", "streets:game?n=4&size=64x128",
        "--domains", *domains, "--crop_size", 64, 64, "--size", 64, 128, "--max_steps", 3, "--logging_steps", 1,
        "--rare_class_sampling", "false", "--output_dir", tmp_path / "run", "--use_cpu",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert "img/s" in trained.stderr and "encoder lr" in trained.stderr
    assert re.search(r"\nnight +IoU coarse .*\nroad .*\n(.*\n)+rain +IoU coarse ", trained.stdout), trained.stdout
    assert f"the model is in {tmp_path / 'run'}; next:" in trained.stdout and "vfmseg merge" not in trained.stdout
    assert f"vfmseg evaluate --model {tmp_path / 'run'} --data '{domains[0]}'" in trained.stdout
    scores = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    expected = (scores["eval_night_mean_iou"] + scores["eval_rain_mean_iou"]) / 2
    assert scores["eval_mean_iou"] == pytest.approx(expected)

    evaluated = commands.start(
        "evaluate", "--model", tmp_path / "run", "--output", tmp_path / "scores.json", "--data", *domains
    )
    assert evaluated.returncode == 0, evaluated.stderr
    result = json.loads((tmp_path / "scores.json").read_text())
    assert result["domains"]["night"]["split"] == "validation", "held out in training and here"
    for name in ("night", "rain"):
        assert result["domains"][name]["final"]["mean_iou"] == pytest.approx(scores[f"eval_{name}_mean_iou"])
        assert result["domains"][name]["coarse"]["mean_iou"] == pytest.approx(scores[f"eval_{name}_coarse_mean_iou"])
    assert result["protocol"]["confidence_threshold"] == 0.968 and "mean " in evaluated.stdout
    assert "streets:night?n=2&size=64x128@validation" in evaluated.stdout and "Protocol default" in evaluated.stdout


@pytest.fixture
def saved_model(tiny_model, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    VFMSegImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def evaluate(*arguments: object) -> str | None:
    """The command in this process; what it says if it fails."""
    return commands.error_of("evaluate", *arguments)


def test_two_processes_give_the_same_scores(saved_model, tmp_path, monkeypatch, capsys):
    arguments = ["--model", saved_model, "--flip", "--data"]
    arguments += ["night=streets:night?n=3&size=64x128", "streets:rain?n=2&size=64x128"]
    assert evaluate(*arguments, "--output", tmp_path / "one.json", "--batch_size", 2) is None
    words = ["evaluate", *arguments, "--output", tmp_path / "two.json", "--num_workers", 1]
    together = run_distributed(lambda: commands.call(*words), 2)
    assert together.returncode == 0, together.stderr
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert [(each["run"]["processes"], each["run"]["batch_size"]) for each in (one, two)] == [(1, 2), (2, 1)]
    for result in (one, two):
        del result["run"]
        for domain in result["domains"].values():
            assert domain.pop("images_per_second") > 0
    assert one == two and one["protocol"]["flip"] is True
    table = capsys.readouterr().out.splitlines()[-7:]
    assert [line.split()[:5] for line in together.stdout.splitlines()[-7:]] == [line.split()[:5] for line in table]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_scores_in_another_dtype_say_so(saved_model, tmp_path, monkeypatch, capsys, dtype):
    scored = ["--data", "streets:night?n=1&size=64x128@test", "--output", tmp_path / "scores.json"]
    assert evaluate("--model", saved_model, *scored, "--dtype", dtype) is None
    assert json.loads((tmp_path / "scores.json").read_text())["protocol"]["dtype"] == dtype


def test_modes_and_protocols(saved_model, tmp_path, monkeypatch, capsys):
    for protocol, refine, resize, refined in (("native", "none", None, 0), ("1024x512", "all", False, 1)):
        assert evaluate(
            "--model", saved_model, "--data", "streets:night?n=1&size=64x128@test", "--protocol", protocol,
            "--refine", refine, "--output", tmp_path / "scores.json",
        ) is None  # fmt: skip
        result = json.loads((tmp_path / "scores.json").read_text())
        assert result["protocol"]["name"] == protocol and result["protocol"]["refine"] == refine
        assert resize is result["protocol"]["resize"] or resize is result["protocol"]["resize"]["antialias"]
        assert result["domains"]["test"]["refined"] == refined and result["domains"]["test"]["split"] == "test"


def test_finished_domains_are_kept(saved_model, tmp_path, monkeypatch, capsys):
    """The second domain turns out to have no labelled pixel; a third that is missing ends the run before it starts."""
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
        pixels = np.zeros((64, 128, 3) if name == "photos" else (64, 128), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name / "a.png")
    blank = {"images": "photos", "labels": "masks", "classes": "cityscapes", "ids": {"road": 7}, "ignore": [0]}
    (tmp_path / "blank.json").write_text(json.dumps(blank))
    output, night = tmp_path / "scores.json", "streets:night?n=1&size=64x128"
    arguments = ["--model", saved_model, "--output", output, "--data", night, f"blank=folder:{tmp_path / 'blank.json'}"]
    status = evaluate(*arguments, "camvid:/no/such")
    assert "there is no /no/such" in status and not output.exists() and "night" not in capsys.readouterr().out
    assert "no pixel of the domain 'blank'" in evaluate(*arguments)
    result = json.loads(output.read_text())
    assert result["complete"] is False and list(result["domains"]) == ["night"]
    assert "road" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits(number, tiny_config, tmp_path):
    """With the status that a shell gives for the signal; a new run does not mix into the old one's checkpoints."""
    tiny_config().to_json_file(tmp_path / "tiny.json")
    words = [
        "--model", tmp_path / "tiny.json", "--tune", "full", "--train", "streets:game?n=4&size=64x128", "--use_cpu",
        "--crop_size", 64, 64, "--rare_class_sampling", "false", "--output_dir", tmp_path / "run", "--save_steps", 2,
    ]  # fmt: skip
    process = commands.launch("train", *words)
    while not (tmp_path / "run" / "checkpoint-2").exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(number)
    done = process.wait()
    output = done.stdout + done.stderr
    assert done.returncode == 128 + number, output
    (step,) = map(int, re.findall(rf"{number.name}: saving a checkpoint at step (\d+)", output))
    assert f"checkpoint-{step} is saved, the same command with --resume goes on from there" in output
    checkpoint = tmp_path / "run" / f"checkpoint-{step}"
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == step
    assert json.loads((checkpoint / "recipe.json").read_text())["settings"]["augmentation"]["crop_size"] == [64, 64]
    again = commands.start("train", *words)
    assert again.returncode == 2 and f"holds checkpoint-{step} of an earlier run; add --resume" in again.stderr
    resumed = commands.start("train", *words, "--resume", "--max_steps", step + 1)
    assert resumed.returncode == 0 and f"checkpoint-{step}" in resumed.stdout, resumed.stderr
    assert "recipe paper, but training.max_steps" in resumed.stdout


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_image_is_named_in_one_line(saved_model, tmp_path, monkeypatch, num_workers):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "b.png").write_bytes(b"no image")
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.zeros((64, 128), dtype=np.uint8)).save(tmp_path / "masks" / "b.png")
    meaning = {"images": "photos", "labels": "masks", "classes": "cityscapes", "ids": {"road": 0}}
    (tmp_path / "dataset.json").write_text(json.dumps(meaning))
    spec = f"folder:{tmp_path / 'dataset.json'}"
    status = evaluate("--model", saved_model, "--data", spec, "--num_workers", num_workers)
    assert "\n" not in status and "Cannot read the image" in status and "photos/b.png" in status


def test_errors_are_one_line(tiny_config, tmp_path):
    tiny_config().to_json_file(tmp_path / "tiny.json")
    words = ["--model", tmp_path / "tiny.json", "--train", "camvid:/no/such", "--output_dir", tmp_path]
    result = commands.start("train", *words)
    assert result.returncode == 2 and "error: there is no /no/such" in result.stderr
    assert "Traceback" not in result.stderr
    result = commands.start(
        "train", "--model", tmp_path / "tiny.json", "--train", "streets:game?n=2&size=64x128",
        "--crop_size", 64, 64, "--rare_class_sampling", "false", "--use_cpu", "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert result.returncode == 2 and "gives random weights, which are in no file" in result.stderr
    assert "Traceback" not in result.stderr
