# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What `lora_config` adapts and how it starts: all linear layers, untouched first blocks, MiCA, DoRA."""

import numpy as np
import pytest
import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from tests.support.numbers import disagreement, lively
from vfmseg_hf import VFMSegForSemanticSegmentation, lora_config
from vfmseg_hf.model.adapters import lora_arguments


STRONG = {"targets": "all-linear", "init_lora_weights": "mica", "frozen_share": 1 / 3}
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"}  # of a block of DINOv2


@pytest.fixture
def base(tiny_model, tmp_path):
    """A whole model in a file, of six blocks, on which adapters train."""
    lively(tiny_model(backbone_config={"num_hidden_layers": 6})).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapt(base, **options) -> VFMSegForSemanticSegmentation:
    model = VFMSegForSemanticSegmentation.from_pretrained(base)
    model.add_adapter(lora_config(model.config, **{"r": 4, "lora_dropout": 0.0, **options}))
    return model


def train(model, steps: int = 3, decay: float = 0.0) -> VFMSegForSemanticSegmentation:
    """Steps that move whatever trains."""
    trained = [weight for weight in model.train().parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=decay)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 64, 64), labels=torch.randint(0, 19, (2, 64, 64))).loss.backward()
        optimizer.step()
    return model.eval()


def predict(model) -> torch.Tensor:
    images = torch.linspace(-2, 2, 3 * 70 * 100).sin().reshape(1, 3, 70, 100) * 2
    with torch.no_grad():
        return model.eval()(images, refine="all").logits


def factors(model, which: str) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.named_parameters() if f".lora_{which}" in name}


def blocks_with_lora(model) -> list[int]:
    blocks = model.model.family.blocks(model.model.encoder)
    return [
        number
        for number, block in enumerate(blocks)
        if any(isinstance(module, BaseTunerLayer) for module in block.modules())
    ]


@pytest.mark.parametrize(
    "share, depth, first", [(0, 6, 0), (1 / 3, 6, 2), (1 / 3, 4, 1), (0.5, 6, 3), (0.24, 6, 1), (0.99, 6, 5)]
)
def test_first_blocks_without_lora(share, depth, first, tiny_model):
    """Rounded to whole blocks; the last one has LoRA whatever the share is."""
    for targets in ("default", "all-linear", ["fc1"]):
        model = tiny_model(backbone_config={"num_hidden_layers": depth})
        config = lora_config(model.config, r=2, targets=targets, frozen_share=share)
        model.add_adapter(config)
        assert blocks_with_lora(model) == list(range(first, depth))
        assert lora_arguments(config, model.config)["frozen_share"] == first / depth


def test_the_default_is_the_papers_lora(tiny_config):
    """What every adapter has that was saved before there was a choice."""
    config = lora_config(tiny_config())
    assert config.target_modules == r"model\.encoder\..*\.(q_proj|k_proj|v_proj)" and config.exclude_modules is None
    assert (config.init_lora_weights, config.use_dora) == (True, False)
    assert lora_arguments(config, tiny_config()) == {
        "r": 32, "lora_alpha": 32, "lora_dropout": 0.1, "targets": "default", "use_dora": False,
        "init_lora_weights": True, "frozen_share": 0.0,
    }  # fmt: skip


def test_the_random_numbers_are_left_alone(tiny_config):
    """A model is built to know its layers, and what is drawn afterwards does not depend on it."""
    state = torch.get_rng_state()
    lora_config(tiny_config(), **STRONG)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("swiglu", [False, True])
def test_every_linear_layer_of_dinov2(swiglu, tiny_model):
    model = tiny_model(backbone_config={"use_swiglu_ffn": swiglu})
    model.add_adapter(lora_config(model.config, r=2, targets="all-linear"))
    names = {name.split(".lora_")[0].rpartition(".")[2] for name in factors(model, "A")}
    assert names == (
        {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"} if swiglu else LINEAR
    )


def test_mica_starts_in_the_minor_left_singular_vectors(base):
    """Against numpy: B B' projects on the span of those of the smallest singular values, and A is zero."""
    plain = VFMSegForSemanticSegmentation.from_pretrained(base)
    weights = {name: weight.detach().double().numpy() for name, weight in plain.named_parameters()}
    model = adapt(base, **STRONG)
    assert torch.equal(predict(model), predict(plain)), "LoRA changes nothing before it is trained"
    found = factors(model, "B")
    assert len(found) == 4 * len(LINEAR)
    for name, factor in found.items():
        weight = weights[name.split(".lora_B")[0] + ".weight"]
        vectors, values, _ = np.linalg.svd(weight, full_matrices=False)
        minor = vectors[:, np.argsort(values)[:4]]
        factor = factor.detach().double().numpy()
        np.testing.assert_allclose(factor @ factor.T, minor @ minor.T, atol=2e-3)
        np.testing.assert_allclose(factor.T @ factor, np.eye(4), atol=1e-5)
    assert all(not factor.any() for factor in factors(model, "A").values())


def test_mica_trains_a_alone(base):
    model = adapt(base, **STRONG)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    of_encoder = {name for name in trained if name.startswith("model.")} - {"model.mask_token"}
    assert of_encoder == set(factors(model, "A")), "B is frozen, and so is the encoder"
    width, rank, hidden = 32, 4, 128
    assert sum(model.get_parameter(name).numel() for name in of_encoder) == 4 * rank * (5 * width + hidden)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    train(model, decay=0.5)
    for name, weight in model.named_parameters():
        if ".lora_B" in name or (name.startswith("model.encoder.") and ".lora_" not in name):
            assert torch.equal(weight, before[name]), name
        elif ".lora_A" in name:
            assert not torch.equal(weight, before[name]), name


@pytest.mark.parametrize(
    "options",
    [
        STRONG,
        {"use_dora": True},
        {"use_dora": True, "targets": "all-linear", "frozen_share": 0.5},
        {"init_lora_weights": "gaussian"},
        {"targets": ["fc1", "o_proj"]},
    ],
    ids=["strong", "DoRA", "DoRA in all linear layers", "gaussian", "names"],
)
def test_saved_loaded_merged(options, base, tmp_path, loading_log):
    """As an adapter and as a whole model the trained model gives its logits, and its adapter says how it was made."""
    model = train(adapt(base, **options))
    expected = predict(model)
    assert disagreement(predict(VFMSegForSemanticSegmentation.from_pretrained(base)), expected, tolerance=1e-3) > 1
    model.save_pretrained(tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for name, weight in model.named_parameters():
        if ".lora_" in name:  # frozen ones, too
            key = "base_model.model." + name.replace(".default", "").replace(
                "magnitude_vector.weight", "magnitude_vector"
            )
            assert torch.equal(stored[key], weight), name
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    for is_trainable in (False, True):
        again = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "adapter", is_trainable=is_trainable)
        assert torch.equal(predict(again), expected)
        found = {name for name, weight in again.named_parameters() if weight.requires_grad}
        assert found == (trained if is_trainable else set())
        again.save_pretrained(tmp_path / f"again {is_trainable}")
        made = lora_arguments(PeftConfig.from_pretrained(str(tmp_path / f"again {is_trainable}")), model.config)
        assert made == lora_arguments(lora_config(model.config, r=4, lora_dropout=0.0, **options), model.config)
    again.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "merged")
    assert disagreement(predict(merged), expected, tolerance=1e-4) <= 1
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert not loading_log.records


def test_minor_directions_are_found_once(base, tmp_path, monkeypatch):
    """They are in the checkpoint, and who predicts does not wait for them."""
    trained = train(adapt(base, **STRONG))
    trained.save_pretrained(tmp_path / "adapter")
    monkeypatch.setattr(torch.linalg, "svd", lambda *args, **kwargs: pytest.fail("looked for again"))
    model = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "adapter")
    assert torch.equal(predict(model), predict(trained)) and model.peft_config["default"].init_lora_weights == "mica"


def test_dora_trains_the_norms_of_rows(base):
    """At the start they are those of the weight, so that nothing changes."""
    plain = VFMSegForSemanticSegmentation.from_pretrained(base)
    model = adapt(base, use_dora=True)
    magnitudes = factors(model, "magnitude_vector")
    assert len(magnitudes) == 6 * 3 and all(weight.requires_grad for weight in magnitudes.values())
    for name, magnitude in magnitudes.items():
        weight = plain.get_parameter(name.split(".lora_")[0] + ".weight")
        torch.testing.assert_close(magnitude, weight.norm(dim=1))
    assert disagreement(predict(model), predict(plain), tolerance=1e-5) <= 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"r": 0}, "rank r must be 1 or more, got 0"),
        ({"lora_alpha": 0}, "lora_alpha must be above 0, got 0"),
        ({"lora_dropout": 1.0}, r"lora_dropout must lie in \[0, 1\), got 1.0"),
        ({"frozen_share": 1}, r"must lie in \[0, 1\), got 1"),
        ({"frozen_share": -0.1}, r"must lie in \[0, 1\), got -0.1"),
        ({"frozen_share": float("nan")}, r"must lie in \[0, 1\), got nan"),
        ({"targets": []}, "LoRA needs targets: 'default', 'all-linear', or names"),
        ({"targets": ["q_proj", "qkv"]}, "no layer 'qkv' for LoRA; its layers are called .*k_proj.*'all-linear'"),
        ({"targets": "all_linear"}, "no layer 'all_linear' for LoRA"),
        ({"init_lora_weights": "pissa"}, "'pissa' is not supported, only True, gaussian, mica"),
        ({"init_lora_weights": "eva"}, "'eva' is not supported"),
        ({"init_lora_weights": False}, "False is not supported"),
        ({"init_lora_weights": "mica", "use_dora": True}, "use_dora does not go with init_lora_weights='mica'"),
    ],
)
def test_what_is_refused(options, message, tiny_config):
    with pytest.raises(ValueError, match=message):
        lora_config(tiny_config(), **options)


def test_a_rank_that_has_no_minor_directions(tiny_model):
    model = tiny_model()
    with pytest.raises(ValueError, match=r"MiCA requires `r` <= min\(in_features, out_features\) but got r=64"):
        model.add_adapter(lora_config(model.config, r=64, init_lora_weights="mica"))
