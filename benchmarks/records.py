# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What every benchmark records beside its figures, and the files that they are kept in."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from vfmseg_hf.evaluation import software_versions
from vfmseg_hf.utils.files import write_file


def describe_machine() -> dict[str, object]:
    """Processor, cores that this process may use, threads, accelerator, versions."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else accelerator and str(accelerator),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": software_versions(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def format_rows(rows: Sequence[Mapping[str, object]]) -> str:
    """A markdown table; numbers with four significant digits, `-` where a row has no such column."""

    def cell(value: object) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = ([cell(row.get(name, "-")) for name in columns] for row in rows)
    lines = [columns, ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_tables(result: Mapping[str, object]) -> str:
    """Markdown: the table of `rows`, then those of `tables` (title: rows), each under its title."""
    further = [f"## {title}\n\n{format_rows(rows)}" for title, rows in result.get("tables", {}).items()]
    return "\n\n".join([format_rows(result["rows"]), *further])


def _format_settings(result: Mapping[str, object]) -> str:
    """What a result says of itself in one value or a list of them, such as the size of the images."""

    def text(key: str, value: object) -> str:
        if isinstance(value, list):
            return (" x " if key == "size" else ", ").join(map(str, value))
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return "; ".join(
        f"{key.replace('_', ' ')}: {text(key, value)}"
        for key, value in result.items()
        if key not in ("benchmark", "command", "rows") and isinstance(value, str | int | float | list)
    )


def write_benchmark(folder: str | os.PathLike, name: str, result: Mapping[str, object]) -> None:
    """`<name>.json` with everything and `<name>.md` with the command, the machine and the tables."""
    machine = result["machine"]
    text = (
        f"# {name}\n\n`{result['command']}`\n\n{machine['cpu']}, {machine['cores']} cores, {machine['threads']} "
        f"threads, accelerator: {machine['accelerator'] or 'none'}; "
        + ", ".join(f"{package} {number}" for package, number in machine["versions"].items())
        + f".\n\n{_format_settings(result)}.\n\n{format_tables(result)}\n"
    )
    write_file(Path(folder) / f"{name}.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
    write_file(Path(folder) / f"{name}.md", text)
