# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What several tests use."""
