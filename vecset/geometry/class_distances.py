"""The distance to the region of each class, where the labels partition the heart.

The region of class c is bounded by the triangles of the outer surface with c behind them (UnionMesh, its flat caps
included) and by those of the inner walls with c on either side (Walls). The distance is that to the nearest of these
triangles, as exact as MeshDistance. Where the rim of a wall does not quite reach the outer surface, the boundary has a
gap of less than a voxel; the distance is then to what is there.
"""

import numpy as np

from vecset.geometry.mesh_distance import MeshDistance
from vecset.geometry.surface import Crop, UnionMesh, Walls, class_boxes, mask_mesh


class ClassDistances:
    """Distances to the regions of the classes of one heart: `mesh` and `walls` are those of `crop`.

    Attribute `classes`: the sorted ids of the classes with voxels."""

    def __init__(self, crop: Crop, mesh: UnionMesh, walls: Walls):
        self._surface_of = {c: _surface(c, box, crop, mesh, walls) for c, box in class_boxes(crop.labels)}
        self.classes = list(self._surface_of)

    def query(self, points_local_mm: np.ndarray, class_id: int) -> np.ndarray:
        """(N,) f64 mm, at least 0: distance from points (N, 3) to the boundary of the region of one of `classes`."""
        return self._surface_of[class_id].query(points_local_mm)[0]


def boundary_triangles(class_id: int, mesh: UnionMesh, walls: Walls) -> tuple[np.ndarray, np.ndarray]:
    """vertices_local_mm (V, 3) f32 and faces (F, 3) i32 of the boundary of a class; vertices that no face uses too."""
    of_walls = (walls.face_class == class_id) | (walls.face_other == class_id)
    faces = [mesh.faces[mesh.face_class == class_id], walls.faces[of_walls] + len(mesh.vertices_local_mm)]
    return np.concatenate([mesh.vertices_local_mm, walls.vertices_local_mm]), np.concatenate(faces)


def _surface(c, box, crop, mesh, walls):
    vertices, faces = boundary_triangles(c, mesh, walls)
    if not len(faces):  # a few voxels, and each triangle at them has more corners at other classes
        marched = mask_mesh(crop.labels[box], c)
        start = np.array([s.start for s in box], np.float32)
        vertices, faces = (marched.vertices + start) * crop.spacing_mm.astype(np.float32), marched.faces
    used = np.zeros(len(vertices), bool)  # MeshDistance starts at the nearest vertex: each must be of a face
    used[faces.ravel()] = True
    return MeshDistance(vertices[used], (np.cumsum(used, dtype=np.int32) - 1)[faces])
