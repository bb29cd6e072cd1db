# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""LoRA on the encoder through peft: what is adapted, merging it, and checkpoints that hold the adapter only.

An adapter-only checkpoint is a peft adapter (LoRA factors and both heads) next to the model's `config.json`, which
names the weights underneath, a foundation model or a whole VFMSeg model, and holds their fingerprint.

peft is imported where it is used: a merged model, shared with its code on the Hub, does not need it.
"""

import copy
import os
import re
import shutil
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
    logging,
)

from .configuration_vfmseg import VFMSegConfig
from .encoders import get_encoder_family
from .foundation import (
    ENCODER_PREFIX,
    HEADS,
    build_on_backbone,
    encoder_weights,
    fingerprint,
    load_foundation,
    pop_hub_kwargs,
)
from .protocols import AdaptableModel
from .quantised_weights import check_is_not_packed, has_quantised_weights, layer_without_gradient, leave_heads_out
from .records import OPTIONAL_FILE, carry_record


if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig, PeftModel

logger = logging.get_logger(__name__)

PEFT_PREFIX = "base_model.model."
WHOLE_MODEL_FILES = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
# Arguments of from_pretrained that mean nothing, or nothing yet, where a base and an adapter are loaded.
OF_WHOLE_MODELS = ("state_dict", "key_mapping", "variant", "gguf_file", "fusion_config")
OF_WHOLE_MODELS += ("distributed_config", "device_mesh", "tp_plan", "tp_size")
LORA_FIELDS = ("r", "lora_alpha", "lora_dropout", "use_dora", "init_lora_weights")  # called so by peft too
LORA_TARGETS = ("default", "all-linear")
LORA_STARTS = (True, "gaussian", "mica")


def lora_config(
    config: VFMSegConfig,
    r: int = 32,
    lora_alpha: int = 32,
    lora_dropout: float = 0.1,
    targets: Iterable[str] | str = "default",
    use_dora: bool = False,
    init_lora_weights: bool | str = True,
    frozen_share: float = 0.0,
) -> "LoraConfig":
    """
    The paper's LoRA: rank and alpha 32 on the encoder's default targets, both heads trained in full.

    Use it as `model.add_adapter(lora_config(model.config))` or `get_peft_model(model, lora_config(model.config))`.
    The target pattern is anchored on the encoder, so that it never adapts a head.

    Args:
        config: the model's configuration; it decides the targets.
        r, lora_alpha: rank and scale; the update is (lora_alpha / r) B A.
        lora_dropout: dropout on the input of A.
        targets: `"default"`: the encoder family's; `"all-linear"`: every linear layer in the encoder's blocks; or ends
            of the adapted layers' names inside the encoder.
        use_dora: DoRA (Liu et al. 2024): the norms of a weight's rows are trained beside its direction.
        init_lora_weights: how A and B start. `True`: A random, B zero; `"gaussian"`: likewise, A normal with standard
            deviation 1 / r; `"mica"`: the columns of B are the left singular vectors of the layer's r smallest singular
            values, which do not train, and A is zero (peft's MiCA, after SoMA, Yun et al. 2025, which trains both).
        frozen_share: share of the encoder's first blocks that have no LoRA, in [0, 1), rounded to whole blocks; the
            last block always has it. A third of 12 blocks are the first 4.

    Raises:
        ValueError: on values outside their ranges, on what does not go together or could not be saved as an adapter,
            or names of targets that the encoder does not have.
    """
    from peft import LoraConfig

    own = {"r": r, "lora_alpha": lora_alpha, "lora_dropout": lora_dropout}
    own |= {"use_dora": use_dora, "init_lora_weights": init_lora_weights}
    check_lora(**own, frozen_share=frozen_share)
    if targets not in LORA_TARGETS:
        targets = [targets] if isinstance(targets, str) else list(targets)
        check_target_names(config, targets)
    return LoraConfig(
        **own,
        target_modules=target_pattern(config, targets),
        exclude_modules=frozen_pattern(config, frozen_share),
        modules_to_save=list(HEADS),
    )


def check_lora(
    r: int,
    lora_alpha: float,
    lora_dropout: float,
    use_dora: bool,
    init_lora_weights: bool | str,
    frozen_share: float,
) -> None:
    """Raises as [`lora_config`] for what can be known without the encoder."""
    if not r >= 1:
        raise ValueError(f"LoRA's rank r must be 1 or more, got {r}")
    if not lora_alpha > 0:
        raise ValueError(f"lora_alpha must be above 0, got {lora_alpha}")
    if not 0 <= lora_dropout < 1:
        raise ValueError(f"lora_dropout must lie in [0, 1), got {lora_dropout}")
    if not 0 <= frozen_share < 1:
        raise ValueError(f"frozen_share, a share of the encoder's blocks, must lie in [0, 1), got {frozen_share}")
    if init_lora_weights not in LORA_STARTS:
        raise ValueError(
            f"init_lora_weights={init_lora_weights!r} is not supported, only {', '.join(map(str, LORA_STARTS))}: "
            "others change the weights under the adapter, need data, or quantise"
        )
    if use_dora and init_lora_weights == "mica":
        raise ValueError(
            "use_dora does not go with init_lora_weights='mica', which peft has for plain LoRA; use one of them "
            "(init_lora_weights true, or no use_dora)"
        )


def check_target_names(config: VFMSegConfig, names: list[str]) -> None:
    """Raise a `ValueError` for names that no layer of the encoder ends with, or if there are none."""
    if not names:
        raise ValueError("LoRA needs targets: 'default', 'all-linear', or names of the encoder's layers")
    encoder = encoder_without_weights(config)
    layers = [f".{name}" for name, module in encoder.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    for name in names:
        if not any(layer.endswith(f".{name}") for layer in layers):
            known = sorted({layer.rpartition(".")[2] for layer in layers} - {""})
            raise ValueError(
                f"the encoder has no layer {name!r} for LoRA; its layers are called {', '.join(known)}, and 'default' "
                "and 'all-linear' choose among them"
            )


def encoder_without_weights(config: VFMSegConfig) -> nn.Module:
    """The encoder's modules, on the meta device; torch's generator is left as it is."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return get_encoder_family(config.backbone_config).build(config.backbone_config)


def names_of_blocks(config: VFMSegConfig, encoder: nn.Module) -> list[str]:
    """Names of the encoder's blocks inside it, in order."""
    names = {module: name for name, module in encoder.named_modules()}
    return [names[block] for block in get_encoder_family(config.backbone_config).blocks(encoder)]


def pattern_of_blocks(blocks: list[str]) -> str:
    """The beginning of a regular expression for the names of what is inside these blocks."""
    place = re.escape(ENCODER_PREFIX + blocks[0].rpartition(".")[0])
    return rf"{place}\.({'|'.join(name.rpartition('.')[2] for name in blocks)})\."


def target_pattern(config: VFMSegConfig, targets: Iterable[str] | str) -> str:
    """The regular expression for the names of the layers that are adapted; `targets` as of [`lora_config`]."""
    if targets == "all-linear":
        encoder = encoder_without_weights(config)
        blocks = names_of_blocks(config, encoder)
        layers = {
            name: None  # in their order
            for block in blocks
            for name, module in encoder.get_submodule(block).named_modules()
            if isinstance(module, nn.Linear)
        }
        return f"{pattern_of_blocks(blocks)}({'|'.join(map(re.escape, layers))})"
    names = get_encoder_family(config.backbone_config).lora_targets if targets == "default" else targets
    return rf"{re.escape(ENCODER_PREFIX)}.*\.({'|'.join(map(re.escape, names))})"


def frozen_blocks(config: VFMSegConfig, share: float) -> int:
    """How many of the encoder's first blocks have no LoRA, by `frozen_share` of [`lora_config`]."""
    depth = get_encoder_family(config.backbone_config).depth(config.backbone_config)
    return min(round(share * depth), depth - 1)


def frozen_pattern(config: VFMSegConfig, share: float) -> str | None:
    """The regular expression for the names of what is inside the blocks without LoRA; None if all have it."""
    if not (count := frozen_blocks(config, share)):
        return None
    return pattern_of_blocks(names_of_blocks(config, encoder_without_weights(config))[:count]) + ".*"


def lora_arguments(lora: "PeftConfig", config: VFMSegConfig) -> dict[str, object]:
    """
    The arguments of [`lora_config`] that peft's configuration of an adapter comes from.

    What does not come from it is told in peft's words: `targets` that are no name of a choice by `target_modules`,
    blocks without LoRA by `exclude_modules`. `frozen_share` is that of whole blocks.
    """
    found = {name: getattr(lora, name, None) for name in LORA_FIELDS}
    targets, excluded = getattr(lora, "target_modules", None), getattr(lora, "exclude_modules", None)
    if isinstance(targets, str):
        targets = next((name for name in LORA_TARGETS if target_pattern(config, name) == targets), targets)
    elif targets is not None:
        targets = sorted(targets)
    frozen = 0.0 if excluded is None else excluded if isinstance(excluded, str) else sorted(excluded)
    if isinstance(frozen, str):
        blocks = names_of_blocks(config, encoder_without_weights(config))
        shares = {pattern_of_blocks(blocks[:count]) + ".*": count / len(blocks) for count in range(1, len(blocks))}
        frozen = shares.get(frozen, frozen)
    return {**found, "targets": targets, "frozen_share": frozen}


def read_adapter_config(name_or_path: str | os.PathLike, **hub_kwargs) -> "PeftConfig":
    """peft's configuration of the adapter in a directory or Hub repository."""
    from peft import PeftConfig

    path = cached_file(name_or_path, ADAPTER_CONFIG_NAME, **hub_kwargs)
    return PeftConfig.from_pretrained(os.path.dirname(path))


def check_same_lora(model: AdaptableModel, checkpoint: str | os.PathLike) -> None:
    """Raise a `ValueError` unless a checkpoint's adapter was made with the arguments of the attached one."""
    now = lora_arguments(model.peft_config[model.active_adapters()[0]], model.config)
    before = lora_arguments(read_adapter_config(checkpoint), model.config)
    for name, value in now.items():
        if value != before[name]:
            raise ValueError(
                f"{checkpoint} was trained with LoRA's {name}={before[name]!r}, this run has {value!r}; resume with "
                "the same arguments"
            )


def merge_lora(model: AdaptableModel) -> None:
    """
    Fold every attached LoRA into the weights it adapts and take peft's wrappers off, in place.

    Weights that are quantised are so again afterwards, and rounded once more; they do not train.

    Raises:
        ValueError: if the model has no adapter, a merged weight is not finite, or peft cannot merge into weights that
            are quantised in this way.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    if not getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError("the model has no adapter to merge; attach one with add_adapter or load one first")
    check_is_not_packed(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            try:
                module.merge(safe_merge=True)
            except (NotImplementedError, TypeError, RuntimeError, ValueError) as error:
                if not has_quantised_weights(model.model.encoder):
                    raise
                raise ValueError(
                    f"peft cannot merge the adapter into quantised weights of this kind ({error}); save the adapter, "
                    "load it without quantization_config, so that its base has full precision, and merge it there"
                ) from error
            plain = module.get_base_layer()
        elif isinstance(module, ModulesToSaveWrapper):
            plain = module.modules_to_save[module.active_adapters[0]]
        else:
            continue
        model.set_submodule(name, plain)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    del model.peft_config
    model._hf_peft_config_loaded = False
    model.adapter_base = model.adapter_base_fingerprint = None  # these weights are in no file yet


def save_adapter(
    model: "AdaptableModel | PeftModel",
    save_directory: str | os.PathLike,
    state_dict: dict[str, torch.Tensor] | None = None,
) -> None:
    """
    Write an adapter-only checkpoint: `config.json`, `adapter_config.json` and `adapter_model.safetensors`.

    Args:
        model: a model with one active LoRA, attached by `add_adapter` or by `peft.get_peft_model`.
        save_directory: made where it is missing; an earlier adapter in it is replaced once all files are written.
        state_dict: the model's tensors, if it cannot be asked for them itself (distributed training).

    Raises:
        ValueError: if the adapter could not be loaded again: without the heads, with trained biases, on an encoder
            that is no longer what its base says, or in the directory of a whole model.
    """
    if whole := [name for name in WHOLE_MODEL_FILES if os.path.exists(os.path.join(save_directory, name))]:
        raise ValueError(f"{str(save_directory)!r} holds a whole model ({whole[0]}); save the adapter elsewhere")
    peft_config, weights = adapter_to_save(model, state_dict)
    model = without_peft(model)
    config = copy.deepcopy(model.config)
    config.backbone_fingerprint = base_fingerprint(model)
    config.backbone_name_or_path = base = name_seen_from(save_directory, model.adapter_base)
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.architectures = [type(model).__name__]
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # of this process's copy of the base: whoever loads the adapter says anew
    peft_config.base_model_name_or_path, peft_config.inference_mode = base, True
    staging = os.path.join(save_directory, ".adapter.part")
    shutil.rmtree(staging, ignore_errors=True)
    os.makedirs(staging)
    try:
        save_file(weights, os.path.join(staging, ADAPTER_SAFE_WEIGHTS_NAME), metadata={"format": "pt"})
        peft_config.save_pretrained(staging)
        config.save_pretrained(staging)
        for name in os.listdir(staging):
            os.replace(os.path.join(staging, name), os.path.join(save_directory, name))
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    carry_record(model.loaded_from, save_directory)


def without_peft(model: "AdaptableModel | PeftModel") -> AdaptableModel:
    """The model inside a `PeftModel`; any other as it is."""
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def adapter_to_save(
    model: "AdaptableModel | PeftModel", state_dict: dict[str, torch.Tensor] | None = None
) -> tuple["PeftConfig", dict[str, torch.Tensor]]:
    """A copy of the active adapter's configuration, and its tensors; arguments and errors as for [`save_adapter`]."""
    names = model.active_adapters() if callable(model.active_adapters) else model.active_adapters
    if len(names) != 1:
        raise ValueError(f"exactly one adapter must be active to be saved, got {names}; call set_adapter first")
    peft_config = copy.deepcopy(model.peft_config[names[0]])
    weights = adapter_weights(model, names[0], state_dict)
    weights = {PEFT_PREFIX + key.removeprefix(PEFT_PREFIX): value.contiguous() for key, value in weights.items()}
    check_adapter_is_complete(peft_config, weights)
    return peft_config, weights


def adapter_weights(
    model: "AdaptableModel | PeftModel", name: str, state_dict: dict[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """The tensors of an adapter, heads included, under peft's names."""
    from peft import get_peft_model_state_dict

    if state_dict is None:
        # Not the model's state_dict(): on a CPU it makes bitsandbytes unpack weights in 4 bits, which loses precision.
        tensors = (*model.named_parameters(), *model.named_buffers())
        state_dict = {key: tensor.detach() for key, tensor in tensors}
    # Without save_embedding_layers=False peft asks the Hub whether the base's vocabulary has changed.
    return get_peft_model_state_dict(model, state_dict, adapter_name=name, save_embedding_layers=False)


def check_result_can_be_loaded(model: nn.Module) -> None:
    """
    Raise a `ValueError` before a training whose adapter could not be saved, or not be loaded by anybody afterwards.

    Models without an adapter, and other models than ours, pass.
    """
    if not hasattr(model, "peft_config"):
        return
    plain = without_peft(model)
    if not hasattr(plain, "adapter_base"):
        return
    if plain.adapter_base is None and plain.adapter_base_fingerprint is None:
        raise ValueError(
            "the weights under this adapter are in no file (random, or merged since they were loaded), so nobody could "
            "load the trained adapter again. Save them first, model.save_pretrained(directory) before add_adapter, and "
            "train VFMSegForSemanticSegmentation.from_pretrained(directory); or train everything (--tune full)"
        )
    if plain is model:  # of a PeftModel, peft's own format is saved
        adapter_to_save(model)
        base_fingerprint(model)


def check_can_be_adapted(model: AdaptableModel, peft_config: "PeftConfig") -> None:
    """Raise a `ValueError` if weights are not in memory, or the heads or the adapter itself could not train."""
    if getattr(model, "hf_device_map", None) and any(weight.is_meta for weight in model.parameters()):
        raise ValueError(
            "an adapter needs its base in memory, but device_map and max_memory have offloaded parts of it: leave them "
            "out, or load the merged model (merge_and_unload() and save_pretrained), which can be offloaded"
        )
    trained = set(getattr(peft_config, "modules_to_save", None) or ()) & set(HEADS)
    if rounded := [name for name in sorted(trained) if has_quantised_weights(model.get_submodule(name))]:
        raise ValueError(
            f"{' and '.join(rounded)} should train but {'is' if len(rounded) == 1 else 'are'} quantised; load the "
            f"model with {list(HEADS)} among the modules that quantization_config leaves out (llm_int8_skip_modules of "
            "BitsAndBytesConfig, modules_to_not_convert of others)"
        )
    if not peft_config.inference_mode and (layer := layer_without_gradient(model.model.encoder)):
        raise ValueError(
            f"no gradient comes back through the quantised layer {layer}, so the adapters before it would not train; "
            "quantise the weights only (Int8WeightOnlyConfig, bitsandbytes), not the activations"
        )
    if getattr(peft_config, "init_lora_weights", None) == "mica" and has_quantised_weights(model.model.encoder):
        raise ValueError(
            "init_lora_weights='mica' needs the singular vectors of the encoder's weights, which are quantised; leave "
            "quantization_config out, or start LoRA in another way (init_lora_weights true)"
        )


def check_adapter_is_complete(peft_config: "PeftConfig", weights: dict[str, torch.Tensor]) -> None:
    """Raise a `ValueError` unless an adapter holds all that differs from its base."""
    missing = [head for head in HEADS if not any(key.startswith(f"{PEFT_PREFIX}{head}.") for key in weights)]
    if missing:
        raise ValueError(
            f"the adapter does not hold {' and '.join(missing)}, so the checkpoint would lose them. Attach LoRA with "
            "lora_config(model.config), or with modules_to_save=['coarse_head', 'refine_head'] in your LoraConfig; or "
            "call merge_and_unload() and save the whole model."
        )
    if getattr(peft_config, "bias", "none") != "none":
        raise ValueError(
            f"LoraConfig(bias={peft_config.bias!r}) trains biases of the frozen encoder, which an adapter-only "
            "checkpoint does not hold; use bias='none', or call merge_and_unload() and save the whole model"
        )


def base_fingerprint(model: AdaptableModel) -> str | None:
    """
    Fingerprint of the weights under the adapter.

    Weights in float16 or fewer bits are rounded differently; they can only be told by the name of their base. `None` if
    that is not known either.

    Raises:
        ValueError: if they are no longer those of the base that the checkpoint will name.
    """
    if model.adapter_base is not None and model.adapter_base_fingerprint is None:
        model.adapter_base_fingerprint = load_foundation(type(model), model.adapter_base, {}).fingerprint
    expected = model.adapter_base_fingerprint
    if model.adapter_base is None:
        logger.warning(
            "The weights under this adapter are in no file that is known, so the checkpoint cannot name its base: pass "
            "backbone_name_or_path=... when you load it, or save the whole model (merge_and_unload) instead."
        )
    if model.dtype == torch.float16 or has_quantised_weights(model.model.encoder):
        return expected
    found = fingerprint(encoder_weights(model), get_encoder_family(model.config.backbone_config))
    if expected is not None and found != expected:
        raise ValueError(
            f"the encoder under the adapter has been trained since it was loaded from {model.adapter_base!r} (or was "
            "rounded, then made float again), so an adapter-only checkpoint could not restore it; call "
            "merge_and_unload() and save the whole model"
        )
    return found


def name_seen_from(directory: str | os.PathLike, base: str | None) -> str | None:
    """A base inside the checkpoint's own directory by its relative path, so that both can be moved together."""
    if base is None or not os.path.isabs(base):
        return base
    relative = os.path.relpath(base, os.path.abspath(directory))
    return base if relative.startswith(os.pardir) else relative


def holds_adapter_only(name_or_path: str | os.PathLike, hub_kwargs: dict[str, object]) -> bool:
    """
    Whether a directory or Hub repository has an adapter but no weights of a whole model.

    Raises:
        OSError: if it has an adapter that peft saved without the model's configuration.
    """

    def has(filename: str) -> bool:
        return cached_file(name_or_path, filename, **OPTIONAL_FILE, **hub_kwargs) is not None

    if not has(ADAPTER_CONFIG_NAME) or any(map(has, WHOLE_MODEL_FILES)):
        return False
    if not has(CONFIG_NAME):
        raise OSError(
            f"{str(name_or_path)!r} holds an adapter without config.json, as PeftModel.save_pretrained writes it. "
            "Save it with vfmseg_hf.save_adapter(peft_model, directory), or load it with PeftModel.from_pretrained("
            "VFMSegForSemanticSegmentation.from_backbone(...), directory)."
        )
    return True


def load_adapter_checkpoint(
    model_class: type[AdaptableModel],
    name_or_path: str | os.PathLike,
    config: VFMSegConfig | str | os.PathLike | None = None,
    is_trainable: bool = False,
    ignore_base_mismatch: bool = False,
    adapter_name: str = "default",
    dtype: torch.dtype | str = "auto",
    **kwargs,
) -> AdaptableModel:
    """
    Build a model on its base and put a saved adapter on it; arguments as for `from_pretrained`.

    Everything is frozen, unless `is_trainable`: then LoRA and both heads train, and nothing else.

    Raises:
        ValueError: if the checkpoint names no base, the base's weights are not those the adapter was trained on, the
            adapter's weights do not fit, or an argument works with whole models only.
    """
    hub_kwargs = pop_hub_kwargs(kwargs)
    for key in ("adapter_kwargs", "trust_remote_code", "_from_auto", "_from_pipeline"):
        kwargs.pop(key, None)
    if refused := [key for key in OF_WHOLE_MODELS if kwargs.pop(key, None) is not None]:
        raise ValueError(
            f"{', '.join(refused)} cannot be used on {str(name_or_path)!r}, which holds an adapter only; load it "
            "without, or save the merged model (merge_and_unload() and save_pretrained) and load that"
        )
    if kwargs.get("quantization_config") is not None:
        kwargs["quantization_config"] = leave_heads_out(kwargs["quantization_config"])
    override = kwargs.pop("backbone_name_or_path", None)
    if not isinstance(config, VFMSegConfig):
        config, kwargs = VFMSegConfig.from_pretrained(
            config or name_or_path, return_unused_kwargs=True, **hub_kwargs, **kwargs
        )
    ignore_mismatched_sizes = kwargs.pop("ignore_mismatched_sizes", False)
    name = str(name_or_path)
    base = find_base(name, hub_kwargs.get("subfolder", ""), override or config.backbone_name_or_path)
    # The base is another repository: what says where in this one, and which version of it, does not apply.
    base_kwargs = {key: value for key, value in hub_kwargs.items() if key not in ("revision", "subfolder")}
    try:
        model = build_on_backbone(model_class, config, base, base_kwargs, dtype=dtype, **kwargs)
    except OSError as error:
        raise OSError(
            f"the base {base!r} of the adapter {name!r} could not be loaded; if it is elsewhere, pass "
            f"backbone_name_or_path=... ({error})"
        ) from error
    found, expected = model.adapter_base_fingerprint, config.backbone_fingerprint
    if expected is not None and found != expected and not ignore_base_mismatch:
        raise ValueError(
            f"the weights in {base!r} are not the ones that the adapter {name!r} was trained on (fingerprint "
            f"{found[:12]} instead of {expected[:12]}). Pass backbone_name_or_path=... of the right model, or "
            "ignore_base_mismatch=True to load the adapter all the same."
        )
    peft_config = read_adapter_config(name, **hub_kwargs)
    peft_config.inference_mode = not is_trainable
    if getattr(peft_config, "init_lora_weights", None) == "mica" and not is_trainable:
        # The singular vectors are in the file: finding them again takes long in a large encoder, and a quantised one
        # does not have them. What else peft does for them is to freeze them.
        peft_config.init_lora_weights = True
        model.add_adapter(peft_config, adapter_name)
        peft_config.init_lora_weights = "mica"
    else:
        model.add_adapter(peft_config, adapter_name)
    read_adapter_weights(model, name, adapter_name, ignore_mismatched_sizes, **hub_kwargs)
    model.eval()
    if not is_trainable:
        model.requires_grad_(False)
    return model


def read_adapter_weights(
    model: AdaptableModel,
    name_or_path: str | os.PathLike,
    adapter_name: str = "default",
    ignore_mismatched_sizes: bool = False,
    **hub_kwargs,
) -> None:
    """
    Fill an attached adapter, LoRA and heads, from an adapter-only checkpoint.

    Raises:
        ValueError: if weights are missing, too many, or of another size.
    """
    from peft import set_peft_model_state_dict

    name = str(name_or_path)
    weights = load_file(cached_file(name, ADAPTER_SAFE_WEIGHTS_NAME, **hub_kwargs))
    check_adapter_is_complete(model.peft_config[adapter_name], weights)
    weights = {key.removeprefix(PEFT_PREFIX): value for key, value in weights.items()}
    try:
        result = set_peft_model_state_dict(
            model, weights, adapter_name, ignore_mismatched_sizes=ignore_mismatched_sizes
        )
    except RuntimeError as error:
        raise ValueError(
            f"the adapter in {name!r} has weights of other sizes than the model; to give it new classes pass "
            f"ignore_mismatched_sizes=True beside num_labels ({error})"
        ) from error
    missing = sorted(adapter_weights(model, adapter_name).keys() - weights.keys())
    if (missing and not ignore_mismatched_sizes) or result.unexpected_keys:
        raise ValueError(
            f"the adapter in {name!r} does not fit the model: missing {missing[:3]}, unexpected "
            f"{result.unexpected_keys[:3]}"
        )


def find_base(checkpoint: str, subfolder: str, base: str | os.PathLike | None) -> str:
    """
    Where the weights under an adapter are: a directory beside it, any other directory, or a Hub id.

    Raises:
        ValueError: if the checkpoint names none.
        OSError: if it names a directory that is not there.
    """
    if base is None:
        raise ValueError(
            f"the adapter-only checkpoint {checkpoint!r} does not name the weights it was trained on; pass "
            "backbone_name_or_path=... (a directory or a Hub id)"
        )
    base = os.fspath(base)
    beside = os.path.join(checkpoint, subfolder, base)
    if os.path.isdir(beside):
        return os.path.abspath(beside)
    if os.path.isdir(base):
        return os.path.abspath(base)
    if os.path.isabs(base) or "/" not in base:
        # A bare name would be looked up on the Hub, where anybody may own it.
        raise OSError(
            f"the base {base!r} of the adapter {checkpoint!r} is neither beside it nor an existing directory; pass "
            "backbone_name_or_path=... where it is"
        )
    return base
