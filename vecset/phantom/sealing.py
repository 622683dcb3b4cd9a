"""Closes holes of rasterised hearts and removes their islands: a few voxels each."""

import numpy as np
from scipy import ndimage

from vecset.phantom.precedence import FIELDS_10, FIELDS_16, LA, LA_WALL, RV, RV_WALL


def seal(labels: np.ndarray) -> np.ndarray:
    """Closes holes and removes islands of the rasterised heart, in place: enclosed background is given to its most
    frequent neighbour, and so is all of a structure but its largest piece (26-connected). A few voxels each."""
    background, count = ndimage.label(np.pad(labels == 0, 1, constant_values=True))  # piece 1 is the open
    if count > 1:
        give_away(labels, background[1:-1, 1:-1, 1:-1] > 1)
    for _ in range(2):
        for class_id, box in enumerate(ndimage.find_objects(labels), start=1):
            if box is None:
                continue
            pieces, count = ndimage.label(labels[box] == class_id, np.ones((3, 3, 3)))
            if count > 1:
                islands = np.zeros(labels.shape, bool)
                islands[box] = (pieces > 0) & (pieces != np.bincount(pieces.ravel())[1:].argmax() + 1)
                give_away(labels, islands, keep_background=True)
    return labels


def give_away(labels, mask, keep_background=False):
    """Gives voxels of `mask` the most frequent class among their six neighbours outside the mask, from outside in.
    With `keep_background` that class may be background."""
    mask = mask.copy()
    while mask.any():
        at = np.argwhere(mask)
        votes = np.zeros((len(at), FIELDS_16), int)
        for axis in range(3):
            for step in (-1, 1):
                near = at.copy()
                near[:, axis] = np.clip(near[:, axis] + step, 0, labels.shape[axis] - 1)
                known = ~mask[tuple(near.T)]
                np.add.at(votes, (np.flatnonzero(known), labels[tuple(near[known].T)]), 1)
        if not keep_background:
            votes[:, 0] = 0
        ready = votes.sum(1) > 0
        if not ready.any():
            labels[mask] = 0
            return
        done = at[ready]
        labels[tuple(done.T)] = votes[ready].argmax(1)
        mask[tuple(done.T)] = False


def seal_sixteen(ten: np.ndarray, beyond: np.ndarray) -> np.ndarray:
    """(X, Y, Z) u8 labels of a heart of sixteen structures, of the sealed labels of the `ten` and of what takes their
    place, `beyond` (0: nothing). Voxels of RV and LA beside the background, at the rims of their openings, are wall. An
    island of a vessel or a wall is what the ten have there, and one of a pool is wall. Background that these enclose is
    given to the most frequent of them round it."""
    labels = ten.copy()
    at = np.flatnonzero(beyond)
    new, old = beyond.ravel()[at], ten.ravel()[at]
    fits = (old == 0) | ((new == RV_WALL) & (old == RV)) | ((new == LA_WALL) & (old == LA))
    labels.ravel()[at[fits]] = new[fits]
    close_rims(labels)
    boxes = _boxes(labels)
    for c, other in (*((c, 0) for c in range(FIELDS_10, FIELDS_16)), (RV, RV_WALL), (LA, LA_WALL)):
        _drop_islands(labels, ten, boxes, c, other)
    for pool, wall in ((RV, RV_WALL), (LA, LA_WALL)):  # what was pool may be a piece alone
        boxes[wall] = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(boxes[wall], boxes[pool]))
        _drop_islands(labels, ten, boxes, wall, 0)
    background, count = ndimage.label(np.pad(labels == 0, 1, constant_values=True))
    if count > 1:
        new = np.where(labels >= FIELDS_10, labels, 0)
        new[background[1:-1, 1:-1, 1:-1] == 1] = 0
        holes = background[1:-1, 1:-1, 1:-1] > 1
        give_away(new, holes)
        labels[holes] = new[holes]
    return labels


def close_rims(labels: np.ndarray) -> None:
    """Makes voxels of RV and LA that lie beside the background wall, in place. They are few, but a pool's share of near
    points would lie at them, for the rest of it is inside its wall (docs/log.md)."""
    boxes = _boxes(labels)
    for pool, wall in ((RV, RV_WALL), (LA, LA_WALL)):
        around = labels[boxes[pool]]
        around[ndimage.binary_dilation(around == 0) & (around == pool)] = wall


def _boxes(labels):
    """By class 0..15, the slices of the box round it and a voxel more; an empty box for one that is not there."""
    found = ndimage.find_objects(labels, FIELDS_16 - 1)
    empty = (slice(0, 0),) * 3
    return [empty] + [tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box) if box else empty for box in found]


def _drop_islands(labels, ten, boxes, class_id, other):
    """Makes all of a class but its largest piece (26-connected) `other`, or what the `ten` have there, in place."""
    box = boxes[class_id]
    pieces, count = ndimage.label(labels[box] == class_id, np.ones((3, 3, 3)))
    if count > 1:
        islands = (pieces > 0) & (pieces != np.bincount(pieces.ravel())[1:].argmax() + 1)
        labels[box][islands] = other or ten[box][islands]
