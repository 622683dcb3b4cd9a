"""Baselines for cut hearts, on bodies of which one is linked to another: what lies beyond the plane is known."""

import numpy as np
import pytest
from helpers.linked_bodies import CENTRE_MM, INNER, LINKED, bodies_case, linked_mm, write_bodies

from vecset.metrics import completion_baselines
from vecset.metrics.completion_baselines import NAMES, CompletionBaselines
from vecset.metrics.cut_baselines import CutBaselines

RADII_MM = np.linspace(9, 14, 9)
NORMAL = np.array([1.0, 0.0, 0.0])
OFFSET_MM = CENTRE_MM[0] + 15  # behind the first ball, before most of the linked one


@pytest.fixture(scope="module")
def cuts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bodies")
    loose = np.random.default_rng(3).permutation(np.linspace(5, 9, 9))
    paths = [write_bodies(folder / f"t{k}.npz", r, loose_mm=q) for k, (r, q) in enumerate(zip(RADII_MM, loose))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completion_baselines, "GRID", 32)
        patch.setattr(completion_baselines, "TEMPLATE_GRID", 20)
        yield CutBaselines(CompletionBaselines(paths, 4), (1, 2, 3, 4))


def answer_of(cuts, case, labels=None):
    return cuts.answer(case.truth_labels() if labels is None else labels, case.frame.affine, NORMAL, OFFSET_MM)


@pytest.mark.parametrize("r", [9.7, 13.4])
def test_the_seen_part_tells_the_size_of_what_lies_beyond(cuts, r):
    case = bodies_case(r, loose_mm=7, flip=(-1, 1, 1), order=(2, 0, 1), spacing=(1.5, 2.0, 2.6), turn_deg=20)
    answer, truth = answer_of(cuts, case), case.truth_labels()
    index = np.stack(np.meshgrid(*(np.arange(n) for n in truth.shape), indexing="ij"), -1)
    np.testing.assert_array_equal(answer.beyond, case.frame.voxel_to_mm(index)[..., 0] > OFFSET_MM)
    for name in NAMES:
        found = answer.labels(name)
        np.testing.assert_array_equal(found[~answer.beyond], truth[~answer.beyond])
        assert (found[answer.beyond] == LINKED).any() and not (found[answer.beyond] == INNER).any()
    found = answer.labels("posterior_shape")
    inside = np.count_nonzero((found == LINKED) & answer.beyond)
    true = np.count_nonzero((truth == LINKED) & answer.beyond)
    assert np.cbrt(inside / true) * linked_mm(r) == pytest.approx(linked_mm(r), abs=0.8)
    both = np.count_nonzero((found == LINKED) & (truth == LINKED) & answer.beyond)
    assert 2 * both / (inside + true) > 0.85
    nearest = RADII_MM[answer.nearest()[0]]
    assert abs(nearest - r) < 1.3


def test_nothing_beyond_the_plane_reaches_an_answer(cuts):
    case = bodies_case(12.0, loose_mm=7)
    truth = case.truth_labels()
    first = answer_of(cuts, case)
    mutated = np.where(first.beyond, np.roll(truth, 5, 1), truth)
    mutated[first.beyond & (np.indices(truth.shape).sum(0) % 7 == 0)] = 3
    second = answer_of(cuts, case, mutated)
    assert not np.array_equal(truth, mutated)
    np.testing.assert_array_equal(first.place, second.place)
    for name in NAMES:
        np.testing.assert_array_equal(first.labels(name), second.labels(name))
    with pytest.raises(ValueError, match="want one of"):
        first.labels("mean")
