"""Eight bits on the CPU."""

import pytest
import torch

from tests.support.golden import BACKBONES, GoldenCase
from tests.support.numbers import lively
from vfmseg_hf import lora_config
from vfmseg_hf.prediction.quantization import quantize_int8


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_encoder_in_eight_bits(backbone, shared, tmp_path):
    """The second stage on a window, with the recorded weights, which are not small."""
    if backbone == "eva02":
        pytest.importorskip("timm")
    case = GoldenCase(shared / "golden" / backbone, tmp_path)
    model = case.model("merged", for_inference=True).eval()
    window, context = case.image("../image.png")[None, :, :512, :512], torch.randn(1, 19, 512, 512)
    quantized = quantize_int8(model)
    with torch.no_grad():
        expected, logits = (each.refine_windows(window, context) for each in (model, quantized))
    error = (logits - expected).pow(2).mean().sqrt() / expected.std()
    assert 0 < error < 0.1, f"relative error {error:.3f}"


def test_labels_and_the_original_stay(tiny_model):
    model = lively(tiny_model())
    image = torch.randn(2, 3, 112, 160)
    before = model.segment(image, refine="all")
    results = quantize_int8(model).segment(image, refine="all")
    for first, again, quantized in zip(before, model.segment(image, refine="all"), results, strict=True):
        assert torch.equal(first.labels, again.labels)
        assert 0.9 < (first.labels == quantized.labels).float().mean() < 1


def test_what_cannot_be_quantized_is_refused(tiny_model):
    model = tiny_model()
    with pytest.raises(ValueError, match="float32 models on the CPU, this one is torch.bfloat16"):
        quantize_int8(tiny_model().to(torch.bfloat16))
    model.add_adapter(lora_config(model.config))
    with pytest.raises(ValueError, match="merge_and_unload"):
        quantize_int8(model)
