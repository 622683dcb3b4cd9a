"""A folder of structures through the main job, the job array's scripts and reconstruct.py's input."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.prepare_runs import SMALL
from helpers.structure_scans import heart, save, scan

from vecset.cluster import shards
from vecset.common.errors import InputError
from vecset.data.case_file import read_case
from vecset.inference.inputs import find_hearts
from vecset.pipeline import main as job
from vecset.pipeline.job import Pipeline

RULE = "--structures totalsegmentator"


@pytest.fixture
def labels(tmp_path):
    for n in range(4):
        scan(tmp_path / "labels" / f"scan{n + 7}", heart(0.3 * n))  # scan7 to scan10
    return tmp_path / "labels"


def test_reconstruct_says_how_structures_become_hearts(labels):
    for place in (labels, labels / "scan7"):
        with pytest.raises(InputError, match="prepare_data.py --structures totalsegmentator"):
            find_hearts(place)


def test_shards_count_scans(labels, tmp_path, capsys):
    words = ["--input_dir", str(labels), "--output_dir", str(tmp_path / "o"), "--tasks", "2"]
    assert shards.main([*words, "--shard", "1", "--prepare", "--classes", "3", *RULE.split()]) == 0
    assert capsys.readouterr().out == "2 4\n"
    (tmp_path / "options").write_text(f"--venv /x {RULE} ")
    (tmp_path / "task-1.log").write_text(f"error: {labels}/scan10/heart_atrium_left.nii.gz: broken\n")
    assert shards.main([*words, "--summary", "--logs", str(tmp_path), "--again", "s", "--prepare"]) == 1
    said = capsys.readouterr().out
    assert "0 of 4 case files are there" in said and "scan10 (shard 1): error:" in said
    assert "scan9 (shard 1): the task did not get to it" in said and f"--venv /x {RULE}" in said


def test_the_log_of_one_scan_is_not_that_of_another():
    text = "error: /in/scan10/a.nii.gz: broken\nerror: /in/scan2: empty\n"
    assert shards.reason("scan1", text) == shards.NOT_REACHED
    assert shards.reason("scan10", text).endswith("broken") and shards.reason("scan2", text).endswith("empty")


def pipeline(labels, out, *more):
    args = job.get_parser().parse_args(["--input_dir", str(labels), "--output_dir", str(out), *more])
    return Pipeline(args, [], print)


def test_the_job_sees_which_scan_changed(labels, tmp_path):
    def inputs():
        return pipeline(labels, tmp_path / "out", "--classes", "3", "--prepare_options", RULE).label_inputs()

    before = inputs()
    assert list(before) == ["scan7", "scan8", "scan9", "scan10"] and len(before["scan7"]) == 3
    save(labels / "scan7" / "liver.nii.gz", np.zeros((4, 4, 4), np.uint8))  # another structure changes nothing
    assert inputs() == before
    (labels / "scan8" / "heart_atrium_left.nii.gz").unlink()
    assert {name for name, state in inputs().items() if state != before[name]} == {"scan8"}
    alone = pipeline(labels / "scan9", tmp_path / "out", "--classes", "3", "--prepare_options", RULE)
    assert alone.label_inputs() == {"scan9": before["scan9"]}
    (tmp_path / "s.json").write_text('{"heart_myocardium": 1}')
    words = ["--prepare_options", f"--structures {tmp_path / 's.json'}"]
    one = pipeline(labels, tmp_path / "out", "--classes", "3", *words)
    options = one.prepare_stage().options()
    (tmp_path / "s.json").write_text('{"heart_myocardium": 2}')
    assert one.prepare_stage().options()["structures"] != options["structures"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--prepare_options", "--structures nix"], "presets totalsegmentator, names"),
        (["--prepare_options", "--structures names --label_mapping mmwhs"], "exclude each other"),
        (["--prepare_options", "--structures names", "--label_mapping", "mmwhs"], "exclude each other"),
        ([], "--structures totalsegmentator"),
    ],
)
def test_the_job_refuses_before_it_writes(labels, tmp_path, words, told):
    with pytest.raises(InputError, match=told):
        job.main(["--input_dir", str(labels), "--output_dir", str(tmp_path / "out"), "--recipe", "tiny", *words])
    assert not list((tmp_path / "out").glob("*/*")) if (tmp_path / "out").exists() else True


def test_structures_need_files_of_ones_own(tmp_path):
    with pytest.raises(InputError, match="give their folder: --input_dir"):
        job.main(["--output_dir", str(tmp_path / "out"), "--recipe", "tiny", "--prepare_options", RULE])


def bash(words, **more):
    cleared = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
    environment = {**cleared, "PYTHON": sys.executable, **more}
    return subprocess.run(["bash", *map(str, words)], capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.slow
def test_the_scripts_of_the_job_array(labels, repository, tmp_path):
    folders = ["--input_dir", labels, "--output_dir", tmp_path / "cases"]
    script = repository / "run_data_sbatch.sh"
    done = bash([script, *folders, *SMALL, *RULE.split()], TASKS="2", SLURM_ARRAY_TASK_ID="0")
    assert done.returncode == 0, done.stderr
    said = bash([script, "--summary", *folders])
    assert said.returncode == 1 and "2 of 4 case files are there" in said.stdout
    assert "scan9 (shard 1)" in said.stdout and RULE in said.stdout
    done = bash([script, *folders, *SMALL, *RULE.split()], TASKS="2", SLURM_ARRAY_TASK_ID="1", SLURM_ARRAY_TASK_MAX="1")
    assert done.returncode == 0, done.stderr
    assert "4 of 4 case files are there" in bash([script, "--summary", *folders]).stdout
    np.testing.assert_array_equal(read_case(tmp_path / "cases" / "scan7.npz").truth_labels(), heart())


@pytest.mark.slow
def test_the_chain_counts_scans(labels, repository, tmp_path):
    fake = tmp_path / "bin" / "sbatch"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n')
    fake.chmod(0o755)
    words = ["--input_dir", labels, "--output_dir", tmp_path / "out", "--classes", "3", "--dry_run"]
    path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
    done = bash([repository / "submit_phase1.sh", *words, "--prepare_options", RULE], PATH=path)
    assert done.returncode == 0, done.stderr
    asked = Path(tmp_path / "asked").read_text()
    assert "--array=0-3" in asked and RULE in asked
    done = bash([repository / "submit_phase1.sh", *words], PATH=path)
    assert done.returncode != 0 and "--structures totalsegmentator" in done.stderr


@pytest.mark.slow
def test_the_whole_job(labels, repository, tmp_path):
    words = ["--input_dir", labels, "--output_dir", tmp_path / "out", "--classes", "3", "--recipe", "tiny"]
    words += ["--prepare_options", RULE, "--keep_going"]
    done = bash([repository / "run_train.sh", *words], OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 made, 0 skipped, 0 failed" in done.stdout
    assert (tmp_path / "out" / "reconstruction" / "metrics.csv").is_file()
    again = bash([repository / "run_train.sh", *words], OMP_NUM_THREADS="1")
    assert "all is done" in again.stdout
