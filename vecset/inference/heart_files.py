"""The files of one reconstructed heart, besides its figures: label map, segmentation for 3D Slicer, meshes, scene."""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vecset.common.errors import InputError
from vecset.imaging.class_names import file_names
from vecset.imaging.classes import class_colours
from vecset.imaging.frame import Frame
from vecset.imaging.header_geometry import readers_agree
from vecset.imaging.image_file import read_nifti_header
from vecset.imaging.label_map import write_label_map
from vecset.imaging.label_table import write_segmentation_nrrd
from vecset.inference.heart_field import HeartField
from vecset.inference.latents import FILE as LATENTS
from vecset.inference.meshes import as_lps, class_meshes, scene_of, write_mesh
from vecset.inference.settings import OutputSettings

LABELS, SEGMENTATION, SCENE, MESHES = "labels.nii.gz", "labels.seg.nrrd", "heart.glb", "meshes"
MESH_FORMATS = ("ply", "stl", "obj")


def write_labels(
    folder: Path, labels: np.ndarray, frame: Frame, class_names: Sequence[str], geometry: dict | None
) -> list[str]:
    """Writes the label map (X, Y, Z) u8 as NIfTI and for 3D Slicer; returns the files' names. geometry: of the source's
    header, None on another grid."""
    write_label_map(folder / LABELS, labels, frame.affine, class_names, geometry)
    write_segmentation_nrrd(folder / SEGMENTATION, labels, frame.affine, class_names)
    return [LABELS, SEGMENTATION]


def is_placed(folder: Path) -> bool:
    """Whether every reader places the label map of a finished heart alike. Earlier versions wrote headers as
    contradictory as that of the source."""
    try:
        return readers_agree(read_nifti_header(folder / LABELS))
    except (InputError, OSError):
        return False


def write_meshes(
    folder: Path, field: HeartField, frame: Frame, class_names: Sequence[str], settings: OutputSettings
) -> list[str]:
    """Writes a mesh per class and the scene of all; returns the files' names. Removes what an earlier run left
    there."""
    if (folder / MESHES).is_dir():
        shutil.rmtree(folder / MESHES)
    (folder / SCENE).unlink(missing_ok=True)
    if not settings.meshes:
        return []
    (folder / MESHES).mkdir()
    meshes, files, names = class_meshes(field, frame, settings.mesh_cells), [], file_names(class_names)
    for c, mesh in meshes.items():
        files.append(f"{MESHES}/{names[c - 1]}.{settings.mesh_format}")
        write_mesh(folder / files[-1], as_lps(mesh) if settings.lps else mesh)
    if meshes:
        files.append(SCENE)
        write_mesh(folder / SCENE, scene_of(meshes, class_names, class_colours(len(class_names))))
    return files


def discard(folder: Path) -> None:
    """Removes the files of the names that are written here, and the folder where nothing else is in it."""
    made = [folder / name for name in (LABELS, SEGMENTATION, SCENE, LATENTS)]
    for path in (*made, *(p for suffix in MESH_FORMATS for p in (folder / MESHES).glob(f"*.{suffix}"))):
        path.unlink(missing_ok=True)
    for emptied in (folder / MESHES, folder):
        with contextlib.suppress(OSError):
            emptied.rmdir()
