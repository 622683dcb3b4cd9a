"""Where a job's Python and data come from: modules, a container, the node's own disk; a driver that does not fit. No
cluster: the scripts run in this shell, with a `module` function, an `apptainer` and an `nvidia-smi` that do as the real
ones as far as the scripts see."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import slurm_cluster
from helpers.ball_cases import TINY, write_ball_cases

ROOT = Path(__file__).resolve().parents[2]
APPTAINER = """#!/usr/bin/env bash
# apptainer exec [--nv] [--bind FOLDER]... IMAGE COMMAND...: notes its words, and runs the command here
echo "$*" >>"$NOTES"
[ "$1" = exec ] || exit 9
shift
while :; do
  case $1 in --nv) shift ;; --bind) shift 2 ;; --env=*) export "${1#--env=}"; shift ;; *) break ;; esac
done
[ -f "$1" ] || exit 9
shift
[ "$1" = python3 ] || exit 9
shift
exec "$REAL_PYTHON" "$@"
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_ball_cases(tmp_path_factory.mktemp("cases"), train=2, val=1)


def phase1(data, run, *words, **environment):
    """run_phase1_sbatch.sh outside Slurm, on one process and a CPU."""
    cleared = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("SLURM_", "SBATCH_")) and k not in ("VENV", "PYTHON", "MODULES", "CONTAINER", "STAGE_DIR")
    }
    return subprocess.run(
        [
            "bash",
            str(ROOT / "run_phase1_sbatch.sh"),
            "--data_path",
            str(data),
            "--output_dir",
            str(run),
            "--gpus",
            "1",
            *TINY,
            "--epochs",
            "1",
            "--warmup_epochs",
            "0",
            *(str(w) for w in words),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**cleared, **environment},
    )


@pytest.fixture
def apptainer(tmp_path):
    """The environment with a stand-in for apptainer in PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "apptainer").write_text(APPTAINER)
    (folder / "apptainer").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "NOTES": str(tmp_path / "notes"), "REAL_PYTHON": sys.executable}


def test_modules_are_loaded_in_order_before_python_is_looked_for(data, tmp_path):
    notes = tmp_path / "notes"
    choose = f'if [ "$2" = python/3.12 ]; then PYTHON={sys.executable}; fi'
    module = f'() {{ echo "$*$unset_by_the_site" >>{notes}; false; {choose}; }}'
    answer = phase1(
        data, tmp_path / "run", "--dry_run", "--modules", "gcc/13 python/3.12", **{"BASH_FUNC_module%%": module}
    )
    assert answer.returncode == 0, answer.stderr
    assert notes.read_text() == "load gcc/13\nload python/3.12\n"
    assert f"Python {sys.executable}" in answer.stdout


def test_a_module_that_is_not_there_or_no_module_command_is_named(data, tmp_path):
    answer = phase1(
        data, tmp_path / "run", "--dry_run", "--modules", "nonsense", **{"BASH_FUNC_module%%": "() { return 1; }"}
    )
    assert answer.returncode == 2 and "module load nonsense failed" in answer.stderr
    answer = phase1(data, tmp_path / "run", "--dry_run", "--modules", "python")
    assert answer.returncode == 2 and "this node has no 'module' command" in answer.stderr


OLD_DRIVER = """#!/bin/sh
echo 470.82.01
"""
CUDA_TORCH = """# sitecustomize: this torch says of itself that it was built for CUDA 13.0
import sys
if sys.argv[:1] and "preflight" in " ".join(sys.orig_argv):
    import torch
    torch.version.cuda = "13.0"
"""


def test_a_driver_too_old_for_the_pinned_torch_is_told_what_to_install(data, tmp_path):
    programs, packages = tmp_path / "bin", tmp_path / "packages"
    for folder, name, words in ((programs, "nvidia-smi", OLD_DRIVER), (packages, "sitecustomize.py", CUDA_TORCH)):
        folder.mkdir()
        (folder / name).write_text(words)
        (folder / name).chmod(0o755)
    answer = phase1(
        data,
        tmp_path / "run",
        "--dry_run",
        "--device",
        "auto",
        PYTHON=sys.executable,
        PYTHONPATH=str(packages),
        PATH=f"{programs}:{os.environ['PATH']}",
    )
    assert answer.returncode == 2 and "driver 470.82.01, 0 GPU(s)" in answer.stdout
    last = answer.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "error: driver 470.82.01 is too old for a torch built for CUDA 13.0, which needs 580 or newer"
    )
    assert "pip install --force-reinstall 'torch>=2.6' --index-url https://download.pytorch.org/whl/cu118" in last


def test_a_cluster_test_that_cannot_run_fails_where_it_has_to_and_is_skipped_elsewhere(monkeypatch):
    monkeypatch.setattr(slurm_cluster, "MACHINE_FOR_IT", False)
    with pytest.raises(pytest.skip.Exception, match="no Slurm"):
        slurm_cluster.skip("no Slurm")
    monkeypatch.setattr(slurm_cluster, "MACHINE_FOR_IT", True)
    with pytest.raises(AssertionError, match="no Slurm"):
        slurm_cluster.skip("no Slurm")


def test_a_container_that_is_not_there_is_named(data, tmp_path, apptainer):
    answer = phase1(data, tmp_path / "run", "--dry_run", "--container", tmp_path / "no.sif", **apptainer)
    assert answer.returncode == 2 and f"expected an image, found no file {tmp_path}/no.sif" in answer.stderr


@pytest.mark.slow
def test_training_in_a_container_sees_repository_data_results_and_stage(data, tmp_path, apptainer):
    image, run, stage = tmp_path / "image.sif", tmp_path / "run", tmp_path / "stage"
    image.touch()
    answer = phase1(
        data, run, "--container", image, "--stage_dir", stage, CONTAINER_ARGS="--env=IN_CONTAINER=1", **apptainer
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    words = next(line for line in (tmp_path / "notes").read_text().splitlines() if "torch.distributed.run" in line)
    binds = " ".join(f"--bind {folder}" for folder in (ROOT, data, run, stage))
    assert words.startswith(f"exec --nv {binds} --env=IN_CONTAINER=1 {image} python3 -m torch.distributed.run")
    assert (run / "checkpoint-best.pth").is_file()


@pytest.mark.slow
def test_staged_data_is_read_from_the_nodes_disk_and_taken_away_after_it(data, tmp_path):
    stage = tmp_path / "stage"
    answer = phase1(data, tmp_path / "run", "--stage_dir", stage, PYTHON=sys.executable)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    command = next(line for line in answer.stdout.splitlines() if line.startswith("command:"))
    assert f"--data_path {stage}/heart-" in command and str(data) not in command
    assert list(stage.iterdir()) == [], "nothing stays on the node"
    assert len(list(data.glob("*.npz"))) == 3, "the data itself stays"


@pytest.mark.slow
def test_a_finished_run_that_is_to_go_on_and_breaks_off_is_no_success(data, tmp_path):
    run = tmp_path / "run"
    assert phase1(data, run, PYTHON=sys.executable).returncode == 0
    answer = phase1(data, run, PYTHON=sys.executable)
    assert answer.returncode == 0 and "finished: all 1 epochs are done" in answer.stdout, "there is nothing to do"
    (tmp_path / "file").touch()
    answer = phase1(data, run, "--epochs", "2", "--log_dir", tmp_path / "file" / "logs", PYTHON=sys.executable)
    assert answer.returncode != 0 and "training broke off" in answer.stderr, answer.stdout


def test_the_nodes_own_disk_may_be_named_by_a_variable_of_the_node(data, tmp_path):
    words = ("--dry_run", "--stage_dir", "$LOCAL_DISK/hearts")
    answer = phase1(data, tmp_path / "run", *words, PYTHON=sys.executable, LOCAL_DISK=str(tmp_path / "disk"))
    assert answer.returncode == 0 and f"--data_path {tmp_path}/disk/hearts/heart-" in answer.stdout, answer.stderr
    answer = phase1(data, tmp_path / "run", *words[1:], PYTHON=sys.executable)
    assert answer.returncode == 2 and "has no $LOCAL_DISK" in answer.stderr


def test_a_container_sees_checkpoints_splits_and_label_map_files_elsewhere(data, tmp_path, apptainer):
    """What options name outside of the data and the results is bound, too."""
    image, folders = tmp_path / "image.sif", [tmp_path / name for name in ("weights", "splits", "maps", "labels")]
    image.touch()
    for folder in folders:
        folder.mkdir()
    weights, splits, maps, labels = folders
    (weights / "w.pth").touch()
    for name in ("train.csv", "val.csv"):
        shutil.copy2(data / name, splits)
    phase1(
        data,
        tmp_path / "run",
        "--dry_run",
        "--container",
        image,
        "--init_from",
        weights / "w.pth",
        "--csv_dir",
        splits,
        **apptainer,
    )
    (maps / "map.json").write_text("{}")
    (labels / "heart.nii.gz").touch()
    subprocess.run(
        [
            "bash",
            str(ROOT / "run_data_sbatch.sh"),
            "--input_dir",
            str(labels),
            "--output_dir",
            str(tmp_path / "cases"),
            "--container",
            str(image),
            "--label_mapping",
            str(maps / "map.json"),
        ],
        capture_output=True,
        check=False,
        env={**os.environ, **apptainer},
    )
    preflight, prepare = (
        [line for line in (tmp_path / "notes").read_text().splitlines() if script in line][-1]
        for script in ("preflight.py", "prepare_data.py")
    )
    assert all(f"--bind {folder} " in preflight for folder in (data, tmp_path / "run", weights, splits)), preflight
    assert all(f"--bind {folder} " in prepare for folder in (labels, tmp_path / "cases", maps)), prepare


def test_a_dry_run_stages_nothing(data, tmp_path):
    answer = phase1(data, tmp_path / "run", "--dry_run", "--stage_dir", tmp_path / "stage", PYTHON=sys.executable)
    assert answer.returncode == 0, answer.stderr
    assert not (tmp_path / "stage").exists()
