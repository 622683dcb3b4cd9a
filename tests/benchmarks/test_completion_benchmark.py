"""benchmarks/completion.py: the table of a tiny network on tiny hearts; it goes on, and refuses rows of others."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.formula_hearts import write_checkpoint

from vecset.common.errors import InputError
from vecset.imaging.classes import HEART_CLASSES
from vecset.main_ae import main as train
from vecset.weights.checkpoint import load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import completion  # noqa: E402
import completion_table as tables  # noqa: E402

NAMES = ["RA", "RV", "PA", "LV"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of balls in four slabs and a network of a few steps."""
    folder = tmp_path_factory.mktemp("completion")
    write_ball_cases(folder / "cases", 3, 2, num_classes=4, class_names=NAMES)
    assert train(tiny_arguments(folder / "cases", folder / "train", "--observe", "classes=0.5", "--epochs", 2)) == 0
    return folder


def options(made, out, *more):
    lists = [f"--{name}_csv={made / 'cases' / name}.csv" for name in ("train", "val")]
    checkpoint = made / "train" / "checkpoint-last.pth"
    return ["--checkpoint", str(checkpoint), "--output_dir", str(out), *lists, "--device", "cpu", *map(str, more)]


def test_it_goes_on_and_refuses_rows_of_others(made, tmp_path, capsys):
    words = options(made, tmp_path, "--every", 2, "--no_baselines", "--rows", "whole", "RV", "cut20")
    assert completion.main([*words[:-1], "--hearts", "1"]) == 0
    first = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in first] == ["whole", "RV"]
    with open(tmp_path / "rows.jsonl", "a") as handle:
        handle.write('{"row": "RV", "hea')  # a kill has cut it
    capsys.readouterr()
    assert completion.main(words) == 0
    said = capsys.readouterr()
    assert "RV, ball03" not in said.err and "RV, ball04" in said.err
    records, whole = tables.read_records(tmp_path / "rows.jsonl")
    expected = [(row, heart) for row in ("whole", "RV", "cut20") for heart in ("ball03", "ball04")]
    assert whole and sorted((r["row"], r["heart"]) for r in records) == sorted(expected)
    assert (tmp_path / "rows.jsonl").read_text().splitlines()[:2] == first
    text = (tmp_path / "table.md").read_text()
    assert text.strip() == said.out.strip() and "| cut20 | 2 |" in text and "| RV | 2 |" in text
    assert completion.main(words) == 0  # all is done: nothing is made, the table is the same
    said = capsys.readouterr()
    assert "CPU" not in said.err and said.out.strip() == text.strip()
    with pytest.raises(InputError, match="other training hearts or other options"):
        completion.main(options(made, tmp_path, "--every", 1, "--no_baselines"))
    path = made / "cases" / "ball03.npz"
    content = path.read_bytes()
    try:
        path.write_bytes((made / "cases" / "ball04.npz").read_bytes())
        with pytest.raises(InputError, match="ball03 are of another file"):
            completion.main(words)
    finally:
        path.write_bytes(content)


def test_the_network_trained_without_stands_beside_it_where_all_is_given(made, tmp_path, capsys):
    """Its figures are those that it has as --checkpoint; rows where something is left out do not have it."""
    plain = write_checkpoint(tmp_path / "plain.pth", classes=4, names=NAMES)
    saved, generator = load_checkpoint(plain), torch.Generator().manual_seed(1)
    for name in saved["model"]:
        if name.startswith("to_outputs"):
            saved["model"][name].normal_(0, 0.3, generator=generator)
    save_checkpoint(plain, saved)
    few = ["--every", 2, "--no_baselines", "--hearts", 1, "--rows"]
    words = options(made, tmp_path / "both", *few, "whole", "RV", "--plain_checkpoint", plain)
    assert completion.main(words) == 0
    text = capsys.readouterr().out
    whole, without = tables.read_records(tmp_path / "both" / "rows.jsonl")[0]
    assert list(whole["dice"]) == ["network", "plain"] and "plain" not in without["dice"]
    alone = options(made, tmp_path / "alone", *few, "whole")
    alone[1] = str(plain)
    assert completion.main(alone) == 0
    assert tables.read_records(tmp_path / "alone" / "rows.jsonl")[0][0]["dice"]["network"] == whole["dice"]["plain"]
    means = [np.mean(list(whole["dice"][name].values())) for name in ("network", "plain")]
    assert means[1] > 0.02 and abs(means[0] - means[1]) > 0.01
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines() if row.startswith("|")]
    shown = {row[0]: row for row in cells}
    for title, value in zip(("`--checkpoint`", "`--plain_checkpoint`", "difference"), (*means, means[0] - means[1])):
        assert float(shown[title][2].split()[0].replace("−", "-")) == pytest.approx(value, abs=0.0006), title
    with pytest.raises(InputError, match="of another checkpoint"):  # rows with it are no rows without
        completion.main(options(made, tmp_path / "both", *few, "whole"))
    other = write_checkpoint(tmp_path / "other.pth", classes=3, names=NAMES[:3])
    with pytest.raises(InputError, match="other classes than those of --checkpoint"):
        completion.main(options(made, tmp_path / "other", *few, "whole", "--plain_checkpoint", other))


@pytest.mark.slow
def test_the_whole_table(made, tmp_path, capsys):
    assert completion.main(options(made, tmp_path, "--every", 2)) == 0
    text = capsys.readouterr().out
    records, _ = tables.read_records(tmp_path / "rows.jsonl")
    rows = ["whole", *NAMES, "right", "cut10", "cut20", "cut30"]
    assert [r["row"] for r in records] == [row for row in rows for _ in range(2)]
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert all(name in lines for name in rows[1:]) and "posterior shape" in text and "oracle" in text
    record = next(r for r in records if r["row"] == "RV")
    assert record["dice"]["posterior_shape"]["RV"] > 0.8  # a slab of a ball is what the others leave
    assert record["given"] == ["RA", "PA", "LV"]
    cut = next(r for r in records if r["row"] == "cut20")
    assert cut["pooled"]["posterior_shape"] > 0.7 and cut["given"] == NAMES
    assert set(record["dice"]["network_pasted"]) == {"RV"} and set(record["dice"]["network"]) == set(NAMES)


@pytest.mark.slow
def test_baselines_are_made_once_for_all_networks(made, tmp_path, capsys):
    """Made alone, they are those of a whole run, and a network finds them."""
    words = options(made, tmp_path / "alone", "--every", 2, "--rows", "RV", "cut20")
    assert completion.main([*words, "--baselines_only"]) == 0
    made_before, _ = tables.read_records(tmp_path / "alone" / "baselines.jsonl")
    assert len(made_before) == 4 and not (tmp_path / "alone" / "rows.jsonl").exists()
    with pytest.raises(InputError, match="other training hearts or other options"):
        completion.main([*options(made, tmp_path / "alone", "--every", 1, "--rows", "RV"), "--baselines_only"])
    assert completion.main(words) == 0
    rows, _ = tables.read_records(tmp_path / "alone" / "rows.jsonl")
    assert tables.read_records(tmp_path / "alone" / "baselines.jsonl")[0] == made_before  # none was made again
    fresh = [str(tmp_path / "fresh") if word == str(tmp_path / "alone") else word for word in words]
    assert completion.main(fresh) == 0
    again, _ = tables.read_records(tmp_path / "fresh" / "rows.jsonl")
    assert rows == again and {"posterior_shape", "network"} <= set(rows[0]["dice"])
    assert rows[0]["pooled"] == {} and "posterior_shape" in rows[-1]["pooled"]


@pytest.mark.slow
def test_hearts_that_it_makes(tmp_path, capsys):
    write_checkpoint(tmp_path / "checkpoint.pth", classes=10, names=list(HEART_CLASSES), states=True)
    words = ["--checkpoint", tmp_path / "checkpoint.pth", "--output_dir", tmp_path / "out", "--device", "cpu"]
    words += ["--num_train", 3, "--num_val", 1, "--size", 32, "--rows", "Aorta", "cut30"]
    assert completion.main([str(word) for word in words]) == 0
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if line.startswith("| Aorta | 1 |"))
    assert "| 0.77 |" in row and "3 training hearts" in said  # the oracle of synthetic hearts
    assert len((tmp_path / "out" / "cases" / "train.csv").read_text().splitlines()) == 4


def test_a_picture_of_the_hearts(made, tmp_path):
    path = tmp_path / "hearts.png"
    assert completion.main([*options(made, tmp_path), "--picture", str(path)]) == 0
    assert path.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "more, words",
    [
        (["--rows", "RX"], "--rows: expected some of each, groups, cuts, whole, RA"),
        (["--every", "0"], "--every: expected at least 1"),
        (["--input", "x"], "give one of them"),
    ],
)
def test_what_cannot_be_is_an_error(made, tmp_path, more, words):
    with pytest.raises(InputError, match=words):
        completion.main(options(made, tmp_path, *more))


def test_training_hearts_are_not_scored(made, tmp_path):
    words = options(made, tmp_path)
    words[5] = words[4].replace("--train_csv", "--val_csv")
    with pytest.raises(InputError, match="no case in both"):
        completion.main(words)


def test_means_and_intervals_against_a_loop():
    rng = np.random.default_rng(3)
    table = rng.random((7, 3))
    table[0, 1] = table[4, 1] = np.nan
    table[:, 2] = np.nan
    expected = np.mean([np.mean(table[:, 0]), np.mean([table[i, 1] for i in (1, 2, 3, 5, 6)])])
    assert tables.mean_of(table) == pytest.approx(expected)
    draws = np.random.default_rng(0).integers(7, size=(tables.RESAMPLES, 7))
    means = [np.nanmean(np.nanmean(table[rows][:, :2], 0)) for rows in draws]
    assert tables.interval(table) == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))))
    assert np.isnan(tables.mean_of(np.full((3, 2), np.nan)))


def test_a_verdict_needs_all_three():
    best = np.array([[0.9], [0.8], [0.85]])
    assert tables.verdict(best, [best - 0.1, best - 0.2, best - 0.05]) == "yes"
    assert tables.verdict(best, [best - 0.1, best + 0.01, best - 0.05]) == "no"
    mixed = best - np.array([[0.3], [0.1], [-0.1]])
    assert tables.verdict(best, [best - 0.1, mixed, best - 0.05]) == "yes, not for certain"
    assert tables.verdict(best, [best - 0.1, None, best - 0.05]) == ""
