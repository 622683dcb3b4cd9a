"""`pip install .` gives a package that works without the checkout: all of its files, and every command."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.formula_hearts import write_checkpoint
from helpers.prepare_runs import SMALL, make_maps

from vecset.imaging.classes import default_class_names

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace(os.sep, ".")
    for path in (ROOT / "vecset").rglob("*.py")
    if re.search(r'^if __name__ == "__main__":', path.read_text(encoding="utf-8"), re.MULTILINE)
)


def files_of(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.parent.name != "__pycache__"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder in which pip has put the package, and nothing else: no network, no dependencies."""
    pytest.importorskip("setuptools")
    pytest.importorskip("pip")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "vecset", source / "vecset", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    words = ["--no-deps", "--no-build-isolation", "--no-index", "--target", target, source]
    done = subprocess.run(
        list(map(str, [sys.executable, "-m", "pip", "install", "-q", *words])), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return target


def run(installed, folder, module, *words):
    """The module as a user runs it: from any folder, -P so that nothing but the installed package is found."""
    return subprocess.run(
        list(map(str, [sys.executable, "-P", "-m", module, *words])),
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )


@pytest.mark.slow
def test_every_file_is_installed(installed):
    assert files_of(installed / "vecset") == files_of(ROOT / "vecset")


@pytest.mark.slow
@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_has_help(installed, tmp_path, module):
    done = run(installed, tmp_path, module, "--help")
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_from_label_maps_to_a_report(installed, tmp_path):
    def command(module, *words):
        done = run(installed, tmp_path, module, *words)
        assert done.returncode == 0, f"{module}: {done.stdout}{done.stderr}"
        return done.stdout

    make_maps(tmp_path / "labels", ["a.nii.gz", "b.nii.gz"])
    prepare = ["--input_dir", "labels", "--output_dir", "cases", *SMALL]
    assert "2 made" in command("vecset.commands.prepare_data", *prepare)
    command("vecset.commands.create_csv", "--data_dir", "cases", "--val_ratio", 0.5)
    assert (tmp_path / "cases" / "train.csv").is_file()
    shards = ["--input_dir", "labels", "--output_dir", "cases", "--tasks", 2, "--shard", 1]
    assert command("vecset.cluster.shards", *shards) == "1 2\n"
    done = run(installed, tmp_path, "vecset.commands.check_data_quality", "cases", "--report", "quality")
    assert re.search("^(PASS|FAIL): ", done.stdout, re.MULTILINE), done.stderr  # few points may fail a check
    assert (tmp_path / "quality" / "report.html").is_file()
    assert "a case file" in command("vecset.info", tmp_path / "cases" / "a.npz")
    told = command("vecset.cluster.preflight", "--processes", 1, "--", "--data_path", "cases", "--output_dir", "run")
    assert "1 training and 1 validation cases, 3 classes" in told
    assert command("vecset.cluster.run_state", "run", "position") == "no checkpoint\n"
    assert "torch" not in command("vecset.common.requirements"), "torch is here, so it is not missing"

    write_checkpoint(tmp_path / "c.pth", classes=3, names=default_class_names(3))
    tune = ["--checkpoint", "c.pth", "--csv", "cases/train.csv", "--output", "tuned.json"]
    command("vecset.calibrate", *tune, "--num_surface_points", 64)
    reconstruct = ["--checkpoint", "c.pth", "--input", "cases/val.csv", "--output_dir", "out", "--no_meshes"]
    command("vecset.commands.reconstruct", *reconstruct, "--calibration", "tuned.json", "--num_surface_points", 64)
    assert (tmp_path / "out" / "metrics.csv").is_file() and (tmp_path / "out" / "report.html").is_file()
