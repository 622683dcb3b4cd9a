"""The frame: voxel, mm and unit for flipped, permuted, oblique and anisotropic grids."""

import numpy as np
import pytest

from vecset.common.errors import InputError
from vecset.imaging.frame import UNIT_RADIUS, Frame, check_affine


def affines():
    rng = np.random.default_rng(0)
    spin, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    for name, axes in (
        ("plain", np.eye(3)),
        ("flipped", np.diag([-1, 1, 1])),
        ("permuted", np.eye(3)[[2, 0, 1]]),
        ("oblique", spin),
    ):
        affine = np.eye(4)
        affine[:3, :3] = axes @ np.diag([0.4, 0.7, 10.0])
        affine[:3, 3] = (-30, 55, 7)
        yield pytest.param(affine, id=name)


@pytest.mark.parametrize("affine", list(affines()))
def test_there_and_back(affine):
    rng = np.random.default_rng(1)
    vertices_mm = rng.normal(size=(100, 3)) * 20 + 5
    frame = Frame.from_surface(affine, (40, 50, 9), vertices_mm)
    np.testing.assert_allclose(frame.spacing_mm, [0.4, 0.7, 10.0])
    voxel = rng.uniform(-5, 50, (200, 3))
    np.testing.assert_allclose(frame.unit_to_voxel(frame.voxel_to_unit(voxel)), voxel, atol=1e-9)
    homogeneous = np.c_[voxel, np.ones(200)] @ affine.T
    np.testing.assert_allclose(frame.voxel_to_mm(voxel), homogeneous[:, :3])
    unit = frame.mm_to_unit(vertices_mm)
    assert np.isclose(np.linalg.norm(unit, axis=1).max(), UNIT_RADIUS)
    np.testing.assert_allclose(unit.min(0), -unit.max(0), atol=1e-12)  # centred on the middle of the bounding box
    check_affine(affine, "x.nii.gz")


def test_frame_does_not_change_with_its_caller():
    affine, centre = np.eye(4), np.zeros(3)
    frame = Frame(affine, (1, 1, 1), centre, 1)
    affine[0, 0] = centre[0] = 9
    assert frame.affine[0, 0] == 1 and frame.centre_mm[0] == 0


def test_nearest_voxel_says_what_lies_outside():
    frame = Frame(np.diag([2, 2, 2, 1.0]), (4, 4, 4), (0, 0, 0), 0.1)
    index, inside = frame.nearest_voxel(frame.voxel_to_unit([[0.4, 3.4, 2.6], [-0.6, 0, 0], [0, 0, 3.6]]))
    assert index[0].tolist() == [0, 3, 3] and inside.tolist() == [True, False, False]


def test_bad_affines_are_refused():
    sheared = np.eye(4)
    sheared[0, 1] = 0.01
    with pytest.raises(InputError, match=r"case\.nii\.gz.*shear"):
        check_affine(sheared, "case.nii.gz")
    flat = np.diag([1, 1, 0, 1.0])
    with pytest.raises(InputError, match="inverted"):
        check_affine(flat, "case.nii.gz")
    nan = np.full((4, 4), np.nan)
    with pytest.raises(InputError, match="finite"):
        check_affine(nan, "case.nii.gz")
