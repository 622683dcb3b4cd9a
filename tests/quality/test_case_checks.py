"""The quality check on an analytic case: it passes on every grid, and each corruption is caught by its check."""

import copy

import numpy as np
import pytest
from helpers.analytic_case import analytic_case
from helpers.case_corruptions import CORRUPTIONS, near_all_outside, one_side_for_one_class

from vecset.data.case_file import write_case
from vecset.imaging.frame import Frame
from vecset.quality import case_checks as quality
from vecset.quality import thresholds
from vecset.quality.population import check_population

EVERY_FILE = (
    {name for name, c in thresholds.CHECKS.items() if c.level == "fail"}
    - {name for name in thresholds.CHECKS if name.startswith(("exact", "source", "split", "handedness", "class_sdf"))}
    - {"class_names", "copies", "same_source", "name", "one_class"}
)
BY_FLAG = {
    "outer_outside",
    "outer_outside_class",
    "wall_share",
    "wall_sides",
    "wall_crossed",
    "near_flag",
    "near_flag_class",
    "near_flag_wrong",
}  # judged where the file has near_other
BY_ESTIMATE = {"near_outside", "near_outside_class", "near_inner_walls"}  # where it has not


@pytest.fixture(scope="module")
def good():
    return analytic_case(rows=15000, seed=3)


def report_of(case, tmp_path, name="case.npz"):
    write_case(tmp_path / name, case)
    return quality.check_file(tmp_path / name, sample=2000)


@pytest.mark.parametrize(
    "spacing_mm, flip, seed",
    [
        ((1, 1, 1), False, 0),
        ((1, 1, 1.6), True, 1),
        ((0.7, 0.7, 0.7), False, 2),
        ((1, 1, 5), False, 3),
        ((1.2, 0.8, 1), True, 4),
    ],
)
def test_good_case_passes(spacing_mm, flip, seed, tmp_path):
    case = analytic_case(rows=16000, spacing_mm=spacing_mm, flip=flip, seed=seed)
    for other_way in (BY_ESTIMATE, BY_FLAG):
        report = report_of(case, tmp_path)
        assert report.passed, report.failed()
        checked = {f["check"] for f in report.findings}
        assert checked >= EVERY_FILE - other_way - ({"slope"} if max(spacing_mm) > 4 else set())
        assert not checked & other_way
        case.arrays.pop("near_other", None)


@pytest.mark.parametrize("corrupt, check", CORRUPTIONS, ids=[c.__name__ for c, _ in CORRUPTIONS])
def test_corruption_is_caught(good, corrupt, check, tmp_path):
    case = copy.deepcopy(good)
    corrupt(case)
    report = report_of(case, tmp_path)
    assert check in {f["check"] for f in report.failed()}, report.failed()


@pytest.mark.parametrize(
    "corrupt, check", [(one_side_for_one_class, "near_outside_class"), (near_all_outside, "near_outside")]
)
def test_one_sided_near_points_are_caught_without_the_flag(good, corrupt, check, tmp_path):
    case = copy.deepcopy(good)
    del case.arrays["near_other"]
    corrupt(case)
    assert check in {f["check"] for f in report_of(case, tmp_path).failed()}


def test_frame_or_truth_missing(good, tmp_path):
    write_case(tmp_path / "a.npz", good)
    with np.load(tmp_path / "a.npz") as archive:
        members = {n: archive[n] for n in archive.files}
    for gone, check in (
        ("frame_centre", "frame"),
        ("label_crop", "members"),
        ("near_source", "members"),
        ("surface_sdf", "members"),
    ):
        np.savez(tmp_path / "b.npz", **{n: a for n, a in members.items() if n != gone})
        report = quality.check_file(tmp_path / "b.npz")
        assert check in {f["check"] for f in report.failed()}, gone
    (tmp_path / "c.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:5000])
    assert [f["check"] for f in quality.check_file(tmp_path / "c.npz").failed()] == ["readable"]


def test_a_file_under_another_hearts_name_is_caught(good, tmp_path):
    def answer(source_name, name="phantom_0001.nii.npz"):
        case = copy.deepcopy(good)
        case.meta = {**good.meta, "source_name": source_name}
        return report_of(case, tmp_path, name)

    assert answer("phantom_0001.nii.NRRD").passed
    swapped = answer("phantom_0004.nii.gz").failed()
    assert [f["check"] for f in swapped] == ["name"] and "phantom_0004.nii.gz" in swapped[0]["note"]
    assert "name" not in {f["check"] for f in answer("").findings}  # not judged where meta has no name


def test_copies_are_found(good, tmp_path):
    renamed = copy.deepcopy(good)
    renamed.meta = {**good.meta, "source_sha256": "other"}
    same_source = analytic_case(seed=5)
    same_source.meta = {**same_source.meta, "source_sha256": good.meta["source_sha256"]}
    reports = [
        report_of(c, tmp_path, f"{n}.npz")
        for n, c in (("a", good), ("b", renamed), ("c", same_source), ("d", analytic_case(seed=6)))
    ]
    check_population(reports)
    failed = [{f["check"] for f in r.failed()} for r in reports]
    assert failed == [{"copies", "same_source"}, {"copies"}, {"same_source"}, set()]


def test_outliers_and_mirrored_hearts_in_a_population(good, tmp_path):
    base = report_of(good, tmp_path)
    reports = []
    for i in range(10):
        report = copy.deepcopy(base)
        report.file = f"{i}.npz"
        report.facts.update(points_sha256=f"p{i}", truth_sha256=f"t{i}", source_sha256=f"s{i}")
        report.facts["volumes_ml"]["1"] *= 1 + 0.02 * i
        reports.append(report)
    reports[4].facts["volumes_ml"]["1"] *= 3
    reports[6].facts["volumes_ml"]["2"] *= 0.75  # among few, nearly equal hearts: no outlier
    check_population(reports)
    assert all(r.passed for r in reports)
    assert [r.file for r in reports if any(f["check"] == "volume_outlier" for f in r.failed("warn"))] == ["4.npz"]


def test_islands_that_move_the_frame_are_said(good, tmp_path):
    case = copy.deepcopy(good)
    case.truth_crop = np.pad(case.truth_crop, [(0, 4), (0, 0), (0, 0)])
    case.truth_crop[-1, -1, -1] = 2
    case.frame = Frame(case.frame.affine, np.array(case.frame.shape) + 8, case.frame.centre_mm, case.frame.scale)
    report = report_of(case, tmp_path)
    assert "crumbs" in {f["check"] for f in report.failed("warn")}
    assert not report_of(good, tmp_path).failed("warn")
