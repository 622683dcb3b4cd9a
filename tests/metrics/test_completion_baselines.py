"""Completion baselines on bodies whose sizes are linked or not: what is inferred is known by formula."""

import dataclasses

import numpy as np
import pytest
from helpers.linked_bodies import INNER, LINKED, LOOSE, bodies_case, linked_mm, write_bodies

from vecset.common.errors import InputError
from vecset.metrics import completion_baselines
from vecset.metrics.completion_baselines import NAMES, CompletionBaselines
from vecset.metrics.seen_heart import SeenHeart, Structures, frame_of, moved

RADII_MM = np.linspace(9, 14, 9)
HIDDEN = (LINKED, LOOSE)


def radius_mm(labels, case, class_id):
    return np.cbrt(np.count_nonzero(labels == class_id) * np.prod(case.frame.spacing_mm) * 3 / (4 * np.pi))


@pytest.fixture(scope="module", autouse=True)
def coarse():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completion_baselines, "GRID", 32)
        patch.setattr(completion_baselines, "TEMPLATE_GRID", 20)
        yield


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Nine hearts of bodies; the ball and the ellipsoid will be given."""
    folder = tmp_path_factory.mktemp("bodies")
    loose = np.random.default_rng(3).permutation(np.linspace(5, 9, 9))
    return [write_bodies(folder / f"t{k}.npz", r, loose_mm=q) for k, (r, q) in enumerate(zip(RADII_MM, loose))]


@pytest.fixture(scope="module")
def fitted(paths):
    return CompletionBaselines(paths, 4).fit((INNER, 4), HIDDEN)


@pytest.fixture(scope="module")
def linked_alone(paths):
    return CompletionBaselines(paths, 4).fit((INNER, 4), (LINKED,))


@pytest.mark.parametrize("r", [9.7, 13.4])
@pytest.mark.parametrize("image", [{}, dict(flip=(-1, 1, 1), order=(2, 0, 1), spacing=(1.5, 2.0, 2.6), turn_deg=20)])
def test_posterior_shape_recovers_the_size_that_the_given_part_tells(fitted, r, image):
    case = bodies_case(r, loose_mm=9, **image)
    answer = fitted.answer(SeenHeart.of_case(case, (INNER, 4), HIDDEN))
    found = answer.labels("posterior_shape")
    truth = case.truth_labels()
    assert found.shape == truth.shape
    assert radius_mm(found, case, LINKED) == pytest.approx(linked_mm(r), abs=0.6)
    average = answer.labels("mean_shape")
    assert abs(radius_mm(average, case, LINKED) - linked_mm(r)) > 1
    both = np.count_nonzero((found == LINKED) & (truth == LINKED))
    assert 2 * both / (np.count_nonzero(found == LINKED) + np.count_nonzero(truth == LINKED)) > 0.85
    # the given structures are as given
    given = np.isin(truth, (INNER, 4))
    np.testing.assert_array_equal(found[given], truth[given])
    assert not np.isin(found[~given], (INNER, 4)).any()


def test_what_the_given_part_does_not_tell_is_average_and_its_spread_is_honest(fitted, linked_alone):
    case = bodies_case(12.0, loose_mm=9)
    answer = fitted.answer(SeenHeart.of_case(case, (INNER, 4), HIDDEN))
    assert radius_mm(answer.labels("posterior_shape"), case, LOOSE) == pytest.approx(7, abs=1)
    drawn = list(answer.samples("posterior_shape", 30, np.random.default_rng(0)))
    loose = [radius_mm(labels, case, LOOSE) for labels in drawn]
    truth = np.linspace(5, 9, 9).std()
    assert 0.5 * truth < np.std(loose) < 2 * truth
    other = linked_alone.answer(SeenHeart.of_case(case, (INNER, 4), (LINKED,)))
    linked = [
        radius_mm(labels, case, LINKED) for labels in other.samples("posterior_shape", 10, np.random.default_rng(0))
    ]
    assert np.std(linked) < 0.3 * np.std(loose)
    again = list(answer.samples("posterior_shape", 2, np.random.default_rng(0)))
    np.testing.assert_array_equal(again, drawn[:2])


@pytest.mark.parametrize("name", NAMES)
def test_every_second_voxel_is_that_of_the_whole_grid(fitted, name):
    case = bodies_case(12.0, loose_mm=9, order=(2, 0, 1), spacing=(1.5, 2.0, 2.6), turn_deg=20)
    answer = fitted.answer(SeenHeart.of_case(case, (INNER, 4), HIDDEN))
    for found, whole in (
        (answer.labels(name, every=2), answer.labels(name)),
        *(zip(*(answer.samples(name, 2, np.random.default_rng(1), every=every) for every in (2, 1)))),
    ):
        # a voxel at which two scores are equal but for rounding may change
        assert np.count_nonzero(found != whole[::2, ::2, ::2]) <= 1 and np.isin(HIDDEN, found).all()


def test_nearest_heart_has_the_most_alike_given_part(fitted, paths):
    case = bodies_case(RADII_MM[6] + 0.1, loose_mm=5, spacing=(1.8, 1.8, 2.2))
    answer = fitted.answer(SeenHeart.of_case(case, (INNER, 4), HIDDEN))
    assert fitted.hearts[answer.nearest()[0]].path == paths[6]
    drawn = list(answer.samples("nearest_heart", 9, np.random.default_rng(0)))
    assert len({labels.tobytes() for labels in drawn}) == 9
    radii = [radius_mm(labels, case, LINKED) for labels in answer.samples("mean_shape", 9, np.random.default_rng(0))]
    assert np.ptp(radii) > 1  # of any of the training hearts


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_of_its_own_has_all_structures(fitted, name):
    case = bodies_case(12.0, loose_mm=7)
    answer = fitted.answer(SeenHeart.of_case(case, (INNER, 4), HIDDEN))
    found = answer.labels(name, whole=True)
    assert set(np.unique(found)) == {0, 1, 2, 3, 4}
    truth = case.truth_labels()
    for c in (INNER, LINKED, 4):
        both = np.count_nonzero((found == c) & (truth == c))
        assert 2 * both / (np.count_nonzero(found == c) + np.count_nonzero(truth == c)) > 0.75, c


def test_nothing_of_the_hidden_truth_reaches_an_answer(fitted):
    case = bodies_case(12.0, loose_mm=8)
    other = dataclasses.replace(case, truth_crop=case.truth_crop.copy())
    hidden = np.isin(other.truth_crop, HIDDEN)
    other.truth_crop[hidden] = 0
    other.truth_crop[2:5, 2:5, 2:5] = LOOSE
    answers = [fitted.answer(SeenHeart.of_case(c, (INNER, 4), HIDDEN)) for c in (case, other)]
    assert answers[0].place.tobytes() == answers[1].place.tobytes()
    for name in NAMES:
        for whole in (False, True):
            a, b = (answer.labels(name, whole) for answer in answers)
            np.testing.assert_array_equal(a, b)
        a, b = (list(answer.samples(name, 2, np.random.default_rng(1))) for answer in answers)
        np.testing.assert_array_equal(a, b)


def test_what_lies_beyond_the_unit_cube_of_the_given_part_is_inferred(paths):
    fitted = CompletionBaselines(paths, 4).fit((4,), (INNER,))
    case = bodies_case(12.0, loose_mm=7)
    seen = SeenHeart.of_case(case, (4,), (INNER,))
    corners = moved(np.linalg.inv(fitted.answer(seen).place), np.array([fitted.grid.low, fitted.grid.high]))
    unit = np.abs(frame_of(seen.labels, seen.affine).mm_to_unit(corners))
    assert unit.max() > 1.5
    found, truth = fitted.answer(seen).labels("posterior_shape"), case.truth_labels()
    both = np.count_nonzero((found == INNER) & (truth == INNER))
    assert 2 * both / (np.count_nonzero(found == INNER) + np.count_nonzero(truth == INNER)) > 0.5


def test_training_hearts_without_a_given_class_or_its_annotation_are_left_out(tmp_path, paths):
    without = write_bodies(tmp_path / "without.npz", 12.0, loose_mm=7, missing=(4,))
    no_linked = write_bodies(tmp_path / "no_linked.npz", 12.0, loose_mm=7, missing=(LINKED,))
    unknown = write_bodies(tmp_path / "unknown.npz", 12.0, loose_mm=7, missing=(LINKED,), annotated=(1, 3, 4))
    baselines = CompletionBaselines([*paths[:3], without, no_linked, unknown], 4)
    used = [heart.path for heart in baselines.usable((INNER, 4), (LINKED,))]
    assert used == [*paths[:3], no_linked]
    assert [heart.path for heart in baselines.usable((INNER,), (LOOSE,))][3:] == [without, no_linked, unknown]
    fitted = baselines.fit((INNER, 4), (LINKED,))
    # a structure that a heart lacks is far everywhere
    assert (fitted.distances[3, 2] == np.float32(completion_baselines.MOST)).all()
    with pytest.raises(InputError, match="1 of 2 training hearts have the given classes 1, 4 and annotations of 2"):
        CompletionBaselines([paths[0], without], 4).fit((INNER, 4), (LINKED,))


def test_absent_structures_are_not_invented(fitted, linked_alone):
    case = bodies_case(12.0, loose_mm=7, missing=(LOOSE,))
    answer = linked_alone.answer(SeenHeart.of_case(case, (INNER, 4), (LINKED,)))
    for name in NAMES:
        assert not (answer.labels(name) == LOOSE).any()
        assert not (answer.labels(name, whole=True) == LOOSE).any()
        assert not any((labels == LOOSE).any() for labels in answer.samples(name, 2, np.random.default_rng(0)))
    with pytest.raises(ValueError, match="these are for"):
        fitted.answer(answer.seen)


def test_what_cannot_be_seen_is_an_error_in_one_line():
    case = bodies_case(12.0, loose_mm=7, missing=(4,))
    with pytest.raises(InputError, match="no structure is given"):
        SeenHeart.of_case(case, ())
    with pytest.raises(InputError, match="class 4 is given but has no voxel"):
        SeenHeart.of_case(case, (1, 4))
    with pytest.raises(InputError, match="no structure is left"):
        SeenHeart.of_case(case, (1, 2, 3, 4))
    with pytest.raises(InputError, match="both given and"):
        SeenHeart.of_case(case, (1, 2), (2,))
    with pytest.raises(InputError, match="class 5 is not one of"):
        SeenHeart.of_case(case, (1, 5))


def test_class_distances_are_those_of_balls_on_any_grid():
    for image in (dict(), dict(flip=(1, -1, 1), order=(1, 2, 0), spacing=(1.2, 1.9, 4.0), turn_deg=35)):
        case = bodies_case(12.0, loose_mm=7, **image)
        structures = Structures.of(case.truth_labels(), case.frame.affine, 40.0)
        place = np.diag([1 / 40.0] * 3 + [1.0])
        points = np.random.default_rng(0).uniform(-1, 1, (4000, 3)).astype(np.float64)
        found = structures.distances(place, (INNER,), points + place[:3, :3] @ case.meta["centre_mm"], 0.3)[0]
        expected = np.clip(np.linalg.norm(points, axis=1) - 12 / 40, -0.3, 0.3)
        coarsest = case.frame.spacing_mm.max() / 40
        assert np.abs(found - expected).max() < 0.7 * coarsest
        assert np.abs(found - expected).mean() < 0.15 * coarsest


def test_alignment_undoes_a_turn_and_a_scale(fitted):
    """Two hearts that differ in size and pose alone come to lie on each other."""
    small, large = (bodies_case(12, 7, turn_body_deg=turn, size=size) for turn, size in ((0, 0.8), (14.0, 1.2)))
    centres = []
    for case in (small, large):
        seen = SeenHeart.of_case(case, (INNER, 4), HIDDEN)
        place = fitted.answer(seen).place
        truth = case.truth_labels()
        centres.append([moved(place @ case.frame.affine, np.argwhere(truth == c).mean(0)[None])[0] for c in (1, 4, 2)])
    np.testing.assert_allclose(centres[0], centres[1], atol=0.06)
