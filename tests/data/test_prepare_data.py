"""The command: done files are skipped, bad ones told, the others done; nothing depends on workers or order."""

import errno
import json
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from helpers.prepare_runs import SMALL, Killer, contents, make_maps, run

from vecset.commands import prepare_data
from vecset.common.errors import InputError, run_command
from vecset.common.structure_state import ABSENT_DISTANCE
from vecset.data import preparation
from vecset.data.case_file import CLASS_DISTANCES, read_case, read_meta
from vecset.data.preparation import ISLAND_SHARE, warnings_of
from vecset.data.prepare_folder import make_all
from vecset.imaging.label_map import write_label_map
from vecset.quality.case_checks import check_file


def test_workers_and_order_change_nothing(tmp_path, capsys):
    source = make_maps(tmp_path / "in", ["1.nii.gz", "2.nii.gz", "10.nii.gz"])
    assert run(source, tmp_path / "a") == 0
    assert run(source, tmp_path / "b", workers=2) == 0
    assert run(source, tmp_path / "c", "--start_idx", "2") == 0 and run(source, tmp_path / "c", "--end_idx", "2") == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")
    assert set(contents(tmp_path / "a")) == {"1.npz", "2.npz", "10.npz"}
    case = read_case(tmp_path / "a" / "10.npz")
    assert case.meta["source_name"] == "10.nii.gz" and case.meta["missing_classes"] == [3]
    assert len(case.near_points) == 300 and case.meta["spacing_mm"] == pytest.approx([1, 1.2, 0.9])
    assert run(source, tmp_path / "d", "--seed", "1") == 0
    assert contents(tmp_path / "d")["1.npz"] != contents(tmp_path / "a")["1.npz"]


def test_index_range_counts_the_natural_order_end_exclusive(tmp_path):
    source = make_maps(tmp_path / "in", ["1.nii.gz", "2.nii.gz", "10.nii.gz"])
    assert run(source, tmp_path / "out", "--start_idx", "1", "--end_idx", "2") == 0
    assert set(contents(tmp_path / "out")) == {"2.npz"}
    assert run(source, tmp_path / "out", "--start_idx", "5") == 0  # an array job may have more tasks than files
    assert run(source, tmp_path / "out", "--start_idx", "2", "--end_idx", "1") != 0


def test_done_files_are_skipped_until_source_or_options_change(tmp_path, capsys):
    source, out = make_maps(tmp_path / "in", ["1.nii.gz", "2.nii.gz"]), tmp_path / "out"

    def again(*more):
        before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()} if out.exists() else {}
        assert run(source, out, *more) == 0
        return {p.name for p in out.iterdir() if p.stat().st_mtime_ns != before.get(p.name)}

    assert again() == {"1.npz", "2.npz"} and again() == set()
    make_maps(tmp_path / "in", ["1.nii.gz"], seed=2)
    assert again() == {"1.npz"} and again() == set()
    data = (out / "2.npz").read_bytes()
    (out / "2.npz").write_bytes(data[:-100])
    assert again() == {"2.npz"} and (out / "2.npz").read_bytes() == data
    assert again("--class_floor", "0.1") == {"1.npz", "2.npz"}
    assert again("--class_floor", "0.1", "--overwrite") == {"1.npz", "2.npz"}
    assert again("--annotated", "1,2") == {"1.npz", "2.npz"}
    assert read_meta(out / "1.npz")["annotated_classes"] == [1, 2]
    (out / ".tmp-host-999999999-abc-3.npz").write_bytes(b"x")
    os.utime(out / ".tmp-host-999999999-abc-3.npz", (0, 0))
    assert again("--annotated", "1,2") == set() and not list(out.glob(".tmp*"))


def test_class_distances_are_added_to_a_finished_folder_and_taken_away_again(tmp_path, capsys):
    source, out = make_maps(tmp_path / "in", ["1.nii.gz", "2.nii.gz"]), tmp_path / "out"
    assert run(source, out) == 0
    plain = contents(out)
    assert "request" in read_meta(out / "1.npz") and "class_distances" not in str(read_meta(out / "1.npz"))
    capsys.readouterr()
    assert run(source, out, "--class_distances") == 0
    assert "2 made, 0 skipped, 0 failed; 2 made again: options" in capsys.readouterr().out
    with_distances = contents(out)
    case, before = read_case(out / "1.npz").require_class_distances("this test"), dict(np.load(out / "1.npz"))
    assert case.vol_class_sdf.shape == (300, 3) and (case.vol_class_sdf[:, 2] == ABSENT_DISTANCE).all()
    assert case.meta["request"]["class_distances"] is True
    assert run(source, out, "--class_distances") == 0
    assert "2 skipped" in capsys.readouterr().out and contents(out) == with_distances
    assert run(source, out, "--class_distances", "--overwrite") == 0 and contents(out) == with_distances
    assert run(source, out) == 0 and contents(out) == plain
    after = dict(np.load(out / "1.npz"))
    assert set(before) - set(after) == set(CLASS_DISTANCES)
    assert all(np.array_equal(after[name], before[name]) for name in after if name != "meta")


def test_a_broken_file_is_told_and_the_others_are_made(tmp_path, capsys):
    source = make_maps(tmp_path / "in", ["1.nii.gz", "2.nii.gz", "3.nii.gz"])
    data = (source / "2.nii.gz").read_bytes()
    (source / "2.nii.gz").write_bytes(data[: len(data) // 2])
    nib.save(nib.Nifti1Image(np.zeros((5, 5, 5), np.uint8), np.eye(4)), source / "4.nii.gz")
    assert run(source, tmp_path / "out") == 1
    told = capsys.readouterr()
    assert set(contents(tmp_path / "out")) == {"1.npz", "3.npz"}
    assert "2 made, 0 skipped, 2 failed" in told.out and "not made: 2.nii.gz, 4.nii.gz" in told.err
    lines = [line for line in told.err.splitlines() if "error:" in line]
    assert len(lines) == 2 and "truncated" in lines[0] and "empty mask" in lines[1] and "Traceback" not in told.err


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_costs_its_own_file_only(tmp_path, capsys, workers):
    paths = [tmp_path / f"{n}.nii.gz" for n in (1, 2, 3, 4)]
    results = make_all(Killer(), paths, workers)
    assert {p.name: results[p][0] for p in paths} == {
        "1.nii.gz": "made",
        "2.nii.gz": "failed",
        "3.nii.gz": "made",
        "4.nii.gz": "made",
    }
    assert "killed" in results[paths[1]][1][0]


def test_label_map_preset_and_annotated(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    array = np.zeros((20, 20, 20), np.int16)
    array[4:10, 4:16, 4:16], array[10:16, 4:16, 4:16] = 205, 500
    nib.save(nib.Nifti1Image(array, np.eye(4)), source / "a.nii.gz")
    assert run(source, tmp_path / "out", "--label_mapping", "mmwhs", "--classes", "10") == 0
    case = read_case(tmp_path / "out" / "a.npz")
    assert case.meta["present_classes"] == [1, 3] and case.meta["annotated_classes"] == [1, 2, 3, 4, 5, 6, 7]
    assert case.annotated.tolist() == [True] * 7 + [False] * 3
    assert (case.truth_labels() > 0).sum() == 12 * 12 * 12
    mapping = tmp_path / "m.json"
    mapping.write_text(json.dumps({"205": {"class": 2, "name": "muscle"}, "500": 1}))
    assert run(source, tmp_path / "out", "--label_mapping", str(mapping), "--annotated", "1,2") == 0
    assert read_meta(tmp_path / "out" / "a.npz")["class_names"][1] == "muscle"


def test_a_class_that_is_there_but_not_declared_annotated_is_refused(tmp_path, capsys):
    source, out = make_maps(tmp_path / "in", ["a.nii.gz", "b.nii.gz"]), tmp_path / "out"
    image = nib.load(source / "a.nii.gz")
    labels = np.asarray(image.dataobj).copy()
    labels[10, 11, 8:12] = 3
    write_label_map(source / "a.nii.gz", labels, image.affine)
    assert run(source, out, "--annotated", "1,2") == 1 and set(contents(out)) == {"b.npz"}
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "a.nii.gz" in errors[0] and "class 3 (LV) is present but not annotated" in errors[0]


def test_stale_case_files_and_those_made_again_are_named(tmp_path, capsys):
    source, out = make_maps(tmp_path / "in", ["a.nii.gz", "b.nii.gz", "c.nii.gz"]), tmp_path / "out"
    assert run(source, out) == 0 and "made again" not in capsys.readouterr().out
    (source / "a.nii.gz").write_bytes(b"broken")
    (source / "b.nii.gz").unlink()
    make_maps(source, ["c.nii.gz"], seed=3)
    assert run(source, out) == 1
    told = capsys.readouterr()
    assert "1 made, 0 skipped, 1 failed; 1 made again: options or label map changed" in told.out
    assert [line for line in told.err.splitlines() if line.startswith("note: ") and ".npz" in line] == [
        "note: a.npz: old case file of a label map that failed",
        "note: b.npz: case file without a label map in --input_dir",
    ]
    for n in range(20):
        (out / f"x{n}.npz").write_bytes(b"")
    assert run(source, out) == 1
    told = capsys.readouterr().err
    assert told.count(".npz: ") == 10 and "note: 12 more such case files" in told


def test_values_counted_as_background_are_noted(tmp_path, capsys):
    source = make_maps(tmp_path / "in", ["a.nii.gz"])
    (tmp_path / "m.json").write_text(json.dumps({"values": {"1": 1}, "others": "background"}))
    assert run(source, tmp_path / "out", "--label_mapping", str(tmp_path / "m.json")) == 0
    voxels = int((np.asarray(nib.load(source / "a.nii.gz").dataobj) == 2).sum())
    assert f"note: a.nii.gz: values 2 counted as background ({voxels} voxels)" in capsys.readouterr().err


@pytest.mark.parametrize("below", [False, True])
def test_an_output_folder_that_cannot_be_written_to(tmp_path, capsys, below, monkeypatch):
    source = make_maps(tmp_path / "in", ["a.nii.gz"])
    (tmp_path / "out").write_text("a file")
    assert run(source, tmp_path / "out" / "x" if below else tmp_path / "out") == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and f"error: --output_dir {tmp_path / 'out'}" in told.err and told.out == ""
    assert "cannot be written to: there is a file of that name" in told.err

    def refuse(**options):  # root may write everywhere, so the system's answer is played
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert run(source, tmp_path / "other") == 2 and "written to: Read-only file system" in capsys.readouterr().err


def test_every_format_makes_the_same_case(tmp_path, capsys):
    source = make_maps(tmp_path / "in", ["a.nii.gz"])
    image = sitk.ReadImage(str(source / "a.nii.gz"))
    for name in ("b.nrrd", "c.mha"):
        sitk.WriteImage(image, str(source / name), True)
    (source / "broken.mha").write_bytes((source / "c.mha").read_bytes()[:-9])
    assert run(source, tmp_path / "out") == 1 and set(contents(tmp_path / "out")) == {"a.npz", "b.npz", "c.npz"}
    assert [
        line for line in capsys.readouterr().err.splitlines() if "broken.mha: broken or truncated MetaImage" in line
    ]
    a, b, c = (read_case(tmp_path / "out" / f"{n}.npz") for n in "abc")
    assert (a.truth_labels() == b.truth_labels()).all() and b.meta["source_geometry"] is None
    np.testing.assert_allclose(b.frame.affine, a.frame.affine, rtol=0, atol=1e-6)
    np.testing.assert_allclose(b.frame.affine, c.frame.affine, rtol=1e-12)
    sitk.WriteImage(image, str(source / "a.nrrd"))
    assert run(source, tmp_path / "out") == 2 and "both become a.npz" in capsys.readouterr().err


def test_islands_are_dropped_on_request_alone(tmp_path, capsys):
    source, out = make_maps(tmp_path / "in", ["a.nii.gz"]), tmp_path / "out"
    image = nib.load(source / "a.nii.gz")
    clean = np.asarray(image.dataobj).copy()
    labels = clean.copy()
    labels[1, 1, 1:3] = labels[18, 20, 22] = 2  # beside the heart
    labels[10, 11, 9] = 2  # within structure 1: filled, no hole
    nib.save(nib.Nifti1Image(labels, image.affine), source / "a.nii.gz")
    assert run(source, out) == 0
    kept = read_case(out / "a.npz")
    assert (kept.truth_labels() == labels).all() and kept.meta["dropped_crumbs"] == {}
    assert kept.meta["crumbs"]["classes"] == {"2": [3, 4]} and "dropped" not in capsys.readouterr().err
    lines = " ".join(warnings_of(kept.meta))
    assert "islands kept: 3 of LA (4 voxels); they make the frame's radius" in lines and "--drop_islands 0.01" in lines
    kept.meta["crumbs"]["grow_radius"] = 0.0
    assert [line for line in warnings_of(kept.meta) if "islands" in line] == ["islands kept: 3 of LA (4 voxels)"]
    assert run(source, out, "--drop_islands", "0.01") == 0
    dropped = read_case(out / "a.npz")
    assert (dropped.truth_labels() == clean).all() and dropped.meta["crumbs"]["classes"] == {}
    assert dropped.meta["dropped_crumbs"] == {"2": [3, 4]} and dropped.meta["request"]["drop_crumbs"] == 0.01
    assert dropped.frame.scale > 1.3 * kept.frame.scale  # the islands made the heart small in its frame
    told = capsys.readouterr().err
    assert "note: a.nii.gz: islands dropped: 3 of LA (4 voxels)" in told
    assert run(source, out, "--drop_islands", "0.01", workers=0) == 0 and "dropped" not in capsys.readouterr().err
    assert (read_case(out / "a.npz").truth_labels() == clean).all()
    report = check_file(out / "a.npz", sample=200, source_dir=source)
    checks = {f["check"]: f["ok"] for f in report.findings}
    assert checks["source"] and checks["source_labels"] and checks["source_points"]
    assert [f["value"] for f in report.findings if f["check"] == "source_crumbs"] == [4]


def cut_maps(folder):
    """b: whole; a: the field of view truncates classes 2 and 3; c: class 1, and an island of class 2 lies on it."""
    make_maps(folder, ["a.nii.gz", "b.nii.gz", "c.nii.gz"])
    for name, change in (
        ("a", [(slice(8, 12), slice(8, 12), slice(12, 24), 2), (10, 11, slice(19, 24), 3)]),
        ("c", [(slice(8, 12), slice(8, 12), slice(0, 12), 1), (0, 0, 20, 2)]),
    ):
        image = nib.load(folder / f"{name}.nii.gz")
        labels = np.asarray(image.dataobj).copy()
        for i, j, k, label in change:
            labels[i, j, k] = label
        write_label_map(folder / f"{name}.nii.gz", labels, image.affine)
    return folder


def test_hearts_that_the_border_cuts_are_excluded_on_request(tmp_path, capsys, monkeypatch):
    source, out = cut_maps(tmp_path / "in"), tmp_path / "out"

    def left_out(*more, folder=out, workers=0):
        assert run(source, folder, *more, workers=workers) == 0
        told = capsys.readouterr()
        lines = dict(line.split(": ", 2)[1:] for line in told.err.splitlines() if line.startswith("excluded: "))
        assert (f"{len(lines)} excluded" in told.out) == bool(lines) and "0 failed" in told.out
        assert {p.name[0] for p in folder.iterdir()} | {n[0] for n in lines} == set("abc")
        return lines

    assert left_out() == {}
    assert "truncated by the field of view: LA, LV" in warnings_of(read_meta(out / "a.npz"))
    whole = contents(out)
    fresh = left_out("--exclude_border_cut", "all", folder=tmp_path / "fresh", workers=2)
    assert fresh == {
        "a.nii.gz": "truncated by the field of view: LA, LV",
        "c.nii.gz": "truncated by the field of view: Myocardium, LA",
    }
    # made without the option: the case files of cut hearts go, the others are not made again
    when = (out / "b.npz").stat().st_mtime_ns
    lines = left_out("--exclude_border_cut", "3,2")
    assert lines == {
        "a.nii.gz": "truncated by the field of view: LA, LV; a.npz of an earlier run is removed",
        "c.nii.gz": "truncated by the field of view: LA; c.npz of an earlier run is removed",
    }
    assert set(contents(out)) == {"b.npz"} and (out / "b.npz").stat().st_mtime_ns == when
    # run again: said again, nothing removed, and no surface made
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "union_mesh", None)
        assert left_out("--exclude_border_cut", "3,2") == {k: v.split(";")[0] for k, v in lines.items()}
        assert left_out("--exclude_border_cut", folder=tmp_path / "fresh") == fresh  # alone: all classes
    # other classes, and none: what is wanted now is made, byte for byte as ever
    assert left_out("--exclude_border_cut", "3") == {"a.nii.gz": "truncated by the field of view: LV"}
    assert (out / "b.npz").stat().st_mtime_ns == when and left_out() == {} and contents(out) == whole
    # an island that is dropped is not cut
    assert left_out("--exclude_border_cut", "2", "--drop_islands", "0.01") == {
        "a.nii.gz": "truncated by the field of view: LA; a.npz of an earlier run is removed"
    }


@pytest.mark.parametrize(
    "flags",
    [
        ["--drop_islands", "1.5"],
        ["--exclude_border_cut", "4"],
        ["--exclude_border_cut", "PA"],
        ["--classes", "0"],
        ["--num_vol_points", "0"],
        ["--class_floor", "2"],
        ["--annotated", "1,9"],
        ["--annotated", "x"],
        ["--seed", "-1"],
    ],
)
def test_wrong_flags_are_refused(tmp_path, flags):
    with pytest.raises(InputError, match=flags[0]):
        prepare_data.main(["--input_dir", str(tmp_path), "--output_dir", str(tmp_path / "o"), *SMALL, *flags])
    assert not (tmp_path / "o").exists()


def test_help_and_works_from_any_folder(repository, tmp_path):
    script = str(repository / "prepare_data.py")
    shown = prepare_data.get_parser().format_help()
    assert "--spacing_from" in shown and "default: 50000" in shown
    assert f"reported below {ISLAND_SHARE}" in " ".join(shown.split()) and ".mha" in shown
    told = subprocess.run(
        [sys.executable, script, "--input_dir", "no", "--output_dir", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 2 and told.stderr.count("\n") == 1 and "error: no: no such folder" in told.stderr
    assert not list(tmp_path.iterdir())
    code = "import prepare_data, vecset.data.preparation, sys; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository).returncode == 0


@pytest.mark.slow
def test_the_real_heart(real_heart, tmp_path):
    """512 x 512 x 248, left-handed, qform only, seven of ten classes, aorta cut by the border."""
    source = tmp_path / "in"
    source.mkdir()
    (source / "heart.nii.gz").symlink_to(real_heart)
    assert (
        run_command(
            prepare_data.main,
            ["--input_dir", str(source), "--output_dir", str(tmp_path / "out"), "--file_workers", "0"],
        )
        == 0
    )
    case = read_case(tmp_path / "out" / "heart.npz")
    assert case.meta["border_classes"] == [6] and case.meta["missing_classes"] == [8, 9, 10]
    truth = case.truth_labels()
    image = nib.load(real_heart)
    assert (truth == np.asarray(image.dataobj)).all()
    np.testing.assert_allclose(case.frame.affine, image.affine)
    for group in ("vol", "near"):
        points, sdf, labels = (getattr(case, f"{group}_{n}") for n in ("points", "sdf", "labels"))
        index, inside = case.frame.nearest_voxel(points)
        deep = np.abs(sdf) > 1.0 * case.frame.scale  # more than a voxel and a half from the surface
        at = np.zeros(len(points), np.uint8)
        at[inside] = truth[tuple(index[inside].T)]
        assert (at[deep] == labels[deep]).all()
    counts = case.meta["sampling"]["counts"]
    outer = len(case.near_points) - counts["near_walls"]
    assert counts["near_outside"] / outer == pytest.approx(0.5, abs=0.02) and counts["near_wrong_side"] == 0
    for c in case.meta["present_classes"]:
        assert (case.surface_labels == c).mean() >= 0.04 and (case.near_source == c).mean() >= 0.04
