"""timm's encoders: what only they have. (What holds for every encoder is in test_encoders.py.)"""

import copy
import json
import pickle

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSemanticSegmentation, TimmWrapperConfig

from tests.support.blockers import run_without
from tests.support.numbers import disagreement
from vfmseg_hf import VFMSegConfig, VFMSegForSemanticSegmentation, VFMSegModel
from vfmseg_hf.convert.eva02 import Eva02
from vfmseg_hf.convert.foundation import convert_foundation
from vfmseg_hf.model import encoder_timm as encoder_timm_vfmseg
from vfmseg_hf.model.adapters import lora_config
from vfmseg_hf.model.encoders import get_encoder_family


timm = pytest.importorskip("timm")

TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2}
ARCHITECTURES = {
    "eva02": ("eva02_base_patch14_224", 14),
    "eva02 of CLIP": ("eva02_base_patch16_clip_224", 16),
    "vit": ("vit_base_patch16_224", 16),
    "vit of CLIP": ("vit_base_patch16_clip_quickgelu_224", 16),
    "vit with registers": ("vit_base_patch14_reg4_dinov2", 14),
    "vit with rotary positions": ("vit_base_patch16_dinov3", 16),
}
EVERY = pytest.mark.parametrize("kind", ARCHITECTURES)
SEVERAL = pytest.mark.parametrize("kind", ["eva02", "vit"])
FUSED = "eva02_tiny_patch14_224"


def tiny_config(kind="eva02", model_args=None, backbone=None, **overrides):
    """A four-block timm model of width 32 at patch 16, with small heads and windows."""
    backbone_config = {
        "model_type": "timm_wrapper",
        "architecture": ARCHITECTURES[kind][0] if kind in ARCHITECTURES else kind,
        "model_args": {**TINY, "img_size": 64, "patch_size": 16, **(model_args or {})},
        **(backbone or {}),
    }
    small = {"refine_hidden_size": 128, "refine_num_layers": 1, "refine_num_attention_heads": 2, "refine_head_dim": 16}
    sizes = {"coarse_size": 64, "window_size": 64, "window_stride": 40}
    return VFMSegConfig(backbone_config=backbone_config, **{**small, **sizes, **overrides})


def tiny_model(*args, **kwargs):
    return scatter(VFMSegForSemanticSegmentation(tiny_config(*args, **kwargs)).eval())


def scatter(model, std=0.1):
    """Noise on every weight, so that positions and attention matter and no value is an initial one by chance."""
    for parameter in model.parameters():
        parameter.data.add_(std * torch.randn_like(parameter))
    return model


def randomise_lora(model, std=0.3):
    """B of a fresh LoRA is zero; afterwards every A and B is random. Returns them by name."""
    factors = {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}
    for parameter in factors.values():
        parameter.data.normal_(std=std)
    return factors


def write_hub_layout(directory, kind):
    """A directory as timm's repositories on the Hub are: bare keys, a classifier, ImageNet's labels by implication."""
    architecture, patch = ARCHITECTURES[kind]
    settings = {**TINY, "img_size": 5 * patch}
    model = scatter(timm.create_model(architecture, num_classes=1000, **settings))
    directory.mkdir()
    save_file(model.state_dict(), directory / "model.safetensors")
    own = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "num_classes": 1000, "tag": "laion_in1k"}
    config = {"architecture": architecture, "num_classes": 1000, "model_args": settings, "pretrained_cfg": own}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def from_hub_layout(directory, **overrides):
    torch.manual_seed(2)
    small = {"refine_hidden_size": 128, "refine_num_layers": 1, "refine_head_dim": 16}
    sizes = {"coarse_size": 64, "window_size": 64, "window_stride": 40}
    return VFMSegForSemanticSegmentation.from_backbone(directory, **{**small, **sizes, **overrides})


@pytest.fixture
def image():
    return torch.randn(1, 3, 70, 100)


@pytest.fixture
def predict(image):
    def predict(model):
        with torch.no_grad():
            return model.eval()(image, refine="all").logits

    return predict


# ------------------------------------------------------------------------------------------------- features


@EVERY
@pytest.mark.parametrize("size", [(64, 64), (48, 112), (16, 32)], ids=str)
def test_features_are_timms_own(kind, size):
    model = scatter(VFMSegModel(tiny_config(kind)).eval())
    architecture = model.config.backbone_config.architecture
    reference = timm.create_model(
        architecture, num_classes=0, img_size=64, patch_size=16, dynamic_img_size=True, **TINY
    ).eval()
    weights = {key.removeprefix("timm_model."): value for key, value in model.encoder.state_dict().items()}
    missing, unexpected = reference.load_state_dict(weights, strict=False)
    assert not unexpected and {key.partition(".")[0] for key in missing} <= {"norm", "fc_norm"}
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        maps = model(images).feature_maps
        expected = reference.forward_intermediates(images, norm=False, intermediates_only=True)
    for found, wanted in zip(maps, expected, strict=True):
        assert found.shape == (2, 32, size[0] // 16, size[1] // 16)
        assert torch.equal(found, wanted)


def test_rotary_positions_follow_the_published_rule():
    """The position along an axis is index / length * 16, whatever the length: rows first, then columns."""
    model = VFMSegModel(tiny_config()).eval()
    rows, columns, head_dim = 3, 5, 16
    _, arguments = model.family.embed(model.encoder, torch.randn(1, 3, 16 * rows, 16 * columns), "size")
    frequencies = 10000.0 ** (-torch.arange(0, head_dim // 2, 2) / (head_dim // 2))
    row = (torch.arange(rows) / rows * 16).repeat_interleave(columns)
    column = (torch.arange(columns) / columns * 16).repeat(rows)
    angles = torch.cat([row[:, None] * frequencies, column[:, None] * frequencies], dim=1).repeat_interleave(2, dim=1)
    torch.testing.assert_close(arguments["rope"], torch.cat([angles.sin(), angles.cos()], dim=1))


def test_layer_norm_eps_is_a_setting(tmp_path):
    model = tiny_model(backbone={"layer_norm_eps": 1e-5})
    norms = [module for module in model.model.encoder.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 12 and {norm.eps for norm in norms} == {1e-5}
    model.save_pretrained(tmp_path)
    loaded = VFMSegForSemanticSegmentation.from_pretrained(tmp_path)
    assert loaded.model.encoder.timm_model.blocks[3].mlp.norm.eps == 1e-5
    assert tiny_model().model.encoder.timm_model.blocks[0].norm1.eps == 1e-6, "timm's own"


@SEVERAL
def test_no_block_is_dropped_at_random(kind):
    model = VFMSegModel(tiny_config(kind, model_args={"drop_path_rate": 0.9})).train()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(images).feature_maps[3], model(images).feature_maps[3])


# -------------------------------------------------------------------------------------------- LoRA, training


def ineffective_factors(config):
    """LoRA factors that get no gradient, or whose removal leaves the feature maps as they are."""
    model = scatter(VFMSegForSemanticSegmentation(config)).eval()
    model.add_adapter(lora_config(config, r=2, lora_alpha=4, lora_dropout=0.0))
    factors = randomise_lora(model)
    images = torch.randn(1, 3, 48, 80)

    def features():
        return torch.cat(model.model(images).feature_maps)

    weights = torch.randn(4, 32, 3, 5)
    result = (features() * weights).sum()
    if result.requires_grad:
        result.backward()
    dead = {name for name, factor in factors.items() if factor.grad is None or not factor.grad.norm() > 0}
    with torch.no_grad():
        before = features()
        for name, factor in factors.items():
            kept = factor.clone()
            factor.zero_()
            if not (features() - before).norm() > 1e-4 * before.norm():
                dead.add(name)
            factor.copy_(kept)
    return factors, dead


@EVERY
def test_lora_is_effective_on_every_target(kind):
    factors, dead = ineffective_factors(tiny_config(kind))
    targets = 4 if kind.startswith("eva02") else 1
    assert len(factors) == 2 * 4 * targets
    assert not dead


def test_fused_eva02_would_bypass_lora(monkeypatch):
    """The refusal is right: without it every LoRA of this model is without effect."""
    with pytest.raises(ValueError, match=r"eva02_tiny_patch14_224 .*blocks\.0\.attn\.qkv .*no effect.*eva02_large"):
        tiny_config(FUSED)
    monkeypatch.setattr(encoder_timm_vfmseg, "bypassed_layers", lambda model, targets: [])
    factors, dead = ineffective_factors(tiny_config(FUSED))
    assert len(factors) == 8 and dead == set(factors)


@SEVERAL
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_keeps_every_gradient(kind, reentrant):
    model = tiny_model(kind, refine_dropout=0.0, head_dropout=0.0, feature_mask_ratio=0.0)
    model.add_adapter(lora_config(model.config, r=2, lora_dropout=0.0))
    randomise_lora(model)
    model.train()
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(0, 19, (2, 64, 64))

    def gradients():
        model.zero_grad()
        model(images, labels=labels, detail_crop_box=(0, 0, 32, 32)).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    runs = []
    block = model.model.encoder.timm_model.blocks[0]
    block.register_forward_pre_hook(lambda *_: runs.append(1))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    assert model.is_gradient_checkpointing and model.supports_gradient_checkpointing
    checkpointed = gradients()
    assert len(runs) == 2, "once forward, once more in the backward pass"
    factors = {name for name, _ in model.named_parameters() if ".lora_" in name}
    assert factors <= plain.keys() == checkpointed.keys()
    assert all(plain[name].norm() > 0 for name in factors)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


def test_input_gradients_for_peft():
    model = tiny_model()
    assert model.get_input_embeddings() is model.model.encoder.timm_model.patch_embed
    model.requires_grad_(False)
    model.enable_input_require_grads()
    assert model.model(torch.randn(1, 3, 64, 64)).feature_maps[0].requires_grad


def test_bfloat16(tmp_path, image):
    model = tiny_model()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(image, refine="all").logits.isfinite().all()
    model.save_pretrained(tmp_path)
    loaded = VFMSegForSemanticSegmentation.from_pretrained(tmp_path, dtype=torch.bfloat16)
    rotary = loaded.model.encoder.timm_model.rope
    assert torch.equal(rotary.bands, model.model.encoder.timm_model.rope.bands), "positions keep their precision"
    with torch.no_grad():
        assert loaded(image.to(torch.bfloat16), refine="all").logits.isfinite().all()


# -------------------------------------------------------------------------------------------------- attention


@SEVERAL
def test_attention_implementation_reaches_timm(kind, tmp_path, predict, loading_log):
    tiny_model(kind).save_pretrained(tmp_path)
    outputs = []
    for implementation in ("eager", "sdpa"):
        model = VFMSegForSemanticSegmentation.from_pretrained(tmp_path, attn_implementation=implementation)
        fused = {block.attn.fused_attn for block in model.model.encoder.timm_model.blocks}
        assert fused == {implementation == "sdpa"}
        outputs.append(predict(model))
    assert disagreement(*outputs) <= 1
    assert not loading_log.records


def test_attention_maps_are_refused():
    model = tiny_model()
    image = torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match="'timm_wrapper' do not give their attention maps"):
        model(image, output_attentions=True)
    with torch.no_grad():
        assert len(model(image, output_hidden_states=True).hidden_states) == 5


# -------------------------------------------------------------------------------------------- saving, loading


@EVERY
def test_round_trip_is_exact(kind, tmp_path, predict, loading_log):
    model = tiny_model(kind)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    saved = model.config.to_dict()
    assert VFMSegConfig.from_dict(saved).to_dict() == saved
    assert loaded.config.backbone_config.to_dict() == model.config.backbone_config.to_dict() | {"dtype": "float32"}
    assert_same_state(loaded, model)
    assert torch.equal(predict(loaded), predict(model))
    encoder = VFMSegModel.from_pretrained(tmp_path)
    assert_same_state(encoder, model.model)

    fresh = VFMSegForSemanticSegmentation(loaded.config)
    fresh.load_state_dict(model.state_dict())  # as Trainer resumes
    assert torch.equal(predict(fresh), predict(model))
    assert not loading_log.records


def assert_same_state(found, expected):
    """The same parameters and buffers; those that no file holds (rotary tables) too."""
    for tensors in ("named_parameters", "named_buffers"):
        theirs = dict(getattr(expected, tensors)())
        ours = dict(getattr(found, tensors)())
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_saved_config_is_small(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["backbone_config"]
    assert saved["num_classes"] == 0 and saved["label_names"] == []
    assert not {"id2label", "label2id"} & saved.keys()


def test_imagenets_labels_do_not_come_along():
    native = TimmWrapperConfig.from_dict({"architecture": "eva02_base_patch14_448", "num_classes": 1000})
    assert native.num_labels == 1000 and "tench" in str(native.id2label)
    for given in (native, {**native.to_dict(), "model_type": "timm_wrapper"}):
        config = VFMSegConfig(backbone_config=given, patch_size=14, coarse_size=448)
        assert "tench" not in config.to_json_string() and len(config.id2label) == 19
    assert native.num_labels == 1000, "the given configuration stays as it was"


def test_copies(predict):
    model = tiny_model()
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(predict(twin), predict(model))


def test_encoder_compiles_into_one_graph_and_exports():
    model = VFMSegModel(tiny_config()).eval()
    images = torch.randn(3, 3, 48, 80)
    with torch.no_grad():
        expected = model(images).feature_maps
        compiled = torch.compile(model, fullgraph=True, backend="eager")(images).feature_maps
        exported = torch.export.export(
            model, (torch.randn(2, 3, 48, 80),), dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=2)}}
        )
        for maps in (compiled, exported.module()(images).feature_maps):
            torch.testing.assert_close(maps, expected)


@EVERY
def test_a_hub_directory_of_timm(kind, tmp_path, loading_log):
    """Bare keys; the classifier stays behind; the kernel and the table are resampled, nothing else changes."""
    directory = write_hub_layout(tmp_path / "timm", kind)
    model = from_hub_layout(directory)
    assert not loading_log.records
    backbone = model.config.backbone_config
    assert backbone.model_args == {**TINY, "img_size": 512, "patch_size": 16, "dynamic_img_size": True}
    assert backbone.to_dict()["label_names"] == []
    assert set(backbone.pretrained_cfg) == {"mean", "std"}
    native = timm.create_model(backbone.architecture, num_classes=0, **TINY, img_size=5 * ARCHITECTURES[kind][1])
    stored = load_file(directory / "model.safetensors")
    ours = {key.removeprefix("timm_model."): value for key, value in model.model.encoder.state_dict().items()}
    assert {key.partition(".")[0] for key in stored.keys() - ours.keys()} <= {"norm", "fc_norm", "head"}
    changed = {key for key in ours if not torch.equal(ours[key], stored[key])}
    patch = {"patch_embed.proj.weight"} if ARCHITECTURES[kind][1] != 16 else set()
    assert changed == patch | ({"pos_embed"} if native.pos_embed is not None else set())
    kernel = torch.nn.functional.interpolate(stored["patch_embed.proj.weight"], size=(16, 16), mode="bicubic")
    torch.testing.assert_close(ours["patch_embed.proj.weight"], kernel)
    if native.pos_embed is not None:
        prefix = 0 if native.no_embed_class else 1
        table = stored["pos_embed"][:, prefix:].reshape(1, 5, 5, 32).permute(0, 3, 1, 2)
        table = torch.nn.functional.interpolate(table, size=(32, 32), mode="bicubic").flatten(2).transpose(1, 2)
        torch.testing.assert_close(ours["pos_embed"], torch.cat([stored["pos_embed"][:, :prefix], table], dim=1))


def test_what_timm_saves_itself(tmp_path):
    """It writes the number of its classes among the arguments that models are built with."""
    arguments = {**TINY, "img_size": [80, 80], "num_classes": 10, "in_chans": 3, "global_pool": "token"}
    native = timm.create_model("vit_base_patch16_224", **arguments)
    timm.models.save_for_hf(native, tmp_path, model_args=arguments, safe_serialization=True)
    model = VFMSegForSemanticSegmentation.from_backbone(tmp_path, window_size=64, window_stride=64, coarse_size=64)
    blocks = model.model.encoder.timm_model.blocks.state_dict()
    assert all(torch.equal(value, blocks[name]) for name, value in native.blocks.state_dict().items())


def test_weights_of_masked_image_modelling(tmp_path, loading_log):
    """They come with the norm before their decoder instead of a classifier's, which the encoder does not have."""
    directory = write_hub_layout(tmp_path / "timm", "eva02")
    weights = {
        key.replace("fc_norm.", "norm."): value for key, value in load_file(directory / "model.safetensors").items()
    }
    weights.pop("head.weight"), weights.pop("head.bias")
    weights.update({"mask_token": torch.zeros(1, 1, 32), "lm_head.weight": torch.zeros(8, 32)})
    save_file(weights, directory / "model.safetensors")
    from_hub_layout(directory)
    assert not loading_log.records


@SEVERAL
def test_adapters(kind, tmp_path, predict, loading_log):
    foundation = write_hub_layout(tmp_path / "timm", kind)
    model = from_hub_layout(foundation)
    model.add_adapter(lora_config(model.config, r=2))
    randomise_lora(model)
    model.save_pretrained(tmp_path / "adapter")
    loaded = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "adapter")
    assert torch.equal(predict(loaded), predict(model))
    with_lora = predict(model)
    merged = model.merge_and_unload()
    assert disagreement(predict(merged), with_lora, tolerance=1e-5) <= 1
    merged.save_pretrained(tmp_path / "merged")
    plain = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "merged")
    assert torch.equal(predict(plain), predict(merged))
    assert not loading_log.records

    other = write_hub_layout(tmp_path / "other", kind)
    with pytest.raises(ValueError, match="fingerprint"):
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "adapter", backbone_name_or_path=other)


def test_the_encoder_alone_is_a_foundation(tmp_path, loading_log):
    """The converter writes an adapter's base this way."""
    model = from_hub_layout(write_hub_layout(tmp_path / "timm", "eva02"))
    model.model.encoder.save_pretrained(tmp_path / "base", save_original_format=False)
    again = from_hub_layout(tmp_path / "base")
    assert_same_state(again.model, model.model)
    assert not loading_log.records


def test_another_architecture_under_an_adapter(tmp_path):
    model = from_hub_layout(write_hub_layout(tmp_path / "timm", "eva02"))
    model.add_adapter(lora_config(model.config, r=2))
    model.save_pretrained(tmp_path / "adapter")
    other = write_hub_layout(tmp_path / "vit", "vit")
    config = json.loads((other / "config.json").read_text())
    config["model_args"]["num_heads"] = 4
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="num_heads=4, but .* 2"):
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "adapter", backbone_name_or_path=other)


def write_original_eva02(path, inner_norm):
    """EVA02's own file: other names, everything under `model`, rotary tables in every block, a head for pixels."""
    architecture = "eva02_base_patch16_clip_224" if inner_norm else "eva02_base_patch14_224"
    model = scatter(timm.create_model(architecture, num_classes=0, **TINY, img_size=70, patch_size=14)).eval()
    renamed = {"fc1_g": "w1", "fc1_x": "w2", "fc2": "w3", "mlp.norm": "mlp.ffn_ln", "attn.norm": "attn.inner_attn_ln"}
    renamed |= {"q_proj.bias": "q_bias", "v_proj.bias": "v_bias"}
    weights = {}
    for key, tensor in model.state_dict().items():
        for ours, theirs in renamed.items():
            key = key.replace(ours, theirs)
        weights[key] = tensor
    sin, cos = model.rope.get_embed().chunk(2, dim=-1)
    for owner in ("", *(f"blocks.{number}.attn." for number in range(4))):
        weights |= {f"{owner}rope.freqs_sin": sin, f"{owner}rope.freqs_cos": cos}
    weights |= {"mask_token": torch.zeros(1, 1, 32), "lm_head.weight": torch.ones(8, 32), "lm_head.bias": torch.ones(8)}
    torch.save({"model": weights}, path)
    return model


@pytest.mark.parametrize("inner_norm", [False, True])
def test_original_eva02_file(inner_norm, tmp_path, loading_log):
    reference = write_original_eva02(tmp_path / "eva02.pt", inner_norm)
    converted = convert_foundation(tmp_path / "eva02.pt", tmp_path / "out", "eva02")
    assert len(converted.dropped) == 2 * 5 + 3 + 2 and not converted.lora
    native = TimmWrapperConfig.from_pretrained(tmp_path / "out")
    size = {"img_size": 70, "patch_size": 14}
    assert native.model_args == {**TINY, **size} and native.num_labels == 0
    model = from_hub_layout(tmp_path / "out", backbone_config=native, patch_size=14, coarse_size=70)
    images = torch.randn(2, 3, 70, 70)
    with torch.no_grad():
        expected = reference.forward_intermediates(images, norm=False, intermediates_only=True)
        for found, wanted in zip(model.model(images).feature_maps, expected, strict=True):
            torch.testing.assert_close(found, wanted)
    assert from_hub_layout(tmp_path / "out").config.backbone_config.model_args["img_size"] == 512
    with_eps = convert_foundation(tmp_path / "eva02.pt", tmp_path / "eps", "eva02", {"layer_norm_eps": 1e-5})
    assert with_eps.encoder.keys() == converted.encoder.keys()
    assert from_hub_layout(tmp_path / "eps").model.encoder.timm_model.blocks[0].norm1.eps == 1e-5
    assert not loading_log.records


def test_original_files_of_other_kinds(tmp_path):
    write_original_eva02(tmp_path / "eva02.pt", inner_norm=False)
    weights = torch.load(tmp_path / "eva02.pt")["model"]
    torch.save({"model": weights | {"blocks.0.attn.wings": torch.zeros(1)}}, tmp_path / "wings.pt")
    with pytest.raises(ValueError, match=r"1 keys are none of the original eva02 model's.*attn\.wings"):
        convert_foundation(tmp_path / "wings.pt", tmp_path / "out", "eva02")
    fused = {key: value for key, value in weights.items() if "_proj" not in key and "_bias" not in key}
    fused["blocks.0.attn.qkv.weight"] = torch.zeros(96, 32)
    with pytest.raises(ValueError, match=r"one layer for q, k and v.*base and large"):
        Eva02().native_config(fused)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------- configuration, bad input


def test_facts_of_real_architectures():
    for architecture, model_args, width, depth, out_indices in (
        ("eva02_base_patch16_clip_224", {"img_size": 512}, 768, 12, [2, 5, 8, 11]),
        ("eva02_large_patch14_448", {"img_size": 512, "patch_size": 16}, 1024, 24, [5, 11, 17, 23]),
        ("vit_small_patch16_384.augreg_in21k_ft_in1k", None, 384, 12, [2, 5, 8, 11]),
    ):
        config = VFMSegConfig(
            backbone_config={"model_type": "timm_wrapper", "architecture": architecture, "model_args": model_args}
        )
        family = get_encoder_family(config.backbone_config)
        assert family.hidden_size(config.backbone_config) == width
        assert family.depth(config.backbone_config) == depth
        assert config.out_indices == out_indices
        assert family.grid(config.backbone_config) == (24 if model_args is None else 32)


def test_image_constants():
    imagenet = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

    def constants(**settings):
        config = TimmWrapperConfig(num_labels=0, **settings)
        family = get_encoder_family(config)
        return family.image_mean(config), family.image_std(config)

    assert constants(architecture="eva02_base_patch14_224") == imagenet, "as published"
    assert constants(architecture="vit_base_patch16_224") == ([0.5] * 3, [0.5] * 3), "timm's default for it"
    own = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    assert constants(architecture="vit_base_patch16_224", pretrained_cfg=own) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])


@pytest.mark.parametrize(
    ("architecture", "model_args", "message"),
    [
        ("resnet18", {}, "is a ResNet, which is not supported.* VisionTransformer and Eva"),
        ("swin_tiny_patch4_window7_224", {}, "is a SwinTransformer, which is not supported"),
        ("vit_base_r50_s16_224", {}, "not supported.*plain patch embedding"),
        ("vit_small_patch16_rope_mixed_224", {}, "rotary positions differ from block to block"),
        ("vit_base_patch16_xp_224", {}, "blocks are of the class ParallelScalingBlock"),
        ("eva02_small_patch14_224", {}, r"reads? the weight of blocks\.0\.attn\.qkv directly"),
        ("eva02_enormous_patch14_clip_224", {}, r"reads? the weight of blocks\.0\.attn\.qkv directly"),
        ("eva02_base_patch14_224", {"patch_drop_rate": 0.5}, "patch_drop_rate must be 0"),
        ("eva02_base_patch14_224", {"img_size": [64, 96]}, "img_size must be square"),
        ("eva02_base_patch14_224", {"in_chans": 4}, "in_chans must be 3"),
        ("eva02_base_patch14_224", {"wings": 2}, "cannot be built with model_args=.*wings"),
        ("eva03_base", {}, "has no architecture 'eva03_base'"),
    ],
)
def test_refused_architectures(architecture, model_args, message):
    backbone = {"model_type": "timm_wrapper", "architecture": architecture, "model_args": model_args}
    with pytest.raises(ValueError, match=message):
        VFMSegConfig(backbone_config=backbone)


def test_width_and_patch_are_checked():
    with pytest.raises(StrictDataclassClassValidationError, match=r"multiple of 32 .* got 48"):
        tiny_config(model_args={"embed_dim": 48})
    with pytest.raises(StrictDataclassClassValidationError, match="patch size 14"):
        tiny_config(model_args={"patch_size": 14})


def test_without_timm(tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    write_hub_layout(tmp_path / "timm", "eva02")
    code = f"""
        from vfmseg_hf import VFMSegConfig, VFMSegForSemanticSegmentation

        backbone = {{"model_type": "timm_wrapper", "architecture": "eva02_base_patch14_224"}}
        for load in (
            lambda: VFMSegConfig(backbone_config=backbone),
            lambda: VFMSegForSemanticSegmentation.from_pretrained({str(tmp_path / "model")!r}),
            lambda: VFMSegForSemanticSegmentation.from_backbone({str(tmp_path / "timm")!r}),
        ):
            try:
                load()
            except ImportError as error:
                print("ImportError", "vfmseg-hf[timm]" in str(error))
        """
    result = run_without(["timm"], code)
    assert result.stdout.splitlines() == ["ImportError True"] * 3, result.stderr


def test_a_model_can_be_pickled():
    """The encoder's class is made when it is first needed, and found again by its name."""
    model = tiny_model()
    clone = pickle.loads(pickle.dumps(model))
    assert type(clone.model.encoder) is type(model.model.encoder)
    assert all(torch.equal(clone.state_dict()[key], tensor) for key, tensor in model.state_dict().items())
