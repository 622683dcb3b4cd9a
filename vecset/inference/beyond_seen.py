"""How far structures are drawn beyond what was seen of them: the model continues a vessel of which the input has a
stump, and only this says so."""

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from vecset.imaging.frame import Frame

FAR_MM = 10.0  # hearts that are seen whole are drawn up to 8 mm beyond (the demo's network, eight hearts)
LEAST_SHARE = 0.1  # of a structure's voxels that are drawn farther away
MOST_DRAWN, MOST_SEEN = 4000, 20000  # voxels of a structure that are compared, evenly chosen


def drawn_beyond(
    labels: np.ndarray, frame: Frame, seen: np.ndarray, seen_frame: Frame, classes: Sequence[int]
) -> dict[int, tuple[float, float, float]]:
    """{class id: (share, ml, mm)} of those of `classes` of which at least LEAST_SHARE of the voxels drawn lie more than
    FAR_MM from every voxel seen: that share, its volume, and the distance of the farthest. labels (X, Y, Z) u8: what is
    drawn, on the grid of `frame`; seen: what the model saw, on that of `seen_frame`."""
    drawn_mm, seen_mm = _places(labels, frame, classes, MOST_DRAWN), _places(seen, seen_frame, classes, MOST_SEEN)
    found = {}
    for c, (at_mm, voxels) in drawn_mm.items():
        if c not in seen_mm:
            continue
        away_mm = cKDTree(seen_mm[c][0]).query(at_mm)[0]
        share = float((away_mm > FAR_MM).mean())
        if share >= LEAST_SHARE:
            ml = share * voxels * float(np.prod(frame.spacing_mm)) / 1000
            found[c] = share, ml, float(away_mm.max())
    return found


def beyond_line(found: dict[int, tuple[float, float, float]], class_names: Sequence[str]) -> str:
    """What to say of `drawn_beyond`, "" of nothing."""
    each = [
        f"{class_names[c - 1]} {share:.0%} of it ({ml:.1f} ml, up to {mm:.0f} mm away)"
        for c, (share, ml, mm) in found.items()
    ]
    if not each:
        return ""
    return f"drawn more than {FAR_MM:g} mm beyond what was seen of it, where the model continues it: {', '.join(each)}"


def _places(labels, frame, classes, most):
    """{class id: (places (N, 3) mm of at most `most` voxels, evenly chosen, number of all its voxels)}."""
    flat = np.flatnonzero(labels)
    values, found = labels.ravel()[flat], {}
    for c in classes:
        mine = flat[values == c]
        if len(mine):
            chosen = mine[np.linspace(0, len(mine) - 1, min(most, len(mine))).astype(int)]
            found[c] = frame.voxel_to_mm(np.stack(np.unravel_index(chosen, labels.shape), -1)), len(mine)
    return found
