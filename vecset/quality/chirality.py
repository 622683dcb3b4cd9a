"""Is a heart mirrored? Told from where its named structures lie to each other, for no other check can see it when a
whole file, or a whole folder, is mirrored alike.

The centroids are laid over a reference heart twice, turned and scaled alone and mirrored as well; the better fit says
which it is. All structures that are there have their say, so that one that is missing, cut or oddly placed does not
decide. Figures: docs/log.md.
"""

import numpy as np

# Centroids in mm, patient axes (RAS: left is negative x), about their middle: the mean of 200 phantoms of
# make_phantoms.py --seed 0, turned onto each other. The weight of the aorta is low, for how much of it is in a scan,
# and so its centroid, differs most.
REFERENCE = {
    "myocardium": ((-25, 19, -19), 1),
    "la": ((9, -23, -3), 1),
    "lv": ((-23, 17, -18), 1),
    "ra": ((42, 15, -11), 1),
    "rv": ((3, 45, -20), 1),
    "aorta": ((6, -30, 22), 0.25),
    "pa": ((4, -12, 34), 1),
    "laa": ((-19, -8, 26), 1),
    "coronary": ((-5, 18, -10), 1),
    "pv": ((9, -40, -2), 1),
}
LEAST_STRUCTURES = 5
LEAST_DEPTH = 0.126  # share of the spread that is across the plane of the structures: flat ones have no mirror image


def depth(points_mm, weights):
    """How far points (n, 3) are from lying in a plane: smallest singular value over the root of the sum of squares."""
    weights = weights / weights.sum()
    spread = np.linalg.svd((points_mm - weights @ points_mm) * np.sqrt(weights)[:, None], compute_uv=False)
    return float(spread[2] / max(np.linalg.norm(spread), 1e-12))


def handedness(points_mm, reference_mm, weights):
    """(m - t) / (m + t), where t and m are the squared misfits of `points_mm` (n, 3) to `reference_mm` (n, 3) after the
    best turn, shift and scaling, without and with a mirror. Near 1 where t is small; the negative of that in the mirror
    image; turning and scaling change nothing."""
    weights = weights / weights.sum()
    a, b = points_mm - weights @ points_mm, reference_mm - weights @ reference_mm
    u, s, vt = np.linalg.svd((a * weights[:, None]).T @ b)
    sign = np.sign(np.linalg.det(u @ vt))
    size = (weights @ a**2).sum() * (weights @ b**2).sum()
    turned, mirrored = (1 - (s[0] + s[1] + side * s[2]) ** 2 / max(size, 1e-12) for side in (sign, -sign))
    return float((mirrored - turned) / max(mirrored + turned, 1e-12))


def heart_handedness(centroids_mm, class_names):
    """`handedness` of a heart against REFERENCE. `centroids_mm`: {class id as text: (3,) in patient mm}. None where
    fewer than LEAST_STRUCTURES have names of the reference, or those lie too nearly in a plane to tell."""
    known = {class_names[int(c) - 1].lower(): p for c, p in centroids_mm.items()}
    known = {name: p for name, p in known.items() if name in REFERENCE}
    if len(known) < LEAST_STRUCTURES:
        return None
    reference_mm = np.array([REFERENCE[name][0] for name in known], float)
    weights = np.array([REFERENCE[name][1] for name in known], float)
    if depth(reference_mm, weights) < LEAST_DEPTH:
        return None
    return handedness(np.array(list(known.values())), reference_mm, weights)


def population_handedness(hearts_mm):
    """Each of `hearts_mm` (h, n, 3), the same n structures in each, against the others: (h,) `handedness` against the
    mean of those that are like most. None where the structures are too few, lie too nearly in a plane, or are placed
    too differently from heart to heart to tell."""
    hearts_mm = np.asarray(hearts_mm, float)
    weights = np.ones(hearts_mm.shape[1])
    if hearts_mm.shape[1] < LEAST_STRUCTURES:
        return None
    some = hearts_mm[np.linspace(0, len(hearts_mm) - 1, min(len(hearts_mm), 25)).astype(int)]
    mutual = np.array([[handedness(a, b, weights) for b in some] for a in some])
    mean_mm = some[np.argmax(np.median(mutual, axis=1))]  # with most of the others on its side
    mean_mm = np.median([_laid_over(h, mean_mm) for h in some], axis=0)
    if depth(mean_mm, weights) < LEAST_DEPTH:
        return None
    turns = np.array([handedness(h, mean_mm, weights) for h in hearts_mm])
    return turns if np.quantile(np.abs(turns), 0.1) > 0.3 and np.median(turns) > 0.5 else None


def _laid_over(points_mm, reference_mm):
    """`points_mm` (n, 3) turned, shifted and scaled onto `reference_mm` (n, 3), about its middle; never mirrored."""
    a, b = points_mm - points_mm.mean(0), reference_mm - reference_mm.mean(0)
    u, s, vt = np.linalg.svd(a.T @ b)
    side = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    return a @ u @ side @ vt * (s * np.diag(side)).sum() / max((a**2).sum(), 1e-12)
