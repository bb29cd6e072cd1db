"""The model: outputs, sizes, losses and what it refuses."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.support.numbers import disagreement, lively
from vfmseg_hf import VFMSegForSemanticSegmentation, VFMSegModel
from vfmseg_hf.model.windows import coarse_size


@pytest.mark.parametrize("size", [(512, 910), (360, 480), (17, 33), (64, 576)], ids=str)
def test_any_size_in_eval_mode(size, tiny_model):
    model = tiny_model(coarse_size=128, window_size=256, window_stride=160)
    with torch.no_grad():
        output = model(torch.randn(1, 3, *size), refine="all")
    assert output.logits.shape == (1, 19, *size)
    assert output.logits.isfinite().all()
    number = output.windows.shape[1]
    assert output.windows.shape == (1, number, 4)
    assert output.certainty.shape == output.refined.shape == (1, number)
    assert output.refined.dtype == torch.bool and output.certainty.dtype == torch.float32
    assert output.windows[0, -1, 2:].tolist() == list(size)
    assert output.loss is None and output.hidden_states is None and output.attentions is None


@pytest.mark.parametrize("size", [(112, 160), (50, 83)], ids=str)
def test_predictions_stay_where_the_image_is(size, tiny_config):
    """
    A model that only copies the image's brightness into its logits must put an edge at the right border back there:
    no shift by resizing, padding or cropping. 80 and 47 are where the image changes.
    """
    model = copying_model(tiny_config(num_labels=2, window_size=48, window_stride=32))
    edge = size[1] - 16
    image = torch.full((1, 3, *size), -1.0)
    image[..., edge:] = 1.0
    for refine in (False, "all"):
        with torch.no_grad():
            labels = model(image, refine=refine).logits[0].argmax(0)
        found = (labels == 1).float().argmax(dim=1)
        assert (labels[:, -1] == 1).all() and (labels[:, 0] == 0).all()
        assert (found - edge).abs().max() <= 8, f"the edge moved from {edge} to {found.tolist()}"


def copying_model(config):
    """Both heads replaced by the mean brightness of each patch, as logits of the classes dark and bright."""

    class Brightness(nn.Module):
        def forward(self, feature_maps, coarse_logits=None):
            brightness = feature_maps[0]
            if coarse_logits is None:
                brightness = F.interpolate(brightness, scale_factor=4, mode="bilinear", align_corners=False)
            return torch.cat([-brightness, brightness], dim=1)

    class Patches(nn.Module):
        def forward(self, pixel_values, **kwargs):
            from transformers.modeling_outputs import BackboneOutput

            return BackboneOutput(feature_maps=(F.avg_pool2d(pixel_values.mean(1, keepdim=True), 16),))

    model = VFMSegForSemanticSegmentation(config).eval()
    model.model, model.coarse_head, model.refine_head = Patches(), Brightness(), Brightness()
    return model


def test_coarse_size_follows_the_aspect_ratio():
    assert coarse_size((1024, 2048), 512, 16) == (512, 1024)
    assert coarse_size((360, 480), 512, 16) == (512, 688)
    assert coarse_size((480, 360), 512, 16) == (688, 512)
    assert coarse_size((100, 900), 512, 16) == (512, 2048), "the longer edge is at most four times the shorter"
    assert coarse_size((360, 480), [512, 1024], 16) == (512, 1024)


def test_small_images_are_enlarged_for_the_coarse_pass(tiny_model):
    with torch.no_grad():
        assert tiny_model()(torch.randn(1, 3, 16, 20)).coarse_logits.shape[-2:] == (16, 20)


def test_sliding_coarse_pass_with_one_window(tiny_model):
    """The head's output goes to the coarse size first and to the image from there."""
    model = lively(tiny_model(coarse_size=[64, 64], coarse_mode="sliding"))
    image = torch.randn(2, 3, 100, 90)
    with torch.no_grad():
        output = model(image, refine=False)
        small = F.interpolate(image, size=(64, 64), mode="bilinear")
        coarse = F.interpolate(model.coarse_head(model.model(small).feature_maps), size=(64, 64), mode="bilinear")
    torch.testing.assert_close(output.coarse_logits, coarse)
    torch.testing.assert_close(output.logits, F.interpolate(coarse, size=(100, 90), mode="bilinear"))


def test_hidden_states_and_attentions_are_the_coarse_pass(tiny_config):
    config = tiny_config()
    config._attn_implementation = "eager"
    model = VFMSegForSemanticSegmentation(config).eval()
    with torch.no_grad():
        output = model(torch.randn(2, 3, 64, 128), output_hidden_states=True, output_attentions=True)
        plain = model(torch.randn(2, 3, 64, 128), return_dict=False)
    assert len(output.hidden_states) == 5 and len(output.attentions) == 4
    assert output.hidden_states[0].shape == (2, 1 + 4 * 8, 32)
    assert output.attentions[0].shape == (2, 2, 33, 33)
    assert isinstance(plain, tuple)


def test_eager_and_sdpa_agree(tiny_config):
    config = tiny_config()
    model = VFMSegForSemanticSegmentation(config).eval()
    image = torch.randn(1, 3, 80, 64)
    with torch.no_grad():
        reference = model(image, refine="all").logits
        model.set_attn_implementation("eager")
        assert model.model.encoder.config._attn_implementation == "eager"
        assert disagreement(model(image, refine="all").logits, reference, tolerance=1e-5) <= 1


def test_encoder_returns_the_residual_stream(tiny_config):
    """Against transformers' own forward with all hidden states: no final norm, no class token, row-major."""
    model = VFMSegModel(tiny_config(out_indices=[0, 1, 2, 3])).eval()
    image = torch.randn(2, 3, 48, 80)
    with torch.no_grad():
        maps = model(image).feature_maps
        states = model.encoder(image, output_hidden_states=True).hidden_states
    for feature_map, state in zip(maps, states[1:], strict=True):
        assert torch.equal(feature_map, state[:, 1:].reshape(2, 3, 5, 32).permute(0, 3, 1, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_are_averaged_in_full_precision(dtype, tiny_model):
    """In half precision the two best classes would tie along the borders."""
    model = lively(tiny_model()).to(dtype)
    with torch.no_grad():
        output = model(torch.randn(1, 3, 112, 160).to(dtype), refine="all")
    assert output.logits.dtype == torch.float32 and output.coarse_logits.dtype == dtype
    best = output.logits.topk(2, dim=1).values
    assert (best[:, 0] == best[:, 1]).float().mean() < 1e-3


def test_tuples_when_the_configuration_says_so(tiny_model):
    model = tiny_model()
    model.config.return_dict = False
    with torch.no_grad():
        output = model(torch.randn(1, 3, 64, 64), refine="all")
        maps = model.model(torch.randn(1, 3, 64, 64))
    assert isinstance(output, tuple) and output[0].shape == (1, 19, 64, 64)
    assert isinstance(maps, tuple) and len(maps[0]) == 4


def test_encoder_and_heads_export_with_dynamic_sizes(tiny_model):
    class Refiner(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, windows, context):
            return self.model.refine_head(self.model.model(windows).feature_maps, context)

    refiner = Refiner(tiny_model())
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(
        refiner,
        (torch.randn(2, 3, 64, 64), torch.randn(2, 19, 64, 64)),
        dynamic_shapes={"windows": {0: batch}, "context": {0: batch}},
    )
    inputs = torch.randn(5, 3, 64, 64), torch.randn(5, 19, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(*inputs), refiner(*inputs))


def test_pickle_and_deepcopy(tiny_model):
    model = tiny_model()
    image = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert torch.equal(twin(image).logits, model(image).logits)


def test_encoder_and_heads_compile_into_one_graph(tiny_model):
    model = tiny_model()
    image, context = torch.randn(1, 3, 64, 48), torch.randn(1, 19, 64, 48)
    encode, decode = (torch.compile(m, fullgraph=True, backend="eager") for m in (model.model, model.refine_head))
    with torch.no_grad():
        maps = encode(image).feature_maps
        torch.testing.assert_close(decode(maps, context), model.refine_head(model.model(image).feature_maps, context))


@pytest.mark.parametrize("training", [False, True])
def test_bfloat16_autocast(training, tiny_model):
    model = tiny_model().train(training)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(2, 3, 64, 64), labels=torch.zeros(2, 64, 64, dtype=torch.long))
    assert output.loss.dtype == torch.float32 and output.logits.isfinite().all()
    if training:
        output.loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# ----------------------------------------------------------------------------------------------- training


@pytest.fixture
def batch():
    return torch.randn(2, 3, 128, 128), torch.randint(0, 19, (2, 128, 128))


def test_training_output(tiny_model, batch):
    model = tiny_model().train()
    output = model(batch[0], labels=batch[1])
    assert output.coarse_logits.shape == (2, 19, 16, 16) and output.logits.shape == (2, 19, 4, 4)
    assert output.windows.shape == (2, 1, 4) and output.certainty is None and output.refined is None
    torch.testing.assert_close(output.loss, output.content_loss + output.detail_loss)
    output.loss.backward()
    silent = {n for n, p in model.named_parameters() if p.grad is None}
    assert silent == {"model.encoder.embeddings.mask_token"} | {
        f"model.encoder.layernorm.{kind}" for kind in ("weight", "bias")
    }


def test_one_batched_encoder_pass_equals_two(tiny_model, batch):
    model = tiny_model(feature_mask_ratio=0, refine_dropout=0, head_dropout=0).train()
    calls = []
    model.model.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    box = (32, 64, 96, 128)
    output = model(batch[0], labels=batch[1], detail_crop_box=box)
    assert calls == [4]
    small = F.interpolate(batch[0], scale_factor=0.5, mode="bilinear")
    coarse = model.coarse_head(model.model(small).feature_maps)
    content = F.cross_entropy(F.interpolate(coarse, size=(64, 64), mode="bilinear"), batch[1][:, ::2, ::2])
    context = F.interpolate(coarse.detach(), size=(64, 64), mode="bilinear")[..., 16:48, 32:64]
    maps = model.model(batch[0][..., 32:96, 64:128]).feature_maps
    detail = model.refine_head(maps, context)
    detail = F.cross_entropy(F.interpolate(detail, size=(64, 64), mode="bilinear"), batch[1][:, 32:96, 64:128])
    torch.testing.assert_close(output.content_loss, content, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.detail_loss, detail, atol=1e-5, rtol=1e-5)


def test_a_crop_of_another_size_takes_two_passes(tiny_model, batch):
    model = tiny_model(detail_crop_size=96).train()
    output = model(batch[0], labels=batch[1])
    assert output.logits.shape == (2, 19, 6, 6)
    output.loss.backward()


def test_refine_head_trains_on_detached_coarse_logits(tiny_model, batch):
    model = tiny_model().train()
    model(batch[0], labels=batch[1]).detail_loss.backward()
    assert all(parameter.grad is None for parameter in model.coarse_head.parameters())


def test_a_crop_without_labels_has_zero_loss_with_gradients(tiny_model, batch):
    model = tiny_model().train()
    labels = torch.full_like(batch[1], 255)
    output = model(batch[0], labels=labels)
    assert output.loss == 0
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("normalization", ["valid", "all"])
def test_loss_divisor(normalization, tiny_model, batch):
    model = tiny_model(loss_normalization=normalization).train()
    labels = batch[1].clone()
    labels[:, :96] = 255
    output = model(batch[0], labels=labels, detail_crop_box=(64, 0, 128, 64))
    logits = F.interpolate(output.coarse_logits, size=(64, 64), mode="bilinear")
    nll = -logits.log_softmax(1).gather(1, labels[:, None, ::2, ::2].clamp(max=18))[:, 0]
    valid = labels[:, ::2, ::2] != 255
    expected = nll[valid].sum() / (valid.sum() if normalization == "valid" else valid.numel())
    torch.testing.assert_close(output.content_loss, expected)


def test_feature_masking_is_for_training_only(tiny_model):
    head = tiny_model(feature_mask_ratio=1.0, refine_dropout=0.0).refine_head
    maps, context = [torch.randn(1, 32, 4, 4) for _ in range(4)], torch.randn(1, 19, 8, 8)
    other = [torch.randn(1, 32, 4, 4) for _ in range(4)]
    assert not torch.equal(head.eval()(maps, context), head(other, context))
    head.train()
    assert torch.equal(head(maps, context), head(other, context)), "with everything masked only the context counts"


def test_a_detail_loss_that_does_not_count_is_not_computed(tiny_model, batch, monkeypatch):
    """VFMNet alone: the gradients are those with a weight that is next to nothing, and the encoder runs once."""
    gradients, shapes = {}, []
    model = tiny_model(feature_mask_ratio=0, refine_dropout=0, head_dropout=0).train()
    encode = model.model.forward
    monkeypatch.setattr(
        model.model, "forward", lambda pixels, **more: shapes.append(len(pixels)) or encode(pixels, **more)
    )
    for weight in (0.0, 1e-9):
        model.config.detail_loss_weight = weight
        model.zero_grad(set_to_none=True)
        output = model(batch[0], labels=batch[1], detail_crop_box=(0, 32, 64, 96))
        output.loss.backward()
        gradients[weight] = {name: p.grad for name, p in model.named_parameters() if "refine_head" not in name}
    for name, gradient in gradients[0.0].items():
        if gradients[1e-9][name] is not None:
            torch.testing.assert_close(gradient, gradients[1e-9][name], atol=1e-6, rtol=1e-4)
    assert shapes[1] == 2 * shapes[0] == 2 * len(batch[0])
    model.config.detail_loss_weight = 0.0
    model.zero_grad(set_to_none=True)
    output = model(batch[0], labels=batch[1])
    output.loss.backward()
    assert output.logits is None and output.detail_loss is None and torch.equal(output.loss, output.content_loss)
    assert all(p.grad is None for p in model.refine_head.parameters())


def test_losses_in_eval_mode_take_labels_of_any_size(tiny_model):
    model = lively(tiny_model(detail_loss_weight=0.5))
    labels = torch.randint(0, 19, (2, 50, 70))
    with torch.no_grad():
        output = model(torch.randn(2, 3, 80, 112), labels=labels)
    for loss, logits in ((output.content_loss, output.coarse_logits), (output.detail_loss, output.logits)):
        resized = F.interpolate(logits, size=(50, 70), mode="bilinear")
        torch.testing.assert_close(loss, F.cross_entropy(resized, labels))
    torch.testing.assert_close(output.loss, output.content_loss + 0.5 * output.detail_loss)
    assert list(output)[:5] == ["loss", "logits", "coarse_logits", "content_loss", "detail_loss"], "as a tuple, too"


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_keeps_every_gradient(reentrant, tiny_model, batch):
    model = tiny_model(feature_mask_ratio=0, refine_dropout=0, head_dropout=0).train()
    model.model.encoder.embeddings.requires_grad_(False)
    box = (0, 32, 64, 96)

    def gradients():
        model.zero_grad()
        model(batch[0], labels=batch[1], detail_crop_box=box).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    reference = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    checkpointed = gradients()
    assert reference.keys() == checkpointed.keys() and len(reference) > 60
    for name, gradient in reference.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-4)


def test_initialisation_is_the_published_one(tiny_config):
    torch.manual_seed(0)
    model = VFMSegForSemanticSegmentation(tiny_config(refine_hidden_size=256, num_labels=150))
    coarse, refine = model.coarse_head, model.refine_head
    for classifier in (coarse.classifier, refine.classifier):
        assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.1) and not classifier.bias.any()
    assert coarse.fusion.weight.std().item() == pytest.approx((2 / 32) ** 0.5, rel=0.05), "Kaiming normal, fan out"
    assert refine.mask_token.std().item() == pytest.approx(1, rel=0.2)
    plain = nn.Linear(256, 2048)
    assert refine.layers[0].feed_forward.input.weight.std().item() == pytest.approx(plain.weight.std().item(), rel=0.02)
    assert refine.layers[0].feed_forward.input.bias.std().item() == pytest.approx(plain.bias.std().item(), rel=0.1)
    plain = nn.ConvTranspose2d(32, 16, 2, stride=2)
    assert coarse.upsample1.weight.abs().max().item() == pytest.approx(plain.weight.abs().max().item(), rel=0.02)
    assert coarse.upsample1.bias.abs().max() <= plain.bias.abs().max() * 1.5
    assert (coarse.upsample_norm.running_var == 1).all()


# ----------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "pixel_values, expected",
    [
        (torch.zeros(1, 4, 64, 64), r"\(1, 4, 64, 64\)"),
        (torch.zeros(3, 64, 64), r"\(3, 64, 64\)"),
        (torch.zeros(0, 3, 64, 64), "the batch is empty"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "are torch.uint8, as images are before they are normalised"),
        (
            [torch.zeros(3, 64, 64), torch.zeros(3, 32, 32)],
            "are a list, not one tensor: images of a batch need one size",
        ),
        (torch.zeros(1, 3, 15, 64), "at least one patch .* 15x64"),
        (
            torch.full((2, 3, 32, 32), float("nan")),
            r"NaN or infinite values \(per image of the batch: \[3072, 3072\]",
        ),
    ],
    ids=["channels", "dimensions", "empty", "not normalised", "two sizes", "below one patch", "NaN"],
)
def test_images_that_do_not_fit(pixel_values, expected, tiny_model):
    with pytest.raises(ValueError, match=expected):
        tiny_model()(pixel_values)


@pytest.mark.parametrize(
    "labels, expected",
    [
        (torch.zeros(2, 64, 64, dtype=torch.long), r"images' size \(128, 128\), got \(64, 64\)"),
        (torch.full((2, 128, 128), 19), r"ids \[19\].*0\.\.18 and 255 is ignored"),
        (torch.full((2, 128, 128), -1), r"ids \[-1\]"),
        (torch.zeros(1, 128, 128, dtype=torch.long), r"batch_size=2, height, width\).*\(1, 128, 128\)"),
        (torch.zeros(2, 128, 128), "integer class ids, got torch.float32"),
        (None, "labels are needed in training mode"),
    ],
    ids=["size", "unknown id", "negative id", "batch", "float", "none"],
)
def test_labels_that_do_not_fit(labels, expected, tiny_model, batch):
    with pytest.raises(ValueError, match=expected):
        tiny_model().train()(batch[0], labels=labels)


def test_unknown_ids_raise_in_eval_mode_too(tiny_model):
    with pytest.raises(ValueError, match=r"ids \[77\]"):
        tiny_model()(torch.zeros(1, 3, 32, 32), labels=torch.full((1, 32, 32), 77))


def test_training_size_must_be_a_multiple_of_32(tiny_model):
    with pytest.raises(ValueError, match="got 120x128; the nearest legal size is 128x128"):
        tiny_model().train()(torch.zeros(1, 3, 120, 128), labels=torch.zeros(1, 120, 128, dtype=torch.long))


def test_encoder_refuses_partial_patches(tiny_config):
    with pytest.raises(ValueError, match="got 64x70; the nearest legal size is 64x64"):
        VFMSegModel(tiny_config())(torch.zeros(1, 3, 64, 70))


@pytest.mark.parametrize("box", [(0, 0, 60, 64), (0, 0, 160, 64), (64, 0, 32, 64), (1, 0, 65, 64)])
def test_crop_box_must_fit(box, tiny_model, batch):
    with pytest.raises(ValueError, match="detail_crop_box must be"):
        tiny_model().train()(batch[0], labels=batch[1], detail_crop_box=box)


def test_crop_larger_than_the_image(tiny_model, batch):
    with pytest.raises(ValueError, match="detail_crop_size=256 is larger than the training image 128x128"):
        tiny_model(detail_crop_size=256).train()(batch[0], labels=batch[1])


@pytest.mark.parametrize("refine", ["some", 0, 1])
def test_refine_takes_four_values(refine, tiny_model):
    with pytest.raises(ValueError, match=f"refine must be True, False, 'all' or None, got {refine!r}"):
        tiny_model()(torch.zeros(1, 3, 32, 32), refine=refine)


@pytest.mark.parametrize(
    "arguments", [{"refine": "all"}, {"refine": False}, {"max_windows": 1}, {"max_window_share": 1.0}]
)
def test_training_refuses_what_only_segmenting_obeys(arguments, tiny_model):
    images, labels = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.long)
    with pytest.raises(ValueError, match="refine, max_windows and max_window_share say how images are segmented"):
        tiny_model().train()(images, labels=labels, **arguments)


def test_boxes_are_for_training_and_have_four_edges(tiny_model):
    images, labels = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.long)
    with pytest.raises(ValueError, match="detail_crop_box is the crop of a training step"):
        tiny_model()(images, labels=labels, detail_crop_box=(0, 0, 32, 32))
    with pytest.raises(ValueError, match=r"detail_crop_box must be \(top, left, bottom, right\).*got \(0, 0, 32\)"):
        tiny_model().train()(images, labels=labels, detail_crop_box=(0, 0, 32))
