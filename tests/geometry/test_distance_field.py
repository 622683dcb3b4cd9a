"""The union's signed distance: against formulas on every kind of grid, near, far, and beyond the image."""

import sys
from pathlib import Path

import numpy as np
import pytest

from vecset.geometry.distance_field import (
    BAND_VOXELS,
    METHODS,
    UnionField,
    VoxelField,
    half_extent_mm,
    in_mask,
    nearest_class,
)
from vecset.geometry.surface import crop_foreground, union_mesh

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import sdf_accuracy


def field_of(labels, spacing, method="mesh"):
    crop = crop_foreground(np.asarray(labels, np.uint8), spacing)
    return UnionField(crop, union_mesh(crop), method)


@pytest.mark.parametrize("name", list(sdf_accuracy.BODIES))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 1.0), (1.0, 0.6, 0.6)])
def test_accuracy_on_analytic_bodies(name, spacing):
    mean, p99, signs = np.mean(
        [
            sdf_accuracy.errors(sdf_accuracy.BODIES[name], "mesh", spacing, np.random.default_rng([1, pose]), 4000)
            for pose in range(3)
        ],
        0,
    )
    limits = sdf_accuracy.LIMITS[name]
    assert mean < limits[0] * 1.1 and signs < limits[2] * 1.2
    assert p99 < (0.6 if name == "box" else limits[1] * 1.1)  # sharp edges are below what voxels can show


@pytest.mark.parametrize("method", METHODS)
def test_no_half_voxel_bias_and_slope_one(method):
    """A ball: the mean error is zero, and along a ray the field has slope 1."""
    spacing = np.array([1.0, 1.0, 1.0])
    grid = np.indices((50, 50, 50)).transpose(1, 2, 3, 0)
    centre = np.array([24.6, 25.2, 24.9])
    field = field_of(np.linalg.norm(grid - centre, axis=-1) < 15.3, spacing, method)
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(4000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = rng.uniform(12.3, 18.3, (4000, 1))
    points = centre + direction * radius - field.crop.origin
    error = field.query(points)[0] - (radius[:, 0] - 15.3)
    assert abs(error.mean()) < 0.06
    rise = np.linalg.norm(
        [(field.query(points + 0.3 * e)[0] - field.query(points - 0.3 * e)[0]) / 0.6 for e in np.eye(3)], axis=0
    )
    assert (np.abs(rise - 1) < (0.1 if method == "mesh" else 0.35)).mean() > 0.95


@pytest.mark.parametrize("method", METHODS)
def test_far_points_outside_crop_and_image(method):
    grid = np.indices((40, 40, 20)).transpose(1, 2, 3, 0) * [1, 1, 2.0]
    centre = np.array([20.2, 19.7, 19.5])
    field = field_of(np.linalg.norm(grid - centre, axis=-1) < 12, (1.0, 1.0, 2.0), method)
    rng = np.random.default_rng(1)
    direction = rng.normal(size=(2000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = rng.uniform(12, 150, (2000, 1))
    found, unknown = field.query(centre + direction * radius - field.crop.origin * [1, 1, 2.0])
    assert np.abs(found - (radius[:, 0] - 12)).max() < 2.0 and not unknown.any()  # one voxel
    assert np.abs(found - (radius[:, 0] - 12)).mean() < (0.3 if method == "mesh" else 0.6)


def test_union_has_its_own_distance_where_structures_touch():
    """At inner walls the union distance is deep inside, where the minimum over classes would be near zero."""
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[8:20, 8:32, 8:32], labels[20:32, 8:32, 8:32] = 1, 2
    field = field_of(labels, (1.0, 1.0, 1.0))
    wall = np.array([[19.5, 20.0, 20.0]]) - field.crop.origin
    assert field.query(wall)[0][0] == pytest.approx(-12, abs=0.6)


def test_mesh_and_mask_signs_agree_where_they_meet():
    """Around the distance at which the mask takes over the sign from the mesh, both agree; they do from 1 voxel on."""
    rng = np.random.default_rng(2)
    blurred = rng.normal(size=(40, 40, 40))
    from scipy.ndimage import gaussian_filter

    labels = np.pad(gaussian_filter(blurred, 3) > 0.02, 3)
    for spacing in ((1.0, 1.0, 1.0), (0.7, 0.7, 2.0)):
        field = field_of(labels, spacing)
        points = rng.uniform(-3, np.array(field.crop.labels.shape) + 3, (40000, 3)) * spacing
        distance_mm, inside, _ = field.surface.query(points)
        band = distance_mm > 1.0 * max(spacing)
        assert (inside[band] == in_mask(points[band], field.crop)).all()
        assert (distance_mm < BAND_VOXELS * max(spacing)).sum() > 5000 and band.sum() > 5000


def test_thick_slices_against_brute_force():
    """Exact also for triangles of 10 mm, on a grid of 1 x 1 x 10 mm."""
    from helpers.brute_distance import brute_force

    grid = np.indices((40, 40, 10)).transpose(1, 2, 3, 0) * [1, 1, 10.0]
    field = field_of(np.linalg.norm((grid - [20, 20, 45]) / [1, 1, 2], axis=-1) < 14, (1.0, 1.0, 10.0))
    rng = np.random.default_rng(3)
    points = rng.uniform([0, 0, 0], [30, 30, 70], (150, 3))
    mesh = field.mesh
    np.testing.assert_allclose(
        np.abs(field.query(points)[0]), brute_force(points, mesh.vertices_local_mm, mesh.faces), atol=1e-3
    )


def test_nearest_class_against_brute_force_and_ties_to_the_lower_id():
    rng = np.random.default_rng(4)
    labels = (rng.random((7, 8, 9)) < 0.2) * rng.integers(1, 5, (7, 8, 9))
    for spacing in ((1.0, 1.0, 1.0), (1.0, 1.0, 10.0), (0.4, 0.7, 1.3)):
        crop = crop_foreground(labels.astype(np.uint8), spacing)
        points = rng.uniform(0, np.array(crop.labels.shape) - 1, (300, 3)) * spacing
        points[:50] = np.rint(points[:50] / spacing * 2) / 2 * spacing  # ties
        where = np.argwhere(crop.labels)
        ids = crop.labels[tuple(where.T)]
        distance_2 = ((points[:, None] - where * spacing) ** 2).sum(-1)
        best = distance_2.min(1, keepdims=True)
        expected = np.where(distance_2 <= best * (1 + 1e-12), ids, 255).min(1)
        np.testing.assert_array_equal(nearest_class(points, crop), expected)


def test_labels_follow_the_stored_distance():
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5:15, 5:15, 5:15] = 4
    field = field_of(labels, (1.0, 1.0, 1.0))
    points = np.array([[7.0, 7.0, 7.0]] * 3)
    assert field.labels(points, np.array([-1e-30, 0, 1], np.float32)).tolist() == [4, 0, 0]


def test_beyond_a_cap_is_unknown_and_beyond_anatomy_is_not():
    labels = np.zeros((30, 30, 20), np.uint8)
    labels[10:20, 10:20, 6:20] = 1
    field = field_of(labels, (1.0, 1.0, 1.0))
    points = np.array([[15, 15, 23.0], [15, 15, 18.0], [28, 15, 12], [40, 15, 12], [15, 15, -5]]) - field.crop.origin
    sdf_mm, unknown = field.query(points)
    assert unknown.tolist() == [True, False, False, False, False]
    assert sdf_mm[0] > 0 > sdf_mm[1]


def test_same_body_on_another_grid_gives_the_same_distances():
    """Axes permuted and flipped: the same values, but for other diagonals of the mesh."""
    grid = np.indices((36, 40, 30)).transpose(1, 2, 3, 0) * [1.0, 0.8, 1.4]
    mask = (np.linalg.norm((grid - [17, 15, 20]) / [1.2, 0.9, 1.3], axis=-1) < 10).astype(np.uint8)
    base = field_of(mask, (1.0, 0.8, 1.4))
    points = np.random.default_rng(5).uniform([0, 0, 0], [36, 32, 42], (3000, 3))
    expected = base.query(points - base.crop.origin * base.crop.spacing_mm)[0]
    turned = field_of(mask.transpose(2, 0, 1)[::-1], (1.4, 1.0, 0.8))
    moved = points[:, [2, 0, 1]].copy()
    moved[:, 0] = 29 * 1.4 - moved[:, 0]
    found = turned.query(moved - turned.crop.origin * turned.crop.spacing_mm)[0]
    assert np.abs(found - expected).max() < 0.15 and np.abs(found - expected).mean() < 0.03


def test_voxel_field_is_half_voxel_correct():
    """At voxel centres on both sides of a flat face the values are -1/2 and +1/2 of the spacing across it."""
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[4:12, 4:12, 4:12] = 1
    for spacing in ((1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (0.5, 2.0, 1.0)):
        field = VoxelField(crop_foreground(labels, spacing))
        middle = 5
        for axis in range(3):
            index = [middle + 1] * 3
            index[axis] = 1
            outside = field.values_mm[tuple(index)]
            index[axis] = 2
            inside = field.values_mm[tuple(index)]
            np.testing.assert_allclose([outside, inside], [spacing[axis] / 2, -spacing[axis] / 2], rtol=1e-5)
    assert half_extent_mm(np.array([0.0, 0.0, 7.0]), (1.0, 1.0, 3.0)) == pytest.approx(1.5)
    assert half_extent_mm(np.array([3.0, 0.0, 3.0]), (1.0, 1.0, 3.0)) == pytest.approx(0.5 * 2**0.5)
