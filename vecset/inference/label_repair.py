"""Mends a label map with what a model draws of it: stray pieces, gaps and lost contacts.

The map's own labels stay wherever the model agrees or is not certain. Three things are changed, in this order:

    stray pieces   a piece of a structure, neither its largest nor one that begins where it should, where the model
                   gives the structure almost no chance, becomes what the model draws there; not a piece of a vessel
                   that lies in line with another
    gaps           of vessels (TUBES): ends that go on in each other are joined by a tube, by their own directions and
                   radii (vecset/geometry/tube_gaps.py): a model draws vessels too poorly to be asked
    lost contacts  a piece of a structure that has to begin at another one (BEGINS_AT) and neither touches it nor a
                   piece that does is joined to the nearest of them, along the path that the model finds most likely,
                   and but for vessels (TUBES) in the whole layer between both, where the model draws one of them; two
                   pieces that both touch it, where the model finds the structure in the gap between them (LIKELY)

So a coronary tree that fell apart is one piece again, and left and right tree stay two, each at the aorta. A label that
leaks into a neighbour is left as it is: a network that draws a valve a few mm off gives such places to the neighbour as
surely as it gives a leak.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import edt
import numpy as np
from scipy import ndimage
from skimage.graph import MCP_Geometric

from vecset.geometry.tube_ends import tube_ends
from vecset.geometry.tube_gaps import centre_line, choose_joins, find_joins, tube_voxels
from vecset.imaging.components import WITH_CORNERS
from vecset.imaging.structure_names import BEGINS_AT, class_of

TUBES = {"Coronary"}  # structures of BEGINS_AT whose gaps are closed by their own shape
COARSEST_MM = 3.0  # spacing with which a vessel's shape is seen: with thicker slices it falls apart by itself
NO_CHANCE = 0.05  # mean probability of a structure below which the model is certain that it is not there
LONGEST_GAP_MM = 15.0
END_MM = 4.0  # of a piece, whose thickness the new part takes
LIKELY = 0.3  # least probability on a way between two pieces, each of which begins where it should
LEAST_PROBABILITY = 1e-3  # of a step of a path: what the model excludes is expensive, not impossible
_STEP, _THROUGH_OTHERS = 0.2, 2.0  # costs of a step: of each, and of one through another structure


@dataclass
class Mending:
    """What was changed of one structure: pieces, before and after; stray_pieces and their voxels that were taken away;
    joined: pieces that were joined to others or to what they begin at; touches: whether it touches that now (None where
    nothing is asked); gained, lost: voxels in all."""

    pieces_before: int = 0
    pieces: int = 0
    stray_pieces: int = 0
    stray_voxels: int = 0
    joined: int = 0
    touched_before: bool | None = None
    touches: bool | None = None
    gained: int = 0
    lost: int = 0


def mend(
    labels: np.ndarray,
    drawn: np.ndarray,
    probabilities: Callable[[np.ndarray], np.ndarray],
    spacing_mm: np.ndarray,
    class_names: Sequence[str],
) -> tuple[np.ndarray, dict[str, dict]]:
    """(mended labels (X, Y, Z) u8, {structure: `Mending` as dict} of those that are there).

    labels, drawn (X, Y, Z) u8: the map, and what the model draws of it, on one grid with spacing_mm (3,);
    probabilities(index (n, 3) voxels) -> (n, C) f32: what the model gives each class there."""
    before, labels = labels, labels.copy()
    told = {c: Mending() for c in np.unique(labels[labels > 0]).tolist()}
    roots = root_ids(class_names)
    for c, mending in told.items():
        mending.pieces_before = _count(labels, c)
        if roots.get(c) in told:
            mending.touched_before = touches(labels, c, roots[c])
    tubes = {c for c in tube_ids(class_names) if c in told and roots.get(c) in told}
    if not sees_tubes(spacing_mm):
        tubes = set()
    for c, mending in told.items():
        kept = _in_line(labels, c, roots[c], spacing_mm) if c in tubes else None
        mending.stray_pieces, mending.stray_voxels = _drop_stray(labels, drawn, probabilities, c, roots.get(c), kept)
    for c, mending in told.items():
        if roots.get(c) not in told:
            continue
        near = _near(labels, c, spacing_mm)
        here, draws = labels[near], drawn[near]  # views: what changes in them changes the map
        origin = [s.start for s in near]
        if c in tubes:
            mending.joined = _close_gaps(here, draws, c, roots[c], spacing_mm)
        layer = class_of(class_names[c - 1]) not in TUBES
        mending.joined += _join(
            here, draws, lambda index, origin=origin: probabilities(index + origin), c, roots[c], spacing_mm, layer
        )
        mending.touches = touches(labels, c, roots[c])
    for c, mending in told.items():
        mending.pieces = _count(labels, c)
        mending.gained = int(np.count_nonzero((labels == c) & (before != c)))
        mending.lost = int(np.count_nonzero((labels != c) & (before == c)))
    return labels, {class_names[c - 1]: asdict(mending) for c, mending in told.items()}


def sees_tubes(spacing_mm: np.ndarray) -> bool:
    """Whether the gaps of vessels are closed by their shape, on a grid with spacing_mm (3,)."""
    return bool(np.max(spacing_mm) <= COARSEST_MM)


def tube_ids(class_names: Sequence[str]) -> list[int]:
    """The ids of the classes whose gaps are closed by their shape, by the names of the structures."""
    return [c for c, name in enumerate(class_names, 1) if class_of(name) in TUBES]


def changes_line(told: dict[str, dict]) -> str:
    """What was changed of which structure, and which is in more pieces than before, in words, or ""."""
    words = []
    for name, one in told.items():
        stray, joined = one["stray_pieces"], one["joined"]
        parts = [f"{stray} stray {'piece' if stray == 1 else 'pieces'} removed"] if stray else []
        parts += [f"{joined} {'piece' if joined == 1 else 'pieces'} joined"] if joined else []
        if one["pieces"] > one["pieces_before"]:
            parts.append(f"{one['pieces']} pieces now, {one['pieces_before']} before")
        if parts:
            words.append(f"{name}: {', '.join(parts)} (+{one['gained']}, -{one['lost']} voxels)")
    return "; ".join(words)


def root_ids(class_names: Sequence[str]) -> dict[int, int]:
    """{class id: id of the class that it begins at}, by the names of the structures; {} where there are none."""
    ids = {class_of(name): c for c, name in enumerate(class_names, 1)}
    return {ids[part]: ids[root] for part, root in BEGINS_AT.items() if part in ids and root in ids}


def touches(labels: np.ndarray, part: int, root: int) -> bool:
    """Whether a voxel of `part` shares a face, an edge or a corner with one of `root`."""
    box = _box(labels == part, 1)
    return bool((ndimage.binary_dilation(labels[box] == part, WITH_CORNERS) & (labels[box] == root)).any())


def _pieces(mask):
    """(numbers of the 26-connected pieces (X, Y, Z), their number)."""
    return ndimage.label(mask, WITH_CORNERS)


def _count(labels, c):
    """The number of the pieces of a class."""
    return _pieces(labels[_box(labels == c, 0)] == c)[1]


def _box(mask, margin):
    """The box round the True voxels, `margin` (a number or one per axis) voxels wider, as slices."""
    margin = np.broadcast_to(margin, 3)
    found = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        at = np.flatnonzero(mask.any(axis=others))
        if not len(at):
            return (slice(0, 0),) * 3
        found.append(slice(max(int(at[0] - margin[axis]), 0), int(at[-1] + margin[axis]) + 1))
    return tuple(found)


def _near(labels, c, spacing_mm):
    """The box round a class, as slices, that holds all that lies at most LONGEST_GAP_MM from it."""
    return _box(labels == c, np.ceil(LONGEST_GAP_MM / np.asarray(spacing_mm)).astype(int) + 2)


def _mean_chance(probabilities, mask, box, c):
    """Mean probability of a class at the voxels `mask` of a box."""
    index = np.argwhere(mask) + [s.start for s in box]
    return float(probabilities(index)[:, c - 1].mean())


def _drop_stray(labels, drawn, probabilities, c, root, kept=None):
    """(number, voxels) of the pieces that were taken away; none that touches what it begins at, or is of `kept`
    (X, Y, Z) bool."""
    whole = _box(labels == c, 0)
    parts, count = _pieces(labels[whole] == c)
    if count < 2:
        return 0, 0
    sizes = np.bincount(parts.ravel())[1:]
    dropped = voxels = 0
    for n, place in enumerate(ndimage.find_objects(parts), 1):
        if n == sizes.argmax() + 1:
            continue
        mine = parts[place] == n
        box = tuple(slice(w.start + s.start, w.start + s.stop) for w, s in zip(whole, place))
        if (root and _touches_root(labels, mine, box, root)) or (kept is not None and kept[box][mine].any()):
            continue
        if _mean_chance(probabilities, mine, box, c) < NO_CHANCE:
            labels[box][mine] = np.where(drawn[box][mine] == c, 0, drawn[box][mine])
            dropped, voxels = dropped + 1, voxels + int(mine.sum())
    return dropped, voxels


def _touches_root(labels, mine, box, root):
    """Whether the voxels `mine` of a box touch the class `root`."""
    wider = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
    there = np.zeros(labels[wider].shape, bool)
    there[tuple(slice(s.start - w.start, s.stop - w.start) for s, w in zip(box, wider))] = mine
    return bool((ndimage.binary_dilation(there, WITH_CORNERS) & (labels[wider] == root)).any())


def _joins(labels, c, root, spacing_mm):
    """(numbers of the pieces (X, Y, Z), those that touch the root, `Join`s of their ends, cheapest first)."""
    parts, count = _pieces(labels == c)
    begin = labels == root
    held = set(np.unique(parts[ndimage.binary_dilation(begin, WITH_CORNERS)]).tolist()) - {0}
    if count == len(held) == 1:
        return parts, held, []
    # an end that looks at the root is no broken one; one that touches it beside its way may be
    ends = [
        end for end in tube_ends(parts, spacing_mm) if not end.runs_into(begin, spacing_mm) or end.piece not in held
    ]
    return parts, held, find_joins(ends, parts, begin, spacing_mm)


def _in_line(labels, c, root, spacing_mm):
    """(X, Y, Z) bool: the pieces of a vessel that another one may well go on in."""
    found = np.zeros(labels.shape, bool)
    near = _near(labels, c, spacing_mm)
    parts, _, joins = _joins(labels[near], c, root, spacing_mm)
    found[near] = (parts > 0) & np.isin(parts, [piece for join in joins if join.likely for piece in join.pieces])
    return found


def _close_gaps(labels, drawn, c, root, spacing_mm):
    """The number of gaps of a vessel that were closed, by its own directions and radii."""
    _, held, joins = _joins(labels, c, root, spacing_mm)
    chosen = choose_joins(joins, held)
    for join in chosen:
        tube, middle = tube_voxels(*centre_line(join, spacing_mm), labels.shape, spacing_mm)
        at = tuple(tube.T)
        tube = tube[(labels[at] == 0) | (drawn[at] == c)]
        for index in (tube, middle):  # the middle goes through other structures, too
            at = tuple(index[labels[tuple(index.T)] != root].T)
            labels[at] = c
    return len(chosen)


def _join(labels, drawn, probabilities, c, root, spacing_mm, layer):
    """The number of pieces that were joined to the root or to a piece that touches it, nearest first."""
    joined, given_up = 0, set()
    while True:
        parts, count = _pieces(labels == c)
        held = set(np.unique(parts[ndimage.binary_dilation(labels == root, WITH_CORNERS)])) - {0}
        loose = [n for n in range(1, count + 1) if n not in held and _first(parts, n) not in given_up]
        if not loose:
            return joined + _join_trees(labels, drawn, probabilities, c, root, spacing_mm)
        target = np.isin(parts, list(held)) | (labels == root)
        away_mm = edt.edt(np.ascontiguousarray(~target), anisotropy=tuple(map(float, spacing_mm)), parallel=1)
        gaps_mm = ndimage.minimum(away_mm, parts, loose)
        n, gap_mm = loose[int(np.argmin(gaps_mm))], float(np.min(gaps_mm))
        mine = parts == n
        if gap_mm > LONGEST_GAP_MM or not _bridge(
            labels, drawn, probabilities, c, root, mine, target, gap_mm, spacing_mm, layer=layer
        ):
            given_up.add(_first(parts, n))
            continue
        joined += 1


def _join_trees(labels, drawn, probabilities, c, root, spacing_mm):
    """The number of pieces, each of which begins at the root, that were joined to others: where the model draws the
    structure in the gap."""
    joined, tried = 0, set()
    while True:
        parts, count = _pieces(labels == c)
        left = [n for n in range(1, count + 1) if _first(parts, n) not in tried]
        if count < 2 or not left:
            return joined
        tried.add(_first(parts, left[0]))
        mine, others = parts == left[0], (parts > 0) & (parts != left[0])
        away_mm = edt.edt(np.ascontiguousarray(~others), anisotropy=tuple(map(float, spacing_mm)), parallel=1)
        gap_mm = float(away_mm[mine].min())
        if gap_mm <= LONGEST_GAP_MM:
            how = mine, others, gap_mm, spacing_mm, LIKELY
            joined += _bridge(labels, drawn, probabilities, c, root, *how)


def _first(parts, n):
    """The first voxel of a piece, by which it is known again."""
    return int(np.argmax(parts.ravel() == n))


def _bridge(labels, drawn, probabilities, c, root, mine, target, gap_mm, spacing_mm, likely=0.0, layer=False):
    """Joins the piece `mine` to `target`, both (X, Y, Z) bool, in `labels`; whether there was a way.

    layer: not only near the way, but wherever both face each other and the model draws the piece's structure between
    them, or the root in the background. It is the piece's there: the root's own wall is as it was annotated."""
    spacing_mm = np.asarray(spacing_mm, float)
    margin = np.ceil((gap_mm + END_MM) / spacing_mm).astype(int)
    box = _box(mine, margin)
    here, start, goal, draws = labels[box], mine[box], target[box], drawn[box]
    own_mm, other_mm = (
        edt.edt(np.ascontiguousarray(~m), anisotropy=tuple(spacing_mm), parallel=1) for m in (start, goal)
    )
    zone = ~start & ~goal & (own_mm + other_mm <= 1.5 * gap_mm + 2 * spacing_mm.max())
    index = np.argwhere(zone)
    chance = np.zeros(here.shape, np.float32)
    if len(index):
        either = [c - 1, root - 1] if layer else [c - 1]
        chance[tuple(index.T)] = probabilities(index + [s.start for s in box])[:, either].sum(1)
    cost = np.full(here.shape, -1.0)  # not to be entered
    cost[zone] = _STEP - np.log(np.maximum(chance[zone], LEAST_PROBABILITY)) + _THROUGH_OTHERS * (here[zone] > 0)
    cost[start | goal] = _STEP
    ends = np.argwhere(goal & (own_mm <= gap_mm + END_MM))
    starts = np.argwhere(start & (other_mm <= gap_mm + END_MM))
    path = _cheapest_way(cost, starts, ends, spacing_mm)
    if path is None:
        return False
    way = np.zeros(here.shape, bool)
    way[tuple(path.T)] = True
    way &= ~start & ~goal
    if not way.any():
        way[tuple(path[len(path) // 2])] = True
    if chance[way].min() < likely:
        return False
    radius_mm = _thickness_mm(start, path[0], spacing_mm)
    if here[tuple(path[-1])] == c:
        radius_mm = min(radius_mm, _thickness_mm(goal & (here == c), path[-1], spacing_mm))
    from_way_mm = edt.edt(np.ascontiguousarray(~way), anisotropy=tuple(spacing_mm), parallel=1)
    between = zone & (own_mm <= gap_mm) & (other_mm <= gap_mm)
    fill = way | between & (from_way_mm <= radius_mm) & ((here == 0) | (draws == c))
    if layer:
        fill |= between & ((draws == c) | (here == 0) & (draws == root))
    here[fill & (here != root) & (here != c)] = c
    return True


def _cheapest_way(cost, starts, ends, spacing_mm):
    """(n, 3) voxels of the cheapest way from one of `starts` (k, 3) to one of `ends` (m, 3), or None: a step costs its
    length in mm times the mean of the `cost` (X, Y, Z) of its two voxels; negative: not to be entered."""
    search = MCP_Geometric(cost, sampling=tuple(spacing_mm))
    costs, _ = search.find_costs(starts, ends, find_all_ends=False)
    reached = costs[tuple(ends.T)]
    if not len(ends) or not np.isfinite(reached).any():
        return None
    return np.array(search.traceback(ends[int(np.argmin(reached))]))


def _thickness_mm(mask, at, spacing_mm):
    """Half the thickness of a structure near its voxel `at`: the largest distance to its surface within END_MM."""
    reach = np.ceil(END_MM / spacing_mm).astype(int)
    box = tuple(slice(max(a - r, 0), a + r + 1) for a, r in zip(at, reach))
    inner = np.pad(mask[box], 1)
    thick_mm = edt.edt(np.ascontiguousarray(inner), anisotropy=tuple(spacing_mm), parallel=1).max()
    return float(thick_mm - spacing_mm.min() / 2)  # to the face of a voxel, not to the centre beyond it
