"""Runs a function in several gloo processes on this machine, without starting Python anew for each."""

import multiprocessing
from collections.abc import Callable

from torch import distributed


def run_in_processes(count: int, function: Callable[[int], object], folder) -> list:
    """What `function(rank)` returns in each process; `folder` takes the file that they find each other by."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    processes = [
        context.Process(target=_run, args=(rank, count, function, folder / "store", results)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    found = dict(results.get() for _ in processes)
    for process in processes:
        process.join()
    for rank, (error, _) in found.items():
        assert error is None, f"process {rank}: {error}"
    return [found[rank][1] for rank in range(count)]


def _run(rank, count, function, store, results):
    error, result = None, None
    try:
        distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
        result = function(rank)
    except BaseException as caught:
        error = repr(caught)
    results.put((rank, (error, result)))
    if distributed.is_initialized():
        distributed.destroy_process_group()
