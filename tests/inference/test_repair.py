"""Label maps mended with what a model draws: analytic shapes, of which the truth is known, and the command."""

import json

import nibabel as nib
import numpy as np
import pytest
from helpers.formula_hearts import NAMES, OBLIQUE, make_case, make_heart, make_workdir, run, sphere_points, write_ply
from scipy import ndimage

from vecset.data.case_file import read_case, write_case
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
