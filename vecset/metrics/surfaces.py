"""Surface distances between two masks, their components and their Euler number, in mm with the true spacing. No torch.

The surface of a mask is taken element by element, as Nikolov et al. 2018 (arXiv 1809.04430) do: each 2 x 2 x 2 block of
voxels that is neither empty nor full holds one element, at the block's middle, as large as marching cubes (Lorensen and
Cline 1987) makes the surface there. So what is averaged is area, on thick slices as on cubes, and no direction in which
voxels happen to be short counts more. Beyond the image everything is background: a structure truncated by the field of
view has a surface there.

    HD95    the distance that 95 % of the area of one surface keeps to the other; the larger of the two directions
    ASSD    the mean distance over the area of both surfaces
    NSD     the share of the area of both surfaces that lies within a tolerance of the other
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from pykdtree.kdtree import KDTree
from skimage.measure import marching_cubes, mesh_surface_area

TOLERANCES_MM = (1.0, 2.0)
PERCENT = 95


def block_codes(mask: np.ndarray) -> np.ndarray:
    """(X + 1, Y + 1, Z + 1) u8 of a bool mask (X, Y, Z): bit 4 di + 2 dj + dk is set where the voxel at (di, dj, dk) of
    the 2 x 2 x 2 block is in the mask."""
    padded = np.pad(mask, 1).astype(np.uint8)
    codes = np.zeros(tuple(n - 1 for n in padded.shape), np.uint8)
    for bit in range(8):
        corner = (bit >> 2 & 1, bit >> 1 & 1, bit & 1)
        codes |= padded[tuple(slice(d, d + n) for d, n in zip(corner, codes.shape))] << np.uint8(bit)
    return codes


def surface_metrics(truth_codes: np.ndarray, prediction_codes: np.ndarray, spacing_mm: Sequence[float]) -> dict:
    """hd95_mm, assd_mm, nsd_1mm, nsd_2mm of two masks that are not empty, from their `block_codes` of one shape;
    spacing_mm (3,) along the axes."""
    spacing_mm = tuple(float(s) for s in spacing_mm)
    areas_mm2 = element_areas_mm2(spacing_mm)
    blocks = [np.flatnonzero((codes != 0) & (codes != 255)) for codes in (truth_codes, prediction_codes)]
    area = [areas_mm2[codes.ravel()[flat]] for codes, flat in zip((truth_codes, prediction_codes), blocks)]
    shape = truth_codes.shape
    distance = [
        _distances_mm(blocks[0], blocks[1], shape, spacing_mm),
        _distances_mm(blocks[1], blocks[0], shape, spacing_mm),
    ]
    whole = area[0].sum() + area[1].sum()
    found = {
        "hd95_mm": max(_percentile(d, a) for d, a in zip(distance, area)),
        "assd_mm": sum(float(d @ a) for d, a in zip(distance, area)) / whole,
    }
    for tolerance_mm in TOLERANCES_MM:
        within = sum(a[d <= tolerance_mm].sum() for d, a in zip(distance, area))
        found[f"nsd_{tolerance_mm:g}mm"] = float(within / whole)
    return {name: float(value) for name, value in found.items()}


def _distances_mm(blocks, others, shape, spacing_mm):
    """(N,) distance of each block's middle to the nearest of `others`; both flat indices into `shape`, ascending."""
    distance_mm = np.zeros(len(blocks))
    apart = ~np.isin(blocks, others, assume_unique=True)  # the rest is in both: most of a good reconstruction
    if apart.any():
        tree, points = (
            np.stack(np.unravel_index(flat, shape), -1) * np.array(spacing_mm) for flat in (others, blocks[apart])
        )
        distance_mm[apart] = KDTree(tree).query(points, k=1)[0]
    return distance_mm


def _percentile(distance_mm, area_mm2):
    """The distance that PERCENT of the area stays within."""
    order = np.argsort(distance_mm, kind="stable")
    share = np.cumsum(area_mm2[order])
    return distance_mm[order[min(np.searchsorted(share, share[-1] * PERCENT / 100), len(order) - 1)]]


@lru_cache(maxsize=64)
def element_areas_mm2(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """(256,) area of the surface in a block of each code, at spacing_mm (3-tuple). Marching cubes chooses where a block
    can be read in two ways; here a block has the area of its complement, so that a mask's surface is its hole's."""
    areas = np.zeros(256)
    for code in sorted(range(1, 255), key=int.bit_count):
        if code.bit_count() > 4:
            areas[code] = areas[255 - code]
            continue
        block = np.array([code >> bit & 1 for bit in range(8)], np.float32).reshape(2, 2, 2)
        vertices, faces, _, _ = marching_cubes(block, 0.5, method="lorensen")
        areas[code] = mesh_surface_area(vertices * np.array(spacing_mm, np.float32), faces)
    return areas


def euler_number(codes: np.ndarray) -> int:
    """Components less tunnels plus cavities of a mask from its `block_codes`; voxels touch through faces, edges and
    corners: vertices less edges plus faces less cubes of the mask as a body of closed voxels."""
    return int(round(float(np.bincount(codes.ravel(), minlength=256) @ _euler_shares())))


@lru_cache(maxsize=1)
def _euler_shares():
    """(256,) what the grid point in the middle of a block contributes: itself, half of each of its 6 edges, a quarter
    of its 12 faces, an eighth of its 8 cubes; an edge, face or cube is there where one of the voxels round it is."""
    shares = np.zeros(256)
    for code in range(256):
        block = np.array([code >> bit & 1 for bit in range(8)], bool).reshape(2, 2, 2)
        edges = sum(np.moveaxis(block, a, 0)[side].any() for a in range(3) for side in range(2))
        faces = sum(np.moveaxis(block, a, 2)[i, j].any() for a in range(3) for i in range(2) for j in range(2))
        shares[code] = block.any() - edges / 2 + faces / 4 - block.sum() / 8
    return shares
