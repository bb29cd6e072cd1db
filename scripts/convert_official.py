#!/usr/bin/env python
# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""`vfmseg convert` from a checkout that is not installed."""

import sys
from pathlib import Path


folder = Path(__file__).resolve().parent
# Not the folder of this file, where Python would find evaluate.py in place of the package of that name.
sys.path[:] = [str(folder.parent / "src"), *(place for place in sys.path if Path(place).resolve() != folder)]

from vfmseg_cli import main  # noqa: E402


if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
