"""Decision tuning: the formula point by point, what the fit finds where the answer is known, and the way through the
commands."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.fake_model import FormulaModel
from helpers.formula_fields import FRAMES

from vecset.common.draws import random_stream
from vecset.common.errors import InputError
from vecset.data.listed_case import ListedCase
from vecset.fields.decision_tuning import DecisionTuning, read_decision_tuning, write_decision_tuning
from vecset.fields.decoding import decode_label_map
from vecset.fields.heart_field import HeartField
from vecset.fields.meshes import class_meshes
from vecset.inference.decision_tuning_samples import DrawnHeart, Sample, draw_voxels
from vecset.inference.decision_tuning_search import (
    OneClass,
    dice_per_class,
    dice_table,
    evenly_chosen,
    fit,
    slopes,
)

LATENTS, NONE = torch.zeros(1, 3), frozenset()


def ball_distance(points):
    return points.norm(dim=1) - 0.6


def rod_distance(points):
    """A rod of radius 0.05 beside the ball."""
    nearest = torch.stack(
        [torch.full_like(points[:, 0], 0.75), torch.zeros_like(points[:, 0]), points[:, 2].clamp(-0.4, 0.4)], 1
    )
    return (points - nearest).norm(dim=1) - 0.05


def timid_model():
    """What a distance learned by L1 does to a thin rod whose place is not certain: it is not there at all. The logits
    know of it, and call too much of its surroundings by its name."""
    return FormulaModel(
        lambda p: torch.minimum(ball_distance(p), rod_distance(p) + 0.06),
        lambda p: torch.stack([-20 * ball_distance(p), -20 * rod_distance(p) + 1.0], 1),
        2,
    )


def truth_on(frame):
    index = np.stack(np.meshgrid(*(np.arange(n) for n in frame.shape), indexing="ij"), -1).reshape(-1, 3)
    points = torch.from_numpy(frame.voxel_to_unit(index)).float()
    labels = torch.where(rod_distance(points) < 0, 2, torch.where(ball_distance(points) < 0, 1, 0))
    labels[(points.abs() > 1).any(1)] = 0
    return labels.numpy().astype(np.uint8).reshape(frame.shape)


def sample_of(field, frame, truth, seed=0):
    flat, weight = draw_voxels(truth, random_stream(seed, 0, "a", "calibrate"))
    places = frame.voxel_to_unit(np.stack(np.unravel_index(flat, truth.shape), -1)).astype(np.float32)
    return Sample(truth.ravel()[flat], weight, *map(torch.from_numpy, field.values(places))), places


def test_what_is_applied_is_the_formula_point_by_point():
    generator = torch.Generator().manual_seed(0)
    sdf, logits = torch.randn(50, generator=generator), torch.randn(50, 4, generator=generator) * 3
    offset, slope = np.float32([0.5, 0, -1, 0]), np.float32([0, 7, 0, 2])
    found_sdf, found_logits = DecisionTuning(offset, slope).apply(sdf, logits)
    for q in range(50):
        moved = [float(logits[q, c]) + float(offset[c]) for c in range(4)]
        candidates = [float(sdf[q])]
        candidates += [
            -(moved[c] - max([0.0] + [moved[j] for j in range(4) if j != c])) / float(slope[c]) for c in (1, 3)
        ]
        assert found_logits[q].tolist() == pytest.approx(moved, abs=1e-6)
        assert float(found_sdf[q]) == pytest.approx(min(candidates), abs=1e-6)


def test_many_offsets_of_one_class_have_the_dice_of_the_whole_formula():
    rng = np.random.default_rng(0)
    for classes in (1, 2, 5):
        truth = rng.integers(0, classes + 1, 400).astype(np.uint8)
        logits = torch.from_numpy(rng.normal(0, 2, (400, classes)).astype(np.float32))
        sdf = torch.from_numpy(rng.normal(0.3, 1, 400).astype(np.float32))
        sample = Sample(truth, rng.uniform(1, 5, 400), sdf, logits)
        for _ in range(5):
            offset, c = rng.normal(0, 1, classes).astype(np.float32), int(rng.integers(classes))
            deciding = frozenset(np.flatnonzero(rng.random(classes) < 0.5).tolist())
            fast = OneClass(sample, offset, deciding, c)
            for value, decides in ((-1.5, False), (0.0, True), (2.0, True)):
                offset[c] = value
                slow = dice_per_class(sample, offset, deciding - {c} | ({c} if decides else frozenset()))
                np.testing.assert_allclose(fast.dice(value, decides), slow, rtol=1e-12)


def test_without_offsets_and_slopes_nothing_changes_and_one_class_works():
    sdf, logits = torch.tensor([-1.0, 0.5]), torch.tensor([[1.0], [2.0]])
    for found, given in zip(
        DecisionTuning(np.zeros(1, np.float32), np.zeros(1, np.float32)).apply(sdf, logits), (sdf, logits)
    ):
        assert torch.equal(found, given)
    assert DecisionTuning(np.zeros(1, np.float32), np.ones(1, np.float32)).apply(sdf, logits)[0].tolist() == [
        -1.0,
        -2.0,
    ]


def test_drawn_voxels_stand_for_all_of_them():
    truth = truth_on(FRAMES["isotropic"])
    flat, weight = draw_voxels(truth, np.random.default_rng(0), per_stratum=500)
    assert len(np.unique(flat)) == len(flat)
    assert weight.sum() == pytest.approx(truth.size)
    drawn = np.bincount(truth.ravel()[flat], weight)
    np.testing.assert_allclose(drawn, np.bincount(truth.ravel()), rtol=1e-9, err_msg="each class is a stratum")
    near_rod = np.zeros(truth.shape, bool)
    where = np.argwhere(truth == 2)
    near_rod[tuple(slice(a - 2, b + 3) for a, b in zip(where.min(0), where.max(0)))] = True
    assert near_rod.ravel()[flat].mean() > 5 * near_rod.mean(), "what is near a thin class is drawn more densely"


def test_dice_of_a_sample_of_every_voxel_is_that_of_the_label_map():
    frame = FRAMES["isotropic"]
    truth, field = truth_on(frame), HeartField(timid_model(), LATENTS)
    flat, weight = draw_voxels(truth, np.random.default_rng(0), per_stratum=10**9)
    assert set(weight) == {1.0} and len(flat) == truth.size
    places = frame.voxel_to_unit(np.stack(np.unravel_index(flat, truth.shape), -1)).astype(np.float32)
    sample = Sample(truth.ravel()[flat], weight, *map(torch.from_numpy, field.values(places)))
    labels = decode_label_map(field, frame).labels
    expected = [2 * ((labels == c) & (truth == c)).sum() / ((labels == c).sum() + (truth == c).sum()) for c in (1, 2)]
    np.testing.assert_allclose(dice_per_class(sample, np.zeros(2), NONE), expected, rtol=1e-6)
    assert expected[1] < 0.05


@pytest.mark.parametrize("name", ["isotropic", "oblique, flipped, odd"])
def test_the_fit_finds_the_shift_and_the_class_that_must_decide_itself(name):
    frame, field = FRAMES[name], HeartField(timid_model(), LATENTS)
    truth = truth_on(frame)
    sample, places = sample_of(field, frame, truth)
    offset, deciding = fit([sample], [[True, True]])
    assert deciding == {1} and offset[0] == 0 and abs(offset[1] + 1) <= 0.25
    known = np.array([True, True])
    heart = DrawnHeart(ListedCase("a", Path("a.npz")), sample, field.values, places, known, ~known)
    slope = slopes([heart], offset, deciding)
    assert slope[0] == 0 and slope[1] == pytest.approx(20, rel=0.06)
    mended = HeartField(timid_model(), LATENTS, decision_tuning=DecisionTuning(offset, slope))
    decoded = decode_label_map(mended, frame)
    assert not decoded.dense and (decoded.labels != truth).mean() < 2e-4
    assert 2 * ((decoded.labels == 2) & (truth == 2)).sum() > 0.97 * ((decoded.labels == 2).sum() + (truth == 2).sum())


def test_meshes_follow_the_tuning():
    frame = FRAMES["isotropic"]
    tuning = DecisionTuning(np.float32([0, -1]), np.float32([0, 20]))
    assert 2 not in class_meshes(HeartField(timid_model(), LATENTS), frame, cells=64)
    mesh = class_meshes(HeartField(timid_model(), LATENTS, decision_tuning=tuning), frame, cells=64)[2]
    assert mesh.is_watertight
    unit_mm3 = (1 / frame.scale) ** 3
    expected = (np.pi * 0.05**2 * 0.8 + 4 / 3 * np.pi * 0.05**3) * unit_mm3
    assert mesh.volume == pytest.approx(expected, rel=0.05)


def test_what_needs_no_mending_and_what_was_not_annotated_is_left_alone():
    right = FormulaModel(
        lambda p: torch.minimum(ball_distance(p), rod_distance(p)),
        lambda p: torch.stack([-20 * ball_distance(p), -20 * rod_distance(p)], 1),
        2,
    )
    frame = FRAMES["isotropic"]
    truth = truth_on(frame)
    offset, deciding = fit([sample_of(HeartField(right, LATENTS), frame, truth)[0]], [[True, True]])
    assert deciding == NONE and not offset.any()
    offset, deciding = fit([sample_of(HeartField(timid_model(), LATENTS), frame, truth)[0]], [[True, False]])
    assert deciding == NONE and not offset.any(), "the rod was not annotated"


def test_a_structure_that_loses_by_the_tuning_is_named():
    """With an offset of b, b takes 10 of 100 voxels of a and 1 of 200 of c."""
    truth = np.repeat(np.uint8([1, 2, 3]), [100, 20, 200])
    logits = 3 * torch.eye(3)[torch.from_numpy(truth).long() - 1]
    logits[90:100, 1] = logits[120, 1] = 2.5
    sample = Sample(truth, np.ones(320), torch.full((320,), -1.0), logits)
    names, tuned = ["a", "b", "c"], np.float32([0, 1, 0])
    lines, record = dice_table([sample], [[True] * 3], names, tuned, NONE)
    a, b, c = 180 / 190, 40 / 51, 398 / 399
    losses = f"a ({a - 1:.3f}), b ({b - 1:.3f})"
    assert lines[-1] == f"note: worse than untuned by more than 0.01, for the best mean: {losses}"
    assert record == {"mean_dice_before": 1.0, "mean_dice_after": round((a + b + c) / 3, 4)}
    lines, _ = dice_table([sample], [[False, False, True]], names, tuned, NONE)
    assert "worse" not in lines[-1], "c loses 0.0025, and the others were not annotated"


def test_the_file_comes_back_and_one_of_another_checkpoint_is_refused(tmp_path):
    path, names = tmp_path / "c.json", ["a", "b"]
    write_decision_tuning(
        path, DecisionTuning(np.float32([0, -1]), np.float32([0, 20])), names, "abc", {"hearts": ["x"]}
    )
    back = read_decision_tuning(path, names, "abc")
    assert back.offset_C.tolist() == [0, -1] and back.slope_C.tolist() == [0, 20]
    assert json.loads(path.read_text())["hearts"] == ["x"]
    with pytest.raises(InputError, match="the decision tuning of another checkpoint"):
        read_decision_tuning(path, names, "abd")
    with pytest.raises(InputError, match="for a, c"):
        read_decision_tuning(path, ["a", "c"], "abc")
    for text in (
        "",
        "[]",
        "{}",
        '{"format": 1}',
        path.read_text().replace("-1.0", '"x"'),
        path.read_text().replace("20.0", "-20.0"),
        path.read_text().replace("20.0", "NaN"),
    ):
        bad = tmp_path / "bad.json"
        bad.write_text(text)
        with pytest.raises(InputError, match="bad.json"):
            read_decision_tuning(bad, names, "abc")
    with pytest.raises(InputError, match="no such file"):
        read_decision_tuning(tmp_path / "nowhere.json", names, "abc")


def test_hearts_are_chosen_evenly_and_of_every_data_set():
    def listed(dataset, count):
        return [ListedCase(f"{dataset}{i}", Path(f"{dataset}{i}.npz"), dataset=dataset) for i in range(count)]

    def names(cases, count):
        return [case.case_id for case in evenly_chosen(cases, count)]

    assert names(listed("", 9), 3) == ["0", "4", "8"] and names(listed("", 2), 8) == ["0", "1"]
    both = listed("A", 101) + listed("B", 3)
    assert names(both, 4) == ["B0", "B2", "A0", "A100"]
    assert names(both, 8) == ["B0", "B1", "B2", "A0", "A25", "A50", "A75", "A100"]
    assert names(both, 1) == ["B0", "A0"]
