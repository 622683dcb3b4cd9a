"""A case file whose every number is a formula: a ball of radius 30 mm with a core (class 1, radius 14 mm) in a shell
cut in two halves (classes 2 and 3) and a small ball on its side (class 4, radius 5 mm, centre on the shell). The
quality check must find nothing wrong with it, and everything that is then done to it."""

import numpy as np
from scipy.spatial import cKDTree

from vecset.data.case_file import Case
from vecset.imaging.frame import Frame

RADIUS, CORE, BUD = 30.0, 14.0, 5.0
NAMES = ["Core", "Upper", "Lower", "Bud"]


def turned_affine(spacing_mm, rng, flip=False):
    """An oblique affine (proper rotation, or with a flipped axis) whose grid of `shape_for` holds the ball."""
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn)) * (-1 if flip else 1)
    affine = np.eye(4)
    affine[:3, :3] = turn * np.asarray(spacing_mm, float)
    return affine


def union_sdf_mm(points_mm, bud):
    """Exact outside and on the surface, and inside but for a sliver behind the bud."""
    return np.minimum(np.linalg.norm(points_mm, axis=-1) - RADIUS, np.linalg.norm(points_mm - bud, axis=-1) - BUD)


def analytic_case(rows=6000, spacing_mm=(1.0, 1.0, 1.0), seed=0, flip=False):
    """A good Case (path None) with `rows` points in each group."""
    rng = np.random.default_rng(seed)
    spacing_mm = np.asarray(spacing_mm, float)
    shape = np.ceil(2 * (RADIUS + BUD + 4) / spacing_mm).astype(int)
    affine = turned_affine(spacing_mm, rng, flip)
    turn = affine[:3, :3] / spacing_mm
    affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2) + rng.uniform(-0.4, 0.4, 3)
    bud = turn @ np.array([RADIUS, 0, 0.0])
    up = turn @ np.array([0, 0.6, 0.8])

    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1).reshape(-1, 3)
    grid_mm = grid @ affine[:3, :3].T + affine[:3, 3]

    def class_of(points_mm):
        distance = np.linalg.norm(points_mm, axis=1)
        labels = np.where(points_mm @ up > 0, 2, 3)
        labels[distance < CORE] = 1
        labels[np.linalg.norm(points_mm - bud, axis=1) < BUD] = 4
        labels[union_sdf_mm(points_mm, bud) >= 0] = 0
        return labels.astype(np.uint8)

    label_map = class_of(grid_mm).reshape(shape)
    filled = np.argwhere(label_map)
    low, high = np.maximum(filled.min(0) - 2, 0), np.minimum(filled.max(0) + 3, shape)
    crop = label_map[tuple(slice(a, b) for a, b in zip(low, high))]

    # outer wall, drawn evenly enough: points of both spheres that are on the union's surface
    def on_sphere(centre, radius, n):
        direction = rng.normal(size=(n, 3))
        direction /= np.linalg.norm(direction, axis=1)[:, None]
        return centre + radius * direction, direction

    def outer(n):
        a, na = on_sphere(0, RADIUS, n)
        b, nb = on_sphere(bud, BUD, n // 8)
        points, normals = np.concatenate([a, b]), np.concatenate([na, nb])
        labels = np.concatenate([np.where(a @ up > 0, 2, 3), np.full(len(b), 4)])
        keep = np.abs(union_sdf_mm(points, bud)) < 1e-6
        order = rng.permutation(np.flatnonzero(keep))
        return points[order], normals[order], labels[order]

    def inner(n):
        """The wall of the core: half the points are the core's (normal outward), half the shell's (inward)."""
        points, normals = on_sphere(0, CORE, n)
        shell = np.where(points @ up > 0, 2, 3)
        core_side = np.arange(n) % 2 == 0
        labels, other = np.where(core_side, 1, shell), np.where(core_side, shell, 1)
        return points, np.where((labels == 1)[:, None], normals, -normals), labels, other

    def surface(n):
        (po, no, lo), (pi, ni, li, other) = outer(2 * n), inner(n // 7)
        m = n - len(pi)
        return (
            np.concatenate([po[:m], pi]),
            np.concatenate([no[:m], ni]),
            np.concatenate([lo[:m], li]),
            np.concatenate([np.zeros(m), other]),
        )

    surface_mm, normals, surface_labels, _ = surface(rows)
    source_mm, source_normals, near_source, near_other = surface(rows)
    offset_mm = np.minimum(np.abs(rng.normal(0, 0.8, rows)), 1.4) * np.where(rng.permutation(rows) % 2, 1, -1)
    near_mm = source_mm + offset_mm[:, None] * source_normals
    vertices_mm = np.concatenate([on_sphere(0, RADIUS, 4000)[0], on_sphere(bud, BUD, 1000)[0]])
    frame = Frame.from_surface(affine, shape, vertices_mm)

    half = rows // 2
    cube_mm = frame.unit_to_mm(rng.uniform(-1, 1, (rows * 12, 3)))
    sdf = union_sdf_mm(cube_mm, bud)
    vol_mm = np.concatenate([cube_mm[sdf < 0][:half], cube_mm[sdf >= 0][: rows - half]])
    assert len(vol_mm) == rows

    tree = cKDTree(filled * spacing_mm)

    def stored(points_mm):
        points_unit = frame.mm_to_unit(points_mm).astype(np.float32)
        sdf_unit = (union_sdf_mm(points_mm, bud) * frame.scale).astype(np.float32)
        voxel = filled[tree.query(frame.mm_to_voxel(points_mm) * spacing_mm)[1]]
        labels = np.where(sdf_unit < 0, label_map[tuple(voxel.T)], 0).astype(np.uint8)
        return points_unit, sdf_unit, labels

    surface_unit, surface_sdf, _ = stored(surface_mm)
    near_unit, near_sdf, near_labels = stored(near_mm)
    vol_unit, vol_sdf, vol_labels = stored(vol_mm)
    arrays = {
        "surface_points": surface_unit,
        "surface_normals": normals.astype(np.float16),
        "surface_labels": surface_labels.astype(np.uint8),
        "surface_sdf": surface_sdf,
        "surface_cap": np.zeros(rows, bool),
        "near_points": near_unit,
        "near_sdf": near_sdf,
        "near_labels": near_labels,
        "near_source": near_source.astype(np.uint8),
        "near_other": near_other.astype(np.uint8),
        "vol_points": vol_unit,
        "vol_sdf": vol_sdf,
        "vol_labels": vol_labels,
    }
    meta = {
        "classes": 4,
        "class_names": NAMES,
        "annotated_classes": [1, 2, 3, 4],
        "present_classes": [1, 2, 3, 4],
        "missing_classes": [],
        "border_classes": [],
        "source_sha256": f"sha-{seed}-{spacing_mm.tolist()}",
    }
    return Case(arrays=arrays, frame=frame, truth_crop=crop, truth_origin=low, meta=meta)
