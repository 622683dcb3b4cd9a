"""The distance to the region of each class: against every triangle, and against formulas."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.brute_distance import brute_force

from vecset.geometry.class_distances import ClassDistances, boundary_triangles
from vecset.geometry.mesh_distance import FAR
from vecset.geometry.surface import crop_foreground, inner_walls, union_mesh


def distances_of(labels, spacing_mm=(1.0, 1.0, 1.0)):
    """ClassDistances, and what it was made of: crop, mesh and walls."""
    crop = crop_foreground(np.asarray(labels, np.uint8), np.asarray(spacing_mm, float))
    parts = crop, union_mesh(crop), inner_walls(crop)
    return ClassDistances(*parts), parts


def triangles_of(class_id, mesh, walls):
    """(F, 3, 3) corners of the triangles that bound a class, face by face."""
    found = [mesh.vertices_local_mm[f] for f, c in zip(mesh.faces, mesh.face_class) if c == class_id]
    for face, c, other in zip(walls.faces, walls.face_class, walls.face_other):
        if class_id in (c, other):
            found.append(walls.vertices_local_mm[face])
    return np.array(found)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.8, 1.3, 4.0)])
def test_against_every_triangle(spacing_mm):
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 4, (2, 3, 3)).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    blocks[0, 0, 0] = 5  # of one voxel
    distances, (_, mesh, walls) = distances_of(blocks, spacing_mm)
    assert distances.classes == [1, 2, 3, 5]
    extent = np.array(blocks.shape) * spacing_mm
    points = np.concatenate([rng.uniform(a, 1 - a, (100, 3)) for a in (0.0, -0.7)]) * extent
    for c in distances.classes:
        corners = triangles_of(c, mesh, walls)
        true = brute_force(points, corners.reshape(-1, 3), np.arange(3 * len(corners)).reshape(-1, 3))
        edge = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max()
        error = distances.query(points, c) - true
        near = true < FAR * edge - edge
        assert near.sum() > 20 and np.abs(error[near]).max() < 1e-5
        assert error.min() > -1e-5 and error.max() < 0.056 * edge


NORMAL = np.array([0.36, 0.48, 0.8])


def grid_from(centre, size):
    return np.indices((size,) * 3).transpose(1, 2, 3, 0) - np.array(centre)


def of_half_ball(points, radius):
    """Signed distances to the half of a ball that NORMAL points into, and what is nearest: 'inside', 'flat side', 'rim'
    or 'round side'."""
    height, away = points @ NORMAL, np.linalg.norm(points, axis=1)
    sideways = np.linalg.norm(points - height[:, None] * NORMAL, axis=1)
    inside = (height > 0) & (away < radius)
    over = (height > 0) & ~inside
    sdf = np.where(over, away - radius, np.hypot(height, np.maximum(sideways - radius, 0)))
    sdf[inside] = -np.minimum(radius - away, height)[inside]
    place = np.where(sideways < radius, "flat side", "rim")
    return sdf, np.where(inside, "inside", np.where(over, "round side", place))


def test_two_touching_half_balls():
    """In voxels. A wall is not fitted by planes, and a triangle at the rim belongs to one class whole: from afar, the
    nearest of both makes the distance shorter. Close to a class it is as good as the union's."""
    radius, centre = 17.0, np.array([22.3, 22.8, 23.1])
    grid = grid_from(centre, 46)
    labels = np.where(np.linalg.norm(grid, axis=-1) < radius, np.where(grid @ NORMAL > 0, 1, 2), 0)
    distances, (crop, _, _) = distances_of(labels)
    points = np.random.default_rng(0).uniform(-1.6 * radius, 1.6 * radius, (20000, 3))
    for c, side in ((1, 1), (2, -1)):
        sdf, place = of_half_ball(side * points, radius)
        error = distances.query(crop.voxel_to_local_mm(points + centre), c) - np.abs(sdf)
        assert np.abs(error).max() < 1.5
        for where, mean in (("inside", 0.1), ("round side", 0.1), ("flat side", 0.45), ("rim", 0.65)):
            assert np.abs(error[place == where]).mean() < mean, where
        close = (np.abs(sdf) < 2) & (place != "rim")
        assert close.sum() > 500 and np.abs(error[close]).mean() < 0.12


def test_concentric_spheres():
    """A core (2) in a shell (1): the shell is bounded by both spheres, the core by the inner one."""
    centre, inner, outer = np.array([21.2, 21.7, 22.4]), 9.0, 17.0
    away = np.linalg.norm(grid_from(centre, 44), axis=-1)
    distances, (crop, _, _) = distances_of(np.where(away < inner, 2, np.where(away < outer, 1, 0)))
    points = np.random.default_rng(1).uniform(-26, 26, (10000, 3))
    away = np.linalg.norm(points, axis=1)
    local_mm = crop.voxel_to_local_mm(points + centre)
    shell = np.minimum(np.abs(away - inner), np.abs(away - outer))
    for c, true in ((1, shell), (2, np.abs(away - inner))):
        error = distances.query(local_mm, c) - true
        assert np.abs(error).max() < 0.45 and np.abs(error).mean() < 0.15


def test_the_same_body_on_thick_slices():
    """A shell round a core at 1 x 0.7 x 3 mm, in mm."""
    spacing_mm, centre, inner, outer = np.array([1.0, 0.7, 3.0]), np.array([24.0, 24.0, 25.0]), 12.0, 20.0
    grid = np.indices((50, 70, 18)).transpose(1, 2, 3, 0) * spacing_mm - centre
    away = np.linalg.norm(grid, axis=-1)
    distances, (crop, _, _) = distances_of(np.where(away < inner, 2, np.where(away < outer, 1, 0)), spacing_mm)
    points = np.random.default_rng(1).uniform(-26, 26, (10000, 3))
    away = np.linalg.norm(points, axis=1)
    local_mm = crop.voxel_to_local_mm((points + centre) / spacing_mm)
    error = distances.query(local_mm, 2) - np.abs(away - inner)
    assert np.abs(error).mean() < 0.15 * 3 and np.abs(error).max() < 0.5 * 3


def test_a_structure_of_one_voxel():
    """Alone, on another structure, and inside of one: its boundary lies around its centre, within a voxel or so."""
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[4:10, 4:10, 4:10] = 1
    places = {2: (16, 16, 16), 3: (10, 7, 7), 4: (6, 6, 6)}
    for c, place in places.items():
        labels[place] = c
    distances, (crop, _, _) = distances_of(labels)
    for c, place in places.items():
        centre = crop.voxel_to_local_mm(np.array([place]))
        assert distances.query(centre, c)[0] < 0.6
        rng = np.random.default_rng(c)
        steps = rng.normal(size=(100, 3))
        steps *= rng.uniform(2, 8, (100, 1)) / np.linalg.norm(steps, axis=1, keepdims=True)
        away = np.linalg.norm(steps, axis=1)
        found = distances.query(centre + steps, c)
        assert (found > away - 1.2).all() and (found < away).all()


def test_a_class_that_no_triangle_went_to_has_its_own_surface():
    """Each triangle belongs to the class of most of its corners, so that one of a few voxels may be left without."""
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[3:8, 3:8, 3:8] = 1
    labels[9, 9, 9] = 2
    _, (crop, mesh, walls) = distances_of(labels)
    mesh = replace(mesh, face_class=np.ones_like(mesh.face_class))
    assert not len(boundary_triangles(2, mesh, walls)[1])
    found = ClassDistances(crop, mesh, walls).query(crop.voxel_to_local_mm(np.array([[9, 9, 9], [9, 9, 11.5]])), 2)
    np.testing.assert_allclose(found, [0.5 / np.sqrt(3), 2.0], atol=1e-5)
