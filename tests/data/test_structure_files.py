"""A file per structure: merged into one label map by names, or refused with the file and the advice."""

import json

import nibabel as nib
import numpy as np
import pytest
from helpers.prepare_runs import run
from helpers.structure_scans import AFFINE, TOTAL, heart, save, scan

from vecset.commands import check_data_quality
from vecset.common.errors import InputError
from vecset.data.case_file import read_case
from vecset.data.label_folder import NoLabelMaps, Selection
from vecset.data.structure_files import Structures, find_scans, find_sources, read_scan
from vecset.imaging.label_map import write_label_map


def load(source, classes=3):
    return Structures.load(source, classes)


@pytest.mark.parametrize(
    ("names", "preset"),
    [
        (TOTAL, "totalsegmentator"),
        (TOTAL, "names"),
        ({1: "Myo", 2: "LeftAtrium", 3: "LV blood pool"}, "names"),
        ({1: "scan1_myocardium", 2: "scan1-LA", 3: "lv_scan1"}, "names"),
    ],
)
def test_a_scan_is_merged_by_the_names_of_its_files(tmp_path, names, preset):
    folder = scan(tmp_path / "scan1", names=names, value=255)
    found = read_scan(folder, load(preset))
    np.testing.assert_array_equal(found.labels, heart())
    np.testing.assert_allclose(found.affine, AFFINE)
    assert found.annotated == [1, 2, 3] and found.name == "scan1" and not found.notes
    assert sorted(found.structures["files"].values()) == [1, 2, 3]


def test_places_of_a_scans_files(tmp_path):
    scan(tmp_path / "all" / "s10")
    scan(tmp_path / "all" / "s2" / "segmentations")
    save(tmp_path / "all" / "s2" / "ct.nii.gz", np.zeros((5, 5, 5), np.int16))
    (tmp_path / "all" / "logs").mkdir()
    rule = load("totalsegmentator")
    assert [p.name for p in find_scans(tmp_path / "all", rule)] == ["s2", "s10"]
    assert find_scans(tmp_path / "all" / "s2", rule) == [tmp_path / "all" / "s2"]  # the folder of one scan
    assert find_scans(tmp_path / "all" / "s10", rule) == [tmp_path / "all" / "s10"]
    np.testing.assert_array_equal(read_scan(tmp_path / "all" / "s2", rule).labels, heart())
    scan(tmp_path / "all")
    with pytest.raises(InputError, match="also in its sub-folder s10"):
        find_scans(tmp_path / "all", rule)
    with pytest.raises(NoLabelMaps):
        find_scans(tmp_path / "all" / "logs", rule)
    scan(tmp_path / "two" / "p" / "ses-1")
    scan(tmp_path / "two" / "p" / "ses-2")
    with pytest.raises(InputError, match="ses-1 and ses-2: one scan, or several"):
        read_scan(tmp_path / "two" / "p", rule)


def test_an_empty_file_is_an_absent_structure_and_no_file_was_not_annotated(tmp_path):
    labels = np.where(heart() == 2, 0, heart())
    folder = scan(tmp_path / "cases" / "scan1", labels)
    (folder / "heart_ventricle_left.nii.gz").unlink()
    found = read_scan(folder, load("totalsegmentator"))
    assert found.annotated == [1, 2] and set(np.unique(found.labels)) == {0, 1}
    assert run(tmp_path / "cases", tmp_path / "out", "--structures", "totalsegmentator") == 0
    meta = read_case(tmp_path / "out" / "scan1.npz").meta
    assert meta["annotated_classes"] == [1, 2] and meta["present_classes"] == [1]
    for path in folder.iterdir():
        save(path, np.zeros((20, 22, 24), np.uint8))
    with pytest.raises(InputError, match="all of its structure files are empty"):
        read_scan(folder, load("totalsegmentator"))


def test_overlaps_go_to_the_higher_class_id_and_are_counted(tmp_path):
    folder = scan(tmp_path / "scan1")
    save(folder / "heart_myocardium.nii.gz", np.isin(heart(), (1, 2)).astype(np.uint8))
    found = read_scan(folder, load("totalsegmentator"))
    count = int((heart() == 2).sum())
    np.testing.assert_array_equal(found.labels, heart())
    assert found.structures["overlaps"] == [[1, 2, count]]
    assert f"Myocardium and LA overlap in {count} voxels, which became LA" in found.notes[0]
    save(folder / "heart_myocardium.nii.gz", (heart() == 2).astype(np.uint8))
    with pytest.raises(InputError, match=f"all {count} voxels of Myocardium lie in LA"):
        read_scan(folder, load("totalsegmentator"))


def test_files_that_contradict_each_other_or_are_no_masks(tmp_path):
    rule, good = load("totalsegmentator"), heart() == 2
    moved = AFFINE.copy()
    moved[0, 3] = 0.5
    wrong = {
        "other shape": (np.pad(good, 1).astype(np.uint8), AFFINE, "grid of 22 x 24 x 26 voxels is not that of"),
        "other place": (good.astype(np.uint8), moved, "0.5 voxels from those of heart_myocardium.nii.gz"),
        "mirrored": (good.astype(np.uint8), np.diag([1.0, -1.2, 0.9, 1.0]), "voxels from those"),
        "several values": (heart(), AFFINE, "it holds the values 1, 2, 3, but a mask"),
        "probabilities": (good * 0.7, AFFINE, "above 0.5"),
        "negative": (-good.astype(np.int16), AFFINE, "it holds the values -1"),
        "one-hot": (np.stack([~good, good], -1).astype(np.uint8), AFFINE, None),
    }
    for name, (array, affine, words) in wrong.items():
        folder = scan(tmp_path / name)
        save(folder / "heart_atrium_left.nii.gz", array, affine)
        if words is None:  # background and the structure: the same mask
            np.testing.assert_array_equal(read_scan(folder, rule).labels, heart())
            continue
        with pytest.raises(InputError) as error:
            read_scan(folder, rule)
        assert words in str(error.value) and "heart_atrium_left.nii.gz" in str(error.value), name
    folder = scan(tmp_path / "twice")
    nib.save(nib.load(folder / "heart_atrium_left.nii.gz"), folder / "heart_atrium_left.nii")
    with pytest.raises(InputError, match="are the same structure"):
        read_scan(folder, rule)
    with pytest.raises(InputError, match="none of its files is named like a structure .liver"):
        read_scan(scan(tmp_path / "organs", names={1: "liver", 2: "spleen"}), rule)


def test_a_json_file_names_the_structures(tmp_path):
    (tmp_path / "s.json").write_text(
        json.dumps({"wall": "Myocardium", "a": {"class": 2, "name": "Chamber"}, "b": {"class": 2, "name": "Chamber"}})
    )
    rule = load(tmp_path / "s.json")
    assert rule.class_names == ["Myocardium", "Chamber", "LV"]
    labels = heart()
    folder = scan(tmp_path / "scan1", labels, {1: "Wall", 2: "a", 3: "b"})
    found = read_scan(folder, rule)
    np.testing.assert_array_equal(found.labels, np.minimum(labels, 2))
    assert found.annotated == [1, 2] and found.notes == ["Chamber is all of a.nii.gz, b.nii.gz"]
    (folder / "b.nii.gz").unlink()
    assert "Chamber is made of a.nii.gz alone: 1 of the files" in read_scan(folder, rule).notes[-1]
    for content, words in {
        "[]": "an object that is not empty",
        "{}": "an object that is not empty",
        '{"a": 4}': "class id 1..3",
        '{"a": "liver"}': "file 'a' must be mapped to",
        '{"a": 1, "A": 2}': "listed twice",
        '{"a": {"class": 1, "name": "x"}, "b": {"class": 1, "name": "y"}}': "two names",
        '{"a": {"class": 1, "name": "LA"}, "b": {"class": 2, "name": "LA"}}': "same name",
    }.items():
        (tmp_path / "wrong.json").write_text(content)
        with pytest.raises(InputError, match=words):
            load(tmp_path / "wrong.json")
    with pytest.raises(InputError, match="presets totalsegmentator, names"):
        load("no_such_preset")


def test_case_files_of_scans(tmp_path, capsys):
    labels = tmp_path / "labels"
    for n in range(3):
        scan(labels / f"scan{n}", heart(0.3 * n))
        save(labels / f"scan{n}" / "liver.nii.gz", np.zeros((9, 9, 9), np.uint8))
    save(labels / "scan1" / "heart_atrium_left.nii.gz", heart())
    (labels / "scan2" / "heart_atrium_left.nii.gz").unlink()
    options = ("--structures", "totalsegmentator")
    assert run(labels, tmp_path / "cases", *options) == 1
    said = capsys.readouterr()
    assert "3 folders of structures" in said.out and "2 made, 0 skipped, 1 failed" in said.out
    assert "left out: liver (3)" in said.err and "no file of LA (not annotated there): scan2" in said.err
    assert "scan1/heart_atrium_left.nii.gz: it holds the values 1, 2, 3" in said.err
    np.testing.assert_array_equal(read_case(tmp_path / "cases" / "scan0.npz").truth_labels(), heart())
    scan(labels / "scan1", heart(0.3))
    scan(labels / "scan2", heart(0.6))
    assert run(labels, tmp_path / "cases", *options) == 0
    assert "2 made, 1 skipped, 0 failed" in capsys.readouterr().out
    save(labels / "scan0" / "heart_ventricle_left.nii.gz", (heart(0.1) == 3).astype(np.uint8))
    assert run(labels, tmp_path / "cases", *options) == 0
    assert "1 made, 2 skipped, 0 failed" in capsys.readouterr().out
    check_data_quality.main([str(tmp_path / "cases"), "--source_dir", str(labels)])
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if "FAIL" in line and ("source" in line or "one_class" in line)]
    assert any(line.startswith("source_labels") and " 0 " in line for line in lines)
    save(labels / "scan0" / "heart_ventricle_left.nii.gz", np.roll(heart(0.1) == 3, 2, 0).astype(np.uint8))
    check_data_quality.main([str(tmp_path / "cases"), "--source_dir", str(labels)])
    assert "FAIL scan0.npz: source_labels" in capsys.readouterr().out


def test_without_the_option_structure_files_are_no_hearts(tmp_path, capsys):
    folder = scan(tmp_path / "labels" / "scan1")
    for place in (folder, tmp_path / "labels"):
        assert run(place, tmp_path / "cases") == 2
        assert "--structures totalsegmentator" in capsys.readouterr().err
    scan(tmp_path / "one" / "segmentations")
    save(tmp_path / "one" / "ct.nii.gz", np.zeros((9, 9, 9), np.int16))
    assert run(tmp_path / "one", tmp_path / "cases") == 2
    said = capsys.readouterr().err
    assert "ct.nii.gz lies beside segmentations" in said and "--structures totalsegmentator" in said
    flat = tmp_path / "flat"
    for name in ("anna", "bert"):
        scan(flat, names={1: f"{name}_myo", 2: f"{name}_la", 3: f"{name}_lv"})
    assert run(flat, tmp_path / "cases") == 2
    assert "into a folder of its own, and then merge those of each scan" in capsys.readouterr().err
    assert not (tmp_path / "cases").exists()


def test_folders_that_only_look_like_structures_are_read(tmp_path):
    for name in ("left_atrium", "right_ventricle"):  # whole hearts with odd names
        save(tmp_path / "whole" / f"{name}.nii.gz", heart())
    for n in range(3):  # one structure of several patients
        save(tmp_path / "atria" / f"patient{n}_LA.nii.gz", (heart() == 2).astype(np.uint8))
    assert len(find_sources(tmp_path / "whole").paths) == 2 and len(find_sources(tmp_path / "atria").paths) == 3


def test_a_folder_per_structure_is_refused(tmp_path):
    for structure in ("LV", "RV", "Myo"):
        for patient in ("p01", "p02"):
            save(tmp_path / structure / f"{patient}.nii.gz", (heart() > 0).astype(np.uint8))
    with pytest.raises(InputError, match="sub-folders are named like structures.*SCAN/STRUCTURE"):
        find_sources(tmp_path, Selection(recursive=True))
    for patient in ("p01", "p02"):
        save(tmp_path / "LV" / f"{patient}.nii.gz", heart())  # whole hearts, whatever the folder's name
    assert len(find_sources(tmp_path, Selection(recursive=True)).paths) == 6


def test_a_folder_where_every_map_holds_one_value_is_said_loudly(tmp_path, capsys):
    for n in range(2):
        save(tmp_path / "labels" / f"scan{n}.nii.gz", (heart(0.2 * n) > 0).astype(np.uint8))
    assert run(tmp_path / "labels", tmp_path / "cases") == 0
    said = capsys.readouterr().err
    assert "WARNING: each of these 2 label maps holds one class only, Myocardium" in said and "--structures" in said
    assert run(tmp_path / "labels", tmp_path / "own", "--annotated", "1") == 0
    assert "WARNING" not in capsys.readouterr().err
    save(tmp_path / "labels" / "scan2.nii.gz", heart())
    assert run(tmp_path / "labels", tmp_path / "cases") == 0
    assert "WARNING" not in capsys.readouterr().err


def test_options_that_exclude_each_other(tmp_path, capsys):
    scan(tmp_path / "labels" / "scan1")
    assert run(tmp_path / "labels", tmp_path / "o", "--structures", "names", "--label_mapping", "mmwhs") == 2
    assert "exclude each other" in capsys.readouterr().err


def test_a_name_in_the_header_that_contradicts_the_files_name_is_refused(tmp_path):
    folder, mask = scan(tmp_path / "scan1"), (heart() == 3).astype(np.uint8)
    path = folder / "heart_ventricle_left.nii.gz"
    write_label_map(path, mask, AFFINE, ["Left ventricle"])
    np.testing.assert_array_equal(read_scan(folder, load("totalsegmentator")).labels, heart())
    write_label_map(path, mask, AFFINE, ["LA"])
    with pytest.raises(InputError, match=r"heart_ventricle_left.nii.gz: its name stands for LV, but its header says"):
        read_scan(folder, load("totalsegmentator"))
