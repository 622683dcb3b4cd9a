"""check_data_quality.py as a command: verdict, exit code, the bad file by name, tables, pictures."""

import csv
import json
import os

import numpy as np
import pytest
from helpers.analytic_case import NAMES, analytic_case

from vecset.commands import check_data_quality
from vecset.common.errors import run_command
from vecset.data.case_file import write_case
from vecset.quality import case_checks as quality
from vecset.quality import check_folder, summary, thresholds
from vecset.report.pictures import to_ras
from vecset.report.quality_pictures import contradicts, source_slice


@pytest.fixture(scope="module")
def cases():
    return [analytic_case(rows=4000, seed=seed) for seed in range(3)]


def write_all(folder, cases):
    folder.mkdir()
    for i, case in enumerate(cases):
        write_case(folder / f"heart_{i}.npz", case)
    return folder


honest_check = quality.check_file


def killed_by_heart_1(path, **options):
    if path.name == "heart_1.npz":
        os._exit(9)
    return honest_check(path, **options)


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_good_folder_passes_with_report(cases, tmp_path, capsys):
    folder, out = write_all(tmp_path / "cases", cases), tmp_path / "report"
    assert check_data_quality.main([str(folder), "--report", str(out), "--file_workers", "2", "--pictures", "1"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1] == "PASS: 3 case files"
    assert any("shift" in line and "at most 0.15 voxels" in line for line in lines)
    assert any(line.startswith("Bud ") and " 3 " in line for line in lines)
    record = json.loads((out / "report.json").read_text())
    assert record["passed"] and len(record["files"]) == 3 and record["checks"]["sign"]["level"] == "fail"
    with open(out / "files.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [r["case_id"] for r in rows] == ["heart_0", "heart_1", "heart_2"]
    assert all(r["verdict"] == "PASS" and 0 < float(r["distance_mean"]) < 0.35 for r in rows)
    with open(out / "classes.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 12 and [r["class_name"] for r in rows[:4]] == NAMES and rows[0]["status"] == "whole"
    assert min(png_size(out / "distributions.png")) > 500
    page = (out / "report.html").read_text()
    assert "PASS: 3 case files" in page and "slices_heart_0.png" in page and "<th>Bud</th>" in page
    assert [p.name for p in out.glob("slices_*.png")] == ["slices_heart_0.png"]
    assert not list(out.glob(".tmp*"))


def test_one_bad_file_is_named_with_check_figure_and_threshold(cases, tmp_path, capsys):
    folder, out = write_all(tmp_path / "cases", cases), tmp_path / "report"
    bad = analytic_case(rows=4000, seed=7)
    bad.arrays["near_sdf"] = bad.arrays["near_sdf"].copy()
    bad.arrays["near_sdf"][5] = np.nan
    write_case(folder / "heart_9.npz", bad)
    (folder / "heart_10.npz").write_bytes((folder / "heart_0.npz").read_bytes()[:2000])
    assert check_data_quality.main([str(folder), "--report", str(out), "--pictures", "2"]) == 1
    text = capsys.readouterr().out
    assert "FAIL heart_9.npz: non_finite = 1, want exactly 0 values" in text
    assert "FAIL heart_10.npz: readable = 0" in text and "whole case file" in text
    assert text.strip().splitlines()[-1].startswith("FAIL: 2 of 5 case files; heart_9.npz: non_finite = 1, want")
    record = json.loads((out / "report.json").read_text())
    assert [f["file"] for f in record["files"] if not f["passed"]] == ["heart_9.npz", "heart_10.npz"]
    assert [p.name for p in out.glob("slices_*.png")] == ["slices_heart_9.png"]
    assert "<h3>heart_9: FAIL: non_finite" in (out / "report.html").read_text()


def test_single_file_in_detail(cases, tmp_path, capsys):
    folder, out = write_all(tmp_path / "cases", cases), tmp_path / "report"
    assert check_data_quality.main([str(folder / "heart_1.npz"), "--report", str(out)]) == 0
    text = capsys.readouterr().out
    assert "ok   label_class" in text and "Upper" in text and text.strip().endswith("PASS: 1 case file")
    _width, height = png_size(out / "slices_heart_1.png")
    assert height > 1000  # three rows: surface, near and volume points


@pytest.mark.slow
def test_a_killed_worker_costs_its_own_file_only(cases, tmp_path, monkeypatch):
    paths = sorted(write_all(tmp_path / "cases", cases).iterdir())
    monkeypatch.setattr(check_folder, "check_file", killed_by_heart_1)  # pickled by its name in this module
    reports = check_folder.check_files(paths, 2, sample=500)
    assert [r.passed for r in reports] == [True, False, True]
    assert reports[1].failed()[0]["check"] == "readable" and "killed" in reports[1].failed()[0]["note"]


def test_the_older_form_fails_in_words(tmp_path, capsys):
    rng = np.random.default_rng(0)
    one_hot = np.eye(10, dtype=np.float32)[rng.integers(0, 10, 300)]
    points = rng.uniform(-0.9, 0.9, (300, 3)).astype(np.float32)
    sdf = np.linspace(-0.1, 0.1, 300, dtype=np.float32)[:, None]
    np.savez(
        tmp_path / "old.npz",
        surface_points=points,
        surface_labels=one_hot,
        surface_normals=points,
        vol_points=points,
        vol_sdf=sdf,
        vol_labels=one_hot * (sdf < 0),
        near_points=points,
        near_sdf=sdf,
        near_labels=one_hot * (sdf < 0),
    )
    assert check_data_quality.main([str(tmp_path), "--report", str(tmp_path / "report")]) == 1
    text = capsys.readouterr().out
    assert "FAIL old.npz: frame = 0" in text and "no frame in the file" in text and "label_crop" in text


def test_bad_input_and_help(tmp_path, capsys):
    assert run_command(check_data_quality.main, [str(tmp_path / "none")]) == 2
    assert run_command(check_data_quality.main, [str(tmp_path)]) == 2
    assert run_command(check_data_quality.main, [str(tmp_path), "--file_workers", "0"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 3 and all(line.startswith("error: ") for line in errors)
    (tmp_path / "text.npz").write_text("hello")
    assert check_data_quality.main([str(tmp_path / "text.npz"), "--report", str(tmp_path / "r")]) == 1
    assert (tmp_path / "r" / "report.json").is_file()
    shown = check_data_quality.get_parser().format_help()
    assert "--file_workers" in shown and "distance_p99         at most 1.2 voxels" in shown
    assert all(f"  {name} " in shown for name in thresholds.CHECKS)


def test_a_label_map_is_told_once_and_without_numpys_advice(tmp_path, capsys):
    (tmp_path / "heart.nii.gz").write_bytes(b"\x1f\x8bjunk")
    assert check_data_quality.main([str(tmp_path / "heart.nii.gz")]) == 1
    text = capsys.readouterr().out
    assert text.count("found a label map") == 1 and "pickle" not in text


def test_notes_are_not_failures_and_integers_are_whole():
    report = quality.FileReport("a", "a.npz")
    report.add("crumb_class", 12)
    report.add("points", 4500000)
    lines = summary.summary_lines([report])
    assert lines[0].split()[-4:] == ["failed", "noted", "worst", "file"]
    assert any(
        line.split() == ["crumb_class", "12", "at", "least", "30", "voxels", "1", "a.npz"]
        and line.index(" 1 ") > lines[0].index("failed") + 6
        for line in lines
    )
    assert any(line.startswith("points") and " 4500000 " in line for line in lines)
    assert summary.verdict([report]) == "PASS: 1 case file, 1 note"


def test_a_stopped_check_does_not_claim_to_go_on(capsys):
    def stopped(argv):
        raise KeyboardInterrupt

    assert run_command(stopped, [], resumes=False) == 130
    assert capsys.readouterr().err == "stopped; run the same command again to start anew\n"


def test_titles_name_the_failed_checks():
    report = quality.FileReport("a", "a.npz")
    assert summary.picture_title(report) == "a: PASS"
    for check in ("shift", "sign", "label", "label", "bias", "jump"):
        report.add(check, 9)
    assert summary.picture_title(report) == "a: FAIL: shift, sign, label and 2 more"


def test_slices_have_the_number_of_the_source_image():
    crop, origin = np.zeros((4, 6, 8), np.uint8), np.array([10, 20, 30])
    crop[1, 2, 3] = 1
    affine = np.array([[0, 0, 2.0, 5], [-1, 0, 0, 6], [0, 3, 0, 7], [0, 0, 0, 1]])  # axes swapped, one flipped
    of_crop = affine.copy()
    of_crop[:3, 3] = affine[:3, :3] @ origin + affine[:3, 3]
    labels_ras, affine_ras = to_ras(crop, of_crop)
    to_source = np.linalg.inv(affine) @ affine_ras
    place = np.argwhere(labels_ras)[0]
    assert [source_slice(to_source, across, place[across]) for across in range(3)] == ["k = 33", "i = 11", "j = 22"]


def test_points_that_contradict_the_truth_are_told():
    padded = np.pad(np.repeat(np.array([1, 2], np.uint8), 5)[:, None, None] * np.ones((1, 8, 8), np.uint8), 3)
    points = np.array([[2, 4, 4], [2, 4, 4], [2, 4, 4], [7, 4, 4], [0, 4, 4], [30, 4, 4], [30, 4, 4], [2.2, 4, 4]])
    labels = np.array([1, 2, 0, 2, 0, 0, 1, 1])
    sdf = np.array([-1, -1, 0.1, -1, 0.01, 3, -1, 1.0])
    assert contradicts(labels, sdf, points, padded).tolist() == [False, True, True, False, False, False, True, True]
