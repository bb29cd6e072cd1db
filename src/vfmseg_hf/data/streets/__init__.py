# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Procedural street scenes: what is drawn, and how it looks in every domain."""
