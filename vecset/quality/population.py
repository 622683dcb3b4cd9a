"""Checks between case files, and against the anatomy of a heart: copies, mirrored hearts, outliers, lacking classes.

Each finding is added to the report of its file, so that one verdict covers everything.
"""

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from vecset.imaging.class_names import listed
from vecset.imaging.classes import RESERVED_CLASS
from vecset.imaging.structure_names import name_key
from vecset.quality.chirality import heart_handedness, population_handedness
from vecset.quality.thresholds import FileReport

LEAST_FOR_OUTLIERS = 8  # hearts; fewer have no distribution
FEW_HEARTS = 30  # fewer may be alike by chance, so that a usual volume would be an outlier
FEW_HEARTS_SPREAD = 0.1  # smallest standard deviation of log volumes assumed for fewer than FEW_HEARTS
LEAST_SPREAD = 0.03  # the same for more hearts, and for radii


def check_population(reports: list[FileReport], datasets: Sequence[str] | None = None) -> None:
    """Adds the findings between `reports`, the files of one run, to them. Unreadable files are left out. `datasets`:
    the data set of each, where these are several: only copies are then looked for between data sets."""
    _copies(reports)
    names = [""] * len(reports) if datasets is None else list(datasets)
    for name in sorted(set(names)):
        _check_of_one_kind([report for report, of in zip(reports, names) if of == name])


def _check_of_one_kind(reports):
    _class_names([r for r in reports if r.class_names])
    whole = [r for r in reports if "volumes_ml" in r.facts]
    _classes_held(whole)
    _handedness(whole)
    if len(whole) >= LEAST_FOR_OUTLIERS:
        _outliers(whole)
        usual = {g: _mode([r.facts["rows"][g] for r in whole]) for g in whole[0].facts["rows"]}
        for report in whole:
            other = {g: n for g, n in report.facts["rows"].items() if n != usual[g]}
            report.add("rows", len(other), note=", ".join(f"{g} {n} (most: {usual[g]})" for g, n in other.items()))


def _class_names(reports):
    keys = [tuple(map(name_key, r.class_names)) for r in reports]
    for report, own in zip(reports, keys):
        usual = reports[keys.index(_mode(keys))].class_names
        other = sum(a != b for a, b in zip_longest(own, map(name_key, usual)))
        note = f"{listed(report.class_names)} (most: {listed(usual)})" if other else ""
        report.add("class_names", other, note=note)


def _handedness(reports):
    """Mirrored hearts: by the names of the structures, or where those do not decide, by comparing hearts with the same
    classes to each other."""
    unnamed = {}
    for report in reports:
        centroids_mm = report.facts["centroids_mm"]
        turn = heart_handedness(centroids_mm, report.class_names)
        if turn is not None:
            report.facts["handedness"] = turn
            report.add(
                "handedness", turn, note="mirrored: left and right exchanged, or situs inversus" if turn < 0 else ""
            )
        else:
            unnamed.setdefault((*report.class_names, *sorted(centroids_mm, key=int)), []).append(report)
    for alike in unnamed.values():
        if len(alike) < LEAST_FOR_OUTLIERS:
            continue
        turns = population_handedness(
            [[p for _, p in sorted(r.facts["centroids_mm"].items(), key=lambda i: int(i[0]))] for r in alike]
        )
        for report, turn in zip(alike, () if turns is None else turns):
            report.add("handedness_others", turn, note="mirrored, or most of the others are" if turn < 0 else "")


def _copies(reports):
    for check, keys in (("copies", ("points_sha256", "truth_sha256")), ("same_source", ("source_sha256",))):
        files = {}
        for report in reports:
            for key in keys:
                if report.facts.get(key):
                    files.setdefault((key, report.facts[key]), set()).add(report.file)
        for report in reports:
            copies = sorted(set().union(*(files.get((k, report.facts.get(k)), set()) for k in keys)) - {report.file})
            if report.facts:
                report.add(check, len(copies), note=", ".join(copies[:5]))


def _classes_held(reports):
    """Hearts with one class only although several are annotated, which files of one structure each give; and classes
    that are annotated in every heart and present in none."""
    single = [r for r in reports if len(r.facts["volumes_ml"]) == 1 and r.facts.get("missing")]
    for report in reports:
        if report not in single:
            report.add("one_class", 0)
            continue
        (c,) = report.facts["volumes_ml"]
        report.add(
            "one_class",
            len(single) / len(reports),
            note=f"{report.class_names[int(c) - 1]} alone in this one; if a label map holds one structure, merge those "
            "of a scan (prepare_data.py --structures); if nobody annotated the others, say so with --annotated",
        )
    if len(reports) < 2:
        return
    for c in sorted(set.intersection(*(set(r.facts.get("missing", ())) for r in reports))):
        if reports[0].class_names[int(c) - 1] == RESERVED_CLASS:
            continue
        note = f"in none of the {len(reports)} hearts; if nobody annotated it, leave it out of --annotated"
        reports[0].add("class_nowhere", 0, c, note)


def _outliers(reports):
    for c in sorted({c for r in reports for c in r.facts["volumes_ml"]}, key=int):
        having = [r for r in reports if c in r.facts["volumes_ml"]]
        if len(having) >= LEAST_FOR_OUTLIERS:
            volumes = [r.facts["volumes_ml"][c] for r in having]
            spread = FEW_HEARTS_SPREAD if len(having) < FEW_HEARTS else LEAST_SPREAD
            scores = _robust_scores(np.log(volumes), spread)
            for report, score, volume in zip(having, scores, volumes):
                report.add("volume_outlier", score, int(c), f"{volume:.3g} ml, median {np.median(volumes):.3g} ml")
    radii = [r.facts["radius_mm"] for r in reports]
    for report, score, radius in zip(reports, _robust_scores(np.log(radii), LEAST_SPREAD), radii):
        report.add("size_outlier", score, note=f"{radius:.1f} mm, median {np.median(radii):.1f} mm")


def _robust_scores(values, least_spread):
    """|value - median| of `values` (n,) in robust standard deviations (1.4826 times the median absolute deviation), at
    least `least_spread` each, so that nearly equal hearts are not outliers of each other."""
    values = np.asarray(values)
    away = np.abs(values - np.median(values))
    return away / max(1.4826 * np.median(away), least_spread)


def _mode(values):
    return max(set(values), key=values.count)
