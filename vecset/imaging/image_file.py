"""Image files as arrays: NIfTI by nibabel; NRRD and MetaImage by SimpleITK, imported on first use.

Whatever the format, the affine is voxel -> mm in RAS+ (ITK's is LPS+), and the array axes i, j, k are the axes of the
file in order. A NIfTI header describes its geometry in several fields that may contradict each other; `geometry` holds
all of them, so that an output on the image's grid gets the same header.
"""

import contextlib
import gzip
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from vecset.common.errors import InputError

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".mha")  # not .nhdr and .mhd: their voxels are in another file, which a hash would miss
SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES
SUFFIX_WORDS = ", ".join(SUFFIXES[:-1]) + " or " + SUFFIXES[-1]
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
HEADER_BYTES = 1 << 20  # the header of a NRRD or MetaImage file is shorter than this
# The fields of a NIfTI header that place the image in space; no free text, which may name a patient.
GEOMETRY_FIELDS = (
    "sform_code",
    "srow_x",
    "srow_y",
    "srow_z",
    "qform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "pixdim",
    "xyzt_units",
)


@dataclass
class StoredImage:
    """values in the file's type (scaled where the header says so); affine (4, 4) f64 voxel -> mm RAS+; pixdim_mm (3,)
    where the header has a spacing besides the affine, else None; geometry: see `nifti_geometry`, None for other
    formats."""

    values: np.ndarray
    affine: np.ndarray
    pixdim_mm: np.ndarray | None = None
    geometry: dict | None = None


def has_suffix(path: Path | str, suffixes: tuple = SUFFIXES) -> bool:
    """Whether the file's name ends in one of `suffixes`, in small or capital letters."""
    return str(path).lower().endswith(suffixes)


def read_image(path: Path | str) -> StoredImage:
    """Reads an image file. Raises InputError where it is missing, broken, truncated, or in another format."""
    if not has_suffix(path):
        raise InputError.because(path, f"not a label map in a format that is read: {SUFFIX_WORDS}", "convert it")
    try:
        with open(path, "rb") as handle:
            start = handle.read(HEADER_BYTES) if has_suffix(path, ITK_SUFFIXES) else b""
    except FileNotFoundError:
        raise InputError.because(path, "no such file", "check the path") from None
    except PermissionError:
        raise InputError.because(path, "no permission to read the file", "change its permissions") from None
    except OSError as error:
        raise InputError.because(path, f"cannot be read ({error.strerror or error})", "check the path") from None
    return _read_itk(path, start) if has_suffix(path, ITK_SUFFIXES) else _read_nifti(path)


def _broken(path, kind, reason):
    return InputError.because(path, f"broken or truncated {kind} image ({reason})", "copy or export it again")


def _read_nifti(path):
    try:
        image = nib.load(path)
        proxy = image.dataobj  # has the scaling; nibabel clears that of the header when it reads a file
        plain = getattr(proxy, "slope", 1.0) == 1.0 and getattr(proxy, "inter", 0.0) == 0.0
        values = np.asanyarray(proxy.get_unscaled() if plain and hasattr(proxy, "get_unscaled") else proxy)
        values = np.array(values) if isinstance(values, np.memmap) else values
    except (
        OSError,
        EOFError,
        ValueError,
        zlib.error,
        gzip.BadGzipFile,
        nib.filebasedimages.ImageFileError,
        nib.spatialimages.HeaderDataError,
    ) as error:
        raise _broken(path, "NIfTI", f"{type(error).__name__}: {error}") from error
    pixdim_mm = np.array([float(z) for z in image.header.get_zooms()[:3]])
    geometry = nifti_geometry(image.header) if isinstance(image.header, nib.Nifti1Header) else None
    return StoredImage(values, np.array(image.affine, np.float64), pixdim_mm, geometry)


def nifti_geometry(header: nib.Nifti1Header) -> dict:
    """The fields of a NIfTI header that place the image in space, as JSON types: {"nifti_version": 1 or 2, and each of
    GEOMETRY_FIELDS: a number or a list}. Of pixdim only the first four (qfac, then mm). Numbers that are not finite
    become 0."""
    found = {"nifti_version": 2 if isinstance(header, nib.Nifti2Header) else 1}
    for name in GEOMETRY_FIELDS:
        value = np.nan_to_num(header[name], nan=0.0, posinf=0.0, neginf=0.0)
        found[name] = value[:4].tolist() if value.ndim else value.item()
    return found


def nifti_header(geometry: dict, shape: tuple) -> nib.Nifti1Header:
    """The header of a u8 image of `shape` (3,) with the fields of `geometry` (see `nifti_geometry`)."""
    header = (nib.Nifti2Header if geometry["nifti_version"] == 2 else nib.Nifti1Header)()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    for name in GEOMETRY_FIELDS:
        value = geometry[name]
        header[name] = value + [1.0] * (len(header[name]) - len(value)) if isinstance(value, list) else value
    return header


def _read_itk(path, start):
    kind = "NRRD" if has_suffix(path, ".nrrd") else "MetaImage"
    encoding = _check_nrrd_header(path, start) if kind == "NRRD" else _check_meta_image_header(path, start)
    import SimpleITK as sitk  # takes 0.2 s

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(f"{'Nrrd' if kind == 'NRRD' else 'Meta'}ImageIO")  # by the suffix, whatever the content
    reader.SetFileName(str(path))
    try:
        with _silent_stderr():
            reader.ReadImageInformation()
            components = reader.GetNumberOfComponents()
            if components != 1:
                raise InputError(path, "one number per voxel", components, "export a label map without layers")
            image = reader.Execute()
    except RuntimeError as error:
        said = [line.strip() for line in str(error).splitlines() if line.startswith("[nrrd]")]
        raise _broken(path, kind, said[-1] if said else "ITK cannot read it") from error
    if encoding == "gzip":
        _check_gzip_length(path, image.GetNumberOfPixels() * image.GetSizeOfPixelComponent())
    values = sitk.GetArrayFromImage(image).T  # ITK's arrays are k, j, i
    axes = image.GetDimension()
    affine = np.eye(4)
    if axes >= 3:
        direction = np.array(image.GetDirection()).reshape(axes, axes)[:3, :3]
        affine[:3, :3] = direction * np.array(image.GetSpacing())[:3]
        affine[:3, 3] = image.GetOrigin()[:3]
    return StoredImage(values, LPS_TO_RAS @ affine)


def _check_nrrd_header(path, start):
    """The encoding in a NRRD header. Raises InputError where the header is truncated or names another file for its
    voxels."""
    header, end, _ = start.replace(b"\r\n", b"\n").partition(b"\n\n")
    if not header.startswith(b"NRRD"):
        raise _broken(path, "NRRD", "the first bytes are not NRRD")
    if not end:
        raise _broken(path, "NRRD", "the header has no end")
    fields = dict(_field(line, b":") for line in header.split(b"\n") if b":" in line and not line.startswith(b"#"))
    if "data file" in fields or "datafile" in fields:
        raise InputError.because(path, "the voxels of this NRRD image are in another file", "export it as one file")
    return "gzip" if fields.get("encoding") in ("gzip", "gz") else fields.get("encoding")


def _check_meta_image_header(path, start):
    """Raises InputError where a MetaImage header is truncated or names another file for its voxels."""
    for line in start.split(b"\n")[:-1]:
        name, value = _field(line, b"=")
        if name == "elementdatafile":
            if value == "local":
                return None
            raise InputError.because(
                path,
                "the voxels of this MetaImage are in another file (ElementDataFile is not LOCAL)",
                "export it as one file",
            )
    raise _broken(path, "MetaImage", "the header has no end")


def _field(line, sign):
    name, _, value = line.partition(sign)
    return tuple(part.decode("latin-1").strip().lower() for part in (name, value))


def _check_gzip_length(path, num_bytes):
    """Compares the length at the end of a gzip stream: the NRRD library accepts streams without their last bytes."""
    with open(path, "rb") as handle:
        handle.seek(-4, os.SEEK_END)
        if int.from_bytes(handle.read(), "little") != num_bytes % 2**32:
            raise _broken(path, "NRRD", "the end of its gzip stream is missing")


@contextlib.contextmanager
def _silent_stderr():
    """Silences the process's stderr, to which MetaIO prints; the error that is raised says the same in one line."""
    try:
        kept = os.dup(2)
    except OSError:  # the process has no stderr
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
