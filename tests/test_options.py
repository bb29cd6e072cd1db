"""What a command refuses before it loads a model or reads a corpus: neither of them is there in these tests."""

import runpy
import sys

import pytest
from conftest import REPOSITORY


@pytest.fixture
def refusal(tmp_path, monkeypatch, capsys):
    """Runs a script that has to fail at once; what it says, in one line. `FILE` and `DIR` stand for what is there."""
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "directory.png").mkdir()

    def run(script: str, *arguments: str) -> str:
        there = {"FILE": str(tmp_path / "file"), "DIR": str(tmp_path / "directory.png"), "NEW": str(tmp_path / "new")}
        for word, path in there.items():
            arguments = [argument.replace(word, path) for argument in arguments]
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(REPOSITORY / "scripts" / script), run_name="__main__")
        assert stop.value.code not in (0, None)
        said = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err.strip()
        assert "Traceback" not in said
        return said.splitlines()[-1]

    return run


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("--batch_size", "0"), "--batch_size must be 1 or more, got 0"),
        (("--num_workers", "-1"), "--num_workers must be 0 or more, got -1"),
        (("--output", "DIR"), "is a folder; name a file"),
        (("--output", "FILE/scores.json"), "file is a file, not a folder"),
    ],
)
def test_evaluate(arguments, expected, refusal):
    assert expected in refusal("evaluate.py", "--model", "/absent", "--data", "folder:/absent", *arguments)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("--batch_size", "0"), "--batch_size: expected a whole number from 1 up, got '0'"),
        (("--num_workers", "-1"), "--num_workers: expected a whole number from 0 up, got '-1'"),
        (("--num_workers", "two"), "--num_workers: expected a whole number from 0 up, got 'two'"),
        (("--output", "FILE"), "file is a file, not a folder"),
    ],
)
def test_predict(arguments, expected, refusal):
    assert expected in refusal("predict.py", "/absent", "/absent.png", "--output", "NEW", *arguments)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("--num_proc", "0"), "--num_proc: expected a whole number from 1 up, got '0'"),
        (("--json", "DIR"), "is a folder; name a file"),
        (("--json", "FILE/report.json"), "file is a file, not a folder"),
        (("--chart", "DIR"), "is a folder; name a file"),
    ],
)
def test_check_corpus(arguments, expected, refusal):
    assert expected in refusal("check_corpus.py", "folder:/absent", *arguments)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("--per_device_train_batch_size", "0"), "--per_device_train_batch_size must be 1 or more, got 0"),
        (("--per_device_eval_batch_size", "-1"), "--per_device_eval_batch_size must be 1 or more, got -1"),
        (("--gradient_accumulation_steps", "0"), "--gradient_accumulation_steps must be 1 or more"),
        (("--dataloader_num_workers", "-1"), "--dataloader_num_workers must be 0 or more"),
        (("--seed", "-1"), "--seed must be 0 or more"),
        (("--output_dir", "FILE"), "file is a file, not a folder"),
        (("--resume_from_checkpoint", "/absent"), "there is no checkpoint '/absent'; --resume goes on"),
        (
            ("--size", "512", "256"),
            "--size takes SHORTEST LONGEST, e.g. 1024 2048, or the shortest edge alone; got 512",
        ),
        (("--size", "512", "512", "512"), "--size takes SHORTEST LONGEST"),
        (("--size", "0"), "--size takes SHORTEST LONGEST"),
        (("--crop_size", "64", "64", "64"), "crop_size takes HEIGHT WIDTH or one number"),
        (("--crop_size", "100"), "multiples of 32, got (100, 100); the nearest is (96, 96)"),
        (("--resize", "1", "2", "3"), "resize takes HEIGHT WIDTH"),
        (("--scale_range", "2.0", "0.5"), "scale_range must be (lowest, highest)"),
        (("--size", "512", "--crop_size", "64", "--resize", "96", "--scale_range", "1.5"), "/absent"),
    ],
)
def test_train(arguments, expected, refusal):
    usual = ("--model", "/absent", "--train", "cityscapes:/absent", "--output_dir", "NEW", "--use_cpu")
    assert expected in refusal("train.py", *usual, *arguments)


@pytest.mark.parametrize(
    "script, arguments, expected",
    [
        ("quickstart.py", ("--output", "FILE"), "file is a file, not a folder"),
        ("quickstart.py", ("--output", "NEW", "--seed", "-1"), "--seed: expected a whole number from 0 up, got '-1'"),
        ("benchmark.py", ("mean-iou", "--output", "FILE"), "file is a file, not a folder"),
        ("ablate.py", ("--jobs", "0"), "--jobs: expected a whole number from 1 up, got '0'"),
        ("ablate.py", ("--output_dir", "FILE/runs"), "file is a file, not a folder"),
        ("convert_official.py", ("FILE", "NEW", "--backbone", "sam", "--config", "FILE"), "file' must hold an object"),
    ],
)
def test_other_commands(script, arguments, expected, refusal):
    if script == "ablate.py":
        arguments = ("--output_dir", "NEW", "--vary", "photometric", *arguments, "--", "--train", "a", "--domains", "b")
    assert expected in refusal(script, *arguments)
