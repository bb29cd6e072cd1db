"""Learning rates: how they are chosen, and that what was committed stays as it was."""

import json
from dataclasses import replace

import pytest

from tests.reproduce.test_plan import make_plan
from vfmseg_hf.reproduce.choice import choose, commit, digest, read_committed, trial_result
from vfmseg_hf.reproduce.runs import Outcome


NAN = "the loss is nan at step 3 on a.png. Look at these files and lower the learning rates; ..."


def rate_of(trials: dict) -> object:
    return choose({"row": trials})["row"]["learning_rate"]


def test_the_best_rate_of_every_row():
    chosen = choose({"one": {1e-4: 0.2, 1e-3: 0.3}, "two": {1e-4: 0.5, 1e-3: 0.4}})
    assert {row: about["learning_rate"] for row, about in chosen.items()} == {"one": 1e-3, "two": 1e-4}
    assert chosen["one"]["trials"] == {"0.0001": 0.2, "0.001": 0.3} and chosen["one"]["reason"] is None


def test_a_rate_that_diverges_has_lost():
    assert rate_of({1e-4: 0.2, 1e-3: NAN}) == 1e-4
    row = choose({"row": {1e-4: NAN, 1e-3: NAN}})["row"]
    assert row["learning_rate"] is None and row["reason"] == "every rate diverged"


def test_no_rate_wins_for_want_of_a_rival():
    row = choose({"row": {1e-4: 0.2, 1e-3: "the disk is full"}})["row"]
    assert row["learning_rate"] is None and row["reason"] == "the trial of rate 0.001 failed: the disk is full"


def test_one_rate_is_not_tried():
    assert rate_of({1e-4: None}) == 1e-4


def test_what_a_trial_comes_to():
    finished, failed = Outcome("finished"), Outcome("failed", "no space")
    assert trial_result(finished, finished, {"source": {"final": {"mean_iou": 0.25}}}) == 0.25
    assert trial_result(failed, None, None) == trial_result(finished, failed, None) == "no space"


@pytest.fixture
def committed(tmp_path):
    plan = make_plan()
    rows = choose({row.name: {1e-4: 0.1, 3e-4: 0.3, 1e-3: 0.2} for row in plan.rows})
    return plan, tmp_path / "settings.json", commit(tmp_path / "settings.json", plan, plan.settings[0], rows, None)


def test_what_is_committed_is_read_again(committed):
    plan, path, content = committed
    assert read_committed(path, plan, plan.settings[0]) == content == json.loads(path.read_text())
    assert content["sha256"] == digest(content) and content["rows"]["frozen"]["learning_rate"] == 3e-4
    assert read_committed(path.with_name("absent.json"), plan, plan.settings[0]) is None
    more = replace(plan, budget=replace(plan.budget, seeds=(0, 1, 2, 3), resolutions=()))
    assert read_committed(path, more, plan.settings[0]) == content, "more seeds change nothing of the choice"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"steps": 400}, "was committed for steps 200, not 400"),
        ({"learning_rates": (1e-4,)}, "was committed for learning_rates 0.0001 0.0003 0.001, not 0.0001"),
        ({"seeds": (1, 2)}, "was committed for first_seed 0, not 1"),
    ],
)
def test_it_is_for_what_it_was_chosen_for(change, message, committed):
    plan, path, _ = committed
    with pytest.raises(ValueError, match=message):
        read_committed(path, replace(plan, budget=replace(plan.budget, **change)), plan.settings[0])


@pytest.mark.parametrize("text", ['"learning_rate": 0.001', "}", ""])
def test_it_cannot_be_changed(text, committed):
    plan, path, _ = committed
    path.write_text(path.read_text().replace('"learning_rate": 0.0003', text) if text else "")
    with pytest.raises(ValueError, match="is not as it was committed: its sha256 does not fit"):
        read_committed(path, plan, plan.settings[0])


def test_rows_without_a_rate_get_theirs_later_and_others_stay(committed):
    plan, path, _ = committed
    broken = {row.name: {1e-4: 0.1, 1e-3: "killed"} for row in plan.rows[:1]}
    whole = {row.name: {1e-4: 0.1, 1e-3: 0.2} for row in plan.rows[1:]}
    first = commit(path, plan, plan.settings[0], choose({**broken, **whole}), None)
    assert first["rows"]["frozen"]["learning_rate"] is None and first["replaces"] is None
    again = choose({"frozen": {1e-4: 0.3, 1e-3: 0.2}, "vfmnet": {1e-4: 0.3, 1e-3: 0.2}})
    second = commit(path, plan, plan.settings[0], again, first)
    assert second["rows"]["frozen"]["learning_rate"] == 1e-4 and second["replaces"] == first["sha256"]
    assert second["rows"]["vfmnet"] == first["rows"]["vfmnet"], "its targets may have been read"
    assert "got theirs later" in second["what"] and second["sha256"] == digest(second)
    assert commit(path, plan, plan.settings[0], second["rows"], second) == second, "nothing new, nothing written"
