"""Presets: their values against a second source, recipes, agreement with the weights, and the README's table."""

import importlib.util
import json
import math
import re
from functools import cache

import pytest
import torch
from peft import get_peft_model_state_dict
from transformers import CLIPVisionModel, Dinov2Model, SamVisionModel

from tests.support import REPOSITORY
from tests.support.blockers import run_without
from vfmseg_hf import VFMSegConfig, VFMSegForSemanticSegmentation, image_constants, lora_config
from vfmseg_hf.model import presets as presets_vfmseg
from vfmseg_hf.model.configuration_vfmseg import quarter_depths
from vfmseg_hf.model.encoders import get_encoder_family
from vfmseg_hf.model.presets import PRESETS, Preset, published_options
from vfmseg_hf.training.model import start_model


WITH_TIMM = importlib.util.find_spec("timm") is not None
needs_timm = pytest.mark.skipif(not WITH_TIMM, reason="needs the extra 'timm'")


def names(condition=lambda name: True) -> list:
    """Presets as parameters of a test; those of timm only where it is installed."""
    return [
        pytest.param(name, marks=needs_timm if name.startswith("eva02") else ()) for name in PRESETS if condition(name)
    ]


every = pytest.mark.parametrize("name", names())
PUBLISHED = {
    "dinov2-large": ([7, 11, 15, 23], "dinov2"),
    "clip-large": ([7, 11, 15, 23], "clip"),
    "sam-huge": ([7, 15, 23, 31], "sam"),
    "eva02-large": ([7, 11, 15, 23], "eva02"),
}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SMALL = {"refine_hidden_size": 128, "refine_num_layers": 1, "refine_head_dim": 16}


# ---------------------------------------------------------------------------------------------------- values


@every
def test_the_papers_recipe(name):
    config = VFMSegConfig.from_preset(name)
    backbone, preset = config.backbone_config, PRESETS[name]
    family = get_encoder_family(backbone)
    assert family.patch_size(backbone) == 16 and family.grid(backbone) == (64 if name.startswith("sam") else 32)
    assert config.out_indices == quarter_depths(family.depth(backbone)) and config.coarse_size == 512
    plain = VFMSegConfig(backbone_config=backbone, backbone_name_or_path=preset.hub_id)
    assert config.to_dict() == plain.to_dict(), "the paper's recipe is the default of every other field"
    assert VFMSegConfig.from_dict(json.loads(config.to_json_string())).to_dict() == config.to_dict()
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert image_constants(backbone) == (half if name.startswith("siglip") else IMAGENET)
    assert lora_config(config).target_modules.endswith(rf"\.({'|'.join(map(re.escape, family.lora_targets))})")


def test_the_papers_encoders():
    configs = {name: VFMSegConfig.from_preset(name) for name in PUBLISHED if WITH_TIMM or name != "eva02-large"}
    assert configs["dinov2-large"].out_indices == configs["clip-large"].out_indices == [5, 11, 17, 23]
    assert configs["sam-huge"].out_indices == [7, 15, 23, 31]
    targets = {name: lora_config(config).target_modules.rpartition("(")[2] for name, config in configs.items()}
    assert targets["dinov2-large"] == "q_proj|k_proj|v_proj)" and targets["clip-large"] == "out_proj|fc1|fc2)"
    assert targets["sam-huge"] == "qkv)" and configs["sam-huge"].backbone_config.image_size == 1024
    if WITH_TIMM:
        assert configs["eva02-large"].out_indices == [5, 11, 17, 23]
        assert targets["eva02-large"] == r"q_proj|k_proj|v_proj|attn\.proj)"


# Fields of transformers' classes that a pretrained encoder's output does not depend on, or that have one value only.
IRRELEVANT = {
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "drop_path_rate", "dropout"),
    *("initializer_range", "initializer_factor", "num_channels", "projection_dim", "use_mask_token"),
    *("apply_layernorm", "reshape_hidden_states", "vision_use_head", "num_pos_feats", "mlp_ratio"),
    *("_out_features", "_out_indices"),
}


@pytest.mark.parametrize("name", names(lambda name: not name.startswith("eva02")))
def test_the_table_names_every_field(name):
    fields = PRESETS[name].fields
    config = PRESETS[name].native_config()
    own = {key for key in type(config).__annotations__ if not key.startswith("_")}
    assert set(fields) - {"model_type"} <= own, "fields that the class does not have"
    assert own - set(fields) - IRRELEVANT == set()
    assert "mlp_ratio" in fields or not name.startswith("dinov2"), "these have no width of their MLP beside it"


# The same architectures as timm has them.
TIMM_NAMES = {
    "dinov2": "vit_{}_patch14_dinov2",
    "dinov2-registers": "vit_{}_patch14_reg4_dinov2",
    "dinov3": "vit_{}_patch16_dinov3_qkvb",
    "clip": "vit_{}_patch{}_clip_quickgelu_224",
    "siglip": "vit_{}_patch{}_siglip_{}",
    "siglip2": "vit_{}_patch{}_siglip_{}",
    "sam": "samvit_{}_patch16",
}


def timms(name: str):
    """timm's model of a preset, without memory for its weights."""
    import timm

    kind, _, size = name.rpartition("-")
    config = PRESETS[name].native_config()
    size = {"huge": "huge_plus"}.get(size, size) if kind == "dinov3" else size
    architecture = TIMM_NAMES[kind].format(size, config.patch_size, config.image_size)
    architecture = architecture.replace("vit_7b_patch16_dinov3_qkvb", "vit_7b_patch16_dinov3")
    with torch.device("meta"):
        return timm.create_model(architecture)


def count(module: torch.nn.Module, skipped: str = r"$^") -> int:
    return sum(p.numel() for key, p in module.named_parameters() if not re.search(skipped, key))


@needs_timm
@pytest.mark.parametrize("name", names(lambda name: not name.startswith("eva02")))
def test_architectures_are_those_that_timm_has(name):
    """
    The number of parameters of a block tells widths, kind of MLP and biases; the rest is compared by name.

    Two things are timm's own: SAM's layer norms (1e-5; the original has 1e-6), and an exact GELU in most of SigLIP (the
    original has the tanh form).
    """
    other, config = timms(name), PRESETS[name].native_config()
    family = get_encoder_family(config)
    with torch.device("meta"):
        blocks = family.blocks(family.build(config))
    assert [count(block) for block in blocks] == [count(block) for block in other.blocks]
    assert config.num_attention_heads == other.blocks[0].attn.num_heads
    assert name.startswith("sam") or config.layer_norm_eps == other.blocks[0].norm1.eps
    assert (config.patch_size,) * 2 == other.patch_embed.patch_size
    if not name.startswith("siglip"):
        activation = "silu" if getattr(config, "use_swiglu_ffn", False) else config.hidden_act
        theirs = {"quick_gelu": "QuickGELU", "gelu": "GELU", "silu": "SiLU"}
        assert type(other.blocks[0].mlp.act).__name__ == theirs[activation]
    if name.startswith("dinov3"):
        assert other.num_prefix_tokens == 1 + config.num_register_tokens
        assert float(config.rope_theta) == other.rope.temperature
        return
    assert family.grid(config) == other.patch_embed.grid_size[0]
    if name.startswith("sam"):
        windows = [block.window_size for block in other.blocks]
        assert [n for n, size in enumerate(windows) if size == 0] == list(config.global_attn_indexes)
        assert set(windows) == {0, config.window_size}
    else:
        assert other.num_prefix_tokens == family.num_prefix_tokens(config)


@needs_timm
def test_timms_names_are_on_the_hub():
    import timm

    for name in (name for name in PRESETS if name.startswith("eva02")):
        architecture, _, tag = PRESETS[name].hub_id.removeprefix("timm/").partition(".")
        settings = timm.get_pretrained_cfg(f"{architecture}.{tag}")
        assert PRESETS[name].fields["architecture"] == architecture == settings.architecture
        assert settings.hf_hub_id in ("timm/", PRESETS[name].hub_id) and settings.license == "mit"


# --------------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", names(PUBLISHED.__contains__))
def test_the_published_codes_recipe(name):
    config = VFMSegConfig.from_preset(name, recipe="published-code")
    out_indices, encoder = PUBLISHED[name]
    assert config.out_indices == out_indices
    for key, value in published_options(encoder).items():
        assert getattr(config, key) == value
    eps = {"dinov2": 1e-6, "clip": 1e-5, "sam": 1e-6, "eva02": 1e-5}
    assert config.backbone_config.layer_norm_eps == eps[encoder]
    assert VFMSegConfig.from_preset(name, "published-code", coarse_size=512).coarse_size == 512
    if encoder == "eva02":
        assert not hasattr(PRESETS[name].native_config(), "layer_norm_eps"), "timm's own, 1e-6, with the other recipe"


@pytest.mark.parametrize("name", ["dinov2-base", "dinov2-registers-large", "dinov3-large", "siglip-large", "sam-base"])
@pytest.mark.parametrize("kind", [VFMSegConfig, VFMSegForSemanticSegmentation])
def test_the_published_code_has_four_encoders(kind, name):
    message = f"has no configuration of '{name}', only of dinov2-large, clip-large, sam-huge, eva02-large; use recipe="
    with pytest.raises(ValueError, match=message):
        kind.from_preset(name, recipe="published-code")


@pytest.mark.parametrize("start", [VFMSegConfig.from_preset, VFMSegForSemanticSegmentation.from_preset, start_model])
def test_wrong_names(start):
    with pytest.raises(
        ValueError, match=r"no preset 'dinov2-larg' \(did you mean 'dinov2-large' or .*dinov3-large.*sam-h"
    ):
        start("dinov2-larg")
    with pytest.raises(ValueError, match=r"no preset 'resnet'; the presets are dinov2-small, .*, eva02-clip-large$"):
        start("resnet")


def test_wrong_arguments():
    with pytest.raises(ValueError, match="recipe must be 'paper' or 'published-code', got 'rein'"):
        VFMSegConfig.from_preset("dinov2-large", recipe="rein")
    with pytest.raises(ValueError, match=r"\['coarse_sise'\] are no fields of VFMSegConfig"):
        VFMSegConfig.from_preset("dinov2-large", coarse_sise=512)
    with pytest.raises(Exception, match="coarse_size.*nearest valid value is 496"):
        VFMSegConfig.from_preset("dinov2-large", coarse_size=500)


def test_overrides():
    config = VFMSegConfig.from_preset(
        "dinov3-large", num_labels=3, patch_size=8, coarse_size=256, out_indices=[0, 1, 2, 3]
    )
    assert config.num_labels == 3 and config.out_indices == [0, 1, 2, 3] and config.coarse_size == 256
    assert (config.backbone_config.patch_size, config.backbone_config.image_size) == (8, 256)
    own = {"model_type": "dinov2", "patch_size": 16, "num_hidden_layers": 8}
    assert VFMSegConfig.from_preset("dinov2-small", backbone_config=own).out_indices == [1, 3, 5, 7]
    assert VFMSegConfig.from_preset("sam-huge", backbone_name_or_path="copy").backbone_name_or_path == "copy"


def test_a_preset_is_not_changed_by_its_use():
    before = json.dumps({name: preset.fields for name, preset in PRESETS.items()}, sort_keys=True)
    VFMSegConfig.from_preset("sam-huge", "published-code").backbone_config.global_attn_indexes.append(0)
    assert json.dumps({name: preset.fields for name, preset in PRESETS.items()}, sort_keys=True) == before


def test_without_timm():
    result = run_without(
        ["timm"],
        """
        from vfmseg_hf import VFMSegConfig
        from vfmseg_hf.model.presets import PRESETS

        for name in PRESETS:
            if not name.startswith("eva02"):
                VFMSegConfig.from_preset(name)
        for recipe in ("paper", "published-code"):
            try:
                VFMSegConfig.from_preset("eva02-large", recipe)
            except ImportError as error:
                assert "pip install 'vfmseg-hf[timm]'" in str(error), error
            else:
                raise AssertionError(recipe)
        """,
    )
    assert result.returncode == 0, result.stderr


# --------------------------------------------------------------------------------------------- with weights


TINY = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}


def tiny_preset(name: str, hub_id: str) -> Preset:
    """A preset of the same kind as one of the paper's, with an encoder of four blocks."""
    original = PRESETS[name]
    fields = {**original.fields, **TINY}
    if name.startswith("clip"):
        fields["intermediate_size"] = 64
    if name.startswith("sam"):
        fields |= {"mlp_dim": 64, "image_size": 128, "global_attn_indexes": [1, 3], "window_size": 3}
    return Preset(hub_id, "MIT", fields, original.published_encoder, (0, 1, 2, 3), original.published_fields)


@pytest.fixture(params=["dinov2-large", "clip-large", "sam-huge"])
def tiny(request, monkeypatch, tmp_path):
    """Name of a tiny preset whose place on the Hub is a directory, and the directory."""
    place = tmp_path / "hub"
    preset = tiny_preset(request.param, str(place))
    monkeypatch.setitem(presets_vfmseg.PRESETS, request.param, preset)
    config = preset.native_config()
    get_encoder_family(config).build(config).save_pretrained(place, save_original_format=True)
    return request.param, place


def settled(config: VFMSegConfig) -> dict[str, object]:
    """A configuration without what a file says of itself."""
    fields = config.to_dict()
    for part in (fields, fields["backbone_config"]):
        for key in ("dtype", "architectures", "transformers_version", "_name_or_path", "backbone_name_or_path"):
            part.pop(key, None)
    return fields


@pytest.mark.parametrize("recipe", ["paper", "published-code"])
def test_weights_and_table_agree(recipe, tiny):
    name, place = tiny
    model = VFMSegForSemanticSegmentation.from_preset(name, recipe=recipe, **SMALL, num_labels=3)
    offline = VFMSegConfig.from_preset(name, recipe=recipe, **SMALL, num_labels=3)
    assert settled(model.config) == settled(offline)
    assert model.config.backbone_name_or_path == offline.backbone_name_or_path == str(place)
    assert model.adapter_base == str(place) and model.num_labels == 3
    library = {"dinov2": Dinov2Model, "clip": CLIPVisionModel, "sam": SamVisionModel}[name.partition("-")[0]]
    native = library.from_pretrained(place).state_dict()
    last = next(key for key in native if re.search(r"layers?\.3\..*weight$", key))
    assert torch.equal(model.model.encoder.state_dict()[last], native[last])


def test_a_copy_of_the_weights(tiny, tmp_path):
    name, place = tiny
    copy = place.rename(tmp_path / "copy")
    with pytest.raises(OSError):
        VFMSegForSemanticSegmentation.from_preset(name, **SMALL)
    model = VFMSegForSemanticSegmentation.from_preset(
        name, backbone_name_or_path=copy, dtype=torch.bfloat16, attn_implementation="eager", **SMALL
    )
    assert model.config.backbone_name_or_path == model.adapter_base == str(copy) and model.dtype == torch.bfloat16
    assert model.config.backbone_config._attn_implementation == "eager"


@pytest.mark.parametrize("field, value", [("layer_norm_eps", 1e-3), ("num_attention_heads", 4), ("model_type", "vit")])
def test_weights_and_table_disagree(field, value, tiny, tmp_path):
    name, place = tiny
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, field: value}))
    expected = f"has {field}={value!r}, but the preset's, '{re.escape(str(place))}', has"
    if field == "model_type":
        expected = "'vit' is not a supported encoder"
    with pytest.raises(ValueError, match=expected):
        VFMSegForSemanticSegmentation.from_preset(name, **SMALL)


@needs_timm
@pytest.mark.parametrize("recipe, eps", [("paper", 1e-6), ("published-code", 1e-5)])
def test_timms_weights_and_table_agree(recipe, eps, monkeypatch, tmp_path):
    import timm
    from safetensors.torch import save_file

    settings = {"embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 70}
    library = timm.create_model("eva02_large_patch14_224", num_classes=0, **settings)
    save_file(library.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "eva02_large_patch14_224", "num_classes": 0, "model_args": settings, "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    original = PRESETS["eva02-large"]
    fields = {**original.fields, "model_args": settings}
    entry = Preset(str(tmp_path), "MIT", fields, "eva02", (0, 1, 2, 3), original.published_fields)
    monkeypatch.setitem(presets_vfmseg.PRESETS, "eva02-large", entry)
    model = VFMSegForSemanticSegmentation.from_preset("eva02-large", recipe=recipe, **SMALL)
    assert settled(model.config) == settled(VFMSegConfig.from_preset("eva02-large", recipe=recipe, **SMALL))
    assert {m.eps for m in model.model.modules() if isinstance(m, torch.nn.LayerNorm)} == {eps}
    (tmp_path / "config.json").write_text(json.dumps({**config, "architecture": "eva02_base_patch14_224"}))
    with pytest.raises(ValueError, match="has architecture='eva02_base_patch14_224', but"):
        VFMSegForSemanticSegmentation.from_preset("eva02-large", **SMALL)


def test_training_starts_from_a_preset(tiny, monkeypatch, tmp_path):
    name, _ = tiny
    classes = {0: "free", 1: "blocked"}
    monkeypatch.chdir(tmp_path)
    model = start_model(name, id2label=classes, **SMALL)
    assert model.config.id2label == classes and settled(model.config) == settled(
        VFMSegConfig.from_preset(name, id2label=classes, **SMALL)
    )
    model.save_pretrained(name)
    assert start_model(name).config.id2label == classes, "a directory of that name comes first"


# ------------------------------------------------------------------------------------------ the README's table


@cache
def sizes(name: str) -> dict[str, float]:
    """What adapting a preset costs: parameters, and bytes of an adapter-only checkpoint in bfloat16."""
    config = VFMSegConfig.from_preset(name)
    with torch.device("meta"):
        model = VFMSegForSemanticSegmentation(config)
    encoder = count(model.model)
    model.add_adapter(lora_config(config))
    weights = get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    adapter = sum(t.numel() * (2 if t.is_floating_point() else t.element_size()) for t in weights.values())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {"encoder": encoder, "lora": count(model.model) - encoder, "trainable": trainable, "adapter": adapter}


def rounded(number: float) -> str:
    """In millions with three digits or, above a thousand, all before the point."""
    millions = number / 1e6
    return f"{millions:.{max(0, 2 - math.floor(math.log10(millions)))}f}"


def row(name: str) -> str:
    targets = ", ".join(f"`{target}`" for target in get_encoder_family(PRESETS[name].native_config()).lora_targets)
    counted = sizes(name)
    cells = [
        f"`{name}`",
        f"`{PRESETS[name].hub_id}`",
        f"{rounded(counted['encoder'])} M",
        PRESETS[name].licence,
        targets,
    ]
    cells += [f"{rounded(counted['trainable'])} M", f"{rounded(counted['adapter'])} MB"]
    return f"| {' | '.join(cells)} |"


@every
def test_readme_has_the_row_of(name):
    rows = (REPOSITORY / "README.md").read_text().splitlines()
    found = [line for line in rows if line.startswith(f"| `{name}` |")]
    assert found == [row(name)]


def test_readmes_number_of_lora_parameters():
    """q, k and v with a factor A each, and with one between them as in the published code."""
    assert sizes("dinov2-large")["lora"] == 24 * 3 * 32 * (1024 + 1024)
    shared = 24 * 32 * (1024 + 3 * 1024)
    text = " ".join((REPOSITORY / "README.md").read_text().split())
    assert f"{sizes('dinov2-large')['lora'] / 1e6:.2f} M instead of {shared / 1e6:.2f} M" in text
