"""Weights of unknown origin: what is read, and what is refused without being run."""

import builtins
import os
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vfmseg_hf.convert import read_weights, reading
from vfmseg_hf.convert.reading import is_torchscript


WEIGHTS = {"backbone.norm.weight": torch.arange(3.0), "decode_head.bias": torch.ones(2)}
HISTORY_BUFFER = "mmengine.logging.history_buffer"


class HistoryBuffer:
    """Pickles like mmengine's: with arrays, and with a table of its own methods."""

    def __init__(self):
        self._log_history, self._count_history = np.array([0.5, 0.25]), np.array([1, 1])

    def mean(self):
        raise AssertionError("a method of the checkpoint was run")

    def __getstate__(self):
        return {**self.__dict__, "statistics_methods": {"mean": HistoryBuffer.mean}}

    def __setstate__(self, state):
        raise AssertionError("a method of the checkpoint was run")


@pytest.fixture
def mmengine_checkpoint(tmp_path, monkeypatch):
    """What mmengine's runner writes. Its module exists only while the file is written."""
    with monkeypatch.context() as patch:
        for name in ("mmengine", "mmengine.logging", HISTORY_BUFFER):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules[HISTORY_BUFFER].HistoryBuffer = HistoryBuffer
        patch.setattr(HistoryBuffer, "__module__", HISTORY_BUFFER)
        patch.setattr(HistoryBuffer.mean, "__module__", HISTORY_BUFFER)
        torch.save(
            {
                "meta": {"iter": 40000, "cfg": "a = 1", "dataset_meta": {"classes": ("road", "sky")}},
                "state_dict": WEIGHTS,
                "message_hub": {
                    "log_scalars": {"train/loss": HistoryBuffer()},
                    "runtime_info": {"seed": np.int64(3), "best": np.float32(0.5), "grid": np.arange(3)},
                },
                "param_schedulers": [{"power": 0.9}],
            },
            tmp_path / "iter_40000.pth",
        )
    assert HISTORY_BUFFER not in sys.modules
    return tmp_path / "iter_40000.pth"


def assert_read(path, **arguments):
    loaded = read_weights(path, **arguments)
    assert sorted(loaded) == sorted(WEIGHTS)
    assert all(torch.equal(loaded[key], WEIGHTS[key]) for key in WEIGHTS)


def test_whole_mmengine_checkpoints(mmengine_checkpoint):
    with zipfile.ZipFile(mmengine_checkpoint) as archive:
        (pickle,) = (archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    assert HISTORY_BUFFER.encode() in pickle and b"getattr" in pickle and b"multiarray" in pickle
    assert_read(mmengine_checkpoint)
    assert HISTORY_BUFFER not in sys.modules
    with pytest.raises(Exception, match="HistoryBuffer"):  # the stand-ins serve this one call
        torch.load(mmengine_checkpoint, weights_only=True)


@pytest.mark.parametrize("around", [lambda w: w, lambda w: {"model": w}, lambda w: {"state_dict": w, "epoch": 3}])
def test_torch_files_with_and_without_an_entry_around(around, tmp_path):
    torch.save(around(WEIGHTS), tmp_path / "new.pth")
    assert_read(tmp_path / "new.pth")
    torch.save(around(WEIGHTS), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_read(tmp_path / "old.pth")


def test_safetensors(tmp_path):
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    assert_read(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "function, named",
    [(open, "io.open"), (builtins.eval, "eval"), (os.mkdir, "mkdir"), (os.path.expanduser, "posixpath.expanduser")],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused(function, named, zipped, tmp_path):
    argument = f"open({str(tmp_path / 'executed')!r}, 'w')" if function is builtins.eval else str(tmp_path / "executed")

    class Payload:
        def __reduce__(self):
            return (function, (argument, "w") if function is open else (argument,))

    content = {"state_dict": WEIGHTS, "hook": Payload()}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=rf"evil\.pth.*could run code.*refused: it names '.*{named}'"):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


def test_stand_ins_give_no_access_to_real_objects(tmp_path):
    """getattr is among the names that are let through, but it is not Python's."""

    class Payload:
        def __reduce__(self):
            return (getattr, ("text", "upper"))

    torch.save({"state_dict": {**WEIGHTS, "x": Payload()}}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="does not hold a state dict of tensors"):
        read_weights(tmp_path / "odd.pth")


@pytest.fixture
def torchscript(tmp_path):
    class Visual(nn.Module):
        def __init__(self):
            super().__init__()
            for name, tensor in WEIGHTS.items():
                self.register_buffer(name.rpartition(".")[2], tensor.half())

        def forward(self, x):
            return x

    path = tmp_path / "ViT-B-16.pt"
    torch.jit.script(Visual()).save(path)
    return path


def test_torchscript_only_on_request(torchscript):
    assert is_torchscript(torchscript)
    with pytest.raises(ValueError, match=r"ViT-B-16\.pt.*TorchScript archive.*pass --trust-torchscript"):
        read_weights(torchscript)
    loaded = read_weights(torchscript, trust_torchscript=True)
    assert torch.equal(loaded["weight"], torch.arange(3.0).half())


def test_damaged_torchscript(torchscript):
    with zipfile.ZipFile(torchscript) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(torchscript, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, b"" if name.endswith(".pkl") else content)
    with pytest.raises(ValueError, match="no weights file at all"):
        read_weights(torchscript, trust_torchscript=True)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_damaged_files_are_named(name, share, tmp_path):
    path = tmp_path / name
    tensors = {"a": torch.randn(1000)}
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=f"{name}.*cannot be read safely.*truncated"):
        read_weights(path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, on pickle protocols that the damage makes up
@pytest.mark.parametrize("zipped", [True, False])
def test_whatever_is_damaged_is_a_value_error_that_names_the_file(zipped, tmp_path):
    """The unpicklers raise IndexError, struct.error, AssertionError, TypeError, ... on damaged bytes."""
    path, rng = tmp_path / "iter.pth", np.random.default_rng(0)
    torch.save({"state_dict": WEIGHTS, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(0, len(whole), 7)]
    for _ in range(150):
        data = np.frombuffer(whole, np.uint8).copy()
        data[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
        damaged.append(data.tobytes())
    causes = set()
    for data in damaged:
        path.write_bytes(data)
        try:
            read_weights(path)  # some damage is in the values, or in bytes that nobody reads
        except ValueError as error:
            assert "iter.pth" in str(error) and "weights_only" not in str(error)
            causes.add(type(error.__cause__))
    assert len(causes) > (1 if zipped else 3)


def test_a_truncated_file_of_the_old_format(tmp_path):
    torch.save(WEIGHTS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "old.pth").write_bytes((tmp_path / "old.pth").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"old\.pth' cannot be read safely"):
        read_weights(tmp_path / "old.pth")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_the_pointer_of_git_lfs(name, tmp_path):
    """torch's own words advise to load it with weights_only=False; ours do not."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    (tmp_path / name).write_text(pointer)
    with pytest.raises(ValueError, match=f"{name}' cannot be read safely.*git-lfs") as caught:
        read_weights(tmp_path / name)
    assert "weights_only" not in str(caught.value) and "run code" not in str(caught.value)


def test_an_unreadable_file_is_not_called_damaged(tmp_path, monkeypatch):
    save_file(WEIGHTS, tmp_path / "a.safetensors")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(reading, "load_file", refuse)
    with pytest.raises(PermissionError, match=r"a\.safetensors"):
        read_weights(tmp_path / "a.safetensors")


def test_missing_file_and_foreign_content(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.pth"):
        read_weights(tmp_path / "absent.pth")
    for content in ([1, 2, 3], {}, {"state_dict": {}}, {"a": 1}, {3: torch.ones(2)}, WEIGHTS["decode_head.bias"]):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(ValueError, match="does not hold a state dict"):
            read_weights(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(ValueError, match=r"text\.pth"):
        read_weights(tmp_path / "text.pth")
