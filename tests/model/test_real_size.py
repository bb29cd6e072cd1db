"""The paper's four encoders at their real size: memory while loading, a coarse pass, a window, what trains."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import REPOSITORY, SOURCE


PRESETS = ("dinov2-large", "clip-large", "sam-huge", "eva02-large")
# The paper's setting.
SETTING = "LoRA r=32, 19 classes, float32, coarse pass 512x1024, window 512x512; published: LoRA in the published code"
ROW = "{:13s} {:>9s} {:>8s} {:>8s} {:>9s} {:>9s} {:>9s} {:>9s} {:>12s} {:>10s} {:>10s} {:>8s} {:>8s} {:>8s}"
HEADER = ROW.format(
    *("preset", "weights", "loading", "in all", "encoder", "trainable", "LoRA", "published", "adapter fp32"),
    *("bf16", "peak", "load", "coarse", "window"),
)


def write_foundation(name: str, directory: Path) -> None:
    """A foundation model with random float32 weights, laid out as on the Hub."""
    from safetensors.torch import save_file

    from vfmseg_hf.model.encoders import get_encoder_family
    from vfmseg_hf.model.presets import PRESETS

    config = PRESETS[name].native_config()
    if config.model_type != "timm_wrapper":
        get_encoder_family(config).build(config).save_pretrained(directory, save_original_format=True)
        return
    import timm

    model = timm.create_model(config.architecture, num_classes=0)
    save_file(model.state_dict(), directory / "model.safetensors")
    (directory / "config.json").write_text(
        json.dumps({"architecture": config.architecture, "num_classes": 0, "pretrained_cfg": model.pretrained_cfg})
    )


def memory(field: str) -> int:
    """`VmRSS` (resident now) or `VmHWM` (at most so far) of this process in bytes, mapped files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def published_lora(name: str, model) -> int:
    """LoRA parameters in the published code, whose DINOv2 has one layer for q, k and v and so one factor A for them."""
    counted = (".lora_B.", ".q_proj.lora_A.") if name.startswith("dinov2") else (".lora_",)
    return sum(p.numel() for key, p in model.model.named_parameters() if any(part in key for part in counted))


def measure(name: str, directory: Path) -> dict[str, object]:
    """Load the foundation model, adapt it, run one coarse pass and one window, and save the adapter."""
    import torch

    from vfmseg_hf import VFMSegConfig, VFMSegForSemanticSegmentation, lora_config

    with torch.device("meta"):  # imports everything that loading will need
        VFMSegForSemanticSegmentation(VFMSegConfig.from_preset(name)).add_adapter(
            lora_config(VFMSegConfig.from_preset(name))
        )
    result, before, start = {}, memory("VmRSS"), time.perf_counter()
    model = VFMSegForSemanticSegmentation.from_preset(name, backbone_name_or_path=directory).eval()
    result["load_seconds"] = time.perf_counter() - start
    result["load_peak"] = memory("VmHWM") - before
    heads = [*model.coarse_head.parameters(), *model.refine_head.parameters()]
    result["file"] = (directory / "model.safetensors").stat().st_size
    result["weights"] = result["file"] + sum(head.numel() * head.element_size() for head in heads)

    model.add_adapter(lora_config(model.config))
    encoder = [parameter for key, parameter in model.model.named_parameters() if ".lora_" not in key]
    lora = [parameter for key, parameter in model.model.named_parameters() if ".lora_" in key]
    assert not any(parameter.requires_grad for parameter in encoder)
    result["encoder"] = sum(parameter.numel() for parameter in encoder)
    result["lora"] = sum(parameter.numel() for parameter in lora)
    result["published_lora"] = published_lora(name, model)
    result["parameters"] = result["encoder"] + result["lora"] + sum(head.numel() for head in heads)
    result["trainable"] = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    with torch.inference_mode():
        start = time.perf_counter()
        coarse = model.coarse_head(model.model(torch.randn(1, 3, 512, 1024)).feature_maps)
        result["coarse_seconds"] = time.perf_counter() - start
        assert coarse.shape == (1, 19, 128, 256) and coarse.isfinite().all()
        start = time.perf_counter()
        maps = model.model(torch.randn(1, 3, 512, 512)).feature_maps
        refined = model.refine_head(maps, coarse[..., :128])
        result["window_seconds"] = time.perf_counter() - start
        assert refined.shape == (1, 19, 32, 32) and refined.isfinite().all()
    result["peak"] = memory("VmHWM")
    for dtype in ("float32", "bfloat16"):
        model.to(getattr(torch, dtype)).save_pretrained(directory / dtype)
        result[dtype] = (directory / dtype / "adapter_model.safetensors").stat().st_size
    return result


def in_a_new_process(task: str, name: str, directory: Path) -> str:
    path = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH", "")]))
    finished = subprocess.run(
        [sys.executable, "-m", "tests.model.test_real_size", task, name, str(directory)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


def megabytes(number: float) -> str:
    return f"{number / 1e6:.0f} MB"


def millions(number: float) -> str:
    return f"{number / 1e6:.2f} M"


@pytest.fixture(scope="module")
def table():
    """Lines that are printed when all models have been measured."""
    lines = []
    yield lines
    print("\n".join(["", SETTING, HEADER, *lines]))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process as Linux tells it")
@pytest.mark.parametrize("name", PRESETS)
def test_real_size(name, table, tmp_path):
    """Writes up to 2.7 GB and takes up to 6 GB of memory; each part in a process of its own, to know its memory."""
    if name.startswith("eva02"):
        pytest.importorskip("timm")
    try:
        in_a_new_process("write", name, tmp_path)
        result = json.loads(in_a_new_process("measure", name, tmp_path).splitlines()[-1])
    finally:
        shutil.rmtree(tmp_path)  # pytest would keep gigabytes
    table.append(
        ROW.format(
            name,
            megabytes(result["weights"]),
            f"{result['load_peak'] / result['weights']:.2f} x",
            megabytes(result["parameters"] * 4),
            millions(result["encoder"]),
            millions(result["trainable"]),
            millions(result["lora"]),
            millions(result["published_lora"]),
            megabytes(result["float32"]),
            megabytes(result["bfloat16"]),
            megabytes(result["peak"]),
            *(f"{result[part + '_seconds']:.1f} s" for part in ("load", "coarse", "window")),
        )
    )
    assert result["load_peak"] < 1.3 * result["weights"]
    assert result["float32"] == pytest.approx(4 * result["trainable"], rel=0.01)
    assert result["bfloat16"] == pytest.approx(2 * result["trainable"], rel=0.01)


if __name__ == "__main__":
    task, preset, place = sys.argv[1:]
    if task == "write":
        write_foundation(preset, Path(place))
    else:
        print(json.dumps(measure(preset, Path(place))))
