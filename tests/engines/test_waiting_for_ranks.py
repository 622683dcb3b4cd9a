"""A shell that still has the variables of several processes: told in seconds, with words that end it."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.processes import rank_environment
from helpers.processes import start as start_program

from vecset.common.errors import EXIT_BAD_INPUT, InputError
from vecset.engines.distributed import environment_rank, start_ranks

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
STEP = {  # as `srun --ntasks=4 --pty bash` leaves it in the shell
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4",
    "SLURM_STEP_NODELIST": "localhost",
}


@pytest.fixture
def shell(monkeypatch):
    """Sets the variables of a shell, and takes away what this one has of a launcher's."""
    monkeypatch.setattr("vecset.engines.distributed._from_slurm", False)
    for name in [*NAMES, *(name for name in os.environ if name.startswith("SLURM_"))]:
        monkeypatch.setenv(name, "")  # so that it is put back, also where the code under test sets it
        monkeypatch.delenv(name)

    def set_variables(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return set_variables


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def two(**more):
    return {"WORLD_SIZE": 2, "RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), **more}


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE: expected a whole number .* found 'abc'; unset WORLD_SIZE"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE: expected at least 1"),
        ({"WORLD_SIZE": "2"}, "does not set RANK and MASTER_ADDR and MASTER_PORT; .*: unset WORLD_SIZE"),
        (two(RANK="x"), "RANK: expected a whole number"),
        (two(RANK=2), "RANK: expected a number below WORLD_SIZE 2, found 2; unset RANK WORLD_SIZE MASTER_ADDR"),
        (two(MASTER_PORT=99999), "MASTER_PORT: expected a port"),
        (two(MASTER_ADDR="no.such.host.invalid"), "MASTER_ADDR no.such.host.invalid: no machine of this name"),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "4(x2)"}, "SLURM_STEP_NUM_TASKS: expected a whole number"),
        ({**STEP, "SLURM_PROCID": "7"}, "SLURM_PROCID: expected a number below SLURM_STEP_NUM_TASKS 4, found 7"),
    ],
)
def test_variables_that_contradict_each_other_are_one_line(shell, variables, message):
    shell(**variables)
    with pytest.raises(InputError, match=message):
        start_ranks("cpu")


@pytest.mark.parametrize(
    "variables, who, others, asks, alone",
    [
        (
            two(LOCAL_RANK=0),
            "rank 0 of 2",
            "the others",
            "WORLD_SIZE 2",
            "unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR",
        ),
        (two(RANK=1), "rank 1 of 2", "rank 0", "WORLD_SIZE 2", "unset RANK WORLD_SIZE MASTER_ADDR MASTER_PORT"),
        (
            {**STEP, "MASTER_PORT": free_port()},
            "rank 0 of 4",
            "the others",
            "SLURM_STEP_NUM_TASKS 4",
            "unset SLURM_STEP_NUM_TASKS",
        ),
    ],
    ids=["WORLD_SIZE", "rank 1", "Slurm"],
)
def test_waiting_is_said_and_ends_with_the_remedy(shell, monkeypatch, capsys, variables, who, others, asks, alone):
    monkeypatch.setattr("vecset.engines.distributed.SAY_AFTER_S", 0)
    shell(**variables)
    with pytest.raises(InputError) as caught:
        start_ranks("cpu", wait_minutes=0.03)
    address = f"127.0.0.1:{variables['MASTER_PORT']}"
    assert f"{who} waits for {others} at {address}, for 0.03 minutes at most\n" in capsys.readouterr().out
    line = str(caught.value)
    assert line.startswith(f"{who} at {address}: ") and f"{asks} in this shell asks for them" in line
    assert f"this one alone: {alone}" in line
    for name in re.search(r"alone: unset (.+)$", line)[1].split():
        monkeypatch.delenv(name)
    for name in NAMES:  # a new process would not have what this one took over from Slurm
        if name not in variables:
            monkeypatch.delenv(name, raising=False)
    assert start_ranks("cpu").size == 1, "the advice is right"


def test_a_port_that_another_program_uses_is_named(shell):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        shell(**two(MASTER_PORT=taken.getsockname()[1]))
        with pytest.raises(InputError, match=r"MASTER_PORT \d+: another program uses this port; set another one"):
            start_ranks("cpu", wait_minutes=0.1)


def test_a_rank_alone_is_no_rank_and_keeps_its_words(shell):
    """Otherwise rank 3 would leave the telling of errors to a rank 0 that is not there."""
    shell(RANK=3)
    assert environment_rank() == 0 and start_ranks("cpu").size == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_waiting_can_be_stopped(repository, tmp_path, name):
    data = write_ball_cases(tmp_path / "cases", train=2, val=1)
    words = [sys.executable, repository / "vecset" / "main_ae.py", *tiny_arguments(data, tmp_path / "out")]
    environment = {**rank_environment(), **{k: str(v) for k, v in two().items()}}
    with start_program(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline().startswith("rank 0 of 2 waits for the others at 127.0.0.1:")
        process.send_signal(getattr(signal, name))
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and told.startswith("stopped; ") and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_rank_1_without_a_rank_0_says_why_it_ends(repository, tmp_path):
    data = write_ball_cases(tmp_path / "cases", train=2, val=1)
    more = ("--wait_for_ranks", 0.05)
    words = [sys.executable, repository / "vecset" / "main_ae.py", *tiny_arguments(data, tmp_path / "out", *more)]
    environment = {**rank_environment(), **{k: str(v) for k, v in two(RANK=1).items()}}
    answer = subprocess.run(
        list(map(str, words)), env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert answer.returncode == EXIT_BAD_INPUT and answer.stderr.count("\n") == 1
    assert answer.stderr.startswith("error: rank 1 of 2 at 127.0.0.1:")
