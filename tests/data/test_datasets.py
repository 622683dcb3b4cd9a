"""Several data sets, one split: structures joined by name, hearts kept together, what is refused and what is said."""

import csv
import json
import zlib

import numpy as np
import pytest

from vecset.commands import check_data_quality, create_csv
from vecset.common.errors import InputError, run_command
from vecset.data.case_file import Case, write_case
from vecset.data.datasets import DataSet, datasets_of_folders, read_datasets
from vecset.data.listed_case import read_as_listed, read_listed, read_split, table_of
from vecset.imaging.frame import Frame

TEN = ["Myocardium", "LA", "LV"]
THREE = ["RV", "Myocardium", "left ventricle blood"]


def write(path, names=TEN, annotated=(1, 2, 3), sha="", radii=None, by=None, **more):
    """A case file of three balls, classes 1 to 3, in a grid of 1 mm; radii (3,) in mm; by: the axis that is stored
    backwards."""
    radii = np.random.default_rng(zlib.crc32(path.name.encode())).uniform(5, 8, 3) if radii is None else radii
    grid = np.indices((60, 24, 24)).transpose(1, 2, 3, 0)
    crop = np.zeros(grid.shape[:3], np.uint8)
    for c, radius in enumerate(radii, 1):
        crop[np.linalg.norm(grid - [10 + 19 * (c - 1), 12, 12], axis=-1) < radius] = c
    affine = np.eye(4)
    if by is not None:
        crop = np.flip(crop, by).copy()
        affine[by, by] = -1
    crop[~np.isin(crop, annotated)] = 0
    arrays = {f"{group}_points": np.zeros((4, 3), np.float32) for group in ("surface", "vol", "near")}
    arrays |= {f"{group}_labels": np.full(4, annotated[0], np.uint8) for group in ("surface", "vol", "near")}
    path.parent.mkdir(exist_ok=True, parents=True)
    present = sorted(int(c) for c in np.unique(crop) if c)
    meta = {
        "classes": len(names),
        "class_names": list(names),
        "annotated_classes": list(annotated),
        "present_classes": present,
        "missing_classes": sorted({*range(1, len(names) + 1)} - {*present}),
        "border_classes": [],
        "voxels_per_class": [int((crop == c).sum()) for c in range(1, len(names) + 1)],
        "source_sha256": sha,
        "request": {"class_names": list(names)},
        **more,
    }
    frame = Frame(affine, crop.shape, (30, 12, 12), 0.03)
    write_case(path, Case(arrays=arrays, frame=frame, truth_crop=crop, truth_origin=np.zeros(3, int), meta=meta))


def make(tmp_path, a=4, b=3, names_b=THREE, **more):
    rng = np.random.default_rng(0)
    for i in range(a):
        write(tmp_path / "A" / f"a{i}.npz", radii=rng.uniform(5, 9, 3))
    for i in range(b):
        write(tmp_path / "B" / f"b{i}.npz", names_b, radii=rng.uniform(5, 9, 3), **more)
    return ["--data_dir", str(tmp_path / "A"), "--data_dir", str(tmp_path / "B"), "--output_dir", str(tmp_path / "AB")]


def rows(path):
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


def test_one_split_of_two_data_sets_read_to_the_union(tmp_path, capsys):
    assert run_command(create_csv.main, make(tmp_path)) == 0
    told = capsys.readouterr().err
    assert "one structure, LV: 'LV' in A, 'left ventricle blood' in B" in told
    assert "1 is Myocardium in A, RV in B" in told
    record = json.loads((tmp_path / "AB" / "splits.json").read_text())
    assert [row["name"] for row in record["structures"]] == ["Myocardium", "LA", "LV", "RV"]
    assert record["structures"][2] == {"id": 3, "name": "LV", "aliases": ["left ventricle blood"]}
    assert record["datasets"]["B"]["ids"] == {"1": "RV", "2": "Myocardium", "3": "LV"}
    assert record["datasets"]["B"]["classes"] == {"Myocardium": 3, "LA": 0, "LV": 3, "RV": 3}
    assert record["sets"]["val.csv"]["datasets"] == {"A": 1, "B": 1}  # each data set gives its share
    lines = rows(tmp_path / "AB" / "train.csv")
    assert list(lines[0])[-2:] == ["dataset", "data_path"]
    assert {(line["dataset"], line["data_path"]) for line in lines} == {(s, str(tmp_path / s)) for s in "AB"}

    train, val = (read_split(tmp_path / "AB" / f"{name}.csv", tmp_path / "AB") for name in ("train", "val"))
    assert sorted(case.case_id for case in train + val) == [f"a{i}" for i in range(4)] + [f"b{i}" for i in range(3)]
    assert table_of(train, tmp_path / "AB") == ["Myocardium", "LA", "LV", "RV"]
    of_b = next(case for case in train if case.dataset == "B")
    assert of_b.annotated == (True, False, True, True) and of_b.own_ids == (4, 1, 3)
    own, case = read_as_listed(of_b.path), read_as_listed(of_b)
    np.testing.assert_array_equal(case.truth_crop, np.array([0, 4, 1, 3], np.uint8)[own.truth_crop])
    assert case.class_names == ["Myocardium", "LA", "LV", "RV"] and case.annotated.tolist() == list(of_b.annotated)
    assert set(case.surface_labels) == {4} and case.meta["voxels_per_class"][1] == 0


def test_one_data_dir_writes_what_it_always_wrote(tmp_path):
    for i in range(3):
        write(tmp_path / "A" / f"a{i}.npz")
    assert run_command(create_csv.main, ["--data_dir", str(tmp_path / "A")]) == 0
    assert (tmp_path / "A" / "val.csv").read_bytes() == (
        b"case_id,file,group,missing_classes,border_classes\na0,a0.npz,a0,,\n"
    )
    record = json.loads((tmp_path / "A" / "splits.json").read_text())
    keys = ["seed", "val_ratio", "folds", "group_regex", "holdout", "cases", "broken_files", "patients", "sets"]
    assert list(record) == keys
    assert record["sets"]["val.csv"] == {"cases": 1, "groups": 1, "missing": {}}


def test_the_quality_check_takes_each_data_set_by_itself(tmp_path, capsys):
    assert run_command(create_csv.main, make(tmp_path)) == 0
    capsys.readouterr()
    run_command(check_data_quality.main, [str(tmp_path / "AB" / "train.csv"), "--sample", "4"])
    told = capsys.readouterr().out
    assert "/A/a1.npz" in told and "/B/b1.npz" in told and "class_names =" not in told  # not compared between sets
    write(tmp_path / "B" / "b1.npz", ["RV", "LA", "LV"])
    run_command(check_data_quality.main, [str(tmp_path / "AB" / "train.csv"), "--sample", "4"])
    assert "class_names = " in capsys.readouterr().out


def test_a_heart_that_is_in_two_data_sets_is_in_one_split_alone(tmp_path, capsys):
    more = make(tmp_path)
    heart = (6.2, 7.7, 8.4)
    write(tmp_path / "A" / "twin.npz", radii=heart)
    write(tmp_path / "B" / "twin.npz", ["Myocardium", "LA", "LV"], radii=heart, by=0)  # stored backwards
    for path in (tmp_path / "B").glob("b*.npz"):
        path.unlink()
    write(tmp_path / "B" / "copy.npz", radii=(5, 5, 8.9), sha="same")
    write(tmp_path / "A" / "copied.npz", radii=(5, 5, 8.9), sha="same")
    for seed in range(4):
        assert run_command(create_csv.main, [*more, "--seed", str(seed), "--val_ratio", "0.4"]) == 0
        told = capsys.readouterr().err
        assert "A_twin (A) and B_twin (B) have nearly the same shape (they differ by 0.0%)" in told
        assert "made from the same label map, so kept in one set: copied, copy" in told
        assert "1 names of cases are in several data sets (twin)" in told
        for name in ("train", "val"):
            ids = {line["case_id"] for line in rows(tmp_path / "AB" / f"{name}.csv")}
            assert len(ids & {"A_twin", "B_twin"}) in (0, 2) and len(ids & {"copied", "copy"}) in (0, 2)


def test_a_file_of_data_sets_with_weights_and_splits(tmp_path, capsys):
    make(tmp_path)
    path = tmp_path / "datasets.json"
    path.write_text(json.dumps({"first": {"folder": "A", "split": 0.5}, "second": {"folder": "B", "weight": 8}}))
    assert read_datasets(path) == [
        DataSet("first", tmp_path / "A", 1.0, 0.5),
        DataSet("second", tmp_path / "B", 8.0, None),
    ]
    command = ["--datasets", str(path), "--output_dir", str(tmp_path / "AB"), "--folds", "2"]
    assert run_command(create_csv.main, command) == 0
    record = json.loads((tmp_path / "AB" / "splits.json").read_text())
    assert record["datasets"]["second"]["weight"] == 8 and record["sets"]["val.csv"]["datasets"]["first"] == 2
    folds = [{line["case_id"] for line in rows(tmp_path / "AB" / f"val_fold{k}.csv")} for k in range(2)]
    assert len(folds[0] | folds[1]) == 7 and not folds[0] & folds[1]
    assert all(sum(i.startswith("b") for i in fold) in (1, 2) for fold in folds)

    path.write_text(json.dumps({"first": "A", "second": {"folder": "B", "split": "train"}}))
    capsys.readouterr()
    assert run_command(create_csv.main, command[:4]) == 0
    assert "warning: val.csv: no case has RV annotated, which train.csv has" in capsys.readouterr().err
    assert {line["dataset"] for line in rows(tmp_path / "AB" / "val.csv")} == {"first"}
    path.write_text(json.dumps({"first": "A", "second": {"folder": "B", "split": "test"}}))
    assert run_command(create_csv.main, command[:4]) == 0
    assert {line["dataset"] for line in rows(tmp_path / "AB" / "test.csv")} == {"second"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected an object with a data set per name"),
        ('{"A": {"weight": 2}}', "'A' names no folder"),
        ('{"A": {"folder": "A", "share": 2}}', "'A' has unknown keys share"),
        ('{"A": {"folder": "A", "weight": 0}}', "the weight of 'A' is 0"),
        ('{"A": {"folder": "A", "split": 1}}', "the split of 'A' is 1"),
        ('{"A": {"folder": "A", "split": "validation"}}', "the split of 'A' is 'validation'"),
        ('{"A": "A", "B": "./A"}', "two data sets have the folder"),
        ('{"A": "A", "a": "B"}', "two data sets have the name a"),
        ('{"A=1": "A"}', "'A=1' is no name for a data set"),
    ],
)
def test_bad_files_of_data_sets(tmp_path, content, message):
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(InputError, match=f"d.json: .*{message}"):
        read_datasets(tmp_path / "d.json")


def test_bad_command_lines(tmp_path, capsys):
    more = make(tmp_path)
    for command, message in (
        ([], "give --data_dir (once or several times) or --datasets"),
        (more[:4], "several data sets need --output_dir"),
        ([*more[:2], "--data_dir", str(tmp_path / "x" / "A"), *more[4:]], "two data sets have the name A"),
        ([*more[:2], "--data_dir", str(tmp_path / "none"), *more[4:]], "none: expected a folder of case files"),
    ):
        assert run_command(create_csv.main, command) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "AB").exists()
    with pytest.raises(InputError, match="^--data_dir: two data sets have the name A; name the data sets in a file"):
        datasets_of_folders([tmp_path / "A", tmp_path / "x" / "A"])
    with pytest.raises(InputError, match="^--data_dir: two data sets have the folder .*A; give it once"):
        datasets_of_folders([tmp_path / "A", tmp_path / "B" / ".." / "A"])


def test_a_data_set_without_names(tmp_path, capsys):
    more = make(tmp_path, names_b=["class_1", "class_2", "class_3"])
    assert run_command(create_csv.main, more) == 2
    told = capsys.readouterr().err
    assert "data set B: its class 1 has no name but 'class_1'" in told and "--classes FILE" in told
    assert not (tmp_path / "AB" / "train.csv").exists()


def test_names_that_only_numbers_gave_are_said(tmp_path, capsys):
    assert run_command(create_csv.main, make(tmp_path, names_b=TEN, request={"label_map": None})) == 0
    told = capsys.readouterr().err
    assert "note: B: its 3 classes have the default names (1 Myocardium, 2 LA, 3 LV); if its label maps" in told
    assert "note: A: its 3 classes" not in told  # there --classes FILE said so


def test_one_heart_for_training_and_for_the_test(tmp_path, capsys):
    make(tmp_path)
    write(tmp_path / "A" / "x.npz", sha="same")
    write(tmp_path / "B" / "y.npz", sha="same", names=THREE)
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"A": {"folder": "A", "split": "train"}, "B": {"folder": "B", "split": "test"}}))
    assert run_command(create_csv.main, ["--datasets", str(path), "--output_dir", str(tmp_path / "AB")]) == 2
    told = capsys.readouterr().err
    assert "case x of A: it is for train, and the same heart or patient is for test, as y of B" in told


def test_csvs_without_their_record_or_with_other_files(tmp_path):
    assert run_command(create_csv.main, make(tmp_path)) == 0
    train = tmp_path / "AB" / "train.csv"
    entry = next(case for case in read_split(train, tmp_path) if case.dataset == "B")
    write(entry.path, ["RV", "LV"], annotated=(1, 2))
    with pytest.raises(InputError, match="expected 3 classes, as when it was listed, found 2"):
        read_as_listed(entry)
    write(entry.path, ["RV", "LV", "Tumour"])
    with pytest.raises(InputError, match="expected the split of .* Tumour is none of them; make the split again"):
        read_split(train, tmp_path)
    (tmp_path / "AB" / "splits.json").unlink()
    assert len(read_listed(train, tmp_path)) == 5
    with pytest.raises(InputError, match=r"splits.json: no such file; make the split again"):
        read_split(train, tmp_path)
