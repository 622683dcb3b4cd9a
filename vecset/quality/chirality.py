"""Whether a heart is mirrored, judged by the relative positions of its named structures.

No other check detects a file, or a folder, in which everything is mirrored alike. The centroids are fitted to a
reference heart by rotation, shift and scaling, once as they are and once mirrored; the better fit decides. All
structures count, so that one that is missing, cut or oddly placed does not decide. Measured accuracy: docs/log.md.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from vecset.imaging.structure_names import class_of


class Landmark(NamedTuple):
    """Where a structure lies in the reference heart, and its weight in the fit."""

    centroid_mm: tuple[float, float, float]
    weight: float = 1.0


# Centroids in mm along patient axes (RAS: left is negative x), relative to their mean: the mean of 200 phantoms of
# make_phantoms.py --seed 0, rotated onto each other. The aorta weighs little: how much of it a scan shows, and so its
# centroid, varies most.
REFERENCE = {
    "myocardium": Landmark((-25, 19, -19)),
    "la": Landmark((9, -23, -3)),
    "lv": Landmark((-23, 17, -18)),
    "ra": Landmark((42, 15, -11)),
    "rv": Landmark((3, 45, -20)),
    "aorta": Landmark((6, -30, 22), weight=0.25),
    "pa": Landmark((4, -12, 34)),
    "laa": Landmark((-19, -8, 26)),
    "coronary": Landmark((-5, 18, -10)),
    "pv": Landmark((9, -40, -2)),
}
LEAST_STRUCTURES = 5
LEAST_DEPTH = 0.126  # of `depth`: structures in a plane coincide with their mirror image
MOST_EXEMPLARS = 25  # hearts that are compared pairwise to find what most of them look like


def depth(points_mm: np.ndarray, weights: np.ndarray) -> float:
    """How far points (n, 3) with `weights` (n,) are from lying in a plane: the smallest singular value over the root of
    the sum of squares; 0 in a plane."""
    weights = weights / weights.sum()
    spread = np.linalg.svd((points_mm - weights @ points_mm) * np.sqrt(weights)[:, None], compute_uv=False)
    return float(spread[2] / max(np.linalg.norm(spread), 1e-12))


def handedness(points_mm: np.ndarray, reference_mm: np.ndarray, weights: np.ndarray) -> float:
    """(m - t) / (m + t), where t and m are the squared misfits of `points_mm` (n, 3) to `reference_mm` (n, 3) after the
    best rotation, shift and scaling, without (t) and with (m) a reflection.

    Near 1 for a good fit; the mirror image has the negative value; rotation, shift and scaling do not change it.
    """
    weights = weights / weights.sum()
    a, b = points_mm - weights @ points_mm, reference_mm - weights @ reference_mm
    u, s, vt = np.linalg.svd((a * weights[:, None]).T @ b)
    sign = np.sign(np.linalg.det(u @ vt))
    size = (weights @ a**2).sum() * (weights @ b**2).sum()
    turned, mirrored = (1 - (s[0] + s[1] + side * s[2]) ** 2 / max(size, 1e-12) for side in (sign, -sign))
    return float((mirrored - turned) / max(mirrored + turned, 1e-12))


def heart_handedness(centroids_mm: dict[str, list[float]], class_names: list[str]) -> float | None:
    """`handedness` of a heart against REFERENCE; `centroids_mm`: {class id as text: (3,) in patient mm}.

    None where fewer than LEAST_STRUCTURES have names of the reference, or where those lie nearly in a plane.
    """
    structures = {c: str(class_of(class_names[int(c) - 1])).lower() for c in centroids_mm}
    times = Counter(structures.values())  # of two classes that stand for one structure neither is compared
    known = {name: centroids_mm[c] for c, name in structures.items() if name in REFERENCE and times[name] == 1}
    if len(known) < LEAST_STRUCTURES:
        return None
    reference_mm = np.array([REFERENCE[name].centroid_mm for name in known], float)
    weights = np.array([REFERENCE[name].weight for name in known], float)
    if depth(reference_mm, weights) < LEAST_DEPTH:
        return None
    return handedness(np.array(list(known.values())), reference_mm, weights)


def population_handedness(hearts_mm: np.ndarray) -> np.ndarray | None:
    """(h,) `handedness` of each of `hearts_mm` (h, n, 3), the same n structures in each, against the median of the
    hearts after fitting them to the most typical one.

    None where there are fewer than LEAST_STRUCTURES, where they lie nearly in a plane, or where their positions differ
    too much from heart to heart to decide.
    """
    hearts_mm = np.asarray(hearts_mm, float)
    weights = np.ones(hearts_mm.shape[1])
    if hearts_mm.shape[1] < LEAST_STRUCTURES:
        return None
    some = hearts_mm[np.linspace(0, len(hearts_mm) - 1, min(len(hearts_mm), MOST_EXEMPLARS)).astype(int)]
    mutual = np.array([[handedness(a, b, weights) for b in some] for a in some])
    typical_mm = some[np.argmax(np.median(mutual, axis=1))]  # most of the others have its handedness
    median_mm = np.median([_fitted(h, typical_mm) for h in some], axis=0)
    if depth(median_mm, weights) < LEAST_DEPTH:
        return None
    found = np.array([handedness(h, median_mm, weights) for h in hearts_mm])
    return found if np.quantile(np.abs(found), 0.1) > 0.3 and np.median(found) > 0.5 else None


def _fitted(points_mm, reference_mm):
    """`points_mm` (n, 3) rotated, shifted and scaled onto `reference_mm` (n, 3), about its mean; no reflection."""
    a, b = points_mm - points_mm.mean(0), reference_mm - reference_mm.mean(0)
    u, s, vt = np.linalg.svd(a.T @ b)
    side = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    return a @ u @ side @ vt * (s * np.diag(side)).sum() / max((a**2).sum(), 1e-12)
