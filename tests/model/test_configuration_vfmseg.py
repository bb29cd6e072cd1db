"""Defaults, serialisation, and what the configuration refuses."""

import ast
import json
import re

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, Dinov2Config

from tests.support.tiny import BACKBONE, REFINER
from vfmseg_hf import VFMSegConfig, VFMSegForSemanticSegmentation
from vfmseg_hf.model.configuration_vfmseg import quarter_depths


def test_defaults_are_the_papers():
    config = VFMSegConfig()
    backbone = config.backbone_config
    assert isinstance(backbone, Dinov2Config)
    assert (backbone.hidden_size, backbone.num_hidden_layers, backbone.patch_size) == (1024, 24, 16)
    assert config.out_indices == [5, 11, 17, 23]
    assert (config.confidence_threshold, config.certainty_threshold) == (0.968, 0.8)
    assert (config.window_size, config.window_stride, config.coarse_size) == (512, 320, 512)
    assert (config.feature_mask_ratio, config.detail_loss_weight) == (0.2, 1.0)
    assert config.num_labels == 19 and config.id2label[0] == "road" and config.label2id["bicycle"] == 18


@pytest.mark.parametrize("depth, indices", [(12, [2, 5, 8, 11]), (24, [5, 11, 17, 23]), (40, [9, 19, 29, 39])])
def test_quarter_depths(depth, indices):
    assert quarter_depths(depth) == indices


def test_round_trip_through_json(tiny_config, tmp_path):
    config = tiny_config(coarse_size=(64, 128), num_labels=3, detail_crop_size=64, window_batch_size=2)
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "vfmseg" and saved["backbone_config"]["model_type"] == "dinov2"
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is VFMSegConfig
    config.name_or_path = loaded.name_or_path
    assert loaded.to_dict() == config.to_dict()
    assert loaded.coarse_size == [64, 128] and loaded.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


@pytest.mark.parametrize("num_labels", [1, 2, 3, 19, 20])
def test_any_number_of_classes_survives_saving(num_labels, tiny_config, tmp_path):
    """transformers leaves two unnamed classes out of the file."""
    tiny_config(num_labels=num_labels).save_pretrained(tmp_path)
    assert VFMSegConfig.from_pretrained(tmp_path).num_labels == num_labels


def test_ids_become_numbers(tiny_config):
    assert tiny_config(id2label={"0": "a"}, label2id={"a": "0"}).label2id == {"a": 0}


def test_new_classes_replace_the_old_ones(tiny_config, tmp_path, caplog):
    tiny_config().save_pretrained(tmp_path)
    named = VFMSegConfig.from_pretrained(tmp_path, num_labels=2, id2label={0: "free", 1: "blocked"})
    assert named.label2id == {"free": 0, "blocked": 1} and named.num_labels == 2
    strings = VFMSegConfig.from_pretrained(tmp_path, id2label={"0": "free", "1": "blocked"})
    assert strings.id2label == {0: "free", 1: "blocked"} and strings.label2id == {"free": 0, "blocked": 1}
    assert VFMSegConfig.from_pretrained(tmp_path, num_labels=150).num_labels == 150
    assert VFMSegConfig.from_pretrained(tmp_path, num_labels=19).id2label[0] == "road"
    assert not caplog.records


def test_label2id_is_filled_in(tiny_config):
    assert tiny_config(id2label={0: "free", 1: "blocked"}).label2id == {"free": 0, "blocked": 1}
    assert tiny_config(label2id={"free": 0, "blocked": 1}).id2label == {0: "free", 1: "blocked"}


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"confidence_threshold": 1.2}, r"confidence_threshold must be within \[0, 1\], got 1.2"),
        ({"certainty_threshold": -0.1}, r"certainty_threshold must be within \[0, 1\], got -0.1"),
        ({"window_size": 0}, "window_size must be at least 1, got 0"),
        ({"window_stride": 0}, "window_stride must be at least 1, got 0"),
        ({"window_stride": 65}, "window_stride=65 is larger than window_size=64"),
        ({"window_batch_size": 0}, "window_batch_size must be at least 1, or None, got 0"),
        ({"refine_hidden_size": 200}, "multiple of 128, got 200; the nearest valid value is 256"),
        ({"backbone_config": {"hidden_size": 40}}, "multiple of 32 .* got 40; the nearest valid width is 32"),
        ({"backbone_config": {"num_hidden_layers": 3}}, "encoder has 3 blocks, but the heads see the output of 4: use"),
        ({"patch_size": 0}, "patch_size must be at least 1, got 0"),
        ({"backbone_config": {"patch_size": 14}}, "patch size 14, but VFMSegConfig.patch_size is 16.*from_backbone"),
        ({"out_indices": [0, 1, 2, 4]}, r"below 4 .*got \[0, 1, 2, 4\]; the default would be \[0, 1, 2, 3\]"),
        ({"out_indices": [3, 2, 1, 0]}, "four increasing"),
        ({"coarse_size": 500}, "coarse_size.*got 500; the nearest valid value is 496"),
        ({"coarse_size": [64, 100]}, r"got \[64, 100\]; the nearest valid value is \[64, 96\]"),
        ({"detail_crop_size": 100}, "detail_crop_size.*got 100; the nearest valid value is 96"),
        ({"feature_mask_ratio": 2}, r"feature_mask_ratio must be within \[0, 1\], got 2"),
        ({"detail_loss_weight": -1}, "detail_loss_weight must be a finite number, at least 0, got -1"),
        ({"detail_loss_weight": float("inf")}, "detail_loss_weight must be a finite number, at least 0, got inf"),
        ({"semantic_loss_ignore_index": 3}, "semantic_loss_ignore_index must be 255.*got 3; give the ignored pixels"),
        ({"semantic_loss_ignore_index": -100}, "semantic_loss_ignore_index must be 255.*got -100"),
        ({"num_labels": 256}, r"num_labels must be a whole number within 1\.\.255, got 256"),
        ({"num_labels": 0}, r"num_labels must be .*got 0"),
        ({"num_labels": "3"}, r"num_labels must be .*got '3'"),
        ({"id2label": {index: str(index) for index in range(256)}}, "id2label has 256 classes.*255 fit"),
        ({"widow_size": 64}, r"\['widow_size'\] are no fields of VFMSegConfig; it has .*'window_size'"),
        ({"backbone": "dinov2"}, r"\['backbone'\] are no fields"),
        ({"id2label": {1: "a", 2: "b"}}, r"without gaps, got the ids \[1, 2\]"),
        ({"id2label": {0: "a", 1: "a"}}, r"a name twice: \['a'\]"),
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}}, "label2id does not agree with id2label"),
        ({"id2label": {0: "a", 1: "b"}, "num_labels": 5}, "num_labels=5 does not agree with the 2 classes"),
        ({"coarse_mode": "half"}, "coarse_mode"),
        ({"window_size": "big"}, "window_size"),
    ],
)
def test_invalid_values_are_named(overrides, message, tiny_config):
    with pytest.raises(Exception, match=f"(?s){message}"):
        tiny_config(**overrides)


TIMM = {"model_type": "timm_wrapper", "architecture": "eva02_base_patch16_clip_224"}
TIMM_SIZES = {"img_size": 64, "patch_size": 16, "depth": 4, "num_heads": 2}
VIT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 16}
ADVICE = {
    "blocks": ({"num_hidden_layers": 1}, {}, r"at least (\d+) blocks", "num_hidden_layers"),
    "width": ({"hidden_size": 40}, {}, r"width is (\d+)", "hidden_size"),
    "width, 3 heads": ({"hidden_size": 48, "num_attention_heads": 3}, {}, r"width is (\d+)", "hidden_size"),
    "width, rotary": (
        {**VIT, "model_type": "dinov3_vit", "hidden_size": 48, "num_attention_heads": 24},
        {},
        r"width is (\d+)",
        "hidden_size",
    ),
    "width, sam": (
        {**VIT, "model_type": "sam_vision_model", "hidden_size": 60, "num_attention_heads": 3, "output_channels": 8},
        {},
        r"width is (\d+)",
        "hidden_size",
    ),
    "patch size": ({"patch_size": 14}, {}, r"set backbone_config\.patch_size=(\d+)", "patch_size"),
    "out_indices": ({}, {"out_indices": [1, 2]}, r"default would be (.*)", "out_indices"),
    "out_indices, 5 blocks": ({"num_hidden_layers": 5}, {"out_indices": [5]}, r"default would be (.*)", "out_indices"),
    "refine_hidden_size": ({}, {"refine_hidden_size": -1}, r"valid value is (.*)", "refine_hidden_size"),
    "no coarse_size": ({}, {"coarse_size": []}, r"valid value is (.*)", "coarse_size"),
    "coarse_size, one": ({}, {"coarse_size": [70]}, r"valid value is (.*)", "coarse_size"),
    "coarse_size, three": ({}, {"coarse_size": [64, 64, 64]}, r"valid value is (.*)", "coarse_size"),
    "coarse_size, negative": ({}, {"coarse_size": [-1, 70]}, r"valid value is (.*)", "coarse_size"),
    "coarse_size, patch 14": ({"patch_size": 14}, {"patch_size": 14}, r"valid value is (.*)", "coarse_size"),
    "detail_crop_size": ({}, {"detail_crop_size": 5}, r"valid value is (.*)", "detail_crop_size"),
    "detail_crop_stride": ({}, {"detail_crop_stride": 1}, r"valid value is (.*)", "detail_crop_stride"),
    "ignored id": ({}, {"semantic_loss_ignore_index": 2}, r"must be (\d+)", "semantic_loss_ignore_index"),
    "position_interpolation": (
        {},
        {"position_interpolation": "bilinear"},
        r"it takes \['size', ('.*')\]",
        "position_interpolation",
    ),
    "no model_type": ({"model_type": None}, {}, r"'model_type': ('.*')", "model_type"),
    "model_type": ({"model_type": "dinov99"}, {}, r"use e\.g\. ('.*')\.", "model_type"),
}


@pytest.mark.parametrize("case", ADVICE)
def test_what_a_message_recommends_is_valid(case, tiny_config):
    """The value is taken out of the message, set, and the model runs."""
    backbone, overrides, pattern, field = ADVICE[case]
    with pytest.raises((ValueError, StrictDataclassError)) as caught:
        tiny_config(backbone_config=backbone, **overrides)
    text = str(caught.value.__cause__ or caught.value)
    assert "\n" not in text
    (advice,) = re.search(pattern, text).groups()
    value = ast.literal_eval(advice)
    (backbone if field in {**BACKBONE, **backbone} else overrides)[field] = value
    config = tiny_config(backbone_config=backbone, **overrides)
    model = VFMSegForSemanticSegmentation(config).eval()
    size = 4 * config.patch_size
    assert model(torch.zeros(1, 3, size, size), refine="all").logits.shape == (1, config.num_labels, size, size)


def test_what_is_recommended_for_timm_is_valid():
    pytest.importorskip("timm")

    def config(**sizes):
        return VFMSegConfig(backbone_config={**TIMM, "model_args": {**TIMM_SIZES, **sizes}}, **REFINER)

    with pytest.raises(StrictDataclassError, match="nearest valid width is 96") as caught:
        config(embed_dim=48, num_heads=6)
    width = int(re.search(r"width is (\d+)", str(caught.value)).group(1))
    model = VFMSegForSemanticSegmentation(config(embed_dim=width, num_heads=6)).eval()
    assert model(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 19, 64, 64)
    with pytest.raises(StrictDataclassError, match="has 2 blocks, but the heads see the output of 4"):
        config(embed_dim=32, depth=2)


def test_overrides_at_loading_are_validated(tiny_config, tmp_path):
    tiny_config().save_pretrained(tmp_path)
    with pytest.raises(Exception, match="window_stride=900 is larger"):
        VFMSegConfig.from_pretrained(tmp_path, window_stride=900)
    with pytest.raises(ValueError, match="num_labels=3 does not agree with the 2 classes"):
        VFMSegConfig.from_pretrained(tmp_path, num_labels=3, id2label={0: "a", 1: "b"})


def test_overrides_that_are_no_fields_are_refused(tiny_config, tmp_path):
    config = tiny_config()
    config.save_pretrained(tmp_path)
    for load in (VFMSegConfig.from_pretrained, lambda _, **fields: VFMSegConfig.from_dict(config.to_dict(), **fields)):
        with pytest.raises(ValueError, match=r"\['widow_size'\] are no fields"):
            load(tmp_path, widow_size=64)
        assert load(tmp_path, widow_size=64, return_unused_kwargs=True)[1] == {"widow_size": 64}
    assert VFMSegConfig.from_pretrained(tmp_path, local_files_only=True, revision="main", token=None).num_labels == 19
    assert AutoConfig.from_pretrained(tmp_path, foo=3).num_labels == 19, "a pipeline passes on what is meant for others"


def test_a_file_of_a_later_version_keeps_what_it_has(tiny_config, tmp_path, loading_log):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**tiny_config().to_dict(), "dream_depth": 3}, default=str))
    for load in (VFMSegConfig, AutoConfig):
        loaded = load.from_pretrained(tmp_path)
        assert loaded.dream_depth == 3 and loaded.to_dict()["dream_depth"] == 3
    assert "settings that this version does not know: ['dream_depth']" in loading_log.text


def test_a_file_with_another_ignored_id_is_refused(tiny_config, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**tiny_config().to_dict(), "semantic_loss_ignore_index": -100}, default=str))
    for load in (VFMSegConfig, AutoConfig):
        with pytest.raises(Exception, match="semantic_loss_ignore_index must be 255.*got -100"):
            load.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "backbone, message",
    [
        ({"hidden_size": 64}, "no 'model_type'"),
        ({"model_type": "dinov99"}, "unknown model_type 'dinov99'"),
        ({"model_type": "resnet"}, r"'resnet' is not a supported encoder.*'dinov2'"),
    ],
)
def test_backbone_types(backbone, message):
    with pytest.raises(ValueError, match=message):
        VFMSegConfig(backbone_config=backbone)


def test_another_models_configuration_is_refused(tmp_path):
    Dinov2Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="configuration of a 'dinov2' model.*from_backbone"):
        VFMSegConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "saved, overrides, expected",
    [
        ({"refine_budget": 1}, {}, (1, None)),
        ({"refine_budget": 1.0}, {}, (None, 1.0)),
        ({"refine_budget": None}, {}, (None, None)),
        ({"refine_budget": 0.25}, {"max_windows": 3}, (3, None)),
        ({"max_windows": 3}, {"max_window_share": 0.5}, (None, 0.5)),
        ({"max_windows": 3}, {"max_windows": None}, (None, None)),
        ({"max_windows": 3}, {}, (3, None)),
    ],
    ids=str,
)
def test_a_saved_limit_on_the_windows_is_read_and_replaced(saved, overrides, expected, tiny_config, tmp_path):
    tiny_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **saved}))
    for load in (VFMSegConfig, AutoConfig):
        config = load.from_pretrained(tmp_path, **overrides)
        assert (config.max_windows, config.max_window_share) == expected and not hasattr(config, "refine_budget")
