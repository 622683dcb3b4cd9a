"""Names in headers from the label map to the case file, its quality check, and the next run."""

import json
import shutil

import numpy as np
import pytest
from helpers.named_labels import balls, stored_as, write_layers, write_nifti, write_nrrd

from vecset.commands import create_csv, prepare_data
from vecset.common.errors import InputError, run_command
from vecset.data.case_file import read_case, write_case
from vecset.data.listed_case import read_split
from vecset.imaging.label_map import write_label_map
from vecset.info import describe
from vecset.quality.case_checks import check_file
from vecset.quality.population import check_population

OTHER_ORDER = {1: "LV", 2: "LA", 3: "Myocardium", 4: "RV", 5: "RA"}
FIVE = ["Myocardium", "LA", "LV", "RA", "RV"]


def prepare(folder, *more, classes=10):
    points = [word for kind in ("surface", "vol", "near") for word in (f"--num_{kind}_points", "300")]
    words = ["--input_dir", str(folder / "in"), "--output_dir", str(folder / "out"), "--classes", str(classes)]
    return run_command(prepare_data.main, [*words, *points, "--file_workers", "0", *more])


def failed_checks(folder, name):
    report = check_file(folder / "out" / f"{name}.npz", source_dir=folder / "in")
    return {finding["check"] for finding in report.failed() if finding["check"].startswith("source")}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path


@pytest.mark.parametrize(("write", "suffix"), [(write_nrrd, "seg.nrrd"), (write_nifti, "nii.gz")])
def test_the_case_file_says_what_was_done_and_the_quality_check_agrees(folder, capsys, write, suffix):
    write(folder / "in" / f"a.{suffix}", stored_as(balls(), OTHER_ORDER), OTHER_ORDER)
    write_label_map(folder / "in" / "b.nii.gz", balls(), np.eye(4))
    assert prepare(folder) == 0
    name = f"a.{suffix}".removesuffix(".nrrd").removesuffix(".nii.gz")
    told = [line for line in capsys.readouterr().err.splitlines() if "names in its header" in line]
    assert len(told) == 1 and "1 LV is class 3, 2 LA is class 2, 3 Myocardium is class 1" in told[0]
    by_name, by_number = read_case(folder / "out" / f"{name}.npz"), read_case(folder / "out" / "b.npz")
    np.testing.assert_array_equal(by_name.truth_crop, by_number.truth_crop)
    assert by_name.meta["values_by_name"]["1"] == ["LV", 3] and "values_by_name" not in by_number.meta
    assert failed_checks(folder, name) == failed_checks(folder, "b") == set()
    capsys.readouterr()
    assert prepare(folder) == 0 and "0 made, 2 skipped" in capsys.readouterr().out
    assert any("1 LV: " in line for line in describe(folder / "in" / f"a.{suffix}"))


def test_a_file_made_by_number_is_found_and_made_again(folder, capsys):
    path = write_nrrd(folder / "in" / "a.seg.nrrd", stored_as(balls(), OTHER_ORDER), OTHER_ORDER)
    assert prepare(folder) == 0
    right = (folder / "out" / "a.seg.npz").read_bytes()
    case = read_case(folder / "out" / "a.seg.npz")
    del case.meta["values_by_name"]
    case.truth_crop = stored_as(case.truth_crop, OTHER_ORDER).astype(np.uint8)
    write_case(folder / "out" / "a.seg.npz", case)
    assert {"source_names"} <= failed_checks(folder, "a.seg")
    assert prepare(folder) == 0 and (folder / "out" / "a.seg.npz").read_bytes() == right
    assert "1 made again" in capsys.readouterr().out and path.is_file()


def test_names_that_match_give_the_same_bytes(folder):
    write_label_map(folder / "in" / "a.nii.gz", balls(), np.eye(4))
    assert prepare(folder) == 0
    bare = read_case(folder / "out" / "a.npz")
    write_label_map(folder / "in" / "a.nii.gz", balls(), np.eye(4), FIVE)
    assert prepare(folder, classes=10) == 0
    named = read_case(folder / "out" / "a.npz")
    assert {**bare.meta, "source_sha256": ""} == {**named.meta, "source_sha256": ""}
    for member, array in bare.arrays.items():
        np.testing.assert_array_equal(array, named.arrays[member])


def test_what_does_not_fit_is_one_line_and_the_others_are_made(folder, capsys):
    write_nifti(folder / "in" / "a.nii.gz", balls(), {1: "spleen", 2: "kidney_right", 3: "LV"})
    write_nifti(folder / "in" / "b.nii.gz", balls(), dict(enumerate(FIVE, 1)))
    assert prepare(folder) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(said) == 1 and "a.nii.gz: its header names its values 1 spleen, 2 kidney_right, 3 LV" in said[0]
    assert [path.name for path in (folder / "out").iterdir()] == ["b.npz"]


def test_a_mapping_that_contradicts_is_told(folder, capsys):
    write_nifti(folder / "in" / "a.nii.gz", balls(2), {1: "LV", 2: "LA"})
    (folder / "map.json").write_text(json.dumps({"1": "Myocardium", "2": "LA"}))
    assert prepare(folder, "--label_mapping", str(folder / "map.json")) == 0
    assert "its header says 1 LV, but --label_mapping 1 Myocardium, and that is what counts" in capsys.readouterr().err
    assert failed_checks(folder, "a") == set()
    shutil.rmtree(folder / "out")
    assert prepare(folder, "--label_mapping", "totalsegmentator_heartchambers") == 1
    assert "its header says 1 LV, but the preset of --label_mapping 1 Myocardium" in capsys.readouterr().err


@pytest.mark.parametrize("told", ["layers", "neither"])
def test_the_quality_check_reads_layers_too(folder, told):
    write_layers(folder / "in" / "a.seg.nrrd", [balls(3) == c for c in (1, 2, 3)], ["LV", "LA", "Myocardium"], told)
    assert prepare(folder) == 0 and failed_checks(folder, "a.seg") == set()


def test_case_files_of_other_classes_are_one_line_in_every_later_command(folder, capsys):
    for name in "abcd":
        write_nifti(folder / "in" / f"{name}.nii.gz", balls(4, 3 + 0.1 * ord(name) % 1), {})
    assert prepare(folder, classes=5) == 0
    (folder / "map.json").write_text(json.dumps({"1": "LA", "2": "Myocardium", "3": 3, "4": {"class": 4, "name": "X"}}))
    (folder / "in2").mkdir()
    (folder / "in" / "d.nii.gz").rename(folder / "in2" / "d.nii.gz")
    more = ["--label_mapping", str(folder / "map.json"), "--input_dir", str(folder / "in2")]
    assert prepare(folder, *more, classes=5) == 0
    capsys.readouterr()
    assert run_command(create_csv.main, ["--data_dir", str(folder / "out")]) == 2
    said = capsys.readouterr().err
    assert "d.npz: expected the classes of a.npz and most others (1 Myocardium, 2 LA, 3 LV, 4 RA, 5 RV)" in said
    assert "found 1 Myocardium, 2 LA, 3 LV, 4 X, 5 RV" in said and "--label_mapping" in said
    reports = [check_file(path) for path in sorted((folder / "out").glob("*.npz"))]
    check_population(reports)
    assert [r.file for r in reports if "class_names" in {f["check"] for f in r.failed()}] == ["d.npz"]
    rows = "".join(f"{name},{name}.npz\n" for name in "abcd")
    for split in ("train", "val"):
        (folder / f"{split}.csv").write_text("case_id,file\n" + (rows if split == "train" else "d,d.npz\n"))
    with pytest.raises(InputError, match="d.npz: expected the classes of a.npz"):
        read_split(folder / "train.csv", folder / "out")


def test_names_beside_that_change_or_go_make_the_case_again(folder, capsys):
    write_nifti(folder / "in" / "a.nii.gz", balls(3), {})
    labels = {1: ["LV", "LA", "Myocardium"], 2: ["LA", "LV", "Myocardium"], 3: ["Myocardium", "LA", "LV"]}
    seen = []
    for names in labels.values():
        content = {"labels": {name: value for value, name in enumerate(names, 1)}}
        (folder / "in" / "dataset.json").write_text(json.dumps(content))
        assert prepare(folder) == 0 and "1 made" in capsys.readouterr().out
        assert prepare(folder) == 0 and "0 made, 1 skipped" in capsys.readouterr().out
        assert failed_checks(folder, "a") == set()
        case = read_case(folder / "out" / "a.npz")
        seen.append([int(case.truth_labels()[balls(3) == value].max()) for value in (1, 2, 3)])
    assert seen == [[3, 2, 1], [2, 3, 1], [1, 2, 3]]
