"""Components by runs against scipy.ndimage.label, class by class."""

import numpy as np
import pytest
from scipy import ndimage

from vecset.imaging.components import components, without_islands


@pytest.mark.parametrize("share", [0.03, 0.1, 0.3, 0.6])
def test_equals_scipy(share):
    rng = np.random.default_rng(int(100 * share))
    for _ in range(5):
        labels = ((rng.random((12, 13, 14)) < share) * rng.integers(1, 4, (12, 13, 14))).astype(np.uint8)
        parts, hearts = components(labels)
        for c in (1, 2, 3):
            found, _ = ndimage.label(labels == c, np.ones((3, 3, 3)))
            sizes = np.sort(np.bincount(found.ravel())[1:])
            np.testing.assert_array_equal(np.sort(parts.voxels[parts.label == c]), sizes)
        found, number = ndimage.label(labels > 0, np.ones((3, 3, 3)))
        boxes = sorted([s.start for s in b] + [s.stop for s in b] for b in ndimage.find_objects(found))
        assert sorted(np.concatenate([hearts.start, hearts.stop], 1).tolist()) == boxes and len(hearts.voxels) == number


def plainly_without_islands(labels, share):
    """The rule, voxel by voxel: small components, groups of them by their faces, and what lies round each group."""
    result, small, dropped = labels.copy(), np.zeros(labels.shape, bool), {}
    for c in range(1, labels.max() + 1):
        parts, number = ndimage.label(labels == c, np.ones((3, 3, 3)))
        sizes = [(parts == n).sum() for n in range(1, number + 1)]
        for n, size in enumerate(sizes, 1):
            if size < share * max(sizes):
                small |= parts == n
                count = dropped.setdefault(str(c), [0, 0])
                count[0], count[1] = count[0] + 1, count[1] + int(size)
    result[small] = 0
    groups, number = ndimage.label(small)
    inside = [slice(a.min(), a.max() + 1) for a in np.nonzero(labels)]
    fills = []
    for n in range(1, number + 1):
        beside = {}
        for voxel in np.argwhere(groups == n):
            for step in np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)]):
                at = tuple(voxel + step)
                if any(not s.start <= i < s.stop for i, s in zip(at, inside)):
                    beside[at] = 0  # beyond the foreground, and so perhaps beyond the image
                elif groups[at] != n:
                    beside[at] = int(result[at])
        found = sorted(beside.values())
        if found[0] != 0:
            fills.append((n, max(found, key=lambda c: (found.count(c), -c))))
    for n, c in fills:
        result[groups == n] = c
    return result, dropped


@pytest.mark.parametrize("share", [0.02, 0.2, 1.0])
def test_islands_are_dropped_as_the_plain_rule_says(share):
    rng, filled = np.random.default_rng(7), 0
    for order in "CFCF":
        labels = np.zeros((14, 15, 16), np.uint8)
        labels[2:12, 2:13, 3:9], labels[2:12, 2:13, 9:13] = 1, 2
        speck = rng.random(labels.shape) < 0.03
        labels[speck] = rng.integers(0, 4, speck.sum())
        labels = np.asarray(labels, order=order)
        before = labels.copy()
        found, dropped = without_islands(labels, share)
        expected, counts = plainly_without_islands(labels, share)
        np.testing.assert_array_equal(found, expected)
        assert dropped == counts and found.flags.f_contiguous == labels.flags.f_contiguous
        np.testing.assert_array_equal(labels, before)
        filled += np.count_nonzero((found > 0) & (found != labels))
    assert filled or share < 0.1


def test_no_islands_no_change():
    labels = np.zeros((6, 6, 6), np.uint8)
    assert without_islands(labels, 0.5)[1] == {}
    labels[1:3, 1:3, 1:3], labels[4, 4, 4] = 1, 2
    found, dropped = without_islands(labels, 0.5)
    assert dropped == {} and (found == labels).all()
