"""The voxels of an image that are decoded, those round the unit cube or all, and the coarse cells they are grouped
into."""

from collections.abc import Iterator

import numpy as np

from vecset.imaging.frame import Frame

_CUBE_CORNERS_UNIT = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)


class CellGrid:
    """The voxels of `frame` in the box that holds the unit cube, or the ball of `radius_unit` round the frame's middle:
    `box` (slices of the whole grid) and `shape`.

    A level groups them into cells: `strides` (3,) voxels along each axis, whose centre is decoded for all of them."""

    def __init__(self, frame: Frame, radius_unit: float | None = None):
        self.radius_unit = radius_unit
        corners_voxel = frame.unit_to_voxel(_CUBE_CORNERS_UNIT * (radius_unit or 1))
        first = np.maximum(np.ceil(corners_voxel.min(0) - 1e-6), 0).astype(int)
        last = np.minimum(np.floor(corners_voxel.max(0) + 1e-6), np.array(frame.shape) - 1).astype(int)
        self.shape = tuple(int(n) for n in np.maximum(last - first + 1, 0))
        self.box = tuple(slice(a, a + n) for a, n in zip(first, self.shape))
        self.axes_unit = frame.affine[:3, :3] * frame.scale  # column a: one voxel along axis a
        self.origin_unit = frame.voxel_to_unit(first.astype(np.float64))
        self.spacing_unit = frame.spacing_mm * frame.scale

    def strides(self, level: int) -> tuple[int, int, int]:
        """Voxels per cell: `level` along the finest axis, fewer where the spacing is larger, powers of two."""
        finest = self.spacing_unit.min()
        wanted = np.log2(level * finest / self.spacing_unit)
        return tuple(int(2 ** max(0, round(float(w)))) for w in wanted)

    def cells(self, strides: tuple) -> tuple[int, int, int]:
        """How many cells cover the box along each axis."""
        return tuple(-(-n // s) for n, s in zip(self.shape, strides))

    def half_diagonal_unit(self, strides: tuple) -> float:
        """The largest distance of a voxel's centre in a cell from the cell's centre."""
        return float(np.linalg.norm((np.array(strides) - 1) / 2 * self.spacing_unit))

    def centres_unit(self, flat: np.ndarray, cells: tuple, strides: tuple) -> np.ndarray:
        """(Q, 3) f32 centres of the cells with flat index `flat` (Q,) in a level of `cells` (3,)."""
        index = np.stack(np.unravel_index(flat, cells), -1)
        voxel = index * np.array(strides) + (np.array(strides) - 1) / 2
        return (voxel @ self.axes_unit.T + self.origin_unit).astype(np.float32)

    def voxels_unit(self, flat: np.ndarray) -> np.ndarray:
        """(Q, 3) f32 centres of the voxels with flat index `flat` (Q,) in the box."""
        return self.centres_unit(flat, self.shape, (1, 1, 1))

    def slabs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Slab by slab along the first axis: flat indices, and for each whether the voxel is decoded."""
        size = self.shape[1] * self.shape[2]
        for start in range(self.shape[0]):
            flat = np.arange(start * size, (start + 1) * size)
            yield flat, self.inside(flat)

    def inside(self, flat: np.ndarray, cells: tuple = (), strides: tuple = (1, 1, 1)) -> np.ndarray:
        """(Q,) bool: whether the voxels with flat index `flat` (Q,), or the cells of a level with `cells` and
        `strides`, reach into the unit cube [-1, 1]^3, or into the ball."""
        points_unit = self.centres_unit(flat, cells or self.shape, strides)
        beyond = self.half_diagonal_unit(strides)
        if self.radius_unit:
            return np.square(points_unit).sum(-1) <= (self.radius_unit + beyond) ** 2
        return (np.abs(points_unit) <= 1 + beyond).all(-1)
