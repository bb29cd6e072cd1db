"""
The order of things, what is kept, what a failure costs: with commands that only write down what was asked of them, and
once with real trainings of a tiny model, in which no target may be opened too early.
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from tests.reproduce.test_plan import TABLE2, options
from tests.support.commands import environment_of_commands, fork_command
from tests.support.dataset_copies import camvid_tree, carla_tree
from tests.support.processes import Fork
from tests.support.tiny import BACKBONE
from vfmseg_hf.reproduce import SMALL, Plan, Setting, Stopped, processes, reproduce, reproduction, scenes
from vfmseg_hf.reproduce.costs import Costs
from vfmseg_hf.reproduce.runs import RunFolder


SIZE = "n=1&size=32x64"
SETTINGS = (
    Setting("one", "one", f"streets:game?{SIZE}@train", f"source=streets:game?{SIZE}@validation",
            (f"day=streets:day?{SIZE}@test", f"night=streets:night?{SIZE}@test")),
    Setting("two", "two", f"streets:day?{SIZE}@train", f"source=streets:day?{SIZE}@validation",
            (f"rain=streets:rain?{SIZE}@test",)),
)  # fmt: skip
BUDGET = replace(SMALL, steps=10, size=32, seeds=(0, 1), learning_rates=(1e-4, 1e-3), resolutions=(64,))
PLAN = Plan(TABLE2, SETTINGS, BUDGET, "/encoder", "e" * 64)


@dataclass(eq=False)
class Script:
    """
    Stands for the processes: a training leaves its folder, and scores are by row and rate.

    Attributes:
        fails: words of a command that fails, and what it says.
        calls: of all commands, in short.
        seen: the settings that were committed at each call.
    """

    output: Path
    fails: dict[tuple[str, ...], str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    seen: list[set[str]] = field(default_factory=list)

    def __call__(self, words: list[str], log: Path, environment: dict[str, str]) -> "Script":
        verb, told = words[0], options(words[1:])
        domains = [text.partition("=")[0] for text in told["data"].split()] if verb == "evaluate" else []
        folder = log.parent.relative_to(self.output)
        self.calls.append(" ".join([verb, str(folder), *domains]))
        self.seen.append({path.parent.name for path in self.output.glob("*/settings.json")})
        assert set(environment) == {"OMP_NUM_THREADS"}
        reason = next((said for asked, said in self.fails.items() if set(asked) <= {*self.calls[-1].split()}), None)
        self.returncode = 2 if reason else 0
        with open(log, "a") as file:
            file.write(f"working\nerror: {reason}\n" if reason else "done\n")
        if verb == "train" and not reason:
            Path(told["output"]).mkdir()
        elif not reason:
            _, row, rate, seed = folder.parts
            base = 0.2 + 0.1 * [each.name for each in TABLE2.rows].index(row) + 0.01 * int(seed[-1])
            score = base + (0.05 if rate == "rate=0.001" and row != "vfmnet" else 0)
            one = {"mean_iou": score, "iou": {"road": score}, "accuracy": {"road": score}}
            scores = {name: {"final": one, "coarse": one, "refined": 0.5} for name in domains}
            Path(told["output"]).write_text(json.dumps({"domains": scores}))
        return self

    def wait(self) -> None:
        pass

    def send_signal(self, number: int) -> None:
        pass


@pytest.fixture
def script(tmp_path, monkeypatch):
    script = Script(tmp_path / "out")
    monkeypatch.setattr(processes, "start_command", script)
    monkeypatch.setattr(reproduction, "measure_costs", lambda *_: Costs(1, 2, 3.0, 4.0))
    monkeypatch.setattr(reproduction, "keep_scenes", lambda *_: None)  # nobody here looks at them
    return script


def run(script: Script, plan: Plan = PLAN, **more) -> tuple[list[str], list[str]]:
    """What failed, and the lines that were said."""
    said: list[str] = []
    script.calls.clear()
    script.seen.clear()
    return reproduce(plan, script.output, say=said.append, **more), said


def test_trials_then_settings_then_targets(script, monkeypatch):
    monkeypatch.setattr(reproduction, "keep_scenes", scenes.keep_scenes)
    failures, said = run(script)
    assert not failures
    # Two settings with 4 rows: 2 trials and their scores each, then the second seed, targets and the other resolution.
    assert len(script.calls) == 2 * 4 * (2 + 2) + 2 * (4 * 1 + 4 * 2 + 2)
    for call, committed in zip(script.calls, script.seen, strict=True):
        _, place, *domains = call.split()
        setting = place.partition("/")[0]
        if setting == "two":
            assert "one" in committed, "the second setting reads what the first is scored on"
        if set(domains) & {"day", "night", "rain"}:
            assert committed == {"one", "two"}
    assert sum("two: rates" in line for line in said) == 1 and len(said) == 2 * 4 * 2 + 2 + 2 * 4 * 2
    settings = json.loads((script.output / "one" / "settings.json").read_text())
    assert {row: about["learning_rate"] for row, about in settings["rows"].items()} == {
        "frozen": 1e-3, "vfmnet": 1e-4, "mgrnet": 1e-3, "masking": 1e-3
    }  # fmt: skip
    results = json.loads((script.output / "results.json").read_text())
    assert results["settings"]["one"]["scores"]["mgrnet"]["1"]["night"]["final"]["mean_iou"] == pytest.approx(0.46)
    assert results["settings"]["two"]["resolutions"]["64"]["0"]["rain"]["refined"] == 0.5
    assert results["settings"]["one"]["image_sizes"] == {"day": [64, 32], "night": [64, 32]}
    assert results["plan"]["encoder_sha256"] == "e" * 64 and "torch" in results["versions"]
    table = (script.output / "table.md").read_text()
    assert "## one" in table and "## two" in table and "| + MGRNet | 45.50 ± 0.71 |" in table


def test_finished_runs_are_kept_and_more_seeds_are_added(script):
    run(script)
    first = (script.output / "one" / "settings.json").read_bytes()
    assert run(script) == ([], []) and script.calls == [], "nothing is made again"
    failures, _ = run(script, replace(PLAN, budget=replace(BUDGET, seeds=(0, 1, 2))))
    assert not failures and len(script.calls) == 2 * (4 + 4 + 1) and all("seed=2" in call for call in script.calls)
    assert (script.output / "one" / "settings.json").read_bytes() == first


def test_a_moved_folder_is_known_again(script, tmp_path):
    run(script)
    script.output = script.output.rename(tmp_path / "moved")
    assert run(script) == ([], []) and script.calls == []


def test_other_arguments_are_refused_before_anything_runs(script):
    run(script)
    (script.output / "one" / "settings.json").unlink()
    (script.output / "two" / "settings.json").unlink()
    for plan, message in (
        (replace(PLAN, dtype="bfloat16"), "holds a run with --dtype float32, not --dtype bfloat16; give the arguments"),
        (replace(PLAN, encoder_sha256="f" * 64), "holds a run with the encoder eeeeeeeeeeee, not ffffffffffff"),
    ):
        with pytest.raises(ValueError, match=message):
            run(script, plan)
        assert script.calls == []


def test_a_failed_row_is_recorded_and_costs_no_other(script):
    script.fails = {("train", "one/mgrnet/rate=0.001/seed=1"): "the disk is full"}
    failures, said = run(script)
    assert failures == ["one, + MGRNet, rate 0.001, seed 1, train: the disk is full"]
    assert "one, + MGRNet, rate 0.001, seed 1: failed: the disk is full" in said
    table = (script.output / "table.md").read_text()
    assert "### Failed\n\n- one, + MGRNet, rate 0.001, seed 1, train: the disk is full" in table
    assert "| + MGRNet | 45.00 (n = 1) |" in table and "| + feature masking | 55.50 ± 0.71 |" in table
    script.fails = {}
    assert run(script)[0] == []
    assert [call.split()[:2] for call in script.calls] == [
        ["train", "one/mgrnet/rate=0.001/seed=1"], ["evaluate", "one/mgrnet/rate=0.001/seed=1"]
    ], "what has failed is made again, and nothing else"  # fmt: skip


def test_a_row_whose_trial_failed_gets_its_rate_later(script):
    script.fails = {("train", "one/vfmnet/rate=0.0001/seed=0"): "no memory"}
    failures, _ = run(script)
    assert failures == ["one, + VFMNet: no learning rate: the trial of rate 0.0001 failed: no memory"]
    assert not any("one/vfmnet" in call and "day" in call for call in script.calls)
    first = json.loads((script.output / "one" / "settings.json").read_text())
    script.fails = {}
    assert run(script)[0] == []
    second = json.loads((script.output / "one" / "settings.json").read_text())
    assert second["replaces"] == first["sha256"] and second["rows"]["vfmnet"]["learning_rate"] == 1e-4


def test_a_rate_that_diverges_loses(script):
    script.fails = {("train", "one/frozen/rate=0.001/seed=0"): "the loss is nan at step 3 on a.png"}
    failures, _ = run(script)
    assert failures == []
    settings = json.loads((script.output / "one" / "settings.json").read_text())
    assert settings["rows"]["frozen"]["learning_rate"] == 1e-4
    assert "| failed | 0.0001 |" in (script.output / "table.md").read_text()


def test_a_target_that_cannot_be_read_costs_no_other(script):
    script.fails = {("evaluate", "night"): "night.png cannot be read"}
    failures, _ = run(script)
    assert len(failures) == 8 + 2 and all(line.endswith("night: night.png cannot be read") for line in failures)
    table = (script.output / "table.md").read_text()
    assert "|  | day | mean |" not in table and "|  | day |\n" in table and "| + MGRNet | 45.50 ± 0.71 |" in table
    script.fails = {}
    assert run(script)[0] == [] and "|  | day | night | mean |" in (script.output / "table.md").read_text()


def test_costs_that_cannot_be_had_cost_no_score(script, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such\noperator")

    monkeypatch.setattr(reproduction, "measure_costs", fail)
    failures, _ = run(script)
    assert len(failures) == 8 and failures[0].endswith("costs: RuntimeError: no such operator")


def test_one_rate_takes_no_trial(script):
    settings = tuple(replace(setting, validation=None) for setting in SETTINGS)
    plan = replace(PLAN, settings=settings, budget=replace(BUDGET, learning_rates=(1e-3,), resolutions=()))
    assert run(script, plan)[0] == [] and len(script.calls) == 2 * 4 * 2 * 2
    assert plan.number_of_runs == 16 and "source at" not in (script.output / "table.md").read_text()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"targets": (f"source=streets:day?{SIZE}@test",)}, "no target can be named 'source'"),
        ({"targets": ("day=streets:day@tset",)}, "streets:day has no split 'tset', only train, validation, test"),
        ({"targets": ("a=streets:day", "a=streets:rain")}, "two domains have the name 'a'"),
        ({"source": "camvid:/no/such/folder@source_train"}, "No folder /no/such/folder"),
        ({"validation": "source=streets:gmae@validation"}, "streets has no domain 'gmae'"),
    ],
)
def test_paths_are_checked_before_the_first_run(change, message, script):
    with pytest.raises((ValueError, OSError), match=message):
        run(script, replace(PLAN, settings=(SETTINGS[0], replace(SETTINGS[1], **change))))
    assert script.calls == [] and not script.output.exists()


def run_folder(script: Script) -> RunFolder:
    return RunFolder(script.output, PLAN.trials(SETTINGS[0])[0], PLAN)


def test_what_failed_before_any_checkpoint_may_be_asked_for_otherwise(script):
    script.fails = {("train",): "device cuda:7 is not available"}
    plan = replace(PLAN, device="cuda:7")
    run(script, plan)
    script.fails = {}
    assert run(script)[0] == []
    with pytest.raises(ValueError, match="holds a run with --device auto, not --device cuda:7"):
        run(script, plan)


def test_processes_that_read_images_are_no_other_run(script):
    run(script, replace(PLAN, num_workers=2))
    assert run(script) == ([], []) and script.calls == []


def test_failures_of_what_is_not_asked_for_any_more_are_none(script):
    run(script)
    folder = script.output / "one" / "masking" / "rate=0.001" / "seed=1" / "run.json"
    record = json.loads(folder.read_text())
    record["targets_96"] = {**record["train"], "status": "failed", "reason": "no memory"}
    folder.write_text(json.dumps(record))
    assert run(script)[0] == []


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_the_time_before_a_checkpoint_counts(status, script):
    """Whatever ended the run; of one whose parent died it is read from its log."""
    script.fails = {("train",): "killed"}
    run(script)
    folder = run_folder(script)
    (folder.model / "checkpoint-5").mkdir(parents=True)
    record = folder.steps()
    record["train"] |= {"status": status, "seconds": 3600.0, "started": time.time() - 500}
    (folder.path / "run.json").write_text(json.dumps(record))
    script.fails = {}

    def go_on(words, log, environment):
        if words[0] == "train" and Path(options(words[1:])["output"]).is_dir():
            shutil.rmtree(options(words[1:])["output"])
        return script(words, log, environment)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "start_command", go_on)
        run(script)
    assert 4090 < folder.outcome("train").seconds < 4130


def test_another_configuration_is_another_run(script):
    row = replace(TABLE2.rows[0], looks="alone", config='{"model_type": "segformer"}')
    plan = replace(PLAN, table=replace(TABLE2, rows=(row,)))
    run(script, plan)
    changed = replace(plan, table=replace(TABLE2, rows=(replace(row, config='{"model_type": "upernet"}'),)))
    with pytest.raises(ValueError, match="was committed for rows"):
        run(script, changed)
    for settings in script.output.glob("*/settings.json"):
        settings.unlink()
    with pytest.raises(ValueError, match="segformer|frozen-[0-9a-f]{8}.json"):
        run(script, changed)


def test_two_at_once_are_refused(script):
    script.output.mkdir()
    with reproduction.locked(script.output), pytest.raises(ValueError, match="another process is at work in"):
        run(script)
    assert run(script)[0] == []


def test_threads_are_those_that_the_runs_have(script, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    run(script)
    record = json.loads((script.output / "results.json").read_text())["settings"]["one"]
    assert record["threads_of_a_training"] == [3] and "torch" in record["made_by"][0]
    assert "seconds of a training, 3 threads" in (script.output / "table.md").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_goes_to_the_running_process_and_nothing_new_starts(number, script, tmp_path, monkeypatch):
    started, ready = [], tmp_path / "ready"

    def sleep():
        signal.signal(number, signal.SIG_DFL)
        ready.touch()
        time.sleep(60)

    def interrupt():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    def start(words, log, environment):
        started.append(Fork(sleep))
        threading.Thread(target=interrupt).start()
        return started[-1]

    monkeypatch.setattr(processes, "start_command", start)
    with pytest.raises(Stopped, match=f"stopped by {number.name}") as stopped:
        run(script)
    assert stopped.value.status == 128 + number and len(started) == 1 and started[0].returncode == -number
    record = json.loads((script.output / "one" / "frozen" / "rate=0.0001" / "seed=0" / "run.json").read_text())
    assert record["train"]["status"] == "stopped" and record["train"]["seconds"] > 0
    monkeypatch.setattr(processes, "start_command", script)
    assert run(script)[0] == [] and script.calls[0] == "train one/frozen/rate=0.0001/seed=0", "the same call goes on"


def test_a_process_of_its_own(tmp_path):
    (tmp_path / "log").write_text("before\n")
    process = processes.start_command(["--version"], tmp_path / "log", environment_of_commands())
    process.wait()
    assert process.returncode == 0 and (tmp_path / "log").read_text().startswith("before\nvfmseg ")


# --- real trainings of a tiny model -------------------------------------------------------------------------------


@pytest.fixture
def encoder(tmp_path) -> Path:
    """A foundation model in a folder."""
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(**{key: value for key, value in BACKBONE.items() if key != "model_type"})).save_pretrained(
        tmp_path / "encoder"
    )
    return tmp_path / "encoder"


def test_no_target_is_opened_before_the_rates_are_committed(encoder, tmp_path, monkeypatch):
    """Whoever opens a file of a target too early gets an error, in this process and in all that it starts."""
    camvid, carla = camvid_tree(tmp_path / "camvid"), carla_tree(tmp_path / "carla")
    output = tmp_path / "out"
    targets = [carla.folder / "images_rainy", carla.folder / "labels"]
    targets += [camvid.folder / "train" / kind / "0001TP" for kind in ("images", "labels")]
    setting = Setting(
        "tiny", "tiny", f"camvid:{camvid.folder}@source_train", f"source=camvid:{camvid.folder}@source_val",
        (f"dusk=camvid:{camvid.folder}@target_dusk", f"rain=carla:{carla.folder}@rainy"), ("--resize", "64", "96"),
    )  # fmt: skip
    budget = replace(SMALL, steps=1, batch_size=1, size=64, seeds=(0,), resolutions=(), max_images=1)
    budget = replace(budget, learning_rates=(1e-4, 1e-3))
    plan = Plan(replace(TABLE2, rows=TABLE2.rows[3:]), (setting,), budget, str(encoder), "e" * 64, device="cpu")

    def watch(event: str, arguments: tuple) -> None:
        if event == "open" and str(arguments[0]).startswith(tuple(map(str, targets))):
            with open(tmp_path / "opened.txt", "a") as file:
                file.write(f"{arguments[0]}\n")
            if not (output / "tiny" / "settings.json").is_file():
                raise PermissionError(f"{arguments[0]} is opened too early")

    def reproduce_watched() -> int:
        sys.addaudithook(watch)  # cannot be taken off again, so in a process of its own
        try:
            open(carla.folder / "labels" / "Town01_3.png", "rb")
        except PermissionError:
            (tmp_path / "opened.txt").unlink()
        return len(reproduce(plan, output))

    monkeypatch.setattr(processes, "start_command", fork_command)
    done = Fork(reproduce_watched).wait()
    assert done.returncode == 0, done.stderr + "".join(log.read_text() for log in output.rglob("*.log"))
    opened = (tmp_path / "opened.txt").read_text()
    assert "0001TP_006690.jpg" in opened and "images_rainy" in opened, "they are opened in the end"
    table = (output / "table.md").read_text()
    assert "### Failed" not in table and "| + feature masking |" in table
