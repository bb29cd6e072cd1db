# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The check of a dataset: what is wrong with its files, what cannot be learnt from it, how frequent its classes are.

`checking` reads everything once, `learnable` judges what labels teach, `report` and `chart` say it.
"""

from .chart import class_chart
from .checking import DatasetReport, SplitReport, check_dataset
from .learnable import check_labels_teach
from .summary import format_report, report_as_dict


__all__ = [
    "DatasetReport",
    "SplitReport",
    "check_dataset",
    "check_labels_teach",
    "class_chart",
    "format_report",
    "report_as_dict",
]
