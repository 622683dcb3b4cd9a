"""The threshold of every check of a case file, and the report that holds what was found in one.

`CHECKS` is the one table of them; the modules of this folder compute the values. Its order is that of the columns of
files.csv and of all listings.
"""

from dataclasses import dataclass, field

import numpy as np

from vecset.imaging.frame import UNIT_RADIUS

INF = float("inf")


@dataclass(frozen=True)
class Check:
    """A threshold: the value must lie in [low, high]. `level` 'fail' decides the verdict, 'warn' is only reported."""

    low: float
    high: float
    unit: str
    meaning: str
    level: str = "fail"


CHECKS = {
    # the file alone (case_checks.py)
    "readable": Check(1, 1, "", "the file is a complete case file of this schema"),
    "name": Check(1, 1, "", "the file is named after the label map that it was made from"),
    "members": Check(0, 0, "missing", "members of the case file that are missing"),
    "frame": Check(1, 1, "", "the file has a frame without shear, and the truth lies inside its grid"),
    "points": Check(100, INF, "points", "size of the smallest group of points (surface, vol, near)"),
    "non_finite": Check(0, 0, "values", "numbers that are NaN or infinite"),
    "outside_cube": Check(0, 0, "points", "points outside the unit cube [-1, 1]^3"),
    "label_distance": Check(0, 0, "points", "vol and near points where 'label > 0' and 'distance < 0' disagree"),
    "vol_inside": Check(0.49, 0.51, "share", "volume points with distance < 0"),
    "normals_unit": Check(0, 0.01, "share", "normals whose length differs from 1 by more than 1 %"),
    # classes (case_checks.py)
    "class_surface": Check(0.005, 1, "share", "surface points of a class that the truth contains"),
    "class_near": Check(0.005, 1, "share", "near points offset from a class that the truth contains"),
    "class_inside": Check(0.002, 1, "share", "inside volume points of a class that the truth contains"),
    "class_stranger": Check(0, 0, "points", "points of a class that the truth does not contain"),
    "meta_classes": Check(0, 0, "classes", "classes that are present in only one of meta and truth"),
    "meta_border": Check(0, 0, "classes", "classes that only one of meta and truth calls truncated"),
    # against the truth in the file (case_checks.py)
    "frame_radius": Check(0.9, 1.0, "unit", f"farthest point of the truth from the centre (made as {UNIT_RADIUS})"),
    "frame_centre": Check(0, 1, "voxels", "distance of the centre from the middle of the truth's bounding box"),
    "shift": Check(0, 0.15, "voxels", "shift of the stored distances against the truth (least squares)"),
    "bias": Check(-0.15, 0.15, "voxels", "stored minus true distance near the surface (least squares)"),
    "jump": Check(-0.3, 0.3, "voxels", "step at the surface; an uncorrected EDT has one of half a voxel"),
    "slope": Check(0.95, 1.05, "", "median of stored over true distance, beyond 4 voxels"),
    "distance_mean": Check(0, 0.35, "voxels", "mean |stored - true distance| of near and volume points"),
    "distance_p99": Check(0, 1.2, "voxels", "99th percentile of the same"),
    "surface_distance": Check(0, 0.35, "voxels", "mean |stored - true distance| of surface points"),
    "surface_zero": Check(0, 0.2, "voxels", "mean |surface_sdf| on the outer surface"),
    "sign": Check(0, 0.002, "share", "wrong signs more than a voxel away from the surface"),
    "label": Check(0, 0.001, "share", "points whose label none of the 27 voxels around them has"),
    "label_class": Check(0, 0.01, "share", "the same for the points labelled with one class"),
    "label_exact": Check(0, 0.005, "share", "inside points whose label differs from that of their voxel"),
    "label_missed": Check(0, 0.01, "share", "inside points in voxels of one class that have another label"),
    "surface_class": Check(0, 0.01, "share", "surface points without a wall of their class in the 27 voxels around"),
    "normals_outward": Check(0.5, 1, "", "share of normals that leave their class less share of those that enter it"),
    # distances to each class, in files that have them (class_distances.py)
    "class_sdf_absent": Check(0, 0, "classes", "absent classes without the constant of one, or present ones with it"),
    "class_sdf_surface": Check(0, 0, "points", "surface points not at 0 from their class, or inside one"),
    "class_sdf_sign": Check(0, 0, "points", "points where 'distance to a class < 0' and 'label' disagree"),
    "class_sdf_label": Check(0, 0, "points", "inside points whose label is not the class of the smallest distance"),
    "class_sdf_union": Check(
        0, 0.001, "share", "points more than a voxel farther from their class than the union distance allows"
    ),
    "class_sdf_mean": Check(0, 0.7, "voxels", "mean |stored - true distance| to the boundary of a class"),
    # reported, not judged (case_checks.py)
    "radius_mm": Check(25, 160, "mm", "radius of the heart", "warn"),
    "crumbs": Check(0, 1.03, "", "radius of the heart with islands over radius without: they move the frame", "warn"),
    "crumb_class": Check(30, INF, "voxels", "smallest class of the truth", "warn"),
    # whether the truth holds together as a heart does; reported, not judged (anatomy.py)
    "pieces": Check(1, 1, "pieces", "pieces (26-connected) of a structure that is one piece in any heart", "warn"),
    "coronary_pieces": Check(1, 2, "pieces", "pieces of the coronaries: a left and a right tree", "warn"),
    "contact": Check(1, INF, "voxels", "voxels of a structure that touch the one that it touches in any heart", "warn"),
    "loose_pieces": Check(0, 0, "pieces", "pieces of coronaries off the aorta, or of veins off the LA", "warn"),
    "leak": Check(0, 0.0005, "share", "surface of the LV, off its valves, without muscle beside it", "warn"),
    # balance of the near points, by near_other (near_balance.py)
    "outer_outside": Check(0.48, 0.52, "share", "near points offset from the outer surface that lie outside the union"),
    "outer_outside_class": Check(0.4, 0.6, "share", "the same for one class (with 50 such points or more)"),
    "wall_share": Check(0, 0.15, "share", "near points offset from inner walls"),
    "wall_sides": Check(
        0.4, 0.6, "share", "near points of an inner wall offset from one of its two classes, of the most uneven wall"
    ),
    "wall_crossed": Check(0.3, 0.7, "share", "near points of a class's inner walls that lie across the wall"),
    "near_flag": Check(0, 0.02, "share", "near points whose near_other contradicts the geometry"),
    "near_flag_class": Check(0, 0.25, "share", "the same for one class"),
    "near_flag_wrong": Check(0, 0, "points", "near_other that is the point's own class or not in the truth"),
    # the same in files without near_other (near_balance.py)
    "near_outside": Check(0.47, 0.53, "share", "near points of outer walls that lie outside the union (estimated)"),
    "near_outside_class": Check(0.4, 0.6, "share", "the same for one class (with 50 such points or more)"),
    "near_inner_walls": Check(0, 0.25, "share", "near points of walls between two structures (estimated)"),
    # with and without near_other (near_balance.py)
    "near_reach": Check(0, 0.01, "share", "near points farther than 0.2 (unit) from the surface of their near_source"),
    # slow checks, on request (exact.py)
    "exact_mean": Check(0, 0.3, "voxels", "mean |stored - exact distance to the unsmoothed mesh| (--exact)"),
    "exact_max": Check(0, 1.0, "voxels", "largest |stored - exact distance| (--exact)"),
    "exact_sign": Check(0, 0, "points", "wrong signs more than half a voxel away from the surface (--exact)"),
    "exact_label": Check(0, 0, "points", "inside points without the label of the nearest foreground voxel (--exact)"),
    "source": Check(1, 1, "", "the label map that meta names can be read (--source_dir)"),
    "source_labels": Check(0, 0, "voxels", "voxels where truth and label map differ (--source_dir)"),
    "source_names": Check(0, 0, "values", "values that the label map names as another class (--source_dir)"),
    "source_crumbs": Check(
        0, 0, "voxels", "voxels of the label map that --drop_islands left out (--source_dir)", "warn"
    ),
    "source_points": Check(0, 0.005, "share", "inside points without the label map's label there (--source_dir)"),
    # between files, against the split, and against a heart's anatomy (population.py, split_check.py)
    "class_names": Check(0, 0, "names", "classes called otherwise than in most files: their ids mean other structures"),
    "copies": Check(0, 0, "files", "other files with the same points or the same truth"),
    "same_source": Check(0, 0, "files", "other files made from the same label map"),
    "split_group": Check(0, 0, "cases", "cases of the same group on the other side of train.csv and val.csv"),
    "split_patient": Check(
        0, 0, "cases", "cases on the other side that look, by their names, like scans of the same patient", "warn"
    ),
    "one_class": Check(
        0, 0.5, "share", "hearts like this one, with one class only although several are annotated; 0 for others"
    ),
    "class_nowhere": Check(1, INF, "hearts", "hearts that have a class which is annotated in all of them", "warn"),
    "handedness": Check(0, INF, "", "-1 to 1: fit of the named structures to a heart (1) or to its mirror image (-1)"),
    "handedness_others": Check(0, INF, "", "the same against the other hearts, where the names do not decide"),
    "volume_outlier": Check(0, 6, "robust sd", "log volume of a class against the other hearts", "warn"),
    "size_outlier": Check(0, 6, "robust sd", "log radius of the heart against the others", "warn"),
    "rows": Check(0, 0, "groups", "groups whose number of points is not that of most files", "warn"),
}


@dataclass
class FileReport:
    """What was found in one file.

    case_id, file: its case's name and its file name; class_names (C,) as the file has them.
    findings: dicts with check (a key of CHECKS), class_id (None: the whole file), value, note, level, ok.
    classes: {class id: {"voxels", and the shares "surface", "near", "inside", "near_outside"}}.
    facts: what is compared between files. histograms: {name: counts}, with the edges in `BINS`.
    """

    case_id: str
    file: str
    findings: list = field(default_factory=list)
    classes: dict = field(default_factory=dict)
    class_names: list = field(default_factory=list)
    facts: dict = field(default_factory=dict)
    histograms: dict = field(default_factory=dict)

    def add(self, check: str, value: float, class_id: int | None = None, note: str = "") -> None:
        """Adds the finding that `check` has `value`, judged by its threshold; NaN fails."""
        limit = CHECKS[check]
        value = float(value)
        self.findings.append(
            {
                "check": check,
                "class_id": class_id,
                "value": value,
                "note": note,
                "level": limit.level,
                "ok": bool(limit.low <= value <= limit.high),
            }
        )

    def failed(self, level: str = "fail") -> list[dict]:
        """The findings of `level` ('fail' or 'warn') that are beyond their threshold."""
        return [f for f in self.findings if not f["ok"] and f["level"] == level]

    @property
    def passed(self) -> bool:
        return not self.failed()

    def worst(self, check: str) -> dict | None:
        """The finding of `check` that is farthest beyond its threshold, or nearest to it; None where there is none."""
        found = [f for f in self.findings if f["check"] == check]
        return max(found, key=lambda f: excess(check, f["value"])) if found else None


BINS = {
    "vol": np.linspace(-1, 2, 91),
    "near": np.linspace(-0.2, 0.2, 81),
    "surface": np.linspace(-0.4, 0.1, 101),
    "error": np.linspace(-2, 2, 81),
}  # distances in unit; the error in voxels


def excess(check: str, value: float) -> float:
    """How far `value` is beyond the nearer limit of `check`; negative inside. For ranking.

    Where one end of the range is the best possible value (0 of 'at most', 1 of 'at least'), only the other end counts.
    """
    limit = CHECKS[check]
    words = limit_text(check)
    below, above = limit.low - value, value - limit.high
    if words.startswith("at most") and value >= limit.low:
        below = above
    if words.startswith("at least") and value <= limit.high:
        above = below
    return float(np.nan_to_num(max(below, above), nan=INF, posinf=1e300, neginf=-1e300))


def limit_text(check: str) -> str:
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
    unit = limit.unit.removesuffix("s") if words.endswith(" 1") else limit.unit
    return f"{words} {unit}".strip()
