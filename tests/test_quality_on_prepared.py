"""The quality check on what prepare_data.py really makes: good hearts pass in every grid, corrupted ones are caught,
one bad heart among fifty is named."""

import copy

import numpy as np
import pytest
import test_quality as corruptions

import check_data_quality
import make_phantoms
import prepare_data
from vecset.data import quality
from vecset.data.case_file import read_case, write_case
from vecset.data.quality_population import check_population

POINTS = ["--num_surface_points", "6000", "--num_vol_points", "6000", "--num_near_points", "20000"]


def prepared(folder, *phantom_flags, num=1, prepare_flags=()):
    """Case files of `num` phantoms made with `phantom_flags`."""
    make_phantoms.main(["--output_dir", str(folder / "labels"), "--num", str(num), *phantom_flags])
    assert prepare_data.main(["--input_dir", str(folder / "labels"), "--output_dir", str(folder / "cases"), *POINTS,
                              "--file_workers", "0", *prepare_flags]) == 0
    return sorted((folder / "cases").glob("*.npz"))


@pytest.fixture(scope="module")
def heart(tmp_path_factory):
    return read_case(prepared(tmp_path_factory.mktemp("heart"), "--size", "96", "--seed", "3")[0])


@pytest.mark.parametrize("phantom_flags, prepare_flags", [
    (("--size", "80"), ()), (("--size", "80"), ("--sdf", "edt")),
    (("--spacing", "1.2", "1.0", "1.8", "--oblique", "25", "--flip", "0", "2", "--cut", "0.2"), ()),
    (("--size", "80", "--missing", "Coronary", "LAA", "--label_noise", "0.5"), ()),
    (("--spacing", "1.5", "1.5", "8", "--oblique", "15"), ())],
    ids=["plain", "edt", "odd grid, cut", "missing, noise", "thick slices"])
def test_prepared_phantoms_pass(phantom_flags, prepare_flags, tmp_path):
    paths = prepared(tmp_path, *phantom_flags, "--seed", "1", prepare_flags=prepare_flags)
    report = quality.check_file(paths[0], exact=40, source_dir=tmp_path / "labels")
    check_population([report])
    assert report.passed, report.failed()
    assert {"exact_max", "source_points"} <= {f["check"] for f in report.findings}
    assert "--missing" in phantom_flags or report.facts["handedness"] > 0.1


# those corruptions of test_quality.py that do not use its ball
GENERAL = [(c, check) for c, check in corruptions.CORRUPTIONS if c.__name__ not in {
    "min_over_classes", "one_side_for_one_class", "another_heart", "truth_of_another_heart", "meta_says_whole",
    "two_classes_exchanged", "near_source_wrong"}]


@pytest.mark.parametrize("corrupt, check", GENERAL, ids=[c.__name__ for c, _ in GENERAL])
def test_corrupted_phantom_is_caught(heart, corrupt, check, tmp_path):
    case = copy.deepcopy(heart)
    corrupt(case)
    write_case(tmp_path / "case.npz", case)
    found = {f["check"] for f in quality.check_file(tmp_path / "case.npz").failed()}
    assert check in found or {"sign", "label", "shift"} & found, found


def failed_after(case, tmp_path):
    write_case(tmp_path / "case.npz", case)
    report = quality.check_file(tmp_path / "case.npz")
    check_population([report])
    return {f["check"] for f in report.failed()}


def test_mirrored_heart_is_told_from_its_handedness(heart, tmp_path):
    """Everything mirrored alike, so that the file agrees with itself: the affine's x axis negated and the points with
    it. Only the places of left and right structures can tell."""
    case = copy.deepcopy(heart)
    mirror = np.diag([-1.0, 1, 1])
    affine = np.array(case.frame.affine)
    affine[:3] = mirror @ affine[:3]
    case.frame = type(case.frame)(affine, case.frame.shape, mirror @ case.frame.centre_mm, case.frame.scale)
    for name in ("vol_points", "near_points", "surface_points", "surface_normals"):
        case.arrays[name] = (case.arrays[name] * [-1, 1, 1]).astype(case.arrays[name].dtype)
    assert failed_after(heart, tmp_path) == set()
    assert failed_after(case, tmp_path) == {"handedness"}


def test_near_points_of_one_class_on_one_side(heart, tmp_path):
    for side in (False, True):
        case = copy.deepcopy(heart)
        drop = (case.near_source == 9) & ((case.near_sdf >= 0) == side)
        for name in [n for n in case.arrays if n.startswith("near")]:
            case.arrays[name] = case.arrays[name][~drop]
        assert "near_outside_class" in failed_after(case, tmp_path)


@pytest.mark.slow
def test_fifty_good_hearts_pass_and_one_bad_among_them_is_named(tmp_path, capsys):
    paths = prepared(tmp_path, "--size", "64", "--seed", "20", num=50)
    bad = read_case(paths[31])
    corruptions.frame_shifted(bad)
    write_case(paths[31], bad)
    assert check_data_quality.main([str(tmp_path / "cases")]) == 1
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith(f"FAIL: 1 of 50 case files; {paths[31].name}: ") and "want" in last
