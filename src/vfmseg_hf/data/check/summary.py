# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What the check of a dataset found, as text for people and as JSON for programs."""

import math
from collections.abc import Mapping

from ..class_statistics import MIN_PIXELS
from ..findings import UNKNOWN_IDS, Findings, Kind
from .checking import ClassFrequencies, DatasetReport, SplitReport


SHOWN = 5  # files or values of a kind of trouble in the text
DECADES, BAR_STEP = 5, 7  # bars reach from a share of 10^-5 to 1, with so many characters per factor of 10


def format_report(report: DatasetReport) -> str:
    """The report as text; lists of files are cut short."""
    parts = [report.spec, *(_format_split(split, report.info.id2label) for split in report.splits)]
    parts += [f"notice: {notice}" for notice in report.notices]
    parts += [f"problem: {problem}" for problem in report.problems]
    return "\n\n".join([*parts, _verdict(report)])


def _verdict(report: DatasetReport) -> str:
    counts = {split.name: sum(map(len, split.findings.problems.values())) for split in report.splits}
    if report.clean:
        return f"clean: {', '.join(counts)}"
    counts |= {"classes": len(report.problems)} if report.problems else {}
    return "problems: " + ", ".join(f"{name} {count}" if count else f"{name} none" for name, count in counts.items())


def _format_split(split: SplitReport, id2label: Mapping[int, str]) -> str:
    pairs = ["not opened" if split.pairs is None else f"{split.pairs:,} pairs"]
    if split.note.startswith(f"{split.pairs} of "):  # not all of the full release: the note says how many
        pairs = []
    lines = [f"{split.name}: {', '.join([*pairs, *filter(None, [split.note])])}"]
    if split.classes:
        lines += _format_classes(split.classes, id2label)
    for kind, files in split.findings.files.items():
        lines += _format_kind(kind, files, split.findings)
    lines += [f"  notice: {notice}" for notice in split.findings.notices]
    if split.statistics:
        kept = f"{'found unchanged' if split.statistics_found else 'now kept'} in {split.statistics}"
    else:
        kept = "not kept" + (", because of the problems" if split.findings.problems else "")
    lines.append(f"  class statistics for rare class sampling: {kept}")
    return "\n".join(lines)


def _format_classes(classes: ClassFrequencies, id2label: Mapping[int, str]) -> list[str]:
    width = max(len("ignored"), *map(len, id2label.values()))
    digits = max(len("pixels"), len(f"{classes.total:,}"))
    showing = f">{MIN_PIXELS} px"
    lines = [
        f"  {'id':>3} {'class':<{width}} {'pixels':>{digits}} {'share':>10} {'images':>9} {showing:>9}  "
        f"{BAR_STEP} # for every factor of 10"
    ]
    for index, name in id2label.items():
        share = classes.pixels[index] / classes.total
        lines.append(
            f"  {index:>3} {name:<{width}} {classes.pixels[index]:>{digits},} {percent(share) if share else '-':>10} "
            f"{classes.images[index]:>9,} {classes.showing[index]:>9,}  {_bar(share)}".rstrip()
        )
    share = classes.ignored / classes.total
    lines.append(f"  {'':>3} {'ignored':<{width}} {classes.ignored:>{digits},} {percent(share):>10}")
    return lines


def percent(share: float) -> str:
    """A share of 0..1 in percent, with as many digits as small ones need."""
    return f"{100 * share:.2f} %" if share == 0 or share >= 1e-3 else f"{100 * share:.2g} %"


def _bar(share: float) -> str:
    return "#" * max(1, round(BAR_STEP * (DECADES + math.log10(share)))) if share else ""


def _format_kind(kind: Kind, files: Mapping[str, str], findings: Findings) -> list[str]:
    lines = [f"  {'notice' if kind.notice else 'problem'}: {kind.what}: {len(files):,}"]
    if kind == UNKNOWN_IDS:
        entries = [f"{value} in {count:,}, such as {file}" for value, (count, file) in _frequent(findings).items()]
    else:
        entries = [_entry(file, detail) for file, detail in files.items()]
    lines += [f"    {entry}" for entry in entries[:SHOWN]]
    if len(entries) > SHOWN:
        lines.append(f"    and {len(entries) - SHOWN:,} more")
    return [*lines, f"    -> {kind.remedy}"]


def _entry(file: str, detail: str) -> str:
    if file in detail:
        return detail
    return f"{file}: {detail}" if detail else file


def _frequent(findings: Findings) -> dict[str, tuple[int, str]]:
    """Unknown values with their counts and examples, those of most images first."""
    return dict(sorted(findings.values.items(), key=lambda item: -item[1][0]))


def report_as_dict(report: DatasetReport) -> dict[str, object]:
    """The whole report, for JSON; shares are fractions of all pixels."""
    return {
        "dataset": report.spec,
        "clean": report.clean,
        "notices": report.notices,
        "problems": report.problems,
        "splits": {split.name: _split_as_dict(split, report.info.id2label) for split in report.splits},
    }


def _split_as_dict(split: SplitReport, id2label: Mapping[int, str]) -> dict[str, object]:
    findings = split.findings
    kinds = {
        notice: {kind.name: files for kind, files in findings.files.items() if kind.notice is notice}
        for notice in (False, True)
    }
    return {
        "note": split.note,
        "pairs": split.pairs,
        "problems": kinds[False],
        "unknown_values": {
            value: {"images": count, "example": file} for value, (count, file) in _frequent(findings).items()
        },
        "noticed_files": kinds[True],
        "notices": findings.notices,
        "classes": split.classes and _classes_as_dict(split.classes, id2label),
        "class_statistics": split.statistics and str(split.statistics),
    }


def _classes_as_dict(classes: ClassFrequencies, id2label: Mapping[int, str]) -> dict[str, object]:
    return {
        "label_maps": classes.label_maps,
        "min_pixels": MIN_PIXELS,
        "ignored": {"pixels": classes.ignored, "share": classes.ignored / classes.total},
        "classes": [
            {
                "id": index,
                "name": name,
                "pixels": int(classes.pixels[index]),
                "share": float(classes.pixels[index] / classes.total),
                "images": int(classes.images[index]),
                "images_above_min_pixels": int(classes.showing[index]),
            }
            for index, name in id2label.items()
        ],
    }
