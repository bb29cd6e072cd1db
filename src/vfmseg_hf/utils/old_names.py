# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Names of 0.1 that keep working in rooms where things have other names now."""

import sys
import warnings
from collections.abc import Callable, Mapping


def old_names(module: str, names: Mapping[str, str]) -> Callable[[str], object]:
    """
    A `__getattr__` for the module `module`: its old names give what they name now, with a DeprecationWarning.

    Args:
        names: the name of today of each old one.
    """

    def get(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now {names[name]}; the old name will go.", DeprecationWarning, stacklevel=2)
        return getattr(sys.modules[module], names[name])

    return get
