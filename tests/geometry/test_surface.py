"""The union mesh and the inner walls: closed, wound outward, smooth without shrinking, with the right class behind."""

import numpy as np
import pytest
from skimage.measure import marching_cubes

from vecset.geometry.surface import (
    class_boxes,
    crop_foreground,
    foreground_box,
    inner_walls,
    mask_mesh,
    signed_volume,
    union_mesh,
)


def ball(shape, centre, radius):
    grid = np.indices(shape).transpose(1, 2, 3, 0)
    return np.linalg.norm(grid - np.array(centre), axis=-1) < radius


def two_halves(shape=(40, 40, 40), radius=12, spacing=(1.0, 1.0, 1.0)):
    labels = ball(shape, (20, 20, 20), radius).astype(np.uint8)
    labels[:, :, 20:] *= 2
    return crop_foreground(labels, spacing)


def noise(seed=0):
    labels = np.zeros((14, 15, 16), np.uint8)
    labels[1:-1, 1:-1, 1:-1] = np.random.default_rng(seed).integers(0, 3, (12, 13, 14))
    return labels


def edges_once(faces):
    """Every directed edge belongs to one triangle and its reverse to one other: closed, oriented, two-manifold."""
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    one = {tuple(e) for e in directed.tolist()}
    return len(one) == len(directed) and all((b, a) in one for a, b in one)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_mask_mesh_equals_scikit_image(label):
    labels = noise()
    marched = mask_mesh(labels, label)
    mask = labels > 0 if label == 0 else labels == label
    vertices, faces, _, _ = marching_cubes(mask.astype(np.float32), 0.5, method="lorensen")

    def triangles(v, f):
        return {tuple(sorted(map(tuple, t))) for t in v[f].tolist()}

    assert len(marched.faces) == len(faces) and triangles(marched.vertices, marched.faces) == triangles(vertices, faces)
    assert edges_once(marched.faces)  # the noise that Lewiner's method leaves holes in
    assert 0.4 * mask.sum() < signed_volume(marched.vertices, marched.faces) < 1.05 * mask.sum()
    own = {0: (1, 2), 1: (1,), 2: (2,)}[label]
    assert np.isin(marched.behind, own).all() and not np.isin(marched.front, own).any()
    assert (labels[tuple(marched.front_index.T)] == marched.front).all()
    assert np.abs(np.abs(marched.vertices - marched.front_index).sum(1) - 0.5).max() == 0


def test_faces_point_outward_for_any_axis_order():
    base = two_halves().labels
    for labels in (base, base.transpose(2, 0, 1).copy(), base[::-1].copy()):
        marched = mask_mesh(labels)
        a, b, c = (marched.vertices[marched.faces[:, k]] for k in range(3))
        outward = np.cross(b - a, c - a)
        assert ((outward * (a - np.array(labels.shape) / 2 + 0.5)).sum(1) > 0).all()


def test_crop_and_box():
    labels = np.zeros((20, 30, 25), np.uint8)
    labels[3:9, 0:4, 20:25] = 3
    for array in (labels, np.asfortranarray(labels), np.ascontiguousarray(labels[:, ::-1])[:, ::-1]):
        start, stop = foreground_box(array)
        assert start.tolist() == [3, 0, 20] and stop.tolist() == [9, 4, 25]
        crop = crop_foreground(array, (1.0, 2.0, 3.0))
        assert crop.origin.tolist() == [1, -2, 18] and crop.labels.shape == (10, 8, 9)
        assert crop.labels.sum() == labels.sum() and crop.labels[2, 2, 2] == 3
    voxel = np.array([[4.0, 1.0, 21.0]])
    np.testing.assert_allclose(crop.local_mm_to_voxel(crop.voxel_to_local_mm(voxel)), voxel)
    assert [c for c, _ in class_boxes(crop.labels)] == [3]


def test_class_behind_and_no_caps_inside_the_image():
    crop = two_halves()
    mesh = union_mesh(crop)
    assert edges_once(mesh.faces) and not mesh.face_cap.any()
    middle = mesh.vertices_local_mm[mesh.faces].mean(1)[:, 2] - (19.5 - crop.origin[2])
    assert set(mesh.face_class[middle > 1]) == {2} and set(mesh.face_class[middle < -1]) == {1}


def test_scan_border_closes_with_a_flat_cap():
    labels = np.zeros((30, 30, 24), np.uint8)
    labels[10:20, 10:20, 8:24] = 1  # cut by the last slice
    crop = crop_foreground(labels, (1.0, 1.0, 2.0))
    mesh = union_mesh(crop)
    assert edges_once(mesh.faces)
    z_voxel = mesh.vertices_local_mm[:, 2] / 2.0 + crop.origin[2]
    cap = mesh.faces[mesh.face_cap]
    assert z_voxel[cap].min() >= 22.7 and mesh.face_cap.sum() > 100
    assert np.abs(z_voxel.max() - 23.5) < 1e-5  # flat, at the border of the last voxel, smoothing or not
    flat = (np.abs(z_voxel[cap] - 23.5) < 1e-5).all(1)
    assert flat.mean() > 0.5
    assert not mesh.face_cap[(z_voxel[mesh.faces] < 22.4).any(1)].any()


def test_walls_come_from_both_sides_and_point_out_of_their_class():
    crop = two_halves()
    walls = inner_walls(crop)
    one, two = walls.face_class == 1, walls.face_class == 2
    assert (walls.face_other[one] == 2).all() and (walls.face_other[two] == 1).all() and (one | two).all()
    area = []
    for side, direction in ((one, 1), (two, -1)):
        a, b, c = (walls.vertices_local_mm[walls.faces[side, k]] for k in range(3))
        cross = np.cross(b - a, c - a)
        assert (cross[:, 2] * direction > 0).mean() > 0.97
        assert (walls.vertex_normals[walls.faces[side].ravel()][:, 2] * direction > 0).mean() > 0.97
        assert np.abs(a[:, 2] + crop.origin[2] - 19.5).max() < 0.6
        area.append(np.linalg.norm(cross, axis=1).sum() / 2)
    assert area[0] == pytest.approx(np.pi * 12**2, rel=0.08) and area[0] == pytest.approx(area[1], rel=0.02)


def test_no_walls_where_nothing_touches():
    labels = np.zeros((30, 20, 20), np.uint8)
    labels[3:8, 5:10, 5:10], labels[15:20, 5:10, 5:10] = 1, 2
    assert len(inner_walls(crop_foreground(labels, (1, 1, 1))).faces) == 0
