"""Smoothing of the stepped surface of a mask. Two methods:

`taubin`: low-pass smoothing that hardly shrinks vessels; used for every mesh. Taubin 1995, "A signal processing
approach to fair surface design".

`fit_planes`: for the outer surface, after `taubin`. The normals of neighbouring triangles are averaged repeatedly where
they are similar, so that the terraces of a mask become a slope and edges are kept. Then the vertices start again in the
middles of their grid edges and move until the surface has these normals. This halves the error of Taubin alone
(benchmarks/sdf_accuracy.py). Zheng, Fu, Au, Tai 2011, "Bilateral normal filtering for mesh denoising"; the vertex
update is that of Sun, Rosin, Martin, Langbein 2007, "Fast and effective feature-preserving mesh denoising". In vessels
the normals of opposite walls would be averaged; where the structure, or the gap to the next one, is thin (THIN_FROM,
THIN_TO), Taubin's surface is kept.

Neither moves a vertex far from its grid edge: every voxel's centre stays on its side of the surface, or next to it.
The references are in tests/geometry/test_surface_smoothing.py.
"""

import numpy as np

from vecset.common.compiled import njit
from vecset.geometry.mesh_distance import faces_of_vertices, mesh_normals

PASSES = 8  # of Taubin's pair of steps
SHRINK, GROW = 0.5, -0.53
MAX_SHIFT = 0.25  # voxels that Taubin may move a vertex along an axis: one-voxel structures keep a volume

SWEEPS = 40  # of averaging normals
ALIKE = 0.23  # two unit normals are similar where their difference is not much longer than this
STEPS = 8  # of moving vertices to the averaged normals
ALONG_EDGE, ACROSS_EDGE = 0.45, 0.4  # voxels that a vertex may move along its own grid edge, and across it
THIN_FROM, THIN_TO = 3.5, 4.5  # thickness in largest spacings: no fit below the first, full fit from the second on


def taubin(
    vertices: np.ndarray, faces: np.ndarray, fixed: np.ndarray | None = None, passes: int = PASSES
) -> np.ndarray:
    """(V, 3) f32: the vertices (V, 3) of a closed mesh in indices after Taubin smoothing; faces (F, 3).

    `fixed` (V, 3) bool: coordinates that stay, to keep caps flat. No vertex moves farther than MAX_SHIFT along an axis.
    """
    free = np.ones(vertices.shape, bool) if fixed is None else ~fixed
    return _taubin(np.ascontiguousarray(vertices, np.float32), faces, free, passes)


def fit_planes(
    start: np.ndarray,
    smoothed: np.ndarray,
    faces: np.ndarray,
    labels: np.ndarray,
    spacing_mm: np.ndarray,
    fixed: np.ndarray | None = None,
) -> np.ndarray:
    """(V, 3) f32: vertices in indices, fitted to averaged normals.

    `start` (V, 3): of marching cubes, in the middles of grid edges; `smoothed` (V, 3): the same after `taubin`; `faces`
    (F, 3) i32 wound outward; `labels` (X, Y, Z) u8: the mask's voxels are not 0; `fixed` (V, 3) bool as in `taubin`.
    """
    spacing_mm = np.asarray(spacing_mm, np.float64)
    scale = (spacing_mm / spacing_mm.max()).astype(np.float32)  # lengths in largest spacings, so that angles are true
    smoothed, start = smoothed * scale, np.ascontiguousarray(start, np.float32)
    face_normals, vertex_normals = mesh_normals(smoothed, faces)
    gate = _thickness_gate(smoothed, vertex_normals, labels, scale, THIN_FROM, THIN_TO)
    first, around = faces_of_vertices(faces, len(start))
    neighbours = _face_neighbours(faces, first, around, gate)
    normals = _average_normals(face_normals, _areas(smoothed, faces), neighbours, np.float32(ALIKE), SWEEPS)
    limit = np.where(start % 1 == 0.5, np.float32(ALONG_EDGE), np.float32(ACROSS_EDGE)) * scale
    if fixed is not None:
        limit[fixed] = 0
    fitted = _move(start * scale, limit, normals, faces, first, around, gate, STEPS)
    return (smoothed + gate[:, None] * (fitted - smoothed)) / scale


@njit
def _taubin(start, faces, free, passes):
    # In a closed mesh each directed edge belongs to one face: the sum over directed edges is the sum over neighbours.
    vertices = start.copy()
    count = np.zeros(len(start), np.float32)
    for f in range(len(faces)):
        for k in range(3):
            count[faces[f, k]] += 1
    total = np.empty_like(start)
    for half in range(2 * passes):
        weight = np.float32(SHRINK if half % 2 == 0 else GROW)
        total[:] = 0
        for f in range(len(faces)):
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            for i in range(3):
                total[a, i] += vertices[b, i]
                total[b, i] += vertices[c, i]
                total[c, i] += vertices[a, i]
        for v in range(len(start)):
            if count[v] > 0:
                for i in range(3):
                    if free[v, i]:
                        vertices[v, i] += weight * (total[v, i] / count[v] - vertices[v, i])
    for v in range(len(start)):
        for i in range(3):
            shift = vertices[v, i] - start[v, i]
            vertices[v, i] = start[v, i] + min(max(shift, np.float32(-MAX_SHIFT)), np.float32(MAX_SHIFT))
    return vertices


@njit
def _thickness_gate(vertices, normals, labels, scale, low, high):
    """(V,) f32: 0 where the mask behind a vertex or the background before it is thinner than `low`, 1 from `high` on,
    linear between. Lengths in largest spacings; sampled along the normal in steps of a quarter."""
    gate = np.empty(len(vertices), np.float32)
    for v in range(len(vertices)):
        depth, clear = 0.75, True
        while clear and depth < high:
            depth += 0.25
            for side in (-1, 1):
                i = int(np.rint((vertices[v, 0] + side * depth * normals[v, 0]) / scale[0]))
                j = int(np.rint((vertices[v, 1] + side * depth * normals[v, 1]) / scale[1]))
                k = int(np.rint((vertices[v, 2] + side * depth * normals[v, 2]) / scale[2]))
                held = (
                    0 <= i < labels.shape[0]
                    and 0 <= j < labels.shape[1]
                    and 0 <= k < labels.shape[2]
                    and labels[i, j, k] > 0
                )
                clear &= held == (side < 0)
        gate[v] = 1 if clear else min(max((depth - low) / (high - low), 0), 1)
    return gate


@njit
def _areas(vertices, faces):
    areas = np.empty(len(faces), np.float32)
    for f in range(len(faces)):
        a, b, c = vertices[faces[f, 0]], vertices[faces[f, 1]], vertices[faces[f, 2]]
        ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
        vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
        areas[f] = np.sqrt((uy * vz - uz * vy) ** 2 + (uz * vx - ux * vz) ** 2 + (ux * vy - uy * vx) ** 2) / 2
    return areas


@njit
def _face_neighbours(faces, first, around, gate):
    """(F, 3) i32: the face beyond the edge from corner k to corner k + 1; -1 where no corner of the face may move."""
    neighbours = np.full((len(faces), 3), -1, np.int32)
    for f in range(len(faces)):
        if gate[faces[f, 0]] <= 0 and gate[faces[f, 1]] <= 0 and gate[faces[f, 2]] <= 0:
            continue
        for k in range(3):
            a, b = faces[f, k], faces[f, (k + 1) % 3]
            for place in range(first[a], first[a + 1]):
                g = around[place]
                if (
                    (faces[g, 0] == b and faces[g, 1] == a)
                    or (faces[g, 1] == b and faces[g, 2] == a)
                    or (faces[g, 2] == b and faces[g, 0] == a)
                ):
                    neighbours[f, k] = g
                    break
    return neighbours


@njit(fastmath={"contract", "arcp"})
def _average_normals(normals, areas, neighbours, alike, sweeps):
    """(F, 3) f32: normals averaged with those of their neighbours, face by face (Gauss-Seidel), each sweep in the
    opposite direction of the last; averaging all faces at once would need twice as many sweeps.

    Weight of a neighbour: its area times (1 - d^2 / (10 alike^2))^4, where d is the length of the difference of the two
    normals. This is exp(-d^2 / (2 alike^2)) within 0.05, zero beyond d = 3.2 alike, and cheaper.
    """
    normals = normals.copy()
    steep, one, nothing = np.float32(0.1) / (alike * alike), np.float32(1), np.float32(0)
    for sweep in range(sweeps):
        for place in range(len(normals)):
            f = place if sweep % 2 == 0 else len(normals) - 1 - place
            x, y, z = normals[f, 0], normals[f, 1], normals[f, 2]
            sx, sy, sz = x * areas[f], y * areas[f], z * areas[f]
            for k in range(3):
                g = neighbours[f, k]
                if g < 0:
                    continue
                p, q, r = normals[g, 0], normals[g, 1], normals[g, 2]
                weight = max(one - ((p - x) ** 2 + (q - y) ** 2 + (r - z) ** 2) * steep, nothing)
                weight *= weight
                weight *= weight * areas[g]
                sx += weight * p
                sy += weight * q
                sz += weight * r
            length = np.sqrt(sx * sx + sy * sy + sz * sz)
            if length > 0:
                normals[f, 0], normals[f, 1], normals[f, 2] = sx / length, sy / length, sz / length
    return normals


@njit
def _move(start, limit, normals, faces, first, around, gate, steps):
    """(V, 3) f32: vertices after `steps` moves, never farther than `limit` (V, 3) from `start`. A move is the mean,
    over the faces at the vertex, of the way along the face's averaged normal to the plane through the face's centre."""
    vertices, third = start.copy(), np.float32(1 / 3)
    for _ in range(steps):
        for v in range(len(vertices)):
            count = first[v + 1] - first[v]
            if gate[v] <= 0 or count == 0:
                continue
            sx, sy, sz = np.float32(0), np.float32(0), np.float32(0)
            for place in range(first[v], first[v + 1]):
                f = around[place]
                a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
                nx, ny, nz = normals[f, 0], normals[f, 1], normals[f, 2]
                way = (
                    ((vertices[a, 0] + vertices[b, 0] + vertices[c, 0]) * third - vertices[v, 0]) * nx
                    + ((vertices[a, 1] + vertices[b, 1] + vertices[c, 1]) * third - vertices[v, 1]) * ny
                    + ((vertices[a, 2] + vertices[b, 2] + vertices[c, 2]) * third - vertices[v, 2]) * nz
                )
                sx += way * nx
                sy += way * ny
                sz += way * nz
            share = np.float32(1) / np.float32(count)
            for i, moved in enumerate((sx * share, sy * share, sz * share)):
                shift = vertices[v, i] + moved - start[v, i]
                vertices[v, i] = start[v, i] + min(max(shift, -limit[v, i]), limit[v, i])
    return vertices
