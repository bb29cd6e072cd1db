# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Picture files in; label maps, overlays and panels out."""
