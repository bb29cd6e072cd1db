# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The learning rates, chosen on images of the source and committed to a file before any target is read."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from ..utils.files import write_file
from .plan import Plan, Setting
from .runs import Outcome


SETTINGS = "settings.json"
DIVERGED = "the loss is "  # of a training at a rate that is too high: a result, where other failures are none

Trials = Mapping[str, Mapping[float, float | str | None]]  # by row and rate: mean IoU, or why there is none


def choose(trials: Trials) -> dict[str, dict[str, object]]:
    """
    The best rate of every row.

    A training that diverged is a trial that lost. Any other failure leaves its row without a rate, because a rate must
    not win for want of a rival; the same command tries again.

    Returns:
        By row: `learning_rate`, None without one; `reason`, why there is none; and the `trials`.
    """
    chosen = {}
    for row, results in trials.items():
        scored = {rate: score for rate, score in results.items() if isinstance(score, float)}
        failed = {rate: text for rate, text in results.items() if isinstance(text, str)}
        broken = [f"the trial of rate {rate:g} failed: {text}" for rate, text in failed.items() if not _diverged(text)]
        reason = broken[0] if broken else None if scored else "every rate diverged"
        only = len(results) == 1 and not failed
        best = next(iter(results)) if only else max(scored, key=scored.get, default=None)
        chosen[row] = {
            "learning_rate": None if reason and not only else best,
            "reason": None if only else reason,
            "trials": {f"{rate:g}": result for rate, result in results.items()},
        }
    return chosen


def _diverged(reason: str) -> bool:
    return reason.startswith(DIVERGED)


def trial_result(trained: Outcome, scored: Outcome | None, scores: Mapping | None) -> float | str:
    """What a trial comes to: mean IoU on the source's validation images, or why there is none."""
    failed = trained if not trained.finished else scored
    if failed is not None and not failed.finished:
        return failed.reason or failed.status
    return float(scores["source"]["final"]["mean_iou"])


def digest(content: Mapping[str, object]) -> str:
    """SHA-256 of a record as canonical JSON, without the hash itself."""
    plain = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def commit(path: Path, plan: Plan, setting: Setting, rows: Mapping[str, object], earlier: Mapping | None) -> dict:
    """
    Write the settings, with a hash over them; targets are scored with these.

    Args:
        rows: from [`choose`].
        earlier: what was committed before, for rows that had no rate then: the others stay as they are.
    """
    kept = {name: row for name, row in (earlier or {}).get("rows", {}).items() if row["learning_rate"] is not None}
    rows = {**rows, **kept}
    if earlier and rows == earlier["rows"]:
        return dict(earlier)
    when = "rows that had none got theirs later, by the same rule" if earlier else "no target had been read"
    content = {
        "what": f"learning rates, chosen by mean IoU on validation images of the source; {when}",
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "decided": plan.decided(setting),
        "rows": rows,
        "replaces": earlier["sha256"] if earlier else None,
    }
    content["sha256"] = digest(content)
    write_file(path, json.dumps(content, indent=2) + "\n")
    return content


def read_committed(path: Path, plan: Plan, setting: Setting) -> dict | None:
    """
    The settings as they were committed; None if they are not yet.

    Raises:
        ValueError: the file was changed since, or they were chosen for other arguments.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        intact = content["sha256"] == digest(content)
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise ValueError(f"{path} is not as it was committed: its sha256 does not fit; choose another --output")
    wanted = plan.decided(setting)
    for name, value in content["decided"].items():
        if value != wanted.get(name):
            raise ValueError(
                f"{path} was committed for {name} {_short(value)}, not {_short(wanted.get(name))}; give the arguments "
                "that it has, or another --output"
            )
    return content


def _short(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
