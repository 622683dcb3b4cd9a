"""Two slow judges that a user may call: the exact distance to a surface mesh, and the original label map.

The mesh is plain marching cubes of the truth (scikit-image, nothing smoothed), distances to its triangles are
trimesh's, the sign is that of the voxels within that distance, the label that of the nearest foreground voxel. None of
it is code of the preparation, whose surface is smoothed by up to half a voxel: so much may the two differ.
"""

import json
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from vecset.common.errors import InputError
from vecset.quality.thresholds import CHECKS, Check

CHECKS.update(
    {
        "exact_mean": Check(0, 0.3, "voxels", "mean |stored - exact distance to the unsmoothed mesh| (--exact)"),
        "exact_max": Check(0, 1.0, "voxels", "largest |stored - exact distance| (--exact)"),
        "exact_sign": Check(0, 0, "points", "signs that differ farther than half a voxel from the surface (--exact)"),
        "exact_label": Check(
            0, 0, "points", "inside points without the label of the nearest foreground voxel (--exact)"
        ),
        "source": Check(1, 1, "", "the label map that meta names can be read (--source_dir)"),
        "source_labels": Check(0, 0, "voxels", "voxels where truth and label map differ (--source_dir)"),
        "source_crumbs": Check(
            0, 0, "voxels", "voxels of the label map that --drop_islands left out (--source_dir)", "warn"
        ),
        "source_points": Check(0, 0.005, "share", "inside points without the label map's label there (--source_dir)"),
    }
)


def check_exact(report, case, count, seed=0):
    """Adds the exact checks at `count` points of `case`, half of them near points."""
    from skimage.measure import marching_cubes  # slow to import, and only needed here

    frame, rng = case.frame, np.random.default_rng([seed, 1])
    spacing_mm = frame.spacing_mm
    foreground = np.pad(case.truth_crop > 0, 1)
    vertices, faces, _, _ = marching_cubes(foreground.astype(np.float32), 0.5, method="lorensen")
    triangles_mm = ((vertices + (case.truth_origin - 1)) * spacing_mm)[faces]  # mm along the image axes
    chosen = {
        g: rng.permutation(len(case.arrays[f"{g}_points"]))[:n]
        for g, n in (("near", (count + 1) // 2), ("vol", count // 2))
    }
    points_voxel = frame.unit_to_voxel(np.concatenate([case.arrays[f"{g}_points"][i] for g, i in chosen.items()]))
    stored_mm = np.concatenate([case.arrays[f"{g}_sdf"][i] for g, i in chosen.items()]).astype(float) / frame.scale
    labels = np.concatenate([case.arrays[f"{g}_labels"][i] for g, i in chosen.items()])

    distance_mm = exact_distance(points_voxel * spacing_mm, triangles_mm)
    inside = sides(points_voxel, distance_mm, case)
    error = np.abs(stored_mm - np.where(inside, -distance_mm, distance_mm)) / spacing_mm.max()
    report.add("exact_mean", error.mean())
    report.add("exact_max", error.max())
    clear = distance_mm > 0.5 * spacing_mm.max()
    report.add("exact_sign", np.count_nonzero((stored_mm < 0)[clear] != inside[clear]))
    wrong = [i for i in np.flatnonzero(labels) if not _nearest_label(case, points_voxel[i], labels[i])]
    report.add("exact_label", len(wrong))


def exact_distance(points_mm, triangles_mm):
    """(N,) distances of `points_mm` (N, 3) to `triangles_mm` (F, 3, 3): every triangle that can be the nearest is
    asked, so the result is exact."""
    from trimesh.triangles import closest_point

    centres = triangles_mm.mean(1)
    reach_mm = np.linalg.norm(triangles_mm - centres[:, None], axis=2).max()
    tree = cKDTree(centres)
    bound_mm = tree.query(points_mm)[0] + reach_mm  # the nearest triangle is no farther than its centre
    distances = np.empty(len(points_mm))
    for i, (point, bound) in enumerate(zip(points_mm, bound_mm)):
        near = tree.query_ball_point(point, bound)
        foot = closest_point(triangles_mm[near], np.broadcast_to(point, (len(near), 3)))
        distances[i] = np.linalg.norm(foot - point, axis=1).min()
    return distances


def sides(points_voxel, distance_mm, case):
    """(N,) bool: inside. A voxel centre nearer to the point than the mesh is on the point's side of it; where there is
    none, the point is within a voxel of the mesh, and the mask interpolated between its voxels decides."""
    local = points_voxel - case.truth_origin + 1
    foreground = np.pad(case.truth_crop > 0, 1)
    centre = np.clip(np.rint(local).astype(int), 0, np.array(foreground.shape) - 1)  # the margin is outside as well
    near_voxel = foreground[tuple(centre.T)]
    sure = (np.linalg.norm((local - np.rint(local)) * case.frame.spacing_mm, axis=1) < distance_mm) | (
        centre != np.rint(local)
    ).any(1)
    blend = ndimage.map_coordinates(foreground.astype(np.float32), local.T, order=1, mode="constant")
    return np.where(sure, near_voxel, blend > 0.5)


def _nearest_label(case, point_voxel, label):
    """Whether `label` is that of one of the foreground voxels nearest to the point (within a thousandth of a voxel)."""
    local = point_voxel - case.truth_origin
    low = np.maximum(np.rint(local).astype(int) - 3, 0)
    box = case.truth_crop[tuple(slice(a, max(a, b)) for a, b in zip(low, np.rint(local).astype(int) + 4))]
    voxels = np.argwhere(box)
    if not len(voxels):
        return False
    away = np.linalg.norm((voxels + low - local) * case.frame.spacing_mm, axis=1)
    nearest = voxels[away <= away.min() + 1e-3 * case.frame.spacing_mm.min()]
    return label in box[tuple(nearest.T)]


def check_source(report, case, source_dir):
    """Adds the comparison of `case` with the label map that its meta names, read from `source_dir` with nibabel or
    SimpleITK alone. The affine is not taken from the case file: a wrong one there shows as wrong labels at the points.
    Islands that were dropped on request are found again: they must be gone, and nothing else may differ."""
    from nibabel.affines import apply_affine

    path = Path(source_dir) / str(case.meta.get("source_name"))
    request = case.meta.get("request") or {}
    try:
        values, affine = _read_source(path, request.get("spacing_from"))
        values = values.reshape(values.shape[:3])
    except Exception as error:  # the libraries raise many kinds; each means that there is nothing to compare
        report.add("source", 0, note=f"{path.name}: {type(error).__name__}: {error}")
        return
    if tuple(values.shape) != case.frame.shape:
        report.add("source", 0, note=f"{path.name} has shape {values.shape}, the case {case.frame.shape}")
        return
    if request.get("label_map"):
        pairs = json.loads(request["label_map"])[0]
        classes = np.zeros(values.shape, np.uint8)
        for value, c in pairs:
            classes[values == value] = c
    else:
        classes = np.rint(values).astype(np.uint8)
    truth = case.truth_labels()
    island = _islands(classes, float(request.get("drop_crumbs") or 0))
    report.add("source", 1, note=path.name)
    if request.get("drop_crumbs"):
        report.add("source_crumbs", np.count_nonzero(island), note="they were dropped on request")
    wrong = (classes != truth) & ~island
    if (island & (classes == truth)).any():
        wrong |= island & (classes == truth) & _islands(truth, float(request["drop_crumbs"]))
    report.add("source_labels", np.count_nonzero(wrong))
    classes[island] = truth[island]
    wrong = total = 0
    for group in ("vol", "near"):
        points_mm = case.frame.unit_to_mm(case.arrays[f"{group}_points"])
        index = np.rint(apply_affine(np.linalg.inv(affine), points_mm)).astype(int)
        seen = ((index >= 0) & (index < classes.shape)).all(1) & (case.arrays[f"{group}_labels"] > 0)
        here, stored = classes[tuple(index[seen].T)], case.arrays[f"{group}_labels"][seen]
        wrong, total = wrong + np.count_nonzero((here != stored) & (here > 0)), total + np.count_nonzero(here > 0)
    report.add("source_points", wrong / total if total else 1)


def _read_source(path, spacing_from):
    """Voxel values and affine (4, 4) voxel -> mm RAS+ of a label map."""
    if path.name.lower().endswith((".nrrd", ".mha")):
        import SimpleITK as sitk

        image = sitk.ReadImage(str(path))
        corner, *along = [
            np.array(image.TransformIndexToPhysicalPoint(index))
            for index in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
        ]
        affine = np.eye(4)
        affine[:3] = np.column_stack([*(end - corner for end in along), corner])
        affine[:2] *= -1  # ITK's x and y go to the left and back
        return sitk.GetArrayFromImage(image).transpose(2, 1, 0), affine
    import nibabel as nib

    image = nib.load(path)
    affine = np.array(image.affine, np.float64)
    if spacing_from == "pixdim":
        affine[:3, :3] *= image.header.get_zooms()[:3] / np.linalg.norm(affine[:3, :3], axis=0)
    return np.asanyarray(image.dataobj), affine


def _islands(classes, share):
    """(X, Y, Z) bool: the voxels of components that have fewer voxels than `share` of their class's largest one."""
    found = np.zeros(classes.shape, bool)
    for c in np.unique(classes) if share else ():
        parts, _ = ndimage.label(classes == c, np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel())
        found |= (c != 0) & (parts > 0) & (sizes < share * sizes[1:].max(initial=0))[parts]
    return found


def require_source_dir(source_dir):
    """InputError where `source_dir` is no folder."""
    if not Path(source_dir).is_dir():
        raise InputError("--source_dir", "the folder of the label maps", f"no folder {source_dir}")
