"""What reconstruct.py writes lies where its source lies: grid, header and mm of the label map that went in."""

import nibabel as nib
import numpy as np
import pytest
import trimesh
from helpers.formula_hearts import CLASSES, NAMES, RADIUS_MM, make_heart, metrics, run, write_checkpoint

from vecset.common.errors import run_command
from vecset.data.case_file import read_case
from vecset.imaging.label_map import write_label_map
from vecset.inference import inputs


def test_label_maps_go_through_the_preparation(workdir):
    truth, frame = make_heart(spacing_mm=1.1, turn_deg=20, flip=(1, -1, 1))
    write_label_map(workdir / "data" / "x.1.nii.gz", truth, frame.affine)
    case = inputs.load_heart(inputs.find_hearts(workdir / "data")[0], NAMES, 0, 64)
    # the preparation scales the heart to a radius of 0.95, the formula is one of 0.7
    scale = case.frame.scale / frame.scale
    assert scale == pytest.approx(0.95 / 0.7, rel=0.05)
    assert run(workdir, "--no_meshes") == 0
    image = nib.load(workdir / "out" / "x.1" / "labels.nii.gz")
    assert image.shape == truth.shape
    np.testing.assert_allclose(image.affine, frame.affine, atol=1e-5)
    shrink = 1 / scale
    rows = {r["class_name"]: r for r in metrics(workdir)}
    assert float(rows["union"]["dice"]) == pytest.approx(2 * shrink**3 / (1 + shrink**3), abs=0.02)
    assert min(float(rows[n]["dice"]) for n in NAMES[:8]) > 0.4  # octant for octant: in place and not mirrored


def header_like_acdc(path, labels, affine):
    """The sform says 1 x 1 x 1 mm along the right axes, pixdim the true spacing; no qform."""
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    one_mm = affine.copy()
    one_mm[:3, :3] /= spacing_mm
    image = nib.Nifti1Image(labels, one_mm)
    image.header.set_zooms(spacing_mm)
    image.set_qform(None, code=0)
    image.set_sform(one_mm, code=2)
    nib.save(image, path)


def header_of_one_form(form):
    def save(path, labels, affine):
        image = nib.Nifti1Image(labels, affine)
        image.set_qform(affine, code=1)
        getattr(image, f"set_{form}")(None, code=0)
        nib.save(image, path)

    return save


HEADERS = {
    "acdc": header_like_acdc,
    "sform only": header_of_one_form("qform"),
    "qform only": header_of_one_form("sform"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_outputs_are_where_the_source_is(workdir, kind):
    """prepare_data.py, reconstruct.py from its case file, and from the label map itself: the label maps that come out
    have the header geometry that went in, unless that contradicts itself; meshes are in the corrected mm."""
    from vecset.commands import prepare_data

    labels, frame = make_heart(spacing_mm=(0.95, 0.95, 1.9))
    options = ["--spacing_from", "pixdim"] if kind == "acdc" else []
    (workdir / "labels").mkdir()
    HEADERS[kind](workdir / "labels" / "h.nii.gz", labels, frame.affine)
    source = nib.load(workdir / "labels" / "h.nii.gz")
    if kind == "acdc":
        np.testing.assert_allclose(nib.affines.voxel_sizes(source.affine), 1, rtol=1e-6)
        assert run(workdir, "--no_meshes", source="labels") == 1  # a header that contradicts itself is refused
    assert (
        run_command(
            prepare_data.main,
            [
                "--input_dir",
                str(workdir / "labels"),
                "--output_dir",
                str(workdir / "data"),
                "--classes",
                str(CLASSES),
                "--num_surface_points",
                "500",
                "--num_vol_points",
                "500",
                "--num_near_points",
                "500",
                "--file_workers",
                "0",
                *options,
            ],
        )
        == 0
    )
    np.testing.assert_allclose(read_case(workdir / "data" / "h.npz").frame.spacing_mm, (0.95, 0.95, 1.9), rtol=1e-6)
    for given, more in (("data", []), ("labels", options)):
        names = NAMES if given == "labels" else read_case(workdir / "data" / "h.npz").class_names
        write_checkpoint(workdir / "checkpoint.pth", names=names)
        assert run(workdir, *more, source=given) == 0
        made = nib.load(workdir / "out" / "h" / "labels.nii.gz")
        assert made.header.get_zooms() == source.header.get_zooms()
        np.testing.assert_allclose(made.affine, frame.affine, atol=1e-4)
        for field in (
            ()
            if kind == "acdc"
            else (
                "sform_code",
                "qform_code",
                "pixdim",
                "xyzt_units",
                "srow_x",
                "srow_y",
                "srow_z",
                "quatern_b",
                "quatern_c",
                "quatern_d",
                "qoffset_x",
                "qoffset_y",
                "qoffset_z",
            )
        ):
            np.testing.assert_array_equal(made.header[field], source.header[field], err_msg=field)
        # the ball of the formula, as large as the preparation makes the heart: 0.7 / 0.95 of its radius, and round
        decoded = np.asanyarray(made.dataobj)
        mesh = trimesh.util.concatenate([trimesh.load(p) for p in (workdir / "out" / "h" / "meshes").glob("*.ply")])
        np.testing.assert_allclose(mesh.extents, 2 * RADIUS_MM * 0.7 / 0.95, rtol=0.06)
        np.testing.assert_allclose(mesh.bounds.mean(0), (5, -20, 60), atol=0.5)
        voxel_mm3 = 0.95 * 0.95 * 1.9
        assert np.count_nonzero(decoded) * voxel_mm3 == pytest.approx(mesh.volume, rel=0.05)
    assert run(workdir, "--no_meshes", *options, source="labels") == 0
