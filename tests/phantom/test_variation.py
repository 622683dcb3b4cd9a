"""Hearts made less alike: the deformation and its inverse, what a wall, a cut and a rough outline change, and that a
varied heart is the same heart on every grid."""

import json

import numpy as np
import pytest
from scipy import ndimage

from vecset.commands import make_phantoms
from vecset.common.errors import run_command
from vecset.phantom import variation
from vecset.phantom.phantom import PhantomOptions, make_phantom
from vecset.phantom.precedence import AORTA, LA, LV, MYO, PA, RA, RV
from vecset.phantom.variation import deform, draw_deformation, vary_labels


def rng(number=0):
    return np.random.default_rng(number)


def overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_a_point_goes_to_its_place_and_back_and_nothing_folds():
    points = rng().uniform(-90, 90, (4000, 3))
    moved_mm = []
    for number in range(40):
        deformation = draw_deformation(rng(number), 1.0, np.array([3.0, -2.0, 5.0]))
        there = deformation.target_of(points)
        np.testing.assert_allclose(deformation.source_of(there), points, atol=1e-2)
        moved_mm.append(np.linalg.norm(there - points, axis=1).mean())
        h = 0.5
        slopes = [
            (deformation.source_of(points + h * axis) - deformation.source_of(points - h * axis)) / (2 * h)
            for axis in np.eye(3)
        ]
        assert np.linalg.det(np.stack(slopes, 1)).min() > 0.1, number
    assert 3 < np.mean(moved_mm) < 15
    none = draw_deformation(rng(), 0.0, np.zeros(3))
    np.testing.assert_allclose(none.source_of(points), points, atol=1e-9)


def test_without_deformation_the_label_map_stays_and_a_stretched_ball_is_an_ellipsoid():
    shape, affine = (40, 44, 48), np.diag([1.5, 1.25, 1.1, 1.0])
    affine[:3, 3] = 4.0, -7.0, 2.0
    at = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    centre = at.reshape(-1, 3).mean(0)
    ball = (np.linalg.norm(at - centre, axis=-1) < 16).astype(np.uint8) * 7
    none = draw_deformation(rng(), 0.0, centre)
    inner = tuple(slice(1, -1) for _ in shape)  # the last voxels have no neighbour to weigh
    np.testing.assert_array_equal(deform(ball, affine, none, affine, shape)[inner], ball[inner])
    stretch = variation.Deformation(
        centre, np.diag([1 / 1.2, 1.0, 1.25]), none.waves, none.phases, np.zeros_like(none.amplitudes_mm)
    )
    wanted = np.linalg.norm((at - centre) * [1 / 1.2, 1.0, 1.25], axis=-1) < 16
    assert overlap(deform(ball, affine, stretch, affine, shape) == 7, wanted) > 0.98


def test_half_way_between_three_structures_the_heavier_label_wins():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[:2], labels[2:, :2] = 3, 5
    none = draw_deformation(rng(), 0.0, np.zeros(3))
    shifted = np.eye(4)
    shifted[:3, 3] = 1.3, 0.6, 1.0  # a voxel at the origin lies there in `labels`
    # weights: 0.7 of label 3; of the others 0.3, of which 5 has 0.4 and background has 0.6... 3 wins
    assert deform(labels, np.eye(4), none, shifted, (1, 1, 1))[0, 0, 0] == 3
    shifted[:3, 3] = 1.6, 0.4, 1.0
    assert deform(labels, np.eye(4), none, shifted, (1, 1, 1))[0, 0, 0] == 5


def slabs(first, second, spacing_mm):
    labels = np.zeros((72, 12, 12), np.uint8)
    labels[2:36], labels[36:70] = first, second
    return labels, np.asarray(spacing_mm, float)


@pytest.mark.parametrize("wall_mm", [1.0, 2.0, 3.0])
def test_a_wall_is_as_thick_as_asked_and_lies_on_both_sides_but_never_in_the_myocardium(wall_mm):
    labels, spacing = slabs(LA, RA, (0.25, 1.0, 1.0))
    variation._wall(labels, spacing, LA, RA, wall_mm)
    gap = np.flatnonzero(labels[:, 6, 6] == 0)
    gap = gap[(gap > 2) & (gap < 69)]
    assert abs(len(gap) * 0.25 - wall_mm) <= 0.5 and abs((gap.min() + gap.max()) / 2 - 35.5) <= 0.5
    labels, _ = slabs(LA, MYO, (0.25, 1.0, 1.0))
    variation._wall(labels, spacing, LA, MYO, wall_mm)
    assert (labels[36:70] == MYO).all() and abs((labels[2:36, 6, 6] == 0).sum() * 0.25 - wall_mm) <= 0.25


def test_a_wall_that_would_take_most_of_a_structure_or_has_no_second_side_is_not_made():
    labels, spacing = slabs(LA, RA, (1.0, 1.0, 1.0))
    before = labels.copy()
    variation._wall(labels, spacing, LA, RA, 60.0)
    np.testing.assert_array_equal(labels, before)
    variation._wall(labels, spacing, LA, AORTA, 2.0)
    np.testing.assert_array_equal(labels, before)


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.8])
def test_a_cut_vessel_keeps_the_part_at_its_root_in_one_piece(kept):
    labels = np.zeros((30, 30, 80), np.uint8)
    labels[8:22, 8:22, 2:20] = LV
    labels[11:19, 11:19, 20:75] = AORTA
    before = (labels == AORTA).sum()
    variation._cut_vessel(labels, np.diag([1.0, 1.0, 1.3, 1.0]), AORTA, LV, kept, np.array([0.3, -0.2, 0.1]))
    left = labels == AORTA
    assert abs(left.sum() / before - kept) < 0.05 and ndimage.label(left)[1] == 1 and left[:, :, 20].any()
    assert (labels == LV).sum() == 14 * 14 * 18


def test_rough_outlines_move_by_as_much_as_asked():
    at = np.indices((60, 60, 60)) - 29.5
    ball = (np.linalg.norm(at, axis=0) < 20).astype(np.uint8)
    rough = variation.displace_outlines(ball, np.full(3, 0.5), rng())
    away = np.abs(np.linalg.norm(at, axis=0)[(rough != ball)] - 20)
    assert 0 < away.mean() < 1.0 and away.max() < 3 and 0.97 < overlap(rough == 1, ball == 1) < 0.999


def test_a_varied_heart_is_the_same_on_every_grid_and_with_sixteen_structures():
    options = PhantomOptions(None, (2.0, 2.0, 2.0), variation=1.0)
    one, affine = make_phantom(3, 1, options)
    again, _ = make_phantom(3, 1, options)
    np.testing.assert_array_equal(one, again)
    flipped, other = make_phantom(3, 1, PhantomOptions(None, (2.0, 2.0, 2.0), flip=(0, 2), variation=1.0))
    # the same place in the patient: voxel -> mm -> voxel of the other grid
    at = np.argwhere(one == LV)
    there = (at @ affine[:3, :3].T + affine[:3, 3] - other[:3, 3]) @ np.linalg.inv(other[:3, :3]).T
    there = np.clip(np.rint(there).astype(int), 0, np.array(flipped.shape) - 1)
    assert (flipped[tuple(there.T)] == LV).mean() > 0.9
    more, wide = make_phantom(3, 1, PhantomOptions(None, (2.0, 2.0, 2.0), structures=16, variation=1.0))
    there = (at @ affine[:3, :3].T + affine[:3, 3] - wide[:3, 3]) @ np.linalg.inv(wide[:3, :3]).T
    there = np.clip(np.rint(there).astype(int), 0, np.array(more.shape) - 1)
    assert (more[tuple(there.T)] == LV).mean() > 0.9


def test_amounts_are_shares_of_the_hearts():
    labels = np.zeros((24, 24, 24), np.uint8)
    for c in range(1, 11):
        labels[2 * c : 2 * c + 2, 4:20, 4:20] = c
    whole = [vary_labels(labels, np.diag([2.0, 2.0, 2.0, 1.0]), rng(i), 1.0, 10) for i in range(60)]
    seven = [set(np.unique(x)) - {0} == {MYO, LA, LV, RA, RV, AORTA, PA} for x in whole]
    fewer = [len(np.unique(x)) - 1 < 10 for x in whole]
    assert 0.1 < np.mean(seven) < 0.42 and 0.25 < np.mean(fewer) < 0.65
    little = [vary_labels(labels, np.diag([2.0, 2.0, 2.0, 1.0]), rng(i), 0.01, 10) for i in range(20)]
    assert np.mean([np.array_equal(x, labels) for x in little]) > 0.8


def test_hearts_as_they_are_drawn_keep_their_record_and_amounts_are_checked(tmp_path, capsys):
    words = ["--num", "1", "--size", "48", "--output_dir"]
    assert run_command(make_phantoms.main, [*words, str(tmp_path / "plain")]) == 0
    assert "variation" not in json.loads((tmp_path / "plain" / "phantoms.json").read_text())
    assert run_command(make_phantoms.main, [*words, str(tmp_path / "varied"), "--variation", "0.5"]) == 0
    record = json.loads((tmp_path / "varied" / "phantoms.json").read_text())
    assert record["variation"] == 0.5 and record["variation_version"] == variation.VERSION
    capsys.readouterr()
    assert run_command(make_phantoms.main, [*words, str(tmp_path / "bad"), "--variation", "1.5"]) != 0
    assert "--variation: expected an amount from 0 to 1" in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()
