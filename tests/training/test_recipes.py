# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Named recipes: that they are what they say, and that a checkpoint tells what it was trained with."""

import inspect
import json

import numpy as np
import pytest

from tests.support.blocks import rows
from tests.support.tiny import give_base
from vfmseg_hf import VFMSegConfig, VFMSegImageProcessor, lora_config
from vfmseg_hf.model.records import RECORD_NAME
from vfmseg_hf.training import (
    RECIPES,
    Augmentation,
    TrainingImages,
    VFMSegTrainer,
    VFMSegTrainingArguments,
    get_recipe,
)
from vfmseg_hf.training.model import start_model
from vfmseg_hf.training.record import describe_training, differences


def make_trainer(model, directory, recipe: str, **settings) -> VFMSegTrainer:
    recipe = get_recipe(recipe)
    arguments = {**recipe.training_arguments, "use_cpu": True, "report_to": "none", "disable_tqdm": True, **settings}
    train = TrainingImages(
        rows(4), VFMSegImageProcessor(), Augmentation(**recipe.augmentation), class_pixels=np.full((4, 19), 8000)
    )
    give_base(model).add_adapter(lora_config(model.config, **recipe.lora))
    return VFMSegTrainer(model, VFMSegTrainingArguments(str(directory), **arguments), train_dataset=train)


def test_the_paper_in_numbers():
    """Its implementation details; the schedule and the sampling are those of the published configuration."""
    paper = get_recipe("paper")
    assert (paper.training["learning_rate"], paper.training["encoder_learning_rate"]) == (1e-4, 1e-5)
    assert (paper.training["max_steps"], paper.training["batch_size"], paper.training["max_grad_norm"]) == (
        40_000,
        2,
        0,
    )
    assert paper.training["rare_class_sampling"] and paper.lora["r"] == paper.lora["lora_alpha"] == 32
    assert (paper.model["detail_loss_weight"], paper.model["feature_mask_ratio"]) == (1.0, 0.2)
    assert paper.resize["gtav"] == (1440, 2560) and paper.resize["cityscapes"] == (1024, 2048)
    published = get_recipe("published-code")
    assert published.training["encoder_learning_rate"] == 1e-4 and published.model["loss_normalization"] == "all"


def test_the_paper_is_what_everything_defaults_to(tmp_path):
    """But for rare class sampling, which needs counts."""
    paper, arguments = get_recipe("paper"), VFMSegTrainingArguments(str(tmp_path))
    differing = [key for key, value in paper.training_arguments.items() if getattr(arguments, key) != value]
    assert differing == ["rare_class_sampling"]
    assert Augmentation(**paper.augmentation) == Augmentation()
    defaults = {key: value.default for key, value in inspect.signature(lora_config).parameters.items()}
    assert {key: defaults[key] for key in paper.lora} == dict(paper.lora)
    assert {key: getattr(VFMSegConfig(), key) for key in paper.model} == dict(paper.model)


def test_recipes_are_printable():
    text = str(get_recipe("published-code"))
    for line in (
        "recipe published-code: ",
        "  encoder_learning_rate     0.0001\n",
        "  loss_normalization        all\n",
    ):
        assert line in text
    with pytest.raises(ValueError, match=r"no recipe 'papers', only paper, published-code, strong"):
        get_recipe("papers")


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_training_by_the_recipe_differs_from_it_in_nothing(name, tiny_model, tmp_path):
    trainer = make_trainer(tiny_model(**RECIPES[name].model), tmp_path, name)
    assert describe_training(trainer.settings(), RECIPES[name], trainer.train_dataset) == f"recipe {name}, unchanged"
    of_code = {"training.encoder_learning_rate", "model.loss_normalization", "model.detail_crop_includes_end"}
    of_strong = {"training.weight_decay_schedule", "training.ema_decay", "training.ema_start"}
    of_strong |= {"lora.targets", "lora.init_lora_weights", "lora.frozen_share"}
    for other in RECIPES.values():
        expected = set().union(*(of for key, of in {"published-code": of_code, "strong": of_strong}.items()
                                 if (key == name) != (key == other.name)))  # fmt: skip
        found = differences(trainer.settings(), other, [""])
        assert {item.split()[0] for item in found} == expected


def test_what_differs_is_said_and_kept(tiny_model, tmp_path):
    trainer = make_trainer(
        tiny_model(), tmp_path, "paper", learning_rate=3e-4, max_steps=1, save_steps=1, seed=5,
        gradient_accumulation_steps=2, rare_class_sampling=False,
    )  # fmt: skip
    trainer.train_dataset.augmentation = Augmentation(crop_size=(64, 64))
    assert describe_training(trainer.settings(), RECIPES["paper"], trainer.train_dataset) == (
        "recipe paper, but training.learning_rate 0.0003 instead of 0.0001, training.max_steps 1 instead of 40000, "
        "training.batch_size 4 instead of 2, training.rare_class_sampling False instead of True, "
        "augmentation.crop_size [64, 64] instead of [1024, 1024]"
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    for folder in ("checkpoint-1", "final"):
        record = json.loads((tmp_path / folder / RECORD_NAME).read_text())
        assert record["settings"]["training"]["learning_rate"] == 3e-4 and record["settings"]["lora"]["r"] == 32
        assert (
            len(record["differences"]["paper"]) == 5
            and record["run"]["seed"] == 5
            and record["run"]["step"] == 1
            and record["run"]["tune"] == "lora"
        )
        assert record["data"]["images"] == 4 and record["versions"]["torch"]


def test_the_size_before_the_crop_belongs_to_the_recipe(tiny_model, tmp_path):
    trainer = make_trainer(tiny_model(), tmp_path, "paper")
    settings, paper = trainer.settings(), RECIPES["paper"]
    (found,) = differences(settings, paper, ["gtav"])
    assert found == "augmentation.resize None instead of [1440, 2560]"
    trainer.train_dataset.augmentation = Augmentation(resize=(1440, 2560))
    assert differences(trainer.settings(), paper, ["gtav"]) == []
    assert differences(trainer.settings(), paper, ["bdd100k"])


def test_the_published_code_on_a_foundation_model(tiny_model, tmp_path):
    tiny_model().model.encoder.save_pretrained(tmp_path)
    model = start_model(str(tmp_path), "published-code", refine_hidden_size=128)
    assert (model.config.loss_normalization, model.config.keep_at_threshold) == ("all", True)
    assert model.config.position_interpolation == "scale_offset"
    assert start_model(str(tmp_path), refine_hidden_size=128).config.loss_normalization == "valid"
