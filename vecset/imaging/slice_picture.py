"""Label slices as pixels, numpy only: which way round a plane is shown, the colours, the kinds of difference.

One convention for every picture (quality check, overview, reports, training log): the patient's right, or front, is on
the left, and up is up. `vecset/report/pictures.py` draws with it on axes in mm."""

from collections.abc import Iterable, Sequence

import numpy as np

from vecset.imaging.classes import BACKGROUND_COLOUR, class_colours, rgb

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # the RAS axis that the plane is perpendicular to
# Okabe and Ito's colours, safe for colour-blind readers (https://jfly.uni-koeln.de/color/)
DIFFERENCE = {
    "same": "#D0D0D0",
    "in truth only": "#D55E00",
    "in reconstruction only": "#0072B2",
    "another structure": "#000000",
}
GOOD, BAD = "#0072B2", "#D55E00"  # passed and failed, better and worse; always with words as well


def colour_table(colours: Iterable[str], background: str = BACKGROUND_COLOUR) -> np.ndarray:
    """(1 + len(colours), 3) u8: row 0 is the background, row c the c-th of `colours` ('#RRGGBB')."""
    return np.array([rgb(background), *(rgb(c) for c in colours)], np.uint8)


def plane_image(volume_ras: np.ndarray, plane: str, index: int) -> np.ndarray:
    """Slice `index` of a RAS volume (X, Y, Z) as it is shown: rows from the top, columns from the patient's right
    (or, of a sagittal slice, from the front). A view."""
    return np.moveaxis(volume_ras, PLANES[plane], 0)[index].T[::-1, ::-1]  # not np.take: that copies the volume first


def difference_kinds(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """u8 of the shape of two label arrays: 0 where both are background, else 1 + the place in `DIFFERENCE`."""
    kinds = np.zeros(np.shape(truth), np.uint8)
    kinds[(truth > 0) & (truth == prediction)] = 1
    kinds[(truth > 0) & (prediction == 0)] = 2
    kinds[(truth == 0) & (prediction > 0)] = 3
    kinds[(truth > 0) & (prediction > 0) & (truth != prediction)] = 4
    return kinds


def slice_picture(slices: list[list[np.ndarray]], class_names: Sequence[str], zoom: int = 3) -> np.ndarray:
    """slices: rows of (G, G) u8 label planes of unit space (x, y) -> (H, W, 3) u8, each voxel `zoom` pixels wide,
    background white. x grows to the right here: the training log shows the model's own space, not the patient."""
    rows = [np.concatenate([np.pad(plane.T[::-1], 1) for plane in row], 1) for row in slices]
    labels = np.concatenate(rows, 0).repeat(zoom, 0).repeat(zoom, 1)
    return colour_table(class_colours(class_names), "#FFFFFF")[labels]
