"""Training on data sets with structures of their own: the same numbers as on case files of one table, by hand."""

import csv
import json

import pytest
import torch
from helpers.ball_cases import ball_case
from helpers.engine_parts import epoch_gradients, make_run

from vecset.commands import create_csv
from vecset.common.errors import InputError
from vecset.data.case_file import write_case
from vecset.data.listed_case import read_as_listed, read_split

OF_B = ["RV", "Left ventricle", "Plaque"]
UNION = ["Myocardium", "LA", "LV", "RV", "Plaque"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A: three classes in four hearts. B: three others, with other numbers, in three. by_hand: the same hearts, with
    the union's table in every file."""
    folder = tmp_path_factory.mktemp("datasets")
    for name, number, names in (("A", 4, ["Myocardium", "LA", "LV"]), ("B", 3, OF_B)):
        (folder / name).mkdir()
        for i in range(number):
            write_case(folder / name / f"{name}{i}.npz", ball_case(10 * (name == "B") + i, class_names=names))
    dirs = [word for name in "AB" for word in ("--data_dir", str(folder / name))]
    assert create_csv.main([*dirs, "--output_dir", str(folder / "AB"), "--val_ratio", "0.3"]) == 0
    (folder / "by_hand").mkdir()
    for split in ("train", "val"):
        cases = read_split(folder / "AB" / f"{split}.csv", folder)
        for case in cases:
            write_case(folder / "by_hand" / f"{case.case_id}.npz", read_as_listed(case))
        with open(folder / "by_hand" / f"{split}.csv", "w", newline="") as handle:
            csv.writer(handle).writerows([("case_id", "file"), *((c.case_id, f"{c.case_id}.npz") for c in cases)])
    return folder


def test_gradients_are_those_of_case_files_of_one_table(folder, tmp_path):
    runs = [make_run(folder / data, tmp_path / data) for data in ("AB", "by_hand")]
    assert runs[0].class_names == runs[1].class_names == UNION
    assert [c.case_id for c in runs[0].dataset.cases] == [c.case_id for c in runs[1].dataset.cases]
    ours, theirs = (epoch_gradients(run) for run in runs)
    assert len(ours) == len(theirs) and len(ours) > 1
    for one, other in zip(ours, theirs):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_what_a_data_set_does_not_have_is_not_learnt_from_it(folder, tmp_path):
    run = make_run(folder / "AB", tmp_path)
    of_b = next(i for i, case in enumerate(run.dataset.cases) if case.dataset == "B")
    item = run.dataset[0, of_b]
    assert item["annotated"].tolist() == [False, False, True, True, True]
    assert set(item["query_labels"]) <= {0, 3, 4, 5} and set(item["surface_labels"]) == {3, 4, 5}


def test_weights_are_those_of_the_split_or_of_the_option(folder, tmp_path, capsys):
    run = make_run(folder / "AB", tmp_path)
    assert run.plan.weights is None and run.plan.num_draws == len(run.dataset)
    weighted = make_run(folder / "AB", tmp_path, "--dataset_weights", "B=3")
    of_b = sum(case.dataset == "B" for case in run.dataset.cases)
    assert weighted.plan.num_draws == len(run.dataset) + 2 * of_b and weighted.cases_digest != run.cases_digest
    assert f"data sets: A 3 hearts x 1, B {of_b} hearts x 3: {weighted.plan.num_draws} draws" in capsys.readouterr().out
    epoch_gradients(weighted)
    sidecar = folder / "AB" / "splits.json"
    before = sidecar.read_text()
    record = json.loads(before)
    record["datasets"]["A"]["weight"] = 2
    sidecar.write_text(json.dumps(record))
    try:
        assert make_run(folder / "AB", tmp_path).plan.weights == {"A": 2, "B": 1}
        assert make_run(folder / "AB", tmp_path, "--dataset_weights", "A=1").plan.weights is None
    finally:
        sidecar.write_text(before)


@pytest.mark.parametrize(
    ("data", "text", "message"),
    [
        ("AB", "C=2", "--dataset_weights: no training case is of 'C'; the data sets are A, B"),
        ("by_hand", "A=2", "--dataset_weights: the CSVs are of one data set; list several"),
    ],
)
def test_weights_of_a_data_set_that_is_not_there(folder, tmp_path, data, text, message):
    with pytest.raises(InputError, match=f"^{message}"):
        make_run(folder / data, tmp_path, "--dataset_weights", text)


@pytest.mark.parametrize("text", ["A", "A=0", "A=1,A=2", "A=nan", "=1"])
def test_weights_that_are_none(folder, tmp_path, text, capsys):
    with pytest.raises(SystemExit):
        make_run(folder / "AB", tmp_path, "--dataset_weights", text)
    assert f"expected weights above 0, to 1000, as A=1,B=8, found '{text}'" in capsys.readouterr().err
