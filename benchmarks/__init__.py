# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""
Benchmarks that `scripts/benchmark.py` runs: one module each, a line in `BENCHMARKS` registers it.

A module has `add_arguments(parser)` and `run(arguments) -> dict`: what JSON can hold, with `rows`, a list of dicts that
becomes the table, one column per key, and perhaps `tables`, further lists of that kind by their titles. The first line
of its docstring is its help.
"""

from types import ModuleType

from . import evaluation_memory, inference_memory, mean_iou, refine_budget, training_step, two_stage


BENCHMARKS: dict[str, ModuleType] = {
    "mean-iou": mean_iou,
    "evaluation-memory": evaluation_memory,
    "inference-memory": inference_memory,
    "two-stage": two_stage,
    "refine-budget": refine_budget,
    "training-step": training_step,
}
