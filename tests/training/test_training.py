"""The Trainer: recipe, logs, evaluation over domains, exact resume, and what ends a training."""

import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tvF
from transformers import EarlyStoppingCallback, TrainerCallback, set_seed

from tests.support.blocks import rows
from tests.support.tiny import give_base
from tests.support.training_job import run
from vfmseg_hf import VFMSegForSemanticSegmentation, VFMSegImageProcessor, VFMSegImageProcessorPil, lora_config
from vfmseg_hf.data import EvaluationGroups, each_class
from vfmseg_hf.evaluation import iou_scores
from vfmseg_hf.training import (
    Augmentation,
    EvaluationImages,
    TrainingImages,
    VFMSegTrainer,
    VFMSegTrainingArguments,
)
from vfmseg_hf.training.callbacks import StopOnSignal
from vfmseg_hf.training.data import EpochSampler
from vfmseg_hf.training.model import choose_trained_part, start_model


def images(count=6, **kwargs) -> TrainingImages:
    return TrainingImages(rows(count, **kwargs), VFMSegImageProcessor(), Augmentation(crop_size=(64, 64)))


def make_trainer(model, directory, callbacks=(), train=None, eval_dataset=None, **settings) -> VFMSegTrainer:
    arguments = VFMSegTrainingArguments(
        output_dir=str(directory),
        **{
            "max_steps": 6,
            "logging_steps": 1,
            "save_steps": 1,
            "disable_tqdm": True,
            "use_cpu": True,
            "report_to": "none",
            **settings,
        },
    )
    return VFMSegTrainer(
        model, arguments, train_dataset=train or images(), eval_dataset=eval_dataset, callbacks=list(callbacks)
    )


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step >= self.step


# ------------------------------------------------------------------------------------------------ recipe


def test_the_paper_is_the_default(tmp_path):
    arguments = VFMSegTrainingArguments(output_dir=str(tmp_path))
    assert (arguments.learning_rate, arguments.encoder_learning_rate) == (1e-4, 1e-5)
    assert (arguments.weight_decay, arguments.max_grad_norm, arguments.max_steps) == (0.05, 0.0, 40_000)
    assert (arguments.per_device_train_batch_size, arguments.optim) == (2, "adamw_torch_fused")
    assert (arguments.adam_beta1, arguments.adam_beta2, arguments.warmup_steps) == (0.9, 0.999, 0)


@pytest.mark.parametrize("lora", [False, True])
def test_parameter_groups(lora, tiny_model, tmp_path):
    model = tiny_model()
    if lora:
        model.add_adapter(lora_config(model.config, r=2))
    trainer = make_trainer(model, tmp_path)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = {
        (group["lr"], group["weight_decay"]): {names[parameter] for parameter in group["params"]}
        for group in trainer.create_optimizer().param_groups
    }
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set.union(*groups.values()) == trained and sum(map(len, groups.values())) == len(trained)
    assert all("model.encoder." not in name for name in groups[1e-4, 0.05] | groups[1e-4, 0.0])
    encoder = groups[1e-5, 0.05] | groups.get((1e-5, 0.0), set())
    assert all("model.encoder." in name for name in encoder)
    assert all(".lora_" in name for name in encoder) == lora
    assert {name.rsplit(".", 2)[-2] for name in groups[1e-4, 0.0]} == {
        "fusion_norm", "upsample_norm", "norm", "norm1", "norm2", "norm3"
    }  # fmt: skip
    decaying = groups[1e-4, 0.05]
    assert any(name.endswith("mask_token") for name in decaying) and any(name.endswith("bias") for name in decaying)


def test_another_optimizer_gets_the_same_groups(tiny_model, tmp_path):
    chosen = (torch.optim.SGD, {"momentum": 0.5})
    arguments = VFMSegTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    optimizer = VFMSegTrainer(tiny_model(), arguments, optimizer_cls_and_kwargs=chosen).create_optimizer()
    assert type(optimizer) is torch.optim.SGD
    assert {(group["lr"], group["momentum"]) for group in optimizer.param_groups} == {(1e-4, 0.5), (1e-5, 0.5)}


def test_rates_belong_to_the_arguments(tiny_model, tmp_path):
    arguments = VFMSegTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match=r"sets \['lr'\].*set learning_rate, encoder_learning_rate"):
        VFMSegTrainer(tiny_model(), arguments, optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.5}))


@pytest.mark.parametrize("bf16, expected", [(True, torch.bfloat16), (False, torch.float32)])
def test_evaluation_computes_in_the_dtype_of_training(bf16, expected, tiny_model, tmp_path):
    evaluation = {"a": EvaluationImages(rows(2), VFMSegImageProcessor(do_resize=False))}
    trainer = make_trainer(tiny_model(), tmp_path, eval_dataset=evaluation, bf16=bf16)
    seen = set()
    for head in (trainer.model.coarse_head, trainer.model.refine_head):
        head.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    trainer.evaluate()
    assert seen == {expected}


def test_learning_rates_decay_to_zero(tiny_model, tmp_path):
    trainer = make_trainer(tiny_model(), tmp_path, max_steps=4)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    for step, entry in enumerate(logs):
        expected = (1 - step / 4) ** 0.9
        assert entry["learning_rate"] == pytest.approx(1e-4 * expected)
        assert entry["encoder_learning_rate"] == pytest.approx(1e-5 * expected)
    assert trainer.lr_scheduler.get_last_lr() == [0.0] * 4


class WeightDecays(TrainerCallback):
    """The weight decay of every group, as every step has it."""

    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.seen.append([group["weight_decay"] for group in optimizer.param_groups])


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_weight_decay_falls_along_a_cosine(schedule, tiny_model, tmp_path):
    """In the groups that decay; to 0 after the last step, whatever is done by accumulation."""
    record = WeightDecays()
    settings = {"weight_decay": 0.2, "weight_decay_schedule": schedule, "gradient_accumulation_steps": 2}
    trainer = make_trainer(tiny_model(), tmp_path, [record], max_steps=4, save_strategy="no", **settings)
    trainer.train()
    share = [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2] if schedule == "cosine" else [1] * 4
    assert record.seen == [pytest.approx([0.2 * each, 0, 0.2 * each, 0]) for each in share]


def test_schedules_of_weight_decay_that_do_not_work(tiny_model, tmp_path):
    model = tiny_model()
    with pytest.raises(
        ValueError, match=r"weight_decay_schedule must be one of \['constant', 'cosine'\], got 'linear'"
    ):
        make_trainer(model, tmp_path, weight_decay_schedule="linear")
    arguments = VFMSegTrainingArguments(str(tmp_path), use_cpu=True, weight_decay_schedule="cosine")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(
        ValueError, match="'cosine' is of the recipe's own optimizer; it does not work with one that is"
    ):
        VFMSegTrainer(model, arguments, train_dataset=images(), optimizers=(optimizer, None))


@pytest.mark.parametrize("heads_train", [True, False])
def test_logged_learning_rates_are_those_of_the_optimizer(heads_train, tiny_model, tmp_path):
    """Also where the heads' rate is zero, and where they do not train at all."""
    model = tiny_model()
    for head in (model.coarse_head, model.refine_head):
        head.requires_grad_(heads_train)
    rates = {"learning_rate": 0.0 if heads_train else 1e-3, "encoder_learning_rate": 1e-4}
    schedule = {"lr_scheduler_type": "linear", "lr_scheduler_kwargs": {}}
    trainer = make_trainer(model, tmp_path, max_steps=2, **rates, **schedule)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    for step, entry in enumerate(logs):
        assert entry["encoder_learning_rate"] == pytest.approx(1e-4 * (1 - step / 2))
        assert entry.get("learning_rate") == (0 if heads_train else None)


def test_logged_losses_are_means_over_the_micro_batches(tiny_model, tmp_path):
    trainer = make_trainer(tiny_model(), tmp_path, max_steps=1, gradient_accumulation_steps=3)
    trainer.train()
    entry = trainer.state.log_history[0]
    assert entry["loss"] == pytest.approx(entry["content_loss"] + entry["detail_loss"], rel=1e-5)
    assert entry["loss"] == pytest.approx(2 * math.log(19), rel=0.1)
    assert entry["images_per_second"] > 0


def exact_run(directory, **settings) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """
    Losses `[4, 3]` and trained weights after four steps of four images with nothing random in them, under SGD.

    The detail crop is the whole image: otherwise every batch would draw its own.
    """
    trainer = run(
        str(directory), steps=4, images=8, exact=True, save_strategy="no", optim="sgd",
        options={"detail_crop_size": 64}, **settings,
    )  # fmt: skip
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    losses = [[entry[key] for key in ("loss", "content_loss", "detail_loss")] for entry in logs]
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    return torch.tensor(losses), weights


def test_accumulation_is_the_mean_over_the_micro_batches(tmp_path):
    """Four micro-batches of one are a batch of four, in losses and gradients (every pixel is labelled)."""
    whole = exact_run(tmp_path / "whole", batch_size=4)
    parts = exact_run(tmp_path / "parts", batch_size=1, gradient_accumulation_steps=4)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    assert whole[0].shape == (4, 3) and whole[0][-1, 0] < whole[0][0, 0]


@pytest.mark.parametrize("lora", [True, False])
def test_gradient_checkpointing_changes_nothing(lora, tmp_path):
    plain = exact_run(tmp_path / "plain", lora=lora, batch_size=4)
    recomputed = exact_run(tmp_path / "recomputed", lora=lora, batch_size=4, gradient_checkpointing=True)
    torch.testing.assert_close(recomputed, plain, atol=1e-6, rtol=1e-6)
    assert len(plain[1]) == len(recomputed[1])


@pytest.mark.parametrize("lora", [True, False])
def test_bfloat16_autocast(lora, tmp_path):
    """The passes run in bfloat16, the weights stay float32, and the losses are those of float32 to its precision."""
    plain = exact_run(tmp_path / "plain", lora=lora, batch_size=4)
    half = exact_run(tmp_path / "half", lora=lora, batch_size=4, bf16=True)
    assert {weight.dtype for weight in half[1].values()} == {torch.float32}
    assert not torch.equal(half[0], plain[0])
    torch.testing.assert_close(half[0], plain[0], atol=0.05, rtol=0.05)


@pytest.mark.parametrize("bf16", [True, False])
def test_a_step_is_one_pass_and_a_fused_update(bf16, tiny_model, tmp_path):
    """Of twice the batch; with `bf16` its products are in bfloat16, of weights and with gradients in float32."""
    model = tiny_model()
    give_base(model).add_adapter(lora_config(model.config, r=2))
    trainer = make_trainer(model, tmp_path, max_steps=1, save_strategy="no", bf16=bf16)
    seen, products = [], set()

    def watch_update(optimizer, args, kwargs):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        seen.append({(parameter.dtype, parameter.grad.dtype) for parameter in parameters})
        seen.extend({(type(optimizer), group["fused"]) for group in optimizer.param_groups})

    model.model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            module.register_forward_hook(lambda module, inputs, output: products.add(output.dtype))
    trainer.create_optimizer().register_step_pre_hook(watch_update)
    trainer.train()
    assert products == {torch.bfloat16 if bf16 else torch.float32}
    assert seen == [4, {(torch.float32, torch.float32)}, (torch.optim.AdamW, True)]


def test_tensorboard_where_it_is_installed(tiny_model, tmp_path):
    trainer = make_trainer(tiny_model(), tmp_path, max_steps=1, save_strategy="no", report_to=None)
    assert trainer.args.report_to == ["tensorboard"]
    trainer.train()
    assert list((tmp_path / "runs").rglob("events.out.tfevents.*"))
    assert VFMSegTrainingArguments(str(tmp_path), report_to="none").report_to == []


@pytest.mark.parametrize("source", ["random", "whole", "foundation"])
def test_a_model_starts_with_the_classes_of_the_dataset(source, tiny_model, tiny_config, tmp_path):
    classes = {0: "free", 1: "blocked"}
    if source == "random":
        tiny_config().to_json_file(tmp_path / "start.json")
        model = start_model(str(tmp_path / "start.json"), id2label=classes)
    elif source == "whole":
        tiny_model(id2label=classes).save_pretrained(tmp_path / "start")
        model = start_model(str(tmp_path / "start"), id2label=classes)
    else:
        tiny_model().model.encoder.save_pretrained(tmp_path / "start")
        model = start_model(str(tmp_path / "start"), id2label=classes, refine_hidden_size=128)
    assert model.num_labels == 2
    model.save_pretrained(tmp_path / "saved")
    config = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "saved").config
    assert config.id2label == classes and config.label2id == {"free": 0, "blocked": 1}


@pytest.mark.parametrize("tune", ["lora", "full", "heads"])
def test_what_trains(tune, tiny_model):
    model = tiny_model()
    choose_trained_part(model, tune)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    encoder = {name for name in trained if name.startswith("model.encoder.")}
    assert any(name.startswith("coarse_head.") for name in trained) and any("refine_head." in name for name in trained)
    if tune == "lora":
        assert encoder and all(".lora_" in name for name in encoder)
    else:
        assert bool(encoder) == (tune == "full")
    model.config.detail_loss_weight = 0
    choose_trained_part(model, tune)
    trained_alone = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained_alone == {name for name in trained if "refine_head." not in name}, "nothing tells it anything"


def test_a_loss_that_is_not_computed_is_not_logged(tiny_model, tmp_path):
    trainer = make_trainer(tiny_model(detail_loss_weight=0), tmp_path, max_steps=1, logging_steps=1)
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert entry["loss"] == pytest.approx(entry["content_loss"], rel=1e-5) and "detail_loss" not in entry


def test_lora_on_random_weights_does_not_train(tiny_model, tmp_path):
    """Nobody could load its checkpoints; saved and loaded first, the same weights may."""
    model = tiny_model()
    model.save_pretrained(tmp_path / "base")
    model.add_adapter(lora_config(model.config, r=2))
    trainer = make_trainer(model, tmp_path / "run", max_steps=1)
    with pytest.raises(ValueError, match=r"in no file.*save_pretrained\(directory\).*from_pretrained.*--tune full"):
        trainer.train()
    assert trainer.state.global_step == 0 and not list((tmp_path / "run").glob("checkpoint-*"))
    model = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "base")
    model.add_adapter(lora_config(model.config, r=2))
    make_trainer(model, tmp_path / "run", max_steps=1).train()
    VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "run" / "checkpoint-1")


@pytest.mark.parametrize("attach", [get_peft_model, lambda model, config: model.add_adapter(config) or model])
def test_lora_on_merged_weights_does_not_train(attach, tiny_model, tmp_path):
    model = give_base(tiny_model())
    model.add_adapter(lora_config(model.config, r=2))
    merged = model.merge_and_unload()
    with pytest.raises(ValueError, match="merged since they were loaded"):
        make_trainer(attach(merged, lora_config(merged.config, r=2)), tmp_path, max_steps=1).train()


@pytest.mark.parametrize(
    "settings, message", [({"modules_to_save": None}, "does not hold coarse_head"), ({"bias": "all"}, "trains biases")]
)
def test_adapters_that_could_not_be_saved_do_not_train(settings, message, tiny_model, tmp_path):
    model = give_base(tiny_model())
    config = lora_config(model.config, r=2)
    for name, value in settings.items():
        setattr(config, name, value)
    model.add_adapter(config)
    trainer = make_trainer(model, tmp_path, max_steps=1, save_strategy="no")
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


# ------------------------------------------------------------------------------------------------ data


def test_crops_depend_on_seed_epoch_and_index_only():
    first, again = images(), images()
    a, b = first[(3, 2)], again[(3, 2)]
    assert torch.equal(a["pixel_values"], b["pixel_values"]) and torch.equal(a["labels"], b["labels"])
    assert not torch.equal(a["pixel_values"], first[(4, 2)]["pixel_values"])
    assert a["pixel_values"].shape == (3, 64, 64) and a["labels"].shape == (64, 64) and a["labels"].dtype == torch.long


def test_labels_follow_their_pixels():
    """Colours are a function of the class; without photometric distortion they still are after augmentation."""
    data = rows(1, sizes=((96, 128),))
    processor = VFMSegImageProcessor(image_mean=[0, 0, 0], image_std=[1, 1, 1])
    augmented = TrainingImages(data, processor, Augmentation(crop_size=(64, 64), photometric=False))
    flipped = 0
    for epoch in range(8):
        item = augmented[(epoch, 0)]
        label = item["labels"]
        expected = torch.stack([label * 13, 255 - label * 7, label * 29]) % 256
        assert torch.equal((item["pixel_values"] * 255).round().long(), expected)
        flipped += int(not torch.equal(label, label.flip(-1)))
    assert flipped


@pytest.mark.parametrize("backend", [VFMSegImageProcessor, VFMSegImageProcessorPil])
@pytest.mark.parametrize(
    "settings",
    [{}, {"do_normalize": False}, {"do_rescale": False}, {"rescale_factor": 1 / 127.5}, {"image_mean": 0.5}],
    ids=str,
)
def test_training_sees_a_image_as_evaluation_does(backend, settings):
    data = rows(1, sizes=((64, 64),))
    processor = backend(do_resize=False, **settings)
    plain = Augmentation(crop_size=(64, 64), cat_max_ratio=1.0, flip_probability=0.0, photometric=False)
    crop = TrainingImages(data, processor, plain)[0]
    whole = EvaluationImages(data, processor)[0]
    torch.testing.assert_close(crop["pixel_values"], whole["pixel_values"], rtol=2e-6, atol=2e-6)
    assert torch.equal(crop["labels"], whole["labels"])


def test_crops_are_normalised_to_the_bit_as_they_were():
    """Recorded trainings repeat: (x - mean) / std in float32, with x in 0..1."""
    data = rows(1, sizes=((64, 64),))
    plain = Augmentation(crop_size=(64, 64), cat_max_ratio=1.0, flip_probability=0.0, photometric=False)
    image = tvF.to_dtype(torch.from_numpy(np.array(data[0]["image"])).permute(2, 0, 1), torch.float32, scale=True)
    for backend in (VFMSegImageProcessor, VFMSegImageProcessorPil):
        processor = backend()
        mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
        assert torch.equal(TrainingImages(data, processor, plain)[0]["pixel_values"], (image - mean) / std)


def test_final_ids_are_not_reduced():
    processor = VFMSegImageProcessor(do_reduce_labels=True)
    with pytest.raises(ValueError, match="do_reduce_labels=True, but label maps of a dataset hold final ids"):
        TrainingImages(rows(1), processor, Augmentation(crop_size=(64, 64)))
    with pytest.raises(ValueError, match="do_reduce_labels = False"):
        EvaluationImages(rows(1), processor)


def test_crops_avoid_a_single_class():
    label = np.zeros((64, 256), dtype=np.uint8)
    label[:, 192:] = np.arange(64) % 19
    row = {"image": Image.new("RGB", (256, 64)), "label": Image.fromarray(label), "file_name": "mostly road"}
    shares = {}
    for ratio in (0.75, 1.0):
        data = TrainingImages([row], VFMSegImageProcessor(), Augmentation((64, 64), cat_max_ratio=ratio))
        crops = [data[(epoch, 0)]["labels"] for epoch in range(60)]
        shares[ratio] = np.mean([float((crop == 0).float().mean()) > 0.75 for crop in crops])
    assert shares[0.75] < 0.15 < shares[1.0]


def test_epochs_are_drawn_in_their_own_order():
    sampler = EpochSampler(50, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(first) == [(0, index) for index in range(50)] and sorted(second) == [(1, i) for i in range(50)]
    assert [index for _, index in first] != [index for _, index in second]


# ------------------------------------------------------------------------------------------------ evaluation


@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_of_domains(batch_size, tiny_model, tmp_path):
    """Mixed sizes in one set, labels of other sizes than the images, against a count per pixel."""
    processor = VFMSegImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    domains = {
        "city": EvaluationImages(rows(4, sizes=((80, 112), (96, 96))), processor, each_class()),
        "merged": EvaluationImages(
            rows(3, seed=5), processor, EvaluationGroups(("low", "high"), (0,) * 10 + (1,) * 5 + (2,) * 4)
        ),
    }
    for row in domains["merged"].dataset:  # labels of the classes outside every group are ignored
        ids = np.array(row["label"])
        ids[ids >= 15] = 255
        row["label"] = Image.fromarray(ids)
    model = tiny_model()
    for head in (model.coarse_head, model.refine_head):
        head.classifier.weight.data.mul_(60)
    metrics = make_trainer(model, tmp_path, eval_dataset=domains, per_device_eval_batch_size=batch_size).evaluate()

    for name, domain in domains.items():
        for prefix, refine in (("", None), ("coarse_", False)):
            groups = domain.evaluation.groups
            count = np.zeros((len(domain.evaluation.names), len(domain.evaluation.names) + 1), dtype=int)
            for row in domain.dataset:
                truth = np.array(row["label"])
                inputs = processor(row["image"], return_tensors="pt")
                with torch.no_grad():
                    output = model.eval()(**inputs, refine=refine)
                logits = output.coarse_logits if refine is False else output.logits
                logits = F.interpolate(logits, size=truth.shape, mode="bilinear")
                for labelled, predicted in zip(truth.ravel(), logits[0].argmax(0).numpy().ravel(), strict=True):
                    if labelled != 255:
                        count[groups[labelled], groups[predicted]] += 1
            assert metrics[f"eval_{name}_{prefix}mean_iou"] == pytest.approx(iou_scores(count)["mean_iou"], abs=1e-12)
    for key in ("mean_iou", "coarse_mean_iou"):
        expected = np.mean([metrics[f"eval_{name}_{key}"] for name in domains])
        assert metrics[f"eval_{key}"] == pytest.approx(expected)
    assert 0 < metrics["eval_city_refined"] <= 1 and metrics["eval_merged_num_classes"] == 2


def test_a_domain_without_labels(tiny_model, tmp_path):
    data = rows(2)
    for row in data:
        row["label"] = Image.new("L", row["label"].size, 255)
    evaluation = {"blank": EvaluationImages(data, VFMSegImageProcessor(do_resize=False))}
    with pytest.raises(ValueError, match="no pixel of the domain 'blank' has a class"):
        make_trainer(tiny_model(), tmp_path, eval_dataset=evaluation).evaluate()


def test_best_model_by_the_mean_over_domains(tiny_model, tmp_path):
    evaluation = {
        name: EvaluationImages(rows(1, seed=seed), VFMSegImageProcessor(do_resize=False))
        for name, seed in (("a", 1), ("b", 2))
    }
    model = tiny_model()
    give_base(model).add_adapter(lora_config(model.config, r=2))
    trainer = make_trainer(
        model, tmp_path, eval_dataset=evaluation, max_steps=3, eval_strategy="steps", eval_steps=1,
        load_best_model_at_end=True, learning_rate=1e-2,
    )  # fmt: skip
    trainer.train()
    scores = [entry["eval_mean_iou"] for entry in trainer.state.log_history if "eval_mean_iou" in entry]
    assert len(scores) == 3 and trainer.state.best_metric == max(scores)
    assert trainer.evaluate()["eval_mean_iou"] == pytest.approx(max(scores)), "the best weights are back"


# ------------------------------------------------------------------------------------------------ resume


# Three batches of two per epoch: in the middle of the first epoch, at its end, in the middle of the second.
@pytest.mark.parametrize("interrupted_at", [2, 3, 4])
@pytest.mark.parametrize("lora", [False, True])
def test_resume_is_exact(interrupted_at, lora, tiny_config, tmp_path):
    def model():
        set_seed(7)
        model = VFMSegForSemanticSegmentation(tiny_config())
        if lora:
            give_base(model).add_adapter(lora_config(model.config, r=2))
        return model

    whole = make_trainer(model(), tmp_path / "whole", learning_rate=1e-3)
    whole.train()
    make_trainer(model(), tmp_path / "run", [StopAfter(interrupted_at)], learning_rate=1e-3).train()
    resumed_model = model()
    with torch.no_grad():  # all it knows has to come from the checkpoint
        for parameter in resumed_model.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    torch.rand(5)
    resumed = make_trainer(resumed_model, tmp_path / "run", learning_rate=1e-3)
    resumed.train(resume_from_checkpoint=True)
    expected, actual = whole.model.state_dict(), resumed.model.state_dict()
    assert [key for key in expected if not torch.equal(expected[key], actual[key])] == []
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (whole, resumed)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lora": {"lora_alpha": 4}}, r"LoRA's lora_alpha=32, this run has 4; resume with the same arguments"),
        ({"lora": {"targets": "all-linear"}}, r"LoRA's targets='default', this run has 'all-linear'"),
        ({"lora": {"frozen_share": 0.5}}, r"LoRA's frozen_share=0.0, this run has 0.5"),
        ({"lora": {"init_lora_weights": "mica"}}, r"LoRA's init_lora_weights=True, this run has 'mica'"),
        ({"weight_decay_schedule": "cosine"}, r"with weight_decay_schedule='constant', this run has 'cosine'"),
    ],
)
def test_resume_with_other_settings_is_refused(options, message, tmp_path):
    run(str(tmp_path), steps=1, lora=True)
    with pytest.raises(ValueError, match=message):
        run(str(tmp_path), resume=True, **{"steps": 2, "lora": True, **options})


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.5}, {"lora": True}])
def test_resume_of_a_finished_run_changes_nothing(options, tmp_path):
    """Four steps end in the middle of an epoch of three."""
    finished = run(str(tmp_path), steps=4, **options)
    expected = {key: value.clone() for key, value in finished.model.state_dict().items()}
    again = run(str(tmp_path), steps=4, resume=True, **options)
    actual = again.model.state_dict()
    assert again.state.global_step == 4 and not (tmp_path / "checkpoint-5").exists()
    assert [key for key in expected if not torch.equal(expected[key], actual[key])] == []


def test_sigterm_saves_whatever_else_is_due(tmp_path):
    """Also where only the best models are saved, and an evaluation would have had to tell first."""
    stopped = run(str(tmp_path), steps=4, stop_at=1, save_strategy="best", eval_strategy="steps", eval_steps=1)
    assert stopped.state.global_step == 2 and (tmp_path / "checkpoint-2" / "trainer_state.json").is_file()
    evaluated = [entry["step"] for entry in stopped.state.log_history if "eval_mean_iou" in entry]
    assert evaluated == [1]


def test_sigterm_in_the_last_evaluation_ends_the_process(tiny_model, tmp_path):
    class Ask(TrainerCallback):
        def on_evaluate(self, args, state, control, **kwargs):
            os.kill(os.getpid(), signal.SIGTERM)

    evaluation = {"a": EvaluationImages(rows(1), VFMSegImageProcessor(do_resize=False))}
    trainer = make_trainer(
        tiny_model(), tmp_path, [Ask()], eval_dataset=evaluation, max_steps=1, eval_strategy="steps", eval_steps=1
    )
    trainer.train()
    assert trainer.stopped_by == signal.SIGTERM and (tmp_path / "checkpoint-1").is_dir()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_returns(number, tmp_path):
    """The library ends no process, and leaves the signals as it found them."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stopped = run(str(tmp_path), steps=4, stop_at=1, stop_by=number, save_strategy="no")
    assert stopped.stopped_by == number and stopped.state.global_step == 2
    assert (tmp_path / "checkpoint-2" / "trainer_state.json").is_file()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    finished = run(str(tmp_path), steps=4, resume=True)
    assert finished.stopped_by is None and finished.state.global_step == 4


def test_a_second_interrupt_aborts_at_once(tiny_model, tmp_path):
    class Ask(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    trainer, before = make_trainer(tiny_model(), tmp_path, [Ask()], max_steps=2), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*")) and signal.getsignal(signal.SIGINT) is before


def test_one_keystroke_reaches_a_process_of_several_twice():
    """From the terminal and from torchrun; it is the same one."""
    several = StopOnSignal(torch.device("cpu"), world_size=2)
    several._ask(signal.SIGINT, None)
    several._ask(signal.SIGINT, None)
    assert several.asked == signal.SIGINT
    several._when -= 2 * several.SAME_KEYSTROKE
    with pytest.raises(KeyboardInterrupt):
        several._ask(signal.SIGINT, None)


def test_early_stopping_follows_the_mean_over_domains(tiny_model, tmp_path):
    evaluation = {"a": EvaluationImages(rows(1), VFMSegImageProcessor(do_resize=False))}
    trainer = make_trainer(
        tiny_model(), tmp_path, [EarlyStoppingCallback(early_stopping_patience=1)], eval_dataset=evaluation,
        learning_rate=1e-14, encoder_learning_rate=1e-14, eval_strategy="steps", eval_steps=1,
        load_best_model_at_end=True,
    )  # fmt: skip
    for module in trainer.model.modules():  # its statistics would still move
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.0
    trainer.train()
    assert trainer.state.global_step == 2


def test_settings_of_the_decay_go_with_its_shape(tiny_model, tmp_path):
    trainer = make_trainer(tiny_model(), tmp_path, max_steps=2, save_strategy="no", lr_scheduler_type="cosine")
    trainer.train()
    assert [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry] == [
        pytest.approx(1e-4), pytest.approx(0.5e-4)
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------ trouble


def test_a_loss_that_is_not_finite_names_the_files(tiny_model, tmp_path):
    class Poison(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2:
                model.coarse_head.classifier.bias.data.fill_(torch.nan)

    trainer = make_trainer(tiny_model(), tmp_path, [Poison()])
    with pytest.raises(
        FloatingPointError, match=r"at step 2 on frame\d, frame\d.*last good checkpoint is .*checkpoint-2"
    ):
        trainer.train()
    assert (
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "checkpoint-2")
        .coarse_head.classifier.bias.isfinite()
        .all()
    )


@pytest.mark.parametrize(
    "error, raised",
    [
        (
            OSError("No space left on device"),
            r"checkpoint-2 could not be written.*last good checkpoint is .*checkpoint-1",
        ),
        (KeyboardInterrupt(), None),
    ],
)
def test_a_save_that_fails_leaves_no_half_checkpoint(error, raised, tiny_model, tmp_path, monkeypatch):
    trainer = make_trainer(tiny_model(), tmp_path)
    save = torch.save

    def fail(obj, path, *args, **kwargs):
        if "checkpoint-2" in str(path):
            Path(path).write_bytes(b"half")
            raise error
        return save(obj, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(type(error), match=raised):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]


def test_crop_sizes_are_checked():
    with pytest.raises(ValueError, match=r"multiples of 32, got \(60, 64\)"):
        Augmentation(crop_size=(60, 64))
