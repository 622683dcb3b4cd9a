"""From the field of one heart to a label map on a grid, decoded coarse to fine.

A voxel has the label of its centre (vecset/models/labels.py). Most voxels of an image
are far from any surface, so a coarse grid of cells is decoded first, and only the cells that the surface or a class
border may cross are halved and decoded again, down to single voxels. Of smaller cells, and of voxels, only
those are decoded that interpolation between the cells before leaves in doubt (vecset/fields/interpolation.py). Five
safeguards:

1  A cell is left alone only if |distance| > L x half its diagonal, L = 1.25 x the largest gradient norm that finite
   differences show round it, two cells far, on its own grid (never less than the median of the grid).
2  A cell inside the heart is halved too where a neighbour through a face holds another class (one through an edge or a
   corner costs a tenth more queries and was not needed by the models tried, see 3), or where the lead of its largest
   logit could be lost within the cell at the slope seen between it and its neighbours.
3  Where a decoded voxel differs from a neighbour that was not decoded, that neighbour is decoded, and so on: a border
   that leaves the decoded zone is followed.
4  Half a percent of the voxels that were left alone is decoded, MOST_CHECKED at most. One that differs means that the
   bounds do not hold for this field (an untrained one, say), and the whole heart is decoded voxel by voxel. So it is
   where hardly any were left alone: noise looks like that, and half a percent of a few voxels is no check.
5  Two percent of the voxels that were interpolated are decoded, and of the cells. Where more than one in a thousand
   differs, all are: the field is not smooth between the cells.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from vecset.common.memory import require_memory
from vecset.fields.cell_grid import CellGrid
from vecset.fields.heart_field import HeartField
from vecset.fields.interpolation import CellValues
from vecset.imaging.frame import Frame

COARSE_VOXELS = 8  # edge of the first cells, in voxels of the smallest spacing
LARGE = 1 << 24  # voxels, from which on the first cells are twice as large
LIPSCHITZ_MARGIN = 1.25
REACH = 5  # cells along each axis whose gradients count for the one in the middle
CLOSE_LOGITS = 1.0  # a lead below this (a factor e in odds) is never trusted over a whole cell
CHECKED_SHARE = 0.005
MOST_CHECKED = 1 << 16  # shows with 99.9 % where one voxel in 10,000 is wrong
BOX_BYTES = 16  # of memory per voxel round the unit cube: measured 17 to 24 at 200 to 320 voxels a side
GRID_BYTES = 3  # per voxel of the image: the labels, and their copies for the two files
INTERPOLATED_CHECKED, INTERPOLATED_WRONG = 0.02, 1e-3  # shares: of those that are checked; of these, that may differ
INTERPOLATED_FROM = 8  # voxels: the largest cells that are interpolated between
LEAST_SKIPPED = 0.1  # of the voxels; where coarse to fine leaves fewer alone, these are decoded, too


@dataclass
class Decoded:
    """labels (X, Y, Z) u8 on the grid; queries: points asked of the model; voxels: those of the grid inside the unit
    cube, or the field's ball, what dense decoding would ask; skipped: those of them that coarse to fine left
    alone; interpolated: those whose labels are by interpolation; checked, missed: how many of the skipped were decoded
    as a check, and how many of these differed; dense: whether the whole heart was decoded voxel by voxel in the end."""

    labels: np.ndarray
    queries: int
    voxels: int
    skipped: int = 0
    interpolated: int = 0
    checked: int = 0
    missed: int = 0
    dense: bool = False


def decode_label_map(field: HeartField, frame: Frame, coarse: int | None = None, seed: int = 0) -> Decoded:
    """The label map of `field` on the grid of `frame`. Voxels outside the unit cube, or the ball in which the field
    holds (`HeartField.radius_unit`), are background.

    coarse: edge of the first cells in voxels, a power of two; 1 decodes every voxel; None: COARSE_VOXELS, or twice as
    many in a box of LARGE voxels or more. seed: of the check (safeguard
    4)."""
    before = field.queries
    require_grid_memory(frame, field.radius_unit)
    grid = CellGrid(frame, field.radius_unit)
    box_labels = np.zeros(grid.shape, np.uint8)
    decoded = Decoded(np.zeros(frame.shape, np.uint8), 0, 0)
    if box_labels.size:
        evaluated, interpolated = None, np.zeros(0, int)
        coarse = coarse or COARSE_VOXELS * (2 if box_labels.size >= LARGE else 1)
        if coarse > 1:
            evaluated, interpolated = _coarse_to_fine(field, grid, coarse, box_labels, seed)
        for flat, inside in grid.slabs():
            decoded.voxels += int(inside.sum())
            if evaluated is not None:
                outside = flat[~inside]
                box_labels.ravel()[outside], evaluated.ravel()[outside] = 0, True
        if evaluated is not None:
            decoded.skipped = evaluated.size - int(np.count_nonzero(evaluated))
            decoded.interpolated = len(interpolated)
            decoded.checked, decoded.missed = _check(field, grid, box_labels, ~evaluated, decoded.skipped, seed)
        decoded.dense = evaluated is None or decoded.missed > 0 or decoded.skipped < LEAST_SKIPPED * decoded.voxels
        if decoded.dense:
            field.fallbacks += evaluated is not None
            decoded.interpolated = 0
            if evaluated is not None:
                evaluated.ravel()[interpolated] = False
            for flat, inside in grid.slabs():
                rest = inside if evaluated is None else inside & ~evaluated.ravel()[flat]  # the others are exact
                _decode_voxels(field, grid, flat[rest], box_labels)
        decoded.labels[grid.box] = box_labels
    decoded.queries = field.queries - before
    return decoded


def require_grid_memory(frame: Frame, radius_unit: float | None = None) -> None:
    """Raises InputError, with the size, where decoding and writing a label map on the grid of `frame` takes more memory
    than there is; radius_unit: as of the field. Nothing is allocated."""
    box, whole = math.prod(CellGrid(frame, radius_unit).shape), math.prod(frame.shape)
    require_memory(
        "",
        BOX_BYTES * box + GRID_BYTES * whole,
        f"a label map of {' x '.join(map(str, frame.shape))} voxels",
        "give a larger --spacing, crop the image round the heart, or use a machine with more memory",
    )


def _decode_voxels(field, grid, flat, labels):
    labels.ravel()[flat] = field.at_positions(flat, grid.voxels_unit)[1]


def _coarse_to_fine(field, grid, coarse, labels, seed):
    """Fills `labels` (X, Y, Z); returns a bool mask of the voxels that were decoded or interpolated themselves, and the
    flat indices of the latter."""
    level = coarse
    strides = grid.strides(level)
    cells = grid.cells(strides)
    everything = np.arange(int(np.prod(cells)))
    parts = np.array_split(everything, max(1, len(everything) // (1 << 20)))
    active = np.concatenate([grid.inside(p, cells, strides) for p in parts])
    sdf = np.full(cells, np.inf, np.float32)
    cell_labels = np.zeros(cells, np.uint8)
    lead = np.full(cells, np.inf, np.float32)
    todo, near, before = everything[active], None, strides
    while max(strides) > 1:
        known = np.zeros(cells, bool)  # decoded or settled
        settled, values, errors = todo[:0], None, None
        if near is not None:
            centres = functools.partial(grid.centres_unit, cells=cells, strides=strides)
            sure, values, errors = _settled(field, near, todo, cells, _reach(strides, before), centres, seed)
            settled, todo = todo[sure], todo[~sure]
            known.ravel()[settled] = True
            for target, found in zip((sdf, cell_labels, lead), field.decided(values)):
                target.ravel()[settled] = found
        raw = [] if max(strides) <= INTERPOLATED_FROM else None  # what cells and voxels are interpolated from
        new = field.at_positions(todo, functools.partial(grid.centres_unit, cells=cells, strides=strides), raw)
        for target, found in zip((sdf, cell_labels, lead), new):
            target.ravel()[todo] = found
        decoded = np.zeros(cells, bool)
        decoded.ravel()[todo] = known.ravel()[todo] = True
        step_unit = np.array(strides) * grid.spacing_unit
        half_unit = grid.half_diagonal_unit(strides)
        bound = _local_bound(sdf, known, step_unit)
        refine = decoded & ((np.abs(sdf) <= bound * half_unit) | _class_border(cell_labels, lead, half_unit, step_unit))
        level //= 2
        finer = grid.strides(level)
        factors = tuple(s // f for s, f in zip(strides, finer))
        near = None
        if raw:
            if values is not None:
                errors = torch.cat([torch.zeros(len(todo), errors.shape[1]), errors])
                raw.append(values)
            near = CellValues(torch.cat(raw), np.concatenate([todo, settled]), cells, factors, errors)
        before, strides, cells = strides, finer, grid.cells(finer)
        refine, sdf, cell_labels, lead = (_split(array, factors, cells) for array in (refine, sdf, cell_labels, lead))
        todo = np.flatnonzero(refine)
        del refine
    np.copyto(labels, cell_labels)
    interpolated = _voxels_of_cells(field, grid, todo, labels, near, seed)
    decoded = np.zeros(cells, bool)
    decoded.ravel()[todo] = True
    _follow_borders(field, grid, todo, labels, decoded)
    return decoded, interpolated


def _settled(field, near, todo, cells, reach, centres, seed):
    """`CellValues.settled` of the cells `todo`; some of them are decoded as a check, and where more differ than may,
    none is settled (safeguard 5)."""
    sure, values, errors = near.settled(field, todo, cells, reach)
    some = np.random.default_rng(seed).random(len(values)) < INTERPOLATED_CHECKED
    checked = todo[sure][some]
    if len(checked):
        _, found, _ = field.at_positions(checked, centres)
        wrong = np.count_nonzero(found != field.decided(values[torch.from_numpy(some)])[1])
        if wrong > INTERPOLATED_WRONG * len(checked):
            return np.zeros(len(todo), bool), values[:0], errors[:0]
    return sure, values, errors


def _reach(strides, before):
    """(3,): how far the voxels of cells of `strides` lie from the centre, in steps of the larger cells `before`."""
    return tuple((stride - 1) / 2 / larger for stride, larger in zip(strides, before))


def _voxels_of_cells(field, grid, todo, labels, near, seed):
    """Labels of the voxels `todo`, by interpolation between the cells `near` where that leaves no doubt; returns those
    that were interpolated (safeguard 5)."""
    if near is None:
        _decode_voxels(field, grid, todo, labels)
        return np.zeros(0, int)
    found, certain = near.labels(field, todo, labels.shape)
    _decode_voxels(field, grid, todo[~certain], labels)
    interpolated, found = todo[certain], found[certain]
    labels.ravel()[interpolated] = found
    some = np.random.default_rng(seed).random(len(interpolated)) < INTERPOLATED_CHECKED
    if not some.any():
        return interpolated
    _decode_voxels(field, grid, interpolated[some], labels)
    wrong = np.count_nonzero(labels.ravel()[interpolated[some]] != found[some])
    if wrong > max(1, INTERPOLATED_WRONG * np.count_nonzero(some)):
        _decode_voxels(field, grid, interpolated[~some], labels)
        return np.zeros(0, int)
    return interpolated[~some]


def _split(array, factors, cells):
    """Every cell's value for the cells that it is split into; `cells` cuts what reaches beyond the grid."""
    for axis, factor in enumerate(factors):
        if factor > 1:
            array = np.repeat(array, factor, axis)
    return np.ascontiguousarray(array[tuple(slice(n) for n in cells)])


def _local_bound(sdf, decoded, step_unit):
    """(X, Y, Z) f32: LIPSCHITZ_MARGIN x the largest gradient norm within REACH cells, or the median of all where that
    is larger. Norms by forward differences between decoded cells; the image axes are at right angles."""
    squares = np.zeros(sdf.shape, np.float32)
    with np.errstate(invalid="ignore"):
        for axis in range(3):
            pair = tuple(slice(0, -1) if a == axis else slice(None) for a in range(3))
            after = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
            slope = np.where(decoded[pair] & decoded[after], (sdf[after] - sdf[pair]) / np.float32(step_unit[axis]), 0)
            squares[pair] += slope**2
    norms = np.sqrt(squares, out=squares)
    least = np.median(norms[norms > 0]) if norms.any() else 0.0
    return LIPSCHITZ_MARGIN * np.maximum(ndimage.maximum_filter(norms, REACH, mode="nearest"), np.float32(least))


def _class_border(labels, lead, half_unit, step_unit):
    """Bool per cell: inside, and a class border may cross it (safeguard 2)."""
    inside = labels > 0
    where = ndimage.find_objects(inside.astype(np.uint8))
    border = np.zeros(labels.shape, bool)
    if not where:
        return border
    around = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in where[0])
    inside, labels, lead = inside[around], labels[around], lead[around]
    faces = {"footprint": ndimage.generate_binary_structure(3, 1), "mode": "nearest"}
    highest = ndimage.maximum_filter(labels, **faces)
    lowest = ndimage.minimum_filter(np.where(inside, labels, 255), **faces)
    most = ndimage.maximum_filter(np.where(inside, lead, -np.inf), **faces)
    least = ndimage.minimum_filter(np.where(inside, lead, np.inf), **faces)
    with np.errstate(invalid="ignore"):  # one class: every lead is infinite
        change = LIPSCHITZ_MARGIN * np.maximum(most - lead, lead - least) * (half_unit / step_unit.min())
        border[around] = inside & ((highest != lowest) | (lead <= np.maximum(change, CLOSE_LOGITS)))
    return border


def _follow_borders(field, grid, decoded_flat, labels, decoded):
    """Safeguard 3: decodes voxels that differ from a decoded neighbour until there are none. `labels`,
    `decoded`: (X, Y, Z), both brought up to date."""
    flat_labels, flat_decoded = labels.ravel(), decoded.ravel()
    front = decoded_flat
    while len(front):
        found = []
        for part in np.array_split(front, max(1, len(front) // (1 << 20))):
            index = np.unravel_index(part, labels.shape)
            for axis in range(3):
                step = int(np.prod(labels.shape[axis + 1 :]))
                for sign, possible in ((-1, index[axis] > 0), (1, index[axis] < labels.shape[axis] - 1)):
                    here = part[possible]
                    there = here + sign * step
                    found.append(there[~flat_decoded[there] & (flat_labels[there] != flat_labels[here])])
        front = np.unique(np.concatenate(found))
        front = front[grid.inside(front)]
        _decode_voxels(field, grid, front, labels)
        flat_decoded[front] = True


def _check(field, grid, labels, left_alone, skipped, seed):
    """Safeguard 4: (voxels checked, how many of them differ). left_alone (X, Y, Z) bool; skipped: how many it holds."""
    wanted = min(int(np.ceil(CHECKED_SHARE * skipped)), MOST_CHECKED)
    ranks = np.sort(np.random.default_rng(seed).choice(skipped, wanted, replace=False))  # among those left alone
    checked, before = [], 0
    for first, slab in enumerate(left_alone):  # not all at once: the list of what was left alone may be of 500 MB
        flat = np.flatnonzero(slab)
        low, high = np.searchsorted(ranks, (before, before + len(flat)))
        checked.append(flat[ranks[low:high] - before] + first * slab.size)
        before += len(flat)
    checked = np.concatenate(checked)
    _, expected, _ = field.at_positions(checked, grid.voxels_unit)
    return wanted, int(np.count_nonzero(labels.ravel()[checked] != expected))
