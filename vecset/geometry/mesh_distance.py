"""The distance from points to a closed triangle mesh, and the side of the mesh that each point is on.

The nearest vertex (pykdtree) bounds the distance; then a tree of bounding boxes over the triangles in Morton order is
searched with numba. This is exact for every mesh, also for the long triangles of thick slices, where a k-d tree of the
vertices alone is not. Beyond FAR times the longest edge only the triangles around the nearest vertex are searched. The
distance is then too long by at most 0.167 / FAR of that edge, because no point of a triangle is farther than 0.578 of
its longest edge from all three corners.

Sign: the pseudonormal of the nearest feature (face, edge or vertex), Baerentzen and Aanaes 2005, "Signed distance
computation using the angle weighted pseudonormal". Distance to a triangle: Ericson 2005, "Real-Time Collision
Detection", section 5.1.5. The reference is in tests/geometry/test_mesh_distance.py.
"""

from typing import NamedTuple

import numpy as np
from pykdtree.kdtree import KDTree

from vecset.common.compiled import njit

LEAF = 4  # triangles per leaf
FAR = 3.0  # longest edges: beyond, the error is below 0.056 of an edge
_FACE, _VERTEX, _EDGE = 0, 1, 4  # feature codes: 0 = face; 1..3 = vertex 0..2; 4..6 = edge 01, 12, 20


class _Search(NamedTuple):
    """What `_nearest` searches, a mesh of V vertices and F faces in two orders of its faces: that of the tree, in which
    nearby triangles are neighbours, and that of `faces`."""

    triangles: np.ndarray  # (F, 9) f32 corners, in the order of the tree
    discs: np.ndarray  # (F, 7) see `_discs`, in the order of the tree
    boxes: np.ndarray  # (2 P, 6) see `_build_tree`
    face_of: np.ndarray  # (F,) i32 face of a place in the tree
    place_of: np.ndarray  # (F,) i32 place in the tree of a face
    faces: np.ndarray  # (F, 3) i32
    face_normals: np.ndarray  # (F, 3) f32
    vertex_normals: np.ndarray  # (V, 3) f32
    first: np.ndarray  # (V + 1,) i32 see `faces_of_vertices`
    around: np.ndarray  # (3 F,) i32
    far: float  # beyond this distance only the faces at the nearest vertex are searched


class MeshDistance:
    """Distances to a closed mesh: `vertices` (V, 3) in any unit of length, `faces` (F, 3) wound outward.

    Attribute `vertex_normals` (V, 3) f32: angle-weighted, of unit length, outward. Raises ValueError without faces.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray):
        self.vertices = np.ascontiguousarray(vertices, np.float32)
        self.faces = np.ascontiguousarray(faces, np.int32)
        if not len(self.faces):
            raise ValueError("a mesh without faces has no distance")
        self.face_normals, self.vertex_normals = mesh_normals(self.vertices, self.faces)
        first, around = faces_of_vertices(self.faces, len(self.vertices))
        corners = self.vertices[self.faces]
        order = np.argsort(morton_codes(corners.mean(1)), kind="stable").astype(np.int32)
        place = np.empty_like(order)
        place[order] = np.arange(len(order), dtype=np.int32)
        triangles = np.ascontiguousarray(corners[order].reshape(-1, 9))
        self._search = _Search(
            triangles=triangles,
            discs=_discs(triangles),
            boxes=_build_tree(triangles),
            face_of=order,
            place_of=place,
            faces=self.faces,
            face_normals=self.face_normals,
            vertex_normals=self.vertex_normals,
            first=first,
            around=around,
            far=FAR * np.sqrt(_longest_edge_2(self.vertices, self.faces)),
        )
        self._vertex_tree = KDTree(self.vertices, leafsize=16)

    def query(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of points (N, 3): distance (N,) f64 >= 0, inside (N,) bool by the pseudonormal, nearest face (N,) i32."""
        points = np.ascontiguousarray(points, np.float64)
        if not len(points):
            return np.zeros(0), np.zeros(0, bool), np.zeros(0, np.int32)
        order = np.argsort(morton_codes(points), kind="stable")  # successive points are neighbours and share the cache
        points = points[order]
        to_vertex, vertex = self._vertex_tree.query(points.astype(np.float32), k=1)
        found = _nearest(points, vertex.astype(np.int64), to_vertex, self._search)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        distance, side, face = (column[back] for column in found)
        return distance, side < 0, face


def mesh_normals(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Face normals (F, 3) f32 and angle-weighted vertex normals (V, 3) f32, of unit length (0 where degenerate)."""
    return _normals(np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32))


def morton_codes(points: np.ndarray) -> np.ndarray:
    """(N,) i64: the places of points (N, 3) on a Z-order curve through their bounding cube (21 bits per axis)."""
    points = np.ascontiguousarray(points, np.float32)
    low = points.min(0)
    extent = max(float((points.max(0) - low).max()), 1e-30)
    return _interleave(points, low, np.float32((2**21 - 1) / extent))


@njit
def _interleave(points, low, scale):
    codes = np.empty(len(points), np.int64)
    for n in range(len(points)):
        code = np.int64(0)
        for axis in range(3):
            x = np.int64((points[n, axis] - low[axis]) * scale) & 0x1FFFFF
            x = (x | (x << 32)) & 0x1F00000000FFFF
            x = (x | (x << 16)) & 0x1F0000FF0000FF
            x = (x | (x << 8)) & 0x100F00F00F00F00F
            x = (x | (x << 4)) & 0x10C30C30C30C30C3
            x = (x | (x << 2)) & 0x1249249249249249
            code |= x << axis
        codes[n] = code
    return codes


@njit
def _normals(vertices, faces):
    face_normals = np.zeros((len(faces), 3), np.float32)
    sums = np.zeros((len(vertices), 3), np.float64)
    edge = np.empty((3, 3), np.float64)
    for f in range(len(faces)):
        for k in range(3):
            for i in range(3):
                edge[k, i] = vertices[faces[f, (k + 1) % 3], i] - vertices[faces[f, k], i]
        nx = edge[0, 1] * edge[1, 2] - edge[0, 2] * edge[1, 1]
        ny = edge[0, 2] * edge[1, 0] - edge[0, 0] * edge[1, 2]
        nz = edge[0, 0] * edge[1, 1] - edge[0, 1] * edge[1, 0]
        length = np.sqrt(nx * nx + ny * ny + nz * nz)
        if length < 1e-20:
            continue
        nx, ny, nz = nx / length, ny / length, nz / length
        face_normals[f, 0], face_normals[f, 1], face_normals[f, 2] = nx, ny, nz
        for k in range(3):
            j = (k + 2) % 3
            dot = -(edge[k, 0] * edge[j, 0] + edge[k, 1] * edge[j, 1] + edge[k, 2] * edge[j, 2])
            angle = np.arctan2(length, dot)  # both have the factor |a| |b|
            v = faces[f, k]
            sums[v, 0] += angle * nx
            sums[v, 1] += angle * ny
            sums[v, 2] += angle * nz
    vertex_normals = np.zeros((len(vertices), 3), np.float32)
    for v in range(len(vertices)):
        length = np.sqrt(sums[v, 0] ** 2 + sums[v, 1] ** 2 + sums[v, 2] ** 2)
        if length > 1e-20:
            for i in range(3):
                vertex_normals[v, i] = sums[v, i] / length
    return face_normals, vertex_normals


@njit
def faces_of_vertices(faces: np.ndarray, num_vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """CSR lists `first` (V + 1,), `around` (3 F,) i32: the faces at vertex v are around[first[v] : first[v + 1]]."""
    first = np.zeros(num_vertices + 1, np.int32)
    for f in range(len(faces)):
        for k in range(3):
            first[faces[f, k] + 1] += 1
    for v in range(num_vertices):
        first[v + 1] += first[v]
    place = first[:-1].copy()
    around = np.empty(3 * len(faces), np.int32)
    for f in range(len(faces)):
        for k in range(3):
            v = faces[f, k]
            around[place[v]] = f
            place[v] += 1
    return first, around


@njit
def _build_tree(triangles):
    """Boxes (2 P, 6) f32, low and high along x, y, z, of a complete binary tree: the root is node 1, the children of n
    are 2n and 2n + 1 (adjacent in memory), leaf j is node P + j and holds LEAF triangles."""
    leaves = (len(triangles) + LEAF - 1) // LEAF
    size = 1
    while size < leaves:
        size *= 2
    boxes = np.empty((2 * size, 6), np.float32)
    boxes[:, 0::2], boxes[:, 1::2] = np.inf, -np.inf
    for t in range(len(triangles)):
        node = size + t // LEAF
        for k in range(9):
            x, i = triangles[t, k], 2 * (k % 3)
            boxes[node, i], boxes[node, i + 1] = min(boxes[node, i], x), max(boxes[node, i + 1], x)
    for node in range(size - 1, 0, -1):
        for i in range(0, 6, 2):
            boxes[node, i] = min(boxes[2 * node, i], boxes[2 * node + 1, i])
            boxes[node, i + 1] = max(boxes[2 * node, i + 1], boxes[2 * node + 1, i + 1])
    return boxes


@njit
def _discs(triangles):
    """(F, 7) f32: centre, unit normal and radius (rounded up) of a disc that contains each triangle. Testing whether a
    sphere reaches the disc takes a fifth of the time of the distance, and excludes most triangles of a leaf."""
    discs = np.empty((len(triangles), 7), np.float32)
    for t in range(len(triangles)):
        ax, ay, az = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = triangles[t, 3] - ax, triangles[t, 4] - ay, triangles[t, 5] - az
        vx, vy, vz = triangles[t, 6] - ax, triangles[t, 7] - ay, triangles[t, 8] - az
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        length = max(np.sqrt(nx * nx + ny * ny + nz * nz), np.float32(1e-30))
        cx, cy, cz = ax + (ux + vx) / 3, ay + (uy + vy) / 3, az + (uz + vz) / 3
        radius_2 = 0.0
        for k in range(0, 9, 3):
            radius_2 = max(
                radius_2,
                (triangles[t, k] - cx) ** 2 + (triangles[t, k + 1] - cy) ** 2 + (triangles[t, k + 2] - cz) ** 2,
            )
        discs[t, 0], discs[t, 1], discs[t, 2] = cx, cy, cz
        discs[t, 3], discs[t, 4], discs[t, 5] = nx / length, ny / length, nz / length
        discs[t, 6] = np.sqrt(radius_2) * 1.0001
    return discs


@njit
def _longest_edge_2(vertices, faces):
    longest = 0.0
    for f in range(len(faces)):
        for k in range(3):
            a, b = vertices[faces[f, k]], vertices[faces[f, (k + 1) % 3]]
            longest = max(longest, (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2)
    return longest


@njit(inline="always")
def _box_distance_2(x, y, z, boxes, node):
    dx = max(boxes[node, 0] - x, 0.0, x - boxes[node, 1])
    dy = max(boxes[node, 2] - y, 0.0, y - boxes[node, 3])
    dz = max(boxes[node, 4] - z, 0.0, z - boxes[node, 5])
    return dx * dx + dy * dy + dz * dz


@njit(inline="always")
def _beyond_disc(x, y, z, discs, t, reach_2):
    """Whether all of disc `t` is farther from the point than the square root of `reach_2`."""
    cx, cy, cz = x - discs[t, 0], y - discs[t, 1], z - discs[t, 2]
    height = cx * discs[t, 3] + cy * discs[t, 4] + cz * discs[t, 5]
    left_2 = 1.0001 * reach_2 - height * height  # squared radius of the circle in which the sphere cuts the plane
    if left_2 < 0:
        return True
    radius = discs[t, 6]
    sideways_2 = cx * cx + cy * cy + cz * cz - height * height
    return sideways_2 > 1.0001 * (radius * radius + left_2 + 2 * radius * np.sqrt(left_2))


@njit(inline="always")
def _closest(px, py, pz, triangles, t):
    """The point of triangle `t` (row of 9) nearest to p: squared distance, feature code, vector from it to p."""
    ax, ay, az = np.float64(triangles[t, 0]), np.float64(triangles[t, 1]), np.float64(triangles[t, 2])
    ux, uy, uz = triangles[t, 3] - ax, triangles[t, 4] - ay, triangles[t, 5] - az
    vx, vy, vz = triangles[t, 6] - ax, triangles[t, 7] - ay, triangles[t, 8] - az
    wx, wy, wz = px - ax, py - ay, pz - az
    d1 = ux * wx + uy * wy + uz * wz
    d2 = vx * wx + vy * wy + vz * wz
    if d1 <= 0 and d2 <= 0:
        return wx * wx + wy * wy + wz * wz, _VERTEX, wx, wy, wz
    uu = ux * ux + uy * uy + uz * uz
    uv = ux * vx + uy * vy + uz * vz
    vv = vx * vx + vy * vy + vz * vz
    d3, d4 = d1 - uu, d2 - uv  # seen from the second corner
    if d3 >= 0 and d4 <= d3:
        s, r, feature = 1.0, 0.0, _VERTEX + 1
    else:
        d5, d6 = d1 - uv, d2 - vv  # seen from the third
        area_c = d1 * d4 - d3 * d2
        area_b = d5 * d2 - d1 * d6
        area_a = d3 * d6 - d5 * d4
        if d6 >= 0 and d5 <= d6:
            s, r, feature = 0.0, 1.0, _VERTEX + 2
        elif area_c <= 0 and d1 >= 0 and d3 <= 0:
            s, r, feature = d1 / max(d1 - d3, 1e-300), 0.0, _EDGE
        elif area_b <= 0 and d2 >= 0 and d6 <= 0:
            s, r, feature = 0.0, d2 / max(d2 - d6, 1e-300), _EDGE + 2
        elif area_a <= 0 and d4 - d3 >= 0 and d5 - d6 >= 0:
            r = (d4 - d3) / max((d4 - d3) + (d5 - d6), 1e-300)
            s, feature = 1.0 - r, _EDGE + 1
        else:
            total = area_a + area_b + area_c
            s, r, feature = area_b / total, area_c / total, _FACE
    qx, qy, qz = wx - s * ux - r * vx, wy - s * uy - r * vy, wz - s * uz - r * vz
    return qx * qx + qy * qy + qz * qz, feature, qx, qy, qz


@njit
def _nearest(points, vertex, to_vertex, search):
    """Of points (N, 3) with the nearest `vertex` (N,) at the distance `to_vertex` (N,): distance (N,), side (N,) < 0
    inside, nearest face (N,)."""
    boxes, triangles, discs = search.boxes, search.triangles, search.discs
    face_of, place_of, faces = search.face_of, search.place_of, search.faces
    face_normals, vertex_normals = search.face_normals, search.vertex_normals
    first, around = search.first, search.around
    distance = np.empty(len(points), np.float64)
    side = np.empty(len(points), np.float64)
    face = np.empty(len(points), np.int32)
    size = len(boxes) // 2
    stack = np.empty(64, np.int64)
    bound = np.empty(64, np.float64)
    for n in range(len(points)):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        best, f, feature, qx, qy, qz = np.inf, 0, 0, 0.0, 0.0, 0.0
        for place in range(first[vertex[n]], first[vertex[n] + 1]):
            g = around[place]
            d2, code, ex, ey, ez = _closest(x, y, z, triangles, place_of[g])
            if d2 < best:
                best, f, feature, qx, qy, qz = d2, g, code, ex, ey, ez
        depth = 0 if to_vertex[n] > search.far else 1
        stack[0], bound[0] = 1, 0.0
        while depth:
            depth -= 1
            if bound[depth] >= best:
                continue
            node = stack[depth]
            while node < size:
                left, right = 2 * node, 2 * node + 1
                dl = _box_distance_2(x, y, z, boxes, left)
                dr = _box_distance_2(x, y, z, boxes, right)
                if dr < dl:
                    left, right, dl, dr = right, left, dr, dl
                if dr < best:
                    stack[depth], bound[depth] = right, dr
                    depth += 1
                if dl >= best:
                    node = -1
                    break
                node = left
            if node < 0:
                continue
            start = (node - size) * LEAF
            for t in range(start, min(start + LEAF, len(triangles))):
                if _beyond_disc(x, y, z, discs, t, best):
                    continue
                d2, code, ex, ey, ez = _closest(x, y, z, triangles, t)
                if d2 < best:
                    best, f, feature, qx, qy, qz = d2, face_of[t], code, ex, ey, ez
        nx, ny, nz = face_normals[f, 0], face_normals[f, 1], face_normals[f, 2]
        if _VERTEX <= feature < _EDGE:
            v = faces[f, feature - _VERTEX]
            nx, ny, nz = vertex_normals[v, 0], vertex_normals[v, 1], vertex_normals[v, 2]
        elif feature >= _EDGE:
            v, w = faces[f, feature - _EDGE], faces[f, (feature - _EDGE + 1) % 3]
            for place in range(first[v], first[v + 1]):
                g = around[place]
                if g != f and (faces[g, 0] == w or faces[g, 1] == w or faces[g, 2] == w):
                    nx, ny, nz = nx + face_normals[g, 0], ny + face_normals[g, 1], nz + face_normals[g, 2]
        distance[n] = np.sqrt(best)
        side[n] = qx * nx + qy * ny + qz * nz
        face[n] = f
    return distance, side, face
