"""Label maps mended with what a model draws: analytic shapes, of which the truth is known, and the command."""

import heapq
import itertools
import json

import nibabel as nib
import numpy as np
import pytest
from helpers.formula_hearts import NAMES, OBLIQUE, make_case, make_heart, make_workdir, run, sphere_points, write_ply
from scipy import ndimage

from vecset.data.case_file import read_case, write_case
from vecset.inference import label_repair
from vecset.inference.closing_lines import repair_lines
from vecset.inference.label_repair import changes_line, mend, root_ids, touches

CLASSES = ["LA", "Aorta", "LAA", "Coronary"]
LA, AORTA, LAA, CORONARY = 1, 2, 3, 4
SPACING_MM = np.array([1.0, 1.0, 1.5])


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    return make_workdir(tmp_path, monkeypatch)


def heart():
    """A clean heart: an atrium with an appendage, an aorta with two coronaries, three voxels thick."""
    labels = np.zeros((40, 40, 24), np.uint8)
    labels[4:16, 4:16, 4:16] = LA
    labels[16:22, 7:13, 7:13] = LAA
    labels[4:10, 30:36, 4:20] = AORTA
    labels[10:34, 30:33, 10:13] = CORONARY
    labels[4:7, 20:30, 16:19] = CORONARY
    return labels


def drawn_surely(labels, chance=0.9):
    """`probabilities` of a model that draws `labels`."""
    return lambda index: np.where(labels[tuple(index.T)][:, None] == np.arange(1, 5), chance, 0.01).astype(np.float32)


def mended(dirty, drawn=None, chance=0.9):
    drawn = heart() if drawn is None else drawn
    return mend(dirty, drawn, drawn_surely(drawn, chance), SPACING_MM, CLASSES)


def pieces(labels, c):
    return ndimage.label(labels == c, np.ones((3, 3, 3)))[1]


def dice(a, b, c):
    return 2 * ((a == c) & (b == c)).sum() / ((a == c).sum() + (b == c).sum())


def test_what_each_structure_begins_at_goes_by_its_name():
    assert root_ids(CLASSES) == {LAA: LA, CORONARY: AORTA}
    assert root_ids(["left_atrial_appendage", "heart_atrium_left", "Tumour"]) == {1: 2}
    assert root_ids(["LAA", "class_2"]) == {}


def test_a_clean_map_stays_as_it_is():
    before = heart()
    after, told = mended(before)
    np.testing.assert_array_equal(after, heart())
    assert changes_line(told) == "" and not any(one["gained"] or one["lost"] for one in told.values())
    assert told["Coronary"]["pieces"] == 2 and told["LAA"]["touches"] and told["LA"]["touches"] is None
    # nor is it changed where the model draws every surface two voxels off, or is not certain of anything
    shifted = np.roll(heart(), 2, axis=0)
    for drawn, chance in ((shifted, 0.9), (np.zeros_like(before), 0.0), (heart(), 0.05)):
        np.testing.assert_array_equal(mended(before, drawn, chance)[0], before)


@pytest.mark.parametrize("gap", [slice(14, 15), slice(16, 19), slice(20, 28)])
def test_gaps_of_a_vessel_are_closed(gap):
    dirty = heart()
    dirty[gap, 30:33, 10:13] = 0
    assert pieces(dirty, CORONARY) == 3
    after, told = mended(dirty)
    assert pieces(after, CORONARY) == 2 == told["Coronary"]["pieces"]
    assert told["Coronary"]["joined"] == 1 and told["Coronary"]["gained"] > 0 == told["Coronary"]["lost"]
    assert dice(after, heart(), CORONARY) > dice(dirty, heart(), CORONARY)
    np.testing.assert_array_equal(after[dirty > 0], dirty[dirty > 0])


def test_two_trees_are_joined_only_where_the_model_finds_the_vessel_between_them():
    dirty = heart()
    dirty[10:13, 18:30, 16:19] = CORONARY  # a third one, beside the second, two voxels away
    dirty[8:10, 20:30, 16:19] = 0
    dirty[7:10, 29:30, 16:19] = 0
    assert pieces(dirty, CORONARY) == 3 and touches(dirty, CORONARY, AORTA)
    between = heart()
    between[dirty == CORONARY] = CORONARY
    assert pieces(mended(dirty, between)[0], CORONARY) == 3
    between[7:10, 22:26, 16:19] = CORONARY
    after, told = mended(dirty, between)
    assert pieces(after, CORONARY) == 2 and told["Coronary"]["joined"] == 1


def test_a_piece_between_two_gaps_of_a_vessel_stays_and_is_joined_though_the_model_does_not_draw_it():
    dirty = heart()
    dirty[17, 30:33, 10:13] = dirty[26, 30:33, 10:13] = 0
    drawn = heart()
    drawn[12:, 30:33, 10:13] = 0
    after, told = mended(dirty, drawn)
    assert pieces(dirty, CORONARY) == 4 and pieces(after, CORONARY) == 2
    assert told["Coronary"]["joined"] == 2 and told["Coronary"]["stray_pieces"] == 0
    assert dice(after, heart(), CORONARY) > dice(dirty, heart(), CORONARY)
    dirty[18:, 30:33, 10:13] = 0
    dirty[22, 20, 20] = CORONARY  # in line with nothing
    assert mended(dirty, drawn)[1]["Coronary"]["stray_pieces"] == 1


@pytest.mark.parametrize("labelled, drawn_as", [(0, LAA), (0, LA), (AORTA, LAA)])
def test_a_lost_layer_is_filled_as_far_as_the_model_draws_it(labelled, drawn_as):
    """The layer of the appendage beside the atrium is background, as where two annotations were kept apart, or has a
    neighbour's label. The model gives it to either of both. Only what lies between is filled, and with the appendage.
    """
    dirty, drawn = heart(), heart()
    dirty[16:19, 7:13, 7:13] = labelled
    drawn[16:19, 7:13, 7:13] = drawn_as
    drawn[10:16, 16:19, 4:16] = LA  # it draws the atrium too large elsewhere, too
    after, told = mended(dirty, drawn, chance=0.95)
    assert told["LAA"]["touches"] and (after[16:19, 7:13, 7:13] == LAA).all()
    beside = np.argwhere(after != heart())  # near the way it is as thick as the appendage, whatever is drawn
    assert len(beside) < 10 and (beside >= [16, 6, 6]).all() and (beside <= [19, 13, 13]).all()
    drawn[16:19, 7:13, 7:10] = 0  # half of it: the way, as thick as the appendage, and what is drawn
    half = mended(dirty, drawn)[0]
    assert (half[16:19, 7:13, 10:13] == LAA).all()
    assert labelled or (half[half != dirty] == LAA).all()  # a piece of the aorta there is a stray one


def cheapest_cost(cost, starts, ends, spacing_mm):
    """Plain Dijkstra over the 26 neighbours; a step costs its length times the mean cost of its two voxels."""
    steps = [s for s in itertools.product((-1, 0, 1), repeat=3) if any(s)]
    best, queue = {tuple(s): 0.0 for s in starts}, [(0.0, tuple(s)) for s in starts]
    goals = {tuple(e) for e in ends}
    while queue:
        so_far, at = heapq.heappop(queue)
        if at in goals:
            return so_far
        for step in steps:
            there = tuple(np.add(at, step))
            if all(0 <= t < n for t, n in zip(there, cost.shape)) and cost[there] >= 0:
                total = so_far + np.linalg.norm(step * spacing_mm) * (cost[at] + cost[there]) / 2
                if total < best.get(there, np.inf):
                    best[there] = total
                    heapq.heappush(queue, (total, there))
    return None


def way_cost(cost, way, spacing_mm):
    lengths = np.linalg.norm(np.diff(way, axis=0) * spacing_mm, axis=1)
    each = cost[tuple(way.T)]
    return float((lengths * (each[1:] + each[:-1]) / 2).sum())


def test_a_bridge_takes_the_cheapest_way_and_is_as_thick_as_brute_force_says(monkeypatch):
    rng, taken = np.random.default_rng(8), []
    found = label_repair._cheapest_way

    def recorded(*given):
        taken.append((*given, found(*given)))
        return taken[-1][-1]

    monkeypatch.setattr(label_repair, "_cheapest_way", recorded)
    for _ in range(2):
        dirty = np.zeros((22, 14, 12), np.uint8)
        dirty[:5] = LA
        dirty[11:18, 4:9, 3:8] = LAA
        dirty[6:11][rng.random((5, 14, 12)) < 0.15] = AORTA  # it costs more to go through it
        chances = rng.random((*dirty.shape, 4)).astype(np.float32)
        chances[..., AORTA - 1] = 0.5  # so that none of it is a stray piece
        after, _ = mend(dirty, np.zeros_like(dirty), lambda at, p=chances: p[tuple(at.T)], SPACING_MM, CLASSES)
        cost, starts, ends, _, way = taken[-1]
        assert (np.abs(np.diff(way, axis=0)).max(1) == 1).all()
        assert way_cost(cost, way, SPACING_MM) == pytest.approx(cheapest_cost(cost, starts, ends, SPACING_MM))
        # the box that `cost` lies in starts at the first voxel of the piece less gap and END_MM
        at = np.argwhere(dirty == LAA)
        gap_mm = min(np.linalg.norm((one - np.argwhere(dirty == LA)) * SPACING_MM, axis=1).min() for one in at)
        low = np.maximum(at.min(0) - np.ceil((gap_mm + label_repair.END_MM) / SPACING_MM), 0).astype(int)
        way = way + low
        new = [v for v in way if dirty[tuple(v)] not in (LA, LAA)]
        # half the thickness: the largest distance from what is near the first voxel of the way to what lies outside
        block = np.array(list(np.ndindex(*(dirty.shape + np.full(3, 20))))) - 10
        reach = np.ceil(label_repair.END_MM / SPACING_MM)
        is_part = (np.abs(block - way[0]) <= reach).all(1) & np.isin(block, at).all(1)
        is_part &= (np.where(is_part[:, None], block, 0)[:, None] == at).all(2).any(1)
        outside = block[~is_part] * SPACING_MM
        near = [np.linalg.norm(outside - v * SPACING_MM, axis=1).min() for v in block[is_part]]
        radius_mm = max(near) - SPACING_MM.min() / 2
        for v in np.ndindex(after.shape):
            own, other = (np.linalg.norm((np.argwhere(dirty == c) - v) * SPACING_MM, axis=1).min() for c in (LAA, LA))
            beside = np.linalg.norm((np.array(new) - v) * SPACING_MM, axis=1).min() <= radius_mm
            filled = dirty[v] == 0 and own <= gap_mm and other <= gap_mm and beside
            on_way = any((v == w).all() for w in new)
            assert (after[v] != dirty[v]) == bool(filled or on_way), v


def test_an_appendage_touches_its_atrium_again_over_another_structure_too():
    for filled in (0, AORTA):
        dirty = heart()
        dirty[16:19, 7:13, 7:13] = filled
        assert not touches(dirty, LAA, LA)
        after, told = mended(dirty)
        assert touches(after, LAA, LA) and told["LAA"]["touched_before"] is False and told["LAA"]["touches"]
        assert dice(after, heart(), LAA) > dice(dirty, heart(), LAA)


def test_what_is_too_far_away_stays_apart():
    dirty = heart()
    dirty[16:22, 7:13, 7:13] = 0
    dirty[34:38, 7:13, 7:13] = LAA  # 19 mm from the atrium
    after, told = mended(dirty, dirty)
    np.testing.assert_array_equal(after, dirty)
    assert told["LAA"]["touches"] is False


def test_stray_pieces_go_where_the_model_is_certain():
    dirty = heart()
    dirty[34:37, 5:8, 5:8] = LA
    dirty[6:8, 6:8, 6:8] = AORTA  # within the atrium
    after, told = mended(dirty)
    np.testing.assert_array_equal(after, heart())
    assert (told["LA"]["stray_pieces"], told["LA"]["stray_voxels"]) == (1, 27)
    assert (
        told["Aorta"]["stray_pieces"] == 1
        and changes_line(told)
        == "LA: 1 stray piece removed (+8, -27 voxels); Aorta: 1 stray piece removed (+0, -8 voxels)"
    )
    kept, _ = mend(dirty, heart(), lambda index: np.full((len(index), 4), 0.1), SPACING_MM, CLASSES)
    np.testing.assert_array_equal(kept, dirty)


def test_words_for_one_piece_and_for_several_and_for_more_than_before():
    one = {"stray_pieces": 0, "joined": 0, "pieces_before": 1, "pieces": 1, "gained": 0, "lost": 0}
    told = {
        "LA": {**one, "stray_pieces": 2, "joined": 1, "pieces_before": 4, "gained": 5, "lost": 9},
        "RA": {**one, "joined": 3, "pieces_before": 4},
        "LV": {**one, "pieces": 2, "lost": 7},
        "RV": one,
    }
    assert changes_line(told) == (
        "LA: 2 stray pieces removed, 1 piece joined (+5, -9 voxels); RA: 3 pieces joined (+0, -0 voxels); "
        "LV: 2 pieces now, 1 before (+0, -7 voxels)"
    )
    first, second = repair_lines([{"repair": told}, {"repair": {"RV": one}}, {"case_id": "an old one"}])
    assert first.startswith("--repair: 1 of 2 label maps were mended; in 1 there was nothing to mend")
    assert "more pieces of a structure than before (LV in 1)" in second
    assert repair_lines([{"repair": {"LA": told["LA"]}}]) == ["--repair: 1 of 1 label maps were mended"]
    assert repair_lines([{"case_id": "without --repair"}]) == []


def test_the_command_writes_the_map_on_its_own_grid(workdir, capsys):
    make_case(workdir / "data" / "a.npz", **OBLIQUE)
    clean = make_heart(**OBLIQUE)[0]
    case = read_case(workdir / "data" / "a.npz")
    case.truth_crop = clean.copy()
    case.truth_crop[0:2, 0:2, 0:2] = 3
    write_case(workdir / "data" / "a.npz", case)
    assert run(workdir, "--no_meshes", "--repair", "--spacing", 2) == 0
    said = capsys.readouterr()
    assert "class_3: 1 stray piece removed (+0, -8 voxels)" in said.out + said.err
    assert "--repair: 1 of 1 label maps were mended\n" in said.out
    image = nib.load(workdir / "out" / "a" / "repaired.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), clean)
    np.testing.assert_allclose(image.affine, make_heart(**OBLIQUE)[1].affine, atol=1e-5)
    result = json.loads((workdir / "out" / "a" / "result.json").read_text())
    assert "repaired.nii.gz" in result["files"] and result["repair"]["class_3"]["stray_voxels"] == 8
    assert set(result["repair"]) == set(NAMES[:8])
    assert run(workdir, "--no_meshes") == 0
    assert not (workdir / "out" / "a" / "repaired.nii.gz").exists()
    assert "repair" not in json.loads((workdir / "out" / "a" / "result.json").read_text())


def test_a_line_says_that_there_was_nothing_to_mend(workdir, capsys):
    make_case(workdir / "data" / "a.npz")
    for _ in range(2):  # the second time, the heart is done
        assert run(workdir, "--no_meshes", "--repair") == 0
        assert "--repair: 0 of 1 label maps were mended; in 1 there was nothing to mend" in capsys.readouterr().out
    image = nib.load(workdir / "out" / "a" / "repaired.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), make_heart()[0])


def test_what_cannot_be_mended_is_one_line(workdir, capsys):
    make_case(workdir / "data" / "a.npz")
    assert run(workdir, "--no_meshes", "--repair", "--given", "class_1") == 2
    assert "--repair: it mends a label map that is shown whole" in capsys.readouterr().err
    write_ply(workdir / "cloud.ply", *sphere_points())
    assert run(workdir, "--no_meshes", "--repair", source="cloud.ply") == 1
    assert "it holds no label map that could be mended" in capsys.readouterr().err
    assert not list((workdir / "out").rglob("*.nii.gz"))
