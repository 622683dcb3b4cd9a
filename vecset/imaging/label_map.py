"""Label maps: reading with checks of header and values, writing."""

import errno
import gzip
import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel as nib
import numpy as np

from vecset.common.atomic import atomic_path
from vecset.common.errors import InputError
from vecset.imaging.channels import as_volume, check_thickness, other_labels, refuse_fractions, refuse_scan
from vecset.imaging.class_names import table_text
from vecset.imaging.classes import default_class_names
from vecset.imaging.frame import check_affine
from vecset.imaging.header_geometry import check_plausible, nifti_header, settle_geometry
from vecset.imaging.header_names import (
    classes_by_name,
    classes_told,
    names_apart_from_mapping,
    names_in_file,
    refuse_other_numbers,
)
from vecset.imaging.image_file import NIFTI_SUFFIXES, StoredImage, case_id, has_suffix, read_image
from vecset.imaging.label_mapping import PRESETS, LabelMapping, apply_table, values_in
from vecset.imaging.label_table import name_extension
from vecset.imaging.structure_names import class_named

ROUNDING = 1e-4  # largest distance from a whole number of labels stored as float or scaled by the header
SHOWN = 8  # label values that a message lists
MAP_THEM = 'map the values with --label_mapping ("others": "background" leaves the rest out)'


class LabelOutOfRange(InputError):
    """A label map holds values that are not class ids."""


@dataclass
class LabelMap:
    """labels (X, Y, Z) u8, 0 background, 1..C classes; affine (4, 4) f64 voxel -> mm RAS+, settled where the
    header contradicts itself; sha256 of the file's bytes; class_names (C,); annotated: the class ids that the
    annotators looked for; source_affine as in the header; geometry: the fields of a NIfTI header that place the image
    (`nifti_geometry`; None for other formats), for outputs on its grid; dropped_islands: {class id as text: [number,
    voxels]}; as_background: {value: voxels} of values that the label mapping does not list and counts as background;
    by_name: {value: (name, class id)} where names in the file decided; other_names: {value: name} of values that the
    file names otherwise than the label mapping, which decided; notes:
    lines for the user about what was read otherwise than the file has it; own_ids: {id in the table that its user
    knows, the mapping's or that of the names in the file: class id}, {} where these are the class ids. structures: of a
    scan with a file per structure (vecset/data/structure_files.py): {"files": {name: class id}, "overlaps": [[class id,
    class id that has the voxels, voxels], ...]}; source_name: its path relative to the folder that was given (default:
    its last part)."""

    labels: np.ndarray
    affine: np.ndarray
    path: Path
    sha256: str
    class_names: list
    annotated: list
    source_affine: np.ndarray
    geometry: dict | None = None
    dropped_islands: dict = field(default_factory=dict)
    as_background: dict = field(default_factory=dict)
    by_name: dict = field(default_factory=dict)
    other_names: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    own_ids: dict = field(default_factory=dict)
    structures: dict = field(default_factory=dict)
    source_name: str = ""

    @property
    def spacing_mm(self) -> np.ndarray:
        """(3,) voxel size along the image axes."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def name(self) -> str:
        """The name of its case."""
        return case_id(self.source_name or self.path.name)


def read_label_map(
    path: Path | str,
    num_classes: int,
    label_mapping: LabelMapping | Path | str | None = None,
    spacing_from: str | None = None,
    class_names: Sequence[str] | None = None,
    geometry_from: str | None = None,
    as_slices: bool = False,
    table: Sequence[str] | None = None,
) -> LabelMap:
    """Reads a label map (.nii.gz, .nii, .nrrd, .mha) of `num_classes` classes.

    `label_mapping`: a LabelMapping, the name of a preset or a JSON file (see vecset/imaging/label_mapping.py).
    `class_names` (C,): of a checkpoint, in place of the default ones; a label mapping then goes by these names, and
    classes that neither the mapping nor the names in the file have are not annotated. `table` (C,): the names of a
    project, in place of the default ones, where nothing else changes. Without
    a mapping, names of the values in the file decide which class each is (vecset/imaging/header_names.py).
    `spacing_from` ('affine' or 'pixdim') and `geometry_from` ('sform' or 'qform') decide where a header contradicts
    itself (`settle_geometry`). `as_slices`: it is one slice or a stack of them (vecset/sparse/slices.py): a 2D image is
    one slice, and slices may be few, and empty.
    Raises InputError where the file is broken, not 3D, sheared or empty, holds values that are not whole numbers or no
    class, names them otherwise than the classes are named, contradicts itself about its spacing or its place
    and nothing decides, or is no heart in mm.
    """
    path = Path(path)
    mapping = LabelMapping.load(label_mapping, num_classes, table) if label_mapping is not None else None
    values, affine, image, notes = read_volume(path, num_classes, spacing_from, geometry_from, as_slices)
    if mapping and class_names is not None:
        mapping = mapping.for_classes(class_names)
    named, other_names, by_name = names_in_file(path), {}, None
    if mapping:
        other_names = _other_names(path, values, named, mapping)
        labels = mapping.apply(values, path)
    else:
        by_name = _by_name(path, values, named, table or default_class_names(num_classes), class_names)
        labels = apply_table(values, by_name) if by_name else _in_range(path, values, num_classes)
    unlisted = values[(labels == 0) & (values != 0)] if mapping else values[:0]
    as_background = {int(v): int(n) for v, n in zip(*np.unique(unlisted, return_counts=True))}
    if not labels.any() and not as_slices:
        if as_background:
            raise InputError.because(
                path,
                f"--label_mapping lists none of its label values {some_of(as_background)}",
                "check the mapping, or remove the file from the folder",
            )
        raise InputError.because(path, "an empty mask (all background)", "remove it from the folder")
    if not as_slices:
        check_thickness(path, labels)
    if labels.any():
        check_plausible(path, labels, affine)
    names = mapping.class_names if mapping else class_names or table or default_class_names(num_classes)
    annotated, own_ids = mapping.annotated if mapping else list(range(1, num_classes + 1)), {}
    if mapping:
        own_ids = mapping.own_ids
    elif class_names is not None:
        told = classes_told(named, names)
        own_ids = told if by_name else {}
        present = [int(c) for c in values_in(labels) if c]
        annotated = sorted({*told.values(), *present}) if told else annotated
    return LabelMap(
        labels,
        affine,
        path,
        file_sha256(path),
        list(names),
        list(annotated),
        image.affine,
        image.geometry,
        as_background=as_background,
        by_name={value: (named[value], c) for value, c in (by_name or {}).items()},
        other_names=other_names,
        own_ids=own_ids,
        notes=[*notes, *_name_notes(named, by_name, other_names, mapping), *_united(named, by_name, names)],
    )


@np.errstate(all="ignore")  # as of read_image
def read_volume(
    path: Path | str,
    num_classes: int,
    spacing_from: str | None = None,
    geometry_from: str | None = None,
    as_slices: bool = False,
) -> tuple[np.ndarray, np.ndarray, StoredImage, list[str]]:
    """(values (X, Y, Z) whole numbers, affine (4, 4) voxel -> mm, the image as stored, notes for the user) of a file.
    Options and errors as of `read_label_map`; what the values stand for is not asked."""
    image = read_image(path)
    if as_slices and image.values.ndim == 2:
        image = _as_one_slice(path, image)
    values, notes = as_volume(path, image.values, num_classes)
    values = _integral(path, values)
    check_affine(image.affine, path)
    affine = settle_geometry(
        path, values.shape, image.affine, image.pixdim_mm, image.forms, spacing_from, geometry_from
    )
    check_affine(affine, path)
    return values, affine, image, [*image.notes, *notes]


def _as_one_slice(path, image):
    """The StoredImage of one slice (I, J) as a volume (I, J, 1). What its header says of the missing axis is nothing
    but its direction: where that has no length, it is at right angles to the others, and 1 mm long."""
    if image.geometry is None:
        raise InputError.because(
            path, "a 2D image in a format that has no place in 3D", "export each slice as NIfTI, with its own affine"
        )

    def placed(affine):
        affine, length = np.array(affine), np.linalg.norm(affine[:3, 2])
        if np.isfinite(affine).all() and not length > 0:
            across = np.cross(affine[:3, 0], affine[:3, 1])
            affine[:3, 2] = across / max(np.linalg.norm(across), 1e-30)
        return affine

    affine = placed(image.affine)
    pixdim_mm = np.append(image.pixdim_mm[:2], np.linalg.norm(affine[:3, 2]))
    forms = {name: placed(form) for name, form in image.forms.items()}
    return replace(image, values=image.values[..., None], affine=affine, pixdim_mm=pixdim_mm, forms=forms)


def _by_name(path, values, named, default_names, class_names):
    """{value: class id} where the names {value: name} in the file decide, or None: the values are class ids.
    class_names: of a checkpoint, or None."""
    own = class_names or default_names
    if not named and class_names is None:
        return None
    found = [int(value) for value in values_in(values)]
    to_do = (
        MAP_THEM
        if class_names is not None
        else f"{MAP_THEM}, or give the table of these structures to --classes (heart16: the sixteen)"
    )
    by_name = classes_by_name(path, found, named, own, to_do)
    if by_name is None and class_names is not None:
        refuse_other_numbers(path, [v for v in found if class_named(named.get(v, ""), own) != v], own, MAP_THEM)
    return by_name


def _name_notes(named, by_name, other_names, mapping):
    """Lines for the user where names in the file and its numbers, or the mapping, say different things."""
    if by_name:
        told = ", ".join(f"{value} {named[value]} is class {c}" for value, c in sorted(by_name.items()))
        return [f"the names in {named.source} say which class its values are, not the numbers: {told}"]
    if not other_names:
        return []
    mapped = {value: mapping.class_names[mapping.value_to_class[value] - 1] for value in other_names}
    theirs, ours = table_text(other_names), table_text(mapped)
    return [f"{named.source} says {theirs}, but --label_mapping {ours}, and that is what counts"]


def _united(named, by_name, class_names):
    """A line for each class that the names in a file give several of its values."""
    lines = []
    for c in sorted(set((by_name or {}).values())):
        values = sorted(value for value in by_name if by_name[value] == c)
        if len(values) > 1:
            told = ", ".join(f"{value} {named[value]}" for value in values)
            lines.append(f"{len(values)} values are {class_names[c - 1]} by their names and are united: {told}")
    return lines


def _other_names(path, values, named, mapping):
    """{value: name} of the values that the file names otherwise than `mapping`. InputError where that is a preset: it
    stands for one data set, and this file is not of it."""
    if not named:
        return {}
    other = names_apart_from_mapping(map(int, values_in(values)), named, mapping.value_to_class, mapping.class_names)
    if other and mapping.preset:
        theirs = {value: mapping.class_names[mapping.value_to_class[value] - 1] for value in other}
        raise InputError.because(
            path,
            f"{named.source} says {table_text(other)}, but the preset of --label_mapping {table_text(theirs)}",
            "leave out --label_mapping, or give a file of your own that maps its values",
        )
    return other


def some_of(values: Iterable) -> str:
    """The first SHOWN of `values` as text, and the number of others."""
    values = list(values)
    more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    return ", ".join(map(str, values[:SHOWN])) + more


def drop_islands(label_map: LabelMap, share: float) -> LabelMap:
    """The LabelMap without components that have fewer voxels than `share` of the largest one of their class; 0 drops
    none. See `vecset.imaging.components.without_islands`."""
    if not share:
        return label_map
    from vecset.imaging.components import without_islands  # imports numba

    labels, dropped = without_islands(label_map.labels, share)
    return replace(label_map, labels=labels, dropped_islands=dropped)


def file_sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes. Raises OSError where it cannot be read, or is a pipe or a device: reading that
    would wait for ever."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a directory raises below
        raise OSError(errno.EINVAL, "this is a pipe or a device, not a file", str(path))
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _integral(path, values):
    """The values as an integer array. Labels stored as float are accepted where they are whole numbers."""
    if values.dtype.kind in "iu":
        return values
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind != "f":
        raise InputError(path, "one number per voxel", f"voxels of type {values.dtype}", "export it as integers")
    if not np.isfinite(values).all():
        raise InputError.because(
            path, "labels are not finite (NaN or Inf)", "check that this is a label map and not an image"
        )
    if np.abs(values).max() > 2**31 - 1:
        raise InputError.because(path, f"labels are too large: up to {np.abs(values).max():g}", "export it again")
    whole = np.rint(values).astype(np.int32)
    wrong = np.abs(values - whole) > ROUNDING
    if wrong.any():
        refuse_fractions(path, values, wrong)
        raise InputError.because(
            path,
            f"labels are not whole numbers in {int(wrong.sum())} voxels, e.g. {values[wrong][0]:g}",
            "check that this is a label map, and that it was resampled with nearest neighbour",
        )
    return whole


def _in_range(path, values, num_classes):
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > num_classes:
        found = np.unique(values)
        refuse_scan(path, found)
        other = other_labels(path, found, PRESETS)
        if other:
            raise other
    if low < 0:
        raise LabelOutOfRange(
            path, f"labels 0..{num_classes}", f"negative labels, down to {low}", "map them with --label_mapping"
        )
    if high > num_classes:
        above = sorted(int(v) for v in np.unique(values) if v > num_classes)
        raise LabelOutOfRange(
            path,
            f"labels 0..{num_classes} (--classes {num_classes})",
            f"labels {some_of(above)}",
            "give the right --classes, or map them with --label_mapping",
        )
    return values.astype(np.uint8)


def write_label_map(
    path: Path | str,
    labels: np.ndarray,
    affine: np.ndarray,
    class_names: list[str | None] | None = None,
    geometry: dict | None = None,
) -> None:
    """Writes labels (X, Y, Z) u8 as NIfTI, atomically; the same arguments give the same bytes.

    The header gets the fields of `geometry` (that of a LabelMap) where they place the labels at `affine` (4, 4)
    voxel -> mm in every reader. Else qform and sform are both set to `affine`. `class_names` go into the description,
    cut after 79 characters, and with their colours into a header extension (vecset/imaging/label_table.py).
    Raises ValueError for other labels, InputError for another suffix or an affine that `check_affine` refuses.
    """
    path = Path(path)
    labels = np.asarray(labels)
    if labels.ndim != 3 or labels.dtype != np.uint8:
        raise ValueError(f"labels {labels.dtype} {labels.shape}: want uint8 (X, Y, Z)")
    image = _placed(path, labels, affine, geometry)
    if class_names:
        image.header["descrip"] = ",".join(filter(None, class_names)).encode("ascii", "replace")[:79]
        image.header.extensions.append(name_extension(class_names))
    _write_image(path, image)


def write_scalar_map(path: Path | str, values: np.ndarray, affine: np.ndarray, geometry: dict | None = None) -> None:
    """Writes numbers (X, Y, Z) f32 as NIfTI where `write_label_map` would write labels, as it does. ValueError for
    other numbers."""
    path, values = Path(path), np.asarray(values)
    if values.ndim != 3 or values.dtype != np.float32:
        raise ValueError(f"values {values.dtype} {values.shape}: want float32 (X, Y, Z)")
    _write_image(path, _placed(path, values, affine, geometry))


def _write_image(path, image):
    data = image.to_bytes()
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(data, 4, mtime=0) if path.name.lower().endswith(".gz") else data)


def _placed(path, values, affine, geometry):
    """The image of `values`, u8 or f32, at `affine`, in the terms of `geometry` where there is one."""
    if not has_suffix(path, NIFTI_SUFFIXES):
        raise InputError.because(path, "the name of a label map to write ends in .nii.gz or .nii", "rename the output")
    check_affine(affine, path)
    if geometry:
        header = nifti_header(geometry, values.shape, affine)
        header.set_data_dtype(values.dtype)
        kind = nib.Nifti2Image if geometry["nifti_version"] == 2 else nib.Nifti1Image
        return kind(values, header.get_best_affine(), header)
    image = nib.Nifti1Image(values, np.asarray(affine, np.float64), dtype=values.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    return image
