"""Image files as arrays: NIfTI by nibabel; NRRD and MetaImage by SimpleITK, which is imported where there is one.

Whatever the format, the affine is voxel -> mm in RAS+ (ITK's is LPS+), the array index order i, j, k that of the file's
axes. A NIfTI header can say several things about its geometry that contradict each other; `geometry` holds them all, so
that what is made from an image can be written with the header that the image had.
"""

import contextlib
import gzip
import os
import zlib
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from vecset.common.errors import InputError

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".mha")  # one file each: of .nhdr and .mhd, a hash of the file would not tell the voxels
SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES
SUFFIX_WORDS = ", ".join(SUFFIXES[:-1]) + " or " + SUFFIXES[-1]
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
HEADER_BYTES = 1 << 20  # the header of a NRRD or MetaImage file ends before this
# The fields of a NIfTI header that place the image in space, by their names there; free text may name a patient.
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
    """values as they are stored (scaled only where the header scales); affine (4, 4) f64 voxel -> mm RAS+; pixdim_mm
    (3,) where the header has a spacing besides the affine, else None; geometry: see `nifti_geometry`, None for other
    formats."""

    values: np.ndarray
    affine: np.ndarray
    pixdim_mm: np.ndarray | None = None
    geometry: dict | None = None


def has_suffix(path, suffixes=SUFFIXES):
    """Whether the file's name ends in one of `suffixes`, in small or capital letters."""
    return str(path).lower().endswith(suffixes)


def read_image(path):
    """The `StoredImage` of a file. Raises InputError where it is missing, broken, truncated, or of another kind."""
    if not has_suffix(path):
        raise InputError(path, f"a label map ending in {SUFFIX_WORDS}", "another kind of file", "convert it")
    try:
        with open(path, "rb") as handle:
            start = handle.read(HEADER_BYTES) if has_suffix(path, ITK_SUFFIXES) else b""
    except FileNotFoundError:
        raise InputError(path, "a label map", "no such file", "check the path") from None
    except PermissionError:
        raise InputError(path, "a file that can be read", "no permission", "change its permissions") from None
    except OSError as error:
        raise InputError(path, "a file that can be read", error.strerror or error, "check the path") from None
    return _read_itk(path, start) if has_suffix(path, ITK_SUFFIXES) else _read_nifti(path)


def _broken(path, kind, reason):
    return InputError(path, f"a whole {kind} image", f"a broken or truncated one ({reason})", "copy or export it again")


def _read_nifti(path):
    try:
        image = nib.load(path)
        proxy = image.dataobj  # it has the scaling; nibabel empties that of the header when it reads a file
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


def nifti_geometry(header):
    """What a NIfTI header says about the image's place in space, as JSON can hold it: {"nifti_version": 1 or 2, and
    each of GEOMETRY_FIELDS: a number or a list}; of pixdim the first four (qfac, then mm). Numbers that are not finite
    are 0."""
    found = {"nifti_version": 2 if isinstance(header, nib.Nifti2Header) else 1}
    for name in GEOMETRY_FIELDS:
        value = np.nan_to_num(header[name], nan=0.0, posinf=0.0, neginf=0.0)
        found[name] = value[:4].tolist() if value.ndim else value.item()
    return found


def nifti_header(geometry, shape):
    """The header of a u8 image of `shape` (3,) that says of its place exactly what `geometry` does."""
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
    import SimpleITK as sitk  # a fifth of a second, for those who need it

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(f"{'Nrrd' if kind == 'NRRD' else 'Meta'}ImageIO")  # by the name, whatever the content looks like
    reader.SetFileName(str(path))
    try:
        with _silent_stderr():
            reader.ReadImageInformation()
            components = reader.GetNumberOfComponents()
            if components != 1:
                raise InputError(
                    path,
                    "a 3D label map with one number per voxel",
                    f"{components} numbers per voxel",
                    "export a label map without layers",
                )
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
    """The encoding that a NRRD header names. Refuses one that is cut, or whose voxels are in another file."""
    header, end, _ = start.replace(b"\r\n", b"\n").partition(b"\n\n")
    if not header.startswith(b"NRRD"):
        raise _broken(path, "NRRD", "it does not begin as one")
    if not end:
        raise _broken(path, "NRRD", "the header has no end")
    fields = dict(_field(line, b":") for line in header.split(b"\n") if b":" in line and not line.startswith(b"#"))
    if "data file" in fields or "datafile" in fields:
        raise InputError(
            path, "a NRRD image with its voxels inside", "one that names another file for them", "export it as one file"
        )
    return "gzip" if fields.get("encoding") in ("gzip", "gz") else fields.get("encoding")


def _check_meta_image_header(path, start):
    """Refuses a MetaImage header that is cut, or whose voxels are in another file."""
    for line in start.split(b"\n")[:-1]:
        name, value = _field(line, b"=")
        if name == "elementdatafile":
            if value == "local":
                return None
            raise InputError(
                path,
                "a MetaImage with its voxels inside (ElementDataFile = LOCAL)",
                "one that names another file for them",
                "export it as one file",
            )
    raise _broken(path, "MetaImage", "the header has no end")


def _field(line, sign):
    name, _, value = line.partition(sign)
    return tuple(part.decode("latin-1").strip().lower() for part in (name, value))


def _check_gzip_length(path, num_bytes):
    """The NRRD library takes a gzip stream whose last bytes are cut off; they say how many bytes it holds."""
    with open(path, "rb") as handle:
        handle.seek(-4, os.SEEK_END)
        if int.from_bytes(handle.read(), "little") != num_bytes % 2**32:
            raise _broken(path, "NRRD", "the last bytes of its gzip stream are not there")


@contextlib.contextmanager
def _silent_stderr():
    """MetaIO prints several lines of complaint to the process's stderr; the error says it in one."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
