"""The table and its sentences, against numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from tests.reproduce.test_plan import TABLE2, make_plan
from vfmseg_hf.reproduce import SMALL, Setting
from vfmseg_hf.reproduce.costs import Costs
from vfmseg_hf.reproduce.table import Measured, conclusions, of_setting, paired, spread_of, write_table


SETTING = Setting("streets", "game → two", "streets:game", "source=streets:game", ("day=a", "dusk=b"))


def domain(final: float, coarse: float | None = None, refined: float | None = None, **classes) -> dict:
    stages = {"final": final, "coarse": final if coarse is None else coarse}
    iou = {name: value and value / 100 for name, value in classes.items() if name != "by_mistake"}
    # Nothing is labelled, but it was predicted: an IoU of 0, and no accuracy.
    iou |= dict.fromkeys(classes.get("by_mistake", ()), 0.0)
    accuracy = {name: 0.5 if value else None for name, value in iou.items()}
    scores = {stage: {"mean_iou": value / 100, "iou": iou, "accuracy": accuracy} for stage, value in stages.items()}
    return {**scores, "refined": refined}


# mIoU by row, of seeds 0 and 1: on day, on dusk.
FINAL = {"frozen": ((20, 22), (10, 12)), "vfmnet": ((30, 34), (12, 14)),
         "mgrnet": ((31, 33), (13, 15)), "masking": ((36, 40), (9, 15))}  # fmt: skip


@pytest.fixture
def measured():
    rows = {name: {"learning_rate": 3e-4, "reason": None, "trials": {"0.0001": 0.1, "0.0003": 0.2, "0.001": "nan"}}
            for name in FINAL}  # fmt: skip
    rows["masking"]["learning_rate"] = 1e-3
    result = Measured(SETTING, {"rows": rows}, sizes={"day": (1024, 512), "dusk": (480, 360)})
    for row, (day, dusk) in FINAL.items():
        two = {"coarse": 8, "refined": 0.5} if row in ("mgrnet", "masking") else {}
        result.scores[row] = {
            seed: {
                "day": domain(day[seed], **two, road=day[seed], train=None),
                "dusk": domain(dusk[seed], **two, road=dusk[seed]),
            }
            for seed in (0, 1)
        }
        result.seconds[row] = [100.0, 120.0]
        result.costs[row] = Costs(1000, 22_000_000, 10.0, 20.0 if two else 10.0)
    return result


@pytest.fixture
def plan():
    return make_plan(replace(SMALL, seeds=(0, 1)), (SETTING,))


def test_the_main_table(plan, measured):
    lines = list(of_setting(plan, measured))
    assert lines[0] == "|  | day | dusk | mean |"
    day, dusk = np.std([20, 22], ddof=1), np.std([10, 12], ddof=1)
    assert lines[2] == f"| frozen encoder + linear head | 21.00 ± {day:.2f} | 11.00 ± {dusk:.2f} | 16.00 ± 1.41 |"
    assert lines[5].startswith("| + feature masking | 38.00 ± 2.83 | 12.00 ± 4.24 | 25.00 ± 3.54 |")


def test_sentences(plan, measured):
    said = list(conclusions(plan, measured))
    # Means by seed: 15 17, 21 24, 22 24, 22.5 27.5.
    assert said[0] == (
        "The paper's order holds in the mean: 16.00 < 22.50 < 23.00 < 25.00; of 2 seeds, 1 by themselves have it."
    )
    assert said[1] == (
        "+ VFMNet against frozen encoder + linear head: +6.50 points in the mean (the paper: +10.27), more than the "
        "spread of the seeds (0.71)."
    )
    assert "+ MGRNet against + VFMNet: +0.50 points in the mean (the paper: +0.35), no difference beyond" in said[2]
    assert "(0.71)" in said[2] and "+2.00 points in the mean (the paper: +0.75), no difference beyond" in said[3]
    assert said[4] == (
        "Refinement, final against coarse of + feature masking, images fitted to 256: +30.00 on day and +4.00 on dusk."
    )
    assert said[5] == "+ feature masking: the rate 0.001 is the highest that was tried; one beyond may be better."
    assert len(said) == 6


def test_an_order_that_does_not_hold(plan, measured):
    measured.scores["mgrnet"], measured.scores["vfmnet"] = measured.scores["vfmnet"], measured.scores["mgrnet"]
    said = next(conclusions(plan, measured))
    assert said.startswith(
        "The paper's order does not hold in the mean: + MGRNet (22.50) is not above + VFMNet (23.00)"
    )
    assert said.endswith("of 2 seeds, 0 by themselves have it.")


def test_one_seed_tells_nothing_from_chance(plan, measured):
    for seeds in measured.scores.values():
        del seeds[1]
    text = "\n".join(of_setting(plan, measured))
    assert "with one seed, so that nothing tells it from chance" in text and "±" not in text


def test_classes_are_paired_over_the_targets_that_have_them(plan, measured):
    lines = list(of_setting(plan, measured))
    road = next(line for line in lines if line.startswith("| road |"))
    assert road.startswith("| road | all targets | +6.50 ± 0.71 | +0.50 ± 0.71 | +2.00 ± 2.12 |")
    assert not any(line.startswith("| train |") for line in lines), "a class that does not occur"


def test_a_class_counts_where_it_is_labelled(plan, measured):
    """One that a row predicts by mistake, on a target without it, changes nothing."""
    for row, seeds in measured.scores.items():
        for scores in seeds.values():
            mistaken = ["bus"] if row == "vfmnet" else []
            scores["dusk"] = domain(12, 8, 0.5, road=12, by_mistake=mistaken)
            scores["day"] = domain(30, 8, 0.5, road=30, bus=40)
    lines = list(of_setting(plan, measured))
    assert "| bus | day | +0.00 ± 0.00 | +0.00 ± 0.00 | +0.00 ± 0.00 |" in lines


def test_the_order_is_that_of_seeds_that_all_rows_have(plan, measured):
    del measured.scores["vfmnet"][1]
    lines = list(of_setting(plan, measured))
    assert any(line.startswith("| + VFMNet | 30.00 (n = 1) | 12.00 (n = 1) | 21.00 (n = 1) |") for line in lines)
    # Of seed 0 alone: 15, 21, 22, 22.5.
    assert "The paper's order holds in the mean: 15.00 < 21.00 < 22.00 < 22.50." in "\n".join(lines)
    measured.scores["vfmnet"] = {2: measured.scores["vfmnet"][0]}
    assert next(conclusions(plan, measured)).endswith("no seed has scores of all rows.")


def test_targets_without_a_name_are_named_as_their_scores_are(plan, measured):
    measured.setting = replace(SETTING, targets=("camvid:/data/c=1@day", "camvid:/data/c=1@dusk"))
    assert next(of_setting(plan, measured)) == "|  | day | dusk | mean |"


def test_versions_that_differ_are_said(plan, measured):
    assert "Attention" not in write_table(plan, [measured])
    measured.versions = {"torch 2.14", "torch 2.15"}
    assert "the runs are not of one version: torch 2.14 and torch 2.15." in write_table(plan, [measured])


def test_refinement_at_every_size(plan, measured):
    measured.resolutions = {512: {0: {"day": domain(50, 8, 0.9)}, 1: {"day": domain(54, 8, 0.7)}}}
    lines = list(of_setting(plan, measured))
    row = "| day | 512 × 1024 | 512 | + feature masking | 8.00 ± 0.00 | 52.00 ± 2.83 | +44.00 ± 2.83 | 80% |"
    assert row in lines
    assert any(line.startswith("| dusk | 360 × 480 | 256 | + MGRNet | 8.00") for line in lines)
    assert not any("| + VFMNet | 8" in line for line in lines), "it looks once"
    assert "images fitted to 512: +44.00 on day." in "\n".join(lines)


def test_costs_rates_and_trials(plan, measured):
    lines = list(of_setting(plan, measured))
    assert "| + VFMNet | 1,000 | 22,000,000 | 10.0 | 10.0 | 110 | 10.00 | 20.00 | failed | 0.0003 |" in lines
    head = next(line for line in lines if "weights trained" in line)
    assert "GFLOPs, 256 × 512, coarse pass" in head and "source at 0.001 | rate |" in head


def test_what_failed_stands_there_and_the_rest_too(plan, measured):
    del measured.scores["mgrnet"], measured.costs["mgrnet"], measured.seconds["mgrnet"]
    for seeds in measured.scores.values():
        del seeds[1]["dusk"]
    measured.committed["rows"]["mgrnet"] |= {"learning_rate": None, "reason": "every rate diverged"}
    measured.failures = ["streets, + MGRNet: no learning rate: every rate diverged"]
    text = "\n".join(of_setting(plan, measured))
    assert (
        "| + MGRNet | – | – | – |" in text
        and "| + MGRNet | – | – | – | – | – | 10.00 | 20.00 | failed | none |" in text
    )
    assert "order holds is not known: there are no scores of + MGRNet." in text and "mean of day" in text
    assert "### Failed\n\n- streets, + MGRNet: no learning rate: every rate diverged" in text


def test_nothing_at_all(plan):
    rows = {row.name: {"learning_rate": None, "reason": "broken", "trials": {}} for row in TABLE2.rows}
    text = "\n".join(of_setting(plan, Measured(SETTING, {"rows": rows}, failures=["all"])))
    assert "### Failed" in text and "### Classes" not in text


def test_the_paper_is_named_as_such(plan, measured):
    text = write_table(replace(plan, left_out=["no CamVid"]), [measured])
    assert "## The paper's figures\n\nNot ours: Table 2 of the paper, DINOv2-L trained on GTAV" in text
    assert "| + feature masking | 73.87 | 62.91 | 73.52 | 70.10 |" in text and "- Left out: no CamVid." in text
    assert f"sha256 `{'0' * 64}`" in text and "200 steps of 4 crops of 256 × 256" in text


def test_small_parts():
    assert [spread_of([]), spread_of([1]), spread_of([1, 2], "+")] == ["–", "1.00", "+1.50 ± 0.71"]
    assert paired({0: 1, 1: 2, 3: 5}, {1: 5, 0: 2, 2: 0}) == [1, 3]
