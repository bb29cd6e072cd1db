# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The paper's comparison, run again: what is to be run as data, the runs, their choice of rates, the table

`rows` has the tables as data, `plan` says what is run, `processes` runs commands, `scenes` keeps what is drawn, `runs`
what was run, `choice` commits the learning rates, `costs` measures what a row takes, `table` says what came out,
`reproduction` does it all in order. `figures` has what the figures share, `figure4` and `figure5` measure and compare,
`figure4_report` draws.
"""

from .figures import ShownModel, models_of, open_domains
from .plan import PAPER, SMALL, Budget, Plan, Run, Setting, budget_of, own_setting, small_settings
from .processes import Stopped
from .reproduction import check_data, check_plan, reproduce
from .rows import TABLES, Row, Table


__all__ = [
    "PAPER",
    "SMALL",
    "TABLES",
    "Budget",
    "Plan",
    "Row",
    "Run",
    "Setting",
    "ShownModel",
    "Stopped",
    "Table",
    "budget_of",
    "check_data",
    "check_plan",
    "models_of",
    "open_domains",
    "own_setting",
    "reproduce",
    "small_settings",
]
