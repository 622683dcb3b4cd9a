"""Coarse-to-fine decoding against decoding every voxel."""

import numpy as np
import pytest
import torch
from helpers.fake_model import FormulaModel, ball
from helpers.formula_fields import FRAMES, LATENTS, frame_of, hidden_spots

from vecset.fields.decoding import decode_label_map
from vecset.fields.heart_field import HeartField


def decoded_one_by_one(model, frame):
    """Every voxel of the grid, one at a time as far as the reader is concerned."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in frame.shape), indexing="ij"), -1).reshape(-1, 3)
    points_unit = frame.voxel_to_unit(index)
    sdf, logits = model.decode(model.process_latents(LATENTS[None]), torch.from_numpy(points_unit).float()[None])
    labels = np.where(sdf[0].numpy() < 0, logits[0].argmax(-1).numpy() + 1, 0)
    labels[(np.abs(points_unit) > 1).any(1)] = 0
    return labels.reshape(frame.shape)


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("classes", [1, 2, 8])
def test_equals_decoding_every_voxel(name, classes):
    model, frame = ball(num_classes=classes), FRAMES[name]
    decoded = decode_label_map(HeartField(model, LATENTS, chunk=5000), frame)
    assert model.largest_batch <= 5000
    expected = decoded_one_by_one(model, frame)
    assert decoded.labels.dtype == np.uint8 and decoded.labels.shape == frame.shape
    np.testing.assert_array_equal(decoded.labels, expected)
    assert len(np.unique(expected)) == classes + 1
    assert not decoded.dense and not decoded.missed and decoded.checked > 0


def test_asks_far_less_than_every_voxel():
    decoded = decode_label_map(HeartField(ball(num_classes=2), LATENTS), frame_of((192, 192, 192), (0.5, 0.5, 0.5)))
    assert decoded.voxels > 4e6
    assert decoded.queries < decoded.voxels / 12


def test_a_thin_tube_survives():
    """A vessel of radius 0.6 voxel, far thinner than a coarse cell, in a field of slope 1."""

    def tube(points):
        return torch.linalg.norm(points[:, :2] - torch.tensor([0.313, -0.271]), dim=1) - 0.6 / 42

    model = FormulaModel(
        lambda p: torch.minimum(p.norm(dim=1) - 0.2, tube(p)), lambda p: 30 * torch.stack([-tube(p), tube(p)], 1), 2
    )
    frame = FRAMES["isotropic"]
    decoded = decode_label_map(HeartField(model, LATENTS), frame)
    np.testing.assert_array_equal(decoded.labels, decoded_one_by_one(model, frame))
    assert not decoded.dense and (decoded.labels == 1).sum() > 80


def test_a_field_that_breaks_the_bounds_is_decoded_densely_and_that_is_said():
    model = FormulaModel(lambda p: 0.6 - 3 * hidden_spots(p), lambda p: p, 3)
    decoded = decode_label_map(HeartField(model, LATENTS), FRAMES["isotropic"])
    assert decoded.dense and decoded.missed > 0 and decoded.queries > decoded.voxels
    np.testing.assert_array_equal(decoded.labels, decoded_one_by_one(model, FRAMES["isotropic"]))


def test_a_class_that_the_coarse_grid_cannot_see_is_found():
    """A class buried in another, where neither distance nor logits announce it: the cells between the coarse ones are
    in doubt, or the check finds it."""
    model = FormulaModel(
        lambda p: p.norm(dim=1) - 0.9, lambda p: torch.stack([torch.full((len(p),), 5.0), 15 * hidden_spots(p)], 1), 2
    )
    decoded = decode_label_map(HeartField(model, LATENTS), FRAMES["isotropic"])
    assert (decoded.labels == 2).sum() > 1000
    np.testing.assert_array_equal(decoded.labels, decoded_one_by_one(model, FRAMES["isotropic"]))


def test_an_empty_field_and_a_grid_beside_the_heart():
    nothing = FormulaModel(lambda p: p.norm(dim=1) + 0.1, lambda p: p, 3)
    assert not decode_label_map(HeartField(nothing, LATENTS), FRAMES["isotropic"]).labels.any()
    beside = frame_of((20, 20, 20), (1, 1, 1), centre_voxel=(500, 0, 0))
    decoded = decode_label_map(HeartField(ball(), LATENTS), beside)
    assert decoded.labels.shape == (20, 20, 20) and not decoded.labels.any() and decoded.queries == 0


def test_latents_shift_the_heart_and_go_through_the_stack_once():
    model = ball(radius=0.3, num_classes=1)
    calls = []
    process, model.process_latents = model.process_latents, lambda latents: calls.append(1) or process(latents)
    frame = FRAMES["isotropic"]
    labels = decode_label_map(HeartField(model, torch.tensor([[0.4, 0.0, 0.0]]), chunk=1000), frame).labels
    middle = np.argwhere(labels).mean(0)
    np.testing.assert_allclose(frame.voxel_to_unit(middle), [0.4, 0, 0], atol=0.01)
    assert len(calls) == 1


def test_values_in_chunks_are_those_of_the_formula():
    model = ball()
    points_unit = np.random.default_rng(0).uniform(-1, 1, (1001, 3)).astype(np.float32)
    sdf, logits = HeartField(model, LATENTS, chunk=100).values(points_unit)
    np.testing.assert_allclose(sdf, np.linalg.norm(points_unit, axis=1) - 0.7, atol=1e-6)
    assert logits.shape == (1001, 8) and model.largest_batch <= 100
