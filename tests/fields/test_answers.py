"""Several answers: their numbers, what is counted of them, intervals, distances of surfaces."""

import numpy as np
import pytest
import trimesh

from vecset.common.errors import InputError
from vecset.fields import answers as module
from vecset.fields.answers import (
    INTERVAL,
    LEAST,
    Answers,
    answer_numbers,
    distance_from_surface,
    interval_of,
    interval_round,
    require_answer_memory,
)
from vecset.imaging.frame import Frame

FRAME = Frame(
    np.diag([1.0, 1.5, -2.0, 1.0]) + np.array([[0, 0, 0, 5.0]] * 3 + [[0] * 4]), (30, 24, 20), (0, 0, 0), 0.05
)


def ball_labels(radius_mm, label=2, middle_mm=(19.0, 22.0, -14.0)):
    index = np.stack(np.meshgrid(*map(np.arange, FRAME.shape), indexing="ij"), -1).reshape(-1, 3)
    away = np.linalg.norm(FRAME.voxel_to_mm(index) - middle_mm, axis=1)
    return np.where(away < radius_mm, label, 0).astype(np.uint8).reshape(FRAME.shape)


def test_numbers_are_unit_normal_and_of_the_answer_the_heart_and_the_seed():
    found = np.stack([answer_numbers(16, n, "a", 0) for n in range(1, 201)])
    assert found.dtype == np.float32 and found.mean() == pytest.approx(0, abs=0.05)
    assert found.std() == pytest.approx(1, abs=0.05) and len(np.unique(found)) > 3190
    assert np.array_equal(found[6], answer_numbers(16, 7, "a", 0))
    for other in ((16, 7, "b", 0), (16, 7, "a", 1), (16, 8, "a", 0)):
        assert not np.array_equal(found[6], answer_numbers(*other))


@pytest.mark.parametrize("number", [LEAST, 39, 60])
def test_one_more_answer_lies_in_the_interval_as_often_as_it_says(number):
    rng = np.random.default_rng(0)
    draws = rng.gamma(2.0, size=(4000, number + 1))
    ends = np.array([interval_of(row[1:]) for row in draws])
    within = (ends[:, 0] <= draws[:, 0]) & (draws[:, 0] <= ends[:, 1])
    assert within.mean() == pytest.approx(INTERVAL, abs=0.015)
    if number == LEAST:
        assert np.array_equal(ends, np.stack([draws[:, 1:].min(1), draws[:, 1:].max(1)], 1))


def test_what_is_counted_is_what_the_label_maps_hold():
    """Against all label maps kept: volumes, shares per voxel, and the spread of vertices by trimesh's distances."""
    radii = [7.0, 9.0, 8.0, 10.0]
    maps = [np.where(ball_labels(3.0, 4) > 0, 4, ball_labels(r)).astype(np.uint8) for r in radii]
    maps[3][maps[3] == 4] = 0  # one answer without it
    sphere = trimesh.creation.icosphere(3, 8.0).apply_translation((19.0, 22.0, -14.0))
    counted = Answers(FRAME, [2, 4], {2: sphere.vertices})
    for labels in maps:
        counted.add(labels)
    ml = 3.0 / 1000
    np.testing.assert_allclose(counted.volumes_ml, [[(m == c).sum() * ml for c in (2, 4)] for m in maps])
    for c, shares in counted.probabilities():
        assert shares.dtype == np.float32
        np.testing.assert_allclose(shares, np.mean([m == c for m in maps], 0), atol=1e-6)
    spread = counted.spread_mm(2)
    assert np.median(spread) == pytest.approx(np.std(radii, ddof=1), abs=0.2)
    np.testing.assert_allclose(spread, np.std(radii, ddof=1), atol=0.8)  # voxels of 1 x 1.5 x 2 mm
    told = counted.volumes([1.0, 1.0])
    column = np.array(counted.volumes_ml)[:, 0]
    assert told[2]["median_ml"] == np.median(column)
    assert (told[2]["low_ml"], told[2]["high_ml"]) == interval_of(column)
    round_one = counted.volumes([5.0, 1.0], 0.5)[2]
    assert (round_one["low_ml"], round_one["high_ml"]) == interval_round(5.0, column, 0.5)


def test_a_structure_of_one_answer_has_no_spread():
    counted = Answers(FRAME, [2, 3], {2: np.zeros((4, 3)), 3: np.zeros((4, 3))})
    counted.add(ball_labels(8.0))
    counted.add(np.zeros(FRAME.shape, np.uint8))
    assert counted.spread_mm(2) is None and counted.spread_mm(3) is None
    assert dict(counted.probabilities())[2].max() == 0.5 and counted.volumes_ml[1] == [0.0, 0.0]


def test_distances_from_a_ball_are_those_of_the_formula():
    mask, middle = ball_labels(8.0) > 0, np.array([19.0, 22.0, -14.0])
    rng = np.random.default_rng(0)
    axis = rng.normal(size=(400, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    for radius in (5.0, 7.0, 8.0, 9.0, 11.0):
        found = distance_from_surface(mask, FRAME, middle + radius * axis)
        assert np.abs(found - (radius - 8)).max() < 1.6  # voxels of 1 x 1.5 x 2 mm
        assert found.mean() == pytest.approx(radius - 8, abs=0.4)


def test_a_structure_that_the_image_ends_in_and_vertices_beyond_it():
    mask = np.zeros(FRAME.shape, bool)
    mask[:, :, 10:] = True  # voxels from 10 on: their border is at 9.5
    index = np.array([[15.0, 12.0, 5.0], [15.0, 12.0, 9.5], [15.0, 12.0, 14.0], [15.0, 12.0, 40.0]])
    found = distance_from_surface(mask, FRAME, FRAME.voxel_to_mm(index))
    np.testing.assert_allclose(found[:3], [9.0, 0.0, -9.0], atol=1.01)
    assert np.isfinite(found).all()


def test_too_large_a_grid_is_one_line_before_any_work(monkeypatch):
    monkeypatch.setattr(
        module,
        "require_memory",
        lambda where, need, what, to_do: (_ for _ in ()).throw(
            InputError.because(where, f"{what} need {need} bytes", to_do)
        ),
    )
    with pytest.raises(InputError, match=r"--samples: the probability maps of 3 structures on 30 x 24 x 20 voxels"):
        require_answer_memory(FRAME, 3)
