"""Corruptions of the analytic case, and the check of the quality check that must find each. Each changes the Case in
place. Those of prepared hearts, whose files stay well-formed, are in quality_mutations.py."""

import numpy as np

from helpers.analytic_case import BUD, CORE, RADIUS, analytic_case, union_sdf_mm
from vecset.imaging.frame import Frame


def relabel(case, group, sdf):
    """Distances and labels that agree with each other, so that only the comparison with the truth finds the error."""
    labels = case.arrays[f"{group}_labels"]
    filled = np.where(labels > 0, labels, 1).astype(np.uint8)
    case.arrays[f"{group}_sdf"] = sdf.astype(np.float32)
    case.arrays[f"{group}_labels"] = np.where(sdf < 0, filled, 0).astype(np.uint8)


def voxel_unit(case):
    return case.frame.scale * case.frame.spacing_mm.max()


def sign_flipped(case):
    for group in ("vol", "near"):
        relabel(case, group, -case.arrays[f"{group}_sdf"])


def sign_of_labels_only(case):
    case.arrays["vol_sdf"] = -case.arrays["vol_sdf"]


def five_percent_of_signs(case):
    rng = np.random.default_rng(0)
    for group in ("vol", "near"):
        sdf = case.arrays[f"{group}_sdf"]
        relabel(case, group, np.where(rng.random(len(sdf)) < 0.05, -sdf, sdf))


def all_inside(case):
    for group in ("vol", "near"):
        relabel(case, group, -np.abs(case.arrays[f"{group}_sdf"]) - 1e-6)


def min_over_classes(case):
    """The distance to the nearest wall of any class, negative inside: near zero where two structures touch."""
    for group in ("vol", "near", "surface"):
        mm = np.linalg.norm(case.frame.unit_to_mm(case.arrays[f"{group}_points"]), axis=1)
        sdf = case.arrays[f"{group}_sdf"]
        wall = np.abs(mm - CORE) * case.frame.scale
        inside = -np.minimum(-sdf, np.maximum(wall, 1e-6))
        case.arrays[f"{group}_sdf"] = np.where(sdf < 0, inside, sdf).astype(np.float32)


def inner_walls_at_zero(case):
    case.arrays["surface_sdf"] = np.zeros_like(case.arrays["surface_sdf"])


def spacing_ignored(case):
    """Distances counted in voxels of a grid whose voxels are not 1 mm."""
    for group in ("vol", "near", "surface"):
        case.arrays[f"{group}_sdf"] = case.arrays[f"{group}_sdf"] * np.float32(1.25)


def half_voxel_bias(case):
    for group in ("vol", "near"):
        relabel(case, group, case.arrays[f"{group}_sdf"] + voxel_unit(case) / 2)


def plain_edt(case):
    for group in ("vol", "near"):
        sdf = case.arrays[f"{group}_sdf"]
        relabel(case, group, sdf + np.where(sdf < 0, -1, 1) * voxel_unit(case) / 2)


def frame_shifted(case, voxels=1.0):
    old = case.frame
    direction = np.array([1.0, 0, 0]) if voxels == 1 else np.ones(3) / np.sqrt(3)
    shift_mm = old.affine[:3, :3] @ direction * voxels
    affine = np.array(old.affine)
    affine[:3, 3] += shift_mm
    case.frame = Frame(affine, old.shape, old.centre_mm, old.scale)


def frame_shifted_a_lot(case):
    frame_shifted(case, 12.0)


def frame_scaled(case):
    case.frame = Frame(case.frame.affine, case.frame.shape, case.frame.centre_mm, case.frame.scale * 1.1)


def frame_sheared(case):
    affine = np.array(case.frame.affine)
    affine[:3, 1] += 0.1 * affine[:3, 0]
    case.frame = Frame(affine, case.frame.shape, case.frame.centre_mm, case.frame.scale)


def truth_outside_grid(case):
    case.frame = Frame(case.frame.affine, (20, 20, 20), case.frame.centre_mm, case.frame.scale)


def mirrored_points(case):
    for group in ("vol", "near", "surface"):
        case.arrays[f"{group}_points"] = case.arrays[f"{group}_points"] * np.float32([-1, 1, 1])


def swapped_axes(case):
    case.truth_crop = np.ascontiguousarray(case.truth_crop.transpose(1, 0, 2))
    case.truth_origin = np.array(case.truth_origin)[[1, 0, 2]]


def labels_shuffled(case):
    change = np.array([0, *range(2, case.num_classes + 1), 1], np.uint8)
    for name in ("vol_labels", "near_labels"):
        case.arrays[name] = change[case.arrays[name]]


def surface_labels_shuffled(case):
    case.arrays["surface_labels"] = np.random.default_rng(0).permutation(case.arrays["surface_labels"])


def two_classes_exchanged(case):
    change = np.array([0, 1, 3, 2, 4], np.uint8)
    for name in ("vol_labels", "near_labels", "surface_labels", "near_source"):
        case.arrays[name] = change[case.arrays[name]]


def labels_from_voxel_space(case):
    """Labels looked up as if unit coordinates were along the image axes, without the affine's rotation."""
    for group in ("vol", "near"):
        points = case.arrays[f"{group}_points"] / case.frame.scale
        index = np.rint(points + np.array(case.truth_crop.shape) / 2).astype(int)
        inside = ((index >= 0) & (index < case.truth_crop.shape)).all(1)
        label = case.truth_crop[tuple(np.clip(index, 0, np.array(case.truth_crop.shape) - 1).T)]
        label = np.where(inside & (label > 0), label, 1)
        case.arrays[f"{group}_labels"] = np.where(case.arrays[f"{group}_sdf"] < 0, label, 0).astype(np.uint8)


def labels_by_floor(case):
    """floor in place of rint: half a voxel off along every axis."""
    for group in ("vol", "near"):
        index = np.floor(case.frame.unit_to_voxel(case.arrays[f"{group}_points"])).astype(int) - case.truth_origin
        index = np.clip(index, 0, np.array(case.truth_crop.shape) - 1)
        label = case.truth_crop[tuple(index.T)]
        stored = case.arrays[f"{group}_labels"]
        case.arrays[f"{group}_labels"] = np.where((stored > 0) & (label > 0), label, stored)


def one_side_for_one_class(case):
    mine = case.arrays["near_source"] == 4
    case.arrays["near_points"], case.arrays["near_sdf"], case.arrays["near_labels"] = (
        _moved_inside(case, mine)[k] for k in range(3)
    )


def _moved_inside(case, mine):
    """Near points of the bud's outside half are mirrored at its surface to the inside."""
    points_mm = case.frame.unit_to_mm(case.arrays["near_points"]).astype(float)
    sdf, labels = case.arrays["near_sdf"].copy(), case.arrays["near_labels"].copy()
    bud = _bud_centre(case)
    flip = mine & (sdf > 0)
    away = points_mm[flip] - bud
    length = np.linalg.norm(away, axis=1)[:, None]
    points_mm[flip] = bud + away / length * (2 * BUD - length)
    sdf[flip] = (union_sdf_mm(points_mm[flip], bud) * case.frame.scale).astype(np.float32)
    labels[flip] = np.where(sdf[flip] < 0, 4, 0)
    return case.frame.mm_to_unit(points_mm).astype(np.float32), sdf, labels


def _bud_centre(case):
    turn = case.frame.affine[:3, :3] / case.frame.spacing_mm
    return turn @ np.array([RADIUS, 0, 0])


def near_all_outside(case):
    keep = np.flatnonzero(case.arrays["near_sdf"] >= 0)
    for name in [n for n in case.arrays if n.startswith("near")]:
        case.arrays[name] = case.arrays[name][keep]


def near_source_wrong(case):
    source = case.arrays["near_source"]
    case.arrays["near_source"] = np.where(source == 1, 4, source).astype(np.uint8)


def vol_mostly_outside(case):
    order = np.argsort(case.arrays["vol_sdf"])[1000:]
    for name in ("vol_points", "vol_sdf", "vol_labels"):
        case.arrays[name] = case.arrays[name][order]


def not_a_number(case):
    case.arrays["near_sdf"][7] = np.nan


def infinite(case):
    case.arrays["vol_points"][7, 1] = np.inf


def outside_the_cube(case):
    case.arrays["near_points"][7, 1] = 1.2


def class_without_points(case):
    keep = case.arrays["surface_labels"] != 4
    for name in [n for n in case.arrays if n.startswith("surface")]:
        case.arrays[name] = case.arrays[name][keep]


def class_not_in_truth(case):
    case.truth_crop = np.where(case.truth_crop == 4, 2, case.truth_crop)


def meta_says_missing(case):
    case.meta = {**case.meta, "present_classes": [1, 2, 3], "missing_classes": [4]}


def meta_says_whole(case):
    case.truth_crop = case.truth_crop[2:].copy()
    affine = np.array(case.frame.affine)
    affine[:3, 3] = case.frame.voxel_to_mm(np.array(case.truth_origin) + [2, 0, 0])
    grid = case.truth_crop[8:]  # the image begins eight voxels into the heart, and meta does not say so
    affine[:3, 3] += 8 * affine[:3, 0]
    case.truth_crop, case.truth_origin = grid, np.zeros(3, int)
    case.frame = Frame(affine, grid.shape, case.frame.centre_mm, case.frame.scale)


def another_heart(case):
    other = analytic_case(rows=len(case.arrays["near_sdf"]), seed=99)
    for name in ("near_points", "near_sdf", "near_labels", "near_source", "near_other"):
        case.arrays[name] = other.arrays[name]


def truth_of_another_heart(case):
    other = analytic_case(seed=99)
    (
        case.truth_crop,
        case.truth_origin,
    ) = other.truth_crop, other.truth_origin


def normals_inward(case):
    case.arrays["surface_normals"] = -case.arrays["surface_normals"]


def normals_long(case):
    case.arrays["surface_normals"] = case.arrays["surface_normals"] * np.float16(1.2)


def surface_pushed_in(case):
    normals = case.arrays["surface_normals"].astype(np.float32)
    case.arrays["surface_points"] = case.arrays["surface_points"] - 2.5 * voxel_unit(case) * normals


def flag_all_outer(case):
    case.arrays["near_other"] = np.zeros_like(case.arrays["near_other"])


def flag_shuffled(case):
    case.arrays["near_other"] = np.random.default_rng(0).permutation(case.arrays["near_other"])


def flag_five_percent_wrong(case):
    other = case.arrays["near_other"].copy()
    wrong = np.random.default_rng(0).random(len(other)) < 0.05
    other[wrong] = np.where(other[wrong] > 0, 0, 1 + (case.arrays["near_source"][wrong] == 1))
    case.arrays["near_other"] = other


def flag_of_the_class_itself(case):
    other, source = case.arrays["near_other"].copy(), case.arrays["near_source"]
    wall = np.flatnonzero(other)[:3]
    other[wall] = source[wall]
    case.arrays["near_other"] = other


def keep_near(case, keep):
    for name in [n for n in case.arrays if n.startswith("near")]:
        case.arrays[name] = case.arrays[name][keep]


def walls_of_one_side(case):
    """Only the core's own points on the wall between core and shell."""
    keep_near(case, (case.arrays["near_other"] == 0) | (case.arrays["near_source"] == 1))


def walls_not_crossed(case):
    """The core's wall points on its own side only."""
    a = case.arrays
    keep_near(case, (a["near_other"] == 0) | (a["near_source"] != 1) | (a["near_labels"] == 1))


def too_many_wall_points(case):
    a = case.arrays
    keep_near(case, (a["near_other"] > 0) | (np.arange(len(a["near_other"])) % 4 == 0))


CORRUPTIONS = [
    (sign_flipped, "sign"),
    (sign_of_labels_only, "label_distance"),
    (five_percent_of_signs, "sign"),
    (all_inside, "vol_inside"),
    (min_over_classes, "distance_mean"),
    (inner_walls_at_zero, "surface_distance"),
    (spacing_ignored, "slope"),
    (half_voxel_bias, "bias"),
    (plain_edt, "jump"),
    (frame_shifted, "shift"),
    (frame_shifted_a_lot, "frame_centre"),
    (frame_scaled, "frame_radius"),
    (frame_sheared, "frame"),
    (truth_outside_grid, "frame"),
    (mirrored_points, "label"),
    (swapped_axes, "label"),
    (labels_shuffled, "label"),
    (surface_labels_shuffled, "surface_class"),
    (two_classes_exchanged, "label_class"),
    (labels_from_voxel_space, "label"),
    (labels_by_floor, "label_exact"),
    (one_side_for_one_class, "outer_outside_class"),
    (near_all_outside, "outer_outside"),
    (near_source_wrong, "near_reach"),
    (vol_mostly_outside, "vol_inside"),
    (not_a_number, "non_finite"),
    (infinite, "non_finite"),
    (outside_the_cube, "outside_cube"),
    (class_without_points, "class_surface"),
    (class_not_in_truth, "class_stranger"),
    (meta_says_missing, "meta_classes"),
    (meta_says_whole, "meta_border"),
    (another_heart, "label"),
    (truth_of_another_heart, "shift"),
    (normals_inward, "normals_outward"),
    (normals_long, "normals_unit"),
    (surface_pushed_in, "surface_class"),
    (flag_all_outer, "near_flag"),
    (flag_shuffled, "near_flag"),
    (flag_five_percent_wrong, "near_flag"),
    (flag_of_the_class_itself, "near_flag_wrong"),
    (walls_of_one_side, "wall_sides"),
    (walls_not_crossed, "wall_crossed"),
    (too_many_wall_points, "wall_share"),
]
