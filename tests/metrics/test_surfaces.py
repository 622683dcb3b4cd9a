"""Surface metrics against two independent libraries, formulas, and references.

surface-distance (DeepMind, the code of Nikolov et al. 2018) has our definition: every figure must agree within 1 %.

MONAI's NSD with `use_subvoxels` is the same definition, too. Its Hausdorff and average surface distance are not: it
takes the voxels of a mask that a neighbour through a face does not share, each with the same weight, and measures from
centre to centre. Where masks differ by single voxels that makes another average (a voxel of distance 0 or 1 where the
surface moved by half of one), and only there: `edge_voxels` computes MONAI's figure by its own rule from nothing but a
k-d tree, and on surfaces that lie far apart both rules must agree within 1 %.
"""

from functools import cache

import numpy as np
import pytest
import surface_distance
import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import euler_number as skimage_euler_number
from skimage.measure import marching_cubes, mesh_surface_area

from vecset.metrics.overlap import NSDS, score
from vecset.metrics.surfaces import TOLERANCES_MM, block_codes, element_areas_mm2, euler_number, surface_metrics
from vecset.phantom.phantom import PhantomOptions, make_phantom


def metrics_of(truth, prediction, spacing_mm):
    return surface_metrics(block_codes(truth), block_codes(prediction), spacing_mm)


def ball(shape, centre_mm, radius_mm, spacing_mm):
    grid = np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing_mm)], indexing="ij"), -1)
    return np.linalg.norm(grid - centre_mm, axis=-1) < radius_mm


def displaced(labels, rng, voxels):
    """`labels` looked up at places that a smooth random field moves by about `voxels`."""
    moved = []
    for axis, size in enumerate(labels.shape):
        noise = ndimage.gaussian_filter(rng.normal(size=labels.shape), 4)
        index = np.arange(size).reshape([-1 if a == axis else 1 for a in range(3)]) + noise / noise.std() * voxels
        moved.append(np.clip(np.rint(index), 0, size - 1).astype(int))
    return labels[tuple(moved)]


@cache
def pairs():
    return list(_pairs())


def _pairs():
    """(truth, prediction, spacing_mm): every structure of a heart, displaced by one and by three voxels, at two
    spacings each; balls on thick slices; a mask truncated by the field of view."""
    rng = np.random.default_rng(0)
    heart = make_phantom(0, 0, PhantomOptions(size=(64, 64, 64)))[0]
    for voxels, spacing_mm in ((0.7, (2.3, 2.3, 2.3)), (2.0, (0.9, 1.3, 4.0))):
        moved = displaced(heart, rng, voxels)
        for c in range(1, 11):
            around = ndimage.find_objects(((heart == c) | (moved == c)).astype(int))[0]
            yield heart[around] == c, moved[around] == c, spacing_mm
        yield heart > 0, moved > 0, spacing_mm
    for spacing_mm in ((1.0, 1.0, 1.0), (0.7, 0.7, 5.0)):
        yield (
            ball((60, 60, 24), (20, 21, 12), 11, spacing_mm),
            ball((60, 60, 24), (22, 20, 13), 9, spacing_mm),
            spacing_mm,
        )
    box = np.zeros((12, 20, 20), bool)
    box[:7, 5:15, 5:15] = True
    yield box, np.roll(box, 2, 1), (1.0, 2.0, 1.5)


def relative(value, expected):
    return abs(value - expected) / max(abs(expected), 1e-9) if abs(value - expected) > 1e-9 else 0


def test_equals_the_surface_distance_library_within_1_percent():
    count = 0
    for truth, prediction, spacing_mm in pairs():
        ours = metrics_of(truth, prediction, spacing_mm)
        found = surface_distance.compute_surface_distances(truth, prediction, spacing_mm)
        distance = np.concatenate([found["distances_gt_to_pred"], found["distances_pred_to_gt"]])
        area = np.concatenate([found["surfel_areas_gt"], found["surfel_areas_pred"]])
        theirs = {
            "hd95_mm": surface_distance.compute_robust_hausdorff(found, 95),
            "assd_mm": (distance * area).sum() / area.sum(),
            **{
                name: surface_distance.compute_surface_dice_at_tolerance(found, tolerance_mm)
                for name, tolerance_mm in zip(NSDS, TOLERANCES_MM)
            },
        }
        for name, value in theirs.items():
            assert relative(ours[name], value) < 0.01, (name, ours[name], value)
        count += 1
    assert count > 20


def as_monai(mask):
    return torch.from_numpy(mask)[None, None].float()


def monai_distances(truth, prediction, spacing_mm):
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    options = {"include_background": True, "spacing": spacing_mm}
    return (
        compute_hausdorff_distance(as_monai(prediction), as_monai(truth), percentile=95, **options).item(),
        compute_average_surface_distance(as_monai(prediction), as_monai(truth), symmetric=True, **options).item(),
    )


def edge_voxels(truth, prediction, spacing_mm):
    """(HD95, ASSD) by MONAI's rule."""
    edges = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * np.array(spacing_mm) for mask in (truth, prediction)]
    ways = [cKDTree(edges[1]).query(edges[0])[0], cKDTree(edges[0]).query(edges[1])[0]]
    return max(np.percentile(way, 95) for way in ways), np.concatenate(ways).mean()


def test_equals_monai_within_1_percent_where_the_rule_is_the_same():
    from monai.metrics import compute_surface_dice  # takes seconds to import, so not where tests are collected

    for truth, prediction, spacing_mm in pairs():
        ours = metrics_of(truth, prediction, spacing_mm)
        for name, tolerance_mm in zip(NSDS, TOLERANCES_MM):
            theirs = compute_surface_dice(
                as_monai(prediction),
                as_monai(truth),
                [tolerance_mm],
                spacing=spacing_mm,
                include_background=True,
                use_subvoxels=True,
            ).item()
            assert relative(ours[name], theirs) < 0.01, (name, ours[name], theirs)


def test_where_monai_differs_its_rule_explains_it():
    """By its own rule, the same figure; by ours another one, never by more than the voxel that the rule is about."""
    for truth, prediction, spacing_mm in pairs():
        theirs = monai_distances(truth, prediction, spacing_mm)
        np.testing.assert_allclose(edge_voxels(truth, prediction, spacing_mm), theirs, rtol=1e-5, atol=1e-6)
        ours = metrics_of(truth, prediction, spacing_mm)
        assert abs(ours["hd95_mm"] - theirs[0]) <= np.linalg.norm(spacing_mm)
        assert abs(ours["assd_mm"] - theirs[1]) <= max(spacing_mm)


def test_far_apart_both_rules_agree_within_1_percent():
    shape, spacing_mm = (150, 50, 50), (1.0, 1.0, 1.0)
    truth, prediction = (ball(shape, (x, 25.2, 24.9), 12, spacing_mm) for x in (20.3, 120.1))
    ours = metrics_of(truth, prediction, spacing_mm)
    theirs = monai_distances(truth, prediction, spacing_mm)
    assert relative(ours["hd95_mm"], theirs[0]) < 0.01 and relative(ours["assd_mm"], theirs[1]) < 0.01
    assert ours["nsd_1mm"] == ours["nsd_2mm"] == 0


def test_known_distances():
    spacing_mm = (0.5, 1.0, 2.0)
    slab = np.zeros((40, 30, 20), bool)
    slab[:, 4:14] = True
    thicker = slab.copy()
    thicker[:, 14:17] = True
    ours = metrics_of(slab, thicker, spacing_mm)  # one of the two large faces is 3 mm off, the other 0
    large, side = 20 * 40, 2 * (20 + 40)  # mm2 of one large face; mm2 of the sides per mm of thickness
    area = 4 * large + side * (10 + 13)
    assert ours["hd95_mm"] == 3
    assert ours["assd_mm"] == pytest.approx((2 * 3 * large + side * (0.5 + 1.5 + 2.5)) / area, rel=0.1)
    assert ours["nsd_1mm"] == pytest.approx(1 - (2 * large + side * 2) / area, abs=0.07)
    assert ours["nsd_2mm"] == pytest.approx(1 - (2 * large + side * 1) / area, abs=0.07)
    assert metrics_of(slab, slab, spacing_mm) == {"hd95_mm": 0, "assd_mm": 0, "nsd_1mm": 1, "nsd_2mm": 1}


def test_areas_follow_the_spacing():
    radius_mm = 9.0
    for spacing_mm in ((0.5, 0.5, 0.5), (0.5, 0.5, 1.5)):
        mask = ball((44, 44, 44), (11, 11, 11), radius_mm, spacing_mm)
        area = element_areas_mm2(spacing_mm)[block_codes(mask)].sum()
        assert area == pytest.approx(4 * np.pi * radius_mm**2, rel=0.2)  # marching cubes of a mask is rough
        vertices, faces, _, _ = marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5, spacing=spacing_mm)
        assert area == pytest.approx(mesh_surface_area(vertices, faces), rel=1e-3)


def test_equals_a_slow_reference():
    """Every pair of surface blocks, area by area."""
    rng = np.random.default_rng(3)
    truth, prediction = (ndimage.gaussian_filter(rng.normal(size=(9, 10, 11)), 1.5) > 0.05 for _ in range(2))
    spacing_mm = (1.2, 0.8, 2.1)
    surfaces = []
    for mask in (truth, prediction):
        padded, elements = np.pad(mask, 1), []
        for i, j, k in np.ndindex(*(n + 1 for n in mask.shape)):
            block = padded[i : i + 2, j : j + 2, k : k + 2]
            if block.any() and not block.all():
                code = sum(int(v) << bit for bit, v in enumerate(block.ravel()))
                elements.append(((i * 1.2, j * 0.8, k * 2.1), element_areas_mm2(spacing_mm)[code]))
        surfaces.append(elements)
    ways = [
        [(min(np.linalg.norm(np.subtract(a, b)) for b, _ in other), area) for a, area in own]
        for own, other in (surfaces, surfaces[::-1])
    ]
    every = [pair for way in ways for pair in way]
    whole = sum(area for _, area in every)
    hd95 = 0.0
    for way in ways:
        way, passed = sorted(way), 0.0
        limit = 0.95 * sum(area for _, area in way)
        for distance, area in way:
            passed += area
            if passed >= limit - 1e-9:
                hd95 = max(hd95, distance)
                break
    ours = metrics_of(truth, prediction, spacing_mm)
    assert ours["hd95_mm"] == pytest.approx(hd95) and ours["assd_mm"] == pytest.approx(
        sum(d * a for d, a in every) / whole
    )
    assert ours["nsd_1mm"] == pytest.approx(sum(a for d, a in every if d <= 1) / whole)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_euler_number_equals_scikit_image(share):
    mask = np.random.default_rng(1).random((17, 13, 15)) < share
    assert euler_number(block_codes(mask)) == skimage_euler_number(mask, 3)


def test_euler_numbers_that_are_known():
    ring = np.zeros((5, 9, 9), bool)
    ring[2, 2:7, 2:7] = True
    ring[2, 4, 4] = False
    shell = np.ones((5, 5, 5), bool)
    shell[2, 2, 2] = False
    two = np.zeros((5, 5, 9), bool)
    two[1:3, 1:3, 1:3] = two[1:3, 1:3, 5:7] = True
    assert [euler_number(block_codes(m)) for m in (ring, shell, two)] == [0, 2, 2]


def test_rows_have_mm_volumes_components_and_the_rule():
    truth = np.zeros((20, 20, 20), np.uint8)
    truth[2:8, 2:8, 2:8] = 1
    truth[12:14, 2:4, 2:4] = 1
    truth[2:5, 12:15, 2:5] = 2
    prediction = np.zeros_like(truth)
    prediction[2:8, 2:8, 2:11] = 1
    prediction[15:18, 15:18, 15:18] = 3
    rows = {r["class_name"]: r for r in score(truth, prediction, list("abcd"), spacing_mm=(1, 1, 2))}
    a = rows["a"]
    assert (a["components"], a["truth_components"], a["euler_number"], a["truth_euler_number"]) == (1, 2, 1, 2)
    assert a["volume_ml"] == pytest.approx(0.648) and a["truth_volume_ml"] == pytest.approx(0.448)
    assert a["relative_volume_error"] == pytest.approx(324 / 224 - 1) and a["hd95_mm"] > 2
    missed, invented = rows["b"], rows["c"]
    assert (missed["status"], invented["status"]) == ("missed", "invented")
    for row in (missed, invented):
        assert row["hd95_mm"] is row["assd_mm"] is None and row["nsd_1mm"] == row["nsd_2mm"] == 0
        assert row["missing_distance_mm"] == pytest.approx(np.linalg.norm([12, 13, 12]))
    assert missed["relative_volume_error"] == -1 and missed["components"] == 0 and missed["truth_components"] == 1
    assert invented["relative_volume_error"] is None and invented["volume_ml"] == pytest.approx(0.054)
    absent = rows["d"]
    assert all(absent[k] is None for k in (*a,) if k not in ("class_id", "class_name", "status"))
    assert rows["union"]["truth_components"] == 3 and rows["union"]["components"] == 2


def test_classes_nobody_looked_for_are_background_for_surfaces_too():
    truth = np.zeros((12, 12, 12), np.uint8)
    truth[3:8, 3:8, 3:8] = 1
    prediction = truth.copy()
    prediction[9:11, 9:11, 9:11] = 2
    rows = score(truth, prediction, ["a", "b"], [True, False], (1, 1, 1))
    assert rows[2]["hd95_mm"] == 0 and rows[2]["components"] == 1 and rows[1]["hd95_mm"] is None
    assert rows[1]["volume_ml"] is None


def test_two_empty_maps():
    empty = np.zeros((4, 4, 4), np.uint8)
    assert all(r["status"] == "absent" and r["hd95_mm"] is None for r in score(empty, empty, ["a"], None, (1, 1, 1)))
