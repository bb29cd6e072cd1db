# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Where the time of a call goes, by groups of operators."""

import time
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


LINEAR = "linear layers"
ATTENTION = "attention"
CONVOLUTION = "convolutions"
ARITHMETIC = "norms, activations, other arithmetic"
COPIES = "copies, resizing, other"
BETWEEN = "between the operators"

# As they are called, without the underscore of those that work in place. Attention that is not torch's own counts as
# linear layers and arithmetic. What is not named here is among the copies.
GROUPS = {
    LINEAR: "linear linear_dynamic linear_relu_dynamic matmul mm addmm bmm baddbmm einsum",
    ATTENTION: "scaled_dot_product_attention",
    CONVOLUTION: "conv1d conv2d conv3d conv_transpose2d convolution",
    ARITHMETIC: (
        "layer_norm batch_norm group_norm instance_norm rms_norm gelu relu silu sigmoid tanh softmax log_softmax erf "
        "add sub rsub mul div addcmul add_relu neg abs exp log sqrt rsqrt reciprocal pow square sin cos clamp round "
        "floor maximum minimum where lerp gt ge lt le eq ne isfinite isnan logical_and logical_or logical_not "
        "bitwise_and bitwise_or bitwise_not sum mean amax amin max min argmax argmin argsort sort topk cumsum any all"
    ),
}
GROUP_OF_OPERATOR = {operator: group for group, operators in GROUPS.items() for operator in operators.split()}


def profile_operators(call: Callable[[], object], device: torch.device) -> dict[str, float]:
    """
    Seconds of one call by group of operators, and those in between: Python's on the CPU; on an accelerator, whose own
    time counts, those in which it has nothing to do. The profiler makes the latter longer than they are without it.
    """
    on_cpu = device.type == "cpu"
    with profile(activities=[ProfilerActivity.CPU] if on_cpu else None) as profiler:
        start = time.perf_counter()
        call()
        if not on_cpu:
            torch.accelerator.synchronize(device)
        whole = time.perf_counter() - start
    seconds = dict.fromkeys((*GROUPS, COPIES), 0.0)
    for event in profiler.events():
        # An operator's time is that of all it calls; device-side events are in the time of what started them.
        if event.device_type == DeviceType.CPU and event.cpu_parent is None:
            name = event.name.rpartition("::")[2].rstrip("_")
            taken = event.cpu_time_total if on_cpu else event.device_time_total
            seconds[GROUP_OF_OPERATOR.get(name, COPIES)] += taken / 1e6
    return {**seconds, BETWEEN: max(whole - sum(seconds.values()), 0.0)}
