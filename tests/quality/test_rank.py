"""Label maps that a model reconstructs badly come first: the ranking by hand-made numbers, the command on balls."""

import contextlib
import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.ball_cases import write_ball_cases
from helpers.formula_hearts import NAMES, centred_ball, make_heart, write_checkpoint

from vecset.common.errors import EXIT_BAD_INPUT, run_command
from vecset.imaging.frame import UNIT_RADIUS
from vecset.imaging.label_map import write_label_map
from vecset.inference.inputs import find_hearts
from vecset.inference.model import load_model
from vecset.quality import rank
from vecset.quality.ranking import (
    LEAST_SPREAD,
    MeasuredHeart,
    Repair,
    few_hearts_line,
    rank_hearts,
    rank_lines,
    rank_table,
    thick_slices_line,
    usual_dice,
    usual_line,
)
from vecset.report.completion import UnseenHeart, dice_by_name, infer
from vecset.weights import checkpoint as checkpoint_file


def hearts_of(table):
    """MeasuredHearts h0, h1, ... of {structure: [Dice of each]}."""
    count = len(next(iter(table.values())))
    return [MeasuredHeart(f"h{n}", f"h{n}.nii.gz", {s: dice[n] for s, dice in table.items()}) for n in range(count)]


def test_what_is_usual_is_the_median_and_its_spread_that_of_most():
    table = {"LV": [0.90, 0.94, 0.92, 0.96, 0.10], "Coronary": [0.5, 0.5, 0.5, 0.5, None], "PV": [None] * 5}
    usual = usual_dice(hearts_of(table))
    assert set(usual) == {"LV", "Coronary"}
    assert usual["LV"] == pytest.approx((0.92, 1.4826 * 0.02))  # deviations 0.02, 0.02, 0, 0.04, 0.82
    assert usual["Coronary"] == (0.5, LEAST_SPREAD)


def test_hand_made_hearts_are_ranked_by_what_is_lower_than_usual():
    """Spreads are LEAST_SPREAD = 0.01; the slack is 2 of them. The coronary is worse than the LV in every heart."""
    table = {
        "LV": [0.95, 0.95, 0.95, 0.91, 0.95, 0.94],
        "Coronary": [0.60, 0.60, 0.60, 0.60, 0.30, 0.60],
    }
    ranked = rank_hearts(hearts_of(table))
    assert [row.heart.case_id for row in ranked] == ["h4", "h3", "h5", "h0", "h1", "h2"]
    first, second, third = ranked[:3]
    assert (first.structure, first.dice, first.usual) == ("Coronary", 0.3, 0.6)
    assert first.deviation == pytest.approx(30) and first.score == pytest.approx((0.30 - 0.02) / 2)
    assert second.structure == "LV" and second.deviation == pytest.approx(4)
    assert second.score == pytest.approx((0.04 - 0.02) / 2)
    assert third.score == 0 and third.deviation == pytest.approx(1), "within chance, and before what is usual"


def test_a_heart_without_any_structure_and_one_with_fewer():
    hearts = [*hearts_of({"LV": [0.9, 0.9, 0.9], "RV": [0.9, 0.9, None]}), MeasuredHeart("none", "n", {"LV": None})]
    ranked = {row.heart.case_id: row for row in rank_hearts(hearts)}
    assert ranked["none"].structure is None and ranked["none"].score == 0
    assert ranked["h2"].structure == "LV"
    assert any("no structure" in line for line in rank_lines(list(ranked.values())))


def test_table_and_lines():
    ranked = rank_hearts(hearts_of({"LV": [0.9] * 11 + [0.5], "a, b": [None] * 12}))
    rows = list(csv.reader(rank_table(ranked, ["LV", "a, b"]).splitlines()))
    assert rows[0][:4] == ["rank", "case_id", "file", "repair_score"] and rows[0][-2:] == ["dice_LV", "dice_a, b"]
    judged = ["0.3800", "LV", "40.0000", "0.5000", "0.9000", "0.5000", ""]
    assert rows[1] == ["1", "h11", "h11.nii.gz", "", "", "", "", *judged], "nobody looked for what would be mended"
    assert len(rows) == 13 and len(rank_lines(ranked)) == 11
    assert not few_hearts_line([row.heart for row in ranked]) and "3 hearts" in few_hearts_line([1, 2, 3])


@pytest.mark.parametrize(
    "dice, words",
    [
        ([0.9, 0.9, 0.9, 0.9], "no heart is worse than usual (all scores are 0)"),
        ([0.9, 0.9, 0.9, 0.2], "from rank 2 on nothing is worse than usual"),
        ([0.9, 0.9, 0.9, 0.885], "no heart is worse than usual"),  # 1.5 spreads below
    ],
)
def test_a_line_says_from_which_rank_on_nothing_is_worse_than_usual(dice, words):
    assert usual_line(rank_hearts(hearts_of({"LV": dice}))).startswith(words)


def test_where_each_heart_has_something_worse_no_line_says_so():
    hearts = hearts_of({"LV": [0.9, 0.9, 0.9, 0.2], "RV": [0.2, 0.9, 0.9, 0.9], "PA": [0.9, 0.2, 0.9, 0.9]})
    ranked = rank_hearts(hearts)
    assert usual_line(ranked).startswith("from rank 4 on") and usual_line(ranked[:3]) == ""


def mended_hearts():
    """h0 to h3, of which mending changes h1 a little and h3 more, and the reconstruction finds h0 worst and then h3."""
    dice = {"LV": [0.5, 0.9, 0.9, 0.8, 0.9], "PV": [None, 0.7, 0.7, 0.7, 0.7]}
    repairs = [
        Repair({"LV": 1.0, "PV": None}, ""),
        Repair({"LV": 1.0, "PV": 0.9999}, "PV: 1 stray piece removed (+0, -2 voxels)"),
        Repair({"LV": 1.0, "PV": 1.0}, "", tubes=False),
        Repair({"LV": 0.98, "PV": 0.99}, "LV: 1 piece joined (+9, -0 voxels)"),
        Repair({"LV": None, "PV": None}, ""),
    ]
    return [replace(heart, repair=repair) for heart, repair in zip(hearts_of(dice), repairs)]


def test_what_mending_changes_comes_first_and_the_reconstruction_decides_the_rest():
    hearts = mended_hearts()
    assert [heart.repair.score for heart in hearts] == pytest.approx([0, 0.00005, 0, 0.015, 0])
    assert [heart.repair.structure for heart in hearts] == [None, "PV", None, "LV", None]
    ranked = rank_hearts(hearts)
    assert [row.heart.case_id for row in ranked] == ["h3", "h1", "h0", "h2", "h4"]
    assert [row.score > 0 for row in ranked] == [True, False, True, False, False]
    without = rank_hearts([replace(heart, repair=None) for heart in hearts])
    assert [row.heart.case_id for row in without] == ["h0", "h3", "h1", "h2", "h4"]
    assert [row.score for row in without] == sorted((row.score for row in ranked), reverse=True)
    equal = [replace(heart, repair=hearts[3].repair) for heart in hearts]
    assert [row.heart.case_id for row in rank_hearts(equal)] == [row.heart.case_id for row in without]


def test_a_leak_counts_beside_what_mending_changes_where_it_is_larger_than_usual():
    def of(case_id, leak, pv=1.0):
        return MeasuredHeart(case_id, case_id, {"LV": 0.9}, Repair({"LV": 1.0, "PV": pv}, "", leak=leak))

    hearts = [of("a", 0.0), of("b", 0.003), of("c", 0.0), of("d", 0.0, pv=0.996), of("e", None), of("f", 0.0)]
    ranked = rank_hearts(hearts)
    assert [row.heart.case_id for row in ranked] == ["b", "d", "a", "c", "e", "f"]
    assert [row.found for row in ranked[:3]] == pytest.approx([0.003, 0.002, 0]) and ranked[4].leak is None
    assert "LV: leaks through its muscle" in rank_lines(ranked)[1]
    assert [row[6] for row in csv.reader(rank_table(ranked, []).splitlines())][1:] == ["0.003", "0", "0", "0", "", "0"]
    # where most leak the same, it is how the list is annotated
    leaks = [0.003, 0.004, 0.002, 0.003, 0.02]
    ranked = rank_hearts([of(f"h{n}", leak) for n, leak in enumerate(leaks)])
    assert [row.found for row in ranked] == pytest.approx([0.02 - 0.003 - 2 * 1.4826 * 0.001, 0, 0, 0, 0])


def test_table_and_lines_say_what_mending_changes():
    hearts = mended_hearts()
    ranked = rank_hearts(hearts)
    rows = list(csv.reader(rank_table(ranked, ["LV", "PV"]).splitlines()))
    assert rows[1][3:6] == ["0.015", "LV", "LV: 1 piece joined (+9, -0 voxels)"]
    assert rows[2][3:6] == ["5e-05", "PV", "PV: 1 stray piece removed (+0, -2 voxels)"]
    assert rows[3][3:7] == ["0", "", "", ""]
    lines = rank_lines(ranked)
    assert "what is found" in lines[0] and lines[1].endswith("LV: 1 piece joined (+9, -0 voxels)")
    assert lines[3].split()[:4] == ["3", "h0", "0", "0.3800"] and "LV: Dice 0.500" in lines[3]
    assert usual_line(ranked) == (
        "from rank 3 on nothing would be mended or leaks; from rank 4 on nothing is worse than usual (score 0)"
    )
    assert usual_line(ranked[:3]) == "from rank 3 on nothing would be mended or leaks"
    assert usual_line(ranked[:2]) == "" and usual_line([ranked[0], ranked[3]]) == (
        "from rank 2 on nothing would be mended or leaks, and nothing is worse than usual (score 0)"
    )
    assert usual_line(ranked[2:]) == (
        "in no heart anything would be mended or leaks; from rank 2 on nothing is worse than usual (score 0)"
    )
    assert usual_line(ranked[3:]).startswith("in no heart anything would be mended or leaks; no heart is worse than")
    assert thick_slices_line(hearts).startswith("note: in 1 of 5 maps pieces of vessels are not judged")
    assert thick_slices_line(hearts[:2]) == ""


def command(folder, *more, source="val.csv"):
    return run_command(
        rank.main,
        ["--checkpoint", str(folder / "checkpoint.pth"), "--input", str(folder / source)]
        + ["--output_dir", str(folder / "out"), "--device", "cpu", *map(str, more)],
    )


def rows_of(folder):
    with open(folder / "out" / rank.TABLE, newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture
def balls(tmp_path):
    write_ball_cases(tmp_path, 0, 4, num_classes=3)
    write_checkpoint(tmp_path / "checkpoint.pth", classes=3, names=["c1", "c2", "c3"])
    return tmp_path


@pytest.fixture
def encoded(monkeypatch):
    """The case ids that are encoded."""
    from vecset.inference.model import LoadedModel

    found, encode = [], LoadedModel.encode
    monkeypatch.setattr(
        LoadedModel, "encode", lambda self, case, name: (found.append(name), encode(self, case, name))[1]
    )
    return found


def test_figures_are_those_of_the_reconstruction(balls):
    assert command(balls, "--every", 2) == 0
    model = load_model(balls / "checkpoint.pth", device="cpu")
    rows = {row["case_id"]: row for row in rows_of(balls)}
    for entry in find_hearts(balls / "val.csv"):
        heart = UnseenHeart(model, entry, every=2)
        expected = dice_by_name(heart.whole, infer(model, heart.whole, entry.case_id))
        assert {n: rows[entry.case_id][f"dice_{n}"] for n in expected} == {n: f"{d:.4f}" for n, d in expected.items()}
    assert sorted(row["rank"] for row in rows.values()) == ["1", "2", "3", "4"]


def test_goes_on_where_it_was_stopped(balls, encoded, monkeypatch):
    measure = rank.measure

    def stopped(model, settings, heart, *rest):
        if heart.case_id == "ball02":
            raise KeyboardInterrupt
        return measure(model, settings, heart, *rest)

    monkeypatch.setattr(rank, "measure", stopped)
    assert command(balls) == 130 and encoded == ["ball00", "ball01"]
    assert not (balls / "out" / rank.TABLE).exists()
    monkeypatch.setattr(rank, "measure", measure)
    with open(balls / "out" / rank.MEASURED, "a") as handle:
        handle.write('{"key": "cut o')
    assert command(balls) == 0 and encoded[2:] == ["ball02", "ball03"]
    kept = (balls / "out" / rank.MEASURED).read_text().splitlines()
    assert len({json.loads(line)["key"] for line in kept}) == len(kept) == 4
    table = (balls / "out" / rank.TABLE).read_bytes()
    assert command(balls) == 0 and len(encoded) == 4 and (balls / "out" / rank.TABLE).read_bytes() == table


def test_what_changed_is_measured_again(balls, encoded):
    assert command(balls) == 0 and len(encoded) == 4
    write_ball_cases(balls / "new", 0, 4, num_classes=3, missing=(2,))
    (balls / "new" / "ball01.npz").replace(balls / "ball01.npz")
    assert command(balls) == 0 and encoded[4:] == ["ball01"]
    assert {row["case_id"]: row for row in rows_of(balls)}["ball01"]["dice_c2"] == "", "c2 is not there"
    assert command(balls, "--every", 2) == 0 and len(encoded) == 9
    write_checkpoint(balls / "checkpoint.pth", seed=1, classes=3, names=["c1", "c2", "c3"])
    assert command(balls, "--every", 2) == 0 and len(encoded) == 13


def test_a_bad_file_is_one_line_and_the_others_are_ranked(balls, capsys):
    (balls / "ball02.npz").write_bytes(b"no zip file")
    assert command(balls) == 1
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "ball02" in errors[0] and "1 of 4 hearts failed" in said.err
    assert [row["case_id"] for row in sorted(rows_of(balls), key=lambda r: r["case_id"])] == [
        "ball00",
        "ball01",
        "ball03",
    ]
    for path in balls.glob("ball*.npz"):
        path.write_bytes(b"no zip file")
    assert command(balls) == 1
    assert "nothing to rank" in capsys.readouterr().err and not (balls / "out" / rank.TABLE).exists()


@pytest.mark.parametrize("words", [("--every", 0), ("--num_surface_points", 0), ("--annotated", "c1,,c2")])
def test_bad_options_are_one_line(balls, capsys, words):
    with pytest.raises(SystemExit) if words[0] != "--annotated" else contextlib.nullcontext():
        assert command(balls, *words) == EXIT_BAD_INPUT
    assert capsys.readouterr().err.count("error: ") == 1 and not (balls / "out").exists()


def test_lines_of_an_earlier_version_are_measured_again_and_stay(balls, encoded, monkeypatch):
    monkeypatch.setattr(rank, "VERSION", 1)
    assert command(balls) == 0 and len(encoded) == 4
    monkeypatch.undo()
    path = balls / "out" / rank.MEASURED
    old = [{name: json.loads(line)[name] for name in ("key", "dice")} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in old))
    assert command(balls) == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[:4] == old and len(lines) == 8 and all(line["repair"] for line in lines[4:])
    kept = path.read_bytes()
    assert command(balls) == 0 and path.read_bytes() == kept
    assert all(row["repair_score"] for row in rows_of(balls))


@pytest.fixture
def octants(tmp_path, monkeypatch):
    """Writes label maps heart0 to heart9 of a ball of eight octants, which is what the model draws, whatever it is
    given; `change(n, labels)` makes them dirty."""
    network = centred_ball()
    network.distance = lambda points: points.norm(dim=1) - UNIT_RADIUS
    monkeypatch.setattr(checkpoint_file, "model_from_checkpoint", lambda saved, device, where: network.to(device))

    def make(change, names=NAMES, count=10, **grid):
        write_checkpoint(tmp_path / "checkpoint.pth", names=names)
        (tmp_path / "maps").mkdir(exist_ok=True)
        labels, frame = make_heart(**grid)
        for n in range(count):
            dirty = labels.copy()
            change(n, dirty)
            write_label_map(tmp_path / "maps" / f"heart{n}.nii.gz", dirty, frame.affine, names)
        return tmp_path

    return make


def test_dirty_label_maps_come_first_and_the_structure_is_named(octants, capsys):
    """In two label maps an octant's label runs into the next one, more in the second."""

    def leak(n, labels):
        mine = np.argwhere(labels == 3)
        labels[tuple(mine[: {7: len(mine) // 4, 4: len(mine) // 2}.get(n, 0)].T)] = 4

    folder = octants(leak)
    assert command(folder, "--every", 1, source="maps") == 0
    first, second, third = rows_of(folder)[:3]
    assert (first["case_id"], second["case_id"]) == ("heart4", "heart7")
    assert first["structure"] == second["structure"] == "class_3"
    assert float(first["score"]) > float(second["score"]) > float(third["score"]) == 0
    assert "from rank 3 on nothing would be mended or leaks, and nothing is worse than usual" in capsys.readouterr().out


def test_a_stray_piece_comes_before_what_is_drawn_worse_but_not_on_a_thinned_grid(octants, capsys):
    """A piece of 27 voxels of octant 3 in the middle of octant 6, and a map that lacks half of octant 3, which mending
    leaves as it is."""

    def dirty(n, labels):
        if n == 4:
            mine = np.argwhere(labels == 3)
            labels[tuple(mine[: len(mine) // 2].T)] = 0
        if n == 7:
            x, y, z = np.argwhere(labels == 6).mean(0).round().astype(int)
            labels[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] = 3

    folder = octants(dirty)
    assert command(folder, source="maps") == 0
    said, rows = capsys.readouterr().out, rows_of(folder)
    assert [row["case_id"] for row in rows[:2]] == ["heart7", "heart4"]
    third, sixth = (int((make_heart()[0] == c).sum()) for c in (3, 6))
    off = 1 - 2 * third / (2 * third + 27) + 1 - 2 * (sixth - 27) / (2 * sixth - 27)
    assert float(rows[0]["repair_score"]) == pytest.approx(off / 8, rel=0.005) and rows[0]["repair_structure"]
    assert rows[0]["repair"] == "class_3: 1 stray piece removed (+0, -27 voxels)" and rows[0]["repair"] in said
    assert [row["repair_score"] for row in rows[1:]] == ["0"] * 9 and float(rows[1]["score"]) > float(rows[0]["score"])
    assert "from rank 2 on nothing would be mended or leaks; from rank 3 on" in said and "--every" not in said
    assert command(folder, "--every", 2, source="maps") == 0
    said, rows = capsys.readouterr().out, rows_of(folder)
    assert rows[0]["case_id"] == "heart4" and not any(row["repair_score"] + row["repair"] for row in rows)
    assert (
        said.count("note: --every 2: gaps, stray pieces and leaks are not looked for") == 1
        and "would be mended" not in said
        and "found  " not in said
    )


def test_in_thick_slices_all_but_vessels_is_judged(octants, capsys):
    """A stray piece in octant 8: of octant 3, a coronary, in heart 0, of octant 1 in heart 1."""
    names = [{3: "Coronary", 6: "Aorta"}.get(c, name) for c, name in enumerate(NAMES, 1)]

    def dirty(n, labels):
        x, y, z = np.argwhere(labels == 8).mean(0).round().astype(int)
        labels[x - 1 : x + 2, y - 1 : y + 2, z] = {0: 3, 1: 1}[n]

    for thick_mm, changed in ((3.0, ["Coronary", "class_1"]), (3.1, ["", "class_1"])):
        folder = octants(dirty, names, count=2, spacing_mm=(1.0, 1.0, thick_mm))
        assert command(folder, source="maps") == 0
        rows = {row["case_id"]: row["repair"] for row in rows_of(folder)}
        assert [rows[f"heart{n}"].split(":")[0] for n in range(2)] == changed
        assert ("in 2 of 2 maps pieces of vessels are not judged" in capsys.readouterr().out) == (thick_mm > 3)
    score = {row["case_id"]: float(row["repair_score"]) for row in rows_of(folder)}
    assert score["heart0"] == 0 < score["heart1"]
