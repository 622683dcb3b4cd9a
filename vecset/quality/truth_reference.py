"""Labels and the union distance from the truth of a case file, by code that shares nothing with the preparation.

The preparation uses a distance transform and a surface mesh. Here the surface is the cloud of the centres of the voxel
faces between foreground and background, smoothed locally by the plane through the nearest ones. On smooth walls the
error is about a tenth of a voxel. It is larger on walls thinner than two voxels, so this reference judges means, shares
and fits, not single points.
"""

import numpy as np
from scipy.spatial import cKDTree

from vecset.imaging.frame import Frame

_NEIGHBOURS = 12  # faces of a plane; on a flat wall they lie within two voxels
_SAME_WALL = 2.2  # voxels: faces farther away belong to another wall (a small island has fewer than twelve of its own)
_MARGIN = 3  # empty voxels around the crop, so that the 3x3x3 voxels around any voxel outside it are empty too


class TruthReference:
    """`frame`, `crop` (X, Y, Z) u8 and `origin` (3,) as in the case file (label_crop, label_origin).

    Lengths are mm along the image axes ("grid mm": voxel * spacing), that is patient space rotated or reflected.
    Distances are negative inside. Structures truncated by the field of view are closed there, as in the preparation.
    """

    def __init__(self, frame: Frame, crop: np.ndarray, origin: np.ndarray):
        self.frame, self.origin = frame, np.asarray(origin, np.int64)
        self.spacing_mm = frame.spacing_mm
        self.voxel_mm = float(self.spacing_mm.max())
        self.padded = np.pad(np.asarray(crop), _MARGIN)
        foreground = self.padded > 0
        centres, outward = [], []
        for axis in range(3):
            a = foreground[tuple(slice(0, -1) if k == axis else slice(None) for k in range(3))]
            b = foreground[tuple(slice(1, None) if k == axis else slice(None) for k in range(3))]
            flat = np.flatnonzero(a != b)
            index = np.stack(np.unravel_index(flat, a.shape), -1).astype(np.float32)
            index[:, axis] += 0.5
            direction = np.zeros((len(index), 3), np.float32)
            direction[:, axis] = np.where(a.ravel()[flat], 1, -1)
            centres.append(index)
            outward.append(direction)
        faces_voxel = np.concatenate(centres) + (self.origin - _MARGIN).astype(np.float32)
        self.faces_voxel = faces_voxel  # (F, 3) centres of the faces, in voxels of the source grid
        self.faces_grid_mm = faces_voxel.astype(np.float64) * self.spacing_mm
        self.outward = np.concatenate(outward)  # (F, 3) f32, along the image axes
        self.tree = _tree(self.faces_grid_mm)
        # the nearest faces are searched in voxels: in mm, those in a 10 mm slice would all lie on one line
        isotropic = self.spacing_mm.max() < 1.5 * self.spacing_mm.min()
        self.voxel_tree = self.tree if isotropic else _tree(self.faces_voxel)
        self._wall_points = self.faces_grid_mm if isotropic else self.faces_voxel
        self._wall_voxel = self.voxel_mm if isotropic else 1.0  # a voxel in the unit of _wall_points

    def labels_at(self, index: np.ndarray) -> np.ndarray:
        """(N,) u8 labels at voxel indices (N, 3) of the source grid; 0 outside the crop."""
        return self.padded.ravel()[self._flat(index)]

    def labels_around(self, index: np.ndarray) -> np.ndarray:
        """(N, 27) u8 labels of the 3x3x3 voxels around the voxel indices (N, 3)."""
        _, y, z = self.padded.shape
        steps = np.array([(i * y + j) * z + k for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)])
        return self.padded.ravel()[self._flat(index)[:, None] + steps]

    def _flat(self, index):
        """(N,) flat indices into the padded crop; indices beyond it are moved into its empty margin."""
        local = np.clip(index - (self.origin - _MARGIN), 1, np.array(self.padded.shape) - 2)
        return np.ravel_multi_index(tuple(local.T), self.padded.shape)

    def distance(self, points_voxel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Union distance at points (N, 3) in voxels, estimated: sdf_mm (N,), gradient (N, 3) along the image axes."""
        x = np.asarray(points_voxel, np.float64) * self.spacing_mm
        near_mm, nearest = self.tree.query(x)
        used, back = np.unique(nearest, return_inverse=True)
        centre, normal = self._planes(used)
        centre, normal = centre[back], normal[back]
        offset = x - centre
        height = (offset * normal).sum(1)
        along = offset - height[:, None] * normal
        reach = np.linalg.norm(along / self.spacing_mm, axis=1)  # in voxels
        # the plane approximates the surface only within about a voxel of its middle
        foot = centre + along * np.minimum(1, 1 / np.maximum(reach, 1e-9))[:, None]
        away = x - foot
        distance = np.linalg.norm(away, axis=1)
        inside = self.labels_at(np.rint(points_voxel).astype(np.int64)) > 0
        beside = (near_mm < 1.5 * self.voxel_mm) & (reach <= 1)
        sign = np.where(beside, np.where(height < 0, -1.0, 1.0), np.where(inside, -1.0, 1.0))
        gradient = np.where(
            (distance > 1e-6 * self.voxel_mm)[:, None],
            sign[:, None] * away / np.maximum(distance, 1e-12)[:, None],
            normal,
        )
        return sign * distance, gradient

    def _planes(self, faces):
        """Middle (n, 3) in grid mm and outward unit normal (n, 3) of the plane through the voxel faces around each of
        `faces` (n,), row numbers of `faces_voxel`."""
        count = min(_NEIGHBOURS, len(self.faces_grid_mm))
        away, around = self.voxel_tree.query(self._wall_points[faces], k=count)
        away, around = away.reshape(len(faces), count), around.reshape(len(faces), count)
        outward = self.outward[around]
        same_wall = (outward * self.outward[faces][:, None]).sum(-1) >= 0  # not the other side of a thin structure
        same_wall &= away <= _SAME_WALL * self._wall_voxel
        weight = same_wall.astype(np.float64) / same_wall.sum(1)[:, None]
        points = self.faces_grid_mm[around]
        middle = np.einsum("nk,nkd->nd", weight, points)
        centred = points - middle[:, None]
        covariance = np.einsum("nk,nkd,nke->nde", weight, centred, centred)
        normal = np.linalg.eigh(covariance)[1][:, :, 0]
        towards = np.einsum("nk,nkd->nd", weight, outward)
        normal *= np.where((normal * towards).sum(1) < 0, -1.0, 1.0)[:, None]
        return middle, normal


def _tree(points):
    return cKDTree(points, balanced_tree=False, compact_nodes=False) if len(points) else None
