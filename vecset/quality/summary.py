"""Findings as text: lines for the terminal, rows for tables, the verdict."""

from collections.abc import Sequence

import numpy as np

from vecset.imaging.structure_names import name_key
from vecset.quality.thresholds import CHECKS, FileReport, excess, limit_text


def class_name(report: FileReport, class_id: int | None) -> str:
    """The name of class `class_id` in the file; "" for None, `class_<id>` beyond its names."""
    if class_id is None:
        return ""
    return report.class_names[class_id - 1] if class_id <= len(report.class_names) else f"class_{class_id}"


def _figure(value):
    return f"{value:.0f}" if np.isfinite(value) and value == round(value) else f"{value:.4g}"


def _count(number, word):
    return f"{number} {word}{'' if number == 1 else 's'}"


def failure_lines(report: FileReport, level: str = "fail", every_class: bool = False) -> list[str]:
    """One line per check of `level` that `report` misses: file, check, class, value, threshold. Where several classes
    miss a check, the worst is shown and the others are counted, and named; with `every_class` all are shown."""
    lines, missed = [], {}
    for finding in report.failed(level):
        missed.setdefault(finding["check"], []).append(finding)
    for check, findings in missed.items():
        findings = sorted(findings, key=lambda f: -excess(check, f["value"]))
        for f in findings if every_class else findings[:1]:
            name, more = class_name(report, f["class_id"]), len(findings) - 1
            others = ", ".join(filter(None, (class_name(report, other["class_id"]) for other in findings[1:])))
            others = f" ({others})" if others else ""
            word, of_class = "FAIL" if level == "fail" else "note", " of " + name if name else ""
            lines.append(
                f"{word} {report.file}: {check}{of_class} = "
                f"{_figure(f['value'])}, want {limit_text(check)} ({CHECKS[check].meaning})"
                f"{': ' + f['note'] if f['note'] else ''}"
                f"{f'; and {more} more{others}' if more and not every_class else ''}"
            )
    return lines


def file_lines(report: FileReport) -> list[str]:
    """Every finding of one file, its classes, then what failed in full."""
    lines = [f"{report.file}", ""]
    width = max(len(f["check"]) for f in report.findings)
    for f in report.findings:
        mark = "ok  " if f["ok"] else ("FAIL" if f["level"] == "fail" else "note")
        lines.append(
            f"{mark} {f['check']:{width}} {class_name(report, f['class_id']):12} {_figure(f['value']):>10}  "
            f"{limit_text(f['check']):28} {CHECKS[f['check']].meaning}"
            f"{': ' + f['note'] if f['note'] and f['ok'] else ''}"
        )  # notes of failed checks follow below
    return (
        lines
        + [""]
        + class_lines([report])
        + failure_lines(report, every_class=True)
        + failure_lines(report, "warn", every_class=True)
    )


VOXEL_WORDS = "distances in voxels: 1 voxel is the largest spacing of the image"


def checks_help() -> str:
    """Every check with its threshold and meaning, for --help."""
    return "\n".join(
        ["the checks (note: reported, not judged; " + VOXEL_WORDS + "):"]
        + [
            f"  {name:20} {limit_text(name):30} {check.meaning}{' (note)' if check.level == 'warn' else ''}"
            for name, check in CHECKS.items()
        ]
    )


def check_rows(reports: list[FileReport]) -> list[tuple]:
    """Per check: name, worst value over all files, threshold, number of files that fail it, number of files where it is
    only noted, the worst file (class)."""
    rows = []
    for check in CHECKS:
        having = [(r, r.worst(check)) for r in reports]
        having = [(r, f) for r, f in having if f is not None]
        if not having:
            continue
        report, finding = max(having, key=lambda pair: excess(check, pair[1]["value"]))
        name = class_name(report, finding["class_id"])
        missed, judged = sum(not f["ok"] for _, f in having), CHECKS[check].level == "fail"
        rows.append(
            (
                check,
                _figure(finding["value"]),
                limit_text(check),
                missed if judged else 0,
                0 if judged else missed,
                f"{report.file}{' (' + name + ')' if name else ''}",
            )
        )
    return rows


CLASS_COLUMNS = (
    "class",
    "files",
    "missing",
    "cut",
    "median ml",
    "least surface %",
    "least near %",
    "least inside %",
    "near outside %",
)


def classes_by_name(reports: Sequence[FileReport]) -> dict[str, list[tuple[FileReport, int]]]:
    """{class name: [(report of a file that has a class of that name, its id there)]}, in the order of the first file
    with the most classes, then of the others: files of several data sets have other ids."""
    found = {}
    for report in sorted(reports, key=lambda r: -len(r.class_names)):  # stable
        for c, name in enumerate(report.class_names, 1):
            found.setdefault(name_key(name), (name, []))[1].append((report, c))
    return dict(found.values())


def class_rows(reports: list[FileReport]) -> list[tuple]:
    """Per class, as CLASS_COLUMNS: the numbers of files where it is present, missing, truncated by the field of view;
    its median volume; its least share of the points of each kind in any file; smallest and largest share of its outer
    near points that lie outside."""
    whole = [r for r in reports if "volumes_ml" in r.facts]
    rows = []
    for name, pairs in classes_by_name(whole).items():
        having = [(r, c) for r, c in pairs if str(c) in r.facts["volumes_ml"]]
        counts = [len(having), *(sum(c in r.facts[kind] for r, c in pairs) for kind in ("missing", "border"))]
        if not having:
            rows.append((name, *counts, "", "", "", "", ""))
            continue
        least = [f"{100 * min(r.classes[c][k] for r, c in having):.2f}" for k in ("surface", "near", "inside")]
        outside = [
            100 * r.classes[c]["near_outside"] for r, c in having if r.classes[c].get("near_outside") is not None
        ]
        volume = np.median([r.facts["volumes_ml"][str(c)] for r, c in having])
        rows.append(
            (
                name,
                *counts,
                f"{volume:.3g}",
                *least,
                f"{min(outside):.0f} - {max(outside):.0f}" if outside else "too few",
            )
        )
    return rows


def named_classes(reports: list[FileReport]) -> list[str]:
    """Lines 'file: missing: classes', 'file: truncated by the field of view: classes' and 'file: not annotated:
    classes'."""
    return [
        f"{r.file}: {words}: {', '.join(class_name(r, c) for c in r.facts[kind])}"
        for kind, words in (
            ("missing", "missing"),
            ("border", "truncated by the field of view"),
            ("not_annotated", "not annotated"),
        )
        for r in reports
        if r.facts.get(kind)
    ]


def summary_lines(reports: list[FileReport], most: int = 40) -> list[str]:
    """The worst value of each check over all files with its threshold, the classes, then at most `most` failures and
    notes."""
    lines = [f"{'check':20} {'worst':>10}  {'threshold':30} {'failed':>6} {'noted':>6}  worst file"]
    lines += [
        f"{check:20} {figure:>10}  {limit:30} {failed or '':>6} {noted or '':>6}  {file}"
        for check, figure, limit, failed, noted, file in check_rows(reports)
    ]
    lines += ["", f"meanings: report.html, or --help; {VOXEL_WORDS}", "", *class_lines(reports)]
    for level, what in (("fail", "failures"), ("warn", "notes")):
        lines += _at_most(most, [line for report in reports for line in failure_lines(report, level)], what)
    return lines


def class_lines(reports: list[FileReport]) -> list[str]:
    """The classes as a table, then the files where classes are missing, cut or not annotated."""
    rows = class_rows(reports)
    if not rows:
        return []
    widths = [max(len(str(row[i])) for row in [CLASS_COLUMNS, *rows]) for i in range(len(CLASS_COLUMNS))]
    return [
        *(
            "  ".join(f"{cell!s:{'<' if i == 0 else '>'}{widths[i]}}" for i, cell in enumerate(row))
            for row in [CLASS_COLUMNS, *rows]
        ),
        "",
        *_at_most(20, named_classes(reports), "such files"),
        "",
    ]


def _at_most(most, lines, what):
    return lines[:most] + (
        [f"... {len(lines) - most} more {what} (all of them in --report)"] if len(lines) > most else []
    )


def verdict(reports: list[FileReport]) -> str:
    """One line: PASS or FAIL, the number of files, the first failure."""
    bad = [r for r in reports if not r.passed]
    if not bad:
        notes = sum(len(r.failed("warn")) for r in reports)
        return f"PASS: {_count(len(reports), 'case file')}{', ' + _count(notes, 'note') if notes else ''}"
    first = max(bad[0].failed(), key=lambda f: f["check"] == "readable")
    return (
        f"FAIL: {len(bad)} of {_count(len(reports), 'case file')}; {bad[0].file}: {first['check']} = "
        f"{_figure(first['value'])}, want {limit_text(first['check'])}"
        + (f"; also {', '.join(r.file for r in bad[1:6])}{' ...' if len(bad) > 6 else ''}" if len(bad) > 1 else "")
    )


def picture_title(report: FileReport) -> str:
    """The case, its verdict and the names of the checks it fails, at most three of them."""
    names = list(dict.fromkeys(f["check"] for f in report.failed()))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{report.case_id}: " + (f"FAIL: {', '.join(names[:3])}{more}" if names else "PASS")
