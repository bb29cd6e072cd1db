"""Recordings of the authors' implementation, converted by our converter, and what our models disagree with.

Each check returns its disagreements by name, in units of atol = rtol = 1e-4: up to 1 is agreement.
"""

import json
import re
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from benchmarks.reference_loop import reference_inference
from tests.support.numbers import disagreement
from vfmseg_hf import VFMSegForSemanticSegmentation
from vfmseg_hf.convert import convert_official, get_published_encoder
from vfmseg_hf.convert.base import LORA_FACTOR, reason_to_drop
from vfmseg_hf.convert.heads import rename_head
from vfmseg_hf.convert.names import renamer
from vfmseg_hf.convert.official import ENCODER


BACKBONES = ("dinov2", "clip", "sam", "eva02")


def backbone_config(meta: dict, image_size: int) -> dict[str, object]:
    """The recorded encoder in the words of the library class that runs it."""
    width, depth, heads = meta["embed_dim"], meta["depth"], meta["num_heads"]
    common = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "patch_size": meta["patch_size"],
        "image_size": image_size,
    }
    if meta["backbone"] == "dinov2":
        return {"model_type": "dinov2", **common, "mlp_ratio": meta["mlp_ratio"]}
    if meta["backbone"] == "clip":
        return {"model_type": "clip_vision_model", **common, "intermediate_size": width * meta["mlp_ratio"]}
    if meta["backbone"] == "sam":
        return {
            "model_type": "sam_vision_model",
            **common,
            "mlp_dim": width * meta["mlp_ratio"],
            "window_size": meta["attention_window"],
            "global_attn_indexes": meta["global_attention_blocks"],
        }
    architecture = {"embed_dim": width, "depth": depth, "num_heads": heads, "mlp_ratio": meta["mlp_ratio"]}
    grid = meta["rope_pretrain_grid"]
    size = {"img_size": image_size, "patch_size": meta["patch_size"], "ref_feat_shape": [grid, grid]}
    return {
        "model_type": "timm_wrapper",
        "architecture": "eva02_base_patch14_224",
        "model_args": {**architecture, **size},
    }


def agree(disagreements: dict[str, float]) -> bool:
    """Whether there are checks and all of them agree. Not by `max`, which can pass over NaN."""
    return bool(disagreements) and all(value <= 1 for value in disagreements.values())


class GoldenCase:
    """
    One recorded model; everything is read and converted when it is first asked for.

    Args:
        folder: the recording.
        root: a new directory for the converted checkpoints.
    """

    def __init__(self, folder: Path, root: Path):
        self.folder, self.root = folder, root
        self.meta = json.loads((folder / "meta.json").read_text())
        self.backbone = self.meta["backbone"]

    def __getattr__(self, name: str) -> dict[str, torch.Tensor]:
        if name not in ("forward", "inference", "training", "weights"):
            raise AttributeError(name)
        setattr(self, name, load_file(self.folder / f"{name}.safetensors"))
        return getattr(self, name)

    def overrides(self, for_inference: bool = False) -> dict[str, object]:
        """What the converter has to be told. Grids of fixed size were recorded in two sizes."""
        meta, refine = self.meta, self.meta["refine_head"]
        size = meta["inference_position_grid_image_size" if for_inference else "position_grid_image_size"]
        return {
            "backbone_config": backbone_config(meta, size),
            "out_indices": meta["out_indices"],
            "refine_hidden_size": refine["channels"],
            "refine_num_layers": refine["depth"],
            "refine_num_attention_heads": refine["n_heads"],
            "refine_head_dim": refine["d_head"],
            "refine_dropout": meta["dropout"],
            "head_dropout": meta["dropout"],
            "feature_mask_ratio": meta["mask_ratio"],
            "confidence_threshold": meta["inference"]["threshold"],
            "certainty_threshold": meta["inference"]["confidence"],
            "lora_alpha": meta["lora"]["alpha"],
        }

    @cached_property
    def inference_weights(self) -> Path:
        """The file to convert for the inference recording."""
        replaced = self.folder / "weights_window.safetensors"
        if not replaced.exists():
            return self.folder / "weights.safetensors"
        tensors = load_file(replaced)
        assert sorted(tensors) == sorted(self.meta["weights_window_replaces"])
        save_file({**self.weights, **tensors}, self.root / "inference.safetensors")
        return self.root / "inference.safetensors"

    def model(self, form: str, for_inference: bool = False) -> VFMSegForSemanticSegmentation:
        """The converted model, `"merged"` or `"adapter"`, the latter ready to train."""
        source = self.inference_weights if for_inference else self.folder / "weights.safetensors"
        directory = self.root / f"{form} of {source.stem}"
        if not directory.exists():
            overrides = self.overrides(source.parent == self.root)
            convert_official(source, directory, self.backbone, overrides, adapter_only=form == "adapter")
        if form == "merged":
            return VFMSegForSemanticSegmentation.from_pretrained(directory)
        model = VFMSegForSemanticSegmentation.from_pretrained(directory, is_trainable=True)
        for module in model.modules():  # the recording has no dropout anywhere
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return model

    def image(self, name: str) -> torch.Tensor:
        """A recorded image `[3, H, W]` as the published code normalises it."""
        mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
        pixels = np.array(Image.open(self.folder / name))
        return torch.from_numpy((pixels.astype(np.float64) - mean) / std).float().permute(2, 0, 1)

    def label(self, name: str) -> torch.Tensor:
        """A recorded label map `[H, W]`."""
        return torch.from_numpy(np.array(Image.open(self.folder / name))).long()

    def own_parameters(self, published: str) -> list[str]:
        """Names in our adapter form of what a published trainable parameter is: none for a LoRA without effect."""
        if name := rename_head(published):
            head, _, rest = name.partition(".")
            return [f"{head}.modules_to_save.default.{rest}"]
        encoder, key = get_published_encoder(self.backbone), published.removeprefix(ENCODER)
        if reason_to_drop(key, encoder.dropped):
            return []
        layer, factor = LORA_FACTOR.fullmatch(key).groups()
        return [
            f"model.encoder.{name.removesuffix('.weight')}.lora_{factor}.default.weight"
            for name in renamer(encoder.rules)(f"{layer}.weight")
        ]


def probed_tensor(model, case: GoldenCase, published: str) -> torch.Tensor:
    """The tensor of ours that a probe's factor applies to."""
    name = rename_head(published)
    if name is None:
        (name,) = renamer(get_published_encoder(case.backbone).rules)(published.removeprefix(ENCODER))
        name = f"model.encoder.{name}"
    for part in re.split(r"\.", name):
        model = getattr(model, part)
    return model


def forward_disagreements(model, case: GoldenCase) -> dict[str, float]:
    recorded = case.forward
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


def probe_disagreements(model, case: GoldenCase) -> dict[str, float]:
    """Small magnitudes, which make the epsilon of each normalisation visible; absolute tolerance scaled along."""
    recorded, factors = case.forward, case.meta["forward"]["probe_factors"]
    with torch.no_grad():
        for name, factor in factors.items():
            probed_tensor(model, case, name).mul_(factor)
        maps = model.model(recorded["input"][:1].float()).feature_maps
        factor = case.meta["forward"]["probe_feature_and_context_factor"]
        small = [recorded[f"feature_{i}"][:1] * factor for i in range(4)]
        coarse = model.coarse_head(small)[..., ::2, ::2]
        refined = model.refine_head(small, recorded["context_random"][:1] * factor)
    return {
        "probe_feature_0": disagreement(maps[0], recorded["probe_feature_0"]),
        "probe_feature_3": disagreement(maps[3], recorded["probe_feature_3"]),
        "probe_coarse": disagreement(coarse, recorded["probe_coarse_logits_stride2"]),
        "probe_refine": disagreement(refined, recorded["probe_refine_logits"]),
    }


def run_inference(model, case: GoldenCase):
    with torch.no_grad():
        return model(case.image(case.meta["inference"]["image"])[None])


def run_reference(model, case: GoldenCase):
    """The same fields from the published loop."""
    with torch.no_grad():
        result = reference_inference(model, case.image(case.meta["inference"]["image"])[None])
    tensors = {name: torch.tensor(getattr(result, name)) for name in ("certainty", "refined")}
    return replace(result, windows=torch.tensor(result.windows)[None], **tensors)


def inference_disagreements(model, case: GoldenCase, run=run_inference) -> dict[str, float]:
    recorded, meta = case.inference, case.meta["inference"]
    output = run(model, case)
    image = case.image(meta["image"])[None]
    full = F.interpolate(output.coarse_logits, size=meta["image_size"], mode="bilinear", align_corners=False)
    top, left, bottom, right = output.windows[0, meta["first_refined_window"]].tolist()
    head_output = output.coarse_logits
    with torch.no_grad():
        maps = model.model(image[..., top:bottom, left:right]).feature_maps
        first = model.refine_head(maps, full[..., top:bottom, left:right])
        if meta["coarse_mode"] == "sliding_window":
            small = F.interpolate(image, size=meta["coarse_input_size"], mode="bilinear", align_corners=False)
            head_output = model.coarse_head(model.model(small[..., : meta["window"], : meta["window"]]).feature_maps)
    boxes = recorded["window_boxes"][:, [0, 2, 1, 3]]
    differing = int((output.logits[0].argmax(0)[::2, ::2] != recorded["prediction_stride2"]).sum())
    return {
        "boxes": 0.0 if torch.equal(output.windows[0].int(), boxes) else float("inf"),
        "refined": 0.0 if torch.equal(output.refined[0], recorded["window_refined"].bool()) else float("inf"),
        "certainty": disagreement(output.certainty[0], recorded["window_confidence"]),
        "coarse_head": disagreement(head_output[..., 1::4, 2::8], recorded["coarse_head_raw_sub"]),
        "coarse_full": disagreement(full[..., 5::32, 9::32], recorded["coarse_full_stride32"]),
        "first_window": disagreement(first, recorded["first_refined_window_raw"]),
        "final": disagreement(output.logits[..., 7::16, 3::16], recorded["final_stride16"]),
        "near_ties": differing / meta["pixels_with_margin_below_1e3"],
    }


def training_disagreements(model, case: GoldenCase) -> dict[str, float]:
    """Losses, logits, running statistics, and the gradients under the published names."""
    recorded, meta = case.training, case.meta["training"]
    images = torch.stack([case.image(name) for name in meta["images"]])
    labels = torch.stack([case.label(name) for name in meta["labels"]])
    top, bottom, left, right = meta["crop_box_y1_y2_x1_x2"]
    model.train()
    output = model(images, labels=labels, detail_crop_box=(top, left, bottom, right))
    output.loss.backward()
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
        gradient = published_gradient(model, case, name)
        if norm is None or gradient is None:
            result[f"norm of {name}"] = 0.0 if norm is gradient else float("inf")
        else:
            result[f"norm of {name}"] = disagreement(gradient.norm(), torch.tensor(norm))
    for name, tensor in recorded.items():
        if name.startswith("grad/"):
            result[name] = disagreement(published_gradient(model, case, name.removeprefix("grad/")), tensor)
    return result


def published_gradient(model, case: GoldenCase, published: str) -> torch.Tensor | None:
    """
    The gradient of a published parameter; `None` for a LoRA without effect, which a converted model does not have.

    That of A on a fused layer is the sum over the layers that share it, that of B their concatenation.
    """
    parameters = [model.get_parameter(name) for name in case.own_parameters(published)]
    if not parameters:
        return None
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return sum(gradients) if ".lora_A." in published else torch.cat(gradients)
