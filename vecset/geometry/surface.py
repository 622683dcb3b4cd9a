"""Surfaces of a label map: the mesh of the union of all structures, and the inner walls where two structures touch.

Every mesh is marching cubes of a mask (Lorensen and Cline 1987), then smoothed (vecset/geometry/surface_smoothing.py).
It is watertight: the crop is padded, so that a flat cap closes structures truncated by the field of view. The triangles
of the 256 cells are those of scikit-image's "lorensen", computed once, cell by cell. The loop over the labels is our
own: all vertices of a mask lie in the middles of grid edges, and scikit-image takes five times as long.

Coordinates are `local_mm`: (voxel - origin of the crop) * spacing, along the image axes. Distances are the same as in
patient mm, because affines with shear are refused.
"""

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from skimage.measure import marching_cubes

from vecset.common.compiled import njit
from vecset.geometry.mesh_distance import mesh_normals
from vecset.geometry.surface_smoothing import fit_planes, taubin

CROP_PAD = 2  # voxels of background round the foreground box


@dataclass
class Crop:
    """A label map cropped to its foreground, and the coordinates `local_mm` of the crop.

    labels (X, Y, Z) u8, C order: the box of the foreground and CROP_PAD voxels of background on each side, also beyond
    the image; origin (3,) index of its first voxel in the image (may be negative); image_shape (3,); spacing_mm (3,)
    f64. Points are (..., 3) f64.
    """

    labels: np.ndarray
    origin: np.ndarray
    image_shape: tuple
    spacing_mm: np.ndarray

    def voxel_to_local_mm(self, points_voxel: np.ndarray) -> np.ndarray:
        return (np.asarray(points_voxel, np.float64) - self.origin) * self.spacing_mm

    def local_mm_to_voxel(self, points_local_mm: np.ndarray) -> np.ndarray:
        return np.asarray(points_local_mm, np.float64) / self.spacing_mm + self.origin

    def inside_image(self, points_local_mm: np.ndarray) -> np.ndarray:
        """(N,) bool: the point lies in a voxel of the image."""
        voxel = self.local_mm_to_voxel(points_local_mm)
        return ((voxel >= -0.5) & (voxel <= np.array(self.image_shape) - 0.5)).all(-1)


@dataclass
class UnionMesh:
    """vertices_local_mm (V, 3) f32; faces (F, 3) i32 wound outward; face_class (F,) u8 the class behind each face;
    face_cap (F,) bool: in or at the rim of a flat cap, where the field of view truncates a structure."""

    vertices_local_mm: np.ndarray
    faces: np.ndarray
    face_class: np.ndarray
    face_cap: np.ndarray


@dataclass
class Walls:
    """Inner walls: faces (F, 3) i32 of the surface of class `face_class` (F,) u8 that touch class `face_other` (F,) u8.
    vertices_local_mm (V, 3) f32; vertex_normals (V, 3) f32 and the winding of faces point out of `face_class`."""

    vertices_local_mm: np.ndarray
    vertex_normals: np.ndarray
    faces: np.ndarray
    face_class: np.ndarray
    face_other: np.ndarray


_NO_WALLS = Walls(
    vertices_local_mm=np.zeros((0, 3), np.float32),
    vertex_normals=np.zeros((0, 3), np.float32),
    faces=np.zeros((0, 3), np.int32),
    face_class=np.zeros(0, np.uint8),
    face_other=np.zeros(0, np.uint8),
)


def foreground_box(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The box of the nonzero voxels of labels (X, Y, Z) u8 that have some: first index (3,), one past the last (3,)."""
    if not (labels.flags.c_contiguous or labels.flags.f_contiguous):
        labels = np.ascontiguousarray(labels)
    if labels.flags.c_contiguous:
        start, stop = _box(labels)
    else:
        start, stop = (bound[::-1] for bound in _box(labels.T))
    return start.copy(), stop.copy()


def crop_foreground(labels: np.ndarray, spacing_mm: np.ndarray, pad: int = CROP_PAD) -> Crop:
    """The Crop of labels (X, Y, Z) u8 that have foreground."""
    start, stop = foreground_box(labels)
    origin, end = start - pad, stop + pad
    crop = np.zeros(end - origin, np.uint8)
    inner = tuple(slice(pad, -pad) for _ in range(3))
    crop[inner] = labels[tuple(slice(a, b) for a, b in zip(start, stop))]
    return Crop(crop, origin, tuple(labels.shape), np.asarray(spacing_mm, np.float64))


@njit
def _box(labels):
    start = np.array([labels.shape[0], labels.shape[1], labels.shape[2]], np.int64)
    stop = np.zeros(3, np.int64)
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            row = labels[i, j]
            first = -1
            for k in range(len(row)):
                if row[k]:
                    if first < 0:
                        first = k
                    last = k
            if first >= 0:
                start[0], start[1], start[2] = min(start[0], i), min(start[1], j), min(start[2], first)
                stop[0], stop[1], stop[2] = max(stop[0], i + 1), max(stop[1], j + 1), max(stop[2], last + 1)
    return start, stop


@dataclass
class MaskMesh:
    """Marching cubes of one mask. Each vertex is in the middle of a grid edge between a voxel inside the mask (behind)
    and one outside (front): vertices (V, 3) f32 in indices; front, behind (V,) u8 the labels of these two voxels;
    front_index (V, 3) i32 the index of the outer one; faces (F, 3) i32 wound outward."""

    vertices: np.ndarray
    faces: np.ndarray
    front: np.ndarray
    behind: np.ndarray
    front_index: np.ndarray


def mask_mesh(labels: np.ndarray, label: int = 0) -> MaskMesh:
    """The MaskMesh of the voxels of `labels` (X, Y, Z) u8 with the value `label`; 0 stands for the whole foreground.
    None of them may lie on the border of the array."""
    edges, counts = _cell_table()
    vertices, faces, front, behind, front_index = _march(np.ascontiguousarray(labels), np.uint8(label), edges, counts)
    if signed_volume(vertices, faces) < 0:  # the winding of scikit-image's table is not documented
        faces = np.ascontiguousarray(faces[:, ::-1])
    return MaskMesh(vertices, faces, front, behind, front_index)


@lru_cache(maxsize=1)
def _cell_table():
    """The triangles of the 256 ways to fill a cell's corners; bit 4 di + 2 dj + dk: corner (di, dj, dk) is in the mask.

    edges (256, 5, 3, 4) i32: for each corner of each triangle the grid edge it lies on, as its axis and its lower
    corner (di, dj, dk); counts (256,) i32: the number of triangles."""
    edges, counts = np.zeros((256, 5, 3, 4), np.int32), np.zeros(256, np.int32)
    for case in range(1, 255):
        cell = np.array([case >> bit & 1 for bit in range(8)], np.float32).reshape(2, 2, 2)
        vertices, faces, _, _ = marching_cubes(cell, 0.5, method="lorensen")
        axis = np.argmax(vertices % 1 == 0.5, axis=1)
        counts[case] = len(faces)
        edges[case, : len(faces), :, 0] = axis[faces]
        edges[case, : len(faces), :, 1:] = np.floor(vertices)[faces]
    return edges, counts


@njit
def _march(labels, label, edges, counts):
    nx, ny, nz = labels.shape
    num_vertices, num_faces = 0, 0
    for final in range(2):  # first count, then fill
        if final:
            vertices = np.empty((num_vertices, 3), np.float32)
            front, behind = np.empty(num_vertices, np.uint8), np.empty(num_vertices, np.uint8)
            front_index = np.empty((num_vertices, 3), np.int32)
            faces = np.empty((num_faces, 3), np.int32)
            numbers = np.full((3, 2, ny, nz), -1, np.int32)  # vertex on the edge (axis, plane i % 2, j, k)
            num_vertices, num_faces = 0, 0
        for i in range(nx - 1):
            if final:
                numbers[0, i % 2] = -1
                numbers[1:, (i + 1) % 2] = -1
            for j in range(ny - 1):
                case = 0
                for k in range(-1, nz - 1):
                    case = (case >> 1) & 0b01010101  # the corners at k were those at k + 1 before; even bits are k's
                    a, b = labels[i, j, k + 1], labels[i, j + 1, k + 1]
                    c, d = labels[i + 1, j, k + 1], labels[i + 1, j + 1, k + 1]
                    if label == 0:
                        case |= (a != 0) << 1 | (b != 0) << 3 | (c != 0) << 5 | (d != 0) << 7
                    else:
                        case |= (a == label) << 1 | (b == label) << 3 | (c == label) << 5 | (d == label) << 7
                    if k < 0 or case == 0 or case == 255:
                        continue
                    if not final:
                        num_faces += counts[case]
                        # the three edges that end at the corner (i + 1, j + 1, k + 1): no other cell counts them
                        num_vertices += (case >> 7 & 1) != (case >> 6 & 1)
                        num_vertices += (case >> 7 & 1) != (case >> 5 & 1)
                        num_vertices += (case >> 7 & 1) != (case >> 3 & 1)
                        continue
                    for t in range(counts[case]):
                        for corner in range(3):
                            axis, di, dj, dk = edges[case, t, corner]
                            plane = (i + di) % 2
                            number = numbers[axis, plane, j + dj, k + dk]
                            if number < 0:
                                number = num_vertices
                                num_vertices += 1
                                numbers[axis, plane, j + dj, k + dk] = number
                                x, y, z = i + di, j + dj, k + dk
                                ox, oy, oz = x + (axis == 0), y + (axis == 1), z + (axis == 2)
                                vertices[number, 0] = (x + ox) * 0.5
                                vertices[number, 1] = (y + oy) * 0.5
                                vertices[number, 2] = (z + oz) * 0.5
                                low, high = labels[x, y, z], labels[ox, oy, oz]
                                low_behind = low != 0 if label == 0 else low == label
                                behind[number] = low if low_behind else high
                                front[number] = high if low_behind else low
                                front_index[number, 0] = ox if low_behind else x
                                front_index[number, 1] = oy if low_behind else y
                                front_index[number, 2] = oz if low_behind else z
                            faces[num_faces, corner] = number
                        num_faces += 1
    return vertices, faces, front, behind, front_index


def signed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Volume inside a closed mesh of vertices (V, 3) and faces (F, 3); positive where they are wound outward."""
    return _signed_volume(np.ascontiguousarray(vertices, np.float32), faces)


@njit
def _signed_volume(vertices, faces):
    total = 0.0
    for f in range(len(faces)):
        a, b, c = vertices[faces[f, 0]], vertices[faces[f, 1]], vertices[faces[f, 2]]
        total += (
            np.float64(a[0]) * (b[1] * c[2] - b[2] * c[1])
            + a[1] * (b[2] * c[0] - b[0] * c[2])
            + a[2] * (b[0] * c[1] - b[1] * c[0])
        )
    return total / 6


def _majority(three):
    """(F,) u8 of (F, 3) u8: the value that two of the three have, else the lowest that is not 0."""
    a, b, c = three.T
    some = np.where(three == 0, 255, three).min(1)
    return np.where((a == b) | (a == c), a, np.where(b == c, b, some)).astype(np.uint8)


def _beyond_image(index, crop):
    """(V, 3) bool: which coordinates of the crop indices (V, 3) are outside the image."""
    source = index + crop.origin
    return (source < 0) | (source >= np.array(crop.image_shape))


def union_mesh(crop: Crop) -> UnionMesh:
    """The mesh of all foreground of a Crop."""
    marched = mask_mesh(crop.labels)
    fixed = _beyond_image(marched.front_index, crop)
    vertices = fit_planes(
        marched.vertices,
        taubin(marched.vertices, marched.faces, fixed),
        marched.faces,
        crop.labels,
        crop.spacing_mm,
        fixed,
    ) * crop.spacing_mm.astype(np.float32)
    return UnionMesh(
        vertices, marched.faces, _majority(marched.behind[marched.faces]), fixed.any(1)[marched.faces].any(1)
    )


def inner_walls(crop: Crop) -> Walls:
    """The inner walls of all classes of a Crop. Each wall is there twice, once for each of the two classes."""
    parts, offset = [_NO_WALLS], 0
    for c, box in class_boxes(crop.labels):
        marched = mask_mesh(crop.labels[box], c)
        touches = (marched.front > 0)[marched.faces].sum(1) >= 2
        if not touches.any():
            continue
        start = np.array([s.start for s in box])
        vertices = taubin(marched.vertices, marched.faces, _beyond_image(marched.front_index + start, crop))
        vertices = (vertices + start.astype(np.float32)) * crop.spacing_mm.astype(np.float32)
        _, normals = mesh_normals(vertices, marched.faces)
        faces = marched.faces[touches]
        face_other = _majority(marched.front[faces])
        used = np.zeros(len(vertices), bool)
        used[faces.ravel()] = True
        renumbered = (np.cumsum(used, dtype=np.int32) - 1)[faces]
        parts.append(
            Walls(
                vertices_local_mm=vertices[used],
                vertex_normals=normals[used],
                faces=renumbered + np.int32(offset),
                face_class=np.full(len(faces), c, np.uint8),
                face_other=face_other,
            )
        )
        offset += int(used.sum())
    return Walls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Walls)})


def class_boxes(labels: np.ndarray, pad: int = 1) -> list[tuple[int, tuple[slice, ...]]]:
    """[(class, the slices of its box and `pad` voxels around)] of labels (X, Y, Z) u8 with `pad` voxels of background
    at every side, in ascending order of class."""
    starts, stops = _class_boxes(np.ascontiguousarray(labels))
    return [
        (c, tuple(slice(int(a) - pad, int(b) + pad) for a, b in zip(starts[c], stops[c])))
        for c in range(1, 256)
        if stops[c, 0] > 0
    ]


@njit
def _class_boxes(labels):
    starts = np.full((256, 3), 2**31, np.int64)
    stops = np.zeros((256, 3), np.int64)
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            for k in range(labels.shape[2]):
                c = labels[i, j, k]
                if c:
                    starts[c, 0], stops[c, 0] = min(starts[c, 0], i), max(stops[c, 0], i + 1)
                    starts[c, 1], stops[c, 1] = min(starts[c, 1], j), max(stops[c, 1], j + 1)
                    starts[c, 2], stops[c, 2] = min(starts[c, 2], k), max(stops[c, 2], k + 1)
    return starts, stops
