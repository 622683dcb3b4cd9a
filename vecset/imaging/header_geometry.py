"""Where a header places its image: units, the two forms of NIfTI, contradictions, and a header that all readers agree
on.

A NIfTI header can place the image twice, by sform (an affine) and by qform (a rotation, with the spacing in pixdim).
Readers differ where the two differ. nibabel takes the sform where its code is above 0, else the qform. ITK, and with it
SimpleITK and 3D Slicer, always takes the spacing of pixdim. It takes the directions and the origin of the sform where
its code is 1 or there is no qform, and otherwise those of the qform unless the two are almost equal. It takes neither
where the sform's spacing is not that of pixdim, and goes to the qform. Where both codes are 0, nibabel and ITK take
different directions and origins. (itkNiftiImageIO.cxx, `SetImageIOOrientationFromNIfTI`; ITK 5.4 and nibabel 5.4.)
ITK converts metre and micron to mm; nibabel converts nothing.
"""

import itertools
import math
from pathlib import Path

import nibabel as nib
import numpy as np

from vecset.common.errors import InputError
from vecset.imaging.frame import MAX_SHEAR, UNIT_RADIUS, Frame

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MILLIMETRE = 2  # the code of xyzt_units, in its lowest three bits
UNITS = {1: (1e3, "metre"), 3: (1e-3, "micron")}  # codes of xyzt_units: mm in one of it, its name
UNIT_WORDS = {  # of NRRD and MetaImage, in small letters: mm in one of it
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1e3),
    **dict.fromkeys(("um", "\xb5m", "\u03bcm", "micron", "microns", "micrometer", "micrometers", "micrometre"), 1e-3),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre"), 1e-6),
    **dict.fromkeys(("in", "inch", "inches"), 25.4),
}
SPACING_TOLERANCE = 0.01  # relative difference between sform and pixdim that counts as rounding
LARGEST_SHIFT = 0.5  # voxels between the places of one voxel by sform and by qform; more is a contradiction
SAME_PLACE = 0.01  # voxels: a header whose forms differ by more than this is not written as it came
ITK_SHEAR = 5e-5  # |cos| between two axes of an sform: from about 2e-4 on ITK reads a file only if it has a qform
LARGEST_NORM = 1.01  # of a quaternion; more is no rounding
ROUNDED_DIGITS = range(2, 6)  # decimals of direction cosines whose rounding may look like shear
LARGEST_ROUNDING = 0.03  # |cos| between two axes
# A heart, and the voxels of its image, in mm: far outside of what any animal and any scanner has
HEART_MM, VOXEL_MM, FARTHEST_MM = (1.0, 1000.0), (0.0005, 100.0), 1e5
_RIGHT_UNIT = "write the image in mm, with the unit in its header (NIfTI: xyzt_units 2)"
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


def nifti_geometry(header: nib.Nifti1Header) -> dict:
    """The fields of a NIfTI header that place the image in space, as JSON types: {"nifti_version": 1 or 2, and each of
    GEOMETRY_FIELDS: a number or a list}. Of pixdim only the first four (qfac, then mm). Numbers that are not finite
    become 0."""
    found = {"nifti_version": 2 if isinstance(header, nib.Nifti2Header) else 1}
    for name in GEOMETRY_FIELDS:
        value = np.nan_to_num(header[name], nan=0.0, posinf=0.0, neginf=0.0)
        found[name] = value[:4].tolist() if value.ndim else value.item()
    return found


def nifti_header(geometry: dict, shape: tuple, affine: np.ndarray | None = None) -> nib.Nifti1Header:
    """The header of a u8 image of `shape` (3,) with the fields of `geometry` (see `nifti_geometry`).

    Where these do not place the image at `affine` (4, 4) voxel -> mm in every reader, sform and qform are both set to
    it, in mm; None: the fields stay as they are."""
    header = (nib.Nifti2Header if geometry["nifti_version"] == 2 else nib.Nifti1Header)()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    for name in GEOMETRY_FIELDS:
        value = geometry[name]
        header[name] = value + [1.0] * (len(header[name]) - len(value)) if isinstance(value, list) else value
    if affine is not None and not _all_place_at(header, shape, affine):
        code = geometry["sform_code"] or geometry["qform_code"] or 1
        header.set_sform(affine, code)
        header.set_qform(affine, code)
        header["xyzt_units"] = int(geometry["xyzt_units"]) & ~7 | MILLIMETRE
    return header


def _all_place_at(header, shape, affine):
    """Whether every reader takes the image to be at `affine`, within SAME_PLACE."""
    if int(header["xyzt_units"]) & 7 in UNITS:
        return False
    forms = coded_forms(header)
    if "qform" in forms:
        try:
            header.get_qform()
        except (ValueError, nib.spatialimages.HeaderDataError):  # nibabel cannot read it
            return False
    if "sform" in forms:  # as ITK takes it: with the spacing of pixdim
        with np.errstate(divide="ignore", invalid="ignore"):
            forms["sform in ITK"] = with_spacing(forms["sform"], np.array(header.get_zooms()[:3], np.float64))
        if "qform" not in forms and not _at_right_angles(forms["sform"]):
            return False  # ITK reads no such sform: it needs a qform, which cannot shear
    largest = SAME_PLACE if _at_right_angles(affine) else LARGEST_SHIFT  # a qform cannot shear: it is as near as can be
    return bool(forms) and all(farthest_shift(affine, form, shape) <= largest for form in forms.values())


def _at_right_angles(affine):
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        units = affine[:3, :3] / sizes
    return bool(np.abs(units.T @ units - np.eye(3)).max() <= ITK_SHEAR)


def readers_agree(header: nib.Nifti1Header) -> bool:
    """Whether every reader places the image of a NIfTI header alike, within SAME_PLACE."""
    forms = coded_forms(header)
    return bool(forms) and _all_place_at(header, header.get_data_shape()[:3], next(iter(forms.values())))


def coded_forms(header: nib.Nifti1Header) -> dict[str, np.ndarray]:
    """{"sform", "qform": (4, 4)} in the header's unit, those whose code is above 0. A quaternion that is longer than 1
    by rounding is made one of length 1, as the NIfTI library does with all; NaN where it is damaged."""
    forms = {}
    if header["sform_code"] > 0:
        forms["sform"] = header.get_sform()
    if header["qform_code"] > 0:
        header = header.copy()
        bcd = np.array([header[f"quatern_{n}"] for n in "bcd"], np.float64)
        norm = np.linalg.norm(bcd)
        if 1 < norm < np.inf:
            try:
                header.get_qform()
            except ValueError:  # longer than nibabel takes for rounding
                for n, value in zip("bcd", bcd / norm):
                    header[f"quatern_{n}"] = value
        if not norm <= LARGEST_NORM:
            forms["qform"] = np.full((4, 4), np.nan)
            return forms
        header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
        header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
        with np.errstate(invalid="ignore"):
            try:
                forms["qform"] = header.get_qform()
            except (ValueError, np.linalg.LinAlgError):  # not finite
                forms["qform"] = np.full((4, 4), np.nan)
    return forms


def nifti_forms(path: Path | str, raw: nib.Nifti1Header, header: nib.Nifti1Header) -> dict[str, np.ndarray]:
    """`coded_forms` of a header: `raw` as it is in the file, `header` with nibabel's corrections. Raises InputError for
    codes that do not exist, and where a damaged qform is all there is."""
    for name in ("sform_code", "qform_code"):
        if int(raw[name]) not in range(6):
            raise InputError.because(path, f"its header is damaged: {name} is {raw[name]}, not 0 to 5", "export again")
    forms = coded_forms(header)
    if list(forms) == ["qform"]:
        norm = float(np.linalg.norm([float(raw[f"quatern_{n}"]) for n in "bcd"]))
        if not norm <= LARGEST_NORM:
            raise InputError.because(
                path, f"its qform is damaged: its quaternion has the length {norm:.4g}, more than 1", "export again"
            )
        if raw["pixdim"][0] not in (-1, 0, 1):
            raise InputError.because(
                path,
                f"its qform is damaged: qfac (pixdim[0]) is {raw['pixdim'][0]:g}, not 1 or -1, and readers "
                "differ about left and right",
                "export again",
            )
    return forms


def unit_factor(header: nib.Nifti1Header) -> tuple[float, str]:
    """(mm in one unit of length of a NIfTI header, its name). Unknown is mm, as all readers take it."""
    return UNITS.get(int(header["xyzt_units"]) & 7, (1.0, "mm"))


def unit_of_words(path: Path | str, words: list[str]) -> tuple[float, str]:
    """(mm in one unit, its name) for the units of the axes in words; no words are mm. Raises InputError where they
    differ or one is not known."""
    words = [word for word in words if word not in ("", "none", "???", "unknown")]
    if not words:
        return 1.0, "mm"
    factors = {UNIT_WORDS.get(word.lower()) for word in words}
    if None in factors or len(factors) > 1:
        raise InputError.because(
            path, f"its unit of length is {', '.join(words)}, which is not one of {', '.join(UNIT_WORDS)}"
            if None in factors else f"its axes have different units of length: {', '.join(words)}",
            "write it in mm",
        )  # fmt: skip
    return factors.pop(), "inch" if words[0].lower() == "in" else words[0]


def in_millimetres(place: np.ndarray | dict, factor: float) -> np.ndarray | dict:
    """An affine (4, 4), or the dict of `nifti_geometry`, with its lengths multiplied by `factor`."""
    if isinstance(place, dict):
        found = dict(place)
        for name in ("srow_x", "srow_y", "srow_z"):
            found[name] = [value * factor for value in place[name]]
        for name in ("qoffset_x", "qoffset_y", "qoffset_z"):
            found[name] = place[name] * factor
        found["pixdim"] = [place["pixdim"][0], *(value * factor for value in place["pixdim"][1:])]
        found["xyzt_units"] = int(place["xyzt_units"]) & ~7 | MILLIMETRE
        return found
    scaled = np.array(place, np.float64)
    scaled[:3] *= factor
    return scaled


def farthest_shift(first: np.ndarray, second: np.ndarray, shape: tuple) -> float:
    """The largest distance, in voxels along an axis of `first`, between the places that two affines (4, 4) give to one
    voxel of an image of `shape` (3,). Corners decide. inf where one is not finite or `first` has no inverse."""
    corners = np.array(list(itertools.product(*((0, n - 1) for n in shape))), np.float64)
    with np.errstate(all="ignore"):
        try:
            difference = np.linalg.inv(first) @ second
        except np.linalg.LinAlgError:
            return math.inf
        shift = np.abs(corners @ difference[:3, :3].T + difference[:3, 3] - corners).max()
    return float(shift) if np.isfinite(shift) else math.inf


def with_spacing(affine: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """The affine (4, 4) with the same directions and origin, and `spacing_mm` (3,) along its axes."""
    affine = np.array(affine, np.float64)
    affine[:3, :3] *= spacing_mm / np.linalg.norm(affine[:3, :3], axis=0)
    return affine


def settle_geometry(
    path: Path | str,
    shape: tuple,
    affine: np.ndarray,
    pixdim_mm: np.ndarray | None,
    forms: dict[str, np.ndarray],
    spacing_from: str | None = None,
    geometry_from: str | None = None,
) -> np.ndarray:
    """The affine (4, 4) that holds for an image of `shape` (3,) whose header says `affine`, `pixdim_mm` (3,) or None,
    and `forms` (see `coded_forms`).

    `spacing_from` ('affine' or 'pixdim') decides where the two differ by more than SPACING_TOLERANCE. `geometry_from`
    ('sform' or 'qform') decides where the header has both; it decides about the spacing too. Raises InputError where a
    header contradicts itself and neither decides."""
    both = len(forms) == 2
    if both and geometry_from:
        chosen = forms[geometry_from]
        if not np.isfinite(chosen).all():
            other = "sform" if geometry_from == "qform" else "qform"
            raise InputError.because(path, f"its {geometry_from} is damaged", f"use --geometry_from {other}")
        return _settle_spacing(path, chosen, pixdim_mm, spacing_from or "affine")
    settled = _settle_spacing(path, affine, pixdim_mm, spacing_from)
    if both:
        qform = forms["qform"]
        if spacing_from and np.isfinite(qform).all():
            qform = with_spacing(qform, np.linalg.norm(settled[:3, :3], axis=0))
        shift = farthest_shift(settled, qform, shape)
        if shift > LARGEST_SHIFT:
            raise InputError.because(
                path,
                f"sform and qform place the image differently, up to {shift:.3g} voxels apart: by the sform it goes "
                f"{_place(forms['sform'], shape)}; by the qform {_place(forms['qform'], shape)}",
                "look at the heart in both and say which is right with --geometry_from sform or --geometry_from qform",
            )
    return settled


def is_settled(
    geometry: dict | None, frame: Frame | None, spacing_from: str | None = None, geometry_from: str | None = None
) -> bool:
    """Whether a case file with the `nifti_geometry` (None: another format) and `frame` holds a heart in mm, of a header
    that does not contradict itself: earlier versions made case files of all."""
    if frame is None or not HEART_MM[0] <= 2 * UNIT_RADIUS / frame.scale <= HEART_MM[1]:
        return False
    if not geometry:
        return True
    header = nifti_header(geometry, frame.shape)
    if int(header["xyzt_units"]) & 7 in UNITS:
        return False
    forms = coded_forms(header)
    try:
        settle_geometry(
            "", frame.shape, frame.affine, None, forms if "sform" in forms else {}, spacing_from, geometry_from
        )
    except InputError:
        return False
    return True


def _place(affine, shape):
    if not np.isfinite(affine).all():
        return "nowhere (it is damaged)"
    ends = affine[:3, 3], affine[:3, :3] @ (np.array(shape) - 1) + affine[:3, 3]
    words = [f"({', '.join(f'{x:.4g}' for x in end)})" for end in ends]
    codes = "".join(code or "?" for code in nib.aff2axcodes(affine))
    return f"from {words[0]} to {words[1]} mm, axes {codes}"


def _settle_spacing(path, affine, pixdim_mm, spacing_from):
    """The affine (4, 4), its axes scaled to `pixdim_mm` (3,) where the two differ and `spacing_from` is 'pixdim'.
    A header without pixdim (None) cannot contradict itself."""
    if pixdim_mm is None:
        return affine
    affine_mm = np.linalg.norm(affine[:3, :3], axis=0)
    sound = np.isfinite(pixdim_mm).all() and (pixdim_mm > 0).all()
    if sound and (np.abs(pixdim_mm / affine_mm - 1) <= SPACING_TOLERANCE).all():
        return affine
    if spacing_from == "affine":
        return affine
    shown = [" x ".join(f"{n:.4g}" for n in mm) for mm in (affine_mm, pixdim_mm)]
    if spacing_from == "pixdim" and sound:
        return with_spacing(affine, pixdim_mm)
    raise InputError.because(
        path,
        f"the spacing is {shown[0]} mm in the affine but {shown[1]} mm in pixdim",
        "say which is right with --spacing_from affine" + (" or --spacing_from pixdim" if sound else ""),
    )


def without_rounding(axes: np.ndarray, lengths: np.ndarray | None = None) -> tuple[np.ndarray, int] | None:
    """(the nearest axes at right angles, the decimals) for axes (3, 3), as columns, that are sheared by no more than
    the rounding of their numbers to few decimals explains; None for all others. `lengths` (3,) of the axes, by default
    those that they have."""
    sizes = np.linalg.norm(axes, axis=0)
    if not (np.isfinite(axes).all() and sizes.min() > 0):
        return None
    units = axes / sizes
    pairs = np.triu_indices(3, 1)
    shear = np.abs(units.T @ units)[pairs]
    digits = next((d for d in ROUNDED_DIGITS if np.abs(axes * 10**d - np.rint(axes * 10**d)).max() < 0.02), None)
    if shear.max() <= MAX_SHEAR or digits is None:
        return None
    by_rounding = 0.5 * 10**-digits * math.sqrt(3) / sizes  # of each axis, in radians
    explained = (by_rounding[:, None] + by_rounding)[pairs]
    if (shear > explained).any() or shear.max() > LARGEST_ROUNDING:
        return None
    left, _, right = np.linalg.svd(units)
    return (left @ right) * (sizes if lengths is None else lengths), digits


def check_plausible(path: Path | str, labels: np.ndarray, affine: np.ndarray) -> None:
    """Raises InputError where a label map (X, Y, Z) with voxels above 0 has a heart, a voxel or a place that no image
    in mm has: its unit of length is another one."""
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing_mm.min() < VOXEL_MM[0] or spacing_mm.max() > VOXEL_MM[1]:
        shown = " x ".join(f"{n:.4g}" for n in spacing_mm)
        raise InputError.because(
            path, f"its voxels are {shown} mm, which no scanner has: mm is not its unit", _RIGHT_UNIT
        )
    sides = [np.flatnonzero(labels.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    extent_mm = float(((np.array([side[-1] - side[0] for side in sides]) + 1) * spacing_mm).max())
    require_heart_size(path, extent_mm, _RIGHT_UNIT)
    farthest_mm = float(np.abs(affine[:3, :3] @ (np.array(labels.shape) / 2) + affine[:3, 3]).max())
    if farthest_mm > FARTHEST_MM:
        raise InputError.because(
            path, f"its header places it {farthest_mm / 1000:.4g} m from the origin", "repair the image's header"
        )


def require_heart_size(path: Path | str, extent_mm: float, to_do: str) -> None:
    """Raises InputError where what is labelled, `extent_mm` long, is no heart in mm."""
    if not HEART_MM[0] <= extent_mm <= HEART_MM[1]:
        raise InputError.because(
            path, f"what is labelled is {extent_mm:.4g} mm long, which no heart is: mm is not its unit", to_do
        )
