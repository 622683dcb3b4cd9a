"""Dice and IoU against a reference, and the rule for classes that are not in both maps."""

import numpy as np
import pytest

from vecset.metrics.overlap import joint_histogram, mean_over_classes, score, summarise

NAMES = ["a", "b", "c", "d"]


def slow_score(truth, prediction, c):
    """Voxel by voxel, as the formulas say."""
    both = either = in_truth = in_prediction = 0
    for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist()):
        t, p = (t == c, p == c) if c else (t > 0, p > 0)
        both, either = both + (t and p), either + (t or p)
        in_truth, in_prediction = in_truth + t, in_prediction + p
    return (2 * both / (in_truth + in_prediction), both / either) if either else (None, None)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_equals_counting_voxel_by_voxel(dtype):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, (11, 12, 13)).astype(dtype)
    prediction = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 5, truth.shape)).astype(dtype)
    rows = score(truth, prediction, NAMES)
    assert [r["class_name"] for r in rows] == [*NAMES, "union"] and [r["class_id"] for r in rows] == [1, 2, 3, 4, ""]
    for row in rows:
        dice, iou = slow_score(truth, prediction, row["class_id"] or 0)
        assert row["status"] == "ok"
        assert row["dice"] == pytest.approx(dice, abs=1e-12) and row["iou"] == pytest.approx(iou, abs=1e-12)


def test_the_union_counts_voxels_whose_class_is_wrong():
    truth, prediction = np.array([1, 1, 2, 0]), np.array([2, 2, 1, 0])
    assert [r["dice"] for r in score(truth, prediction, NAMES[:2])] == [0, 0, 1]


def test_a_class_in_one_map_only_is_0_and_in_none_is_undefined():
    truth, prediction = np.array([1, 1, 2, 0]), np.array([1, 3, 0, 0])
    rows = {r["class_name"]: r for r in score(truth, prediction, NAMES)}
    assert [rows[n]["status"] for n in NAMES] == ["ok", "missed", "invented", "absent"]
    assert [rows[n]["dice"] for n in NAMES] == [pytest.approx(2 / 3), 0, 0, None]
    assert [rows[n]["iou"] for n in NAMES] == [pytest.approx(1 / 2), 0, 0, None]
    assert mean_over_classes(rows.values()) == pytest.approx(2 / 9)  # missing a structure never improves a mean


def test_classes_nobody_looked_for_are_background():
    truth, prediction = np.array([1, 1, 0, 0]), np.array([1, 1, 2, 2])
    rows = score(truth, prediction, NAMES[:2], annotated=[True, False])
    assert [r["status"] for r in rows] == ["ok", "not annotated", "ok"]
    assert [r["dice"] for r in rows] == [1, None, 1]
    whole = score(truth, prediction, NAMES[:2])
    assert [r["dice"] for r in whole] == [1, 0, pytest.approx(2 / 3)]


def test_both_empty():
    rows = score(np.zeros((3, 3, 3), np.uint8), np.zeros((3, 3, 3), np.uint8), NAMES)
    assert {r["status"] for r in rows} == {"absent"} and mean_over_classes(rows) is None


def test_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match="one shape"):
        joint_histogram(np.zeros(8), np.zeros((2, 4)), 2)
    with pytest.raises(ValueError, match="prediction holds labels 0..3"):
        joint_histogram(np.array([0, 1]), np.array([0, 3]), 2)


def test_histogram_in_parts_equals_whole(monkeypatch):
    rng = np.random.default_rng(1)
    truth, prediction = rng.integers(0, 4, (2, 1000)).astype(np.uint8)
    whole = joint_histogram(truth, prediction, 3)
    monkeypatch.setattr("vecset.metrics.overlap._VOXELS_AT_ONCE", 77)
    np.testing.assert_array_equal(joint_histogram(truth, prediction, 3), whole)
    assert whole.sum() == 1000


def test_summary_means_and_counts():
    maps = [([1, 1, 2, 0], [1, 1, 0, 0]), ([1, 0, 0, 0], [1, 1, 0, 0]), ([1, 0, 0, 0], [1, 0, 2, 0])]
    rows = [row for t, p in maps for row in score(np.array(t), np.array(p), NAMES[:3])]
    summary = summarise(rows)
    assert summary["a"]["dice"] == pytest.approx((1 + 2 / 3 + 1) / 3) and summary["a"]["n"] == 3
    b = summary["b"]
    assert (b["dice"], b["n"], b["missed"], b["invented"], b["absent"]) == (0, 2, 1, 1, 1)
    assert summary["c"]["dice"] is None and summary["c"]["n"] == 0 and summary["c"]["absent"] == 3
    assert summary["mean of classes"]["dice"] == pytest.approx(summary["a"]["dice"] / 2)  # c says nothing, b says 0


def heart_rows(values):
    """Rows of hearts with (Dice of a, Dice of b) each; None: absent."""
    rows = []
    for n, pair in enumerate(values):
        rows += [
            {"case_id": str(n), "class_name": name, "status": "absent" if dice is None else "ok", "dice": dice}
            for name, dice in zip("ab", pair)
        ]
    return rows


def test_intervals_equal_a_bootstrap_written_out():
    rng = np.random.default_rng(5)
    values = [(float(a), None if n % 3 == 0 else float(b)) for n, (a, b) in enumerate(rng.random((20, 2)))]
    entry = summarise(heart_rows(values), ("dice",))
    draws = {"a": [], "b": [], "mean of classes": []}
    for _ in range(4000):
        drawn = [values[k] for k in rng.integers(0, 20, 20)]
        means = [np.mean([v[k] for v in drawn if v[k] is not None]) for k in range(2)]
        for name, value in zip(draws, (*means, np.mean(means))):
            draws[name].append(value)
    for name, slow in draws.items():
        assert entry[name]["dice_ci95"] == pytest.approx(np.percentile(slow, (2.5, 97.5)).tolist(), abs=0.015)
        assert entry[name]["dice_ci95"][0] < entry[name]["dice"] < entry[name]["dice_ci95"][1]
    assert summarise(heart_rows(values), ("dice",)) == entry  # the same draws every time


def test_one_heart_has_no_interval_and_a_class_without_values_no_mean():
    entry = summarise(heart_rows([(0.5, None)]), ("dice",))
    assert entry["a"]["dice"] == 0.5 and entry["a"]["dice_ci95"] is None
    assert entry["b"]["dice"] is None and entry["b"]["dice_ci95"] is None and entry["b"]["absent"] == 1
    entry = summarise(heart_rows([(0.5, None), (0.7, 0.4)]), ("dice",))
    assert entry["b"]["dice"] == 0.4 and entry["b"]["dice_ci95"] is None


def test_no_average_improves_by_missing_a_structure():
    """A missed structure makes each average worse than even a bad reconstruction of it; the rows stay undefined."""
    truth = np.zeros((30, 30, 30), np.uint8)
    truth[4:14, 4:14, 4:14] = 1
    truth[20:24, 20:24, 20:24] = 2
    good, bad, missing, inventing = (truth.copy() for _ in range(4))
    good[4] = 0
    bad[20:24] = 0
    bad[17:18, 17:18, 17:18] = 2
    missing[missing == 2] = 0
    inventing[0, 0, 0] = 3
    names, made = list("abc"), {}
    for what, prediction in (("bad", bad), ("missing", missing), ("inventing", inventing)):
        rows = [
            {"case_id": case, **row}
            for case, p in (("1", good), ("2", prediction))
            for row in score(truth, p, names, spacing_mm=(1, 1, 1))
        ]
        made[what] = summarise(rows)
    bad, missing = made["bad"]["b"], made["missing"]["b"]
    assert missing["n"] == bad["n"] == 2 and missing["missed"] == 1
    assert missing["dice"] == 0.5 and missing["nsd_2mm"] < bad["nsd_2mm"] + 1e-9
    for metric in ("hd95_mm", "assd_mm", "absolute_volume_error"):
        assert missing[metric] > bad[metric], metric
    assert missing["hd95_mm"] == pytest.approx(np.linalg.norm([20, 20, 20]) / 2)
    invented = made["inventing"]["c"]
    assert (invented["n"], invented["invented"], invented["absent"]) == (1, 1, 1)
    assert invented["dice"] == 0 and invented["absolute_volume_error"] == 1 and invented["hd95_mm"] > 30


def test_the_floor_is_averaged_beside_the_figures():
    rows = [{**row, "floor_dice": 0.9 + 0.02 * n} for n, row in enumerate(heart_rows([(0.5, 0.6), (0.7, 0.4)]))]
    entry = summarise(rows, ("dice",))
    assert entry["a"]["floor_dice"] == pytest.approx(0.92) and entry["b"]["floor_dice"] == pytest.approx(0.94)
    assert entry["mean of classes"]["floor_dice"] == pytest.approx(0.93) and "floor_dice_ci95" not in entry["a"]
