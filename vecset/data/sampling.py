"""Points of one heart: on its surfaces, near them and in its volume, with exact counts and a minimum for every class.

The share of a class is proportional to its area (surface, near) or volume (inside), but at least a floor, so that
coronaries, appendage and veins are learned too. All draws come from one generator in a fixed order: the same seed gives
the same points.

Surfaces and distances are in `local_mm` of the heart's Crop (vecset/geometry/surface.py), points are stored in unit.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vecset.common.compiled import njit
from vecset.geometry.distance_field import UnionField
from vecset.geometry.mesh_distance import mesh_normals
from vecset.geometry.surface import UnionMesh, Walls, class_boxes
from vecset.imaging.frame import Frame

NEAR_SCALES_UNIT = (0.01, 0.03)  # standard deviations of the two offsets, half of the points each
MAX_OFFSET_UNIT = 0.0495  # the surface lies within 0.95, so that no near point leaves the unit cube
WALL_SHARE = 0.15  # at most this share of the near points comes from inner walls
MAX_PER_TRIANGLE = 20  # points per triangle of a class that a floor may cause
ROUNDS = 40  # attempts to draw a point that meets all conditions
# Attempts of a near point that is on the wrong side, or in another class than its offset says
SMALL_FROM, SHRINK_FROM = 1, 8  # with the smaller standard deviation; from then on with half of the last one each time
MOVE_AT = (4, 8, 12, 16)  # from another place of the same surface
LENIENT_FROM = 16  # the side must be right, but not the class


@dataclass
class Triangles:
    """The triangles that surface points are drawn from: the outer surface and the inner walls.

    vertices_local_mm (V, 3); vertex_normals (V, 3) outward; faces (F, 3); face_class (F,) u8; face_other (F,) u8: the
    class beyond an inner wall, 0 on the outer surface; cap (F,) bool: on a flat cap. area_mm2 (F,) is derived.
    """

    vertices_local_mm: np.ndarray
    vertex_normals: np.ndarray
    faces: np.ndarray
    face_class: np.ndarray
    face_other: np.ndarray
    cap: np.ndarray

    def __post_init__(self):
        self.area_mm2 = _areas(self.vertices_local_mm, self.faces)

    @classmethod
    def of(
        cls, mesh: UnionMesh, walls: Walls, with_caps: bool = False, vertex_normals: np.ndarray | None = None
    ) -> "Triangles":
        """The triangles of `mesh` and `walls`, those on flat caps only `with_caps`. `vertex_normals` (V, 3): those of
        `mesh`, computed where None."""
        keep = np.ones(len(mesh.faces), bool) if with_caps else ~mesh.face_cap
        normals = mesh_normals(mesh.vertices_local_mm, mesh.faces)[1] if vertex_normals is None else vertex_normals
        number = len(mesh.vertices_local_mm)
        return cls(
            vertices_local_mm=np.concatenate([mesh.vertices_local_mm, walls.vertices_local_mm]),
            vertex_normals=np.concatenate([normals, walls.vertex_normals]),
            faces=np.concatenate([mesh.faces[keep], walls.faces + number]),
            face_class=np.concatenate([mesh.face_class[keep], walls.face_class]),
            face_other=np.concatenate([np.zeros(keep.sum(), np.uint8), walls.face_other]),
            cap=np.concatenate([mesh.face_cap[keep], np.zeros(len(walls.faces), bool)]),
        )

    def draw(
        self, rng: np.random.Generator, chosen: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`count` points, uniform by area, on the triangles `chosen` (indices): local_mm (n, 3), outward unit normals
        (n, 3), triangle (n,). Stratified: one point from each of `count` equal parts of the area."""
        edges = np.cumsum(self.area_mm2[chosen])
        places = (np.arange(count) + rng.random(count)) / max(count, 1) * edges[-1]
        triangle = chosen[np.minimum(np.searchsorted(edges, places, side="right"), len(chosen) - 1)]
        u, v = rng.random((2, count))
        root = np.sqrt(u)
        weights = np.stack([1 - root, root * (1 - v), root * v], -1)[..., None]
        corners = self.faces[triangle]
        points = (self.vertices_local_mm[corners] * weights).sum(1)
        normals = (self.vertex_normals[corners] * weights).sum(1)
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        return points, normals / np.maximum(length, 1e-12), triangle


def allocate(total: int, weights: np.ndarray, floor: float) -> np.ndarray:
    """(n,) i64 whose sum is `total`, in proportion to `weights` (n,) >= 0 with a sum > 0. Each positive weight gets at
    least the share `floor` of the total; all floors together get at most half of it."""
    weights = np.asarray(weights, np.float64)
    present = weights > 0
    floor = min(floor, 0.5 / max(present.sum(), 1))
    share, raised = weights / weights.sum(), np.zeros(len(weights), bool)
    while True:
        low = present & ~raised & (share < floor)
        if not low.any():
            break
        raised |= low
        rest = present & ~raised
        share = np.where(raised, floor, 0)
        share[rest] = weights[rest] / weights[rest].sum() * (1 - floor * raised.sum())
    exact = share * total
    least = np.where(present, np.ceil(floor * total - 1e-9), 0).astype(np.int64)
    counts = np.maximum(np.floor(exact).astype(np.int64), least)
    order = np.argsort(-(exact - counts), kind="stable")  # largest remainders first; floors are kept
    place = 0
    while counts.sum() != total:
        index = order[place % len(order)] if counts.sum() < total else order[-1 - place % len(order)]
        if counts.sum() < total and present[index]:
            counts[index] += 1
        elif counts.sum() > total and counts[index] > least[index]:
            counts[index] -= 1
        place += 1
        if place > 4 * len(order) + 4:  # too few points for all floors
            index = int(np.argmax(counts if counts.sum() > total else weights))
            counts[index] += 1 if counts.sum() < total else -1
    return counts


class Group(NamedTuple):
    """Triangles that near points start from (indices), and how many points."""

    triangles: np.ndarray
    count: int


class Sampler:
    """Draws the points of one heart: points and distances in unit, f32.

    `field`, `triangles` and `frame` are those of the heart. `class_floor`: least share of the points of a present
    class; `near_scales_unit`: standard deviations of the offsets of near points. `counts` is filled by the draws:
    numbers of points by class and kind, for the case's meta.
    """

    def __init__(
        self,
        field: UnionField,
        triangles: Triangles,
        frame: Frame,
        rng: np.random.Generator,
        class_floor: float = 0.04,
        near_scales_unit: tuple[float, float] = NEAR_SCALES_UNIT,
    ):
        self.field, self.triangles, self.frame, self.rng = field, triangles, frame, rng
        self.crop = field.crop
        self.class_floor, self.near_scales_unit = class_floor, near_scales_unit
        self.counts = {}

    def to_unit(self, points_local_mm: np.ndarray) -> np.ndarray:
        """(N, 3) f32 unit of points (N, 3)."""
        return self.frame.voxel_to_unit(self.crop.local_mm_to_voxel(points_local_mm)).astype(np.float32)

    def evaluate(self, points_unit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of points (N, 3) f32 as they are stored: sdf (N,) f32 in unit, local_mm (N, 3), unknown (N,) bool."""
        local_mm = self.crop.voxel_to_local_mm(self.frame.unit_to_voxel(points_unit))
        sdf_mm, unknown = self.field.query(local_mm)
        return (sdf_mm * self.frame.scale).astype(np.float32), local_mm, unknown

    def _normals_in_patient(self, normals):
        """(N, 3) unit vectors in mm of vectors (N, 3) along the image axes: rotated, and reflected where they are."""
        axes = self.frame.affine[:3, :3] / self.frame.spacing_mm
        turned = normals @ axes.T
        return turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-12)

    # -- surface ------------------------------------------------------------------------------------------------------
    def surface(self, count: int) -> dict[str, np.ndarray]:
        """`count` points on the surfaces of all classes: the surface_* members of a case file."""
        tri = self.triangles
        present = np.unique(tri.face_class)
        areas = np.array([tri.area_mm2[tri.face_class == c].sum() for c in present])
        parts = []
        for c, n in zip(present, allocate(count, areas, self.class_floor)):
            parts.append(self._on_class(int(c), int(n)))
        points, normals, triangle, sdf = (np.concatenate(column) for column in zip(*parts))
        order = self.rng.permutation(count)
        triangle = triangle[order]
        self.counts["surface"] = _count(tri.face_class[triangle])
        self.counts["surface_walls"] = int((tri.face_other[triangle] > 0).sum())
        return {
            "surface_points": points[order],
            "surface_sdf": sdf[order],
            "surface_normals": self._normals_in_patient(normals[order]).astype(np.float16),
            "surface_labels": tri.face_class[triangle],
            "surface_cap": tri.cap[triangle],
        }

    def _on_class(self, c, count):
        """`count` points on the surface of class `c`: points (n, 3) unit, normals (n, 3), triangle (n,), sdf (n,)."""
        tri = self.triangles
        chosen = np.flatnonzero(tri.face_class == c)
        points, normals, triangle = tri.draw(self.rng, chosen, count)
        points, sdf = self.to_unit(points), np.zeros(count, np.float32)
        wall = np.flatnonzero(tri.face_other[triangle] > 0)
        sdf[wall] = self.evaluate(points[wall])[0]
        wrong = wall[sdf[wall] >= 0]  # the rim of a wall may stick out of the union a little: drawn again
        for attempt in range(ROUNDS):
            if not len(wrong):
                break
            pool = (
                chosen
                if attempt < ROUNDS // 2 or (tri.face_other[chosen] > 0).all()
                else chosen[tri.face_other[chosen] == 0]
            )
            new, new_normals, new_triangle = tri.draw(self.rng, pool, len(wrong))
            points[wrong], normals[wrong], triangle[wrong] = self.to_unit(new), new_normals, new_triangle
            sdf[wrong] = 0
            wall = tri.face_other[new_triangle] > 0
            sdf[wrong[wall]] = self.evaluate(points[wrong[wall]])[0]
            wrong = wrong[wall & (sdf[wrong] >= 0)]
        sdf[wrong] = -np.float32(1e-6)  # a wall that is all rim (of a few voxels): an inner wall is inside the union
        return points, normals, triangle, sdf

    # -- near ---------------------------------------------------------------------------------------------------------
    def near(self, count: int) -> dict[str, np.ndarray]:
        """`count` points, each offset from a surface to a random side: the near_* members of a case file."""
        tri = self.triangles
        groups = self._near_groups(count)
        base = [tri.draw(self.rng, g.triangles, g.count) for g in groups if g.count]
        start_mm, normals, triangle = (np.concatenate(column) for column in zip(*base))
        group = np.repeat(np.arange(len(groups)), [g.count for g in groups])
        outward = self.rng.random(count) < 0.5
        scale = np.array(self.near_scales_unit)[(self.rng.random(count) < 0.5).astype(int)]
        points, sdf, labels = np.zeros((count, 3), np.float32), np.zeros(count, np.float32), np.zeros(count, np.uint8)
        todo, redrawn = np.arange(count), 0
        for attempt in range(ROUNDS):
            if attempt >= SMALL_FROM:  # the structure may be thinner than the offset
                halvings = max(attempt + 1 - SHRINK_FROM, 0)
                scale[todo] = min(self.near_scales_unit) * 0.5**halvings
            if attempt in MOVE_AT:
                for g in np.unique(group[todo]):
                    rows = todo[group[todo] == g]
                    start_mm[rows], normals[rows], triangle[rows] = tri.draw(self.rng, groups[g].triangles, len(rows))
            offset_mm = _half_normal(self.rng, scale[todo]) / self.frame.scale * np.where(outward[todo], 1, -1)
            points[todo] = self.to_unit(start_mm[todo] + offset_mm[:, None] * normals[todo])
            sdf[todo], local_mm, unknown = self.evaluate(points[todo])
            labels[todo] = self.field.labels(local_mm, sdf[todo])
            c, other = tri.face_class[triangle[todo]], tri.face_other[triangle[todo]]
            side_right = np.where(other > 0, sdf[todo] < 0, (sdf[todo] >= 0) == outward[todo])
            class_right = np.where(outward[todo], labels[todo] != c, labels[todo] == c) | (attempt >= LENIENT_FROM)
            todo = todo[unknown | ~(side_right & class_right)]
            redrawn += len(todo)
            if not len(todo):
                break
        source, other = tri.face_class[triangle], tri.face_other[triangle]
        order = self.rng.permutation(count)
        self.counts["near"] = _count(source)
        self.counts["near_walls"] = int((other > 0).sum())
        self.counts["near_outside"] = int((sdf[other == 0] >= 0).sum())
        self.counts["near_redrawn"], self.counts["near_wrong_side"] = int(redrawn), len(todo)
        return {
            "near_points": points[order],
            "near_sdf": sdf[order],
            "near_labels": labels[order],
            "near_source": source[order],
            "near_other": other[order],
        }

    def _near_groups(self, count):
        """The Groups of `count` near points: the outer surface of each class, then each inner wall from both sides."""
        tri = self.triangles
        outer_of, sides_of = self._outer_and_walls()
        outer_area = np.array([tri.area_mm2[f].sum() for f in outer_of.values()])
        wall_area = np.array([np.mean([tri.area_mm2[f].sum() for f in sides]) for sides in sides_of.values()])
        wall_total = 0
        if sides_of:
            wall_total = int(count * min(WALL_SHARE, wall_area.sum() / (wall_area.sum() + outer_area.sum())))
        if not outer_area.sum():
            wall_total = count
        floor = int(np.ceil(count * min(self.class_floor, 0.5 / len(outer_of))))
        outer = self._outer_counts(count - wall_total, outer_area, [len(f) for f in outer_of.values()], floor)
        groups = [Group(f, int(n)) for f, n in zip(outer_of.values(), outer)]
        if wall_total:
            lacking = {c: max(floor - n, 0) for c, n in zip(outer_of, outer)}
            weights = self._wall_weights(wall_total, wall_area, list(sides_of), lacking)
            for sides, n in zip(sides_of.values(), allocate(wall_total, weights, 0)):
                for k, f in enumerate(sides):
                    groups.append(Group(f, int(n // len(sides) + (k < n % len(sides)))))
        return groups

    def _outer_and_walls(self):
        """{class: triangles of its outer surface} and {(class, higher class): [triangles of the inner wall between
        them, on the side of each]}; triangles as indices, keys in ascending order."""
        outer_of, sides_of = {}, {}
        kinds = self.triangles.face_class.astype(np.int64) * 256 + self.triangles.face_other
        for kind in np.unique(kinds):
            c, other = divmod(int(kind), 256)
            outer_of.setdefault(c, np.zeros(0, np.int64))
            if other:
                sides_of.setdefault((min(c, other), max(c, other)), []).append(np.flatnonzero(kinds == kind))
            else:
                outer_of[c] = np.flatnonzero(kinds == kind)
        return outer_of, {pair: sides_of[pair] for pair in sorted(sides_of)}

    @staticmethod
    def _wall_weights(total, area, pairs, lacking):
        """Weights of the inner walls between the classes `pairs`, of `area` (n,), for `total` points: by area, after
        the points that classes with little outer surface lack for their floor ({class: points})."""
        need = np.zeros(len(pairs))
        for c, lack in lacking.items():
            mine = np.array([c in pair for pair in pairs], bool)
            if lack and mine.any():
                need[mine] = np.maximum(need[mine], 2 * (lack + 1) * area[mine] / area[mine].sum())
        extra = max(total - need.sum(), 0)
        return need * min(1, total / max(need.sum(), 1)) + extra * area / area.sum()

    @staticmethod
    def _outer_counts(total, area, triangles, floor):
        """`total` points divided among the outer surfaces of all classes by `area` (n,), at least `floor` and at most
        MAX_PER_TRIANGLE times `triangles` (n,) for each."""
        if not total:
            return np.zeros(len(area), np.int64)
        counts = allocate(total, area, floor / total)
        most = MAX_PER_TRIANGLE * np.array(triangles)
        if (counts <= most).all() or most.sum() < total:
            return counts
        capped = counts > most
        rest = allocate(total - most[capped].sum(), np.where(capped, 0, area), floor / total)
        return np.where(capped, most, rest)

    # -- volume -------------------------------------------------------------------------------------------------------
    def volume(self, count: int) -> dict[str, np.ndarray]:
        """`count` points, exactly half of them (rounded down) inside (distance < 0), the others uniform in the unit
        cube outside: the vol_* members of a case file."""
        inside = self._inside(count // 2)
        outside = self._outside(count - count // 2)
        points, sdf, labels = (np.concatenate(pair) for pair in zip(inside, outside))
        order = self.rng.permutation(count)
        self.counts["inside"] = _count(inside[2])
        return {"vol_points": points[order], "vol_sdf": sdf[order], "vol_labels": labels[order]}

    def _inside(self, count):
        """`count` points inside: points (n, 3) unit, sdf (n,), classes (n,) u8; shares by volume, with class floors."""
        labels = self.crop.labels
        boxes = class_boxes(labels)
        voxels = [_class_voxels(labels[box], c) for c, box in boxes]
        volumes = [int(own.sum()) for _, own in voxels]
        parts = []
        for (c, box), (index, own), n in zip(boxes, voxels, allocate(count, volumes, self.class_floor)):
            index = index + np.array([s.start for s in box], np.int32)
            parts.append(self._inside_class(c, index, index[own], int(n)))
        return tuple(np.concatenate(column) for column in zip(*parts))

    def _inside_class(self, c, voxels, own, count):
        """`count` points inside class `c`: points (n, 3) unit, sdf (n,), class (n,) u8. Candidates come from `voxels`
        (m, 3) as in `_class_voxels`, in late rounds from `own`, those of the class."""
        kept, have = [(np.zeros((0, 3), np.float32), np.zeros(0, np.float32))], 0
        accepted = 0.97 * len(own) / len(voxels)  # share of the candidates: the surface runs between own and others
        for attempt in range(ROUNDS):
            if have >= count:
                break
            late = attempt >= ROUNDS // 2  # a structure of a few voxels: candidates close to its voxels' centres
            pool = own if late else voxels
            number = int((count - have) / accepted) + 16
            pick = pool[self.rng.integers(0, len(pool), number)]
            jitter = (self.rng.random((number, 3)) - 0.5) * (0.5 ** (attempt - ROUNDS // 2) if late else 1)
            points = self.to_unit((pick + jitter) * self.crop.spacing_mm)
            sdf, local_mm, _ = self.evaluate(points)
            good = (sdf < 0) & (self.field.labels(local_mm, sdf) == c)
            kept.append((points[good], sdf[good]))
            have += int(good.sum())
            accepted = np.clip(good.mean(), 0.1, 0.97)
        points, sdf = (np.concatenate(column)[:count] for column in zip(*kept))
        if len(points) < count:
            raise RuntimeError(f"class {c}: only {len(points)} of {count} inside points found")
        return points, sdf, np.full(count, c, np.uint8)

    def _outside(self, count):
        kept, have = [], 0
        accepted = 0.85  # share of the candidates: a heart fills about a tenth of the cube, and some of it is unknown
        while have < count:
            points = self.rng.uniform(-1, 1, (int((count - have) / accepted) + 64, 3)).astype(np.float32)
            sdf, _, unknown = self.evaluate(points)
            good = (sdf >= 0) & ~unknown
            kept.append((points[good], sdf[good]))
            have += int(good.sum())
            accepted = np.clip(good.mean(), 0.1, 0.97)
        points, sdf = (np.concatenate(column)[:count] for column in zip(*kept))
        return points, sdf, np.zeros(count, np.uint8)


@njit
def _areas(vertices, faces):
    areas = np.empty(len(faces), np.float64)
    for f in range(len(faces)):
        a, b, c = vertices[faces[f, 0]], vertices[faces[f, 1]], vertices[faces[f, 2]]
        ux, uy, uz = np.float64(b[0]) - a[0], np.float64(b[1]) - a[1], np.float64(b[2]) - a[2]
        vx, vy, vz = np.float64(c[0]) - a[0], np.float64(c[1]) - a[1], np.float64(c[2]) - a[2]
        areas[f] = 0.5 * np.sqrt((uy * vz - uz * vy) ** 2 + (uz * vx - ux * vz) ** 2 + (ux * vy - uy * vx) ** 2)
    return areas


@njit
def _class_voxels(labels, c):
    """Voxels of class `c`, and background voxels that share a face with one of them, into which the smooth surface may
    bulge: index (n, 3) i32, and (n,) bool whether the voxel is of the class. It must not touch the array's border."""
    nx, ny, nz = labels.shape
    index, mine, count = np.empty((0, 3), np.int32), np.empty(0, np.bool_), 0
    for final in range(2):  # first count, then fill
        if final:
            index, mine, count = np.empty((count, 3), np.int32), np.empty(count, np.bool_), 0
        for i in range(nx):
            for j in range(ny):
                for k in range(nz):
                    own = labels[i, j, k] == c
                    if not own:
                        if labels[i, j, k] != 0:
                            continue
                        if not (
                            (i > 0 and labels[i - 1, j, k] == c)
                            or (i + 1 < nx and labels[i + 1, j, k] == c)
                            or (j > 0 and labels[i, j - 1, k] == c)
                            or (j + 1 < ny and labels[i, j + 1, k] == c)
                            or (k > 0 and labels[i, j, k - 1] == c)
                            or (k + 1 < nz and labels[i, j, k + 1] == c)
                        ):
                            continue
                    if final:
                        index[count, 0], index[count, 1], index[count, 2], mine[count] = i, j, k, own
                    count += 1
    return index, mine


def _half_normal(rng, scale):
    """(N,) draws of |N(0, scale)|, `scale` (N,), truncated at MAX_OFFSET_UNIT."""
    offset = np.abs(rng.normal(0, 1, len(scale))) * scale
    while (wrong := offset > MAX_OFFSET_UNIT).any():
        offset[wrong] = np.abs(rng.normal(0, 1, wrong.sum())) * scale[wrong]
    return offset


def _count(classes):
    numbers = np.bincount(classes, minlength=1)
    return {str(c): int(n) for c, n in enumerate(numbers) if n}
