# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""`python -m vfmseg_hf <verb>` is `vfmseg <verb>`; so `torchrun -m vfmseg_hf train ...` starts it on several GPUs."""

import sys

from vfmseg_cli import main


sys.exit(main())
