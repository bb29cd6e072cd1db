"""The quickstart in tiny: what it writes, what it says, and that an interrupted run ends as an uninterrupted one."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForSemanticSegmentation, TrainerCallback

from vfmseg_hf.labels import CITYSCAPES_ID2LABEL
from vfmseg_hf.quickstart import QuickstartSettings, run_quickstart
from vfmseg_hf.quickstart.report import GROUPS, METHODS, SOURCE, UNSEEN, draw_conclusions, format_scores, group_means
from vfmseg_hf.quickstart.run import draw_pictures, make_trainer


TINY = QuickstartSettings(height=128, width=256, train_pictures=4, test_pictures=2, steps=8, batch_size=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output, said = tmp_path_factory.mktemp("quickstart"), []
    return output, run_quickstart(output, TINY, say=said.append), "\n".join(said)


def test_results_are_written(finished):
    output, scores, said = finished
    results = json.loads((output / "results.json").read_text())
    assert results["mean_iou"] == scores and set(scores) == {SOURCE, *UNSEEN}
    assert results["settings"]["steps"] == 8
    prior = results["domains"]["night"]["position prior"]
    ious = [value for value in prior["iou"].values() if value is not None]
    assert np.mean(ious) == pytest.approx(scores["night"]["position prior"]["all classes"])
    for domain in (SOURCE, *UNSEEN):
        with Image.open(output / "panels" / f"{domain}.png") as panel:
            assert panel.width > 600
    assert AutoModelForSemanticSegmentation.from_pretrained(output / "model").config.num_labels == 19
    for line in (format_scores(scores), *draw_conclusions(scores), "nothing to preserve", "results.json"):
        assert line in said


def test_position_prior_scores_alike_in_all_domains(finished):
    """Domains differ in look, not in labels, and the prior does not look."""
    _, scores, _ = finished
    assert len({scores[domain]["position prior"]["all classes"] for domain in scores}) == 1


def test_interrupted_run_ends_as_an_uninterrupted_one(tmp_path):
    class Interrupt(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    rows = draw_pictures(SOURCE, "train", TINY.train_pictures, TINY)
    whole = make_trainer(rows, TINY, tmp_path / "whole")
    whole.train()
    stopped = make_trainer(rows, TINY, tmp_path / "parts")
    stopped.add_callback(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert 0 < stopped.state.global_step < TINY.steps
    resumed = make_trainer(rows, TINY, tmp_path / "parts")
    resumed.train(resume_from_checkpoint=True)
    expected = whole.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def made_up_scores(final: float, thin: float) -> dict:
    values = {"position prior": 0.1, "colour lookup": 0.2, "coarse": 0.2, "final": final}
    return {
        domain: {
            method: {"all classes": value, "thin classes": thin if method == "final" else 0.0, "other classes": 0.3}
            for method, value in values.items()
        }
        for domain in (SOURCE, *UNSEEN)
    }


def test_conclusions_name_what_failed():
    scores = made_up_scores(final=0.25, thin=0.02)
    assert "beats both references on the source and on every unseen domain" in draw_conclusions(scores)[0]
    assert draw_conclusions(scores)[2].endswith("thin classes, mean of the unseen domains: adds +2.0 points.")
    scores["rain"]["final"]["all classes"] = 0.2  # a draw is no win
    assert draw_conclusions(scores)[0].endswith("does not beat both references on: rain.")
    assert "does not help" in draw_conclusions(made_up_scores(final=0.25, thin=0.0))[2]


def test_table_has_every_method_and_the_mean_of_the_unseen_domains():
    table = format_scores(made_up_scores(final=0.25, thin=0.02)).splitlines()
    assert len(table) == 2 + len(GROUPS) * (1 + len(METHODS))
    assert table[6].split() == ["final"] + 6 * ["25.0"]


def test_groups_are_means_over_the_classes_that_occur():
    ious = np.full(19, 0.5)
    ious[5], ious[6], ious[18] = 0.1, np.nan, 0.3  # pole, traffic light (absent), bicycle
    means = group_means({"per_category_iou": ious})
    assert means["thin classes"] == pytest.approx((0.1 + 0.3 + 4 * 0.5) / 6)
    assert means["other classes"] == pytest.approx(0.5)
    assert set(GROUPS["thin classes"]) | set(GROUPS["other classes"]) == set(CITYSCAPES_ID2LABEL.values())
