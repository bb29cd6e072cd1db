# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Processes that are forks of this one: commands and trainings in them need not import torch and transformers anew."""

import gc
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from accelerate.state import AcceleratorState, GradientState
from torch import distributed


class Fork:
    """
    A function in a process of its own, whose exit status is what the function returns (None for 0).

    Args:
        function: is called in the fork; `sys.exit` and exceptions end it as they end a program.
        environment: variables that are added to those of this process; what was read at import keeps its value.
    """

    def __init__(self, function: Callable[[], int | None], environment: Mapping[str, str] | None = None):
        self._outputs = [tempfile.TemporaryFile() for _ in range(2)]
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._run(function, environment or {})

    def _run(self, function: Callable[[], int | None], environment: Mapping[str, str]) -> None:
        status = 1
        try:
            gc.freeze()  # or the first collection would copy the memory of this process
            for number, output in enumerate(self._outputs, start=1):
                os.dup2(output.fileno(), number)
            sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
            logging.root.handlers.clear()  # pytest's
            for name in logging.root.manager.loggerDict:
                for handler in logging.getLogger(name).handlers:
                    if type(handler) is logging.StreamHandler:
                        handler.setStream(sys.stderr)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.environ.update(environment)
            # Of tests that have trained in this process.
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
            status = function() or 0
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def poll(self) -> int | None:
        """The exit status as `subprocess` gives it, the negative number of a signal; None while it runs."""
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        while self.poll() is None:
            time.sleep(0.02)

    def wait(self, timeout: float = 300) -> subprocess.CompletedProcess:
        """
        Its end.

        Raises:
            TimeoutError: it still runs after `timeout` seconds, and was killed.
        """
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"after {timeout} s: {self._read()}")
            time.sleep(0.02)
        return subprocess.CompletedProcess([], self.returncode, *self._read())

    def _read(self) -> list[str]:
        for output in self._outputs:
            output.seek(0)
        return [output.read().decode(errors="replace") for output in self._outputs]


def wait_for_all(forks: Sequence[Fork], timeout: float = 300) -> None:
    """Until all have ended; one that fails, or too long a time, ends all."""
    deadline = time.monotonic() + timeout
    while [fork for fork in forks if fork.poll() is None]:
        if any(fork.returncode for fork in forks) or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    for fork in forks:
        fork.kill()


def run_distributed(function: Callable[[], int | None], count: int) -> subprocess.CompletedProcess:
    """
    The function in several processes that find each other as those of `torchrun` do; one that fails ends all.

    Returns:
        The first failure's status, or 0, and what all have written: the main process last.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    places["LOCAL_WORLD_SIZE"] = places["WORLD_SIZE"]
    forks = [Fork(function, {**places, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)]
    wait_for_all(forks)
    ended = [fork.wait() for fork in reversed(forks)]
    failures = [each.returncode for each in ended if each.returncode]
    status = next((code for code in failures if code != -signal.SIGKILL), failures[0] if failures else 0)
    return subprocess.CompletedProcess(
        [], status, *("".join(getattr(e, s) for e in ended) for s in ("stdout", "stderr"))
    )


def run_in_processes(count: int, function: Callable[[int], object], folder: Path) -> list:
    """What `function(rank)` returns in each of several gloo processes; `folder` takes the files that they leave."""

    def of_rank(rank: int) -> None:
        distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=count)
        (folder / f"result-{rank}").write_bytes(pickle.dumps(function(rank)))
        distributed.destroy_process_group()

    forks = [Fork(lambda rank=rank: of_rank(rank)) for rank in range(count)]
    wait_for_all(forks)
    failed = {rank: done.stderr for rank, fork in enumerate(forks) if (done := fork.wait()).returncode}
    assert not failed, "\n".join(f"process {rank}: {said}" for rank, said in failed.items())
    return [pickle.loads((folder / f"result-{rank}").read_bytes()) for rank in range(count)]
