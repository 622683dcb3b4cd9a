"""Image files as arrays: NIfTI by nibabel; NRRD and MetaImage by SimpleITK, imported on first use.

Whatever the format, the affine is voxel -> mm in RAS+ (ITK's is LPS+), and the array axes i, j, k are the axes of the
file in order. Lengths in another unit are converted to mm. A NIfTI header describes its geometry in several fields that
may contradict each other; `geometry` holds all of them, so that an output on the image's grid gets the same header.
"""

import contextlib
import io
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from vecset.common.errors import InputError
from vecset.imaging.file_content import (
    DAMAGED,
    GZIP_RATIO,
    META_IMAGE,
    NIFTI,
    NRRD,
    check_content,
    check_data,
    check_size,
    damaged,
    first_bytes,
    in_one_line,
    pieces,
)
from vecset.imaging.header_geometry import (
    LPS_TO_RAS,
    in_millimetres,
    nifti_forms,
    nifti_geometry,
    unit_factor,
    unit_of_words,
    without_rounding,
)

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".mha")  # not .nhdr and .mhd: their voxels are in another file, which a hash would miss
SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES
SUFFIX_WORDS = ", ".join(SUFFIXES[:-1]) + " or " + SUFFIXES[-1]
META_IMAGE_AXES = 10  # the most that MetaIO has room for
META_IMAGE_NUMBERS = {  # fields of a MetaImage header: how many numbers they have, by the number of axes
    **dict.fromkeys(("dimsize", "elementspacing", "elementsize"), lambda axes: axes),
    **dict.fromkeys(("offset", "origin", "position", "centerofrotation"), lambda axes: axes),
    **dict.fromkeys(("transformmatrix", "rotation", "orientation"), lambda axes: axes * axes),
}
NRRD_SPACES = ("right-anterior-superior", "left-anterior-superior", "left-posterior-superior", "ras", "las", "lps")
AS_ITK = "left and right are taken as ITK takes them (left-posterior-superior)"
ONE_MM = "voxels are taken as 1 mm long"
LONGEST_EXTENSIONS = 1 << 26  # bytes of a NIfTI header with its extensions; more is a damaged header


@dataclass
class StoredImage:
    """values in the file's type (scaled where the header says so); affine (4, 4) f64 voxel -> mm RAS+; pixdim_mm (3,)
    where the header has a spacing besides the affine, else None; geometry: see `nifti_geometry`, None for other
    formats; forms: {"sform", "qform": (4, 4)} of a NIfTI header, those that it states; notes: lines for the user about
    what was read otherwise than it is written."""

    values: np.ndarray
    affine: np.ndarray
    pixdim_mm: np.ndarray | None = None
    geometry: dict | None = None
    forms: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)


def has_suffix(path: Path | str, suffixes: tuple = SUFFIXES) -> bool:
    """Whether the file's name ends in one of `suffixes`, in small or capital letters."""
    return str(path).lower().endswith(suffixes)


def case_id(relative_name: Path | str) -> str:
    """The case name of a label map by its path relative to the folder that was given: the parts joined by "_", without
    image suffix: `sub-01/anat/sub-01_dseg.nii.gz` -> `sub-01_anat_sub-01_dseg`, `1.nii.img.nii.gz` -> `1.nii.img`."""
    parts = Path(relative_name).parts
    return "_".join([*parts[:-1], _without_suffix(parts[-1])]) if parts else ""


def case_name(path: Path | str) -> str:
    """The case name of a label map directly in the folder that was given: `1.nii.img.nii.gz` -> `1.nii.img`."""
    return _without_suffix(Path(path).name)


def _without_suffix(name):
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


@np.errstate(all="ignore")  # a header may hold any numbers: what is not finite is refused by name, not warned of
def read_image(path: Path | str) -> StoredImage:
    """Reads an image file. Raises InputError where it is missing, broken, truncated, damaged, too large for memory, or
    in another format than its name says."""
    if not has_suffix(path):
        raise InputError.because(path, f"not a label map in a format that is read: {SUFFIX_WORDS}", "convert it")
    start, size = first_bytes(path, open)
    kind = NIFTI if has_suffix(path, NIFTI_SUFFIXES) else NRRD if has_suffix(path, ".nrrd") else META_IMAGE
    packed = has_suffix(path, ".gz")
    check_content(path, start, kind, packed)
    return _read_nifti(path, size, packed) if kind == NIFTI else _read_itk(path, start, size, kind)


def _read_nifti(path, size, packed):
    try:
        with open(path, "rb") as handle, _silent_nibabel():
            stream = _Stream(pieces(handle, "gzip" if packed else "raw"))
            raw, header, offset = _read_header(path, stream)
            shape, dtype = header.get_data_shape(), header.get_data_dtype()
            slope, inter = header.get_slope_inter()
            _require_shape(path, shape)
            most = (GZIP_RATIO * size if packed else size) - offset
            voxels = stream.read(check_size(path, shape, dtype, most))
            if stream.rest().strip(b"\0"):
                raise damaged(path, NIFTI, f"the header describes {len(voxels)} bytes of voxels, more follow")
        if slope in (None, 1.0) and not inter:
            values = np.frombuffer(voxels, dtype).reshape(shape, order="F")
        else:
            values = np.asanyarray(nib.arrayproxy.ArrayProxy(io.BytesIO(voxels), (shape, dtype, 0, slope, inter)))
    except (*DAMAGED, nib.spatialimages.HeaderDataError) as error:
        raise damaged(path, NIFTI, in_one_line(error)) from error
    factor, unit = unit_factor(header)
    forms, notes = nifti_forms(path, raw, header), []
    affine = forms.get("sform", forms.get("qform"))
    if affine is None:
        affine = header.get_base_affine()
        notes.append("the header states neither sform nor qform: left and right are taken as nibabel takes them")
    pixdim = np.array([float(z) for z in header.get_zooms()[:3]])
    lacking = (
        raw["pixdim"][1 : 1 + len(pixdim)] == 0
    )  # nibabel makes them 1, which is right where the sform says so, too
    if lacking.any() and "sform" not in forms:
        raise InputError.because(path, "its header has no spacing (pixdim is 0)", "export it again, with its spacing")
    pixdim[lacking & ~np.isclose(pixdim, np.linalg.norm(affine[:3, :3], axis=0)[: len(pixdim)])] = 0
    geometry = nifti_geometry(header)
    if factor != 1:
        affine, pixdim, geometry = in_millimetres(affine, factor), pixdim * factor, in_millimetres(geometry, factor)
        forms = {name: in_millimetres(form, factor) for name, form in forms.items()}
        notes.append(f"its lengths are in {unit} and were converted to mm")
    return StoredImage(values, np.array(affine, np.float64), pixdim, geometry, forms, notes)


def read_nifti_header(path: Path | str) -> nib.Nifti1Header:
    """The header of a NIfTI file, with its extensions. InputError where it cannot be read."""
    try:
        with open(path, "rb") as handle, _silent_nibabel():
            return _read_header(path, _Stream(pieces(handle, "gzip" if has_suffix(path, ".gz") else "raw")))[1]
    except (*DAMAGED, nib.spatialimages.HeaderDataError) as error:
        raise damaged(path, NIFTI, in_one_line(error)) from error


def _read_header(path, stream):
    """(the header as it is in the file, the header with nibabel's corrections and the extensions, where voxels
    begin)."""
    block = stream.read(4)
    version_2 = 540 in {int.from_bytes(block, order) for order in ("little", "big")}
    kind = nib.Nifti2Header if version_2 else nib.Nifti1Header
    block += stream.read(kind.sizeof_hdr - 4)
    raw = kind(block, check=False)
    if raw["magic"].item().startswith(b"ni"):
        raise InputError.because(path, "the voxels of this NIfTI image are in another file", "export it as one file")
    offset = raw["vox_offset"].item()
    if not raw.single_vox_offset <= offset <= LONGEST_EXTENSIONS:
        raise damaged(path, NIFTI, f"its header says that voxels begin at byte {offset:g}")
    offset = int(offset)
    block += stream.read(offset - kind.sizeof_hdr)
    return raw, kind.from_fileobj(io.BytesIO(block)), offset


class _Stream:
    """Reads exactly as many bytes as asked from an iterator of pieces."""

    def __init__(self, iterator):
        self._iterator, self._kept = iterator, b""

    def read(self, count):
        """`count` bytes; EOFError where there are fewer."""
        found, filled = bytearray(count), 0
        while filled < count:
            piece = self._kept or next(self._iterator, b"")
            if not piece:
                raise EOFError(f"expected {count} bytes, got {filled}")
            part = piece[: count - filled]
            found[filled : filled + len(part)] = part
            filled, self._kept = filled + len(part), piece[len(part) :]
        return found

    def rest(self):
        """Reads to the end. The first piece of what is left that holds more than zeros, b"" where none does."""
        other = self._kept
        for piece in self._iterator:
            other = other if other.strip(b"\0") else piece
        return other


@contextlib.contextmanager
def _silent_nibabel():
    """Silences nibabel's log, which tells what it mended in a header; what matters of that is an error or a note."""
    logger = nib.imageglobals.logger
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def _require_shape(path, shape):
    if not shape or min(shape) < 1:
        raise InputError.because(path, f"the image has no voxels: its shape is {tuple(shape)}", "export it again")


def _read_itk(path, start, size, kind):
    layout = _nrrd_layout(path, start) if kind == NRRD else _meta_image_layout(path, start)
    import SimpleITK as sitk  # takes 0.2 s

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(f"{'Nrrd' if kind == NRRD else 'Meta'}ImageIO")  # by the suffix, whatever the content
    reader.SetFileName(str(path))
    try:
        with _silent_stderr():
            reader.ReadImageInformation()
            dtype = _voxel_type(sitk, path, reader.GetPixelID())
            shape = reader.GetSize()
            _require_shape(path, shape)
            least = {"raw": 1, "ascii": 2}.get(layout.encoding, 1 / GZIP_RATIO)  # bytes of the file per byte of voxels
            components = reader.GetNumberOfComponents()
            num_bytes = check_size(
                path, (*shape, components) if components > 1 else shape, dtype, int((size - layout.offset) / least) + 1
            )
            if layout.encoding != "ascii":
                skip = max(layout.skip, 0)
                offset = size - num_bytes if layout.skip < 0 else layout.offset
                check_data(path, kind, layout.encoding, offset, num_bytes + skip)
            image = reader.Execute()
    except RuntimeError as error:
        said = [line.strip() for line in str(error).splitlines() if line.startswith("[nrrd]")]
        raise damaged(path, kind, said[-1] if said else "ITK cannot read it") from error
    values = sitk.GetArrayFromImage(image).T  # ITK's arrays are k, j, i, and then the component
    values = np.moveaxis(values, 0, -1) if components > 1 else values
    axes, notes, affine = image.GetDimension(), list(layout.notes), np.eye(4)
    if axes >= 3:
        direction = np.array(image.GetDirection()).reshape(axes, axes)[:3, :3]
        spacing = np.array(image.GetSpacing())[:3]
        affine[:3, :3] = direction * spacing
        affine[:3, 3] = image.GetOrigin()[:3]
        # NRRD rounds direction times spacing, MetaImage the direction
        whole = without_rounding(affine[:3, :3]) if kind == NRRD else without_rounding(direction, spacing)
        if whole:
            affine[:3, :3] = whole[0]
            notes.append(f"its directions are rounded to {whole[1]} decimals; the nearest right angles were taken")
    factor, unit = unit_of_words(path, layout.units)
    if factor != 1:
        affine = in_millimetres(affine, factor)
        notes.append(f"its lengths are in {unit} and were converted to mm")
    return StoredImage(values, LPS_TO_RAS @ affine, notes=notes)


def _voxel_type(sitk, path, pixel_id):
    try:
        return np.dtype(sitk.GetArrayViewFromImage(sitk.Image([1, 1], pixel_id)).dtype)
    except (KeyError, ValueError, TypeError, RuntimeError):
        name = sitk.GetPixelIDValueAsString(pixel_id)
        raise InputError(path, "one number per voxel", f"voxels of type {name}", "export it as integers") from None


@dataclass
class _Layout:
    """Of the data of a NRRD or MetaImage file: encoding 'raw', 'gzip', 'zlib' or 'ascii'; the byte at which
    they begin; the bytes to skip there, once decompressed (-1: the data are the last bytes); units of the axes; notes:
    what the header does not say about its place, and what is taken."""

    encoding: str
    offset: int
    skip: int = 0
    units: list = field(default_factory=list)
    notes: list = field(default_factory=list)


def _nrrd_layout(path, start):
    """The _Layout in a NRRD header. Raises InputError where the header is truncated or names another file for its
    voxels."""
    ends = [start.find(end) + len(end) for end in (b"\n\n", b"\r\n\r\n") if end in start]
    if not start.startswith(b"NRRD"):
        raise damaged(path, NRRD, "the first bytes are not NRRD")
    if not ends:
        raise damaged(path, NRRD, "the header has no end")
    offset = min(ends)
    lines = start[:offset].replace(b"\r\n", b"\n").split(b"\n")
    fields = dict(_field(line, b":") for line in lines if b":" in line and not line.startswith(b"#"))
    if "data file" in fields or "datafile" in fields:
        raise InputError.because(path, "the voxels of this NRRD image are in another file", "export it as one file")
    encoding = {"gz": "gzip", "bz2": "bzip2", "txt": "ascii", "text": "ascii", "hex": "ascii"}.get(
        fields.get("encoding"), fields.get("encoding")
    )
    if encoding == "bzip2":
        raise InputError.because(
            path, "a NRRD image that is compressed with bzip2, which ITK does not read", "save it with gzip or raw"
        )
    if encoding not in ("raw", "gzip", "ascii"):
        raise damaged(path, NRRD, f"its encoding is {encoding!r}")
    skips = []
    for name in ("line skip", "byte skip"):
        text = fields.get(name, fields.get(name.replace(" ", ""), "0"))
        if not text.lstrip("-").isdecimal():
            raise damaged(path, NRRD, f"{name} is {text!r}")
        skips.append(int(text))
    for _ in range(skips[0]):
        offset = start.find(b"\n", offset) + 1
        if not offset:
            raise damaged(path, NRRD, f"line skip is {skips[0]}")
    words = fields.get("space units", fields.get("units", ""))
    units = [word.strip() for word in words.split('"')[1::2]] if '"' in words else words.split()
    return _Layout(encoding, offset, skips[1], units, _nrrd_notes(fields))


def _nrrd_notes(fields):
    """See `_Layout`. ITK knows NRRD_SPACES, and takes all others, and none, as left-posterior-superior."""
    notes, space = [], fields.get("space", "")
    if not space:
        notes.append("the header has no space: " + AS_ITK)
    elif space not in NRRD_SPACES:
        notes.append(f"its space is {space}, which says nothing about left and right: {AS_ITK}")
    if not any(name in fields for name in ("space directions", "spacings")):
        notes.append("the header has no spacings: " + ONE_MM)
    return notes


def _meta_image_layout(path, start):
    """The _Layout in a MetaImage header. Raises InputError where the header is truncated or names another file for its
    voxels."""
    fields, offset = {}, 0
    for line in start.split(b"\n")[:-1]:
        name, value = _field(line, b"=")
        if fields.setdefault(name, value) != value:
            raise damaged(path, META_IMAGE, f"its header gives {name} twice")
        offset += len(line) + 1
        if name == "elementdatafile":
            if value == "local":
                break
            raise InputError.because(
                path,
                "the voxels of this MetaImage are in another file (ElementDataFile is not LOCAL)",
                "export it as one file",
            )
    else:
        raise damaged(path, META_IMAGE, "the header has no end")
    _check_meta_image_numbers(path, fields)
    if fields.get("binarydata", "true")[:1] in ("f", "0"):
        encoding = "ascii"
    elif fields.get("compresseddata", "false")[:1] in ("t", "1"):
        encoding = "gzip" if start[offset : offset + 2] == b"\x1f\x8b" else "zlib"
    else:
        encoding = "raw"
    units = [fields.get("distanceunits", "").removeprefix("met_distance_units_")]
    notes = []
    if not any(name in fields for name in ("transformmatrix", "orientation", "rotation")):
        notes.append("the header has no TransformMatrix: " + AS_ITK)
    if not any(name in fields for name in ("elementspacing", "elementsize")):
        notes.append("the header has no ElementSpacing: " + ONE_MM)
    return _Layout(encoding, offset, units=units, notes=notes)


def _check_meta_image_numbers(path, fields):
    """Raises InputError where a number of a MetaImage header is none: MetaIO takes it for 0, or ends the process."""
    text = fields.get("ndims", "")
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= META_IMAGE_AXES:
        raise damaged(path, META_IMAGE, f"NDims is {text!r}")
    axes = int(text)
    if len(fields.get("dimsize", "").split()) != axes:
        raise damaged(path, META_IMAGE, f"DimSize is {fields.get('dimsize')!r} for {axes} axes")
    for name, count in META_IMAGE_NUMBERS.items():
        words = fields.get(name, "").split()
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            numbers = [np.nan]
        if words and (len(words) != count(axes) or not np.isfinite(numbers).all()):
            raise damaged(path, META_IMAGE, f"{name} is {fields[name]!r} for {axes} axes")
        if name in ("dimsize", "elementspacing") and min(numbers, default=1) <= 0:
            raise damaged(path, META_IMAGE, f"{name} is {fields[name]!r}")


def _field(line, sign):
    name, _, value = line.partition(sign)
    return tuple(part.decode("latin-1").strip().lower() for part in (name, value))


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
