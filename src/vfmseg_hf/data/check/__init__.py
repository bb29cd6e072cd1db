# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What is wrong with a corpus, and how frequent its classes are."""
