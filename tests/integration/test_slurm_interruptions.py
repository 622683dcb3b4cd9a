"""What a cluster does to jobs, on a real Slurm: preemption, a node that goes, a full disk, kills. Each ends with the
figures of a run that nobody disturbed, or with the reason in the log."""

import os
import re
import signal
import subprocess
import sys

import pytest
from helpers.slurm_cluster import (
    FEW_POINTS,
    ROOT,
    last_state,
    make_cases,
    make_labels,
    processes_of,
    running_lab,
    skip,
    text,
    undisturbed,
    wait_for,
)

pytestmark = pytest.mark.slow
EPOCHS = ("--epochs", "120", "--eval_every", "120", "--print_every", "5")


@pytest.fixture(scope="module")
def lab():
    with running_lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return make_labels(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def cases(labels, tmp_path_factory):
    return make_cases(labels, tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def calm(cases, tmp_path_factory):
    return undisturbed(cases, tmp_path_factory.mktemp("calm") / "run", *EPOCHS)


def in_training(log):
    return wait_for(lambda: re.search(r"epoch ([2-9]|\d\d)/120", text(log)))


def assert_finished_as_if_undisturbed(lab, job, log, run, calm, restarts=1):
    facts = lab.wait(job)[0]
    assert facts["JobState"] == "COMPLETED", text(log)
    assert int(facts["Restarts"]) >= restarts and text(log).count("going on from") >= restarts, text(log)
    assert last_state(run) == calm


def test_preempted_by_a_higher_partition_it_saves_makes_way_and_goes_on(lab, cases, calm, tmp_path):
    job, log = lab.train(cases, tmp_path / "run", *EPOCHS, cwd=tmp_path, sbatch=("--partition=gpumedium",))
    in_training(log)
    urgent = lab.submit(
        "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 3", cwd=tmp_path
    )
    assert lab.wait(urgent)[0]["JobState"] == "COMPLETED"
    assert_finished_as_if_undisturbed(lab, job, log, tmp_path / "run", calm)
    assert "asked to stop: saving" in text(log)


def test_when_its_node_goes_down_the_job_goes_on_elsewhere(lab, cases, calm, tmp_path):
    job, log = lab.train(cases, tmp_path / "run", *EPOCHS, cwd=tmp_path)
    in_training(log)
    node = lab.facts(job)[0]["BatchHost"]
    try:
        lab.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")  # it would be back at once
        lab.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        assert_finished_as_if_undisturbed(lab, job, log, tmp_path / "run", calm)
        assert lab.facts(job)[0]["BatchHost"] != node
    finally:
        lab.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with 2 MiB, as a quota would leave them."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_ends_the_job_by_name_and_leaves_a_checkpoint_to_go_on_from(lab, cases, calm, small_disk, tmp_path):
    words = (*EPOCHS, "--save_every_minutes", "0")
    job, log = lab.train(cases, small_disk / "run", *words, cwd=tmp_path)
    in_training(log)
    with (small_disk / "other").open("wb", buffering=0) as other, pytest.raises(OSError):
        while True:
            other.write(b"0" * 4096)
    facts = lab.wait(job)[0]
    assert facts["JobState"] == "FAILED", text(log)
    assert "no space left on the device or quota used up" in text(log) and "not requeued" in text(log)
    assert last_state(small_disk / "run")[0] == "running", "the last good checkpoint is whole"
    (small_disk / "other").unlink()
    lab.run("scontrol", "requeue", job)
    assert_finished_as_if_undisturbed(lab, job, log, small_disk / "run", calm)


def test_a_killed_process_is_named_and_the_requeued_job_goes_on(lab, cases, calm, tmp_path):
    job, log = lab.train(cases, tmp_path / "run", *EPOCHS, "--save_every_minutes", "0", cwd=tmp_path)
    in_training(log)
    os.kill(processes_of(job)[0], signal.SIGKILL)
    assert_finished_as_if_undisturbed(lab, job, log, tmp_path / "run", calm)
    assert "SIGKILL" in text(log) and "training broke off" in text(log)


def test_what_breaks_off_without_a_step_done_is_not_tried_again(lab, cases, tmp_path):
    (tmp_path / "file").touch()
    job, log = lab.train(cases, tmp_path / "run", *EPOCHS, "--log_dir", tmp_path / "file" / "logs", cwd=tmp_path)
    facts = lab.wait(job)[0]
    assert facts["JobState"] == "FAILED" and facts["Restarts"] == "0", text(log)
    assert "no progress since this start" in text(log) and "not requeued" in text(log)


SLOW_START = """#!/bin/sh
# a Python whose training never comes to its first step
case "$*" in *torch.distributed.run*) exec sleep 1000 ;; esac
exec {} "$@"
"""


def test_a_job_that_is_ended_again_and_again_before_its_first_step_stops(lab, cases, tmp_path):
    """As on a partition whose jobs are preempted, or on a node that goes down, always before anything was saved."""
    python = tmp_path / "python"
    python.write_text(SLOW_START.format(sys.executable))
    python.chmod(0o755)
    job, log = lab.train(cases, tmp_path / "run", "--python", python, cwd=tmp_path)
    for start in (1, 2):
        wait_for(lambda start=start: text(log).count("at the start: no checkpoint") == start)
        lab.run("scontrol", "requeue", job)  # Slurm ends it and starts it anew, as it does then
    facts = lab.wait(job)[0]
    assert facts["JobState"] == "FAILED" and facts["Restarts"] == "2", text(log)
    assert "the last 2 starts of this job made no progress (no checkpoint): not started once more" in text(log)


def test_before_its_time_limit_a_job_saves_and_goes_on_in_a_new_one(lab, cases, tmp_path):
    """The signal that Slurm itself sends. The shortest limit is one minute."""
    job, log = lab.train(
        cases,
        tmp_path / "run",
        "--epochs",
        "100000",
        "--eval_every",
        "100000",
        cwd=tmp_path,
        sbatch=("--time=1", "--signal=B:USR1@20"),
    )
    wait_for(lambda: "going on from" in text(log), 240)
    facts = lab.facts(job)[0]
    lab.run("scancel", job)
    assert facts["Restarts"] == "1" and "asking Slurm to requeue the job" in text(log)
    position = re.search(r"state stopped, at epoch (\d+), step (\d+)", text(log)).groups()
    assert "going on from {}/checkpoint-last.pth: epoch {}, step {},".format(
        tmp_path / "run", int(position[0]) + 1, position[1]
    ) in text(log)
    lab.wait(job, 90)


SLOW_CHECKS = """#!/bin/sh
# a Python whose checks take their time at the first start, as copying much data does
case "$*" in *preflight.py*) [ -e {0} ] || {{ touch {0}; sleep 10; }} ;; esac
exec {1} "$@"
"""


def test_a_warning_that_comes_before_training_has_begun_is_heard(lab, cases, calm, tmp_path):
    python = tmp_path / "python"
    python.write_text(SLOW_CHECKS.format(tmp_path / "slow", sys.executable))
    python.chmod(0o755)
    job, log = lab.train(cases, tmp_path / "run", *EPOCHS, "--python", python, cwd=tmp_path)
    wait_for((tmp_path / "slow").exists)
    lab.run("scancel", "--batch", "--signal=USR1", job)
    facts = lab.wait(job)[0]
    assert facts["JobState"] == "COMPLETED" and facts["Restarts"] == "1", text(log)
    assert text(log).count("asked to stop before training began") == 1
    assert last_state(tmp_path / "run") == calm


def test_a_job_that_must_not_be_requeued_is_no_success_and_the_same_line_goes_on(lab, cases, calm, tmp_path):
    job, log = lab.train(cases, tmp_path / "run", *EPOCHS, cwd=tmp_path, sbatch=("--no-requeue",))
    in_training(log)
    lab.run("scancel", "--batch", "--signal=USR1", job)
    facts = lab.wait(job)[0]
    assert facts["JobState"] == "FAILED" and facts["ExitCode"] == "75:0", text(log)
    assert "error: saved, but Slurm does not requeue the job" in text(log)
    job, log = lab.train(cases, tmp_path / "run", *EPOCHS, cwd=tmp_path)
    assert_finished_as_if_undisturbed(lab, job, log, tmp_path / "run", calm, restarts=0)


def test_scancel_ends_a_job_for_good(lab, cases, tmp_path):
    job, log = lab.train(cases, tmp_path / "run", *EPOCHS, "--epochs", "100000", cwd=tmp_path)
    wait_for(lambda: "epoch 2/" in text(log))
    lab.run("scancel", job)
    assert lab.wait(job, 90)[0]["JobState"] == "CANCELLED"
    wait_for(lambda: "it is not requeued from here" in text(log) or not processes_of(job), 60)
    assert lab.facts(job)[0]["JobState"] == "CANCELLED" and lab.facts(job)[0]["Restarts"] == "0"


def test_a_killed_array_task_is_found_missing_and_just_its_shard_made_again(lab, labels, tmp_path):
    options = ["--input_dir", labels, "--output_dir", tmp_path / "cases"]
    job = lab.submit(
        "--array=0-1", "--cpus-per-task=1", ROOT / "run_data_sbatch.sh", *options, *FEW_POINTS, cwd=tmp_path
    )
    wait_for(lambda: "label maps 2 to 4" in text(tmp_path / f"heart-data-{job}_1.log"))
    lab.run("scancel", "--signal=KILL", "--full", f"{job}_1")
    states = {f["ArrayTaskId"]: f["JobState"] for f in lab.wait(job)}
    assert states["0"] == "COMPLETED" and states["1"] != "COMPLETED"
    summary = lab.run("bash", ROOT / "run_data_sbatch.sh", "--summary", *options, cwd=tmp_path, check=False)
    assert summary.returncode == 1 and "killed, out of time, or never started" in summary.stdout
    again = summary.stdout.strip().splitlines()[-1].split()
    assert again[:2] == ["sbatch", "--array=1"]
    again = lab.submit("--cpus-per-task=1", *again[1:], cwd=tmp_path)
    assert [f["JobState"] for f in lab.wait(again)] == ["COMPLETED"]
    summary = lab.run("bash", ROOT / "run_data_sbatch.sh", "--summary", *options, cwd=tmp_path)
    assert "5 of 5 case files are there" in summary.stdout
    assert not list((tmp_path / "cases").glob("*.tmp*")) + list((tmp_path / "cases").glob(".*.npz*"))
