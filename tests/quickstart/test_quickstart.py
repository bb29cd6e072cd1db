"""The quickstart in tiny: what it writes, what it says, and that an interrupted run ends as an uninterrupted one."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForSemanticSegmentation, TrainerCallback

from vfmseg_hf.evaluation import STAGES
from vfmseg_hf.model.labels import CITYSCAPES_ID2LABEL
from vfmseg_hf.quickstart import TOY, QuickstartSettings, run, run_quickstart
from vfmseg_hf.quickstart.conclusions import (
    GROUPS,
    LINEAR,
    METHODS,
    SOURCE,
    UNSEEN,
    draw_conclusions,
    format_scores,
    group_means,
)
from vfmseg_hf.quickstart.run import draw_images, make_trainer
from vfmseg_hf.utils.files import write_file


TINY = QuickstartSettings(height=128, width=256, train_images=6, test_images=2, steps=8, batch_size=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output, said = tmp_path_factory.mktemp("quickstart"), []
    return output, run_quickstart(output, TINY, say=said.append), "\n".join(said)


def test_results_are_written(finished):
    output, scores, said = finished
    results = json.loads((output / "results.json").read_text())
    assert results["mean_iou"] == scores and set(scores) == {SOURCE, *UNSEEN}
    assert results["settings"]["steps"] == 8 and results["encoder"] is None and results["photographs"] == {}
    assert set(results["seconds"]) == {"drawing", "training", "scoring", "references"}
    assert LINEAR not in scores[SOURCE], "features of random weights are no reference"
    labels = [np.array(row["label"]) for row in draw_images(TINY)[1]["night"]]
    names = [CITYSCAPES_ID2LABEL[index] for index in np.unique(labels) if index != 255]
    ious = [results["domains"]["night"]["final"]["iou"][name] for name in names]
    assert np.mean(ious) == pytest.approx(scores["night"]["final"]["all classes"])
    for domain in (SOURCE, *UNSEEN):
        with Image.open(output / "panels" / f"{domain}.png") as panel:
            assert panel.width > 600
    with Image.open(output / "domains.png") as overview:
        assert overview.width > 1800
    assert AutoModelForSemanticSegmentation.from_pretrained(output / "model").config.num_labels == 19
    for line in (format_scores(scores), *draw_conclusions(scores), "nothing to preserve", "results.json"):
        assert line in said


def test_position_prior_scores_alike_in_all_domains(finished):
    """Domains differ in look, not in labels, and the prior does not look."""
    _, scores, _ = finished
    assert len({scores[domain]["position prior"]["all classes"] for domain in scores}) == 1


def test_interrupted_run_ends_as_an_uninterrupted_one(finished, tmp_path, monkeypatch):
    class Interrupt(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    output, scores, _ = finished
    with monkeypatch.context() as patch:
        patch.setattr(run, "make_trainer", lambda *a: with_callback(make_trainer(*a), Interrupt()))
        with pytest.raises(KeyboardInterrupt):
            run_quickstart(tmp_path / "parts", TINY)
    said = []
    with monkeypatch.context() as patch:
        patch.setattr(run, "make_trainer", lambda *a: with_zeroed_weights(make_trainer(*a)))
        assert run_quickstart(tmp_path / "parts", TINY, resume=True, say=said.append) == scores
    assert "checkpoint-2" in "".join(said), "stopped within the first epoch of three steps"
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (output, tmp_path / "parts")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert json.loads((tmp_path / "parts" / "results.json").read_text())["seconds"] is None


def with_callback(trainer, callback):
    trainer.add_callback(callback)
    return trainer


def with_zeroed_weights(trainer):
    """A run that is not resumed but starts anew has to be noticed, though it would start from the same seed."""
    for parameter in trainer.model.parameters():
        parameter.data.zero_()
    return trainer


def test_only_the_same_run_is_resumed_and_foreign_files_are_kept(finished, tmp_path):
    output, _, _ = finished
    with pytest.raises(ValueError, match=r"holds a run with \{'seed': 0\}"):
        run_quickstart(output, replace(TINY, seed=1), resume=True)
    assert (output / "results.json").is_file()
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match="holds model, which no quickstart wrote"):
        run_quickstart(tmp_path, TINY)
    assert (tmp_path / "model").is_dir()


def test_a_new_run_removes_the_results_of_the_last(tmp_path):
    for name in ("results.json", "training/settings.json", "training/checkpoint-8/trainer_state.json"):
        write_file(tmp_path / name, "{}")
    assert run.prepare_output(tmp_path, TINY, resume=False) is None
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json")) == ["training/settings.json"]
    assert run.prepare_output(tmp_path, TINY, resume=True) is None, "no checkpoint yet: from the start"


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"steps": 0}, {"height": 100}, {"width": 100}, {"enlarge": 0}])
def test_settings_are_checked(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        QuickstartSettings(**wrong)


def made_up_scores(final: float, thin: float) -> dict:
    values = dict.fromkeys(METHODS, 0.2) | {"final": final}
    return {
        domain: {
            method: {"all classes": value, "thin classes": thin if method == "final" else 0.01, "other classes": None}
            for method, value in values.items()
        }
        for domain in (SOURCE, *UNSEEN)
    }


def test_conclusions_name_what_failed():
    scores = made_up_scores(final=0.25, thin=0.02)
    lines = draw_conclusions(scores)
    assert lines[0] == "position prior, all classes: the model beats it on the source and all others."
    assert lines[-1] == "refinement, thin classes: it adds 1.0 points in the mean of the unseen domains."
    scores["rain"]["final"]["all classes"] = 0.2  # a draw is no win
    assert draw_conclusions(scores)[1].endswith("all classes: the model does not beat it on rain.")
    lines = draw_conclusions(made_up_scores(final=0.25, thin=0.0102))
    assert lines[-1].endswith("it does not help: +0.0 points in the mean of the unseen domains.")
    lines = draw_conclusions(made_up_scores(final=0.25, thin=0.0098))
    assert lines[-1].endswith("it does not help: +0.0 points in the mean of the unseen domains.")


def test_table_has_every_method_and_the_mean_of_the_unseen_domains():
    table = format_scores(made_up_scores(final=0.25, thin=0.02)).splitlines()
    assert len(table) == 2 + len(GROUPS) * (1 + len(METHODS))
    assert table[2 + len(METHODS)].split() == ["final"] + 6 * ["25.0"]
    assert table[-1].split() == ["final"] + 6 * ["-"]


def test_groups_are_means_over_the_classes_that_are_labelled():
    ious = np.full(19, 0.5)
    ious[5], ious[6], ious[18] = 0.1, 0.0, 0.3  # pole, traffic light (predicted, but not there), bicycle
    labelled = np.arange(19) != 6
    means = group_means({"per_category_iou": ious}, labelled)
    assert means["thin classes"] == pytest.approx((0.1 + 0.3 + 4 * 0.5) / 6)
    assert means["other classes"] == pytest.approx(0.5)
    assert set(GROUPS["thin classes"]) | set(GROUPS["other classes"]) == set(CITYSCAPES_ID2LABEL.values())
    assert group_means({"per_category_iou": ious}, np.zeros(19, dtype=bool))["thin classes"] is None


@pytest.mark.slow
def test_the_toy_beats_its_references(tmp_path):
    scores = run_quickstart(tmp_path, TOY)
    for domain in (SOURCE, *UNSEEN):
        final = scores[domain]["final"]["all classes"]
        assert final > max(scores[domain][name]["all classes"] for name in ("position prior", "16-step lookup"))
    coarse, final = (np.mean([scores[domain][stage]["all classes"] for domain in scores]) for stage in STAGES)
    assert final >= coarse - 0.01
