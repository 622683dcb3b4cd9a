"""What of a heart is seen: structures, half-space, slices; draws of it, and training items made of it."""

import dataclasses

import numpy as np
import pytest
from helpers.ball_cases import RADIUS, ball_case, ball_class_sdf, write_ball_cases

from vecset.common.errors import InputError
from vecset.common.structure_state import State
from vecset.data.case_file import write_case
from vecset.data.listed_case import read_split
from vecset.imaging.classes import default_class_names
from vecset.imaging.frame import Frame
from vecset.items.dataset import Augmentation, CaseDataset, PointCounts
from vecset.items.observation import (
    CUT_SHARE,
    FAR_SHARE,
    GROUPS,
    KINDS,
    LONGEST_SHIFT_MM,
    MOST_FEW,
    REACH_UNIT,
    SLICE_SPACING_MM,
    SLICE_THICKNESS_MM,
    Observation,
    Slices,
    far_queries,
    frame_of_seen,
    observation_draws,
    parse_observe,
)
from vecset.items.point_weights import point_weights

GIVEN, ABSENT, UNKNOWN, CUT = State
UNIT_PER_MM = 1 / 60


def points_on_a_ball(count, seed=0):
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return (0.8 * points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def points_in_a_ball(count, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-0.8, 0.8, (4 * count, 3))
    return points[np.linalg.norm(points, axis=1) < 0.8][:count]


# --- what is seen


def test_structures_that_are_not_given_are_not_seen():
    points, labels = points_on_a_ball(60), np.repeat(np.array([1, 2, 4], np.uint8), 20)
    seen = Observation(np.array([True, False, True, False]))
    rows, places = seen.see(points, labels)
    assert rows.tolist() == list(range(20)) and np.array_equal(places, points[:20]) and not seen.whole
    # 2 and 4 are left out, 3 was looked for and is not there
    annotated, cut = np.ones(4, bool), np.zeros(4, bool)
    assert seen.states(labels, annotated, cut, rows).tolist() == [GIVEN, UNKNOWN, ABSENT, UNKNOWN]
    assert seen.states(labels, annotated, ~cut, rows).tolist() == [CUT, UNKNOWN, ABSENT, UNKNOWN]
    not_3 = np.array([True, True, False, True])
    assert seen.states(labels, not_3, cut, rows).tolist() == [GIVEN, UNKNOWN, UNKNOWN, UNKNOWN]
    everything = Observation(np.ones(4, bool))
    assert everything.whole
    assert everything.states(labels, not_3, cut, np.arange(60)).tolist() == [GIVEN, GIVEN, UNKNOWN, GIVEN]


def test_a_half_space_cuts_some_structures_and_hides_others():
    points = np.array([[x, 0, 0] for x in (-0.5, -0.1, 0.1, 0.5, 0.7)], np.float32)
    labels = np.array([1, 2, 2, 3, 3], np.uint8)
    seen = Observation(np.ones(4, bool), half_space=(np.array([1.0, 0, 0]), 0.0))
    rows, places = seen.see(points, labels)
    assert rows.tolist() == [0, 1] and np.array_equal(places, points[:2])
    states = seen.states(labels, np.ones(4, bool), np.zeros(4, bool), rows)
    assert states.tolist() == [GIVEN, CUT, UNKNOWN, ABSENT]  # 3 lies beyond: not known to be there


def test_slices_show_the_feet_of_near_points_displaced_in_the_plane():
    points, labels = points_on_a_ball(5000), np.ones(5000, np.uint8)
    normals = np.array([[0, 0, 1.0], [0, 0, 1.0], [1.0, 0, 0]])
    shifts = np.array([[0.1, 0, 0], [0, 0, 0], [0, 0.02, 0.03]])
    planes = Slices(normals, np.array([0.2, -0.4, 0.0]), 0.02, shifts)
    rows, places = Observation(np.ones(1, bool), slices=planes).see(points, labels)
    expected = {}
    for row, point in enumerate(points.astype(float)):  # the reference: one point and one plane at a time
        away = [float(n @ point - d) for n, d in zip(normals, planes.offsets)]
        k = int(np.argmin(np.abs(away)))
        if abs(away[k]) <= 0.02:
            expected[row] = point - away[k] * normals[k] + shifts[k]
    assert rows.tolist() == sorted(expected) and 100 < len(rows) < 1000
    np.testing.assert_allclose(places, [expected[r] for r in rows], atol=1e-6)
    states = Observation(np.ones(2, bool), slices=planes).states(labels, np.ones(2, bool), np.zeros(2, bool), rows)
    assert states.tolist() == [CUT, ABSENT]


def test_the_frame_of_what_is_seen_is_that_of_a_surface():
    points = points_on_a_ball(400)[:200] * [0.5, 0.3, 0.9] + [0.2, 0.1, -0.3]
    centre, factor = frame_of_seen(points)
    frame = Frame.from_surface(np.eye(4), (9, 9, 9), points)
    np.testing.assert_allclose((points - centre) * factor, frame.mm_to_unit(points), atol=1e-6)


# --- draws


def test_what_is_drawn_has_the_probabilities_asked_for():
    labels = np.repeat(np.arange(1, 11, dtype=np.uint8), 5)
    draws = observation_draws("classes=0.3,right=0.1,cut=0.2,slices=0.1", default_class_names(10))
    rng, inside = np.random.default_rng(0), points_in_a_ball(500)
    found = [draws.draw(rng, labels, np.ones(10, bool), inside, UNIT_PER_MM) for _ in range(2000)]
    left_out = [tuple(np.flatnonzero(~o.given) + 1) for o in found]
    shares = {
        "whole": np.mean([o.whole for o in found]),
        "cut": np.mean([o.half_space is not None for o in found]),
        "slices": np.mean([o.slices is not None for o in found]),
        "right": np.mean([ids == (4, 5, 7) for ids in left_out]),
        "classes": np.mean([bool(ids) and ids != (4, 5, 7) for ids in left_out]),
    }
    expected = {"whole": 0.3, "cut": 0.2, "slices": 0.1, "right": 0.1, "classes": 0.3}
    assert shares == pytest.approx(expected, abs=0.035)
    numbers = [len(ids) for ids in left_out if ids and ids != (4, 5, 7)]
    assert set(numbers) == {1, 2, 3, 4, 5} and np.bincount(numbers).max() < 0.3 * len(numbers)


def test_few_shows_one_to_four_structures_that_are_there():
    labels = np.repeat(np.array([1, 2, 4, 5, 7, 9], np.uint8), 5)
    annotated = np.arange(1, 11) != 9
    draws, rng = observation_draws("few=1", default_class_names(10)), np.random.default_rng(0)
    given = [draws.draw(rng, labels, annotated, points_in_a_ball(9), UNIT_PER_MM).given for _ in range(300)]
    numbers = [int(g.sum()) for g in given]
    assert set(numbers) == set(range(1, MOST_FEW + 1)) and np.bincount(numbers).max() < 0.35 * len(numbers)
    assert set(np.flatnonzero(np.any(given, 0)) + 1) == {1, 2, 4, 5, 7}


# --- what is round about


def test_places_round_about_are_as_far_from_a_ball_as_they_are():
    """Against the formula, the regions a ball and its upper half; where no point lies on a surface, still not less."""
    rng, points = np.random.default_rng(0), points_on_a_ball(4000)
    half = np.where(points[:, 2] >= 0, 0, np.abs(points[:, 2]))  # to the half ball, at most
    places, away = far_queries(points, np.stack([np.zeros(4000), half], 1).astype(np.float32), 400, rng)
    assert places.shape == (400, 3) and away.shape == (400, 2) and places.dtype == away.dtype == np.float32
    length = np.linalg.norm(places, axis=1)
    assert length.max() <= REACH_UNIT and np.quantile(length, [0.25, 0.5, 0.75]) == pytest.approx(
        np.array([0.25, 0.5, 0.75]) * REACH_UNIT, rel=0.15
    )
    outside = length > 0.8
    np.testing.assert_allclose(away[outside, 0], length[outside] - 0.8, atol=0.01)
    above = outside & (places[:, 2] > 0)
    np.testing.assert_allclose(away[above, 1], length[above] - 0.8, atol=0.01)
    assert (away[outside, 1] >= away[outside, 0] - 1e-6).all()
    inner = far_queries(0.5 * points, np.full((4000, 1), -0.4, np.float32), 400, np.random.default_rng(0))[1][:, 0]
    np.testing.assert_allclose(inner[outside], length[outside] - 0.8, atol=0.01)  # points inside do as well


def test_cuts_leave_70_to_90_per_cent_of_the_volume():
    draws = observation_draws("cut=1", ["a"])
    rng, inside = np.random.default_rng(1), points_in_a_ball(2000)
    shares, normals = [], []
    for _ in range(200):
        normal, offset = draws.draw(rng, np.ones(9, np.uint8), np.ones(1, bool), inside, UNIT_PER_MM).half_space
        shares.append((inside @ normal > offset).mean())
        normals.append(normal)
    assert CUT_SHARE[0] - 0.01 < min(shares) < 0.12 and 0.28 < max(shares) < CUT_SHARE[1] + 0.01
    assert np.abs(np.mean(normals, 0)).max() < 0.2  # of any direction


def test_slices_are_as_far_apart_and_displaced_as_they_say():
    draws = observation_draws("slices=1", ["a"])
    rng, inside = np.random.default_rng(2), points_in_a_ball(500)
    along, shifted = [], 0
    for _ in range(100):
        s = draws.draw(rng, np.ones(9, np.uint8), np.ones(1, bool), inside, UNIT_PER_MM).slices
        stack = np.abs(s.normals @ s.normals[0]) > 1 - 1e-9
        steps = np.diff(s.offsets[stack]) / UNIT_PER_MM
        assert SLICE_SPACING_MM[0] - 1e-6 <= steps.min() <= steps.max() <= SLICE_SPACING_MM[1] + 1e-6
        assert np.abs(s.normals[~stack] @ s.normals[0]).max(initial=0) < 1e-9
        along.append(int((~stack).sum()))
        assert s.half_thickness == pytest.approx(SLICE_THICKNESS_MM / 2 * UNIT_PER_MM)
        assert np.abs((s.shifts * s.normals).sum(1)).max() < 1e-12
        assert np.linalg.norm(s.shifts, axis=1).max() <= LONGEST_SHIFT_MM * UNIT_PER_MM
        shifted += bool(s.shifts.any())
    assert set(along) == {0, 1, 2} and 30 < shifted < 70


@pytest.mark.parametrize("kind", ["classes", "right"])
def test_where_nothing_would_be_left_the_whole_heart_is_seen(kind):
    names = ["RA", "RV", "PA"]
    draws, rng = observation_draws(f"{kind}=1", names), np.random.default_rng(0)
    labels = np.full(9, 2, np.uint8)  # one structure alone
    for _ in range(50):
        seen = draws.draw(rng, labels, np.ones(3, bool), points_in_a_ball(9), UNIT_PER_MM)
        assert seen.whole or (kind == "classes" and seen.given[1])


@pytest.mark.parametrize(
    "text, words",
    [
        ("classes", "'classes'"),
        ("chairs=0.1", "'chairs=0.1'"),
        ("cut=a", "'cut=a'"),
        ("cut=-0.1", "'cut=-0.1'"),
        ("cut=nan", "'cut=nan'"),
        ("cut=0.1,cut=0.2", "'cut=0.2'"),
        ("cut=0.7,slices=0.4", "1.1"),
    ],
)
def test_other_text_is_one_clear_line(text, words):
    with pytest.raises(InputError) as caught:
        parse_observe(text)
    assert words in str(caught.value) and "--observe" in str(caught.value) and "\n" not in str(caught.value)


def test_groups_go_by_names():
    assert set(GROUPS) < set(KINDS) and observation_draws("", ["a"]) is None
    turned = ["PA", "other", "RV", "RA"]
    assert observation_draws("right=0.5", turned).groups == {"right": (4, 3, 1)}
    assert observation_draws("right=0", ["other"]).groups == {}
    with pytest.raises(InputError, match="--observe right: the cases have no class PA"):
        observation_draws("right=0.5", ["RA", "RV"])


# --- items

NAMES = ["RA", "RV", "PA", "LV"]


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    folder = write_ball_cases(tmp_path_factory.mktemp("seen"), num_classes=4, class_names=NAMES, class_distances=True)
    return read_split(folder / "train.csv", folder, None)


def dataset(entries, text="", training=True, **options):
    counts = PointCounts(100, 20, 30, 40, decoded_surface=30, eikonal=8)
    draws = observation_draws(text, NAMES)
    return CaseDataset(entries, counts, 7, training, balance=0.5, with_states=True, observations=draws, **options)


def test_an_item_that_sees_all_is_the_item_without_states(entries):
    plain = CaseDataset(entries, PointCounts(100, 20, 30, 40, decoded_surface=30, eikonal=8), 7, True, balance=0.5)
    item, without = dataset(entries)[2, 1], plain[2, 1]
    assert item["states"].tolist() == [GIVEN] * 4 and item["states"].dtype == np.int64
    assert np.array_equal(item["seen_points"], without["surface_points"])
    assert all(np.array_equal(item[name], value) for name, value in without.items())
    validation = dataset(entries, "cut=1", training=False)[2, 1]
    assert validation["states"].tolist() == [GIVEN] * 4


def test_points_have_weights_where_a_part_is_hidden(entries):
    """In the order of the decoded points, the augmentation's frame and all; an item of which all is seen has ones."""
    hidden = dataset(entries, "few=1", augmentation=Augmentation(20, 0.1))
    for index in range(3):
        item = hidden[2, index]
        points = np.concatenate([item["query_points"], item["surface_points"][item["surface_decoded"]]])
        expected = point_weights(points, item["seen_points"])
        assert np.array_equal(item["point_weights"], expected) and expected.std() > 0.1 and (expected > 0).all()
    whole = dataset(entries, "few=0.0001", augmentation=Augmentation(20, 0.1))[2, 1]
    assert (whole["point_weights"] == 1).all() and whole["point_weights"].shape == (120,)
    assert "point_weights" not in dataset(entries, "few=1", training=False)[2, 1]


def test_training_is_told_what_the_field_of_view_cuts_as_inference_is(tmp_path):
    case = ball_case(3, num_classes=4, class_names=NAMES, missing=(2,))
    case.meta["border_classes"] = [3]
    write_case(tmp_path / "cut.npz", case)
    (tmp_path / "train.csv").write_text("case_id,file\ncut,cut.npz\n")
    listed = read_split(tmp_path / "train.csv", tmp_path, None)
    states = dataset(listed)[0, 0]["states"]
    assert states.tolist() == case.states.tolist() == [GIVEN, ABSENT, CUT, GIVEN]


@pytest.mark.parametrize("text", ["classes=1", "right=1", "cut=1", "slices=1"])
@pytest.mark.parametrize("augmentation", [None, Augmentation(20, 0.1)])
def test_targets_are_the_whole_heart_in_the_frame_of_what_is_seen(entries, text, augmentation):
    options = dict(class_distances=True, augmentation=augmentation)
    item, whole = dataset(entries, text, **options)[3, 0], dataset(entries, "", **options)[3, 0]
    for name in ("query_labels", "query_group", "surface_labels", "surface_decoded", "surface_normals"):
        assert np.array_equal(item[name], whole[name]), name
    kept = np.arange(90) >= 50 + 40 * FAR_SHARE  # some outside points lie round about instead
    kept |= np.arange(90) < 50
    queries, surface = (np.linalg.norm(np.diff(i["query_points"][kept], axis=0), axis=1) for i in (item, whole))
    factor = float(np.median(queries / surface))
    np.testing.assert_allclose(queries, surface * factor, rtol=1e-4)
    np.testing.assert_allclose(item["query_sdf"][kept], whole["query_sdf"][kept] * factor, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(item["surface_class_sdf"], whole["surface_class_sdf"] * factor, rtol=1e-3, atol=1e-6)
    move = item["query_points"][0] - whole["query_points"][0] * factor
    np.testing.assert_allclose(item["surface_points"], whole["surface_points"] * factor + move, atol=1e-4)
    assert item["seen_points"].shape == (100, 3) and item["seen_points"].dtype == np.float32
    assert set(item["seen_labels"]) <= set(np.flatnonzero(item["states"] != UNKNOWN) + 1)
    if augmentation is None:  # the points drawn are some of those that the frame is of
        assert np.linalg.norm(item["seen_points"], axis=1).max() < 0.9501
    if text == "right=1":
        assert item["states"].tolist() == [UNKNOWN] * 3 + [GIVEN] and set(item["seen_labels"]) == {4}


@pytest.mark.parametrize("text", ["classes=1", "few=1", "classes=0"])
def test_a_quarter_of_the_outside_points_lies_round_about(entries, text):
    """Beyond the case's cube, at the distances of the ball and of its slabs, by formulas."""
    found = []
    for epoch in range(8):
        item = dataset(entries, text, class_distances=True)[epoch, 0]
        plain = dataset(entries, class_distances=True)[epoch, 0]
        steps = [np.linalg.norm(np.diff(i["query_points"][:50], axis=0), axis=1) for i in (item, plain)]
        factor = float(np.median(steps[0] / steps[1]))
        move = item["query_points"][0] - plain["query_points"][0] * factor
        places = (item["query_points"] - move) / factor  # in the frame of the whole heart
        moved = np.linalg.norm(places - plain["query_points"], axis=1) > 1e-4
        assert not moved[:50].any() and moved.sum() <= 10 and (np.abs(places[moved]) > 1).any(1).all()
        assert (item["query_labels"][moved] == 0).all()
        assert (np.linalg.norm(item["query_points"][moved], axis=1) <= REACH_UNIT).all()
        true = np.linalg.norm(places[moved], axis=1) - RADIUS
        np.testing.assert_allclose(item["query_sdf"][moved] / factor, true, atol=0.15)  # of 100 surface points,
        assert (item["query_sdf"][moved] / factor > true - 1e-3).all()  # so rather farther than nearer
        slabs = ball_class_sdf(places[moved], np.zeros(moved.sum()), 4).astype(float)
        np.testing.assert_allclose(item["query_class_sdf"][moved] / factor, slabs, atol=0.2)
        found.append(moved.sum())
    assert np.mean(found) > 4


def test_what_is_hidden_does_not_reach_the_encoder(tmp_path, entries):
    """The truth of hidden structures is changed; what is seen, its frame and the states stay the same to the bit."""
    case = ball_case(0, 4, class_names=NAMES, class_distances=True)
    hidden = np.isin(case.arrays["surface_labels"], (1, 2, 3))
    case.arrays["surface_points"] = np.where(hidden[:, None], 0.5, 1) * case.arrays["surface_points"]
    case.arrays["surface_points"] = case.arrays["surface_points"].astype(np.float32)
    path = tmp_path / entries[0].path.name
    write_case(path, case)
    changed = dataset([dataclasses.replace(entries[0], path=path)], "right=1")[3, 0]
    item = dataset(entries, "right=1")[3, 0]
    for name in ("seen_points", "seen_labels", "states", "query_points"):
        assert np.array_equal(item[name], changed[name]), name
    assert not np.array_equal(item["surface_points"], changed["surface_points"])


def test_some_items_have_numbers_for_two_answers_and_some_zeros(entries):
    several = dataset(entries, "cut=1", answer_numbers=3)
    found = [several[epoch, index] for epoch in range(40) for index in range(2)]
    numbers = np.stack([item["answer_noise"] for item in found])
    assert numbers.shape == (80, 2, 3) and numbers.dtype == np.float32
    zeros = (numbers == 0).all((1, 2))
    assert 0.15 < zeros.mean() < 0.45 and numbers[~zeros].std() == pytest.approx(1, abs=0.1)
    assert np.abs(np.corrcoef(numbers[~zeros].reshape(-1, 6).T) - np.eye(6)).max() < 0.45
    plain = dataset(entries, "cut=1")[3, 0]
    assert all(np.array_equal(several[3, 0][name], value) for name, value in plain.items())
    assert "answer_noise" not in dataset(entries, "cut=1", training=False, answer_numbers=3)[3, 0]


def test_draws_differ_by_epoch_and_are_the_same_again(entries):
    text = "classes=0.4,cut=0.3,slices=0.3"
    one, other = dataset(entries, text), dataset(entries, text, cache="none")
    states = [tuple(one[epoch, 0]["states"]) for epoch in range(12)]
    assert len(set(states)) > 2 and states == [tuple(other[epoch, 0]["states"]) for epoch in reversed(range(12))][::-1]
