"""The distance to a mesh against brute force, and its sign against a winding number."""

import numpy as np
import pytest
import trimesh
from helpers.brute_distance import brute_force

from vecset.geometry.mesh_distance import FAR, MeshDistance, mesh_normals


def winding_number(points, vertices, faces):
    """Solid angle over 4 pi (van Oosterom and Strackee 1983): 1 inside a closed mesh, 0 outside."""
    total = np.zeros(len(points))
    for corners in vertices[faces].astype(float):
        a, b, c = corners[:, None] - points
        la, lb, lc = (np.linalg.norm(v, axis=1) for v in (a, b, c))
        det = np.einsum("ij,ij->i", a, np.cross(b, c))
        div = la * lb * lc + (a * b).sum(1) * lc + (b * c).sum(1) * la + (c * a).sum(1) * lb
        total += 2 * np.arctan2(det, div)
    return total / (4 * np.pi)


def bodies():
    sphere = trimesh.creation.icosphere(subdivisions=3, radius=5)
    box = trimesh.creation.box((6, 5, 40))  # triangles of 40 on a box of 6: far from its vertices
    torus = trimesh.creation.torus(6, 2, major_sections=24, minor_sections=12)
    squashed = sphere.copy()
    squashed.apply_scale((1, 1, 6))
    return {"sphere": sphere, "box": box, "torus": torus, "squashed": squashed}


@pytest.mark.parametrize("name", ["sphere", "box", "torus", "squashed"])
def test_equals_brute_force_and_winding_number(name):
    body = bodies()[name]
    vertices, faces = np.asarray(body.vertices, np.float32), np.asarray(body.faces)
    rng = np.random.default_rng(0)
    extent = np.abs(vertices).max(0) * 1.5
    points = np.concatenate(
        [
            rng.uniform(-1, 1, (250, 3)) * extent,
            vertices[rng.integers(0, len(vertices), 150)] + rng.normal(0, 0.3, (150, 3)),
        ]
    )
    mesh = MeshDistance(vertices, faces)
    distance, inside, face = mesh.query(points)
    truth = brute_force(points, vertices, faces)
    longest = max(np.linalg.norm(vertices[faces[:, k]] - vertices[faces[:, k - 1]], axis=1).max() for k in range(3))
    near = truth < FAR * longest - longest
    np.testing.assert_allclose(distance[near], truth[near], atol=2e-5)
    assert (distance - truth <= 0.167 / FAR * longest + 1e-5).all() and (distance - truth >= -2e-5).all()
    clear = truth > 1e-4
    assert ((winding_number(points, vertices, faces) > 0.5) == inside)[clear].all()
    own = [brute_force(points[i : i + 1], vertices, faces[f : f + 1])[0] for i, f in enumerate(face)]
    np.testing.assert_allclose(own, distance, atol=2e-5)  # the face is the nearest one


def test_far_points_and_order():
    """Far away the error bound holds, and the result does not depend on the order of the points."""
    body = bodies()["torus"]
    mesh = MeshDistance(body.vertices, body.faces)
    rng = np.random.default_rng(1)
    points = rng.normal(size=(300, 3))
    points *= rng.uniform(30, 500, (300, 1)) / np.linalg.norm(points, axis=1, keepdims=True)
    distance, inside, _ = mesh.query(points)
    truth = brute_force(points, np.asarray(body.vertices, np.float32), body.faces)
    assert not inside.any() and np.abs(distance - truth).max() < 0.02
    order = rng.permutation(300)
    np.testing.assert_array_equal(mesh.query(points[order])[0], distance[order])
    assert len(mesh.query(np.zeros((0, 3)))[0]) == 0


def test_sign_at_edges_and_corners():
    """Where an edge or corner is nearest, the face's normal gives a wrong side; the pseudonormal does not."""
    wedge = trimesh.Trimesh(
        [[0, 0, 0], [10, 0, 0], [0, 0.6, 10], [0, -0.6, 10], [-10, 0, 0]],
        [[0, 1, 2], [0, 2, 4], [0, 4, 3], [0, 3, 1], [1, 3, 2], [4, 2, 3]],
    )
    assert wedge.is_watertight
    wedge.fix_normals()
    rng = np.random.default_rng(2)
    points = rng.uniform([-2, -2, -2], [2, 2, 3], (2000, 3))
    vertices, faces = np.asarray(wedge.vertices, np.float32), np.asarray(wedge.faces)
    distance, inside, _ = MeshDistance(vertices, faces).query(points)
    clear = distance > 1e-4
    assert (inside == (winding_number(points, vertices, faces) > 0.5))[clear].all()
    assert 0 < inside.sum() < 2000


def test_normals_point_outward_and_degenerate_triangles_do_no_harm():
    sphere = bodies()["sphere"]
    vertices = np.asarray(sphere.vertices, np.float32)
    face_normals, vertex_normals = mesh_normals(vertices, sphere.faces)
    outward = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    assert ((vertex_normals * outward).sum(1) > 0.999).all()
    np.testing.assert_allclose(face_normals, sphere.face_normals, atol=1e-4)
    faces = np.concatenate([sphere.faces, [[0, 0, 1], [2, 2, 2]]])
    points = np.random.default_rng(3).uniform(-8, 8, (200, 3))
    found, clean = MeshDistance(vertices, faces).query(points), MeshDistance(vertices, sphere.faces).query(points)
    np.testing.assert_allclose(found[0], clean[0], atol=1e-5)
    assert (found[1] == clean[1]).all()
