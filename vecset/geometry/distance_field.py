"""The signed distance to the union of all structures, and the class of a point. Two methods:

`mesh`: the exact distance to the union's surface mesh. Within BAND_VOXELS of the surface the mesh decides the sign,
beyond it the mask; the tests show that the two agree at the boundary.
`edt`: the Euclidean distance transform of the voxels, corrected by half a voxel and interpolated; for comparison.

Points are in `local_mm` of a Crop (vecset/geometry/surface.py). Distances are in mm, negative inside.
"""

import edt
import numpy as np
from scipy.ndimage import distance_transform_edt, map_coordinates
from scipy.spatial import cKDTree

from vecset.common.compiled import njit
from vecset.geometry.mesh_distance import MeshDistance
from vecset.geometry.surface import Crop, UnionMesh

METHODS = ("mesh", "edt")
BAND_VOXELS = 2.0  # of the largest spacing: nearer to the surface than this, the mesh decides the sign


class UnionField:
    """The distance field of one heart; `mesh`: the UnionMesh of `crop`; `method`: one of METHODS."""

    def __init__(self, crop: Crop, mesh: UnionMesh, method: str = "mesh"):
        if method not in METHODS:
            raise ValueError(f"method {method!r} is none of {METHODS}")
        self.crop, self.mesh, self.method = crop, mesh, method
        self.surface = MeshDistance(mesh.vertices_local_mm, mesh.faces)
        self._voxel_field = VoxelField(crop) if method == "edt" else None

    def query(self, points_local_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """sdf_mm (N,) f64 at points (N, 3), and unknown (N,) bool: beyond the scan with a cap as the nearest surface,
        where the structure may or may not continue."""
        points_local_mm = np.asarray(points_local_mm, np.float64)
        distance_mm, inside, face = self.surface.query(points_local_mm)
        unknown = self.mesh.face_cap[face] & ~self.crop.inside_image(points_local_mm)
        if self._voxel_field is not None:
            return self._voxel_field.query(points_local_mm), unknown
        far = distance_mm > BAND_VOXELS * self.crop.spacing_mm.max()
        inside[far] = in_mask(points_local_mm[far], self.crop)
        return np.where(inside, -distance_mm, distance_mm), unknown

    def labels(self, points_local_mm: np.ndarray, sdf_unit: np.ndarray) -> np.ndarray:
        """(N,) u8 classes of points (N, 3): background where `sdf_unit` (N,) f32, the distance as it is stored, is
        >= 0, else the class of the nearest foreground voxel, the lower id where two are equally near."""
        labels = np.zeros(len(points_local_mm), np.uint8)
        inside = np.asarray(sdf_unit) < 0
        labels[inside] = nearest_class(points_local_mm[inside], self.crop)
        return labels


def in_mask(points_local_mm: np.ndarray, crop: Crop) -> np.ndarray:
    """(N,) bool: the voxel that holds the point is foreground. Outside the crop everything is background."""
    index = np.rint(np.asarray(points_local_mm) / crop.spacing_mm).astype(np.int64)
    valid = ((index >= 0) & (index < crop.labels.shape)).all(-1)
    found = np.zeros(len(index), bool)
    found[valid] = crop.labels[tuple(index[valid].T)] > 0
    return found


def nearest_class(points_local_mm: np.ndarray, crop: Crop) -> np.ndarray:
    """(N,) u8: class of the foreground voxel with the nearest centre in mm, the lower id where two are equally near."""
    return _nearest_class(np.ascontiguousarray(points_local_mm, np.float64), crop.labels, crop.spacing_mm)


@njit
def _nearest_class(points, labels, spacing):
    found = np.zeros(len(points), np.uint8)
    shape = labels.shape
    for n in range(len(points)):
        ci = min(max(int(np.rint(points[n, 0] / spacing[0])), 0), shape[0] - 1)
        cj = min(max(int(np.rint(points[n, 1] / spacing[1])), 0), shape[1] - 1)
        ck = min(max(int(np.rint(points[n, 2] / spacing[2])), 0), shape[2] - 1)
        here = labels[ci, cj, ck]
        gap = max(
            abs(points[n, 0] / spacing[0] - ci),
            abs(points[n, 1] / spacing[1] - cj),
            abs(points[n, 2] / spacing[2] - ck),
        )
        if here and gap < 0.5 - 1e-9:  # no other voxel's centre is nearer than that of the voxel with the point
            found[n] = here
            continue
        best, label = np.inf, 0
        for ring in range(max(shape) + 1):
            if ring > 0 and best < ((ring - 0.5) * spacing.min()) ** 2:  # all voxels of this ring are farther
                break
            for i in range(max(ci - ring, 0), min(ci + ring, shape[0] - 1) + 1):
                for j in range(max(cj - ring, 0), min(cj + ring, shape[1] - 1) + 1):
                    on_ring = abs(i - ci) == ring or abs(j - cj) == ring
                    step = 1 if on_ring else max(2 * ring, 1)
                    for k in range(ck - ring, ck + ring + 1, step):
                        if k < 0 or k >= shape[2] or labels[i, j, k] == 0:
                            continue
                        d2 = (
                            (points[n, 0] - i * spacing[0]) ** 2
                            + (points[n, 1] - j * spacing[1]) ** 2
                            + (points[n, 2] - k * spacing[2]) ** 2
                        )
                        if d2 < best * (1 - 1e-12):
                            best, label = d2, labels[i, j, k]
                        elif d2 <= best * (1 + 1e-12) and labels[i, j, k] < label:  # equally near within rounding
                            label = labels[i, j, k]
        found[n] = label
    return found


class VoxelField:
    """The distance of a crop by a distance transform of its voxels.

    Distance to the nearest voxel of the other side, less half a voxel's extent in that direction, so that it is zero on
    the surface and has slope 1. Interpolated linearly inside the crop. Beyond it: distance to the centre of the nearest
    foreground voxel, with the same correction.
    """

    def __init__(self, crop: Crop):
        self.crop = crop
        mask, spacing_mm = crop.labels > 0, crop.spacing_mm
        self.values_mm = (_corrected_edt(~mask, spacing_mm) - _corrected_edt(mask, spacing_mm)).astype(np.float32)
        shell = mask & (self.values_mm > -1.8 * spacing_mm.max())
        self._centres_local_mm = np.argwhere(shell) * spacing_mm
        self._tree = cKDTree(self._centres_local_mm)

    def query(self, points_local_mm: np.ndarray) -> np.ndarray:
        """sdf_mm (N,) f64 at points (N, 3)."""
        index = points_local_mm / self.crop.spacing_mm
        sdf_mm = map_coordinates(self.values_mm, index.T, order=1, mode="nearest").astype(np.float64)
        beyond = ((index < 0) | (index > np.array(self.crop.labels.shape) - 1)).any(1)
        if beyond.any():
            distance_mm, nearest = self._tree.query(points_local_mm[beyond])
            step_mm = points_local_mm[beyond] - self._centres_local_mm[nearest]
            sdf_mm[beyond] = distance_mm - half_extent_mm(step_mm, self.crop.spacing_mm)
        return sdf_mm


def half_extent_mm(step_mm: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """(...,) distances from a voxel's centre to its face along vectors `step_mm` (..., 3). On isotropic grids half the
    spacing in all directions, which measured more accurate there."""
    spacing_mm = np.asarray(spacing_mm, np.float64)
    if np.ptp(spacing_mm) <= 0.01 * spacing_mm.max():
        return np.full(np.shape(step_mm)[:-1], spacing_mm.mean() / 2)
    length = np.linalg.norm(step_mm, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        extent = (spacing_mm / 2 * length[..., None] / np.abs(step_mm)).min(-1)
    return np.where(length > 0, extent, 0)


def _corrected_edt(mask, spacing_mm):
    """Distance in mm from each True voxel to the nearest False one, less half a voxel; 0 in False voxels."""
    if np.ptp(spacing_mm) <= 0.01 * spacing_mm.max():
        distance_mm = edt.edt(mask, anisotropy=tuple(spacing_mm), black_border=False, parallel=1)
        return np.where(mask, distance_mm - spacing_mm.mean() / 2, 0)
    distance_mm, nearest = distance_transform_edt(mask, sampling=spacing_mm, return_indices=True)
    inside = np.nonzero(mask)
    step_mm = np.stack([(inside[a] - nearest[a][inside]) * spacing_mm[a] for a in range(3)], -1)
    corrected = np.zeros(mask.shape)
    corrected[inside] = distance_mm[inside] - half_extent_mm(step_mm, spacing_mm)
    return corrected
