"""Saving and loading: merged, adapter only, other classes, foundation models, and what is refused."""

import json
from functools import partial

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSemanticSegmentation, Dinov2Config, Dinov2Model, SegformerConfig

from tests.support.numbers import disagreement
from vfmseg_hf import VFMSegConfig, VFMSegForSemanticSegmentation, VFMSegModel
from vfmseg_hf.model.adapters import lora_config, save_adapter


SMALL_HEADS = {"refine_hidden_size": 128, "refine_num_layers": 1, "refine_head_dim": 16}
SMALL_RUN = {"coarse_size": 64, "window_size": 64, "window_stride": 40}


@pytest.fixture
def image():
    return torch.randn(1, 3, 70, 100)


@pytest.fixture
def predict(image):
    def predict(model):
        with torch.no_grad():
            return model.eval()(image, refine="all").logits

    return predict


@pytest.fixture
def foundation(tmp_path):
    """A DINOv2 directory as the Hub has it: patch 14, 518 pixels, historical key names."""
    torch.manual_seed(1)
    model = Dinov2Model(
        Dinov2Config(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, patch_size=14, image_size=70)
    )
    model.save_pretrained(tmp_path / "foundation", save_original_format=True)
    keys = load_file(tmp_path / "foundation" / "model.safetensors")
    assert "encoder.layer.0.attention.attention.query.weight" in keys, "the Hub's key names"
    return tmp_path / "foundation"


def from_foundation(path, **overrides):
    torch.manual_seed(2)
    return VFMSegForSemanticSegmentation.from_backbone(path, **{**SMALL_HEADS, **SMALL_RUN, **overrides})


def randomise_lora(model, std: float = 0.2):
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=std)
    return model


# ------------------------------------------------------------------------------------------------ merged


def test_merged_round_trip(tiny_model, tmp_path, predict, loading_log):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    keys = load_file(tmp_path / "model.safetensors").keys()
    assert {key.split(".")[0] for key in keys} == {"model", "coarse_head", "refine_head"}
    assert all(key.startswith(("model.encoder.", "coarse_head.", "refine_head.")) for key in keys)
    assert keys == model.state_dict().keys(), "Trainer resumes with a plain load_state_dict"
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    assert type(loaded) is VFMSegForSemanticSegmentation and not loaded.training
    assert torch.equal(predict(loaded), predict(model))
    assert not loading_log.records


def test_hub_key_names_load_as_well(tiny_model, tmp_path, predict, loading_log):
    model = tiny_model()
    model.save_pretrained(tmp_path, save_original_format=True)
    assert "model.encoder.encoder.layer.0.attention.attention.query.weight" in load_file(tmp_path / "model.safetensors")
    assert torch.equal(predict(VFMSegForSemanticSegmentation.from_pretrained(tmp_path)), predict(model))
    assert not loading_log.records


def test_encoder_alone_from_a_segmentation_checkpoint(tiny_model, tmp_path, loading_log):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path)
    assert type(encoder) is VFMSegModel
    images = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        for ours, theirs in zip(encoder(images).feature_maps, model.model(images).feature_maps, strict=True):
            assert torch.equal(ours, theirs)
    assert not loading_log.records, "no warning of the heads that were left behind"


@pytest.mark.parametrize("num_labels", [2, 3, 150])
def test_other_classes_reinitialise_exactly_what_depends_on_them(num_labels, tiny_model, tmp_path, loading_log):
    model = tiny_model()
    for parameter in model.parameters():  # no value may equal a fresh initialisation by chance
        parameter.data.add_(0.01 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "first")
    loaded, info = VFMSegForSemanticSegmentation.from_pretrained(
        tmp_path / "first",
        num_labels=num_labels,
        id2label={index: f"class {index}" for index in range(num_labels)},
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    changed = {
        "coarse_head.classifier.weight",
        "coarse_head.classifier.bias",
        "refine_head.classifier.weight",
        "refine_head.classifier.bias",
        "refine_head.mask_embedding.conv1.weight",
    }
    assert {key for key, *_ in info["mismatched_keys"]} == changed
    assert all(key in loading_log.text for key in changed), "it says so"
    before, after = model.state_dict(), loaded.state_dict()
    assert {key for key in after if not torch.equal(before[key], after[key])} == changed
    assert loaded.coarse_head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.5)
    assert not loaded.coarse_head.classifier.bias.any()

    loaded.train()
    loaded(torch.randn(2, 3, 64, 64), labels=torch.randint(0, num_labels, (2, 64, 64))).loss.backward()
    assert loaded.coarse_head.classifier.weight.grad.abs().sum() > 0
    loaded.save_pretrained(tmp_path / "second")
    again = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "second")
    assert again.config.label2id["class 1"] == 1 and again.num_labels == num_labels


def test_other_classes_without_the_flag_are_refused(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path, num_labels=3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, tiny_model, tmp_path, image):
    tiny_model().save_pretrained(tmp_path)
    model = VFMSegForSemanticSegmentation.from_pretrained(tmp_path, dtype=dtype)
    with torch.no_grad():
        assert model(image.to(dtype), refine="all").logits.isfinite().all()


# ------------------------------------------------------------------------------------------ foundation models


def test_from_backbone_resamples_only_two_tensors(foundation, loading_log):
    model = from_foundation(foundation)
    native = Dinov2Model.from_pretrained(foundation).state_dict()
    ours = model.model.encoder.state_dict()
    resampled = {"embeddings.patch_embeddings.projection.weight", "embeddings.position_embeddings"}
    assert native.keys() == ours.keys()
    assert {key for key in ours if not torch.equal(ours[key], native[key]) if key not in resampled} == set()
    kernel = torch.nn.functional.interpolate(
        native["embeddings.patch_embeddings.projection.weight"], size=(16, 16), mode="bicubic"
    )
    torch.testing.assert_close(ours["embeddings.patch_embeddings.projection.weight"], kernel)
    table = native["embeddings.position_embeddings"]
    grid = table[:, 1:].reshape(1, 5, 5, 32).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(32, 32), mode="bicubic").flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours["embeddings.position_embeddings"], torch.cat([table[:, :1], grid], dim=1))
    assert model.config.backbone_config.patch_size == 16 and model.config.backbone_config.image_size == 512
    assert model.config.backbone_name_or_path == str(foundation)
    assert model.coarse_head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.5), "heads are initialised"
    assert not loading_log.records


def test_resampling_equals_the_recorded_converter(shared):
    """The recording also holds tensors of a smaller image size than ours: 128 pixels."""
    from vfmseg_hf.model.encoders import get_encoder_family

    folder = shared / "golden" / "convert"
    native, expected = load_file(folder / "dinov2_in.safetensors"), load_file(folder / "dinov2_out.safetensors")
    names = {"kernel": "patch_embed.proj.weight", "table": "pos_embed"}
    config = Dinov2Config(patch_size=16, image_size=128)
    family = get_encoder_family(config)
    keys = {"kernel": family.patch_kernel, "table": family.position_table}
    result = family.resample({keys[n]: native[names[n]] for n in keys}, config)
    for name in keys:
        assert disagreement(result[keys[name]], expected[names[name]]) <= 1


def test_from_backbone_with_other_classes_and_a_wrong_field(foundation):
    model = from_foundation(foundation, num_labels=3)
    assert model.num_labels == 3 and model.coarse_head.classifier.weight.shape[0] == 3
    with pytest.raises(ValueError, match=r"\['window_sise'\] are no fields of VFMSegConfig"):
        from_foundation(foundation, window_sise=3)


@pytest.mark.slow
def test_from_backbone_of_full_size(tmp_path):
    """ViT-B/14 at 518 pixels with random weights under the Hub's key names: 86 million parameters."""
    native = Dinov2Model(Dinov2Config(image_size=518))
    native.save_pretrained(tmp_path, save_original_format=True)
    model = VFMSegForSemanticSegmentation.from_backbone(tmp_path, refine_num_layers=1)
    assert model.config.out_indices == [2, 5, 8, 11]
    assert model.model.encoder.embeddings.position_embeddings.shape == (1, 1 + 32 * 32, 768)
    query = "encoder.layer.11.attention.q_proj.weight"
    assert torch.equal(model.model.encoder.state_dict()[query], native.state_dict()[query])
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 3, 64, 64), refine=False).logits.shape == (1, 19, 64, 64)


def test_foundation_model_without_all_weights(foundation):
    weights = load_file(foundation / "model.safetensors")
    del weights["encoder.layer.3.attention.attention.query.weight"]
    save_file(weights, foundation / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="does not hold all weights of a dinov2 encoder; missing.*layer.3"):
        from_foundation(foundation)


# ------------------------------------------------------------------------------------------------ adapters


def is_lora_or_head(name: str) -> bool:
    return ".lora_" in name or name.startswith(("coarse_head.modules_to_save.", "refine_head.modules_to_save."))


def test_add_adapter_trains_lora_and_heads_only(tiny_model):
    model = tiny_model()
    for head in (model.coarse_head, model.refine_head):
        head.classifier.weight.data.mul_(100)  # so small at first that the first steps would be lost in rounding
    model.add_adapter(lora_config(model.config, r=4, lora_alpha=8))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if is_lora_or_head(name)}
    assert sum(".lora_" in name for name in trainable) == 4 * 3 * 2
    assert not any(".lora_" in name for name in trainable if "head" in name)
    model.train()
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1.0)
    before = {name: model.get_parameter(name).detach().clone() for name in trainable}
    for _ in range(2):  # A has no gradient while B is zero
        optimizer.zero_grad()
        model(torch.randn(2, 3, 64, 64), labels=torch.randint(0, 19, (2, 64, 64))).loss.backward()
        optimizer.step()
    assert all(torch.equal(model.get_parameter(name), value) for name, value in frozen.items())
    assert all(model.get_parameter(name).grad is not None for name in trainable)
    assert not any(torch.equal(model.get_parameter(name), value) for name, value in before.items() if "lora" in name)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], None], ids=["plain target names", "our pattern"])
def test_users_get_peft_model(targets, foundation, tmp_path, predict):
    model = from_foundation(foundation)
    config = lora_config(model.config, r=4)
    if targets:
        config = LoraConfig(r=4, target_modules=targets, modules_to_save=["coarse_head", "refine_head"])
    wrapped = randomise_lora(get_peft_model(model, config))
    trainable = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    assert all(is_lora_or_head(name.removeprefix("base_model.model.")) for name in trainable)
    assert sum(".lora_" in name for name in trainable) == 4 * (len(targets) if targets else 3) * 2
    expected = predict(wrapped)
    save_adapter(wrapped, tmp_path / "adapter")
    assert torch.equal(predict(AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "adapter")), expected)
    wrapped.save_pretrained(tmp_path / "by peft")
    reloaded = PeftModel.from_pretrained(from_foundation(foundation), tmp_path / "by peft")
    assert torch.equal(predict(reloaded), expected)
    assert disagreement(predict(wrapped.merge_and_unload()), expected, tolerance=1e-5) <= 1


@pytest.fixture
def adapted(foundation):
    model = from_foundation(foundation)
    model.add_adapter(lora_config(model.config, r=4, lora_alpha=8))
    model.train()  # move the running statistics of the coarse head's batch norm, too
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 64), labels=torch.randint(0, 19, (2, 64, 64)))
    return randomise_lora(model.eval())


@pytest.mark.parametrize("is_trainable", [False, True])
@pytest.mark.parametrize("loader", [VFMSegForSemanticSegmentation, AutoModelForSemanticSegmentation])
def test_adapter_only_round_trip(loader, is_trainable, adapted, tmp_path, predict, loading_log):
    adapted.save_pretrained(tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
    ]
    keys = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert not any("q_proj.weight" in key or "base_layer" in key for key in keys), "no frozen weight in it"
    assert any("running_mean" in key for key in keys)
    model = loader.from_pretrained(tmp_path / "adapter", is_trainable=is_trainable)
    assert torch.equal(predict(model), predict(adapted))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {name for name, _ in model.named_parameters() if is_lora_or_head(name)} if is_trainable else set()
    assert trainable == expected
    assert not loading_log.records


@pytest.mark.parametrize(
    "argument, message",
    [
        ({"max_shard_size": "1MB"}, "max_shard_size='1MB' does not apply to an adapter"),
        ({"variant": "fp16"}, "variant='fp16' does not apply.*merge_and_unload"),
        ({"save_peft_format": False}, "save_peft_format=False does not apply"),
        ({"distributed_checkpoint": True}, "distributed_checkpoint=True does not apply"),
        ({"safe_serialization": False}, "safe_serialization=False is not supported"),
        ({"selected_adapters": ["default"]}, "no argument selected_adapters"),
        ({"commit_message": "better"}, "without push_to_hub=True, has no argument commit_message"),
        ({"max_shard_siez": "1MB"}, "no argument max_shard_siez; did you mean max_shard_size?"),
    ],
)
def test_saving_an_adapter_refuses_what_it_does_not_do(argument, message, adapted, tmp_path):
    with pytest.raises((TypeError, ValueError), match=message):
        adapted.save_pretrained(tmp_path / "adapter", **argument)
    assert not (tmp_path / "adapter").exists()


def test_saving_takes_what_changes_nothing(adapted, tmp_path):
    usual = {
        "safe_serialization": True,
        "max_shard_size": "50GB",
        "save_peft_format": True,
        "save_function": torch.save,
    }
    adapted.save_pretrained(tmp_path / "adapter", **usual, token=None, is_main_process=True)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_saving_a_whole_model_refuses_unknown_arguments(tiny_model, tmp_path):
    for model in (tiny_model(), tiny_model().model):
        with pytest.raises(TypeError, match="no argument max_shard_siez; did you mean max_shard_size?"):
            model.save_pretrained(tmp_path / "model", max_shard_siez="1MB")
        with pytest.raises(ValueError, match="safe_serialization=False is not supported"):
            model.save_pretrained(tmp_path / "model", safe_serialization=False)
    assert not (tmp_path / "model").exists()


def test_one_target_of_lora_by_its_name(tiny_config):
    config = tiny_config()
    assert (
        lora_config(config, targets="q_proj").target_modules == lora_config(config, targets=["q_proj"]).target_modules
    )


def test_adapter_through_peft_itself(adapted, foundation, tmp_path, predict):
    adapted.save_pretrained(tmp_path / "adapter")
    model = PeftModel.from_pretrained(from_foundation(foundation), tmp_path / "adapter")
    assert torch.equal(predict(model), predict(adapted))


def test_merging_gives_a_plain_model(adapted, tmp_path, predict):
    expected = predict(adapted)
    merged = adapted.merge_and_unload()
    assert merged is adapted
    assert disagreement(predict(merged), expected, tolerance=1e-5) <= 1
    assert not any("lora" in key or "modules_to_save" in key for key in merged.state_dict())
    merged.save_pretrained(tmp_path / "merged")
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    assert torch.equal(predict(AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "merged")), predict(merged))
    merged.add_adapter(lora_config(merged.config, r=2))  # and it can be adapted again
    with pytest.raises(ValueError, match="no adapter to merge"):
        merged.merge_and_unload().merge_and_unload()


def test_adapter_finds_its_base_relative_to_itself(adapted, foundation, tmp_path, predict):
    adapted.adapter_base = "base"
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(OSError, match="'base' of the adapter .* is neither beside it"):  # and is not sought on the Hub
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "adapter")
    foundation.rename(tmp_path / "adapter" / "base")
    model = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "adapter")
    assert torch.equal(predict(model), predict(adapted))


@pytest.mark.parametrize("loader", [VFMSegForSemanticSegmentation, AutoModelForSemanticSegmentation])
def test_base_can_be_elsewhere(loader, adapted, foundation, tmp_path, predict):
    adapted.save_pretrained(tmp_path / "adapter")
    foundation.rename(tmp_path / "moved")
    with pytest.raises(OSError, match="foundation"):
        loader.from_pretrained(tmp_path / "adapter")
    model = loader.from_pretrained(tmp_path / "adapter", backbone_name_or_path=str(tmp_path / "moved"))
    assert torch.equal(predict(model), predict(adapted))


def test_another_base_is_refused(adapted, tmp_path, predict):
    adapted.save_pretrained(tmp_path / "adapter")
    torch.manual_seed(9)
    other = Dinov2Config(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, patch_size=14, image_size=70)
    Dinov2Model(other).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="are not the ones that the adapter.*ignore_base_mismatch=True"):
        VFMSegForSemanticSegmentation.from_pretrained(
            tmp_path / "adapter", backbone_name_or_path=str(tmp_path / "other")
        )
    model = VFMSegForSemanticSegmentation.from_pretrained(
        tmp_path / "adapter", backbone_name_or_path=str(tmp_path / "other"), ignore_base_mismatch=True
    )
    assert not torch.allclose(predict(model), predict(adapted))
    other.num_hidden_layers = 5
    Dinov2Model(other).save_pretrained(tmp_path / "deeper")
    with pytest.raises(ValueError, match="num_hidden_layers=5, but the encoder of this checkpoint has 4"):
        VFMSegForSemanticSegmentation.from_pretrained(
            tmp_path / "adapter", backbone_name_or_path=str(tmp_path / "deeper")
        )


def test_bfloat16_base_has_the_same_fingerprint(adapted, foundation, tmp_path):
    adapted.save_pretrained(tmp_path / "adapter")
    Dinov2Model.from_pretrained(foundation).to(torch.bfloat16).save_pretrained(tmp_path / "bf16")
    VFMSegForSemanticSegmentation.from_pretrained(
        tmp_path / "adapter", backbone_name_or_path=str(tmp_path / "bf16"), dtype=torch.bfloat16
    )


def test_adapter_without_a_named_base_says_so(tiny_model, tmp_path, loading_log):
    model = tiny_model()
    model.add_adapter(lora_config(model.config, r=2))
    model.save_pretrained(tmp_path)
    assert "in no file that is known" in loading_log.text
    with pytest.raises(ValueError, match="does not name the weights.*backbone_name_or_path"):
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path)


def test_adapter_on_a_whole_model(tiny_model, tmp_path, predict):
    """LoRA on a published model, say: its directory is the base, the adapter brings new heads."""
    tiny_model().save_pretrained(tmp_path / "published")
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "published")
    model.add_adapter(lora_config(model.config, r=2))
    randomise_lora(model).save_pretrained(tmp_path / "adapter")
    assert torch.equal(predict(AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "adapter")), predict(model))


def test_a_continued_adapter_keeps_its_base(adapted, foundation, tmp_path, predict, monkeypatch):
    """Also where the first checkpoint had its base beside it."""
    adapted.adapter_base = "base"
    adapted.save_pretrained(tmp_path / "first")
    foundation.rename(tmp_path / "first" / "base")
    monkeypatch.chdir(tmp_path)
    model = VFMSegForSemanticSegmentation.from_pretrained("first", is_trainable=True)
    model.save_pretrained(tmp_path / "elsewhere" / "second")
    monkeypatch.chdir("/")
    again = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "elsewhere" / "second")
    assert torch.equal(predict(again), predict(adapted))


def test_half_precision_adapter(adapted, tmp_path, image):
    adapted.save_pretrained(tmp_path)
    model = VFMSegForSemanticSegmentation.from_pretrained(tmp_path, dtype=torch.float16)
    assert model.dtype == torch.float16
    with torch.no_grad():
        assert model(image.half(), refine="all").logits.isfinite().all()


def test_arguments_of_from_pretrained_on_an_adapter(adapted, tmp_path, predict):
    adapted.save_pretrained(tmp_path)
    model, info = VFMSegForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert VFMSegForSemanticSegmentation.from_pretrained(tmp_path, dtype="auto").dtype == torch.float32
    config = VFMSegConfig.from_pretrained(tmp_path, confidence_threshold=0.5)
    model = VFMSegForSemanticSegmentation.from_pretrained(
        tmp_path, config=config, backbone_name_or_path=config.backbone_name_or_path, attn_implementation="eager"
    )
    assert model.config.confidence_threshold == 0.5 and model.config._attn_implementation == "eager"
    assert disagreement(predict(model), predict(adapted), tolerance=1e-5) <= 1
    encoder, _ = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(encoder) is VFMSegModel and any(".lora_A." in name for name, _ in encoder.named_parameters())


def test_every_argument_works_on_an_adapter_or_is_refused(adapted, tmp_path, predict):
    adapted.save_pretrained(tmp_path)
    expected = predict(adapted)
    nothing = {"state_dict": None, "key_mapping": None, "variant": None, "gguf_file": None, "tp_plan": None}
    for arguments in (
        nothing,
        {"use_safetensors": True, "weights_only": True, "low_cpu_mem_usage": True},
        {"device_map": "cpu", "max_memory": {"cpu": 10**9}},
    ):
        assert torch.equal(predict(VFMSegForSemanticSegmentation.from_pretrained(tmp_path, **arguments)), expected)
    for name in nothing:
        with pytest.raises(ValueError, match=f"^{name} cannot be used on .*adapter only"):
            VFMSegModel.from_pretrained(tmp_path, **{name: {"a": "b"}})
    with pytest.raises(TypeError, match="by name only"):
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path, 3)
    with pytest.raises(ValueError, match="GPTQConfig has no list of modules to leave out"):
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ValueError, match="needs its base in memory, but device_map and max_memory have offloaded"):
        VFMSegForSemanticSegmentation.from_pretrained(
            tmp_path, device_map="auto", max_memory={"cpu": 100_000}, offload_folder=tmp_path / "disk"
        )


def test_safetensors_alone_are_asked_of_the_base_too(adapted, foundation, tmp_path):
    adapted.save_pretrained(tmp_path / "adapter")
    torch.save(load_file(foundation / "model.safetensors"), foundation / "pytorch_model.bin")
    (foundation / "model.safetensors").unlink()
    VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "adapter")
    with pytest.raises(OSError, match="safetensors"):
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "adapter", use_safetensors=True)


@pytest.mark.parametrize(
    "config",
    [
        partial(LoraConfig, r=2, use_dora=True),
        partial(LoraConfig, r=2, use_rslora=True),
        partial(LoHaConfig, r=2),
        partial(IA3Config, feedforward_modules=[]),
    ],
    ids=["DoRA", "rsLoRA", "LoHa", "IA3"],
)
def test_adapters_of_other_kinds(config, foundation, tmp_path, predict):
    model = from_foundation(foundation)
    model.add_adapter(
        config(target_modules=r"model\.encoder\..*\.q_proj", modules_to_save=["coarse_head", "refine_head"])
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    assert torch.equal(predict(VFMSegForSemanticSegmentation.from_pretrained(tmp_path)), predict(model))
    weights = load_file(tmp_path / "adapter_model.safetensors")
    gone = next(key for key in weights if "q_proj" in key)
    save_file({key: value for key, value in weights.items() if key != gone}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="does not fit the model: missing.*q_proj"):
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"modules_to_save": None}, "does not hold coarse_head and refine_head.*lora_config"),
        ({"modules_to_save": ["coarse_head"]}, "does not hold refine_head"),
        ({"bias": "lora_only"}, "trains biases.*merge_and_unload"),
    ],
)
def test_adapters_that_could_not_be_loaded_are_not_saved(settings, message, foundation, tmp_path):
    model = from_foundation(foundation)
    model.add_adapter(
        LoraConfig(**{"target_modules": ["q_proj"], "modules_to_save": ["coarse_head", "refine_head"], **settings})
    )
    with pytest.raises(ValueError, match=message):
        model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_trained_whole_model_is_not_taken_for_its_file(tiny_model, tmp_path, predict):
    tiny_model().save_pretrained(tmp_path / "A")
    model = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "A")
    model.get_parameter("model.encoder.encoder.layer.0.norm1.weight").data.add_(0.1)
    model.add_adapter(lora_config(model.config, r=2))
    with pytest.raises(ValueError, match="has been trained since it was loaded from .*A'"):
        model.save_pretrained(tmp_path / "adapter")
    half = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "A", dtype=torch.float16)
    half.add_adapter(lora_config(half.config, r=2))
    half.save_pretrained(tmp_path / "half")
    VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "half")


def test_a_base_in_a_subfolder(tiny_model, tmp_path, predict):
    tiny_model().save_pretrained(tmp_path / "models" / "small")
    model = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "models", subfolder="small")
    model.add_adapter(lora_config(model.config, r=2))
    randomise_lora(model).save_pretrained(tmp_path / "adapter")
    assert torch.equal(predict(VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "adapter")), predict(model))


def test_a_base_beside_the_adapter_moves_with_it(adapted, foundation, tmp_path, predict):
    (tmp_path / "out").mkdir()
    foundation.rename(tmp_path / "out" / "base")
    adapted.adapter_base = str(tmp_path / "out" / "base")
    adapted.save_pretrained(tmp_path / "out")
    model = VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "out", is_trainable=True)
    model.save_pretrained(tmp_path / "out")  # trained on in place
    (tmp_path / "out").rename(tmp_path / "moved")
    assert torch.equal(predict(VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "moved")), predict(adapted))


def test_an_absent_hub_base_is_named(adapted, tmp_path):
    adapted.adapter_base = "nobody/nothing"
    adapted.save_pretrained(tmp_path)
    with pytest.raises(OSError, match="the base 'nobody/nothing' of the adapter .* could not be loaded"):
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path)


def test_auto_classes_do_not_take_the_base_for_the_adapter(tiny_model, tmp_path):
    """What they would pass for an adapter on the Hub."""
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"VFMSegForSemanticSegmentation.from_pretrained\('user/adapter'\)"):
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path, adapter_kwargs={"_adapter_model_path": "user/adapter"})


def test_a_trained_encoder_is_not_saved_as_an_adapter(adapted, tmp_path):
    adapted.get_parameter("model.encoder.encoder.layer.0.norm1.weight").data.add_(0.1)
    with pytest.raises(ValueError, match="has been trained since it was loaded"):
        adapted.save_pretrained(tmp_path / "adapter")


def test_the_two_forms_do_not_share_a_directory(adapted, tiny_model, tmp_path):
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="holds an adapter; save the whole model elsewhere"):
        tiny_model().save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="holds an adapter"):
        tiny_model().model.save_pretrained(tmp_path / "adapter")
    tiny_model().save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="holds a whole model"):
        adapted.save_pretrained(tmp_path / "whole")


def test_a_failed_save_leaves_the_earlier_adapter(adapted, tmp_path, monkeypatch, predict):
    adapted.save_pretrained(tmp_path)
    expected = predict(adapted)
    adapted.coarse_head.classifier.bias.data.add_(1)

    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(LoraConfig, "save_pretrained", full_disk)
    with pytest.raises(OSError, match="no space"):
        adapted.save_pretrained(tmp_path)
    monkeypatch.undo()
    assert len(list(tmp_path.glob("*adapter*"))) == 2 and not (tmp_path / ".adapter.part").exists()
    assert torch.equal(predict(VFMSegForSemanticSegmentation.from_pretrained(tmp_path)), expected)


def test_other_processes_write_nothing(adapted, tiny_model, tmp_path):
    adapted.save_pretrained(tmp_path / "adapter", is_main_process=False)
    assert not (tmp_path / "adapter").exists()


def test_merging_refuses_weights_that_are_not_finite(adapted):
    adapted.get_parameter("model.encoder.encoder.layer.0.attention.q_proj.lora_B.default.weight").data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"(?i)nan"):
        adapted.merge_and_unload()


def test_the_inside_of_a_peft_model_is_not_saved_as_a_whole_model(foundation, tmp_path):
    model = from_foundation(foundation)
    wrapped = get_peft_model(model, lora_config(model.config, r=2))
    with pytest.raises(ValueError, match=r"peft's layers are in this model.*save_adapter"):
        wrapped.get_base_model().save_pretrained(tmp_path / "inside")
    wrapped.save_pretrained(tmp_path / "by peft")
    with pytest.raises(OSError, match="holds an adapter without config.json.*PeftModel.from_pretrained"):
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path / "by peft")


def test_damaged_adapter(adapted, tmp_path):
    adapted.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    gone = next(key for key in weights if "lora_A" in key)
    save_file({key: value for key, value in weights.items() if key != gone}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="does not fit the model: missing.*lora_A"):
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path)


def test_adapter_with_other_classes(adapted, tmp_path):
    adapted.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="ignore_mismatched_sizes=True beside num_labels"):
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path, num_labels=3)
    with pytest.warns(UserWarning, match="classifier.weight: found shape"):
        model = VFMSegForSemanticSegmentation.from_pretrained(
            tmp_path, num_labels=3, ignore_mismatched_sizes=True, is_trainable=True
        )
    assert model.num_labels == 3
    name = "model.encoder.encoder.layer.0.attention.q_proj.lora_B.default.weight"
    assert torch.equal(model.get_parameter(name), adapted.get_parameter(name))


# ------------------------------------------------------------------------------------------------ refusals


def test_directory_without_config(tmp_path):
    for loader in (VFMSegForSemanticSegmentation, AutoModelForSemanticSegmentation):
        with pytest.raises((OSError, ValueError), match=r"config\.json"):
            loader.from_pretrained(tmp_path)


@pytest.mark.parametrize("path", ["/no/such/model", "./no-model", "no/such/model"])
def test_absent_directories_are_not_sought_on_the_hub(path):
    with pytest.raises(OSError, match=f"there is no directory '{path}'"):
        VFMSegForSemanticSegmentation.from_pretrained(path)


def test_checkpoint_of_another_architecture(tmp_path):
    SegformerConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="configuration of a 'segformer' model, not of 'vfmseg'"):
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path)


def test_weights_of_another_architecture(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    save_file({"decoder.weight": torch.zeros(3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="hold no tensor of the encoder"):
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path)


def test_unknown_backbone_type_in_a_checkpoint(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    saved["backbone_config"]["model_type"] = "dinov99"
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(ValueError, match="unknown model_type 'dinov99'"):
        AutoModelForSemanticSegmentation.from_pretrained(tmp_path)


def test_foundation_model_of_an_unknown_type(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "dinov99"}')
    with pytest.raises(ValueError, match="dinov99"):
        VFMSegForSemanticSegmentation.from_backbone(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(ValueError, match="'resnet' is not a supported encoder"):
        VFMSegForSemanticSegmentation.from_backbone(tmp_path)


def test_a_pickle_with_code_is_not_run(tiny_model, tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"model.encoder.embeddings.cls_token": Payload()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.only|unpickl|safe"):
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_truncated_weights(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(OSError, match="damaged or truncated.*incomplete"):
        VFMSegForSemanticSegmentation.from_pretrained(tmp_path)


def test_config_of_a_saved_adapter_is_complete(adapted, tmp_path):
    adapted.save_pretrained(tmp_path)
    config = VFMSegConfig.from_pretrained(tmp_path)
    assert len(config.backbone_fingerprint) == 64 and config.backbone_config.patch_size == 16
    assert config.architectures == ["VFMSegForSemanticSegmentation"]
