"""The losses against their definitions written out by hand."""

import math

import numpy as np
import pytest
import torch
from helpers.ball_cases import write_ball_cases
from helpers.engine_parts import make_run

from vecset.engines.loop import forward_losses
from vecset.engines.losses import CLASS_LOSSES, DEFAULT_WEIGHTS, LOSSES, compute_losses, safe_norm
from vecset.items.loader import collate


def hand_made():
    sdf = torch.tensor([[0.1, -0.2, 0.3, 0.0, -0.5]])
    labels = torch.tensor([[0, 2, 0, 1, 2]])
    group = torch.tensor([[0, 1, 2, 3, 3]])  # near, inside, outside, surface on the outside, surface on an inner wall
    outputs = {
        "sdf_BQ": torch.tensor([[0.2, -0.5, 0.2, 0.1, -0.1]]),
        "logits_BQC": torch.randn(1, 5, 2),
        "gradient_BE3": torch.tensor([[[2.0, 0, 0], [0, 0, 0]]]),
    }
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


def test_inner_walls_are_compared_with_the_distance_that_their_file_has(tmp_path):
    """The whole way: half the surface points of the files lie on inner walls, 0.3 inside the union."""
    folder = write_ball_cases(tmp_path / "data", train=2, val=1)
    for path in folder.glob("*.npz"):
        with np.load(path) as members:
            arrays = dict(members)
        arrays["surface_sdf"][::2] = -0.3
        np.savez(path, **arrays)
    run = make_run(folder, tmp_path / "out")
    with torch.no_grad():  # the field is 0 everywhere
        for parameter in run.model.to_outputs.parameters():
            parameter.zero_()
    batch = collate([run.dataset[0, 0]])
    walls = (batch["surface_sdf"] < 0).double().mean()
    values = forward_losses(run.model, batch, run.step_options, 3)[1]
    assert 0.2 < walls < 0.8 and float(values["surface"][0]) == pytest.approx(0.3 * float(walls), rel=1e-5)


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
        logits, labels, torch.ones_like(annotated)
    )
    if name == "bce":
        per = [
            [
                [
                    math.log1p(math.exp(-x if labels[b, t] == c + 1 else x))
                    for c, x in enumerate(logits[b, t].tolist())
                    if c != 1
                ]
                for t in range(6)
            ]
            for b in range(2)
        ]
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


@pytest.mark.parametrize("name", ["normal", "balanced", "truncated"])
def test_optional_losses_are_off_by_default(name):
    assert DEFAULT_WEIGHTS[name] == 0 and name in LOSSES


def test_truncated_loss_against_the_obvious_way_and_its_gradient():
    rng = torch.Generator().manual_seed(0)
    sdf, predicted = (0.3 * torch.randn(2, 60, generator=rng) for _ in range(2))
    group = torch.randint(0, 4, (2, 60), generator=rng)
    predicted.requires_grad_(True)
    band, slow = 0.1, []
    for b in range(2):
        errors = []
        for truth, guess, of in zip(sdf[b].tolist(), predicted[b].tolist(), group[b].tolist()):
            if of == 3:  # a surface point has a loss of its own
                continue
            target = max(-band, min(band, truth))
            both_beyond = (truth >= band and guess >= band) or (truth <= -band and guess <= -band)
            errors.append(0.0 if both_beyond else abs(guess - target))
        slow.append(sum(errors) / len(errors))
    total, raw = compute_losses(
        {"sdf_BQ": predicted},
        (sdf, torch.zeros_like(group), group),
        torch.ones(2, 2, dtype=torch.bool),
        {"truncated": 3.0},
        truncation=band,
    )
    assert math.isclose(raw["truncated"].item(), sum(slow) / 2, rel_tol=1e-5) and set(raw) == {"truncated"}
    assert math.isclose(total.item(), 3 * raw["truncated"].item(), rel_tol=1e-6)
    total.backward()
    wrong_side = (sdf > band) & (predicted < -band) & (group != 3)
    assert wrong_side.any() and (predicted.grad[wrong_side] < 0).all()  # it is pulled back, however far it is
    assert (predicted.grad[(sdf > band) & (predicted > band)] == 0).all()


def test_balanced_class_loss_against_the_obvious_way():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 50, 3, generator=rng)
    labels = torch.randint(0, 40, (2, 50), generator=rng).clamp_max(3) % 4  # mostly class 3
    labels[1][labels[1] == 2] = 0  # class 2 is missing in case 1
    annotated = torch.tensor([[True, True, True], [False, True, True]])
    cases = []
    for b in range(2):
        classes = []
        for c in range(3):
            if not annotated[b, c]:
                continue
            kinds = []
            for inside in (True, False):
                pairs = zip(logits[b, :, c].tolist(), labels[b].tolist())
                chosen = [x for x, label in pairs if (label == c + 1) == inside]
                if chosen:
                    kinds.append(sum(math.log1p(math.exp(-x if inside else x)) for x in chosen) / len(chosen))
            classes.append(sum(kinds) / len(kinds))
        cases.append(sum(classes) / len(classes))
    outputs = {"sdf_BQ": torch.zeros(2, 50), "logits_BQC": logits}
    total, raw = compute_losses(
        outputs, (torch.zeros(2, 50), labels, torch.zeros_like(labels)), annotated, {"balanced": 2.0}
    )
    assert math.isclose(raw["balanced"], sum(cases) / 2, rel_tol=1e-5)
    assert math.isclose(total, 2 * raw["balanced"], rel_tol=1e-6)
    twice = {"sdf_BQ": torch.zeros(2, 100), "logits_BQC": logits.repeat(1, 2, 1)}
    _, again = compute_losses(
        twice, (torch.zeros(2, 100), labels.repeat(1, 2), torch.zeros(2, 100)), annotated, {"balanced": 2.0}
    )
    assert math.isclose(raw["balanced"], again["balanced"], rel_tol=1e-5)


def test_normal_loss_against_the_obvious_way():
    gradient = torch.tensor([[[1.0, 0, 0], [0, 0.5, 0]], [[0, 0, -1.0], [0, 0, 0]]], requires_grad=True)
    normals = torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]], [[0, 0, 1.0], [0, 1.0, 0]]])
    outputs = {"sdf_BQ": torch.zeros(2, 3), "normal_gradient_BS3": gradient}
    targets = (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long))
    total, raw = compute_losses(
        outputs, targets, torch.ones(2, 2, dtype=torch.bool), {"normal": 0.5}, normals_BS3=normals
    )
    assert math.isclose(raw["normal"].item(), ((0 + 0.25) / 2 + (4 + 1) / 2) / 2, rel_tol=1e-6)
    total.backward()
    assert torch.isfinite(gradient.grad).all()  # also where the slope is zero, as at the start
    assert gradient.grad[0, 0].norm() == 0 and gradient.grad[1, 1, 1] < 0


def test_safe_norm_at_zero():
    v = torch.zeros(2, 3, requires_grad=True)
    safe_norm(v).sum().backward()
    assert (v.grad == 0).all()
