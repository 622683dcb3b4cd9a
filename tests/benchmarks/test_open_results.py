"""benchmarks/open_results.py: passes what reconstruct.py writes, and sees each thing that would be wrong."""

import importlib.util
import shutil

import nibabel
import numpy as np
import pytest
import trimesh
from helpers.formula_hearts import OBLIQUE, make_case, make_workdir, run


@pytest.fixture(scope="module")
def open_results(repository):
    spec = importlib.util.spec_from_file_location("open_results", repository / "benchmarks" / "open_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), marks=pytest.mark.slow),
        ("--lps", "--mesh_format", "stl"),
        pytest.param(("--mesh_format", "obj"), marks=pytest.mark.slow),
    ],
)
def test_passes_what_comes_out(workdir, open_results, capsys, options):
    make_case(workdir / "data" / "a.npz", **OBLIQUE)
    assert run(workdir, *options, "--spacing", 0.4, cells=64) == 0
    assert open_results.main([str(workdir / "out")]) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert said.count("watertight") == 8 and "1 of 1 hearts" in said


@pytest.fixture(scope="module")
def made(tmp_path_factory, open_results):
    """What reconstruct.py made of one heart; nothing is wrong with it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = make_workdir(tmp_path_factory.mktemp("made"), patch)
        make_case(folder / "data" / "a.npz", **OBLIQUE)
        assert run(folder, "--spacing", 0.4, cells=64) == 0
    assert open_results.main([str(folder / "out")]) == 0
    return folder / "out"


def other_mesh(folder, change):
    path = folder / "meshes" / "class_3.ply"
    mesh = trimesh.load(path)
    change(mesh)
    mesh.export(path)


def moved_header(folder):
    image = nibabel.load(folder / "labels.nii.gz")
    values, affine = np.asanyarray(image.dataobj), image.affine.copy()
    affine[0, 3] += 0.01
    other = nibabel.Nifti1Image(values, affine, image.header)
    nibabel.save(other, folder / "labels.nii.gz")


@pytest.mark.parametrize(
    "spoil, complaint",
    [
        (lambda f: other_mesh(f, lambda m: m.apply_scale(1.02)), "of the label's volume"),
        (lambda f: other_mesh(f, lambda m: m.apply_translation((0, 1, 0))), "from its label"),
        (lambda f: other_mesh(f, lambda m: m.invert()), "inside out"),
        (lambda f: other_mesh(f, lambda m: m.update_faces(np.arange(len(m.faces)) > 0)), "open"),
        (lambda f: (f / "meshes" / "class_2.ply").unlink(), "without a mesh"),
        (moved_header, "SimpleITK places voxels 0.0100 mm"),
    ],
)
def test_sees_what_is_wrong(made, tmp_path, open_results, capsys, spoil, complaint):
    shutil.copytree(made, tmp_path / "out")
    spoil(tmp_path / "out" / "a")
    capsys.readouterr()
    assert open_results.main([str(tmp_path / "out")]) == 1
    assert complaint in capsys.readouterr().out
