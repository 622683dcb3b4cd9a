"""The quality check on case files of prepare_data.py: good hearts pass on every grid, each mutation is caught by its
check, one bad heart among fifty is named."""

import copy

import numpy as np
import pytest
from helpers import quality_mutations as mutations
from helpers.prepared_phantoms import failed_after, prepare, prepared

from vecset.commands import check_data_quality
from vecset.data.case_file import read_case, write_case
from vecset.imaging.classes import HEART16_CLASSES, HEART_CLASSES
from vecset.quality import case_checks as quality
from vecset.quality.population import check_population


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    """Two hearts at 96^3."""
    folder = tmp_path_factory.mktemp("heart")
    return [read_case(p) for p in prepared(folder, "--size", "96", "--seed", "3", num=2)]


@pytest.fixture(scope="module")
def odd_heart(tmp_path_factory):
    """A heart on 1.2 x 1.0 x 1.8 mm, oblique and flipped."""
    flags = ["--spacing", "1.2", "1.0", "1.8", "--oblique", "25", "--flip", "0", "2", "--seed", "1"]
    return read_case(prepared(tmp_path_factory.mktemp("odd"), *flags)[0])


@pytest.mark.parametrize(
    "phantom_flags, prepare_flags",
    [
        (("--size", "80"), ()),
        (("--size", "80"), ("--sdf", "edt")),
        (("--spacing", "1.2", "1.0", "1.8", "--oblique", "25", "--flip", "0", "2", "--cut", "0.2"), ()),
        (("--size", "80", "--missing", "Coronary", "LAA", "--label_noise", "0.5"), ()),
        (("--spacing", "1.5", "1.5", "8", "--oblique", "15"), ()),
    ],
    ids=["plain", "edt", "odd grid, cut", "missing, noise", "thick slices"],
)
def test_prepared_phantoms_pass(phantom_flags, prepare_flags, tmp_path):
    paths = prepared(tmp_path, *phantom_flags, "--seed", "1", prepare_flags=prepare_flags)
    report = quality.check_file(paths[0], exact=40, source_dir=tmp_path / "labels")
    check_population([report])
    assert report.passed, report.failed()
    assert {"exact_max", "source_points"} <= {f["check"] for f in report.findings}
    assert report.facts["handedness"] > 0.5


@pytest.mark.slow
def test_prepared_phantoms_of_sixteen_structures_pass_without_a_warning(tmp_path):
    flags = ("--structures", "16", "--size", "112", "--seed", "2")
    paths = prepared(tmp_path, *flags, num=2, prepare_flags=("--classes", "heart16"))
    reports = [quality.check_file(path, source_dir=tmp_path / "labels") for path in paths]
    check_population(reports)
    for report in reports:
        assert report.class_names == list(HEART16_CLASSES) and report.facts["missing"] == [16]
        assert report.passed and not report.failed("warn"), report.failed() + report.failed("warn")


def test_unchanged_they_pass(hearts, odd_heart, tmp_path):
    for case in (*hearts, odd_heart):
        assert failed_after(lambda case: None, case, tmp_path) == set()


MUTATIONS = {  # the check that must fail
    "sign_flipped": "sign",
    "sign_flipped_in_distances_only": "label_distance",
    "all_inside": "vol_inside",
    "five_percent_of_signs": "sign",
    "five_percent_of_near_signs": "sign",
    "min_over_classes": "distance_mean",
    "spacing_ignored": "slope",
    "half_voxel_bias": "bias",
    "half_voxel_bias_inwards": "bias",
    "half_voxel_jump": "jump",
    "inner_walls_at_zero": "surface_distance",
    "frame_missing": "frame",
    "frame_shifted": "shift",
    "frame_shifted_along_j": "shift",
    "frame_shifted_along_k": "shift",
    "frame_shifted_by_half_a_voxel": "shift",
    "frame_shifted_far": "frame_centre",
    "near_points_shifted_by_a_voxel": "shift",
    "all_points_shifted_by_a_voxel": "shift",
    "frame_scaled": "frame_radius",
    "frame_sheared": "frame",
    "points_mirrored": "sign",
    "points_mirrored_in_y": "sign",
    "points_mirrored_in_z": "sign",
    "truth_mirrored": "label",
    "axes_swapped": "label",
    "mirrored_as_a_whole": "handedness",
    "mirrored_as_a_whole_in_z": "handedness",
    "labels_shuffled": "label",
    "labels_renumbered": "label",
    "two_classes_exchanged": "label_class",
    "surface_labels_shuffled": "surface_class",
    "labels_from_another_space": "label",
    "labels_by_floor": "label_exact",
    "near_all_outside": "near_outside",
    "infinite": "non_finite",
    "outside_the_cube": "outside_cube",
    "normals_inward": "normals_outward",
    "surface_pushed_in": "surface_class",
}


@pytest.mark.parametrize("grid", ["plain", "odd"])
@pytest.mark.parametrize("name, check", MUTATIONS.items())
def test_mutation_is_caught(hearts, odd_heart, grid, name, check, tmp_path):
    found = failed_after(getattr(mutations, name), hearts[0] if grid == "plain" else odd_heart, tmp_path)
    assert check in found or by_flag(check) in found, found
    if check == "handedness":
        assert found == {"handedness"}


def by_flag(check):
    """The same check where the file has near_other."""
    return check.replace("near_outside", "outer_outside")


@pytest.mark.parametrize("c", range(1, 11), ids=HEART_CLASSES)
def test_near_points_of_one_class_on_one_side(hearts, c, tmp_path):
    for flagged in (True, False):
        case = copy.deepcopy(hearts[0])
        if not flagged:
            case.arrays.pop("near_other", None)
        for outside in (False, True):
            found = failed_after(mutations.near_on_one_side, case, tmp_path, c, outside)
            assert {"near_outside_class", "outer_outside_class"} & found, (flagged, outside, found)


@pytest.mark.parametrize("group", ["surface", "near", "inside"])
def test_points_of_a_class_removed(hearts, group, tmp_path):
    for c in range(1, 11):
        assert f"class_{group}" in failed_after(mutations.class_removed, hearts[0], tmp_path, c, group), c


def test_not_a_number_in_any_member(hearts, tmp_path):
    floats = [n for n, a in hearts[0].arrays.items() if a.dtype.kind == "f"]
    assert len(floats) == 7
    for name in floats:
        assert "non_finite" in failed_after(mutations.not_a_number, hearts[0], tmp_path, name), name


@pytest.mark.parametrize(
    "groups, check",
    [(("near",), "label"), (("vol",), "label"), (("surface",), "surface_class"), (("near", "vol", "surface"), "sign")],
)
def test_points_of_another_heart(hearts, groups, check, tmp_path):
    assert check in failed_after(mutations.points_of, hearts[0], tmp_path, hearts[1], groups)


def test_truth_of_another_heart(hearts, tmp_path):
    assert {"sign", "label"} <= failed_after(mutations.truth_of, hearts[0], tmp_path, hearts[1])


def test_spacing_ignored_from_the_start_is_told_by_the_source(hearts, odd_heart, tmp_path):
    """Made as if voxels were 1 mm cubes: the file is consistent, but contradicts the label map's header."""
    import nibabel as nib

    (tmp_path / "labels").mkdir()
    (tmp_path / "true").mkdir()
    truth = odd_heart.truth_labels()
    nib.save(nib.Nifti1Image(truth, np.eye(4)), tmp_path / "labels" / "heart.nii.gz")
    (path,) = prepare(tmp_path)
    nib.save(nib.Nifti1Image(truth, odd_heart.frame.affine), tmp_path / "true" / "heart.nii.gz")
    assert quality.check_file(path, source_dir=tmp_path / "labels").passed
    failed = {f["check"] for f in quality.check_file(path, source_dir=tmp_path / "true").failed()}
    assert failed == {"source_points"}


@pytest.fixture(scope="module")
def fifty(tmp_path_factory):
    """Fifty hearts at 64^3: their paths and reports."""
    paths = prepared(tmp_path_factory.mktemp("fifty"), "--size", "64", "--seed", "20", num=50)
    return paths, [quality.check_file(p) for p in paths]


@pytest.mark.slow
def test_fifty_good_hearts_pass(fifty):
    reports = copy.deepcopy(fifty[1])
    check_population(reports)
    assert all(r.passed for r in reports), [(r.file, r.failed()) for r in reports if not r.passed]


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_one_bad_heart_among_fifty(fifty, name, tmp_path):
    """One heart of the fifty mutated: it fails, the other 49 pass."""
    paths, reports = fifty[0], copy.deepcopy(fifty[1])
    case = read_case(paths[31])
    failed = failed_after(getattr(mutations, name), case, tmp_path)
    reports[31] = quality.check_file(tmp_path / "case.npz")
    reports[31].file = paths[31].name
    check_population(reports)
    assert [r.file for r in reports if not r.passed] == [paths[31].name]
    assert failed == {f["check"] for f in reports[31].failed()} - {"copies", "same_source"}


@pytest.mark.slow
def test_all_files_mirrored(fifty, tmp_path):
    """All fifty files are consistent and equal to each other in handedness; the named structures show the mirror."""
    for path in fifty[0][:10]:
        case = read_case(path)
        mutations.mirrored_as_a_whole(case)
        write_case(tmp_path / path.name, case)
    reports = [quality.check_file(p) for p in sorted(tmp_path.iterdir())]
    check_population(reports)
    assert all({f["check"] for f in r.failed()} == {"handedness"} for r in reports)


@pytest.mark.slow
def test_the_bad_one_among_fifty_is_named(fifty, tmp_path, capsys):
    for path in fifty[0]:
        (tmp_path / path.name).hardlink_to(path)
    bad = read_case(fifty[0][31])
    mutations.frame_shifted(bad)
    (tmp_path / fifty[0][31].name).unlink()
    write_case(tmp_path / fifty[0][31].name, bad)
    assert check_data_quality.main([str(tmp_path)]) == 1
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith(f"FAIL: 1 of 50 case files; {fifty[0][31].name}: ") and "want" in last
