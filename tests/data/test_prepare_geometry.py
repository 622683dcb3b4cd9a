"""prepare_data.py and the quality check on label maps whose headers contradict themselves, are in another unit or are
damaged: the others are made, options decide, finished case files stay."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
from helpers.prepare_runs import contents, make_maps, run

from vecset.data.case_file import read_case, write_case
from vecset.pipeline.options import prepare_options
from vecset.quality.case_checks import check_file

MIRROR = np.diag([-1.0, 1, 1, 1])


def rewrite(path, sform=None, qform=None, unit="mm", codes=(1, 1)):
    """The label map with another sform, qform (matrices that the affine is multiplied by) or unit."""
    image = nib.load(path)
    labels, affine = np.asanyarray(image.dataobj), image.affine
    image = nib.Nifti1Image(labels, affine)
    image.set_sform(affine if sform is None else sform @ affine, codes[0])
    image.set_qform(affine if qform is None else qform @ affine, codes[1])
    image.header.set_xyzt_units(unit)
    nib.save(image, path)


def failed(path, source):
    """{check: note} of the quality check against the label maps in `source`, those that fail."""
    return {f["check"]: f["note"] for f in check_file(path, sample=300, source_dir=source).failed()}


def errors_of(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_a_contradiction_stops_at_its_file_and_an_option_decides(tmp_path, capsys, form):
    source, out = make_maps(tmp_path / "in", ["a.nii.gz", "b.nii.gz", "c.nii.gz"]), tmp_path / "out"
    rewrite(source / "b.nii.gz", qform=MIRROR, codes=(2, 1))
    assert run(source, out) == 1
    (line,) = errors_of(capsys)
    assert "b.nii.gz: sform and qform place the image differently" in line and "--geometry_from sform" in line
    assert set(contents(out)) == {"a.npz", "c.npz"}
    first = contents(out)["a.npz"]
    assert "geometry_from" not in read_case(out / "a.npz").meta["request"]

    assert run(source, out, "--geometry_from", form) == 0
    case = read_case(out / "b.npz")
    assert case.meta["request"]["geometry_from"] == form
    affine = nib.load(source / "b.nii.gz").get_sform()
    np.testing.assert_allclose(case.frame.affine, affine if form == "sform" else MIRROR @ affine, atol=1e-5)
    assert contents(out)["a.npz"] != first  # the request says so
    np.testing.assert_array_equal(
        read_case(out / "a.npz").surface_points, read_case(tmp_path / "out" / "a.npz").surface_points
    )
    made = {name: (out / name).stat().st_mtime_ns for name in contents(out)}
    assert run(source, out, "--geometry_from", form) == 0
    assert {name: (out / name).stat().st_mtime_ns for name in contents(out)} == made
    assert not {"source", "source_labels", "source_points"} & failed(out / "b.npz", source).keys()


def test_finished_case_files_of_sound_headers_stay(tmp_path, capsys):
    source, out = make_maps(tmp_path / "in", ["a.nii.gz"]), tmp_path / "out"
    assert run(source, out) == 0
    made = (out / "a.npz").stat().st_mtime_ns
    assert run(source, out) == 0 and (out / "a.npz").stat().st_mtime_ns == made
    assert "1 skipped" in capsys.readouterr().out


def test_case_files_of_headers_that_are_refused_are_not_skipped(tmp_path, capsys):
    """As earlier versions made them: in the wrong unit, or from one of two places."""
    source, out = make_maps(tmp_path / "in", ["a.nii.gz"]), tmp_path / "out"
    rewrite(source / "a.nii.gz", qform=MIRROR)
    assert run(source, out, "--geometry_from", "sform") == 0
    case = read_case(out / "a.npz")
    del case.meta["request"]["geometry_from"]
    write_case(out / "a.npz", case)
    capsys.readouterr()
    assert run(source, out) == 1
    assert "sform and qform" in errors_of(capsys)[0]


@pytest.mark.parametrize("unit, factor", [("meter", 1e-3), ("micron", 1e3)])
def test_units_give_the_same_case(tmp_path, capsys, unit, factor):
    source = make_maps(tmp_path / "in", ["a.nii.gz"])
    assert run(source, tmp_path / "mm") == 0
    scale = np.diag([factor, factor, factor, 1])
    rewrite(source / "a.nii.gz", scale, scale, unit)
    capsys.readouterr()
    assert run(source, tmp_path / "other") == 0
    assert "note: a.nii.gz: its lengths are in" in capsys.readouterr().err
    one, other = (read_case(tmp_path / name / "a.npz") for name in ("mm", "other"))
    np.testing.assert_allclose(other.frame.affine, one.frame.affine, atol=1e-4)
    np.testing.assert_allclose(other.frame.scale, one.frame.scale, rtol=1e-5)
    assert json.dumps(other.meta["source_geometry"]).count("0.001") == 0
    assert not {"source", "source_labels", "source_points"} & failed(tmp_path / "other" / "a.npz", source).keys()


def test_damaged_data_stop_at_their_file_and_fail_the_quality_check(tmp_path, capsys):
    source, out = make_maps(tmp_path / "in", ["a.nii.gz", "b.nii.gz"]), tmp_path / "out"
    assert run(source, out) == 0
    capsys.readouterr()
    data = bytearray(gzip.compress(gzip.decompress((source / "b.nii.gz").read_bytes()), 0, mtime=0))
    data[len(data) // 2] ^= 1
    (source / "b.nii.gz").write_bytes(data)
    assert "CRC" in failed(out / "b.npz", source)["source"]
    assert run(source, tmp_path / "new") == 1
    (line,) = errors_of(capsys)
    assert "b.nii.gz: broken or truncated NIfTI image (its checksum is wrong" in line
    assert set(contents(tmp_path / "new")) == {"a.npz"}


def test_a_quaternion_longer_by_rounding_passes_the_quality_check(tmp_path, capsys):
    source, out = make_maps(tmp_path / "in", ["a.nii.gz"]), tmp_path / "out"
    image = nib.load(source / "a.nii.gz")
    labels, affine = np.asanyarray(image.dataobj), image.affine.copy()
    affine[:3, :3] = np.diag([-1, -1, 1.0]) @ affine[:3, :3]  # by 180 degrees: w is 0
    image = nib.Nifti1Image(labels, affine)
    image.set_qform(affine, 1)
    image.header["sform_code"], image.header["vox_offset"], image.header["magic"] = 0, 352, b"n+1"
    image.header["quatern_d"] = 1.00001
    data = image.header.binaryblock + bytes(4) + labels.tobytes(order="F")
    (source / "a.nii.gz").write_bytes(gzip.compress(data, mtime=0))
    with pytest.raises(ValueError, match="w2 should be positive"):
        nib.load(source / "a.nii.gz")
    assert run(source, out) == 0
    np.testing.assert_allclose(read_case(out / "a.npz").frame.affine, affine, atol=1e-3)
    assert not {"source", "source_labels", "source_points"} & failed(out / "a.npz", source).keys()


def test_the_main_job_takes_the_option():
    assert prepare_options(["--geometry_from", "sform"]) != prepare_options([])
