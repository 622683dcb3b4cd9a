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
    in_groups,
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


def test_of_two_equal_answers_the_score_is_their_distance():
    items, _, _ = inputs()
    points, *targets = decoded_points(items)
    generator = torch.Generator().manual_seed(0)
    sdf, logits = torch.randn(points.shape[:2], generator=generator), torch.randn(*points.shape[:2], 10)
    annotated = torch.ones(2, 10, dtype=torch.bool)
    weights = {"vol": 1.0, "near": 1.0, "surface": 1.0, "class": 1.0}
    one = {"sdf_BQ": sdf, "logits_BQC": logits}
    groups = {"vol": ("inside", "outside"), "near": ("near",), "surface": ("surface",)}
    for kind in CLASS_LOSSES:
        alone, raw = (
            compute_losses(outputs, targets, annotated, weights, kind)[1]
            for outputs in (one, {**one, "other": dict(one)})
        )
        for name, members in groups.items():
            errors = [(a - y)[chosen] for a, y, chosen in zip(sdf, targets[0], in_groups(targets[2], members))]
            torch.testing.assert_close(
                raw[name], torch.stack([e.square().mean().sqrt() for e in errors]).mean(), atol=1e-4, rtol=0
            )
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
        kept = [c for c in range(3) if annotated[n, c]]
        y = (labels[n][:, None] == np.arange(4)).astype(float)
        if kind == "softmax":
            kept = [0, *(c + 1 for c in kept)]
            p, q = (np.exp(np.column_stack([np.zeros(5), x[n]]))[:, kept] for x in (a, b))
            p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
            y = y[:, kept]
            missed = -np.log(((p + q) / 2)[y > 0]).mean()
        else:
            p, q = (1 / (1 + np.exp(-x[n][:, kept])) for x in (a, b))
            y = y[:, [c + 1 for c in kept]]
            missed = -np.log(np.where(y > 0, (p + q) / 2, 1 - (p + q) / 2)).mean(0)
        away = [np.sqrt(((one - other) ** 2).mean(0)) for one, other in ((p, y), (q, y), (p, q))]
        score = (away[0] + away[1] - away[2]) / 2  # of each class, over all points together
        cases.append(score.sum() + missed if kind == "softmax" else (score + missed).mean())
    tensors = (torch.from_numpy(x) for x in (a, b, labels, annotated))
    assert float(CLASS_LOSSES_OF_ANSWERS[kind](*tensors)) == pytest.approx(np.mean(cases), rel=1e-3)


def test_the_energy_score_is_least_for_answers_that_are_spread_and_go_together_as_truths_do():
    """Truths are eight numbers of N(0.3, 0.5), independent: of normal answers, those with that mean and that spread are
    best, and better than such whose numbers all go together, though each number alone is distributed as it should."""
    generator = torch.Generator().manual_seed(0)
    truth, a, b = torch.randn(3, 50_000, 8, generator=generator)
    truth = 0.3 + 0.5 * truth

    def score(a, b):
        return float(energy_score(a, b, truth, lambda x: x.mean(1)).mean())

    scores = {
        (mean, spread): score(mean + spread * a, mean + spread * b)
        for mean in (0.0, 0.2, 0.3, 0.4, 0.6)
        for spread in (0.0, 0.3, 0.4, 0.5, 0.6, 0.8)
    }
    assert min(scores, key=scores.get) == (0.3, 0.5)
    alike = score(*(0.3 + 0.5 * x[:, :1].expand(-1, 8) for x in (a, b)))
    assert alike > 1.1 * scores[0.3, 0.5]


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
