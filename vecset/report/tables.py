"""What is written about a run: metrics.csv, metrics.json, and the table on the terminal. No torch.

metrics.csv has one row per heart and class and one per heart for the union; an undefined value is empty. The columns
are COLUMNS: the metrics (vecset/metrics/overlap.py), what a missed structure's distances count as in averages, and the
same metrics of the resampling limit (vecset/metrics/resampling_limit.py); then the Dice of baselines, if any; then
LAST_COLUMNS: the centre lines of thin classes, those of the limit, and what of the heart the model was given.
"""

import csv
import io
import json
from pathlib import Path

from vecset.common.atomic import write_text
from vecset.common.errors import one_line
from vecset.imaging.class_names import distinct_names
from vecset.metrics.cldice import CENTRE_LINES, THIN_MM, only_thin, thin_classes
from vecset.metrics.overlap import AFTER_THE_REST, LIMIT, METRICS, PENALTY, is_union, mean_defined, summarise

LIMIT_COLUMNS = {f"{LIMIT}{metric}": metric for metric in METRICS if not metric.startswith("truth_")}
COLUMNS = ("case_id", "class_id", "class_name", "status", *METRICS, PENALTY, *LIMIT_COLUMNS)
LAST_LIMIT_COLUMNS = {f"{LIMIT}{metric}": metric for metric in CENTRE_LINES}
OBSERVED_KINDS = ("given", "inferred")
DATASETS = "datasets"  # in metrics.json
OBSERVED = "observed"  # of a class in a heart: given, inferred, or empty where it is neither
LAST_COLUMNS = (*AFTER_THE_REST, *LAST_LIMIT_COLUMNS, OBSERVED)
# what the terminal shows of the means: (metric, its name there, digits); metrics.json has all
SHOWN = (
    ("dice", "Dice", 3),
    ("cldice", "clDice", 3),
    ("iou", "IoU", 3),
    ("hd95_mm", "HD95 mm", 2),
    ("assd_mm", "ASSD mm", 2),
    ("nsd_1mm", "NSD 1 mm", 3),
    ("nsd_2mm", "NSD 2 mm", 3),
    ("volume_ml", "ml", 1),
    ("absolute_volume_error", "|vol. err.|", 3),
    ("true_components", "true comp.", 2),
)
WITH_INTERVAL = ("dice", "hd95_mm")
WITH_LIMIT = ("dice", "cldice")
BASELINES = {"mean_shape": "mean_shape_dice", "nearest_heart": "nearest_heart_dice"}  # rows' name -> column


def table_rows(
    case_id: str, scores: list[dict], baselines: dict[str, list[dict]] | None = None, floor: list[dict] | None = None
) -> list[dict]:
    """The rows of one heart for metrics.csv, as dicts. `baselines`: {name: rows as `scores`} or None; `floor`: rows as
    `scores` of the truth against what its own surface points say."""
    names = distinct_names([row["class_name"] for row in scores if not is_union(row)])  # older results have equal ones
    rows = [{"case_id": case_id, **row} for row in scores]
    for row, name in zip((row for row in rows if not is_union(row)), names, strict=True):
        row["class_name"] = name
    for row, other in zip(rows, floor or (), strict=bool(floor)):
        row.update({column: other.get(metric) for column, metric in (LIMIT_COLUMNS | LAST_LIMIT_COLUMNS).items()})
    for name, column in BASELINES.items():
        if baselines:
            for row, other in zip(rows, baselines[name], strict=True):
                row[column] = other["dice"]
    return rows


def write_csv(path: str | Path, rows: list[dict]) -> None:
    """metrics.csv, atomically, of the rows of all hearts. None becomes empty, numbers get six digits. Centre lines are
    those of thin classes alone."""
    columns = list(COLUMNS) + [c for c in BASELINES.values() if rows and c in rows[0]] + list(LAST_COLUMNS)
    rows = only_thin(rows, ("", LIMIT))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(c)) for c in columns])
    write_text(path, text.getvalue())


def _cell(value):
    return "" if value is None else f"{value:.6f}" if isinstance(value, float) else value


def report(rows: list[dict], hearts: dict[str, dict], settings: dict) -> dict:
    """The content of metrics.json: settings, per class the means and counts, which classes are thin, per heart its mean
    and how it was decoded; where something is inferred, `observed`: the means of the rows that are given, and of those
    that are inferred; where the hearts are of several data sets, `datasets`: the means of each.

    `rows`: of all hearts; `hearts`: {case_id: dict of what is known of it, its `dataset` if it is of one}; `settings`:
    dict, checkpoint included."""
    classes = _with_baselines(summarise(rows), rows)
    observed = {kind: [row for row in rows if row.get(OBSERVED) == kind] for kind in OBSERVED_KINDS}
    for name, entry in classes.items():
        count = sum(row["class_name"] == name for row in observed["inferred"] if not is_union(row))
        if count:
            entry["inferred"] = count
    name_of = {row["class_id"]: row["class_name"] for row in rows}
    parts = {}
    if observed["inferred"]:
        parts[OBSERVED] = {kind: _with_baselines(summarise(mine), mine) for kind, mine in observed.items()}
    datasets = sorted({heart["dataset"] for heart in hearts.values() if heart.get("dataset")})
    if len(datasets) > 1:
        parts[DATASETS] = {}
        for name in datasets:
            mine = [row for row in rows if hearts[row["case_id"]].get("dataset") == name]
            parts[DATASETS][name] = _with_baselines(summarise(mine), mine)
    return {
        "rule": {
            "ok": "in truth and prediction",
            "missed": "in the truth only: Dice 0, IoU 0, counted",
            "invented": "in the prediction only: Dice 0, IoU 0, counted",
            "distances": "undefined where missed or spurious; count in the means as the diagonal of the box "
            "round the heart (missing_distance_mm)",
            "cldice": f"of thin classes: median of truth_thickness_mm below {THIN_MM:g}; 0 where missed or spurious",
            "true_components": "the part of the hearts with as many components as the truth",
            "volume": "relative error -1 where missed; where invented undefined, counts as 1 in the means",
            "intervals": "95 %, bootstrap over hearts",
            "floor": "the truth against what its own surface points say, on its own voxels",
            "absent": "in neither: left out of the means, counted",
            "not annotated": "masked, left out of the means",
            "datasets": "the same, of the hearts of one data set",
            "observed": "given: the model saw something of it; inferred: unknown to the model, and drawn",
        },
        "settings": settings,
        "classes": classes,
        **parts,
        "thin_classes": [name_of[c] for c in thin_classes(rows)],
        "hearts": hearts,
    }


def _with_baselines(summary, rows):
    """`summarise` of rows, with the means of the baselines, if they have any."""
    for column in BASELINES.values():
        if rows and column in rows[0]:
            for class_name, entry in summary.items():
                entry[column] = mean_defined(r[column] for r in rows if r["class_name"] == class_name)
            summary["mean of classes"][column] = mean_defined(
                e[column] for n, e in summary.items() if n not in ("union", "mean of classes")
            )
    return summary


def part_means(content: dict) -> dict[str, dict]:
    """{"mean of given": entry, "mean of inferred": entry}, the means over the classes that were given and over those
    that were inferred, where something was; and {"mean of NAME": entry} of each of several data sets. From the content
    of metrics.json."""
    parts = {**content.get(OBSERVED, {}), **content.get(DATASETS, {})}
    return {f"mean of {part}": classes["mean of classes"] for part, classes in parts.items()}


def write_json(path: str | Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def table_lines(content: dict) -> list[str]:
    """The table for the terminal, from the content of metrics.json: a line per class, their mean, the union; before it
    the remark in the settings, if there is one."""
    means = part_means(content)
    names = [n for n in content["classes"] if n not in ("union", "mean of classes")]
    classes = content["classes"] | means
    names += ["mean of classes", *means, "union"]
    shown = []  # (title, {class name: text})
    for key, title, digits in SHOWN:
        if any(classes[n].get(key) is not None for n in names):
            shown.append((title, {n: _number(classes[n].get(key), digits) for n in names}))
            if key in WITH_INTERVAL and any(classes[n].get(f"{key}_ci95") for n in names):
                shown.append(("95 % of mean", {n: _interval(classes[n].get(f"{key}_ci95"), digits) for n in names}))
            if key in WITH_LIMIT and any(classes[n].get(f"{LIMIT}{key}") is not None for n in names):
                shown.append(("limit", {n: _number(classes[n].get(f"{LIMIT}{key}")) for n in names}))
    for name, column in BASELINES.items():
        if column in classes.get("mean of classes", {}):
            title = {"mean_shape": "mean shape Dice", "nearest_heart": "nearest training heart Dice"}[name]
            shown.append((title, {n: _number(classes[n][column]) for n in names}))
    counts = {"n": "hearts", "missed": "missed", "invented": "spurious", "absent": "absent"}
    if any(classes[n].get("not_annotated") for n in names):
        counts["not_annotated"] = "not annotated"
    if content.get(OBSERVED):
        counts["inferred"] = "inferred"
    shown += [(title, {n: str(classes[n].get(key, "")) for n in names}) for key, title in counts.items()]
    width = max(len(n) for n in names)
    widths = [max(len(title), *(len(text) for text in column.values())) for title, column in shown]
    remark = content.get("settings", {}).get("remark")
    lines = [one_line(remark)] if remark else []
    lines += ["  ".join([" " * width, *(title.rjust(w) for (title, _), w in zip(shown, widths))])]
    for name in names:
        cells = [column[name].rjust(w) for (_, column), w in zip(shown, widths)]
        lines.append("  ".join([name.ljust(width), *cells]).rstrip())
    return lines


def _number(value, digits=3):
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(pair, digits=3):
    return "-" if pair is None else f"{pair[0]:.{digits}f} to {pair[1]:.{digits}f}"
