"""The distance that the quality check compares with, against formulas."""

import numpy as np

from vecset.imaging.frame import Frame
from vecset.quality.truth_reference import TruthReference


def test_reference_distance_against_the_formula():
    """A ball on three grids; errors in voxels of the largest spacing."""
    rng = np.random.default_rng(0)
    for spacing_mm, mean, p99 in (((1, 1, 1), 0.1, 0.4), ((0.5, 0.5, 1.2), 0.1, 0.5), ((1, 1, 10), 0.15, 0.5)):
        shape = np.ceil(80 / np.array(spacing_mm)).astype(int)
        grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1) * np.array(spacing_mm, float)
        centre_mm = np.array([40.3, 39.8, 40.1])
        ball = (np.linalg.norm(grid - centre_mm, axis=-1) < 30).astype(np.uint8)
        frame = Frame(np.diag([*spacing_mm, 1.0]), shape, centre_mm, 0.95 / 30)
        reference = TruthReference(frame, ball, (0, 0, 0))
        direction = rng.normal(size=(3000, 3))
        direction /= np.linalg.norm(direction, axis=1)[:, None]
        true_mm = rng.uniform(-3, 3, 3000)
        points_mm = centre_mm + direction * (30 + true_mm)[:, None]
        sdf_mm, gradient = reference.distance(points_mm / np.array(spacing_mm))
        error = np.abs(sdf_mm - true_mm) / max(spacing_mm)
        assert error.mean() < mean and np.quantile(error, 0.99) < p99, (spacing_mm, error.mean())
        assert (gradient * direction).sum(1).mean() > 0.8


def test_reference_distance_to_an_island():
    """Far points whose nearest surface is a single voxel near a ball: too few faces for a plane."""
    grid = np.stack(np.meshgrid(*[np.arange(50)] * 3, indexing="ij"), -1)
    ball = (np.linalg.norm(grid - [30, 25, 25], axis=-1) < 12).astype(np.uint8)
    ball[14, 25, 25] = 1
    reference = TruthReference(Frame(np.eye(4), (50, 50, 50), (25, 25, 25), 0.03), ball, (0, 0, 0))
    points = np.array([14.0, 25, 25]) + np.random.default_rng(0).uniform(-2, 2, (500, 3)) - [18, 0, 0]
    sdf_mm, _ = reference.distance(points)
    faces = np.array([14, 25, 25]) + np.concatenate([np.eye(3), -np.eye(3)]) / 2
    nearest_face = np.linalg.norm(points[:, None] - faces, axis=2).min(1)
    assert np.abs(sdf_mm - nearest_face).max() < 0.6
