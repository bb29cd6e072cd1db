"""Foundation models in their original files: what the tensors tell, and directories that from_backbone takes."""

import json
import re

import pytest
import torch
from torch import nn
from transformers import CLIPVisionModel, SamVisionModel

from tests.support import foundations
from tests.support.blockers import run_without
from tests.support.commands import start
from vfmseg_hf import VFMSegForSemanticSegmentation
from vfmseg_hf.convert import (
    convert_foundation,
    convert_foundation_weights,
    foundation_config,
    get_published_encoder,
)


# Of each, the smallest model that has everything; heads of width 8 are told with the overrides.
TINY = {
    "dinov2": (foundations.dinov2(32, 4, grid=3), {"num_attention_heads": 4}),
    "dinov2 with registers": (foundations.dinov2(32, 4, grid=3, registers=2), {"num_attention_heads": 4}),
    "dinov2 giant": (foundations.dinov2(32, 4, grid=3, gated=True), {"num_attention_heads": 4}),
    "clip": (foundations.clip(32, 4, grid=3, projection=16), {"num_attention_heads": 4}),
    "sam": (foundations.sam(32, 4, 8, everywhere=[1, 3], grid=4, window=3, channels=8), {}),
    "eva02": (foundations.eva02(32, 4, grid=3, head_dim=8), {}),
    "eva02 of CLIP": (foundations.eva02(32, 4, 16, grid=3, head_dim=8, of_clip=True), {}),
}
TINY_HEADS = {"refine_hidden_size": 128, "refine_num_layers": 1, "coarse_size": 64, "window_size": 64}
TINY_HEADS |= {"window_stride": 40}
every_kind = pytest.mark.parametrize("kind", TINY)


def write(weights, path, backbone):
    """As the owners publish them: EVA02's inside a 'model' entry."""
    torch.save({"model": weights} if backbone == "eva02" else weights, path)
    return path


def backbone_of(kind):
    backbone = kind.split()[0]
    if backbone == "eva02":
        pytest.importorskip("timm")
    return backbone


@every_kind
def test_from_backbone_takes_the_directory(kind, tmp_path):
    backbone, (shapes, overrides) = backbone_of(kind), TINY[kind]
    weights = foundations.random_weights(shapes)
    source = write(weights, tmp_path / "raw.pth", backbone)
    converted = convert_foundation(source, tmp_path / "out", backbone, overrides)
    model = VFMSegForSemanticSegmentation.from_backbone(tmp_path / "out", **TINY_HEADS).eval()
    encoder = model.model.encoder.state_dict()
    resampled = model.model.family.resampled_keys(encoder)
    assert set(encoder) == set(converted.encoder) and len(resampled) >= 2
    for key in set(encoder) - resampled:
        assert torch.equal(encoder[key], converted.encoder[key]), key
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 96)).logits.isfinite().all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw.pth"]


@every_kind
def test_every_value_is_used_or_dropped_with_a_reason(kind):
    backbone, (shapes, _) = backbone_of(kind), TINY[kind]
    weights = foundations.random_weights(shapes)
    converted = convert_foundation_weights({key: tensor.half() for key, tensor in weights.items()}, backbone)
    assert all(tensor.dtype == torch.float32 for tensor in converted.encoder.values())
    kept = sum(tensor.numel() for key, tensor in weights.items() if key not in converted.dropped)
    assert kept == sum(tensor.numel() for tensor in converted.encoder.values())
    assert set(converted.dropped) < set(weights) and all(converted.dropped.values())
    assert not converted.lora and not converted.heads


def test_eva02_of_clip_with_and_without_its_text_encoder():
    weights = foundations.random_weights(TINY["eva02 of CLIP"][0])
    converted = convert_foundation_weights(weights, "eva02")
    assert "the text encoder" in converted.dropped["text.ln_final.bias"] and "logit_scale" in converted.dropped
    alone = {key.removeprefix("visual."): weights[key] for key in weights if key.startswith("visual.")}
    encoder = convert_foundation_weights(alone, "eva02").encoder
    assert encoder.keys() == converted.encoder.keys()
    assert all(torch.equal(encoder[key], converted.encoder[key]) for key in encoder)
    with pytest.raises(ValueError, match=r"1 keys are none of the original eva02 model's.*'cls_token'"):
        convert_foundation_weights({**weights, "cls_token": alone["cls_token"]}, "eva02")


def test_fused_layers_and_renamed_ones():
    """What no recording holds: the parts that only original files have."""
    weights = foundations.random_weights(TINY["dinov2 giant"][0])
    encoder = convert_foundation_weights(weights, "dinov2").encoder
    gate, up = weights["blocks.2.mlp.w12.weight"].chunk(2)
    assert torch.equal(encoder["encoder.layer.2.mlp.gate_proj.weight"], gate)
    assert torch.equal(encoder["encoder.layer.2.mlp.up_proj.weight"], up)
    weights = foundations.random_weights(TINY["sam"][0])
    encoder = convert_foundation_weights(weights, "sam").encoder
    assert torch.equal(encoder["vision_encoder.neck.conv2.weight"], weights["image_encoder.neck.2.weight"])
    assert torch.equal(encoder["vision_encoder.neck.layer_norm2.bias"], weights["image_encoder.neck.3.bias"])
    weights = foundations.random_weights(TINY["clip"][0])
    encoder = convert_foundation_weights(weights, "clip").encoder
    assert torch.equal(encoder["post_layernorm.weight"], weights["visual.ln_post.weight"])
    assert torch.equal(encoder["embeddings.class_embedding"], weights["visual.class_embedding"]), "once, as in CLIP"


@pytest.mark.parametrize(
    "backbone, shapes, expected",
    [
        ("dinov2", foundations.dinov2(384, 12), {"num_attention_heads": 6, "num_hidden_layers": 12}),
        ("dinov2", foundations.dinov2(1024, 24), {"num_attention_heads": 16, "patch_size": 14, "image_size": 518}),
        ("dinov2", foundations.dinov2(1536, 40, gated=True), {"num_attention_heads": 24, "use_swiglu_ffn": True}),
        (
            "dinov2",
            foundations.dinov2(768, 12, registers=4),
            {"model_type": "dinov2_with_registers", "num_register_tokens": 4, "num_attention_heads": 12},
        ),
        (
            "clip",
            foundations.clip(768, 12, patch=32, grid=7, projection=512),
            {"num_attention_heads": 12, "patch_size": 32, "image_size": 224, "projection_dim": 512},
        ),
        (
            "clip",
            foundations.clip(1024, 24, grid=24),
            {"num_attention_heads": 16, "image_size": 336, "intermediate_size": 4096, "hidden_act": "quick_gelu"},
        ),
        (
            "sam",
            foundations.sam(768, 12, 64, everywhere=[2, 5, 8, 11]),
            {"num_attention_heads": 12, "global_attn_indexes": [2, 5, 8, 11], "window_size": 14, "image_size": 1024},
        ),
        (
            "sam",
            foundations.sam(1280, 32, 80, everywhere=[7, 15, 23, 31]),
            {"num_attention_heads": 16, "global_attn_indexes": [7, 15, 23, 31], "mlp_dim": 5120},
        ),
        ("eva02", foundations.eva02(768, 12), {"architecture": "eva02_base_patch14_224"}),
        ("eva02", foundations.eva02(1024, 24, patch=16, grid=32), {"architecture": "eva02_large_patch14_224"}),
        ("eva02", foundations.eva02(768, 12, 16, 14, of_clip=True), {"architecture": "eva02_base_patch16_clip_224"}),
    ],
)
def test_the_tensors_of_real_sizes_tell_the_configuration(backbone, shapes, expected):
    """Without memory for the weights: the configuration's own model has the same tensors."""
    backbone_of(backbone)
    encoder = get_published_encoder(backbone)
    weights = foundations.weightless(shapes)
    config = foundation_config(weights, backbone, {})
    assert {key: config.to_dict().get(key) for key in expected} == expected
    with torch.device("meta"):
        model = encoder.native_model(config)
    converted = convert_foundation_weights(weights, backbone).encoder
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in converted.items()}


def change_nothing(weights):
    pass


@pytest.mark.parametrize(
    "kind, change, overrides, message",
    [
        ("dinov2", change_nothing, {}, "do not tell num_attention_heads of this dinov2 model"),
        ("dinov2", change_nothing, {"num_attention_heads": 4, "heads": 3}, r"Dinov2Config does not know: \['heads'\]"),
        ("dinov2", change_nothing, {"num_attention_heads": 4, "image_size": 28}, r"\(1, 10, 32\) in the weights but"),
        ("dinov2", lambda w: w.pop("blocks.1.norm1.bias"), {"num_attention_heads": 4}, "1 tensors are missing.*norm1"),
        ("dinov2", lambda w: w.pop("pos_embed"), {"num_attention_heads": 4}, "no 3-d tensor 'pos_embed'"),
        ("dinov2", lambda w: w.update({"fc.weight": torch.zeros(2)}), {}, "none of the original dinov2.*'fc.weight'"),
        (
            "dinov2",
            lambda w: w.update({"blocks.0.attn.qkv.lora_A.default.weight": torch.zeros(2, 32)}),
            {},
            "LoRA of encoder.layer.0",
        ),
        (
            "clip",
            lambda w: w.update({"visual.layer1.0.conv1.weight": torch.zeros(2)}),
            {},
            "visual.layer1.*another arch",
        ),
        ("clip", lambda w: [w.pop(key) for key in list(w) if "visual" in key], {}, "no 4-d tensor 'conv1.weight'"),
        ("sam", lambda w: w.pop("image_encoder.neck.2.weight"), {}, "1 tensors are missing.*neck"),
        # What the libraries raise other errors on.
        ("dinov2", change_nothing, {"num_attention_heads": "4"}, "TypeError: .*'num_attention_heads' expected int"),
        ("dinov2", change_nothing, {"num_attention_heads": 0}, "configuration that no model can have.*ZeroDivision"),
        ("dinov2", change_nothing, {"num_attention_heads": 4, "hidden_size": -3}, "that no model can have.*negative"),
        ("dinov2", change_nothing, {"num_attention_heads": 4, "hidden_act": "foo"}, "no model can have.*Key.*'foo'"),
        (
            "dinov2",
            change_nothing,
            {"model_type": "foo", "num_attention_heads": 4},
            "unknown model_type 'foo'.*'dinov2'",
        ),
        ("dinov2", change_nothing, {"model_type": ["dinov2"], "num_attention_heads": 4}, "unhashable"),
        ("eva02", change_nothing, {"architecture": "eva03"}, "'eva03'"),
        (
            "dinov2",
            lambda w: w.update(cls_token=w["cls_token"].to_sparse()),
            {"num_attention_heads": 4},
            r"raw\.pth' holds tensors that are not dense.*\['cls_token'\]",
        ),
        (
            "clip",
            lambda w: w.update({"visual.proj": w["visual.proj"].to("meta")}),
            {},
            r"not dense.*\['visual\.proj'\]",
        ),
        ("clip", lambda w: w.update({"visual.proj": w["visual.proj"] * 1j}), {}, r"not dense.*\['visual\.proj'\]"),
        (
            "sam",
            lambda w: w["image_encoder.pos_embed"][0, 0, 0].fill_(float("nan")),
            {},
            r"1 tensors .* hold NaN or infinity, e\.g\. \['image_encoder\.pos_embed'\].*nothing was written",
        ),
        (
            "dinov2",
            lambda w: w.update(cls_token=w["cls_token"].double() * 1e300),
            {"num_attention_heads": 4},
            r"NaN or infinity, e\.g\. \['cls_token'\]",
        ),
    ],
)
def test_disagreements_are_errors_and_nothing_is_written(kind, change, overrides, message, tmp_path):
    backbone = backbone_of(kind)
    weights = foundations.random_weights(TINY[kind][0])
    change(weights)
    source = write(weights, tmp_path / "raw.pth", backbone)
    overrides = overrides or (TINY[kind][1] if kind != "dinov2" else {})
    with pytest.raises(ValueError, match=f"(?s){message}"):
        convert_foundation(source, tmp_path / "new" / "out", backbone, overrides)
    assert [path.name for path in tmp_path.iterdir()] == ["raw.pth"]


@pytest.mark.parametrize(
    "of, taken_for", [("dinov2", "sam"), ("sam", "dinov2"), ("clip", "dinov2"), ("dinov2", "eva02")]
)
def test_files_of_another_model_are_refused(of, taken_for, tmp_path):
    backbone_of(taken_for)
    source = write(foundations.random_weights(TINY[of][0]), tmp_path / "raw.pth", of)
    with pytest.raises(ValueError, match=f"none of the original {taken_for} model's.*another architecture"):
        convert_foundation(source, tmp_path / "out", taken_for, {"num_attention_heads": 4})
    assert not (tmp_path / "out").exists()


def test_dropped_tensors_may_hold_anything(tmp_path):
    weights = foundations.random_weights(TINY["sam"][0])
    weights["mask_decoder.iou_token.weight"].fill_(float("nan"))
    convert_foundation(write(weights, tmp_path / "raw.pth", "sam"), tmp_path / "out", "sam")
    assert (tmp_path / "out").is_dir()


def test_the_script_says_that_timm_is_missing(tmp_path):
    source = write(foundations.random_weights(TINY["eva02"][0]), tmp_path / "raw.pth", "eva02")
    arguments = ["convert", str(source), str(tmp_path / "out"), "--raw", "--backbone", "eva02"]
    code = f"import vfmseg_cli; sys.argv[1:] = {arguments!r}; "
    code += "sys.exit(vfmseg_cli.main())"
    result = run_without(["timm"], code)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert re.search(r"^error: .*timm", result.stderr, re.MULTILINE), result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["raw.pth"]


def test_sam_without_different_tables_has_to_be_told():
    weights = foundations.weightless(foundations.sam(32, 2, 8, everywhere=[0, 1], grid=4))
    with pytest.raises(ValueError, match="do not tell global_attn_indexes and window_size"):
        foundation_config(weights, "sam", {})
    config = foundation_config(weights, "sam", {"global_attn_indexes": [1], "window_size": 4})
    assert (config.global_attn_indexes, config.window_size) == ([1], 4)


def test_a_directory_that_reads_back_differently_is_not_kept(tmp_path, monkeypatch):
    source = write(foundations.random_weights(TINY["sam"][0]), tmp_path / "raw.pth", "sam")
    save = SamVisionModel.save_pretrained

    def save_others(model, directory):
        model.vision_encoder.pos_embed.data.add_(1)
        save(model, directory)
        model.vision_encoder.pos_embed.data.sub_(1)

    monkeypatch.setattr(SamVisionModel, "save_pretrained", save_others)
    with pytest.raises(ValueError, match=r"does not give back.*vision_encoder\.pos_embed.*nothing was written"):
        convert_foundation(source, tmp_path / "out", "sam")
    assert [path.name for path in tmp_path.iterdir()] == ["raw.pth"]


class Archive(nn.Module):
    """A module tree that holds tensors under any dotted names, to be saved as TorchScript."""

    def __init__(self, weights):
        super().__init__()
        branches = {}
        for name, tensor in weights.items():
            head, _, rest = name.partition(".")
            if rest:
                branches.setdefault(head, {})[rest] = tensor
            else:
                self.register_buffer(head, tensor)
        for head, inner in branches.items():
            self.add_module(head, Archive(inner))

    def forward(self, x):
        return x


def test_the_script_reads_openai_archives_on_request(tmp_path):
    """As OpenAI publishes CLIP: in half precision, with settings among the tensors."""
    weights = {key: tensor.half() for key, tensor in foundations.random_weights(TINY["clip"][0]).items()}
    settings = {"input_resolution": torch.tensor(42), "context_length": torch.tensor(7), "vocab_size": torch.tensor(9)}
    torch.jit.script(Archive({**weights, **settings})).save(tmp_path / "ViT-B-16.pt")
    with pytest.raises(ValueError, match="--trust-torchscript"):
        convert_foundation(tmp_path / "ViT-B-16.pt", tmp_path / "out", "clip", TINY["clip"][1])
    assert not (tmp_path / "out").exists()
    (tmp_path / "overrides.json").write_text(json.dumps(TINY["clip"][1]))
    words = ["--raw", "--backbone", "clip", "--config", tmp_path / "overrides.json", "--trust-torchscript"]
    result = start("convert", tmp_path / "ViT-B-16.pt", tmp_path / "out", *words)
    assert result.returncode == 0, result.stderr
    assert "dropped 6 tensors (positional_embedding, ...): the text encoder" in result.stdout
    assert "dropped 3 tensors (input_resolution, ...): a setting, not a weight" in result.stdout
    encoder = CLIPVisionModel.from_pretrained(tmp_path / "out")
    assert encoder.dtype == torch.float32 and encoder.config.image_size == 42
    assert torch.equal(encoder.embeddings.class_embedding, weights["visual.class_embedding"].float())
