"""Splits: seeded, independent of the listing order, patients whole, strata even; create_csv.py as a command."""

import argparse
import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from vecset.commands import create_csv
from vecset.common.errors import InputError, run_command
from vecset.data import splits
from vecset.data.case_file import Case, write_case
from vecset.data.listed_case import ListedCase
from vecset.imaging.frame import Frame


def entries_of(count, missing_every=0, group=lambda i: f"p{i}"):
    return [
        ListedCase(
            f"case_{i}",
            Path(f"case_{i}.npz"),
            group=group(i),
            missing_classes=(9,) if missing_every and i % missing_every == 0 else (),
        )
        for i in range(count)
    ]


def ids(entries):
    return [e.case_id for e in entries]


def write_tiny(path, missing=(), sha="", seed=0):
    rng = np.random.default_rng(seed)
    arrays = {}
    for group in ("surface", "vol", "near"):
        arrays[f"{group}_points"] = rng.uniform(-0.5, 0.5, (4, 3)).astype(np.float32)
        arrays[f"{group}_labels"] = np.ones(4, np.uint8)
    write_case(
        path,
        Case(
            arrays=arrays,
            frame=Frame(np.eye(4), (5, 5, 5), (2, 2, 2), 0.3),
            truth_crop=np.ones((2, 2, 2), np.uint8),
            truth_origin=np.array([1, 1, 1]),
            meta={
                "classes": 3,
                "class_names": list("abc"),
                "annotated_classes": [1, 2, 3],
                "missing_classes": list(missing),
                "border_classes": [2],
                "source_sha256": sha,
            },
        ),
    )


def test_same_seed_same_split_whatever_the_order():
    entries = entries_of(50, missing_every=5)
    shuffled = [entries[i] for i in np.random.default_rng(1).permutation(50)]
    assert splits.split_train_val(entries, 0.2, 3) == splits.split_train_val(shuffled, 0.2, 3)
    assert splits.split_folds(entries, 5, 3) == splits.split_folds(shuffled, 5, 3)
    assert ids(splits.split_train_val(entries, 0.2, 3)[1]) != ids(splits.split_train_val(entries, 0.2, 4)[1])
    # frozen: a seed must mean the same split next year and on another machine
    assert ids(splits.split_train_val(entries_of(10), 0.3, 0)[1]) == ["case_5", "case_7", "case_9"]


@pytest.mark.parametrize("count, ratio", [(2, 0.2), (3, 0.01), (3, 0.99), (10, 0.2), (998, 0.2), (33, 0.31)])
def test_sizes(count, ratio):
    train, val = splits.split_train_val(entries_of(count), ratio, 0)
    assert len(val) == min(max(round(ratio * count), 1), count - 1)
    assert sorted(ids(train) + ids(val)) == sorted(ids(entries_of(count)))


def test_strata_are_even():
    entries = entries_of(100, missing_every=5)  # 20 of 100 miss class 9
    for seed in range(5):
        _, val = splits.split_train_val(entries, 0.2, seed)
        assert abs(sum(bool(e.missing_classes) for e in val) - 4) <= 1
        for _, val in splits.split_folds(entries, 5, seed):
            assert len(val) == 20 and abs(sum(bool(e.missing_classes) for e in val) - 4) <= 1


MISSING_SHARES = {2: 0.01, 6: 0.03, 7: 0.04, 8: 0.12, 9: 0.3, 10: 0.1}  # class id: share of the hearts that lack it


@pytest.mark.parametrize("scans_per_patient", [1.0, 1.25])
def test_998_hearts_with_missing_classes_come_out_even(scans_per_patient):
    """Each of five folds, and val, has its share of the hearts that lack each class, to within four hearts, and of all
    hearts to within two."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        entries = [
            ListedCase(
                f"case_{i}",
                Path(f"case_{i}.npz"),
                group=f"p{int(i / scans_per_patient)}",
                missing_classes=tuple(c for c, share in MISSING_SHARES.items() if rng.random() < share),
            )
            for i in range(998)
        ]
        folds = splits.split_folds(entries, 5, seed)
        for train, val in [*folds, splits.split_train_val(entries, 0.2, seed)]:
            assert abs(len(val) - 998 / 5) < 2 and len(train) + len(val) == 998
            assert not {e.group for e in train} & {e.group for e in val}
            for c in MISSING_SHARES:
                lacking = sum(c in e.missing_classes for e in entries)
                assert abs(sum(c in e.missing_classes for e in val) - lacking / 5) < 4, (seed, c)
        assert sorted(c for _, val in folds for c in ids(val)) == sorted(ids(entries))


def test_groups_and_copies_stay_whole():
    entries = entries_of(40, missing_every=7, group=lambda i: f"p{i % 11}")
    entries += [ListedCase(name, Path(f"{name}.npz"), group=name, fingerprint="same") for name in "xy"]
    for seed in range(10):
        pairs = [splits.split_train_val(entries, 0.25, seed), *splits.split_folds(entries, 3, seed)]
        for train, val in pairs:
            assert train and val and len(train) + len(val) == len(entries)
            assert not {e.group for e in train} & {e.group for e in val}
            assert ("x" in ids(train)) == ("y" in ids(train))
        assert sorted(c for _, val in pairs[1:] for c in ids(val)) == sorted(ids(entries))
    assert 6 <= len(splits.split_train_val(entries, 0.25, 0)[1]) <= 15


def test_group_regex():
    assert splits.group_of("pat07_ed", re.compile(r"^(pat\d+)_")) == "pat07"
    assert splits.group_of("pat07_ed", re.compile(r"pat\d+")) == "pat07"
    assert splits.group_of("pat07_ed", None) == "pat07_ed"
    with pytest.raises(InputError, match="heart_3.*no match"):
        splits.group_of("heart_3", re.compile(r"pat\d+"))


def test_holdout_keeps_patients_together():
    entries = entries_of(6, group=lambda i: f"p{i // 2}")
    rest, test = splits.take_holdout(entries, ["case_1", "case_0"], "list")
    assert ids(test) == ["case_0", "case_1"] and len(rest) == 4
    with pytest.raises(InputError, match="case_2 without case_3"):
        splits.take_holdout(entries, ["case_2"], "list")
    with pytest.raises(InputError, match="not there: nobody"):
        splits.take_holdout(entries, ["nobody"], "list")
    for suffixes in ((".nii.gz", ".npz"), (".nrrd", ".NII"), (".mha", "")):
        named = [f"case_{i}{suffix}" for i, suffix in enumerate(suffixes)]
        assert ids(splits.take_holdout(entries, named, "list")[1]) == ["case_0", "case_1"]
    with pytest.raises(InputError, match="named twice"):
        splits.take_holdout(entries, ["case_0", "case_0.nii.gz", "case_1"], "list")


def test_holdout_file(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text("file, case_id\n1.npz, case_1.nii.gz\n")
    assert splits.read_holdout(path) == ["case_1.nii.gz"]
    path.write_text("id,fold\ncase_1,0\n")
    with pytest.raises(InputError, match="a column case_id, found the columns id, fold"):
        splits.read_holdout(path)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("test.csv", "case_id;fold\na;0\n".encode("utf-8-sig"), "found semicolons; save it with commas"),
        ("test.txt", b"case_id\tfold\na\t0\n", "found tabs; save it with commas"),
        ("test.txt", "a\nb\n".encode("utf-16"), "UTF-16.*save it as UTF-8"),
        ("test.txt", "ä\n".encode("latin-1"), "byte 0xe4 in line 1"),
        ("none.txt", None, "no such file"),
    ],
)
def test_a_holdout_list_that_would_be_misread(tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told):
        splits.read_holdout(tmp_path / name)


def test_a_holdout_list_of_any_editor(tmp_path):
    (tmp_path / "test.txt").write_bytes("# größer\r\na;b\r\n\r\nc\r\n".encode("utf-8-sig"))
    assert splits.read_holdout(tmp_path / "test.txt") == ["a;b", "c"]


def test_a_record_with_a_byte_order_mark_still_says_that_the_sets_are_the_same(tmp_path):
    from vecset.engines.setup import _overlap_is_meant

    (tmp_path / splits.SIDECAR).write_bytes(json.dumps({"overfit": True}).encode("utf-8-sig"))
    assert _overlap_is_meant(tmp_path)
    (tmp_path / splits.SIDECAR).write_text('{"overfit": true,}')
    with pytest.raises(InputError, match=r"splits.json: not JSON at line 1.*a comma before"):
        _overlap_is_meant(tmp_path)


def test_too_few_groups_is_an_error():
    with pytest.raises(InputError, match="at least 2 groups.*found 1"):
        splits.split_train_val(entries_of(3, group=lambda i: "one"), 0.2, 0)
    with pytest.raises(InputError, match="5 folds"):
        splits.split_folds(entries_of(4), 5, 0)
    with pytest.raises(InputError, match="val_ratio"):
        splits.split_train_val(entries_of(4), 1.0, 0)


def test_command(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for i in range(10):
        write_tiny(data / f"p{i // 2}_{i}.npz", missing=(3,) if i < 2 else (), sha=f"sha{i}", seed=i)
    (data / ".tmp-host-1-x-p9.npz").write_bytes(b"half")
    (tmp_path / "test.txt").write_text("# official\np4_8\np4_9.npz\n")
    flags = ["--data_dir", str(data), "--output_dir", str(out), "--group_regex", r"^(p\d+)_"]
    more = ["--val_ratio", "0.25", "--folds", "4", "--holdout", str(tmp_path / "test.txt")]
    assert create_csv.main([*flags, *more]) == 0
    with open(out / "train.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == list(splits.FIELDS) and len(rows) == 6
    row = next(r for r in rows if r["case_id"] == rows[0]["case_id"])
    assert (data / row["file"]).is_file() and row["border_classes"] == "2" and row["group"] == row["case_id"][:2]
    assert len((out / "test.csv").read_text().splitlines()) == 3
    record = json.loads((out / "splits.json").read_text())
    assert record["seed"] == 0 and record["sets"]["val.csv"]["cases"] == 2 and record["folds"] == 4
    assert "val_fold3.csv" in record["sets"]

    # fewer folds: no stale ones stay behind; a broken file is named, the others are done, the exit code says so
    before = (out / "val.csv").read_bytes()
    (data / "p7_1.npz").write_bytes((data / "p0_0.npz").read_bytes()[:300])
    assert create_csv.main([*flags, "--val_ratio", "0.25", "--folds", "2"]) == 1
    assert "p7_1.npz" in capsys.readouterr().err and before
    assert sorted(p.name for p in out.iterdir()) == [
        "splits.json",
        "train.csv",
        "train_fold0.csv",
        "train_fold1.csv",
        "val.csv",
        "val_fold0.csv",
        "val_fold1.csv",
    ]
    assert json.loads((out / "splits.json").read_text())["broken_files"] == ["p7_1.npz"]

    assert run_command(create_csv.main, ["--data_dir", str(tmp_path / "none")]) == 2
    assert run_command(create_csv.main, ["--data_dir", str(data), "--group_regex", "("]) == 2
    assert run_command(create_csv.main, ["--data_dir", str(data), "--group_regex", "patient"]) == 2
    assert not list(data.glob("*.csv"))


def test_no_patient_is_in_two_of_the_written_sets_and_training_reads_the_folds(tmp_path):
    """From the CSVs alone, as they are found on the disk; training refuses a fold whose sets have been mixed up."""
    from vecset.engines.setup import read_splits

    for i in range(24):
        write_tiny(tmp_path / f"p{i // 2}_{i}.npz", missing=(3,) if i % 3 == 0 else (), sha=f"sha{i}", seed=i)
    (tmp_path / "test.txt").write_text("p0_0\np0_1\np5_10\np5_11\n")
    assert (
        create_csv.main(
            [
                "--data_dir",
                str(tmp_path),
                "--group_regex",
                r"^(p\d+)_",
                "--folds",
                "4",
                "--seed",
                "7",
                "--holdout",
                str(tmp_path / "test.txt"),
            ]
        )
        == 0
    )

    def patients(name):
        with open(tmp_path / name, newline="") as handle:
            return [row["case_id"].split("_")[0] for row in csv.DictReader(handle)]

    assert sorted(patients("test.csv")) == ["p0", "p0", "p5", "p5"]
    pairs = [("train.csv", "val.csv"), *((f"train_fold{k}.csv", f"val_fold{k}.csv") for k in range(4))]
    for pair in pairs:
        train, val, test = (patients(name) for name in (*pair, "test.csv"))
        assert not set(train) & set(val) and not set(train + val) & set(test) and len(train + val + test) == 24
    record = json.loads((tmp_path / "splits.json").read_text())
    assert (record["seed"], record["folds"], record["group_regex"], record["holdout"], record["val_ratio"]) == (
        7,
        4,
        r"^(p\d+)_",
        "test.txt",
        0.2,
    )
    assert sum(record["sets"][f"val_fold{k}.csv"]["missing"].get("3", 0) for k in range(4)) == sum(
        i % 3 == 0 for i in range(24) if i not in (0, 1, 10, 11)
    )

    args = argparse.Namespace(data_path=str(tmp_path), csv_dir=None, fold=2, classes=3)
    train, val = read_splits(args)
    assert sorted(e.case_id.split("_")[0] for e in val) == sorted(patients("val_fold2.csv"))
    assert len(train) + len(val) == 20
    (tmp_path / "val_fold2.csv").write_bytes((tmp_path / "val_fold1.csv").read_bytes())
    with pytest.raises(InputError, match="in both train and val"):
        read_splits(args)


def test_copies_are_said(tmp_path, capsys):
    for i in range(4):
        write_tiny(tmp_path / f"{i}.npz", sha="twin" if i < 2 else f"sha{i}", seed=i)
    assert create_csv.main(["--data_dir", str(tmp_path)]) == 0
    assert "same label map, so kept in one set: 0, 1" in capsys.readouterr().err
    assert (tmp_path / "train.csv").is_file()


def phases(folder, names):
    for i, name in enumerate(names):
        write_tiny(folder / f"{name}.npz", seed=i, sha=str(i))


def test_a_patient_on_both_sides_is_told_with_the_expression_that_prevents_it(tmp_path, capsys):
    phases(tmp_path, [f"patient{p:03d}_frame{f}_gt" for p in range(1, 7) for f in ("01", "09")])
    lines = []
    for seed in range(4):
        assert splits.split_folder(tmp_path, tmp_path, seed=seed) == []
        lines += capsys.readouterr().err.strip().splitlines()
    both = [line for line in lines if "of 6 patients are in both train.csv and val.csv" in line]
    assert len(lines) == 4 and len(both) >= 2
    assert all(line.startswith("warning: names look like several scans of one patient") for line in lines)
    regex = re.search(r"--group_regex '(\^[^']+)'", both[0]).group(1)
    for wanted in (regex, ".+"):
        splits.split_folder(tmp_path, tmp_path, seed=1, folds=3, group_regex=wanted)
        assert capsys.readouterr().err == ""
    splits.split_folder(tmp_path, tmp_path, folds=3)
    found = json.loads((tmp_path / "splits.json").read_text())["patients"]
    assert found["regex"] == regex and found["patients"] == found["several"] == 6
    assert set(found["both"]) == {"train.csv, val.csv", *(f"train_fold{k}.csv, val_fold{k}.csv" for k in range(3))}


def test_names_of_one_scan_each_say_nothing(tmp_path, capsys):
    phases(tmp_path, [f"{i}.label" for i in range(1, 8)])
    splits.split_folder(tmp_path, tmp_path)
    assert capsys.readouterr().err == ""
    assert json.loads((tmp_path / "splits.json").read_text())["patients"] is None


def test_a_csv_of_several_data_sets_holds_out_those_of_this_folder(tmp_path, capsys):
    """Its ids have the data set's name before them, and cases of other data sets are in it too."""
    listed = tmp_path / "AC" / "val.csv"
    listed.parent.mkdir()
    rows = ["A_p1,p1.npz,A,../A", "p2,p2.npz,A,../A", "C_p1,p1.npz,C,../C"]
    listed.write_text("\n".join(["case_id,file,dataset,data_path", *rows]) + "\n")
    entries = [ListedCase(f"p{i}", tmp_path / "A" / f"p{i}.npz") for i in range(4)]
    assert splits.own_ids_of_holdout(listed, entries) == ["p1", "p2"]
    assert "2 of its 3 cases are of this folder; the others are left out" in capsys.readouterr().out
    plain = tmp_path / "ids.txt"
    plain.write_text("p1\n")
    assert splits.own_ids_of_holdout(plain, entries) == []
    (tmp_path / "one.csv").write_text("case_id,file\np1,p1.npz\n")
    assert splits.own_ids_of_holdout(tmp_path / "one.csv", entries) == []
