"""What a command refuses before it loads a model or reads a dataset, in one line and with status 2."""

import pytest
import torch

from tests.support import commands
from tests.support.commands import error_of
from vfmseg_hf.data import open_dataset


@pytest.fixture
def refusal(tmp_path, capsys, tiny_config):
    """
    Runs a command that has to fail at once; what it says, in one line. `FILE`, `DIR`, `CONFIG` and `MODEL` stand for
    what is there, and `NEW` for what is not.
    """
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "directory.png").mkdir()
    (tmp_path / "model").mkdir()
    tiny_config().to_json_file(tmp_path / "tiny.json")
    tiny_config().to_json_file(tmp_path / "model" / "config.json")
    names = {"FILE": "file", "DIR": "directory.png", "NEW": "new", "CONFIG": "tiny.json", "MODEL": "model"}

    def run(verb: str, *arguments: str) -> str:
        for word, name in names.items():
            arguments = [argument.replace(word, str(tmp_path / name)) for argument in arguments]
        assert commands.call(verb, *arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        return line

    return run


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("--batch_size", "0"), "--batch_size: expected a whole number from 1 up, got '0'"),
        (("--num_workers", "-1"), "--num_workers: expected a whole number from 0 up, got '-1'"),
        (("--output", "DIR"), "is a folder; name a file"),
        (("--output", "FILE/scores.json"), "file is a file, not a folder"),
        (("--max_window_share", "1.5"), "--max_window_share: expected a share from 0 to 1, got '1.5'"),
        (("--max_windows", "0.5"), "--max_windows: expected a whole number from 0 up, got '0.5'"),
        (("--max_windows", "3", "--max_window_share", "1"), "both limit the windows"),
        (("--size", "512", "256"), "--size takes SHORTEST LONGEST"),
        (("--size", "512", "--protocol", "published"), "--size has no effect beside --protocol published"),
        (("--flip", "perhaps"), "--flip: expected true or false, got 'perhaps'"),
        (("--class_map", "/absent.yaml"), "there is no file /absent.yaml"),
    ],
)
def test_evaluate(arguments, expected, refusal):
    assert expected in refusal("evaluate", "--model", "MODEL", "--data", "streets:night", *arguments)


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
    assert expected in refusal("predict", "FILE", "--model", "MODEL", "--output", "NEW", *arguments)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("--num_proc", "0"), "--num_proc: expected a whole number from 1 up, got '0'"),
        (("--json", "DIR"), "is a folder; name a file"),
        (("--json", "FILE/report.json"), "file is a file, not a folder"),
        (("--chart", "DIR"), "is a folder; name a file"),
        (("--chart", "chart.jpg"), "--chart: expected a file whose name ends with .png, got 'chart.jpg'"),
        (("streets:night",), "name one dataset to check"),
        (("--class_map", "FILE"), "--model is missing"),
    ],
)
def test_check(arguments, expected, refusal):
    assert expected in refusal("check", "--data", "streets:game", *arguments)


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
        (("--device", "gpu"), "--device takes auto, cpu, cuda or cuda:N, got 'gpu'"),
        (("--dtype", "int8"), "--dtype: invalid choice: 'int8'"),
        (("--ema_decay", "2"), "ema_decay must lie between 0 and 1, such as 0.999, got 2.0"),
        (("--eval_strategy", "steps"), "--eval_strategy steps needs something to score: --eval_data DOMAIN"),
        (("--rare_class_sampling", "true", "--crop_size", "64"), "no crop of 64x64 pixels has more than 6000 of one"),
    ],
)
def test_train(arguments, expected, refusal):
    usual = (
        "--model",
        "CONFIG",
        "--tune",
        "full",
        "--data",
        "streets:game?n=2&size=64x128",
        "--output",
        "NEW",
        "--device",
        "cpu",
    )
    assert expected in refusal("train", *usual, *arguments)


@pytest.mark.parametrize(
    "verb, arguments, expected",
    [
        ("quickstart", ("--output", "FILE"), "file is a file, not a folder"),
        ("quickstart", ("--output", "NEW", "--seed", "-1"), "--seed: expected a whole number from 0 up, got '-1'"),
        ("reproduce", ("--jobs", "0"), "--jobs: expected a whole number from 1 up, got '0'"),
        ("reproduce", ("--output", "FILE/runs"), "file is a file, not a folder"),
        ("reproduce", ("--learning_rates", "1e-3", "-1"), "--learning_rates: expected a number above 0, got '-1'"),
        ("reproduce", ("--learning_rates", "1e-3", "0.001"), "--learning_rates has 0.001 twice; give it once"),
        ("reproduce", ("--size", "100"), "multiples of 32, got 100; the nearest is 96"),
        ("reproduce", ("--resolutions", "512", "40"), "multiples of 32, got 40; the nearest is 32"),
        ("reproduce", ("--camvid", "NEW"), "new, where --camvid should be"),
        ("reproduce", ("--eval_data", "streets:day"), "--eval_data goes with --data, which says what is trained on"),
        ("reproduce", ("--data", "streets:game"), "--data streets:game has no targets; name them: --eval_data"),
        (
            "reproduce",
            ("--data", "streets:game", "--eval_data", "streets:day", "--carla", "DIR"),
            "has no effect beside --data; write --eval_data carla:",
        ),
        (
            "reproduce",
            ("--data", "streets:game", "--eval_data", "streets:day", "--learning_rates", "1e-3", "1e-4"),
            "2 --learning_rates are chosen among on images of the source: name them with --val_data, or one rate",
        ),
        (
            "reproduce",
            ("--data", "streets:game", "--eval_data", "streets:day", "--val_data", "streets:game"),
            "--val_data streets:game is to choose a learning rate on, and there is one",
        ),
        (
            "reproduce",
            ("--data", "streets:game", "--eval_data", "streets:day"),
            "the paper's own setting needs --model, a foundation model; the paper's is dinov2-large",
        ),
        ("reproduce", ("--learning_rates", "1e-4", "1.0000001e-4"), "--learning_rates has 0.0001 twice; give it once"),
        ("reproduce", ("--resolutions", "256"), "--resolutions are beside the size 256, which is scored in any case"),
        ("reproduce", ("--model", "CONFIG"), "tiny.json has no weights; name a foundation model"),
        ("convert", ("FILE", "NEW", "--backbone", "sam", "--config", "FILE"), "file' must hold an object"),
        ("convert", ("FILE", "DIR/../model", "--backbone", "sam", "--raw"), "exists and is not empty"),
        ("convert", ("FILE", "NEW", "--backbone", "sam"), "--config is needed, except with --raw"),
        ("merge", ("MODEL", "MODEL"), "exists and is not empty"),
        ("merge", ("MODEL", "NEW"), "holds no adapter to merge"),
    ],
)
def test_other_commands(verb, arguments, expected, refusal):
    if verb == "reproduce":
        arguments = ("table2", *arguments)
    assert expected in refusal(verb, *arguments)


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_no_cpu(name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    words = ["--model", "dinov2-base", "--data", "streets:game", "--output", tmp_path / "run", "--device", name]
    assert error_of("train", *words) == (
        f"error: device {name} is not available; --device auto takes the GPU if there is one, cpu the CPU"
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_training_has_to_say_where_it_goes():
    said = error_of("train", "--model", "dinov2-base", "--data", "streets:game")
    assert said == "error: the following arguments are required: --output"


def test_a_folder_with_the_name_of_a_dataset(tmp_path):
    (tmp_path / "camvid" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"nothing says how it is laid out; is it camvid:{tmp_path}/camvid\?"):
        open_dataset(str(tmp_path / "camvid"))
