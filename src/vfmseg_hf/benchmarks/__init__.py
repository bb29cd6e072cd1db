# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What `scripts/benchmark.py` runs: one module per benchmark, with `add_arguments(parser)` and `run(arguments)`."""
