"""The field of a heart: classes that may not be drawn, tuned logits that decide, how far from the middle it goes."""

import numpy as np
import pytest
import torch
from helpers.fake_model import FormulaModel
from helpers.formula_hearts import CLASSES, centred_ball, make_heart

from vecset.fields.decision_tuning import DecisionTuning
from vecset.fields.decoding import decode_label_map
from vecset.fields.heart_field import HeartField
from vecset.fields.meshes import class_meshes, cube_round
from vecset.imaging.frame import Frame
from vecset.models.labels import UNKNOWN_LOGIT


def dense(field, frame):
    index = np.stack(np.unravel_index(np.arange(np.prod(frame.shape)), frame.shape), -1)
    return field.values(frame.voxel_to_unit(index))


@pytest.mark.parametrize("barred", [[3], [1, 6], [9]])
def test_a_class_that_may_not_be_drawn_leaves_background(barred):
    """Against the rule written out: background where it leads, every other voxel as it was. Coarse to fine agrees with
    every voxel, and the meshes with the label map."""
    _, frame = make_heart()
    drawn_C = ~np.isin(np.arange(1, CLASSES + 1), barred)
    model, latents = centred_ball(), torch.zeros(1, 3)
    free, field = HeartField(model, latents), HeartField(model, latents, drawn_C=drawn_C)
    sdf, logits = dense(free, frame)
    expected = np.where(sdf < 0, logits.argmax(1) + 1, 0)
    expected[np.isin(expected, barred)] = 0
    found = decode_label_map(field, frame)
    np.testing.assert_array_equal(found.labels.ravel(), expected)
    np.testing.assert_array_equal(decode_label_map(field, frame, coarse=1).labels.ravel(), expected)
    assert (dense(field, frame)[1][:, ~drawn_C] == np.float32(UNKNOWN_LOGIT)).all()
    meshes = class_meshes(field, frame, cells=40)
    assert set(meshes) == set(range(1, 9)) - set(barred)
    for c, mesh in class_meshes(free, frame, cells=40).items():
        if c not in barred:
            assert meshes[c].is_watertight and meshes[c].volume == pytest.approx(mesh.volume, rel=0.01)


def test_with_all_classes_drawn_the_field_is_the_same_to_the_bit():
    _, frame = make_heart()
    model, latents = centred_ball(), torch.zeros(1, 3)
    every = HeartField(model, latents, drawn_C=np.ones(CLASSES, bool))
    for found, expected in zip(dense(every, frame), dense(HeartField(model, latents), frame)):
        np.testing.assert_array_equal(found, expected)


def test_tuned_logits_decide_which_class_leads():
    """An offset that takes the lead from the class that may not be drawn gives its place to the other one."""
    model = FormulaModel(lambda p: p.norm(dim=1) - 0.5, lambda p: torch.stack([0 * p[:, 0], 1 + 0 * p[:, 0]], 1), 2)
    point, only = np.zeros((1, 3)), np.array([True, False])
    tuning = DecisionTuning(np.array([0.0, -2.0], np.float32), np.zeros(2, np.float32))
    for how, inside in ((None, False), (tuning, True)):
        sdf, _ = HeartField(model, torch.zeros(1, 3), decision_tuning=how, drawn_C=only).values(point)
        assert (sdf[0] < 0) == inside


def test_beyond_the_unit_cube_only_where_asked_for():
    """A ball of radius 1.5 in a frame of a part of it: label map and meshes are cut at the cube, or whole."""
    model = FormulaModel(lambda p: p.norm(dim=1) - 1.5, lambda p: torch.zeros(len(p), 1), 1)
    affine = np.diag([1.0, 1.5, 1.0, 1.0])
    frame = Frame(affine, (44, 30, 44), (21.0, 21.0, 21.0), 0.1)
    index = np.stack(np.unravel_index(np.arange(np.prod(frame.shape)), frame.shape), -1)
    ball = np.linalg.norm(frame.voxel_to_unit(index), axis=1) < 1.5
    cube = (np.abs(frame.voxel_to_unit(index)) <= 1).all(1)
    inner, part, whole = (HeartField(model, torch.zeros(1, 3), radius_unit=radius) for radius in (None, 1.31, 4.0))
    np.testing.assert_array_equal(decode_label_map(inner, frame).labels.ravel() > 0, ball & cube)
    within = np.linalg.norm(frame.voxel_to_unit(index), axis=1) <= 1.31
    cut = decode_label_map(part, frame)
    np.testing.assert_array_equal(cut.labels.ravel() > 0, within)
    assert cut.voxels == within.sum()
    labels = decode_label_map(whole, frame)
    np.testing.assert_array_equal(labels.labels.ravel() > 0, ball)
    assert not labels.dense and labels.voxels == index.shape[0]
    mesh = class_meshes(whole, frame, 40, cube_round(labels.labels, frame))[1]
    assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.02)
    np.testing.assert_allclose(mesh.center_mass, 21, atol=0.1)
