"""Are the near points balanced: as many outside as inside, for every class, and no more than a share on inner walls?

With `near_other` in the case file each near point says which surface it was offset from, and the shares are exact; but
the flag may lie, so it is held against the geometry as well. Without it (earlier files) the shares are estimated.
"""

import numpy as np
from scipy.spatial import cKDTree

from vecset.quality.thresholds import CHECKS, Check

BAND_UNIT = 0.01  # near points this close to the surface on both sides are compared in number
REACH_UNIT = 0.2
FLAG_DOUBT_UNIT = 0.01  # a flag is doubted where the other kind of surface is nearer by this and the points' gap
FLAG_SAMPLE = 15000  # near points whose flag is held against the geometry; with the usual floors 600 of each class
LEAST_POINTS = 50  # fewer have no share
FLAG_GAP_UNIT = 0.03  # with fewer surface points (gaps wider than this) the flag cannot be held against them
CHANCE = 3.5  # standard errors of a fair draw that chance may do, where they are more than the threshold

CHECKS.update(
    {
        # with near_other
        "outer_outside": Check(
            0.48, 0.52, "share", "near points offset from the outer surface that lie outside the union"
        ),
        "outer_outside_class": Check(0.4, 0.6, "share", "the same for one class (where it has 50 such points)"),
        "wall_share": Check(0, 0.15, "share", "near points offset from inner walls"),
        "wall_sides": Check(
            0.4,
            0.6,
            "share",
            "near points of an inner wall that belong to one of its two classes, of the most uneven wall",
        ),
        "wall_crossed": Check(0.3, 0.7, "share", "near points of a class's inner walls that lie across the wall"),
        "near_flag": Check(0, 0.02, "share", "near points whose near_other the geometry contradicts"),
        "near_flag_class": Check(0, 0.25, "share", "the same for one class"),
        "near_flag_wrong": Check(
            0, 0, "points", "near_other that is the point's own class or one that the truth has not"
        ),
        # without it
        "near_outside": Check(0.47, 0.53, "share", "near points of outer walls that lie outside the union (estimated)"),
        "near_outside_class": Check(0.4, 0.6, "share", "the same for one class (where it has 50 such points)"),
        "near_inner_walls": Check(
            0, 0.25, "share", "near points that belong to walls between two structures (estimated)"
        ),
        # both
        "near_reach": Check(
            0, 0.01, "share", "near points farther than 0.2 (unit) from the surface of their near_source"
        ),
    }
)


def check_near_balance(report, case, voxel_unit, present, rng):
    """Adds the checks of this module. `voxel_unit`: the smallest spacing; `present`: class ids that the truth has.
    `report.classes[c]["near_outside"]` becomes the share that was judged (None: too few points)."""
    gap_unit = np.sqrt(12 / max(len(case.surface_points), 1))  # between surface points; a heart has about 10 unit^2
    outer_surface = case.surface_sdf > -0.25 * voxel_unit
    rows = np.arange(len(case.near_sdf))
    if case.near_other is not None:
        rows = rng.permutation(rows)[:FLAG_SAMPLE]  # the shares themselves are those of all points
    to_outer, to_wall = (_distances(case, mine, rows) for mine in (outer_surface, ~outer_surface))
    report.add("near_reach", np.mean(np.minimum(to_outer, to_wall) > REACH_UNIT + gap_unit))
    if case.near_other is None:
        _check_estimates(report, case, to_outer <= to_wall, gap_unit, present)
    else:
        _check_flag(report, case, rows, to_outer, to_wall, gap_unit, present)
        _check_shares(report, case, present)


def _distances(case, mine, rows):
    """(n,) unit: from the near points `rows` (n,) to the nearest of the surface points `mine` (Ns,) bool of the same
    class; 2 where there is none."""

    def with_class(points, labels):  # a fourth coordinate that keeps the classes apart
        return np.column_stack([points, labels.astype(np.float32) * 8])

    if not mine.any():
        return np.full(len(rows), 2.0)
    tree = cKDTree(
        with_class(case.surface_points[mine], case.surface_labels[mine]), balanced_tree=False, compact_nodes=False
    )
    # beyond 2 the query would be answered with a point of another class
    points = with_class(case.near_points[rows], case.near_source[rows])
    return np.minimum(tree.query(points, distance_upper_bound=2.0)[0], 2.0)


def _check_shares(report, case, present):
    """Exact shares by `near_other`."""
    source, other, outside = case.near_source, case.near_other, case.near_sdf >= 0
    outer = other == 0
    if outer.any():
        _add_share(report, "outer_outside", outside[outer], least=1)
    for c in present:
        report.classes[c]["near_outside"] = _add_share(report, "outer_outside_class", outside[outer & (source == c)], c)
    if outer.any():  # a heart that fills the image has no other surface than its walls
        report.add("wall_share", np.mean(~outer))
    low, high = np.minimum(source, other), np.maximum(source, other)
    walls = {}
    for a, b in np.unique(np.stack([low, high], 1)[~outer], axis=0).tolist():
        mine = source[(low == a) & (high == b)] == a
        if len(mine) >= LEAST_POINTS:
            walls[a, b] = _judged("wall_sides", mine)
    if walls:
        a, b = max(walls, key=lambda w: abs(walls[w] - 0.5))
        report.add("wall_sides", walls[a, b], note=f"{case.class_names[a - 1]} against {case.class_names[b - 1]}")
    for c in present:
        _add_share(report, "wall_crossed", (case.near_labels != source)[~outer & (source == c)], c)


def _judged(check, side):
    """The share of True in `side` (n,) bool, moved towards one half where chance may do more than `check` allows."""
    allowed, chance = CHECKS[check].high - 0.5, CHANCE * 0.5 / np.sqrt(len(side))
    return float(0.5 + (side.mean() - 0.5) * min(1, allowed / chance))


def _add_share(report, check, side, class_id=None, least=LEAST_POINTS):
    """Judges the share of True in `side`, and returns what was judged; None, unjudged, below `least` points."""
    if len(side) < least:
        return None
    judged = _judged(check, side)
    report.add(check, judged, class_id, f"{side.mean():.3f} of {len(side)} points")
    return judged


def _check_flag(report, case, rows, to_outer, to_wall, gap_unit, present):
    """`near_other`, at the near points `rows`, against the surface points: the surface that it names must not lie
    clearly farther away than the other kind of the same class. Offsets reach across thin places, so a few may."""
    outer = case.near_other[rows] == 0
    strange = (case.near_other == case.near_source) | ~np.isin(case.near_other, [0, *present])
    report.add("near_flag_wrong", np.count_nonzero(strange))
    if gap_unit > FLAG_GAP_UNIT:
        return
    doubtful = np.where(outer, to_outer - to_wall, to_wall - to_outer) > FLAG_DOUBT_UNIT + gap_unit
    doubtful |= ~outer & (case.near_sdf[rows] >= 0)  # an inner wall's points are inside the union
    report.add("near_flag", np.mean(doubtful))
    for c in present:
        mine = case.near_source[rows] == c
        if np.count_nonzero(mine) >= LEAST_POINTS:
            report.add("near_flag_class", np.mean(doubtful[mine]), c)


def _check_estimates(report, case, outer, gap_unit, present):
    """Without `near_other`. Two estimates of the share that went outside err to opposite sides: among the points whose
    nearest surface point of their source lies on the outer surface (`outer`) it comes out high (offsets to the inside
    come closer to inner walls), in a thin band round the outer surface it comes out low (thin tubes fold the inside
    onto itself). What is judged is the value nearest to one half between them, less what chance may do and less their
    difference: where few points of a class are on its outer surface both err to one side, and differ as they err."""
    if gap_unit < 0.05:  # else the nearest surface point does not tell on which wall the near point was made
        report.add("near_inner_walls", np.mean(~outer))
    outside, band = case.near_sdf >= 0, np.abs(case.near_sdf) < BAND_UNIT

    def add(check, mine, class_id=None):
        groups = [outside[mine & group] for group in (outer, band)]
        count = min(len(g) for g in groups)
        if count < LEAST_POINTS:
            return None
        shares = [float(g.mean()) for g in groups]
        away = np.clip(0.5, min(shares), max(shares)) - 0.5
        doubt = 1 / np.sqrt(count) + abs(shares[0] - shares[1])  # two standard errors, and the method's own
        judged = float(0.5 + np.sign(away) * max(0, abs(away) - doubt))
        report.add(
            check, judged, class_id, f"estimates {shares[0]:.3f}, {shares[1]:.3f}, less chance and their difference"
        )
        return judged

    if add("near_outside", np.ones(len(outside), bool)) is None:
        report.add("near_outside", 0, note="hardly a point near the outer surface")
    for c in present:
        report.classes[c]["near_outside"] = add("near_outside_class", case.near_source == c, c)
