"""Validation of several data sets: each one's figures are those that it has alone, and each has a best checkpoint."""

import json

import pytest
from helpers.ball_cases import ball_case, tiny_arguments

from vecset.commands import create_csv
from vecset.data.case_file import write_case
from vecset.engines.saving import best_of_dataset
from vecset.main_ae import main
from vecset.weights.checkpoint import load_checkpoint

NAMES = {"A": ["Myocardium", "LA", "LV"], "B": ["RV", "LV"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A and B, three hearts each, split as one; and a run of three validations on both."""
    folder = tmp_path_factory.mktemp("sets")
    for k, (name, names) in enumerate(NAMES.items()):
        (folder / name).mkdir()
        for i in range(3):
            case = ball_case(10 * k + i, num_classes=len(names), class_names=names)
            write_case(folder / name / f"{name}{i}.npz", case)
    dirs = [word for name in NAMES for word in ("--data_dir", str(folder / name))]
    assert create_csv.main([*dirs, "--output_dir", str(folder / "both"), "--val_ratio", "0.3"]) == 0
    words = ["--epochs", 3, "--eval_every", 1, "--lr", 0.02, "--warmup_epochs", 0]
    assert main(tiny_arguments(folder / "both", folder / "run", *words)) == 0
    return folder


def validations(folder):
    lines = [json.loads(line) for line in (folder / "run" / "log.txt").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "val"]


def test_the_sets_together_are_all_cases(folder):
    for record in validations(folder):
        per_set = record["datasets"]
        assert {name: row["cases"] for name, row in per_set.items()} == {"A": 1, "B": 1}
        for name, row in record["per_class"].items():
            both = [one["per_class"][name] for one in per_set.values()]
            assert row["cases"] == sum(one["cases"] for one in both)
            sums = sum(one["dice"] * one["cases"] for one in both if one["cases"])
            assert not row["cases"] or row["dice"] == pytest.approx(sums / row["cases"])
        assert per_set["A"]["per_class"]["RV"]["cases"] == 0  # nobody looked for it there
        assert record["mean_dice_A"] == per_set["A"]["mean_dice"]


def test_a_set_has_the_figures_that_it_has_alone(folder, tmp_path, capsys):
    """--eval on a split of B alone, with the structures of both."""
    both = folder / "both"
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("train.csv", "val.csv"):
        lines = (both / name).read_text().splitlines()
        kept = [line for line in lines if not line.startswith("A")] if name == "val.csv" else lines
        (alone / name).write_text("\n".join(kept) + "\n")
    (alone / "splits.json").write_text((both / "splits.json").read_text())
    resume = ["--eval", "--resume", folder / "run" / "checkpoint-last.pth"]
    assert main(tiny_arguments(both, tmp_path / "one", *resume)) == 0
    assert "data set B, 1 cases: mean_dice" in capsys.readouterr().out
    assert main(tiny_arguments(alone, tmp_path / "two", *resume)) == 0
    one, two = (json.loads((tmp_path / name / "eval.json").read_text()) for name in ("one", "two"))
    assert one["datasets"]["B"]["per_class"] == two["per_class"] and "datasets" not in two
    assert one["datasets"]["B"]["mean_dice"] == two["mean_dice"]


def test_each_set_has_its_best_checkpoint(folder):
    records = validations(folder)
    for name in NAMES:
        dice = [record["datasets"][name]["mean_dice"] for record in records]
        best = load_checkpoint(folder / "run" / best_of_dataset(name))
        assert best["epoch"] == 1 + dice.index(max(dice))
        assert load_checkpoint(folder / "run" / "checkpoint-last.pth")["best_of_datasets"][name] == [
            max(dice),
            best["epoch"],
        ]
