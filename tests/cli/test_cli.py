"""`vfmseg`: the table of all options, what is said without torch, and which words mean the same."""

import json
import subprocess
import sys
import time

import pytest

import vfmseg_cli
from tests.support import REPOSITORY, commands
from vfmseg_hf.cli import table


QUICK = 20.0  # seconds, on a machine that is busy with other tests; 0.2 on an idle one
HEAVY = ("torch", "transformers", "numpy", "vfmseg_hf")
WATCHED = (
    "import sys, vfmseg_cli; status = vfmseg_cli.main(sys.argv[1:]); "
    f"print('imported:', [name for name in {HEAVY} if name in sys.modules], 'status:', status)"
)


def light(*words: object) -> tuple[int, str]:
    """The command in a process of its own, which must not import what is heavy: its status, and what it says."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *map(str, words)],
        capture_output=True,
        text=True,
        env=commands.environment_of_commands(),
    )
    *said, watched = done.stdout.splitlines()
    assert watched.startswith("imported: [] status: "), done.stdout + done.stderr
    assert time.monotonic() - start < QUICK
    return int(watched.rpartition(" ")[2]), "\n".join(said) + done.stderr


def test_the_table_is_that_of_the_parsers():
    assert table.PATH.read_text(encoding="utf-8") == table.write_table(), "run python -m vfmseg_hf.cli.table"


def test_every_option_of_a_group_is_there_and_the_first_are_few():
    for verb, module in table.VERBS.items():
        first, *_ = table.describe(module)["groups"]
        assert len({option["dest"] for option in first["options"]}) <= 10, verb


def test_the_same_words_mean_the_same_things():
    """All that take a model, data, an output, a device, a number format or a size call them so."""
    verbs = json.loads(table.PATH.read_text())["verbs"]
    flags = {verb: {flag for group in about["groups"] for option in group["options"] for flag in option["flags"]}
             for verb, about in verbs.items()}  # fmt: skip
    figures = {"reproduce figure4", "reproduce figure5"}
    for word, taken_by in {
        "--model": {"train", "evaluate", "predict", "check", "reproduce"},
        "--data": {"train", "evaluate", "check", "reproduce"},
        "--output": {"train", "evaluate", "predict", "quickstart", "reproduce", *figures},
        "--device": {"train", "evaluate", "predict", "reproduce", *figures},
        "--dtype": {"train", "evaluate", "predict", "reproduce"},
        "--size": {"train", "evaluate", "predict", "reproduce"},
        "--revision": {"evaluate", "predict", "merge"},
        "--backbone_name_or_path": {"train", "evaluate", "predict", "merge"},
        "--max-windows": {"train", "evaluate", "predict", "reproduce figure4"},
        "--max_window_share": {"train", "evaluate", "predict"},
    }.items():
        assert {verb for verb in flags if word in flags[verb]} == taken_by, word
    assert {"--train", "--domains", "--output_dir"} <= flags["train"], "earlier spellings"


def test_help_of_everything():
    status, said = light()
    assert status == 0 and all(f"\n  {verb} " in said for verb in table.VERBS) and light("--help") == (0, said)
    status, said = light("--version")
    assert status == 0 and said == f"vfmseg {table.make_table()['version']}"


@pytest.mark.parametrize("verb", table.VERBS)
def test_help_of_a_verb(verb):
    status, said = light(verb, "--help")
    assert status == 0 and said.startswith(f"usage: vfmseg {verb} ")
    assert "==SUPPRESS==" not in said and "--train " not in said and "--no_photometric" not in said


def test_help_of_transformers_options_on_demand():
    (_, few), (status, all_of_them) = light("train", "--help"), light("train", "--help-all")
    assert "--gradient_checkpointing " not in few and "--help-all" in few
    assert status == 0 and "--gradient_checkpointing " in all_of_them and "--data " in all_of_them


@pytest.mark.parametrize(
    "words, expected",
    [
        (["trian"], "there is no verb 'trian'; did you mean train?"),
        (["train", "--modle", "x"], "there is no option --modle; did you mean --model?"),
        (["train", "--learning", "1"], "there is no option --learning"),
        (["train", "--feature_mask_ration", "0"], "there is no option --feature_mask_ration; did you mean --feature_"),
        (["train", "--feature-mask-ratio", "much"], "--feature_mask_ratio: invalid float value: 'much'"),
        (["train", "--coarse_mode", "half"], "--coarse_mode: invalid choice: 'half'"),
        (["train", "--num-labels", "3"], "there is no option --num-labels: the classes are those of the training set"),
        (["train", "--tune", "nothing"], "--tune: invalid choice: 'nothing'"),
        (["train", "--model"], "--model: expected one argument"),
        (["train", "--model", "dinov2-base"], "the following arguments are required: --data"),
        (["train", "--model", "dinov2-bse", "--data", "streets:game", "--output", "NEW"], "did you mean dinov2-base?"),
        (["train", "--model", "x.json", "--data", "streets:game", "--output", "NEW"], "there is no file x.json"),
        (["train", "--model", "sam-base", "--data", "streets:game", "--max_steps", "ten"], "--max_steps: invalid int"),
        (["train", "--model", "dinov2-base", "--data", "camvid:/no/such", "--output", "NEW"], "there is no /no/such"),
        (["train", "--model", "dinov2-base", "--data", "camvid", "--output", "NEW"],
         "does not say where camvid is: camvid:/path"),
        (["train", "--model", "dinov2-base", "--data", "camvid:DIR@target_dsk", "--output", "NEW"],
         "did you mean target_dusk?"),
        (["train", "--model", "dinov2-base", "--train", "streets:game", "--domains", "camvd:/x", "--output", "NEW"],
         "mean camvid?"),
        (["evaluate", "--model", "dinov2-base", "--data", "streets:night"], "a preset, which is to be trained first"),
        (["evaluate", "--model", "DIR/modl", "--data", "streets:night"], "did you mean DIR/model?"),
        (["evaluate", "--model", "DIR", "--data", "streets:night"], "holds no model"),
        (["evaluate", "--model", "user/name", "--data", "./absent"], "there is no ./absent"),
        (["evaluate", "--model", "DIR/file", "--data", "streets:night"], "is a file; models are folders"),
        (["evaluate", "--model", "user/name", "--data", "DIR/file"], "is a file, and no dataset; own data are"),
        (["check", "DIR/own.yaml"], "and no dataset; write folder:DIR/own.yaml"),
        (["predict", "user/name", "--output", "NEW"], "--model is missing"),
        (["predict", "user/name", "absent.png", "--output", "NEW"], "no such file or folder: absent.png"),
        (["predict", "--model", "user/name", "DIR", "--output", "DIR/file/x"], "file is a file, not a folder"),
        (["check", "streets:game", "--chart", "x.jpg"], "ends with .png"),
        (["merge", "user/name", "DIR"], "exists and is not empty"),
        (["fetch-encoder", "dinov2-smal", "NEW"], "'dinov2-smal' is no directory; did you mean dinov2-small?"),
        (["fetch-encoder", "dinov2-small", "DIR"], "exists and is not empty"),
        (["fetch-encoder", "DIR/file", "NEW"], "is a file; models are folders"),
        (["convert", "absent.pth", "NEW", "--backbone", "sam"], "there is no file absent.pth"),
        (["reproduce", "table9"], "invalid choice: 'table9' (choose from 'table1', 'table2',"),
        (["reproduce", "table2", "--seed", "1"], "there is no option --seed; did you mean --seeds?"),
        (["reproduce", "table2", "--model", "dinov2-smal"], "did you mean dinov2-small?"),
        (["reproduce", "table2", "--camvid", "DIR/absent"], "there is no folder DIR/absent, where --camvid should be"),
        (["reproduce", "table2", "--model", "sam-base", "--data", "camvd:/x", "--eval_data", "streets:day"],
         "mean camvid?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_at_once(words, expected, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "own.yaml").touch()
    (tmp_path / "model").mkdir()
    there = {"DIR": str(tmp_path), "NEW": str(tmp_path / "new")}
    for word, path in there.items():
        words = [text.replace(word, path) for text in words]
        expected = expected.replace(word, path)
    status, said = light(*words)
    assert status == 2 and said.startswith("error: ") and "\n" not in said.strip() and expected in said


def test_a_folder_of_this_place_is_no_hub_id(tmp_path, monkeypatch, capsys):
    """`runs/gtavv` may be both; where there is a folder `runs`, it is taken for a path, unless it is in the cache."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "gtav").mkdir(parents=True)
    assert commands.call("evaluate", "--model", "runs/gtavv", "--data", "streets:night") == 2
    assert "there is no directory 'runs/gtavv'; did you mean runs/gtav?" in capsys.readouterr().err
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "models--runs--gtavv").mkdir(parents=True)
    vfmseg_cli.judge_model("runs/gtavv", [], trains=False)


def test_python_m():
    done = subprocess.run(
        [sys.executable, "-m", "vfmseg_hf", "--version"],
        capture_output=True,
        text=True,
        env=commands.environment_of_commands(),
    )
    assert done.returncode == 0 and done.stdout.startswith("vfmseg "), done.stderr


def test_the_scripts_are_the_commands_of_a_checkout():
    """Without an installation, even of what the library depends on: -S hides all packages."""
    scripts = {"check_corpus": "check", "convert_official": "convert"}
    scripts |= {verb: verb for verb in ("train", "evaluate", "predict", "quickstart")}
    for script, verb in scripts.items():
        words = [sys.executable, "-S", str(REPOSITORY / "scripts" / f"{script}.py"), "--help"]
        done = subprocess.run(words, capture_output=True, text=True, env={})
        assert done.stdout.startswith(f"usage: vfmseg {verb} "), done.stderr
