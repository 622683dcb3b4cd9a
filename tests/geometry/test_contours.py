"""Contours in a plane: on circles, on lines where two structures touch, at the rim of the image."""

import numpy as np
import pytest

from vecset.geometry.contours import Plane, plane_contours

TURN = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]  # some oblique axes
ACROSS = np.array([3.0, -40.0, 700.0])


def disc(shape, middle, radius, spacing_mm=(1.0, 1.0)):
    """(I, J) bool: pixels whose centre lies within `radius` mm of `middle` (pixels)."""
    away = (np.indices(shape) - np.reshape(middle, (2, 1, 1))) * np.reshape(spacing_mm, (2, 1, 1))
    return np.hypot(*away) < radius


def test_no_labels_have_no_contour():
    assert len(plane_contours([Plane(np.zeros((5, 4), np.uint8), np.zeros(3), np.eye(3)[:, :2])]).classes) == 0


@pytest.mark.parametrize("axes", [np.eye(3), TURN, TURN[:, [1, 0, 2]], TURN * [-1, 1, 1]], ids=str)
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0), (0.7, 1.3)])
def test_a_disc_has_a_circle_of_its_radius(axes, spacing_mm):
    """Whatever the plane's axes: the points lie in the plane, on the circle, evenly, and the circle is as long."""
    steps_mm, middle, radius = axes[:, :2] * spacing_mm, np.array([30.4, 28.7]), 17.3
    plane = Plane(disc((70, 66), middle, radius, spacing_mm).astype(np.uint8) * 4, ACROSS, steps_mm)
    assert np.allclose(plane.spacing_mm, spacing_mm) and np.allclose(np.abs(plane.normal @ axes), [0, 0, 1])
    contours = plane_contours([plane])
    points = contours.evenly(4, 500)
    away = points - plane.to_mm(middle[None])[0]
    assert np.abs(away @ plane.normal).max() < 1e-9
    assert np.abs(np.linalg.norm(away, axis=1) - radius).max() < 0.6 * max(spacing_mm)
    assert np.linalg.norm(away, axis=1).mean() == pytest.approx(radius, abs=0.05)
    assert contours.length_mm.sum() == pytest.approx(2 * np.pi * radius, rel=0.03)
    steps = np.linalg.norm(points - np.roll(points, 1, 0), axis=1)
    assert steps.max() <= contours.length_mm.sum() / 500 + 1e-9
    np.testing.assert_allclose(plane.pixel_centres_mm()[67], plane.to_mm(np.array([[1, 1]]))[0])


def test_a_line_between_two_structures_belongs_to_both():
    """Two halves of a rectangle and one apart: the outline of each, and the shared line once for each of the two."""
    labels = np.zeros((40, 30), np.uint8)
    labels[5:25, 5:25] = 2
    labels[15:25, 5:25] = 7
    labels[30:36, 5:15] = 9
    contours = plane_contours([Plane(labels, np.zeros(3), np.eye(3)[:, [0, 1]])])
    for c, (high, wide) in {2: (10, 20), 7: (10, 20), 9: (6, 10)}.items():
        assert contours.length_mm[contours.classes == c].sum() == pytest.approx(2 * (high + wide), rel=0.06)
        shared = np.abs(contours.evenly(c, 1000)[:, 0] - 14.5) < 0.3
        assert shared.mean() == pytest.approx(20 / 60 if c in (2, 7) else 0, abs=0.04)
    assert set(np.unique(contours.of([7, 9]).classes)) == {7, 9}


def test_the_rim_of_the_image_is_no_contour():
    """A structure that the image truncates: its straight sides go on to the rim, and nothing lies on the rim."""
    labels = np.zeros((20, 30), np.uint8)
    labels[12:, 10:20] = 1
    points = plane_contours([Plane(labels, np.zeros(3), np.eye(3)[:, :2])]).evenly(1, 400)
    assert 17.5 < points[:, 0].max() < 19.5
    assert np.abs(points[points[:, 0] > 17][:, 1] % 10 - 9.5).max() < 0.1
    labels[:] = 1
    assert len(plane_contours([Plane(labels, np.zeros(3), np.eye(3)[:, :2])]).classes) == 0


def test_holes_and_several_pieces_have_contours():
    ring = disc((60, 60), (30, 30), 20) & ~disc((60, 60), (30, 30), 10)
    away = plane_contours([Plane(ring.astype(np.uint8), np.zeros(3), np.eye(3)[:, :2])]).evenly(1, 300)[:, :2] - 30
    radius = np.hypot(*away.T)
    assert np.abs(radius[radius > 15] - 20).max() < 0.6 and np.abs(radius[radius < 15] - 10).max() < 0.6
    assert (radius > 15).mean() == pytest.approx(2 / 3, abs=0.02)
