"""benchmarks/slices.py: the table of an untrained network on tiny hearts; it goes on, and refuses rows of others."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.formula_hearts import write_checkpoint

from vecset.common.errors import InputError
from vecset.imaging.classes import default_class_names
from vecset.imaging.label_map import write_label_map
from vecset.phantom.phantom import PhantomOptions, make_phantom

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import slices  # noqa: E402


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of two small hearts and a checkpoint."""
    folder = tmp_path_factory.mktemp("slices")
    names = default_class_names(10)
    (folder / "hearts").mkdir()
    for number in range(2):
        labels, affine = make_phantom(0, number, PhantomOptions((40,) * 3))
        write_label_map(folder / "hearts" / f"heart{number}.nii.gz", labels, affine, names)
    write_checkpoint(folder / "checkpoint.pth", classes=10, names=names)
    return folder


def options(made, out, *more):
    words = [
        "--checkpoint",
        made / "checkpoint.pth",
        "--input",
        made / "hearts",
        "--output_dir",
        out,
        "--device",
        "cpu",
    ]
    return [str(word) for word in (*words, "--every", 2, *more)]


def test_it_goes_on_and_refuses_rows_of_others(made, tmp_path, capsys):
    assert slices.main(options(made, tmp_path, "--hearts", 1, "--shifts", 0)) == 0
    first = (tmp_path / "rows.jsonl").read_text()
    with open(tmp_path / "rows.jsonl", "a") as handle:
        handle.write('{"heart": "heart0", "shi')  # a kill has cut it
    capsys.readouterr()
    assert slices.main(options(made, tmp_path, "--shifts", 0, 5)) == 0
    said = capsys.readouterr()
    assert "heart0, shift 0 mm" not in said.err and "heart0, shift 5 mm: network" in said.err
    assert (tmp_path / "rows.jsonl").read_text().startswith(first)
    records = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    hearts = [(r["heart"], r["shift_mm"]) for r in records]
    assert hearts == [("heart0", 0), ("heart0", 5), ("heart1", 0), ("heart1", 5)]
    assert said.out == (tmp_path / "table.md").read_text() and "| 5 | 2 |" in said.out
    folders = [sorted(p.name for p in (tmp_path / "slices" / "heart0" / s).iterdir()) for s in ("0mm", "5mm")]
    assert folders[0] == folders[1] and {"2ch.nii.gz", "4ch.nii.gz", "sa1.nii.gz"} < set(folders[0])
    assert records[0]["planes"] == len(folders[0])
    content = json.loads((tmp_path / "slices.json").read_text())
    for row, shift in zip(content["shifts"], (0, 5)):
        mine = [r for r in records if r["shift_mm"] == shift]
        for method in slices.METHODS:
            table = [list(r["assd_mm"][method].values()) for r in mine]
            assert row["assd_mm"][method]["mean"] == pytest.approx(np.mean(table))
            assert row["assd_mm"][method]["RA"] == pytest.approx(np.mean([r["assd_mm"][method]["RA"] for r in mine]))
    assert content["shifts"][0]["dice"]["distance_interpolation"]["LV"] > 0.8  # these see the slices
    assert content["steady"]["nearest_pixel"] and content["steady"]["distance_interpolation"]
    assert slices.main(options(made, tmp_path, "--shifts", 5, 0)) == 0  # all is done
    again = capsys.readouterr()
    assert "CPU" not in again.err and again.out == said.out
    with pytest.raises(InputError, match="another checkpoint or other options"):
        slices.main(options(made, tmp_path, "--seed", 1))


def test_a_heart_without_chambers_fails_alone(made, tmp_path, capsys):
    (tmp_path / "hearts").mkdir()
    labels, affine = make_phantom(0, 0, PhantomOptions((40,) * 3))
    for name, shown in (("a", labels), ("b", np.where(labels == 4, 0, labels).astype(np.uint8))):
        write_label_map(tmp_path / "hearts" / f"{name}.nii.gz", shown, affine, default_class_names(10))
    words = options(made, tmp_path / "out", "--shifts", 0, "--given", "LA,LV,RV")
    words[3] = str(tmp_path / "hearts")
    assert slices.main(words) == 1
    said = capsys.readouterr()
    assert "b.nii.gz: it has no RA" in said.err and "1 of 2 hearts" in said.out and "Slices show LA, LV, RV" in said.out


@pytest.mark.parametrize("more, words", [(["--shifts", -1], "--shifts: expected mm"), (["--every", 0], "--every")])
def test_what_cannot_be_is_an_error(made, tmp_path, more, words):
    with pytest.raises((InputError, SystemExit), match=words):
        slices.main(options(made, tmp_path, *more))


def test_means_and_order_of_the_table():
    def record(heart, shift, value):
        each = {method: dict.fromkeys(slices.CHAMBERS, value) for method in slices.METHODS}
        return {"heart": heart, "shift_mm": shift, "planes": 9, "assd_mm": each, "dice": each}

    records = [record("a", 0, 1.0), record("b", 0, 2.0), record("a", 3, 1.5), record("b", 3, 2.5), record("a", 6, 1.0)]
    content = slices.summary(records)
    assert [row["hearts"] for row in content["shifts"]] == [2, 2, 1]
    assert content["shifts"][1]["assd_mm"]["network"]["mean"] == 2.0
    assert not any(content["steady"].values())  # by heart a, which alone has all three
    assert all(slices.summary(records[:4])["steady"].values())
    assert slices.summary(records[:2])["steady"] == dict.fromkeys(slices.METHODS)
    assert slices.summary([]) == {"shifts": [], "steady": dict.fromkeys(slices.METHODS)}
    assert "| 3 | 2 | 9.0 | 2.00 [1.50, 2.50] |" in "\n".join(slices.table_lines(content))
