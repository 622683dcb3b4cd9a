"""The synthetic hearts: one definition whatever the grid, sound labels, plausible anatomy, honest options."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
from helpers.pose_reference import anatomy_of
from scipy import ndimage

from vecset.commands import make_phantoms
from vecset.common.errors import InputError, run_command
from vecset.imaging.classes import HEART_CLASSES
from vecset.phantom import field as pf
from vecset.phantom.anatomy import MAX_EXTENT_MM, PARAMETERS, build_heart, draw_parameters
from vecset.phantom.phantom import PhantomOptions, encode_nifti, heart_of, make_phantom
from vecset.phantom.precedence import AORTA, CORONARY

CLASS = {name: c for c, name in enumerate(HEART_CLASSES, start=1)}
EVERYWHERE = np.ones((3, 3, 3))


@pytest.fixture(scope="module")
def hearts():
    """Six hearts of two populations at 128^3."""
    return [make_phantom(seed, index) for seed in (0, 5) for index in range(3)]


def voxel_ml(affine):
    return abs(np.linalg.det(affine[:3, :3])) / 1000


def centre_mm(labels, affine, name):
    return np.argwhere(labels == CLASS[name]).mean(0) @ affine[:3, :3].T + affine[:3, 3]


def contact_mm2(labels, affine, first, second):
    area = np.linalg.norm(affine[:3, 0]) ** 2
    a, b = labels == CLASS[first], labels == CLASS[second]
    faces = 0
    for axis in range(3):
        a_, b_ = np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0)
        faces += (a_[1:] & b_[:-1]).sum() + (b_[1:] & a_[:-1]).sum()
    return faces * area


def assert_sound(labels):
    for name, c in CLASS.items():
        pieces = ndimage.label(labels == c, EVERYWHERE)[1]
        assert pieces == 1, f"{name} has {pieces} pieces"
    background = ndimage.label(np.pad(labels == 0, 1, constant_values=True))[1]
    assert background == 1, f"{background - 1} holes"


def test_every_structure_is_one_piece_and_encloses_no_background(hearts):
    for labels, _ in hearts:
        assert_sound(labels)


@pytest.mark.slow
def test_soundness_over_many_seeds():
    for seed in range(10, 34):
        assert_sound(make_phantom(seed, 0)[0])


def test_structures_that_belong_together_touch(hearts):
    wanted = {
        ("LV", "Myocardium"): 8000,
        ("LV", "LA"): 350,
        ("RV", "RA"): 300,
        ("RV", "PA"): 200,
        ("LV", "Aorta"): 250,
        ("RV", "Myocardium"): 3000,
        ("LA", "PV"): 800,
        ("LA", "LAA"): 150,
        ("Aorta", "Coronary"): 20,
        ("Myocardium", "Coronary"): 300,
    }
    for labels, affine in hearts:
        for pair, least in wanted.items():
            assert contact_mm2(labels, affine, *pair) > least, pair


def test_muscle_closes_the_left_ventricle_but_for_its_two_valves(hearts):
    for labels, _affine in hearts:
        cavity = labels == CLASS["LV"]
        beside = labels[ndimage.binary_dilation(cavity) & ~cavity]
        share = np.bincount(beside, minlength=11) / len(beside)
        assert share[0] < 0.01, f"{share[0]:.3f} of the cavity's outside is background"
        assert share[CLASS["Myocardium"]] > 0.7


def test_volumes_are_those_of_adults(hearts):
    limits = {
        "Myocardium": (60, 190),
        "LA": (35, 140),
        "LV": (60, 190),
        "RA": (45, 150),
        "RV": (65, 210),
        "Aorta": (50, 170),
        "PA": (20, 80),
        "LAA": (3, 16),
        "Coronary": (2, 7),
        "PV": (6, 30),
    }
    for labels, affine in hearts:
        ml = np.bincount(labels.ravel(), minlength=11) * voxel_ml(affine)
        for name, (low, high) in limits.items():
            assert low < ml[CLASS[name]] < high, (name, ml[CLASS[name]])


def test_the_wall_is_7_to_12_mm_thick_at_mid_ventricle(hearts):
    for labels, affine in hearts:
        spacing = np.linalg.norm(affine[:3, 0])
        depth = ndimage.distance_transform_edt(labels != CLASS["LV"], sampling=spacing) + spacing / 2
        muscle = labels == CLASS["Myocardium"]
        outer = muscle & ~ndimage.binary_erosion(labels > 0, EVERYWHERE)  # the free wall's outside
        assert 6 < np.median(depth[outer]) < 13


def test_left_is_left_and_the_apex_points_left_front_down(hearts):
    for labels, affine in hearts:
        left, right = centre_mm(labels, affine, "LV"), centre_mm(labels, affine, "RV")
        assert right[0] > left[0] + 5 and right[1] > left[1] + 5  # the right ventricle: to the right and in front
        assert centre_mm(labels, affine, "RA")[0] > centre_mm(labels, affine, "LA")[0] + 10
        assert centre_mm(labels, affine, "LA")[1] < left[1] - 10  # the left atrium lies behind
        assert centre_mm(labels, affine, "LAA")[0] < centre_mm(labels, affine, "LA")[0]
        apex = left - centre_mm(labels, affine, "LA")  # from the base to the apex
        assert apex[0] < -5 and apex[1] > 5 and apex[2] < -2
        assert centre_mm(labels, affine, "PA")[2] > left[2] + 20


def test_the_field_of_view_is_fitted_and_the_coronaries_are_wider_than_a_voxel(hearts):
    for labels, affine in hearts:
        spacing = np.linalg.norm(affine[:3, 0])
        at = np.argwhere(labels)
        assert 0.9 < spacing <= 1.2
        assert at.min() >= 1 and at.max() <= 126  # nothing is cut
        assert (np.ptp(at, axis=0) + 1).max() * spacing > 128 * spacing - 12  # and little is wasted
    for index in range(3):
        heart = heart_of(0, index)
        segments = heart.geometry.segments
        coronaries = segments[segments["class_id"] == CORONARY]
        for radii in (coronaries["start_radius"], coronaries["end_radius"]):
            assert radii.min() >= 0.9 * 1.2 and radii.max() <= 2.0


def test_the_largest_hearts_still_fit():
    p = draw_parameters(np.random.default_rng(0))
    heart = build_heart({**p, "size": 1.4})
    assert np.ptp(heart.extent_mm, axis=0).max() <= MAX_EXTENT_MM


def test_the_grid_is_the_definition_at_the_voxel_centres():
    heart = heart_of(3, 1)
    rng = np.random.default_rng(0)
    angle = 0.4
    axes = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, -1.0]])
    affine = np.eye(4)
    affine[:3, :3] = axes * [2.1, 1.7, 2.9]
    shape = np.array((96, 110, 64))
    affine[:3, 3] = (heart.extent_mm.min(0) + heart.extent_mm.max(0)) / 2 - affine[:3, :3] @ (shape / 2)
    labels = pf.rasterise(heart.geometry, affine, tuple(shape))
    index = np.concatenate(
        [
            rng.integers(0, shape, (4000, 3)),
            rng.permutation(np.argwhere(labels))[:6000],
            rng.permutation(np.argwhere(labels == CLASS["Coronary"]))[:300],
        ]
    )
    expected = pf.labels_at(index @ affine[:3, :3].T + affine[:3, 3], heart.geometry)
    assert (labels[tuple(index.T)] != expected).mean() < 1e-3  # float32 on the very surface
    assert set(np.unique(expected)) == set(range(11))


def test_a_segment_is_a_cone_with_round_ends_cut_flat():
    segment = np.zeros(1, pf.SEGMENT)
    segment["end"], segment["start_radius"], segment["end_radius"] = [10, 0, 0], 3.0, 3.0
    segment["class_id"] = AORTA
    geometry = pf.Geometry(
        pf.Pose(np.eye(3), np.array([1e4, 0, 0]), np.zeros((3, 2, 3)), 150.0),
        np.array(5 * [(np.eye(3), np.zeros(3), np.ones(3))], pf.ELLIPSOID),
        np.array(2 * [([1.0, 0, 0], 0.0)], pf.PLANE),
        segment,
    )
    points = np.array([[5.0, 5, 0], [-5, 0, 0], [5, 0, 0], [13, 4, 0]])
    assert np.allclose(pf.fields_at(points, geometry)[:, AORTA], [2, 2, -3, 2])
    segment["start_cut"], segment["start_normal"] = True, [-1, 0, 0]  # background where x < 0
    assert np.allclose(pf.fields_at([[-1.0, 0, 0]], geometry)[:, AORTA], [1])


def test_the_warp_is_inverted_and_never_folds():
    rng = np.random.default_rng(1)
    for index in range(20):
        if index < 2:
            pose = heart_of(7, index).geometry.pose
        else:
            waves = draw_parameters(np.random.default_rng(index))["waves"]
            pose = pf.Pose(np.eye(3), np.zeros(3), waves, 160.0)
        anatomy = rng.uniform(-90, 90, (300, 3))
        world = pf.world_of(anatomy, pose)
        assert np.allclose(anatomy_of(world, pose), anatomy, atol=1e-4)
        columns = [(anatomy_of(world + d, pose) - anatomy_of(world - d, pose)) / 0.02 for d in 0.01 * np.eye(3)]
        stretch = np.linalg.det(np.stack(columns, -1))
        assert stretch.min() > 0.2


def test_hearts_differ(hearts):
    a, b = hearts[0][0], hearts[1][0]
    assert (a != b)[(a > 0) | (b > 0)].mean() > 0.2
    drawn = [draw_parameters(np.random.default_rng([0, i])) for i in range(50)]
    parameters = np.array([[*[p[name] for name in PARAMETERS], *p["waves"].ravel()[[0, 1, 2, 4, 5]]] for p in drawn])
    assert (parameters.std(0) > 0).all()


def test_same_seed_same_bytes_and_the_heart_does_not_depend_on_the_options():
    options = PhantomOptions(size=(40, 40, 40))
    assert encode_nifti(*make_phantom(2, 3, options)) == encode_nifti(*make_phantom(2, 3, options))
    assert encode_nifti(*make_phantom(2, 3, options)) != encode_nifti(*make_phantom(2, 4, options))
    plain, oblique = make_phantom(2, 3, options), make_phantom(2, 3, PhantomOptions(size=(40, 40, 40), oblique_deg=30))
    for name in ("LV", "RA", "Aorta"):
        assert np.linalg.norm(centre_mm(*plain, name) - centre_mm(*oblique, name)) < 2.5


@pytest.mark.slow
def test_command_writes_the_same_bytes_with_any_number_of_workers(tmp_path):
    flags = ["--num", "3", "--size", "24", "--seed", "4"]
    assert make_phantoms.main(["--output_dir", str(tmp_path / "one"), *flags]) == 0
    assert make_phantoms.main(["--output_dir", str(tmp_path / "two"), *flags, "--file_workers", "2"]) == 0
    for name in (f"phantom_{i:04d}.nii.gz" for i in range(3)):
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes()
        assert content[4:8] == bytes(4)  # no time stamp
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == [
        *(f"phantom_{i:04d}.nii.gz" for i in range(3)),
        "phantoms.json",
    ]


def test_header_is_complete(tmp_path):
    make_phantoms.main(
        ["--output_dir", str(tmp_path), "--num", "1", "--spacing", "3", "4", "5", "--oblique", "20", "--flip", "0"]
    )
    image = nib.load(tmp_path / "phantom_0000.nii.gz")
    assert image.get_data_dtype() == np.uint8 and image.header.get_xyzt_units()[0] == "mm"
    assert int(image.header["qform_code"]) > 0 and int(image.header["sform_code"]) > 0
    assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-3)
    assert np.allclose(image.header.get_zooms(), (3, 4, 5), atol=1e-4)
    assert np.linalg.det(image.affine[:3, :3]) < 0  # one axis runs backwards
    assert np.abs(image.affine[:3, :3] / (3, 4, 5)).max(0).min() < 0.999  # and they are oblique
    labels = np.asarray(image.dataobj)
    assert not any(np.take(labels, i, axis).any() for axis in range(3) for i in (0, -1))


def test_done_hearts_are_skipped_and_other_options_make_all_again(tmp_path, capsys):
    flags = ["--output_dir", str(tmp_path), "--num", "2", "--size", "24"]
    make_phantoms.main(flags)
    first = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.glob("*.nii.gz")}
    capsys.readouterr()
    make_phantoms.main([*flags[:-3], "3", "--size", "24"])
    assert "1 hearts made, 2 were there" in capsys.readouterr().out
    for name, (_content, stamp) in first.items():
        assert (tmp_path / name).stat().st_mtime_ns == stamp
    make_phantoms.main([*flags, "--seed", "9"])
    assert (tmp_path / "phantom_0000.nii.gz").read_bytes() != first["phantom_0000.nii.gz"][0]
    assert not (tmp_path / "phantom_0002.nii.gz").exists()  # a heart of the other population does not stay
    assert json.loads((tmp_path / "phantoms.json").read_text())["seed"] == 9


def test_missing_structures(tmp_path):
    options = PhantomOptions(size=(24, 24, 24), missing={CLASS["LAA"]: 1.0, CLASS["RA"]: 0.5})
    present = [set(np.unique(make_phantom(0, i, options)[0])) for i in range(6)]
    assert all(CLASS["LAA"] not in p for p in present)
    assert 0 < sum(CLASS["RA"] in p for p in present) < 6
    assert all(CLASS["LV"] in p for p in present)


def test_cut_shows_a_part_of_the_same_heart():
    whole, whole_affine = make_phantom(1, 0, PhantomOptions(size=None, spacing_mm=(2.0, 2.0, 2.0)))
    labels, affine = make_phantom(1, 0, PhantomOptions(size=None, spacing_mm=(2.0, 2.0, 2.0), cut=0.3))
    assert (np.array(labels.shape) < whole.shape).all()
    start = np.rint(np.linalg.solve(whole_affine[:3, :3], affine[:3, 3] - whole_affine[:3, 3])).astype(int)
    assert np.array_equal(labels, whole[tuple(slice(s, s + n) for s, n in zip(start, labels.shape))])
    assert any(np.take(labels, i, axis).any() for axis in range(3) for i in (0, -1))  # something is cut
    assert make_phantom(1, 0, PhantomOptions(size=(30, 40, 50), cut=0.3))[0].shape == (30, 40, 50)


def test_label_noise_moves_outlines_by_about_as_much_as_asked():
    clean, affine = make_phantom(1, 0, PhantomOptions(size=(64, 64, 64)))
    spacing = np.linalg.norm(affine[:3, 0])
    changed = []
    for noise in (1.0, 3.0):
        noisy, _ = make_phantom(1, 0, PhantomOptions(size=(64, 64, 64), noise_mm=noise))
        outside = ndimage.distance_transform_edt(clean == 0, sampling=spacing)
        inside = ndimage.distance_transform_edt(clean > 0, sampling=spacing)
        moved = (noisy > 0) != (clean > 0)
        assert np.percentile((outside + inside)[moved], 90) < 2 * noise + 2 * spacing
        changed.append((noisy != clean).sum())
    assert 0 < changed[0] < changed[1]


@pytest.mark.parametrize(
    "flags, word",
    [
        (["--missing", "Spleen"], "Spleen"),
        (["--missing", "LA:2"], "LA:2"),
        (["--missing", "11"], "11"),
        (["--cut", "1.5"], "--cut"),
        (["--size", "10", "20"], "--size"),
        (["--spacing", "0"], "--spacing"),
        (["--num", "0"], "--num"),
        (["--size", "32", "--spacing", "1"], "field of view"),
        (["--oblique", "nan"], "--oblique"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, capsys, flags, word):
    code = run_command(make_phantoms.main, ["--output_dir", str(tmp_path / "out"), "--num", "1", *flags])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert code != 0 and len(errors) == 1 and word in errors[0]
    assert not list(tmp_path.rglob("*.nii.gz"))


def test_phantoms_of_unknown_origin_are_not_overwritten(tmp_path):
    (tmp_path / "phantom_0000.nii.gz").write_bytes(gzip.compress(b"mine"))
    with pytest.raises(InputError, match="phantoms.json"):
        make_phantoms.main(["--output_dir", str(tmp_path), "--num", "1", "--size", "24"])
    assert gzip.decompress((tmp_path / "phantom_0000.nii.gz").read_bytes()) == b"mine"


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        make_phantoms.main(["--help"])
    assert stop.value.code == 0 and "--label_noise" in capsys.readouterr().out
