"""Connected components of a label map, 26-connected: of each class, and of the whole foreground.

One pass of union-find over the runs of foreground voxels. scipy.ndimage.label, class by class, takes ten times as long;
it is the reference in the tests.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from vecset.common.compiled import njit

WITH_CORNERS = np.ones((3, 3, 3), bool)


@dataclass
class Components:
    """label (n,) u8 of each component (0 for components of the whole foreground), voxels (n,) i64 their sizes, start
    and stop (n, 3) i64 their boxes in voxel indices."""

    label: np.ndarray
    voxels: np.ndarray
    start: np.ndarray
    stop: np.ndarray


def components(labels: np.ndarray) -> tuple[Components, Components]:
    """The Components of each class, and those of the whole foreground, of labels (X, Y, Z) u8."""
    own, whole, label, voxels, start, stop = _components(np.ascontiguousarray(labels))
    found = []
    for root, keep_label in ((own, True), (whole, False)):
        ids, place = np.unique(root, return_inverse=True)
        first, last = np.full((len(ids), 3), 2**31, np.int64), np.zeros((len(ids), 3), np.int64)
        for axis in range(3):
            np.minimum.at(first[:, axis], place, start[:, axis])
            np.maximum.at(last[:, axis], place, stop[:, axis])
        count = np.bincount(place, weights=voxels, minlength=len(ids)).astype(np.int64)
        found.append(Components(label[ids] if keep_label else np.zeros(len(ids), np.uint8), count, first, last))
    return tuple(found)


def without_islands(labels: np.ndarray, share: float) -> tuple[np.ndarray, dict[str, list[int]]]:
    """`labels` (X, Y, Z) u8 without islands, and {class id as text: [number, voxels]} of what was dropped.

    An island is a component with fewer voxels than `share` of the largest component of its class. Islands become
    background. An island without a background voxel at any of its faces takes the class of most voxels at its faces:
    background there would be a hole.
    """
    if not labels.any():
        return labels, {}
    ends = [np.flatnonzero(labels.any(axis=others))[[0, -1]] for others in ((1, 2), (0, 2), (0, 1))]
    labels = labels.copy(order="K")
    inner = labels[tuple(slice(first, last + 1) for first, last in ends)]  # a view of the foreground's box
    parts, _ = components(inner)
    dropped, island = {}, np.zeros(inner.shape, bool)
    for c in (int(c) for c in np.unique(parts.label)):
        sizes = parts.voxels[parts.label == c]
        small = sizes < share * sizes.max()
        if small.any():
            dropped[str(c)] = [int(small.sum()), int(sizes[small].sum())]
            own, _ = ndimage.label(inner == c, WITH_CORNERS)
            sizes = np.bincount(own.ravel())
            sizes[0] = 0
            island |= ((sizes < share * sizes.max()) & (sizes > 0))[own]
    if dropped:
        _fill(inner, island)
    return labels, dropped


def _fill(labels, island):
    """Sets the voxels `island` (X, Y, Z) bool of `labels` to background, in place, or to the class around them."""
    labels[island] = 0
    groups, _ = ndimage.label(island)  # islands of several classes may touch
    for n, box in enumerate(ndimage.find_objects(groups), 1):
        wider = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
        own = groups[wider] == n
        if any(s.start == 0 or s.stop == size for s, size in zip(box, labels.shape)):
            continue  # at the side of the foreground's box, so not enclosed
        beside = labels[wider][ndimage.binary_dilation(own) & ~own]
        if beside.all():
            labels[wider][own] = np.bincount(beside).argmax()


@njit
def _root(parent, n):
    while parent[n] != n:
        parent[n] = parent[parent[n]]
        n = parent[n]
    return n


@njit
def _join(parent, a, b):
    a, b = _root(parent, a), _root(parent, b)
    if a != b:
        parent[max(a, b)] = min(a, b)


@njit
def _components(labels):
    """The nodes are runs of one label along the last axis. Returns for each run: the root of its component within its
    class, the root within the whole foreground, its label, its length, start and stop of its box."""
    nx, ny, nz = labels.shape
    total = 0
    for i in range(nx):
        for j in range(ny):
            before = 0
            for k in range(nz):
                value = labels[i, j, k]
                total += value != 0 and value != before
                before = value
    own, whole = np.arange(total), np.arange(total)
    label, voxels = np.empty(total, np.uint8), np.empty(total, np.int64)
    start, stop = np.empty((total, 3), np.int64), np.empty((total, 3), np.int64)
    row = np.zeros(nx * ny + 1, np.int64)  # runs of row (i, j) are row[r] .. row[r + 1] - 1, r = i * ny + j
    run = 0
    for i in range(nx):
        for j in range(ny):
            before = 0
            for k in range(nz):
                value = labels[i, j, k]
                if value != 0 and value != before:
                    label[run], voxels[run] = value, 0
                    start[run, 0], start[run, 1], start[run, 2] = i, j, k
                    stop[run, 0], stop[run, 1] = i + 1, j + 1
                    run += 1
                    if before != 0:
                        _join(whole, run - 1, run - 2)
                if value != 0:
                    voxels[run - 1] += 1
                    stop[run - 1, 2] = k + 1
                before = value
            r = i * ny + j
            row[r + 1] = run
            for step in range(4):  # the rows before this one that touch it
                pi, pj = i - (step > 0), (j - 1 if step == 0 else j + step - 2)
                if pi < 0 or pj < 0 or pj >= ny:
                    continue
                a, b = row[pi * ny + pj], row[r]
                while a < row[pi * ny + pj + 1] and b < run:
                    for c in range(a, min(a + 2, row[pi * ny + pj + 1])):  # the next run may touch b's last corner
                        if start[c, 2] <= stop[b, 2] and start[b, 2] <= stop[c, 2]:
                            _join(whole, c, b)
                            if label[c] == label[b]:
                                _join(own, c, b)
                    if stop[a, 2] < stop[b, 2]:
                        a += 1
                    else:
                        b += 1
    for n in range(total):
        own[n], whole[n] = _root(own, n), _root(whole, n)
    return own, whole, label, voxels, start, stop
