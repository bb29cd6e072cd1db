"""The quickstart on a foundation model, with a tiny random one in its place: what trains, what is saved and scored."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoModelForSemanticSegmentation,
    Dinov2Config,
    Dinov2Model,
    SamVisionConfig,
    SamVisionModel,
    TrainerCallback,
)

from tests.support.blockers import run_without
from tests.support.dataset_copies import camvid_tree
from vfmseg_hf import VFMSegForSemanticSegmentation
from vfmseg_hf.model.image_processing_vfmseg import VFMSegImageProcessor
from vfmseg_hf.prediction.predict import find_images
from vfmseg_hf.quickstart import FOUNDATION, QuickstartSettings, run, run_quickstart
from vfmseg_hf.quickstart.conclusions import LINEAR, SOURCE, UNSEEN
from vfmseg_hf.quickstart.linear import LinearHead
from vfmseg_hf.quickstart.run import choose_products, describe_encoder, draw_images, make_trainer
from vfmseg_hf.quickstart.settings import rare_class_weights


TINY = QuickstartSettings(
    height=64,
    width=128,
    train_images=4,
    test_images=2,
    enlarge=2,
    steps=4,
    batch_size=2,
    learning_rate=1e-2,
    encoder_learning_rate=1e-2,
    rare_class_power=0.5,
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A DINOv2 of the Hub's layout, with patches of 14."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 14, "image_size": 56}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def own_images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)).save(folder / "street.jpg")
    (folder / "broken.jpg").write_bytes((folder / "street.jpg").read_bytes()[:400])
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, encoder, own_images):
    output, said = tmp_path_factory.mktemp("quickstart"), []
    images = find_images([own_images], output / "predictions")
    camvid = camvid_tree(tmp_path_factory.mktemp("camvid")).folder
    scores = run_quickstart(output, TINY, say=said.append, encoder=encoder, images=images, camvid=camvid)
    return output, scores, "\n".join(said)


def test_all_is_scored_beside_the_frozen_encoder(finished, encoder):
    output, scores, said = finished
    results = json.loads((output / "results.json").read_text())
    assert results["mean_iou"] == scores and set(scores) == {SOURCE, *UNSEEN}
    assert all(LINEAR in scores[domain] for domain in scores) and LINEAR in said
    assert results["encoder"] == describe_encoder(encoder) and str(encoder) in said
    assert 0 < results["parameters"]["trained"] < results["parameters"]["all"]
    assert results["products"] == choose_products(encoder)
    assert set(results["seconds"]) >= {"drawing", "training", "scoring", "references"}
    for name in (SOURCE, *UNSEEN, "camvid-day", "camvid-dusk"):
        assert (output / "panels" / f"{name}.png").is_file()
    assert (output / "domains.png").is_file()


def test_photographs_are_scored_over_their_merged_classes(finished):
    output, _, said = finished
    photographs = json.loads((output / "results.json").read_text())["photographs"]
    assert {name: found["images"] for name, found in photographs.items()} == {"CamVid day": 1, "CamVid dusk": 1}
    for found in photographs.values():
        assert found["classes"] == 11 and set(found["mean_iou"]) == {LINEAR, "coarse", "final"}
        assert all(0 <= value <= 1 for value in found["mean_iou"].values())
    assert "CamVid dusk, 1 photographs, 11 classes" in said


def test_own_images_are_segmented_and_a_broken_one_is_said(finished):
    output, _, said = finished
    with Image.open(output / "predictions" / "labels" / "street.png") as labels:
        assert labels.size == (120, 90)
    assert (output / "predictions" / "overlays" / "street.jpg").is_file()
    assert "1 of 2 of your images are segmented" in said and "broken.jpg" in said


def test_the_saved_model_is_merged_and_only_lora_has_changed_the_encoder(finished, encoder):
    output, _, _ = finished
    assert not (output / "model" / "adapter_config.json").exists()
    saved = AutoModelForSemanticSegmentation.from_pretrained(output / "model").model.state_dict()
    start = VFMSegForSemanticSegmentation.from_backbone(str(encoder)).model.state_dict()
    changed = {name for name in start if not torch.equal(saved[name], start[name])}
    assert changed and all(".attention." in name and name.endswith("weight") for name in changed)
    assert json.loads((output / "model" / "preprocessor_config.json").read_text())["size"] == {
        "shortest_edge": 128,
        "longest_edge": 256,
    }


def test_the_record_has_the_class_weights_and_the_model_has_none(finished):
    """They are those of the training images: whoever trains the model further would have them without knowing."""
    model = finished[0] / "model"
    assert json.loads((model / "config.json").read_text())["class_weights"] is None
    weights = json.loads((model / "recipe.json").read_text())["settings"]["model"]["class_weights"]
    assert len(weights) == 19 and max(weights) > 1


def test_scores_and_references_are_computed_as_it_is_said(encoder, tmp_path, monkeypatch):
    seen = []
    for name in ("evaluate_domain", "score_references"):

        def looked_at(real, *args, **kwargs):
            seen.append(torch.is_autocast_enabled("cpu"))
            return real(*args, **kwargs)

        monkeypatch.setattr(run, name, partial(looked_at, getattr(run, name)))
    for instructions in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda able=instructions: able, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda able=instructions: able, raising=False)
        run_quickstart(tmp_path, replace(TINY, steps=1), say=lambda line: None, encoder=encoder)
        assert len(seen) == 10 and set(seen) == {instructions}
        seen.clear()


def test_the_saved_model_loads_without_peft(finished):
    code = f"""
        import vfmseg_hf
        from transformers import AutoModelForSemanticSegmentation
        print(AutoModelForSemanticSegmentation.from_pretrained({str(finished[0] / "model")!r}).config.num_labels)
    """
    done = run_without(["peft"], code)
    assert done.stdout.strip() == "19", done.stderr


def test_an_encoder_whose_attention_is_fixed(tmp_path):
    """Training is faster without the fused attention, and SAM's encoder cannot go without it once it is built."""
    sizes = {"hidden_size": 32, "output_channels": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "mlp_dim": 64}
    SamVisionModel(SamVisionConfig(**sizes, patch_size=16, image_size=64, global_attn_indexes=[1])).save_pretrained(
        tmp_path / "sam"
    )
    settings = replace(TINY, steps=1, train_images=2, test_images=1)
    scores = run_quickstart(tmp_path / "out", settings, say=lambda line: None, encoder=tmp_path / "sam")
    assert set(scores) == {SOURCE, *UNSEEN}


@pytest.mark.slow
def test_interrupted_run_ends_as_an_uninterrupted_one(finished, encoder, tmp_path, monkeypatch):
    class Interrupt(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    def interrupted(*arguments):
        trainer = make_trainer(*arguments)
        trainer.add_callback(Interrupt())
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(run, "make_trainer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_quickstart(tmp_path, TINY, encoder=encoder)
    said = []
    assert run_quickstart(tmp_path, TINY, resume=True, say=said.append, encoder=encoder) == finished[1]
    assert "checkpoint-1" in "".join(said)
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (finished[0], tmp_path)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(ValueError, match="holds a run with {'encoder'"):
        run_quickstart(tmp_path, TINY, resume=True)


def test_linear_head_learns_what_the_features_tell(encoder):
    """Shares of ignored pixels count for nothing, whatever the size of the images."""
    rows = []
    for left, right in ((0, 10), (10, 0), (13, 2), (2, 13)):
        colours = {0: (90, 90, 90), 2: (160, 60, 30), 10: (120, 170, 255), 13: (20, 20, 160)}
        image, label = np.empty((64, 96, 3), np.uint8), np.empty((64, 96), np.uint8)
        for side, of_side in ((slice(0, 48), left), (slice(48, 96), right)):
            image[:, side], label[:, side] = colours[of_side], of_side
        label[:16] = 255
        rows.append({"image": Image.fromarray(image), "label": Image.fromarray(label)})
    model = VFMSegForSemanticSegmentation.from_backbone(str(encoder), window_size=64, window_stride=64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    processor = VFMSegImageProcessor(size={"shortest_edge": 128, "longest_edge": 200})
    head = LinearHead(model, processor, rows, windows_per_image=6)
    for row in rows:
        predicted, label = head.predict(row["image"]), np.array(row["label"])
        assert predicted.shape == label.shape and predicted.dtype == np.uint8
        assert np.mean(predicted[16:] == label[16:]) > 0.9
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_rare_classes_weigh_more():
    weights = rare_class_weights(np.array([9000, 900, 0, 100]), 0.5)
    assert weights[2] == 0 and np.average(weights, weights=[9000, 900, 0, 100]) == pytest.approx(1)
    assert weights[1] / weights[0] == pytest.approx(10**0.5) and weights[3] / weights[0] == pytest.approx(90**0.5)


def test_products_are_in_bfloat16_where_the_processor_can(encoder, tmp_path, monkeypatch):
    rows, _ = draw_images(TINY)
    for able in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda able=able: able, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda able=able: able, raising=False)
        assert make_trainer(rows, TINY, tmp_path, encoder).args.bf16 == able
        assert not make_trainer(rows, TINY, tmp_path).args.bf16


@pytest.mark.slow
def test_the_real_run_beats_its_references(shared, tmp_path):
    encoder = shared / "weights" / "dinov2-small"
    if not encoder.is_dir():
        pytest.skip("needs the weights in ../shared/weights/dinov2-small")
    torch.set_num_threads(2)
    scores = run_quickstart(tmp_path, FOUNDATION, encoder=encoder)
    means = {method: np.mean([scores[domain][method]["all classes"] for domain in UNSEEN]) for method in scores[SOURCE]}
    assert means["final"] > 0.28 and means["final"] > means["coarse"]
    assert means["final"] > max(value for method, value in means.items() if method not in ("coarse", "final"))


def test_images_are_drawn_at_the_size_of_the_settings():
    rows, tests = draw_images(TINY)
    assert (len(rows), *map(len, tests.values())) == (4, 2, 2, 2, 2, 2)
    assert all(row["image"].size == (128, 64) for row in (*rows, *tests["night"]))
    labels = [np.array(tests[domain][0]["label"]) for domain in (SOURCE, *UNSEEN)]
    assert all(np.array_equal(label, labels[0]) for label in labels), "the same scenes in all domains"
    assert not np.array_equal(labels[0], np.array(rows[0]["label"]))
