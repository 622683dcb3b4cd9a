"""The losses of class distances against their definitions, point by point and class by class."""

import pytest
import torch
from helpers.ball_cases import tiny_arguments
from helpers.ball_hearts import ball_heart_batch

from vecset.common.errors import InputError
from vecset.common.structure_state import ABSENT_DISTANCE
from vecset.engines.argument_checks import check_arguments, without_effect
from vecset.engines.arguments import parse_arguments
from vecset.engines.losses import (
    DEFAULT_WEIGHTS,
    LOSSES,
    compute_losses,
    decoded_class_distances,
    decoded_points,
    losses_of,
)

CLIP = 0.1


def predicted_and_true():
    """Class distances of both, (2, T, 3), and which classes are annotated; class 3 is absent from the hearts."""
    batch = ball_heart_batch(absent=[3], dtype=torch.float64)
    truth = decoded_class_distances(batch)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    annotated = torch.tensor([[True, True, True], [False, True, True]])
    return batch, (truth + 0.1 * noise).requires_grad_(True), truth, annotated


def slowly(name, predicted, truth, annotated):
    """The loss's definition, in loops."""
    cases = []
    for p_TC, t_TC, a_C in zip(predicted, truth, annotated):
        classes = []
        for c in range(t_TC.shape[1]):
            if not a_C[c]:
                continue
            errors = []
            for p, t in zip(p_TC[:, c], t_TC[:, c]):
                near = abs(float(t)) < CLIP
                if name == "class_distance":
                    clipped = max(-CLIP, min(CLIP, float(t)))
                    right_side = not near and abs(float(p)) >= CLIP and float(p) * float(t) > 0
                    errors.append(0 * p if right_side else (p - clipped).abs())
                elif near == (name == "class_near"):
                    errors.append((p - t).abs())
            classes.append(torch.stack(errors).mean() if errors else torch.zeros((), dtype=p_TC.dtype))
        cases.append(torch.stack(classes).mean())
    return torch.stack(cases).mean()


@pytest.mark.parametrize("name", ["class_distance", "class_near", "class_far"])
def test_values_and_gradients(name):
    batch, predicted, truth, annotated = predicted_and_true()
    _, *targets = decoded_points(batch)
    outputs = {"sdf_BQ": torch.zeros(truth.shape[:2]), "class_sdf_BQC": predicted}
    total, raw = compute_losses(outputs, targets, annotated, {name: 1.0}, class_sdf_BTC=truth, class_distance_clip=CLIP)
    expected = slowly(name, predicted, truth, annotated)
    assert set(raw) == {name} and expected > 0.01
    torch.testing.assert_close(total, expected)
    gradients = [torch.autograd.grad(value, predicted, retain_graph=True)[0] for value in (total, expected)]
    torch.testing.assert_close(*gradients)
    assert (gradients[0][1, :, 0] == 0).all()  # not annotated in the second heart


def test_an_absent_class_is_pushed_out_of_the_band_and_no_farther():
    batch, _, truth, annotated = predicted_and_true()
    assert (truth[..., 2] == ABSENT_DISTANCE).all()
    _, *targets = decoded_points(batch)

    def loss(value):
        outputs = {"sdf_BQ": torch.zeros(truth.shape[:2]), "class_sdf_BQC": truth.clone()}
        outputs["class_sdf_BQC"][..., 2] = value
        return compute_losses(
            outputs, targets, annotated, {"class_distance": 1.0}, class_sdf_BTC=truth, class_distance_clip=CLIP
        )[0]

    assert loss(-0.2) > loss(0.0) > loss(0.05) > loss(CLIP) == loss(0.5) == loss(ABSENT_DISTANCE) == 0


def test_the_slope_of_each_present_class_is_one():
    gradient = torch.zeros(1, 2, 3, 3)
    gradient[0, :, 0, 0] = torch.tensor([1.0, 3.0])  # errors 0 and 4; class 2: 1 and 1; class 3 is absent
    outputs = {
        "sdf_BQ": torch.zeros(1, 1),
        "class_gradient_BEC3": gradient,
        "present_BC": torch.tensor([[True, True, False]]),
    }
    targets = torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long)
    total, _ = compute_losses(outputs, targets, torch.ones(1, 3, dtype=torch.bool), {"eikonal": 1.0})
    assert total == (2 + 1) / 2


def test_the_decoded_surface_points_keep_their_distances():
    batch = ball_heart_batch()
    batch["surface_decoded"] = torch.tensor([[5, 0, 59], [7, 8, 1]])
    points = decoded_points(batch)[0]
    found = decoded_class_distances(batch)
    assert found.shape == (2, 63, 3) and points.shape == (2, 63, 3)
    assert torch.equal(found[1, 60:], batch["surface_class_sdf"][1, [7, 8, 1]])
    assert decoded_class_distances({"query_points": points}) is None


def test_which_network_has_which_losses():
    assert set(losses_of("joint", "logits")) == set(LOSSES) - {"class_distance", "class_near", "class_far"}
    assert set(losses_of("joint", "both")) == set(LOSSES) - {"class_near", "class_far"}
    assert set(losses_of("joint", "both")) - set(losses_of("joint", "distances")) == {"class", "balanced"}
    assert set(losses_of("parts", "logits")) == {"class_near", "class_far", "eikonal", "kl"}
    assert (DEFAULT_WEIGHTS["class_near"], DEFAULT_WEIGHTS["class_far"]) == (10, 1)


def test_flags_of_another_network_are_refused_or_named(tmp_path):
    def arguments(*more):
        args = parse_arguments(tiny_arguments(tmp_path, tmp_path, *more))
        check_arguments(args)
        return args

    with pytest.raises(InputError, match="--balanced_weight: --class_outputs distances has no such loss"):
        arguments("--class_outputs", "distances", "--balanced_weight", 1)
    assert without_effect(arguments("--class_weight", 5)) == []
    assert without_effect(arguments("--class_near_weight", 5, "--class_distance_clip", 0.2)) == [
        "class_near_weight",
        "class_distance_clip",
    ]
    assert without_effect(
        arguments("--class_outputs", "distances", "--class_weight", 5, "--class_loss", "softmax")
    ) == [
        "class_weight",
        "class_loss",
    ]
