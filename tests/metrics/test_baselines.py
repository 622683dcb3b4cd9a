"""Mean shape and nearest training heart, against looking up point by point, and where the answer is known."""

import time

import numpy as np
import pytest

from vecset.common.errors import InputError
from vecset.data.case_file import Case, write_case
from vecset.imaging.frame import Frame
from vecset.imaging.resampling import resample_nearest
from vecset.metrics import baselines
from vecset.metrics.overlap import mean_over_classes

NAMES = ["inner", "outer", "rare"]


def make_case(
    folder,
    name,
    radius_mm=20.0,
    inner=0.5,
    rare=False,
    size=48,
    spacing=1.0,
    turn_deg=0.0,
    order=(0, 1, 2),
    flip=(1, 1, 1),
    annotated=(1, 2, 3),
):
    """A ball in a shell round (7, -3, 40) mm, on any grid; `rare`: a third class in one quarter."""
    a = np.deg2rad(turn_deg)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = (turn @ np.diag(np.array(flip, float) * spacing))[:, order]
    middle_mm = np.array([7.0, -3.0, 40.0])
    shape = np.array([size, size + 4, size - 2])
    affine[:3, 3] = middle_mm - affine[:3, :3] @ ((shape - 1) / 2 + 0.3)
    frame = Frame(affine, shape, middle_mm, 0.95 / radius_mm)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    away_mm = frame.voxel_to_mm(index) - middle_mm
    distance_mm = np.linalg.norm(away_mm, axis=-1)
    labels = np.select([distance_mm < inner * radius_mm, distance_mm < radius_mm], [1, 2], 0).astype(np.uint8)
    if rare:
        labels[(labels == 2) & (away_mm[..., 0] > 0) & (away_mm[..., 1] > 0)] = 3
    case = Case(
        arrays={"surface_points": np.zeros((1, 3), np.float32), "surface_labels": np.ones(1, np.uint8)},
        frame=frame,
        truth_crop=labels,
        truth_origin=np.zeros(3, int),
        meta={"classes": 3, "class_names": NAMES, "annotated_classes": list(annotated)},
    )
    path = folder / f"{name}.npz"
    write_case(path, case)
    return path


@pytest.mark.parametrize("grid", [dict(), dict(turn_deg=25.0), dict(order=(2, 0, 1), flip=(-1, 1, -1), spacing=1.3)])
def test_looking_up_equals_looking_up_point_by_point(tmp_path, grid):
    source = baselines.read_truth(make_case(tmp_path, "source", rare=True, **grid))
    target = baselines.read_truth(make_case(tmp_path, "target", radius_mm=23.0, size=40, spacing=1.4))
    to_unit, truth = baselines._source_box(target)
    to_index = np.linalg.inv(baselines._crop_to_unit(source)) @ to_unit
    found = resample_nearest(source.truth_crop, to_index, truth.shape)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in truth.shape), indexing="ij"), -1).reshape(-1, 3)
    points_unit = index @ to_unit[:3, :3].T + to_unit[:3, 3]
    nearest, inside = source.frame.nearest_voxel(points_unit)
    expected = np.zeros(len(index), np.uint8)
    expected[inside] = source.truth_labels()[tuple(nearest[inside].T)]
    assert (found.ravel() != expected).mean() < 1e-4  # rounding of halves may fall either way
    assert set(np.unique(found)) == {0, 1, 2, 3}


def test_the_unit_grid_is_the_truth_in_its_frame(tmp_path):
    for grid in (dict(), dict(turn_deg=40.0, spacing=0.9), dict(order=(1, 2, 0), flip=(1, -1, -1))):
        case = baselines.read_truth(make_case(tmp_path, "a", **grid))
        labels = baselines._on_unit_grid(case, 32).reshape(32, 32, 32)
        axis = (np.arange(32) + 0.5) / 16 - 1
        radius = np.sqrt(sum(a**2 for a in np.meshgrid(axis, axis, axis, indexing="ij")))
        sure = (np.abs(radius - 0.475) > 0.07) & (np.abs(radius - 0.95) > 0.07)
        expected = np.select([radius < 0.475, radius < 0.95], [1, 2], 0)
        np.testing.assert_array_equal(labels[sure], expected[sure])


def test_mean_shape_is_the_label_most_have_and_nearest_heart_the_most_alike(tmp_path):
    paths = [make_case(tmp_path, f"t{k}", inner=inner, turn_deg=10 * k) for k, inner in enumerate((0.4, 0.42, 0.7))]
    truths = baselines.read_truths(paths, 3)
    assert truths.mean_labels.shape == (baselines.MEAN_GRID**3,) and not (truths.mean_labels == 3).any()
    heart = baselines.read_truth(make_case(tmp_path, "v", radius_mm=17.0, inner=0.68, spacing=0.9))
    scores = baselines.baseline_scores(truths, heart, NAMES)
    assert scores["nearest_heart_file"] == "t2.npz"
    nearest, mean = scores["nearest_heart"], scores["mean_shape"]
    assert nearest[0]["dice"] > 0.9 and nearest[1]["dice"] > 0.9 and nearest[3]["dice"] > 0.97
    # the mean shape's inner ball is that of the two small ones: radius 0.42 against 0.68
    assert mean[0]["dice"] == pytest.approx(2 * 0.42**3 / (0.42**3 + 0.68**3), abs=0.04)
    assert mean_over_classes(nearest) > mean_over_classes(mean)
    assert [r["status"] for r in mean] == ["ok", "ok", "absent", "ok"]


def test_the_status_rule_is_that_of_the_model(tmp_path):
    truths = baselines.read_truths([make_case(tmp_path, "t")], 3)
    scores = baselines.baseline_scores(truths, baselines.read_truth(make_case(tmp_path, "v", rare=True)), NAMES)
    assert scores["mean_shape"][2]["status"] == "missed" and scores["nearest_heart"][2]["dice"] == 0
    masked = baselines.read_truth(make_case(tmp_path, "w", rare=True, annotated=(1, 2)))
    assert baselines.baseline_scores(truths, masked, NAMES)["mean_shape"][2]["status"] == "not annotated"


def test_nearest_on_the_search_grid_equals_scoring_each(tmp_path):
    paths = [make_case(tmp_path, f"t{k}", inner=0.3 + 0.1 * k, rare=k % 2 == 0) for k in range(5)]
    truths = baselines.read_truths(paths, 3)
    labels = baselines._on_unit_grid(baselines.read_truth(make_case(tmp_path, "v", inner=0.52)), baselines.SEARCH_GRID)
    from vecset.metrics.overlap import score

    slow = [mean_over_classes(score(labels, row, NAMES)) for row in truths.search]
    np.testing.assert_allclose(baselines._mean_dice(truths, labels, [1, 2, 3]), slow, atol=1e-12)


def test_refuses_cases_without_a_truth_and_of_other_classes(tmp_path):
    path = make_case(tmp_path, "t")
    with pytest.raises(InputError, match="4 classes"):
        baselines.read_truths([path], 4)
    np.savez(tmp_path / "old.npz", surface_points=np.zeros((2, 3), np.float32), surface_labels=np.eye(3)[:2])
    with pytest.raises(InputError, match="frame"):
        baselines.read_truths([tmp_path / "old.npz"], 3)


def test_fingerprint_changes_with_the_files(tmp_path):
    paths = [make_case(tmp_path, "a"), make_case(tmp_path, "b")]
    first = baselines.fingerprint(paths)
    assert baselines.fingerprint(paths[::-1]) == first != baselines.fingerprint(paths[:1])
    make_case(tmp_path, "b", inner=0.6, size=50)
    assert baselines.fingerprint(paths) != first


@pytest.mark.slow
def test_64_training_and_16_validation_hearts_take_under_30_s_of_one_core(tmp_path):
    paths = 16 * [make_case(tmp_path, f"t{k}", size=128, radius_mm=58, inner=0.4 + 0.1 * k) for k in range(4)]
    hearts = 16 * [baselines.read_truth(make_case(tmp_path, "v", size=128, radius_mm=55))]
    start = time.process_time()
    truths = baselines.read_truths(paths, 3)
    for heart in hearts:
        baselines.baseline_scores(truths, heart, NAMES)
    assert time.process_time() - start < 30
