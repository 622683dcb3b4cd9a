"""benchmarks/completion_baselines.py runs through, on hearts that it makes and on lists of case files."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "completion_baselines.py"


def run(*options):
    return subprocess.run([sys.executable, SCRIPT, *map(str, options)], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
def test_table_of_hearts_made_and_of_the_same_hearts_listed(tmp_path):
    made = run("--output_dir", tmp_path, "--num_train", 4, "--num_val", 1, "--size", 32, "--drop", "6", "2,3")
    assert made.returncode == 0, made.stderr
    rows = [line for line in made.stdout.splitlines() if line.startswith(("| Aorta |", "| LA, LV |"))]
    assert len(rows) == 2 and all(row.count("|") == 11 for row in rows)
    assert float(rows[0].split("|")[2]) > 0.3
    paths = sorted((tmp_path / "cases").glob("*.npz"))
    for name, part in (("train", paths[:4]), ("val", paths[4:])):
        with open(tmp_path / f"{name}.csv", "w", newline="") as handle:
            csv.writer(handle).writerows([("case_id", "file"), *((path.stem, path.name) for path in part)])
    lists = "--train_csv", tmp_path / "train.csv", "--val_csv", tmp_path / "val.csv", "--data_path", tmp_path / "cases"
    listed = run(*lists, "--drop", "6")
    assert listed.returncode == 0, listed.stderr
    row = next(line for line in listed.stdout.splitlines() if line.startswith("| Aorta |"))
    assert row.split("|")[1:8] == rows[0].split("|")[1:8]


@pytest.mark.slow
def test_no_hearts_and_ids_that_are_none_are_errors_in_one_line(tmp_path):
    for options, said in (
        (["--drop", "6"], "no hearts"),
        (["--output_dir", tmp_path, "--num_train", "0"], "--num_train"),
    ):
        found = run(*options)
        assert found.returncode == 2 and said in found.stderr and "Traceback" not in found.stderr
