"""The pages of the quality check: tables as JSON and CSV, pictures, and report.html, from the findings of `quality`."""

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from vecset.common.atomic import require_writable, write_text
from vecset.common.errors import InputError, describe_failure
from vecset.common.file_names import fitting_name
from vecset.data.case_file import read_case
from vecset.quality.summary import (
    CLASS_COLUMNS,
    VOXEL_WORDS,
    check_rows,
    class_name,
    class_rows,
    failure_lines,
    named_classes,
    picture_title,
    verdict,
)
from vecset.quality.thresholds import CHECKS, limit_text
from vecset.report.render import write_page


def write_report(folder, source, reports, pictures=6, detailed=False):
    """Tables and pictures of `reports` into `folder`. `source`: the folder or file that was checked; `pictures`: for
    how many files slices are drawn (failed ones first); `detailed`: one file, all its points over the slices. Returns
    a line for each picture that could not be drawn, which costs no other."""
    folder = Path(folder)
    require_writable(folder, "--report")
    record = {
        "verdict": verdict(reports),
        "passed": all(r.passed for r in reports),
        "checks": {n: {"threshold": limit_text(n), "level": c.level, "meaning": c.meaning} for n, c in CHECKS.items()},
        "files": [{**asdict(r), "passed": r.passed} for r in reports],
    }
    write_text(folder / "report.json", json.dumps(_jsonable(record), indent=1, allow_nan=False) + "\n")
    _write_tables(folder, reports)
    drawn, faults = _write_pictures(folder, source, reports, pictures, detailed)
    _write_page(folder / "report.html", reports, drawn)
    return faults


def _write_pictures(folder, source, reports, pictures, detailed):
    """Draws the pictures; returns [(file name, heading)], failed files first, the distributions last, and a line for
    each that could not be drawn."""
    from vecset.report.quality_pictures import write_distributions, write_slices  # matplotlib is slow to import

    for stale in (*folder.glob("slices_*.png"), folder / "distributions.png"):
        stale.unlink(missing_ok=True)
    drawn, faults, source = [], [], Path(source)
    for report in sorted(reports, key=lambda r: r.passed)[:pictures]:
        try:
            case = read_case(source / report.file if source.is_dir() else source)
        except InputError:
            continue  # it has failed as unreadable; there is nothing to draw
        name, title = fitting_name("slices_", report.case_id, ".png"), picture_title(report)
        try:
            if write_slices(folder / name, case, title, detailed=detailed):
                drawn.append((name, title))
        except Exception as error:
            faults.append(describe_failure(folder / name, error))
    try:
        if write_distributions(folder / "distributions.png", reports):
            drawn.append(("distributions.png", "Distributions over all files"))
    except Exception as error:
        faults.append(describe_failure(folder / "distributions.png", error))
    return drawn, faults


def _write_page(path, reports, pictures):
    """report.html; `pictures`: [(name of a file beside it, heading)]."""
    columns = ("check", "worst", "threshold", "failed", "noted", "file")
    write_page(
        path,
        "quality.html",
        title="Data quality",
        verdict=verdict(reports),
        passed=all(r.passed for r in reports),
        failures=[line for r in reports for line in failure_lines(r)],
        notes=[line for r in reports for line in failure_lines(r, "warn")],
        checks=[dict(zip(columns, row)) | {"meaning": CHECKS[row[0]].meaning} for row in check_rows(reports)],
        voxel_words=VOXEL_WORDS,
        class_columns=CLASS_COLUMNS,
        classes=class_rows(reports),
        named=named_classes(reports),
        pictures=pictures,
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
                "noted": " ".join(sorted({f["check"] for f in r.failed("warn")})),
                **{c: _cell(f["value"]) if f else "" for c, f in worst.items()},
            }
        )
    _write_csv(folder / "files.csv", ["case_id", "verdict", "failed", "noted", *checks], rows)
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
        "pieces",
        "contact",
        "loose_pieces",
        "leak",
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
                    "class_name": class_name(r, c),
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
