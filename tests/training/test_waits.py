# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""How often a training step makes the host wait for the device: no more often than with transformers' own Trainer."""

import os

import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation, TrainerCallback

from tests.support.processes import run_in_processes
from tests.support.tiny import give_base
from tests.support.waits import CountWaits, count_copies, count_copies_of_numbers
from tests.training.test_trainer_surface import CLASSES, Rows, trainer_of
from vfmseg_hf import lora_config
from vfmseg_hf.model import objective
from vfmseg_hf.model.checks import checks_without_waiting
from vfmseg_hf.training.callbacks import StopOnSignal


STEPS = 3
EVERYTHING = {"ema_decay": 0.9, "class_weights": [1.0, 2.0, 1.0], "label_smoothing_factor": 0.1, "max_grad_norm": 1.0}


class Recorded(TrainerCallback):
    """
    What has made the host wait from the start of each step to the start of the next one.

    Before the first step Trainer draws the order of the epoch, after the last one it reads the mean loss.
    """

    def __init__(self, monkeypatch):
        self.waits, self.steps = CountWaits(), []
        self.copies, self.numbers = count_copies(monkeypatch), count_copies_of_numbers(monkeypatch)

    def on_step_begin(self, args, state, control, **kwargs):
        # An item is counted as an operation already.
        self.steps.append(self.waits.names + [name for name in self.copies if name != "item"] + self.numbers)
        for names in (self.waits.names, self.copies, self.numbers):
            names.clear()

    def most(self) -> int:
        return max(map(len, self.steps[1:]))


@pytest.fixture
def count(tmp_path, monkeypatch):
    """The waits of the step that has the most, in a training with our Trainer or with transformers' own."""
    # The crop of the refine head is drawn on the host, which waits for no device.
    monkeypatch.setattr(objective, "draw_detail_crop", lambda height, width, config: (0, 0, height // 2, width // 2))

    def train(model, own, **options):
        recorded = Recorded(monkeypatch)
        options = {"logging_strategy": "no", "max_steps": STEPS, "per_device_train_batch_size": 1, **options}
        rows = Rows(2 * STEPS * options.get("gradient_accumulation_steps", 1))  # which end with the epoch's order
        with recorded.waits:
            trainer_of(model, tmp_path, own=own, train_dataset=rows, callbacks=[recorded], **options).train()
        assert len(recorded.steps) == STEPS
        return recorded.most()

    return train


@pytest.fixture
def segformer():
    sizes = {"depths": [1] * 4, "hidden_sizes": [8] * 4, "decoder_hidden_size": 8, "num_attention_heads": [1] * 4}
    return SegformerForSemanticSegmentation(SegformerConfig(**sizes, id2label=CLASSES))


@pytest.mark.parametrize(
    "options, theirs",
    [({}, 2), ({"gradient_accumulation_steps": 2}, 4), ({"logging_strategy": "steps", "logging_steps": 1}, 4)],
    ids=["step", "accumulated", "logged"],
)
@pytest.mark.parametrize("further", [{}, EVERYTHING], ids=["recipe", "everything"])
def test_no_more_waits_than_with_transformers(options, theirs, further, tiny_model, segformer, count):
    assert count(segformer, own=False, **options) == theirs, "of another model, which waits for nothing"
    model = tiny_model(id2label=CLASSES)
    if not further:
        give_base(model).add_adapter(lora_config(model.config, r=2))
    assert count(model, own=True, **options, **further) <= theirs


@pytest.mark.parametrize("wait", [lambda loss: loss.item(), lambda loss: loss.cpu(), lambda loss: bool(loss > 0)])
def test_a_wait_more_is_counted(wait, tiny_model, count, monkeypatch):
    plain = objective.stage_loss

    def reading(*arguments, **options):
        loss = plain(*arguments, **options)
        wait(loss.detach())
        return loss

    before = count(tiny_model(id2label=CLASSES), own=True)
    monkeypatch.setattr(objective, "stage_loss", reading)
    assert count(tiny_model(id2label=CLASSES), own=True) == before + 2, "one in each stage"


def test_the_model_alone_waits_for_its_checks(tiny_model, monkeypatch):
    model = tiny_model(id2label=CLASSES, class_weights=[1.0, 2.0, 1.0]).train()
    row = Rows(1)[0]

    def step():
        model(row["pixel_values"][None], labels=row["labels"][None], detail_crop_box=(0, 0, 32, 32)).loss.backward()

    copies, numbers = count_copies(monkeypatch), count_copies_of_numbers(monkeypatch)
    with CountWaits() as waits:
        step()
        assert waits.names == numbers == [] and copies == ["tolist"]
        with checks_without_waiting(model):
            step()
    assert waits.names == numbers == [] and copies == ["tolist"] and model.checks_raise


def test_processes_agree_with_one_wait(tmp_path):
    def agree(rank):
        with pytest.MonkeyPatch.context() as monkeypatch, CountWaits() as waits:
            copies = count_copies(monkeypatch), count_copies_of_numbers(monkeypatch)
            assert StopOnSignal(torch.device("cpu"), 2).agreed() is None
            return waits.names, *copies

    assert run_in_processes(2, agree, tmp_path) == [(["_local_scalar_dense"], [], [])] * 2


# ------------------------------------------------------------------------------------ what is checked without waiting


def test_values_that_do_not_fit_make_the_loss_nan(tiny_model):
    model = tiny_model(id2label=CLASSES, head_dropout=0.0, refine_dropout=0.0, feature_mask_ratio=0.0).train()
    row = Rows(1)[0]
    images, labels = row["pixel_values"][None], row["labels"][None]

    def loss(images, labels):
        return model(images, labels=labels, detail_crop_box=(0, 0, 32, 32)).loss

    expected = loss(images, labels)
    weights = [*model.coarse_head.parameters(), *model.refine_head.classifier.parameters()]
    gradients = torch.autograd.grad(expected, weights)
    unknown, unusable = labels.clone(), images.clone()
    unknown[0, 0, 5], unusable[0, 1, 63, 95] = 3, torch.inf
    with checks_without_waiting(model):
        found = loss(images, labels)
        assert found.equal(expected)
        assert all(map(torch.equal, torch.autograd.grad(found, weights), gradients))
        for bad in ((images, unknown), (images, unknown - 3), (images, unknown.to(torch.int8)), (unusable, labels)):
            assert loss(*bad).isnan()
            gradients = torch.autograd.grad(loss(*bad), list(model.coarse_head.parameters()))
            assert all(gradient.isnan().any() for gradient in gradients)
        assert loss(unusable, torch.full_like(labels, 255)).isnan(), "where no loss reads the pixels either"
    for bad, message in (((images, unknown), r"ids \[3\]"), ((unusable, labels), r"infinite values .*\[1\]")):
        with pytest.raises(ValueError, match=message):
            loss(*bad)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("labels", 3, r"at step 2 on frame\d: labels hold the ids \[3\]"),
        ("pixel_values", torch.nan, r"at step 2 on frame\d: pixel_values hold NaN .*\[1\]"),
    ],
)
def test_the_trainer_says_which_values_do_not_fit(key, value, message, tiny_model, tmp_path):
    class ThirdIsSpoilt(Rows):
        read = 0

        def __getitem__(self, index):
            self.read += 1
            row = {name: tensor.clone() for name, tensor in self.rows[index].items()}
            if self.read == 3:
                row[key].view(-1)[0] = value
            return {**row, "file_name": f"frame{index}"}

    options = {"max_steps": 4, "per_device_train_batch_size": 1, "save_strategy": "steps", "save_steps": 1}
    model = tiny_model(id2label=CLASSES)
    trainer = trainer_of(model, tmp_path, train_dataset=ThirdIsSpoilt(), **options)
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert os.path.isdir(tmp_path / "checkpoint-2") and not os.path.isdir(tmp_path / "checkpoint-3")
    assert all(parameter.isfinite().all() for parameter in model.parameters()) and model.checks_raise
