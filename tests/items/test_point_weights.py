"""What points of training count where a part of the heart is hidden: densities, and what is learned from them."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from vecset.engines.losses import compute_losses
from vecset.items.point_weights import BASE, MOST, density, point_weights


def ball(centre, count, rng, radius=0.3):
    directions = rng.normal(size=(count, 3))
    return centre + radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)


def test_densities_are_those_of_all_distances():
    rng = np.random.default_rng(0)
    places, points = rng.uniform(-1, 1, (200, 3)), rng.normal(size=(300, 3)) * 0.3
    away = np.sort(cdist(places, points), 1)[:, 7]
    expected = 8 / (4 / 3 * np.pi * away**3) * 500 / 300
    np.testing.assert_allclose(density(places, points, 500, 8), expected, rtol=1e-3)
    assert (
        np.isfinite(density(places, places[:1], 500, 8)).all() and np.isfinite(density(places[:1], places, 9, 1)).all()
    )


def test_evenly_spread_points_count_alike_and_those_near_hidden_surfaces_less():
    rng = np.random.default_rng(1)
    seen, hidden = (ball(np.array([x, 0, 0]), 400, rng) for x in (-0.5, 0.5))
    spread = rng.uniform(-1, 1, (800, 3))
    at = ball(np.array([-0.5, 0, 0]), 1600, rng)
    near_seen, near_hidden, others = np.split(point_weights(np.concatenate([seen, hidden, spread]), at), [400, 800])
    assert np.median(near_seen) > 1 and np.median(near_hidden) < 0.5 < np.median(others)
    assert max(near_seen.max(), others.max()) <= MOST
    within = np.abs(spread).max(1) < 0.7
    assert np.median(point_weights(spread, 9 + at)[within]) == pytest.approx(BASE, rel=0.25)


def test_places_in_a_hidden_ball_count_as_much_as_the_same_places_out_of_it():
    """The hidden ball has one of two radii. Between the two surfaces a place is inside the larger ball and outside the
    smaller; points crowd near the surface that is there, so near the smaller the outside is drawn far more often."""
    rng, shares = np.random.default_rng(2), []
    seen = ball(np.array([0.9, 0.9, 0.9]), 500, rng, 0.05)
    for radius in (0.2, 0.4):
        near = ball(0, 1500, rng, 1.0) * (radius + rng.normal(size=(1500, 1)) * 0.03)
        points = np.concatenate([near, rng.uniform(-1, 1, (500, 3))])
        away = np.linalg.norm(points, axis=1)
        between = (away > 0.22) & (away < 0.27)
        shares.append((between.sum(), point_weights(points, seen)[between].sum()))
    (few, less), (many, more) = sorted(shares)
    assert many / few > 10 and more / less < many / few / 3


@pytest.mark.parametrize("kind", ["softmax", "bce"])
@pytest.mark.parametrize("two", [False, True])
def test_weights_of_one_change_nothing_and_weights_of_zero_leave_a_point_out(kind, two):
    torch.manual_seed(0)
    B, T, C = 2, 12, 3
    targets = torch.randn(B, T), torch.randint(0, C + 1, (B, T)), torch.arange(T).remainder(4).expand(B, T)
    outputs = {"sdf_BQ": torch.randn(B, T), "logits_BQC": torch.randn(B, T, C)}
    if two:
        outputs["other"] = {"sdf_BQ": torch.randn(B, T), "logits_BQC": torch.randn(B, T, C)}
    annotated, losses = torch.ones(B, C, dtype=torch.bool), {"vol": 1.0, "near": 1.0, "surface": 1.0, "class": 1.0}

    def total(outputs, targets, weights):
        return compute_losses(outputs, targets, annotated, losses, kind, weights_BT=weights)[1]

    plain, ones = total(outputs, targets, None), total(outputs, targets, torch.ones(B, T))
    assert all(torch.equal(plain[name], ones[name]) for name in losses)
    weights = torch.ones(B, T)
    weights[:, :4] = 0  # a point of each group; two more for those that stay make up for them
    weights[:, 4:] = 1.5
    kept = {name: outputs[name][:, 4:] for name in ("sdf_BQ", "logits_BQC")}
    if two:
        kept["other"] = {name: outputs["other"][name][:, 4:] for name in kept}
    left, right = total(outputs, targets, weights), total(kept, [t[:, 4:] for t in targets], None)
    for name in losses:
        torch.testing.assert_close(left[name], right[name])
