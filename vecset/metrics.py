"""How well two label maps agree, per class: numpy only, one joint histogram.

The rule for classes that are not in both maps (docs/design.md, "Tables"), as `status`:
    ok             in truth and prediction
    missed         in the truth only: Dice 0, IoU 0, counted
    invented       in the prediction only: Dice 0, IoU 0, counted
    absent         in neither: undefined (None), left out of averages, counted
    not annotated  nobody looked for it: undefined, masked, and its voxels in the prediction are taken as background

`missed` and `invented` enter the averages as 0, so that an average never improves by missing a structure.
"""

import numpy as np

STATUSES = ("ok", "missed", "invented", "absent", "not annotated")
COUNTED = ("ok", "missed", "invented")  # those that enter an average
METRICS = ("dice", "iou")  # the columns of numbers, in the order of the table
_VOXELS_AT_ONCE = 1 << 22


def joint_histogram(truth, prediction, num_classes):
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


def score(truth, prediction, class_names, annotated=None):
    """One dict per class and a last one for the union: class_id (1..C; empty for the union), class_name, status, and
    `METRICS` (float or None). `annotated`: (C,) bool, all where None. Voxel counts only: Dice and IoU need no mm."""
    names = list(class_names)
    annotated = np.ones(len(names), bool) if annotated is None else np.asarray(annotated, bool)
    counts = joint_histogram(truth, prediction, len(names))
    masked = np.flatnonzero(~annotated) + 1
    counts[:, 0] += counts[:, masked].sum(1)  # not annotated: background, in either map
    counts[:, masked] = 0
    counts[0] += counts[masked].sum(0)
    counts[masked] = 0
    rows = [{"class_id": c, "class_name": name,
             **_overlap(counts[c].sum(), counts[:, c].sum(), counts[c, c], annotated[c - 1])}
            for c, name in enumerate(names, 1)]
    rows.append({"class_id": "", "class_name": "union",
                 **_overlap(counts[1:].sum(), counts[:, 1:].sum(), counts[1:, 1:].sum(), annotated.any())})
    return rows


def _overlap(in_truth, in_prediction, in_both, annotated):
    if not annotated:
        return {"status": "not annotated", "dice": None, "iou": None}
    if not in_truth and not in_prediction:
        return {"status": "absent", "dice": None, "iou": None}
    status = "ok" if in_truth and in_prediction else "missed" if in_truth else "invented"
    return {"status": status, "dice": 2 * int(in_both) / int(in_truth + in_prediction),
            "iou": int(in_both) / int(in_truth + in_prediction - in_both)}


def mean_defined(values):
    """Mean of the values that are not None; None where there is none."""
    values = [v for v in values if v is not None]
    return float(np.mean(values)) if values else None


def mean_over_classes(rows, metric="dice"):
    """The mean over the classes that count in one heart (the union is no class); None where none does."""
    return mean_defined(row[metric] for row in rows if row["class_name"] != "union")


def summarise(rows):
    """Rows of many hearts -> {class_name: {metric: mean or None, n: hearts in the mean, and how many hearts have each
    status}}, and `mean of classes`: the mean over the classes of their means."""
    summary = {}
    for row in rows:
        entry = summary.setdefault(row["class_name"], {"rows": []})
        entry["rows"].append(row)
    for name, entry in summary.items():
        mine = entry.pop("rows")
        entry.update({metric: mean_defined(row[metric] for row in mine) for metric in METRICS})
        entry["n"] = sum(row["status"] in COUNTED for row in mine)
        entry.update({status.replace(" ", "_"): sum(row["status"] == status for row in mine) for status in STATUSES})
    classes = [entry for name, entry in summary.items() if name != "union"]
    summary["mean of classes"] = {metric: mean_defined(entry[metric] for entry in classes) for metric in METRICS}
    return summary
