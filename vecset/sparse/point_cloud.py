"""A point cloud with labels as a heart: positions and classes are all that the encoder reads.

PLY with a vertex property `label` (or `class`, `class_id`), or npz with `points_mm` (N, 3) and `labels` (N,).
Coordinates are patient mm (RAS+); labels are class ids 1..C. A case file (surface_points in unit, with its frame) is
not a point cloud.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vecset.common.errors import InputError
from vecset.common.npz_file import NPZ_ERRORS, in_one_line, member, open_npz, require_members_fit
from vecset.data.case_classes import require_there
from vecset.data.case_file import Case
from vecset.imaging.frame import Frame
from vecset.imaging.header_geometry import FARTHEST_MM, HEART_MM, require_heart_size

LABEL_PROPERTIES = ("label", "class", "class_id", "labels", "scalar_label", "scalar_Label")
MARGIN_MM = 5.0  # of the output grid round the points
_NEEDS = "a point cloud with labels: PLY with a vertex property 'label', or npz with points_mm and labels"


def is_point_cloud(path: Path | str) -> bool:
    """Whether `path` is a PLY file, or an npz with points_mm."""
    if str(path).lower().endswith(".ply"):
        return True
    try:
        with open_npz(path) as archive:
            return "points_mm" in archive.files
    except NPZ_ERRORS:
        return False  # what it is instead, its reader tells


def read_point_cloud(
    path: Path | str, class_names: Sequence[str], spacing_mm: float = 1.0, margin_mm: float = MARGIN_MM
) -> Case:
    """The `Case` (no truth) of a point cloud; its output grid has `spacing_mm` along the patient's axes and holds the
    points and `margin_mm` more. InputError where points or labels are missing or not sound."""
    path = Path(path)
    points_mm, labels = _read_ply(path) if path.name.lower().endswith(".ply") else _read_npz(path)
    if points_mm.ndim != 2 or points_mm.shape[1:] != (3,) or len(points_mm) != len(labels) or labels.ndim != 1:
        raise InputError(path, "points (N, 3) and labels (N,)", f"{points_mm.shape} and {labels.shape}", "export again")
    wrong = np.flatnonzero(~np.isfinite(points_mm).all(1))
    if len(wrong):
        raise InputError.because(
            path,
            f"{len(wrong)} of its points are not finite, the first is number {wrong[0]}: "
            + ", ".join(f"{x:g}" for x in points_mm[wrong[0]]),
            "remove them",
        )
    if len(points_mm) < 4 or not np.ptp(points_mm, axis=0).max() > 0:
        raise InputError(path, "at least 4 points, not all the same", f"{len(points_mm)} points", "export again")
    _check_extent(path, points_mm)
    whole = np.rint(labels)
    if not np.isfinite(labels).all() or (whole != labels).any() or whole.min() < 1 or whole.max() > len(class_names):
        raise InputError(
            path,
            f"labels 1..{len(class_names)}, the checkpoint's classes",
            f"{labels.min():g}..{labels.max():g}",
            "map the labels to the checkpoint's classes",
        )
    frame = Frame.from_surface(*grid_round(points_mm, spacing_mm, margin_mm), points_mm)
    arrays = {
        "surface_points": frame.mm_to_unit(points_mm).astype(np.float32),
        "surface_labels": whole.astype(np.uint8),
    }
    names = list(class_names)
    return Case(
        path=path,
        arrays=arrays,
        frame=frame,
        meta={"classes": len(names), "class_names": names, "annotated_classes": list(range(1, len(names) + 1))},
    )


def grid_round(points_mm: np.ndarray, spacing_mm: float, margin_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """(affine (4, 4) voxel -> mm, shape (3,)) of a grid of cubic voxels along the patient's axes that holds points
    (N, 3) and `margin_mm` more on every side."""
    low = points_mm.min(0) - margin_mm
    shape = np.ceil((points_mm.max(0) + margin_mm - low) / spacing_mm).astype(int) + 1
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = low
    return affine, shape


def with_given_points(case: Case, given: Sequence[int]) -> Case:
    """The `Case` of a point cloud of which only the classes `given` (ids) are shown, with the frame of these; its
    output grid stays that of all points. InputError where one of them has no point, or all of them fewer than 4."""
    require_there(given, np.unique(case.surface_labels), case.class_names, case.path)
    mine = np.isin(case.surface_labels, given)
    points_mm = case.frame.unit_to_mm(case.surface_points[mine])
    if len(points_mm) < 4 or not np.ptp(points_mm, axis=0).max() > 0:
        raise InputError(case.path, "at least 4 points that are given", len(points_mm), "give more classes")
    frame = Frame.from_surface(case.frame.affine, case.frame.shape, points_mm)
    arrays = {
        "surface_points": frame.mm_to_unit(points_mm).astype(np.float32),
        "surface_labels": case.surface_labels[mine],
    }
    return Case(case.path, arrays, frame, meta={**case.meta, "annotated_classes": list(given)}, whole=case)


def _check_extent(path, points_mm):
    """Raises InputError where the points (N, 3) are no heart in mm: in another unit, or with one that is far off."""
    extent_mm = float(np.ptp(points_mm, axis=0).max())
    most = float(np.ptp(np.percentile(points_mm, (1, 99), axis=0), axis=0).max())  # without single points
    if extent_mm > HEART_MM[1] and most <= HEART_MM[1]:
        away = np.abs(points_mm - np.median(points_mm, axis=0)).max(1)
        far = int(away.argmax())
        raise InputError.because(
            path,
            f"point number {far} ({', '.join(f'{x:.6g}' for x in points_mm[far])}) lies {away[far]:.4g} mm from the "
            "others",
            "remove it",
        )
    unit = "metres (times 1000)" if extent_mm < 1 else "micrometres (divided by 1000)"
    require_heart_size(path, extent_mm, f"give the coordinates in mm; they may be in {unit}")
    if np.abs(points_mm).max() > FARTHEST_MM:
        raise InputError.because(
            path,
            f"its points lie {np.abs(points_mm).max() / 1000:.4g} m from the origin",
            "give them in the mm of the patient's image",
        )


def _read_npz(path):
    try:
        with open_npz(path) as archive:
            if "labels" not in archive.files:
                raise InputError.because(path, "the npz has no labels", f"give {_NEEDS}")
            require_members_fit(archive, ("points_mm", "labels"), path)
            found = member(archive, "points_mm"), member(archive, "labels")
    except NPZ_ERRORS as error:
        raise InputError.because(path, f"this npz cannot be read ({in_one_line(error)})", "copy it again") from None
    if any(array.dtype.kind not in "iufb" for array in found):
        kinds = " and ".join(str(array.dtype) for array in found)
        raise InputError(path, "points_mm and labels that are numbers", kinds, f"give {_NEEDS}")
    return tuple(array.astype(np.float64) for array in found)


def _read_ply(path):
    import trimesh

    try:
        declared = _declared_vertices(path)
        cloud = trimesh.load(path, process=False)
        data = cloud.metadata["_ply_raw"]["vertex"]["data"]
        names = data.dtype.names if hasattr(data, "dtype") else tuple(data)
        points = np.stack([np.asarray(data[axis], np.float64).ravel() for axis in "xyz"], 1)
        label = next((name for name in LABEL_PROPERTIES if name in names), None)
        labels = None if label is None else np.asarray(data[label], np.float64).ravel()
    except FileNotFoundError:
        raise InputError.because(path, "no such file", "check --input") from None
    except Exception as error:  # trimesh has no errors of its own: a damaged file raises what its code runs into
        reason = f"{type(error).__name__}: {error}"[:200]
        raise InputError.because(path, f"this PLY cannot be read ({reason})", f"give {_NEEDS}") from None
    if len(points) != declared:
        raise InputError.because(
            path,
            f"this PLY is truncated: its header says {declared} vertices, {len(points)} are there",
            "copy it again",
        )
    if labels is None:
        raise InputError.because(path, f"no label among the vertex properties {', '.join(names)}", f"give {_NEEDS}")
    return points, labels


def _declared_vertices(path):
    """The number of vertices that the header of a PLY file says. ValueError where it has none, or more than the file's
    bytes can be."""
    with open(path, "rb") as handle:
        header = handle.read(1 << 16).partition(b"end_header")[0]
    found = re.search(rb"(?m)^element\s+vertex\s+(\d+)\s*$", header)
    if not found:
        raise ValueError("the header has no vertices")
    declared = int(found[1])
    if declared > path.stat().st_size:
        raise ValueError(f"the header says {declared} vertices, the file has {path.stat().st_size} bytes")
    return declared
