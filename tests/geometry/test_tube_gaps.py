"""Gaps in tubes: analytic tubes with a gap, of which the truth is known, and fills by brute force."""

import numpy as np
import pytest
from scipy import ndimage

from vecset.geometry.tube_ends import TubeEnd, tube_ends
from vecset.geometry.tube_gaps import Join, centre_line, choose_joins, find_joins, tube_voxels

SPACING_MM = np.array([1.0, 1.1, 0.9])
SHAPE = (56, 56, 40)
AT_MM = np.stack(np.mgrid[tuple(slice(s) for s in SHAPE)], -1) * SPACING_MM


def straight(start, stop, radius_mm=2.0):
    """((X, Y, Z) bool the tube, distance to its axis, way along it in mm)."""
    start, way = np.array(start, float), np.subtract(stop, start)
    length = np.linalg.norm(way)
    along = (AT_MM - start) @ way / length
    away = np.linalg.norm(AT_MM - start - along[..., None] * way / length, axis=-1)
    return (away <= radius_mm) & (along >= 0) & (along <= length), away, along


def ring(bend_mm=20.0, radius_mm=2.0):
    """(the tube round a circle about the middle, distance to its axis, degrees)."""
    x, y, z = np.moveaxis(AT_MM - [28, 30, 18], -1, 0)
    away = np.hypot(np.hypot(x, y) - bend_mm, z)
    return away <= radius_mm, away, np.rad2deg(np.arctan2(y, x)) % 360


def closed(mask, root=None, held=()):
    """(`mask` (X, Y, Z) bool with its gaps closed, the joins that were chosen)."""
    root = np.zeros(SHAPE, bool) if root is None else root
    parts, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    held = set(held) or set(np.unique(parts[ndimage.binary_dilation(root, np.ones((3, 3, 3)))]).tolist()) - {0} or {1}
    ends = [end for end in tube_ends(parts, SPACING_MM) if not end.runs_into(root, SPACING_MM)]
    chosen = choose_joins(find_joins(ends, parts, root, SPACING_MM), held)
    mask = mask.copy()
    for join in chosen:
        for voxels in tube_voxels(*centre_line(join, SPACING_MM), SHAPE, SPACING_MM):
            mask[tuple(voxels.T)] = True
    return mask & ~root, chosen


def pieces(mask):
    return ndimage.label(mask, np.ones((3, 3, 3)))[1]


@pytest.mark.parametrize("stop", [(50, 28, 18), (46, 50, 26)])
@pytest.mark.parametrize("gap_mm", [2.5, 5.0, 8.0])
def test_a_straight_tube_is_whole_again_apart_from_its_rim(stop, gap_mm):
    truth, away, along = straight((6, 8, 10), stop)
    dirty = truth & ((along < 22) | (along > 22 + gap_mm))
    assert pieces(dirty) == 2
    mended, (join,) = closed(dirty)
    assert join.certain and pieces(mended) == 1
    wrong = mended != truth
    assert np.abs(away[wrong] - 2.0).max(initial=0) <= 0.6 * SPACING_MM.max()  # the rim: half a voxel
    assert not (dirty & ~mended).any() and wrong.sum() <= 0.35 * (dirty != truth).sum()


def test_a_bent_tube_goes_on_along_its_bend():
    truth, away, degrees = ring()
    dirty = truth & ((degrees < 90) | (degrees > 112))  # 7.7 mm of the way
    dirty &= (degrees < 270) | (degrees > 330)
    mended, chosen = closed(dirty)
    new = mended & ~dirty
    assert pieces(dirty) == 2 and pieces(mended) == 1 and len(chosen) == 1
    assert away[new].max() <= 2.0 + 0.6 * SPACING_MM.max()
    gap = truth & (degrees >= 90) & (degrees <= 112)
    assert (new & gap).sum() >= 0.85 * gap.sum() and (new & ~truth).sum() <= 0.15 * gap.sum()


def test_both_gaps_of_a_ring_are_closed_and_wide_ones_stay():
    truth, _, degrees = ring()
    root = (np.abs(degrees - 180) < 12) & truth  # both arms begin here
    for width, left in ((20, 1), (60, 2)):  # degrees: 7 and 21 mm
        # what lies between the two gaps has come off; without it both arms still begin at the root
        dirty = truth & ~root & ((degrees > width / 2) & (degrees < 360 - width / 2))
        mended, chosen = closed(dirty, root)
        assert pieces(dirty) == 2 and pieces(mended) == left and len(chosen) == 2 - left
    dirty = truth & ~root & ~((degrees > 30) & (degrees < 50)) & ~((degrees > 310) & (degrees < 330))
    mended, chosen = closed(dirty, root)
    assert pieces(dirty) == 3 and pieces(mended) == 1 and len(chosen) == 2


def test_a_branch_without_origin_is_joined_to_the_side_of_its_vessel():
    trunk = straight((5, 12, 18), (50, 12, 18))[0]
    branch, away, along = straight((28, 12, 18), (28, 48, 18), 1.6)
    dirty = trunk | (branch & (along > 7))
    mended, (join,) = closed(dirty)
    assert pieces(dirty) == 2 and pieces(mended) == 1 and join.other is None and join.likely
    assert away[mended & ~dirty].max() <= 1.6 + 0.6 * SPACING_MM.max()


def test_vessels_side_by_side_are_not_joined_but_a_loose_one_is():
    dirty = straight((5, 20, 18), (50, 20, 18))[0] | straight((5, 28, 18), (50, 28, 18))[0]
    np.testing.assert_array_equal(closed(dirty, held={1, 2})[0], dirty)
    assert closed(np.zeros(SHAPE, bool))[1] == []


def test_the_tube_is_what_brute_force_distances_say():
    rng = np.random.default_rng(5)
    line_mm = np.cumsum(rng.normal(size=(12, 3)), 0) + [20, 20, 16]
    radii_mm = np.linspace(2.5, 1.2, 12)
    voxels, middle = tube_voxels(line_mm, radii_mm, SHAPE, SPACING_MM)
    away_mm = np.linalg.norm(AT_MM[..., None, :] - line_mm, axis=-1)
    nearest = away_mm.argmin(-1)
    expected = (away_mm.min(-1) <= radii_mm[nearest]) & (nearest > 0) & (nearest < 11)
    np.testing.assert_array_equal(voxels, np.argwhere(expected))
    assert {tuple(v) for v in middle} == {tuple(np.rint(p / SPACING_MM).astype(int)) for p in line_mm}


def test_the_middle_leaves_and_enters_in_the_ends_own_directions():
    out = np.array([[1.0, 0, 0], [0, -1.0, 0]])
    tips = np.zeros(3), np.array([5.0, 5, 0])
    ends = [TubeEnd(n, tips[n], out[n], 1.0 + n, np.zeros((1, 3), int)) for n in (0, 1)]
    line, radii = centre_line(Join(ends[0], 2, ends[1], ends[1].tip_mm, 1.0, True, True), SPACING_MM)
    np.testing.assert_allclose(line[[0, -1]], [[0, 0, 0], [5, 5, 0]], atol=1e-12)
    for step, way in ((line[1] - line[0], out[0]), (line[-1] - line[-2], -out[1])):
        assert step @ way / np.linalg.norm(step) > 0.99
    np.testing.assert_allclose(radii[[0, -1]], [1.0, 2.0])
