import numpy as np
import pytest
import torch

from vecset.engines.distributed import Ranks
from vecset.engines.evaluation import GridDice, decode_grid
from vecset.items.dataset import grid_points_unit

ONE = Ranks(0, 1, torch.device("cpu"))


class BallModel:
    """A field in place of a network: a ball of each case's radius, class 1 where x < 0, else class 2."""

    def encode(self, surface_BNF):
        return surface_BNF[:, 0, 0]

    def process_latents(self, latents):
        return latents

    def decode(self, radius_B, queries_BQ3):
        sdf = queries_BQ3.norm(dim=-1) - radius_B[:, None]
        return sdf, torch.stack([-queries_BQ3[..., 0], queries_BQ3[..., 0]], -1)


def test_decode_grid_follows_the_label_rule(monkeypatch):
    monkeypatch.setattr("vecset.engines.evaluation._QUERIES_AT_ONCE", 100)  # in many chunks
    labels = decode_grid(BallModel(), torch.tensor([0.5, 0.8]).view(2, 1, 1), 9)
    points = grid_points_unit(9)
    for row, radius in zip(labels.numpy(), (0.5, 0.8)):
        expected = np.where(np.linalg.norm(points, axis=1) >= radius, 0, np.where(points[:, 0] > 0, 2, 1))
        assert np.array_equal(row, expected)


def test_dice_and_its_counts_against_the_obvious_way():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (2, 5, 60)).astype(np.uint8)  # classes 1..3; 4 and 5 follow
    truth[0][truth[0] == 3] = 0  # invented in case 0
    predicted[1][predicted[1] == 3] = 0  # missed in case 1
    annotated = np.ones((5, 5), bool)
    annotated[2, 0] = False
    truth[:, :2] = predicted[:, 1:3] = 4  # class 5 is nowhere
    dice = GridDice(list("abcde"), ONE)
    dice.add(torch.tensor(predicted[:2]), torch.tensor(truth[:2]), torch.tensor(annotated[:2]))
    dice.add(torch.tensor(predicted[2:]), torch.tensor(truth[2:]), torch.tensor(annotated[2:]))
    mean, per_class = dice.read()
    expected = {}
    for c, name in enumerate("abcde", start=1):
        values = []
        for b in range(5):
            t, p = truth[b] == c, predicted[b] == c
            if annotated[b, c - 1] and (t.any() or p.any()):
                values.append(2 * (t & p).sum() / (t.sum() + p.sum()))
        expected[name] = values
    for name, values in expected.items():
        assert per_class[name]["cases"] == len(values)
        assert per_class[name]["dice"] == (pytest.approx(np.mean(values)) if values else None)
    assert (per_class["c"]["missed"], per_class["c"]["invented"]) == (1, 1)
    assert per_class["e"] == {"dice": None, "cases": 0, "absent": 5, "missed": 0, "invented": 0}
    assert per_class["a"]["cases"] == 4 and per_class["a"]["absent"] == 0  # not annotated is not absent
    assert mean == pytest.approx(np.mean([np.mean(v) for v in expected.values() if v]))
