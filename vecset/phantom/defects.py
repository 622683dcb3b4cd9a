"""Defects of real label maps, drawn into a synthetic heart on purpose: gaps, lost contacts, leaks, stray pieces.

A defect has a grade in (0, 1], drawn per heart, which scales its size. Each is drawn on a copy and counted there: only
where pieces and contacts are then what its kind says is it kept. The grade and the place of a defect depend on (seed,
index, kind) and on the heart alone, not on the number of hearts, of workers, or on the order in which kinds are named.
"""

from collections.abc import Callable
from typing import NamedTuple

import edt
import numpy as np
from scipy import ndimage
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from vecset.geometry.tube_ends import voxel_graph
from vecset.phantom.precedence import AORTA, CORONARY, LA, LAA, LV, MYO, PA, PV, RA, RV

VERSION = 1  # changes whenever the same options give other defects to the same heart
_PURPOSE = 6  # of a random stream; those of phantom.py are 0 to 5
_TOUCHING = np.ones((3, 3, 3), bool)  # voxels that share a face, an edge or a corner
MOST_GAPS = 4
GAP_MM = 8.0  # width of a gap of grade 1
LAYER_MM = 5.0  # thickness of the layer between structures that should touch, grade 1
LEAK_MM = (1.5, 6.0)  # radius of a leak's canal, of the smallest grade and of grade 1
THICKEST_MM = 20.0  # muscle that a leak goes through
VALVE_MM = 15.0  # a leak begins at least this far from LA and aorta, where the ventricle is open
MOST_ISLANDS = 15
ISLAND_MM = 2.0  # radius of a stray piece
AWAY_MM = 25.0  # how far from the heart stray pieces lie at most
_TRIES = 40


class Defect(NamedTuple):
    """kind (of KINDS), structure (class id that it is in), grade in (0, 1], voxels whose label it changed."""

    kind: str
    structure: int
    grade: float
    voxels: int


class CannotMake(Exception):
    """This defect cannot be made in this heart; the text says why."""


def add_defects(
    labels: np.ndarray, spacing_mm: np.ndarray, seed: int, index: int, shares: dict[str, float]
) -> tuple[np.ndarray, list[Defect], list[str]]:
    """Labels (X, Y, Z) u8 with defects, the Defects that were made, and a line for each that could not be.

    `labels` of a heart of ten or sixteen structures, which stay as they are; `spacing_mm` (3,); `seed`, `index`: of the
    heart; `shares`: {kind: share of the hearts that get it}. Where several kinds are drawn they are made in the order
    of KINDS, and none undoes what another did.
    """
    made, lines = [], []
    for number, (kind, make) in enumerate(KINDS.items()):
        rng = np.random.default_rng([seed, index, _PURPOSE, number])
        drawn, grade = rng.random(), 1.0 - rng.random()
        if drawn >= shares.get(kind, 0.0):
            continue
        try:
            structure, changed = make(labels, np.asarray(spacing_mm, float), grade, rng)
        except CannotMake as reason:
            lines.append(f"{kind} cannot be made: {reason}")
            continue
        made.append(Defect(kind, structure, grade, int(np.count_nonzero(changed != labels))))
        labels = changed
    return labels, made, lines


def draws_any(seed: int, index: int, shares: dict[str, float]) -> bool:
    """Whether heart `index` of `seed` is to get a defect of one of the kinds in `shares`."""
    return any(
        np.random.default_rng([seed, index, _PURPOSE, number]).random() < shares.get(kind, 0.0)
        for number, kind in enumerate(KINDS)
    )


def pieces(labels: np.ndarray, class_id: int) -> int:
    """Number of 26-connected pieces of a class in labels (X, Y, Z)."""
    return ndimage.label(labels == class_id, _TOUCHING)[1]


def contact(labels: np.ndarray, first: int, second: int) -> np.ndarray:
    """(X, Y, Z) bool: voxels of class `first` that share a face, an edge or a corner with one of class `second`."""
    found = np.zeros(labels.shape, bool)
    mask = labels == first
    if mask.any():
        (box,) = ndimage.find_objects(mask.view(np.uint8))
        box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
        found[box] = ndimage.binary_dilation(labels[box] == second, _TOUCHING) & mask[box]
    return found


def _away_mm(mask, spacing_mm):
    """(X, Y, Z) f32: distance in mm from each voxel to the nearest one of `mask` (X, Y, Z) bool."""
    return edt.edt(np.ascontiguousarray(~mask), anisotropy=tuple(spacing_mm), parallel=1)


def _need(labels, *classes):
    for c in classes:
        if not (labels == c).any():
            raise CannotMake(f"the heart has no {_NAMES[c]}")


_NAMES = {MYO: "Myocardium", LA: "LA", LV: "LV", RA: "RA", RV: "RV", AORTA: "Aorta", PA: "PA"}
_NAMES |= {LAA: "LAA", CORONARY: "Coronary", PV: "PV"}


# ---- gaps


def _gaps(labels, spacing_mm, grade, rng):
    """Takes slices out of the coronaries: all of one branch that is between two distances from the aorta, along the
    tree. What lies beyond is cut off. Where two arms of the tree meet beyond it, the slice goes through both."""
    _need(labels, CORONARY)
    before = pieces(labels, CORONARY)
    changed, made = labels.copy(), 0
    for _ in range(rng.integers(1, MOST_GAPS + 1)):
        width_mm = max(GAP_MM * grade, np.linalg.norm(spacing_mm))  # at least the longest step from voxel to voxel
        at = np.argwhere(changed == CORONARY)
        graph, along_mm = _along_the_tree(changed, at, spacing_mm)
        gap = _one_gap(graph, along_mm, width_mm, rng)
        if gap is not None:
            changed[tuple(at[gap].T)] = 0
            made += 1
    now = pieces(changed, CORONARY)
    if not made or now < before + made:
        raise CannotMake("no branch is long enough for a gap")
    return CORONARY, changed


def _along_the_tree(labels, at, spacing_mm):
    """The graph of the coronary voxels `at` (n, 3), neighbours by their distance in mm, and (n,) mm: the way along the
    tree from where it touches the aorta; of a piece that does not, from its first voxel."""
    graph = voxel_graph(at, spacing_mm)
    roots = np.flatnonzero(contact(labels, CORONARY, AORTA)[tuple(at.T)])
    if not len(roots):
        roots = np.zeros(1, int)
    while True:
        along_mm = dijkstra(graph, indices=roots, min_only=True)
        left = np.flatnonzero(np.isinf(along_mm))
        if not len(left):
            return graph, along_mm
        roots = np.append(roots, left[0])


def _one_gap(graph, along_mm, width_mm, rng, least=8):
    """(m,) row numbers of the voxels of a gap, or None. At least `least` voxels of the branch lie beyond it, and as
    many before it."""
    for row in rng.permutation(len(along_mm))[:_TRIES]:
        beyond = np.flatnonzero(along_mm >= along_mm[row])
        place = np.searchsorted(beyond, row)
        reach = dijkstra(graph[beyond][:, beyond], indices=place, unweighted=True)
        branch = beyond[np.isfinite(reach)]
        gap = branch[along_mm[branch] < along_mm[row] + width_mm]
        if len(branch) - len(gap) >= least and len(along_mm) - len(beyond) >= least:
            return gap
    return None


# ---- lost contacts


def _detached(part, whole):
    """The maker of a defect: `part` loses its contact with `whole`, by a layer of `part` that becomes background or
    that of a neighbour."""

    def make(labels, spacing_mm, grade, rng):
        _need(labels, part, whole)
        if not contact(labels, part, whole).any():
            raise CannotMake(f"{_NAMES[part]} does not touch {_NAMES[whole]} anyway")
        layer = (labels == part) & (_away_mm(labels == whole, spacing_mm) <= LAYER_MM * grade)
        layer |= contact(labels, part, whole)
        beside = np.unique(labels[ndimage.binary_dilation(layer, _TOUCHING)])
        kinds = [0, *(c for c in (MYO, RA, PA) if c in beside)]  # not those whose contacts other defects take away
        if rng.random() < 0.5:  # by a neighbour where one is there and stays in one piece
            kinds = kinds[1:] + kinds[:1]
        for fill in kinds:
            changed = np.where(layer, np.uint8(fill), labels)
            if fill and pieces(changed, fill) != pieces(labels, fill):
                continue
            if (changed == part).any() and not contact(changed, part, whole).any():
                return part, changed
        raise CannotMake(f"nothing of {_NAMES[part]} would be left")

    return make


# ---- leaks


def _leak(labels, spacing_mm, grade, rng):
    """A canal from one ventricle through the muscle, into the background or into the other one, with a round end."""
    _need(labels, MYO, LV)
    ways = [(LV, 0)]
    if (labels == RV).any():
        ways += [(LV, RV), (RV, LV)]
    open_mm = np.full(labels.shape, np.inf)
    for c in (LA, AORTA):
        if (labels == c).any():
            np.minimum(open_mm, _away_mm(labels == c, spacing_mm), out=open_mm)
    inner = np.zeros(labels.shape, bool)
    inner[2:-2, 2:-2, 2:-2] = True  # what reaches the border of the image would count as cut
    muscle = ndimage.binary_dilation(labels == MYO)
    radius_mm = max(LEAK_MM[0] + (LEAK_MM[1] - LEAK_MM[0]) * grade, 0.8 * spacing_mm.max())
    for n in rng.permutation(len(ways)):
        source, target = ways[n]
        away_mm = _away_mm(labels == source, spacing_mm)
        ends = (labels == target) & muscle & inner & (open_mm > VALVE_MM) & (away_mm < THICKEST_MM)
        places = np.argwhere(ends & (away_mm > 1.5 * spacing_mm.max()))
        inside = np.argwhere(labels == source)
        tree = cKDTree(inside * spacing_mm)
        for end in places[rng.permutation(len(places))[:_TRIES]]:
            start = inside[tree.query(end * spacing_mm)[1]]
            canal = _capsule(labels.shape, start, end, spacing_mm, radius_mm) & inner
            hit = canal & np.isin(labels, (MYO, target))
            changed = np.where(hit, np.uint8(source), labels)
            touching = ndimage.binary_dilation(hit) & (changed == target) & (open_mm > VALVE_MM - radius_mm)
            kept = all(pieces(changed, c) == pieces(labels, c) for c in (LV, MYO, RV))
            if kept and hit[tuple(end)] and touching.any():
                return source, changed
    raise CannotMake("no muscle to go through lies far enough from the valves and from the border of the image")


def _capsule(shape, start, end, spacing_mm, radius_mm):
    """(X, Y, Z) bool: voxels within `radius_mm` of the segment between the voxels `start` and `end` (3,)."""
    low = np.maximum(np.minimum(start, end) - np.ceil(radius_mm / spacing_mm).astype(int), 0)
    high = np.minimum(np.maximum(start, end) + np.ceil(radius_mm / spacing_mm).astype(int) + 1, shape)
    box = tuple(slice(a, b) for a, b in zip(low, high))
    points = np.stack(np.mgrid[box], -1) * spacing_mm
    a, way = start * spacing_mm, (end - start) * spacing_mm
    along = np.clip((points - a) @ way / (way @ way), 0, 1)
    near = np.linalg.norm(points - a - along[..., None] * way, axis=-1) <= radius_mm
    found = np.zeros(shape, bool)
    found[box] = near
    return found


# ---- stray pieces


def _islands(labels, spacing_mm, grade, rng):
    """Balls of one structure in the background, none of which touches anything, another ball included."""
    there = [c for c in _NAMES if (labels == c).any()]
    if not there:
        raise CannotMake("the heart is empty")
    structure = int(rng.choice(there))
    before, wanted = pieces(labels, structure), max(1, round(MOST_ISLANDS * grade))
    reach = np.maximum(np.round(ISLAND_MM / spacing_mm), 0).astype(int)
    ball = np.linalg.norm(np.stack(np.mgrid[tuple(slice(-r, r + 1) for r in reach)], -1) * spacing_mm, axis=-1)
    offsets = np.argwhere(ball <= ISLAND_MM) - reach
    near = _away_mm(labels > 0, spacing_mm) <= AWAY_MM
    inner = np.zeros(labels.shape, bool)
    inner[tuple(slice(r + 2, -r - 2) for r in reach)] = True
    places = np.argwhere((labels == 0) & near & inner)
    changed, made = labels.copy(), 0
    for place in places[rng.permutation(len(places))]:
        if made == wanted:
            break
        around = tuple(slice(p - r - 1, p + r + 2) for p, r in zip(place, reach))
        voxels = tuple((place + offsets).T)
        if changed[around].any():
            continue
        changed[voxels] = structure
        made += 1
    if made < wanted or pieces(changed, structure) != before + wanted:
        raise CannotMake(f"there is no room for {wanted} stray pieces")
    return structure, changed


KINDS: dict[str, Callable] = {
    "leak": _leak,
    "coronary_detached": _detached(CORONARY, AORTA),
    "pv_detached": _detached(PV, LA),
    "laa_detached": _detached(LAA, LA),
    "coronary_gaps": _gaps,
    "islands": _islands,
}
