"""Names in headers of label maps: used, or refused with both tables, where they are not those of the numbers."""

import numpy as np
import pytest
from helpers.named_labels import balls, stored_as, write_layers, write_nifti, write_nrrd

from vecset.common.errors import InputError
from vecset.imaging.header_names import names_in_header
from vecset.imaging.label_map import read_label_map, write_label_map
from vecset.imaging.label_mapping import LabelMapping
from vecset.imaging.label_table import write_segmentation_nrrd

WRITERS = {"nii.gz": write_nifti, "nii": write_nifti, "seg.nrrd": write_nrrd, "nrrd": write_nrrd}
OTHER_ORDER = {1: "LV", 2: "LA", 3: "Myocardium", 4: "RV", 5: "RA"}
SPELLINGS = {
    "TotalSegmentator": [
        "heart_ventricle_left",
        "heart_atrium_left",
        "heart_myocardium",
        "heart_ventricle_right",
        "heart_atrium_right",
    ],
    "words": ["Left Ventricle", "left atrium", "LV myocardium", "right ventricle", "Right Atrium"],
    "small letters": ["lv", "la", "myo", "rv", "ra"],
    "blood pools": ["LV blood pool", "LA cavity", "Myocardium", "RV blood pool", "RA cavity"],
}


def named(names, spelling):
    return dict(zip(names, SPELLINGS[spelling]))


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_names_in_another_order_decide(tmp_path, suffix, spelling):
    path = WRITERS[suffix](tmp_path / f"x.{suffix}", stored_as(balls(), OTHER_ORDER), named(OTHER_ORDER, spelling))
    found = read_label_map(path, 10)
    np.testing.assert_array_equal(found.labels, balls())
    assert found.by_name[1] == (SPELLINGS[spelling][0], 3) and found.class_names[2] == "LV"


def test_any_values_that_all_have_names(tmp_path):
    values = {205: "Myocardium", 420: "LA", 500: "LV", 550: "RA", 600: "RV"}
    path = write_nifti(tmp_path / "x.nii.gz", stored_as(balls(), values), values)
    np.testing.assert_array_equal(read_label_map(path, 10).labels, balls())


def test_several_values_of_one_class(tmp_path):
    values = balls(2).astype(np.int16)
    path = write_nrrd(tmp_path / "x.seg.nrrd", values, {1: "Left coronary artery", 2: "Right coronary artery"})
    found = read_label_map(path, 10)
    np.testing.assert_array_equal(found.labels, np.where(values > 0, 9, 0))
    told = "2 values are Coronary by their names and are united: 1 Left coronary artery, 2 Right coronary artery"
    assert found.notes[-1] == told


def test_two_values_of_one_name_are_united_and_told(tmp_path):
    values = balls(4)
    path = write_nifti(tmp_path / "x.nii.gz", values, {1: "LV", 2: "LA", 3: "LV", 4: "RA"})
    found = read_label_map(path, 10)
    np.testing.assert_array_equal(found.labels, np.where(values == 1, 3, values))
    assert found.notes[-1] == "2 values are LV by their names and are united: 1 LV, 3 LV"
    values[values == 3] = 0  # nothing to unite
    found = read_label_map(write_nifti(tmp_path / "y.nii.gz", values, {1: "LV", 2: "LA", 3: "LV", 4: "RA"}), 10)
    assert not any("united" in note for note in found.notes)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    "names",
    [
        {1: "Myocardium", 2: "LA", 3: "LV", 4: "RA", 5: "RV"},
        {1: "heart_myocardium", 2: "Left atrium", 3: "LV cavity", 4: "ra", 5: "right ventricle"},
        {1: "Segment_1", 2: "Segment_2", 3: "Segment_3", 4: "label 4", 5: "5"},
        {1: "Myocardium", 3: "Segment_3"},
        {6: "liver", 7: "LV", 200: "spleen"},  # values without voxels
        {},
    ],
)
def test_names_that_say_nothing_else_change_nothing(tmp_path, suffix, names):
    found = read_label_map(WRITERS[suffix](tmp_path / f"x.{suffix}", balls(), names), 10)
    np.testing.assert_array_equal(found.labels, balls())
    assert found.by_name == {}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({1: "liver", 2: "LA", 3: "LV", 4: "RA", 5: "RV"}, "no class is 1 liver"),
        ({1: "Tumour", 2: "Edema"}, "no class is 1 Tumour, 2 Edema"),
        ({1: "LV", 2: "LA", 3: "Myocardium"}, "what is 4 without a name, 5 without a name?"),
        ({1: "LV", 2: "LA", 3: "Myocardium", 4: "Segment_4", 5: "RV"}, "what is 4 Segment_4?"),
        ({1: "heart", 2: "left atrium", 3: "lung_left"}, "no class is 1 heart, 3 lung_left"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_tables(tmp_path, suffix, names, words):
    path = WRITERS[suffix](tmp_path / f"x.{suffix}", balls(), names)
    with pytest.raises(InputError) as error:
        read_label_map(path, 5)
    said = str(error.value)
    assert words in said and said.startswith(str(path)) and "\n" not in said and "--label_mapping" in said
    assert f"1 {names[1]}" in said and "1 Myocardium, 2 LA, 3 LV, 4 RA, 5 RV" in said


def test_a_value_with_two_names_is_refused(tmp_path):
    xml = '<LabelTable><Label Key="1">LV</Label><Label Key="1">RV</Label></LabelTable>'
    path = write_nifti(tmp_path / "x.nii.gz", balls(), {}, xml, code=30)
    with pytest.raises(InputError, match="x.nii.gz: its header gives the value 1 two names, 'LV' and 'RV'"):
        read_label_map(path, 10)


@pytest.mark.parametrize(
    "xml",
    [
        '<CaretExtension><VolumeInformation><LabelTable><Label Key="1">LV & more</Label></LabelTable>',  # not closed
        "not a table",
        '<Other><Label Key="1"/></Other>',
        "",
    ],
)
def test_extensions_that_are_no_sound_table(tmp_path, xml):
    path = write_nifti(tmp_path / "x.nii.gz", balls(), {}, xml or " ", code=6)
    assert names_in_header(path) in ({}, {1: "LV & more"})


def test_our_own_files_read_back_whatever_the_classes_are_called(tmp_path):
    acdc = ["RV", "Myocardium", "LV"]
    stored = stored_as(balls(), {1: "RV", 2: "Myocardium", 3: "LV"}).astype(np.uint8)
    write_label_map(tmp_path / "x.nii.gz", stored, np.eye(4), acdc)
    write_segmentation_nrrd(tmp_path / "x.seg.nrrd", stored, np.eye(4), acdc)
    expected = np.where(np.isin(balls(), [1, 3, 5]), balls(), 0)
    for name in ("x.nii.gz", "x.seg.nrrd"):
        np.testing.assert_array_equal(read_label_map(tmp_path / name, 10).labels, expected)
        same = read_label_map(tmp_path / name, 3, class_names=acdc)
        np.testing.assert_array_equal(same.labels, stored)
        assert same.class_names == acdc and same.by_name == {}


def test_a_mapping_of_ones_own_decides_and_is_told_where_names_differ(tmp_path):
    path = write_nrrd(tmp_path / "x.seg.nrrd", balls(2), {1: "LV", 2: "LA"})
    mapping = LabelMapping.load(write_json(tmp_path, '{"1": "Myocardium", "2": "LA"}'), 10)
    found = read_label_map(path, 10, mapping)
    np.testing.assert_array_equal(found.labels, balls(2))
    assert found.other_names == {1: "LV"} and found.by_name == {}


def write_json(folder, text):
    (folder / "map.json").write_text(text)
    return folder / "map.json"


def test_a_preset_of_another_data_set_is_refused(tmp_path):
    total = {1: "spleen", 2: "kidney_right", 51: "heart", 52: "aorta"}
    path = write_nifti(tmp_path / "x.nii.gz", balls(2), total)
    with pytest.raises(InputError, match="its header says 1 spleen, 2 kidney_right, but the preset") as error:
        read_label_map(path, 10, "totalsegmentator_heartchambers")
    assert "1 Myocardium, 2 LA" in str(error.value)
    chambers = {1: "heart_myocardium", 2: "heart_atrium_left", 3: "heart_ventricle_left"}
    path = write_nifti(tmp_path / "y.nii.gz", balls(3), chambers)
    np.testing.assert_array_equal(read_label_map(path, 10, "totalsegmentator_heartchambers").labels, balls(3))


def test_classes_of_a_checkpoint_by_name_or_not_at_all(tmp_path):
    acdc = ["RV", "Myocardium", "LV"]
    names = {1: "Myocardium", 3: "LV", 5: "RV"}
    path = write_nifti(tmp_path / "x.nii.gz", stored_as(balls(), names), names)
    stored = stored_as(balls(), {1: "RV", 2: "Myocardium", 3: "LV"})
    np.testing.assert_array_equal(read_label_map(path, 3, class_names=acdc).labels, stored)
    bare = write_nifti(tmp_path / "y.nii.gz", stored, {})
    with pytest.raises(InputError, match="does not name its values; 1 is Myocardium by the default classes, but RV"):
        read_label_map(bare, 3, class_names=acdc)
    mapping = LabelMapping.load(write_json(tmp_path, '{"1": "RV", "2": "Myocardium", "3": "LV"}'), 10)
    np.testing.assert_array_equal(read_label_map(bare, 3, mapping, class_names=acdc).labels, stored)
    with pytest.raises(InputError, match="--label_mapping: Aorta is no class of the checkpoint"):
        LabelMapping.load(write_json(tmp_path, '{"1": "Aorta"}'), 10).for_classes(acdc)
    for own in (["class_1", "class_2", "class_3"], ["Myocardium", "Left atrium", "lv"]):
        found = read_label_map(write_nifti(tmp_path / "z.nii.gz", balls(3), {}), 3, class_names=own)
        np.testing.assert_array_equal(found.labels, balls(3))


def test_classes_without_names_are_numbers(tmp_path):
    path = write_nrrd(tmp_path / "x.seg.nrrd", balls(), dict(enumerate(("a1", "b1", "c1", "LV", "e1"), 1)))
    found = read_label_map(path, 12)
    assert found.class_names[0] == "class_1" and found.by_name == {}
    np.testing.assert_array_equal(found.labels, balls())


@pytest.mark.parametrize("told", ["layers", "neither"])  # as recent and as older versions of 3D Slicer write it
def test_layers_of_segments_go_by_their_names(tmp_path, told):
    labels, names = balls(3), ["LV", "LA", "Myocardium"]
    path = write_layers(tmp_path / "x.seg.nrrd", [labels == c for c in (1, 2, 3)], names, told)
    found = read_label_map(path, 10)
    np.testing.assert_array_equal(found.labels, np.choose(labels, [0, 3, 2, 1]))
    assert found.by_name == {1: ("LV", 3), 2: ("LA", 2), 3: ("Myocardium", 1)}


def test_layers_that_overlap_are_refused(tmp_path):
    labels = balls(2)
    path = write_layers(tmp_path / "x.seg.nrrd", [labels > 0, labels == 2], ["LV", "Myocardium"], "layers")
    with pytest.raises(InputError, match="overlap in"):
        read_label_map(path, 10)


SNAP = """################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
################################################
    0     0    0    0        0  0  0    "Clear Label"
    1   255    0    0        1  1  1    "{}"
    2     0  255    0        1  1  1    "{}"
    3     0    0  255        1  1  1    "{}"
"""
BESIDE = {
    "dataset.json": '{"labels": {"background": 0, "LVC": 1, "left atrium": 2, "MLV": [3], "whole": [1, 2, 3]}}',
    "../dataset.json": '{"labels": {"0": "background", "1": "LV", "2": "LA", "3": "Myocardium"}}',
    "x.label": SNAP.format("Left ventricle", "LA", "myocardium"),
    "x.txt": SNAP.format("LV", "LA", "LV myocardium"),
    "labels.txt": SNAP.format("LV", "LA", "LV myocardium"),
    "Labels.txt": "\ufeff# Color table\r\n0 Background 0 0 0 0\r\n1 Left_ventricle 9 8 7 255\r\n2 LA 1 2 3 255\r\n"
    "3 Myo 1 2 3 255\r\n",
    "labels.label": SNAP.format("LV", "LA", "LV myocardium"),
    "x_ColorTable.ctbl": "# Color table file\n0 Background 0 0 0 0\n1 Left_ventricle 9 8 7 255\n2 LA 1 2 3 255\n"
    "3 Myo 1 2 3 255\n",
    "x.ctbl": "1 LV 9 8 7 255\n2 LA 1 2 3 255\n3 Myo 1 2 3 255\n",
    "x.tsv": "index\tname\tcolor\n0\tBackground\t#000\n1\tLV\t#111\n2\tLA\t#222\n3\tMyocardium\t#333\n",
    "dseg.tsv": "name\tindex\nLV\t1\nLA\t2\nMyocardium\t3\n",
}


@pytest.mark.parametrize("name", BESIDE)
def test_names_in_a_file_beside_the_label_map(tmp_path, name):
    folder = tmp_path / "labelsTr"
    folder.mkdir()
    path = write_nifti(folder / "x.nii.gz", balls(3), {})
    (folder / name).write_text(BESIDE[name])
    found = read_label_map(path, 10)
    np.testing.assert_array_equal(found.labels, np.choose(balls(3), [0, 3, 2, 1]))
    assert found.by_name[2][1] == 2 and name.split("/")[-1] in found.notes[-1]
    named = write_nifti(folder / "x.nii.gz", balls(3), {1: "Myocardium", 2: "LA", 3: "LV"})  # the header comes first
    np.testing.assert_array_equal(read_label_map(named, 10).labels, balls(3))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.txt", "notes on this heart: 1 is odd"),
        ("x.label", SNAP.format("Label 1", "Label 2", "Label 3")),
        ("dataset.json", '{"name": "hearts"}'),
        ("y.tsv", "index\tname\n1\tLV\n2\tLA\n3\tMyocardium\n"),  # of another label map
        ("x.tsv", "voxel\tvolume\n1\t20\n"),
        ("x.ctbl", "# no rows"),
        ("labels.txt", SNAP.format("LV", "LA", "Myocardium") + "made by hand\n"),  # more than a table
        ("labels.txt", "1 LV 9 8 7 255\n2 LA 1 2 3 255\n3 Myo 1 2 3\n"),
        ("labels.txt", "1 LV\n2 LA\n3 Myocardium\n"),
        ("labels.txt", "1 LV 9 8 7 255\n1 Myo 9 8 7 255\n2 LA 1 2 3 255\n3 RV 1 2 3 255\n"),
        ("labels.txt", "# no rows\n"),
        ("dataset.json", '{"labels": {"background": 0, "Myocardium": 1, "LA": 2, "LV": 3}}'),
        ("../dataset.json", '{"labels": {"1": "LV", "2": "LA", "3": "Myocardium"}}'),  # not above "labelsTr"
    ],
)
def test_files_beside_that_say_nothing_else(tmp_path, name, text):
    folder = tmp_path / "hearts"
    folder.mkdir()
    (folder / name).write_text(text)
    found = read_label_map(write_nifti(folder / "x.nii.gz", balls(3), {}), 10)
    np.testing.assert_array_equal(found.labels, balls(3))
    assert found.by_name == {}


def test_a_text_of_labels_that_is_no_text_or_belongs_to_an_image(tmp_path):
    path = write_nifti(tmp_path / "x.nii.gz", balls(3), {})
    (tmp_path / "labels.txt").write_bytes(b"1 LV\xff 9 8 7 255\n2 LA 1 2 3 255\n3 Myo 1 2 3 255\n")
    assert read_label_map(path, 10).by_name == {}
    (tmp_path / "labels.txt").write_text(SNAP.format("LV", "LA", "LV myocardium"))
    own = write_nifti(tmp_path / "labels.nii.gz", balls(3), {})
    assert read_label_map(path, 10).by_name == {} and read_label_map(own, 10).by_name[1] == ("LV", 3)


def test_a_data_set_of_other_structures_is_refused(tmp_path):
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "edema": 1, "tumour": 2}}')
    with pytest.raises(InputError, match="dataset.json names its values 1 edema, 2 tumour, which does not fit"):
        read_label_map(write_nifti(tmp_path / "x.nii.gz", balls(2), {}), 10)
