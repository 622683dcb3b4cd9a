"""check_data_quality.py as a command: verdict, exit code, the bad file by name, tables, pictures."""

import csv
import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
from analytic_case import NAMES, analytic_case

import check_data_quality
from vecset.data import quality
from vecset.data.case_file import write_case
from vecset.errors import run_command


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
    assert "PASS: 3 case files" in page and "slices_heart_0.png" in page and "<td>Bud</td>" in page
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


def test_single_file_in_detail(cases, tmp_path, capsys):
    folder, out = write_all(tmp_path / "cases", cases), tmp_path / "report"
    assert check_data_quality.main([str(folder / "heart_1.npz"), "--report", str(out)]) == 0
    text = capsys.readouterr().out
    assert "ok   label_class" in text and "Upper" in text and text.strip().endswith("PASS: 1 case files")
    width, height = png_size(out / "slices_heart_1.png")
    assert height > 1000  # three rows: surface, near and volume points


def test_a_killed_worker_costs_its_own_file_only(cases, tmp_path, monkeypatch):
    paths = sorted(write_all(tmp_path / "cases", cases).iterdir())
    monkeypatch.setattr(quality, "check_file", killed_by_heart_1)  # workers are forked and take it with them
    monkeypatch.setattr(check_data_quality, "ProcessPoolExecutor",
                        partial(ProcessPoolExecutor, mp_context=get_context("fork")))
    reports = check_data_quality.check_files(paths, 2, sample=500)
    assert [r.passed for r in reports] == [True, False, True]
    assert reports[1].failed()[0]["check"] == "readable" and "killed" in reports[1].failed()[0]["note"]


def test_the_older_form_fails_in_words(tmp_path, capsys):
    rng = np.random.default_rng(0)
    one_hot = np.eye(10, dtype=np.float32)[rng.integers(0, 10, 300)]
    points = rng.uniform(-0.9, 0.9, (300, 3)).astype(np.float32)
    sdf = np.linspace(-0.1, 0.1, 300, dtype=np.float32)[:, None]
    np.savez(tmp_path / "old.npz", surface_points=points, surface_labels=one_hot, surface_normals=points,
             vol_points=points, vol_sdf=sdf, vol_labels=one_hot * (sdf < 0), near_points=points, near_sdf=sdf,
             near_labels=one_hot * (sdf < 0))
    assert check_data_quality.main([str(tmp_path), "--report", str(tmp_path / "report")]) == 1
    text = capsys.readouterr().out
    assert "FAIL old.npz: frame = 0" in text and "no frame in the file" in text and "label_crop" in text


def test_bad_input_and_help(repository, tmp_path, capsys):
    assert run_command(check_data_quality.main, [str(tmp_path / "none")]) == 2
    assert run_command(check_data_quality.main, [str(tmp_path)]) == 2
    assert run_command(check_data_quality.main, [str(tmp_path), "--file_workers", "0"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 3 and all(line.startswith("error: ") for line in errors)
    (tmp_path / "text.npz").write_text("hello")
    assert check_data_quality.main([str(tmp_path / "text.npz"), "--report", str(tmp_path / "r")]) == 1
    assert (tmp_path / "r" / "report.json").is_file()
    done = subprocess.run([sys.executable, str(repository / "check_data_quality.py"), "--help"], cwd=tmp_path,
                          capture_output=True, text=True, check=True)
    assert "--file_workers" in done.stdout
