"""Slurm's environment read as torchrun's: who a task is, and when there is nothing to read."""

import pytest

from vecset.common.errors import InputError
from vecset.engines.distributed import FIRST_PORT, NUM_PORTS, first_host, job_port, slurm_ranks, tasks_on_node

# as srun --nodes=2 --ntasks-per-node=2 sets it for the last task (Slurm 22.05)
TASK = {
    "SLURM_JOB_ID": "41",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_JOB_NODELIST": "node[06-08]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}


def test_a_task_of_srun_knows_its_rank_and_where_rank_0_is():
    assert slurm_ranks(TASK) == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "node07",
        "MASTER_PORT": str(FIRST_PORT + 41),
    }


def test_one_node_needs_no_names_and_what_the_user_says_is_kept():
    one = {**TASK, "SLURM_STEP_NUM_NODES": "1", "SLURM_PROCID": "1"}
    assert slurm_ranks(one)["MASTER_ADDR"] == "127.0.0.1"
    assert slurm_ranks({**TASK, "MASTER_ADDR": "other", "MASTER_PORT": "5"})["MASTER_ADDR"] == "other"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {**TASK, "RANK": "0", "WORLD_SIZE": "2"},
        {**TASK, "SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_JOB_ID": "41", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    ],
    ids=["no Slurm", "torchrun", "one task", "batch shell of a job with four tasks"],
)
def test_otherwise_there_is_nothing_to_take_over(environment):
    assert slurm_ranks(environment) == {}


def test_words_of_another_step_are_refused():
    with pytest.raises(InputError, match="SLURM_PROCID: expected a number below SLURM_STEP_NUM_TASKS 4, found 7"):
        slurm_ranks({**TASK, "SLURM_PROCID": "7"})


@pytest.mark.parametrize(
    ("words", "host"),
    [
        ("node1", "node1"),
        ("node[1-2]", "node1"),
        ("gpu[003,7-9]", "gpu003"),
        ("a1,b2", "a1"),
        ("r[1-2]n[3,4],x", "r1n3"),
        ("n-1[02-04]-ib,z", "n-102-ib"),
    ],
)
def test_first_host(words, host):
    assert first_host(words) == host


def test_ports_of_jobs_and_steps_differ_and_stay_in_range():
    ports = {job_port(job, step) for job in range(1000, 1100) for step in range(3)}
    assert len(ports) == 300 and min(ports) >= FIRST_PORT and max(ports) < FIRST_PORT + NUM_PORTS < 32768


def test_tasks_on_node():
    assert [tasks_on_node("2(x2),1", i) for i in range(4)] == [2, 2, 1, 1]
