"""The ends of tubes in a label map: where the branches of a vessel stop, in which direction, and how thick they are.

A piece of a vessel is a graph of voxels. From one of its extremities the way along the piece rises to the tip of every
branch and falls again behind it, so the tips are the peaks of that way that stand out (`LEAST_BRANCH_MM`). Behind a tip
the branch is followed for `BRANCH_MM`, or until it forks. Its axis, and the area across it, give direction and radius.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import cKDTree

LEAST_BRANCH_MM = 3.0  # a lower peak is a bump on the surface
BRANCH_MM = 7.0  # longer, and the curve of a coronary turns the axis; shorter, and its voxels do
LEAST_ELONGATION = 1.4  # of a piece that has a direction: its spread along the axis by that across


@dataclass
class TubeEnd:
    """piece: its number; tip_mm (3,): the middle of its last voxels, in voxel indices times the spacing; out (3,): the
    direction in which the tube would go on, a unit vector, or zeros where the piece is too short to have one;
    radius_mm; voxels (n, 3): of the branch behind the tip; tip_voxels (m, 3): those of them at the tip."""

    piece: int
    tip_mm: np.ndarray
    out: np.ndarray
    radius_mm: float
    voxels: np.ndarray

    @property
    def directed(self) -> bool:
        return bool(self.out.any())

    def runs_into(self, mask: np.ndarray, spacing_mm: np.ndarray) -> bool:
        """Whether the tube, going on for three voxels, would enter `mask` (X, Y, Z) bool."""
        steps_mm = np.arange(0.5, 3.01, 0.25)[:, None] * np.max(spacing_mm) * self.out
        at = np.rint((self.tip_mm + steps_mm) / spacing_mm).astype(int)
        at = at[((at >= 0) & (at < mask.shape)).all(1)]
        return self.directed and bool(mask[tuple(at.T)].any())


def tube_ends(parts: np.ndarray, spacing_mm: np.ndarray) -> list[TubeEnd]:
    """The ends of every piece of `parts` (X, Y, Z) int, 0 outside; spacing_mm (3,). A piece too short to have a
    direction is one end, in its middle."""
    spacing_mm = np.asarray(spacing_mm, float)
    at = np.argwhere(parts > 0)
    if not len(at):
        return []
    numbers = parts[tuple(at.T)]
    order = np.argsort(numbers, kind="stable")
    bounds = np.flatnonzero(np.diff(numbers[order])) + 1
    found = []
    for rows in np.split(order, bounds):
        found += _ends_of(int(numbers[rows[0]]), at[rows], spacing_mm)
    return found


def _ends_of(piece, at, spacing_mm):
    """The TubeEnds of one piece with the voxels `at` (n, 3)."""
    graph = voxel_graph(at, spacing_mm)
    from_first_mm = dijkstra(graph, indices=0)
    along_mm = dijkstra(graph, indices=int(np.argmax(from_first_mm)))
    tips = _peaks(graph, along_mm, LEAST_BRANCH_MM)
    if along_mm.max() >= LEAST_BRANCH_MM:
        tips.append(int(np.argmax(from_first_mm)))
    ends = [_end(piece, at, graph, tip, spacing_mm) for tip in tips]
    if all(end.directed for end in ends):
        return ends
    return [_blob(piece, at, spacing_mm)] if len(ends) <= 2 else [end for end in ends if end.directed]


def voxel_graph(at: np.ndarray, spacing_mm: np.ndarray) -> csr_array:
    """(n, n) sparse, symmetric: the distance in mm of those of the voxels `at` (n, 3) that share a face, an edge or a
    corner; spacing_mm (3,)."""
    pairs = cKDTree(at).query_pairs(1.01, p=np.inf, output_type="ndarray")
    steps_mm = np.linalg.norm((at[pairs[:, 0]] - at[pairs[:, 1]]) * spacing_mm, axis=1)
    half = coo_array((steps_mm, (pairs[:, 0], pairs[:, 1])), (len(at), len(at)))
    return (half + half.T).tocsr()


def _peaks(graph, height, least):
    """Rows of the peaks of `height` (n,) that stand out by `least`: so far one has to go down from each before a way
    leads up to a higher one. The highest of all is among them."""
    parent, top = np.full(len(height), -1), np.arange(len(height))
    found = []

    def root(n):
        while parent[n] != n:
            parent[n] = parent[parent[n]]
            n = parent[n]
        return n

    for n in np.argsort(-height, kind="stable").tolist():
        parent[n] = n
        for beside in graph.indices[graph.indptr[n] : graph.indptr[n + 1]].tolist():
            if parent[beside] < 0:
                continue
            one, other = root(n), root(beside)
            if one == other:
                continue
            if height[top[one]] < height[top[other]]:
                one, other = other, one
            if height[top[other]] - height[n] >= least:
                found.append(int(top[other]))
            parent[other] = one
    return [int(np.argmax(height)), *found]


def _end(piece, at, graph, tip, spacing_mm):
    """The TubeEnd at row `tip` of a piece; without a direction where its branch is about as wide as long."""
    away_mm = dijkstra(graph, indices=tip, limit=BRANCH_MM)
    step_mm = float(np.linalg.norm(spacing_mm))
    branch = np.flatnonzero(away_mm <= step_mm)
    for from_mm in np.arange(step_mm, BRANCH_MM, step_mm):
        shell = np.flatnonzero((away_mm > from_mm) & (away_mm <= min(from_mm + step_mm, BRANCH_MM)))
        if not len(shell) or connected_components(graph[shell][:, shell])[0] > 1:
            break
        branch = np.concatenate([branch, shell])
    points_mm = at[branch] * spacing_mm
    centre_mm = points_mm.mean(0)
    _, spread, axes = np.linalg.svd(points_mm - centre_mm, full_matrices=False)
    if len(branch) < 4 or spread[0] < LEAST_ELONGATION * spread[1]:
        return TubeEnd(piece, at[tip] * spacing_mm, np.zeros(3), 0.0, at[branch])
    out = axes[0] * np.sign(axes[0] @ (at[tip] * spacing_mm - centre_mm))
    along = (points_mm - centre_mm) @ out
    last = along >= along.max() - step_mm
    # across: its area is its volume by its length, away from the ragged front of the shells and the last voxels
    first_mm = along.min() + 0.25 * np.ptp(along)
    last_mm = max(along.max() - 0.5 * step_mm, first_mm + 0.25 * np.ptp(along))
    volume = np.count_nonzero((along > first_mm) & (along <= last_mm)) * np.prod(spacing_mm)
    radius_mm = np.sqrt(volume / (last_mm - first_mm) / np.pi)
    return TubeEnd(piece, points_mm[last].mean(0), out, float(radius_mm), at[branch])


def _blob(piece, at, spacing_mm):
    """A short piece as one end without a direction, as thick as a ball of its volume."""
    radius_mm = (0.75 * len(at) * np.prod(spacing_mm) / np.pi) ** (1 / 3)
    return TubeEnd(piece, at.mean(0) * spacing_mm, np.zeros(3), float(radius_mm), at)
