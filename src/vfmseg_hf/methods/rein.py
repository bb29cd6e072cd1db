# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Rein (Wei et al. 2024): tokens that refine a frozen foundation model's features between its blocks."""

import math
from collections.abc import Sequence

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig

from ..model.configuration_vfmseg import VFMSegConfig
from ..model.encoders import get_encoder_family
from ..model.modeling_vfmseg import VFMSegModel
from .mask2former import MaskMethodConfig, MaskModel, Masks
from .pyramid import TrainedPyramid, resize_to_pyramid


START_SCALE = 0.001
EVA02_STD = 0.02  # its encoder's initialisation runs over the adapter as well


@strict
class VFMSegReinConfig(MaskMethodConfig):
    """
    Configuration of [`VFMSegReinForSemanticSegmentation`]; for the other fields see [`MaskMethodConfig`] and
    [`MethodConfig`]. The defaults are the published settings; there is a token for every query (`num_queries`), of the
    decoder's width (`hidden_dim`).

    Args:
        rein_rank (`int`, *optional*, defaults to 16): rank of the tokens' factors; None for tokens in full.
        link_queries (`bool`, defaults to `True`): whether the decoder's queries are made of the tokens.
        link_contents (`bool`, *optional*):
            Whether the queries' contents are too, and not their positions alone. Default: but for SAM.
    """

    model_type = "vfmseg_rein"

    rein_rank: int | None = 16
    link_queries: bool = True
    link_contents: bool | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.link_contents is None:
            self.link_contents = self.link_queries and self.backbone_config.model_type != "sam_vision_model"
        if self.link_contents and not self.link_queries:
            raise ValueError("link_contents=True needs link_queries=True; contents are made of the linked queries")
        if self.rein_rank is not None and self.rein_rank < 1:
            raise ValueError(f"rein_rank must be at least 1, or None for tokens in full, got {self.rein_rank}")


class ReinAdapter(nn.Module):
    """
    The adapter of all layers: tokens of each, and maps that they share. Names are the published ones.

    Args:
        num_layers: adapted blocks.
        width: channels of the features, C.
        num_tokens: m.
        query_width: of the decoder, q.
        patch_size: pixels; start values depend on it.
        rank: of the tokens' factors; None for tokens in full.
    """

    def __init__(
        self, num_layers: int, width: int, num_tokens: int, query_width: int, patch_size: int, rank: int | None
    ):
        super().__init__()
        self.patch_size = patch_size
        if rank is None:
            self.learnable_tokens = nn.Parameter(torch.empty(num_layers, num_tokens, width))
        else:
            self.learnable_tokens_a = nn.Parameter(torch.empty(num_layers, num_tokens, rank))
            self.learnable_tokens_b = nn.Parameter(torch.empty(num_layers, rank, width))
        self.scale = nn.Parameter(torch.empty(()))
        self.mlp_token2feat = nn.Linear(width, width)
        self.mlp_delta_f = nn.Linear(width, width)
        self.transform = nn.Linear(width, query_width)
        self.merge = nn.Linear(3 * query_width, query_width)

    def tokens(self) -> torch.Tensor:
        """`[num_layers, m, C]`."""
        if hasattr(self, "learnable_tokens"):
            return self.learnable_tokens
        return self.learnable_tokens_a @ self.learnable_tokens_b

    def forward(self, patches: torch.Tensor, layer: int) -> torch.Tensor:
        """
        Features `[B, n, C]` of patches after a block, refined: each looks at the layer's tokens, of which the first
        takes attention and gives nothing.
        """
        if hasattr(self, "learnable_tokens"):
            tokens = self.learnable_tokens[layer]
        else:
            tokens = self.learnable_tokens_a[layer] @ self.learnable_tokens_b[layer]
        attention = (patches @ tokens.T / math.sqrt(patches.shape[-1])).softmax(-1)
        found = attention[..., 1:] @ self.mlp_token2feat(tokens[1:])
        return patches + self.scale * self.mlp_delta_f(patches + found)

    def queries(self) -> torch.Tensor:
        """Queries `[m, q]` of the decoder: of every token's channel the maximum, mean and last over the layers."""
        of_layers = self.transform(self.tokens())
        summaries = [of_layers.amax(0), of_layers.mean(0), of_layers[-1]]
        return self.merge(torch.stack(summaries, dim=-1).flatten(1))

    def initialise(self, std: float | None) -> None:
        """Published start values: uniform; with `std` the linear maps are normal, without biases."""
        fan = 3 * self.patch_size**2
        for name, parameter in self.named_parameters(recurse=False):
            if name == "scale":
                init.constant_(parameter, START_SCALE)
            else:
                width = self.transform.in_features
                width = width if name == "learnable_tokens" else math.sqrt(width * self.learnable_tokens_a.shape[-1])
                bound = math.sqrt(6 / (fan + width))
                init.uniform_(parameter, -bound, bound)
        for layer in (self.mlp_token2feat, self.mlp_delta_f, self.transform, self.merge):
            if std is None:
                bound = 1 / math.sqrt(layer.in_features)
                init.uniform_(layer.weight, -bound, bound)
                init.uniform_(layer.bias, -bound, bound)
            else:
                init.trunc_normal_(layer.weight, std=std, a=-2.0, b=2.0)
                init.zeros_(layer.bias)


class ReinEncoder(VFMSegModel):
    """VFMSeg's encoder with [`ReinAdapter`] after its blocks, those with global attention alone in SAM."""

    def __init__(self, config: VFMSegConfig, num_tokens: int, query_width: int, rank: int | None):
        super().__init__(config)
        encoder = config.backbone_config
        self.adapted_blocks = adapted_blocks(encoder, config.out_indices)
        self.reins = ReinAdapter(
            len(self.adapted_blocks),
            self.family.hidden_size(encoder),
            num_tokens,
            query_width,
            config.patch_size,
            rank,
        )
        self.post_init()

    def run_block(
        self, number: int, block: nn.Module, hidden: torch.Tensor, arguments: dict[str, object]
    ) -> torch.Tensor:
        hidden = super().run_block(number, block, hidden, arguments)
        if number not in self.adapted_blocks:
            return hidden
        tokens = hidden.flatten(1, -2)  # SAM's are maps [B, rows, columns, C]
        prefix = self.family.num_prefix_tokens(self.config.backbone_config)
        patches = self.reins(tokens[:, prefix:], self.adapted_blocks.index(number))
        return torch.cat([tokens[:, :prefix], patches], dim=1).reshape(hidden.shape)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ReinAdapter):
            of_eva02 = "eva02" in getattr(self.config.backbone_config, "architecture", "")
            module.initialise(EVA02_STD if of_eva02 else None)
        else:
            super()._init_weights(module)


def adapted_blocks(encoder: PreTrainedConfig, out_indices: Sequence[int]) -> list[int]:
    """Numbers of the blocks with an adapter: all that run, and of SAM those with global attention."""
    chosen = getattr(encoder, "global_attn_indexes", None) or range(get_encoder_family(encoder).depth(encoder))
    return [number for number in chosen if number <= out_indices[-1]]


class VFMSegReinForSemanticSegmentation(MaskModel):
    """
    A frozen foundation model with Rein, and Mask2Former's decoder whose queries are made of Rein's tokens. On CLIP the
    pyramid trains too, as published.
    """

    config_class = VFMSegReinConfig
    own_adapter = "reins"
    undecayed = (*MaskModel.undecayed, "learnable_tokens", "learnable_tokens_a", "learnable_tokens_b", "reins.scale")

    def __init__(self, config: VFMSegReinConfig):
        super().__init__(config)
        if config.backbone_config.model_type == "clip_vision_model":
            self.pyramid = TrainedPyramid(self.width)
        transformer = self.mask2former_head.transformer_module
        if config.link_queries:
            transformer.queries_embedder = nn.Module()  # without a table: its weight is what the adapter gives
        if config.link_contents:
            transformer.queries_features = nn.Module()
            self.query_contents = nn.Linear(config.hidden_dim, config.hidden_dim)
        self.post_init()

    def make_encoder(self, config: VFMSegConfig) -> ReinEncoder:
        return ReinEncoder(config, self.config.num_queries, self.config.hidden_dim, self.config.rein_rank)

    def decode(self, feature_maps: tuple[torch.Tensor, ...]) -> Masks:
        pyramid = self.pyramid(feature_maps) if hasattr(self, "pyramid") else resize_to_pyramid(feature_maps)
        queries = {}
        if self.config.link_queries:
            queries["queries_embedder.weight"] = self.model.reins.queries()
        if self.config.link_contents:
            queries["queries_features.weight"] = self.query_contents(queries["queries_embedder.weight"])
        return self.mask2former_head(pyramid, queries)
