"""Reading label maps: each kind of bad header or content is refused in one line; good files are read correctly."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from vecset.common.errors import InputError
from vecset.imaging.classes import HEART_CLASSES
from vecset.imaging.label_map import read_label_map, write_label_map
from vecset.imaging.label_mapping import LabelMapping, preset_names


def labels():
    array = np.zeros((6, 7, 8), np.uint8)
    array[1:4, 2:5, 3:6], array[4, 5, 6] = 1, 2
    return array


def save(path, array, affine=None, sform=True, zooms=None, qform=True):
    affine = np.diag([-0.5, 0.7, 2.0, 1.0]) if affine is None else affine
    image = nib.Nifti1Image(array, affine)
    if not sform:
        image.set_sform(None, code=0)
        image.set_qform(affine, code=1)
    if not qform:
        image.set_qform(None, code=0)
    if zooms is not None:
        image.header.set_zooms(zooms)
    nib.save(image, path)
    return path


def test_round_trip_same_bytes_both_forms(tmp_path):
    affine = np.array([[0, -0.5, 0, 3], [0.7, 0, 0, -4], [0, 0, 2.0, 5], [0, 0, 0, 1]])
    for name in ("a.nii.gz", "b.nii.gz", "c.nii"):
        write_label_map(tmp_path / name, labels(), affine, ["Myocardium", "LA"])
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes()) == (tmp_path / "c.nii").read_bytes()
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.header["sform_code"] > 0 and image.header["qform_code"] > 0 and image.get_data_dtype() == np.uint8
    np.testing.assert_allclose(image.get_qform(), affine, atol=1e-5)
    back = read_label_map(tmp_path / "a.nii.gz", 10)
    np.testing.assert_array_equal(back.labels, labels())
    np.testing.assert_allclose(back.affine, affine)
    np.testing.assert_allclose(back.spacing_mm, [0.7, 0.5, 2.0])
    assert back.labels.dtype == np.uint8 and back.name == "a" and len(back.sha256) == 64
    assert back.class_names == list(HEART_CLASSES) and back.annotated == list(range(1, 11))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".tmp")]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_types_trailing_axis_and_qform_only(tmp_path, dtype):
    path = save(tmp_path / "x.nii.gz", labels()[..., None].astype(dtype), sform=False)
    found = read_label_map(path, 2)
    np.testing.assert_array_equal(found.labels, labels())
    np.testing.assert_allclose(found.affine, np.diag([-0.5, 0.7, 2.0, 1.0]), atol=1e-6)


@pytest.mark.parametrize("slope", [0.5, 0.1])
def test_scaled_values_are_taken_as_scaled(tmp_path, slope):
    data = bytearray(nib.Nifti1Image((labels() * round(1 / slope)).astype(np.int16), np.eye(4)).to_bytes())
    data[112:120] = np.array([slope, 0], np.float32).tobytes()  # scl_slope, scl_inter, as some exporters leave them
    (tmp_path / "s.nii").write_bytes(bytes(data))
    np.testing.assert_array_equal(read_label_map(tmp_path / "s.nii", 2).labels, labels())


def bad_files(folder):
    """name -> (path, words that its message must have)"""
    array = labels()
    whole = save(folder / "whole.nii.gz", np.random.default_rng(0).integers(0, 3, (30, 30, 30)).astype(np.uint8))
    data = whole.read_bytes()
    (folder / "truncated.nii.gz").write_bytes(data[: len(data) // 2])
    (folder / "cut.nii").write_bytes(gzip.decompress(data)[:-500])
    (folder / "text.nii.gz").write_text("not an image")
    half = array.astype(np.float32)
    half[0, 0, 0] = 0.5
    nan = array.astype(np.float32)
    nan[0, 0, 0] = np.nan
    sheared = np.eye(4)
    sheared[0, 1] = 0.2
    found = {
        "truncated": (folder / "truncated.nii.gz", "truncated"),
        "cut": (folder / "cut.nii", "truncated"),
        "text": (folder / "text.nii.gz", "NIfTI"),
        "4D": (save(folder / "4d.nii.gz", np.stack([array, array], -1)), "3D"),
        "above": (save(folder / "above.nii.gz", array * 7), "labels 7, 14"),
        "negative": (save(folder / "negative.nii.gz", -array.astype(np.int16)), "negative"),
        "half": (save(folder / "half.nii.gz", half), "whole numbers.*0.5"),
        "nan": (save(folder / "nan.nii.gz", nan), "finite"),
        "empty": (save(folder / "empty.nii.gz", array * 0), "empty mask"),
        "sheared": (save(folder / "sheared.nii.gz", array, sheared, qform=False), "shear"),
        "spacing": (
            save(folder / "spacing.nii.gz", array, np.eye(4), zooms=(1.56, 1.56, 10)),
            "1 x 1 x 1 mm.*1.56 x 1.56 x 10 mm.*spacing_from",
        ),
        "missing": (folder / "no.nii.gz", "no such file"),
    }
    return found


@pytest.mark.parametrize(
    "kind",
    ["truncated", "cut", "text", "4D", "above", "negative", "half", "nan", "empty", "sheared", "spacing", "missing"],
)
def test_bad_input_is_refused_in_one_line(tmp_path, kind):
    path, words = bad_files(tmp_path)[kind]
    with pytest.raises(InputError, match=f"(?i){words}") as error:
        read_label_map(path, 5)
    assert "\n" not in str(error.value) and path.name in str(error.value)


def test_spacing_from_decides(tmp_path):
    affine = np.array([[0, -1.0, 0, 3], [1.0, 0, 0, -4], [0, 0, 1.0, 5], [0, 0, 0, 1]])
    path = save(tmp_path / "x.nii.gz", labels(), affine, zooms=(1.5, 1.25, 10))
    np.testing.assert_allclose(read_label_map(path, 5, spacing_from="affine").affine, affine)
    fixed = read_label_map(path, 5, spacing_from="pixdim")
    np.testing.assert_allclose(fixed.spacing_mm, [1.5, 1.25, 10])
    np.testing.assert_allclose(fixed.affine[:, 3], affine[:, 3])
    np.testing.assert_allclose(fixed.affine[:3, 0], [0, 1.5, 0])  # direction kept
    np.testing.assert_allclose(fixed.source_affine, affine)


def test_values_counted_as_background_are_told(tmp_path):
    array = labels().astype(np.int16)
    array[0, 0, :3], array[0, 1, 0] = 51, 52
    path = save(tmp_path / "x.nii.gz", array)
    found = read_label_map(path, 10, "totalsegmentator_heartchambers")
    assert found.as_background == {51: 3, 52: 1} and found.labels.max() == 2 and (found.labels > 0).sum() == 28
    assert read_label_map(save(tmp_path / "y.nii.gz", labels()), 10).as_background == {}
    array[array < 51] = 0
    with pytest.raises(InputError, match="--label_mapping lists none of its label values 51, 52;"):
        read_label_map(save(path, array), 10, "totalsegmentator_heartchambers")
    with pytest.raises(InputError, match="empty mask"):
        read_label_map(save(path, 0 * array), 10, "totalsegmentator_heartchambers")


def test_writing_refuses_what_is_no_label_map(tmp_path):
    with pytest.raises(ValueError):
        write_label_map(tmp_path / "a.nii.gz", labels().astype(int), np.eye(4))
    with pytest.raises(InputError):
        write_label_map(tmp_path / "a.mha", labels(), np.eye(4))
    assert not list(tmp_path.iterdir())


def test_presets_map_values_names_and_annotated_classes(tmp_path):
    assert preset_names() == ["acdc", "mmwhs", "totalsegmentator_heartchambers"]
    array = np.zeros((6, 7, 8), np.int16)
    array[1:4, 1:4, 1:7] = [205, 420, 421, 500, 820, 850]
    found = read_label_map(save(tmp_path / "x.nii.gz", array), 10, "mmwhs")
    assert found.labels[1, 1, 1:7].tolist() == [1, 2, 2, 3, 6, 7]
    assert found.annotated == [1, 2, 3, 4, 5, 6, 7] and found.class_names == list(HEART_CLASSES)
    array[1, 1, 1] = 7
    with pytest.raises(InputError, match="7"):
        read_label_map(save(tmp_path / "x.nii.gz", array), 10, "mmwhs")
    array[1:4, 1:4, 1:7] = [1, 2, 3, 4, 90, 7]
    found = read_label_map(save(tmp_path / "x.nii.gz", array), 10, "totalsegmentator_heartchambers")
    assert found.labels[1, 1, 1:7].tolist() == [1, 2, 3, 4, 0, 7]
    array[1:4, 1:4, 1:7] = [1, 2, 3, 1, 2, 3]
    found = read_label_map(save(tmp_path / "x.nii.gz", array), 10, "acdc")
    assert found.labels[1, 1, 1:4].tolist() == [5, 1, 3] and found.annotated == [1, 3, 5]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"1": 1, "1": 2}'.encode("utf-8-sig"), '"1" is given twice'),
        (b'{"1": 1, "01": 2}', "value 1 is listed twice"),
        (b'{"1": 1,\r\n}', "a comma before the closing bracket"),
        ('{"1": "LV"}'.encode("utf-16"), "UTF-16"),
    ],
)
def test_a_mapping_that_would_be_misread(tmp_path, content, told):
    (tmp_path / "map.json").write_bytes(content)
    with pytest.raises(InputError, match=told):
        LabelMapping.load(tmp_path / "map.json", 3)


def test_a_mapping_of_a_windows_editor(tmp_path):
    (tmp_path / "map.json").write_bytes('{\r\n"7": {"class": 1, "name": "Wände"}\r\n}'.encode("utf-8-sig"))
    found = LabelMapping.load(tmp_path / "map.json", 3)
    assert found.value_to_class == {7: 1} and found.class_names[0] == "Wände"


def test_own_mapping_files(tmp_path):
    def mapping(content, classes=3):
        path = tmp_path / "m.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return LabelMapping.load(path, classes)

    found = mapping({"7": "LV", "-2": {"class": 1, "name": "wall"}, "900000": 2})
    assert found.value_to_class == {7: 3, -2: 1, 900000: 2} and found.class_names == ["wall", "LA", "LV"]
    assert found.apply(np.array([0, 7, -2, 900000]), "x").tolist() == [0, 3, 1, 2]
    assert mapping({"values": {"1": 1}, "annotated": [1, 3]}).annotated == [1, 3]
    for wrong in (
        "{",
        [1],
        {"values": {}},
        {"x": 1},
        {"1": 4},
        {"1": "spleen"},
        {"0": 1},
        {"1": True},
        {"values": {"1": 1}, "others": "keep"},
        {"values": {"1": 1}, "annotated": [9]},
        {"values": {"1": 1}, "extra": 1},
    ):
        with pytest.raises(InputError, match="m.json"):
            mapping(wrong)
    with pytest.raises(InputError, match="presets acdc, mmwhs"):
        LabelMapping.load(tmp_path / "no.json", 3)
