"""Several processes in one step: the optimizer's state sharded, gradients in bfloat16, tasks started as by srun."""

import itertools
import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.processes import rank_environment, torchrun

from vecset.engines.distributed import job_port
from vecset.weights.checkpoint import load_checkpoint

STEPS = ("--epochs", 2, "--eval_every", 1, "--print_every", 1, "--batch_size", 1, "--eikonal_weight", 0.1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_ball_cases(tmp_path_factory.mktemp("cases"), train=6, val=2)


def train(repository, data, output, ranks, *more):
    """A run of 2 epochs on `ranks` processes. -> (losses of its steps, last checkpoint)"""
    words = [
        *(torchrun(ranks) if ranks > 1 else [sys.executable]),
        str(repository / "vecset" / "main_ae.py"),
        *tiny_arguments(data, output, *STEPS, *more),
    ]
    run = subprocess.run(words, env=rank_environment(), capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    return losses(output), load_checkpoint(output / "checkpoint-last.pth")


def losses(output):
    rows = [json.loads(line) for line in (output / "log.txt").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "train"]


def assert_same(found, wanted, tolerance=0.0):
    """Weights, moments and step counts of two checkpoints."""
    assert found["model"].keys() == wanted["model"].keys()
    for name, value in wanted["model"].items():
        assert torch.allclose(found["model"][name], value, rtol=tolerance, atol=tolerance), name
    found, wanted = found["optimizer"], wanted["optimizer"]
    assert [g["params"] for g in found["param_groups"]] == [g["params"] for g in wanted["param_groups"]]
    assert found["state"].keys() == wanted["state"].keys() and len(wanted["state"]) > 10
    for number, values in wanted["state"].items():
        for name, value in values.items():
            assert torch.allclose(found["state"][number][name], value, rtol=tolerance, atol=tolerance), (number, name)


@pytest.mark.slow
def test_a_sharded_optimizer_learns_the_same_and_saves_a_whole_checkpoint(data, repository, tmp_path):
    whole_losses, whole = train(repository, data, tmp_path / "whole", 2)
    found, sharded = train(repository, data, tmp_path / "sharded", 2, "--shard", "optimizer")
    assert len(found) == 6 and found == pytest.approx(whole_losses, rel=1e-6)
    assert_same(sharded, whole)


@pytest.mark.slow
def test_a_checkpoint_of_shards_loads_on_any_number_of_ranks_and_back(data, repository, tmp_path):
    """6 cases per step whatever the ranks are, so the losses are those of one process that never stopped."""
    cases_per_rank = {1: 6, 2: 3, 3: 2}

    def go_on(output, ranks, until, *more):
        return train(
            repository,
            data,
            output,
            ranks,
            "--batch_size",
            cases_per_rank[ranks],
            "--epochs",
            6,
            "--max_steps",
            until,
            *more,
        )

    wanted, alone = go_on(tmp_path / "alone", 1, 6)
    for until, ranks in ((2, 2), (3, 1), (4, 3), (5, 2), (6, 1)):
        found, last = go_on(tmp_path / "moving", ranks, until, "--shard", "optimizer")
    assert len(found) == 6 and found == pytest.approx(wanted, rel=1e-6)
    assert_same(last, alone, 1e-5)


@pytest.mark.slow
def test_timed_saving_is_agreed_on_so_that_no_rank_waits_for_another(data, repository, tmp_path):
    """Saving after every step takes all ranks where the shards have to come together."""
    _, last = train(repository, data, tmp_path / "run", 2, "--shard", "optimizer", "--save_every_minutes", 0)
    assert last["status"] == "finished" and last["global_step"] == 6


@pytest.mark.slow
def test_gradients_in_bfloat16_are_near_those_in_float32(data, repository, tmp_path):
    exact, _ = train(repository, data, tmp_path / "exact", 2)
    rounded, _ = train(repository, data, tmp_path / "rounded", 2, "--compress_gradients", "bf16")
    assert rounded != exact and rounded == pytest.approx(exact, rel=1e-2)


def is_free(port):
    with socket.socket() as taken:
        return taken.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.slow
def test_tasks_that_srun_starts_find_each_other(data, repository, tmp_path):
    """Two processes with the environment that srun gives two tasks, against torchrun's."""
    wanted, _ = train(repository, data, tmp_path / "torchrun", 2)
    script = str(repository / "vecset" / "main_ae.py")
    words = [sys.executable, script, *tiny_arguments(data, tmp_path / "srun", *STEPS)]
    job = next(str(number) for number in itertools.count(os.getpid()) if is_free(job_port(number, 0)))
    tasks = [
        subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **rank_environment(),
                "SLURM_JOB_ID": job,
                "SLURM_STEP_ID": "0",
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_PROCID": str(i),
                "SLURM_LOCALID": str(i),
                "SLURM_STEP_NUM_NODES": "1",
            },
        )
        for i in range(2)
    ]
    said = [task.communicate(timeout=600)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert losses(tmp_path / "srun") == wanted
    assert not said[1].strip() or "warn" in said[1].lower(), "rank 1 is silent"
