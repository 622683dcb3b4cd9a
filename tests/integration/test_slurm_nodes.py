"""Several nodes, each in a network namespace of its own, so that `localhost` is not the other node: torchrun and srun
find each other there, learn what one node learns, and end with the cause named when a process is killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.slurm_cluster import (
    ROOT,
    TINY,
    command,
    last_state,
    make_cases,
    make_labels,
    processes_of,
    running_lab,
    text,
    wait_for,
)

pytestmark = pytest.mark.slow
EPOCHS = ("--epochs", "30", "--eval_every", "30", "--print_every", "1")
TWO_NODES = ("--nodes=2", "--ntasks-per-node=1")


@pytest.fixture(scope="module")
def lab():
    with running_lab(namespaces=True) as lab:
        yield lab


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return make_cases(make_labels(tmp_path_factory.mktemp("labels")), tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def one_node(lab, cases, tmp_path_factory):
    """(losses of the steps, last state) of two processes by torchrun on one node."""
    folder = tmp_path_factory.mktemp("one_node")
    job, log = lab.train(cases, folder / "run", *EPOCHS, gpus=2, cwd=folder)
    assert lab.wait(job)[0]["JobState"] == "COMPLETED", text(log)
    return losses(folder / "run"), last_state(folder / "run")


def losses(run):
    rows = [json.loads(line) for line in (Path(run) / "log.txt").read_text().splitlines()]
    return {row["global_step"]: row["loss"] for row in rows if row["kind"] == "train"}


def srun(lab, cases, run, *more, cwd, sbatch):
    """Submits `srun python vecset/main_ae.py`. -> (job, its log)"""
    words = [sys.executable, ROOT / "vecset" / "main_ae.py", "--data_path", cases, "--output_dir", run, *TINY, *more]
    line = "srun --kill-on-bad-exit=1 " + " ".join(str(word) for word in words)
    job = lab.submit("--cpus-per-task=1", "--output=srun-%j.log", *sbatch, "--wrap", line, cwd=cwd)
    return job, Path(cwd) / f"srun-{job}.log"


def on_node(lab, number, *words):
    """Runs `words` where node `number`'s own mounts are. -> what it prints"""
    process = (lab.state / "pids" / f"slurmd-node{number}").read_text().split()[0]
    return subprocess.run(
        ["nsenter", "--mount", "--target", process, *map(str, words)], check=True, text=True, capture_output=True
    ).stdout


def test_two_nodes_learn_what_one_node_learns_and_jobs_do_not_meet(lab, cases, one_node, tmp_path):
    """Three jobs at once over the same two nodes: plain, with data on disks of each node's own; the optimizer sharded;
    gradients in bfloat16."""
    disk = tmp_path / "disk"
    disk.mkdir()
    for node in (1, 2):
        on_node(lab, node, "mount", "-t", "tmpfs", "tmpfs", disk)
    ways = {
        "plain": ("--stage_dir", "$NODE_DISK"),
        "shared": ("--shard", "optimizer"),
        "rounded": ("--compress_gradients", "bf16"),
    }
    jobs = {
        name: lab.train(
            cases,
            tmp_path / name,
            *EPOCHS,
            *more,
            cwd=tmp_path,
            sbatch=(*TWO_NODES, "--gres=gpu:a100:1", f"--export=ALL,NODE_DISK={disk}"),
        )
        for name, more in ways.items()
    }
    wait_for(lambda: all(lab.facts(job)[0]["JobState"] == "RUNNING" for job, _ in jobs.values()))
    staged = f"{disk}/heart-{jobs['plain'][0]}"
    wait_for(lambda: "epoch 1/30" in text(jobs["plain"][1]))
    assert all("train.csv" in on_node(lab, node, "ls", staged) for node in (1, 2)) and not list(disk.iterdir())
    for name, (job, log) in jobs.items():
        assert lab.wait(job)[0]["JobState"] == "COMPLETED", text(log)
        assert "2 node(s) x 1 process(es)" in text(log) and "--rdzv_endpoint=node1:" in text(log)
        if name != "rounded":
            assert losses(tmp_path / name) == one_node[0], name
            assert last_state(tmp_path / name) == one_node[1], name
    assert f"--data_path {staged} " in text(jobs["plain"][1])
    assert all(on_node(lab, node, "ls", disk) == "" for node in (1, 2)), "nothing stays on a node"
    rounded = losses(tmp_path / "rounded")
    assert rounded != one_node[0] and rounded == pytest.approx(one_node[0], rel=0.02)

    command(
        "vecset/main_ae.py",
        "--data_path",
        cases,
        "--output_dir",
        tmp_path / "shared",
        *TINY,
        "--batch_size",
        2,
        "--epochs",
        31,
        "--print_every",
        1,
    )
    assert last_state(tmp_path / "shared")[0] == "finished", "one process goes on with what two nodes shared out"
    assert max(losses(tmp_path / "shared")) == max(one_node[0]) * 31 // 30


@pytest.mark.parametrize("sbatch", [("--ntasks=2",), TWO_NODES], ids=["one node", "two nodes"])
def test_srun_python_learns_what_torchrun_learns(lab, cases, one_node, tmp_path, sbatch):
    job, log = srun(lab, cases, tmp_path / "run", *EPOCHS, cwd=tmp_path, sbatch=sbatch)
    assert lab.wait(job)[0]["JobState"] == "COMPLETED", text(log)
    assert "2 x cpu" in text(log)
    assert losses(tmp_path / "run") == one_node[0]
    assert last_state(tmp_path / "run") == one_node[1]


def test_a_batch_shell_that_forgets_srun_trains_alone_instead_of_waiting(lab, cases, tmp_path):
    words = [
        sys.executable,
        ROOT / "vecset" / "main_ae.py",
        "--data_path",
        cases,
        "--output_dir",
        tmp_path / "run",
        *TINY,
        "--epochs",
        "2",
    ]
    job = lab.submit("--ntasks=2", "--output=alone-%j.log", "--wrap", " ".join(str(w) for w in words), cwd=tmp_path)
    assert lab.wait(job)[0]["JobState"] == "COMPLETED"
    assert "1 x cpu" in text(tmp_path / f"alone-{job}.log")


def test_a_rendezvous_at_localhost_fails(lab, cases, tmp_path):
    """The trap that one machine hides: every node would meet itself."""
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes=2",
        "--nproc_per_node=1",
        "--rdzv_backend=c10d",
        "--rdzv_endpoint=localhost:29411",
        "--rdzv_conf=join_timeout=10",
        ROOT / "vecset" / "main_ae.py",
        "--data_path",
        cases,
        "--output_dir",
        tmp_path / "run",
        *TINY,
        "--epochs",
        "2",
    ]
    job = lab.submit(
        *TWO_NODES, "--output=local-%j.log", "--wrap", "srun " + " ".join(str(w) for w in words), cwd=tmp_path
    )
    assert lab.wait(job)[0]["JobState"] == "FAILED"
    assert "Rendezvous" in text(tmp_path / f"local-{job}.log") and not (tmp_path / "run").exists()


def test_a_killed_process_ends_both_nodes_with_the_cause_and_the_requeued_job_goes_on(lab, cases, one_node, tmp_path):
    job, log = lab.train(cases, tmp_path / "run", *EPOCHS, "--save_every_minutes", "0", cwd=tmp_path, sbatch=TWO_NODES)
    wait_for(lambda: re.search(r"epoch ([2-9]|\d\d)/30", text(log)))
    os.kill(processes_of(job, rank=1)[0], signal.SIGKILL)
    began = time.monotonic()
    wait_for(lambda: "== training ended" in text(log))
    assert time.monotonic() - began < 60, "the other node must not wait"
    assert re.search(r"Signal 9 \(SIGKILL\)", text(log)) and "training broke off" in text(log)
    assert "error: rank 0 lost contact with another process" in text(log) and "[rank0]: Traceback" not in text(log)
    facts = lab.wait(job)[0]
    assert facts["JobState"] == "COMPLETED" and facts["Restarts"] == "1", text(log)
    assert "going on from" in text(log)
    assert losses(tmp_path / "run") == one_node[0], "steps done twice have the same losses, none is left out"
    assert last_state(tmp_path / "run") == one_node[1]
