"""Is a case file what docs/design.md says it is? Every check is one figure beside one threshold.

`check_file` asks one file: its own consistency (signs, labels, counts, finite numbers, frame) and its agreement with
the truth it carries, by a second way of computing distances (`truth_reference`). Nothing here knows how the points
were made, so an error of the preparation cannot hide itself.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from vecset.data.case_file import GROUPS, OPTIONAL_MEMBERS, POINT_MEMBERS, read_case
from vecset.data.frame import UNIT_RADIUS, check_affine
from vecset.data.truth_reference import TruthReference
from vecset.errors import InputError


@dataclass(frozen=True)
class Check:
    """A threshold: the figure must lie in [low, high]. `level` 'fail' decides the verdict, 'warn' is only said."""

    low: float
    high: float
    unit: str
    meaning: str
    level: str = "fail"


INF = float("inf")
_BAND_UNIT = 0.01  # near points this close to the surface on both sides are compared in number
_NORMAL_STEP = 0.6  # voxels: from between two voxels into the next one; more would leave a vessel on its other side
_REACH_UNIT = 0.2
_SURFACE_SAMPLE = 15000  # surface points whose neighbourhood is looked at; with the usual floors 600 of each class
CHECKS = {
    # the file alone
    "readable": Check(1, 1, "", "the file is a whole case file of this schema"),
    "members": Check(0, 0, "missing", "every member of the case file is there"),
    "frame": Check(1, 1, "", "the frame is there, without shear, and its grid holds the truth"),
    "points": Check(100, INF, "points", "fewest points of a group (surface, vol, near)"),
    "non_finite": Check(0, 0, "values", "numbers that are NaN or infinite"),
    "outside_cube": Check(0, 0, "points", "points outside the unit cube [-1, 1]^3"),
    "label_distance": Check(0, 0, "points", "vol and near points where 'label > 0' and 'distance < 0' contradict"),
    "vol_inside": Check(0.49, 0.51, "share", "volume points with distance < 0"),
    "near_outside": Check(0.47, 0.53, "share", "near points of outer walls that lie outside the union"),
    "near_outside_class": Check(0.4, 0.6, "share", "the same for one class (where it has 50 such points)"),
    "near_inner_walls": Check(0, 0.25, "share", "near points that belong to walls between two structures"),
    "near_reach": Check(0, 0.01, "share", "near points farther than 0.2 (unit) from the surface of their near_source"),
    "normals_unit": Check(0, 0.01, "share", "normals whose length is not 1 (+- 1 %)"),
    # classes
    "class_surface": Check(0.005, 1, "share", "surface points of a class that the truth has"),
    "class_near": Check(0.005, 1, "share", "near points offset from a class that the truth has"),
    "class_inside": Check(0.002, 1, "share", "inside volume points of a class that the truth has"),
    "class_stranger": Check(0, 0, "points", "points of a class that the truth does not have"),
    "meta_classes": Check(0, 0, "classes", "classes whose presence in meta and in the truth differ"),
    "meta_border": Check(0, 0, "classes", "classes that only one of meta and truth calls cut by the scan border"),
    # against the truth in the file
    "frame_radius": Check(0.9, 1.0, "unit", f"farthest point of the truth from the centre (made as {UNIT_RADIUS})"),
    "frame_centre": Check(0, 1, "voxels", "centre against the middle of the truth's bounding box in mm"),
    "shift": Check(0, 0.15, "voxels", "shift of the stored distances against the truth (least squares)"),
    "bias": Check(-0.15, 0.15, "voxels", "stored minus true distance near the surface (least squares)"),
    "jump": Check(-0.3, 0.3, "voxels", "step at the surface: half a voxel where an EDT is not corrected"),
    "slope": Check(0.95, 1.05, "", "stored over true distance, median, beyond 4 voxels"),
    "distance_mean": Check(0, 0.35, "voxels", "mean |stored - true distance|, near and volume points"),
    "distance_p99": Check(0, 1.2, "voxels", "99th percentile of the same"),
    "surface_distance": Check(0, 0.35, "voxels", "mean |stored - true distance| at surface points"),
    "surface_zero": Check(0, 0.2, "voxels", "mean |surface_sdf| on the outer surface"),
    "sign": Check(0, 0.002, "share", "wrong signs, farther than a voxel from the surface"),
    "label": Check(0, 0.001, "share", "points whose label does not occur in the 27 voxels round them"),
    "label_class": Check(0, 0.01, "share", "the same for the points labelled with one class"),
    "label_exact": Check(0, 0.005, "share", "inside points whose label is not that of the voxel they are in"),
    "label_missed": Check(0, 0.01, "share", "points in voxels of one class, inside, that carry another label"),
    "surface_class": Check(0, 0.01, "share", "surface points of a class without a wall of it in the 27 voxels round"),
    "normals_outward": Check(0.5, 1, "", "share of normals that leave their class less share that enter it"),
    # said, not judged
    "radius_mm": Check(25, 160, "mm", "radius of the heart", "warn"),
    "crumbs": Check(1, 1.03, "", "radius of the heart with crumbs over that without: they move the frame", "warn"),
    "crumb_class": Check(30, INF, "voxels", "smallest class of the truth", "warn"),
}


@dataclass
class FileReport:
    """What was found in one file. `findings`: dicts check, class_id (None: whole file), value, ok, note. `classes`: per
    class id counts and shares. `facts`: what is compared between files. `histograms`: counts by name (`BINS`)."""

    case_id: str
    file: str
    findings: list = field(default_factory=list)
    classes: dict = field(default_factory=dict)
    class_names: list = field(default_factory=list)
    facts: dict = field(default_factory=dict)
    histograms: dict = field(default_factory=dict)

    def add(self, check, value, class_id=None, note=""):
        """Judges `value` (a number; NaN fails) by the threshold of `check`."""
        limit = CHECKS[check]
        value = float(value)
        self.findings.append({"check": check, "class_id": class_id, "value": value, "note": note,
                              "level": limit.level, "ok": bool(limit.low <= value <= limit.high)})

    def failed(self, level="fail"):
        return [f for f in self.findings if not f["ok"] and f["level"] == level]

    @property
    def passed(self):
        return not self.failed()

    def worst(self, check):
        """The finding of `check` that lies farthest beyond, or nearest to, its threshold; None where there is none."""
        found = [f for f in self.findings if f["check"] == check]
        return max(found, key=lambda f: excess(check, f["value"])) if found else None


BINS = {"vol": np.linspace(-1, 2, 91), "near": np.linspace(-0.2, 0.2, 81), "surface": np.linspace(-0.4, 0.1, 101),
        "error": np.linspace(-2, 2, 81)}  # distances in unit; the error in voxels


def excess(check, value):
    """How far `value` is past the nearer limit of `check` (negative: inside), for ranking. Where one end is the best
    that can be had (0 of 'at most', 1 of 'at least'), nearness to it is no fault, so only the other end counts."""
    limit = CHECKS[check]
    words = limit_text(check)
    below, above = limit.low - value, value - limit.high
    if words.startswith("at most") and value >= limit.low:
        below = above
    if words.startswith("at least") and value <= limit.high:
        above = below
    return np.nan_to_num(max(below, above), nan=INF, posinf=1e300, neginf=-1e300)


def limit_text(check):
    """The threshold in words: 'at most 0.25 voxels', '0.49 to 0.51 share'."""
    limit = CHECKS[check]
    if limit.low == limit.high:
        words = f"exactly {limit.low:g}"
    elif limit.high == INF:
        words = f"at least {limit.low:g}"
    elif limit.low == 0:
        words = f"at most {limit.high:g}"
    elif limit.high == 1 and limit.unit != "unit":
        words = f"at least {limit.low:g}"
    else:
        words = f"{limit.low:g} to {limit.high:g}"
    return f"{words} {limit.unit}".strip()


def check_file(path, sample=3000, seed=0, exact=0, source_dir=None):
    """A FileReport of the case file at `path`. `sample`: points of each group whose distance is computed again;
    `exact`: points at which it is computed exactly (slow); `source_dir`: folder of the label maps, to compare with."""
    path = Path(path)
    report = FileReport(path.name.removesuffix(".npz"), path.name)
    try:
        case = read_case(path)
    except InputError as error:
        report.add("readable", 0, note=str(error))
        return report
    report.add("readable", 1)
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
    # a comparison with the truth needs all of it; what is missing has failed already
    if not missing and not frame_problem and finite and min(rows.values()):
        _check_truth(report, case, np.random.default_rng(seed), sample)
        if exact or source_dir:
            from vecset.data.quality_exact import check_exact, check_source

            if exact:
                check_exact(report, case, exact, seed)
            if source_dir:
                check_source(report, case, source_dir)
    return report


def _check_alone(report, case):
    """What the arrays say without the truth. Returns whether all numbers are finite."""
    floats = {n: a for n, a in case.arrays.items() if a.dtype.kind == "f"}
    bad = {n: int(a.size - np.count_nonzero(np.isfinite(a))) for n, a in floats.items()}
    report.add("non_finite", sum(bad.values()), note=", ".join(f"{n} {k}" for n, k in bad.items() if k))
    outside = {g: int((np.abs(case.arrays[f"{g}_points"]) > 1 + 1e-6).any(1).sum())
               for g in GROUPS if f"{g}_points" in case.arrays}
    report.add("outside_cube", sum(outside.values()), note=", ".join(f"{g} {k}" for g, k in outside.items() if k))
    for group in ("vol", "near"):
        labels, sdf = case.arrays.get(f"{group}_labels"), case.arrays.get(f"{group}_sdf")
        if labels is not None and sdf is not None:
            report.add("label_distance", np.count_nonzero((labels > 0) != (sdf < 0)), note=group)
            report.histograms[group] = np.histogram(sdf[np.isfinite(sdf)], BINS[group])[0].tolist()
    if case.vol_sdf is not None and len(case.vol_sdf):
        report.add("vol_inside", np.mean(case.vol_sdf < 0))
    if case.surface_sdf is not None:
        report.histograms["surface"] = np.histogram(case.surface_sdf[np.isfinite(case.surface_sdf)],
                                                    BINS["surface"])[0].tolist()
    if case.surface_normals is not None and len(case.surface_normals):
        length = np.linalg.norm(case.surface_normals.astype(np.float32), axis=1)
        report.add("normals_unit", np.mean(~(np.abs(length - 1) <= 0.01)))
    return not sum(bad.values())


def _frame_problem(case):
    """What is wrong with the frame, in words; '' where nothing is."""
    if case.frame is None:
        return "no frame in the file"
    try:
        check_affine(case.frame.affine, "frame_affine")
    except InputError as error:
        return f"found {error.found}"
    if case.truth_crop is not None and case.truth_origin is not None:
        origin = np.asarray(case.truth_origin, int)
        if case.truth_crop.ndim != 3 or (origin < 0).any() or (
                origin + case.truth_crop.shape > np.array(case.frame.shape)).any():
            return f"the truth {case.truth_crop.shape} at {origin.tolist()} is not in the grid {case.frame.shape}"
        if not case.truth_crop.any():
            return "the truth is empty"
        if case.truth_crop.max() > case.num_classes:
            return f"the truth holds class {case.truth_crop.max()} of {case.num_classes}"
    return ""


def _check_truth(report, case, rng, sample):
    frame, reference = case.frame, TruthReference(case.frame, case.truth_crop, case.truth_origin)
    voxels = _count_voxels(case.truth_crop, case.num_classes)
    present = [c for c in range(1, case.num_classes + 1) if voxels[c]]
    _check_frame(report, frame, reference)
    _check_classes(report, case, voxels, present)
    _check_near_balance(report, case, frame.spacing_mm.min() * frame.scale, present)
    inside_voxel = {g: frame.unit_to_voxel(getattr(case, f"{g}_points")) for g in GROUPS}
    _check_labels(report, case, reference, inside_voxel, present)
    _check_surface(report, case, reference, inside_voxel["surface"], present, rng)
    _check_distances(report, case, reference, inside_voxel, rng, sample)
    touching = _border_classes(case)
    report.facts.update(
        volumes_ml={str(c): float(voxels[c] * np.prod(frame.spacing_mm) / 1000) for c in present},
        centroids_mm={str(c): p.tolist() for c, p in _centroids_mm(case).items()},
        missing=[c for c in range(1, case.num_classes + 1) if not voxels[c]], border=touching,
        truth_sha256=hashlib.sha256(case.truth_crop.tobytes()).hexdigest(), radius_mm=UNIT_RADIUS / frame.scale,
        spacing_mm=frame.spacing_mm.tolist(), shape=list(frame.shape),
        rows={g: len(v) for g, v in inside_voxel.items()},
        foreground_voxels=int(voxels[1:].sum()))
    named = {int(c) for c in case.meta.get("border_classes", touching)}
    report.add("meta_border", len(named ^ set(touching)), note=f"meta says {sorted(named)}, the truth {touching}")
    report.add("radius_mm", UNIT_RADIUS / frame.scale)
    report.add("crumbs", _radius_with_crumbs(case))
    report.add("crumb_class", min(voxels[c] for c in present), min(present, key=lambda c: voxels[c]))


def _check_frame(report, frame, reference):
    faces_mm = frame.voxel_to_mm(reference.faces_voxel)
    middle_mm = (faces_mm.min(0) + faces_mm.max(0)) / 2
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
    report.add("meta_classes", len(named ^ set(present)) + len(absent & set(present)),
               note=f"meta says {sorted(named)}, the truth has {present}")


def _check_near_balance(report, case, voxel_unit, present):
    """`voxel_unit`: the smallest spacing.

    Which near points were offset from the outer surface is not stored. Two estimates of the share that went outside
    err to opposite sides: among the points whose nearest surface point of their source lies on the outer surface it
    comes out high (offsets to the inside come closer to inner walls), in a thin band round the outer surface it comes
    out low (thin tubes fold the inside onto itself). What is judged is the value nearest to one half between them, less
    what chance may do with so few points."""
    def with_class(points, labels):  # a fourth coordinate that keeps the classes apart
        return np.column_stack([points, labels.astype(np.float32) * 8])

    tree = cKDTree(with_class(case.surface_points, case.surface_labels), balanced_tree=False, compact_nodes=False)
    reach, nearest = tree.query(with_class(case.near_points, case.near_source))
    gap_unit = np.sqrt(12 / max(len(case.surface_points), 1))  # between surface points; a heart has about 10 unit^2
    report.add("near_reach", np.mean(reach > _REACH_UNIT + gap_unit))
    outer = case.surface_sdf[nearest] > -0.25 * voxel_unit
    if gap_unit < 0.05:  # else the nearest surface point does not tell on which wall the near point was made
        report.add("near_inner_walls", np.mean(~outer))
    outside, band = case.near_sdf >= 0, np.abs(case.near_sdf) < _BAND_UNIT

    def add(check, mine, class_id=None):
        groups = [outside[mine & group] for group in (outer, band)]
        count = min(len(g) for g in groups)
        if count < 50:
            return None
        shares = [float(g.mean()) for g in groups]
        away = np.clip(0.5, min(shares), max(shares)) - 0.5
        beyond_chance = np.sign(away) * max(0, abs(away) - 1 / np.sqrt(count))  # two standard errors of a fair draw
        report.add(check, 0.5 + beyond_chance, class_id, f"estimates {shares[0]:.3f}, {shares[1]:.3f}, less chance")
        return float(np.mean(shares))

    if add("near_outside", np.ones(len(outside), bool)) is None:
        report.add("near_outside", 0, note="hardly a point near the outer surface")
    for c in present:
        report.classes[c]["near_outside"] = add("near_outside_class", case.near_source == c, c)


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
        if np.count_nonzero(mine) >= 50:
            report.add("label_class", np.mean(strange[mine]), c)
        mine = both & (here == c)
        if np.count_nonzero(mine) >= 50:
            report.add("label_missed", np.mean(stored[mine] != c), c)


def _check_surface(report, case, reference, points_voxel, present, rng):
    chosen = rng.permutation(len(case.surface_labels))[:_SURFACE_SAMPLE]
    labels, points_voxel = case.surface_labels[chosen], points_voxel[chosen]
    around = reference.labels_around(np.rint(points_voxel).astype(np.int64))
    mine = around == labels[:, None]
    on_wall = mine.any(1) & ~mine.all(1)
    # normals are patient directions; a step along them, in voxels whatever the spacing in that direction
    axes = case.frame.affine[:3, :3] / case.frame.spacing_mm
    step = case.surface_normals[chosen].astype(np.float64) @ axes / case.frame.spacing_mm
    step *= _NORMAL_STEP / np.maximum(np.linalg.norm(step, axis=1), 1e-9)[:, None]
    ahead = reference.labels_at(np.rint(points_voxel + step).astype(np.int64)) == labels
    behind = reference.labels_at(np.rint(points_voxel - step).astype(np.int64)) == labels
    for c in present:
        of_class = labels == c
        if np.count_nonzero(of_class) >= 50:
            report.add("surface_class", np.mean(~on_wall[of_class]), c)
            report.add("normals_outward", np.mean(behind[of_class]) - np.mean(ahead[of_class]), c)


def _check_distances(report, case, reference, points_voxel, rng, sample):
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
    # stored(x) = true(x + shift) + bias + jump * side; clipped, so that a few gross errors do not decide it
    fit = np.abs(true) < 5
    columns = np.column_stack([np.ones(fit.sum()), np.where(surface, 0, np.sign(true))[fit], gradient[fit]])
    bias, jump, *shift = np.linalg.lstsq(columns, np.clip(error[fit], -2, 2), rcond=None)[0]
    report.add("bias", bias)
    report.add("jump", jump)
    report.add("shift", np.abs(shift).max(), note=f"({', '.join(f'{s:.2f}' for s in shift)}) along i, j, k")


def _radius_with_crumbs(case):
    """Radius of the whole foreground over that of its large components (1 % of the voxels or more), 26-connected, on
    blocks of 2x2x2 voxels; 1 where there are no crumbs."""
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
    """(C + 1,) voxels per label; slab by slab, for bincount needs eight bytes per voxel."""
    return sum(np.bincount(slab.ravel(), minlength=num_classes + 1) for slab in crop)


def _centroids_mm(case):
    """{class id: (3,) centroid in mm}, of every second voxel along each axis (a class that these miss is left out)."""
    every = 2 if min(case.truth_crop.shape) >= 64 else 1
    thinned = case.truth_crop[::every, ::every, ::every]
    index = np.nonzero(thinned)
    labels = thinned[index]
    count = np.bincount(labels)
    sums = np.stack([np.bincount(labels, weights=axis) for axis in index], 1)
    return {int(c): case.frame.voxel_to_mm(every * sums[c] / count[c] + case.truth_origin)
            for c in np.flatnonzero(count)}
