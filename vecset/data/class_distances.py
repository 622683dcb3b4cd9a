"""The signed distances to the classes at the points of a case: the *_class_sdf members of a case file.

A distance is that to the boundary of the class's region (vecset/geometry/class_distances.py), in unit. The sign is
negative exactly at points with that class as their label, so that the label of a point inside the union is the class of
the smallest distance, and outside of it no distance is negative.

A structure that the field of view truncates ends at its flat cap, as for the union's distance. What lies beyond is
unknown: the true structure may be larger, never smaller, so that the stored distance is at least the true one.
"""

import numpy as np

from vecset.common.structure_state import ABSENT_DISTANCE
from vecset.geometry.class_distances import ClassDistances
from vecset.geometry.surface import Crop, UnionMesh, Walls
from vecset.imaging.frame import Frame

ON_SURFACE_UNIT = 5e-7  # a surface point lies on its triangle but for the rounding of its coordinates to float32
SMALLEST = np.finfo(np.float16).smallest_subnormal


def class_distance_members(
    arrays: dict, crop: Crop, mesh: UnionMesh, walls: Walls, frame: Frame, num_classes: int
) -> dict[str, np.ndarray]:
    """{GROUP_class_sdf: (N, C) f16} at the points in `arrays`, the other members of the case file. `mesh` and `walls`
    are those of `crop`. A class without voxels has ABSENT_DISTANCE everywhere."""
    groups = {
        "surface": np.zeros(len(arrays["surface_points"]), np.uint8),
        "vol": arrays["vol_labels"],
        "near": arrays["near_labels"],
    }
    points_unit = np.concatenate([arrays[f"{group}_points"] for group in groups])
    local_mm = crop.voxel_to_local_mm(frame.unit_to_voxel(points_unit))
    inside = np.concatenate(list(groups.values()))
    ends = np.cumsum([len(labels) for labels in groups.values()])
    on_surface = slice(0, ends[0])
    distances = ClassDistances(crop, mesh, walls)
    found = np.full((len(points_unit), num_classes), np.float16(ABSENT_DISTANCE))
    for c in distances.classes:
        size = distances.query(local_mm, c) * frame.scale
        size[on_surface][arrays["surface_labels"] == c] = 0
        size[on_surface][size[on_surface] < ON_SURFACE_UNIT] = 0
        found[:, c - 1] = signed_float16(size, inside == c)
    return {f"{group}_class_sdf": part for group, part in zip(groups, np.split(found, ends[:-1]))}


def signed_float16(size: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(N,) f16 of distances `size` (N,) >= 0, negative where `inside` (N,) bool. A distance that would be rounded to 0
    becomes SMALLEST, and so does a 0 inside: 0 has no sign."""
    rounded = np.asarray(size).astype(np.float16)
    rounded = np.where((rounded == 0) & ((size > 0) | inside), SMALLEST, rounded)
    return np.where(inside, -rounded, rounded)
