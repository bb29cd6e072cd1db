"""Numbers recorded from the authors' implementation, reproduced through our converter.

Each check returns its largest disagreement in units of atol = rtol = 1e-4, so that `<= 1` is agreement; the tests in
the second half break one convention at a time and want to see `> 1`.
"""

import json
import re
import subprocess
import sys
from operator import attrgetter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, disagreement
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from vfmseg_hf import VFMSegForSemanticSegmentation
from vfmseg_hf.convert import rename_coarse_head, rename_refine_head


@pytest.fixture(scope="session")
def golden(shared, tmp_path_factory):
    """The recorded case, and its weights converted by the script into a merged and an adapter-only checkpoint."""
    folder = shared / "golden" / "dinov2"
    meta = json.loads((folder / "meta.json").read_text())
    overrides = {
        "backbone_config": {
            "model_type": "dinov2",
            "hidden_size": meta["embed_dim"],
            "num_hidden_layers": meta["depth"],
            "num_attention_heads": meta["num_heads"],
            "mlp_ratio": meta["mlp_ratio"],
            "patch_size": meta["patch_size"],
            "image_size": meta["position_grid_image_size"],
        },
        "out_indices": meta["out_indices"],
        "refine_hidden_size": meta["refine_head"]["channels"],
        "refine_num_layers": meta["refine_head"]["depth"],
        "refine_num_attention_heads": meta["refine_head"]["n_heads"],
        "refine_head_dim": meta["refine_head"]["d_head"],
        "refine_dropout": meta["dropout"],
        "head_dropout": meta["dropout"],
        "feature_mask_ratio": meta["mask_ratio"],
        "confidence_threshold": meta["inference"]["threshold"],
        "certainty_threshold": meta["inference"]["confidence"],
        "lora_alpha": meta["lora"]["alpha"],
    }
    root = tmp_path_factory.mktemp("golden")
    (root / "overrides.json").write_text(json.dumps(overrides))
    for name, extra in (("merged", []), ("adapter", ["--adapter-only"])):
        command = [sys.executable, REPOSITORY / "scripts/convert_official.py", folder / "weights.safetensors"]
        command += [root / name, "--backbone", "dinov2", "--config", root / "overrides.json", *extra]
        subprocess.run(command, check=True, capture_output=True)
    tensors = {name: load_file(folder / f"{name}.safetensors") for name in ("forward", "inference", "training")}
    return SimpleNamespace(folder=folder, meta=meta, root=root, overrides=overrides, **tensors)


@pytest.fixture
def merged(golden):
    return VFMSegForSemanticSegmentation.from_pretrained(golden.root / "merged")


@pytest.fixture
def adapter(golden):
    model = VFMSegForSemanticSegmentation.from_pretrained(golden.root / "adapter", is_trainable=True)
    for module in model.modules():  # the recording has no dropout anywhere
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def normalise(image: np.ndarray) -> torch.Tensor:
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    return torch.from_numpy((image.astype(np.float64) - mean) / std).float().permute(2, 0, 1)


def forward_disagreements(model, golden) -> dict[str, float]:
    recorded = golden.forward
    pixel_values = recorded["input"].float()
    with torch.no_grad():
        maps = model.model(pixel_values).feature_maps
        coarse = model.coarse_head(maps)
        context = F.interpolate(coarse, size=pixel_values.shape[-2:], mode="bilinear", align_corners=False)
        result = {f"feature_{i}": disagreement(maps[i], recorded[f"feature_{i}"]) for i in range(4)}
        result["coarse_logits"] = disagreement(coarse, recorded["coarse_logits"])
        for name, logits in (("coarse", context), ("random", recorded["context_random"])):
            refined = model.refine_head(maps, logits)
            result[f"refine_{name}"] = disagreement(refined, recorded[f"refine_logits_from_{name}"])
    return result


# Where the probes' factors apply in our names.
PATCHES = "model.encoder.embeddings.patch_embeddings.projection"
PROBED = {
    "backbone.model.base_model.model.cls_token": "model.encoder.embeddings.cls_token",
    "backbone.model.base_model.model.pos_embed": "model.encoder.embeddings.position_embeddings",
    "backbone.model.base_model.model.patch_embed.proj.weight": f"{PATCHES}.weight",
    "backbone.model.base_model.model.patch_embed.proj.bias": f"{PATCHES}.bias",
    "decode_head.output_upscaling.0.weight": "coarse_head.upsample1.weight",
    "decode_head.output_upscaling.0.bias": "coarse_head.upsample1.bias",
    "decode_head.output_upscaling.1.running_mean": "coarse_head.upsample_norm.running_mean",
    "decode_head.output_upscaling.1.running_var": "coarse_head.upsample_norm.running_var",
    "aux_decoder.fuse_conv.1.weight": "refine_head.fusion_norm.weight",
    "aux_decoder.fuse_conv.1.bias": "refine_head.fusion_norm.bias",
    "aux_decoder.transformer_decoder.norm.weight": "refine_head.norm.weight",
    "aux_decoder.transformer_decoder.norm.bias": "refine_head.norm.bias",
}


def probe_disagreements(model, golden) -> dict[str, float]:
    """Small magnitudes, which make the epsilon of each normalisation visible; absolute tolerance scaled along."""
    recorded, factors = golden.forward, golden.meta["forward"]["probe_factors"]
    with torch.no_grad():
        for name, factor in factors.items():
            attrgetter(PROBED[name])(model).mul_(factor)
        maps = model.model(recorded["input"][:1].float()).feature_maps
        factor = golden.meta["forward"]["probe_feature_and_context_factor"]
        small = [recorded[f"feature_{i}"][:1] * factor for i in range(4)]
        coarse = model.coarse_head(small)[..., ::2, ::2]
        refined = model.refine_head(small, recorded["context_random"][:1] * factor)
    return {
        "probe_feature_0": disagreement(maps[0], recorded["probe_feature_0"]),
        "probe_feature_3": disagreement(maps[3], recorded["probe_feature_3"]),
        "probe_coarse": disagreement(coarse, recorded["probe_coarse_logits_stride2"]),
        "probe_refine": disagreement(refined, recorded["probe_refine_logits"]),
    }


def run_inference(model, golden):
    image = np.array(Image.open(golden.folder / golden.meta["inference"]["image"]))
    with torch.no_grad():
        return model(normalise(image)[None])


def inference_disagreements(model, golden) -> dict[str, float]:
    recorded, meta = golden.inference, golden.meta["inference"]
    output = run_inference(model, golden)
    full = F.interpolate(output.coarse_logits, size=meta["image_size"], mode="bilinear", align_corners=False)
    index = meta["first_refined_window"]
    top, left, bottom, right = output.windows[0, index].tolist()
    image = normalise(np.array(Image.open(golden.folder / meta["image"])))[None]
    with torch.no_grad():
        maps = model.model(image[..., top:bottom, left:right]).feature_maps
        first = model.refine_head(maps, full[..., top:bottom, left:right])
    boxes = recorded["window_boxes"][:, [0, 2, 1, 3]]
    differing = int((output.logits[0].argmax(0)[::2, ::2] != recorded["prediction_stride2"]).sum())
    return {
        "boxes": 0.0 if torch.equal(output.windows[0].int(), boxes) else float("inf"),
        "refined": 0.0 if torch.equal(output.refined[0], recorded["window_refined"].bool()) else float("inf"),
        "certainty": disagreement(output.certainty[0], recorded["window_confidence"]),
        "coarse_head": disagreement(output.coarse_logits[..., 1::4, 2::8], recorded["coarse_head_raw_sub"]),
        "coarse_full": disagreement(full[..., 5::32, 9::32], recorded["coarse_full_stride32"]),
        "first_window": disagreement(first, recorded["first_refined_window_raw"]),
        "final": disagreement(output.logits[..., 7::16, 3::16], recorded["final_stride16"]),
        "near_ties": differing / meta["pixels_with_margin_below_1e3"],
    }


def training_step(model, golden):
    meta = golden.meta["training"]
    images = torch.stack([normalise(np.array(Image.open(golden.folder / name))) for name in meta["images"]])
    labels = torch.stack([torch.from_numpy(np.array(Image.open(golden.folder / name))) for name in meta["labels"]])
    top, bottom, left, right = meta["crop_box_y1_y2_x1_x2"]
    model.train()
    output = model(images, labels=labels.long(), detail_crop_box=(top, left, bottom, right))
    output.loss.backward()
    return output


def training_disagreements(model, golden) -> dict[str, float]:
    """Losses, logits, running statistics, and the gradients under the published names."""
    recorded, meta = golden.training, golden.meta["training"]
    output = training_step(model, golden)
    result = {
        "content_loss": disagreement(output.content_loss, torch.tensor(meta["loss_coarse"])),
        "detail_loss": disagreement(output.detail_loss, torch.tensor(meta["loss_detail"])),
        "loss": disagreement(output.loss, torch.tensor(meta["loss_total"])),
        "lr_logits": disagreement(output.coarse_logits[..., ::2, ::2], recorded["lr_logits_stride2"]),
        "hr_logits": disagreement(output.logits, recorded["hr_logits"]),
    }
    norm = model.coarse_head.upsample_norm
    result["running_mean"] = disagreement(norm.running_mean, recorded["bn_running_mean_after"])
    result["running_var"] = disagreement(norm.running_var, recorded["bn_running_var_after"])
    for name, norm in meta["grad_norm"].items():
        result[f"norm of {name}"] = disagreement(published_gradient(model, name).norm(), torch.tensor(norm))
    for name, tensor in recorded.items():
        if name.startswith("grad/"):
            result[name] = disagreement(published_gradient(model, name.removeprefix("grad/")), tensor)
    return result


def published_gradient(model, name: str) -> torch.Tensor:
    """The gradient of a published parameter: A of the fused qkv is the sum over q, k and v, B their concatenation."""
    if match := re.search(r"blocks\.(\d+)\.attn\.qkv\.lora_([AB])", name):
        attention = model.model.encoder.encoder.layer[int(match[1])].attention
        factors = [getattr(attention, f"{part}_proj").get_submodule(f"lora_{match[2]}.default") for part in "qkv"]
        gradients = [factor.weight.grad for factor in factors]
        return sum(gradients) if match[2] == "A" else torch.cat(gradients)
    if name.startswith("decode_head."):
        head, own = model.coarse_head, rename_coarse_head(name.removeprefix("decode_head."))
    else:
        head, own = model.refine_head, rename_refine_head(name.removeprefix("aux_decoder."))
    parameter = head.modules_to_save["default"].get_parameter(own)
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@pytest.mark.parametrize("checks", [forward_disagreements, probe_disagreements, inference_disagreements])
@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_published_numbers(checks, form, golden, request):
    model = request.getfixturevalue(form).eval()
    result = checks(model, golden)
    assert max(result.values()) <= 1, result


def test_published_training_step(adapter, golden):
    result = training_disagreements(adapter, golden)
    assert len(result) > 60 and max(result.values()) <= 1, {k: v for k, v in result.items() if v > 1}


def test_trainable_parameters_are_the_published_ones(adapter, golden):
    """q, k and v have an A and a B each where the published code has one fused pair per block."""
    published = golden.meta["training"]["trainable"]
    fused = [name for name in published if "lora_" in name]
    trainable = [name for name, parameter in adapter.named_parameters() if parameter.requires_grad]
    assert len(trainable) == len(published) - len(fused) + 3 * len(fused)
    assert all(".lora_" in name or ".modules_to_save." in name for name in trainable)


def test_final_logits_do_not_depend_on_the_window_batch(merged, golden):
    reference = run_inference(merged, golden).logits
    merged.config.window_batch_size = 1
    assert disagreement(run_inference(merged, golden).logits, reference, tolerance=1e-5) <= 1


# ------------------------------------------------------------------------- each convention, broken once


def set_epsilon(kind, eps):
    def mutate(model, monkeypatch):
        for module in model.modules():
            if isinstance(module, kind):
                module.eps = eps

    return mutate


def set_refine_norm_epsilon(model, monkeypatch):
    model.refine_head.norm.eps = 1e-5


def set_refine_layer_epsilon(model, monkeypatch):
    for module in model.refine_head.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6


def set_config(**values):
    def mutate(model, monkeypatch):
        for key, value in values.items():
            setattr(model.config, key, value)

    return mutate


def swap_query_and_key(model, monkeypatch):
    for layer in model.model.encoder.encoder.layer:
        attention = layer.attention
        attention.q_proj, attention.k_proj = attention.k_proj, attention.q_proj


def swap_key_and_value(model, monkeypatch):
    for layer in model.model.encoder.encoder.layer:
        attention = layer.attention
        attention.k_proj, attention.v_proj = attention.v_proj, attention.k_proj


def approximate_encoder_gelu(model, monkeypatch):
    for layer in model.model.encoder.encoder.layer:
        layer.mlp.activation_fn = nn.GELU(approximate="tanh")


def approximate_head_gelu(model, monkeypatch):
    exact = F.gelu
    monkeypatch.setattr(F, "gelu", lambda x, approximate="none": exact(x, approximate="tanh"))


def value_and_gate_swapped(model, monkeypatch):
    for layer in model.refine_head.layers:
        weight, bias = layer.feed_forward.input.weight.data, layer.feed_forward.input.bias.data
        weight.copy_(weight.roll(len(weight) // 2, 0))
        bias.copy_(bias.roll(len(bias) // 2, 0))


def antialiased_resize(model, monkeypatch):
    plain = F.interpolate
    monkeypatch.setattr(
        F, "interpolate", lambda *a, mode="nearest", **k: plain(*a, mode=mode, antialias=mode == "bilinear", **k)
    )


@pytest.mark.parametrize(
    "mutate, checks, form",
    [
        pytest.param(set_epsilon(nn.GroupNorm, 1e-6), probe_disagreements, "merged", id="group norm eps"),
        pytest.param(set_epsilon(nn.BatchNorm2d, 1e-6), probe_disagreements, "merged", id="batch norm eps"),
        pytest.param(set_refine_norm_epsilon, probe_disagreements, "merged", id="refine input norm eps"),
        pytest.param(set_refine_layer_epsilon, probe_disagreements, "merged", id="refine layer norm eps"),
        pytest.param(set_epsilon(nn.LayerNorm, 1e-5), probe_disagreements, "merged", id="encoder layer norm eps"),
        pytest.param(set_config(position_interpolation="size"), forward_disagreements, "merged", id="position rule"),
        pytest.param(swap_query_and_key, forward_disagreements, "merged", id="qkv order: q, k"),
        pytest.param(swap_key_and_value, forward_disagreements, "merged", id="qkv order: k, v"),
        pytest.param(approximate_encoder_gelu, forward_disagreements, "merged", id="GELU kind in the encoder"),
        pytest.param(approximate_head_gelu, forward_disagreements, "merged", id="GELU kind in the heads"),
        pytest.param(value_and_gate_swapped, forward_disagreements, "merged", id="value before gate"),
        pytest.param(set_config(coarse_size=[512, 512]), inference_disagreements, "merged", id="coarse size"),
        pytest.param(set_config(confidence_threshold=0.21), inference_disagreements, "merged", id="theta"),
        pytest.param(set_config(certainty_threshold=0.56), inference_disagreements, "merged", id="C_tau"),
        pytest.param(set_config(window_stride=256), inference_disagreements, "merged", id="stride"),
        pytest.param(antialiased_resize, inference_disagreements, "merged", id="antialiasing"),
        pytest.param(set_config(loss_normalization="valid"), training_disagreements, "adapter", id="loss divisor"),
        pytest.param(set_config(detail_loss_weight=0.9), training_disagreements, "adapter", id="lambda"),
    ],
)
def test_a_broken_convention_is_noticed(mutate, checks, form, golden, request, monkeypatch):
    model = request.getfixturevalue(form)
    mutate(model, monkeypatch)
    try:
        result = checks(model, golden)
    except AssertionError:
        return  # another shape is noticed as well
    assert max(result.values()) > 1, result
