"""benchmarks/real_sets.py: its table, what it refuses, and toy networks from nothing to the table."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vecset.common.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import real_sets as module  # noqa: E402


def scored(folder, network, rows):
    """Files as create_csv.py and reconstruct.py leave them; rows: (case id, set, file, [Dice of a structure or ""])."""
    split, result = folder / "splits" / network, folder / network / "result"
    split.mkdir(parents=True)
    result.mkdir(parents=True)
    lines = [f"{case},{file},{case},,,{name},cases" for case, name, file, _ in rows]
    header = "case_id,file,group,missing_classes,border_classes,dataset,data_path"
    (split / "val.csv").write_text("\n".join([header, *lines]) + "\n")
    lines = [f"{case},{c},{dice}" for case, _, _, values in rows for c, dice in enumerate(values, 1)]
    lines += [f"{case},,0.1" for case, *_ in rows]  # the union
    (result / "metrics.csv").write_text("\n".join(["case_id,class_id,dice", *lines]) + "\n")


def test_a_set_is_compared_heart_by_heart_by_its_files(tmp_path):
    run = module.Comparison.__new__(module.Comparison)
    run.folder = tmp_path
    sets = [("a_1", "acdc_unseen", "1.npz", [0.8, 0.6, ""]), ("p_1", "phantoms_unseen", "1.npz", [0.9, 0.9, 0.9])]
    scored(tmp_path, "all", sets)
    scored(tmp_path, "acdc", [("1", "acdc_unseen", "1.npz", [0.7, 0.7, 0.4])])
    scored(tmp_path, "acdc_longer", [("1", "acdc_unseen", "1.npz", [0.9, 0.6, 0.45])])
    scored(tmp_path, "phantoms", [("2", "phantoms_unseen", "2.npz", [0.7, 0.7, 0.4])])  # another heart
    for name in ("whole_hearts", "hippocampus"):
        scored(tmp_path, name, [])
    lines = run.table().splitlines()
    assert lines[2:] == ["| acdc | 1 | 0.700 | 0.600 | +0.100 | 0.650 | +0.050 |"]


def test_what_cannot_be_is_one_line(tmp_path):
    with pytest.raises(InputError, match="--epochs: expected at least 1"):
        module.main(["--output_dir", str(tmp_path), "--tiny", "--epochs", "0"])
    with pytest.raises(InputError, match="--real: expected the folder of real label maps, or --tiny"):
        module.main(["--output_dir", str(tmp_path)])
    with pytest.raises(InputError, match="--real"):
        module.main(["--output_dir", str(tmp_path), "--real", str(tmp_path / "none")])
    (tmp_path / "settings.json").write_text(json.dumps({"epochs": 1}))
    with pytest.raises(InputError, match="it has other options"):
        module.Comparison(SimpleNamespace(output_dir=tmp_path, tiny=True, epochs=2, seed=0, real=None))


@pytest.mark.slow
def test_toy_networks_from_nothing_to_the_table(tmp_path, capsys):
    words = ["--tiny", "--epochs", "2", "--output_dir", str(tmp_path)]
    assert module.main([*words, "--networks", "all"]) == 0
    assert capsys.readouterr().out.count("\n| ") == 0  # nothing to compare with
    assert module.main([*words, "--networks", "all", "acdc"]) == 0
    said = capsys.readouterr()
    (line,) = [line for line in said.out.splitlines() if line.startswith("| acdc |")]
    assert line.split(" | ")[1] == "1" and said.err.count("trains all") == 0
    assert (tmp_path / "table.md").read_text() in said.out
    learned = (tmp_path / "splits" / "all" / "train.csv").read_text()
    assert "_unseen" not in learned and "patients" not in learned
    run = module.Comparison(SimpleNamespace(output_dir=tmp_path, tiny=True, epochs=2, seed=0, real=None))
    assert (run.steps("all"), run.steps("acdc"), run.epochs_of("acdc_longer"), run.epochs_of("acdc")) == (9, 2, 9, 2)
