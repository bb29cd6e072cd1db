# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Commands of this library in processes of their own, several at a time: what one does wrong is no other's fault."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol, TypeVar

from ..utils.processes import count_cores


SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
STOPPED = {128 + number for number in SIGNALS} | {-number for number in SIGNALS}  # exit statuses

Task = TypeVar("Task")
Result = TypeVar("Result")


class Stopped(Exception):
    """A signal has stopped the runs; `status` is what shells give for that."""

    def __init__(self, number: signal.Signals):
        super().__init__(f"stopped by {number.name}")
        self.status = 128 + number


class Process(Protocol):
    """What is asked of a `subprocess.Popen`."""

    returncode: int | None

    def wait(self) -> object: ...

    def send_signal(self, number: int) -> None: ...


def start_command(words: Sequence[str], log: Path, environment: Mapping[str, str]) -> Process:
    """`vfmseg WORDS` in a new process whose output goes to `log`; Ctrl-C in the terminal does not reach it."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "vfmseg_cli", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )


class Commands:
    """
    Runs commands, `jobs` at a time that share the cores.

    Inside [`Commands.listening`], SIGINT and SIGTERM are passed on to the processes that run, so that trainings save a
    checkpoint, and nothing new is started.

    Attributes:
        threads: how many each process has.
        stopped_by: the signal.
    """

    def __init__(self, jobs: int = 1):
        self.jobs = jobs
        given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
        self.threads = int(given) if given.isdecimal() and int(given) else max(1, count_cores() // jobs)
        self.stopped_by: signal.Signals | None = None
        self._running: set[Process] = set()
        self._lock = threading.RLock()  # a signal's handler may interrupt who holds it

    def __call__(self, words: Sequence[str], log: Path) -> int | None:
        """The exit status of a command; None if it was stopped, or not started any more."""
        environment = {"OMP_NUM_THREADS": str(self.threads)}
        with self._lock:
            if self.stopped_by:
                return None
            process = start_command(words, log, environment)
            self._running.add(process)
        try:
            process.wait()
        finally:
            with self._lock:
                self._running.discard(process)
        return None if self.stopped_by and process.returncode in STOPPED else process.returncode

    def each(self, work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        """
        Every task with what `work` gives for it, as they are done.

        Raises:
            Stopped: by a signal, when all that was running has ended.
        """
        with self.listening(), ThreadPoolExecutor(self.jobs) as pool:
            futures = {pool.submit(work, task): task for task in tasks}
            try:
                for future in as_completed(futures):
                    if self.stopped_by is None:
                        yield futures[future], future.result()
            finally:
                pool.shutdown(cancel_futures=True)
        if self.stopped_by:
            raise Stopped(self.stopped_by)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are passed on inside, and do afterwards what they did before."""
        if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
            yield
            return
        before = {number: signal.signal(number, self._pass_on) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        with self._lock:
            self.stopped_by = signal.Signals(number)
            for process in self._running:
                process.send_signal(number)
