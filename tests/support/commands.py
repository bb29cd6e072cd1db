"""Commands as a user starts them: in this process, or in one of their own."""

import contextlib
import io
import os
import subprocess
import sys

import vfmseg_cli
from tests.support import SOURCE


def call(verb: str, *words: object) -> int:
    """`vfmseg VERB WORDS` in this process; its exit status."""
    return vfmseg_cli.main([verb, *map(str, words)])


def start(verb: str, *words: object, **environment: str) -> subprocess.CompletedProcess:
    """The same in a process of its own, from the checkout."""
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
