"""The truth against what its own field says at the centres of its voxels."""

import numpy as np
import pytest

from vecset.data.preparation import Options, build_case
from vecset.imaging.label_map import LabelMap
from vecset.metrics.cldice import thin_classes
from vecset.metrics.overlap import score
from vecset.metrics.resampling_limit import labels_of_own_field
from vecset.phantom.phantom import PhantomOptions, make_phantom


def case_of(labels, affine, tmp_path):
    names = [f"c{c}" for c in range(1, 11)]
    label_map = LabelMap(labels, affine, tmp_path / "x.nii.gz", "", names, list(range(1, 11)), affine)
    return build_case(label_map, Options(200, 200, 200))


@pytest.fixture(scope="module")
def heart():
    return make_phantom(0, 1, PhantomOptions(size=(96, 96, 96), oblique_deg=20.0))


def test_large_structures_lose_little_and_thin_ones_more(heart, tmp_path):
    case = case_of(*heart, tmp_path)
    rows = score(case.truth_crop, labels_of_own_field(case), case.class_names, None, case.frame.spacing_mm)
    dice = [row["dice"] for row in rows]
    assert min(dice[:8]) > 0.99 and dice[-1] > 0.99 and 0.75 < dice[8] < 0.99  # class 9: the coronaries
    assert max(row["hd95_mm"] for row in rows[:8]) == 0
    assert thin_classes(rows) == [9] and rows[8]["topology_precision"] > 0.97 and rows[8]["cldice"] > 0.85


def test_equals_asking_every_voxel(heart, tmp_path):
    """As the truth of a case file is asked: voxel centres in unit, through the frame."""
    from vecset.geometry.distance_field import UnionField
    from vecset.geometry.surface import crop_foreground, union_mesh

    case = case_of(*heart, tmp_path)
    whole, truth = heart[0], case.truth_crop
    crop = crop_foreground(whole, case.frame.spacing_mm)
    field = UnionField(crop, union_mesh(crop))
    points_local_mm = crop.voxel_to_local_mm(np.argwhere(np.ones(truth.shape, bool)) + case.truth_origin)
    expected = field.labels(points_local_mm, field.query(points_local_mm)[0]).reshape(truth.shape)
    np.testing.assert_array_equal(labels_of_own_field(case), expected)


def test_a_cut_structure_is_not_eaten_from_its_cap(tmp_path):
    labels = np.zeros((20, 30, 30), np.uint8)
    labels[:12, 8:22, 8:22] = 1
    case = case_of(labels, np.eye(4), tmp_path)
    rebuilt = labels_of_own_field(case)
    low = np.array([8, 8]) - case.truth_origin[1:] + 2
    assert rebuilt[0, low[0] : low[0] + 10, low[1] : low[1] + 10].all()
    assert score(case.truth_crop, rebuilt, case.class_names)[0]["dice"] > 0.97
