"""Label maps as pictures: slices in three planes, the difference of two maps, a legend, the overview of a run.

Shared by the quality check and by reconstruction, so that a structure has one colour everywhere. Everything is drawn
in patient orientation (radiological convention: the patient's right, or front, is on the left), on axes in mm.

    labels_ras, affine_ras = to_ras(labels, affine)
    draw_slices(axes, labels_ras, "axial", index, colours, spacing_mm)          # one matplotlib Axes
    axes.scatter(*in_plane_mm(points_voxel, "axial", spacing_mm).T)             # points in voxels of labels_ras
"""

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vecset.common.atomic import atomic_path
from vecset.common.errors import shown
from vecset.geometry.surface import foreground_box as box_of_nonzero
from vecset.imaging.slice_picture import DIFFERENCE, PLANES, colour_table, difference_kinds, plane_image

OUTLINE = "#000000"  # of what is inferred
LEFT_UP = {"axial": ("R", "A"), "coronal": ("R", "S"), "sagittal": ("A", "S")}  # what is at the left and at the top


def to_ras(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`volume` (X, Y, Z) with its axes swapped and flipped to run most nearly right, front, up; a view, not a copy.
    Returns it with the (4, 4) affine that its voxels then have."""
    affine = np.asarray(affine, np.float64)
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    order = _best_axes(np.abs(directions))  # order[r] = the image axis that runs along patient axis r
    change = np.zeros((4, 4))  # new voxel -> old voxel
    change[3, 3] = 1
    flips = []
    for patient_axis, image_axis in enumerate(order):
        forward = directions[patient_axis, image_axis] >= 0
        change[image_axis, patient_axis] = 1 if forward else -1
        if not forward:
            change[image_axis, 3] = volume.shape[image_axis] - 1
            flips.append(patient_axis)
    return np.flip(np.transpose(volume, order), flips), affine @ change


def _best_axes(closeness):
    """The permutation with the largest product of |cos|: at 45 degrees two axes must not pick the same partner."""
    permutations = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    return max(permutations, key=lambda p: np.prod([closeness[r, p[r]] + 1e-9 for r in range(3)]))


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """(3,) voxel size in mm along the axes of `affine` (4, 4)."""
    return np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)


def fullest_index(labels_ras: np.ndarray, plane: str) -> int:
    """The index of the slice of `plane` that shows the most structures, and of those the most voxels."""
    counts = np.array(
        [
            np.bincount(plane_image(labels_ras, plane, n).ravel(), minlength=256)[1:]
            for n in range(labels_ras.shape[PLANES[plane]])
        ]
    )
    area, structures = counts.sum(1), (counts > 0).sum(1)
    return int(np.lexsort((area, structures * (area >= 0.5 * area.max())))[-1])


def in_plane_mm(points_voxel: np.ndarray, plane: str, spacing_mm: np.ndarray) -> np.ndarray:
    """(N, 3) points in voxels of the RAS volume -> (N, 2) horizontal and vertical position on the picture in mm."""
    axes = [a for a in range(3) if a != PLANES[plane]]
    return np.asarray(points_voxel, np.float64)[:, axes] * np.asarray(spacing_mm)[axes]


def draw_slices(
    axes: Axes,
    labels_ras: np.ndarray,
    plane: str,
    index: int,
    colours: Iterable[str],
    spacing_mm: np.ndarray,
    box: np.ndarray | None = None,
) -> None:
    """Draws slice `index` of `labels_ras` (X, Y, Z; 0 is background) on one matplotlib Axes.

    `colours`: C strings '#RRGGBB' for classes 1..C; `spacing_mm` (3,); `box` (3, 2): show voxels box[:, 0] to box[:, 1]
    alone (all where None)."""
    image = colour_table(colours)[plane_image(labels_ras, plane, index)]
    _draw_image(axes, image, plane, spacing_mm, labels_ras.shape, box)


def draw_difference(
    axes: Axes,
    truth_ras: np.ndarray,
    prediction_ras: np.ndarray,
    plane: str,
    index: int,
    spacing_mm: np.ndarray,
    box: np.ndarray | None = None,
) -> None:
    """Draws where two label maps of one grid differ at slice `index`; colours as in `DIFFERENCE`."""
    kinds = difference_kinds(*(plane_image(v, plane, index) for v in (truth_ras, prediction_ras)))
    _draw_image(axes, colour_table(DIFFERENCE.values())[kinds], plane, spacing_mm, truth_ras.shape, box)


def draw_outline(
    axes: Axes, mask_ras: np.ndarray, plane: str, index: int, spacing_mm: np.ndarray, width: float = 0.9
) -> None:
    """A line round the mask (X, Y, Z) in slice `index` of RAS volumes, over what `draw_slices` has drawn there. width:
    of the line, in points."""
    across = np.moveaxis(mask_ras, PLANES[plane], 0)[index]
    if not across.any():
        return
    horizontal, vertical = (a for a in range(3) if a != PLANES[plane])
    padded = np.pad(across.astype(float), 1)
    x = (np.arange(padded.shape[0]) - 1) * spacing_mm[horizontal]
    y = (np.arange(padded.shape[1]) - 1) * spacing_mm[vertical]
    axes.contour(x, y, padded.T, levels=[0.5], colors=[OUTLINE], linewidths=width)


def legend_patches(names: Iterable[str], colours: Iterable[str]) -> list[Patch]:
    """Handles for `legend(handles=...)`: one patch per class name, in its colour."""
    return [
        Patch(facecolor=colour, edgecolor="#404040", linewidth=0.4, label=plain(name))
        for name, colour in zip(names, colours)
    ]


def legend_below(figure: Figure, handles: list[Patch], in_a_row: int) -> None:
    """Puts a legend of `handles` below all that is in a figure."""
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=in_a_row,
        fontsize=8,
        frameon=False,
        handlelength=1,
        columnspacing=1.1,
        borderaxespad=0.3,
    )


def plain(text: str) -> str:
    """A name or title for matplotlib, which would take what stands between two dollar signs for a formula, and has no
    glyph for a byte that is no UTF-8."""
    return shown(text).replace("$", r"\$")


def save_figure(figure: Figure, path: str | Path, dpi: int = 110) -> None:
    """Writes `figure` as PNG, atomically. No pyplot: works without a display and in worker processes."""
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a sign in a name: a box stands for it
        figure.savefig(temporary, dpi=dpi, format="png", metadata={"Software": None})


def write_overview(path: str | Path, hearts: list[dict], class_names: list[str], colours: list[str]) -> None:
    """Best, median and worst heart (or whatever `hearts` holds): truth, reconstruction and difference in three planes.
    In the reconstruction a line runs round each structure that is inferred, and the legend says so.

    `hearts`: dicts with `title`, `truth` and `prediction` (X, Y, Z) on one grid, and `affine` (4, 4); where something
    is inferred, `inferred`, its class ids. Writes a PNG."""
    inferred = [set(heart.get("inferred", ())) for heart in hearts]
    below = 0.6 if any(inferred) else 0.4  # inches; the longer legend has two rows
    height = 0.55 + below + 1.75 * len(hearts)
    figure = Figure(figsize=(14, height), facecolor="white")
    grid = figure.add_gridspec(
        len(hearts),
        11,
        width_ratios=[1, 1, 1, 0.1, 1, 1, 1, 0.1, 1, 1, 1],
        left=0.004,
        right=0.996,
        wspace=0.04,
        hspace=0.14,
        top=1 - 0.5 / height,
        bottom=below / height,
    )
    for row, heart in enumerate(hearts):
        truth_ras, affine_ras = to_ras(heart["truth"], heart["affine"])
        prediction_ras, _ = to_ras(heart["prediction"], heart["affine"])
        spacing_mm = spacing_of(affine_ras)
        box = foreground_box(truth_ras, prediction_ras, margin_mm=5, spacing_mm=spacing_mm)
        inside = tuple(slice(first, last + 1) for first, last in box)
        truth_ras, prediction_ras = truth_ras[inside], prediction_ras[inside]
        for column, plane in enumerate(PLANES):
            index = fullest_index(truth_ras, plane)
            axes = [figure.add_subplot(grid[row, 4 * column + k]) for k in range(3)]
            draw_slices(axes[0], truth_ras, plane, index, colours, spacing_mm)
            draw_slices(axes[1], prediction_ras, plane, index, colours, spacing_mm)
            draw_difference(axes[2], truth_ras, prediction_ras, plane, index, spacing_mm)
            for c in inferred[row]:
                draw_outline(axes[1], prediction_ras == c, plane, index, spacing_mm, 0.8)
            for axis, what in zip(axes, ("truth", "reconstruction", "difference")):
                if row == 0:
                    middle = axis.get_position()
                    figure.text(
                        (middle.x0 + middle.x1) / 2,
                        1 - 0.08 / height,
                        f"{plane}: {what}",
                        ha="center",
                        va="top",
                        fontsize=9,
                    )
            if column == 0:
                axes[0].annotate(
                    plain(heart["title"]),
                    (0, 1),
                    (2, 4),
                    xycoords="axes fraction",
                    fontsize=9,
                    textcoords="offset points",
                    va="bottom",
                    fontweight="bold",
                )
    handles = legend_patches(_told_inferred(class_names, inferred), colours)
    handles += legend_patches(DIFFERENCE, DIFFERENCE.values())
    if any(inferred):
        handles.append(Patch(facecolor="none", edgecolor=OUTLINE, linewidth=1.2, label="line round it: inferred"))
    legend_below(figure, handles, -(-len(handles) // 2) if any(inferred) else min(len(handles), 10 + len(DIFFERENCE)))
    save_figure(figure, path)


def _told_inferred(class_names, inferred):
    """The names of the classes, with the words which are inferred in all hearts, or in how many. inferred: [set of
    class ids] of the hearts."""
    counts = [sum(c in mine for mine in inferred) for c in range(1, len(class_names) + 1)]
    words = {0: "", len(inferred): " (inferred)"}
    return [
        name + words.get(count, f" (inferred in {count} of {len(inferred)})")
        for name, count in zip(class_names, counts)
    ]


def foreground_box(*volumes_ras, margin_mm=0.0, spacing_mm=(1, 1, 1)):
    """(3, 2) first and last voxel of the box that holds the foreground of all volumes and a margin."""
    shape = np.array(volumes_ras[0].shape)
    found = [box_of_nonzero((v != 0).view(np.uint8)) for v in volumes_ras]
    found = [(first, end - 1) for first, end in found if (end > first).all()]
    if not found:
        return np.stack([np.zeros(3, int), shape - 1], 1)
    first, last = np.min([f for f, _ in found], 0), np.max([f for _, f in found], 0)
    margin = np.ceil(margin_mm / np.asarray(spacing_mm)).astype(int)
    return np.stack([np.maximum(first - margin, 0), np.minimum(last + margin, shape - 1)], 1)


def _draw_image(axes, image, plane, spacing_mm, shape, box):
    horizontal, vertical = [a for a in range(3) if a != PLANES[plane]]
    h_mm, v_mm = float(spacing_mm[horizontal]), float(spacing_mm[vertical])
    # voxel centres lie at index * spacing, so that points in voxels fall where they belong
    axes.imshow(
        image,
        origin="upper",
        interpolation="nearest",
        aspect="equal",
        extent=((shape[horizontal] - 0.5) * h_mm, -0.5 * h_mm, -0.5 * v_mm, (shape[vertical] - 0.5) * v_mm),
    )
    box = np.array([[0, n - 1] for n in shape]) if box is None else box
    axes.set_xlim((box[horizontal, 1] + 0.5) * h_mm, (box[horizontal, 0] - 0.5) * h_mm)  # right, or front, on the left
    axes.set_ylim((box[vertical, 0] - 0.5) * v_mm, (box[vertical, 1] + 0.5) * v_mm)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#B0B0B0")
    left, up = LEFT_UP[plane]
    axes.text(0.015, 0.5, left, transform=axes.transAxes, fontsize=6, color="#606060", va="center")
    axes.text(0.5, 0.985, up, transform=axes.transAxes, fontsize=6, color="#606060", va="top", ha="center")
