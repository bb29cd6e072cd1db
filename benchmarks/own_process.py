# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Calls in a new process, so that no memory that an earlier call left behind hides what this one needs."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any


def call_in_own_process(function: Callable[..., Any], *arguments: object) -> Any:
    """
    What a function returns in a process of its own. Arguments and result are what JSON can hold.

    Args:
        function: found by its name in its module.

    Raises:
        ValueError: if it fails there; the message has the last line of what the process said.
    """
    name = function.__name__
    code = (
        f"import json, sys; sys.path[:] = {sys.path!r}; from {function.__module__} import {name}; "
        f"print(json.dumps({name}(*json.loads({json.dumps(arguments)!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise ValueError(
            f"{name}{arguments} failed in its own process: {said[-1] if said else f'exit code {done.returncode}'}"
        )
    return json.loads(done.stdout.splitlines()[-1])
