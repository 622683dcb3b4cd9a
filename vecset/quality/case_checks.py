"""Whether a case file is what docs/data.md says. Every check compares one value with one threshold.

`check_file` checks one file for its own consistency (signs, labels, counts, finite numbers, frame) and for agreement
with the truth that it carries, by a second way of computing distances (`truth_reference`). No code is shared with the
preparation, so an error there cannot hide itself.
"""

import hashlib
from pathlib import Path

import numpy as np
from scipy import ndimage

from vecset.common.errors import InputError
from vecset.data.case_file import GROUPS, OPTIONAL_MEMBERS, POINT_MEMBERS, read_case
from vecset.imaging.frame import UNIT_RADIUS, check_affine
from vecset.imaging.image_file import case_id
from vecset.quality.anatomy import check_anatomy
from vecset.quality.class_distances import check_class_distances
from vecset.quality.exact import check_exact, check_source
from vecset.quality.near_balance import check_near_balance
from vecset.quality.thresholds import BINS, FileReport
from vecset.quality.truth_reference import TruthReference

VERSION = 2  # of the method: higher when the same case file gets other findings
_NORMAL_STEP = 0.6  # voxels: from between two voxels into the next one; more would cross a thin vessel
_SURFACE_SAMPLE = 15000  # surface points whose neighbourhood is checked; with the usual class floors 600 of each class
_CLASS_POINTS = 50  # no share of a class is judged from fewer points
_SIDED_POINTS = 20  # the same for the direction of normals


def check_file(
    path: Path | str, sample: int = 3000, seed: int = 0, exact: int = 0, source_dir: Path | str | None = None
) -> FileReport:
    """The FileReport of the case file at `path`. A file that cannot be read fails the check `readable`.

    `sample`: points of each group whose distance is computed again; `seed`: of their choice; `exact`: points at which
    it is computed exactly (slow); `source_dir`: folder of the label maps to compare with, or None.
    """
    path = Path(path)
    report = FileReport(path.name.removesuffix(".npz"), path.name)
    try:
        case = read_case(path)
    except InputError as error:
        report.add("readable", 0, note=str(error))
        return report
    report.add("readable", 1)
    source_name = str(case.meta.get("source_name", ""))
    if source_name:
        same = report.case_id == case_id(source_name)
        report.add("name", same, note="" if same else f"made from {source_name}")
    report.class_names = case.class_names
    report.classes = {c: {} for c in range(1, case.num_classes + 1)}
    missing = [n for n in POINT_MEMBERS if n not in OPTIONAL_MEMBERS and getattr(case, n) is None]
    missing += ["label_crop"] if case.truth_crop is None or case.truth_origin is None else []
    report.add("members", len(missing), note=", ".join(missing))
    rows = {g: len(getattr(case, f"{g}_points")) for g in GROUPS if getattr(case, f"{g}_points") is not None}
    report.add("points", min(rows.values()), note=", ".join(f"{g} {n}" for g, n in rows.items()))
    finite = _check_alone(report, case)
    frame_problem = _frame_problem(case)
    report.add("frame", not frame_problem, note=frame_problem)
    digest = hashlib.sha256(np.ascontiguousarray(case.surface_points).tobytes()).hexdigest()
    report.facts.update(points_sha256=digest, source_sha256=str(case.meta.get("source_sha256", "")))
    # the comparison with the truth needs every member; what is missing has failed already
    if not missing and not frame_problem and finite and min(rows.values()):
        _check_truth(report, case, np.random.default_rng(seed), sample)
        if exact:
            check_exact(report, case, exact, seed)
        if source_dir:
            check_source(report, case, source_dir)
    return report


def _check_alone(report, case):
    """Checks the arrays without the truth. Returns whether all numbers are finite."""
    floats = {n: a for n, a in case.arrays.items() if a.dtype.kind == "f"}
    bad = {n: int(a.size - np.count_nonzero(np.isfinite(a))) for n, a in floats.items()}
    report.add("non_finite", sum(bad.values()), note=", ".join(f"{n} {k}" for n, k in bad.items() if k))
    outside = {
        g: int((np.abs(case.arrays[f"{g}_points"]) > 1 + 1e-6).any(1).sum())
        for g in GROUPS
        if f"{g}_points" in case.arrays
    }
    report.add("outside_cube", sum(outside.values()), note=", ".join(f"{g} {k}" for g, k in outside.items() if k))
    for group in ("vol", "near"):
        labels, sdf = case.arrays.get(f"{group}_labels"), case.arrays.get(f"{group}_sdf")
        if labels is not None and sdf is not None:
            report.add("label_distance", np.count_nonzero((labels > 0) != (sdf < 0)), note=group)
            report.histograms[group] = np.histogram(sdf[np.isfinite(sdf)], BINS[group])[0].tolist()
    if case.vol_sdf is not None and len(case.vol_sdf):
        report.add("vol_inside", np.mean(case.vol_sdf < 0))
    if case.surface_sdf is not None:
        finite_sdf = case.surface_sdf[np.isfinite(case.surface_sdf)]
        report.histograms["surface"] = np.histogram(finite_sdf, BINS["surface"])[0].tolist()
    if case.surface_normals is not None and len(case.surface_normals):
        length = np.linalg.norm(case.surface_normals.astype(np.float32), axis=1)
        report.add("normals_unit", np.mean(~(np.abs(length - 1) <= 0.01)))
    return not sum(bad.values())


def _frame_problem(case):
    """What is wrong with the frame or the truth in it, in words; '' where nothing is."""
    if case.frame is None:
        return "no frame in the file"
    try:
        check_affine(case.frame.affine, "frame_affine")
    except InputError as error:
        return error.problem
    if case.truth_crop is not None and case.truth_origin is not None:
        origin = np.asarray(case.truth_origin, int)
        if (
            case.truth_crop.ndim != 3
            or (origin < 0).any()
            or (origin + case.truth_crop.shape > np.array(case.frame.shape)).any()
        ):
            return f"the truth {case.truth_crop.shape} at {origin.tolist()} is not in the grid {case.frame.shape}"
        if not case.truth_crop.any():
            return "the truth is empty"
        if case.truth_crop.max() > case.num_classes:
            return f"the truth holds class {case.truth_crop.max()} of {case.num_classes}"
    return ""


def _check_truth(report, case, rng, sample):
    """Checks frame, classes, labels and distances against the truth, and keeps the facts to compare between files."""
    frame, reference = case.frame, TruthReference(case.frame, case.truth_crop, case.truth_origin)
    voxels = _count_voxels(case.truth_crop, case.num_classes)
    present = [c for c in range(1, case.num_classes + 1) if voxels[c]]
    _check_frame(report, frame, reference)
    _check_classes(report, case, voxels, present)
    check_near_balance(report, case, frame.spacing_mm.min() * frame.scale, present, rng)
    inside_voxel = {g: frame.unit_to_voxel(getattr(case, f"{g}_points")) for g in GROUPS}
    _check_labels(report, case, reference, inside_voxel, present)
    _check_surface(report, case, reference, inside_voxel["surface"], present, rng)
    _check_distances(report, case, reference, inside_voxel, rng, sample)
    if case.vol_class_sdf is not None:
        check_class_distances(report, case, present, rng, max(sample // 3, 1))
    check_anatomy(report, case)
    touching = _border_classes(case)
    absent = [c for c in range(1, case.num_classes + 1) if not voxels[c]]
    report.facts.update(
        volumes_ml={str(c): float(voxels[c] * np.prod(frame.spacing_mm) / 1000) for c in present},
        centroids_mm={str(c): p.tolist() for c, p in _centroids_mm(case).items()},
        missing=[c for c in absent if case.annotated[c - 1]],
        border=touching,
        not_annotated=[c for c in absent if not case.annotated[c - 1]],
        truth_sha256=hashlib.sha256(case.truth_crop.tobytes()).hexdigest(),
        radius_mm=UNIT_RADIUS / frame.scale,
        spacing_mm=frame.spacing_mm.tolist(),
        shape=list(frame.shape),
        rows={g: len(v) for g, v in inside_voxel.items()},
        foreground_voxels=int(voxels[1:].sum()),
    )
    named = {int(c) for c in case.meta.get("border_classes", touching)}
    report.add("meta_border", len(named ^ set(touching)), note=f"meta says {sorted(named)}, the truth {touching}")
    report.add("radius_mm", UNIT_RADIUS / frame.scale)
    report.add("crumbs", _radius_with_islands(case))
    report.add("crumb_class", min(voxels[c] for c in present), min(present, key=lambda c: voxels[c]))


def _check_frame(report, frame, reference):
    faces_mm = frame.voxel_to_mm(reference.faces_voxel)
    middle_mm = np.array([axis.min() + axis.max() for axis in faces_mm.T]) / 2  # much faster than min(0)
    report.add("frame_centre", np.abs(frame.centre_mm - middle_mm).max() / reference.voxel_mm)
    report.add("frame_radius", np.linalg.norm(frame.mm_to_unit(faces_mm), axis=1).max())


def _check_classes(report, case, voxels, present):
    count = {"surface": case.surface_labels, "near": case.near_source, "inside": case.vol_labels[case.vol_sdf < 0]}
    strangers = 0
    for c in range(1, case.num_classes + 1):
        row = report.classes[c]
        row["voxels"] = int(voxels[c])
        for name, labels in count.items():
            share = np.mean(labels == c) if len(labels) else 0.0
            row[name] = float(share)
            if voxels[c]:
                report.add(f"class_{name}", share, c)
        if not voxels[c]:
            strangers += sum(np.count_nonzero(labels == c) for labels in (*count.values(), case.near_labels))
    report.add("class_stranger", strangers)
    named = {int(c) for c in case.meta.get("present_classes", present)}
    absent = {int(c) for c in case.meta.get("missing_classes", set(range(1, case.num_classes + 1)) - set(present))}
    report.add(
        "meta_classes",
        len(named ^ set(present)) + len(absent & set(present)),
        note=f"meta says {sorted(named)}, the truth has {present}",
    )


def _check_labels(report, case, reference, points_voxel, present):
    stored = np.concatenate([case.vol_labels, case.near_labels])
    index = np.rint(np.concatenate([points_voxel["vol"], points_voxel["near"]])).astype(np.int64)
    here = reference.labels_at(index)
    strange = here != stored
    doubtful = np.flatnonzero(strange)
    strange[doubtful] = ~(reference.labels_around(index[doubtful]) == stored[doubtful, None]).any(1)
    report.add("label", np.mean(strange))
    both = (stored > 0) & (here > 0)
    report.add("label_exact", np.mean((stored != here)[both]) if both.any() else 1)
    for c in present:
        mine = stored == c
        if np.count_nonzero(mine) >= _CLASS_POINTS:
            report.add("label_class", np.mean(strange[mine]), c)
        mine = both & (here == c)
        if np.count_nonzero(mine) >= _CLASS_POINTS:
            report.add("label_missed", np.mean(stored[mine] != c), c)


def _check_surface(report, case, reference, points_voxel, present, rng):
    """Surface points lie on a wall of their class, and their normals point out of it."""
    chosen = rng.permutation(len(case.surface_labels))[:_SURFACE_SAMPLE]
    labels, points_voxel = case.surface_labels[chosen], points_voxel[chosen]
    around = reference.labels_around(np.rint(points_voxel).astype(np.int64))
    mine = around == labels[:, None]
    on_wall = mine.any(1) & ~mine.all(1)
    # normals are directions in patient mm; the step has one length in voxels, whatever the spacing along it
    axes = case.frame.affine[:3, :3] / case.frame.spacing_mm
    step = case.surface_normals[chosen].astype(np.float64) @ axes / case.frame.spacing_mm
    step *= _NORMAL_STEP / np.maximum(np.linalg.norm(step, axis=1), 1e-9)[:, None]
    ahead = reference.labels_at(np.rint(points_voxel + step).astype(np.int64)) == labels
    behind = reference.labels_at(np.rint(points_voxel - step).astype(np.int64)) == labels
    for c in present:
        of_class = labels == c
        if np.count_nonzero(of_class) >= _CLASS_POINTS:
            report.add("surface_class", np.mean(~on_wall[of_class]), c)
            # a point with the class on both sides or on neither (the step crossed a wall one voxel thick) has no vote
            leaves, sided = behind[of_class] & ~ahead[of_class], behind[of_class] != ahead[of_class]
            if np.count_nonzero(sided) >= _SIDED_POINTS:
                report.add("normals_outward", 2 * np.mean(leaves[sided]) - 1, c)


def _check_distances(report, case, reference, points_voxel, rng, sample):
    """Compares the stored distances with those of `reference`, in voxels, at `sample` points of each group."""
    unit_to_voxels = 1 / (case.frame.scale * reference.voxel_mm)
    stored, true, gradient, group = [], [], [], []
    for number, name in enumerate(GROUPS):
        points = points_voxel[name]
        chosen = rng.choice(len(points), min(sample, len(points)), replace=False)
        sdf_mm, direction = reference.distance(points[chosen])
        stored.append(getattr(case, f"{name}_sdf")[chosen].astype(np.float64) * unit_to_voxels)
        true.append(sdf_mm / reference.voxel_mm)
        gradient.append(direction)
        group.append(np.full(len(chosen), number))
    stored, true, group = np.concatenate(stored), np.concatenate(true), np.concatenate(group)
    gradient = np.concatenate(gradient) * (case.frame.spacing_mm / reference.voxel_mm)
    error = stored - true
    surface = group == GROUPS.index("surface")
    outer = surface & (np.abs(true) < 0.25)
    report.histograms["error"] = np.histogram(np.clip(error, -1.999, 1.999), BINS["error"])[0].tolist()
    report.add("distance_mean", np.abs(error[~surface]).mean())
    report.add("distance_p99", np.quantile(np.abs(error[~surface]), 0.99))
    report.add("surface_distance", np.abs(error[surface]).mean())
    report.add("surface_zero", np.abs(stored[outer]).mean() if outer.any() else 0)
    clear = ~surface & (np.abs(true) > 1)
    report.add("sign", np.mean((stored < 0) != (true < 0), where=clear) if clear.any() else 1)
    far = ~surface & (np.abs(true) > 4)
    if np.count_nonzero(far) >= 100:
        report.add("slope", np.median(stored[far] / true[far]))
    _fit_errors(report, true, error, gradient, surface)


def _fit_errors(report, true, error, gradient, surface):
    """Fits stored(x) = true(x + shift) + bias + jump * side near the surface, by least squares.

    `true`, `error` (stored - true) (n,) and `gradient` (n, 3) of the true distance in voxels; `surface` (n,) bool:
    surface points, which have no side. Errors are clipped, so that a few gross ones do not decide the fit.
    """
    fit = np.abs(true) < 5
    columns = np.column_stack([np.ones(fit.sum()), np.where(surface, 0, np.sign(true))[fit], gradient[fit]])
    bias, jump, *shift = np.linalg.lstsq(columns, np.clip(error[fit], -2, 2), rcond=None)[0]
    report.add("bias", bias)
    report.add("jump", jump)
    report.add("shift", np.abs(shift).max(), note=f"({', '.join(f'{s:.2f}' for s in shift)}) along i, j, k")


def _radius_with_islands(case):
    """Radius of the foreground over that of its large components (1 % of the voxels or more); 1 without islands.
    Components are 26-connected, on blocks of 2x2x2 voxels."""
    even = np.pad(case.truth_crop > 0, [(0, n % 2) for n in case.truth_crop.shape])
    blocks = even[0::2] | even[1::2]
    blocks = blocks[:, 0::2] | blocks[:, 1::2]
    blocks = blocks[:, :, 0::2] | blocks[:, :, 1::2]
    parts, count = ndimage.label(blocks, np.ones((3, 3, 3)))
    if count == 1:
        return 1.0
    index = np.nonzero(blocks)
    part = parts[index]
    size = np.bincount(part)
    points_mm = np.stack(index, 1) * (2 * case.frame.spacing_mm)
    large = (size >= 0.01 * len(part))[part]

    def radius_mm(points_mm):
        return np.linalg.norm(points_mm - (points_mm.min(0) + points_mm.max(0)) / 2, axis=1).max()

    return radius_mm(points_mm) / radius_mm(points_mm[large])


def _border_classes(case):
    """Class ids with a voxel on the border of the source image."""
    touching = set()
    for axis in range(3):
        first = int(case.truth_origin[axis])
        if first == 0:
            touching |= set(np.unique(case.truth_crop.take(0, axis)).tolist())
        if first + case.truth_crop.shape[axis] == case.frame.shape[axis]:
            touching |= set(np.unique(case.truth_crop.take(-1, axis)).tolist())
    return sorted(touching - {0})


def _count_voxels(crop, num_classes):
    """(C + 1,) voxels per label, counted slab by slab because bincount needs eight bytes per voxel."""
    return sum(np.bincount(slab.ravel(), minlength=num_classes + 1) for slab in crop)


def _centroids_mm(case):
    """{class id: (3,) centroid in mm} from every second voxel along each axis, of all voxels in small crops. A class
    without such a voxel is left out."""
    every = 2 if min(case.truth_crop.shape) >= 64 else 1
    thinned = case.truth_crop[::every, ::every, ::every]
    index = np.nonzero(thinned)
    labels = thinned[index]
    count = np.bincount(labels)
    sums = np.stack([np.bincount(labels, weights=axis) for axis in index], 1)
    return {
        int(c): case.frame.voxel_to_mm(every * sums[c] / count[c] + case.truth_origin) for c in np.flatnonzero(count)
    }
