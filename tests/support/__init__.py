# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What several tests use."""

from pathlib import Path


REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "src"
SHARED = REPOSITORY.parent / "shared"
