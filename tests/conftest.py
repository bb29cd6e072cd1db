"""Fixtures of all tests: offline, seeded, and `shared` for recordings and data that are not in this repository."""

import logging
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The models are tiny: one thread is as fast as two, and stays fast when other tests keep the cores busy. Processes that
# tests start have it from the environment.
os.environ["OMP_NUM_THREADS"] = "1"
# Tests in other processes may prepare the same datasets, and nothing is left in the home directory.
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="vfmseg-tests-")

import torch
from transformers import set_seed
from transformers.utils import logging as hf_logging

from tests.support import SHARED
from tests.support.tiny import BACKBONE, REFINER


torch.set_num_threads(1)
# transformers compiles thousands of patterns for every model that it loads; Python would forget most of them at 512.
re._MAXCACHE = 100_000


def pytest_unconfigure():
    shutil.rmtree(os.environ["HF_DATASETS_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True)
def seeded():
    set_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the repository with golden recordings and driving data; skips or fails where it is absent."""
    if not SHARED.is_dir():
        reason = "needs ../shared (recordings of the official implementation and driving data), which is absent here"
        if os.environ.get("VFMSEG_REQUIRE_SHARED") == "1":
            pytest.fail(reason + "; VFMSEG_REQUIRE_SHARED=1 demands it")
        pytest.skip(reason)
    return SHARED


@pytest.fixture
def loading_log(caplog):
    """What transformers logs, warnings and worse."""
    hf_logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        yield caplog
    hf_logging.disable_propagation()


@pytest.fixture
def tiny_config():
    """A four-block DINOv2 of width 32 with small windows: everything happens, in milliseconds."""
    from vfmseg_hf import VFMSegConfig

    def make(**overrides):
        backbone = {**BACKBONE, **overrides.pop("backbone_config", {})}
        settings = {**REFINER, **overrides}
        return VFMSegConfig(backbone_config=backbone, **settings)

    return make


@pytest.fixture
def tiny_model(tiny_config):
    """Builds a tiny model in eval mode; LoRA and heads as they are initialised, so that its logits are small."""
    from vfmseg_hf import VFMSegForSemanticSegmentation

    def make(**overrides):
        return VFMSegForSemanticSegmentation(tiny_config(**overrides)).eval()

    return make
