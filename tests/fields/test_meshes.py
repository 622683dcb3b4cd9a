"""Meshes of formula fields: watertight, outward, in mm, with the volume that the formula says."""

import numpy as np
import pytest
import torch
import trimesh
from helpers.fake_model import FormulaModel, ball
from helpers.formula_fields import frame, meshes_of

from vecset.fields.meshes import mesh_grid, write_mesh
from vecset.imaging.frame import Frame


def test_mesh_grid_covers_the_unit_cube_in_mm():
    grid = mesh_grid(frame(), 10)
    np.testing.assert_allclose(grid.voxel_to_unit([[0, 0, 0], [9, 9, 9]]), [[-0.9] * 3, [0.9] * 3], atol=1e-12)


@pytest.mark.parametrize("flip", [1, -1])
def test_a_ball_in_mm(flip):
    meshes = meshes_of(ball(radius=0.7, num_classes=1), frame=frame(flip=flip))
    (mesh,) = meshes.values()
    radius_mm = 0.7 / 0.95 * 40
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * radius_mm**3, rel=2e-3)  # positive: outward
    np.testing.assert_allclose(mesh.vertices.mean(0), [11, -20, 70], atol=0.1)  # patient mm, whatever the image's axes
    distances_mm = np.linalg.norm(mesh.vertices - [11, -20, 70], axis=1)
    assert np.abs(distances_mm - radius_mm).max() < 0.05  # from the field: a voxel surface would be off by 0.6


def test_octants_fill_the_ball_and_meet_without_gaps():
    meshes = meshes_of(ball(radius=0.7, num_classes=8))
    assert sorted(meshes) == list(range(1, 9))
    whole = 4 / 3 * np.pi * (0.7 / 0.95 * 40) ** 3
    for mesh in meshes.values():
        assert mesh.is_watertight and mesh.volume > 0
        assert mesh.volume == pytest.approx(whole / 8, rel=0.03)
    assert sum(m.volume for m in meshes.values()) == pytest.approx(whole, rel=0.008)  # edges are cut off
    wall = meshes[1].vertices[np.abs(meshes[1].vertices[:, 0] - 11 - 0.00317 / 0.95 * 40) < 0.02]
    assert len(wall) > 200  # class 1 ends in a plane where class 2 begins


def test_rough_fields_still_give_closed_surfaces():
    """Islands, holes, saddles, and values of exactly zero at grid points."""

    def distance(p):
        return torch.sin(19 * p[:, 0]) + torch.sin(23 * p[:, 1]) + torch.sin(17 * p[:, 2]) - 0.3

    rough = FormulaModel(
        distance,
        lambda p: torch.stack([torch.sin(31 * p[:, 0]), torch.cos(29 * p[:, 1]), torch.sin(37 * p[:, 2])], 1),
        3,
    )
    steps = FormulaModel(lambda p: (4 * p.abs().amax(1)).floor() - 2, lambda p: p.sign(), 3)
    for model in (rough, steps):
        for mesh in meshes_of(model, cells=28).values():
            assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0


def test_a_vessel_on_a_wall_keeps_its_volume():
    """A ring of radius 1.5 cells, half sunk into a ball: its cross-section is cut by the ball, and two fields of
    different slope decide where it ends. Marching cubes on the maximum of both loses 13 %."""
    cell = 2 / 64

    def ring(p):
        return torch.hypot(torch.hypot(p[:, 0] + 0.007, p[:, 1]) - 0.55, p[:, 2] - 0.004) - 1.5 * cell

    def both(p):
        return torch.minimum(ring(p), p.norm(dim=1) - 0.55)

    meshes = meshes_of(FormulaModel(both, lambda p: torch.stack([-90 * ring(p), 90 * ring(p)], 1), 2))
    expected = 2 * np.pi * 0.55 * np.pi * (1.5 * cell) ** 2 * (40 / 0.95) ** 3
    assert meshes[1].volume == pytest.approx(expected, rel=0.11) and meshes[1].is_watertight


def test_a_structure_that_reaches_the_end_of_the_field_is_closed():
    (mesh,) = meshes_of(FormulaModel(lambda p: p[:, :2].norm(dim=1) - 0.4, lambda p: p[:, :1], 1)).values()
    length_mm, radius_mm = 2 / 0.95 * 40, 0.4 / 0.95 * 40
    assert mesh.is_watertight and mesh.volume == pytest.approx(np.pi * radius_mm**2 * length_mm, rel=0.02)


@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize("turn_deg", [0, 25])
def test_where_the_image_ends_the_meshes_end(flip, turn_deg):
    """A ball cut by two sides of an oblique image, and a thin ring, which is meshed on the finer grid."""
    a = np.deg2rad(turn_deg)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([flip * 0.8, 0.8, 1.6])
    shape, radius_mm, centre_mm = np.array([100, 100, 40]), 0.7 / 0.95 * 40, np.array([11.0, -20.0, 70.0])
    middle = np.array([35.2, 49.5, 12.3])  # voxel of the centre: 28.56 mm to the first side, 20.48 mm to the lowest
    affine[:3, 3] = centre_mm - affine[:3, :3] @ middle
    cut = Frame(affine, shape, centre_mm, 0.95 / 40)

    def ring(p):
        return torch.hypot(torch.hypot(p[:, 0], p[:, 1]) - 0.75, p[:, 2] - 0.004) - 1.2 * 2 / 64

    def both(p):
        return torch.minimum(ring(p), p.norm(dim=1) - 0.7)

    field = FormulaModel(both, lambda p: torch.stack([40 * (0.7 - p.norm(dim=1)), 40 * (p.norm(dim=1) - 0.7)], 1), 2)
    meshes = meshes_of(field, frame=cut)
    caps = [(middle[0] + 0.5) * 0.8, (middle[2] + 0.5) * 1.6]
    lost = sum(np.pi * (radius_mm - d) ** 2 * (2 * radius_mm + d) / 3 for d in caps)  # two caps of the ball
    assert meshes[1].volume == pytest.approx(4 / 3 * np.pi * radius_mm**3 - lost, rel=0.01)
    assert sorted(meshes) == [1, 2]
    for mesh in meshes.values():
        assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
        index = cut.mm_to_voxel(mesh.vertices)
        assert index.min() > -0.55 and (index < shape - 0.45).all()
        assert np.count_nonzero(np.abs(index[:, 0] + 0.5) < 0.01) > 3  # a flat cap, at the outer face of the voxels


def test_an_absent_class_has_no_mesh():
    assert meshes_of(FormulaModel(lambda p: p.norm(dim=1) + 0.1, lambda p: p, 3)) == {}
    assert list(meshes_of(FormulaModel(lambda p: p.norm(dim=1) - 0.5, lambda p: p * 0 + torch.eye(3)[1], 3))) == [2]


@pytest.mark.parametrize("suffix", [".ply", ".stl", ".obj"])
def test_written_files_read_back(tmp_path, suffix):
    (mesh,) = meshes_of(ball(num_classes=1), cells=24).values()
    write_mesh(tmp_path / f"ball{suffix}", mesh)
    again = trimesh.load(tmp_path / f"ball{suffix}")
    assert again.is_watertight and again.volume == pytest.approx(mesh.volume, rel=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == [f"ball{suffix}"]
