# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Two gloo processes against one: the same losses, weights and scores; interrupted runs end as uninterrupted ones."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers.trainer_utils import get_last_checkpoint

from tests.support import training_job
from tests.support.processes import Fork, run_distributed
from vfmseg_hf.training.distributed import has_unused_parameters, synchronise_batch_norm
from vfmseg_hf.training.model import choose_trained_part


def run_jobs(*jobs: dict, processes: int = 1) -> subprocess.CompletedProcess:
    """The jobs one after the other, in one process or in several that work together."""
    if processes == 1:
        return Fork(lambda: training_job.run_all(jobs)).wait()
    return run_distributed(lambda: training_job.run_all(jobs), processes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*model.safetensors")
    return load_file(file)


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("lora", [True, False])
def test_two_processes_are_one(lora, tmp_path):
    """
    Losses and weights over 20 steps, to 1e-5, for the same global batch: batch norm frozen, no dropout, no masking, and
    every image labelled as a whole. Scores of sets that do not divide by two are equal exactly.

    Weights are compared under plain SGD too: AdamW makes whole steps out of the rounding noise in the gradients of
    biases that the next norm, or the softmax over keys, cancels.
    """
    job = {"lora": lora, "steps": 20, "images": 8, "exact": True, "score": True, "save_strategy": "no"}
    jobs = {"adamw": job, "sgd": {**job, "optim": "sgd", "score": False}}
    done = run_jobs(
        *({**job, "output_dir": str(tmp_path / "two" / name), "batch_size": 2} for name, job in jobs.items()),
        processes=2,
    )
    assert done.returncode == 0, done.stderr
    for name, job in jobs.items():
        training_job.run(**job, output_dir=str(tmp_path / "one" / name), batch_size=4)
        one, two = (tmp_path / kind / name for kind in ("one", "two"))
        losses = torch.tensor(result(one)["losses"])
        torch.testing.assert_close(torch.tensor(result(two)["losses"]), losses, atol=1e-5, rtol=1e-5)
        assert losses.shape == (20, 3) and losses[-5:, 0].mean() < losses[:5, 0].mean()
        expected, actual = weights(one / "final"), weights(two / "final")
        cancelled = {"adamw": ("k_proj.bias", "conv1.bias", "conv2.bias")}.get(name, ())
        compared = [key for key in expected if not key.endswith(cancelled)] if cancelled else list(expected)
        torch.testing.assert_close(
            {k: actual[k] for k in compared}, {k: expected[k] for k in compared}, atol=1e-5, rtol=0
        )
    timing = ("_runtime", "_per_second", "_time")
    one, two = (result(tmp_path / kind / "adamw")["scores"] for kind in ("one", "two"))
    assert all(two[key] == value for key, value in one.items() if not key.endswith(timing))
    assert 0 < one["eval_mixed_refined"] and one.keys() == two.keys()
    assert "stays local" in done.stderr


WORKERS = {"dataloader_num_workers": 2, "images": 8, "steps": 8}  # two epochs of four steps


def test_killed_while_saving_in_two_processes(tmp_path):
    """`kill -9` in the second epoch, in the middle of a checkpoint; LoRA, and everything with averaged weights."""
    jobs = {
        "lora": {**WORKERS, "lora": True, "batch_size": 1},
        "full": {**WORKERS, "batch_size": 1, "ema_decay": 0.5, "gradient_checkpointing": True},
    }
    done = run_jobs(*({**job, "output_dir": str(tmp_path / "whole" / name)} for name, job in jobs.items()), processes=2)
    assert done.returncode == 0, done.stderr
    for name, job in jobs.items():
        folder = tmp_path / "run" / name
        killed = run_jobs({**job, "output_dir": str(folder), "kill_while_saving": 6}, processes=2)
        assert killed.returncode != 0 and list(folder.glob("_unfinished/checkpoint-6/*model.safetensors"))
        assert Path(get_last_checkpoint(str(folder))).name == "checkpoint-5"
    resumed = [{**job, "output_dir": str(tmp_path / "run" / name), "resume": True} for name, job in jobs.items()]
    done = run_jobs(*resumed, processes=2)
    assert done.returncode == 0, done.stderr
    for name in jobs:
        whole, run = (tmp_path / kind / name for kind in ("whole", "run"))
        expected, actual = weights(whole / "final"), weights(run / "final")
        assert expected.keys() == actual.keys() and all(torch.equal(expected[key], actual[key]) for key in expected)
        assert result(whole)["losses"] == result(run)["losses"]
        assert not (run / "_unfinished").exists()
        assert result(whole)["unused"] == (name == "full"), "DDP looks for weights without gradient only where some are"


@pytest.mark.parametrize("lora", [True, False])
def test_killed_while_saving(lora, tmp_path):
    job = {**WORKERS, "lora": lora, "batch_size": 2}
    training_job.run(**job, output_dir=str(tmp_path / "whole"))
    killed = run_jobs({**job, "output_dir": str(tmp_path / "run"), "kill_while_saving": 6})
    assert killed.returncode == -9
    assert Path(get_last_checkpoint(str(tmp_path / "run"))).name == "checkpoint-5"
    training_job.run(**job, output_dir=str(tmp_path / "run"), resume=True)
    expected, actual = (weights(tmp_path / kind / "final") for kind in ("whole", "run"))
    assert expected.keys() == actual.keys() and all(torch.equal(expected[key], actual[key]) for key in expected)
    assert result(tmp_path / "whole")["losses"] == result(tmp_path / "run")["losses"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_of_two_processes(number, tmp_path):
    """Both stop after the same step, with a checkpoint that leads to the same weights."""
    job = {"lora": True, "images": 8, "steps": 4, "batch_size": 1, "save_steps": 100}
    done = run_jobs(
        {**job, "output_dir": str(tmp_path / "whole")},
        {**job, "output_dir": str(tmp_path / "run"), "stop_at": 1, "stop_by": int(number)},
        {**job, "output_dir": str(tmp_path / "run"), "resume": True},
        processes=2,
    )
    assert done.returncode == 0, done.stderr
    assert f"{number.name}: saving a checkpoint at step 2" in done.stderr
    assert (tmp_path / "run" / "checkpoint-2").is_dir()
    expected, actual = (weights(tmp_path / kind / "final") for kind in ("whole", "run"))
    assert all(torch.equal(expected[key], actual[key]) for key in expected)


def test_the_best_model_is_loaded_by_every_process(tmp_path):
    job = {"steps": 3, "batch_size": 1, "eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    # The lowest, so that it is not just the last step; of what all processes have alike, as their times are not.
    job |= {"greater_is_better": False, "metric_for_best_model": "eval_mixed_mean_iou"}
    jobs = [{**job, "lora": lora, "output_dir": str(tmp_path / f"{lora}")} for lora in (True, False)]
    done = run_jobs(*jobs, processes=2)
    assert done.returncode == 0, done.stderr
    for lora in ("True", "False"):
        first, second = (json.loads((tmp_path / lora / f"rank{rank}.json").read_text()) for rank in (0, 1))
        assert first == second and first["best"].endswith(f"{lora}/checkpoint-{first['step']}")
        assert first["step"] < 3
        record = json.loads((tmp_path / lora / "final" / "recipe.json").read_text())
        assert record["run"]["step"] == first["step"] and record["run"]["processes"] == 2
        expected = weights(tmp_path / lora / f"checkpoint-{first['step']}")
        actual = weights(tmp_path / lora / "final")
        assert all(torch.equal(expected[key], actual[key]) for key in expected)


def test_sharded_weights(tmp_path):
    """FSDP 2: the weights of one process after SGD, saved as an adapter."""
    job = {"lora": True, "steps": 4, "images": 8, "exact": True, "optim": "sgd", "save_strategy": "no"}
    sharded = {"batch_size": 2, "fsdp": "full_shard", "fsdp_config": {"version": 2}}
    done = run_jobs({**job, **sharded, "output_dir": str(tmp_path / "two")}, processes=2)
    assert done.returncode == 0, done.stderr
    training_job.run(**job, output_dir=str(tmp_path / "one"), batch_size=4)
    one, two = (weights(tmp_path / kind / "final") for kind in ("one", "two"))
    torch.testing.assert_close(two, one, atol=1e-6, rtol=0)


def test_batch_norm_of_accelerators_is_synchronised(tiny_model):
    model = tiny_model()
    names = list(model.state_dict())
    synchronise_batch_norm(model, torch.device("cpu"))
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    synchronise_batch_norm(model, torch.device("cuda"))
    assert isinstance(model.coarse_head.upsample_norm, nn.SyncBatchNorm) and list(model.state_dict()) == names


@pytest.mark.parametrize("tune, ratio, unused", [("lora", 0.2, 0), ("heads", 0.2, 0), ("full", 0.2, 1), ("lora", 0, 1)])
def test_which_weights_no_loss_reaches(tune, ratio, unused, tiny_model):
    """Against a backward pass."""
    model = tiny_model(feature_mask_ratio=ratio)
    choose_trained_part(model, tune)
    model.train()
    model(torch.randn(2, 3, 64, 64), labels=torch.zeros(2, 64, 64, dtype=torch.long)).loss.backward()
    missing = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert has_unused_parameters(model) == bool(missing) == unused


def test_a_refine_head_whose_loss_does_not_count_gets_no_gradient(tiny_model):
    model = tiny_model(detail_loss_weight=0).train().requires_grad_(False)
    for head in (model.coarse_head, model.refine_head):
        head.requires_grad_(True)
    model(torch.randn(2, 3, 64, 64), labels=torch.zeros(2, 64, 64, dtype=torch.long)).loss.backward()
    assert all(weight.grad is None for weight in model.refine_head.parameters())
    assert has_unused_parameters(model)
    model.refine_head.requires_grad_(False)
    assert not has_unused_parameters(model)
