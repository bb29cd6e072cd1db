"""New heads at the scales of the feature maps: what they see, and what is refused."""

from functools import partial

import pytest
import torch
from peft import get_peft_model
from torch.utils.data import IterableDataset

from tests.support.tiny import give_base
from tests.training.test_training import StopAfter, images, make_trainer
from vfmseg_hf import lora_config
from vfmseg_hf.training import VFMSegTrainer, VFMSegTrainingArguments
from vfmseg_hf.training.model import start_model
from vfmseg_hf.training.scaling import scale_heads


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
    crops = torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))

    def shares(head):
        maps = model.model(torch.nn.functional.interpolate(crops, (64, 64), mode="bilinear")).feature_maps
        pieces = head.fusion.weight.flatten(1).chunk(4, dim=1)
        channels = [one.transpose(0, 1).flatten(1) for one in maps]
        added = [(piece @ one).var(1).mean() for piece, one in zip(pieces, channels, strict=True)]
        return torch.stack(added) / sum(added)

    with torch.no_grad():
        for head in (model.coarse_head, model.refine_head):
            assert shares(head)[-1] > 0.95
        scale_heads(model.train(), crops)
        for head in (model.coarse_head, model.refine_head):
            assert shares(head).max() < 0.5 and shares(head).min() > 0.1
        fused = model.refine_head.fusion(torch.cat(model.model(crops).feature_maps, dim=1))
        assert fused.mean((0, 2, 3)).abs().max() < 1.0, "the mean of every channel is taken off"
    assert model.training


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
    make_trainer(growing_model, tmp_path, [StopAfter(1)], max_steps=2, **SCALED).train()
    scaled = head_weights(growing_model)
    make_trainer(growing_model, tmp_path, max_steps=2, **SCALED).train(resume_from_checkpoint=True)
    assert all(map(partial(torch.allclose, rtol=1e-5), scaled, head_weights(growing_model)))


def test_what_is_learnt_is_not_spoilt(growing_model, tmp_path):
    trainer = make_trainer(growing_model, tmp_path, max_steps=1, save_strategy="no", scale_heads=True)
    trainer.train()
    with pytest.raises(ValueError, match="scale_heads is for new heads, and those of this model are trained"):
        trainer.train()


def test_what_cannot_be_scaled_is_refused(tiny_model, tmp_path):
    tiny_model().model.encoder.save_pretrained(tmp_path / "foundation")
    linear = start_model(str(tmp_path / "foundation"), decoder="linear")
    with pytest.raises(ValueError, match=r"for the heads of VFMSeg, and VFMSegLinear\w+ has others"):
        make_trainer(linear, tmp_path, scale_heads=True).train()

    class Stream(IterableDataset):
        def __iter__(self):
            yield from (images()[index] for index in range(6))

    with pytest.raises(ValueError, match="needs images with numbers, and Stream has none"):
        make_trainer(tiny_model(), tmp_path, train=Stream(), scale_heads=True).train()
    arguments = VFMSegTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", scale_heads=True)
    with pytest.raises(ValueError, match="scale_heads is not for models of model_init"):
        VFMSegTrainer(model_init=lambda: tiny_model(), args=arguments, train_dataset=images())
