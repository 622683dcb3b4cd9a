"""Headers that contradict themselves, that are in another unit, or that are rounded: the place that is read is the one
of nibabel and of ITK where they agree; what is written is at the same place in both."""

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from vecset.common.errors import InputError
from vecset.imaging.frame import Frame
from vecset.imaging.header_geometry import (
    check_plausible,
    farthest_shift,
    is_settled,
    nifti_geometry,
    readers_agree,
    without_rounding,
)
from vecset.imaging.label_map import read_label_map, write_label_map
from vecset.imaging.label_table import write_segmentation_nrrd

AFFINE = np.array([[0, -1.2, 0, 30.3], [1.1, 0, 0, -47.7], [0, 0, 2.5, 15.9], [0, 0, 0, 1]])
MIRRORED = np.diag([-1.0, 1, 1, 1]) @ AFFINE


def heart_labels():
    """(X, Y, Z) u8, another size and another content along each axis."""
    i, j, k = np.indices((22, 20, 18))
    labels = ((i - 9) ** 2 + (j - 11) ** 2 + 1.5 * (k - 8) ** 2 < 50).astype(np.uint8)
    labels[(labels > 0) & (i > 10)] = 2
    return labels


def nifti(path, sform=AFFINE, qform=AFFINE, codes=(1, 1), unit="mm", **fields):
    image = nib.Nifti1Image(heart_labels(), AFFINE)
    image.set_qform(qform, 1)
    image.set_sform(sform, 1)
    header = image.header
    header["sform_code"], header["qform_code"] = codes
    header.set_xyzt_units(unit)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + bytes(4) + heart_labels().tobytes(order="F"))  # nibabel would repair fields
    return path


def itk_affine(path):
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine


def places_written(folder, label_map):
    """The affines of what reconstruct.py writes on the grid of `label_map`, by every reader."""
    geometry = json.loads(json.dumps(label_map.geometry, allow_nan=False))
    write_label_map(folder / "labels.nii.gz", label_map.labels, label_map.affine, ["a", "b"], geometry)
    write_segmentation_nrrd(folder / "labels.seg.nrrd", label_map.labels, label_map.affine, ["a", "b"])
    image = nib.load(folder / "labels.nii.gz")
    return [
        image.affine,
        itk_affine(folder / "labels.nii.gz"),
        itk_affine(folder / "labels.seg.nrrd"),
        *[form for form, code in (image.get_sform(coded=True), image.get_qform(coded=True)) if code],
    ]


def check_written(folder, label_map, affine):
    np.testing.assert_allclose(label_map.affine, affine, atol=1e-4)
    for found in places_written(folder, label_map):
        np.testing.assert_allclose(found, affine, atol=1e-4)


@pytest.mark.parametrize("codes", [(1, 1), (1, 2), (2, 1), (4, 2), (3, 1)])
@pytest.mark.parametrize("form", ["sform", "qform"])
def test_forms_that_differ_in_place_are_refused_unless_one_is_chosen(tmp_path, codes, form):
    path = nifti(tmp_path / "h.nii", AFFINE, MIRRORED, codes)
    with pytest.raises(InputError, match="h.nii: sform and qform .*30.3.*-30.3.*--geometry_from sform or .*qform"):
        read_label_map(path, 2)
    chosen = read_label_map(path, 2, geometry_from=form)
    check_written(tmp_path, chosen, AFFINE if form == "sform" else MIRRORED)


@pytest.mark.parametrize(
    "change, refused",
    [
        ("centre", True),
        ("turned a little", True),
        ("swapped axes", True),
        ("a third of a voxel", False),
        ("turned by rounding", False),
    ],
)
def test_places_that_differ_by_half_a_voxel_anywhere_are_a_contradiction(tmp_path, change, refused):
    qform = AFFINE.copy()
    if change == "centre":
        qform[:3, 3] = 0
    elif change == "a third of a voxel":
        qform[2, 3] += 2.5 / 3
    elif change == "swapped axes":
        qform[:2] = AFFINE[[1, 0]]
    else:  # the corners of the image move most; turned about the first voxel
        degrees = 3 if change == "turned a little" else 0.3
        qform[:3, :3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix() @ AFFINE[:3, :3]
    path = nifti(tmp_path / "h.nii", AFFINE, qform)
    assert (farthest_shift(AFFINE, qform, (22, 20, 18)) > 0.5) == refused
    if refused:
        with pytest.raises(InputError, match="sform and qform"):
            read_label_map(path, 2)
    else:
        check_written(tmp_path, read_label_map(path, 2), AFFINE)


def test_a_qform_that_is_not_finite_beside_an_sform(tmp_path):
    path = nifti(tmp_path / "h.nii", quatern_b=np.nan)
    with pytest.raises(InputError, match="damaged.*--geometry_from sform"):
        read_label_map(path, 2)
    check_written(tmp_path, read_label_map(path, 2, geometry_from="sform"), AFFINE)
    with pytest.raises(InputError, match="--geometry_from sform"):
        read_label_map(path, 2, geometry_from="qform")


@pytest.mark.parametrize("codes", [(2, 0), (2, 1)])
def test_a_wrong_spacing_is_decided_by_spacing_from_alone(tmp_path, codes):
    """As ACDC has it (and with a qform, whose spacing is pixdim)."""
    sform = AFFINE.copy()
    sform[:3, :3] /= np.linalg.norm(AFFINE[:3, :3], axis=0)
    path = nifti(tmp_path / "h.nii", sform, AFFINE, codes)
    with pytest.raises(InputError, match="1 x 1 x 1 mm.*1.1 x 1.2 x 2.5 mm.*--spacing_from"):
        read_label_map(path, 2)
    check_written(tmp_path, read_label_map(path, 2, spacing_from="pixdim"), AFFINE)
    check_written(tmp_path, read_label_map(path, 2, spacing_from="affine"), sform)
    if codes == (2, 1):
        check_written(tmp_path, read_label_map(path, 2, geometry_from="sform"), sform)
        check_written(tmp_path, read_label_map(path, 2, geometry_from="qform"), AFFINE)
        mirrored = nifti(tmp_path / "m.nii", sform, MIRRORED, codes)
        with pytest.raises(InputError, match="--geometry_from"):
            read_label_map(mirrored, 2, spacing_from="pixdim")
        check_written(tmp_path, read_label_map(mirrored, 2, spacing_from="pixdim", geometry_from="sform"), AFFINE)


@pytest.mark.parametrize("codes", [(2, 0), (0, 1), (0, 0)])
def test_a_spacing_of_zero_is_never_taken_for_one(tmp_path, codes):
    path = nifti(tmp_path / "h.nii", AFFINE, AFFINE, codes)
    content = bytearray(path.read_bytes())
    content[80:92] = bytes(12)  # pixdim[1:4]
    path.write_bytes(content)
    if codes[0]:
        with pytest.raises(InputError, match="0 x 0 x 0 mm in pixdim; .*--spacing_from affine$"):
            read_label_map(path, 2)
        check_written(tmp_path, read_label_map(path, 2, spacing_from="affine"), AFFINE)
    else:
        with pytest.raises(InputError, match="has no spacing"):
            read_label_map(path, 2)


def test_a_header_without_sform_and_qform_is_told_and_written_with_both(tmp_path):
    path = nifti(tmp_path / "h.nii", codes=(0, 0))
    found = read_label_map(path, 2)
    assert "neither sform nor qform" in found.notes[0]
    check_written(tmp_path, found, nib.load(path).affine)


@pytest.mark.parametrize("shear", [1e-5, 1e-4, 3e-4, 9e-4])
@pytest.mark.parametrize("codes", [(2, 0), (1, 1)])
def test_what_is_written_of_a_sheared_sform_is_read_by_itk(tmp_path, shear, codes):
    """ITK reads no sheared sform without a qform: a file that states the sform alone is written with both."""
    affine = AFFINE.copy()
    affine[0, 0] = shear * 1.1  # |cos| between the first two axes is `shear`
    found = read_label_map(nifti(tmp_path / "h.nii", affine, affine, codes), 2)
    np.testing.assert_allclose(found.affine, affine, atol=1e-6)
    for place in places_written(tmp_path, found):
        assert farthest_shift(found.affine, place, found.labels.shape) <= 0.05
    header = nib.load(tmp_path / "labels.nii.gz").header
    np.testing.assert_allclose(header.get_sform(), affine, atol=1e-6)
    assert readers_agree(header)


@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 1), (2, 1)])
@pytest.mark.parametrize("unit, factor", [("meter", 1e-3), ("micron", 1e3)])
def test_metre_and_micron_become_mm(tmp_path, unit, factor, codes):
    affine = AFFINE.copy()
    affine[:3] *= factor
    path = nifti(tmp_path / "h.nii", affine, affine, codes, unit)
    found = read_label_map(path, 2)
    np.testing.assert_allclose(itk_affine(path), AFFINE, atol=1e-4)  # ITK converts too
    assert f"in {unit.replace('meter', 'metre')} and were converted to mm" in found.notes[0]
    check_written(tmp_path, found, AFFINE)
    assert nib.load(tmp_path / "labels.nii.gz").header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("unit", ["unknown", "mm"])
@pytest.mark.parametrize("factor, words", [(1e-3, "1.1e-06|mm is not its unit"), (1e3, "mm is not its unit")])
def test_lengths_that_are_not_mm_are_refused(tmp_path, unit, factor, words):
    affine = AFFINE.copy()
    affine[:3] *= factor
    with pytest.raises(InputError, match=words):
        read_label_map(nifti(tmp_path / "h.nii", affine, affine, unit=unit), 2)


def test_a_unit_that_contradicts_the_numbers_is_refused(tmp_path):
    for unit in ("meter", "micron"):
        with pytest.raises(InputError, match="mm is not its unit.*xyzt_units"):
            read_label_map(nifti(tmp_path / "h.nii", unit=unit), 2)


def test_plausible():
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[5:25, 5:25, 5:25] = 1
    check_plausible("x", labels, np.diag([0.2, 0.2, 0.2, 1]))  # of a mouse
    check_plausible("x", labels, np.diag([15.0, 15, 15, 1]))
    far = np.eye(4)
    far[0, 3] = 2e6
    with pytest.raises(InputError, match="2000 m from the origin"):
        check_plausible("x", labels, far)


def write_nrrd(path, directions, *lines):
    text = "\n".join(
        [
            *("NRRD0005", "type: uint8", "dimension: 3", "space: right-anterior-superior", "sizes: 22 20 18"),
            "space directions: " + " ".join(f"({','.join(f'{x:.12g}' for x in d)})" for d in np.transpose(directions)),
            *("space origin: (1,2,3)", "encoding: raw", *lines),
        ]
    )
    path.write_bytes(text.encode() + b"\n\n" + heart_labels().T.tobytes())
    return path


@pytest.mark.parametrize(
    "line, factor",
    [
        ('space units: "mm" "mm" "mm"', 1),
        ('space units: "m" "m" "m"', 1e-3),
        ('space units: "microns" "microns" "microns"', 1e3),
        ('space units: "cm" "cm" "cm"', 0.1),
        ('space units: "" "" ""', 1),
    ],
)
def test_units_of_nrrd(tmp_path, line, factor):
    found = read_label_map(write_nrrd(tmp_path / "h.nrrd", np.diag([1.1, 1.2, 2.5]) * factor, line), 2)
    np.testing.assert_allclose(found.spacing_mm, (1.1, 1.2, 2.5))
    np.testing.assert_allclose(found.affine[:3, 3], np.array([1, 2, 3]) / factor)
    assert bool(found.notes) == (factor != 1)


@pytest.mark.parametrize(
    "line, words",
    [
        ('space units: "mm" "mm" "m"', "different units"),
        ('space units: "furlong" "furlong" "furlong"', "furlong"),
    ],
)
def test_units_of_nrrd_that_cannot_be_right(tmp_path, line, words):
    with pytest.raises(InputError, match=words):
        read_label_map(write_nrrd(tmp_path / "h.nrrd", np.eye(3), line), 2)


def test_units_of_meta_image(tmp_path):
    image = sitk.GetImageFromArray(heart_labels().T)
    image.SetSpacing([0.11, 0.12, 0.25])
    sitk.WriteImage(image, str(tmp_path / "h.mha"))
    data = (tmp_path / "h.mha").read_bytes()
    (tmp_path / "h.mha").write_bytes(data.replace(b"NDims = 3\n", b"NDims = 3\nDistanceUnits = cm\n"))
    found = read_label_map(tmp_path / "h.mha", 2)
    np.testing.assert_allclose(found.spacing_mm, (1.1, 1.2, 2.5))
    assert "converted" in found.notes[0]


@pytest.mark.parametrize("over", [1e-7, 3e-6, 1e-4])
def test_a_quaternion_that_is_too_long_by_rounding(tmp_path, over):
    turn = Rotation.from_rotvec(np.pi * np.array([0.6, 0.64, 0.48])).as_matrix()  # by 180 degrees: w is 0
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * (1.1, 1.2, 2.5), (3, -4, 5)
    b, c, d = np.array([0.6, 0.64, 0.48]) / np.linalg.norm([0.6, 0.64, 0.48]) * (1 + over)
    for codes in ((0, 1), (2, 1)):
        path = nifti(tmp_path / "h.nii", affine, affine, codes, quatern_b=b, quatern_c=c, quatern_d=d)
        found = read_label_map(path, 2)
        np.testing.assert_allclose(found.affine, affine, atol=2e-3)
        np.testing.assert_allclose(found.affine, itk_affine(path), atol=2e-3)
        check_written(tmp_path, found, found.affine)


def test_a_qform_that_is_damaged_is_refused(tmp_path):
    for fields, words in (
        (dict(quatern_b=3), "length 3"),
        (dict(quatern_b=np.nan), "length nan"),
        (dict(qform_code=7), "qform_code is 7"),
        (dict(sform_code=-1), "sform_code is -1"),
    ):
        path = nifti(tmp_path / "h.nii", codes=(0, 1), **fields)
        with pytest.raises(InputError, match=words):
            read_label_map(path, 2)
    path = nifti(tmp_path / "h.nii", codes=(0, 1), pixdim=[-2, 1, 1, 1, 1, 1, 1, 1])
    with pytest.raises(InputError, match="left and right"):
        read_label_map(path, 2)


def test_headers_with_odd_fields_that_do_not_matter(tmp_path):
    for fields in (
        dict(intent_code=1002, intent_name=b"x"),
        dict(scl_slope=np.nan, scl_inter=np.nan),
        dict(scl_slope=0, scl_inter=7),
        dict(cal_max=np.inf, slice_duration=np.nan, toffset=1e30),
        dict(pixdim=[1, -1.1, -1.2, 2.5, np.nan, 0, -7, np.inf]),
        dict(xyzt_units=2 + 16),
        dict(xyzt_units=32),
        dict(bitpix=3),
    ):
        found = read_label_map(nifti(tmp_path / "h.nii", codes=(1, 0), **fields), 2)
        np.testing.assert_array_equal(found.labels, heart_labels())
        check_written(tmp_path, found, AFFINE)


@pytest.mark.parametrize("digits", [2, 3])
@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
def test_directions_that_are_rounded(tmp_path, digits, suffix):
    exact = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
    spacing = np.array([1.1, 1.2, 2.5])
    if suffix == "nrrd":
        path = write_nrrd(tmp_path / "h.nrrd", np.round(exact * spacing, digits))
    else:
        path = tmp_path / "h.mha"
        image = sitk.GetImageFromArray(heart_labels().T)
        image.SetSpacing(spacing)
        image.SetDirection(np.round(np.diag([-1, -1, 1]) @ exact, digits).ravel())
        sitk.WriteImage(image, str(path))
    found = read_label_map(path, 2)
    axes = found.affine[:3, :3]
    np.testing.assert_allclose(axes, exact * spacing, atol=2 * 10**-digits)
    cosines = (axes / found.spacing_mm).T @ (axes / found.spacing_mm)
    np.testing.assert_allclose(cosines, np.eye(3), atol=1e-3)


def test_shear_that_is_no_rounding_stays():
    assert without_rounding(np.array([[2, 1, 0], [0, 3, 0], [0, 0, 4.0]])) is None
    assert without_rounding(np.array([[1, 0.05, 0], [0, 1, 0], [0, 0, 1.0]])) is None
    assert without_rounding(np.eye(3)) is None
    assert without_rounding(np.array([[1, 0.0123457, 0], [0, 1, 0], [0, 0, 1.0]])) is None  # more digits than it needs


def test_case_files_of_other_units_and_of_contradictions_are_made_again(tmp_path):
    geometry = nifti_geometry(nib.load(nifti(tmp_path / "h.nii")).header)
    frame = Frame(AFFINE, (22, 20, 18), (0, 0, 0), 0.95 / 40)
    assert is_settled(geometry, frame) and is_settled(None, frame)
    assert not is_settled(None, Frame(AFFINE, (22, 20, 18), (0, 0, 0), 0.95 / 0.04))
    contrary = nifti_geometry(nib.load(nifti(tmp_path / "h.nii", AFFINE, MIRRORED)).header)
    assert not is_settled(contrary, frame) and is_settled(contrary, frame, geometry_from="sform")
    assert not is_settled({**geometry, "xyzt_units": 1}, frame)
