# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The average of the weights: against its recurrence, in evaluations, checkpoints and resumed runs."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from tests.support.blocks import rows
from tests.support.training_job import run
from vfmseg_hf import VFMSegForSemanticSegmentation, VFMSegImageProcessor
from vfmseg_hf.training import EvaluationImages, VFMSegTrainingArguments
from vfmseg_hf.training.averaging import FILE, WeightAverage


class Record(TrainerCallback):
    """Copies of the weights that train, after every step."""

    def __init__(self):
        self.weights = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})


@pytest.fixture
def recorded(monkeypatch):
    """What every training of `training_job.run` records."""
    from tests.support import training_job

    record = Record()
    original = training_job.VFMSegTrainer
    monkeypatch.setattr(
        training_job,
        "VFMSegTrainer",
        lambda *args, callbacks, **kwargs: original(*args, callbacks=[*callbacks, record], **kwargs),
    )
    return record


@pytest.mark.parametrize("lora", [True, False])
def test_average_is_the_recurrence(lora, recorded, tmp_path):
    job = {"lora": lora, "steps": 4, "save_strategy": "no"}
    plain = run(str(tmp_path / "plain"), **job)
    start = {name: weights.clone() for name, weights in run_start(lora).items()}
    steps, recorded.weights = recorded.weights, []
    averaged = run(str(tmp_path / "averaged"), ema_decay=0.75, **job)
    assert all(torch.equal(a[key], b[key]) for a, b in zip(steps, recorded.weights, strict=True) for key in a), (
        "averaging changes the training"
    )
    parameters = dict(averaged.model.named_parameters())
    for name, average in start.items():
        for weights in steps:
            average = 0.75 * average + 0.25 * weights[name]
        torch.testing.assert_close(parameters[name].detach(), average, atol=1e-6, rtol=1e-6)
    assert start.keys() == steps[0].keys() and averaged.average is None
    buffers = dict(plain.model.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in averaged.model.named_buffers())


STRONG = {"targets": "all-linear", "init_lora_weights": "mica", "frozen_share": 1 / 3}
STARTED = {"ema_decay": 0.5, "ema_start": 0.5, "weight_decay_schedule": "cosine"}


def run_start(lora: bool) -> dict[str, torch.Tensor]:
    from tests.support.training_job import make_model

    return {name: p.detach() for name, p in make_model(lora, False).named_parameters() if p.requires_grad}


def test_checkpoints_hold_what_was_scored(tmp_path):
    """Model files are the average, and a loaded checkpoint scores as it did in training."""
    trainer = run(str(tmp_path), steps=3, ema_decay=0.5, eval_strategy="steps", eval_steps=1)
    scores = [entry["eval_mixed_mean_iou"] for entry in trainer.state.log_history if "eval_mixed_mean_iou" in entry]
    model = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "checkpoint-2")
    trainer.model.load_state_dict(model.state_dict())
    dataset = EvaluationImages(rows(5, sizes=((80, 112), (96, 64))), VFMSegImageProcessor(do_resize=False))
    assert trainer.evaluate(dataset)["eval_mean_iou"] == pytest.approx(scores[1], abs=1e-12)
    kept = load_file(tmp_path / "checkpoint-2" / FILE)
    saved = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert not torch.equal(kept["coarse_head.classifier.weight"], saved["coarse_head.classifier.weight"])
    final = load_file(tmp_path / "final" / "model.safetensors")
    last = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    assert all(torch.equal(final[key], last[key]) for key in final)


def test_it_starts_late(recorded, tmp_path):
    """With the weights of then; before, checkpoints have the weights that train, and a share is of whole steps."""
    average = None
    run(str(tmp_path), lora=True, steps=6, ema_decay=0.75, ema_start=0.3)  # after 2 of 6 steps: 1.8
    for step, weights in enumerate(recorded.weights, 1):
        average = weights if step <= 2 else {name: 0.75 * average[name] + 0.25 * weights[name] for name in weights}
        saved = load_file(tmp_path / f"checkpoint-{step}" / "adapter_model.safetensors")
        names = {"base_model.model." + name.replace(".default", "").replace("modules_to_save.", ""): name
                 for name in weights}  # fmt: skip
        assert names.keys() <= saved.keys() and any("lora_A" in name for name in names)
        for key, name in names.items():
            torch.testing.assert_close(saved[key], average[name], atol=1e-6, rtol=1e-6)
    kept = load_file(tmp_path / "checkpoint-2" / FILE)
    assert all(torch.equal(weight, recorded.weights[1][name]) for name, weight in kept.items())


@pytest.mark.parametrize("stop_at", [1, 3])
@pytest.mark.parametrize("lora", [True, False, STRONG, {"use_dora": True}], ids=["lora", "full", "strong", "DoRA"])
def test_resume_is_exact(lora, stop_at, tmp_path):
    """Before the average starts, after 2 of 5 steps, and afterwards; with a weight decay that falls."""
    job = {"lora": lora, "steps": 5, "weight_decay": 0.5, **STARTED}
    whole = run(str(tmp_path / "whole"), **job)
    run(str(tmp_path / "run"), stop_at=stop_at, **job)  # SIGTERM in the step after it
    last = tmp_path / "run" / f"checkpoint-{stop_at + 1}"
    assert last.is_dir() and not (tmp_path / "run" / f"checkpoint-{stop_at + 2}").exists()
    resumed = run(str(tmp_path / "run"), resume=True, **job)
    expected, actual = whole.model.state_dict(), resumed.model.state_dict()
    assert [key for key in expected if not torch.equal(expected[key], actual[key])] == []


def test_the_best_average_is_loaded(tmp_path):
    trainer = run(
        str(tmp_path), lora=True, steps=3, ema_decay=0.5, eval_strategy="steps", eval_steps=1,
        load_best_model_at_end=True, greater_is_better=False,
    )  # fmt: skip
    assert trainer.evaluate()["eval_mean_iou"] == pytest.approx(trainer.state.best_metric)
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{trainer.state.best_global_step}")


def test_what_does_not_fit(tiny_model, tmp_path):
    with pytest.raises(ValueError, match=r"between 0 and 1, such as 0.999, got 1.5"):
        WeightAverage(tiny_model(), 1.5)
    with pytest.raises(ValueError, match="save_only_model would lose the weights"):
        run(str(tmp_path / "only"), steps=1, ema_decay=0.5, save_only_model=True)
    run(str(tmp_path / "plain"), steps=1)
    with pytest.raises(ValueError, match="trained without ema_decay, this run is with it"):
        run(str(tmp_path / "plain"), steps=2, ema_decay=0.5, resume=True)
    for start, message in ((1.0, r"must lie in \[0, 1\), got 1.0"), (-0.1, r"must lie in \[0, 1\), got -0.1")):
        with pytest.raises(ValueError, match=message):
            run(str(tmp_path / "start"), steps=1, ema_decay=0.5, ema_start=start)
    for decay in (None, 0):
        with pytest.raises(ValueError, match="ema_start=0.5 needs an average that starts: give ema_decay"):
            run(str(tmp_path / "start"), steps=1, ema_decay=decay, ema_start=0.5)
    assert VFMSegTrainingArguments(str(tmp_path), ema_decay=0, use_cpu=True).ema_decay is None
    run(str(tmp_path / "averaged"), steps=1, ema_decay=0.5)
    with pytest.raises(ValueError, match="trained with ema_decay, this run is without it"):
        run(str(tmp_path / "averaged"), steps=2, resume=True)
    with pytest.raises(ValueError, match=r"trained with ema_decay=0.5, this run has 0.9; resume with the same"):
        run(str(tmp_path / "averaged"), steps=2, ema_decay=0.9, resume=True)
    run(str(tmp_path / "late"), steps=2, ema_decay=0.5, ema_start=0.5)
    with pytest.raises(ValueError, match=r"trained for 2 steps, this run has 20, and ema_start is a share of them"):
        run(str(tmp_path / "late"), steps=20, ema_decay=0.5, ema_start=0.5, resume=True)
