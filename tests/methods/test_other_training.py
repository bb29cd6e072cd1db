# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Segmentation models of transformers train by our commands: where they start, what is kept, resumed and saved."""

import json

import pytest
import torch
from transformers import (
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
    ConvNextConfig,
    DPTConfig,
    MaskFormerConfig,
    MobileViTConfig,
    OneFormerConfig,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerImageProcessorPil,
    UperNetConfig,
)

from tests.methods.runs import ABC, trainer
from tests.methods.test_other import eomt, mask2former, segformer
from tests.support.blocks import rows
from tests.support.commands import call, error_of
from vfmseg_hf import VFMSegImageProcessor
from vfmseg_hf.cli.train import parse_arguments
from vfmseg_hf.methods import OtherModel, auto_class_of, in_encoder
from vfmseg_hf.reproduce.costs import measure_costs
from vfmseg_hf.training import EvaluationImages
from vfmseg_hf.training.model import start_model
from vfmseg_hf.training.other_models import change_other_classes, crop_processor, other_config, own_processor


SIZE = {"shortest_edge": 64, "longest_edge": 128}
MODELS = {"segformer": segformer, "mask2former": mask2former, "eomt": eomt}


@pytest.fixture
def make(tmp_path):
    """A JSON file of a tiny model, for random weights."""

    def make(kind: str) -> str:
        config = MODELS[kind]()[0].config
        if hasattr(config, "train_num_points"):
            config.train_num_points = 64
        config.to_json_file(tmp_path / f"{kind}.json")
        return str(tmp_path / f"{kind}.json")

    return make


@pytest.mark.parametrize("kind", MODELS)
def test_resumed_as_if_never_stopped(kind, make, tmp_path):
    """Weights of some have other names in their files than in the model."""
    rates = {"learning_rate": 1e-3, "encoder_learning_rate": 1e-4, "max_steps": 3}
    models = []
    for checkpoint in (None, str(tmp_path / "run" / "checkpoint-1")):
        torch.manual_seed(0 if checkpoint is None else 1)
        model = start_model(make(kind), id2label=ABC)
        run = trainer(model, tmp_path / "run", processor=own_processor(make(kind), model.config, SIZE), **rates)
        run.train(resume_from_checkpoint=checkpoint)
        models.append(model.state_dict())
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())


@pytest.mark.parametrize("kind", MODELS)
def test_encoder_and_rest_have_their_rates(kind, make, tmp_path):
    model = start_model(make(kind), id2label=ABC)
    run = trainer(model, tmp_path / "run", processor=own_processor(make(kind), model.config, SIZE), weight_decay=0.5)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {rate: set() for rate in (1e-4, 1e-5)}
    decaying = set()
    for group in run.create_optimizer().param_groups:
        found[group["lr"]] |= {names[parameter] for parameter in group["params"]}
        decaying |= {names[parameter] for parameter in group["params"]} if group["weight_decay"] else set()
    rest = {"segformer": "decode_head.", "mask2former": "class_predictor.", "eomt": "query."}[kind]
    of_encoder = {
        "segformer": "segformer.",
        "mask2former": "model.pixel_level_module.encoder.",
        "eomt": "layers.",
    }[kind]
    assert any(name.startswith(rest) for name in found[1e-4]) and any(
        name.startswith(of_encoder) for name in found[1e-5]
    )
    assert not any(name.startswith(of_encoder) for name in found[1e-4])
    assert found[1e-4] | found[1e-5] == set(names.values())
    assert not any("norm" in name.split(".")[-2] for name in decaying if "." in name)
    assert ("model.transformer_module.level_embed.weight" in names.values()) == (kind == "mask2former")
    assert "model.transformer_module.level_embed.weight" not in decaying


@pytest.mark.parametrize("kind", MODELS)
def test_the_commands(kind, make, tmp_path, capsys):
    """Trained, scored while it trains, saved as it is known to transformers, and scored again to the same."""
    data, size = "streets:game?n=2&size=64x96", [] if kind == "eomt" else ["--size", 64, 96]
    watched = ["day=streets:day?n=1&size=64x96@test"]
    run = ["--data", data, "--device", "cpu", "--max_steps", 2, "--crop_size", 64, "--rare_class_sampling", "false"]
    words = ["--model", make(kind), *run, *size, "--report_to", "none", "--eval_data", *watched]
    assert error_of("train", *words, "--output", tmp_path / "run") is None
    said = capsys.readouterr().out
    assert "vfmseg evaluate" in said and "vfmseg predict" not in said
    scored = ["--data", *watched, "--device", "cpu", "--output", tmp_path / "scores.json"]
    assert call("evaluate", "--model", tmp_path / "run", *scored) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())["domains"]["day"]
    expected = json.loads((tmp_path / "run" / "eval_results.json").read_text())["eval_day_mean_iou"]
    assert scores["final"]["mean_iou"] == pytest.approx(expected) and scores["trained_on"]["images"] == 0
    semantic = kind == "segformer"
    auto_class = AutoModelForSemanticSegmentation if semantic else AutoModelForUniversalSegmentation
    assert len(auto_class.from_pretrained(tmp_path / "run").config.id2label) == 19
    settings = json.loads((tmp_path / "run" / "preprocessor_config.json").read_text())
    assert not settings.get("do_reduce_labels") and settings["do_normalize"]
    record = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert record["run"]["tune"] == "full" and record["run"]["model_type"] == kind
    loss = "cross entropy" if semantic else "matched masks and their classes, as Mask2Former"
    assert record["run"]["loss_function"] == loss
    trained = record["run"]["trained_parameters"]
    costs = [measure_costs(tmp_path / "run", "none", 64, width) for width in (64, 128)]
    assert costs[0].trained == costs[0].parameters == trained and costs[0].gflops > 0
    if kind == "eomt":
        assert costs[1].gflops == 2 * costs[0].gflops, "two windows"
    else:
        assert costs[1].gflops > costs[0].gflops


def test_an_encoder_to_start_from(tmp_path, loading_log):
    """As ImageNet's for SegFormer: kept, with a new head; what is in no file of it is no start."""
    sizes = {"depths": [1] * 4, "hidden_sizes": [8] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 16}
    classes = {0: "cat", 1: "person"}
    native = SegformerForImageClassification(SegformerConfig(**sizes, id2label=classes))
    native.save_pretrained(tmp_path / "mit")
    SegformerImageProcessorPil(do_reduce_labels=True, image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path / "mit")
    place = str(tmp_path / "mit")
    model = start_model(place, id2label=ABC)
    assert model.config.id2label == ABC and model.decode_head.classifier.weight.shape[0] == 3
    for name, tensor in native.segformer.state_dict().items():
        assert torch.equal(model.segformer.state_dict()[name], tensor), name
    assert "the encoder is kept, the head is new" in loading_log.text
    processor = own_processor(place, model.config, SIZE)
    assert not processor.do_reduce_labels and list(processor.image_mean) == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("kind", MODELS)
def test_classes_by_name(kind, loading_log, tmp_path):
    model, processor = MODELS[kind]()
    model.save_pretrained(tmp_path)
    images = torch.randn(1, 3, 64, 64)
    changed = start_model(str(tmp_path), id2label={0: "person", 1: "tree", 2: "road", 3: "car"})
    assert changed.loaded_from == str(tmp_path)
    assert "kept 2 of its 3 classes: person, road; new: tree, car" in loading_log.text
    before, after = model.eval()(images), changed.eval()(images)
    if kind == "segformer":
        torch.testing.assert_close(after.logits[:, [0, 2]], before.logits[:, [2, 1]])
    else:
        kept, found = before.class_queries_logits, after.class_queries_logits
        torch.testing.assert_close(found[..., [0, 2, 4]], kept[..., [2, 1, 3]])  # the last is none
        torch.testing.assert_close(after.masks_queries_logits, before.masks_queries_logits)
    loss, _ = OtherModel(changed.train(), processor).loss(changed, images, torch.full((1, 64, 64), 3))
    loss.backward()
    same = change_other_classes(changed, {0: "Person", 1: "tree", 2: "road", 3: "car"})
    assert same is changed and same.config.id2label[0] == "Person"


def test_losses_are_its_own():
    """Of SegFormer the mean over labelled pixels, at the size of the crop; without any it is 0, with gradients."""
    model, processor = segformer()
    other, images = OtherModel(model.eval(), processor), torch.randn(2, 3, 64, 64)
    labels = torch.randint(0, 3, (2, 64, 64))
    labels[0] = 255
    logits = torch.nn.functional.interpolate(model(images).logits, (64, 64), mode="bilinear")
    expected = torch.nn.functional.cross_entropy(logits[1:], labels[1:])
    torch.testing.assert_close(other.loss(model, images, labels)[0], expected)
    loss, _ = other.loss(model, images, torch.full_like(labels, 255))
    loss.backward()
    assert loss == 0 and not model.decode_head.classifier.weight.grad.any()


@pytest.mark.parametrize("kind", MODELS)
def test_images_as_crops_were(kind, make):
    """An image processor normalises as training did, and keeps the aspect ratio."""
    config = other_config(make(kind))
    processor = own_processor(make(kind), config, SIZE)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    own = processor(image, do_resize=False, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(crop_processor(processor).normalise(image / 255), own, atol=1e-5, rtol=1e-5)
    seen = processor(torch.zeros(3, 128, 192, dtype=torch.uint8), return_tensors="pt")["pixel_values"]
    assert tuple(seen.shape) == {"eomt": (2, 3, 64, 64)}.get(kind, (1, 3, 64, 96))


def test_where_its_encoder_is():
    """Of models whose base model is not their encoder, or that have none."""
    for kind, name in (("maskformer", "model.pixel_level_module.encoder."), ("upernet", "backbone.")):
        config = MaskFormerConfig() if kind == "maskformer" else _upernet()
        with torch.device("meta"):
            model = auto_class_of(config).from_config(config)
        names = [each for each, _ in model.named_parameters()]
        assert {each for each in names if in_encoder(model, each)} == {each for each in names if each.startswith(name)}
        assert 0 < sum(each.startswith(name) for each in names) < len(names)


def _upernet():
    stages = [f"stage{number}" for number in (1, 2, 3, 4)]
    backbone = ConvNextConfig(depths=[1] * 4, hidden_sizes=[8, 8, 16, 8], out_features=stages)
    return UperNetConfig(backbone_config=backbone, hidden_size=16, auxiliary_in_channels=16)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--tune", "lora"], "segformer models of transformers train as a whole; leave --tune lora out"),
        (["--method", "linear"], "is a segformer model and stays one; leave --method linear out"),
        (["--feature_mask_ratio", 0.1], "is a segformer, which has no feature_mask_ratio; leave it out"),
        (["--scale_heads"], "a segformer model has another; leave it out"),
        (["--class_weights", 1, 2], "a segformer model has no class_weights; leave it out"),
    ],
)
def test_what_is_for_vfmseg_alone(words, message, make, tmp_path):
    run = ["--data", "streets:game?n=1&size=64x96", "--device", "cpu", "--output", tmp_path / "run"]
    assert message in error_of("train", "--model", make("segformer"), *run, *words)


def test_squares_of_one_size(make, tmp_path):
    run = ["--data", "streets:game?n=1&size=64x96", "--device", "cpu", "--rare_class_sampling", "false"]
    words = ["--model", make("eomt"), *run, "--output", tmp_path / "run"]
    assert "is made for squares of 64 pixels, and --crop_size 80 are others" in error_of(
        "train", *words, "--crop_size", 80
    )


def test_what_cannot_learn_from_label_maps(tmp_path):
    OneFormerConfig().to_json_file(tmp_path / "oneformer.json")
    with pytest.raises(ValueError, match=r"is a oneformer, which needs more than label maps to learn from"):
        start_model(str(tmp_path / "oneformer.json"))


@pytest.mark.parametrize(
    "content, message",
    [
        ({"model_type": "segformer", "depth": [1] * 4}, "a segformer has no field depth; did you mean depths?"),
        ({"model_type": "segfromer"}, "no segmentation model of model_type 'segfromer'; did you mean segformer?"),
        ({"model_type": "vit"}, "transformers has no segmentation model of model_type 'vit'"),
        ({"model_type": "segformer", "hidden_sizes": [8, 8]}, "do not fit together, so that no segformer can be made"),
        (
            {"model_type": "mask2former", "backbone_config": {"model_type": "swin", "embed_dims": 96}},
            "a swin has no field embed_dims; did you mean embed_dim?",
        ),
    ],
)
def test_files_of_configurations_that_are_wrong(content, message, tmp_path):
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps(content))
    run = ["--data", "streets:game?n=1&size=64x96", "--device", "cpu", "--output", tmp_path / "run"]
    assert message in error_of("train", "--model", file, *run)


def test_fields_that_mean_nothing_any_more_are_said(loading_log, tmp_path):
    file = tmp_path / "old.json"
    file.write_text('{"model_type": "segformer", "of_another_time": 1}')
    assert other_config(str(file)).model_type == "segformer"
    assert "of_another_time means nothing to a segformer" in str(loading_log.messages)


def test_random_encoders_learn_as_their_heads_do(make, tmp_path):
    words = [
        "--model",
        make("segformer"),
        "--data",
        "streets:game",
        "--output",
        str(tmp_path),
        "--learning_rate",
        "3e-4",
    ]
    assert parse_arguments(words)[1].encoder_learning_rate == 3e-4
    assert parse_arguments([*words, "--encoder_learning_rate", "1e-5"])[1].encoder_learning_rate == 1e-5


def test_image_processors_that_do_not_fit(make, tmp_path):
    MobileViTConfig().to_json_file(tmp_path / "mobilevit.json")
    place = str(tmp_path / "mobilevit.json")
    with pytest.raises(ValueError, match="gives blue, green, red, and crops of training are red, green, blue"):
        own_processor(place, other_config(place), SIZE)
    DPTConfig().to_json_file(tmp_path / "dpt.json")
    place = str(tmp_path / "dpt.json")
    with pytest.raises(ValueError, match=r"DPTImageProcessor cannot resize .* edge \(.*cannot be trained here"):
        own_processor(place, other_config(place), SIZE)
    with pytest.raises(ValueError, match=r"cannot fit images by their shortest edge alone; give two edges, --size 64"):
        own_processor(make("segformer"), other_config(make("segformer")), 64)
    with pytest.raises(ValueError, match=r"cannot resize images to the shortest edge 64 .*; give --size SHORTEST LON"):
        own_processor(make("mask2former"), other_config(make("mask2former")), 64)


def test_what_the_trainer_refuses(make, tmp_path):
    model = start_model(make("segformer"), id2label=ABC)
    processor = own_processor(make("segformer"), model.config, SIZE)
    with pytest.raises(ValueError, match="compute_loss_func does not work with a segformer model of transformers"):
        trainer(model, tmp_path, lambda outputs, labels, num_items_in_batch: 0, processor=processor)
    with pytest.raises(ValueError, match="metric_for_best_model does not work with a segformer model"):
        trainer(model, tmp_path, processor=processor, metric_for_best_model="eval_loss")
    with pytest.raises(ValueError, match="needs its own image processor as processing_class"):
        trainer(model, tmp_path)
    run = trainer(model, tmp_path, processor=processor)
    with pytest.raises(ValueError, match="predict does not work with a segformer model of transformers"):
        run.predict(run.eval_dataset["own"])
    with pytest.raises(ValueError, match="is evaluated through its own image processor"):
        run.evaluate(EvaluationImages(rows(1, classes=3), VFMSegImageProcessor(), id2label=ABC))
