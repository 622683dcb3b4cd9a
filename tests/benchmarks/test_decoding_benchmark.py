"""benchmarks/decoding.py: its measure is right, and breaks where decoding would be wrong."""

import importlib.util

import numpy as np
import pytest
import torch
from helpers.fake_model import FormulaModel, ball
from helpers.formula_fields import FRAMES, hidden_spots

from vecset.data.preparation import Options, build_case
from vecset.fields.decoding import CHECKED_SHARE, decode_label_map
from vecset.fields.heart_field import HeartField
from vecset.imaging.label_map import LabelMap
from vecset.phantom.phantom import PhantomOptions, make_phantom


@pytest.fixture(scope="module")
def decoding(repository):
    spec = importlib.util.spec_from_file_location("decoding", repository / "benchmarks" / "decoding.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def field_maker(model):
    return lambda: HeartField(model, torch.zeros(1, 3))


def test_what_is_lost_and_what_differs_is_counted(decoding):
    expected = np.zeros((30, 30, 30), np.uint8)
    expected[5:10, 5:10, 5:10] = 1
    expected[20, 20, 20] = expected[21, 21, 21] = 1  # one component: they touch in a corner
    expected[15, 15, 15] = 2
    labels = expected.copy()
    labels[20:22, 20:22, 20:22] = 0
    labels[15, 15, 15] = 3  # another class there: lost, too
    labels[29, 29, 0] = 1  # far from the foreground
    found = decoding.compare(labels, expected, 3)
    assert (found["components"], found["lost"]) == (3, 2)
    assert (found["band_differ"], found["differ"]) == (3, 4)
    assert 125 + 3 < found["band"] < 1000
    assert decoding.compare(expected, expected, 3)["lost"] == 0


def test_a_good_field_passes_and_half_a_percent_of_what_was_skipped_is_checked(decoding):
    figures = decoding.measure(field_maker(ball(num_classes=2)), FRAMES["isotropic"], 2)
    assert not decoding.complaints(figures, "trained", 96) and not figures["dense"]
    assert figures["checked"] == int(np.ceil(CHECKED_SHARE * figures["skipped"])) > 1000
    covered = figures["skipped"] + figures["interpolated"] + figures["queries"] - figures["checked"]
    assert covered >= figures["voxels"]
    assert "12" in " ".join(decoding.complaints({**figures, "fewer": 11.9}, "trained", 256))
    assert decoding.complaints({**figures, "lost": 1}, "trained", 96)
    assert decoding.complaints({**figures, "band_differ": 2e-4 * figures["band"]}, "random", 96)
    assert decoding.complaints({**figures, "checked": figures["checked"] - 1}, "trained", 96)


def test_the_check_takes_each_skipped_voxel_once_and_no_other():
    """Counted by the points that are asked after the last level; on a grid that reaches beyond the unit cube."""
    for name in ("oblique, flipped, odd", "larger than the cube"):
        model, frame, asked = ball(num_classes=2), FRAMES[name], []
        field = HeartField(model, torch.zeros(1, 3))

        def asking(points, query=field._raw, asked=asked):
            asked.append(points)
            return query(points)

        field._raw = asking
        decoded = decode_label_map(field, frame)
        points = np.concatenate(asked)
        checked, before = points[len(points) - decoded.checked :], points[: len(points) - decoded.checked]
        assert (np.abs(checked) <= 1).all() and len(np.unique(checked, axis=0)) == decoded.checked
        seen = {tuple(p) for p in np.round(before, 5)}
        assert not any(tuple(p) in seen for p in np.round(checked, 5))
        assert decoded.skipped <= decoded.voxels


def test_a_field_that_falls_back_fails_as_trained_and_passes_as_random(decoding):
    model = FormulaModel(lambda p: 0.6 - 3 * hidden_spots(p), lambda p: p, 3)
    field = HeartField(model, torch.zeros(1, 3))
    assert decode_label_map(field, FRAMES["isotropic"]).dense and field.fallbacks == 1
    figures = decoding.measure(field_maker(model), FRAMES["isotropic"], 3)
    assert figures["dense"] and figures["differ"] == 0 and figures["queries"] > figures["voxels"]
    assert not decoding.complaints(figures, "random", 96)
    assert "missed" in " ".join(decoding.complaints(figures, "trained", 96))


@pytest.mark.slow
def test_a_hearts_own_field_is_decoded_without_a_loss(decoding, tmp_path):
    labels, affine = make_phantom(0, 0, PhantomOptions(size=(96, 96, 96)))
    names = [f"c{c}" for c in range(1, 11)]
    case = build_case(
        LabelMap(labels, affine, tmp_path / "x.nii.gz", "", names, list(range(1, 11)), affine), Options(200, 200, 200)
    )
    truth = decoding.TruthField(case)
    figures = decoding.measure(lambda: decoding.TruthHeart(truth, 20000), decoding.cube_frame(case.frame, 96), 10)
    assert not decoding.complaints(figures, "truth", 96) and figures["components"] >= 10
    points_unit = case.frame.voxel_to_unit(np.argwhere(labels)).astype(np.float32)
    sdf, logits = truth.ask(points_unit)
    same = (sdf < 0) & (logits.argmax(1) + 1 == labels[labels > 0])
    assert same.mean() > 0.97  # what it stands for is the truth, but for what the smooth surface cuts off


@pytest.mark.parametrize("std", [0.1, 0.5])
def test_untrained_models_are_decoded_without_a_loss(decoding, std):
    """Random weights, outputs round 0: rough where they are small, noise where they are large."""
    from vecset.models.autoencoder import build_model

    torch.manual_seed(0)
    model = build_model("learnable_vec8x4_dim32_depth1_nb", 4)
    for parameter in model.parameters():
        parameter.data.normal_(0, std)
    latents = torch.randn(1, 8, 4)
    sdf, logits = HeartField(model, latents).values(np.random.default_rng(0).uniform(-1, 1, (2048, 3)))
    model.to_outputs[1].bias.data -= torch.from_numpy(np.median(np.column_stack([sdf, logits]), 0)).float()
    figures = decoding.measure(lambda: HeartField(model, latents), FRAMES["isotropic"], 4)
    assert not decoding.complaints(figures, "random", 96), figures
    assert figures["components"] > 10


def test_where_hardly_a_voxel_is_left_alone_all_are_decoded(decoding):
    """Noise: a few voxels of one component would be lost, and half a percent of a few is no check."""
    model = FormulaModel(lambda p: torch.sin(211 * p).prod(1) * 9, lambda p: torch.sin(173 * p), 3)
    figures = decoding.measure(field_maker(model), FRAMES["isotropic"], 3)
    assert figures["dense"] and figures["differ"] == 0 and figures["skipped"] < 0.1 * figures["voxels"]
    assert not decoding.complaints(figures, "random", 96)
    assert figures["queries"] < 1.3 * figures["voxels"]
