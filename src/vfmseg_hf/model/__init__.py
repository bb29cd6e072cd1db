# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""VFMSeg itself, flat: exactly what goes to the Hub as code; nothing here imports anything outside this folder."""
