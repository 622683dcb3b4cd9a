"""The centre line of a mask: against thinning written out, analytic tubes, scikit-image, and distances."""

from itertools import permutations, product

import numpy as np
import pytest
from helpers.tubes import distance_to_line, tube
from scipy import ndimage
from skimage.morphology import skeletonize

from vecset.metrics.centre_line import centre_line, weights_mm
from vecset.metrics.surfaces import block_codes, euler_number
from vecset.phantom.phantom import PhantomOptions, make_phantom

CORNERS = np.ones((3, 3, 3), bool)
EDGES = ndimage.generate_binary_structure(3, 2)
FACES = ndimage.generate_binary_structure(3, 1)


@pytest.fixture(scope="module")
def coronaries():
    labels, _ = make_phantom(0, 1, PhantomOptions(size=(128, 128, 128)))
    return labels == 9


def neighbours(mask, p):
    return mask[tuple(slice(n - 1, n + 2) for n in p)]


def is_simple(block):
    """Components are counted by scipy."""
    block = block.copy()
    block[1, 1, 1] = False
    background = ~block & EDGES
    background[1, 1, 1] = False
    parts, _ = ndimage.label(background, FACES)
    at_faces = FACES.copy()
    at_faces[1, 1, 1] = False
    return ndimage.label(block, CORNERS)[1] == 1 and len(set(parts[at_faces & background])) == 1


def slow_centre_line(mask):
    """As the docstring of vecset/metrics/centre_line.py says, voxel by voxel."""
    mask = np.pad(mask, 1)
    first = np.argwhere(mask).min(0, initial=100)

    def number(p):
        return neighbours(mask, p).sum() - 1

    changed = True
    while changed:
        changed = False
        for side in ((0, 0, -1), (0, 0, 1), (0, -1, 0), (0, 1, 0), (-1, 0, 0), (1, 0, 0)):
            chosen = [
                p
                for p in map(tuple, np.argwhere(mask))
                if not mask[tuple(np.add(p, side))] and number(p) > 1 and is_simple(neighbours(mask, p))
            ]
            for p in sorted(chosen, key=lambda p: [(n - f) % 2 for n, f in zip(p, first)]):
                beside = [q for q in map(tuple, np.argwhere(neighbours(mask, p)) + p - 1) if q != p]
                end = not beside or (len(beside) == 1 and number(beside[0]) <= 2)
                if not end and is_simple(neighbours(mask, p)):
                    mask[p] = False
                    changed = True
    return mask[1:-1, 1:-1, 1:-1]


def test_equals_thinning_written_out():
    rng = np.random.default_rng(0)
    masks = [rng.random(rng.integers(1, 6, 3)) < rng.random() for _ in range(12)]
    masks += [ndimage.gaussian_filter(rng.normal(size=(6, 6, 7)), 1.2) > 0.02, np.ones((4, 3, 6), bool)]
    masks += [tube((11, 7, 6), ([1, 2, 2], [9, 4, 3]), 1.5)]
    for mask in masks:
        np.testing.assert_array_equal(centre_line(mask), slow_centre_line(mask))


def test_keeps_topology_and_never_loses_a_component():
    """Small random masks and smooth ones, with tunnels and cavities."""
    rng = np.random.default_rng(1)
    masks = [rng.random(rng.integers(1, 8, 3)) < rng.random() for _ in range(400)]
    masks += [ndimage.gaussian_filter(rng.normal(size=(24, 20, 22)), 1.5) > 0.03 for _ in range(5)]
    shell = np.ones((9, 9, 9), bool)
    shell[3:6, 3:6, 3:6] = False
    for mask in [*masks, shell]:
        line = centre_line(mask)
        assert not (line & ~mask).any()
        assert ndimage.label(line, CORNERS)[1] == ndimage.label(mask, CORNERS)[1]
        assert euler_number(block_codes(line)) == euler_number(block_codes(mask))
        np.testing.assert_array_equal(ndimage.label(mask, CORNERS)[0][line] > 0, True)


@pytest.mark.parametrize("along", range(3))
def test_a_bar_of_any_width_has_a_line_of_its_length(along):
    """Those of an even number of voxels across, too, which scikit-image loses."""
    for a, b in product(range(1, 7), repeat=2):
        shape = np.insert([a, b], along, 30)
        line = np.argwhere(centre_line(np.ones(shape, bool)))
        assert len(line) == np.ptp(line[:, along]) + 1 >= 30 - max(a, b), (a, b)


@pytest.mark.parametrize("radius", [0.9, 1.5, 2.5, 4.0])
def test_lies_on_the_axis_of_a_tube(radius):
    rng = np.random.default_rng(int(10 * radius))
    for half in (0, 0.5, None):  # axes along voxels, between them, and in any direction
        a = np.array([8.0, 8, 8]) + (rng.random(3) if half is None else half)
        b = a + (rng.uniform(15, 25, 3) if half is None else rng.permutation([25, 0, 0]))
        line = centre_line(tube((44,) * 3, (a, b), radius))
        distance, along = distance_to_line(np.argwhere(line).astype(float), (a, b))
        length = np.linalg.norm(b - a)
        inner = (along > 0) & (along < length)
        assert distance[inner].max() < 1.3
        assert along.min() < radius + 1 and along.max() > length - radius - 1
        assert np.diff(np.sort(along)).max() < 2  # no gap


def test_agrees_with_scikit_image_on_coronaries(coronaries):
    own, other = centre_line(coronaries), skeletonize(coronaries)
    from_other, from_own = (ndimage.distance_transform_edt(~line) for line in (other, own))
    assert (from_own[other] < 1.8).mean() > 0.97 and (from_other[own] < 1.8).mean() > 0.97
    assert own.sum() == pytest.approx(other.sum(), rel=0.05)


def test_is_the_ridge_of_the_distance_to_the_surface(coronaries):
    """A centre line by distance: voxels from which it is about as far to the surface as from any beside them."""
    inside = ndimage.distance_transform_edt(np.pad(coronaries, 1))[1:-1, 1:-1, 1:-1]
    largest = ndimage.maximum_filter(inside, 3)
    line = centre_line(coronaries)
    assert (inside[line] > largest[line] - 0.8).mean() > 0.97
    ridge = coronaries & (inside == largest) & (inside > 1)
    assert (ndimage.distance_transform_edt(~line)[ridge] < 1.8).mean() > 0.97


def test_neither_the_box_nor_the_orientation_matters_much(coronaries):
    line = centre_line(coronaries)
    box = ndimage.find_objects(coronaries.astype(int))[0]
    np.testing.assert_array_equal(centre_line(coronaries[box]), line[box])
    own = ndimage.distance_transform_edt(~line[box])
    for axes, flips in zip(permutations(range(3)), product((False, True), repeat=3)):
        turned = coronaries[box].transpose(axes)
        flip = [axis for axis in range(3) if flips[axis]]
        other = np.flip(centre_line(np.flip(turned, flip)), flip).transpose(np.argsort(axes))
        assert other.sum() == pytest.approx(line.sum(), rel=0.03)
        assert (own[other] < 1.8).mean() > 0.97
        assert (ndimage.distance_transform_edt(~other)[line[box]] < 1.8).mean() > 0.97


def test_a_voxel_counts_the_mm_per_step():
    line = np.zeros((8, 5, 8), bool)
    line[1, 1, 1:5] = line[5, 2, 7] = line[1:3, 3, 6] = line[3, 3, 7] = True
    spacing_mm = np.array([0.5, 1.0, 3.0])
    weight = dict(zip(map(tuple, np.argwhere(line).tolist()), weights_mm(line, spacing_mm)))
    slanted = np.hypot(0.5, 3) / np.sqrt(2)
    assert weight[1, 1, 2] == pytest.approx(3) and weight[5, 2, 7] == pytest.approx(1.5 ** (1 / 3))
    assert weight[1, 3, 6] == pytest.approx(0.5) and weight[2, 3, 6] == pytest.approx((0.5 + slanted) / 2)
    assert weight[3, 3, 7] == pytest.approx(slanted)
    np.testing.assert_allclose(weights_mm(line, (0.7, 0.7, 0.7)), 0.7)
