"""Smoothing against slow references; bodies with a known surface; vessels, voxels and caps that must not shrink."""

import numpy as np
import pytest

from vecset.geometry import surface_smoothing as fast
from vecset.geometry.surface import crop_foreground, mask_mesh, signed_volume, union_mesh


def ball(shape, centre, radius):
    grid = np.indices(shape).transpose(1, 2, 3, 0)
    return np.linalg.norm(grid - np.array(centre), axis=-1) < radius


def slow_taubin(vertices, faces, fixed):
    neighbours = [set() for _ in vertices]
    for a, b, c in faces:
        neighbours[a] |= {b, c}
        neighbours[b] |= {a, c}
        neighbours[c] |= {a, b}
    now = vertices.astype(np.float64)
    for half in range(2 * fast.PASSES):
        weight = fast.SHRINK if half % 2 == 0 else fast.GROW
        mean = np.array([now[sorted(n)].mean(0) for n in neighbours])
        now = np.where(fixed, now, now + weight * (mean - now))
    return vertices + np.clip(now - vertices, -fast.MAX_SHIFT, fast.MAX_SHIFT)


def slow_fit(start, smoothed, faces, labels, spacing_mm, fixed):
    scale = np.array(spacing_mm) / max(spacing_mm)
    begin, soft = start * scale, smoothed * scale

    def cross(f):
        a, b, c = soft[faces[f]]
        return np.cross(b - a, c - a)

    normals = np.array([cross(f) / np.linalg.norm(cross(f)) for f in range(len(faces))])
    areas = np.array([np.linalg.norm(cross(f)) / 2 for f in range(len(faces))])
    vertex_normals = np.zeros_like(soft)
    for f, corners in enumerate(faces):
        for k in range(3):
            u, v = soft[corners[(k + 1) % 3]] - soft[corners[k]], soft[corners[(k + 2) % 3]] - soft[corners[k]]
            vertex_normals[corners[k]] += normals[f] * np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
    vertex_normals /= np.linalg.norm(vertex_normals, axis=1, keepdims=True)

    def held(point):
        index = np.rint(point / scale).astype(int)
        return (index >= 0).all() and (index < labels.shape).all() and labels[tuple(index)] > 0

    gate = np.ones(len(soft))
    for v in range(len(soft)):
        for depth in np.arange(1, fast.THIN_TO + 0.01, 0.25):
            if not held(soft[v] - depth * vertex_normals[v]) or held(soft[v] + depth * vertex_normals[v]):
                gate[v] = np.clip((depth - fast.THIN_FROM) / (fast.THIN_TO - fast.THIN_FROM), 0, 1)
                break

    beyond = {(a, b): f for f, (i, j, k) in enumerate(faces.tolist()) for a, b in ((i, j), (j, k), (k, i))}
    for sweep in range(fast.SWEEPS):
        for f in range(len(faces))[:: 1 if sweep % 2 == 0 else -1]:
            i, j, k = faces[f].tolist()
            new = normals[f] * areas[f]
            for a, b in ((i, j), (j, k), (k, i)) if gate[[i, j, k]].max() > 0 else ():
                g = beyond[b, a]
                d2 = ((normals[f] - normals[g]) ** 2).sum()
                new = new + areas[g] * max(0, 1 - d2 / (10 * fast.ALIKE**2)) ** 4 * normals[g]
            normals[f] = new / np.linalg.norm(new)
    limit = np.where(np.isclose(start % 1, 0.5), fast.ALONG_EDGE, fast.ACROSS_EDGE) * scale * ~fixed
    round_vertex = [np.flatnonzero((faces == v).any(1)) for v in range(len(soft))]
    now = begin.copy()
    for _ in range(fast.STEPS):
        for v in range(len(now)):  # one after the other, as in the fast one
            ways = [normals[f] * ((now[faces[f]].mean(0) - now[v]) @ normals[f]) for f in round_vertex[v]]
            if gate[v] > 0:
                now[v] = begin[v] + np.clip(now[v] + np.mean(ways, 0) - begin[v], -limit[v], limit[v])
    return (soft + gate[:, None] * (now - soft)) / scale


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.5, 0.8, 1.0)])
def test_both_equal_their_references(spacing_mm):
    grid = np.indices((15, 20, 13)).transpose(1, 2, 3, 0)
    mask = ball((15, 20, 13), (7, 6.6, 6.3), 5.3) | (np.abs(grid - [7, 14, 6]) <= [1, 4, 1]).all(-1)  # and a thin rod
    crop = crop_foreground(mask.astype(np.uint8), spacing_mm)
    marched = mask_mesh(crop.labels)
    fixed = np.zeros(marched.vertices.shape, bool)
    fixed[marched.vertices[:, 0] < 3, 0] = True
    soft = fast.taubin(marched.vertices, marched.faces, fixed)
    np.testing.assert_allclose(soft, slow_taubin(marched.vertices, marched.faces, fixed), atol=2e-5)
    found = fast.fit_planes(marched.vertices, soft, marched.faces, crop.labels, spacing_mm, fixed)
    expected = slow_fit(marched.vertices, soft.astype(np.float64), marched.faces, crop.labels, spacing_mm, fixed)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert (found[fixed] == marched.vertices[fixed]).all()
    moved = np.abs(found - soft).max(1) > 1e-3
    assert 0.2 < moved.mean() < 1, "the ball is fitted, the rod is left as it is"


def test_a_ball_is_rounder_and_keeps_its_volume():
    crop = crop_foreground(ball((40, 40, 40), (20, 20, 20), 12).astype(np.uint8), (1.0, 1.0, 1.0))
    marched = mask_mesh(crop.labels)
    soft = fast.taubin(marched.vertices, marched.faces)
    fitted = fast.fit_planes(marched.vertices, soft, marched.faces, crop.labels, crop.spacing_mm)
    centre = np.array([20, 20, 20]) - crop.origin
    rough, once, twice = (np.linalg.norm(v - centre, axis=1).std() for v in (marched.vertices, soft, fitted))
    assert once < 0.65 * rough and twice < 0.7 * once, (rough, once, twice)
    for vertices in (soft, fitted):
        assert signed_volume(vertices, marched.faces) == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.02)
    assert np.abs(soft - marched.vertices).max() <= fast.MAX_SHIFT + 1e-6
    along = marched.vertices % 1 == 0.5
    assert np.abs(fitted - marched.vertices)[along].max() <= fast.ALONG_EDGE + 1e-5
    assert np.abs(fitted - marched.vertices)[~along].max() <= fast.ACROSS_EDGE + 1e-5


def test_the_edges_of_a_tilted_box_stay_edges():
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    grid = (np.indices((40, 40, 40)).transpose(1, 2, 3, 0) - 19.5) @ turn
    crop = crop_foreground((np.abs(grid) < [13, 10, 7]).all(-1).astype(np.uint8), (1.0, 1.0, 1.0))
    marched = mask_mesh(crop.labels)
    soft = fast.taubin(marched.vertices, marched.faces)
    fitted = fast.fit_planes(marched.vertices, soft, marched.faces, crop.labels, crop.spacing_mm)

    def off(vertices):  # |distance to the box| of the vertices at its long edges, and of those on its faces
        q = np.abs((vertices + crop.origin - 19.5) @ turn) - [13, 10, 7]
        distance = np.abs(np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0))
        edge = (q > -1).sum(1) >= 2
        return distance[edge].mean(), distance[~edge].mean()

    rough, once, twice = off(marched.vertices), off(soft), off(fitted)
    assert twice[0] < 0.95 * once[0] and twice[1] < 0.6 * once[1] and once[1] < 0.7 * rough[1], (rough, once, twice)


def test_one_voxel_keeps_a_volume():
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[2, 2, 2] = 1
    mesh = union_mesh(crop_foreground(labels, (1.0, 1.0, 1.0)))
    assert signed_volume(mesh.vertices_local_mm, mesh.faces) > 0.004


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.5, 0.5, 1.0)])
def test_a_thin_tube_does_not_shrink(spacing_mm):
    grid = np.indices((48, 48, 40)).transpose(1, 2, 3, 0) * np.array(spacing_mm) - [11.7, 12.1, 0]
    axis = np.array([0.2, 0.1, 1]) / np.linalg.norm([0.2, 0.1, 1])
    off = np.linalg.norm(grid - (grid @ axis)[..., None] * axis, axis=-1)
    labels = ((off < 1.5) & (np.abs(grid[..., 2] - 20) < 15)).astype(np.uint8)
    crop = crop_foreground(labels, spacing_mm)
    marched = mask_mesh(crop.labels)
    before = signed_volume(marched.vertices * crop.spacing_mm, marched.faces)
    mesh = union_mesh(crop)
    assert signed_volume(mesh.vertices_local_mm, mesh.faces) > 0.95 * before
