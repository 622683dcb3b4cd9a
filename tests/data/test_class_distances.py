"""The distances to each class in a case: signs are those of the labels, sizes those of the triangles in patient mm."""

from pathlib import Path

import numpy as np
import pytest

from vecset.common.structure_state import ABSENT_DISTANCE
from vecset.data.case_file import CLASS_DISTANCES
from vecset.data.class_distances import SMALLEST, signed_float16
from vecset.data.preparation import Options, build_case
from vecset.geometry.class_distances import boundary_triangles
from vecset.geometry.surface import crop_foreground, inner_walls, union_mesh
from vecset.imaging.label_map import LabelMap
from vecset.quality.exact import exact_distance

POINTS = {"num_surface_points": 3001, "num_vol_points": 2001, "num_near_points": 3003}
OPTIONS = Options(**POINTS, class_distances=True)
CLASSES = 6  # 1 muscle, 2 chamber, 3 vessel that the border cuts, 4 artery, 5 absent, 6 not annotated


def small_heart(depth=46):
    """`depth`: slices along z; the vessel runs to the last of 60."""
    grid = np.indices((42, 44, 60)).transpose(1, 2, 3, 0)
    away = np.linalg.norm(grid - [20, 21, 20], axis=-1)
    labels = np.zeros(away.shape, np.uint8)
    labels[(np.hypot(grid[..., 0] - 22, grid[..., 1] - 21) < 6) & (grid[..., 2] > 20)] = 3
    labels[away < 16] = 1
    labels[away < 11] = 2
    labels[np.hypot(np.linalg.norm(grid[..., :2] - [20, 21], axis=-1) - 16.5, grid[..., 2] - 18) < 1.5] = 4
    return labels[:, :, :depth]


def turned(spacing_mm, degrees, flip=1):
    """An affine of a grid turned about an oblique axis, mirrored along x with `flip` -1."""
    a = np.deg2rad(degrees)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag(np.array(spacing_mm) * [flip, 1, 1])
    affine[:3, 3] = (-31.0, 12.0, 55.0)
    return affine


def label_map(labels, affine):
    names = [f"c{c}" for c in range(1, CLASSES + 1)]
    return LabelMap(labels, affine, Path("heart.nii.gz"), "0" * 64, names, [1, 2, 3, 4, 5], affine)


AFFINES = {
    "isotropic": np.diag([1.0, 1.0, 1.0, 1.0]),
    "oblique, anisotropic": turned((1.0, 1.3, 2.2), 25),
    "mirrored": turned((0.8, 0.8, 0.8), 70, flip=-1),
}


@pytest.fixture(scope="module", params=AFFINES)
def heart(request):
    affine = AFFINES[request.param]
    return build_case(label_map(small_heart(), affine), OPTIONS), affine


def test_the_points_and_all_else_stay(heart):
    case, affine = heart
    plain = build_case(label_map(small_heart(), affine), Options(**POINTS))
    assert set(case.arrays) == set(plain.arrays) | set(CLASS_DISTANCES)
    assert all(np.array_equal(array, case.arrays[name]) for name, array in plain.arrays.items())
    assert case.meta["sampling"].pop("class_distances") is True
    assert case.meta == plain.meta
    case.meta["sampling"]["class_distances"] = True


def test_signs_are_those_of_the_labels(heart):
    case, _ = heart
    ids = np.arange(1, CLASSES + 1)
    for group in ("vol", "near"):
        sdf, labels = case.arrays[f"{group}_class_sdf"], case.arrays[f"{group}_labels"]
        assert sdf.dtype == np.float16 and sdf.shape == (len(labels), CLASSES) and np.isfinite(sdf).all()
        assert np.array_equal(sdf < 0, labels[:, None] == ids)
        inside = labels > 0
        assert np.array_equal(sdf.argmin(1)[inside] + 1, labels[inside])
    sdf = case.surface_class_sdf
    assert sdf.dtype == np.float16 and (sdf >= 0).all() and not np.signbit(sdf).any()
    assert (sdf[np.arange(len(sdf)), case.surface_labels - 1] == 0).all()
    zeros = (sdf == 0).sum(1)
    assert (zeros[case.surface_sdf < 0] == 2).mean() > 0.99  # on an inner wall: the classes on both sides of it
    assert (zeros[case.surface_sdf == 0] == 1).mean() > 0.99


def test_classes_without_voxels_have_the_constant(heart):
    """5 is annotated and absent, 6 was not annotated."""
    case, _ = heart
    for name in CLASS_DISTANCES:
        constant = case.arrays[name] == ABSENT_DISTANCE
        assert constant[:, 4:].all() and not constant[:, :4].all(0).any()
    assert case.surface_class_sdf[:, :4].max() < ABSENT_DISTANCE


def test_sizes_are_those_to_the_triangles_in_patient_mm(heart):
    """The triangles in mm by the affine, the points in mm by the frame, the distance by trimesh."""
    case, affine = heart
    crop = crop_foreground(small_heart(), case.frame.spacing_mm)
    mesh, walls = union_mesh(crop), inner_walls(crop)
    rng = np.random.default_rng(0)
    for group in ("surface", "vol", "near"):
        rows = rng.permutation(len(case.arrays[f"{group}_points"]))[:60]
        points_mm = case.frame.unit_to_mm(case.arrays[f"{group}_points"][rows].astype(float))
        for c in (1, 3, 4):
            vertices, faces = boundary_triangles(c, mesh, walls)
            vertices_mm = crop.local_mm_to_voxel(vertices) @ affine[:3, :3].T + affine[:3, 3]
            true = exact_distance(points_mm, vertices_mm[faces]) * case.frame.scale
            found = np.abs(case.arrays[f"{group}_class_sdf"][rows, c - 1].astype(float))
            edge = np.linalg.norm(np.ptp(vertices_mm[faces], axis=1), axis=1).max() * case.frame.scale
            assert (np.abs(found - true) <= 0.056 * edge + true * 2.0**-11 + 1e-6).all()


def test_union_and_class_distances_agree(heart):
    """Outside, the nearest class is as far as the union. Inside, leaving the class is no farther than leaving the
    heart. Within a voxel: walls may end a little before the outer surface or stick out of it."""
    case, _ = heart
    voxel = case.frame.scale * case.frame.spacing_mm.max()
    for group in ("vol", "near"):
        sdf = case.arrays[f"{group}_class_sdf"].astype(float)
        labels, union = case.arrays[f"{group}_labels"].astype(int), case.arrays[f"{group}_sdf"]
        outside, inside = labels == 0, np.flatnonzero(labels)
        assert np.abs(sdf[outside].min(1) - union[outside]).max() < voxel
        assert (-sdf[inside, labels[inside] - 1] + union[inside]).max() < voxel
        assert (np.abs(sdf[inside, labels[inside] - 1]) - np.abs(sdf[inside]).min(1)).max() < voxel


def test_where_the_border_cuts_a_structure_it_ends_at_the_cap():
    """The vessel goes on for 14 slices beyond the image: the stored distance is at least the true one, and the same
    far from the cap."""
    cut, whole = (label_map(small_heart(depth), np.eye(4)) for depth in (46, 60))
    case = build_case(cut, OPTIONS)
    assert case.meta["border_classes"] == [3]
    crop = crop_foreground(whole.labels, np.ones(3))
    mesh, walls = union_mesh(crop), inner_walls(crop)
    rows = np.random.default_rng(0).permutation(len(case.vol_points))[:1000]
    points_mm = case.frame.unit_to_mm(case.vol_points[rows].astype(float))
    vertices, faces = boundary_triangles(3, mesh, walls)
    size = exact_distance(points_mm, crop.local_mm_to_voxel(vertices)[faces]) * case.frame.scale
    true = np.where(case.vol_labels[rows] == 3, -size, size)
    stored = case.vol_class_sdf[rows, 2].astype(float)
    voxel = case.frame.scale
    assert (stored > true - 0.5 * voxel).all()
    assert (stored - true)[case.vol_labels[rows] == 3].max() > 1.5 * voxel
    far_below = points_mm[:, 2] < 25
    assert far_below.sum() > 50 and np.abs(stored - true)[far_below].max() < 0.5 * voxel
    for group in ("vol", "near"):  # what the union does not know is in no file
        points_mm = case.frame.unit_to_mm(case.arrays[f"{group}_points"].astype(float))
        assert not ((np.hypot(*(points_mm[:, :2] - [22, 21]).T) < 4) & (points_mm[:, 2] > 45.6)).any()


def test_the_distance_transform_of_the_union_goes_with_them():
    case = build_case(label_map(small_heart(), np.eye(4)), Options(**POINTS, class_distances=True, sdf="edt"))
    for group in ("vol", "near"):
        labels = case.arrays[f"{group}_labels"]
        assert np.array_equal(case.arrays[f"{group}_class_sdf"] < 0, labels[:, None] == np.arange(1, CLASSES + 1))


def test_rounding_to_16_bits_keeps_every_sign():
    size = np.array([0.0, 1e-12, 2e-8, 5e-8, 1e-4, 0.12345, 1.7, 0.0, 1e-12, 2e-8, 5e-8, 1e-4, 0.12345, 1.7])
    inside = np.arange(14) >= 7
    found = signed_float16(size, inside)
    assert found.dtype == np.float16 and np.array_equal(found < 0, inside)
    assert found[0] == 0 and not np.signbit(found[0])
    assert (np.abs(found[[1, 2, 7, 8, 9]]) == SMALLEST).all()
    np.testing.assert_allclose(np.abs(found.astype(float)), size, rtol=2.0**-11, atol=SMALLEST)
