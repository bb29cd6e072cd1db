# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Reading weights of unknown origin without running code from them."""

import os
import pickle
import re
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from .names import StateDict


OUTER_KEYS = ("state_dict", "model")


class TorchScriptError(ValueError):
    """A TorchScript archive that nobody asked to trust."""


class Inert:
    """Takes the place of every object in a checkpoint that is not a weight: it accepts anything and does nothing."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


# Training logs and random states beside the weights in mmengine's checkpoints. Methods of HistoryBuffer are pickled as
# getattr(HistoryBuffer, name); here that call makes one more inert object.
STAND_INS = [
    (Inert, name)
    for name in (
        "mmengine.logging.history_buffer.HistoryBuffer",
        "builtins.getattr",
        "numpy.ndarray",
        "numpy.dtype",
        *(
            f"numpy.{core}.multiarray.{function}"
            for core in ("core", "_core")
            for function in ("_reconstruct", "scalar")
        ),
    )
]


def read_weights(path: str | os.PathLike, trust_torchscript: bool = False) -> StateDict:
    """
    Tensors of a safetensors file or of a torch checkpoint, taken out of a `state_dict` or `model` entry around them.

    Nothing in the file is run, with one exception that has to be asked for.

    Args:
        path: the file; what it is, its content decides, apart from the ending `.safetensors`.
        trust_torchscript: load a TorchScript archive, such as OpenAI's CLIP, which is a program beside its weights.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, holds anything that could run code, or no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}; WEIGHTS must be a .safetensors or torch checkpoint")
    try:
        loaded = load(path, trust_torchscript)
    except (PermissionError, TorchScriptError):
        raise
    except Exception as error:  # on damaged bytes the unpicklers raise anything: IndexError, struct.error, ...
        if isinstance(error, pickle.UnpicklingError) and (name := re.search(r"GLOBAL (\S+)", str(error))):
            raise ValueError(
                f"{str(path)!r} holds more than tensors and could run code when it is loaded, so it is refused: it "
                f"names {name[1]!r}; save its state dict alone, best as safetensors"
            ) from error
        raise ValueError(
            f"{str(path)!r} cannot be read safely: it is empty, truncated or no weights file at all, e.g. the pointer "
            "that git-lfs leaves in place of one"
        ) from error
    if isinstance(loaded, dict):
        loaded = next((loaded[key] for key in OUTER_KEYS if isinstance(loaded.get(key), dict)), loaded)
    if not isinstance(loaded, dict) or not loaded or not all(map(is_entry, loaded.items())):
        raise ValueError(f"{str(path)!r} does not hold a state dict of tensors")
    if odd := sorted(key for key, tensor in loaded.items() if not is_plain(tensor)):
        raise ValueError(f"{str(path)!r} holds tensors that are not dense, real and on the CPU, e.g. {odd[:3]}")
    return dict(loaded)


def load(path: Path, trust_torchscript: bool) -> object:
    """What is in the file, read by the means that fit its content."""
    if path.suffix == ".safetensors":
        return load_file(path)
    if not is_torchscript(path):
        with torch.serialization.safe_globals(STAND_INS):
            return torch.load(path, map_location="cpu", weights_only=True)
    if trust_torchscript:
        return torch.jit.load(path, map_location="cpu").state_dict()
    raise TorchScriptError(
        f"{str(path)!r} is a TorchScript archive, which could run code when it is loaded, so it is refused; if you "
        "trust its origin, as you may OpenAI's CLIP from OpenAI's own server, pass --trust-torchscript "
        "(trust_torchscript=True)"
    )


def is_entry(item: tuple[object, object]) -> bool:
    """Whether a name and a value are those of a state dict."""
    return isinstance(item[0], str) and isinstance(item[1], torch.Tensor)


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is an array of real numbers in memory: not sparse, quantized, complex or without values."""
    odd = tensor.is_quantized or tensor.is_nested or tensor.is_complex()
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not odd


def is_torchscript(path: str | os.PathLike) -> bool:
    """Whether a file is a TorchScript archive, by the program inside it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        inside = [name.partition("/")[2] for name in archive.namelist()]
    return any(name == "constants.pkl" or name.startswith("code/") for name in inside)
