"""What is written about a run: metrics.csv, metrics.json, and the table on the terminal. No torch.

metrics.csv has one row per heart and class and one per heart for the union; an undefined value is empty. The columns
are COLUMNS; where baselines were asked for, their Dice stand behind.
"""

import csv
import io
import json

from vecset.atomic import write_text
from vecset.metrics import METRICS, mean_defined, summarise

COLUMNS = ("case_id", "class_id", "class_name", "status", *METRICS)
BASELINES = {"mean_shape": "mean_shape_dice", "nearest_heart": "nearest_heart_dice"}  # rows' name -> column


def table_rows(case_id, scores, baselines=None):
    """The rows of one heart for metrics.csv, as dicts. `baselines`: {name: rows as `scores`} or None."""
    rows = [{"case_id": case_id, **row} for row in scores]
    for name, column in BASELINES.items():
        if baselines:
            for row, other in zip(rows, baselines[name], strict=True):
                row[column] = other["dice"]
    return rows


def write_csv(path, rows):
    """metrics.csv, atomically. None becomes empty, numbers get six digits."""
    columns = list(COLUMNS) + [c for c in BASELINES.values() if rows and c in rows[0]]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[c]) for c in columns])
    write_text(path, text.getvalue())


def _cell(value):
    return "" if value is None else f"{value:.6f}" if isinstance(value, float) else value


def report(rows, hearts, settings):
    """The content of metrics.json: settings, per class the means and counts, per heart its mean and how it was decoded.

    `rows`: of all hearts; `hearts`: {case_id: dict of what is known of it}; `settings`: dict, checkpoint included."""
    classes = summarise(rows)
    for name, column in BASELINES.items():
        if rows and column in rows[0]:
            for class_name, entry in classes.items():
                entry[column] = mean_defined(r[column] for r in rows if r["class_name"] == class_name)
            classes["mean of classes"][column] = mean_defined(
                e[column] for n, e in classes.items() if n not in ("union", "mean of classes"))
    return {"rule": {"ok": "in truth and prediction", "missed": "in the truth only: Dice 0, IoU 0, counted",
                     "invented": "in the prediction only: Dice 0, IoU 0, counted",
                     "absent": "in neither: left out of the means, counted",
                     "not annotated": "masked, left out of the means"},
            "settings": settings, "classes": classes, "hearts": hearts}


def write_json(path, content):
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def table_lines(content):
    """The table for the terminal, from the content of metrics.json: a line per class, their mean, the union."""
    classes = content["classes"]
    shown = {name: name for name in METRICS} | {"dice": "Dice", "iou": "IoU"}
    for name, column in BASELINES.items():
        if column in classes.get("mean of classes", {}):
            shown[column] = {"mean_shape": "mean shape Dice", "nearest_heart": "nearest training heart Dice"}[name]
    counts = {"n": "hearts", "missed": "missed", "invented": "invented", "absent": "absent"}
    names = [n for n in classes if n not in ("union", "mean of classes")] + ["mean of classes", "union"]
    if any(classes[n].get("not_annotated") for n in names):
        counts["not_annotated"] = "not annotated"
    width = max(len(n) for n in names)
    lines = ["  ".join([" " * width, *shown.values(), *counts.values()])]
    for name in names:
        cells = [_number(classes[name][key]).rjust(len(text)) for key, text in shown.items()]
        cells += [str(classes[name].get(key, "")).rjust(len(text)) for key, text in counts.items()]
        lines.append("  ".join([name.ljust(width), *cells]).rstrip())
    return lines


def _number(value):
    return "-" if value is None else f"{value:.3f}"
