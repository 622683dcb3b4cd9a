"""The points of a case: exact counts, class floors, sides, and labels and distances that agree."""

import numpy as np
import pytest

from vecset.data.preparation import Options, build_case, case_rng, describe, islands
from vecset.data.sampling import MAX_OFFSET_UNIT, WALL_SHARE, allocate
from vecset.geometry.distance_field import nearest_class
from vecset.geometry.surface import crop_foreground
from vecset.imaging.frame import UNIT_RADIUS
from vecset.imaging.label_map import LabelMap

SPACING = np.array([1.0, 1.3, 0.9])


def small_heart():
    """Muscle (1) round a chamber (2), a vessel (3) that the border cuts, a thin artery (4) on the outside, an
    island."""
    grid = np.indices((60, 48, 64)).transpose(1, 2, 3, 0) * SPACING
    away = np.linalg.norm(grid - [28, 30, 24], axis=-1)
    labels = np.zeros((60, 48, 64), np.uint8)
    labels[(np.hypot(grid[..., 0] - 30, grid[..., 1] - 30) < 6) & (grid[..., 2] > 24)] = 3
    labels[away < 19] = 1
    labels[away < 13] = 2
    ring = np.hypot(np.linalg.norm(grid[..., :2] - [28, 30], axis=-1) - 19.5, grid[..., 2] - 22) < 1.7
    labels[ring] = 4
    labels[56, 44, 4] = 1
    return labels


def label_map(labels, affine=None, name="heart.nii.gz", classes=5):
    from pathlib import Path

    affine = np.diag([*SPACING, 1.0]) if affine is None else affine
    return LabelMap(
        labels,
        affine,
        Path(name),
        "0" * 64,
        [f"c{c}" for c in range(1, classes + 1)],
        list(range(1, classes + 1)),
        affine,
    )


OPTIONS = Options(num_surface_points=6001, num_vol_points=5001, num_near_points=6003)


@pytest.fixture(scope="module")
def case():
    return build_case(label_map(small_heart()), OPTIONS)


def test_counts_shapes_and_types(case):
    arrays = case.arrays
    assert len(arrays["surface_points"]) == 6001 and len(arrays["near_points"]) == 6003
    assert len(arrays["vol_points"]) == 5001 and (arrays["vol_sdf"] < 0).sum() == 2500
    assert arrays["vol_points"].dtype == arrays["vol_sdf"].dtype == np.float32
    assert arrays["surface_labels"].dtype == arrays["near_source"].dtype == np.uint8
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            assert np.isfinite(array).all(), name
        if name.endswith("points"):
            assert np.abs(array).max() <= 1, name


def test_label_and_distance_agree_by_construction(case):
    """Label > 0 exactly where the stored distance is < 0, and it is the class of the nearest foreground voxel."""
    crop = crop_foreground(small_heart(), SPACING)
    for group in ("vol", "near"):
        sdf, labels = getattr(case, f"{group}_sdf"), getattr(case, f"{group}_labels")
        assert ((sdf < 0) == (labels > 0)).all()
        inside = sdf < 0
        local_mm = crop.voxel_to_local_mm(case.frame.unit_to_voxel(getattr(case, f"{group}_points")[inside]))
        np.testing.assert_array_equal(nearest_class(local_mm, crop), labels[inside])


def test_distances_are_in_unit_and_frame_fits(case):
    """The distance of far points is in unit coordinates, at most that of the nearest surface point."""
    radius = np.linalg.norm(case.surface_points, axis=1)
    assert radius.max() <= UNIT_RADIUS + 1e-5
    far = np.linalg.norm(case.vol_points, axis=1) > 1.1
    outer = case.surface_points[case.surface_sdf == 0]
    nearest = np.linalg.norm(case.vol_points[far][:, None] - outer, axis=-1).min(1)
    assert (nearest > case.vol_sdf[far] - 1e-4).all()  # never farther than it says: no point can be nearer
    assert (nearest - case.vol_sdf[far] < 0.05).mean() > 0.85  # but for those nearest to the cap or the island


def test_surface_distance_is_zero_outside_and_negative_on_inner_walls(case):
    """Points of inner walls have the union distance, which is not 0 there."""
    walls = case.surface_sdf < 0
    assert walls.sum() == case.meta["sampling"]["counts"]["surface_walls"] > 1000
    assert (case.surface_sdf <= 0).all() and (case.surface_sdf[~walls] == 0).all()
    chamber = case.surface_labels == 2  # wholly inside the muscle
    assert (case.surface_sdf[chamber] < -3 * case.frame.scale).mean() > 0.95


def test_normals_point_out_of_their_class(case):
    crop = crop_foreground(small_heart(), SPACING)
    normals = case.surface_normals.astype(float)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=2e-3)
    step = 1.0 * case.frame.scale
    right = 0
    for sign in (1, -1):
        voxel = case.frame.unit_to_voxel(case.surface_points + sign * step * normals)
        index = np.clip(np.rint(voxel - crop.origin).astype(int), 0, np.array(crop.labels.shape) - 1)
        same = crop.labels[tuple(index.T)] == case.surface_labels
        right += (same == (sign < 0)).mean() / 2
    assert right > 0.9


def test_near_points_lie_on_a_random_side_each(case):
    """Every class has near points on both sides, whatever its id."""
    counts = case.meta["sampling"]["counts"]
    outer = 6003 - counts["near_walls"]
    assert counts["near_outside"] / outer == pytest.approx(0.5, abs=0.02)
    for c in (1, 3, 4):
        mine = case.near_source == c
        outside = (case.near_sdf[mine] >= 0).sum()
        assert 0.3 < outside / mine.sum() <= 0.6, c  # points of inner walls are inside on both sides
    assert np.abs(case.near_sdf).max() <= MAX_OFFSET_UNIT + 0.35  # inner walls lie deep
    assert counts["near_wrong_side"] == 0
    artery = case.near_source == 4
    assert (case.near_labels[artery] == 4).mean() > 0.3
    order = np.argsort(case.near_source, kind="stable")
    assert abs(np.corrcoef(np.arange(6003), case.near_source)[0, 1]) < 0.1 and (order != np.arange(6003)).any()


def test_inner_walls_have_their_limit_and_are_balanced(case):
    counts = case.meta["sampling"]["counts"]
    assert 0 < counts["near_walls"] <= WALL_SHARE * 6003
    # the chamber has no outer surface: all its near points are of the wall that it shares with the muscle
    assert (case.near_source == 2).sum() >= 0.04 * 6003


def test_every_present_class_has_its_floor(case):
    inside = case.vol_labels[case.vol_labels > 0]
    for found, total in ((case.surface_labels, 6001), (case.near_source, 6003), (inside, 2500)):
        share = np.bincount(found, minlength=5)[1:5] / total
        assert share.min() >= 0.04, share
    assert (small_heart() == 4).sum() < 0.04 * (small_heart() > 0).sum()


def test_outside_points_are_uniform_and_none_lies_beyond_a_cap(case):
    outside = case.vol_points[case.vol_sdf >= 0]
    octants = np.bincount(((outside > 0) @ [1, 2, 4]), minlength=8) / len(outside)
    assert octants.min() > 0.08
    voxel = case.frame.unit_to_voxel(outside)
    assert (voxel.min(0) < -3).any()  # the cube goes beyond the image, and so do the points
    beyond = (voxel[:, 2] > 63.5) & (np.hypot(voxel[:, 0] * 1.0 - 30, voxel[:, 1] * 1.3 - 30) < 4)
    assert not beyond.any()
    near = case.frame.unit_to_voxel(case.near_points)
    assert not ((near[:, 2] > 64) & (np.hypot(near[:, 0] - 30, near[:, 1] * 1.3 - 30) < 4)).any()


def test_caps_are_left_out_unless_asked_for(case):
    assert not case.surface_cap.any()
    z = case.frame.unit_to_voxel(case.surface_points)[:, 2]
    assert z.max() < 63.2
    with_caps = build_case(label_map(small_heart()), Options(4000, 1000, 1000, sample_caps=True))
    z = with_caps.frame.unit_to_voxel(with_caps.surface_points)[:, 2]
    assert with_caps.surface_cap.sum() > 20 and (z[with_caps.surface_cap] > 62.5).all()


def test_same_seed_same_points_and_another_name_or_seed_others(case):
    again = build_case(label_map(small_heart()), OPTIONS)
    for name, array in case.arrays.items():
        np.testing.assert_array_equal(array, again.arrays[name])
    small = Options(500, 500, 500)
    base, other = (build_case(label_map(small_heart(), name=n), small) for n in ("a.nii.gz", "b.nii.gz"))
    assert (base.vol_points != other.vol_points).any()
    assert case_rng(0, "a").random() != case_rng(1, "a").random()


@pytest.mark.parametrize("kind", ["flipped", "permuted", "oblique"])
def test_orientation_moves_points_but_not_anatomy(kind):
    """The same heart described on another grid has its structures at the same place in mm."""
    labels, affine = small_heart(), np.diag([*SPACING, 1.0])
    if kind == "flipped":  # left-handed
        turn = np.diag([-1.0, 1, 1, 1])
        turn[0, 3] = 59
        labels, affine = labels[::-1], affine @ turn
    elif kind == "permuted":
        labels, affine = labels.transpose(2, 0, 1), affine @ np.eye(4)[:, [2, 0, 1, 3]]
    else:
        angle = np.deg2rad(25)
        rotation = np.eye(4)
        rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        affine = rotation @ affine
    here = build_case(label_map(labels, affine), Options(4000, 2000, 2000))
    base = build_case(label_map(small_heart()), Options(4000, 2000, 2000))
    for c in range(1, 5):
        mine = here.frame.unit_to_mm(here.surface_points[here.surface_labels == c]).mean(0)
        theirs = base.frame.unit_to_mm(base.surface_points[base.surface_labels == c]).mean(0)
        if kind == "oblique":
            theirs = rotation[:3, :3] @ theirs
        assert np.linalg.norm(mine - theirs) < 1.0, (c, mine, theirs)
    # outward in patient space, whatever the handedness
    step = here.surface_points + 1.0 * here.frame.scale * here.surface_normals.astype(float)
    outer = here.surface_sdf == 0
    index, inside = here.frame.nearest_voxel(step[outer])
    assert (np.asarray(labels)[tuple(index[inside].T)] == 0).mean() > 0.85


def test_describe_borders_missing_volumes_and_islands():
    labels = small_heart()
    meta = describe(crop_foreground(labels, SPACING), 5)
    assert meta["present_classes"] == [1, 2, 3, 4] and meta["missing_classes"] == [5] and meta["border_classes"] == [3]
    assert meta["voxels_per_class"] == [int((labels == c).sum()) for c in range(1, 6)]
    assert meta["crumbs"]["classes"] == {"1": [1, 1]} and meta["crumbs"]["grow_radius"] > 0.05
    labels[56, 44, 4] = 0
    assert islands(crop_foreground(labels, SPACING)) == {"classes": {}, "grow_radius": 0.0}


def test_islands_are_judged_by_the_radius_of_the_frame():
    """A flat heart with an island over it: the box's diagonal hardly grows. Reference: all voxels, without_islands by
    hand."""
    labels = np.zeros((40, 40, 60), np.uint8)
    labels[5:35, 5:35, 5:8] = 1
    clean = labels.copy()
    labels[6, 6, 45] = 1
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]

    def radius_mm(mask, axes_mm):
        points = np.argwhere(mask) @ axes_mm.T
        return np.linalg.norm(points - (points.min(0) + points.max(0)) / 2, axis=1).max()

    for axes_mm in (np.diag(SPACING), turn @ np.diag(SPACING)):
        found = islands(crop_foreground(labels, SPACING), axes_mm)
        grow = radius_mm(labels, axes_mm) / radius_mm(clean, axes_mm) - 1
        assert found == {"classes": {"1": [1, 1]}, "grow_radius": pytest.approx(grow, abs=1e-4)} and grow > 0.05


def test_truth_crop_is_the_label_map(case):
    np.testing.assert_array_equal(case.truth_labels(), small_heart())


@pytest.mark.parametrize("labels", [1, 41], ids=["one class", "41 classes"])
def test_other_numbers_of_classes_and_structures_of_a_voxel(labels):
    array = np.zeros((40, 40, 40), np.uint8)
    if labels == 1:
        array[20, 20, 20] = 1
    else:
        rng = np.random.default_rng(0)
        centres = rng.uniform(6, 34, (41, 3))
        grid = np.indices(array.shape).transpose(1, 2, 3, 0)
        distance = np.stack([np.linalg.norm(grid - c, axis=-1) for c in centres])
        array = np.where(distance.min(0) < 5, distance.argmin(0) + 1, 0).astype(np.uint8)
        array[array == 7] = 6
        array[tuple(np.rint(centres[6]).astype(int))] = 7  # one voxel in the midst of another structure
    made = build_case(label_map(array, np.diag([1.0, 1, 1, 1]), classes=41), Options(4000, 4000, 4000))
    assert (made.vol_sdf < 0).sum() == 2000 and len(made.near_points) == 4000 and len(made.surface_points) == 4000
    present = set(np.unique(array)) - {0}
    assert set(np.unique(made.vol_labels)) - {0} == present
    assert ((made.near_sdf < 0) == (made.near_labels > 0)).all() and (made.surface_sdf <= 0).all()
    assert set(np.unique(made.surface_labels)) == present


@pytest.mark.parametrize("sdf", ["mesh", "edt"])
def test_fewer_points_than_classes(sdf):
    made = build_case(label_map(small_heart()), Options(2, 3, 2, sdf=sdf))
    assert (made.vol_sdf < 0).sum() == 1 and len(made.vol_sdf) == 3
    assert len(made.surface_sdf) == 2 and len(made.near_sdf) == 2


def test_edt_field_gives_a_case_too():
    made = build_case(label_map(small_heart()), Options(2000, 2000, 2000, sdf="edt"))
    assert (made.vol_sdf < 0).sum() == 1000 and ((made.near_sdf < 0) == (made.near_labels > 0)).all()
    exact = build_case(label_map(small_heart()), Options(2000, 2000, 2000))
    assert exact.meta["sampling"]["sdf"] == "mesh" and made.meta["sampling"]["sdf"] == "edt"


def test_allocate():
    rng = np.random.default_rng(0)
    for _ in range(200):
        weights = rng.exponential(size=rng.integers(1, 14)) ** 3 * (rng.random(1) > 0.2)
        weights[0] += 1e-3
        total, floor = int(rng.integers(1, 5000)), rng.choice([0, 0.04, 0.2])
        counts = allocate(total, weights, floor)
        assert counts.sum() == total and (counts >= 0).all() and (counts[weights == 0] == 0).all()
        effective = min(floor, 0.5 / (weights > 0).sum())
        if total > 200:
            assert (counts[weights > 0] >= effective * total - 1e-6).all()
    assert allocate(100, [1, 1, 2], 0).tolist() == [25, 25, 50]
