"""Foundation models under the key names of their original files: names and shapes, with or without values."""

import torch


def linear(name: str, rows: int, columns: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), **({f"{name}.bias": (rows,)} if bias else {})}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def dinov2(width, depth, patch=14, grid=37, gated=False, registers=0):
    shapes = {"cls_token": (1, 1, width), "mask_token": (1, width), "pos_embed": (1, 1 + grid**2, width)}
    if registers:
        shapes["register_tokens"] = (1, registers, width)
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    hidden = (width * 8 // 3 + 7) // 8 * 8
    for block in (f"blocks.{number}." for number in range(depth)):
        shapes |= {**norm(f"{block}norm1", width), **norm(f"{block}norm2", width)}
        shapes |= {**linear(f"{block}attn.qkv", 3 * width, width), **linear(f"{block}attn.proj", width, width)}
        shapes |= {f"{block}ls1.gamma": (width,), f"{block}ls2.gamma": (width,)}
        if gated:
            shapes |= {**linear(f"{block}mlp.w12", 2 * hidden, width), **linear(f"{block}mlp.w3", width, hidden)}
        else:
            shapes |= {**linear(f"{block}mlp.fc1", 4 * width, width), **linear(f"{block}mlp.fc2", width, 4 * width)}
    return {**shapes, **norm("norm", width)}


def clip(width, depth, patch=14, grid=16, projection=768):
    shapes = {"visual.class_embedding": (width,), "visual.positional_embedding": (1 + grid**2, width)}
    shapes |= {"visual.proj": (width, projection), "visual.conv1.weight": (width, 3, patch, patch)}
    for block in (f"visual.transformer.resblocks.{number}." for number in range(depth)):
        shapes |= {f"{block}attn.in_proj_weight": (3 * width, width), f"{block}attn.in_proj_bias": (3 * width,)}
        shapes |= {**norm(f"{block}ln_1", width), **norm(f"{block}ln_2", width)}
        shapes |= linear(f"{block}attn.out_proj", width, width)
        shapes |= {**linear(f"{block}mlp.c_fc", 4 * width, width), **linear(f"{block}mlp.c_proj", width, 4 * width)}
    text = {"positional_embedding": (7, 8), "text_projection": (8, projection), "token_embedding.weight": (9, 8)}
    text |= {"logit_scale": (), "transformer.resblocks.0.attn.in_proj_weight": (24, 8), **norm("ln_final", 8)}
    return {**shapes, **norm("visual.ln_pre", width), **norm("visual.ln_post", width), **text}


def sam(width, depth, head_dim, everywhere, patch=16, grid=64, window=14, channels=256):
    image = "image_encoder."
    shapes = {f"{image}pos_embed": (1, grid, grid, width), f"{image}patch_embed.proj.bias": (width,)}
    shapes |= {f"{image}patch_embed.proj.weight": (width, 3, patch, patch)}
    for number in range(depth):
        block, rows = f"{image}blocks.{number}.", 2 * (grid if number in everywhere else window) - 1
        shapes |= {**norm(f"{block}norm1", width), **norm(f"{block}norm2", width)}
        shapes |= {**linear(f"{block}attn.qkv", 3 * width, width), **linear(f"{block}attn.proj", width, width)}
        shapes |= {f"{block}attn.rel_pos_h": (rows, head_dim), f"{block}attn.rel_pos_w": (rows, head_dim)}
        shapes |= {**linear(f"{block}mlp.lin1", 4 * width, width), **linear(f"{block}mlp.lin2", width, 4 * width)}
    neck = {f"{image}neck.0.weight": (channels, width, 1, 1), f"{image}neck.2.weight": (channels, channels, 3, 3)}
    neck |= {**norm(f"{image}neck.1", channels), **norm(f"{image}neck.3", channels)}
    return {**shapes, **neck, "mask_decoder.iou_token.weight": (1, 8), "prompt_encoder.no_mask_embed.weight": (1, 8)}


def eva02(width, depth, patch=14, grid=16, head_dim=64, of_clip=False):
    """Those of masked image modelling end with a norm, a head and a mask token; those of CLIP have a text encoder."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + grid**2, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    shapes |= {f"rope.freqs_{part}": (grid**2, head_dim) for part in ("cos", "sin")}
    hidden = int(width * 8 / 3)
    for block in (f"blocks.{number}." for number in range(depth)):
        shapes |= {**norm(f"{block}norm1", width), **norm(f"{block}norm2", width)}
        for part in "qkv":
            shapes |= linear(f"{block}attn.{part}_proj", width, width, bias=False)
        shapes |= {f"{block}attn.q_bias": (width,), f"{block}attn.v_bias": (width,)}
        shapes |= linear(f"{block}attn.proj", width, width)
        shapes |= {f"{block}attn.rope.freqs_{part}": (grid**2, head_dim) for part in ("cos", "sin")}
        if of_clip:
            shapes |= norm(f"{block}attn.inner_attn_ln", width)
        shapes |= {**linear(f"{block}mlp.w1", hidden, width), **linear(f"{block}mlp.w2", hidden, width)}
        shapes |= {**norm(f"{block}mlp.ffn_ln", hidden), **linear(f"{block}mlp.w3", width, hidden)}
    shapes |= norm("norm", width)
    if not of_clip:
        return {**shapes, "mask_token": (1, 1, width), **linear("lm_head", 10, width)}
    visual = {f"visual.{name}": shape for name, shape in {**shapes, **linear("head", 8, width)}.items()}
    text = {"text.positional_embedding": (7, 8), "text.token_embedding.weight": (9, 8), "text.text_projection": (8, 8)}
    text |= {"text.transformer.resblocks.0.attn.in_proj_weight": (24, 8), **norm("text.ln_final", 8)}
    return {**visual, **text, "logit_scale": ()}


def random_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def weightless(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors that have shapes only."""
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
