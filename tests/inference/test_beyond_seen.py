"""The note about structures that are drawn far beyond what was seen of them."""

import numpy as np
import pytest
from helpers.formula_hearts import make_heart, run

from vecset.imaging.frame import Frame
from vecset.imaging.label_map import write_label_map
from vecset.inference import beyond_seen
from vecset.inference.beyond_seen import FAR_MM, LEAST_SHARE, beyond_line, drawn_beyond


def frame_of(shape, spacing_mm, origin_mm=(0, 0, 0)):
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = origin_mm
    return Frame(affine, shape, (0.0, 0.0, 0.0), 0.02)


def test_a_stump_that_is_continued():
    """A tube 60 mm long of which 20 mm were seen, on another grid: half of it lies farther away than 10 mm."""
    drawn, seen = np.zeros((9, 9, 64), np.uint8), np.zeros((9, 9, 20), np.uint8)
    drawn[3:6, 3:6, 2:62], seen[3:6, 3:6, 0:10] = 2, 2
    drawn[0, 0, 0] = seen[0, 0, 0] = 1
    grids = frame_of(drawn.shape, (1, 1, 1)), frame_of(seen.shape, (1, 1, 2), (0, 0, 2))
    found = drawn_beyond(drawn, grids[0], seen, grids[1], [1, 2, 3])
    assert set(found) == {2}
    share, ml, mm = found[2]
    assert share == pytest.approx(0.5, abs=0.03) and mm == pytest.approx(41) and ml == pytest.approx(0.27, abs=0.02)
    line = beyond_line(found, ["LV", "Aorta", "PA"])
    assert line.startswith("drawn more than 10 mm beyond what was seen of it") and "Aorta 52% of it (0.3 ml, " in line
    assert drawn_beyond(drawn, grids[0], seen, grids[1], [1, 3]) == {} and beyond_line({}, []) == ""


def test_shares_are_those_of_all_pairs_of_voxels(monkeypatch):
    rng = np.random.default_rng(0)
    drawn, seen = (rng.integers(0, 3, (8, 7, 9)).astype(np.uint8) for _ in range(2))
    seen[:, :, 3:] = 0
    frame = frame_of(drawn.shape, (2.0, 3.0, 4.0))
    found = drawn_beyond(drawn, frame, seen, frame, [1, 2])
    for c in (1, 2):
        ours, theirs = (frame.voxel_to_mm(np.argwhere(volume == c)) for volume in (drawn, seen))
        away = np.linalg.norm(ours[:, None] - theirs, axis=2).min(1)
        share = (away > FAR_MM).mean()
        assert share > LEAST_SHARE and found[c][0] == pytest.approx(share) and found[c][2] == pytest.approx(away.max())
        assert found[c][1] == pytest.approx((away > FAR_MM).sum() * 24 / 1000)
    monkeypatch.setattr(beyond_seen, "MOST_DRAWN", 60)
    some = drawn_beyond(drawn, frame, seen, frame, [1, 2])
    assert all(some[c][0] == pytest.approx(found[c][0], abs=0.2) for c in (1, 2))


def test_a_run_says_it(workdir, capsys, monkeypatch):
    """Of the formula's octant 1 the tip is seen alone; the model draws all of it. (The ball is small.)"""
    monkeypatch.setattr(beyond_seen, "FAR_MM", 5.0)
    truth, frame = make_heart()
    at_mm = frame.voxel_to_mm(np.argwhere(truth == 1)) - frame.centre_mm
    tip = np.argwhere(truth == 1)[np.abs(at_mm[:, 0]) > 7]
    labels = np.where(truth == 1, 0, truth).astype(np.uint8)
    labels[tuple(tip.T)] = 1
    write_label_map(workdir / "data" / "a.nii.gz", labels, frame.affine)
    write_label_map(workdir / "data" / "b.nii.gz", truth, frame.affine)
    assert run(workdir, "--no_meshes") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "beyond what was seen" in line]
    assert len(said) == 1 and said[0].startswith("note: a: drawn more than 5 mm beyond") and "class_1 " in said[0]
