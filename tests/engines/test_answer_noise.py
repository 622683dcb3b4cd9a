"""The network with several answers, and the losses of two of them."""

import numpy as np
import pytest
import torch
from helpers.variant_models import batch, randomised

from vecset.common.errors import InputError
from vecset.engines.losses import (
    CLASS_LOSSES,
    CLASS_LOSSES_OF_ANSWERS,
    compute_losses,
    decoded_points,
    energy_score,
)
from vecset.models.answer_noise import AnswerNoise
from vecset.models.autoencoder import build_model
from vecset.models.embedding import surface_features

NAME = "point_vec8x4_dim128_depth2_nb"
OPTIONS = dict(anchors=True, rotary=True, fps_class_gap=2.0, states=True, answer_noise=3)


def inputs():
    items = batch()
    surface = surface_features(items["surface_points"], items["surface_labels"], 10)
    return items, surface, torch.zeros(2, 10, dtype=torch.long)


def test_the_numbers_are_factors_and_shifts_of_the_channels():
    torch.manual_seed(0)
    noise, x, numbers = AnswerNoise(3, 4, 2), torch.randn(2, 5, 4), torch.randn(2, 3)
    expected = torch.empty_like(x)
    weight = noise.maps[1].weight  # (2 x 4, 3)
    for b in range(2):
        for m in range(5):
            for d in range(4):
                factor = sum(float(weight[d, k] * numbers[b, k]) for k in range(3))
                shift = sum(float(weight[4 + d, k] * numbers[b, k]) for k in range(3))
                expected[b, m, d] = x[b, m, d] * (1 + factor) + shift
    torch.testing.assert_close(noise(1, x, numbers), expected)
    assert torch.equal(noise(0, x, torch.zeros(2, 3)), x)


def test_numbers_of_zeros_are_the_one_answer_and_others_differ_in_their_own_heart():
    model, (items, surface, states) = randomised(NAME, OPTIONS).eval(), inputs()
    latents = model.encode(surface, states_BC=states)
    queries = items["query_points"]
    one = model.decode(model.process_latents(latents), queries)
    zeros = model.decode(model.process_latents(latents, torch.zeros(2, 3)), queries)
    assert all(torch.equal(a, b) for a, b in zip(one, zeros))
    numbers = torch.zeros(2, 3)
    numbers[1] = torch.tensor([1.0, -1.0, 0.5])
    other = model.decode(model.process_latents(latents, numbers), queries)
    assert torch.equal(other[0][0], one[0][0]) and (other[0][1] - one[0][1]).abs().max() > 1e-4
    both = model(surface, queries, states_BC=states, answers_B2K=torch.stack([torch.zeros(2, 3), numbers], 1))
    torch.testing.assert_close(both["sdf_BQ"], one[0])
    torch.testing.assert_close(both["other"]["sdf_BQ"], other[0])
    torch.testing.assert_close(both["other"]["logits_BQC"], other[1])


def test_two_equal_answers_have_the_loss_of_one_but_for_the_score_of_the_classes():
    items, _, _ = inputs()
    points, *targets = decoded_points(items)
    generator = torch.Generator().manual_seed(0)
    sdf, logits = torch.randn(points.shape[:2], generator=generator), torch.randn(*points.shape[:2], 10)
    annotated = torch.ones(2, 10, dtype=torch.bool)
    weights = {"vol": 1.0, "near": 1.0, "surface": 1.0, "class": 1.0}
    one = {"sdf_BQ": sdf, "logits_BQC": logits}
    for kind in CLASS_LOSSES:
        alone, raw = (
            compute_losses(outputs, targets, annotated, weights, kind)[1]
            for outputs in (one, {**one, "other": dict(one)})
        )
        for name in ("vol", "near", "surface"):
            torch.testing.assert_close(raw[name], alone[name])
        assert raw["class"] > alone["class"] - 1e-5  # and the energy score, which is not negative here


@pytest.mark.parametrize("kind", list(CLASS_LOSSES_OF_ANSWERS))
def test_class_losses_of_two_answers_are_their_formulas(kind):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2, 5, 3))
    labels = rng.integers(0, 4, (2, 5))
    annotated = np.array([[True, True, True], [True, False, True]])
    labels[1][labels[1] == 2] = 0
    cases = []
    for n in range(2):
        points = []
        for t in range(5):
            if kind == "softmax":
                kept = [0] + [c + 1 for c in range(3) if annotated[n, c]]
                p, q = ([np.exp(0 if k == 0 else x[n, t, k - 1]) for k in kept] for x in (a, b))
                p, q = np.array(p) / sum(p), np.array(q) / sum(q)
                y = np.array([float(labels[n, t] == k) for k in kept])
                score = (abs(p - y) / 2 + abs(q - y) / 2 - abs(p - q) / 2).sum()
                points.append(score - np.log(((p + q) / 2)[y > 0][0]))
            else:
                for c in range(3):
                    if annotated[n, c]:
                        p, q = (1 / (1 + np.exp(-x[n, t, c])) for x in (a, b))
                        y = float(labels[n, t] == c + 1)
                        right = (p + q) / 2 if y else 1 - (p + q) / 2
                        points.append(abs(p - y) / 2 + abs(q - y) / 2 - abs(p - q) / 2 - np.log(right))
        cases.append(np.mean(points))
    tensors = (torch.from_numpy(x) for x in (a, b, labels, annotated))
    assert float(CLASS_LOSSES_OF_ANSWERS[kind](*tensors)) == pytest.approx(np.mean(cases), rel=1e-5)


def test_the_energy_score_is_least_for_answers_that_are_spread_as_truths_are():
    """Truths of N(0.3, 0.5): of normal answers, those with that mean and that spread are best."""
    generator = torch.Generator().manual_seed(0)
    truth, a, b = torch.randn(3, 200_000, generator=generator)
    truth = 0.3 + 0.5 * truth
    scores = {
        (mean, spread): float(energy_score(mean + spread * a, mean + spread * b, truth).mean())
        for mean in (0.0, 0.2, 0.3, 0.4, 0.6)
        for spread in (0.0, 0.3, 0.4, 0.5, 0.6, 0.8)
    }
    assert min(scores, key=scores.get) == (0.3, 0.5)
    assert scores[0.3, 0.5] == pytest.approx(0.5 / np.pi**0.5, rel=0.02)  # its value for normal truths


@pytest.mark.parametrize(
    "options, words",
    [
        ({"states": False}, "--answer_noise: it has an effect only with --observe"),
        ({"network": "parts"}, "no meaning with --network parts"),
    ],
)
def test_where_there_are_no_several_answers(options, words):
    with pytest.raises(InputError, match=words):
        build_model("point_vec20x4_dim32_depth2_nb", 10, **{"states": False, "answer_noise": 3, **options})
