# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The two heads' published names, the same for every encoder."""

from .names import renamer


COARSE_HEAD = "decode_head."
REFINE_HEAD = "aux_decoder."

_coarse = renamer(
    [
        (r"conv_seg\.(.+)", r"classifier.\1"),
        (r"fusion_conv\.conv\.(.+)", r"fusion.\1"),
        (r"fusion_conv\.gn\.(.+)", r"fusion_norm.\1"),
        (r"output_upscaling\.0\.(.+)", r"upsample1.\1"),
        (r"output_upscaling\.1\.(.+)", r"upsample_norm.\1"),
        (r"output_upscaling\.3\.(.+)", r"upsample2.\1"),
    ]
)

_LAYER = r"transformer_decoder\.transformer_blocks\.(\d+)\."
_refine = renamer(
    [
        (r"conv_seg\.(.+)", r"classifier.\1"),
        (r"fuse_conv\.0\.(.+)", r"fusion.\1"),
        (r"fuse_conv\.1\.(.+)", r"fusion_norm.\1"),
        *(
            (rf"seg_logits_embed\.{index}\.(.+)", rf"mask_embedding.{name}.\1")
            for index, name in ((0, "conv1"), (1, "norm1"), (3, "conv2"), (4, "norm2"), (6, "conv3"), (7, "norm3"))
        ),
        (r"transformer_decoder\.(mask_token|norm\..+)", r"\1"),
        *(
            (rf"{_LAYER}{block}\.{old}\.(.+)", rf"layers.\1.{attention}.{new}.\2")
            for block, attention in (("attn1", "self_attention"), ("attn2", "cross_attention"))
            for old, new in (
                ("to_q", "to_query"),
                ("to_k", "to_key"),
                ("to_v", "to_value"),
                (r"to_out\.0", "to_output"),
            )
        ),
        (rf"{_LAYER}ff\.net\.0\.proj\.(.+)", r"layers.\1.feed_forward.input.\2"),
        (rf"{_LAYER}ff\.net\.2\.(.+)", r"layers.\1.feed_forward.output.\2"),
        (rf"{_LAYER}(norm[123]\..+)", r"layers.\1.\2"),
    ]
)


def rename_head(key: str) -> str | None:
    """The name here of a published head's tensor, e.g. `coarse_head.fusion.weight`; `None` for any other key."""
    for published, own, rename in ((COARSE_HEAD, "coarse_head.", _coarse), (REFINE_HEAD, "refine_head.", _refine)):
        if key.startswith(published) and (names := rename(key.removeprefix(published))):
            return own + names[0]
    return None
