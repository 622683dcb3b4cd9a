"""Defects of good cases that the quality check must find: functions that change a Case in place. The files stay
well-formed, so only their contents can tell."""

import edt
import numpy as np
from scipy import ndimage

from vecset.imaging.frame import Frame

QUERIES = ("vol", "near")


def set_distance(case, group, sdf, labels=None):
    """Distances with the labels that go with them (> 0 exactly where < 0), so that the two do not contradict."""
    labels = case.arrays[f"{group}_labels"] if labels is None else labels
    sdf = sdf.astype(np.float32)
    case.arrays[f"{group}_sdf"] = sdf
    case.arrays[f"{group}_labels"] = np.where(sdf < 0, np.where(labels > 0, labels, 1), 0).astype(np.uint8)


def voxel_unit(case):
    return case.frame.scale * case.frame.spacing_mm.max()


def keep(case, group, rows):
    for name in [n for n in case.arrays if n.startswith(group)]:
        case.arrays[name] = case.arrays[name][rows]


# ---- signs


def sign_flipped(case):
    for group in QUERIES:
        set_distance(case, group, -case.arrays[f"{group}_sdf"])


def sign_flipped_in_distances_only(case):
    for group in QUERIES:
        case.arrays[f"{group}_sdf"] = -case.arrays[f"{group}_sdf"]


def all_inside(case):
    for group in QUERIES:
        set_distance(case, group, -np.abs(case.arrays[f"{group}_sdf"]) - 1e-6)


def five_percent_of_signs(case, groups=QUERIES):
    rng = np.random.default_rng(0)
    for group in groups:
        sdf = case.arrays[f"{group}_sdf"]
        set_distance(case, group, np.where(rng.random(len(sdf)) < 0.05, -sdf, sdf))


def five_percent_of_near_signs(case):
    five_percent_of_signs(case, ("near",))


# ---- distances


def at_points(field_voxel, case, points_unit):
    """The field on the truth's own voxels (padded by 40), linear between them, at `points_unit`."""
    place = case.frame.unit_to_voxel(points_unit) - case.truth_origin + 40
    return ndimage.map_coordinates(field_voxel, place.T, order=1, mode="nearest")


def signed_edt(mask, spacing):
    """Half-voxel corrected, negative inside, in the unit of `spacing`."""
    outside = edt.edt(np.ascontiguousarray(~mask), spacing)
    inside = edt.edt(np.ascontiguousarray(mask), spacing)
    return np.where(mask, 0.5 * max(spacing) - inside, outside - 0.5 * max(spacing))


def min_over_classes(case):
    """The smallest class distance as the union's: near zero wherever two structures touch."""
    truth, spacing_mm = np.pad(case.truth_crop, 40), case.frame.spacing_mm
    # within a class its own distance is the smallest, since it alone is negative; outside all, that of the nearest
    inside = edt.edt(truth, spacing_mm)  # to the next voxel that is not of the class
    smallest = np.where(truth > 0, 0.5 * max(spacing_mm) - inside, signed_edt(truth > 0, spacing_mm)) * case.frame.scale
    for group in QUERIES:
        set_distance(case, group, at_points(smallest, case, case.arrays[f"{group}_points"]))


def spacing_ignored(case):
    """Distances counted in voxels and taken for mm."""
    field = signed_edt(np.pad(case.truth_crop > 0, 40), (1, 1, 1)) * case.frame.scale
    for group in QUERIES:
        set_distance(case, group, at_points(field, case, case.arrays[f"{group}_points"]))


def half_voxel_bias(case, side=1):
    for group in QUERIES:
        set_distance(case, group, case.arrays[f"{group}_sdf"] + side * voxel_unit(case) / 2)


def half_voxel_bias_inwards(case):
    half_voxel_bias(case, -1)


def half_voxel_jump(case):
    """EDT(outside) - EDT(inside), not corrected: -1 and +1 on the two sides of a face."""
    for group in QUERIES:
        sdf = case.arrays[f"{group}_sdf"]
        set_distance(case, group, sdf + np.sign(sdf) * voxel_unit(case) / 2)


def inner_walls_at_zero(case):
    case.arrays["surface_sdf"] = np.zeros_like(case.arrays["surface_sdf"])


# ---- frame and axes


def with_affine(case, affine, centre_mm=None):
    frame = case.frame
    case.frame = Frame(affine, frame.shape, frame.centre_mm if centre_mm is None else centre_mm, frame.scale)


def frame_missing(case):
    case.frame = None


def frame_shifted(case, axis=0, voxels=1.0):
    affine = np.array(case.frame.affine)
    affine[:3, 3] += affine[:3, axis] * voxels
    with_affine(case, affine)


def frame_shifted_along_j(case):
    frame_shifted(case, 1)


def frame_shifted_along_k(case):
    frame_shifted(case, 2)


def frame_shifted_by_half_a_voxel(case):
    frame_shifted(case, 2, 0.5)


def frame_shifted_far(case):
    frame_shifted(case, 1, 12)


def near_points_shifted_by_a_voxel(case):
    case.arrays["near_points"] = case.arrays["near_points"] + np.float32([0, 0, voxel_unit(case)])


def all_points_shifted_by_a_voxel(case):
    for group in ("vol", "near", "surface"):
        case.arrays[f"{group}_points"] = case.arrays[f"{group}_points"] + np.float32([voxel_unit(case), 0, 0])


def frame_scaled(case):
    case.frame = Frame(case.frame.affine, case.frame.shape, case.frame.centre_mm, case.frame.scale * 1.1)


def frame_sheared(case):
    affine = np.array(case.frame.affine)
    affine[:3, 1] += 0.1 * affine[:3, 0]
    with_affine(case, affine)


def points_mirrored(case, axis=0):
    side = np.ones(3, np.float32)
    side[axis] = -1
    for group in ("vol", "near", "surface"):
        case.arrays[f"{group}_points"] = case.arrays[f"{group}_points"] * side
    case.arrays["surface_normals"] = case.arrays["surface_normals"] * side.astype(np.float16)


def points_mirrored_in_y(case):
    points_mirrored(case, 1)


def points_mirrored_in_z(case):
    points_mirrored(case, 2)


def truth_mirrored(case):
    case.truth_crop = np.ascontiguousarray(case.truth_crop[::-1])


def axes_swapped(case):
    case.truth_crop = np.ascontiguousarray(case.truth_crop.transpose(1, 0, 2))
    case.truth_origin = np.array(case.truth_origin)[[1, 0, 2]]
    i, j, k = case.frame.shape
    case.frame = Frame(case.frame.affine, (j, i, k), case.frame.centre_mm, case.frame.scale)


def mirrored_as_a_whole(case, axis=0):
    """Frame, points and truth alike, so that the file agrees with itself and only anatomy can tell."""
    mirror = np.eye(3)
    mirror[axis, axis] = -1
    affine = np.array(case.frame.affine)
    affine[:3] = mirror @ affine[:3]
    with_affine(case, affine, mirror @ case.frame.centre_mm)
    points_mirrored(case, axis)


def mirrored_as_a_whole_in_z(case):
    mirrored_as_a_whole(case, 2)


# ---- labels


def labels_shuffled(case):
    rng = np.random.default_rng(0)
    for group in QUERIES:
        labels = case.arrays[f"{group}_labels"].copy()
        inside = labels > 0
        labels[inside] = rng.permutation(labels[inside])
        case.arrays[f"{group}_labels"] = labels


def labels_renumbered(case):
    change = np.array([0, *range(2, case.num_classes + 1), 1], np.uint8)
    for group in QUERIES:
        case.arrays[f"{group}_labels"] = change[case.arrays[f"{group}_labels"]]


def two_classes_exchanged(case):
    """Aorta and pulmonary artery, everywhere but in the truth."""
    change = np.arange(case.num_classes + 1).astype(np.uint8)
    change[[6, 7]] = 7, 6
    for name in ("vol_labels", "near_labels", "surface_labels", "near_source", "near_other"):
        if name in case.arrays:
            case.arrays[name] = change[case.arrays[name]]


def surface_labels_shuffled(case):
    case.arrays["surface_labels"] = np.random.default_rng(0).permutation(case.arrays["surface_labels"])


def labels_from_another_space(case):
    """Labels looked up as if unit coordinates were the image's axes, without the affine's turn."""
    shape = np.array(case.truth_crop.shape)
    for group in QUERIES:
        mm = case.arrays[f"{group}_points"] / case.frame.scale
        index = np.rint(mm[:, [1, 0, 2]] / case.frame.spacing_mm + shape / 2).astype(int)
        label = case.truth_crop[tuple(np.clip(index, 0, shape - 1).T)]
        set_distance(case, group, case.arrays[f"{group}_sdf"], label)


def labels_by_floor(case):
    """floor where the nearest voxel was meant: half a voxel off along every axis."""
    shape = np.array(case.truth_crop.shape)
    for group in QUERIES:
        index = np.floor(case.frame.unit_to_voxel(case.arrays[f"{group}_points"])).astype(int) - case.truth_origin
        label = case.truth_crop[tuple(np.clip(index, 0, shape - 1).T)]
        stored = case.arrays[f"{group}_labels"]
        case.arrays[f"{group}_labels"] = np.where((stored > 0) & (label > 0), label, stored)


# ---- points


def near_on_one_side(case, c, outside):
    """Of the near points round class c's outer surface, those of one side alone."""
    a = case.arrays
    mine = (a["near_source"] == c) & ((a["near_sdf"] >= 0) == (not outside))
    if "near_other" in a:
        mine &= a["near_other"] == 0
    keep(case, "near", ~mine)


def near_all_outside(case):
    keep(case, "near", case.arrays["near_sdf"] >= 0)


def class_removed(case, c, group):
    """Class c's points of `group`: surface, near or inside (volume)."""
    a = case.arrays
    if group == "inside":  # each is replaced, so that half of the volume points stay inside
        mine = np.flatnonzero(a["vol_labels"] == c)
        others = np.random.default_rng(0).choice(
            np.flatnonzero((a["vol_labels"] > 0) & (a["vol_labels"] != c)), len(mine)
        )
        for name in ("vol_points", "vol_sdf", "vol_labels"):
            a[name] = a[name].copy()
            a[name][mine] = a[name][others]
    else:
        keep(case, group, a["surface_labels" if group == "surface" else "near_source"] != c)


def not_a_number(case, name):
    case.arrays[name] = case.arrays[name].copy()
    case.arrays[name].reshape(-1)[7] = np.nan


def infinite(case):
    case.arrays["vol_points"] = case.arrays["vol_points"].copy()
    case.arrays["vol_points"][7, 1] = np.inf


def outside_the_cube(case):
    case.arrays["near_points"] = case.arrays["near_points"].copy()
    case.arrays["near_points"][7, 1] = 1.2


def points_of(case, other, groups):
    """The points of `groups` are those of another heart; frame and truth stay."""
    for name, array in other.arrays.items():
        if name.startswith(groups):
            case.arrays[name] = array


def truth_of(case, other):
    case.truth_crop, case.truth_origin, case.frame = (
        other.truth_crop,
        other.truth_origin,
        Frame(other.frame.affine, other.frame.shape, case.frame.centre_mm, case.frame.scale),
    )


def normals_inward(case):
    case.arrays["surface_normals"] = -case.arrays["surface_normals"]


def surface_pushed_in(case):
    push = 2.5 * voxel_unit(case) * case.arrays["surface_normals"].astype(np.float32)
    case.arrays["surface_points"] = case.arrays["surface_points"] - push
