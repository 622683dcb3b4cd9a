"""A patient in both train.csv and val.csv is found beside the case files, by group and by name; others are not."""

import json

import pytest

from vecset.common.errors import InputError
from vecset.quality.split_check import check_split
from vecset.quality.thresholds import FileReport

PHASES = [f"patient{p:03d}_frame{f}" for p in (1, 2) for f in ("01", "09")]


def findings(folder, train, val, header="case_id,file,group", record=None):
    """{case id: failed checks} after `check_split`; `train`, `val`: {case id: group}."""
    for name, rows in (("train", train), ("val", val)):
        lines = [header, *(f"{case},{case}.npz,{group}"[: None if "group" in header else -1] for case, group in rows)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (folder / "splits.json").write_text(json.dumps(record or {}))
    reports = [FileReport(case, f"{case}.npz") for case in dict([*train, *val])]
    check_split(reports, folder)
    return {r.case_id: {f["check"]: f["note"] for f in r.findings if not f["ok"]} for r in reports}


def test_the_same_group_on_both_sides_fails(tmp_path):
    found = findings(tmp_path, [("a", "p1"), ("b", "p2"), ("c", "p3")], [("d", "p1")])
    assert found == {"a": {"split_group": "in val.csv: d"}, "b": {}, "c": {}, "d": {"split_group": "in train.csv: a"}}


@pytest.mark.parametrize("header", ["case_id,file,group", "case_id,file"])
def test_names_of_one_patient_on_both_sides_are_noted(header, tmp_path):
    group = (lambda case: case) if header.endswith("group") else (lambda case: "")
    found = findings(tmp_path, [(c, group(c)) for c in PHASES[:3]], [(c, group(c)) for c in PHASES[3:]], header=header)
    assert {case for case, checks in found.items() if checks} == {"patient002_frame01", "patient002_frame09"}
    note = found["patient002_frame09"]["split_patient"]
    assert "in train.csv: patient002_frame01" in note and r"--group_regex '^(.+?)_frame\d+'" in note


def test_no_false_alarms(tmp_path):
    whole = findings(tmp_path, [(c, c[:10]) for c in PHASES[:2]], [(c, c[:10]) for c in PHASES[2:]])
    names = [(f"{i}.label", f"{i}.label") for i in range(1, 9)]
    alone = findings(tmp_path, names[:6], names[6:])
    overfit = findings(tmp_path, [(c, c) for c in PHASES], [(c, c) for c in PHASES], record={"overfit": True})
    same = findings(tmp_path, [(c, c) for c in PHASES], [(c, c) for c in PHASES])
    for found in (whole, alone, overfit, same):
        assert not any(found.values())


def test_without_a_split_nothing_is_said_and_a_broken_one_is_refused(tmp_path):
    report = FileReport("a", "a.npz")
    check_split([report], tmp_path)
    assert report.findings == []
    for name in ("train", "val"):
        (tmp_path / f"{name}.csv").write_text("name\nx\n")
    with pytest.raises(InputError, match="case_id"):
        check_split([report], tmp_path)
