# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The module that holds a timm model; importing it needs timm."""

from torch import nn
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperPreTrainedModel

from .encoder_timm import create_timm_model


class TimmEncoder(TimmWrapperPreTrainedModel):
    """
    A timm vision transformer without what comes after its blocks.

    It differs from transformers' `TimmWrapperModel` in that pictures may have any size, no block is ever dropped at
    random, `config.layer_norm_eps` holds for all layer norms, and the attention is the one that
    `config._attn_implementation` asks for.
    """

    _no_split_modules = ["TimmEncoder"]
    # Norms after the last block, pooling, classifiers, and what masked image modelling has left behind.
    _keys_to_ignore_on_load_unexpected = [
        r"^(timm_model\.)?(norm|fc_norm|attn_pool|head|head_dist|lm_head)\.",
        r"^(timm_model\.)?mask_token$",
    ]

    def __init__(self, config):
        super().__init__(config)
        arguments = {**(config.model_args or {}), "dynamic_img_size": True, "drop_path_rate": 0.0}
        self.timm_model = create_timm_model(config.architecture, arguments)
        for name in ("norm", "fc_norm", "attn_pool"):
            setattr(self.timm_model, name, nn.Identity())
        eps = getattr(config, "layer_norm_eps", None)
        for module in self.timm_model.modules():
            if eps is not None and isinstance(module, nn.LayerNorm):
                module.eps = eps
            if hasattr(module, "fused_attn"):
                module.fused_attn = config._attn_implementation != "eager"
        self.post_init()

    def post_init(self):
        # The wrapper's own would say that timm takes no notice of attn_implementation.
        super(TimmWrapperPreTrainedModel, self).post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.timm_model.patch_embed
