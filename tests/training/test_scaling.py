"""New heads at the scales of the feature maps: what they see, and what is refused."""

import copy
import json
from functools import partial

import pytest
import torch
from peft import get_peft_model
from torch.nn import functional as F
from torch.utils.data import IterableDataset
from transformers import TrainerCallback

from tests.support.tiny import give_base
from tests.training.test_training import StopAfter, images, make_trainer
from vfmseg_hf import lora_config
from vfmseg_hf.training import VFMSegTrainer, VFMSegTrainingArguments
from vfmseg_hf.training.model import start_model
from vfmseg_hf.training.scaling import scale_heads, scale_new_heads


SCALED = {"scale_heads": True, "learning_rate": 1e-12, "encoder_learning_rate": 1e-12}  # and nothing learnt


@pytest.fixture
def growing_model(tiny_model):
    """A model whose feature maps grow from block to block, as those of real foundation models do."""
    model = tiny_model()
    for number, block in enumerate(model.model.encoder.encoder.layer):
        block.layer_scale2.lambda1.data.fill_(10.0**number)
    return model


def head_weights(model):
    return [head.fusion.weight.detach().clone() for head in (model.coarse_head, model.refine_head)]


def test_the_heads_see_all_four_maps(growing_model):
    """The last map has many times the scale of the first; what each adds to a head's first layer is made equal."""
    model = growing_model
    crops = torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(0)) + 2
    small = F.interpolate(crops, (64, 64), mode="bilinear")
    with torch.no_grad():
        maps = [one.transpose(0, 1).flatten(1) for one in model.model(small).feature_maps]

    def shares(head):
        pieces = head.fusion.weight.flatten(1).chunk(4, dim=1)
        added = [(piece @ one).var(1).mean() for piece, one in zip(pieces, maps, strict=True)]
        return torch.stack(added) / sum(added)

    with torch.no_grad():
        before = head_weights(model)
        for head in (model.coarse_head, model.refine_head):
            assert shares(head)[-1] > 0.95
        bias = model.refine_head.fusion.bias.clone()
        scale_heads(model.train(), crops)
        for head, weight in zip((model.coarse_head, model.refine_head), before, strict=True):
            assert shares(head).max() < 0.5 and shares(head).min() > 0.1
            expected = weight / torch.cat(maps).std(1, correction=0)[:, None, None]
            torch.testing.assert_close(head.fusion.weight, expected, rtol=1e-3, atol=1e-5)
        # The mean of every channel is taken off: what is left of the mean is the bias that there was.
        fused = model.refine_head.fusion.weight.flatten(1) @ torch.cat(maps) + model.refine_head.fusion.bias[:, None]
        torch.testing.assert_close(fused.mean(1), bias, rtol=0, atol=1e-3)
    assert model.training


def test_what_was_in_eval_mode_stays_so(tiny_model):
    model = tiny_model().train()
    model.coarse_head.eval()
    scale_heads(model, torch.randn(1, 3, 64, 64))
    assert model.training and not model.coarse_head.training and model.refine_head.training
    with pytest.raises(ValueError, match="no crop to take the scales"):
        scale_heads(model, [])
    assert model.training


def test_a_channel_that_hardly_varies_is_not_blown_up(tiny_model):
    model = tiny_model()
    before = head_weights(model)
    scale_heads(model, torch.zeros(2, 3, 64, 64))
    for weight, scaled in zip(before, head_weights(model), strict=True):
        factors = (scaled / weight).abs().flatten(1)[0]
        assert torch.isfinite(scaled).all() and factors.max() <= 1.01e3 * factors.median()


@pytest.mark.parametrize("adapt", [lambda model: model, "add_adapter", get_peft_model])
def test_the_trainer_scales_before_the_first_step(growing_model, tmp_path, adapt):
    config, model = lora_config(growing_model.config, r=2), growing_model
    expected = head_weights(model)
    give_base(model)
    if adapt == "add_adapter":
        model.add_adapter(config)
    elif adapt is get_peft_model:
        model = get_peft_model(model, config)
    trainer = make_trainer(
        model, tmp_path, max_steps=1, learning_rate=1e-12, encoder_learning_rate=1e-12, scale_heads=True
    )
    trainer.train()
    scaled = head_weights(growing_model)
    for before, after in zip(expected, scaled, strict=True):
        factors = (after / before).flatten(1)
        assert torch.allclose(factors, factors[:1].expand_as(factors), rtol=1e-3), "one factor per channel"
        assert factors[0, 0] > 20 * factors[0, -1]


def test_a_resumed_training_is_not_scaled_again(growing_model, tmp_path):
    fresh = copy.deepcopy(growing_model)
    make_trainer(growing_model, tmp_path, [StopAfter(1)], max_steps=2, **SCALED).train()
    scaled = head_weights(growing_model)
    make_trainer(fresh, tmp_path, max_steps=2, **SCALED).train(resume_from_checkpoint=True)
    assert all(map(partial(torch.allclose, rtol=1e-5), scaled, head_weights(fresh)))


def test_a_training_that_starts_again_is_not_scaled_again(growing_model, tmp_path):
    """As in a notebook: out of memory before the first step, and the same model with smaller batches."""

    class Crash(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            raise MemoryError

    scaled = []
    for _ in range(2):
        with pytest.raises(MemoryError):
            make_trainer(growing_model, tmp_path, [Crash()], save_strategy="no", **SCALED).train()
        scaled.append(head_weights(growing_model))
    assert all(map(torch.equal, *scaled))
    trainer = make_trainer(growing_model, tmp_path, max_steps=1, save_strategy="no", scale_heads=True)
    trainer.train()
    trainer.train()  # goes on


def test_what_is_learnt_is_not_spoilt(growing_model, tmp_path):
    make_trainer(growing_model, tmp_path, max_steps=1, save_strategy="no").train()
    with pytest.raises(ValueError, match="scale_heads is for new heads, and those of this model are trained"):
        make_trainer(growing_model, tmp_path, save_strategy="no", scale_heads=True).train()
    growing_model.save_pretrained(tmp_path / "model")
    others = start_model(str(tmp_path / "model"), id2label={0: "zebra", 1: "gnu"})  # its classifiers are new
    with pytest.raises(ValueError, match="scale_heads is for new heads, and this model's are of .*model; leave it out"):
        scale_new_heads(others, images())


def test_the_record_says_so(tiny_model, tmp_path):
    make_trainer(tiny_model(), tmp_path, max_steps=1, scale_heads=True).train()
    record = json.loads((tmp_path / "checkpoint-1" / "recipe.json").read_text())
    assert record["settings"]["training"]["scale_heads"] is True
    assert any("scale_heads" in str(line) for line in record["differences"]["paper"]), record["differences"]


def test_what_cannot_be_scaled_is_refused(tiny_model, tmp_path):
    tiny_model().model.encoder.save_pretrained(tmp_path / "foundation")
    linear = start_model(str(tmp_path / "foundation"), method="linear")
    with pytest.raises(ValueError, match=r"for the heads of VFMSeg, and VFMSegLinear\w+ has others"):
        make_trainer(linear, tmp_path, scale_heads=True).train()

    class Stream(IterableDataset):
        def __iter__(self):
            yield from (images()[index] for index in range(6))

    with pytest.raises(ValueError, match="needs images with numbers, and Stream has none"):
        make_trainer(tiny_model(), tmp_path, train=Stream(), scale_heads=True).train()
    arguments = VFMSegTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", scale_heads=True)
    with pytest.raises(ValueError, match="scale_heads does not work with model_init"):
        VFMSegTrainer(model_init=lambda: tiny_model(), args=arguments, train_dataset=images())
