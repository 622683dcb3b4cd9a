"""Hearts of sixteen structures: the heart of ten of the same seed, plausible vessels, walls as thick as they say."""

import json

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from vecset.commands import make_phantoms
from vecset.common.errors import run_command
from vecset.imaging.classes import HEART16_CLASSES, HEART_CLASSES
from vecset.imaging.label_table import read_names
from vecset.phantom import field as pf
from vecset.phantom.phantom import PhantomOptions, encode_nifti, heart_of, make_phantom
from vecset.phantom.precedence import CORONARY, FIELDS_16
from vecset.phantom.sealing import seal, seal_sixteen
from vecset.phantom.sixteen import PARAMETERS

CLASS = {name: c for c, name in enumerate(HEART16_CLASSES, start=1)}
NEW = ("SVC", "IVC", "RV_wall", "LA_wall", "Coronary_sinus")
EVERYWHERE = np.ones((3, 3, 3))


@pytest.fixture(scope="module")
def hearts():
    """Two hearts on 2 mm voxels: (labels of ten, labels of sixteen, both cut to the grid of the ten; the sixteen whole,
    its affine)."""
    found = []
    for seed, index in ((0, 1), (5, 0)):
        options = [PhantomOptions(size=None, spacing_mm=(2.0, 2.0, 2.0), structures=n) for n in (10, 16)]
        (ten, ten_affine), (whole, affine) = (make_phantom(seed, index, o) for o in options)
        start = np.linalg.solve(affine[:3, :3], ten_affine[:3, 3] - affine[:3, 3])
        assert np.allclose(start, np.rint(start), atol=1e-6)  # the same voxels, and more of them
        box = tuple(slice(s, s + n) for s, n in zip(np.rint(start).astype(int), ten.shape))
        found.append((ten, whole[box], whole, affine))
    return found


def touch(labels, first, second):
    return (ndimage.binary_dilation(labels == CLASS[first]) & (labels == CLASS[second])).any()


def test_it_is_the_same_heart_and_only_LA_and_RV_give_room(hearts):
    for ten, sixteen, whole, _ in hearts:
        for name in HEART_CLASSES:
            here, alone = sixteen == CLASS[name], ten == CLASS[name]
            assert (whole == CLASS[name]).sum() == here.sum()  # nothing of the ten lies beyond their grid
            if name in ("LA", "RV"):
                walls = sixteen[alone & ~here]
                assert not (here & ~alone).any() and set(np.unique(walls)) <= {CLASS[f"{name}_wall"]}
                assert here.sum() > 0.9 * alone.sum()
            else:
                assert np.array_equal(here, alone), name


def test_what_is_drawn_for_ten_structures_does_not_depend_on_the_sixteen():
    ten, sixteen = heart_of(3, 2), heart_of(3, 2, 16)
    count = len(ten.geometry.segments)
    assert np.array_equal(ten.geometry.segments, sixteen.geometry.segments[:count])
    assert np.array_equal(ten.geometry.ellipsoids, sixteen.geometry.ellipsoids)
    assert ten.geometry.num_fields == 11 and sixteen.geometry.num_fields == FIELDS_16
    assert set(PARAMETERS) <= set(sixteen.parameters) and not set(PARAMETERS) & set(ten.parameters)


def test_each_is_one_piece_touches_what_it_belongs_to_and_encloses_nothing(hearts):
    for _, _, labels, _ in hearts:
        assert CLASS["Reserved"] not in labels
        for name in (*NEW, "LA", "RV"):
            assert ndimage.label(labels == CLASS[name], EVERYWHERE)[1] == 1, name
        for pair in (
            ("SVC", "RA"),
            ("IVC", "RA"),
            ("Coronary_sinus", "RA"),
            ("Coronary_sinus", "LA_wall"),
            ("RV_wall", "RV"),
            ("LA_wall", "LA"),
            ("LA", "LV"),
            ("LA", "PV"),
            ("LA", "LAA"),
            ("RV", "RA"),
            ("RV", "PA"),
        ):
            assert touch(labels, *pair), pair
        assert ndimage.label(np.pad(labels == 0, 1, constant_values=True))[1] == 1
        assert not any(np.take(labels, i, axis).any() for axis in range(3) for i in (0, -1))


def test_places_and_volumes(hearts):
    limits = {"SVC": (5, 20), "IVC": (4, 20), "RV_wall": (25, 75), "LA_wall": (10, 32), "Coronary_sinus": (1.8, 6)}
    for _, _, labels, affine in hearts:
        ml = np.bincount(labels.ravel(), minlength=17) * abs(np.linalg.det(affine[:3, :3])) / 1000
        for name, (low, high) in limits.items():
            assert low < ml[CLASS[name]] < high, (name, ml[CLASS[name]])

        def middle(name, labels=labels, affine=affine):
            return np.argwhere(labels == CLASS[name]).mean(0) @ affine[:3, :3].T + affine[:3, 3]

        assert middle("SVC")[2] > middle("RA")[2] + 25 and middle("IVC")[2] < middle("RA")[2] - 25
        assert middle("SVC")[0] > middle("Aorta")[0] + 10  # on the right of the aorta
        assert middle("Coronary_sinus")[1] < middle("LV")[1] - 20  # behind
        assert middle("Coronary_sinus")[2] < middle("LA")[2] - 10  # below the left atrium
        assert middle("RV_wall")[1] > middle("RV")[1]  # the septum is behind


def test_caval_stubs_go_on_without_a_step():
    geometry = heart_of(2, 0, 16).geometry
    for name in ("SVC", "IVC"):
        segments = geometry.segments[geometry.segments["class_id"] == CLASS[name]]
        stub = geometry.segments[geometry.segments["class_id"] == CLASS["RA"]]
        before = stub[np.argmin(np.linalg.norm(stub["end"] - segments[0]["start"], axis=1))]
        assert np.allclose(before["end"], segments[0]["start"]) and before["end_cut"] and segments[0]["start_cut"]
        assert np.isclose(before["end_radius"], segments[0]["start_radius"])
        assert np.allclose(before["end_normal"], -segments[0]["start_normal"])
        radii = np.append(segments["start_radius"], segments["end_radius"][-1])
        low, high = {"SVC": (7.5, 11), "IVC": (9.5, 15)}[name]  # SVC 15 to 22 mm wide, IVC 20 to 30, its stub less
        assert low <= radii.min() and radii.max() <= high


def test_walls_are_as_thick_as_drawn_by_brute_force():
    """Of points just outside a wall, at random: the distance to the nearest of many points of the pool."""
    heart = heart_of(0, 4, 16)
    geometry, rng = heart.geometry, np.random.default_rng(0)
    for wall, pool, wall_mm in zip(("RV_wall", "LA_wall"), ("RV", "LA"), geometry.walls_mm):
        assert {"RV_wall": 2 < wall_mm < 5, "LA_wall": 2 < wall_mm < 4}[wall]
        body = {"RV": pf.RV_BODY, "LA": pf.LA_BODY}[pool]
        centre = pf.world_of(geometry.ellipsoids["centre"][body][None], geometry.pose)[0]
        found = []
        for direction in rng.standard_normal((36, 3)):
            ray = centre + np.arange(0, 75, 0.5)[:, None] * direction / np.linalg.norm(direction)
            labels = pf.labels_at(ray, geometry)
            inside = np.flatnonzero(labels == CLASS[wall])
            if len(inside) and labels[inside[-1] + 1] == 0 and labels[inside[0] - 1] == CLASS[pool]:
                around = ray[inside[-1]] + np.stack(np.meshgrid(*3 * [np.arange(-5, 5.1, 0.7)]), -1).reshape(-1, 3)
                around = around[pf.labels_at(around, geometry) == CLASS[pool]]
                found.append(np.linalg.norm(around - ray[inside[-1]], axis=1).min() if len(around) else 5.0)
        assert len(found) >= 8
        assert abs(np.median(found) - wall_mm) < 0.5, (wall, np.median(found), wall_mm)


def test_no_pool_is_nearer_to_a_foreign_structure_than_its_wall_is_thick():
    """Points of the pools, and all that lies within a sphere round each."""
    geometry = heart_of(0, 2, 16).geometry
    rng = np.random.default_rng(1)
    sphere = rng.standard_normal((150, 3))
    sphere *= (rng.random((150, 1)) ** (1 / 3)) / np.linalg.norm(sphere, axis=1, keepdims=True)
    for pool, foreign, wall_mm in (
        ("RV", ("Aorta",), geometry.walls_mm[0]),
        ("LA", ("Aorta", "RA", "PA"), geometry.walls_mm[1]),
    ):
        body = {"RV": pf.RV_BODY, "LA": pf.LA_BODY}[pool]
        centre = pf.world_of(geometry.ellipsoids["centre"][body][None], geometry.pose)[0]
        points = centre + rng.uniform(-50, 50, (60000, 3))
        points = points[pf.labels_at(points, geometry) == CLASS[pool]]
        fields = pf.fields_at(points, geometry)[:, [CLASS[name] for name in foreign]].min(1)
        points = points[np.argsort(fields)[:150]]  # the nearest to them
        around = pf.labels_at((points[:, None] + 0.7 * wall_mm * sphere).reshape(-1, 3), geometry)
        assert np.isin(around, [CLASS[name] for name in foreign]).mean() < 0.002


def test_the_grid_is_the_definition_at_the_voxel_centres():
    heart = heart_of(3, 1, 16)
    affine = np.diag([2.3, 1.9, 2.1, 1.0])
    shape = np.ceil(np.ptp(heart.extent_mm, axis=0) / np.diag(affine)[:3]).astype(int) + 4
    affine[:3, 3] = heart.extent_mm.min(0) - 2 * np.diag(affine)[:3]
    labels = pf.rasterise(heart.geometry, affine, tuple(shape))
    rng = np.random.default_rng(0)
    index = np.concatenate(
        [rng.permutation(np.argwhere(labels == c))[:400] for c in range(11, 16)] + [rng.integers(0, shape, (2500, 3))]
    )
    expected = pf.labels_at(index @ affine[:3, :3].T + affine[:3, 3], heart.geometry)
    assert (labels[tuple(index.T)] != expected).mean() < 1e-3  # float32 on the very surface
    assert set(np.unique(expected)) == set(range(16))


def test_islands_of_walls_are_pool_again_and_those_of_pools_are_wall():
    ten = np.zeros((12, 12, 12), np.uint8)
    ten[2:10, 2:10, 2:10] = CLASS["RV"]
    beyond = np.zeros_like(ten)
    beyond[1, 2:10, 2:10] = beyond[2:5, 2:10, 2:10] = CLASS["RV_wall"]
    beyond[7, 5, 5] = CLASS["RV_wall"]  # an island in the pool
    beyond[3, 4, 4] = 0  # a bubble of the pool in the wall
    beyond[1, 5, 5] = 0  # a pit of background, open to the outside
    beyond[9, 0, 0] = CLASS["SVC"]
    beyond[6, 6, 6] = CLASS["SVC"]  # not in a pool
    labels = seal_sixteen(seal(ten.copy()), beyond)
    assert labels[7, 5, 5] == CLASS["RV"] and labels[3, 4, 4] == CLASS["RV_wall"] and labels[6, 6, 6] == CLASS["RV"]
    assert labels[1, 5, 5] == 0 and labels[9, 0, 0] == CLASS["SVC"]
    closed = ten.copy()
    beyond[:] = 0
    beyond[1, 2:10, 2:10] = beyond[0, 2:10, 2:10] = CLASS["RV_wall"]
    beyond[1, 5, 5] = 0  # a hole between wall and pool
    assert seal_sixteen(closed, beyond)[1, 5, 5] == CLASS["RV_wall"]


def test_files_carry_the_names_and_those_of_ten_structures_do_not(tmp_path):
    flags = ["--num", "1", "--size", "40", "--seed", "3"]
    make_phantoms.main(
        ["--output_dir", str(tmp_path / "16"), *flags, "--structures", "16", "--missing", "SVC:1", "13:1"]
    )
    make_phantoms.main(["--output_dir", str(tmp_path / "10"), *flags])
    image = nib.load(tmp_path / "16" / "phantom_0000.nii.gz")
    assert read_names(image.header) == dict(enumerate(HEART16_CLASSES, start=1))
    found = set(np.unique(np.asarray(image.dataobj)))
    assert found == set(range(16)) - {CLASS["SVC"], CLASS["RV_wall"]}
    record = json.loads((tmp_path / "16" / "phantoms.json").read_text())
    assert record["structures"] == 16 and record["class_names"] == list(HEART16_CLASSES)
    assert not nib.load(tmp_path / "10" / "phantom_0000.nii.gz").header.extensions
    assert "structures" not in json.loads((tmp_path / "10" / "phantoms.json").read_text())


def test_the_other_options_work_with_sixteen():
    options = PhantomOptions((36, 40, 44), None, 25.0, (0,), {CLASS["LA_wall"]: 1.0}, 0.2, 1.0, 16)
    labels, affine = make_phantom(1, 0, options)
    assert labels.shape == (36, 40, 44) and CLASS["LA_wall"] not in labels and CLASS["RV_wall"] in labels
    assert encode_nifti(labels, affine, HEART16_CLASSES) == encode_nifti(*make_phantom(1, 0, options), HEART16_CLASSES)


def test_a_structure_of_the_sixteen_needs_the_option(tmp_path, capsys):
    code = run_command(
        make_phantoms.main, ["--output_dir", str(tmp_path / "out"), "--num", "1", "--missing", "Coronary_sinus"]
    )
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert code != 0 and len(errors) == 1 and "--structures 16" in errors[0]


@pytest.mark.slow
def test_soundness_over_many_seeds():
    for seed in range(40, 52):
        labels, affine = make_phantom(seed, 0, PhantomOptions(structures=16))
        for name in (*NEW, "LA", "RV"):
            assert ndimage.label(labels == CLASS[name], EVERYWHERE)[1] == 1, (seed, name)
        for pair in (("SVC", "RA"), ("IVC", "RA"), ("Coronary_sinus", "RA"), ("RV_wall", "RV"), ("LA_wall", "LA")):
            assert touch(labels, *pair), (seed, pair)
        assert np.linalg.norm(affine[:3, 0]) <= 1.29
        assert ndimage.label(labels == CORONARY, EVERYWHERE)[1] == 1
