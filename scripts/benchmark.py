#!/usr/bin/env python
# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The benchmarks, which lie in `benchmarks/` beside what they have recorded."""

import sys
from pathlib import Path


# The repository's root instead of this folder, whose evaluate.py would be taken for the package of that name.
scripts = Path(__file__).resolve().parent
sys.path[:] = [str(scripts.parent), *(folder for folder in sys.path if Path(folder).resolve() != scripts)]

from benchmarks.run import run  # noqa: E402


if __name__ == "__main__":
    run()
