"""The files of one reconstructed heart, besides its figures: label map, segmentation for 3D Slicer, meshes, scene."""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vecset.common.errors import InputError
from vecset.fields.heart_field import HeartField
from vecset.fields.meshes import as_lps, class_meshes, scene_of, write_mesh
from vecset.imaging.class_names import file_names
from vecset.imaging.classes import ClassNames, class_colours
from vecset.imaging.frame import Frame
from vecset.imaging.header_geometry import readers_agree
from vecset.imaging.image_file import read_nifti_header
from vecset.imaging.label_map import write_label_map
from vecset.imaging.label_table import write_segmentation_nrrd
from vecset.inference.latents import FILE as LATENTS
from vecset.inference.settings import OutputSettings

SAMPLES, PROBABILITY, SPREAD = "samples", "probability", "spread_mm"
LABELS, SEGMENTATION, SCENE, MESHES = "labels.nii.gz", "labels.seg.nrrd", "heart.glb", "meshes"
INFERRED, REPAIRED = "inferred.nii.gz", "repaired.nii.gz"
MESH_FORMATS = ("ply", "stl", "obj")


def shown_names(class_names: Sequence[str], left_out: np.ndarray, inferred: np.ndarray) -> list[str | None]:
    """What the files of a heart call its classes (C,): "RA", "RA (inferred)" where it is `inferred` (C,) bool, None
    where it is `left_out` (C,) bool, neither known to be there nor to be absent; as `ClassNames` with the colours of
    the structures."""
    told = [f"{name} (inferred)" if mine else name for name, mine in zip(class_names, inferred)]
    names = [None if gone else name for name, gone in zip(told, left_out)]
    return ClassNames(names, colours=dict(zip(told, class_colours(class_names))))


def write_labels(
    folder: Path,
    labels: np.ndarray,
    frame: Frame,
    class_names: Sequence[str | None],
    geometry: dict | None,
    inferred: np.ndarray | None = None,
) -> list[str]:
    """Writes the label map (X, Y, Z) u8 as NIfTI and for 3D Slicer, and where something is inferred a mask of that;
    returns the files' names. Removes the mask of an earlier run. class_names: `shown_names`; geometry: of the source's
    header, None on another grid; inferred: (X, Y, Z) bool, the voxels whose structure is, or None."""
    write_label_map(folder / LABELS, labels, frame.affine, class_names, geometry)
    write_segmentation_nrrd(folder / SEGMENTATION, labels, frame.affine, class_names)
    if inferred is None or not inferred.any():
        (folder / INFERRED).unlink(missing_ok=True)
        return [LABELS, SEGMENTATION]
    write_label_map(folder / INFERRED, inferred.astype(np.uint8), frame.affine, ["inferred"], geometry)
    return [LABELS, SEGMENTATION, INFERRED]


def clear_samples(folder: Path) -> None:
    """Removes the samples and probability maps of an earlier run."""
    for made in (SAMPLES, PROBABILITY):
        if (folder / made).is_dir():
            shutil.rmtree(folder / made)


def is_placed(folder: Path) -> bool:
    """Whether every reader places the label map of a finished heart alike. Earlier versions wrote headers as
    contradictory as that of the source."""
    try:
        return readers_agree(read_nifti_header(folder / LABELS))
    except (InputError, OSError):
        return False


def write_meshes(
    folder: Path,
    field: HeartField,
    frame: Frame,
    class_names: Sequence[str | None],
    settings: OutputSettings,
    cube_mm: tuple[np.ndarray, float] | None = None,
    before_writing: Callable[[dict], None] = lambda meshes: None,
) -> list[str]:
    """Writes a mesh per class and the scene of all; returns the files' names. Removes what an earlier run left
    there. class_names: `shown_names`; cube_mm: that they lie in, None for the unit cube. before_writing: is given the
    meshes {class id: trimesh.Trimesh}, vertices in mm (RAS+), and may add to them; {} where none are wanted."""
    if (folder / MESHES).is_dir():
        shutil.rmtree(folder / MESHES)
    (folder / SCENE).unlink(missing_ok=True)
    if not settings.meshes:
        before_writing({})
        return []
    (folder / MESHES).mkdir()
    meshes, files = class_meshes(field, frame, settings.mesh_cells, cube_mm), []
    before_writing(meshes)
    for c, mesh in meshes.items():
        files.append(mesh_file(class_names, c, settings))
        write_mesh(folder / files[-1], as_lps(mesh) if settings.lps else mesh)
    if meshes:
        files.append(SCENE)
        write_mesh(folder / SCENE, scene_of(meshes, _told(class_names), class_colours(class_names)))
    return files


def mesh_file(class_names: Sequence[str | None], class_id: int, settings: OutputSettings) -> str:
    """The name of a class's mesh in the folder of its heart. class_names: `shown_names`."""
    names = file_names([name.replace(" (inferred)", "_inferred") for name in _told(class_names)])
    return f"{MESHES}/{names[class_id - 1]}.{settings.mesh_format}"


def _told(class_names):
    return [name or f"class_{c}" for c, name in enumerate(class_names, 1)]


def discard(folder: Path) -> None:
    """Removes the files of the names that are written here, and the folder where nothing else is in it."""
    made = [folder / name for name in (LABELS, SEGMENTATION, INFERRED, REPAIRED, SCENE, LATENTS)]
    for path in (*made, *(p for suffix in MESH_FORMATS for p in (folder / MESHES).glob(f"*.{suffix}"))):
        path.unlink(missing_ok=True)
    for sampled in (SAMPLES, PROBABILITY):
        for path in (folder / sampled).glob("*.nii.gz"):
            path.unlink()
    for emptied in (folder / MESHES, folder / SAMPLES, folder / PROBABILITY, folder):
        with contextlib.suppress(OSError):
            emptied.rmdir()
