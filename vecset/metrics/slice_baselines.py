"""What a reconstruction from slices has to beat: two label maps that follow from the slices alone, without training.

nearest pixel           each voxel has the label of the nearest pixel of any slice, background included
distance interpolation  signed distances to each structure, found in each slice, are averaged at each voxel: a slice
                        counts by its distance to the voxel to the power -POWER, and has its value at the voxel's foot.
                        The label is that of the least mean distance, where one is negative. For a stack it is close
                        to shape-based interpolation (Raya and Udupa 1990, IEEE TMI 9:32); slices may cross.
"""

from collections.abc import Sequence

import numpy as np
from pykdtree.kdtree import KDTree
from scipy import ndimage

from vecset.geometry.contours import Plane

NAMES = ("nearest_pixel", "distance_interpolation")
POWER = 4
LARGEST_MM = 30.0  # signed distances are kept within this, also where a slice does not show a structure
NEAREST_MM = 0.5  # a slice nearer than this counts as this near
BEYOND_MM = 20.0  # of the box of all that is labelled: farther voxels are background
_AT_ONCE = 1 << 18


def label_maps(planes: Sequence[Plane], affine: np.ndarray, shape: Sequence[int]) -> dict[str, np.ndarray]:
    """{name of NAMES: labels (X, Y, Z) u8} on the grid of affine (4, 4) voxel -> mm and shape (3,). One of the planes
    has a label at least."""
    shape = tuple(int(n) for n in shape)
    found = {name: np.zeros(shape, np.uint8) for name in NAMES}
    places = [plane.pixel_centres_mm() for plane in planes]
    labels = np.concatenate([plane.labels.ravel() for plane in planes])
    shown_mm = np.concatenate(places)[labels > 0]
    low, high = shown_mm.min(0) - BEYOND_MM, shown_mm.max(0) + BEYOND_MM
    tree = KDTree(np.concatenate(places))
    fields = [_Field(plane) for plane in planes]
    classes = np.unique(labels[labels > 0])
    for start in range(0, int(np.prod(shape)), _AT_ONCE):
        flat = np.arange(start, min(start + _AT_ONCE, int(np.prod(shape))))
        mm = np.stack(np.unravel_index(flat, shape), -1) @ affine[:3, :3].T + affine[:3, 3]
        near = ((mm >= low) & (mm <= high)).all(1)
        flat, mm = flat[near], mm[near]
        if not len(flat):
            continue
        found["nearest_pixel"].ravel()[flat] = labels[tree.query(mm, k=1)[1]]
        total, weights = np.zeros((len(classes), len(mm)), np.float32), np.zeros(len(mm), np.float32)
        for field in fields:
            weight, values = field.at(mm, classes)
            weights += weight
            total += weight * values
        least = total.argmin(0)
        inside = np.take_along_axis(total, least[None], 0)[0] < 0
        found["distance_interpolation"].ravel()[flat] = np.where(inside, classes[least], 0)
    return found


class _Field:
    """Signed distances (mm) to each structure in one plane, negative inside."""

    def __init__(self, plane: Plane):
        self.plane, self.distances = plane, {}
        for c in np.unique(plane.labels[plane.labels > 0]):
            mask = plane.labels == c
            outer = ndimage.distance_transform_edt(~mask, plane.spacing_mm)
            inner = ndimage.distance_transform_edt(np.pad(mask, 1), plane.spacing_mm)[1:-1, 1:-1]
            half = plane.spacing_mm.mean() / 2  # the border lies between two pixels
            signed = np.where(mask, half - inner, outer - half)
            self.distances[int(c)] = np.clip(signed, -LARGEST_MM, LARGEST_MM).astype(np.float32)

    def at(self, mm, classes):
        """(weight (N,) f32, values (K, N) f32) of the classes (K,) at the feet of places (N, 3) in the plane."""
        plane = self.plane
        away = mm - plane.origin_mm
        weight = (np.maximum(np.abs(away @ plane.normal), NEAREST_MM) ** -POWER).astype(np.float32)
        pixel = np.rint(away @ plane.steps_mm / plane.spacing_mm**2).astype(np.int64)
        index = tuple(np.clip(pixel[:, a], 0, plane.labels.shape[a] - 1) for a in range(2))
        values = np.full((len(classes), len(mm)), LARGEST_MM, np.float32)
        for row, c in enumerate(classes):
            if int(c) in self.distances:
                values[row] = self.distances[int(c)][index]
        return weight, values
