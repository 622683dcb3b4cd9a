"""Whether the near points are balanced: as many outside as inside for every class, and few of them on inner walls.

Where the case file has `near_other`, each near point says which surface it was offset from and the shares are exact;
the flag itself is checked against the geometry. In files without it the shares are estimated.
"""

import numpy as np
from scipy.spatial import cKDTree

from vecset.data.case_file import Case
from vecset.quality.thresholds import CHECKS, FileReport

BAND_UNIT = 0.01  # without near_other: points nearer to the surface than this, on either side, are counted
REACH_UNIT = 0.2  # farther from its surface than this, a near point is no near point
FLAG_DOUBT_UNIT = 0.01  # a flag is in doubt where the other kind of surface is nearer by this plus the points' gap
FLAG_SAMPLE = 15000  # near points whose flag is checked; with the usual class floors 600 of each class
LEAST_POINTS = 50  # no share is judged from fewer points
FLAG_GAP_UNIT = 0.03  # where gaps between surface points are wider than this, the flag cannot be checked
ESTIMATE_GAP_UNIT = 0.05  # the same for the estimate of the share on inner walls
CHANCE = 3.5  # deviations of a fair draw up to this many standard errors are no fault


def check_near_balance(
    report: FileReport, case: Case, voxel_unit: float, present: list[int], rng: np.random.Generator
) -> None:
    """Adds the checks of this module to `report`.

    `voxel_unit`: the smallest spacing; `present`: class ids that the truth contains.
    `report.classes[c]["near_outside"]` is set to the share that was judged (None: too few points).
    """
    gap_unit = np.sqrt(12 / max(len(case.surface_points), 1))  # between surface points; a heart has about 10 unit^2
    outer_surface = case.surface_sdf > -0.25 * voxel_unit
    rows = np.arange(len(case.near_sdf))
    if case.near_other is not None:
        rows = rng.permutation(rows)[:FLAG_SAMPLE]  # for the flag alone; shares are taken over all points
    to_outer, to_wall = (_distances(case, mine, rows) for mine in (outer_surface, ~outer_surface))
    report.add("near_reach", np.mean(np.minimum(to_outer, to_wall) > REACH_UNIT + gap_unit))
    if case.near_other is None:
        _check_estimates(report, case, to_outer <= to_wall, gap_unit, present)
    else:
        _check_flag(report, case, rows, to_outer, to_wall, gap_unit, present)
        _check_shares(report, case, present)


def _distances(case, mine, rows):
    """(n,) distances in unit from the near points `rows` (n,) to the nearest surface point of the same class among
    `mine` (Ns,) bool; 2 where there is none."""

    def with_class(points, labels):  # a fourth coordinate separates the classes
        return np.column_stack([points, labels.astype(np.float32) * 8])

    if not mine.any():
        return np.full(len(rows), 2.0)
    tree = cKDTree(
        with_class(case.surface_points[mine], case.surface_labels[mine]), balanced_tree=False, compact_nodes=False
    )
    # beyond 2 the nearest point could be one of another class
    points = with_class(case.near_points[rows], case.near_source[rows])
    return np.minimum(tree.query(points, distance_upper_bound=2.0)[0], 2.0)


def _check_shares(report, case, present):
    """The shares, exact where the file has `near_other`."""
    source, other, outside = case.near_source, case.near_other, case.near_sdf >= 0
    outer = other == 0
    if outer.any():
        _add_share(report, "outer_outside", outside[outer], least=1)
    for c in present:
        report.classes[c]["near_outside"] = _add_share(report, "outer_outside_class", outside[outer & (source == c)], c)
    if outer.any():  # a heart that fills the image has inner walls only
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
    """The share of True in `side` (n,) bool, shrunk towards 0.5 where chance may exceed the limit of `check`."""
    allowed, chance = CHECKS[check].high - 0.5, CHANCE * 0.5 / np.sqrt(len(side))
    return float(0.5 + (side.mean() - 0.5) * min(1, allowed / chance))


def _add_share(report, check, side, class_id=None, least=LEAST_POINTS):
    """Judges the share of True in `side` (n,) bool and returns the value judged; None where n < `least`."""
    if len(side) < least:
        return None
    judged = _judged(check, side)
    report.add(check, judged, class_id, f"{side.mean():.3f} of {len(side)} points")
    return judged


def _check_flag(report, case, rows, to_outer, to_wall, gap_unit, present):
    """Checks `near_other` of the near points `rows` against the surface points.

    The surface that it names must not be clearly farther away than the other kind of surface of the same class. In thin
    places an offset crosses to the other side, so a small share may be.
    """
    outer = case.near_other[rows] == 0
    strange = (case.near_other == case.near_source) | ~np.isin(case.near_other, [0, *present])
    report.add("near_flag_wrong", np.count_nonzero(strange))
    if gap_unit > FLAG_GAP_UNIT:
        return
    doubtful = np.where(outer, to_outer - to_wall, to_wall - to_outer) > FLAG_DOUBT_UNIT + gap_unit
    doubtful |= ~outer & (case.near_sdf[rows] >= 0)  # points of inner walls are inside the union
    report.add("near_flag", np.mean(doubtful))
    for c in present:
        mine = case.near_source[rows] == c
        if np.count_nonzero(mine) >= LEAST_POINTS:
            report.add("near_flag_class", np.mean(doubtful[mine]), c)


def _check_estimates(report, case, outer, gap_unit, present):
    """The shares, estimated in files without `near_other`. `outer` (N,) bool: the nearest surface point is outer.

    There are two estimates of the share of points outside. Among points with `outer` it is too high, because points
    offset to the inside come closer to inner walls. In a thin band around the outer surface it is too low, because the
    inside of thin tubes overlaps itself. Judged is the value between the two that is nearest to 0.5, less chance and
    less their difference: for a class with little outer surface both err to the same side, and differ as they err.
    """
    if gap_unit < ESTIMATE_GAP_UNIT:
        report.add("near_inner_walls", np.mean(~outer))
    outside, band = case.near_sdf >= 0, np.abs(case.near_sdf) < BAND_UNIT

    def add(check, mine, class_id=None):
        groups = [outside[mine & group] for group in (outer, band)]
        count = min(len(g) for g in groups)
        if count < LEAST_POINTS:
            return None
        shares = [float(g.mean()) for g in groups]
        away = np.clip(0.5, min(shares), max(shares)) - 0.5
        doubt = 1 / np.sqrt(count) + abs(shares[0] - shares[1])  # two standard errors, and that of the method
        judged = float(0.5 + np.sign(away) * max(0, abs(away) - doubt))
        report.add(
            check, judged, class_id, f"estimates {shares[0]:.3f}, {shares[1]:.3f}, less chance and their difference"
        )
        return judged

    if add("near_outside", np.ones(len(outside), bool)) is None:
        report.add("near_outside", 0, note=f"fewer than {LEAST_POINTS} points near the outer surface")
    for c in present:
        report.classes[c]["near_outside"] = add("near_outside_class", case.near_source == c, c)
