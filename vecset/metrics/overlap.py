"""How well two label maps agree, per class and for the union of all: overlap, surfaces, volume, topology, and centre
lines of thin classes. No torch.

The rule for classes that are not in both maps (docs/metrics.md), as `status`:
    ok             in truth and prediction
    missed         in the truth only: Dice, IoU and NSD are 0, counted
    invented       in the prediction only: Dice, IoU and NSD are 0, counted
    absent         in neither: undefined (None), left out of averages, counted
    not annotated  nobody looked for it: undefined, masked, and its voxels in the prediction are taken as background

Missed and spurious structures enter every average, so that no average improves by missing one. Overlaps count as 0,
and so do clDice, its precision and its sensitivity (vecset/metrics/cldice.py), of classes that are thin.
Distances are undefined (None in the row) and count as `missing_distance_mm`: the diagonal of the box around the true
heart (around the prediction where the truth is empty), which no distance within that box exceeds. The volume error of a
missed structure is -1; that of a spurious one is undefined and counts as 1.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage

from vecset.common.draws import random_stream
from vecset.data.thickness import class_thickness_mm
from vecset.imaging.class_names import distinct_names
from vecset.imaging.components import components
from vecset.metrics.cldice import CENTRE_LINES, MEASURED_MM, THICKNESS, centre_line_metrics, only_thin
from vecset.metrics.surfaces import TOLERANCES_MM, block_codes, euler_number, surface_metrics

STATUSES = ("ok", "missed", "invented", "absent", "not annotated")
COUNTED = ("ok", "missed", "invented")  # those that enter an average
OVERLAPS = ("dice", "iou")
DISTANCES = ("hd95_mm", "assd_mm")
NSDS = tuple(f"nsd_{tolerance_mm:g}mm" for tolerance_mm in TOLERANCES_MM)
BODY = (
    "volume_ml",
    "truth_volume_ml",
    "relative_volume_error",
    "components",
    "truth_components",
    "euler_number",
    "truth_euler_number",
)
METRICS = OVERLAPS + DISTANCES + NSDS + BODY  # the columns of numbers, in the order of the table
AFTER_THE_REST = (*CENTRE_LINES, THICKNESS)  # those that end the table
SUMMARISED = METRICS + AFTER_THE_REST
PENALTY = "missing_distance_mm"
LIMIT = "floor_"  # prefix of the columns of the resampling limit (vecset/metrics/resampling_limit.py)
RESAMPLES = 2000  # of the bootstrap
_VOXELS_AT_ONCE = 1 << 22


def joint_histogram(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """(C + 1, C + 1) i64: voxels with label i in `truth` and j in `prediction` (integer arrays of one shape).
    Raises ValueError for another shape or a label above `num_classes`."""
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape}: want one shape")
    size = num_classes + 1
    counts = np.zeros(size * size, np.int64)
    truth, prediction = truth.reshape(-1), prediction.reshape(-1)
    for start in range(0, len(truth), _VOXELS_AT_ONCE):
        t, p = (a[start : start + _VOXELS_AT_ONCE] for a in (truth, prediction))
        for name, part in (("truth", t), ("prediction", p)):
            if part.min() < 0 or part.max() > num_classes:
                raise ValueError(f"{name} holds labels {part.min()}..{part.max()}, want 0..{num_classes}")
        counts += np.bincount(t.astype(np.int32) * size + p, minlength=size * size)
    return counts.reshape(size, size)


def score(
    truth: np.ndarray,
    prediction: np.ndarray,
    class_names: Sequence[str],
    annotated: np.ndarray | None = None,
    spacing_mm: np.ndarray | None = None,
) -> list[dict]:
    """One dict per class and a last one for the union: class_id (1..C; empty for the union), class_name, status, and
    `METRICS`, `AFTER_THE_REST` (numbers or None) and `PENALTY`. `annotated`: (C,) bool, all where None. spacing_mm (3,)
    along the axes of the maps (X, Y, Z); without it only what needs no mm: Dice and IoU. Centre lines are measured
    where the truth is thinner than `MEASURED_MM`; whether a class is thin, many hearts say (`only_thin`)."""
    names = distinct_names(class_names)
    annotated = np.ones(len(names), bool) if annotated is None else np.asarray(annotated, bool)
    counts = joint_histogram(truth, prediction, len(names))
    masked = np.flatnonzero(~annotated) + 1
    counts[:, 0] += counts[:, masked].sum(1)  # not annotated: background, in either map
    counts[:, masked] = 0
    counts[0] += counts[masked].sum(0)
    counts[masked] = 0
    rows = [
        {
            "class_id": c,
            "class_name": name,
            **_overlap(counts[c].sum(), counts[:, c].sum(), counts[c, c], annotated[c - 1]),
        }
        for c, name in enumerate(names, 1)
    ]
    rows.append(
        {
            "class_id": "",
            "class_name": "union",
            **_overlap(counts[1:].sum(), counts[:, 1:].sum(), counts[1:, 1:].sum(), annotated.any()),
        }
    )
    if spacing_mm is not None:
        keep = np.concatenate([[0], np.where(annotated, np.arange(1, len(names) + 1), 0)]).astype(np.uint8)
        _measure(rows, keep[truth], keep[prediction], counts, np.asarray(spacing_mm, np.float64))
    return rows


def _overlap(in_truth, in_prediction, in_both, annotated):
    if not annotated:
        return {"status": "not annotated", "dice": None, "iou": None}
    if not in_truth and not in_prediction:
        return {"status": "absent", "dice": None, "iou": None}
    status = "ok" if in_truth and in_prediction else "missed" if in_truth else "invented"
    return {
        "status": status,
        "dice": 2 * int(in_both) / int(in_truth + in_prediction),
        "iou": int(in_both) / int(in_truth + in_prediction - in_both),
    }


def _measure(rows, truth, prediction, counts, spacing_mm):
    """Adds what is measured in mm, and the topology, to `rows` (classes, then the union)."""
    for row in rows:
        row.update(dict.fromkeys((*DISTANCES, *NSDS, *BODY, *AFTER_THE_REST, PENALTY)))
    thickness_mm = _thickness_mm(truth, spacing_mm, len(rows) - 1)
    box = _box(truth > 0, prediction > 0)
    truth, prediction = (np.ascontiguousarray(labels[box]) for labels in (truth, prediction))
    if not truth.size:
        return
    heart = _box(truth > 0) if truth.any() else _box(prediction > 0)
    penalty_mm = float(np.linalg.norm([(s.stop - s.start) * mm for s, mm in zip(heart, spacing_mm)]))
    ml = float(np.prod(spacing_mm)) / 1000
    numbers = [_component_counts(labels, len(rows)) for labels in (truth, prediction)]
    boxes = [ndimage.find_objects(labels, len(rows) - 1) for labels in (truth, prediction)]
    for n, row in enumerate(rows):
        union = is_union(row)
        if row["status"] not in COUNTED:
            continue
        row[PENALTY] = penalty_mm
        if union:
            masks = truth > 0, prediction > 0
            voxels = int(counts[1:].sum()), int(counts[:, 1:].sum())
        else:
            around = _joined(boxes[0][n], boxes[1][n])
            masks = truth[around] == n + 1, prediction[around] == n + 1
            voxels = int(counts[n + 1].sum()), int(counts[:, n + 1].sum())
        codes = [block_codes(mask) for mask in masks]
        row.update(
            truth_volume_ml=voxels[0] * ml,
            volume_ml=voxels[1] * ml,
            truth_components=int(numbers[0][n]),
            components=int(numbers[1][n]),
            truth_euler_number=euler_number(codes[0]),
            euler_number=euler_number(codes[1]),
        )
        if voxels[0]:
            row["relative_volume_error"] = (voxels[1] - voxels[0]) / voxels[0]
        row.update(surface_metrics(*codes, spacing_mm) if all(voxels) else dict.fromkeys(NSDS, 0.0))
        if not union:
            row[THICKNESS] = float(thickness_mm[n]) if voxels[0] else None
            row.update(_centre_lines(masks, voxels, row[THICKNESS], spacing_mm))


def _centre_lines(masks, voxels, truth_thickness_mm, spacing_mm):
    """What a row gets of `CENTRE_LINES`: nothing where the truth is thick."""
    if not all(voxels):
        return dict.fromkeys(CENTRE_LINES, 0.0)
    return centre_line_metrics(*masks, spacing_mm) if truth_thickness_mm < MEASURED_MM else {}


def _thickness_mm(labels, spacing_mm, num_classes):
    """(C,) `class_thickness_mm` of `labels` (X, Y, Z) u8, from a box with the background around them."""
    box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in _box(labels > 0))
    return class_thickness_mm(labels[box], spacing_mm, num_classes)


def _box(*masks):
    """Slices of the box that holds what is True in any mask (X, Y, Z); empty where nothing is."""
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        filled = np.flatnonzero(np.any([mask.any(axis=others) for mask in masks], axis=0))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1) if len(filled) else slice(0, 0))
    return tuple(box)


def _joined(box, other):
    """The slices that hold both boxes; either may be None."""
    if box is None or other is None:
        return box or other
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(box, other))


def _component_counts(labels, size):
    """(size,) components (through faces, edges, corners) of classes 1..size - 1 and, last, of the whole foreground."""
    parts, whole = components(labels)
    return np.append(np.bincount(parts.label, minlength=size)[1:size], len(whole.label))


def counted_value(row: dict, metric: str, prefix: str = "") -> float | None:
    """What a row's metric counts as in an average: its value, or what stands for it by the rule above, or None."""
    value = row.get(prefix + metric)
    if value is not None or row["status"] not in COUNTED:
        return value
    if metric in DISTANCES and row.get(f"{prefix}dice") == 0:
        return row.get(PENALTY)
    if metric == "relative_volume_error" and not prefix and row["status"] == "invented" and row.get("volume_ml"):
        return 1.0
    return None


def mean_defined(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None; None where there is none."""
    values = [v for v in values if v is not None]
    return float(np.mean(values)) if values else None


def is_union(row: dict) -> bool:
    """Whether a row is that of the union of all classes, not of a class."""
    return row["class_id"] == "" if "class_id" in row else row["class_name"] == "union"


def mean_over_classes(rows: Sequence[dict], metric: str = "dice") -> float | None:
    """The mean over the classes that count in one heart (the union is no class); None where none does."""
    return mean_defined(row[metric] for row in rows if not is_union(row))


def summarise(rows: Sequence[dict], metrics: Sequence[str] = SUMMARISED, seed: int = 0) -> dict[str, dict]:
    """Rows of many hearts -> {class_name: entry}, classes by their ids (`distinct_names` of them where two have one
    name), and the entry `mean of classes`, the mean over the classes of their
    means. An entry: {metric: mean or None, metric + "_ci95": [low, high] or None, absolute_volume_error: mean of the
    relative ones without sign, true_components: the share of hearts with as many components as the truth, n: hearts in
    the mean, and how many hearts have each status}. Centre lines are those of thin classes alone (`only_thin`).

    The interval is the middle 95 % of the means of `RESAMPLES` draws of as many hearts with replacement (percentile
    bootstrap over hearts, Efron 1979); None for fewer than two hearts."""
    rows = only_thin(rows, ("", LIMIT))
    classes = list(dict.fromkeys(map(_class_of_row, rows)))
    names = _names_of(classes, rows)
    hearts = {case: k for k, case in enumerate(dict.fromkeys(row.get("case_id") for row in rows))}
    place, summary = {}, {}
    for row in rows:  # rows without a case_id: the nth row of a class is that of the nth heart
        number = classes.index(_class_of_row(row))
        entry = summary.setdefault(names[number], {"n": 0, **{s.replace(" ", "_"): 0 for s in STATUSES}})
        seen = sum(entry[s.replace(" ", "_")] for s in STATUSES)
        place[id(row)] = (hearts[row["case_id"]] if "case_id" in row else seen, number)
        entry[row["status"].replace(" ", "_")] += 1
        entry["n"] += row["status"] in COUNTED
    size = 1 + max((at[0] for at in place.values()), default=-1)
    draws = (
        random_stream(seed, 0, "", "bootstrap over hearts").multinomial(
            size, np.full(size, 1 / max(size, 1)), RESAMPLES
        )
        if size > 1
        else None
    )
    classes = [k for k, key in enumerate(classes) if key != "union"]
    summary["mean of classes"] = {}
    limits = [f"{LIMIT}{metric}" for metric in metrics if rows and f"{LIMIT}{metric}" in rows[0]]
    for key in (*metrics, *limits):
        prefix, metric = (LIMIT, key.removeprefix(LIMIT)) if key.startswith(LIMIT) else ("", key)
        table = np.full((size, len(names)), np.nan)
        for row in rows:
            value = counted_value(row, metric, prefix)
            table[place[id(row)]] = np.nan if value is None else value
        _enter(summary, names, classes, key, table, None if prefix else draws)
        if key == "relative_volume_error":
            _enter(summary, names, classes, "absolute_volume_error", np.abs(table), draws)
        if metric == "components":
            true = np.full((size, len(names)), np.nan)
            for row in rows:
                if row["status"] in COUNTED and row.get(key) is not None and row.get("truth_components") is not None:
                    true[place[id(row)]] = row[key] == row["truth_components"]
            _enter(summary, names, classes, f"{prefix}true_components", true, None if prefix else draws)
    return summary


def _class_of_row(row):
    """What a row's class is recognised by: its id, its name where the row has no id, "union" for the union."""
    return "union" if is_union(row) else int(row["class_id"]) if "class_id" in row else row["class_name"]


def _names_of(classes, rows):
    """The names of `classes` (as `_class_of_row` gives them), no two the same."""
    first = {}
    for row in rows:
        first.setdefault(_class_of_row(row), row["class_name"])
    ids = sorted(key for key in classes if isinstance(key, int))
    names = [first.get(c, f"class_{c}") for c in range(1, max(ids, default=0) + 1)]
    apart = dict(zip(range(1, len(names) + 1), distinct_names(names)))
    return [apart[key] if isinstance(key, int) else key for key in classes]


def _enter(summary, names, classes, key, table, draws):
    """Means and intervals of `table` (hearts, classes), NaN where undefined, into the entries of `summary`."""
    defined = ~np.isnan(table)
    values = np.where(defined, table, 0)

    def means(weights):  # (R, hearts) -> (R, classes), (R,): NaN where no heart drawn has a value
        with np.errstate(invalid="ignore", divide="ignore"):
            per_class = (weights @ values) / (weights @ defined)
            chosen = per_class[:, classes]
            return per_class, np.nansum(chosen, 1) / (~np.isnan(chosen)).sum(1)

    per_class, over_classes = means(np.ones((1, len(table))))
    columns = [*zip(names, per_class[0]), ("mean of classes", over_classes[0])]
    if draws is not None:
        drawn, drawn_over_classes = means(draws)
        drawn = np.column_stack([drawn, drawn_over_classes])
    for k, (name, mean) in enumerate(columns):
        summary[name][key] = None if np.isnan(mean) else float(mean)
        if key.startswith(LIMIT):
            continue
        some = drawn[:, k][~np.isnan(drawn[:, k])] if draws is not None else ()
        enough = (defined[:, k] if k < len(names) else defined[:, classes].any(1)).sum() > 1
        summary[name][f"{key}_ci95"] = [float(q) for q in np.percentile(some, (2.5, 97.5))] if enough else None
