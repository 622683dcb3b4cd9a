"""Baselines for slices: against a loop over voxels and pixels, and on a ball in a stack."""

import numpy as np

from vecset.geometry.contours import Plane
from vecset.metrics import slice_baselines
from vecset.metrics.slice_baselines import BEYOND_MM, LARGEST_MM, NEAREST_MM, POWER, label_maps


def planes_of_ball(apart_mm, radius_mm=20.0, halves=True):
    """Slices across z of a ball round the origin, and one through the axis."""
    pixels = np.arange(-25, 26)
    found = []
    for z in np.arange(-30, 31, apart_mm):
        x, y = np.meshgrid(pixels, pixels, indexing="ij")
        labels = np.where(x**2 + y**2 + z**2 < radius_mm**2, np.where(x < 0, 1, 2) if halves else 1, 0)
        found.append(Plane(labels.astype(np.uint8), np.array([-25.0, -25, z]), np.eye(3)[:, :2]))
    return found


def brute(planes, places):
    """(nearest pixel's label, interpolated label) of each place, by loops over all pixels."""
    nearest, between = [], []
    classes = sorted({int(c) for plane in planes for c in np.unique(plane.labels)} - {0})
    for place in places:
        best = min(
            (float(((at - place) ** 2).sum()), int(c))
            for plane in planes
            for at, c in zip(plane.pixel_centres_mm(), plane.labels.ravel())
        )
        nearest.append(best[1])
        sums = dict.fromkeys(classes, 0.0)
        for plane in planes:
            centres = plane.pixel_centres_mm().reshape(*plane.labels.shape, 3)
            away = abs((place - plane.origin_mm) @ plane.normal)
            foot = np.unravel_index(((centres - place) ** 2).sum(-1).argmin(), plane.labels.shape)
            half = plane.spacing_mm.mean() / 2
            for c in classes:
                mine = plane.labels == c
                if not mine.any():
                    value = LARGEST_MM
                elif mine[foot]:
                    value = half - np.sqrt(((centres[~mine] - centres[foot]) ** 2).sum(-1).min())
                else:
                    value = np.sqrt(((centres[mine] - centres[foot]) ** 2).sum(-1).min()) - half
                sums[c] += max(away, NEAREST_MM) ** -POWER * np.clip(value, -LARGEST_MM, LARGEST_MM)
        least = min(classes, key=lambda c: sums[c])
        between.append(least if sums[least] < 0 else 0)
    return nearest, between


def test_against_loops():
    """Three oblique planes with unequal pixels, at random places."""
    rng = np.random.default_rng(0)
    planes = []
    for _ in range(3):
        axes = np.linalg.qr(rng.normal(size=(3, 3)))[0][:, :2] * [1.1, 1.7]
        i, j = np.indices((17, 13))
        labels = np.where(np.hypot(1.1 * (i - 8), 1.7 * (j - 6)) < 7, np.where(i < 8, 2, 5), 0).astype(np.uint8)
        planes.append(Plane(labels, -axes @ [8.2, 6.1] + rng.normal(size=3), axes))
    affine = np.array([[2.3, 0, 0, -10], [0, 0, 2.1, -9], [0, 1.9, 0, -11], [0, 0, 0, 1]])
    found = label_maps(planes, affine, (9, 11, 8))
    voxels = rng.integers(0, (9, 11, 8), (60, 3))
    nearest, between = brute(planes, voxels @ affine[:3, :3].T + affine[:3, 3])
    np.testing.assert_array_equal(found["nearest_pixel"][tuple(voxels.T)], nearest)
    assert (found["distance_interpolation"][tuple(voxels.T)] != between).mean() < 0.02  # ties, in float32
    assert len(set(nearest)) == 3 and len(set(between)) == 3


def test_a_ball_comes_back_and_slices_are_kept():
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = -27
    index = np.indices((55, 55, 55)) - 27
    truth = np.where((index**2).sum(0) < 400, np.where(index[0] < 0, 1, 2), 0)
    planes = planes_of_ball(6)
    found = label_maps(planes, affine, truth.shape)
    scores = {}
    for name, labels in found.items():
        scores[name] = 2 * ((labels == truth) & (truth > 0)).sum() / ((labels > 0).sum() + (truth > 0).sum())
        for plane in planes[3:8]:  # in a slice both are the slice
            np.testing.assert_array_equal(labels[2:53, 2:53, int(plane.origin_mm[2]) + 27], plane.labels)
    assert scores["distance_interpolation"] > scores["nearest_pixel"] > 0.9


def test_far_from_all_that_is_labelled_there_is_background(monkeypatch):
    monkeypatch.setattr(slice_baselines, "_AT_ONCE", 1000)
    plane = Plane(np.ones((9, 9), np.uint8), np.zeros(3), np.eye(3)[:, :2])
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = -60
    for labels in label_maps([plane], affine, (34, 34, 34)).values():
        at = np.argwhere(labels) * 4 - 60
        assert len(at) and at.min() >= -BEYOND_MM and at.max() <= 8 + BEYOND_MM and (labels > 0).sum() > 500
