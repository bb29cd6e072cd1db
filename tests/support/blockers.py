# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Run code in a fresh interpreter in which chosen packages look as if they had never been installed."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence

from tests.support import SOURCE


# An absent package is one that no finder knows: find_spec gives None, importing raises ModuleNotFoundError, and its
# metadata is gone. A finder that raises would be something else: transformers asks find_spec without a try around it.
PRELUDE = """
import importlib.metadata, sys

_modules = set({modules!r})
assert not _modules & set(sys.modules), "already imported at start-up: %s" % (_modules & set(sys.modules))
_distributions = set(
    distribution
    for module, names in importlib.metadata.packages_distributions().items() if module in _modules
    for distribution in names
)

class _Hiding:
    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in _modules else self._finder.find_spec(name, path, target)

    def find_distributions(self, *args, **kwargs):
        find = getattr(self._finder, "find_distributions", lambda *_, **__: [])
        return (found for found in find(*args, **kwargs) if found.metadata["Name"] not in _distributions)

sys.meta_path[:] = [_Hiding(finder) for finder in sys.meta_path]
"""


def run_without(
    modules: Sequence[str], code: str, env: Mapping[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess:
    """
    Runs `code` (dedented) in a new interpreter without the importable packages `modules`, e.g. `["torchvision"]`.

    The package under test is importable, the Hub is switched off. `env` adds environment variables. Returns the
    completed process with `stdout` and `stderr` as text; it does not check the exit status.
    """
    path = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, "-c", PRELUDE.format(modules=list(modules)) + textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
