# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""An adapter and its foundation model, made one folder that needs nothing else."""

import os

from transformers import AutoImageProcessor

from ..model.adapters import holds_adapter_only
from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from .writing import check_same, new_directory


def merge_checkpoint(
    name_or_path: str,
    output: str | os.PathLike,
    *,
    revision: str | None = None,
    backbone_name_or_path: str | None = None,
) -> None:
    """
    Write the merged model, its image processor and the record of its training, load the model back and compare it.

    Args:
        name_or_path: directory or Hub id of an adapter.
        output: directory to create; it appears only when it is complete.
        revision: of a Hub id.
        backbone_name_or_path: where the foundation model is, if not where the adapter says.

    Raises:
        ValueError: there is no adapter, or what was written is not what was merged.
        OSError: the adapter, its foundation model or its image processor is not there.
        FileExistsError: if `output` is there already and not empty.
    """
    hub = {} if revision is None else {"revision": revision}
    base = {} if backbone_name_or_path is None else {"backbone_name_or_path": backbone_name_or_path}
    with new_directory(output) as staging:
        if not holds_adapter_only(name_or_path, hub):
            raise ValueError(f"{name_or_path} holds no adapter to merge: it is a whole model, or none")
        processor = AutoImageProcessor.from_pretrained(name_or_path, **hub)
        model = VFMSegForSemanticSegmentation.from_pretrained(name_or_path, **hub, **base)
        model.merge_and_unload().save_pretrained(staging)
        processor.save_pretrained(staging)
        written = VFMSegForSemanticSegmentation.from_pretrained(staging, dtype=model.dtype)
        check_same(written.state_dict(), model.state_dict(), "the merged model")
