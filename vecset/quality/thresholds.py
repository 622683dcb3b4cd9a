"""A threshold for every check of a case file, and the report that holds what was found in one.

`CHECKS` is one table: each module of the quality check adds its own thresholds to it when it is imported.
"""

from dataclasses import dataclass, field

import numpy as np

from vecset.imaging.frame import UNIT_RADIUS

INF = float("inf")


@dataclass(frozen=True)
class Check:
    """A threshold: the figure must lie in [low, high]. `level` 'fail' decides the verdict, 'warn' is only said."""

    low: float
    high: float
    unit: str
    meaning: str
    level: str = "fail"


CHECKS = {
    # the file alone
    "readable": Check(1, 1, "", "the file is a whole case file of this schema"),
    "name": Check(1, 1, "", "the file is named as the label map that it was made from"),
    "members": Check(0, 0, "missing", "every member of the case file is there"),
    "frame": Check(1, 1, "", "the frame is there, without shear, and its grid holds the truth"),
    "points": Check(100, INF, "points", "fewest points of a group (surface, vol, near)"),
    "non_finite": Check(0, 0, "values", "numbers that are NaN or infinite"),
    "outside_cube": Check(0, 0, "points", "points outside the unit cube [-1, 1]^3"),
    "label_distance": Check(0, 0, "points", "vol and near points where 'label > 0' and 'distance < 0' contradict"),
    "vol_inside": Check(0.49, 0.51, "share", "volume points with distance < 0"),
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
    "normals_outward": Check(0.5, 1, "", "normals that leave their class less those that enter it, of both"),
    # said, not judged
    "radius_mm": Check(25, 160, "mm", "radius of the heart", "warn"),
    "crumbs": Check(0, 1.03, "", "radius of the heart with islands over that without: they move the frame", "warn"),
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

    def failed(self, level="fail"):
        return [f for f in self.findings if not f["ok"] and f["level"] == level]

    @property
    def passed(self):
        return not self.failed()

    def worst(self, check):
        """The finding of `check` that lies farthest beyond, or nearest to, its threshold; None where there is none."""
        found = [f for f in self.findings if f["check"] == check]
        return max(found, key=lambda f: excess(check, f["value"])) if found else None


BINS = {
    "vol": np.linspace(-1, 2, 91),
    "near": np.linspace(-0.2, 0.2, 81),
    "surface": np.linspace(-0.4, 0.1, 101),
    "error": np.linspace(-2, 2, 81),
}  # distances in unit; the error in voxels


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
    unit = limit.unit.removesuffix("s") if words.endswith(" 1") else limit.unit
    return f"{words} {unit}".strip()
