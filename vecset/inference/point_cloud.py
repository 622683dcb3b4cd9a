"""A point cloud with labels as a heart: positions and classes are all that the encoder reads.

PLY with a vertex property `label` (or `class`, `class_id`), or npz with `points_mm` (N, 3) and `labels` (N,).
Coordinates are patient mm (RAS+); labels are class ids 1..C. A case file (surface_points in unit, with its frame) is
not a point cloud.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vecset.common.errors import InputError
from vecset.data.case_file import Case
from vecset.imaging.frame import Frame

LABEL_PROPERTIES = ("label", "class", "class_id", "labels", "scalar_label", "scalar_Label")
MARGIN_MM = 5.0  # of the output grid round the points
_NEEDS = "a point cloud with labels: PLY with a vertex property 'label', or npz with points_mm and labels"


def is_point_cloud(path: Path | str) -> bool:
    """Whether `path` is a PLY file, or an npz with points_mm."""
    if str(path).lower().endswith(".ply"):
        return True
    try:
        with np.load(path, allow_pickle=False) as archive:
            return "points_mm" in archive.files
    except (OSError, EOFError, ValueError, zipfile.BadZipFile):
        return False  # what it is instead, its reader tells


def read_point_cloud(path: Path | str, class_names: Sequence[str], spacing_mm: float = 1.0) -> Case:
    """The `Case` (no truth) of a point cloud; its output grid has `spacing_mm` along the patient's axes and holds the
    points and MARGIN_MM more. InputError where points or labels are missing or not sound."""
    path = Path(path)
    points_mm, labels = _read_ply(path) if path.name.lower().endswith(".ply") else _read_npz(path)
    if points_mm.ndim != 2 or points_mm.shape[1:] != (3,) or len(points_mm) != len(labels) or labels.ndim != 1:
        raise InputError(path, "points (N, 3) and labels (N,)", f"{points_mm.shape} and {labels.shape}", "export again")
    if len(points_mm) < 4 or not np.isfinite(points_mm).all() or not np.ptp(points_mm, axis=0).max() > 0:
        raise InputError(
            path, "at least 4 points that are finite and not all the same", f"{len(points_mm)} points", "export again"
        )
    whole = np.rint(labels)
    if (whole != labels).any() or whole.min() < 1 or whole.max() > len(class_names):
        raise InputError(
            path,
            f"labels 1..{len(class_names)}, the checkpoint's classes",
            f"{labels.min():g}..{labels.max():g}",
            "map the labels to the checkpoint's classes",
        )
    low = points_mm.min(0) - MARGIN_MM
    shape = np.ceil((points_mm.max(0) + MARGIN_MM - low) / spacing_mm).astype(int) + 1
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = low
    frame = Frame.from_surface(affine, shape, points_mm)
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


def _read_npz(path):
    with np.load(path, allow_pickle=False) as archive:
        if "labels" not in archive.files:
            raise InputError.because(path, "the npz has no labels", f"give {_NEEDS}")
        return archive["points_mm"].astype(np.float64), archive["labels"].astype(np.float64)


def _read_ply(path):
    import trimesh

    try:
        cloud = trimesh.load(path, process=False)
        data = cloud.metadata["_ply_raw"]["vertex"]["data"]
        names = data.dtype.names if hasattr(data, "dtype") else tuple(data)
        points = np.stack([np.asarray(data[axis], np.float64).ravel() for axis in "xyz"], 1)
        label = next((name for name in LABEL_PROPERTIES if name in names), None)
        labels = None if label is None else np.asarray(data[label], np.float64).ravel()
    except FileNotFoundError:
        raise InputError.because(path, "no such file", "check --input") from None
    except (ValueError, KeyError, TypeError, IndexError, UnicodeDecodeError) as error:
        raise InputError.because(path, f"this PLY cannot be read ({type(error).__name__})", f"give {_NEEDS}") from None
    if labels is None:
        raise InputError.because(path, f"no label among the vertex properties {', '.join(names)}", f"give {_NEEDS}")
    return points, labels
