"""The losses against their definitions written out by hand."""

import math

import pytest
import torch

from vecset.engines.losses import CLASS_LOSSES, compute_losses, safe_norm


def hand_made():
    sdf = torch.tensor([[0.1, -0.2, 0.3, 0.0, -0.5]])
    labels = torch.tensor([[0, 2, 0, 1, 2]])
    group = torch.tensor([[0, 1, 2, 3, 3]])  # near, inside, outside, surface on the outside, surface on an inner wall
    outputs = {"sdf_BQ": torch.tensor([[0.2, -0.5, 0.2, 0.1, -0.1]]), "logits_BQC": torch.randn(1, 5, 2),
               "gradient_BE3": torch.tensor([[[2.0, 0, 0], [0, 0, 0]]])}
    return outputs, (sdf, labels, group)


def test_values_by_hand():
    outputs, targets = hand_made()
    weights = {"vol": 1, "near": 10, "surface": 10, "eikonal": 0.5}
    total, raw = compute_losses(outputs, targets, torch.ones(1, 2, dtype=torch.bool), weights)
    assert math.isclose(raw["near"], 0.1, rel_tol=1e-5)
    assert math.isclose(raw["vol"], (0.3 + 0.1) / 2, rel_tol=1e-5)
    # the inner wall is compared with its stored distance of -0.5; a target of zero would have given (0.1 + 0.1) / 2
    assert math.isclose(raw["surface"], (0.1 + 0.4) / 2, rel_tol=1e-5)
    assert math.isclose(raw["eikonal"], ((2 - 1) ** 2 + (0 - 1) ** 2) / 2, rel_tol=1e-5)
    assert "class" not in raw and "kl" not in raw
    assert math.isclose(total, 0.2 + 10 * 0.1 + 10 * 0.25 + 0.5 * 1.0, rel_tol=1e-5)


@pytest.mark.parametrize("name", ["bce", "softmax"])
def test_class_loss_masks_what_was_not_annotated_and_only_that(name):
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 6, 3), torch.tensor([[0, 1, 1, 3, 0, 1], [0, 0, 1, 1, 3, 3]])
    annotated = torch.tensor([[True, False, True], [True, False, True]])
    loss = CLASS_LOSSES[name](logits, labels, annotated)
    other = logits.clone()
    other[..., 1] += 5  # the class that was not annotated
    torch.testing.assert_close(CLASS_LOSSES[name](other, labels, annotated), loss)
    # absent from the heart but annotated: it is still pushed down
    assert CLASS_LOSSES[name](other, labels, torch.ones_like(annotated)) > CLASS_LOSSES[name](
        logits, labels, torch.ones_like(annotated))
    if name == "bce":
        per = [[[math.log1p(math.exp(-x if labels[b, t] == c + 1 else x)) for c, x in enumerate(logits[b, t].tolist())
                 if c != 1] for t in range(6)] for b in range(2)]
        slow = sum(sum(sum(p) for p in row) / 12 for row in per) / 2
    else:
        slow = 0
        for b in range(2):
            for t in range(6):
                scores = {0: 0.0, 1: logits[b, t, 0].item(), 3: logits[b, t, 2].item()}
                slow += (math.log(sum(math.exp(s) for s in scores.values())) - scores[int(labels[b, t])]) / 12
    assert math.isclose(loss, slow, rel_tol=1e-5)


def test_cases_weigh_the_same_whatever_their_points():
    outputs, (sdf, labels, group) = hand_made()
    double = {k: v.repeat(2, 1, *[1] * (v.ndim - 2)) for k, v in outputs.items()}
    group2 = torch.cat([group, torch.tensor([[0, 0, 0, 3, 3]])])  # the second case has three near points
    args = ((sdf.repeat(2, 1), labels.repeat(2, 1), group2), torch.ones(2, 2, dtype=torch.bool), {"near": 1})
    _, raw = compute_losses(double, *args)
    assert math.isclose(raw["near"], (0.1 + (0.1 + 0.3 + 0.1) / 3) / 2, rel_tol=1e-5)


def test_truncation_still_pulls_back_what_is_on_the_wrong_side():
    sdf, group = torch.tensor([[0.5, 0.5, 0.01]]), torch.zeros(1, 3, dtype=torch.long)
    predicted = torch.tensor([[0.3, -0.4, 0.02]], requires_grad=True)
    _, raw = compute_losses({"sdf_BQ": predicted}, (sdf, torch.zeros(1, 3, dtype=torch.long), group),
                            torch.ones(1, 2, dtype=torch.bool), {"near": 1}, truncate=0.1)
    raw["near"].backward()
    assert math.isclose(raw["near"].item(), (0 + 0.5 + 0.01) / 3, rel_tol=1e-5)
    assert predicted.grad[0, 0] == 0 and predicted.grad[0, 1] < 0 and predicted.grad[0, 2] > 0


def test_safe_norm_at_zero():
    v = torch.zeros(2, 3, requires_grad=True)
    safe_norm(v).sum().backward()
    assert (v.grad == 0).all()
