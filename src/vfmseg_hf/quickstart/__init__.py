# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The main job in small: what `make quickstart` runs."""

from .run import run_quickstart
from .settings import FOUNDATION, TOY, QuickstartSettings


__all__ = ["FOUNDATION", "TOY", "QuickstartSettings", "run_quickstart"]
