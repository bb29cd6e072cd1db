"""The converter's own rules: every key accounted for, arithmetic of the merge, refusals before anything is written."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.support import foundations
from tests.support.commands import start
from tests.support.numbers import disagreement
from vfmseg_hf import VFMSegForSemanticSegmentation
from vfmseg_hf.convert import (
    convert_foundation,
    convert_official,
    convert_weights,
    get_published_encoder,
    published_config,
)
from vfmseg_hf.convert.official import ENCODER
from vfmseg_hf.model.presets import published_options


@pytest.fixture
def published(tiny_model):
    """A published checkpoint made from one of our models, and the model with the same LoRA merged by hand."""
    model = tiny_model(**published_options("dinov2"))
    state, rank, alpha = model.state_dict(), 2, 6
    weights = {}
    for key, value in state.items():
        if (name := published_name(key)) is not None:
            weights[name] = value.clone()
    for layer in range(4):
        own = f"model.encoder.encoder.layer.{layer}.attention."
        name = f"backbone.model.base_model.model.blocks.{layer}.attn.qkv."
        a, b = torch.randn(rank, 32), torch.randn(96, rank)
        for kind in ("weight", "bias"):
            fused = torch.cat([state[f"{own}{part}_proj.{kind}"] for part in "qkv"])
            weights[f"{name}base_layer.{kind}"] = fused
        weights[f"{name}lora_A.default.weight"], weights[f"{name}lora_B.default.weight"] = a, b
        for part, update in zip("qkv", (alpha / rank * b @ a).chunk(3), strict=True):
            state[f"{own}{part}_proj.weight"].add_(update)
    overrides = model.config.to_dict() | {"lora_alpha": alpha}
    keep = {"backbone_config", "out_indices", "coarse_size", "window_size", "window_stride", "lora_alpha"}
    keep |= {key for key in overrides if key.startswith("refine_")}
    overrides = {key: value for key, value in overrides.items() if key in keep}
    return weights, overrides, model


def published_name(key: str) -> str | None:
    """Our key under its published name, by a table independent of the converter's; None for the fused layers."""
    replacements = [
        ("model.encoder.embeddings.patch_embeddings.projection", "backbone.model.base_model.model.patch_embed.proj"),
        ("model.encoder.embeddings.position_embeddings", "backbone.model.base_model.model.pos_embed"),
        ("model.encoder.embeddings.", "backbone.model.base_model.model."),
        ("model.encoder.layernorm.", "backbone.model.base_model.model.norm."),
        ("model.encoder.encoder.layer.", "backbone.model.base_model.model.blocks."),
        (".attention.o_proj.", ".attn.proj."),
        (".layer_scale1.lambda1", ".ls1.gamma"),
        (".layer_scale2.lambda1", ".ls2.gamma"),
        ("coarse_head.classifier", "decode_head.conv_seg"),
        ("coarse_head.fusion_norm", "decode_head.fusion_conv.gn"),
        ("coarse_head.fusion", "decode_head.fusion_conv.conv"),
        ("coarse_head.upsample1", "decode_head.output_upscaling.0"),
        ("coarse_head.upsample_norm", "decode_head.output_upscaling.1"),
        ("coarse_head.upsample2", "decode_head.output_upscaling.3"),
        ("refine_head.classifier", "aux_decoder.conv_seg"),
        ("refine_head.fusion_norm", "aux_decoder.fuse_conv.1"),
        ("refine_head.fusion", "aux_decoder.fuse_conv.0"),
        ("refine_head.mask_embedding.conv1", "aux_decoder.seg_logits_embed.0"),
        ("refine_head.mask_embedding.norm1", "aux_decoder.seg_logits_embed.1"),
        ("refine_head.mask_embedding.conv2", "aux_decoder.seg_logits_embed.3"),
        ("refine_head.mask_embedding.norm2", "aux_decoder.seg_logits_embed.4"),
        ("refine_head.mask_embedding.conv3", "aux_decoder.seg_logits_embed.6"),
        ("refine_head.mask_embedding.norm3", "aux_decoder.seg_logits_embed.7"),
        ("refine_head.layers.", "aux_decoder.transformer_decoder.transformer_blocks."),
        ("refine_head.", "aux_decoder.transformer_decoder."),
        (".self_attention.", ".attn1."),
        (".cross_attention.", ".attn2."),
        ("to_query", "to_q"),
        ("to_key", "to_k"),
        ("to_value", "to_v"),
        ("to_output", "to_out.0"),
        ("feed_forward.input", "ff.net.0.proj"),
        ("feed_forward.output", "ff.net.2"),
    ]
    if any(part in key for part in ("q_proj", "k_proj", "v_proj")):
        return None
    for ours, theirs in replacements:
        key = key.replace(ours, theirs)
    return key


def write(weights, path):
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    return path


@pytest.fixture
def predict():
    image = torch.randn(1, 3, 70, 100)

    def predict(model):
        with torch.no_grad():
            return model.eval()(image, refine="all").logits

    return predict


@pytest.mark.parametrize("adapter_only", [False, True])
def test_conversion_keeps_the_function(adapter_only, published, tmp_path, predict):
    weights, overrides, model = published
    source = write(weights, tmp_path / "published.safetensors")
    convert_official(source, tmp_path / "out", "dinov2", overrides, adapter_only=adapter_only)
    converted = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "out")
    assert disagreement(predict(converted), predict(model), tolerance=1e-5) <= 1
    for option, value in published_options("dinov2").items():
        expected = overrides.get(option, value)
        assert getattr(converted.config, option) == expected, option
    assert converted.config.backbone_name_or_path == ("base" if adapter_only else None)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_torch_checkpoints_with_a_state_dict_inside(published, tmp_path, predict):
    weights, overrides, model = published
    torch.save({"state_dict": weights, "meta": {"epoch": 3}}, tmp_path / "iter_40000.pth")
    convert_official(tmp_path / "iter_40000.pth", tmp_path / "out", "dinov2", overrides)
    converted = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "out")
    assert disagreement(predict(converted), predict(model), tolerance=1e-5) <= 1


def test_named_base_is_not_written(published, tmp_path):
    weights, overrides, _ = published
    source = write(weights, tmp_path / "published.safetensors")
    convert_official(source, tmp_path / "out", "dinov2", overrides, adapter_only=True, base="facebook/dinov2-large")
    assert not (tmp_path / "out" / "base").exists()
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert saved["backbone_name_or_path"] == "facebook/dinov2-large"


def test_knowingly_dropped_keys_have_a_reason(published):
    converted = convert_weights(published[0] | {"data_preprocessor.mean": torch.zeros(3)}, "dinov2")
    assert "normalisation" in converted.dropped["data_preprocessor.mean"]
    assert len(converted.lora) == 12 and converted.rank == 2


QKV = f"{ENCODER}blocks.1.attn.qkv"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w, o: w.update({"backbone.model.base_model.model.blocks.0.attn.rope": torch.zeros(1)}), r"attn\.rope"),
        (lambda w, o: w.update({"decode_head.extra.weight": torch.zeros(1)}), "decode_head.extra.weight"),
        (
            lambda w, o: w.pop("aux_decoder.fuse_conv.0.bias"),
            "1 tensors are missing.*refine_head.fusion.bias",
        ),
        (
            lambda w, o: w.pop(f"{QKV}.lora_B.default.weight"),
            r"LoRA of encoder.layer.1.*only its \['A'\]",
        ),
        (
            lambda w, o: w.pop(f"{QKV}.base_layer.weight"),
            r"LoRA of encoder.layer.1.*does not fit its weight None",
        ),
        (
            lambda w, o: w.update({f"{QKV}.lora_A.default.weight": torch.zeros(3, 32)}),
            r"A \(3, 32\) and B \(32, 2\), does not fit its weight \(32, 32\) and the rank 2",
        ),
        (
            lambda w, o: w.update({f"{QKV}.base_layer.bias": torch.zeros(())}),
            r"qkv.base_layer.bias should hold 3 layers of one size, but has the shape \(\)",
        ),
        (lambda w, o: o.pop("lora_alpha"), "rank 2, but the overrides have no 'lora_alpha'"),
        (lambda w, o: o.pop("backbone_config"), "need a full 'backbone_config'"),
        (lambda w, o: o.update(backbone_config="dinov2-large"), "need a full 'backbone_config'"),
        (lambda w, o: o.pop("out_indices"), "need 'out_indices': none are published for an encoder of 4 blocks"),
        (
            lambda w, o: o["backbone_config"].update(model_type="dinov2_with_registers"),
            "encoder 'dinov2' is a 'dinov2' here.*'dinov2_with_registers'",
        ),
        (lambda w, o: o.update(window_sise=3), r"does not know: \['window_sise'\]"),
        (lambda w, o: o.update(num_labels=7), r"\(19,.*\(7,.*by the configuration"),
        (lambda w, o: o.update(refine_num_layers=2), "tensors are missing.*refine_num_layers"),
        # What the libraries raise other errors on.
        (
            lambda w, o: o["backbone_config"].update(patch_size=14),
            r"no model can have \(ValueError: backbone_config has patch size 14, but VFMSegConfig.patch_size is 16",
        ),
        (
            lambda w, o: o["backbone_config"].update(num_attention_heads="4"),
            "no model can have.*'num_attention_heads' expected int, got str",
        ),
        (lambda w, o: o["backbone_config"].update(num_attention_heads=0), "no model can have.*ZeroDivisionError"),
        (lambda w, o: o["backbone_config"].update(hidden_act="foo"), "no model can have.*KeyError: 'foo'"),
        (lambda w, o: o["backbone_config"].update(model_type="foo"), "unknown model_type 'foo'"),
        (lambda w, o: o["backbone_config"].update(model_type=["dinov2"]), "no model can have.*unhashable"),
        (lambda w, o: o.update(refine_hidden_size="wide"), "no model can have.*'refine_hidden_size' expected int"),
        (lambda w, o: o.update(lora_alpha="6"), "lora_alpha must be a finite number, got '6'"),
        (lambda w, o: o.update(lora_alpha=float("inf")), "lora_alpha must be a finite number, got inf"),
        (
            lambda w, o: w[f"{QKV}.lora_B.default.weight"][0].fill_(float("nan")),
            r"1 tensors of the weights hold NaN or infinity, e\.g\. \['.*1\.attn\.qkv\.lora_B.*nothing was written",
        ),
        (
            lambda w, o: w["decode_head.conv_seg.bias"].fill_(float("-inf")),
            r"infinity, e\.g\. \['decode_head\.",
        ),
    ],
)
def test_disagreements_are_errors_and_nothing_is_written(change, message, published, tmp_path):
    weights, overrides, _ = published
    change(weights, overrides)
    source = write(weights, tmp_path / "published.safetensors")
    with pytest.raises(ValueError, match=f"(?s){message}"):
        convert_official(source, tmp_path / "out", "dinov2", overrides)
    assert [path.name for path in tmp_path.iterdir()] == ["published.safetensors"]


# Encoders under the published names, and the layers that the published code puts LoRA on: with effect, and without.
PUBLISHED = {
    "dinov2": (foundations.dinov2(32, 4, 16, 4), ["attn.qkv"], []),
    "clip": (foundations.clip(32, 4, 16, 4), ["mlp.c_fc", "mlp.c_proj"], ["attn.out_proj"]),
    "sam": (foundations.sam(32, 4, 8, everywhere=[1, 3], grid=4, window=3), ["attn.qkv"], []),
    "eva02": (
        foundations.eva02(32, 4, 16, 4, head_dim=8),
        ["attn.proj"],
        ["attn.q_proj", "attn.k_proj", "attn.v_proj"],
    ),
}
NOT_PUBLISHED = ("neck.", "ln_post.", "proj", "norm.", "lm_head.", "mask_token")
BACKBONE_CONFIG = {
    "dinov2": {"model_type": "dinov2", "hidden_size": 32, "num_attention_heads": 4},
    "clip": {"model_type": "clip_vision_model", "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 128},
    "sam": {"model_type": "sam_vision_model", "hidden_size": 32, "num_attention_heads": 4, "mlp_dim": 128},
    "eva02": {"model_type": "timm_wrapper", "architecture": "eva02_base_patch14_224"},
}
BACKBONE_CONFIG["sam"] |= {"global_attn_indexes": [1, 3], "window_size": 3}


def published_model(backbone, tiny_config):
    """A published checkpoint of any encoder, and the overrides to convert it with."""
    shapes, effective, dead = PUBLISHED[backbone]
    prefix, published = get_published_encoder(backbone).raw_prefix, {}
    for name, tensor in foundations.random_weights(shapes).items():
        key = name.removeprefix(prefix)
        if not name.startswith(prefix) or (key.startswith(NOT_PUBLISHED) and backbone != "dinov2"):
            continue
        layer, _, kind = key.rpartition(".")
        if not layer.endswith(tuple(effective + dead)):
            published[ENCODER + key] = tensor / 5
            continue
        published[f"{ENCODER}{layer}.base_layer.{kind}"] = tensor / 5
        if kind == "weight":
            published[f"{ENCODER}{layer}.lora_A.default.weight"] = torch.randn(2, tensor.shape[1]) / 5
            published[f"{ENCODER}{layer}.lora_B.default.weight"] = torch.randn(tensor.shape[0], 2) / 5
    size = {"num_hidden_layers": 4, "patch_size": 16, "image_size": 64}
    if backbone == "eva02":
        size = {"model_args": {"embed_dim": 32, "depth": 4, "num_heads": 4, "patch_size": 16, "img_size": 64}}
    heads = VFMSegForSemanticSegmentation(tiny_config()).state_dict()
    heads = {published_name(key): heads[key] for key in heads if not key.startswith("model.")}
    fields = {"out_indices": [0, 1, 2, 3], "refine_hidden_size": 128, "refine_num_layers": 1, "coarse_size": 64}
    fields |= {"refine_num_attention_heads": 2, "refine_head_dim": 16, "window_size": 64, "window_stride": 40}
    return published | heads, {"backbone_config": BACKBONE_CONFIG[backbone] | size, "lora_alpha": 6, **fields}


every_backbone = pytest.mark.parametrize("backbone", PUBLISHED)


@every_backbone
def test_both_forms_of_every_encoder(backbone, tiny_config, tmp_path, predict):
    if backbone == "eva02":
        pytest.importorskip("timm")
    weights, overrides = published_model(backbone, tiny_config)
    source = write(weights, tmp_path / "published.safetensors")
    _, effective, dead = PUBLISHED[backbone]
    converted = convert_official(source, tmp_path / "adapter", backbone, overrides, adapter_only=True)
    rows = 3 if backbone == "dinov2" else 1
    assert len(converted.lora) == 4 * rows * len(effective)
    ignored = [key for key in weights if ".lora_" in key and any(f".{layer}.lora_" in key for layer in dead)]
    assert len(ignored) == 8 * len(dead)
    assert all("without effect in the published code" in converted.dropped[key] for key in ignored)
    adapter = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "adapter")
    adapted = [name for name, _ in adapter.named_modules() if name.endswith(".lora_A")]
    assert len(adapted) == len(converted.lora)
    for key in ignored:
        weights[key] = torch.full_like(weights[key], float("nan"))
    convert_official(write(weights, source), tmp_path / "merged", backbone, overrides)
    merged = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "merged")
    assert disagreement(predict(merged), predict(adapter), tolerance=1e-4) <= 1
    for option, value in published_options(backbone).items():
        assert getattr(merged.config, option) == overrides.get(option, value), option


@pytest.mark.parametrize("backbone", ["dinov2", "sam", "eva02"])
def test_a_named_base_is_compared(backbone, tiny_config, tmp_path, predict):
    """It may have parts that the published weights lack, and is found again from anywhere."""
    if backbone == "eva02":
        pytest.importorskip("timm")
    weights, overrides = published_model(backbone, tiny_config)
    source = write(weights, tmp_path / "published.safetensors")
    prefix = get_published_encoder(backbone).raw_prefix
    original = foundations.random_weights(PUBLISHED[backbone][0])
    for key in weights:
        if key.startswith(ENCODER) and ".lora_" not in key:
            original[prefix + key.removeprefix(ENCODER).replace(".base_layer.", ".")] = weights[key]
    torch.save(original, tmp_path / "raw.pth")
    heads = {} if backbone == "eva02" else {"num_attention_heads": 4}
    convert_foundation(tmp_path / "raw.pth", tmp_path / "base", backbone, heads)
    convert_official(source, tmp_path / "named", backbone, overrides, True, str(tmp_path / "base"))
    convert_official(source, tmp_path / "own", backbone, overrides, True)
    assert not (tmp_path / "named" / "base").exists()
    named, own = (VFMSegForSemanticSegmentation.from_pretrained(tmp_path / name) for name in ("named", "own"))
    assert torch.equal(predict(named), predict(own))

    key = next(key for key in original if key.endswith("blocks.2.attn.proj.weight"))
    torch.save({**original, key: original[key] + 1}, tmp_path / "raw.pth")
    convert_foundation(tmp_path / "raw.pth", tmp_path / "trained", backbone, heads)
    with pytest.raises(ValueError, match="trained' are not the ones that the adapter was trained on"):
        convert_official(source, tmp_path / "out", backbone, overrides, True, str(tmp_path / "trained"))
    torch.save({**original, f"{prefix}pos_embed": original[f"{prefix}pos_embed"] + 1}, tmp_path / "raw.pth")
    convert_foundation(tmp_path / "raw.pth", tmp_path / "moved", backbone, heads)
    with pytest.raises(ValueError, match="does not give back what was converted, 1 tensors differ.*pos"):
        convert_official(source, tmp_path / "out", backbone, overrides, True, str(tmp_path / "moved"))
    with pytest.raises(OSError, match="'nowhere'.*neither beside it nor an existing directory"):
        convert_official(source, tmp_path / "out", backbone, overrides, True, "nowhere")
    assert not (tmp_path / "out").exists()


def test_clip_adapters_name_no_base(tmp_path):
    with pytest.raises(ValueError, match="clip adapter cannot name a base: .*class vector twice"):
        convert_official("weights", tmp_path / "out", "clip", {}, True, "openai/clip-vit-large-patch14")


def test_lora_on_some_blocks_only_is_refused(tiny_config, tmp_path):
    weights, overrides = published_model("sam", tiny_config)
    weights = {key: tensor for key, tensor in weights.items() if "blocks.2.attn.qkv.lora_" not in key}
    source = write(weights, tmp_path / "published.safetensors")
    with pytest.raises(ValueError, match=r"for some of the layers \['attn.qkv'\] only; without: .*layers\.2"):
        convert_official(source, tmp_path / "out", "sam", overrides, adapter_only=True)
    assert not (tmp_path / "out").exists()


def test_sam_tables_of_twice_the_resolution(tiny_config, tmp_path):
    """Global blocks keep the tables of SAM's own grid of 64 on a grid of 32, and resize them in every call."""
    weights, overrides = published_model("sam", tiny_config)
    names = [f"{block}.attn.rel_pos_{axis}" for block in (1, 3) for axis in "hw"]
    for name in names:
        weights[f"{ENCODER}blocks.{name}"] = torch.randn(15, 8)
    convert_official(write(weights, tmp_path / "published.safetensors"), tmp_path / "out", "sam", overrides)
    model = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "out")
    for name in names:
        own = model.get_parameter(f"model.encoder.vision_encoder.layers.{name}")
        published = weights[f"{ENCODER}blocks.{name}"]
        assert torch.equal(own, torch.nn.functional.interpolate(published.T[None], 7, mode="linear")[0].T)


def test_sam_with_other_global_blocks_than_its_tables_say(tiny_config, tmp_path):
    weights, overrides = published_model("sam", tiny_config)
    overrides["backbone_config"]["global_attn_indexes"] = [0, 3]
    source = write(weights, tmp_path / "published.safetensors")
    with pytest.raises(ValueError, match=r"rel_pos_h has the shape \(5, 8\) in the weights but \(7, 8\)"):
        convert_official(source, tmp_path / "out", "sam", overrides)


def test_a_checkpoint_that_reads_back_differently_is_not_kept(published, tmp_path, monkeypatch):
    weights, overrides, _ = published
    source = write(weights, tmp_path / "published.safetensors")
    load = VFMSegForSemanticSegmentation.from_pretrained.__func__

    def load_others(cls, *args, **kwargs):
        model = load(cls, *args, **kwargs)
        if not isinstance(model, tuple):  # the library's own call, for the base
            model.coarse_head.classifier.bias.data.add_(1)
        return model

    monkeypatch.setattr(VFMSegForSemanticSegmentation, "from_pretrained", classmethod(load_others))
    for adapter_only in (False, True):
        with pytest.raises(ValueError, match="does not give back.*coarse_head.*classifier.bias.*nothing was written"):
            convert_official(source, tmp_path / "out", "dinov2", overrides, adapter_only)
    assert [path.name for path in tmp_path.iterdir()] == ["published.safetensors"]


@pytest.mark.parametrize("depth, expected", [(24, [7, 11, 15, 23]), (32, [7, 15, 23, 31])])
def test_blocks_that_published_heads_see(depth, expected):
    backbone = {"model_type": "sam_vision_model", "hidden_size": 32, "num_attention_heads": 4, "image_size": 512}
    overrides = {"backbone_config": {**backbone, "num_hidden_layers": depth}}
    assert published_config(overrides, "sam").out_indices == expected
    assert published_config({**overrides, "out_indices": [1, 2, 3, 4]}, "sam").out_indices == [1, 2, 3, 4]


def test_adapter_form_needs_lora(published, tmp_path):
    weights, overrides, _ = published
    weights = {key: value for key, value in weights.items() if "lora" not in key}
    source = write(weights, tmp_path / "published.safetensors")
    with pytest.raises(ValueError, match="needs weights with LoRA factors"):
        convert_official(source, tmp_path / "out", "dinov2", overrides, adapter_only=True)


def test_an_existing_directory_is_left_alone(published, tmp_path):
    weights, overrides, _ = published
    source = write(weights, tmp_path / "published.safetensors")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("data")
    with pytest.raises(FileExistsError, match="not empty"):
        convert_official(source, tmp_path / "out", "dinov2", overrides)
    assert (tmp_path / "out" / "precious").read_text() == "data"


def test_the_script_fails_like_a_command(published, tmp_path):
    weights, overrides, _ = published
    del overrides["lora_alpha"]
    source = write(weights, tmp_path / "published.safetensors")
    (tmp_path / "overrides.json").write_text(json.dumps(overrides))
    result = start("convert", source, tmp_path / "out", "--backbone", "dinov2", "--config", tmp_path / "overrides.json")
    assert result.returncode == 2 and "error: the weights hold LoRA factors" in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "out").exists()
