"""benchmarks/gpu_session.sh: its CPU form, whole and cut off, what it refuses, and what it makes of each part."""

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))
import gpu_session  # noqa: E402


def session(*words, script="gpu_session.sh", python=sys.executable):
    environment = {name: value for name, value in os.environ.items() if name != "OUT"} | {"PYTHON": str(python)}
    line = ["bash", str(ROOT / "benchmarks" / script), *map(str, words)]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=850)


def folders(tmp_path):
    return "--output_dir", tmp_path / "out", "--work_dir", tmp_path / "work"


@pytest.mark.slow
def test_every_part_runs_in_tiny_sizes(tmp_path):
    run = session("--cpu", *folders(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    parts = list(gpu_session.PARTS)
    assert list(found) == parts and all(found[name]["state"] == "done" for name in parts)
    assert found["session"]["device"] == "CPU: NOT A GPU FIGURE"
    assert found["tests"]["failed"] == 0 and sum(found["tests"][n] for n in ("passed", "skipped")) > 20
    recipe = found["recipe"]
    assert recipe["fitted"]["epochs"] == 3 and recipe["training"]["status"] == "finished"
    assert recipe["reconstruction"]["hearts"] == 1
    assert 0 <= recipe["reconstruction"]["classes"]["mean of classes"]["dice"] <= 1
    assert len(found["gpu_train"]["rows"]) == 8
    assert [row.get("note", "") for row in found["recipe_steps"]["rows"]][-1] == "left out: CUDA graphs need a GPU"
    table = (tmp_path / "out" / "results.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines() if "| done |" in line] == parts[1:]
    assert "aim" not in table, "tiny sizes are not held against the aims"
    logs = {f"{name}.log" for name in parts[1:]}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "results.md", "metrics.csv", *logs}


@pytest.mark.slow
def test_a_part_whose_time_is_up_is_ended_with_all_that_it_started(tmp_path):
    python = tmp_path / "python"  # with it the hearts are never made
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *"gpu_session.py data"*) sleep 600 ;; esac\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    run = session("--cpu", "--parts", "2", "--seconds", 40, *folders(tmp_path), python=python)
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert run.returncode == 1 and found["recipe"]["state"] == "cut off", run.stdout + run.stderr
    deadline = time.monotonic() + 60  # what was killed may take a moment to go; what was not would sleep for 600 s
    while (left := started_in(tmp_path / "work")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left


def started_in(folder):
    """The command lines of running processes that name `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:  # it has ended
            continue
        if str(folder).encode() in words:
            found.append(words)
    return found


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_one_line(tmp_path):
    run = session(*folders(tmp_path))
    assert run.returncode == 2 and not run.stdout and not list(tmp_path.iterdir())
    assert re.fullmatch(r"error: no GPU found by PyTorch of \S+; --cpu runs every part in tiny sizes\n", run.stderr)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--parts", "tests,5"], "--parts: expected some of tests, recipe, gpu_train, recipe_steps, found 5"),
        (["--parts", ","], "--parts: names no part"),
        (["--seconds", "3m"], "--seconds: expected a whole number of seconds, found 3m"),
        (["--seconds"], "--seconds: a value is missing"),
        (["--part", "1"], "--part: no such option"),
        (["--output_dir", "{tmp}/a/b", "--work_dir", "{tmp}/a"], "--output_dir must not lie in --work_dir"),
        (["--work_dir", "{tmp}/mine"], "not empty, and not made by this script"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, words, said):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    run = session("--cpu", *(word.format(tmp=tmp_path) for word in words))
    assert run.returncode == 2 and run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
    assert said in run.stderr and (tmp_path / "mine" / "thesis.txt").exists()


def test_every_test_that_needs_a_gpu_is_marked():
    """Part 1 chooses by the marker, so none may skip itself in another way."""
    own_way = re.compile(r"skipif\(\s*not torch\.cuda\.is_available|importorskip\(.cupy")
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    assert not [path.name for path in files if own_way.search(path.read_text(encoding="utf-8"))]
    marked = {path.name for path in files if re.search(r"\bmark\.gpu\b", path.read_text(encoding="utf-8"))}
    assert marked >= {"test_cuda.py", "test_farthest_points_cuda.py"}


def test_the_schedule_is_fitted_to_the_time():
    fitted = gpu_session.fitted_epochs
    epochs = fitted(360, 0.09, 13, 10_000)
    spent = gpu_session.STARTING_S + gpu_session.MARGIN * 0.09 * 13 * epochs
    assert spent <= 360 < spent + gpu_session.MARGIN * 0.09 * 13
    assert fitted(360, 0.09, 13, 100) == 100 and fitted(60, 30, 13, 100) == 2


def entry_of(tmp_path, part, **more):
    given = {"cpu": False, "note": "", "code": 0, "seconds": 1, "limit": 2, "log": None, "rows": tmp_path / "rows"}
    arguments = {"part": part, "output_dir": tmp_path, "work_dir": tmp_path, **given, **more}
    assert gpu_session.record(argparse.Namespace(**arguments)) == 0
    line = (tmp_path / "results.md").read_text().splitlines()[-1]
    return json.loads((tmp_path / "results.json").read_text())[part], line


def test_the_tests_are_counted_from_what_they_have_printed(tmp_path):
    log = tmp_path / "tests.log"
    log.write_text(
        "[gw0] [ 10%] PASSED tests/a/test_x.py::test_one[point_vec8-options0] \n"
        "[gw1] [ 20%] FAILED tests/a/test_x.py::test_two \n"
        "tests/a/test_x.py::test_three SKIPPED (no GPU)      [ 30%]\n"
        "tests/a/test_x.py::test_four ERROR                  [ 40%]\n"
        "FAILED tests/a/test_x.py::test_two - AssertionError: 1 - 2\n"
        "tests/a/test_x.py::test_fi"
    )
    entry, line = entry_of(tmp_path, "tests", log=log, code=124)
    assert {n: entry[n] for n in ("passed", "failed", "error", "skipped")} == dict(
        passed=1, failed=1, error=1, skipped=1
    )
    assert entry["failed_tests"] == ["tests/a/test_x.py::test_two", "tests/a/test_x.py::test_four"]
    assert entry["state"] == "cut off" and "1 passed, 1 failed, 1 error, 1 skipped; tests/a" in line


def training_row(cases, speed, memory, **more):
    row = dict(cases=cases, cases_per_second=speed, peak_gb=memory, mfu=0.5, eikonal=True, compiled=False)
    return json.dumps({**row, "reference": False, "recompute": False, "note": "", **more}) + "\n"


def test_rows_of_the_training_step_are_held_against_the_aims(tmp_path):
    (tmp_path / "rows").write_text(
        training_row(16, 90.0, 20.0)
        + training_row(64, 120.0, 41.0, compiled=True)
        + training_row(64, 500.0, 1.0, eikonal=False)
        + training_row(64, None, None, note="failed: x | y")
        + '{"cases": 2, "cases_per'
    )
    entry, line = entry_of(tmp_path, "gpu_train", code=137)
    assert len(entry["rows"]) == 4 and entry["state"] == "cut off"
    assert "cases/s 120.0 (aim 100: met), at batch 64, compiled, MFU 50.0%" in line
    assert "GB at batch 64 41.0 (aim 40: NOT met), 1 rows failed" in line


def test_a_part_that_left_nothing_is_recorded(tmp_path):
    for part in ("gpu_train", "recipe_steps"):
        assert "no row ended" in entry_of(tmp_path, part, code=1)[1]
    entry, line = entry_of(tmp_path, "recipe", code=2)
    assert entry["state"] == "exit code 2" and "no figures yet" in line
    assert "cannot be read: FileNotFoundError" in entry_of(tmp_path, "tests", log=tmp_path / "none.log")[1]
    assert "| left out: no time |" in entry_of(tmp_path, "tests", note="left out: no time")[1]


def archive(tmp_path, version):
    """As `gpu_wheels.sh fetch` packs it, with one small package."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "carried_package.py").write_text("VALUE = 5\n")
    (site / "gpu_wheels_python").write_text(f"{version}\n")
    with tarfile.open(tmp_path / "site.tar.xz", "w:xz") as packed:
        packed.add(site, ".")
    return tmp_path / "site.tar.xz"


@pytest.mark.slow
def test_carried_packages_are_installed_beside_those_of_the_image(tmp_path):
    packed = archive(tmp_path, f"3.{sys.version_info.minor}")
    run = session("install", packed, tmp_path / "venv", script="gpu_wheels.sh")
    assert run.returncode == 0 and run.stdout.strip() == str(tmp_path / "venv" / "bin" / "python"), run.stderr
    code = "import carried_package, torch; print(carried_package.VALUE, torch.__file__)"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    said = subprocess.run([run.stdout.strip(), "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["5", torch.__file__]


@pytest.mark.parametrize(
    "version, said",
    [("3.1", "is for Python 3.1, "), (None, "no such file"), ("", "is for Python ")],
)
def test_packages_that_do_not_fit_are_one_line(tmp_path, version, said):
    packed = tmp_path / "none.tar.xz" if version is None else archive(tmp_path, version)
    run = session("install", packed, tmp_path / "venv", script="gpu_wheels.sh")
    assert run.returncode == 2 and said in run.stderr and run.stderr.count("\n") == 1
    assert not (tmp_path / "venv").exists()
