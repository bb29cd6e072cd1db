"""Every encoder family on a tiny foundation model: exactness, any size, LoRA, checkpoints, precision."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSemanticSegmentation,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
    SamConfig,
    SamModel,
    SamVisionConfig,
    SamVisionModel,
    Siglip2Config,
    Siglip2Model,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    TimmWrapperConfig,
    TimmWrapperModel,
)
from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

from tests.support.numbers import disagreement
from vfmseg_hf import VFMSegConfig, VFMSegForSemanticSegmentation, image_constants, lora_config, register_encoder
from vfmseg_hf.model import encoders
from vfmseg_hf.model.encoders import get_encoder_family
from vfmseg_hf.model.presets import PUBLISHED_OPTIONS, published_options


WIDTH, DEPTH = 32, 4
SHAPE = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 2}
SMALL = {
    "refine_hidden_size": 128,
    "refine_num_layers": 1,
    "refine_head_dim": 16,
    "coarse_size": 64,
    "window_size": 64,
    "window_stride": 40,
}


def randomise(model: nn.Module) -> nn.Module:
    """Weights under which every tensor matters: libraries start tables at zero and blocks next to the identity."""
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, (nn.Linear, nn.Conv2d)) and parameter.ndim > 1:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            elif isinstance(module, nn.LayerNorm) and parameter is module.weight:
                nn.init.normal_(parameter, mean=1, std=0.1)
            else:
                nn.init.normal_(parameter, std=0.3)
    return model.eval()


@dataclass
class Encoder:
    """
    One family in the tests.

    Attributes:
        save: writes a tiny foundation model with random weights to a directory and returns it.
        hidden_states: the library's own states after every block as maps `[B, C, rows, columns]`.
        sizes: image sizes that the library can run.
    """

    save: Callable[[Path], PreTrainedModel]
    hidden_states: Callable[[PreTrainedModel, torch.Tensor], list[torch.Tensor]]
    sizes: list[tuple[int, int]]


def saved(build: Callable[[], PreTrainedModel]) -> Callable[[Path], PreTrainedModel]:
    """A foundation model under the key names of the Hub."""

    def save(directory: Path) -> PreTrainedModel:
        model = randomise(build())
        model.save_pretrained(directory, save_original_format=True)
        return model

    return save


def token_maps(states: tuple[torch.Tensor, ...], prefix: int, rows: int, columns: int) -> list[torch.Tensor]:
    return [state[:, prefix:].unflatten(1, (rows, columns)).permute(0, 3, 1, 2) for state in states]


def tokens_of(prefix: int, patch: int, **arguments) -> Callable[[PreTrainedModel, torch.Tensor], list[torch.Tensor]]:
    def hidden_states(model: PreTrainedModel, images: torch.Tensor) -> list[torch.Tensor]:
        states = model(images, output_hidden_states=True, **arguments).hidden_states
        return token_maps(states[1:], prefix, images.shape[2] // patch, images.shape[3] // patch)

    return hidden_states


def naflex_hidden_states(model: Siglip2VisionModel, images: torch.Tensor) -> list[torch.Tensor]:
    rows, columns = images.shape[2] // 16, images.shape[3] // 16
    patches = torch.stack([convert_image_to_patches(image, 16) for image in images])
    shapes = torch.tensor([[rows, columns]] * len(images))
    states = model(patches, torch.ones(patches.shape[:2]), shapes, output_hidden_states=True).hidden_states
    return token_maps(states[1:], 0, rows, columns)


def sam_hidden_states(model: SamVisionModel, images: torch.Tensor) -> list[torch.Tensor]:
    states = model(images, output_hidden_states=True).hidden_states
    return [state.permute(0, 3, 1, 2) for state in states[1:]]


def sam_config(**overrides) -> SamVisionConfig:
    """Attention windows of 3 x 3 patches in a grid of 8 x 8, and two blocks that attend globally."""
    settings = {"image_size": 128, "global_attn_indexes": [1, 3], "window_size": 3, "output_channels": 16}
    return SamVisionConfig(**{**SHAPE, **settings, **overrides})


def timm_model(architecture: str, patch: int) -> TimmWrapperModel:
    sizes = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": 2, "img_size": 5 * patch, "patch_size": patch}
    return TimmWrapperModel(
        TimmWrapperConfig(architecture=architecture, model_args={**sizes, "dynamic_img_size": True}, num_labels=0)
    )


def timm_hidden_states(model: TimmWrapperModel, images: torch.Tensor) -> list[torch.Tensor]:
    return model.timm_model.forward_intermediates(images, norm=False, intermediates_only=True)


WITH_MLP = {**SHAPE, "intermediate_size": 64}
ENCODERS: dict[str, Encoder] = {
    "dinov2": Encoder(
        saved(lambda: Dinov2Model(Dinov2Config(**SHAPE, patch_size=14, image_size=70))),
        tokens_of(prefix=1, patch=14),
        [(70, 70), (42, 98)],
    ),
    "dinov2_with_registers": Encoder(
        saved(lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SHAPE, patch_size=14, image_size=70))),
        tokens_of(prefix=5, patch=14),
        [(70, 70), (42, 98)],
    ),
    "dinov3_vit": Encoder(
        saved(lambda: DINOv3ViTModel(DINOv3ViTConfig(**WITH_MLP, num_register_tokens=4))),
        tokens_of(prefix=5, patch=16),
        [(64, 64), (48, 112)],
    ),
    "clip_vision_model": Encoder(
        saved(lambda: CLIPVisionModel(CLIPVisionConfig(**WITH_MLP, patch_size=32, image_size=96))),
        tokens_of(prefix=1, patch=32, interpolate_pos_encoding=True),
        [(96, 96), (64, 160)],
    ),
    "siglip_vision_model": Encoder(
        saved(lambda: SiglipVisionModel(SiglipVisionConfig(**WITH_MLP, patch_size=14, image_size=70))),
        tokens_of(prefix=0, patch=14, interpolate_pos_encoding=True),
        [(70, 70), (42, 98)],
    ),
    "siglip2_vision_model": Encoder(
        saved(lambda: Siglip2VisionModel(Siglip2VisionConfig(**WITH_MLP, num_patches=25))),
        naflex_hidden_states,
        [(80, 80), (48, 112), (32, 48)],
    ),
    "sam_vision_model": Encoder(saved(lambda: SamVisionModel(sam_config())), sam_hidden_states, [(128, 128)]),
    "timm eva02": Encoder(
        saved(lambda: timm_model("eva02_base_patch14_224", 14)), timm_hidden_states, [(70, 70), (42, 98)]
    ),
    "timm vit": Encoder(
        saved(lambda: timm_model("vit_base_patch16_224", 16)), timm_hidden_states, [(80, 80), (48, 112)]
    ),
}
families = pytest.mark.parametrize("name", ENCODERS)


@pytest.fixture(scope="module")
def foundation(tmp_path_factory):
    """Directory of a family's tiny foundation model, and the model in it."""
    root, models = tmp_path_factory.mktemp("foundations"), {}

    def foundation(name: str) -> tuple[Path, PreTrainedModel]:
        if name not in models:
            torch.manual_seed(1)
            models[name] = ENCODERS[name].save(root / name)
        return root / name, models[name]

    return foundation


@pytest.fixture
def build(foundation):
    """A model on a family's tiny foundation model, in eval mode."""

    def build(name: str, **overrides) -> VFMSegForSemanticSegmentation:
        torch.manual_seed(2)
        return VFMSegForSemanticSegmentation.from_backbone(foundation(name)[0], **{**SMALL, **overrides}).eval()

    return build


@pytest.fixture
def adapted(build):
    """The same with LoRA of which every factor is random."""

    def adapted(name: str, **overrides) -> VFMSegForSemanticSegmentation:
        model = build(name, **overrides)
        model.add_adapter(lora_config(model.config, r=4, lora_dropout=0))
        for parameter_name, parameter in model.named_parameters():
            if ".lora_B." in parameter_name:
                nn.init.normal_(parameter, std=0.2)
        return model

    return adapted


def encode(model: VFMSegForSemanticSegmentation, images: torch.Tensor) -> torch.Tensor:
    """The four feature maps as one tensor `[4, B, C, rows, columns]`."""
    return torch.stack(model.model(images).feature_maps)


def predict(model: VFMSegForSemanticSegmentation) -> torch.Tensor:
    images = torch.linspace(-2, 2, 3 * 70 * 100).sin().reshape(1, 3, 70, 100) * 2
    with torch.no_grad():
        return model.eval()(images, refine="all").logits


def relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


# ------------------------------------------------------------------------------------------------ exactness


@families
def test_feature_maps_are_the_librarys_hidden_states(name, foundation, build):
    """At the patch size and position grid of the foundation model, before anything is resampled."""
    _, library = foundation(name)
    native = library.config
    patch = get_encoder_family(native).patch_size(native)
    model = build(name, backbone_config=native.to_dict(), patch_size=patch, coarse_size=2 * patch)
    for size in ENCODERS[name].sizes:
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            expected = torch.stack(ENCODERS[name].hidden_states(library, images))
            maps = encode(model, images)
        assert maps.shape == (DEPTH, 2, WIDTH, size[0] // patch, size[1] // patch)
        assert disagreement(maps, expected, tolerance=1e-5) <= 1


@families
@pytest.mark.parametrize("size", [(16, 16), (48, 112), (512, 1024)], ids=str)
def test_any_size(name, size, build):
    model = build(name)
    with torch.no_grad():
        maps = encode(model, torch.randn(1, 3, *size))
    assert maps.shape == (4, 1, WIDTH, size[0] // 16, size[1] // 16) and maps.isfinite().all()
    backbone = model.config.backbone_config
    assert get_encoder_family(backbone).patch_size(backbone) == 16 and model.config.out_indices == [0, 1, 2, 3]


@families
@pytest.mark.parametrize("place", [(0, 0), (2, 4), (1, 3)], ids=str)
def test_a_patch_stays_in_its_place(name, place, build):
    """What changes in one patch of an image changes the feature there the most."""
    model, images = build(name), torch.randn(1, 3, 48, 80)
    changed = images.clone()
    row, column = place
    changed[..., row * 16 : row * 16 + 16, column * 16 : column * 16 + 16] += 3
    with torch.no_grad():
        difference = (encode(model, changed) - encode(model, images))[0, 0].norm(dim=0)
    assert divmod(int(difference.argmax()), 5) == place


def sam_at(model: SamVisionModel, table: torch.Tensor, size: tuple[int, int]) -> SamVisionModel:
    """The library's SAM with another position table, made to take images of another size."""
    model.vision_encoder.pos_embed = nn.Parameter(table)
    model.vision_encoder.patch_embed.image_size = size
    return model


@pytest.mark.parametrize("size", [(64, 64), (80, 176), (160, 96)], ids=str)
def test_sam_at_sizes_that_the_library_refuses(size, foundation, build, tmp_path):
    """Its own modules with a table that was resized beforehand; windows of 3 patches do not fit any of them."""
    _, library = foundation("sam_vision_model")
    table = F.interpolate(
        library.vision_encoder.pos_embed.data.permute(0, 3, 1, 2),
        size=(size[0] // 16, size[1] // 16),
        mode="bicubic",
        align_corners=False,
    ).permute(0, 2, 3, 1)
    library = sam_at(SamVisionModel.from_pretrained(foundation("sam_vision_model")[0]), table, size)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = torch.stack(sam_hidden_states(library, images))
        assert disagreement(encode(build("sam_vision_model"), images), expected, tolerance=1e-5) <= 1


def test_sams_own_grid_equals_the_published_one(tmp_path):
    """
    The published conversion resizes the 64 x 64 table to 32 x 32 once and keeps the relative ones; here the table stays
    as it is. At 512 x 512 both compute the same.
    """
    torch.manual_seed(1)
    library = saved(lambda: SamVisionModel(sam_config(image_size=1024, window_size=14)))(tmp_path)
    model = VFMSegForSemanticSegmentation.from_backbone(tmp_path, **SMALL).eval()
    assert model.config.backbone_config.image_size == 1024
    weights = model.model.encoder.state_dict()
    assert all(torch.equal(weights[key], tensor) for key, tensor in library.state_dict().items())
    assert weights["vision_encoder.layers.1.attn.rel_pos_h"].shape == (127, 16)
    table = library.vision_encoder.pos_embed.data.permute(0, 3, 1, 2)
    table = F.interpolate(table, size=(32, 32), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    images = torch.randn(1, 3, 512, 512)
    with torch.no_grad():
        expected = torch.stack(sam_hidden_states(sam_at(library, table, (512, 512)), images))
        assert disagreement(encode(model, images), expected, tolerance=1e-5) <= 1


def test_sam_on_a_smaller_grid(foundation, build):
    """As a converted model has it: both kinds of tables are resized when the base is loaded, and nothing else."""
    _, library = foundation("sam_vision_model")
    small = build("sam_vision_model", backbone_config=sam_config(image_size=64))
    weights, native = small.model.encoder.state_dict(), library.state_dict()
    changed = {key for key in native if not torch.equal(weights[key], native[key]) if weights[key].shape}
    tables = {f"vision_encoder.layers.{block}.attn.rel_pos_{axis}" for block in (1, 3) for axis in "hw"}
    assert changed == tables | {"vision_encoder.pos_embed"}
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert disagreement(encode(small, images), encode(build("sam_vision_model"), images), 1e-5) <= 1


@pytest.mark.parametrize("name", ["dinov2", "dinov2_with_registers"])
def test_scale_offset_positions(name, foundation, build):
    """The library's own forward with a table that DINOv2's rule has resized, at the size of that table."""
    grid = 9
    model = build(name, position_interpolation="scale_offset")
    table = model.model.encoder.embeddings.position_embeddings.data
    positions = table[:, 1:].reshape(1, 32, 32, WIDTH).permute(0, 3, 1, 2)
    factor = (grid + 0.1) / 32
    positions = F.interpolate(positions, scale_factor=(factor, factor), mode="bicubic").flatten(2).transpose(1, 2)
    assert positions.shape[1] == grid * grid
    library = build(name).model.encoder
    library.embeddings.position_embeddings = nn.Parameter(torch.cat([table[:, :1], positions], dim=1))
    images = torch.randn(2, 3, grid * 16, grid * 16)
    prefix = get_encoder_family(library.config).num_prefix_tokens(library.config)
    with torch.no_grad():
        expected = torch.stack(tokens_of(prefix, 16)(library, images))
        assert disagreement(encode(model, images), expected, tolerance=1e-5) <= 1
        assert disagreement(encode(build(name), images), expected, tolerance=1e-5) > 1, "the other rule differs"


def test_bilinear_positions(foundation, build):
    """The library's own forward with a bilinearly resized table, at the size of that table; and in `from_backbone`."""
    native = foundation("clip_vision_model")[1].embeddings.position_embedding.weight.data

    def resized(table, edge, grid):
        positions = table[1:].reshape(1, edge, edge, WIDTH).permute(0, 3, 1, 2)
        positions = F.interpolate(positions, size=(grid, grid), mode="bilinear").flatten(2).transpose(1, 2)
        return torch.cat([table[:1], positions[0]])

    model = build("clip_vision_model", position_interpolation="bilinear")
    table = model.model.encoder.embeddings.position_embedding.weight.data
    torch.testing.assert_close(table, resized(native, 3, 32))
    backbone = {**model.config.backbone_config.to_dict(), "image_size": 9 * 16}
    library = CLIPVisionModel(CLIPVisionConfig(**backbone)).eval()
    table = resized(table, 32, 9)
    weights = {**model.model.encoder.state_dict(), "embeddings.position_embedding.weight": table}
    library.load_state_dict(weights)
    images = torch.randn(2, 3, 144, 144)
    with torch.no_grad():
        expected = torch.stack(tokens_of(prefix=1, patch=16)(library, images))
        assert disagreement(encode(model, images), expected, tolerance=1e-5) <= 1
        assert disagreement(encode(build("clip_vision_model"), images), expected, tolerance=1e-5) > 1


@families
def test_only_what_depends_on_the_size_is_resampled(name, build, foundation):
    native, ours = foundation(name)[1].state_dict(), build(name).model.encoder.state_dict()
    family = get_encoder_family(foundation(name)[1].config)
    changed = {key for key, tensor in ours.items() if not torch.equal(tensor, native[key])}
    assert changed <= family.resampled_keys(ours)
    left_behind = {key.removeprefix("timm_model.").split(".")[0] for key in native if key not in ours}
    assert left_behind <= {"head", "norm", "fc_norm"}, "SigLIP's pooler, and timm's norms after the blocks"


def test_naflex_kernel_at_another_patch_size(build, foundation):
    """Its linear patch embedding is a convolution in disguise."""
    kernel = foundation("siglip2_vision_model")[1].embeddings.patch_embedding.weight.reshape(WIDTH, 16, 16, 3)
    kernel = F.interpolate(kernel.permute(0, 3, 1, 2), size=(8, 8), mode="bicubic")
    model = build("siglip2_vision_model", patch_size=8)
    weight = model.model.encoder.embeddings.patch_embedding.weight
    torch.testing.assert_close(weight, kernel.permute(0, 2, 3, 1).flatten(1))


# ------------------------------------------------------------------------------------------------ training


@families
def test_lora_is_effective_on_every_target(name, adapted):
    model, images = adapted(name), torch.randn(2, 3, 48, 80)
    family = get_encoder_family(model.config.backbone_config)
    factors = {n: p for n, p in model.model.named_parameters() if ".lora_" in n}
    assert len(factors) == 2 * DEPTH * len(family.lora_targets)
    assert sum(".lora_" in n for n, _ in model.named_parameters()) == len(factors), "none in the heads"
    maps = encode(model, images)
    (maps * torch.randn_like(maps)).sum().backward()
    silent = [n for n, p in factors.items() if p.grad is None or not p.grad.norm() > 0]
    assert not silent, "factors without a gradient"
    for n, parameter in factors.items():
        if ".lora_B." in n:
            kept = parameter.data.clone()
            with torch.no_grad():
                parameter.zero_()
                assert relative_difference(encode(model, images), maps) > 1e-4, f"{n} has no effect"
                parameter.copy_(kept)


@families
def test_all_linear_layers_of_the_blocks(name, build):
    """Every one and nothing else, fused or gated; LoRA on each has an effect, and can be folded in."""
    model, images = build(name), torch.randn(2, 3, 48, 80)
    encoder, family = model.model.encoder, get_encoder_family(model.config.backbone_config)
    blocks = [list(block.modules()) for block in family.blocks(encoder)]
    expected = {n for n, m in encoder.named_modules() if isinstance(m, nn.Linear) and any(m in b for b in blocks[1:])}
    assert len(expected) >= 4 * (DEPTH - 1), "attention has two at least, and so has an MLP"
    model.add_adapter(lora_config(model.config, r=4, lora_dropout=0, targets="all-linear", frozen_share=0.25))
    factors = {n: p for n, p in encoder.named_parameters() if ".lora_" in n}
    assert {n.partition(".lora_")[0] for n in factors} == expected
    for parameter in factors.values():
        nn.init.normal_(parameter, std=0.2)
    maps = encode(model, images)
    for n, parameter in factors.items():
        if ".lora_B." in n:
            kept = parameter.data.clone()
            with torch.no_grad():
                parameter.zero_()
                assert relative_difference(encode(model, images), maps) > 1e-5, f"{n} has no effect"
                parameter.copy_(kept)
    model.merge_and_unload()
    assert disagreement(encode(model, images).detach(), maps.detach(), tolerance=1e-3) <= 1


@families
def test_minor_directions_of_every_family(name, build):
    """The smallest singular value's left vectors, by eigenvectors of W W', in float64."""
    model = build(name)
    weights = {n: weight.detach().double() for n, weight in model.named_parameters()}
    model.add_adapter(lora_config(model.config, r=2, targets="all-linear", init_lora_weights="mica"))
    for n, factor in model.named_parameters():
        if ".lora_B." in n:
            weight = weights[n.partition(".lora_")[0] + ".weight"]
            _, vectors = torch.linalg.eigh(weight @ weight.T)
            null = max(0, weight.shape[0] - weight.shape[1])  # directions that no input reaches are not taken
            minor = vectors[:, null : null + 2]
            torch.testing.assert_close(factor.double() @ factor.double().T, minor @ minor.T, atol=1e-2, rtol=0)
            assert not factor.requires_grad


@families
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_keeps_loras_gradients(name, reentrant, adapted):
    model, images = adapted(name).train(), torch.randn(2, 3, 48, 80)
    weights = torch.randn(4, 2, WIDTH, 3, 5)

    def gradients():
        torch.manual_seed(5)  # DINOv3 scales its positions at random in training
        model.zero_grad()
        (encode(model, images) * weights).sum().backward()
        return {n: p.grad.clone() for n, p in model.model.named_parameters() if p.grad is not None}

    expected = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    actual = gradients()
    assert expected.keys() == actual.keys() and all(".lora_" in n for n in expected)
    for n, gradient in expected.items():
        assert relative_difference(actual[n], gradient) < 1e-5 and gradient.norm() > 0, n


@families
def test_a_training_step_reaches_loras_and_heads(name, adapted):
    model = adapted(name, feature_mask_ratio=0.5).train()
    model(torch.randn(2, 3, 64, 64), labels=torch.randint(0, 19, (2, 64, 64))).loss.backward()
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trainable.values())


def test_dinov3_scales_its_positions_only_where_asked_to_and_in_training(build):
    model, images = build("dinov3_vit").train(), torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        assert torch.equal(encode(model, images), encode(model, images))
        model.model.encoder.config.pos_embed_rescale = 2.0
        assert relative_difference(encode(model, images), encode(model, images)) > 1e-4
        model.eval()
        assert torch.equal(encode(model, images), encode(model, images))


# ------------------------------------------------------------------------------------------------ attention, precision


@families
def test_eager_and_sdpa_agree(name, build):
    images = torch.randn(2, 3, 48, 80)
    models = {kind: build(name, attn_implementation=kind) for kind in ("sdpa", "eager")}
    with torch.no_grad():
        assert disagreement(encode(models["eager"], images), encode(models["sdpa"], images), 1e-4) <= 1
        maps_of_attention = get_encoder_family(models["eager"].config.backbone_config).gives_attentions
        output = models["eager"].model(images, output_hidden_states=True, output_attentions=maps_of_attention)
    assert len(output.hidden_states) == DEPTH + 1
    assert len(output.attentions or ()) == DEPTH * maps_of_attention
    for attention in output.attentions or ():
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))


@families
def test_bfloat16_autocast(name, build):
    model, images = build(name), torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        expected = encode(model, images)
        with torch.autocast("cpu", torch.bfloat16):
            actual = encode(model, images)
    assert actual.isfinite().all() and relative_difference(actual, expected) < 3e-2
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(2, 3, 64, 64), labels=torch.zeros(2, 64, 64, dtype=torch.long)).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@families
def test_half_precision_weights(name, build):
    model = build(name, dtype=torch.bfloat16)
    with torch.no_grad():
        for dtype in (torch.bfloat16, torch.float32):
            maps = encode(model, torch.randn(1, 3, 48, 80, dtype=dtype))
            assert maps.dtype == torch.bfloat16 and maps.isfinite().all()


@families
def test_the_dtype_of_a_saved_encoder_does_not_mix_into_a_new_model(name, foundation):
    config = {**foundation(name)[1].config.to_dict(), "dtype": "bfloat16"}
    family = get_encoder_family(foundation(name)[1].config)
    backbone_config = family.adapted_config(type(foundation(name)[1].config).from_dict(config), 16)
    backbone_config.dtype = torch.bfloat16
    model = VFMSegForSemanticSegmentation(VFMSegConfig(backbone_config=backbone_config, **SMALL))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@families
def test_inputs_can_be_made_to_need_gradients(name, build):
    model = build(name).requires_grad_(False)
    model.enable_input_require_grads()
    assert encode(model, torch.randn(1, 3, 48, 80)).requires_grad


# ------------------------------------------------------------------------------------------------ checkpoints


@families
def test_whole_model_round_trip(name, build, foundation, tmp_path, loading_log):
    model = build(name)
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    assert type(AutoConfig.from_pretrained(tmp_path).backbone_config) is type(foundation(name)[1].config)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    assert torch.equal(predict(loaded), predict(model))
    assert not loading_log.records


@families
def test_adapter_round_trip_and_merge(name, adapted, tmp_path, loading_log):
    model = adapted(name)
    expected = predict(model)
    model.save_pretrained(tmp_path)
    loaded = VFMSegForSemanticSegmentation.from_pretrained(tmp_path)
    assert torch.equal(predict(loaded), expected)
    assert disagreement(predict(loaded.merge_and_unload()), expected, tolerance=1e-4) <= 1
    assert not any("lora" in key for key in loaded.state_dict())
    assert not loading_log.records


@families
def test_another_base_is_refused(name, adapted, tmp_path):
    adapted(name).save_pretrained(tmp_path / "adapter")
    torch.manual_seed(9)
    ENCODERS[name].save(tmp_path / "other")
    with pytest.raises(ValueError, match="are not the ones that the adapter"):
        VFMSegForSemanticSegmentation.from_pretrained(
            tmp_path / "adapter", backbone_name_or_path=str(tmp_path / "other")
        )


@pytest.mark.parametrize(
    "name, key, shape",
    [
        ("dinov2", "embeddings.register_tokens", (1, 4, 64)),
        ("clip_vision_model", "embeddings.patch_embedding.bias", (64,)),
        ("timm eva02", "blocks.1.attn.norm.weight", (64,)),
    ],
)
def test_weights_of_another_kind_of_encoder(name, key, shape, foundation, tmp_path):
    """Dropped in silence they would leave an encoder with wrong features."""
    path, _ = foundation(name)
    weights = load_file(path / "model.safetensors")
    (tmp_path / "config.json").write_text((path / "config.json").read_text())
    save_file({**weights, key: torch.zeros(shape)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"does not tell of: .*{re.escape(key)}"):
        VFMSegForSemanticSegmentation.from_backbone(tmp_path, **SMALL)


@pytest.mark.parametrize("name", ["dinov2", "sam_vision_model", "timm eva02"])
def test_weights_of_another_size_are_named(name, foundation, tmp_path):
    path, _ = foundation(name)
    weights = load_file(path / "model.safetensors")
    (tmp_path / "config.json").write_text((path / "config.json").read_text())
    key = next(key for key in sorted(weights) if "mlp" in key and key.endswith("weight"))
    save_file({**weights, key: weights[key][:-1].clone()}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"of another size: .*{key.rpartition('.')[0].rpartition('.')[2]}"):
        VFMSegForSemanticSegmentation.from_backbone(tmp_path, **SMALL)


@pytest.mark.parametrize("name", ["dinov2", "dinov3_vit", "clip_vision_model", "sam_vision_model", "timm eva02"])
def test_weights_and_configuration_disagree(name, foundation, tmp_path):
    path, _ = foundation(name)
    weights, config = load_file(path / "model.safetensors"), json.loads((path / "config.json").read_text())
    last = re.compile(rf"(layers?|blocks)\.{DEPTH - 1}\.")
    fifth = {last.sub(rf"\1.{DEPTH}.", key): value.clone() for key, value in weights.items() if last.search(key)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({**weights, **fifth}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="with 4 blocks, does not tell of"):
        VFMSegForSemanticSegmentation.from_backbone(tmp_path, **SMALL)
    kept = {key: value for key, value in weights.items() if not last.search(key)}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"does not hold all weights of a {config['model_type']} encoder"):
        VFMSegForSemanticSegmentation.from_backbone(tmp_path, **SMALL)


# A text part or a mask decoder, as small as can be.
TEXT = {**SHAPE, "num_hidden_layers": 1, "intermediate_size": 64, "max_position_embeddings": 8}
FULL_MODELS: dict[str, tuple[Callable[[], PreTrainedModel], str]] = {
    "clip": (
        lambda: CLIPModel(
            CLIPConfig(vision_config={**WITH_MLP, "patch_size": 14, "image_size": 70}, text_config={**TEXT})
        ),
        "clip_vision_model",
    ),
    "clip with projection": (
        lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**WITH_MLP, patch_size=14, image_size=70)),
        "clip_vision_model",
    ),
    "siglip": (
        lambda: SiglipModel(
            SiglipConfig(vision_config={**WITH_MLP, "patch_size": 14, "image_size": 70}, text_config={**TEXT})
        ),
        "siglip_vision_model",
    ),
    "siglip2": (
        lambda: Siglip2Model(Siglip2Config(vision_config={**WITH_MLP, "num_patches": 25}, text_config={**TEXT})),
        "siglip2_vision_model",
    ),
    "sam": (
        lambda: SamModel(
            SamConfig(
                vision_config=sam_config().to_dict(),
                prompt_encoder_config={"hidden_size": 16, "image_size": 128, "patch_size": 16},
                mask_decoder_config={
                    "hidden_size": 16,
                    "mlp_dim": 16,
                    "num_attention_heads": 2,
                    "iou_head_hidden_dim": 16,
                },
            )
        ),
        "sam_vision_model",
    ),
}


@pytest.mark.parametrize("name", FULL_MODELS)
def test_full_models_leave_the_rest_behind_in_silence(name, tmp_path, loading_log, capfd):
    make, model_type = FULL_MODELS[name]
    library = randomise(make())
    library.save_pretrained(tmp_path / "full", save_original_format=True)
    loading_log.clear()
    capfd.readouterr()
    model = VFMSegForSemanticSegmentation.from_backbone(tmp_path / "full", **SMALL)
    errors = capfd.readouterr().err
    assert not loading_log.records and "UNEXPECTED" not in errors and "REPORT" not in errors
    assert model.config.backbone_config.model_type == model_type
    encoder = model.model.encoder
    native = {"sam": library, "clip with projection": getattr(library, "vision_model", None)}.get(name)
    native = (native or library.vision_model).state_dict()
    skipped = get_encoder_family(encoder.config).resampled_keys(encoder.state_dict())
    for key, tensor in encoder.state_dict().items():
        assert key in skipped or torch.equal(tensor, native[key]), key
    assert not any("text" in key or key.startswith(("head", "mask_decoder")) for key in encoder.state_dict())

    model.add_adapter(lora_config(model.config, r=2))
    model.save_pretrained(tmp_path / "adapter")
    assert torch.equal(predict(VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "adapter")), predict(model))
    assert not loading_log.records


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2", "sam"])
def test_configurations_of_full_models(name):
    make, model_type = FULL_MODELS[name]
    full = make().config
    patch = full.vision_config.patch_size
    for given in (full, full.to_dict()):
        config = VFMSegConfig(backbone_config=given, patch_size=patch, coarse_size=4 * patch)
        assert config.backbone_config.model_type == model_type and config.backbone_config.hidden_size == WIDTH
        assert not getattr(config.backbone_config, "vision_use_head", False), "the pooler is not part of the encoder"
    if name.startswith("siglip"):
        assert full.vision_config.vision_use_head, "the given configuration stays as it was"


# ------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    "model_type, mode",
    [
        ("sam_vision_model", "scale_offset"),
        ("sam_vision_model", "bilinear"),
        ("clip_vision_model", "scale_offset"),
        ("dinov2", "bilinear"),
        ("dinov3_vit", "scale_offset"),
        ("siglip_vision_model", "bilinear"),
    ],
)
def test_position_interpolation_without_a_meaning_is_refused(model_type, mode):
    with pytest.raises(Exception, match=f"position_interpolation={mode!r} has no meaning for a {model_type!r} encoder"):
        VFMSegConfig(backbone_config={"model_type": model_type, "patch_size": 16}, position_interpolation=mode)


@families
def test_published_options_are_valid(name, foundation):
    options = published_options(name)
    assert PUBLISHED_OPTIONS.items() <= options.items() and options["coarse_size"] == [512, 1024]
    positions = {"dinov2": "scale_offset", "clip_vision_model": "bilinear"}
    assert options.get("position_interpolation") == positions.get(name)
    assert options.get("coarse_mode") == {"sam_vision_model": "sliding"}.get(name)
    native = foundation(name)[1].config
    family = get_encoder_family(native)
    VFMSegConfig(backbone_config=family.adapted_config(native, 16), **options)
    assert published_options("eva02")["coarse_mode"] == published_options("sam")["coarse_mode"] == "sliding"


@families
def test_image_constants(name, foundation):
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    expected = half if name.startswith("siglip") or name == "timm vit" else imagenet
    assert image_constants(foundation(name)[1].config) == expected


def test_an_encoder_that_is_not_supported():
    with pytest.raises(
        ValueError, match=r"'clip_text_model' is not a supported encoder.*'clip_vision_model', 'dinov2'"
    ):
        VFMSegConfig(backbone_config={"model_type": "clip_text_model"})


# ---------------------------------------------------------------------------------------------- a family of one's own


class OtherDinoConfig(Dinov2Config):
    model_type = "other_dino"


class OtherDino(Dinov2Model):
    config_class = OtherDinoConfig


def test_a_registered_family_works_like_the_others(monkeypatch, tmp_path):
    monkeypatch.setattr(encoders, "ENCODER_FAMILIES", dict(encoders.ENCODER_FAMILIES))
    AutoConfig.register("other_dino", OtherDinoConfig, exist_ok=True)
    AutoModel.register(OtherDinoConfig, OtherDino, exist_ok=True)
    backbone = {"model_type": "other_dino", **SHAPE, "patch_size": 16, "image_size": 64}
    with pytest.raises(ValueError, match="'other_dino' is not a supported encoder"):
        VFMSegConfig(backbone_config=dict(backbone))
    register_encoder("other_dino", type(get_encoder_family(Dinov2Config()))())
    model = VFMSegForSemanticSegmentation(VFMSegConfig(backbone_config=dict(backbone), **SMALL)).eval()
    assert isinstance(model.model.encoder, OtherDino)
    model.save_pretrained(tmp_path)
    images = torch.randn(1, 3, 64, 64)
    loaded = VFMSegForSemanticSegmentation.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, model(images).logits)
    OtherDino(OtherDinoConfig(**SHAPE)).save_pretrained(tmp_path / "foundation")  # of patch 14
    built = VFMSegForSemanticSegmentation.from_backbone(tmp_path / "foundation", **SMALL)
    assert built.adapter_base_fingerprint and built.config.backbone_config.patch_size == 16


def test_what_register_encoder_refuses():
    family = encoders.ENCODER_FAMILIES["dinov2"]
    with pytest.raises(ValueError, match="there is an encoder family for 'dinov2'"):
        register_encoder("dinov2", family)
    with pytest.raises(TypeError, match="an object of a subclass of EncoderFamily"):
        register_encoder("other", type(family))
    register_encoder("dinov2", family, exist_ok=True)
    assert encoders.ENCODER_FAMILIES["dinov2"] is family


def test_half_precision_under_autocast(tmp_path):
    """Positions are resized for another grid, and torch.cat refuses float16 where bfloat16 is asked for."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 14, "image_size": 56}
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(**sizes)).half().save_pretrained(tmp_path)
    expected = VFMSegForSemanticSegmentation.from_backbone(tmp_path, **SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        model = VFMSegForSemanticSegmentation.from_backbone(tmp_path, **SMALL)
    wanted = expected.model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in model.model.state_dict().items())
