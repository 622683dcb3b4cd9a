"""Ranks that srun started: Slurm's environment in the words of torch (RANK, WORLD_SIZE, MASTER_ADDR, ...).

    srun --ntasks-per-node=4 --kill-on-bad-exit=1 python vecset/main_ae.py ...

Only what srun says of its own step counts (SLURM_STEP_*): a batch shell knows of the job's tasks too (SLURM_NTASKS),
but is one process that must not wait for others. torchrun's words, where they are there, come first.
"""

import os
import re

from vecset.common.errors import InputError

FIRST_PORT, NUM_PORTS = 12000, 20000  # below the ports that Linux hands out by itself (32768 and more)


def first_host(node_list):
    """'node[03-07,9],gpu1' -> 'node03', as the first line of `scontrol show hostnames` has it. Containers often lack
    scontrol, so the list is read here."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", node_list)[0]
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first)


def job_port(job_id, step_id=0):
    """A port of this job and step: jobs that follow each other do not share one."""
    return FIRST_PORT + (int(job_id) + 7919 * int(step_id)) % NUM_PORTS


def slurm_ranks(environment):
    """{RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT} of a task in a srun step of several
    tasks; {} where torchrun has said who this is, where there is one task, or no srun. MASTER_ADDR and MASTER_PORT in
    the environment are kept. Raises InputError where Slurm's words contradict each other."""
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return {}
    size = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    if size < 2 or "SLURM_PROCID" not in environment:
        return {}
    rank, local = int(environment["SLURM_PROCID"]), int(environment.get("SLURM_LOCALID", 0))
    if rank >= size:
        raise InputError(
            "SLURM_PROCID",
            f"a number below SLURM_STEP_NUM_TASKS {size}",
            rank,
            "start the tasks with srun itself, from a shell that is not part of another step",
        )
    here = int(environment.get("SLURM_NODEID", 0))
    address = "127.0.0.1"  # a step on one node needs no names
    if int(environment.get("SLURM_STEP_NUM_NODES", environment.get("SLURM_NNODES", 1))) > 1:
        address = first_host(environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"])
    port = job_port(environment.get("SLURM_JOB_ID", 0), environment.get("SLURM_STEP_ID", 0))
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(local),
        "LOCAL_WORLD_SIZE": str(tasks_on_node(environment.get("SLURM_STEP_TASKS_PER_NODE", "1"), here)),
        "MASTER_ADDR": environment.get("MASTER_ADDR", address),
        "MASTER_PORT": environment.get("MASTER_PORT", str(port)),
    }


def tasks_on_node(words, node):
    """'2(x3),1' and the node's number in the step -> tasks there."""
    counts = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", words):
        counts += [int(count)] * int(times or 1)
    return counts[node] if node < len(counts) else 1


def take_over_slurm():
    """Puts srun's ranks, where this is one, into this process's environment."""
    os.environ.update(slurm_ranks(os.environ))
