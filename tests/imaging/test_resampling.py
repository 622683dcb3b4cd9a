"""Nearest-voxel resampling against scipy and against looking up voxel by voxel."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from vecset.imaging.resampling import resample_nearest

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 5, (7, 8, 9)).astype(np.uint8)
SHAPE = (10, 11, 12)
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((-1, 1), repeat=3)))


def axes_of(order, signs):
    """(3, 3): axis n of the labels runs along axis order[n] of the new grid, forwards or backwards."""
    matrix = np.zeros((3, 3))
    matrix[range(3), order] = signs
    return matrix


def centred(matrix):
    """(4, 4) with `matrix`, that brings the middle of the new grid near the middle of the labels."""
    to_index = np.eye(4)
    to_index[:3, :3] = matrix
    to_index[:3, 3] = (np.array(LABELS.shape) - 1) / 2 - matrix @ ((np.array(SHAPE) - 1) / 2) + (0.13, -0.21, 0.17)
    return to_index


def by_scipy(to_index):
    return ndimage.affine_transform(
        LABELS, to_index[:3, :3], to_index[:3, 3], SHAPE, order=0, mode="grid-constant", cval=0, prefilter=False
    )


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_every_orientation_is_that_of_scipy(order, signs):
    for spacing in (np.ones(3), np.array([0.61, 1.7, 0.93])):
        to_index = centred(spacing[:, None] * axes_of(order, signs))
        found = resample_nearest(LABELS, to_index, SHAPE)
        assert found.shape == SHAPE and found.dtype == np.uint8
        np.testing.assert_array_equal(found, by_scipy(to_index))
        assert (found == 0).any() and len(np.unique(found)) == 5


@pytest.mark.parametrize("turn_deg", [1.0, 30.0, 45.0, 90.0])
def test_every_voxel_is_the_nearest_one(turn_deg):
    a = np.deg2rad(turn_deg)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    to_index = centred(0.8 * turn)
    found = resample_nearest(LABELS, to_index, SHAPE)
    for index in np.ndindex(SHAPE):
        voxel = np.rint(to_index @ (*index, 1))[:3].astype(int)
        inside = (voxel >= 0).all() and (voxel < LABELS.shape).all()
        assert found[index] == (LABELS[tuple(voxel)] if inside else 0)


def test_the_same_grid_changes_nothing_and_half_way_is_the_upper_voxel():
    np.testing.assert_array_equal(resample_nearest(LABELS, np.eye(4), LABELS.shape), LABELS)
    half = np.eye(4)
    half[0, 3] = 0.5
    np.testing.assert_array_equal(resample_nearest(LABELS, half, (6, 8, 9)), LABELS[1:])
    np.testing.assert_array_equal(by_scipy(half)[:6, :8, :9], LABELS[1:])
