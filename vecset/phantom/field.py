"""Which structure of a synthetic heart a point lies in: signed fields of ellipsoids and tubes, and their precedence.

Two evaluations of one definition: `labels_at` takes any points and evaluates every tube segment (the reference), and
`rasterise` takes a grid and evaluates only what can reach a voxel. Both apply the same rule, so they agree.

Ellipsoids are given in anatomy space (mm); pose and warp map a point of the world (mm, RAS+) there. Tubes are given in
the world, so their radii are true mm whatever the warp does. Fields are negative inside, in mm, exact for tubes
and first-order for ellipsoids (k0 (k0 - 1) / k1, I. Quilez, https://iquilezles.org/articles/ellipsoids/).
"""

import math
from typing import NamedTuple

import numpy as np

from vecset.common.compiled import njit
from vecset.phantom.precedence import (
    CORONARY,
    CORONARY_REACH_MM,
    FAR_MM,
    FIELDS_10,
    FIELDS_16,
    FILLET_MM,
    LA,
    LA_WALL,
    LV,
    MYO,
    RA,
    RV,
    RV_WALL,
    beyond_of,
    label_of,
    union_of,
)

# the five ellipsoids and the two valve planes of a heart, by index
LV_ENDO, LV_EPI, RV_BODY, LA_BODY, RA_BODY = range(5)
MITRAL, TRICUSPID = range(2)
# mm: how round the edges at the valve planes are
_ROUND_MYO, _ROUND_LV, _ROUND_RV, _ROUND_LA, _ROUND_RA = 4.0, 8.0, 14.0, 8.0, 12.0
_SHELF_MM = 5.0  # muscle round the mitral valve, between the left ventricle and the mitral plane

# An ellipsoid in anatomy mm: (axes @ (x - centre)) / semi_axes lies on the unit sphere. The axes may be sheared.
ELLIPSOID = np.dtype([("axes", "f8", (3, 3)), ("centre", "f8", 3), ("semi_axes", "f8", 3)])
# normal . x = offset in anatomy mm; the normal points to the apex
PLANE = np.dtype([("normal", "f8", 3), ("offset", "f8")])
# A cone between two points of the world with round ends, mm. Where an end is cut, the field is at least
# normal . x - offset of that end.
SEGMENT = np.dtype(
    [
        ("start", "f8", 3),
        ("end", "f8", 3),
        ("start_radius", "f8"),
        ("end_radius", "f8"),
        ("class_id", "i8"),
        ("start_cut", "?"),
        ("end_cut", "?"),
        ("start_normal", "f8", 3),
        ("start_offset", "f8"),
        ("end_normal", "f8", 3),
        ("end_offset", "f8"),
    ],
    align=True,
)


class Pose(NamedTuple):
    """World mm -> anatomy mm: turn @ (x - translation), then a warp by waves along the anatomy axes.

    turn (3, 3): rotation transposed / scale; translation (3,) mm; waves (3, 2, 3): amplitudes in mm of sine and cosine
    along each axis; wavelength in mm.
    """

    turn: np.ndarray
    translation: np.ndarray
    waves: np.ndarray
    wavelength: float


class Geometry(NamedTuple):
    """A heart: its pose, ELLIPSOID (5,) and PLANE (2,) in anatomy space, SEGMENT (S,) in the world. `walls_mm`: the
    thickness of the walls of RV and LA (2,) of a heart of sixteen structures, (0,) of one of ten."""

    pose: Pose
    ellipsoids: np.ndarray
    planes: np.ndarray
    segments: np.ndarray
    walls_mm: np.ndarray = np.zeros(0)

    @property
    def num_fields(self) -> int:
        return FIELDS_16 if len(self.walls_mm) else FIELDS_10


@njit
def _ellipsoid(x, y, z, e):
    axes, centre, semi = e.axes, e.centre, e.semi_axes
    x, y, z = x - centre[0], y - centre[1], z - centre[2]
    a = (axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z) / semi[0]
    b = (axes[1, 0] * x + axes[1, 1] * y + axes[1, 2] * z) / semi[1]
    c = (axes[2, 0] * x + axes[2, 1] * y + axes[2, 2] * z) / semi[2]
    k0 = math.sqrt(a * a + b * b + c * c)
    k1 = math.sqrt((a / semi[0]) ** 2 + (b / semi[1]) ** 2 + (c / semi[2]) ** 2)
    if k1 < 1e-6:
        return -min(semi[0], semi[1], semi[2])
    return k0 * (k0 - 1.0) / k1


@njit
def _warp(x, y, z, pose):
    """World mm -> anatomy mm."""
    turn, shift, waves = pose.turn, pose.translation, pose.waves
    x, y, z = x - shift[0], y - shift[1], z - shift[2]
    a = turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z
    b = turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z
    c = turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z
    k = 2.0 * math.pi / pose.wavelength
    sa, ca, sb, cb, sc, cc = (
        math.sin(k * a),
        math.cos(k * a) - 1.0,
        math.sin(k * b),
        math.cos(k * b) - 1.0,
        math.sin(k * c),
        math.cos(k * c) - 1.0,
    )
    u = (
        waves[0, 0, 0] * sa
        + waves[0, 1, 0] * ca
        + waves[1, 0, 0] * sb
        + waves[1, 1, 0] * cb
        + waves[2, 0, 0] * sc
        + waves[2, 1, 0] * cc
    )
    v = (
        waves[0, 0, 1] * sa
        + waves[0, 1, 1] * ca
        + waves[1, 0, 1] * sb
        + waves[1, 1, 1] * cb
        + waves[2, 0, 1] * sc
        + waves[2, 1, 1] * cc
    )
    w = (
        waves[0, 0, 2] * sa
        + waves[0, 1, 2] * ca
        + waves[1, 0, 2] * sb
        + waves[1, 1, 2] * cb
        + waves[2, 0, 2] * sc
        + waves[2, 1, 2] * cc
    )
    return a + u, b + v, c + w


@njit
def _both(a, b, k):
    """Smooth intersection: the edge where `a` meets `b` is rounded over about k mm."""
    h = max(k - abs(a - b), 0.0)
    return max(a, b) + 0.25 * h * h / k


@njit
def _plane(x, y, z, plane):
    """Signed distance to a plane in mm, positive towards the apex."""
    normal = plane.normal
    return normal[0] * x + normal[1] * y + normal[2] * z - plane.offset


@njit
def _bodies(x, y, z, geometry, fields):
    """Joins the five chambers' bodies at a world point to `fields` (11,) or (16,), by class id."""
    ellipsoids, planes = geometry.ellipsoids, geometry.planes
    a, b, c = _warp(x, y, z, geometry.pose)
    mitral = _plane(a, b, c, planes[MITRAL])
    tricuspid = _plane(a, b, c, planes[TRICUSPID])
    fields[LV] = min(fields[LV], _both(_ellipsoid(a, b, c, ellipsoids[LV_ENDO]), _SHELF_MM - mitral, _ROUND_LV))
    fields[MYO] = min(fields[MYO], _both(_ellipsoid(a, b, c, ellipsoids[LV_EPI]), -mitral, _ROUND_MYO))
    fields[RV] = min(fields[RV], _both(_ellipsoid(a, b, c, ellipsoids[RV_BODY]), -tricuspid, _ROUND_RV))
    fields[LA] = min(fields[LA], _both(_ellipsoid(a, b, c, ellipsoids[LA_BODY]), mitral, _ROUND_LA))
    fields[RA] = min(fields[RA], _both(_ellipsoid(a, b, c, ellipsoids[RA_BODY]), tricuspid, _ROUND_RA))


@njit
def _segment(x, y, z, s):
    """Signed distance to a cone between two points with round ends, cut by its clip planes."""
    start, end = s.start, s.end
    abx, aby, abz = end[0] - start[0], end[1] - start[1], end[2] - start[2]
    px, py, pz = x - start[0], y - start[1], z - start[2]
    length2 = abx * abx + aby * aby + abz * abz
    t = 0.0
    if length2 > 0.0:
        t = min(1.0, max(0.0, (px * abx + py * aby + pz * abz) / length2))
    px, py, pz = px - t * abx, py - t * aby, pz - t * abz
    d = math.sqrt(px * px + py * py + pz * pz) - (s.start_radius + t * (s.end_radius - s.start_radius))
    if s.start_cut:
        normal = s.start_normal
        d = max(d, normal[0] * x + normal[1] * y + normal[2] * z - s.start_offset)
    if s.end_cut:
        normal = s.end_normal
        d = max(d, normal[0] * x + normal[1] * y + normal[2] * z - s.end_offset)
    return d


@njit
def _point_fields(points, geometry, reach, out):
    segments = geometry.segments
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        f = out[i]
        f[:] = FAR_MM
        _bodies(x, y, z, geometry, f)
        for n in range(segments.shape[0]):
            s = segments[n]
            start, end = s.start, s.end
            mx = 0.5 * (start[0] + end[0]) - x
            my = 0.5 * (start[1] + end[1]) - y
            mz = 0.5 * (start[2] + end[2]) - z
            hx, hy, hz = end[0] - start[0], end[1] - start[1], end[2] - start[2]
            limit = max(s.start_radius, s.end_radius) + 0.5 * math.sqrt(hx * hx + hy * hy + hz * hz) + reach
            if mx * mx + my * my + mz * mz > limit * limit:
                continue
            f[s.class_id] = min(f[s.class_id], _segment(x, y, z, s))


@njit
def _labels_of(fields, walls_mm, out):
    for i in range(fields.shape[0]):
        out[i] = label_of(fields[i])
        if len(walls_mm):
            beyond = beyond_of(fields[i], out[i], walls_mm[0], walls_mm[1])
            if beyond:
                out[i] = beyond


@njit
def _unions_of(fields, out):
    for i in range(fields.shape[0]):
        out[i] = union_of(fields[i])


def fields_at(points_mm: np.ndarray, geometry: Geometry, reach_mm: float = np.inf) -> np.ndarray:
    """(N, 11) f64, of sixteen structures (N, 16): the field of class c at each world point (N, 3) in column c, in mm,
    negative inside. Tubes further away than `reach_mm` are left out."""
    points_mm = np.ascontiguousarray(points_mm, np.float64)
    out = np.empty((len(points_mm), geometry.num_fields))
    _point_fields(points_mm, geometry, float(reach_mm), out)
    return out


def union_at(points_mm: np.ndarray, geometry: Geometry, reach_mm: float = np.inf) -> np.ndarray:
    """(N,) f64: the smooth union of all structures but the coronaries, in mm, negative inside; `reach_mm` as above."""
    fields = fields_at(points_mm, geometry, reach_mm)
    out = np.empty(len(fields))
    _unions_of(fields, out)
    return out


def labels_at(points_mm: np.ndarray, geometry: Geometry) -> np.ndarray:
    """(N,) u8 class of each world point (N, 3), 0 outside: the analytic definition itself."""
    fields = fields_at(points_mm, geometry)
    out = np.empty(len(fields), np.uint8)
    _labels_of(fields, geometry.walls_mm, out)
    return out


@njit
def _splat(fields, affine, inverse, segments, coronary_reach):
    """Joins each segment to the field of its class, in the box of voxels that it can reach."""
    shape = fields.shape[1:]
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for n in range(segments.shape[0]):
        s = segments[n]
        c, start, end = s.class_id, s.start, s.end
        reach = max(s.start_radius, s.end_radius) + (coronary_reach if c == CORONARY else 1.5 * FILLET_MM)
        for d in range(3):
            norm = math.sqrt(inverse[d, 0] ** 2 + inverse[d, 1] ** 2 + inverse[d, 2] ** 2)
            a = inverse[d, 0] * start[0] + inverse[d, 1] * start[1] + inverse[d, 2] * start[2] + inverse[d, 3]
            b = inverse[d, 0] * end[0] + inverse[d, 1] * end[1] + inverse[d, 2] * end[2] + inverse[d, 3]
            low[d] = max(0, int(math.floor(min(a, b) - reach * norm)))
            high[d] = min(shape[d], int(math.ceil(max(a, b) + reach * norm)) + 1)
        mx, my, mz = 0.5 * (start[0] + end[0]), 0.5 * (start[1] + end[1]), 0.5 * (start[2] + end[2])
        hx, hy, hz = end[0] - start[0], end[1] - start[1], end[2] - start[2]
        ball = reach + 0.5 * math.sqrt(hx**2 + hy**2 + hz**2)
        gx, gy, gz = affine[0, 2], affine[1, 2], affine[2, 2]
        g2 = gx * gx + gy * gy + gz * gz
        for i in range(low[0], high[0]):
            for j in range(low[1], high[1]):
                x0 = affine[0, 0] * i + affine[0, 1] * j + affine[0, 3]
                y0 = affine[1, 0] * i + affine[1, 1] * j + affine[1, 3]
                z0 = affine[2, 0] * i + affine[2, 1] * j + affine[2, 3]
                # the part of this row of voxels that lies in the ball round the segment
                middle = ((mx - x0) * gx + (my - y0) * gy + (mz - z0) * gz) / g2
                away = (x0 - mx) ** 2 + (y0 - my) ** 2 + (z0 - mz) ** 2 - middle * middle * g2
                if away > ball * ball:
                    continue
                half = math.sqrt((ball * ball - away) / g2)
                for k in range(
                    max(low[2], int(math.ceil(middle - half))), min(high[2], int(math.floor(middle + half)) + 1)
                ):
                    x, y, z = x0 + gx * k, y0 + gy * k, z0 + gz * k
                    value = np.float32(_segment(x, y, z, s))
                    if value < fields[c, i, j, k]:
                        fields[c, i, j, k] = value


@njit
def _rasterise(tubes, affine, geometry, labels, beyond, block):
    count = tubes.shape[0]
    f, centre = np.full(count, FAR_MM), np.empty(count)
    walls_mm = geometry.walls_mm
    nx, ny, nz = labels.shape
    step = affine[:3, :3]
    half = 0.5 * block * math.sqrt((step * step).sum())
    for bi in range(0, nx, block):
        for bj in range(0, ny, block):
            for bk in range(0, nz, block):
                ci, cj, ck = bi + 0.5 * (block - 1), bj + 0.5 * (block - 1), bk + 0.5 * (block - 1)
                centre[:] = FAR_MM
                _bodies(
                    affine[0, 0] * ci + affine[0, 1] * cj + affine[0, 2] * ck + affine[0, 3],
                    affine[1, 0] * ci + affine[1, 1] * cj + affine[1, 2] * ck + affine[1, 3],
                    affine[2, 0] * ci + affine[2, 1] * cj + affine[2, 2] * ck + affine[2, 3],
                    geometry,
                    centre,
                )
                near = min(centre[MYO], centre[RV], centre[LA], centre[RA]) < 1.8 * half + 1.5 * FILLET_MM
                for i in range(bi, min(bi + block, nx)):
                    for j in range(bj, min(bj + block, ny)):
                        for k in range(bk, min(bk + block, nz)):
                            touched = near
                            for c in range(count):
                                if c != RV_WALL and c != LA_WALL:
                                    f[c] = tubes[c, i, j, k]
                                    touched |= f[c] < FAR_MM
                            if not touched:
                                continue
                            if near:
                                _bodies(
                                    affine[0, 0] * i + affine[0, 1] * j + affine[0, 2] * k + affine[0, 3],
                                    affine[1, 0] * i + affine[1, 1] * j + affine[1, 2] * k + affine[1, 3],
                                    affine[2, 0] * i + affine[2, 1] * j + affine[2, 2] * k + affine[2, 3],
                                    geometry,
                                    f,
                                )
                            labels[i, j, k] = label_of(f)
                            if len(walls_mm):
                                beyond[i, j, k] = beyond_of(f, labels[i, j, k], walls_mm[0], walls_mm[1])


def rasterise(geometry: Geometry, affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """(X, Y, Z) u8 labels of the grid with voxel -> world mm `affine` (4, 4): `labels_at` at the voxel centres."""
    labels, beyond = rasterise_parts(geometry, affine, shape)
    return np.where(beyond, beyond, labels) if beyond.size else labels


def rasterise_parts(
    geometry: Geometry, affine: np.ndarray, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Two (X, Y, Z) u8 of the grid with voxel -> world mm `affine` (4, 4): the class of the ten at each voxel centre,
    and what takes its place in a heart of sixteen (0: nothing; an empty array for a heart of ten)."""
    affine = np.ascontiguousarray(affine, np.float64)
    sixteen = geometry.num_fields == FIELDS_16
    tubes = np.empty((geometry.num_fields, *shape), np.float32)
    for c in range(len(tubes)):
        if c not in (RV_WALL, LA_WALL):  # these have no tubes, and what is never written takes no memory
            tubes[c] = FAR_MM
    _splat(tubes, affine, np.linalg.inv(affine), geometry.segments, CORONARY_REACH_MM if sixteen else 0.01)
    labels = np.zeros(shape, np.uint8)
    beyond = np.zeros(shape if sixteen else (0, 0, 0), np.uint8)
    _rasterise(tubes, affine, geometry, labels, beyond, 4)
    return labels, beyond


def world_of(anatomy_mm: np.ndarray, pose: Pose) -> np.ndarray:
    """(N, 3) anatomy mm -> world mm by fixed-point iteration (the warp's slope is below one: it converges)."""
    anatomy_mm = np.asarray(anatomy_mm, np.float64)
    local = anatomy_mm.copy()
    for _ in range(60):
        previous = local
        local = anatomy_mm - _displacement(local, pose)
        if np.abs(local - previous).max(initial=0) < 1e-6:
            break
    return local @ np.linalg.inv(pose.turn).T + pose.translation


def _displacement(local, pose):
    angle = local * (2 * np.pi / pose.wavelength)
    sine, cosine = pose.waves[:, 0], pose.waves[:, 1]
    return np.einsum("na,ad->nd", np.sin(angle), sine) + np.einsum("na,ad->nd", np.cos(angle) - 1, cosine)
