"""benchmarks/datasets.py: its table, its sizes, and toy networks from nothing to the table."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vecset.common.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import datasets as module  # noqa: E402


def record(network, row, heart, value, method="network"):
    names = module.FIVE if network == module.BASELINE else module.FIFTEEN
    hidden = module.FIVE if row == "inferred" else []
    dice = {method: dict.fromkeys(names, value)}
    return {"network": network, "row": row, "heart": heart, "hidden": hidden, "dice": dice, "pooled": {}}


def test_the_table_compares_with_a_alone_and_with_the_baselines():
    records = [record("A", "ten", heart, 0.9) for heart in "ab"]
    records += [record("A+B", row, heart, 0.88) for row in ("ten", "fifteen", "inferred") for heart in "ab"]
    records += [
        {**record(module.BASELINE, "inferred", heart, 0.5), "dice": {b: dict.fromkeys(module.FIVE, 0.5) for b in names}}
        for heart in "ab"
        for names in [module.BASELINES]
    ]
    lines = module.table_of(records)
    assert lines[0] == "2 unseen hearts."
    ten = next(line for line in lines if line.startswith("| hearts of ten |"))
    assert ten.split(" | ")[1] == "0.900 [0.900, 0.900]" and "less that of A -0.020 [-0.020, -0.020]" in ten
    wall = [line for line in lines if line.startswith("| LA_wall |")]
    assert wall == ["| LA_wall |  | 0.880 |  |", "| LA_wall |  | 0.880 |  | 0.500 | 0.500 | 0.500 |"]


def test_networks_take_the_steps_that_the_text_says():
    run = module.Comparison.__new__(module.Comparison)
    run.sizes, run.epochs, run.args = module.REAL, 60, SimpleNamespace(weight=4)
    steps = {name: run.epochs_of(name) for name in module.NETWORKS}
    assert steps["A"] == steps["A+B"] == 60 and steps["A then B"] == 30
    together = 60 * (200 + 4 * 22) // 8
    assert together <= steps["B"] * 3 < together + 3, "22 hearts are two batches and a smaller one"


def test_what_cannot_be_is_one_line(tmp_path):
    with pytest.raises(InputError, match="--weight: expected at least 1"):
        module.main(["--output_dir", str(tmp_path), "--weight", "0"])
    (tmp_path / "rows.jsonl").write_text(json.dumps({**record("A", "ten", "a", 0.5), "settings": "other"}) + "\n")
    with pytest.raises(InputError, match="it has rows of other options"):
        module.main(["--output_dir", str(tmp_path), "--tiny"])
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["rows.jsonl"]


@pytest.mark.slow
def test_toy_networks_from_nothing_to_the_table(tmp_path, capsys):
    words = ["--tiny", "--output_dir", str(tmp_path)]
    with pytest.raises(InputError, match="A before 'A then B'"):
        module.main([*words, "--networks", "A then B"])
    assert module.main([*words, "--networks", "A", "A+B"]) == 0
    first = (tmp_path / "rows.jsonl").read_text()
    assert module.main([*words, "--networks", "A", "A+B", "A then B"]) == 0  # goes on
    said = capsys.readouterr()
    assert (tmp_path / "rows.jsonl").read_text().startswith(first) and said.err.count("trains A:") == 1
    records = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    rows = [(r["network"], r["row"]) for r in records]
    mine = [("A+B", "ten"), ("A+B", "fifteen"), ("A+B", "inferred"), (module.BASELINE, "inferred")]
    assert rows == [("A", "ten"), *mine, *(("A then B", row) for _, row in mine[:3])]
    inferred = next(r for r in records if r["row"] == "inferred")
    assert set(module.FIFTEEN) == set(inferred["dice"]["network"]) and inferred["hidden"] == module.FIVE
    assert (tmp_path / "table.md").read_text() in said.out
