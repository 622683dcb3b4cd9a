"""The resampling limit: what the truth scores against the label map of its own surface.

Training points and the encoder's input are drawn on a smooth surface mesh of the truth, and their distances and classes
come from the field of that mesh (vecset/geometry/distance_field.py). Here the same field is evaluated at the centre of
each voxel, as a model is, and labelled by the same rule: background where the distance is >= 0, elsewhere the class of
the nearest foreground voxel. The result is the label map of a model without any error. It is not quite the truth, since
the mesh has no voxel corners, and a vessel as thin as a voxel is a smooth tube. So the limit tells what
figures a perfect model has at that spacing. It does not depend on how many points are drawn.
"""

import numpy as np
from scipy import ndimage

from vecset.data.case_file import Case
from vecset.geometry.distance_field import METHODS, UnionField
from vecset.geometry.surface import crop_foreground, union_mesh


def labels_of_own_field(case: Case) -> np.ndarray:
    """(X, Y, Z) u8 of the shape of `case.truth_crop`: the labels of the case's field at the voxels' centres. Only
    voxels with a neighbour (of 26) on the other side of the union's surface are evaluated: the others cannot change."""
    truth = np.ascontiguousarray(case.truth_crop)
    if not truth.any():
        return truth.copy()
    crop = crop_foreground(truth, case.frame.spacing_mm)
    method = case.meta.get("sampling", {}).get("sdf", METHODS[0])
    field = UnionField(crop, union_mesh(crop), method)
    mask = np.pad(truth > 0, 1, mode="edge")  # the crop has a margin of background, or ends with the image
    near = (ndimage.maximum_filter(mask, 3) != ndimage.minimum_filter(mask, 3))[1:-1, 1:-1, 1:-1]
    points_local_mm = crop.voxel_to_local_mm(np.argwhere(near))
    sdf_mm, _ = field.query(points_local_mm)
    labels = truth.copy()
    labels[near] = field.labels(points_local_mm, sdf_mm)
    return labels
