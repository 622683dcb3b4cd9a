"""The coordinate systems of one heart, and every conversion between them.

voxel     array indices (i, j, k) of the source image; the centre of a voxel is an integer
mm        patient space, RAS+: the NIfTI affine applied to voxel
unit      (mm - centre_mm) * scale: the union surface lies in a ball of radius 0.95 around the origin
local_mm  (voxel - origin of a crop) * spacing, along the image axes: rotated or reflected mm with another origin, so
          that distances are the same as in mm. For surfaces and distances alone: vecset/geometry/surface.py, `Crop`
"""

from dataclasses import dataclass

import numpy as np

from vecset.common.errors import InputError

UNIT_RADIUS = 0.95  # upstream VecSet has 1.0; 0.95 keeps points offset from the surface inside the unit cube
LARGEST_MM = 1e12  # a number of an affine; its square must not overflow
MAX_SHEAR = 1e-3  # largest |cos| between two image axes


@dataclass(frozen=True, eq=False)
class Frame:
    """affine (4, 4) f64 voxel -> mm; shape (3,) of the source grid; centre_mm (3,) f64; scale: unit per mm.

    Points are (..., 3); conversions return f64. Raises ValueError for other shapes or numbers that are not finite.
    """

    affine: np.ndarray
    shape: tuple
    centre_mm: np.ndarray
    scale: float

    def __post_init__(self):
        affine = np.array(self.affine, dtype=np.float64)  # a copy: it becomes read-only
        centre_mm = np.array(self.centre_mm, dtype=np.float64)
        shape = tuple(int(n) for n in self.shape)
        if affine.shape != (4, 4) or centre_mm.shape != (3,) or len(shape) != 3:
            raise ValueError(f"affine {affine.shape}, centre {centre_mm.shape}, shape {shape}: want (4, 4), (3,), 3")
        if not (np.isfinite(affine).all() and np.isfinite(centre_mm).all() and np.isfinite(self.scale)):
            raise ValueError("affine, centre and scale must be finite")
        if not self.scale > 0:
            raise ValueError(f"scale {self.scale}: want > 0")
        affine.flags.writeable = centre_mm.flags.writeable = False
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "centre_mm", centre_mm)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "scale", float(self.scale))

    @classmethod
    def from_surface(cls, affine: np.ndarray, shape: tuple, vertices_mm: np.ndarray) -> "Frame":
        """The frame of a union surface with `vertices_mm` (V, 3): its centre is the middle of their bounding box, its
        scale UNIT_RADIUS over the largest distance of a vertex from the centre."""
        vertices_mm = np.asarray(vertices_mm, dtype=np.float64)
        centre_mm, radius_mm = middle_and_radius(vertices_mm)
        return cls(affine, shape, centre_mm, UNIT_RADIUS / radius_mm)

    @property
    def spacing_mm(self) -> np.ndarray:
        """(3,) voxel size along the image axes."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def with_spacing(self, spacing_mm: float) -> "Frame":
        """The frame of a grid of cubic voxels of `spacing_mm` along the same axes, over the same field of view."""
        ratio = spacing_mm / self.spacing_mm
        shape = np.maximum(np.ceil(np.array(self.shape) / ratio - 1e-6), 1).astype(int)
        affine = np.array(self.affine)
        affine[:3, :3] *= ratio
        affine[:3, 3] = self.voxel_to_mm(0.5 * ratio - 0.5)  # the outer corners of both first voxels meet
        return Frame(affine, shape, self.centre_mm, self.scale)

    def extended(self, margin_mm: float) -> "Frame":
        """The frame of the grid with whole voxels more on every side, `margin_mm` or a little more; axes and spacing
        stay, so that its voxels are those of this grid and others round them."""
        more = np.ceil(margin_mm / self.spacing_mm - 1e-6).astype(int)
        affine = np.array(self.affine)
        affine[:3, 3] = self.voxel_to_mm(-more)
        return Frame(affine, np.array(self.shape) + 2 * more, self.centre_mm, self.scale)

    def voxel_to_mm(self, points_voxel: np.ndarray) -> np.ndarray:
        return np.asarray(points_voxel, np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def mm_to_voxel(self, points_mm: np.ndarray) -> np.ndarray:
        inverse = np.linalg.inv(self.affine[:3, :3])
        return (np.asarray(points_mm, np.float64) - self.affine[:3, 3]) @ inverse.T

    def mm_to_unit(self, points_mm: np.ndarray) -> np.ndarray:
        return (np.asarray(points_mm, np.float64) - self.centre_mm) * self.scale

    def unit_to_mm(self, points_unit: np.ndarray) -> np.ndarray:
        return np.asarray(points_unit, np.float64) / self.scale + self.centre_mm

    def voxel_to_unit(self, points_voxel: np.ndarray) -> np.ndarray:
        return self.mm_to_unit(self.voxel_to_mm(points_voxel))

    def unit_to_voxel(self, points_unit: np.ndarray) -> np.ndarray:
        return self.mm_to_voxel(self.unit_to_mm(points_unit))

    def nearest_voxel(self, points_unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, 3) i64 indices of the voxel centres nearest to (N, 3) points, and (N,) bool: inside the image."""
        index = np.rint(self.unit_to_voxel(points_unit)).astype(np.int64)
        return index, ((index >= 0) & (index < np.array(self.shape))).all(-1)


def middle_and_radius(points: np.ndarray) -> tuple[np.ndarray, np.floating]:
    """The middle (3,) of the bounding box of points (N, 3), and their largest distance from it, in their precision."""
    axes = np.ascontiguousarray(points.T)  # numpy is ten times faster along these
    middle = (axes.min(1) + axes.max(1)) / 2
    return middle, np.sqrt(((axes - middle[:, None]) ** 2).sum(0).max())


def check_affine(affine: np.ndarray, where: object) -> None:
    """Raises InputError, naming `where`, for an affine that is singular, not finite or sheared (see MAX_SHEAR)."""
    affine = np.asarray(affine, np.float64)
    if affine.shape != (4, 4) or not (np.abs(affine) < LARGEST_MM).all():
        raise InputError.because(where, "the affine is not a finite 4x4 matrix", "repair the image's header")
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if lengths.min() <= 0 or abs(np.linalg.det(axes / np.maximum(lengths, 1e-30))) < 1e-3:
        raise InputError.because(
            where,
            f"the affine cannot be inverted; its axes have the lengths {lengths.tolist()} mm",
            "repair the image's header",
        )
    cosines = (axes / lengths).T @ (axes / lengths)
    shear = float(np.abs(cosines[np.triu_indices(3, 1)]).max())
    if shear > MAX_SHEAR:
        raise InputError.because(
            where,
            f"the affine is sheared: |cos| between two axes is {shear:.4f}, more than {MAX_SHEAR:g}",
            "resample the image onto a grid without shear",
        )
