# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Losses other than the plain cross entropy: weighted, smoothed, or of one's own, by every way that Trainers offer."""

import json

import peft
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments
from transformers.utils import logging

from vfmseg_hf import VFMSegConfig, VFMSegForSemanticSegmentation, lora_config
from vfmseg_hf.model.objective import segmentation_loss
from vfmseg_hf.training import VFMSegTrainer, VFMSegTrainingArguments


WEIGHTS = [0.02, 2.0, 0.5]
CLASSES = {0: "a", 1: "b", 2: "c"}
PLAIN = {"refine_dropout": 0.0, "head_dropout": 0.0, "feature_mask_ratio": 0.0}


def batch(count=2, ignored=True) -> dict[str, torch.Tensor]:
    labels = torch.randint(0, 3, (count, 64, 96))
    if ignored:
        labels[:, :9] = 255
    return {"pixel_values": torch.randn(count, 3, 64, 96), "labels": labels}


def items(count=4) -> list[dict[str, torch.Tensor]]:
    rows = batch(count)
    return [{key: value[index] for key, value in rows.items()} for index in range(count)]


def resized(logits, labels):
    return F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)


def settings(directory, own=True, **fields):
    kind = VFMSegTrainingArguments if own else TrainingArguments
    common = {"max_steps": 1, "report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    return kind(str(directory), **(common | fields))


@pytest.fixture
def warnings_again():
    """What is said only once is said again."""
    logging.get_logger("vfmseg_hf.model.objective").warning_once.__func__.cache_clear()


# ------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize("normalization", ["valid", "all"])
@pytest.mark.parametrize("weights", [None, WEIGHTS, [0, 1, 3]])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_options_are_those_of_torch(normalization, weights, smoothing, tiny_config):
    config = tiny_config(
        id2label=CLASSES, class_weights=weights, label_smoothing_factor=smoothing, loss_normalization=normalization
    )
    logits, labels = torch.randn(2, 3, 4, 6, requires_grad=True), batch()["labels"]
    options = {
        "weight": None if weights is None else torch.tensor(weights, dtype=torch.float),
        "label_smoothing": smoothing,
        "ignore_index": 255,
    }
    if normalization == "valid":
        expected = F.cross_entropy(resized(logits, labels), labels, **options)
    else:
        expected = F.cross_entropy(resized(logits, labels), labels, reduction="none", **options).mean()
    actual = segmentation_loss(logits, labels, config, training=True)
    torch.testing.assert_close(actual, expected)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (actual, expected)]
    torch.testing.assert_close(*gradients)
    plain = tiny_config(id2label=CLASSES, loss_normalization=normalization)
    torch.testing.assert_close(segmentation_loss(logits, labels, config), segmentation_loss(logits, labels, plain))


@pytest.mark.parametrize("labels", [255, 0])
def test_nothing_that_weighs_is_no_nan(labels, tiny_config):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    config = tiny_config(id2label=CLASSES, class_weights=[0, 1, 1])
    loss = segmentation_loss(logits, torch.full((1, 16, 16), labels), config, training=True)
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_both_stages_have_the_options(tiny_model):
    inputs, box = batch(), (0, 32, 32, 80)
    model = tiny_model(id2label=CLASSES, class_weights=WEIGHTS, label_smoothing_factor=0.1, **PLAIN).train()
    output = model(**inputs, detail_crop_box=box)
    labels = inputs["labels"]
    for loss, logits, truth in (
        (output.content_loss, output.coarse_logits, labels[:, ::2, ::2]),
        (output.detail_loss, output.logits, labels[:, 0:32, 32:80]),
    ):
        options = {"weight": torch.tensor(WEIGHTS), "label_smoothing": 0.1, "ignore_index": 255}
        torch.testing.assert_close(loss, F.cross_entropy(resized(logits, truth), truth, **options))


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [1.0, float("nan"), 1.0]])
def test_weights_that_cannot_be(weights, tiny_config):
    with pytest.raises(StrictDataclassError, match="one finite number from 0 up for each of the 3 classes"):
        tiny_config(id2label=CLASSES, class_weights=weights)
    with pytest.raises(StrictDataclassError, match=r"label_smoothing_factor must be within \[0, 1\], got 1.5"):
        tiny_config(label_smoothing_factor=1.5)


def test_weights_belong_to_their_classes(tiny_model, tmp_path):
    tiny_model(id2label=CLASSES, class_weights=WEIGHTS).save_pretrained(tmp_path)
    assert VFMSegConfig.from_pretrained(tmp_path).class_weights == WEIGHTS
    assert VFMSegConfig.from_pretrained(tmp_path, id2label=CLASSES).class_weights == WEIGHTS
    for other in ({"num_labels": 2}, {"id2label": {0: "a", 1: "c", 2: "b"}}, {"label2id": {"x": 0, "y": 1}}):
        assert VFMSegConfig.from_pretrained(tmp_path, **other).class_weights is None
    model = VFMSegForSemanticSegmentation.from_pretrained(tmp_path, num_labels=2, ignore_mismatched_sizes=True)
    assert model.config.class_weights is None


@pytest.mark.parametrize("lora", [False, True])
def test_the_options_reach_the_model_and_its_record(lora, tiny_model, tmp_path):
    model = tiny_model(id2label=CLASSES)
    if lora:
        model.save_pretrained(tmp_path / "base")
        model = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "base")
        model = peft.get_peft_model(model, lora_config(model.config, r=2))
    trainer = VFMSegTrainer(
        model, settings(tmp_path, class_weights=WEIGHTS, label_smoothing_factor=0.1), train_dataset=items()
    )
    trainer.train()
    assert (model.config.class_weights, model.config.label_smoothing_factor) == (WEIGHTS, 0.1)
    record = json.loads(trainer.record())
    assert record["settings"]["model"]["label_smoothing_factor"] == 0.1
    assert "model.class_weights [0.02, 2.0, 0.5] instead of None" in record["differences"]["paper"]


def test_labels_that_are_all_ignored_are_said(tiny_model, tmp_path, loading_log):
    rows = [{"pixel_values": torch.randn(3, 64, 64), "labels": torch.full((64, 64), 255)} for _ in range(2)]
    VFMSegTrainer(tiny_model(id2label=CLASSES), settings(tmp_path, logging_steps=1), train_dataset=rows).train()
    assert "All losses have been exactly 0" in loading_log.text


# ------------------------------------------------------------------------------------------------ losses of one's own


def focal(logits, labels):
    """Of the pixels with a class; nothing of it is in torch."""
    each = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")
    return ((1 - torch.exp(-each)) ** 2 * each).sum() / (labels != 255).sum()


def test_a_loss_function_is_that_of_both_stages(tiny_model):
    inputs, box = batch(), (0, 32, 32, 80)
    model = tiny_model(id2label=CLASSES, detail_loss_weight=3.0, **PLAIN)
    model.loss_function = focal
    truth = inputs["labels"]
    output = model.train()(**inputs, detail_crop_box=box)
    content = focal(resized(output.coarse_logits, truth[:, ::2, ::2]), truth[:, ::2, ::2])
    detail = focal(resized(output.logits, truth[:, 0:32, 32:80]), truth[:, 0:32, 32:80])
    torch.testing.assert_close(output.loss, content + 3 * detail)
    output = model.eval()(**inputs)
    torch.testing.assert_close(output.detail_loss, focal(output.logits, truth))
    model.loss_function = None
    assert model(**inputs).detail_loss != output.detail_loss


def test_a_module_as_loss_is_not_saved_with_the_weights(tiny_model):
    model = tiny_model(id2label=CLASSES)
    keys = set(model.state_dict())
    model.loss_function = torch.nn.CrossEntropyLoss(torch.tensor(WEIGHTS), ignore_index=255)
    weighted = tiny_model(id2label=CLASSES, class_weights=WEIGHTS)
    weighted.load_state_dict(model.state_dict())
    inputs = batch()
    losses = []
    for each in (model, weighted):
        torch.manual_seed(3)
        losses.append(each.train()(**inputs).loss)
    torch.testing.assert_close(*losses)
    assert set(model.state_dict()) == keys


def test_options_that_a_loss_function_would_ignore(tiny_model):
    model = tiny_model(id2label=CLASSES, class_weights=WEIGHTS).train()
    model.loss_function = focal
    with pytest.raises(ValueError, match="a loss function of your own replaces; leave out one or the other"):
        model(**batch())


def weighted(outputs, labels, num_items_in_batch=None):
    logits = F.interpolate(outputs.logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(logits, labels, torch.tensor(WEIGHTS), ignore_index=255)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_compute_loss_func_is_the_loss_of_each_stage(accumulation, tiny_model, tmp_path):
    """A weighted loss as the documentation of transformers has it trains as `class_weights` do."""
    rows, weights = items(), []
    for fields, function in (({}, weighted), ({"class_weights": WEIGHTS}, None)):
        torch.manual_seed(0)
        model = tiny_model(id2label=CLASSES)
        arguments = settings(
            tmp_path, max_steps=2, learning_rate=1e-2, optim="sgd", gradient_accumulation_steps=accumulation, **fields
        )
        trainer = VFMSegTrainer(model, arguments, train_dataset=rows, eval_dataset=rows, compute_loss_func=function)
        trainer.train()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
        assert model.loss_function is None
    torch.testing.assert_close(*weights)
    assert trainer.loss_name() == "cross entropy"


def test_the_record_names_the_loss(tiny_model, tmp_path):
    trainer = VFMSegTrainer(tiny_model(), settings(tmp_path), train_dataset=items(), compute_loss_func=weighted)
    assert json.loads(trainer.record())["run"]["loss_function"] == "weighted"


@pytest.mark.parametrize("options", [{"class_weights": WEIGHTS}, {"label_smoothing_factor": 0.1}])
def test_compute_loss_func_beside_options(options, tiny_model, tmp_path):
    with pytest.raises(ValueError, match="leave out one or the other"):
        VFMSegTrainer(tiny_model(id2label=CLASSES), settings(tmp_path, **options), compute_loss_func=weighted)


def test_weights_for_other_classes_are_refused_at_construction(tiny_model, tmp_path):
    model = tiny_model(id2label=CLASSES)
    with pytest.raises(ValueError, match="each of the 3 classes, and not all 0, got 2"):
        VFMSegTrainer(model, settings(tmp_path, class_weights=[1.0, 2.0]))
    assert model.config.class_weights is None


# ------------------------------------------------------------------------------------------------ transformers' Trainer


class KeepsLabels(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        loss = weighted(outputs, inputs["labels"])
        return (loss, outputs) if return_outputs else loss


class PopsLabels(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        return weighted(outputs, labels)


def test_a_loss_on_the_logits_of_the_crop_is_not_without_a_word(tiny_model, tmp_path, loading_log, warnings_again):
    model = tiny_model(id2label=CLASSES)
    Trainer(model, settings(tmp_path, own=False), train_dataset=items()).train()
    assert "belong to the crop" not in loading_log.text, "the model's own loss is not computed from them"
    KeepsLabels(model, settings(tmp_path, own=False), train_dataset=items()).train()
    assert "belong to the crop outputs.windows, not to the whole image" in loading_log.text
    assert "model.loss_function" in loading_log.text


@pytest.mark.parametrize(
    "kind, options, fields",
    [
        (Trainer, {"compute_loss_func": weighted}, {}),
        (Trainer, {}, {"label_smoothing_factor": 0.1}),
        (PopsLabels, {}, {}),
    ],
)
def test_labels_kept_back_name_the_cure(kind, options, fields, tiny_model, tmp_path):
    trainer = kind(
        tiny_model(id2label=CLASSES), settings(tmp_path, own=False, **fields), train_dataset=items(), **options
    )
    with pytest.raises(ValueError, match="set class_weights or label_smoothing_factor in model.config, or model.loss"):
        trainer.train()


@pytest.mark.parametrize("kind", [Trainer, VFMSegTrainer])
def test_a_compute_loss_of_ones_own(kind, tiny_model, tmp_path):
    """It gets images and labels only, and its loss is what is logged."""

    class Doubled(kind):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            assert set(inputs) == {"pixel_values", "labels"}
            outputs = model(**inputs)
            self.seen = float(outputs.loss.detach())
            return (2 * outputs.loss, outputs) if return_outputs else 2 * outputs.loss

    rows = [{**row, "file_name": f"frame{index}"} for index, row in enumerate(items())]
    trainer = Doubled(
        tiny_model(id2label=CLASSES), settings(tmp_path, own=kind is VFMSegTrainer, logging_steps=1), train_dataset=rows
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(2 * trainer.seen)


# ------------------------------------------------------------------------------------------------ other outputs


@pytest.mark.parametrize("size", [None, 48])
def test_hidden_states_and_attentions_of_training(size, tiny_model):
    """Of the images at half resolution, whether or not the crop went through the encoder with them."""
    model = tiny_model(id2label=CLASSES, detail_crop_size=size, **PLAIN)
    model.set_attn_implementation("eager")
    inputs = batch()
    output = model.train()(**inputs, output_hidden_states=True, output_attentions=True)
    small = F.interpolate(inputs["pixel_values"], scale_factor=0.5, mode="bilinear", align_corners=False)
    expected = model.model(small, output_hidden_states=True, output_attentions=True)
    for name in ("hidden_states", "attentions"):
        assert len(output[name]) == len(expected[name]) >= 4
        torch.testing.assert_close(output[name], expected[name])
    assert model(**inputs).hidden_states is None and model(**inputs).attentions is None
