"""The converter's own rules: every key accounted for, arithmetic of the merge, refusals before anything is written."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY, disagreement
from safetensors.torch import save_file

from vfmseg_hf import VFMSegForSemanticSegmentation
from vfmseg_hf.configuration_vfmseg import PUBLISHED_OPTIONS
from vfmseg_hf.convert import convert_official, convert_weights, read_weights


@pytest.fixture
def published(tiny_model):
    """A published checkpoint made from one of our models, and the model with the same LoRA merged by hand."""
    model = tiny_model(**PUBLISHED_OPTIONS)
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
    keep = {"backbone_config", "coarse_size", "window_size", "window_stride", "lora_alpha"}
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
    picture = torch.randn(1, 3, 70, 100)

    def predict(model):
        with torch.no_grad():
            return model.eval()(picture, refine="all").logits

    return predict


@pytest.mark.parametrize("adapter_only", [False, True])
def test_conversion_keeps_the_function(adapter_only, published, tmp_path, predict):
    weights, overrides, model = published
    source = write(weights, tmp_path / "published.safetensors")
    convert_official(source, tmp_path / "out", "dinov2", overrides, adapter_only=adapter_only)
    converted = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "out")
    assert disagreement(predict(converted), predict(model), tolerance=1e-5) <= 1
    for option, value in PUBLISHED_OPTIONS.items():
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
            lambda w, o: w.pop("backbone.model.base_model.model.blocks.1.attn.qkv.lora_B.default.weight"),
            r"LoRA of encoder.layer.1.*only its \['A'\]",
        ),
        (lambda w, o: o.pop("lora_alpha"), "rank 2, but the overrides have no 'lora_alpha'"),
        (lambda w, o: o.pop("backbone_config"), "need a full 'backbone_config'"),
        (lambda w, o: o.update(window_sise=3), r"does not know: \['window_sise'\]"),
        (lambda w, o: o.update(num_labels=7), r"\(19,.*\(7,.*by the configuration"),
        (lambda w, o: o.update(refine_num_layers=2), "tensors are missing.*refine_num_layers"),
    ],
)
def test_disagreements_are_errors_and_nothing_is_written(change, message, published, tmp_path):
    weights, overrides, _ = published
    change(weights, overrides)
    source = write(weights, tmp_path / "published.safetensors")
    with pytest.raises(ValueError, match=message):
        convert_official(source, tmp_path / "out", "dinov2", overrides)
    assert [path.name for path in tmp_path.iterdir()] == ["published.safetensors"]


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


def test_a_pickle_with_code_is_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"state_dict": {"a": torch.zeros(1)}, "hook": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth.*could run code.*refused"):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_damaged_files_are_named(name, share, tmp_path):
    path = tmp_path / name
    tensors = {"a": torch.randn(1000)}
    if path.suffix == ".pth":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=f"{name}.*(truncated|could run code)"):
        read_weights(path)


def test_missing_file_and_foreign_content(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.pth"):
        read_weights(tmp_path / "absent.pth")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="does not hold a state dict"):
        read_weights(tmp_path / "list.pth")


def test_the_script_fails_like_a_command(published, tmp_path):
    weights, overrides, _ = published
    del overrides["lora_alpha"]
    source = write(weights, tmp_path / "published.safetensors")
    (tmp_path / "overrides.json").write_text(json.dumps(overrides))
    command = [sys.executable, REPOSITORY / "scripts/convert_official.py", source, tmp_path / "out"]
    command += ["--backbone", "dinov2", "--config", tmp_path / "overrides.json"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "error: the weights hold LoRA factors" in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "out").exists()
