"""Hearts with parts left out as a picture: what was seen, what the network drew, the truth."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vecset.imaging.classes import class_colours
from vecset.imaging.slice_picture import PLANES
from vecset.inference.model import LoadedModel
from vecset.metrics.overlap import mean_defined
from vecset.report.completion import LeftOut, UnseenHeart, choices, dice_by_name, infer
from vecset.report.pictures import (
    draw_outline,
    draw_slices,
    foreground_box,
    legend_below,
    legend_patches,
    plain,
    save_figure,
    spacing_of,
    to_ras,
)

# what is left out of the hearts of an example picture, where the heart has such structures; then others
FIRST = ("RA", "PA", "Aorta", "LAA", "chambers", "right", "left", "vessels")
PANELS = ("seen", "network", "truth")
_BLOCKS = 2  # hearts side by side


def write_examples(
    path: str | Path, model: LoadedModel, hearts: Sequence[UnseenHeart], count: int = len(FIRST)
) -> list[tuple[str, str]]:
    """Draws up to `count` of the structures and groups left out, each from another heart as far as there are enough of
    them. Returns [(what is left out, case id)], and writes nothing where no heart has what it takes."""
    every = [choice for choice in choices(model.class_names, hearts[0].original.annotated) if choice.hidden]
    order = sorted(every, key=lambda choice: FIRST.index(choice.name) if choice.name in FIRST else len(FIRST))
    shown, left = [], list(hearts)
    for left_out in order[:count]:
        fits = [h for h in [*left, *hearts] if not h.lacks(left_out) and set(left_out.hidden) <= set(h.present)]
        if not fits:
            continue
        left = [heart for heart in left or hearts if heart is not fits[0]]
        shown.append((left_out, fits[0], infer(model, fits[0].case(left_out), fits[0].entry.case_id)))
    if shown:
        write_picture(path, shown, model.class_names, class_colours(model.class_names))
    return [(left_out.name, heart.entry.case_id) for left_out, heart, _ in shown]


def write_picture(
    path: str | Path,
    hearts: Sequence[tuple[LeftOut, UnseenHeart, np.ndarray]],
    class_names: Sequence[str],
    colours: Sequence[str],
) -> None:
    """Writes a PNG of hearts, two in a row. hearts: what is left out (structures), the heart, and the labels
    (X, Y, Z) u8 that were inferred. The slice is the one that shows most of what is left out; a black line runs round
    it. The title has the mean Dice of what is left out."""
    lines = -(-len(hearts) // _BLOCKS)
    blocks = min(_BLOCKS, len(hearts))
    height = 0.75 + 2.35 * lines
    figure = Figure(figsize=(6.6 * blocks + 0.2, height), facecolor="white")
    grid = figure.add_gridspec(
        lines,
        4 * blocks - 1,
        width_ratios=([1, 1, 1, 0.22] * blocks)[:-1],
        left=0.005,
        right=0.995,
        top=1 - 0.42 / height,
        bottom=0.4 / height,
        wspace=0.04,
        hspace=0.22,
    )
    for number, (left_out, heart, labels) in enumerate(hearts):
        row, block = divmod(number, blocks)
        axes = [figure.add_subplot(grid[row, 4 * block + k]) for k in range(3)]
        _draw_heart(axes, left_out, heart, labels, colours)
        missing = ", ".join(class_names[c - 1] for c in left_out.hidden)
        dice = mean_defined(dice_by_name(heart.whole, labels, classes=left_out.hidden).values())
        title = f"{heart.entry.case_id} without {missing}" + ("" if dice is None else f": Dice {dice:.2f}")
        axes[0].annotate(
            plain(title),
            (0, 1),
            (2, 14 if row == 0 else 3),
            xycoords="axes fraction",
            textcoords="offset points",
            va="bottom",
            fontsize=9,
            fontweight="bold",
        )
        if row == 0:
            for axis, title in zip(axes, PANELS):
                axis.set_title(title, fontsize=9, pad=2)
    legend_below(figure, legend_patches(class_names, colours), len(class_names))
    save_figure(figure, path)


def _draw_heart(axes: Sequence[Axes], left_out, heart, labels, colours):
    affine = heart.whole.frame.affine
    truth, affine_ras = to_ras(heart.whole.truth_labels(), affine)
    network, _ = to_ras(labels, affine)
    seen = np.where(np.isin(truth, heart.given(left_out)), truth, 0)
    spacing_mm = spacing_of(affine_ras)
    box = foreground_box(truth, network, margin_mm=4, spacing_mm=spacing_mm)
    hidden = np.isin(truth, left_out.hidden)
    plane, index = _fullest(hidden if hidden.any() else truth > 0)
    for axis, volume in zip(axes, (seen, network, truth)):
        draw_slices(axis, volume, plane, index, colours, spacing_mm, box)
        if volume is not seen:
            draw_outline(axis, np.isin(volume, left_out.hidden), plane, index, spacing_mm)


def _fullest(mask):
    """(plane, index) of the slice with most voxels of a RAS mask (X, Y, Z)."""
    areas = {plane: mask.sum(tuple(a for a in range(3) if a != axis)) for plane, axis in PLANES.items()}
    plane = max(areas, key=lambda p: areas[p].max())
    return plane, int(areas[plane].argmax())
