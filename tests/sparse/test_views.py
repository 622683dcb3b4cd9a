"""The standard views of a heart: where they lie in a phantom, whatever its axes, and what they show."""

import numpy as np
import pytest

from vecset.common.errors import InputError
from vecset.imaging.classes import default_class_names
from vecset.phantom.phantom import PhantomOptions, make_phantom
from vecset.sparse.views import CHAMBERS, cut_view, draw_shifts, standard_views

NAMES = default_class_names(10)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(0, 2, PhantomOptions((64,) * 3))


def amounts(labels, affine, view):
    """{class name: share of the view's labelled pixels}."""
    counts = np.bincount(cut_view(labels, affine, view)[0].ravel(), minlength=11)[1:]
    return dict(zip(NAMES, counts / counts.sum()))


def test_what_the_views_show(phantom):
    """4ch: all four chambers; 2ch: LA and LV and no right heart; the stack: from the apex of the ventricles to the
    mitral valve, 10 mm apart, without atria but for what lies beside the valve."""
    labels, affine = phantom
    two, four, *stack = standard_views(labels, affine, NAMES)
    assert [two.name, four.name, stack[0].name, stack[-1].name] == ["2ch", "4ch", "sa1", f"sa{len(stack)}"]
    assert min(amounts(labels, affine, four)[name] for name in CHAMBERS) > 0.05
    shares = amounts(labels, affine, two)
    assert min(shares["LA"], shares["LV"]) > 0.1 and max(shares["RA"], shares["RV"]) < 0.02
    axis = stack[0].axes[:, 2]
    middles = np.array([view.middle_mm for view in stack])
    np.testing.assert_allclose(np.diff(middles @ axis), -10)
    shown = [amounts(labels, affine, view) for view in stack]
    assert all(s["LA"] + s["RA"] < 0.02 for s in shown[: len(stack) // 2]) and shown[2]["LV"] > 0.1
    for view in (two, four):  # the long axis lies in both, and they are at right angles
        np.testing.assert_allclose(view.axes[:, 2] @ axis, 0, atol=1e-9)
    assert abs(two.axes[:, 2] @ four.axes[:, 2]) < 1e-9
    for view in (two, four, *stack):
        np.testing.assert_allclose(view.axes.T @ view.axes, np.eye(3), atol=1e-9)
        assert np.linalg.det(view.axes) == pytest.approx(1)
    ventricles = np.argwhere(np.isin(labels, [1, 3, 5])) @ affine[:3, :3].T + affine[:3, 3]
    assert 4 < (ventricles @ axis).max() - middles[0] @ axis < 6


@pytest.mark.parametrize("how", ["flipped", "permuted"])
def test_they_do_not_depend_on_the_axes_of_the_image(phantom, how):
    labels, affine = phantom
    if how == "flipped":
        turned, at = labels[::-1], affine @ np.array([[-1.0, 0, 0, 63], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    else:
        turned, at = labels.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]]
    for one, other in zip(standard_views(labels, affine, NAMES), standard_views(turned, at, NAMES)):
        np.testing.assert_allclose(one.middle_mm, other.middle_mm, atol=1e-6)
        np.testing.assert_allclose(one.axes, other.axes, atol=1e-6)
        first, second = cut_view(labels, affine, one), cut_view(turned, at, other)
        np.testing.assert_allclose(first[1], second[1], atol=1e-6)
        assert (first[0] != second[0]).mean() < 0.001  # a pixel half way between two voxels


def test_a_view_shows_the_nearest_voxel_and_is_displaced_in_its_plane(phantom):
    labels, affine = phantom
    view = standard_views(labels, affine, NAMES)[1]
    shown, at = cut_view(labels, affine, view, pixel_mm=2.0)
    inverse = np.linalg.inv(affine)
    for i, j in np.random.default_rng(0).integers(0, shown.shape[:2], (200, 2)):
        voxel = np.floor((inverse @ at @ [i, j, 0, 1])[:3] + 0.5).astype(int)
        inside = (voxel >= 0).all() and (voxel < labels.shape).all()
        assert shown[i, j, 0] == (labels[tuple(voxel)] if inside else 0)
    (direction,) = draw_shifts(np.random.default_rng(1), 1)
    moved, there = cut_view(labels, affine, view, pixel_mm=2.0, shift_mm=6 * direction)
    np.testing.assert_array_equal(moved, shown)
    shift = there[:3, 3] - at[:3, 3]
    assert np.linalg.norm(shift) == pytest.approx(6) and abs(shift @ view.axes[:, 2]) < 1e-9
    np.testing.assert_array_equal(there[:3, :3], at[:3, :3])


def test_hearts_without_a_chamber_have_no_views(phantom):
    labels, affine = phantom
    with pytest.raises(InputError, match="x.nii.gz: it has no RA, RV"):
        standard_views(np.where(np.isin(labels, [4, 5]), 0, labels), affine, NAMES, where="x.nii.gz")
    line = np.zeros((60, 3, 3), np.uint8)
    for c, start, stop in ((2, 0, 10), (3, 10, 40), (5, 40, 50), (4, 50, 60)):
        line[start:stop] = c
    with pytest.raises(InputError, match="lies on the long axis"):
        standard_views(line, np.eye(4), NAMES)
