"""Image files: equal in every format; a NIfTI header is written as it was read; broken images are refused."""

import gzip
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from vecset.common.errors import InputError
from vecset.data.preparation import Options, build_case
from vecset.imaging import image_file
from vecset.imaging.header_geometry import GEOMETRY_FIELDS, nifti_geometry
from vecset.imaging.image_file import read_image
from vecset.imaging.label_map import read_label_map, write_label_map


def turn(axis, degrees):
    a, (i, j) = np.deg2rad(degrees), [n for n in range(3) if n != axis]
    matrix = np.eye(3)
    matrix[[i, i, j, j], [i, j, i, j]] = [np.cos(a), -np.sin(a), np.sin(a), np.cos(a)]
    return matrix


GRIDS = {  # direction (3, 3) of LPS mm, spacing in mm
    "straight": (np.eye(3), (1.0, 1.0, 1.0)),
    "flipped": (np.diag([-1.0, 1, 1]), (0.5, 0.5, 1.25)),
    "permuted": (np.eye(3)[[2, 0, 1]], (1.0, 0.75, 1.5)),
    "permuted and flipped": (np.eye(3)[[1, 0, 2]] @ np.diag([1.0, -1, -1]), (0.4, 0.7, 1.3)),
    "oblique": (turn(0, 20) @ turn(2, -35) @ turn(1, 10), (1.0, 1.0, 1.0)),
    "oblique, anisotropic, left-handed": (turn(2, 50) @ turn(0, 12) @ np.diag([1.0, 1, -1]), (0.7, 0.7, 2.5)),
}


def heart_labels():
    """(X, Y, Z) u8, another size and another content along each axis."""
    i, j, k = np.indices((22, 20, 18))
    labels = ((i - 9) ** 2 + (j - 11) ** 2 + 1.5 * (k - 8) ** 2 < 50).astype(np.uint8)
    labels[(labels > 0) & (i > 10)] = 2
    labels[(labels > 0) & (j > 13)] = 3
    return labels


def itk_image(
    labels, direction=((1, 0, 0), (0, 1, 0), (0, 0, 1)), spacing_mm=(1, 1, 1), origin_mm=(12.5, -100.25, 55.125)
):
    image = sitk.GetImageFromArray(labels.transpose(2, 1, 0))
    image.SetDirection(np.asarray(direction, float).ravel())
    image.SetSpacing([float(s) for s in spacing_mm])
    image.SetOrigin(origin_mm)
    return image


def save(path, image, compress=True):
    sitk.WriteImage(image, str(path), compress)
    return path


@pytest.mark.parametrize("grid", GRIDS)
def test_the_same_image_in_every_format(tmp_path, grid):
    labels, image = heart_labels(), itk_image(heart_labels(), *GRIDS[grid])
    # the affine by its meaning: where ITK places a voxel, with LPS turned to RAS
    corner, *ends = [
        np.array(image.TransformIndexToPhysicalPoint(n)) * [-1, -1, 1]
        for n in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    affine = np.eye(4)
    affine[:3] = np.column_stack([*(end - corner for end in ends), corner])
    options, cases = Options(400, 400, 400), {}
    for name in ("h.nii.gz", "h.nrrd", "h.mha", "plain/h.nrrd", "plain/h.mha"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        found = read_label_map(save(path, image, "plain" not in name), 3)
        assert found.labels.dtype == np.uint8 and found.name == "h"
        np.testing.assert_array_equal(found.labels, labels)
        np.testing.assert_allclose(found.affine, affine, rtol=0, atol=1e-6)
        cases[name] = build_case(found, options)
    base = cases["h.nii.gz"]
    for name, case in cases.items():
        for member, array in base.arrays.items():
            # NIfTI stores the affine in float32: a draw may differ, and the last bit of a float16
            atol = {"f2": 2e-3, "f4": 2e-6}.get(array.dtype.str[1:], 0)
            same = np.isclose(case.arrays[member], array, rtol=0, atol=atol).reshape(len(array), -1).all(1)
            assert same.mean() >= 0.99, (name, member)
    for name in ("h.nrrd", "h.mha"):  # compressed or not gives the same bits
        for member, array in cases[name].arrays.items():
            np.testing.assert_array_equal(cases[f"plain/{name}"].arrays[member], array)


@pytest.mark.parametrize("suffix", ["nrrd", "mha", "nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint32, np.float32, np.float64])
def test_types(tmp_path, suffix, dtype):
    path = save(tmp_path / f"x.{suffix}", itk_image(heart_labels().astype(dtype)))
    np.testing.assert_array_equal(read_label_map(path, 3).labels, heart_labels())


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
def test_float_labels_that_are_not_whole_are_refused(tmp_path, suffix):
    labels = heart_labels().astype(np.float32)
    labels[3, 3, 3] = 0.5
    with pytest.raises(InputError, match="whole numbers.*0.5"):
        read_label_map(save(tmp_path / f"x.{suffix}", itk_image(labels)), 3)


def nrrd(path, *lines, data=None):
    data = heart_labels().T.tobytes() if data is None else data
    text = "\n".join(["NRRD0005", "type: uint8", "dimension: 3", "sizes: 22 20 18", "encoding: raw", *lines])
    path.write_bytes(text.encode() + b"\n\n" + data)
    return path


@pytest.mark.parametrize(
    "space, signs",
    [
        ("right-anterior-superior", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
        ("left-posterior-superior", (-1, -1, 1)),
    ],
)
def test_the_space_of_a_nrrd_header_decides(tmp_path, space, signs):
    path = nrrd(
        tmp_path / "x.nrrd", f"space: {space}", "space directions: (2,0,0) (0,3,0) (0,0,4)", "space origin: (10,20,30)"
    )
    np.testing.assert_array_equal(
        read_label_map(path, 3).affine,
        np.diag([*signs, 1]) @ [[2, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]],
    )


PLACED = ("space directions: (2,0,0) (0,3,0) (0,0,4)", "space origin: (10,20,30)")


@pytest.mark.parametrize(
    "lines, notes",
    [
        (("space: LPS", *PLACED), []),
        (("space: right-anterior-superior", *PLACED), []),
        (("space dimension: 3", *PLACED), ["no space: left and right are taken"]),
        (("space: scanner-xyz", *PLACED), ["space is scanner-xyz, which says nothing about left and right"]),
        (("spacings: 2 3 4",), ["no space: left and right are taken"]),
        ((), ["no space: left and right are taken", "no spacings: voxels are taken as 1 mm"]),
    ],
)
def test_a_nrrd_header_that_does_not_say_left_and_right_gives_a_note(tmp_path, lines, notes):
    label_map = read_label_map(nrrd(tmp_path / "x.nrrd", *lines), 3)
    assert len(label_map.notes) == len(notes)
    for found, expected in zip(label_map.notes, notes):
        assert expected in found
    assert tuple(np.sign(np.diag(label_map.affine)[:3])) == ((1, 1, 1) if "right" in str(lines) else (-1, -1, 1))


@pytest.mark.parametrize(
    "lines, notes",
    [
        (("TransformMatrix = 1 0 0 0 1 0 0 0 1", "ElementSpacing = 2 3 4"), []),
        (("ElementSpacing = 2 3 4",), ["no TransformMatrix: left and right are taken"]),
        (("Orientation = 1 0 0 0 1 0 0 0 1",), ["no ElementSpacing: voxels are taken as 1 mm"]),
    ],
)
def test_a_meta_image_header_that_does_not_say_its_place_gives_a_note(tmp_path, lines, notes):
    path = tmp_path / "x.mha"
    text = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "DimSize = 22 20 18", *lines]
    text += ["ElementType = MET_UCHAR", "ElementDataFile = LOCAL", ""]
    path.write_bytes("\n".join(text).encode() + heart_labels().T.tobytes())
    label_map = read_label_map(path, 3)
    assert len(label_map.notes) == len(notes)
    for found, expected in zip(label_map.notes, notes):
        assert expected in found


def test_the_unit_in_is_told_as_inch(tmp_path):
    path = nrrd(
        tmp_path / "x.nrrd",
        "space: LPS",
        "space directions: (0.1,0,0) (0,0.1,0) (0,0,0.1)",
        'space units: "in" "in" "in"',
    )
    label_map = read_label_map(path, 3)
    assert label_map.notes == ["its lengths are in inch and were converted to mm"]
    np.testing.assert_allclose(label_map.spacing_mm, 2.54)


def test_shear_of_a_nrrd_header_is_refused(tmp_path):
    path = nrrd(
        tmp_path / "x.nrrd",
        "space: left-posterior-superior",
        "space directions: (2,0,0) (1,3,0) (0,0,4)",
        "space origin: (0,0,0)",
    )
    with pytest.raises(InputError, match="shear"):
        read_label_map(path, 3)


@pytest.mark.parametrize("name", ["packed.nrrd", "packed.mha", "plain.nrrd", "plain.mha"])
def test_truncated_anywhere_is_refused_in_one_line(tmp_path, capfd, name):
    whole = save(tmp_path / name, itk_image(heart_labels()), "packed" in name).read_bytes()
    cut = tmp_path / f"cut.{name.split('.')[1]}"
    for length in (0, 1, 10, 100, 400, len(whole) // 2, len(whole) - 20, len(whole) - 4, len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError, match="broken or truncated") as error:
            read_label_map(cut, 3)
        assert "\n" not in str(error.value) and cut.name in str(error.value)
    assert capfd.readouterr() == ("", "")  # MetaIO would print to stderr


def test_what_is_no_3d_label_map_in_one_file_is_refused(tmp_path, capfd):
    labels = heart_labels()
    layers = sitk.GetImageFromArray(np.stack([labels, labels], -1).transpose(2, 1, 0, 3), isVector=True)
    (tmp_path / "text.nrrd").write_text("not an image")
    (tmp_path / "text.mha").write_text("not an image")
    (tmp_path / "outside.mha").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 22 20 18\nElementType = MET_UCHAR\nElementDataFile = x.raw\n"
    )
    (tmp_path / "x.raw").write_bytes(labels.T.tobytes())
    (tmp_path / "folder.mha").mkdir()
    for suffix in ("nrrd", "mha"):
        save(tmp_path / f"layers.{suffix}", layers)
        save(tmp_path / f"flat.{suffix}", sitk.GetImageFromArray(labels[0]))
        save(tmp_path / f"frames.{suffix}", sitk.JoinSeries([itk_image(labels), itk_image(labels)]))
    nrrd(tmp_path / "list.nrrd", data=labels.T.tobytes())
    list_header = (
        (tmp_path / "list.nrrd")
        .read_bytes()
        .replace(b"dimension: 3", b"dimension: 4")
        .replace(b"sizes: 22 20 18", b"sizes: 2 22 20 9\nkinds: list domain domain domain")
    )
    (tmp_path / "list.nrrd").write_bytes(list_header)
    nrrd(tmp_path / "outside.nrrd", "data file: x.raw")
    for name, words in {
        "text.nrrd": "truncated NRRD",
        "text.mha": "truncated MetaImage",
        "outside.mha": "another file",
        "outside.nrrd": "another file",
        "layers.nrrd": "frames or layers",
        "layers.mha": "frames or layers",
        "flat.nrrd": "3D",
        "flat.mha": "3D",
        "frames.nrrd": "3D",
        "frames.mha": "3D",
        "list.nrrd": "frames or layers",
        "no.mha": "no such file",
        "folder.mha": "directory",
        "x.raw": "not a label map in a format",
    }.items():
        with pytest.raises(InputError, match=words) as error:
            read_label_map(tmp_path / name, 3)
        assert "\n" not in str(error.value) and name in str(error.value)
    one_frame = save(tmp_path / "one.mha", sitk.JoinSeries([itk_image(labels)]))
    np.testing.assert_array_equal(read_label_map(one_frame, 3).labels, labels)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nrrd"])
def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, name):
    def refuse(path, *mode):
        raise PermissionError(13, "Permission denied", str(path))

    save(tmp_path / name, itk_image(heart_labels()))
    monkeypatch.setattr(image_file, "open", refuse, raising=False)  # root may read everything
    with pytest.raises(InputError, match=f"{name}.*no permission"):
        read_image(tmp_path / name)


def test_nifti_users_do_not_wait_for_simpleitk(tmp_path, repository):
    write_label_map(tmp_path / "x.nii.gz", heart_labels(), np.eye(4))
    code = (
        "import sys; from vecset.imaging.label_map import read_label_map; "
        f"read_label_map({str(tmp_path / 'x.nii.gz')!r}, 3); assert 'SimpleITK' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True)


AFFINE = np.array([[0, -1.2, 0, 30.3], [1.1, 0, 0, -47.7], [0, 0, 2.5, 15.9], [0, 0, 0, 1]])


def nifti_sources():
    """{name: NIfTI image}; their headers state the geometry in ways that occur in real files."""
    labels = heart_labels()
    found = {
        name: nib.Nifti1Image(labels, AFFINE) for name in ("both", "sform only", "qform only", "neither", "contrary")
    }
    found["both"].set_qform(AFFINE, code=1)
    found["sform only"].set_qform(None, code=0)
    found["qform only"].set_sform(None, code=0)
    found["qform only"].set_qform(AFFINE @ np.diag([-1, 1, 1, 1]), code=1)
    found["neither"].set_sform(None, code=0)
    found["neither"].set_qform(None, code=0)
    found["contrary"].set_sform(np.diag([-1, -1, 1, 1]) @ AFFINE, code=4)
    found["contrary"].set_qform(AFFINE, code=2)
    found["acdc"] = nib.Nifti1Image(labels, np.diag([-1.0, -1, 1, 1]))
    found["acdc"].header.set_zooms((1.5625, 1.5625, 10))
    found["acdc"].set_qform(None, code=0)
    found["nifti 2"] = nib.Nifti2Image(labels, AFFINE)
    found["big-endian"] = nib.Nifti1Image(labels, AFFINE, nib.Nifti1Header(endianness=">"))
    for image in found.values():
        image.header["descrip"] = b"Doe, Jane"
        image.header.set_xyzt_units("mm", "sec")
    found["no units"] = nib.Nifti1Image(labels, AFFINE)
    return found


@pytest.mark.parametrize("name", [name for name in nifti_sources() if name not in ("neither", "contrary", "acdc")])
def test_a_nifti_header_goes_out_as_it_came_in(tmp_path, name):
    nib.save(nifti_sources()[name], tmp_path / "in.nii.gz")
    source = nib.load(tmp_path / "in.nii.gz")
    label_map = read_label_map(tmp_path / "in.nii.gz", 3, spacing_from="pixdim")
    geometry = json.loads(json.dumps(label_map.geometry, allow_nan=False))  # as the case file keeps it
    assert "Doe" not in json.dumps(geometry)
    write_label_map(tmp_path / "out.nii.gz", label_map.labels, label_map.affine, ["a"], geometry)
    made = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(made.affine, source.affine)
    assert made.header.get_zooms() == source.header.get_zooms()
    assert made.header.get_xyzt_units()[0] == source.header.get_xyzt_units()[0]
    for field in GEOMETRY_FIELDS:
        np.testing.assert_array_equal(made.header[field], source.header[field], err_msg=field)
    assert made.get_data_dtype() == np.uint8 and type(made) is type(source) and made.header["descrip"] == b"a"
    np.testing.assert_array_equal(np.asanyarray(made.dataobj), heart_labels())
    first = (tmp_path / "out.nii.gz").read_bytes()
    write_label_map(tmp_path / "out.nii.gz", label_map.labels, label_map.affine, ["a"], geometry)
    assert (tmp_path / "out.nii.gz").read_bytes() == first and gzip.decompress(first)


def test_numbers_that_are_not_finite_stay_out_of_the_geometry():
    header = nib.Nifti1Image(heart_labels(), AFFINE).header
    header["quatern_b"], header["srow_x"] = np.nan, [np.inf, 0, 0, 1]
    found = nifti_geometry(header)
    assert found["quatern_b"] == 0 and found["srow_x"] == [0, 0, 0, 1]
