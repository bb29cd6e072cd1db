# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What users of transformers' Trainer give ours: each argument works, or is refused when it is given."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import EarlyStoppingCallback, HfArgumentParser, Trainer, TrainerCallback, TrainingArguments

import vfmseg_hf
from tests.support.blocks import rows
from tests.training.test_training import images, make_trainer
from vfmseg_hf import VFMSegImageProcessor
from vfmseg_hf.cli import train
from vfmseg_hf.evaluation import iou_scores, software_versions
from vfmseg_hf.training import EvaluationImages, VFMSegTrainer, VFMSegTrainingArguments
from vfmseg_hf.training.recipes import get_recipe
from vfmseg_hf.training.record import describe_training


CLASSES = {0: "a", 1: "b", 2: "c"}
SIZE = (64, 96)


class Rows(torch.utils.data.Dataset):
    """Plain rows of a torch dataset, with labels of another size than the images where that is asked for."""

    def __init__(self, count=4, label_size=SIZE, sizes=(SIZE,), **extra):
        generator = torch.Generator().manual_seed(1)
        self.rows = [
            {
                "pixel_values": torch.randn(3, *sizes[index % len(sizes)], generator=generator),
                "labels": torch.randint(0, 3, label_size, generator=generator),
                **extra,
            }
            for index in range(count)
        ]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def lively_model(tiny_model):
    model = tiny_model(id2label=CLASSES)
    for head in (model.coarse_head, model.refine_head):
        head.classifier.weight.data.mul_(60)
    return model


def trainer_of(model, directory, own=True, **options):
    fields = {"max_steps": 2, "report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    names = set(TrainingArguments.__dataclass_fields__) | set(VFMSegTrainingArguments.__dataclass_fields__)
    fields |= {name: options.pop(name) for name in list(options) if name in names}
    kind, arguments = (VFMSegTrainer, VFMSegTrainingArguments) if own else (Trainer, TrainingArguments)
    return kind(model, arguments(str(directory), **fields), **options)


def plain_scores(model, data):
    """Loss and IoU of a model on rows of one size, by transformers' means and a count of every pixel."""
    count, losses = np.zeros((3, 3), dtype=int), []
    for row in data:
        with torch.no_grad():
            output = model.eval()(row["pixel_values"][None], labels=row["labels"][None])
        losses.append(float(output.loss))
        predicted = F.interpolate(output.logits, row["labels"].shape, mode="bilinear")[0].argmax(0)
        np.add.at(count, (row["labels"].numpy().ravel(), predicted.numpy().ravel()), 1)
    return np.mean(losses), iou_scores(count)["mean_iou"]


# ------------------------------------------------------------------------------------------------ steps and epochs


def test_epochs_that_are_asked_for_are_done(tiny_model, tmp_path):
    """Five rows in batches of two are three steps an epoch; the decay ends with the last one."""
    trainer = make_trainer(
        tiny_model(), tmp_path, train=images(5), num_train_epochs=2, max_steps=None, save_strategy="epoch"
    )
    assert "training.max_steps 2 epochs instead of 40000" in describe_training(
        trainer.settings(), get_recipe("paper"), trainer.train_dataset
    )
    trainer.train()
    assert trainer.state.global_step == 6 and trainer.state.epoch == 2
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert rates == pytest.approx([1e-4 * (1 - step / 6) ** 0.9 for step in range(6)])
    record = json.loads((tmp_path / "checkpoint-6" / "recipe.json").read_text())
    assert record["settings"]["training"]["max_steps"] == 6 and record["run"]["epochs"] == 2


def test_steps_or_epochs(tmp_path):
    def arguments(**fields):
        return VFMSegTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **fields)

    assert (arguments().max_steps, arguments().num_train_epochs) == (40_000, -1)
    by_epochs, by_steps = arguments(num_train_epochs=3), arguments(max_steps=7)
    assert (by_epochs.max_steps, by_epochs.num_train_epochs, by_steps.max_steps) == (-1, 3, 7)
    assert arguments(max_steps=-1, num_train_epochs=3) == by_epochs
    for each in (by_epochs, by_steps, arguments()):
        again = dataclasses.replace(each, seed=5)
        assert (again.max_steps, again.num_train_epochs) == (each.max_steps, each.num_train_epochs)
        torch.save(each, tmp_path / "training_args.bin")
        stored = torch.load(tmp_path / "training_args.bin", weights_only=False)
        assert (stored.max_steps, stored.num_train_epochs) == (each.max_steps, each.num_train_epochs)
    with pytest.raises(ValueError, match="max_steps=10 and num_train_epochs=2 are both given; leave one of them out"):
        arguments(max_steps=10, num_train_epochs=2)
    with pytest.raises(ValueError, match="num_train_epochs must be positive, got 0"):
        arguments(num_train_epochs=0)
    with pytest.raises(ValueError, match="max_steps=-1 trains by epochs: give num_train_epochs"):
        arguments(max_steps=-1)


def test_steps_or_epochs_on_the_command_line(tmp_path):
    parser = HfArgumentParser(VFMSegTrainingArguments)
    common = ["--output_dir", str(tmp_path), "--use_cpu", "--report_to", "none"]
    (arguments,) = parser.parse_args_into_dataclasses(
        [*common, "--num_train_epochs", "1.5", "--class_weights", "1", "2"]
    )
    assert (arguments.max_steps, arguments.num_train_epochs, arguments.class_weights) == (-1, 1.5, [1.0, 2.0])


@pytest.mark.parametrize(
    "given, steps, epochs",
    [
        (["--num_train_epochs", "2"], -1, 2),
        (["--num-train-epochs=2"], -1, 2),
        (["--max_steps", "5"], 5, -1),
        ([], 40_000, -1),
    ],
)
def test_the_command_follows_either(given, steps, epochs, tmp_path):
    words = ["--model", "m", "--train", "t", "--output_dir", str(tmp_path), "--device", "cpu"]
    _, arguments = train.parse_arguments([*words, *given])
    assert (arguments.max_steps, arguments.num_train_epochs, arguments.use_cpu) == (steps, epochs, True)
    with pytest.raises(ValueError, match="are both given"):
        train.parse_arguments([*words, "--max_steps", "5", "--num_train_epochs", "2"])


def test_device_and_dtype_of_the_command(tmp_path, monkeypatch):
    words = ["--model", "m", "--data", "t", "--output", str(tmp_path)]
    for dtype, precision in (("float32", (False, False)), ("bfloat16", (True, False)), ("float16", (False, True))):
        _, arguments = train.parse_arguments([*words, "--device", "cpu", "--dtype", dtype])
        assert (arguments.bf16, arguments.fp16) == precision and arguments.output_dir == str(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert train.choose_device("cuda:1") == [] and os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    with pytest.raises(ValueError, match="no device cuda:1: CUDA_VISIBLE_DEVICES=6 shows 1"):
        train.choose_device("cuda:1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="leave --device cuda:0 out"):
        train.choose_device("cuda:0")


def test_epochs_set_by_hand_or_by_a_search(tiny_model, tmp_path):
    trainer = trainer_of(tiny_model(), tmp_path, train_dataset=Rows())
    trainer.args.num_train_epochs = 3
    with pytest.raises(ValueError, match="max_steps=2 and num_train_epochs=3 are both given"):
        trainer.train()


# ------------------------------------------------------------------------------------------------ plain rows


@pytest.mark.parametrize("kind", ["torch", "datasets", "lists"])
@pytest.mark.parametrize("remove_unused_columns", [False, True])
def test_plain_rows(kind, remove_unused_columns, tiny_model, tmp_path):
    """They train, and give the loss and the mean IoU that transformers' Trainer and a count of pixels give."""
    data = Rows(3, note="unused")
    if kind != "torch":
        table = datasets.Dataset.from_list([{k: np.asarray(v).tolist() for k, v in row.items()} for row in data.rows])
        given = table.with_format("torch") if kind == "datasets" else table
    else:
        given = data
    model = lively_model(tiny_model)
    trainer = trainer_of(
        model, tmp_path, train_dataset=given, eval_dataset=given, remove_unused_columns=remove_unused_columns
    )
    metrics = trainer.evaluate()
    stock = trainer_of(model, tmp_path, own=False, eval_dataset=Rows(3), per_device_eval_batch_size=1).evaluate()
    loss, mean_iou = plain_scores(model, data.rows)
    assert stock["eval_loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["eval_loss"] == pytest.approx(loss, rel=1e-5) and metrics["eval_mean_iou"] == pytest.approx(mean_iou)
    assert metrics["eval_num_classes"] == 3 and 0 <= metrics["eval_coarse_mean_iou"] <= 1
    trainer.train()
    assert trainer.state.global_step == 2


def test_an_endless_data_set(tiny_model, tmp_path):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield Rows(1)[0]

    trainer = trainer_of(tiny_model(), tmp_path, train_dataset=Endless())
    trainer.train()
    assert trainer.state.global_step == 2 and json.loads(trainer.record())["data"]["images"] is None


def test_rows_without_images(tiny_model, tmp_path):
    with pytest.raises(ValueError, match=r"rows need pixel_values .* got \['labels'\]"):
        trainer_of(tiny_model(), tmp_path, train_dataset=[{"labels": torch.zeros(64, 64)}]).train()


def test_several_sets_of_rows(tiny_model, tmp_path):
    """The means are over what all of them have."""
    sets = {"plain": Rows(2), "other": Rows(3, sizes=(SIZE, (64, 64)))}
    metrics = trainer_of(lively_model(tiny_model), tmp_path, eval_dataset=sets).evaluate()
    assert metrics["eval_loss"] == pytest.approx((metrics["eval_plain_loss"] + metrics["eval_other_loss"]) / 2)


# ------------------------------------------------------------------------------------------------ compute_metrics


def accuracy(prediction):
    """As in transformers' semantic segmentation example: logits and labels of all images."""
    logits = F.interpolate(torch.from_numpy(prediction.predictions), prediction.label_ids.shape[-2:], mode="bilinear")
    return {"accuracy": (logits.argmax(1).numpy() == prediction.label_ids).mean()}


@pytest.mark.parametrize("batch_size", [1, 2])
def test_compute_metrics_gets_what_it_gets_from_trainer(batch_size, tiny_model, tmp_path):
    data, seen = Rows(3, label_size=(80, 112)), []

    def compute(prediction):
        seen.append(prediction)
        return accuracy(prediction)

    model = lively_model(tiny_model)
    results = [
        trainer_of(
            model, tmp_path, own=own, eval_dataset=data, compute_metrics=compute, per_device_eval_batch_size=batch_size
        ).evaluate()
        for own in (True, False)
    ]
    assert results[0]["eval_accuracy"] == results[1]["eval_accuracy"] > 0
    assert results[0]["eval_loss"] == pytest.approx(results[1]["eval_loss"])
    assert seen[0].predictions.shape == (3, 3, *SIZE)
    np.testing.assert_array_equal(seen[0].predictions, seen[1].predictions)
    np.testing.assert_array_equal(seen[0].label_ids, seen[1].label_ids)
    assert "eval_mean_iou" in results[0]


def test_compute_metrics_beside_the_scores_of_domains(tiny_model, tmp_path):
    """Theirs go before ours where both have a name."""
    domain = EvaluationImages(rows(2, classes=3), VFMSegImageProcessor(do_resize=False))
    model = tiny_model()
    expected = trainer_of(model, tmp_path, eval_dataset={"a": domain}).evaluate()
    assert "eval_a_loss" not in expected
    trainer = trainer_of(model, tmp_path, eval_dataset={"a": domain}, compute_metrics=accuracy)
    metrics = trainer.evaluate()
    for key in ("eval_a_mean_iou", "eval_coarse_mean_iou", "eval_a_refined"):
        assert metrics[key] == pytest.approx(expected[key])
    assert 0 <= metrics["eval_a_accuracy"] <= 1 and metrics["eval_loss"] > 0
    trainer.compute_metrics = lambda prediction: {"mean_iou": -5.0}
    assert trainer.evaluate()["eval_a_mean_iou"] == -5


def test_logits_are_reduced_batch_by_batch(tiny_model, tmp_path):
    data, seen = Rows(3), []

    def by_batch(prediction, compute_result):
        seen.append(prediction.predictions.shape)
        return {"batches": len(seen)}

    model = lively_model(tiny_model)
    trainer = trainer_of(
        model,
        tmp_path,
        eval_dataset=data,
        batch_eval_metrics=True,
        compute_metrics=by_batch,
        include_for_metrics=["loss"],
    )
    assert trainer.evaluate()["eval_batches"] == 3 and seen == [(1, 3, *SIZE)] * 3
    reduced = trainer_of(
        model, tmp_path, eval_dataset=data, preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(1),
        compute_metrics=lambda given: {"shape": str(given.predictions.shape), "inputs": given.inputs.sum()},
        include_for_metrics=["inputs"], eval_accumulation_steps=1,
    )  # fmt: skip
    metrics = reduced.evaluate()
    assert metrics["eval_shape"] == str((3, *SIZE))
    assert metrics["eval_inputs"] == pytest.approx(float(sum(row["pixel_values"].sum() for row in data.rows)), abs=1e-2)


@pytest.mark.parametrize(
    "fields, options, message",
    [
        ({"prediction_loss_only": True}, {"compute_metrics": accuracy}, "leaves nothing for compute_metrics"),
        ({"include_for_metrics": ["inputs"]}, {}, "is for compute_metrics, which is not given"),
        ({"batch_eval_metrics": True}, {}, "is for compute_metrics, which is not given"),
    ],
)
def test_metrics_that_would_not_be_computed(fields, options, message, tiny_model, tmp_path):
    with pytest.raises(ValueError, match=message):
        trainer_of(tiny_model(), tmp_path, **fields, **options)


@pytest.mark.parametrize("fields", [{"prediction_loss_only": True}, {"metric_for_best_model": "loss"}])
def test_the_loss_of_images_where_it_is_asked_for(fields, tiny_model, tmp_path):
    """Of images of any sizes; the scores stay what they are."""
    domain = EvaluationImages(rows(3, classes=3, sizes=((80, 112), (96, 64))), VFMSegImageProcessor(do_resize=False))
    model = tiny_model()
    plain = trainer_of(model, tmp_path, eval_dataset=domain).evaluate()
    metrics = trainer_of(model, tmp_path, eval_dataset=domain, per_device_eval_batch_size=3, **fields).evaluate()
    model.eval().requires_grad_(False)
    losses = [
        float(model(item["pixel_values"][None], labels=item["labels"][None]).loss)
        for item in map(domain.__getitem__, range(3))
    ]
    assert metrics["eval_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert metrics["eval_mean_iou"] == pytest.approx(plain["eval_mean_iou"], abs=1e-4)


# ------------------------------------------------------------------------------------------------ predict


def test_predict_returns_what_it_returns_from_trainer(tiny_model, tmp_path):
    data, model = Rows(3), lively_model(tiny_model)
    ours, stock = (
        trainer_of(model, tmp_path, own=own, per_device_eval_batch_size=1).predict(data) for own in (True, False)
    )
    np.testing.assert_allclose(ours.predictions, stock.predictions, atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(ours.label_ids, stock.label_ids)
    assert ours.predictions.shape == (3, 3, *SIZE) and ours.metrics["test_loss"] == pytest.approx(
        stock.metrics["test_loss"]
    )
    assert ours.metrics["test_mean_iou"] == pytest.approx(plain_scores(model, data.rows)[1])
    both = trainer_of(model, tmp_path).predict(
        data, ignore_keys=["content_loss", "detail_loss", "windows", "certainty", "refined"]
    )
    assert [len(part) for part in both.predictions] == [3, 3]


def test_predict_images_with_names_and_without_labels(tiny_model, tmp_path):
    domain = EvaluationImages(rows(2), VFMSegImageProcessor(do_resize=False))
    output = trainer_of(tiny_model(), tmp_path).predict(domain, metric_key_prefix="night")
    assert output.predictions.shape == (2, 19, 80, 112) and output.label_ids.shape == (2, 80, 112)
    assert 0 <= output.metrics["night_mean_iou"] <= 1
    unlabelled = [{"pixel_values": item["pixel_values"], "file_name": "x"} for item in map(domain.__getitem__, (0, 1))]
    output = trainer_of(tiny_model(), tmp_path).predict(unlabelled)
    assert output.label_ids is None and "test_mean_iou" not in output.metrics and len(output.predictions) == 2
    ignored = Rows(2)
    for row in ignored.rows:
        row["labels"] = torch.full_like(row["labels"], 255)
    assert "test_mean_iou" not in trainer_of(tiny_model(id2label=CLASSES), tmp_path).predict(ignored).metrics


@pytest.mark.parametrize("batch_size", [1, 2])
def test_predictions_of_different_sizes(batch_size, tiny_model, tmp_path):
    data = Rows(2, sizes=(SIZE, (64, 64)))
    trainer = trainer_of(tiny_model(id2label=CLASSES), tmp_path, per_device_eval_batch_size=batch_size)
    with pytest.raises(ValueError, match="different sizes cannot be one array .* set eval_do_concat_batches=False"):
        trainer.predict(data)
    trainer = trainer_of(
        tiny_model(id2label=CLASSES), tmp_path, eval_do_concat_batches=False, per_device_eval_batch_size=1
    )
    assert [part.shape for part in trainer.predict(data).predictions] == [(1, 3, *SIZE), (1, 3, 64, 64)]


# ------------------------------------------------------------------------------------------------ the log


def test_evaluations_and_checkpoints_are_no_time_of_training(tiny_model, tmp_path, monkeypatch):
    """A step of two images takes a second, an evaluation of each domain and a checkpoint a hundred."""
    clock = SimpleNamespace(now=0.0)
    for module in ("trainer", "scoring"):
        monkeypatch.setattr(f"vfmseg_hf.training.{module}.time", SimpleNamespace(perf_counter=lambda: clock.now))

    class Passes(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            clock.now += 1

        def on_prediction_step(self, *args, **kwargs):
            clock.now += 100

    domains = {name: EvaluationImages(rows(1), VFMSegImageProcessor(do_resize=False)) for name in "ab"}
    trainer = make_trainer(
        tiny_model(), tmp_path, [Passes()], eval_dataset=domains, eval_strategy="steps", eval_steps=1, logging_steps=2,
        eval_on_start=True,
    )  # fmt: skip
    save = trainer.save_model

    def slow_save(*args, **kwargs):
        clock.now += 100
        save(*args, **kwargs)

    trainer.save_model = slow_save
    trainer.train()
    speeds = [entry["images_per_second"] for entry in trainer.state.log_history if "images_per_second" in entry]
    assert speeds == [2, 2, 2]


@pytest.mark.parametrize("metric", ["eval_mean_iou", "eval_a_mean_iou"])
def test_early_stopping_is_told_once_of_all_domains(metric, tiny_model, tmp_path, loading_log):
    told = []

    class Told(EarlyStoppingCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            told.append(metrics[metric])
            super().on_evaluate(args, state, control, metrics, **kwargs)

    domains = {name: EvaluationImages(rows(1), VFMSegImageProcessor(do_resize=False)) for name in "ab"}
    trainer = make_trainer(
        tiny_model(), tmp_path, [Told(early_stopping_patience=2)], eval_dataset=domains, metric_for_best_model=metric,
        learning_rate=1e-14, encoder_learning_rate=1e-14, eval_strategy="steps", eval_steps=1,
        load_best_model_at_end=True,
    )  # fmt: skip
    for module in trainer.model.modules():  # its statistics would still move
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.0
    trainer.train()
    assert len(told) == trainer.state.global_step == 3
    assert "early stopping required metric_for_best_model" not in loading_log.text
    assert any(isinstance(callback, Told) for callback in trainer.callback_handler.callbacks)


def test_software_that_is_not_installed_has_a_version(monkeypatch):
    """As where the package is on the path: nothing asks an installation."""

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata.Distribution, "from_name", missing)
    found = software_versions("peft")
    assert found["vfmseg_hf"] == vfmseg_hf.__version__ and found["torch"] == torch.__version__ and found["peft"]


# ------------------------------------------------------------------------------------------------ other arguments


@pytest.mark.parametrize(
    "field, value",
    [
        ("label_names", ["mask"]), ("train_sampling_strategy", "group_by_length"), ("neftune_noise_alpha", 5.0),
        ("train_sampling_strategy", "batch_rebalance"), ("use_liger_kernel", True),
        ("optim_target_modules", "all-linear"), ("optim", "galore_adamw"), ("optim", "lomo"),
        ("enable_jit_checkpoint", True),
    ],
)  # fmt: skip
def test_arguments_without_effect_are_refused(field, value, tmp_path):
    with pytest.raises(ValueError, match=f"{field}=.* does not work with VFMSegTrainer: "):
        VFMSegTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **{field: value})


def test_arguments_of_trainer_are_refused(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="needs VFMSegTrainingArguments, got TrainingArguments"):
        VFMSegTrainer(tiny_model(), TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"))


def test_the_order_of_images(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="train_sampling_strategy='sequential' does not work with TrainingImages"):
        make_trainer(tiny_model(), tmp_path, train_sampling_strategy="sequential")
    seeds = [
        make_trainer(tiny_model(), tmp_path, seed=1, data_seed=seed)._get_train_sampler().seed for seed in (None, 7)
    ]
    assert seeds == [1, 7]


def test_nothing_that_is_scored_is_dropped(tiny_model, tmp_path):
    data, model = Rows(3), lively_model(tiny_model)
    trainer = trainer_of(
        model, tmp_path, train_dataset=data, eval_dataset=data, dataloader_drop_last=True, per_device_eval_batch_size=2
    )
    assert len(trainer.get_train_dataloader()) == 1 and len(trainer.predict(data).predictions) == 3
    assert trainer.evaluate()["eval_mean_iou"] == pytest.approx(plain_scores(model, data.rows)[1])
    assert trainer.args.dataloader_drop_last


def test_a_smaller_batch_that_was_found_is_recorded(tiny_model, tmp_path):
    class TooLarge(VFMSegTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            if len(inputs["pixel_values"]) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().training_step(model, inputs, num_items_in_batch)

    arguments = VFMSegTrainingArguments(
        str(tmp_path), use_cpu=True, report_to="none", max_steps=2, save_strategy="no", auto_find_batch_size=True,
        disable_tqdm=True,
    )  # fmt: skip
    trainer = TooLarge(tiny_model(), arguments, train_dataset=images())
    trainer.train()
    assert trainer.state.global_step == 2
    assert json.loads(trainer.record())["settings"]["training"]["batch_size"] == 1


def test_a_model_for_every_training(tiny_model, tmp_path):
    made = []

    def make():
        made.append(tiny_model(id2label=CLASSES))
        return made[-1]

    trainer = trainer_of(None, tmp_path, model_init=make, train_dataset=Rows(), class_weights=[1.0, 2.0, 3.0])
    trainer.train()
    assert len(made) == 2 and trainer.model is made[1]
    assert [model.config.class_weights for model in made] == [[1.0, 2.0, 3.0]] * 2


def test_optimizers_that_are_given(tiny_model, tmp_path):
    """They train, and the log and the record tell nothing of learning rates that are not theirs."""
    model = tiny_model(id2label=CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    trainer = trainer_of(model, tmp_path, train_dataset=Rows(), optimizers=(optimizer, scheduler), logging_steps=1)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["learning_rate"] for entry in logs] == [0.5, 0.25] and "encoder_learning_rate" not in logs[0]
    found = json.loads(trainer.record())["settings"]["training"]
    assert found["learning_rate"] == found["optim"] == "of the optimizer given"
    assert found["lr_scheduler_type"] == "of the scheduler given"


def test_a_training_with_an_optimizer_that_is_given_is_resumed(tiny_model, tmp_path):
    for steps in (1, 2):
        model = tiny_model(id2label=CLASSES)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        options = {"max_steps": steps, "save_strategy": "steps", "save_steps": 1}
        trainer = trainer_of(model, tmp_path, train_dataset=Rows(), optimizers=(optimizer, None), **options)
        trainer.train(resume_from_checkpoint=steps > 1)
    assert trainer.state.global_step == 2


def test_a_collator_of_ones_own(tiny_model, tmp_path):
    seen = []

    def collator(batch):
        seen.append(len(batch))
        return {key: torch.stack([row[key] for row in batch]) for key in ("pixel_values", "labels")}

    data = Rows(4, note="x")
    trainer_of(tiny_model(id2label=CLASSES), tmp_path, train_dataset=data, data_collator=collator).train()
    assert seen == [2, 2]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_grad_norm": 1e-3}, {"warmup_steps": 0.5}, {"full_determinism": True}, {"torch_empty_cache_steps": 1},
        {"include_num_input_tokens_seen": True}, {"optim": "adafactor"}, {"bf16_full_eval": True},
        {"torch_compile": True, "torch_compile_backend": "eager"}, {"eval_use_gather_object": True},
        {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 1},
    ],
    ids=lambda fields: next(iter(fields)),
)  # fmt: skip
def test_other_arguments_work(fields, tiny_model, tmp_path):
    domain = EvaluationImages(rows(1), VFMSegImageProcessor(do_resize=False))
    trainer = make_trainer(
        tiny_model(), tmp_path, eval_dataset={"a": domain}, max_steps=2, save_strategy="no", **fields
    )
    trainer.train()
    assert trainer.state.global_step == 2 and 0 <= trainer.evaluate()["eval_mean_iou"] <= 1
