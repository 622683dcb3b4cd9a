"""The files of one heart, opened by readers that share no code with their writers; latents and point clouds as
input."""

import errno
import json
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import trimesh
from helpers.fake_model import FormulaModel
from helpers.formula_hearts import (
    CLASSES,
    NAMES,
    OBLIQUE,
    RADIUS_MM,
    make_case,
    make_heart,
    run,
    sphere_points,
    write_checkpoint,
    write_ply,
)

import reconstruct
from vecset.common.errors import run_command
from vecset.imaging.classes import ClassNames, class_colours
from vecset.imaging.label_map import write_label_map
from vecset.imaging.label_table import read_names
from vecset.inference.heart_files import shown_names
from vecset.inference.latents import read_latents


def to_ras(points_lps):
    return np.asarray(points_lps) * [-1, -1, 1]


def test_structures_keep_their_colours_where_others_are_left_out_or_inferred():
    own = ClassNames(["RV", "Tumour", "LV"], colours={"Tumour": "#123456"})
    names = shown_names(own, np.array([False, False, True]), np.array([True, False, False]))
    assert names == ["RV (inferred)", "Tumour", None]
    assert class_colours(names)[:2] == [class_colours(["RV"])[0], "#123456"]


def test_simpleitk_reads_the_same_positions_as_nibabel(workdir):
    make_case(workdir / "data" / "a.npz", **OBLIQUE)
    assert run(workdir, "--no_meshes") == 0
    folder = workdir / "out" / "a"
    ours, theirs = nib.load(folder / "labels.nii.gz"), sitk.ReadImage(str(folder / "labels.nii.gz"))
    slicer = sitk.ReadImage(str(folder / "labels.seg.nrrd"))
    values = np.asanyarray(ours.dataobj)
    for image in (theirs, slicer):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, values)
        for index in np.random.default_rng(0).integers(0, values.shape, (20, 3)):
            place = image.TransformIndexToPhysicalPoint([int(n) for n in index])
            np.testing.assert_allclose(to_ras(place), nib.affines.apply_affine(ours.affine, index), atol=2e-4)
    np.testing.assert_allclose(ours.affine, make_heart(**OBLIQUE)[1].affine, atol=1e-5)


def test_names_and_colours_in_the_headers(workdir):
    make_case(workdir / "data" / "a.npz")
    assert run(workdir, "--no_meshes") == 0
    header = nib.load(workdir / "out" / "a" / "labels.nii.gz").header
    assert [e.get_code() for e in header.extensions] == [0]
    # as TotalSegmentator's reader goes: CaretExtension / VolumeInformation / LabelTable / Label, Key and text
    root = ElementTree.fromstring(bytes(header.extensions[0].get_content()))
    assert root.tag == "CaretExtension"
    labels = root.findall("VolumeInformation/LabelTable/Label")
    assert {int(n.get("Key")): n.text for n in labels} == dict(enumerate(NAMES, 1)) == read_names(header)
    colours = ["#" + "".join(f"{round(255 * float(n.get(k))):02X}" for k in ("Red", "Green", "Blue")) for n in labels]
    assert colours == class_colours(CLASSES)

    image = sitk.ReadImage(str(workdir / "out" / "a" / "labels.seg.nrrd"))
    for n, (name, colour) in enumerate(zip(NAMES, class_colours(CLASSES))):
        assert image.GetMetaData(f"Segment{n}_Name") == name
        assert image.GetMetaData(f"Segment{n}_LabelValue") == str(n + 1)
        shares = [float(v) for v in image.GetMetaData(f"Segment{n}_Color").split()]
        assert "#" + "".join(f"{round(255 * v):02X}" for v in shares) == colour


def test_a_name_with_signs_of_xml_survives(tmp_path):
    names = ["A & B <c>", "größe"]
    write_label_map(tmp_path / "x.nii.gz", np.ones((3, 3, 3), np.uint8), np.eye(4), names)
    assert read_names(nib.load(tmp_path / "x.nii.gz").header) == dict(enumerate(names, 1))
    assert (np.asanyarray(nib.load(tmp_path / "x.nii.gz").dataobj) == 1).all()
    assert read_names(nib.Nifti1Image(np.ones((2, 2, 2)), np.eye(4)).header) == {}


@pytest.mark.parametrize("suffix", ["ply", "stl", "obj"])
def test_trimesh_reads_meshes_as_watertight_with_the_labels_volume(workdir, suffix):
    make_case(workdir / "data" / "a.npz", **OBLIQUE)
    assert run(workdir, "--mesh_format", suffix, "--spacing", 0.4, cells=64) == 0  # voxels as small as the mesh's cells
    image = nib.load(workdir / "out" / "a" / "labels.nii.gz")
    labels = np.asanyarray(image.dataobj)
    meshes = sorted((workdir / "out" / "a" / "meshes").iterdir())
    assert [m.name for m in meshes] == [f"{n}.{suffix}" for n in NAMES[:8]]
    for c, path in enumerate(meshes, 1):
        mesh = trimesh.load(path)
        voxels = np.argwhere(labels == c)
        assert mesh.is_watertight and mesh.is_winding_consistent
        assert mesh.volume == pytest.approx(len(voxels) * 0.4**3, rel=0.03)
        middle_mm = nib.affines.apply_affine(image.affine, voxels.mean(0))
        np.testing.assert_allclose(mesh.center_mass, middle_mm, atol=0.1)


def test_lps_turns_x_and_y_and_stays_outward(workdir):
    make_case(workdir / "data" / "a.npz")
    assert run(workdir) == 0
    ras = trimesh.load(workdir / "out" / "a" / "meshes" / "class_3.ply")
    assert run(workdir, "--lps") == 0
    lps = trimesh.load(workdir / "out" / "a" / "meshes" / "class_3.ply")
    np.testing.assert_allclose(to_ras(lps.vertices), ras.vertices, atol=1e-4)
    assert lps.is_watertight and lps.volume == pytest.approx(ras.volume, rel=1e-4)


def test_the_scene_has_a_named_coloured_part_per_class(workdir):
    make_case(workdir / "data" / "a.npz")
    assert run(workdir) == 0
    scene = trimesh.load(workdir / "out" / "a" / "heart.glb")
    assert sorted(scene.geometry) == NAMES[:8]
    for c, name in enumerate(NAMES[:8], 1):
        part = scene.geometry[name]
        mesh = trimesh.load(workdir / "out" / "a" / "meshes" / f"{name}.ply")
        assert "#" + bytes(part.visual.material.baseColorFactor[:3]).hex().upper() == class_colours(CLASSES)[c - 1]
        assert part.volume == pytest.approx(mesh.volume, rel=1e-3)
        np.testing.assert_allclose(part.bounds, mesh.bounds, atol=1e-3)
    assert run(workdir, "--no_meshes") == 0 and not (workdir / "out" / "a" / "heart.glb").exists()


def test_another_spacing_has_the_same_field_of_view_and_the_same_figures(workdir):
    make_case(workdir / "data" / "a.npz", **OBLIQUE)
    assert run(workdir, "--no_meshes") == 0
    table = (workdir / "out" / "metrics.csv").read_text()
    assert run(workdir, "--no_meshes", "--spacing", 0.5) == 0
    assert (workdir / "out" / "metrics.csv").read_text() == table  # taken on the source's own grid
    image = nib.load(workdir / "out" / "a" / "labels.nii.gz")
    np.testing.assert_allclose(nib.affines.voxel_sizes(image.affine), 0.5, rtol=1e-5)
    _, frame = make_heart(**OBLIQUE)
    fine = frame.with_spacing(0.5)
    assert image.shape == fine.shape
    np.testing.assert_allclose(fine.voxel_to_mm([-0.5] * 3), frame.voxel_to_mm([-0.5] * 3), atol=1e-9)
    beyond = fine.voxel_to_mm(np.array(fine.shape) - 0.5) - frame.voxel_to_mm(np.array(frame.shape) - 0.5)
    assert (np.abs(beyond @ frame.affine[:3, :3] / frame.spacing_mm) <= 0.5 + 1e-9).all()
    labels = np.asanyarray(image.dataobj)
    assert (labels > 0).sum() * 0.125 == pytest.approx(4 / 3 * np.pi * RADIUS_MM**3, rel=0.01)
    middle = nib.affines.apply_affine(image.affine, np.argwhere(labels).mean(0))
    np.testing.assert_allclose(middle, (5, -20, 60), atol=0.1)
    assert run(workdir, "--spacing", 0) == 2


def test_latents_are_decoded_again_to_the_same_heart(workdir, capsys):
    make_case(workdir / "data" / "a.npz", **OBLIQUE)
    assert run(workdir, "--latents") == 0
    first = workdir / "out" / "a"
    latents, case = read_latents(first / "latents.npz")
    assert latents.shape == (1, 3) and case.class_names == NAMES and case.frame.shape == make_heart(**OBLIQUE)[1].shape
    again = ["--checkpoint", str(workdir / "checkpoint.pth"), "--device", "cpu", "--mesh_cells", "24"]
    for number, source in enumerate((first / "latents.npz", workdir / "out")):
        out = workdir / f"again{number}"
        assert run_command(reconstruct.main, [*again, "--latents", str(source), "--output_dir", str(out)]) == 0
        for name in ("labels.nii.gz", "meshes/class_1.ply"):
            assert (out / "a" / name).read_bytes() == (first / name).read_bytes()
    assert "no figures" in capsys.readouterr().out
    write_checkpoint(workdir / "checkpoint.pth", seed=8)
    assert run_command(reconstruct.main, [*again, "--latents", str(first), "--output_dir", str(workdir / "other")]) == 1
    assert "another checkpoint made these latents" in capsys.readouterr().err
    assert (
        run_command(
            reconstruct.main,
            [*again, "--latents", str(workdir / "checkpoint.pth"), "--output_dir", str(workdir / "other")],
        )
        == 2
    )
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("kind", ["ply", "npz"])
def test_a_point_cloud_is_enough(workdir, kind):
    points, labels = sphere_points()
    source = workdir / f"cloud.{kind}"
    if kind == "ply":
        write_ply(source, points, labels)
    else:
        np.savez(source, points_mm=points, labels=labels)
    assert run(workdir, "--no_meshes", "--spacing", 0.8, source=source.name) == 0
    image = nib.load(workdir / "out" / "cloud" / "labels.nii.gz")
    np.testing.assert_allclose(nib.affines.voxel_sizes(image.affine), 0.8, rtol=1e-5)
    labels = np.asanyarray(image.dataobj)
    # the formula's ball has radius 0.7 of the unit, the cloud 0.95
    radius_mm = RADIUS_MM * 0.7 / 0.95
    assert (labels > 0).sum() * 0.8**3 == pytest.approx(4 / 3 * np.pi * radius_mm**3, rel=0.04)
    np.testing.assert_allclose(
        nib.affines.apply_affine(image.affine, np.argwhere(labels).mean(0)), (5, -20, 60), atol=0.3
    )


def test_bad_input_is_one_clear_line(workdir, capsys):
    points, labels = sphere_points(50)
    write_ply(workdir / "nolabel.ply", points, labels, name="quality")
    write_ply(workdir / "class99.ply", points, np.full(50, 99))
    (workdir / "broken.ply").write_text("ply\nnonsense")
    np.savez(workdir / "few.npz", points_mm=points[:2], labels=labels[:2])
    empty, _ = make_heart()
    write_label_map(workdir / "empty.nii.gz", np.zeros_like(empty), np.eye(4))
    unknown = np.full((8, 8, 8), 40, np.uint8)
    unknown[:4] = 3
    write_label_map(workdir / "unknown.nii.gz", unknown, np.eye(4))
    np.savez(workdir / "noframe.npz", surface_points=np.zeros((9, 3), np.float32), surface_labels=np.eye(9))
    for name, word in (
        ("nolabel.ply", "label"),
        ("class99.ply", "1..9"),
        ("broken.ply", "PLY"),
        ("few.npz", "4 points"),
        ("empty.nii.gz", "empty mask"),
        ("unknown.nii.gz", "found labels 40"),
        ("noframe.npz", "frame"),
    ):
        assert run(workdir, source=name) == 1, name
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1 and word in lines[0] and "Traceback" not in lines[0], (name, lines)
    make_case(workdir / "data" / "a.npz")
    (workdir / "checkpoint.pth").write_text("not one")
    assert run(workdir) == 2
    assert "checkpoint" in capsys.readouterr().err.strip().splitlines()[-1]


def test_an_unwritable_folder_is_one_clear_line(workdir, capsys, monkeypatch):
    make_case(workdir / "data" / "a.npz")
    (workdir / "out").write_text("a file where the folder should be")
    assert run(workdir) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "--output_dir" in error[0] and "a file of that name" in error[0]

    def refuse(dir):
        raise PermissionError(errno.EACCES, "Permission denied", str(dir))

    (workdir / "out").unlink()
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("vecset.inference.heart_result.decode_label_map", lambda *a, **k: pytest.fail("decoded before"))
    assert run(workdir) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "Permission denied" in error[0] and "cannot be written to" in error[0]
    assert not list((workdir / "out").iterdir())


def test_result_names_every_file(workdir):
    make_case(workdir / "data" / "a.npz")
    assert run(workdir, "--latents") == 0
    folder = workdir / "out" / "a"
    written = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    result = json.loads((folder / "result.json").read_text())
    assert written == sorted([*result["files"], "result.json"])


def test_a_thin_ring_keeps_its_volume():
    """Radius 1.5 cells: meshed on cells of half the size, near the ring alone."""
    from helpers.formula_fields import meshes_of

    cell = 2 / 64

    def ring(p):
        return torch.hypot(torch.hypot(p[:, 0] + 0.007, p[:, 1]) - 0.55, p[:, 2] - 0.004) - 1.5 * cell

    (mesh,) = meshes_of(FormulaModel(ring, lambda p: p[:, :1], 1)).values()
    expected = 2 * np.pi * 0.55 * np.pi * (1.5 * cell) ** 2 * (40 / 0.95) ** 3
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume == pytest.approx(expected, rel=0.03)


def test_a_finished_heart_that_readers_place_differently_is_made_again(workdir, capsys):
    """As earlier versions wrote it from a header that contradicts itself."""
    make_case(workdir / "data" / "a.npz")
    assert run(workdir, "--no_meshes") == 0
    made = workdir / "out" / "a" / "labels.nii.gz"
    whole = made.read_bytes()
    image = nib.load(made)
    labels, affine = np.asanyarray(image.dataobj), image.affine
    mirrored = nib.Nifti1Image(labels, affine)
    mirrored.set_sform(affine, 2)
    mirrored.set_qform(np.diag([-1, 1, 1, 1]) @ affine, 1)
    nib.save(mirrored, made)
    assert run(workdir, "--no_meshes") == 0 and made.read_bytes() == whole
    capsys.readouterr()
    assert run(workdir, "--no_meshes") == 0 and "1 of 1 hearts were done before" in capsys.readouterr().out
