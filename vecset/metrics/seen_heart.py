"""What of a heart is seen, and the coordinates in which hearts are alike as far as that goes.

The coordinates are `aligned`: those of the frame of the given structures (the rule of Frame.from_surface, applied to
the union surface of these alone), then a shift, turn and scale that lays the surfaces of the given structures on those
of the training hearts. They depend on nothing but what is seen. Lengths are about those of `unit`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import edt
import numpy as np
from scipy import ndimage
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from vecset.common.errors import InputError
from vecset.data.case_file import Case
from vecset.data.preparation import frame_of_mesh
from vecset.geometry.mesh_distance import MeshDistance
from vecset.geometry.surface import class_boxes, crop_foreground, mask_mesh, union_mesh
from vecset.geometry.surface_smoothing import taubin
from vecset.imaging.frame import Frame
from vecset.imaging.resampling import resample_nearest

STEP = 0.035  # of the grids of distances, in radii of the heart
REACH = 0.36  # how far distances are kept, in radii of the heart
POINTS_PER_CLASS = 300  # of the surface of each given structure, for the alignment
ROBUST_UNIT = 0.05  # residuals beyond it count less and less
_EXACT = 2.0  # steps
_HOLD = 0.005  # keeps what the given structures do not decide (the turn of a ball) at that of the frame


@dataclass(frozen=True)
class SeenHeart:
    """labels (X, Y, Z) u8 with the given structures alone; affine (4, 4) voxel -> mm; ids of the classes that are
    given, and of those to infer. Other classes are known to be absent. where: names the heart in messages."""

    labels: np.ndarray
    affine: np.ndarray
    given: tuple
    hidden: tuple
    where: str = ""

    @classmethod
    def of(
        cls,
        labels: np.ndarray,
        affine: np.ndarray,
        given: Sequence[int],
        hidden: Sequence[int],
        where: object = "",
    ) -> "SeenHeart":
        """What is left of `labels` (X, Y, Z) u8 when only the classes `given` are seen. InputError where none is given,
        where a given class has no voxel, or where a class is both given and hidden."""
        given, hidden = tuple(sorted(set(given))), tuple(sorted(set(hidden)))
        if not given:
            raise InputError.because(where, "no structure is given, so nothing can be inferred", "give one or more")
        if not hidden:
            raise InputError.because(where, "no structure is left to be inferred", "leave one or more out")
        if set(given) & set(hidden):
            both = ", ".join(map(str, sorted(set(given) & set(hidden))))
            raise InputError.because(where, f"class {both} is both given and to be inferred", "name it once")
        keep = np.zeros(256, np.uint8)
        keep[list(given)] = given
        seen = keep[labels]
        lacking = sorted(set(given) - set(np.unique(seen).tolist()))
        if lacking:
            lacking = ", ".join(map(str, lacking))
            raise InputError.because(where, f"class {lacking} is given but has no voxel", "do not give it")
        return cls(seen, np.asarray(affine, np.float64), given, hidden, str(where))

    @classmethod
    def of_case(cls, case: Case, given: Sequence[int], hidden: Sequence[int] | None = None) -> "SeenHeart":
        """As `of`, of a `Case` with frame and truth; hidden: all other classes where None."""
        hidden = sorted(set(range(1, case.num_classes + 1)) - set(given)) if hidden is None else hidden
        for c in sorted({*given, *hidden} - set(range(1, case.num_classes + 1))):
            raise InputError.because(
                case.path or "", f"class {c} is not one of its {case.num_classes}", "name ids of its classes"
            )
        return cls.of(case.truth_labels(), case.frame.affine, given, hidden, case.path or "")


def frame_of(labels: np.ndarray, affine: np.ndarray) -> Frame:
    """The Frame of all foreground of labels (X, Y, Z) u8, as preparing this label map gives it."""
    crop = crop_foreground(labels, np.linalg.norm(affine[:3, :3], axis=0))
    return frame_of_mesh(crop, union_mesh(crop), affine)


def class_surfaces_mm(labels: np.ndarray, affine: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """{class: (vertices_mm (V, 3) f64, faces (F, 3) i32 wound outward)} of labels (X, Y, Z) u8: marching cubes of the
    class's mask and Taubin passes."""
    crop = crop_foreground(labels, np.linalg.norm(affine[:3, :3], axis=0))
    mirrored = np.linalg.det(affine[:3, :3]) < 0
    surfaces = {}
    for c, box in class_boxes(crop.labels):
        marched = mask_mesh(crop.labels[box], c)
        vertices = taubin(marched.vertices, marched.faces, np.zeros((len(marched.vertices), 3), bool))
        vertices = vertices.astype(np.float64) + [s.start for s in box] + crop.origin
        faces = marched.faces[:, ::-1] if mirrored else marched.faces
        surfaces[c] = vertices @ affine[:3, :3].T + affine[:3, 3], np.ascontiguousarray(faces)
    return surfaces


def moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 3) points by a (4, 4) matrix."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def frame_matrix(frame: Frame) -> np.ndarray:
    """(4, 4): mm -> unit."""
    matrix = np.diag([frame.scale] * 3 + [1.0])
    matrix[:3, 3] = -frame.scale * frame.centre_mm
    return matrix


@dataclass(frozen=True)
class Grid:
    """A regular grid: point (i, j, k) lies at low + step * (i, j, k)."""

    low: np.ndarray
    step: float
    shape: tuple

    @classmethod
    def over(cls, low: np.ndarray, high: np.ndarray, size: int) -> "Grid":
        """Of cubic cells over a box, with `size` points along its longest side."""
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        step = float((high - low).max() / (size - 1))
        return cls(low, step, tuple(int(n) for n in np.ceil((high - low) / step - 1e-9) + 1))

    @property
    def high(self) -> np.ndarray:
        return self.low + self.step * (np.array(self.shape) - 1)

    def points(self) -> np.ndarray:
        """(P, 3), the last axis fastest."""
        axes = [self.low[a] + self.step * np.arange(self.shape[a]) for a in range(3)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)

    def index(self, points: np.ndarray) -> np.ndarray:
        """(..., 3): positions in steps."""
        return (points - self.low) / self.step


@dataclass(frozen=True)
class DistanceField:
    """Signed distances in mm to one structure, on a grid round it: grid in mm; values (*grid.shape,) f16, no more than
    `most_mm` to either side, which is what holds beyond the grid."""

    grid: Grid
    values: np.ndarray
    most_mm: float

    @classmethod
    def of(
        cls,
        mask: np.ndarray,
        affine: np.ndarray,
        mesh_mm: tuple[np.ndarray, np.ndarray],
        step_mm: float,
        most_mm: float,
    ) -> "DistanceField":
        """Of a mask (X, Y, Z) with affine (4, 4) and its mesh: exact within `_EXACT` steps of the mesh; beyond it the
        distance to the nearest grid point that the mesh runs by, with the side of the mask."""
        vertices, faces = mesh_mm
        low = vertices.min(0) - most_mm
        grid = Grid(low, step_mm, tuple(int(n) for n in np.ceil((vertices.max(0) + most_mm - low) / step_mm) + 1))
        to_mm = np.diag([step_mm] * 3 + [1.0])
        to_mm[:3, 3] = low
        inside = resample_nearest(mask.astype(np.uint8), np.linalg.inv(affine) @ to_mm, grid.shape) > 0
        off_mesh = np.ones(grid.shape, np.uint8)
        off_mesh[tuple(np.rint(grid.index(_points_on(vertices, faces, step_mm))).astype(int).T)] = 0
        away = edt.edt(off_mesh)
        near = np.flatnonzero(away <= _EXACT)
        signed = np.where(inside, -away, away).ravel() * np.float32(step_mm)
        points = np.column_stack(np.unravel_index(near, grid.shape)) * step_mm
        exact, within, _ = MeshDistance(vertices - low, faces).query(points)
        signed[near] = np.where(within, -exact, exact)
        return cls(grid, np.clip(signed, -most_mm, most_mm).astype(np.float16).reshape(grid.shape), most_mm)

    def at(self, points_mm: np.ndarray) -> np.ndarray:
        """(N,) f32 mm at points (N, 3), interpolated."""
        found = np.full(len(points_mm), self.most_mm, np.float32)
        near = ((points_mm >= self.grid.low) & (points_mm <= self.grid.high)).all(1)
        index = self.grid.index(points_mm[near]).T
        found[near] = ndimage.map_coordinates(self.values.astype(np.float32), index, order=1, mode="nearest")
        return found


@dataclass(frozen=True)
class Structures:
    """The structures of a heart by class: vertices_mm {class: (V, 3) f64} of their surfaces; fields {class:
    DistanceField}."""

    vertices_mm: dict
    fields: dict

    @classmethod
    def of(cls, labels: np.ndarray, affine: np.ndarray, radius_mm: float) -> "Structures":
        """Of labels (X, Y, Z) u8. radius_mm: that of what is seen or more; it decides how fine and how far distances
        are kept (`STEP`, `REACH`)."""
        surfaces = class_surfaces_mm(labels, affine) if labels.any() else {}
        fields = {
            c: DistanceField.of(labels == c, affine, mesh, STEP * radius_mm, REACH * radius_mm)
            for c, mesh in surfaces.items()
        }
        return cls({c: vertices for c, (vertices, _) in surfaces.items()}, fields)

    def distances(self, place: np.ndarray, classes: Sequence[int], points: np.ndarray, most: float) -> np.ndarray:
        """(classes, N) f32 in `aligned`: signed distances of points (N, 3), no more than `most` to either side; `most`
        for a class that the heart does not have. place: (4, 4) mm -> aligned."""
        points_mm = moved(np.linalg.inv(place), points)
        scale = np.float32(np.cbrt(np.linalg.det(place[:3, :3])))
        found = np.full((len(classes), len(points)), most, np.float32)
        for row, c in zip(found, classes):
            if c in self.fields:
                np.clip(self.fields[c].at(points_mm) * scale, -most, most, out=row)
        return found


def _points_on(vertices, faces, most_mm):
    """(N, 3) points of a mesh, no farther than about `most_mm` from each other."""
    corners = vertices[faces]
    parts = int(np.ceil(np.linalg.norm(corners - np.roll(corners, 1, 1), axis=-1).max() / most_mm))
    shares = [(i, j, parts - i - j) for i in range(parts + 1) for j in range(parts + 1 - i)]
    return vertices if parts == 1 else np.concatenate([np.array(s) / parts @ corners for s in shares])


class Template:
    """The mean signed distances to the given structures, which `align` lays a heart's given structures on."""

    def __init__(self, grid: Grid, distances: np.ndarray):
        """distances (G, *grid.shape) f32: of the G given structures, in the order of their ids."""
        self.grid, self.distances = grid, distances

    def align(self, start: np.ndarray, surfaces_mm: Sequence[np.ndarray]) -> np.ndarray:
        """(4, 4) mm -> aligned, a similarity. start: (4, 4) mm -> unit, of the heart's frame; surfaces_mm: vertices
        (V, 3) of its given structures, in the order of their ids.

        Least squares with a robust loss (soft L1): of each structure's surface points, the template's distance to that
        structure, as in iterative closest points with a distance map (Fitzgibbon 2003)."""
        return self._align(start, surfaces_mm, range(len(surfaces_mm)))

    def align_some(self, start: np.ndarray, surfaces_mm: dict, given: Sequence[int]) -> np.ndarray:
        """As `align`, of a heart that shows some of the structures `given` alone: {class: vertices (V, 3)}."""
        return self._align(start, list(surfaces_mm.values()), [given.index(c) for c in surfaces_mm])

    def distance(self, place: np.ndarray, surfaces_mm: dict, given: Sequence[int]) -> float:
        """How far surfaces {class: vertices (V, 3)}, moved by place (4, 4), are from the template's on average: the
        mean over structures, robust against what is far."""
        found = []
        for c, vertices in surfaces_mm.items():
            at = self.grid.index(moved(place, vertices[:: -(-len(vertices) // POINTS_PER_CLASS)]))
            field = self.distances[given.index(c)]
            away = np.abs(ndimage.map_coordinates(field, at.T, order=1, mode="nearest"))
            found.append(np.minimum(away, 2 * ROBUST_UNIT).mean())
        return float(np.mean(found))

    def _align(self, start, surfaces_mm, channels):
        points = [moved(start, v[:: -(-len(v) // POINTS_PER_CLASS)]) for v in surfaces_mm]
        channel = np.repeat(np.asarray(channels), [len(p) for p in points])
        # a structure of few points counts as much as the others
        weight = np.concatenate([np.full(len(p), 1 / np.sqrt(len(p) * len(points))) for p in points])
        points = np.concatenate(points)

        def residuals(p):
            at = self.grid.index(moved(_similarity(p), points))
            values = ndimage.map_coordinates(self.distances, [channel, *at.T], order=1, mode="nearest")
            size = np.abs(values)  # soft L1, by hand: the hold below is no residual of the data
            robust = ROBUST_UNIT * np.sqrt(2 * (np.sqrt(1 + (size / ROBUST_UNIT) ** 2) - 1))
            return np.concatenate([np.sign(values) * robust * weight, _HOLD * p])

        found = least_squares(residuals, np.zeros(7), method="lm", ftol=1e-4, xtol=1e-4, diff_step=1e-4)
        return _similarity(found.x) @ start


def _similarity(p):
    """(4, 4) of shift p[:3], rotation vector p[3:6] and log scale p[6]."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.exp(p[6]) * Rotation.from_rotvec(p[3:6]).as_matrix()
    matrix[:3, 3] = p[:3]
    return matrix
