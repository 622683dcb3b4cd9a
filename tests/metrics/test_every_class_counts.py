"""A class with voxels in truth or result is in the mean of every place that averages: random label maps, also under
names that are equal."""

import numpy as np
import pytest
import torch

from vecset.common.draws import random_stream
from vecset.engines.distributed import Ranks
from vecset.engines.evaluation import GridDice
from vecset.inference.decision_tuning_samples import Sample
from vecset.inference.decision_tuning_search import dice_per_class, dice_table
from vecset.metrics.baselines import TrainingTruths, _mean_dice
from vecset.metrics.overlap import mean_over_classes, score, summarise
from vecset.report import tables
from vecset.report.compare import comparison
from vecset.report.figures import read_figures, table

C = 6
NAMES = {
    "distinct": ["RV", "Myocardium", "LV", "RA", "PV", "Aorta"],
    "equal": ["RV", "Myocardium", "LV", "RA", "RV", "union"],
}


def random_pair(seed):
    """truth, result (8, 8, 8) u8: each class in both, in one, in neither."""
    rng = np.random.default_rng(seed)
    maps = []
    for _ in range(2):
        labels = rng.integers(0, C + 1, (8, 8, 8)).astype(np.uint8)
        for c in range(1, C + 1):
            if rng.random() < 0.4:
                labels[labels == c] = 0
        maps.append(labels)
    return maps


def expected_dice(truth, result):
    """(C,) Dice, NaN where a class is in neither."""
    dice = []
    for c in range(1, C + 1):
        t, r = truth == c, result == c
        dice.append(2 * (t & r).sum() / (t.sum() + r.sum()) if (t | r).any() else np.nan)
    return np.array(dice)


def mean_of(dice):
    return None if np.isnan(dice).all() else pytest.approx(np.nanmean(dice))


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("seed", range(20))
def test_one_heart(names, seed):
    truth, result = random_pair(seed)
    dice = expected_dice(truth, result)
    rows = score(truth, result, NAMES[names])
    assert [row["dice"] is None for row in rows[:C]] == list(np.isnan(dice))
    assert mean_over_classes(rows) == mean_of(dice)
    grid = GridDice(NAMES[names], Ranks(0, 1, torch.device("cpu")))
    flat = [torch.from_numpy(labels.ravel())[None] for labels in (result, truth)]
    grid.add(*flat, torch.ones(1, C, dtype=torch.bool))
    mean, per_class = grid.read()
    assert mean == mean_of(dice) and len(per_class) == C
    search = TrainingTruths([None], result.ravel()[None], result.ravel(), C)
    assert _mean_dice(search, truth.ravel(), range(1, C + 1))[0] == pytest.approx(np.nan_to_num(np.nanmean(dice)))
    logits = np.where(result.ravel()[:, None] == np.arange(1, C + 1), 1.0, -1.0)
    sdf = np.where(result.ravel() > 0, -1.0, 1.0)
    sample = Sample(truth.ravel(), np.ones(truth.size), torch.from_numpy(sdf), torch.from_numpy(logits))
    assert np.allclose(dice_per_class(sample, np.zeros(C, np.float32), frozenset()), dice, equal_nan=True)
    lines, record = dice_table([sample], [[True] * C], NAMES[names], np.zeros(C, np.float32), frozenset())
    assert record["mean_dice_before"] == pytest.approx(np.nanmean(dice), abs=1e-4) and len(lines) == C + 2


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("seed", range(5))
def test_many_hearts_in_summary_report_and_comparison(names, seed, tmp_path):
    rng = random_stream(seed, 0, "", "test")
    folders, means = [], []
    for run in range(2):
        rows, hearts, all_dice = [], {}, []
        for heart in range(4):
            truth, result = random_pair(100 * seed + heart)[0], random_pair(int(rng.integers(1 << 30)))[1]
            scores = score(truth, result, NAMES[names])
            baselines = {"mean_shape": scores, "nearest_heart": scores}
            for row, name in zip(scores, NAMES[names]):  # as results of earlier versions have them
                row["class_name"] = name
            rows += tables.table_rows(f"heart_{heart}", scores, baselines)
            hearts[f"heart_{heart}"] = {"mean_dice": mean_over_classes(scores)}
            all_dice.append(expected_dice(truth, result))
        dice = np.array(all_dice)
        known = ~np.isnan(dice).all(0)
        expected = np.nanmean(dice[:, known], 0).mean()
        summary = summarise(rows, ("dice",))
        assert summary["mean of classes"]["dice"] == pytest.approx(expected) and len(summary) == C + 2
        content = tables.report(rows, hearts, {})
        assert content["classes"]["mean of classes"]["mean_shape_dice"] == pytest.approx(expected)
        lines = tables.table_lines(content)
        assert len(lines) == 1 + C + 2 and lines[-2].split()[3] == f"{expected:.3f}"
        folders.append(tmp_path / str(run))
        folders[-1].mkdir()
        tables.write_csv(folders[-1] / "metrics.csv", rows)
        tables.write_json(folders[-1] / "metrics.json", content)
        figures = read_figures(folders[-1])
        shown = {row["name"]: row for row in table(figures)["rows"]}
        assert len(shown) == C + 2 and shown["mean of classes"]["cells"][0]["mean"] == pytest.approx(expected)
        means.append(np.nanmean(dice, 1))
    figures = [read_figures(folder) for folder in folders]
    compared = {row["name"]: row for row in comparison(figures, figures[0]["cases"])["rows"]}
    assert len(compared) == C + 2
    assert compared["mean of classes"]["values"]["dice"]["a"] == pytest.approx(np.mean(means[0]), abs=1e-6)
    assert compared["mean of classes"]["values"]["dice"]["b"] == pytest.approx(np.mean(means[1]), abs=1e-6)
