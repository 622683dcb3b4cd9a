"""The findings of `quality` for people: lines on the terminal, JSON and CSV, pictures."""

import csv
import io
import json
from dataclasses import asdict
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np

from vecset.common.atomic import write_text
from vecset.common.errors import InputError
from vecset.data.case_file import read_case
from vecset.quality.thresholds import CHECKS, excess, limit_text


def _class_name(report, class_id):
    if class_id is None:
        return ""
    return report.class_names[class_id - 1] if class_id <= len(report.class_names) else f"class_{class_id}"


def _figure(value):
    return f"{value:.0f}" if np.isfinite(value) and value == round(value) else f"{value:.4g}"


def _count(number, word):
    return f"{number} {word}{'' if number == 1 else 's'}"


def failure_lines(report, level="fail", every_class=False):
    """One line per check that `report` misses: file, check, class, figure, threshold. Of several classes that miss the
    same check the worst is shown and the others are counted, or `every_class` is."""
    lines, missed = [], {}
    for finding in report.failed(level):
        missed.setdefault(finding["check"], []).append(finding)
    for check, findings in missed.items():
        findings = sorted(findings, key=lambda f: -excess(check, f["value"]))
        for f in findings if every_class else findings[:1]:
            name, more = _class_name(report, f["class_id"]), len(findings) - 1
            word, of_class = "FAIL" if level == "fail" else "note", " of " + name if name else ""
            lines.append(
                f"{word} {report.file}: {check}{of_class} = "
                f"{_figure(f['value'])}, want {limit_text(check)} ({CHECKS[check].meaning})"
                f"{': ' + f['note'] if f['note'] else ''}"
                f"{f'; and {more} more' if more and not every_class else ''}"
            )
    return lines


def file_lines(report):
    """Every finding of one file, then its classes."""
    lines = [f"{report.file}", ""]
    width = max(len(f["check"]) for f in report.findings)
    for f in report.findings:
        mark = "ok  " if f["ok"] else ("FAIL" if f["level"] == "fail" else "note")
        lines.append(
            f"{mark} {f['check']:{width}} {_class_name(report, f['class_id']):12} {_figure(f['value']):>10}  "
            f"{limit_text(f['check']):28} {CHECKS[f['check']].meaning}"
            f"{': ' + f['note'] if f['note'] and f['ok'] else ''}"
        )  # the others are said in full below
    return (
        lines
        + [""]
        + class_lines([report])
        + failure_lines(report, every_class=True)
        + failure_lines(report, "warn", every_class=True)
    )


VOXEL_WORDS = "distances in voxels: 1 voxel is the largest spacing of the image"


def checks_help():
    """Every check with its threshold and meaning, for --help."""
    return "\n".join(
        ["the checks (note: said, not judged; " + VOXEL_WORDS + "):"]
        + [
            f"  {name:20} {limit_text(name):30} {check.meaning}{' (note)' if check.level == 'warn' else ''}"
            for name, check in CHECKS.items()
        ]
    )


def check_rows(reports):
    """Per check: name, worst figure over all files, threshold, number of files that fail it, number of files
    where it is only noted, the worst file (class)."""
    rows = []
    for check in CHECKS:
        having = [(r, r.worst(check)) for r in reports]
        having = [(r, f) for r, f in having if f is not None]
        if not having:
            continue
        report, finding = max(having, key=lambda pair: excess(check, pair[1]["value"]))
        name = _class_name(report, finding["class_id"])
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


def class_rows(reports):
    """Per class, as CLASS_COLUMNS: in how many files it is, is missing, is cut by the scan border; its least share of
    the points of each kind in any file; smallest and largest share of its outer near points that lie outside."""
    whole = [r for r in reports if "volumes_ml" in r.facts]
    rows = []
    for c, name in enumerate(max((r.class_names for r in whole), key=len, default=()), 1):
        having = [r for r in whole if str(c) in r.facts["volumes_ml"]]
        counts = [len(having), sum(c in r.facts["missing"] for r in whole), sum(c in r.facts["border"] for r in whole)]
        if not having:
            rows.append((name, *counts, "", "", "", "", ""))
            continue
        least = [f"{100 * min(r.classes[c][k] for r in having):.2f}" for k in ("surface", "near", "inside")]
        outside = [100 * r.classes[c]["near_outside"] for r in having if r.classes[c].get("near_outside") is not None]
        volume = np.median([r.facts["volumes_ml"][str(c)] for r in having])
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


def named_classes(reports):
    """Lines 'file: missing: classes', 'file: cut by the scan border: classes' and 'file: not annotated: classes'."""
    return [
        f"{r.file}: {words}: {', '.join(_class_name(r, c) for c in r.facts[kind])}"
        for kind, words in (
            ("missing", "missing"),
            ("border", "cut by the scan border"),
            ("not_annotated", "not annotated"),
        )
        for r in reports
        if r.facts.get(kind)
    ]


def summary_lines(reports, most=40):
    """The worst figure of each check over all files beside its threshold; the classes; what failed, by name."""
    lines = [f"{'check':20} {'worst':>10}  {'threshold':30} {'failed':>6} {'noted':>6}  worst file"]
    lines += [
        f"{check:20} {figure:>10}  {limit:30} {failed or '':>6} {noted or '':>6}  {file}"
        for check, figure, limit, failed, noted, file in check_rows(reports)
    ]
    lines += ["", f"meanings: report.html, or --help; {VOXEL_WORDS}", "", *class_lines(reports)]
    for level, what in (("fail", "failures"), ("warn", "notes")):
        lines += _at_most(most, [line for report in reports for line in failure_lines(report, level)], what)
    return lines


def class_lines(reports):
    """The classes as a table, and which are missing or cut where."""
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


def verdict(reports):
    """The one line: PASS or FAIL, how many files, what failed first."""
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


def write_report(folder, source, reports, pictures=6, detailed=False):
    """Tables and pictures of `reports` into `folder`. `source`: the folder or file that was checked; `pictures`: for
    how many files slices are drawn (failed ones first); `detailed`: one file, all its points over the slices."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "verdict": verdict(reports),
        "passed": all(r.passed for r in reports),
        "checks": {n: {"threshold": limit_text(n), "level": c.level, "meaning": c.meaning} for n, c in CHECKS.items()},
        "files": [{**asdict(r), "passed": r.passed} for r in reports],
    }
    write_text(folder / "report.json", json.dumps(_jsonable(record), indent=1, allow_nan=False) + "\n")
    _write_tables(folder, reports)
    drawn = _write_pictures(folder, source, reports, pictures, detailed)
    write_text(folder / "report.html", _page(reports, drawn))


def picture_title(report):
    """Case, verdict and the names of the checks it fails, at most three of them."""
    names = list(dict.fromkeys(f["check"] for f in report.failed()))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{report.case_id}: " + (f"FAIL: {', '.join(names[:3])}{more}" if names else "PASS")


def _write_pictures(folder, source, reports, pictures, detailed):
    """Draws the pictures; returns [(file name, heading)], failed files first, the distributions last."""
    from vecset.report.quality_pictures import write_distributions, write_slices  # matplotlib is slow to import

    for stale in (*folder.glob("slices_*.png"), folder / "distributions.png"):
        stale.unlink(missing_ok=True)
    drawn, source = [], Path(source)
    for report in sorted(reports, key=lambda r: r.passed)[:pictures]:
        try:
            case = read_case(source / report.file if source.is_dir() else source)
        except InputError:
            continue  # it has failed as unreadable; there is nothing to draw
        name, title = f"slices_{report.case_id}.png", picture_title(report)
        if write_slices(folder / name, case, title, detailed=detailed):
            drawn.append((name, title))
    if write_distributions(folder / "distributions.png", reports):
        drawn.append(("distributions.png", "Distributions over all files"))
    return drawn


def _page(reports, pictures):
    """The report as one HTML page; `pictures`: [(name of a file beside it, heading)]."""

    def table(header, rows):
        lines = ["<table><tr>" + "".join(f"<th>{escape(str(h))}</th>" for h in header) + "</tr>"]
        for row, bad in rows:
            cells = "".join(f"<td>{escape(str(cell))}</td>" for cell in row)
            lines.append(f"<tr{' class=bad' if bad else ''}>{cells}</tr>")
        return "\n".join([*lines, "</table>"])

    def listing(title, lines):
        items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
        return f"<h2>{title}</h2>\n<ul>{items}</ul>" if lines else ""

    checks = [
        ((check, figure, limit, failed or "", noted or "", file, CHECKS[check].meaning), failed)
        for check, figure, limit, failed, noted, file in check_rows(reports)
    ]
    parts = [
        f"<h1>{escape(verdict(reports))}</h1>",
        listing("Failures", [line for r in reports for line in failure_lines(r)]),
        "<h2>Checks: the worst figure over all files</h2>",
        table(("check", "worst", "threshold", "failed", "noted", "file", "meaning"), checks),
        f"<p>{VOXEL_WORDS}</p>",
        "<h2>Classes</h2>",
        table(CLASS_COLUMNS, [(row, False) for row in class_rows(reports)]),
        listing("Classes that are missing, cut or not annotated", named_classes(reports)),
        listing("Notes", [line for r in reports for line in failure_lines(r, "warn")]),
        "<h2>Pictures</h2>",
        *(
            f'<h3>{escape(heading)}</h3><img src="{escape(quote(name))}" style="max-width:100%" alt="{escape(name)}">'
            for name, heading in pictures
        ),
    ]
    style = (
        "body{font:14px sans-serif;margin:2em;max-width:1400px}table{border-collapse:collapse}"
        "td,th{padding:2px 10px;text-align:left;border-bottom:1px solid #ddd}.bad{background:#fdd}"
    )
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>Data quality</title>"
        f"<style>{style}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _jsonable(value):
    """Numbers that JSON does not know become None."""
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _write_tables(folder, reports):
    checks = [c for c in CHECKS if any(r.worst(c) for r in reports)]
    rows = []
    for r in reports:
        worst = {c: r.worst(c) for c in checks}
        rows.append(
            {
                "case_id": r.case_id,
                "verdict": "PASS" if r.passed else "FAIL",
                "failed": " ".join(sorted({f["check"] for f in r.failed()})),
                **{c: _cell(f["value"]) if f else "" for c, f in worst.items()},
            }
        )
    _write_csv(folder / "files.csv", ["case_id", "verdict", "failed", *checks], rows)
    columns = [
        "case_id",
        "class_id",
        "class_name",
        "status",
        "volume_ml",
        "voxels",
        "surface",
        "near",
        "inside",
        "near_outside",
    ]
    rows = []
    for r in reports:
        if "volumes_ml" not in r.facts:
            continue
        for c, row in r.classes.items():
            status = next(
                (
                    words
                    for kind, words in (("missing", "missing"), ("not_annotated", "not annotated"), ("border", "cut"))
                    if c in r.facts[kind]
                ),
                "whole",
            )
            rows.append(
                {
                    "case_id": r.case_id,
                    "class_id": c,
                    "class_name": _class_name(r, c),
                    "status": status,
                    "volume_ml": _cell(r.facts["volumes_ml"].get(str(c), 0.0)),
                    **{k: _cell(row.get(k)) for k in columns[5:]},
                }
            )
    _write_csv(folder / "classes.csv", columns, rows)


def _cell(value):
    return "" if value is None or not np.isfinite(value) else f"{value:.6g}"


def _write_csv(path, columns, rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
