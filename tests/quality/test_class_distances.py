"""The checks of the distances to each class: they pass on a prepared heart, and each defect is caught by its check."""

import copy

import numpy as np
import pytest

from vecset.common.structure_state import ABSENT_DISTANCE
from vecset.data.case_file import CLASS_DISTANCES, GROUPS, write_case
from vecset.data.preparation import Options, build_case
from vecset.imaging.label_map import read_label_map, write_label_map
from vecset.phantom.phantom import PhantomOptions, make_phantom
from vecset.quality.case_checks import check_file
from vecset.quality.class_distances import distance_to_faces
from vecset.quality.thresholds import CHECKS

NAMES = {name for name in CHECKS if name.startswith("class_sdf")}
ABSENT = 8  # a class of the phantom that is removed


def heart_of(folder, **options):
    """The case of a phantom without the class ABSENT."""
    labels, affine = make_phantom(5, 0, PhantomOptions(size=(56, 56, 56), **options))
    labels[labels == ABSENT] = 0
    write_label_map(folder / "heart.nii.gz", labels, affine)
    points = {"num_surface_points": 6000, "num_vol_points": 5000, "num_near_points": 6000}
    return build_case(read_label_map(folder / "heart.nii.gz", 10), Options(**points, class_distances=True))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return heart_of(tmp_path_factory.mktemp("heart"))


def findings(case, tmp_path):
    """{check: worst value} and the names of those failed, of the checks of class distances."""
    write_case(tmp_path / "heart.npz", case)
    report = check_file(tmp_path / "heart.npz")
    return {f["check"] for f in report.findings} & NAMES, {f["check"] for f in report.failed()} & NAMES


def test_a_prepared_heart_passes(good, tmp_path):
    assert findings(good, tmp_path) == (NAMES, set())


@pytest.mark.slow
def test_an_oblique_heart_passes(tmp_path):
    assert findings(heart_of(tmp_path, oblique_deg=30.0), tmp_path) == (NAMES, set())


def test_files_without_them_are_not_asked(good, tmp_path):
    plain = copy.deepcopy(good)
    for name in CLASS_DISTANCES:
        del plain.arrays[name]
    assert findings(plain, tmp_path) == (set(), set())


def changed(case, change, groups=GROUPS):
    for group in groups:
        name = f"{group}_class_sdf"
        case.arrays[name] = change(case.arrays[name].astype(np.float32)).astype(np.float16)


def one_sign(case):
    """Of one volume point."""
    row = np.flatnonzero(case.vol_labels)[3]
    case.arrays["vol_class_sdf"][row, case.vol_labels[row] - 1] *= -1


def a_second_class_inside(case):
    """The sign of one more class, farther inside than the point's own: the smallest distance is another class."""
    row = np.flatnonzero(case.near_labels == 1)[3]
    case.arrays["near_class_sdf"][row, 4] = -1


def positive_inside(case):
    changed(case, np.negative, ("vol", "near"))


def of_the_union(case):
    """Signs and labels stay right: the union's distance where the point is inside, none to the others."""
    for group in ("vol", "near"):
        sdf = case.arrays[f"{group}_class_sdf"]
        case.arrays[f"{group}_class_sdf"] = np.where(sdf < 0, case.arrays[f"{group}_sdf"][:, None], 1).astype(
            np.float16
        )


def without_far_ones(case):
    """Clipped, as a loss may do, but not a file."""
    changed(case, lambda sdf: np.where(sdf == ABSENT_DISTANCE, sdf, np.clip(sdf, -0.1, 0.1)))


def in_voxels(case):
    changed(case, lambda sdf: np.where(sdf == ABSENT_DISTANCE, sdf, sdf / case.frame.scale))


def too_long(case):
    changed(case, lambda sdf: np.where(sdf == ABSENT_DISTANCE, sdf, 1.1 * sdf))


def two_classes_exchanged(case):
    order = np.arange(10)
    order[[3, 4]] = 4, 3
    changed(case, lambda sdf: sdf[:, order])


def rows_shuffled(case):
    """Each point has the distances of another one with the same label."""
    labels, rng = case.vol_labels, np.random.default_rng(0)
    for c in np.unique(labels):
        rows = np.flatnonzero(labels == c)
        case.arrays["vol_class_sdf"][rows] = case.arrays["vol_class_sdf"][rng.permutation(rows)]


def absent_far_away(case):
    changed(case, lambda sdf: np.where(np.arange(1, 11) == ABSENT, 3, sdf))


def present_as_absent(case):
    changed(case, lambda sdf: np.where(np.arange(1, 11) == 9, ABSENT_DISTANCE, sdf))


def surface_off(case):
    """Of one surface point."""
    case.arrays["surface_class_sdf"][5, case.surface_labels[5] - 1] = 0.01


def surface_inside(case):
    case.arrays["surface_class_sdf"][5, case.surface_labels[5] % 10] = -0.01


@pytest.mark.parametrize(
    "corrupt, check",
    [
        (one_sign, "class_sdf_sign"),
        (a_second_class_inside, "class_sdf_label"),
        (positive_inside, "class_sdf_sign"),
        (of_the_union, "class_sdf_mean"),
        (without_far_ones, "class_sdf_mean"),
        (in_voxels, "class_sdf_union"),
        (too_long, "class_sdf_mean"),
        (two_classes_exchanged, "class_sdf_sign"),
        (two_classes_exchanged, "class_sdf_mean"),
        (rows_shuffled, "class_sdf_union"),
        (absent_far_away, "class_sdf_absent"),
        (present_as_absent, "class_sdf_absent"),
        (surface_off, "class_sdf_surface"),
        (surface_inside, "class_sdf_surface"),
    ],
)
def test_defects_are_caught(good, corrupt, check, tmp_path):
    case = copy.deepcopy(good)
    corrupt(case)
    _, failed = findings(case, tmp_path)
    assert check in failed, failed


def test_not_a_number_fails(good, tmp_path):
    case = copy.deepcopy(good)
    case.arrays["near_class_sdf"][7, 2] = np.nan
    write_case(tmp_path / "heart.npz", case)
    assert {f["check"] for f in check_file(tmp_path / "heart.npz").failed()} == {"non_finite"}


def test_distance_to_voxel_faces():
    """Of a block of 2 x 3 x 1 voxels of 1 x 2 x 5 mm: it is a box, whose distance is a formula."""
    spacing_mm = np.array([1.0, 2.0, 5.0])
    box = (slice(4, 6), slice(1, 4), slice(7, 8))
    low, high = (np.array([4, 1, 7]) - 0.5) * spacing_mm, (np.array([6, 4, 8]) - 0.5) * spacing_mm
    points = np.random.default_rng(0).uniform(low - 6, high + 6, (500, 3))
    outside = np.linalg.norm(np.maximum(np.maximum(low - points, points - high), 0), axis=1)
    inside = np.minimum(points - low, high - points).min(1)
    found = distance_to_faces(points, np.ones((2, 3, 1), bool), box, spacing_mm)
    np.testing.assert_allclose(found, np.where(inside > 0, inside, outside), atol=1e-9)
