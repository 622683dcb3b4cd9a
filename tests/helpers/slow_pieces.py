"""Pieces and contacts of label maps, counted voxel by voxel: what the fast counts are compared with."""

from itertools import product

import numpy as np

STEPS = [step for step in product((-1, 0, 1), repeat=3) if any(step)]


def voxels_of(labels, class_id):
    return set(map(tuple, np.argwhere(labels == class_id).tolist()))


def around(at):
    return {tuple(a + s for a, s in zip(at, step)) for step in STEPS}


def slow_pieces(labels, class_id):
    """The sets of voxels that hang together, by flooding from one voxel after another."""
    left, found = voxels_of(labels, class_id), []
    while left:
        piece, front = set(), {left.pop()}
        while front:
            at = front.pop()
            piece.add(at)
            more = around(at) & left
            left -= more
            front |= more
        found.append(piece)
    return found


def slow_contact(labels, first, second):
    """The voxels of `first` that have one of `second` around them."""
    others = voxels_of(labels, second)
    return {at for at in voxels_of(labels, first) if around(at) & others}
