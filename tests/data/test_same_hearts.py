"""Hearts that are in the data twice: the same number however an image is stored, and another one for other hearts."""

import numpy as np
import pytest

from vecset.data.case_file import Case
from vecset.data.same_hearts import ALIKE, difference, same_hearts, shape_of, volumes_mm3
from vecset.imaging.frame import Frame

NAMES = {1: "A", 2: "B", 3: "C"}


def heart(middles=((10, 10, 10), (26, 11, 12), (15, 27, 22)), radii=((6, 7, 5), (8, 6, 6), (5, 5, 7)), spacing=1.0):
    """A Case of three ellipsoids on a grid of 40 mm."""
    grid = (np.indices((round(40 / spacing),) * 3).transpose(1, 2, 3, 0) + 0.5) * spacing
    crop = np.zeros(grid.shape[:3], np.uint8)
    for c, (middle, radius) in enumerate(zip(middles, radii), 1):
        crop[(((grid - middle) / radius) ** 2).sum(-1) < 1] = c
    return case_of(crop, np.diag([spacing] * 3 + [1.0]))


def case_of(crop, affine, **more):
    voxels = np.bincount(crop.ravel(), minlength=4)[1:].tolist()
    meta = {"voxels_per_class": voxels, "annotated_classes": [1, 2, 3], "border_classes": [], "classes": 3, **more}
    return Case(frame=Frame(affine, crop.shape, (0, 0, 0), 0.02), truth_crop=crop, truth_origin=np.zeros(3), meta=meta)


def test_middles_radii_and_volumes_are_those_of_ellipsoids():
    shape = shape_of(heart(spacing=0.5), NAMES)
    for name, radii in zip("ABC", ((6, 7, 5), (8, 6, 6), (5, 5, 7))):
        assert shape.volumes_mm3[name] == pytest.approx(4 / 3 * np.pi * np.prod(radii), rel=0.01)
        np.testing.assert_allclose(shape.radii_mm[name], np.sort(radii) / np.sqrt(5), rtol=0.01)
    apart = np.linalg.norm(shape.middles_mm["A"] - shape.middles_mm["B"])
    assert apart == pytest.approx(np.linalg.norm([16, 1, 2]), rel=0.01)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_how_an_image_is_stored_and_cropped_does_not_count(axes):
    first = heart()
    permute = np.zeros((4, 4))
    permute[list(axes), [0, 1, 2]] = 1
    permute[3, 3] = 1
    flip = np.diag([-1.0, 1, -1, 1])
    stored = np.flip(first.truth_crop.transpose(axes), (0, 2))[:, 1:].copy()
    other = case_of(stored, first.frame.affine @ permute @ flip)
    assert difference(shape_of(first, NAMES), shape_of(other, NAMES)) < 1e-6


def test_the_same_heart_on_another_grid_is_alike_and_another_one_is_not():
    first, coarse = shape_of(heart(), NAMES), shape_of(heart(spacing=2 / 3), NAMES)
    assert difference(first, coarse) < ALIKE / 2
    for other in (
        heart(radii=((6.5, 7.5, 5.5), (8, 6, 6), (5, 5, 6))),
        heart(middles=((10, 10, 10), (28, 11, 12), (15, 27, 24))),
    ):
        assert difference(first, shape_of(other, NAMES)) > ALIKE


def test_structures_that_are_cut_unknown_or_few_are_not_compared():
    one = heart()
    assert volumes_mm3(one.meta | {"border_classes": [1]}, np.eye(4), NAMES).keys() == {"B", "C"}
    assert volumes_mm3(one.meta | {"annotated_classes": [3]}, np.eye(4), NAMES).keys() == {"C"}
    assert volumes_mm3({"annotated_classes": [1]}, np.eye(4), NAMES) == {}  # of an earlier form
    two = shape_of(one, {1: "A", 2: "B"})
    assert difference(two, two) is None


def test_pairs_are_those_that_a_slow_search_finds():
    rng = np.random.default_rng(0)
    radii = rng.uniform(5, 7, (6, 3, 3))
    radii[4] = radii[1] * 1.004
    shapes = [shape_of(heart(radii=r), NAMES) for r in radii]
    asked = []

    def shape(n):
        asked.append(n)
        return shapes[n]

    found = same_hearts([s.volumes_mm3 for s in shapes], shape, lambda i, j: False)
    slow = [(i, j) for i in range(6) for j in range(i + 1, 6) if difference(shapes[i], shapes[j]) < ALIKE]
    assert [(i, j) for i, j, _ in found] == slow == [(1, 4)]
    assert len(asked) == len(set(asked))
    assert same_hearts([s.volumes_mm3 for s in shapes], shape, lambda i, j: True) == []
    assert same_hearts([{}, {}], shape, lambda i, j: False) == []
