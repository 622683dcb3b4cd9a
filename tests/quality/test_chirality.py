"""Handedness of a heart: against the reference, with structures missing, and against other hearts without names."""

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vecset.imaging.classes import HEART_CLASSES
from vecset.phantom.phantom import make_phantom
from vecset.quality import chirality
from vecset.quality.case_checks import FileReport
from vecset.quality.population import check_population

MIRROR = np.array([-1, 1, 1])
# hand-written, laid out as in a body (RAS mm); not a phantom, and not the reference
PLACES = {"LA": (5, -30, 0), "LV": (-30, 5, -20), "RA": (35, 5, -15), "RV": (-5, 25, -20), "Aorta": (20, 5, 35)}


def centroids(places):
    """(centroids by class id as text, class names) as heart_handedness takes them."""
    names = list(places)
    return {str(i + 1): np.array(places[n], float) for i, n in enumerate(names)}, names


def phantom_centroids(seed, index):
    labels, affine = make_phantom(seed, index)
    places = np.argwhere(labels)
    values = labels[tuple(places.T)]
    sums = np.stack([np.bincount(values, weights=along) for along in places.T], 1)
    middles = sums[1:] / np.bincount(values)[1:, None]
    return dict(zip(HEART_CLASSES, middles @ affine[:3, :3].T + affine[:3, 3]))


@pytest.fixture(scope="module")
def hearts():
    return [phantom_centroids(7, index) for index in range(12)]


def slow_handedness(points, reference, weights):
    """The misfits themselves, by SciPy's rotation, residual after residual."""
    weights = weights / weights.sum()
    a, b = points - weights @ points, reference - weights @ reference

    def misfit(a):
        turned = Rotation.align_vectors(b, a, weights=weights)[0].apply(a)
        scale = (weights[:, None] * turned * b).sum() / (weights[:, None] * turned**2).sum()
        return (weights[:, None] * (scale * turned - b) ** 2).sum()

    turned, mirrored = misfit(a), misfit(a * MIRROR)
    return (mirrored - turned) / (mirrored + turned)


def test_against_the_reference():
    rng = np.random.default_rng(0)
    for n in (5, 7, 10):
        for _ in range(10):
            points, reference = rng.normal(size=(2, n, 3)) * 30
            weights = rng.uniform(0.2, 1, n)
            assert chirality.handedness(points, reference, weights) == pytest.approx(
                slow_handedness(points, reference, weights), abs=1e-6
            )
            # rotated, shifted, scaled: the same; mirrored: the negative
            turn = Rotation.random(rng=rng).as_matrix()
            first = chirality.handedness(points, reference, weights)
            assert chirality.handedness(1.7 * points @ turn.T + 40, reference, weights) == pytest.approx(first)
            assert chirality.handedness(points * MIRROR, reference, weights) == pytest.approx(-first)


def test_hearts_and_their_mirror_images(hearts):
    for places in [*hearts, PLACES]:
        turn = chirality.heart_handedness(*centroids(places))
        assert turn > (0.8 if len(places) == 10 else 0.4)
        mirrored = {n: np.asarray(p) * MIRROR for n, p in places.items()}
        assert chirality.heart_handedness(*centroids(mirrored)) == pytest.approx(-turn)


def test_whatever_structures_are_missing(hearts):
    """Every set of named structures that is judged is judged correctly, with a margin."""
    judged = 0
    for number in range(4, 11):
        for names in itertools.combinations(HEART_CLASSES, number):
            turns = [chirality.heart_handedness(*centroids({n: heart[n] for n in names})) for heart in hearts[:4]]
            if number < chirality.LEAST_STRUCTURES:
                assert turns == [None] * 4
            if turns[0] is not None:
                judged += 1
                assert min(turns) > 0.3, names
    assert judged > 500  # of 638 with five or more
    assert chirality.heart_handedness(*centroids({n: hearts[0][n] for n in HEART_CLASSES[:5]})) is None  # nearly flat


def reports_of(hearts, names):
    reports = []
    for i, heart in enumerate(hearts):
        report = FileReport(f"{i}", f"{i}.npz", class_names=names)
        report.facts = {
            "centroids_mm": {str(c): list(p) for c, p in enumerate(heart.values(), 1)},
            "volumes_ml": {},
            "rows": {"vol": 1},
            "radius_mm": 90.0,
        }
        reports.append(report)
    return reports


@pytest.mark.parametrize("names", [list(HEART_CLASSES), [f"class_{c}" for c in range(1, 11)]])
def test_one_mirrored_heart_among_good_ones(hearts, names):
    """With names each heart is judged alone; without, against the others."""
    reports = reports_of(hearts, names)
    for heart in reports[4].facts["centroids_mm"].values():
        heart[0] *= -1
    check_population(reports)
    bad = [(r.file, f["check"]) for r in reports for f in r.failed()]
    assert bad == [("4.npz", "handedness" if names[0] == "Myocardium" else "handedness_others")]


def test_all_mirrored(hearts):
    reports = reports_of([{n: p * MIRROR for n, p in heart.items()} for heart in hearts], list(HEART_CLASSES))
    check_population(reports)
    assert all({f["check"] for f in r.failed()} == {"handedness"} for r in reports)


def test_structures_without_a_fixed_place_are_not_judged():
    rng = np.random.default_rng(0)
    assert chirality.population_handedness(rng.normal(size=(20, 6, 3))) is None
    assert chirality.population_handedness(rng.normal(size=(20, 4, 3))) is None
    flat = rng.normal(size=(6, 3)) * [30, 30, 0.5] + rng.normal(size=(20, 6, 3))
    assert chirality.population_handedness(flat) is None
