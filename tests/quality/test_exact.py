"""The slow checks: exact distances against all triangles, sides against the winding number, the source label map."""

import copy

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from helpers.analytic_case import analytic_case
from scipy import ndimage
from skimage.measure import marching_cubes

from vecset.data.case_file import write_case
from vecset.quality import case_checks as quality
from vecset.quality import exact as quality_exact
from vecset.quality import summary


@pytest.fixture(scope="module")
def case():
    return analytic_case(rows=3000, seed=2, spacing_mm=(1.2, 1.0, 1.5))


def triangles_of(case):
    foreground = np.pad(case.truth_crop > 0, 1).astype(np.float32)
    vertices, faces, _, _ = marching_cubes(foreground, 0.5, method="lorensen")
    return ((vertices + case.truth_origin - 1) * case.frame.spacing_mm)[faces]


def distance_to_all(point, triangles):
    """Reference: the foot on the plane where it is inside the triangle, else the nearest of the three edges."""
    best = np.inf
    for a, b, c in triangles:
        normal = np.cross(b - a, c - a)
        foot = point - normal * ((point - a) @ normal) / (normal @ normal)
        sides = [np.cross(q - p, foot - p) @ normal for p, q in ((a, b), (b, c), (c, a))]
        if min(sides) >= 0:
            best = min(best, np.linalg.norm(point - foot))
        for p, q in ((a, b), (b, c), (c, a)):
            t = np.clip((point - p) @ (q - p) / ((q - p) @ (q - p)), 0, 1)
            best = min(best, np.linalg.norm(point - p - t * (q - p)))
    return best


def winding_number(point, triangles):
    """Van Oosterom and Strackee 1983: the solid angles of all triangles, over 4 pi; +-1 inside, 0 outside."""
    a, b, c = np.moveaxis(triangles - point, 1, 0)
    la, lb, lc = (np.linalg.norm(v, axis=1) for v in (a, b, c))
    triple = (a * np.cross(b, c)).sum(1)
    rest = la * lb * lc + (a * b).sum(1) * lc + (b * c).sum(1) * la + (c * a).sum(1) * lb
    return 2 * np.arctan2(triple, rest).sum() / (4 * np.pi)


def test_exact_distance_is_that_to_all_triangles():
    rng = np.random.default_rng(0)
    triangles = rng.normal(size=(40, 1, 3)) * 3 + rng.normal(size=(40, 3, 3)) * rng.uniform(0.1, 3, (40, 1, 1))
    points = rng.normal(size=(25, 3)) * 4
    np.testing.assert_allclose(
        quality_exact.exact_distance(points, triangles), [distance_to_all(p, triangles) for p in points], atol=1e-9
    )


def test_sides_are_those_of_the_winding_number(case):
    triangles = triangles_of(case)
    rng = np.random.default_rng(1)
    faces = triangles[rng.integers(len(triangles), size=150)].mean(1)
    points_mm = np.concatenate([faces + rng.normal(size=(150, 3)), rng.uniform(-30, 110, (50, 3))])
    distance_mm = quality_exact.exact_distance(points_mm, triangles)
    inside = quality_exact.sides(points_mm / case.frame.spacing_mm, distance_mm, case)
    clear = distance_mm > 0.2
    expected = np.array([abs(winding_number(p, triangles)) > 0.5 for p in points_mm])
    assert clear.sum() > 120 and 40 < expected.sum() < 160
    np.testing.assert_array_equal(inside[clear], expected[clear])


def failed(case, tmp_path, **options):
    write_case(tmp_path / "case.npz", case)
    return {f["check"] for f in quality.check_file(tmp_path / "case.npz", sample=500, **options).failed()}


def test_exact_checks(case, tmp_path):
    assert failed(case, tmp_path, exact=120) == set()
    biased, mirrored = copy.deepcopy(case), copy.deepcopy(case)
    for name in ("near_sdf", "vol_sdf"):
        biased.arrays[name] = biased.arrays[name] + np.float32(0.7 * 1.5 * case.frame.scale)
        mirrored.arrays[name] = -mirrored.arrays[name]
    biased_checks = failed(biased, tmp_path, exact=120)
    assert {"exact_mean", "exact_max"} <= biased_checks
    assert "exact_sign" in failed(mirrored, tmp_path, exact=120)
    relabelled = copy.deepcopy(case)
    relabelled.arrays["vol_labels"] = np.array([0, 2, 1, 3, 4], np.uint8)[case.arrays["vol_labels"]]
    assert "exact_label" in failed(relabelled, tmp_path, exact=120)


def test_source_is_compared(case, tmp_path):
    source = tmp_path / "labels"
    source.mkdir()
    case = copy.deepcopy(case)
    case.meta = {**case.meta, "source_name": "case.nii.gz"}

    def write(labels, affine=case.frame.affine):
        nib.save(nib.Nifti1Image(labels, affine), source / "case.nii.gz")

    assert "source" in failed(case, tmp_path, source_dir=source)
    labels = case.truth_labels()
    write(labels)
    assert failed(case, tmp_path, source_dir=source) == set()
    write(np.roll(labels, 1, axis=0))
    assert {"source_labels", "source_points"} <= failed(case, tmp_path, source_dir=source)
    write(labels, np.diag([-1, -1, 1, 1]) @ case.frame.affine)  # LPS taken for RAS: only the points differ
    assert failed(case, tmp_path, source_dir=source) == {"source_points"}
    image = sitk.GetImageFromArray(labels.transpose(2, 1, 0))
    ras_to_lps = np.diag([-1, -1, 1, 1]) @ case.frame.affine
    image.SetSpacing(case.frame.spacing_mm.tolist())
    image.SetDirection((ras_to_lps[:3, :3] / case.frame.spacing_mm).ravel().tolist())
    image.SetOrigin(ras_to_lps[:3, 3].tolist())
    for suffix in ("nrrd", "mha"):
        sitk.WriteImage(image, str(source / f"case.{suffix}"), True)
        case.meta["source_name"] = f"case.{suffix}"
        assert failed(case, tmp_path, source_dir=source) == set()
    image.SetOrigin((-ras_to_lps[:3, 3]).tolist())
    sitk.WriteImage(image, str(source / "case.mha"), True)
    assert failed(case, tmp_path, source_dir=source) == {"source_points"}
    case.meta["source_name"] = "case.nii.gz"
    mapped = {**case.meta, "request": {"label_map": '[[[205, 1], [420, 2], [500, 3], [600, 4]], "refuse", [], []]'}}
    case.meta = mapped
    write(np.array([0, 205, 420, 500, 600], np.int16)[labels])
    assert failed(case, tmp_path, source_dir=source) == set()


def test_one_hot_sources_are_compared(case, tmp_path):
    source = tmp_path / "labels"
    source.mkdir()
    case = copy.deepcopy(case)
    labels = case.truth_labels()
    hot = np.stack([labels == c for c in range(labels.max() + 1)], -1).astype(np.uint8)
    for name, array in {"all": hot, "classes": hot[..., 1:], "vector": hot[:, :, :, None, 1:]}.items():
        case.meta = {**case.meta, "source_name": "case.nii.gz"}
        nib.save(nib.Nifti1Image(array, case.frame.affine), source / "case.nii.gz")
        assert failed(case, tmp_path, source_dir=source) == set(), name
    nib.save(nib.Nifti1Image(np.roll(hot, 1, axis=0), case.frame.affine), source / "case.nii.gz")
    assert "source_labels" in failed(case, tmp_path, source_dir=source)
    nib.save(nib.Nifti1Image(np.maximum(hot, hot[..., ::-1]), case.frame.affine), source / "case.nii.gz")
    assert failed(case, tmp_path, source_dir=source) == {"source"}


def test_islands_that_were_dropped_on_request_are_no_alarm(case, tmp_path):
    source = tmp_path / "labels"
    source.mkdir()
    case = copy.deepcopy(case)
    truth = case.truth_labels()
    with_islands = truth.copy()
    with_islands[0, 0, 0] = with_islands[0, -1, 0] = 1  # beside the heart
    inside = tuple(int(n) for n in np.argwhere(ndimage.binary_erosion(truth == 2, iterations=3))[0])
    with_islands[inside] = 3  # within a chamber: filled again
    nib.save(nib.Nifti1Image(with_islands, case.frame.affine), source / "case.nii.gz")

    def answer(share):
        case.meta = {**case.meta, "source_name": "case.nii.gz", "request": {"drop_crumbs": share}}
        write_case(tmp_path / "case.npz", case)
        return quality.check_file(tmp_path / "case.npz", sample=500, source_dir=source)

    assert {f["check"] for f in answer(0.0).failed()} == {"source_labels"}
    report = answer(0.01)
    assert not report.failed()
    assert [f["value"] for f in report.failed("warn") if f["check"] == "source_crumbs"] == [3]  # reported, not judged
    assert "source_crumbs = 3" in "\n".join(summary.summary_lines([report]))
    with_islands[inside[0], inside[1], inside[2] + 1] = 0  # a difference that is no island
    nib.save(nib.Nifti1Image(with_islands, case.frame.affine), source / "case.nii.gz")
    assert {f["check"] for f in answer(0.01).failed()} == {"source_labels"}
    nib.save(nib.Nifti1Image(truth, case.frame.affine), source / "case.nii.gz")
    assert not answer(0.01).failed()
