"""Contours of the structures in one plane of a heart, as the plane cuts the surfaces of vecset/geometry/surface.py.

A structure's contour is marching squares of its mask, smoothed as the surfaces are (Taubin, without the fit of planes).
Where two structures touch, the line between them belongs to both, once each, as an inner wall does. The rim of the
image is no contour: a structure that it truncates goes on there, and its surface has a flat cap that is left out, too.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from skimage.measure import find_contours

from vecset.geometry.surface_smoothing import GROW, MAX_SHIFT, PASSES, SHRINK


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice of a label map. labels (I, J) u8; origin_mm (3,): the centre of pixel (0, 0); steps_mm (3, 2): from a
    pixel to the next one along i and along j, as columns, at right angles; name: for messages."""

    labels: np.ndarray
    origin_mm: np.ndarray
    steps_mm: np.ndarray
    name: str = ""

    @property
    def spacing_mm(self) -> np.ndarray:
        """(2,) of its pixels."""
        return np.linalg.norm(self.steps_mm, axis=0)

    @property
    def normal(self) -> np.ndarray:
        """(3,) unit vector."""
        across = np.cross(*self.steps_mm.T)
        return across / np.linalg.norm(across)

    def to_mm(self, pixels: np.ndarray) -> np.ndarray:
        """(N, 3) mm of places (N, 2) in pixels."""
        return np.asarray(pixels, np.float64) @ self.steps_mm.T + self.origin_mm

    def pixel_centres_mm(self) -> np.ndarray:
        """(I * J, 3), j running fastest."""
        return self.to_mm(np.indices(self.labels.shape).reshape(2, -1).T)


@dataclass(frozen=True, eq=False)
class Contours:
    """Pieces of contours: start_mm, end_mm (S, 3); classes (S,) u8: of the structure that each belongs to."""

    start_mm: np.ndarray
    end_mm: np.ndarray
    classes: np.ndarray

    @property
    def length_mm(self) -> np.ndarray:
        """(S,)"""
        return np.linalg.norm(self.end_mm - self.start_mm, axis=1)

    def of(self, classes: Iterable[int]) -> "Contours":
        """Those of some `classes` (ids) alone."""
        mine = np.isin(self.classes, list(classes))
        return Contours(self.start_mm[mine], self.end_mm[mine], self.classes[mine])

    def evenly(self, class_id: int, count: int) -> np.ndarray:
        """(count, 3) mm, at equal lengths from each other along all contours of a class that has some."""
        mine = self.of([class_id])
        ends = np.cumsum(mine.length_mm)
        places = (np.arange(count) + 0.5) / max(count, 1) * ends[-1]
        piece = np.minimum(np.searchsorted(ends, places, side="right"), len(ends) - 1)
        part = 1 - (ends[piece] - places) / np.maximum(mine.length_mm[piece], 1e-12)
        return mine.start_mm[piece] + part[:, None] * (mine.end_mm - mine.start_mm)[piece]


def plane_contours(planes: Iterable[Plane]) -> Contours:
    """The contours of all structures in planes; those of a plane without labels are none."""
    parts = [(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, np.uint8))]
    for plane in planes:
        for c in np.unique(plane.labels[plane.labels > 0]):
            for start, end in _mask_contours(plane.labels == c):
                parts.append((plane.to_mm(start), plane.to_mm(end), np.full(len(start), c, np.uint8)))
    return Contours(*(np.concatenate(column) for column in zip(*parts)))


def _mask_contours(mask):
    """[(starts, ends)] (S, 2) in pixels: the pieces of each contour of a bool mask (I, J) but for those at the rim."""
    found = []
    for closed in find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
        start = closed[:-1] - 1  # the last vertex is the first one
        beyond = (start == -0.5) | (start == np.array(mask.shape) - 0.5)  # halfway to a pixel that the image has not
        rim = beyond.any(1)
        smooth = _taubin(start, ~beyond)
        kept = ~(rim | np.roll(rim, -1))
        found.append((smooth[kept], np.roll(smooth, -1, 0)[kept]))
    return found


def _taubin(start, free):
    """A closed polygon (V, 2) in pixels after Taubin smoothing; free (V, 2) bool: coordinates that may move."""
    polygon = start.copy()
    for half in range(2 * PASSES):
        middle = (np.roll(polygon, 1, 0) + np.roll(polygon, -1, 0)) / 2
        polygon += np.where(free, (SHRINK if half % 2 == 0 else GROW) * (middle - polygon), 0)
    return start + np.clip(polygon - start, -MAX_SHIFT, MAX_SHIFT)
