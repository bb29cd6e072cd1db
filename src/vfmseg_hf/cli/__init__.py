# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The commands, one module for each verb: `build_parser()` has its options, `run(argv)` does it and returns a status.

`vfmseg_cli` comes before them: it judges a command line by `options.json`, which `python -m vfmseg_hf.cli.table` makes
from these parsers, without importing this package.
"""
