"""Commands as a user starts them: in this process, or in one of their own."""

import contextlib
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

from tqdm import tqdm

import vfmseg_cli
from tests.support import SOURCE
from tests.support.processes import Fork


def call(verb: str, *words: object) -> int:
    """`vfmseg VERB WORDS` in this process; its exit status."""
    return vfmseg_cli.main([verb, *map(str, words)])


def launch(verb: str, *words: object) -> Fork:
    """The same in a process of its own, which goes on beside this one."""
    return Fork(lambda: call(verb, *words))


def start(verb: str, *words: object, **environment: str) -> subprocess.CompletedProcess:
    """The same in a process of its own, to its end: in a new Python where the environment says what imports read."""
    if not environment:
        return launch(verb, *words).wait()
    return subprocess.run(
        list(map(str, [sys.executable, "-m", "vfmseg_cli", verb, *words])),
        capture_output=True,
        text=True,
        env=environment_of_commands(**environment),
    )


def environment_of_commands(**more: str) -> dict[str, str]:
    places = [str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **more}


def error_of(verb: str, *words: object) -> str | None:
    """What `call` says on stderr if it ends with status 2; None for success."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = call(verb, *words)
    assert status in (0, 2), f"status {status}: {said.getvalue()}"
    return said.getvalue().strip().splitlines()[-1] if status else None


def fork_command(words: list[str], log: Path, environment: dict[str, str]) -> Fork:
    """In place of `vfmseg_hf.reproduce.processes.start_command`: a fork of this process, not a new Python."""

    def run() -> int:
        output = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        tqdm.set_lock(threading.RLock())
        return call(*words)

    # The other threads do not live on in a fork, and what they hold stays locked there for ever. The one that draws a
    # bar or writes beside it holds the locks of tqdm and of a stream, so it is not forked meanwhile.
    with tqdm.get_lock():
        return Fork(run, environment)
