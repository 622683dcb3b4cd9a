"""Tiny case files with a known field: a ball of radius 0.8 unit cut into classes by planes x = const."""

import csv
from pathlib import Path

import numpy as np

from vecset.common.structure_state import ABSENT_DISTANCE
from vecset.data.case_file import Case, write_case
from vecset.imaging.frame import Frame

RADIUS = 0.8
SIZE = 24  # voxels per axis, over the cube [-1, 1]^3


def ball_labels(points_unit, num_classes, missing=()):
    """Class of each point by its x alone (no test of inside): slabs of equal width, `missing` ones taken by class 1."""
    slab = np.floor((points_unit[:, 0] + RADIUS) / (2 * RADIUS) * num_classes).clip(0, num_classes - 1) + 1
    return np.where(np.isin(slab, missing), 1, slab).astype(np.uint8)


def ball_class_sdf(points_unit, labels, num_classes, missing=()):
    """(N, C) f16 signed distances to the slabs of the ball, by formulas, as a case file has them: the sign is that of
    `labels` (N,), the smallest number where a distance is 0 in its class; ABSENT_DISTANCE for `missing` classes."""
    points = np.asarray(points_unit, float)
    x, r, length = points[:, 0], np.linalg.norm(points[:, 1:], axis=1), np.linalg.norm(points, axis=1)
    found = np.full((len(points), num_classes), ABSENT_DISTANCE)
    edges = np.linspace(-RADIUS, RADIUS, num_classes + 1)
    for c in sorted({*range(1, num_classes + 1)} - {*missing}):
        low, high = edges[c - 1], edges[c]
        parts = [_slab_distance(x, r, length, low, high)]
        for k in sorted(missing) if c == 1 else ():  # class 1 has their slabs: one piece, or one more
            if edges[k - 1] == high:
                high = edges[k]
                parts[0] = _slab_distance(x, r, length, low, high)
            else:
                parts.append(_slab_distance(x, r, length, edges[k - 1], edges[k]))
        found[:, c - 1] = np.min(parts, axis=0)
        mine = labels == c
        size = np.maximum(np.abs(found[:, c - 1]), np.where(mine, 6e-8, 0))
        found[:, c - 1] = np.where(mine, -size, size)
    return found.astype(np.float16)


def _slab_distance(x, r, length, low, high):
    """Signed distances to the part low <= x <= high of the ball, at points by their x, their distance r from the x
    axis and their distance `length` from the origin."""
    inside = np.minimum(np.minimum(RADIUS - length, x - low), high - x)
    outside = np.full(len(x), np.inf)
    for plane in (low, high):  # a disc
        radius = np.sqrt(max(RADIUS**2 - plane**2, 0))
        outside = np.minimum(outside, np.hypot(x - plane, np.maximum(r - radius, 0)))
    foot = x * RADIUS / np.maximum(length, 1e-12)  # on the sphere
    on_sphere = (foot >= low) & (foot <= high) & (length > RADIUS)
    outside = np.where(on_sphere, np.minimum(outside, length - RADIUS), outside)
    return np.where(inside >= 0, -inside, outside)


def ball_case(seed=0, num_classes=3, rows=600, missing=(), annotated=None, class_names=None, class_distances=False):
    """The Case of a ball; `class_distances`: with the distances to each class, as of prepare_data.py's option."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(rows, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    surface = direction * RADIUS
    near = direction * (RADIUS + rng.normal(size=(rows, 1)) * 0.05)
    vol = rng.uniform(-1, 1, (rows, 3))
    labels = ball_labels(surface, num_classes, missing)
    arrays = {
        "surface_points": surface,
        "surface_normals": direction,
        "surface_labels": labels,
        "surface_sdf": np.zeros(rows),
        "surface_cap": np.zeros(rows, bool),
        "near_source": labels,
    }
    for group, points in (("vol", vol), ("near", near)):
        sdf = (np.linalg.norm(points, axis=1) - RADIUS).astype(np.float32)
        arrays |= {
            f"{group}_points": points,
            f"{group}_sdf": sdf,
            f"{group}_labels": np.where(sdf < 0, ball_labels(points, num_classes, missing), 0).astype(np.uint8),
        }
    arrays = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in arrays.items()}
    if class_distances:
        for group, classes in (("surface", None), ("vol", arrays["vol_labels"]), ("near", arrays["near_labels"])):
            points = arrays[f"{group}_points"]
            inside = np.zeros(rows) if classes is None else classes
            arrays[f"{group}_class_sdf"] = ball_class_sdf(points, inside, num_classes, missing)
        arrays["surface_class_sdf"][np.arange(rows), labels - 1] = 0
    spacing = 2 / SIZE * 50  # mm: unit = mm / 50
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -50 + spacing / 2
    frame = Frame(affine, (SIZE,) * 3, np.zeros(3), 1 / 50)
    index = np.stack(np.meshgrid(*(np.arange(SIZE),) * 3, indexing="ij"), -1).reshape(-1, 3)
    centres = frame.voxel_to_unit(index)
    truth = np.where(np.linalg.norm(centres, axis=1) < RADIUS, ball_labels(centres, num_classes, missing), 0)
    truth = truth.astype(np.uint8).reshape((SIZE,) * 3)
    return Case(
        arrays=arrays,
        frame=frame,
        truth_crop=truth[1:-1, 1:-1, 1:-1],
        truth_origin=np.array([1, 1, 1]),
        meta={
            "classes": num_classes,
            "class_names": class_names or [f"c{i}" for i in range(1, num_classes + 1)],
            "annotated_classes": list(annotated or range(1, num_classes + 1)),
        },
    )


def write_ball_cases(folder, train=4, val=3, **options):
    """Case files ball00.npz .. and their train.csv, val.csv in `folder`; returns it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"ball{i:02d}" for i in range(train + val)]
    for i, name in enumerate(names):
        write_case(folder / f"{name}.npz", ball_case(i, **options))
    for split, chosen in (("train", names[:train]), ("val", names[train:])):
        write_csv(folder / f"{split}.csv", chosen)
    return folder


def write_csv(path, names):
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["case_id", "file"])
        writer.writerows([name, f"{name}.npz"] for name in names)


TINY = [
    "--model",
    "learnable_vec8x4_dim32_depth1_nb",
    "--point_cloud_size",
    "64",
    "--near_points",
    "16",
    "--inside_points",
    "16",
    "--outside_points",
    "16",
    "--eikonal_points",
    "8",
    "--batch_size",
    "2",
    "--warmup_epochs",
    "1",
    "--lr",
    "1e-3",
    "--num_workers",
    "0",
    "--grid_size",
    "8",
    "--device",
    "cpu",
]


def tiny_arguments(data, output, *more):
    """Arguments of main_ae for a run of a second or two."""
    return ["--data_path", str(data), "--output_dir", str(output), *TINY, *map(str, more)]
