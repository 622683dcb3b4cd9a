"""reconstruct.py --extend: the grid goes on beyond the image, and the figures do not."""

import json

import nibabel as nib
import numpy as np
import pytest
import trimesh
from helpers.formula_hearts import NAMES, OBLIQUE, make_heart, metrics, run

from vecset.commands.reconstruct import parse_arguments
from vecset.common.errors import InputError
from vecset.data.case_file import Case, read_case, write_case
from vecset.imaging.frame import Frame


def cut_case(path, more=(), **grid):
    """A case file of the ball whose image ends 4 voxels after its middle along the second axis. Returns the whole
    truth and its frame."""
    from helpers.formula_hearts import make_case

    make_case(path, **grid)
    case = read_case(path)
    truth, frame = make_heart(**grid)
    case.frame = Frame(frame.affine, (frame.shape[0], 20, frame.shape[2]), frame.centre_mm, frame.scale)
    case.truth_crop = truth[:, :20]
    case.meta = {**case.meta, **dict(more)}
    write_case(path, case)
    return truth, frame


def image(workdir, name="labels"):
    return nib.load(workdir / "out" / "a" / f"{name}.nii.gz")


@pytest.mark.parametrize("grid", [{}, OBLIQUE])
def test_the_grid_grows_and_what_lies_in_the_image_stays(workdir, grid):
    truth, frame = cut_case(workdir / "data" / "a.npz", **grid)
    assert run(workdir) == 0
    plain, figures = np.asanyarray(image(workdir).dataobj), metrics(workdir)
    volume = sum(trimesh.load(p).volume for p in (workdir / "out" / "a" / "meshes").glob("*.ply"))
    assert run(workdir, "--extend", 7.2) == 0
    made = image(workdir)
    labels = np.asanyarray(made.dataobj)
    more = np.ceil(7.2 / frame.spacing_mm).astype(int)
    assert labels.shape == tuple(np.array(plain.shape) + 2 * more)
    inside = tuple(slice(n, n + size) for n, size in zip(more, plain.shape))
    np.testing.assert_array_equal(labels[inside], plain)
    np.testing.assert_allclose(made.affine[:3, :3], frame.affine[:3, :3], atol=1e-5)
    np.testing.assert_allclose(made.affine[:3, 3], frame.voxel_to_mm(-more), atol=1e-4)
    # the part of the ball beyond the image, as the formula has it
    np.testing.assert_array_equal(
        labels[inside[0], more[1] : more[1] + 20 + min(more[1], 12), inside[2]], truth[:, : 20 + min(more[1], 12)]
    )
    for row, other in zip(metrics(workdir), figures, strict=True):
        assert row == other
    beyond = labels > 0
    beyond[inside] = False
    np.testing.assert_array_equal(np.asanyarray(image(workdir, "inferred").dataobj) > 0, beyond)
    assert beyond.any()
    grown = sum(trimesh.load(p).volume for p in (workdir / "out" / "a" / "meshes").glob("*.ply"))
    voxel = float(np.prod(frame.spacing_mm))
    assert grown - volume == pytest.approx(beyond.sum() * voxel, rel=0.06)
    assert json.loads((workdir / "out" / "a" / "result.json").read_text())["made_from"]["extend_mm"] == 7.2
    assert run(workdir) == 0  # and back
    assert not (workdir / "out" / "a" / "inferred.nii.gz").exists() and image(workdir).shape == plain.shape


def test_with_another_spacing(workdir):
    """Coarser voxels over the longer image; what is inferred begins where the image ends."""
    _, frame = cut_case(workdir / "data" / "a.npz")
    assert run(workdir, "--extend", 6, "--spacing", 2, "--no_meshes") == 0
    made = image(workdir)
    assert made.shape == tuple(np.ceil((np.array((30, 20, 28)) + 12) / 2).astype(int))
    labels, inferred = (np.asanyarray(image(workdir, name).dataobj) for name in ("labels", "inferred"))
    at = frame.mm_to_voxel(nib.affines.apply_affine(made.affine, np.argwhere(labels > 0)))
    np.testing.assert_array_equal(inferred[labels > 0] > 0, at[:, 1] > 19.5)
    rows = {row["class_name"]: row for row in metrics(workdir)}
    assert {float(rows[name]["dice"]) for name in NAMES[:8]} == {1.0}
    assert (workdir / "out" / "report.html").is_file()


@pytest.mark.parametrize("value", ["0", "-3", "501", "nan"])
def test_a_wrong_length_is_one_line(value):
    words = ["--checkpoint", "c.pth", "--output_dir", "out", "--input", "x.npz", f"--extend={value}"]
    with pytest.raises(InputError, match="--extend: expected mm, 0.1 to 500"):
        parse_arguments(words)


def test_extended_frames():
    frame = Frame(np.diag([1.0, 2.0, 0.5, 1.0]), (10, 11, 12), (1, 2, 3), 0.02)
    more = frame.extended(3.0)
    assert more.shape == (16, 15, 24) and more.scale == frame.scale
    np.testing.assert_allclose(more.voxel_to_mm((3, 2, 6)), frame.voxel_to_mm((0, 0, 0)))
    assert Case(frame=more).frame.spacing_mm.tolist() == [1.0, 2.0, 0.5]
