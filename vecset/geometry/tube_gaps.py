"""Gaps in tubes: which ends go on in each other, and the voxels of the tube that is missing between them.

Two ends of a broken vessel look at each other along their own axes. The farther both axes turn from the way between
them, the farther apart they count. An end can also go on in the side of another piece, as a branch does whose origin is
missing, or in what the vessel begins at; that counts as farther still. The tube between is drawn along a smooth curve
that leaves one end and enters the other in their own directions, and is as thick as they are.
"""

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import DisjointSet
from scipy.spatial import cKDTree

from vecset.geometry.tube_ends import TubeEnd

LONGEST_MM = 15.0
CERTAIN_MM, CERTAIN_DEG, CERTAIN_RATIO = 10.0, 35.0, 1.6  # gap, angle at each end, and quotient of the radii at most
LIKELY_MM, LIKELY_COST_MM = 10.0, 25.0  # gap, and gap with the bends at its ends
LIKELY_SIDE_DEG = 40.0
BEND = 2.0  # how many times its length a gap counts more for each 1 - cos of the angles at its ends
NO_DIRECTION = 0.7  # cosine that a piece without a direction counts with
LEAST_COSINE, LEAST_SIDE_COSINE = -0.2, 0.25  # vessels make sharp bends, but do not turn back
SIDE = 2.0  # how many times its length a gap counts from an end to a side
BACK_MM = 2.0  # behind the tips, from where angles are taken: those of a gap of a voxel would be chance
ROOT = 0  # the piece that tubes begin at


@dataclass
class Join:
    """A gap between the end `first` and the piece `other_piece`: at its end `other`, or, where that is None, in its
    side at the voxel to_mm (3,). cost: mm, more where the way bends; certain: two ends over a short gap that look at
    each other and are equally thick; likely: two ends, or an end and a side, that may well belong together."""

    first: TubeEnd
    other_piece: int
    other: TubeEnd | None
    to_mm: np.ndarray
    cost: float
    certain: bool
    likely: bool

    @property
    def pieces(self) -> tuple[int, int]:
        return self.first.piece, self.other_piece


def find_joins(ends: list[TubeEnd], parts: np.ndarray, root: np.ndarray, spacing_mm: np.ndarray) -> list[Join]:
    """What each of `ends` may go on in, cheapest first: ends and sides of other pieces of `parts` (X, Y, Z) int, and
    the surface of `root` (X, Y, Z) bool; at most LONGEST_MM away. Where a piece has an end to go on in, it is not
    the side of the branch behind that end."""
    spacing_mm = np.asarray(spacing_mm, float)
    found, facing = [], [[] for _ in ends]
    for i, one in enumerate(ends):
        for k in range(i + 1, len(ends)):
            if join := _between_ends(one, ends[k]):
                found.append(join)
                facing[i].append(ends[k])
                facing[k].append(one)
    at = np.argwhere((parts > 0) | root)
    if not len(at):
        return []
    tree, numbers = cKDTree(at * spacing_mm), np.where(root, ROOT, parts)[tuple(at.T)]
    flat = np.ravel_multi_index(tuple(at.T), parts.shape)
    for end, others in zip(ends, facing):
        near = np.array(tree.query_ball_point(end.tip_mm, LONGEST_MM), int)
        for other in others:
            near = near[~np.isin(flat[near], np.ravel_multi_index(tuple(other.voxels.T), parts.shape))]
        near = near[numbers[near] != end.piece]
        sides = [_to_side(end, n, tree.data[near[numbers[near] == n]]) for n in np.unique(numbers[near]).tolist()]
        found += [join for join in sides if join]
    return sorted(found, key=lambda join: join.cost)


def _between_ends(one, other):
    """The Join of two ends of different pieces, or None."""
    gap_mm = float(np.linalg.norm(other.tip_mm - one.tip_mm))
    if one.piece == other.piece or gap_mm > LONGEST_MM:
        return None
    way = (other.tip_mm - BACK_MM * other.out) - (one.tip_mm - BACK_MM * one.out)
    way /= max(np.linalg.norm(way), 1e-9)
    cosines = [one.out @ way if one.directed else NO_DIRECTION, -other.out @ way if other.directed else NO_DIRECTION]
    if min(cosines) < LEAST_COSINE:
        return None
    cost = gap_mm * (1 + BEND * (2 - sum(cosines)))
    thin, thick = sorted((one.radius_mm, other.radius_mm))
    straight = one.directed and other.directed and min(cosines) >= np.cos(np.deg2rad(CERTAIN_DEG))
    certain = straight and gap_mm <= CERTAIN_MM and thick <= CERTAIN_RATIO * thin
    likely = gap_mm <= LIKELY_MM and cost <= LIKELY_COST_MM
    return Join(one, other.piece, other, other.tip_mm, float(cost), bool(certain), bool(likely))


def _to_side(end, piece, places_mm):
    """The cheapest Join of an end to one of `places_mm` (n, 3) of another piece, or None."""
    ways = places_mm - (end.tip_mm - BACK_MM * end.out)
    gaps_mm = np.linalg.norm(places_mm - end.tip_mm, axis=1)
    cosines = np.full(len(ways), NO_DIRECTION)
    if end.directed:
        cosines = ways @ end.out / np.maximum(np.linalg.norm(ways, axis=1), 1e-9)
    costs = np.where(cosines < LEAST_SIDE_COSINE, np.inf, gaps_mm * (SIDE + BEND * (1 - cosines)))
    best = int(np.argmin(costs))
    if not np.isfinite(costs[best]):
        return None
    likely = end.directed and gaps_mm[best] <= LIKELY_MM and cosines[best] >= np.cos(np.deg2rad(LIKELY_SIDE_DEG))
    return Join(end, piece, None, places_mm[best], float(costs[best]), False, bool(likely))


def choose_joins(joins: list[Join], held: set[int]) -> list[Join]:
    """Those of `joins` (cheapest first) that are closed; `held`: the pieces that touch what they begin at.

    Each other piece, loose ones, is joined once, by its cheapest way to a held one or to the root, through others where
    these are nearer. Beyond that: what is certain, as where both arms of a ring are broken; and what is likely, from a
    tree that has come off as a whole to the root, and between two trees, where one of the two pieces is loose. So two
    trees of which nothing has come off are joined only where it is certain."""
    pieces = {ROOT, *held, *(piece for join in joins for piece in join.pieces)}
    rooted, trees = DisjointSet(pieces), DisjointSet(pieces)
    for piece in held:
        rooted.merge(piece, ROOT)
    used, chosen = set(), []
    for join in joins:
        piece, other = join.pieces
        if other == ROOT and piece in held:
            continue
        loose = piece not in held or other not in held
        free = id(join.first) not in used and id(join.other) not in used
        apart = other == ROOT or not trees.connected(piece, other)
        if not (
            not rooted.connected(piece, other)
            or (join.certain and free)
            or (join.likely and free and other == ROOT and not any(trees.connected(n, piece) for n in held))
            or (join.likely and loose and apart and other != ROOT)
        ):
            continue
        rooted.merge(piece, other)
        if other != ROOT:
            trees.merge(piece, other)
        used |= {id(join.first)} | ({id(join.other)} if join.other is not None else set())
        chosen.append(join)
    return chosen


def centre_line(join: Join, spacing_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((n, 3) mm, (n,) mm): points of the middle of the missing tube, and its radius there."""
    start, stop = join.first, join.other
    way = join.to_mm - start.tip_mm
    length = np.linalg.norm(way)
    leaves = start.out * length if start.directed else way
    enters = -stop.out * length if stop is not None and stop.directed else way
    t = np.linspace(0, 1, max(int(np.ceil(4 * length / np.min(spacing_mm))), 2) + 1)[:, None]
    line = (
        (2 * t**3 - 3 * t**2 + 1) * start.tip_mm
        + (t**3 - 2 * t**2 + t) * leaves
        + (3 * t**2 - 2 * t**3) * join.to_mm
        + (t**3 - t**2) * enters
    )
    radii = [end.radius_mm for end in (start, stop) if end is not None and end.directed] or [start.radius_mm]
    return line, np.linspace(radii[0], radii[-1], len(t))


def tube_voxels(
    line_mm: np.ndarray, radii_mm: np.ndarray, shape: tuple[int, ...], spacing_mm: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """((m, 3) voxels of the tube round `line_mm` (n, 3) with radii_mm (n,), without caps, in a grid of `shape`; (k, 3)
    those of the line itself)."""
    spacing_mm = np.asarray(spacing_mm, float)
    middle = np.unique(np.rint(line_mm / spacing_mm).astype(int), axis=0)
    middle = middle[((middle >= 0) & (middle < shape)).all(1)]
    low = np.maximum(np.floor((line_mm.min(0) - radii_mm.max()) / spacing_mm).astype(int), 0)
    high = np.minimum(np.ceil((line_mm.max(0) + radii_mm.max()) / spacing_mm).astype(int) + 1, shape)
    index = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), -1).reshape(-1, 3)
    away_mm, nearest = cKDTree(line_mm).query(index * spacing_mm)
    inside = (away_mm <= radii_mm[nearest]) & (nearest > 0) & (nearest < len(line_mm) - 1)
    return index[inside], middle
