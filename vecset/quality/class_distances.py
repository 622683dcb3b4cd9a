"""Whether the signed distances to the classes, where a case file has them, are what docs/data.md says.

They are compared with the labels and the union distance at every point, and at a sample of points with distances to the
voxel faces that bound the class in the truth. No code is shared with the preparation. Its surfaces are smoothed, and a
triangle at the rim of a class belongs to one class whole, so the last comparison judges means, not single points.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from vecset.common.structure_state import ABSENT_DISTANCE
from vecset.data.case_file import GROUPS, Case
from vecset.quality.thresholds import FileReport

_FACES = 12  # voxel faces with the nearest centres, among which the nearest face is looked for
_TOLERANCE = 1.0  # voxels between a distance and what the union distance allows: walls end short of the outer surface


def check_class_distances(
    report: FileReport, case: Case, present: list[int], rng: np.random.Generator, sample: int
) -> None:
    """Adds the checks of this module to `report`. `present`: class ids that the truth contains; `sample`: points of
    each group whose distances are computed again."""
    voxel_unit = case.frame.scale * case.frame.spacing_mm.max()
    ids = np.arange(1, case.num_classes + 1)
    there = np.isin(ids, present)
    stored = {group: case.arrays[f"{group}_class_sdf"].astype(np.float64) for group in GROUPS}
    constant = np.all([(sdf == ABSENT_DISTANCE).all(0) for sdf in stored.values()], axis=0)
    report.add("class_sdf_absent", np.count_nonzero(constant == there))
    own = stored["surface"][np.arange(len(case.surface_labels)), case.surface_labels.astype(int) - 1]
    report.add("class_sdf_surface", np.count_nonzero((own != 0) | (stored["surface"] < 0).any(1)))
    wrong_sign, wrong_label, excess = 0, 0, []
    for group in ("vol", "near"):
        sdf, labels, union = stored[group], case.arrays[f"{group}_labels"].astype(int), case.arrays[f"{group}_sdf"]
        wrong_sign += np.count_nonzero(((sdf < 0) != (labels[:, None] == ids)).any(1))
        inside = np.flatnonzero(labels)
        wrong_label += np.count_nonzero(sdf[inside].argmin(1) + 1 != labels[inside])
        nearest = np.abs(sdf[:, there]).min(1)
        more = np.abs(nearest - np.abs(union))  # outside, the nearest class is as far as the union
        more[inside] = np.abs(sdf[inside, labels[inside] - 1]) - np.abs(union[inside])
        excess.append(more / voxel_unit)
    report.add("class_sdf_sign", wrong_sign)
    report.add("class_sdf_label", wrong_label)
    report.add("class_sdf_union", np.mean(np.concatenate(excess) > _TOLERANCE))
    _check_sample(report, case, stored, present, rng, sample)


def _check_sample(report, case, stored, present, rng, sample):
    """Compares the distances at `sample` points of each group with those to the truth's voxel faces."""
    spacing_mm = case.frame.spacing_mm
    rows_of = {group: rng.permutation(len(sdf))[:sample] for group, sdf in stored.items()}
    voxel = case.frame.unit_to_voxel(np.concatenate([case.arrays[f"{g}_points"][r] for g, r in rows_of.items()]))
    points_mm = (voxel - case.truth_origin) * spacing_mm
    sizes_mm = np.abs(np.concatenate([stored[g][r] for g, r in rows_of.items()])) / case.frame.scale
    boxes = ndimage.find_objects(case.truth_crop)
    for c in present:
        true_mm = distance_to_faces(points_mm, case.truth_crop[boxes[c - 1]] == c, boxes[c - 1], spacing_mm)
        report.add("class_sdf_mean", np.abs(sizes_mm[:, c - 1] - true_mm).mean() / spacing_mm.max(), c)


def distance_to_faces(
    points_mm: np.ndarray, mask: np.ndarray, box: tuple[slice, ...], spacing_mm: np.ndarray
) -> np.ndarray:
    """(N,) mm: distance from points (N, 3) to the faces between the voxels in and out of `mask` (X, Y, Z) bool, which
    lies at `box` of an array with the `spacing_mm` (3,). Points are in mm along its axes, voxel (0, 0, 0) at 0."""
    padded = np.pad(mask, 1)
    centres, halves = [], []
    for axis in range(3):
        index = np.argwhere(np.diff(padded, axis=axis)).astype(np.float64)
        index[:, axis] += 0.5
        half = np.full(3, 0.5)
        half[axis] = 0
        centres.append((index + [s.start - 1 for s in box]) * spacing_mm)
        halves.append(np.broadcast_to(half * spacing_mm, index.shape))
    centres, halves = np.concatenate(centres), np.concatenate(halves)
    count = min(_FACES, len(centres))
    near = cKDTree(centres, balanced_tree=False, compact_nodes=False).query(points_mm, k=count)[1]
    away = np.maximum(np.abs(points_mm[:, None] - centres[near]) - halves[near], 0)
    return np.linalg.norm(away, axis=2).min(1)
