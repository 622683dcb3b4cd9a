"""Centre-line Dice (clDice) of two masks, and which classes are thin enough for it. No torch.

Shit et al. 2021 (CVPR, arXiv 2003.07311), equations 1 and 2, with the centre lines of vecset/metrics/centre_line.py:

    topology precision    the share of the prediction's centre line that lies in the true mask
    topology sensitivity  the share of the true centre line that lies in the predicted mask
    clDice                their harmonic mean

A vessel that is a voxel too thin or thick, or moved by less than its radius, keeps its clDice; a branch that is missing
costs sensitivity, a false one precision. Shares are of mm (`weights_mm`), on cubic voxels of voxels as published.

The grid stays as it is. Thinning keeps topology on every grid, and each centre line lies in its own mask, so equal
masks have clDice 1 at any spacing. Resampling would change the masks that are scored.
"""

from collections.abc import Sequence

import numpy as np

from vecset.metrics.centre_line import centre_line, weights_mm

CENTRE_LINES = ("cldice", "topology_precision", "topology_sensitivity")
THICKNESS = "truth_thickness_mm"
# of `class_thickness_mm`, the median over hearts. Coronary and brain arteries have 0.6 to 1.6; next come the left
# atrial appendage and the pulmonary veins with 2.9 and more, which are short and wide.
THIN_MM = 2.0
# Where the truth of one heart is thicker, clDice is not measured: such a class is not thin, and a chamber's centre line
# takes seconds and means little.
MEASURED_MM = 2 * THIN_MM


def centre_line_metrics(truth: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]) -> dict:
    """`CENTRE_LINES` of two masks (X, Y, Z) bool that are not empty; spacing_mm (3,) along the axes."""
    precision = share_inside(centre_line(prediction), truth, spacing_mm)
    sensitivity = share_inside(centre_line(truth), prediction, spacing_mm)
    both = precision + sensitivity
    return dict(zip(CENTRE_LINES, (2 * precision * sensitivity / both if both else 0.0, precision, sensitivity)))


def share_inside(line: np.ndarray, mask: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """The share of a centre line (X, Y, Z) bool, not empty, that lies in `mask` (X, Y, Z) bool."""
    weight = weights_mm(line, spacing_mm)
    return float(weight[mask[line]].sum() / weight.sum())


def thin_classes(rows: Sequence[dict]) -> list:
    """The class ids, in the order of `rows` (of any number of hearts), of the classes that are thin: the median of
    their `THICKNESS` over the hearts whose truth has them is below `THIN_MM`. Without a truth that has it, a class is
    not thin."""
    thickness = {}
    for row in rows:
        if row.get(THICKNESS) is not None:
            thickness.setdefault(row["class_id"], []).append(row[THICKNESS])
    return [c for c, values in thickness.items() if np.median(values) < THIN_MM]


def only_thin(rows: Sequence[dict], prefixes: Sequence[str] = ("",)) -> list[dict]:
    """`rows` of many hearts (copies), with `CENTRE_LINES` (under each of the prefixes) None where the class is not
    thin."""
    thin = set(thin_classes(rows))
    nothing = {prefix + name: None for prefix in prefixes for name in CENTRE_LINES}
    return [row if row.get("class_id") in thin else {**row, **{k: None for k in nothing if k in row}} for row in rows]
