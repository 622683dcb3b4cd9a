"""The figures for the HTML pages, read from what a run wrote: metrics.csv, metrics.json, the training log. No torch.

Columns are taken by name: every column of numbers in metrics.csv can be chosen for the box plot, and every mean in
metrics.json is a column of the table, whatever the version that wrote them. The means, and the rule for what is
missing, are metrics.json's own."""

import csv
import json
import math
from pathlib import Path

import numpy as np

from vecset.common.errors import InputError
from vecset.imaging.class_names import distinct_names
from vecset.imaging.classes import ClassNames, class_colours
from vecset.report.tables import part_means

COUNTS = ("n", "ok", "missed", "invented", "absent", "not_annotated", "inferred")
MEAN, UNION = "mean of classes", "union"
_NOT_FIGURES = ("case_id", "class_id", "class_name", "status", "missing_distance_mm")
_WORDS = {
    "dice": "Dice",
    "cldice": "clDice",
    "iou": "IoU",
    "hd95": "HD95",
    "assd": "ASSD",
    "nsd": "NSD",
    "1mm": "at 1 mm",
    "2mm": "at 2 mm",
    "mm": "(mm)",
    "ml": "(ml)",
    "floor": "resampling limit:",
    "euler": "Euler",
}
_WHOLE_WORDS = {"cldice": "clDice", "true_components": "Hearts with the true number of components (share)"}
_ASIDE = (  # shown when asked for; with them all `truth_...`
    "relative_volume_error",
    "components",
    "euler_number",
    "topology_precision",
    "topology_sensitivity",
)
_BESIDE = {"cldice": "dice"}  # a mean of few classes, and the one it is read with
_MAX_POINTS = 600  # of one training curve


def read_figures(output_dir: str | Path) -> dict:
    """What a run's results say, as a dict: `metrics` (columns of numbers in metrics.csv); `rows` {(case_id, class id
    or None for the union): row, its numbers as float or None}; `classes` [(id, name)]; `cases` [ids]; and of
    metrics.json `summary` {class_name: entry}, `part_means` {name of a row: entry}, `hearts` {case_id: entry},
    `settings`. InputError where the folder has none."""
    output_dir = Path(output_dir)
    try:
        with open(output_dir / "metrics.csv", newline="", encoding="utf-8") as handle:
            reader = csv.DictReader(handle)
            table, columns = list(reader), list(reader.fieldnames or ())
        stored = json.loads((output_dir / "metrics.json").read_text(encoding="utf-8"))
        numbers = [c for c in columns if c not in _NOT_FIGURES[:4] and _are_numbers(row[c] for row in table)]
        rows = {
            (row["case_id"], int(row["class_id"]) if row["class_id"] else None): {
                **row,
                **{m: _number(row[m]) for m in numbers},
            }
            for row in table
        }
        classes = list(dict.fromkeys((int(row["class_id"]), row["class_name"]) for row in table if row["class_id"]))
        figures = {
            "metrics": [m for m in numbers if m not in _NOT_FIGURES],
            "rows": rows,
            "classes": classes,
            "cases": list(dict.fromkeys(row["case_id"] for row in table)),
            "settings": stored["settings"],
            "summary": stored["classes"],
            "part_means": part_means(stored),
            "hearts": stored["hearts"],
        }
    except FileNotFoundError as error:
        raise InputError.because(
            error.filename, "no such file", "reconstruct hearts that have a true label map"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError.because(
            output_dir,
            f"metrics.csv and metrics.json are not as reconstruct.py writes them ({type(error).__name__}: {error})",
            "run reconstruct.py again",
        ) from None
    if not classes:
        raise InputError.because(output_dir / "metrics.csv", "no rows of classes in it", "run reconstruct.py again")
    names = [name for _, name in classes]
    if len({c for c, _ in classes}) < len(classes) or distinct_names(names) != names:
        raise InputError.because(
            output_dir / "metrics.csv",
            "two classes have the same name, or one the name of the union, so that metrics.json has one mean for both",
            "run reconstruct.py again",
        )
    return figures


def colours_of(figures: dict) -> list[str]:
    """The colours of the classes 1.. to the highest id of `read_figures`, as '#RRGGBB'."""
    names = dict(figures["classes"])
    own = (figures.get("settings") or {}).get("class_colours")  # of a project's own table
    return class_colours(ClassNames([names.get(c) for c in range(1, max(names) + 1)], colours=own))


def _number(text):
    return float(text) if text not in ("", None) else None


def _are_numbers(cells):
    """Whether all cells are numbers or empty, and one is a finite number."""
    try:
        values = [_number(cell) for cell in cells]
    except ValueError:
        return False
    return any(v is not None and math.isfinite(v) for v in values)


def metric_words(name: str) -> str:
    """'hd95_mm' -> 'HD95 (mm)': a column's name for the reader."""
    if name in _WHOLE_WORDS:
        return _WHOLE_WORDS[name]
    words = " ".join(_WORDS.get(part, part) for part in name.split("_"))
    return words if words[0].isupper() or words[1:2].isupper() else words[0].upper() + words[1:]


def status_words(status: str) -> str:
    """The word for a value of `status` (or of a count in metrics.json): 'invented' is told as 'spurious'."""
    return {"invented": "spurious", "n": "hearts"}.get(status, status.replace("_", " "))


def better(name: str) -> int:
    """1 where a larger figure is better, -1 where a smaller one is, 0 where neither holds."""
    parts = set(name.split("_"))
    if parts & {"dice", "iou", "nsd", "cldice", "topology"} or name.endswith("true_components"):
        return 1
    return -1 if parts & {"hd95", "assd"} or name == "absolute_volume_error" else 0


def table_columns(summary: dict) -> list[str]:
    """The names of the means in metrics.json that a class has: no counts, intervals and resampling limits."""
    names = dict.fromkeys(key for entry in summary.values() for key, value in entry.items() if value is not None)
    names = [n for n in names if n not in COUNTS and not n.endswith("_ci95") and not n.startswith("floor_")]
    for name, other in _BESIDE.items():
        if name in names and other in names:
            names.remove(name)
            names.insert(names.index(other) + 1, name)
    return names


def table(figures: dict) -> dict:
    """{columns: [{name, words, better, aside}], counts: [names], rows: [{name, id, cells: [{mean, interval, floor}],
    counts}]}: a row per class, then the mean of classes, those of what was given, of what was inferred and of each of
    several data sets, and the union."""
    means = figures.get("part_means", {})
    summary = figures["summary"] | means
    columns = table_columns(figures["summary"])
    whole = [n for n in (MEAN, *means, UNION) if n in summary]
    names = [(c, name) for c, name in figures["classes"]] + [(None, n) for n in whole]
    counts = [k for k in COUNTS if k not in ("ok", "not_annotated", "inferred")]
    counts += [k for k in ("not_annotated", "inferred") if any(entry.get(k) for entry in summary.values())]
    return {
        "columns": [{**column(n), "aside": n.startswith("truth_") or n in _ASIDE} for n in columns],
        "counts": [status_words(k) for k in counts],
        "rows": [
            {
                "id": c,
                "name": name,
                "counts": [summary[name].get(k) for k in counts],
                "cells": [
                    {
                        "mean": summary[name].get(m),
                        "interval": summary[name].get(f"{m}_ci95"),
                        "floor": summary[name].get(f"floor_{m}"),
                    }
                    for m in columns
                ],
            }
            for c, name in names
        ],
    }


def column(name: str) -> dict:
    return {"name": name, "words": metric_words(name), "better": better(name)}


def boxes(figures_of_runs: list[dict], cases: list[str]) -> dict:
    """For the box plots: {metrics: [{name, words, better}], cases: [ids], rows: [{name, id, status and observed: [per
    run [per case]], values: {metric: [per run [per case: number or None]]}}]}, of the metrics that all runs have."""
    first = figures_of_runs[0]
    metrics = [m for m in first["metrics"] if all(m in f["metrics"] for f in figures_of_runs)]
    rows = []
    for c, name in [*first["classes"], (None, UNION)]:
        mine = [[figures["rows"].get((case, c), {}) for case in cases] for figures in figures_of_runs]
        rows.append(
            {
                "id": c,
                "name": name,
                "status": [[row.get("status") for row in run] for run in mine],
                "observed": [[row.get("observed") for row in run] for run in mine],
                "values": {m: [[_rounded(row.get(m)) for row in run] for run in mine] for m in metrics},
            }
        )
    return {"metrics": [column(m) for m in metrics], "cases": list(cases), "rows": rows}


def _rounded(value):
    return None if value is None else float(f"{value:.6g}")


def training_curves(run_dir: str | Path) -> dict | None:
    """Of a run folder's log.txt: {kind: {name: [values]}} for the kinds `train` and `val`, `global_step` among the
    names; None where there is none. What was not finite becomes None; long curves are thinned evenly."""
    try:
        text = (Path(run_dir) / "log.txt").read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    records = {"train": [], "val": []}
    for line in text.splitlines():
        try:
            record = json.loads(line)
            records[record["kind"]].append(record)
        except (ValueError, KeyError, TypeError):  # the half line of a running writer
            continue
    curves = {}
    for kind, mine in records.items():
        if len(mine) > _MAX_POINTS:
            mine = [mine[i] for i in np.unique(np.linspace(0, len(mine) - 1, _MAX_POINTS).astype(int))]
        names = dict.fromkeys(name for record in mine for name, value in record.items() if _is_figure(value))
        curves[kind] = {name: [_rounded(r[name]) if _is_figure(r.get(name)) else None for r in mine] for name in names}
    return curves if any(curves.values()) else None


def _is_figure(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
