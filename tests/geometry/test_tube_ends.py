"""Ends of tubes: of analytic shapes, of which tips, directions and radii are known, and peaks by brute force."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from vecset.geometry.tube_ends import _peaks, tube_ends

SPACING_MM = np.array([1.0, 1.2, 0.9])


def tube(segments, radius_mm, shape=(48, 40, 48), spacing_mm=SPACING_MM):
    """(X, Y, Z) bool: voxels within radius_mm of the segments ((3,) mm, (3,) mm), flat at their ends."""
    at = np.stack(np.mgrid[tuple(slice(s) for s in shape)], -1) * spacing_mm
    found = np.zeros(shape, bool)
    for start, stop in segments:
        start, way = np.array(start, float), np.subtract(stop, start)
        along = (at - start) @ way / (way @ way)
        away = np.linalg.norm(at - start - along[..., None] * way, axis=-1)
        found |= (away <= radius_mm) & (along >= 0) & (along <= 1)
    return found


@pytest.mark.parametrize("start, stop", [((6, 20, 20), (40, 20, 20)), ((8, 10, 8), (34, 34, 30))])
def test_a_straight_tube_has_two_ends_along_its_axis(start, stop):
    ends = tube_ends(tube([(start, stop)], 2.0).astype(int), SPACING_MM)
    axis = np.subtract(stop, start) / np.linalg.norm(np.subtract(stop, start))
    assert len(ends) == 2
    for end, tip, sign in zip(sorted(ends, key=lambda end: end.tip_mm @ axis), (start, stop), (-1, 1)):
        assert end.out @ (sign * axis) > np.cos(np.deg2rad(12))
        assert end.radius_mm == pytest.approx(2.0, rel=0.1)
        assert np.linalg.norm(end.tip_mm - tip) < 1.5


def test_a_fork_has_three_ends_and_each_piece_its_own():
    parts = tube([((6, 20, 20), (24, 20, 20)), ((24, 20, 20), (38, 32, 20)), ((24, 20, 20), (38, 8, 20))], 1.6)
    parts = parts.astype(int) + 2 * tube([((6, 20, 34), (40, 20, 34))], 1.6)
    ends = tube_ends(parts, SPACING_MM)
    assert sorted(end.piece for end in ends) == [1, 1, 1, 2, 2]
    assert sorted(int(end.out[0] > 0) for end in ends if end.piece == 1) == [0, 1, 1]


def test_what_is_too_short_to_have_a_direction_is_one_end():
    at = np.stack(np.mgrid[:20, :20, :20], -1) * SPACING_MM
    ball = np.linalg.norm(at - 10, axis=-1) <= 2.5
    (end,) = tube_ends(ball.astype(int), SPACING_MM)
    assert not end.directed and end.radius_mm == pytest.approx(2.5, rel=0.05)
    np.testing.assert_allclose(end.tip_mm, 10, atol=0.2)
    voxel = np.zeros((4, 4, 4), int)
    voxel[1, 2, 3] = 7
    (end,) = tube_ends(voxel, SPACING_MM)
    assert end.piece == 7 and not end.directed
    assert tube_ends(np.zeros((4, 4, 4), int), SPACING_MM) == []


def test_an_end_runs_into_what_lies_ahead_not_beside():
    mask = tube([((6, 20, 20), (30, 20, 20))], 2.0)
    ahead, beside = np.zeros_like(mask), np.zeros_like(mask)
    ahead[31:34, 14:20, 18:27] = True
    beside[20:31, 19:24, 18:27] = True
    last = max(tube_ends(mask.astype(int), SPACING_MM), key=lambda end: end.tip_mm[0])
    assert last.runs_into(ahead, SPACING_MM) and not last.runs_into(beside, SPACING_MM)


def test_peaks_stand_out_by_what_brute_force_says():
    rng = np.random.default_rng(3)
    for _ in range(20):
        n = 14
        joined = np.triu(rng.random((n, n)) < 0.2, 1) | np.eye(n, k=1, dtype=bool)  # in one piece
        joined = joined | joined.T
        height = rng.permutation(n).astype(float)
        # the highest pass between each two: the largest over all ways of the least height on the way
        passes = np.where(joined, np.minimum.outer(height, height), -np.inf)
        for k in range(n):
            passes = np.maximum(passes, np.minimum.outer(passes[:, k], passes[k]))
        expected = []
        for p in range(n):
            higher = height > height[p]
            if not higher.any() or height[p] - passes[p, higher].max() >= 3:
                expected.append(p)
        assert sorted(_peaks(csr_array(joined.astype(float)), height, 3.0)) == expected
