"""benchmarks/answers.py: energy scores, its table, and a tiny network on tiny hearts."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.ball_cases import tiny_arguments, write_ball_cases

from vecset.common.errors import InputError
from vecset.main_ae import main as train

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import answers as module  # noqa: E402

NAMES = ["RA", "RV", "PA", "LV"]


def test_the_energy_score_is_that_of_vectors():
    """Against indicators of two structures as vectors, and their Euclidean distances."""
    rng = np.random.default_rng(0)
    maps, truth = rng.integers(0, 3, (5, 4, 3, 2)).astype(np.uint8), rng.integers(0, 3, (4, 3, 2)).astype(np.uint8)

    def vector(labels):
        return np.concatenate([(labels == c).ravel() for c in (1, 2)]).astype(float) * np.sqrt(0.5)

    away = np.mean([np.linalg.norm(vector(m) - vector(truth)) for m in maps])
    pairs = [np.linalg.norm(vector(a) - vector(b)) for i, a in enumerate(maps) for b in maps[:i]]
    assert module.energy_score(maps, truth, 0.5) == pytest.approx(away - np.mean(pairs) / 2)
    assert module.energy_score(maps[:1], truth, 0.5) == pytest.approx(np.linalg.norm(vector(maps[0]) - vector(truth)))


def test_hearts_are_drawn_whole_and_the_mean_is_that_of_all_values():
    mean, low, high = module.bootstrap([[1.0, 1.0, 1.0], [0.0]] * 50)
    assert mean == 0.75 and low < 0.75 < high and high - low < 0.2
    assert module.bootstrap([[1.0]] * 9) == (1.0, 1.0, 1.0)


def test_a_table_of_answers_counts_structures_in_their_intervals():
    def record(heart, low, high, energy):
        told = {"true_ml": 2.0, "network_one": 1.0, "network_low": low, "network_high": high}
        energies = {"network": energy, "network_one": 2 * energy}
        return {"heart": heart, "row": "RA", "classes": {"RA": told}, "energy": energies}

    records = [record("a", 1.0, 3.0, 1.0), record("b", 2.5, 3.5, 2.0), {"heart": "c", "row": "RV", "skipped": "why"}]
    lines = module.table_of(records, 19)
    assert lines[0] == "2 hearts (1 skipped), 19 answers each."
    row = next(line for line in lines if line.startswith("| RA |"))
    assert row.split("|")[2:4] == [" 2 ", " 0.500 [0.000, 1.000] "] and row.split("|")[4].strip() == "0.75"
    assert any(line.startswith("| network, its one answer | 3.000 ") and "| -1.500 " in line for line in lines)
    assert module.table_of(records[2:], 19) == ["no heart could be scored"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    write_ball_cases(folder / "cases", 4, 2, num_classes=4, class_names=NAMES)
    how = ("--observe", "classes=0.5", "--answer_noise", 3, "--epochs", 2)
    assert train(tiny_arguments(folder / "cases", folder / "train", *how)) == 0
    assert train(tiny_arguments(folder / "cases", folder / "one", *how[:2], "--epochs", 2)) == 0
    return folder


def options(made, out, *more, run="train"):
    lists = [f"--{name}_csv={made / 'cases' / name}.csv" for name in ("train", "val")]
    checkpoint = made / run / "checkpoint-last.pth"
    return ["--checkpoint", str(checkpoint), "--output_dir", str(out), *lists, "--device", "cpu", *map(str, more)]


@pytest.mark.slow
def test_a_tiny_network_beside_the_posterior_shape_model(made, tmp_path, capsys):
    out = tmp_path / "out"
    how = ("--samples", 19, "--every", 2)
    assert module.main(options(made, out, *how, "--hearts", 1)) == 0
    assert module.main(options(made, out, *how, "--baselines_only", run="one")) == 0  # the network does not matter
    assert module.main(options(made, out, *how)) == 0  # goes on
    said = capsys.readouterr()
    assert said.err.count("without RA") == 2 and said.err.count("without RV") == 2
    for file, kind in (("answers.jsonl", "network"), ("baselines.jsonl", "posterior")):
        records = [json.loads(line) for line in (out / file).read_text().splitlines()]
        assert [record["row"] for record in records] == ["RA", "RV"]
        for record in records:
            assert set(record["energy"]) == {kind, f"{kind}_one"} < set(module.KINDS)
            told = record["classes"][record["row"]]
            assert told["true_ml"] > 0 and told[f"{kind}_low"] <= told[f"{kind}_high"]
    assert "| posterior shape model, N draws |" in (out / "answers.md").read_text()
    with pytest.raises(InputError, match="lines of another checkpoint or other options"):
        module.main(options(made, out, "--samples", 20, "--every", 2))


def test_lines_of_network_and_baseline_are_joined_by_heart():
    network = {"heart": "a", "classes": {"RA": {"true_ml": 1.0, "network_low": 2.0}}, "energy": {"network": 1.0}}
    baseline = {"heart": "a", "classes": {"RA": {"true_ml": 1.0, "posterior_low": 3.0}}, "energy": {"posterior": 2.0}}
    told = module.joined(network, baseline)
    assert told["classes"] == {"RA": {"true_ml": 1.0, "network_low": 2.0, "posterior_low": 3.0}}
    assert told["energy"] == {"network": 1.0, "posterior": 2.0}
    skipped = {"heart": "a", "skipped": "why"}
    assert module.joined({}, network) == network and module.joined(skipped, skipped) == skipped


def test_hearts_of_a_choice_follow_one_another():
    """The same choice for a heart whatever the number of hearts, each heart once."""
    run = module.Run.__new__(module.Run)
    run.choices, run.hearts = ["a", "b", "c"], list(range(8))
    pairs = run.pairs()
    assert [number for number, *_ in pairs] == list(range(1, 9))
    assert [choice for _, choice, _ in pairs] == sorted(choice for _, choice, _ in pairs)
    assert {heart: choice for _, choice, heart in pairs} == {k: "abc"[k % 3] for k in range(8)}


def test_what_cannot_be_is_one_line(made, tmp_path):
    with pytest.raises(InputError, match="it gives one answer"):
        module.main(options(made, tmp_path / "out", run="one"))
    with pytest.raises(InputError, match="--samples: expected 19 to 255"):
        module.main(options(made, tmp_path / "out", "--samples", 9))
    with pytest.raises(InputError, match="--baselines_only: it makes the baseline's lines alone"):
        module.main(options(made, tmp_path / "out", "--baselines_only", "--no_baseline"))
