"""Pictures of the quality check: the distributions over all files, and a file's points over slices of its truth."""

import numpy as np
from matplotlib.figure import Figure

from vecset.imaging.classes import class_colours
from vecset.imaging.slice_picture import BAD, GOOD
from vecset.quality.summary import classes_by_name
from vecset.quality.thresholds import BINS, CHECKS
from vecset.report.pictures import (
    PLANES,
    draw_slices,
    foreground_box,
    fullest_index,
    in_plane_mm,
    legend_patches,
    plain,
    save_figure,
    spacing_of,
    to_ras,
)

_OUTSIDE = "#FFFFFF"
_CROSS = "#E00000"
_SIZES = {"near": 8, "vol": 3}  # square points
_MARGIN = 3  # empty voxels round the truth: the neighbours of a point beyond it are all empty


def write_distributions(path, reports):
    """PNG: histograms of the distances of each group and of the error against the truth, and the shares of each class.
    One thin line per file (at most 200), failed files dashed; a class's share as one dot per file."""
    reports = sorted((r for r in reports if r.histograms), key=lambda r: r.passed)[:200]
    if not reports:
        return False
    figure = Figure(figsize=(13, 7.6), facecolor="white", layout="constrained")
    axes = figure.subplots(2, 3)
    panels = (
        ("vol", "volume points: distance (unit)"),
        ("near", "near points: distance (unit)"),
        ("surface", "surface points: distance to the outer wall (unit)"),
        ("error", "stored minus independent distance (voxels)"),
    )
    for axis, (name, title) in zip(axes.flat, panels):
        edges = BINS[name]
        for report in reversed(reports):  # failed ones last, on top
            counts = np.asarray(report.histograms.get(name, ()), float)
            if counts.sum():
                axis.stairs(
                    counts / counts.sum(),
                    edges,
                    color=GOOD if report.passed else BAD,
                    linewidth=0.9,
                    linestyle="-" if report.passed else "--",
                    alpha=max(0.15, 1 / np.sqrt(len(reports))) if report.passed else 0.9,
                )
        axis.axvline(0, color="#808080", linewidth=0.6)
        axis.set_title(title, fontsize=9)
        drawn = any(sum(r.histograms.get(name, ())) for r in reports)
        axis.set_yscale("log" if drawn and name in ("surface", "error") else "linear")
        axis.set_ylabel("share of points per bin", fontsize=8)
    _class_panel(axes[1, 1], reports, ("surface", "near", "inside"), "share of each class")
    _class_panel(axes[1, 2], reports, ("near_outside",), "outer near points that lie outside, as judged")
    low, high = CHECKS["near_outside_class"].low, CHECKS["near_outside_class"].high
    axes[1, 2].axhspan(low, high, color=GOOD, alpha=0.1, label=f"allowed: {low:g} to {high:g}")
    axes[1, 2].set_ylim(0, 1)
    axes[1, 2].legend(fontsize=7, frameon=False)
    figure.suptitle(f"{len(reports)} case files, {sum(not r.passed for r in reports)} failed (dashed)", fontsize=11)
    save_figure(figure, path, dpi=90)
    return True


def _class_panel(axis, reports, keys, title):
    by_name = classes_by_name(reports)
    names = list(by_name)
    colours = class_colours(names)
    markers = {"surface": "o", "near": "^", "inside": "s", "near_outside": "o"}
    rng = np.random.default_rng(0)
    for offset, key in zip(np.linspace(-0.25, 0.25, len(keys)) if len(keys) > 1 else [0], keys):
        for place, pairs in enumerate(by_name.values(), 1):
            values = [
                r.classes[c][key]
                for r, c in pairs
                if r.classes.get(c, {}).get(key) is not None and r.classes[c].get("voxels")
            ]
            axis.scatter(
                place + offset + rng.uniform(-0.08, 0.08, len(values)),
                values,
                s=9,
                marker=markers[key],
                color=colours[place - 1],
                edgecolors="#303030",
                linewidths=0.2,
            )
    axis.set_xticks(
        range(1, len(names) + 1), map(plain, names), rotation=60, fontsize=8, ha="right", rotation_mode="anchor"
    )
    axis.set_title(title, fontsize=9)
    axis.set_xlim(0.4, len(names) + 0.6)
    if len(keys) > 1:
        axis.set_yscale("log" if axis.collections and any(len(c.get_offsets()) for c in axis.collections) else "linear")
        axis.set_xlabel("left to right in each class: surface, near, inside volume points", fontsize=8)


def contradicts(labels: np.ndarray, sdf: np.ndarray, points_voxel: np.ndarray, padded: np.ndarray) -> np.ndarray:
    """(N,) bool: points whose stored label (N,) or distance (N,) the truth at the nearest voxel contradicts: the label
    is another class than the voxel's; or the point is said to be on the other side of the surface than the voxel and
    its 26 neighbours are, so that no smoothing explains it; or label and distance contradict each other.
    `points_voxel` (N, 3) in voxels of the truth, `padded` the truth with a margin of 3 empty voxels."""
    nearest = np.clip(np.rint(points_voxel).astype(np.int64) + _MARGIN, 1, np.array(padded.shape) - 2)
    steps = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    around = padded[tuple(np.moveaxis(nearest[:, None] + steps, -1, 0))] > 0
    truth = padded[tuple(nearest.T)]
    other_class = (labels > 0) & (truth > 0) & (labels != truth)
    wrong_side = np.where(sdf < 0, ~around.any(1), around.all(1)) | np.where(labels > 0, ~around.any(1), around.all(1))
    return other_class | wrong_side | ((labels > 0) != (sdf < 0))


def source_slice(to_source: np.ndarray, across: int, index: int) -> str:
    """'k = 57': axis and number, in the source image, of slice `index` along axis `across` of the turned crop.
    `to_source` (4, 4): voxel of the turned crop -> voxel of the source image, axes swapped and flipped."""
    axis = int(np.abs(to_source[:3, across]).argmax())
    return f"{'ijk'[axis]} = {round(to_source[axis, across] * index + to_source[axis, 3])}"


def write_slices(path, case, title, detailed=False):
    """PNG: slices of the truth of `case` in three planes with the stored points over them, each filled with the colour
    of its stored label (white: outside), those that `contradicts` finds under a red cross. Slices are numbered along
    the axis i, j or k of the source image. `detailed`: a row each for surface, near and volume points; else one row
    with near and, smaller, volume points. Returns False, and draws nothing, where the file has no frame or no truth."""
    if case.frame is None or case.truth_crop is None or not case.truth_crop.any():
        return False
    affine = np.array(case.frame.affine)
    affine[:3, 3] = case.frame.voxel_to_mm(case.truth_origin)  # of the crop, whose voxel 0 is the origin
    labels_ras, affine_ras = to_ras(case.truth_crop, affine)
    spacing_mm, to_voxel = spacing_of(affine_ras), np.linalg.inv(affine_ras)
    colours = class_colours(case.class_names)
    to_source = np.linalg.inv(case.frame.affine) @ affine_ras  # voxel of the turned crop -> voxel of the source image
    padded = np.pad(labels_ras, _MARGIN)
    rows = (("surface",), ("near",), ("vol",)) if detailed else (("vol", "near"),)
    box = foreground_box(labels_ras, margin_mm=6, spacing_mm=spacing_mm)
    extent_mm = (box[:, 1] - box[:, 0] + 1) * spacing_mm
    size = [(extent_mm[h], extent_mm[v]) for h, v in ((0, 1), (0, 2), (1, 2))]
    widths = [w / h for w, h in size]
    figure = Figure(figsize=(4.3 * sum(widths), 4.3 * len(rows) + 0.9), facecolor="white", layout="constrained")
    axes = figure.subplots(len(rows), 3, width_ratios=widths, squeeze=False)
    for row, groups in zip(axes, rows):
        for axis, plane in zip(row, PLANES):
            across = PLANES[plane]
            index = fullest_index(labels_ras, plane)
            draw_slices(axis, labels_ras, plane, index, colours, spacing_mm, box)
            axis.images[0].set_alpha(0.45)
            said = []
            for group in groups:
                points_unit, labels, sdf = (getattr(case, f"{group}_{what}") for what in ("points", "labels", "sdf"))
                if points_unit is None or labels is None:
                    continue
                points = case.frame.unit_to_mm(points_unit) @ to_voxel[:3, :3].T + to_voxel[:3, 3]
                shown = (np.abs(points[:, across] - index) <= 0.5) & (
                    (points > box[:, 0] - 0.5) & (points < box[:, 1] + 0.5)
                ).all(1)
                place = in_plane_mm(points[shown], plane, spacing_mm)
                fill = np.array([_OUTSIDE, *colours])[labels[shown]]
                axis.scatter(
                    *place.T,
                    s=11 if detailed else _SIZES[group],
                    c=fill,
                    edgecolors="#202020",
                    linewidths=0.35 if detailed or group == "near" else 0.2,
                )
                said.append(f"{np.count_nonzero(shown)} {group}")
                if group != "surface" and sdf is not None:
                    wrong = contradicts(labels[shown], sdf[shown], points[shown], padded)
                    axis.scatter(*place[wrong].T, s=26, marker="x", color=_CROSS, linewidths=1.1)
                    said[-1] += f" ({np.count_nonzero(wrong)} wrong)" if wrong.any() else ""
            axis.set_title(f"{plane}, {source_slice(to_source, across, index)}: {', '.join(said)} points", fontsize=9)
    present = [c for c in range(1, case.num_classes + 1) if (case.truth_crop == c).any()]
    handles = legend_patches(
        [case.class_names[c - 1] for c in present] + ["outside"], [colours[c - 1] for c in present] + [_OUTSIDE]
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 11), fontsize=8, frameon=False)
    figure.suptitle(plain(title), fontsize=11)
    save_figure(figure, path, dpi=100)
    return True
