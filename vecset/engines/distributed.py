"""Ranks: which process this is, how processes are started and stopped, and the few values that they exchange.

Ranks that torchrun started find each other by its environment, those that srun started by Slurm's; without either there
is one rank and nothing is set up.

    srun --ntasks-per-node=4 --kill-on-bad-exit=1 python vecset/main_ae.py ...

Of Slurm's variables only those that srun sets for its own step count (SLURM_STEP_*): a batch shell knows of the job's
tasks too (SLURM_NTASKS), but is one process that must not wait for others. torchrun's variables come first.
"""

import contextlib
import inspect
import os
import re
import socket
import threading
import time
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from vecset.common.errors import EXIT_BAD_INPUT, InputError
from vecset.common.signals import print_line
from vecset.engines.arguments import WAIT_MINUTES

FIRST_PORT, NUM_PORTS = 12000, 20000  # below the ports that Linux hands out by itself (32768 and more)
_TIMEOUT = timedelta(minutes=30)  # a rank may wait this long for another: rank 0 writes checkpoints alone
SAY_AFTER_S = 5  # of waiting at the start
OF_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class RankError(InputError):
    """An error about one rank alone, which says it itself, whichever it is."""


@dataclass(frozen=True)
class Ranks:
    """rank of this process, number of ranks, the device it computes on, and a group for messages between hosts
    (gloo, beside the NCCL group of the gradients, so that they never wait for a GPU)."""

    rank: int
    size: int
    device: torch.device
    host_group: object = None

    @property
    def main(self) -> bool:
        return self.rank == 0


def environment_rank() -> int:
    """This process's rank by torchrun's or Slurm's environment, before anything is set up; 0 where that is alone."""
    take_over_slurm()
    return _number("RANK", 0) if _number("WORLD_SIZE", 1) > 1 else 0


def start_ranks(device: str = "auto", wait_minutes: float = WAIT_MINUTES) -> Ranks:
    """Sets up the process group that torchrun's or Slurm's environment describes and chooses the device: `auto` (CUDA
    where there is one), `cpu`, `cuda` or `cuda:N`. gloo on CPU, NCCL on GPU. Waits `wait_minutes` for the other
    processes, and says so. Raises InputError where the environment contradicts itself or they do not come."""
    take_over_slurm()
    size = _checked_size()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.split(":")[0] not in ("cpu", "cuda"):
        raise InputError("--device", "auto, cpu, cuda or cuda:N", device)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError.because("--device", "PyTorch finds no CUDA device", "use --device cpu, or repair the driver")
    if device == "cuda":
        local = _number("LOCAL_RANK", 0)
        if "SLURM_GPUS_PER_TASK" in os.environ and torch.cuda.device_count() == 1:
            local = 0  # Slurm shows each task its own GPU alone
        if local >= torch.cuda.device_count():
            raise RankError(
                "processes per node (--nproc_per_node, --ntasks-per-node)",
                f"at most one process per GPU ({torch.cuda.device_count()} here)",
                f"process {local + 1} on this machine (LOCAL_RANK {local})",
                f"start fewer, or, where this should be a process of its own: {_alone()}",
            )
        device = f"cuda:{local}"
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        return Ranks(0, 1, device)
    store, rank = _meet(size, wait_minutes)
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=size, timeout=_TIMEOUT
        )
        host_group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    except RuntimeError as error:
        raise RankError.because(
            f"rank {rank} of {size}",
            f"the processes cannot reach each other ({_first_line(error)})",
            "name the network interface in GLOO_SOCKET_IFNAME (NCCL_SOCKET_IFNAME for GPUs), and see the other ranks' "
            "own messages",
        ) from None
    return Ranks(rank, size, device, host_group)


# --- waiting for the other processes


def _meet(size, wait_minutes):
    """(store that all ranks share, own rank). The waiting is done in a thread of its own, so that Ctrl-C and SIGTERM
    end this process meanwhile."""
    rank, address = _number("RANK", 0), f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    who, found = f"rank {rank} of {size}", {}

    def meet():
        try:
            if rank:
                _reach_rank_0(time.monotonic() + 60 * wait_minutes)
            found["store"], *_ = next(dist.rendezvous("env://", timeout=timedelta(minutes=wait_minutes)))
        except Exception as error:  # each is raised or told below
            found["error"] = error

    say_after = SAY_AFTER_S if rank == 0 or _number("LOCAL_RANK", 0) == 0 else 12 * SAY_AFTER_S  # one line per machine
    began, said = time.monotonic(), False
    thread = threading.Thread(target=meet, daemon=True, name="meeting the other ranks")
    thread.start()
    while thread.is_alive() and time.monotonic() - began < 60 * wait_minutes + 5:
        thread.join(0.2)
        if thread.is_alive() and not said and time.monotonic() - began > say_after:
            said = True
            others = "rank 0" if rank else "the others"
            print_line(f"{who} waits for {others} at {address}, for {wait_minutes:g} minutes at most")
    if "store" in found:
        found["store"].set_timeout(_TIMEOUT)
        return dist.PrefixStore("default_pg", found["store"]), rank
    error = found.get("error")
    words = str(error)
    if isinstance(error, RuntimeError) and ("EADDRINUSE" in words or "address already in use" in words.lower()):
        raise RankError.because(
            f"MASTER_PORT {os.environ['MASTER_PORT']}",
            "another program uses this port",
            f"set another one (torchrun: --master_port, or --standalone); for a process of its own: {_alone()}",
        )
    if error is not None and not isinstance(error, (RuntimeError, ValueError, OSError)):
        raise error
    reason = f" ({_first_line(error)})" if error is not None and time.monotonic() - began < 55 * wait_minutes else ""
    others = "rank 0 was not there" if rank else "the others did not come"
    raise RankError.because(
        f"{who} at {address}",
        f"{others} within {wait_minutes:g} minutes (--wait_for_ranks){reason}; {_who_says_so()}",
        f"start all {size} with torchrun or srun, or this one alone: {_alone()}",
    )


def _reach_rank_0(deadline):
    """Returns once something listens there. torch's own client writes pages of addresses while it tries. Raises OSError
    after `deadline`."""
    while True:
        try:
            socket.create_connection((os.environ["MASTER_ADDR"], _number("MASTER_PORT", 0)), timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def _first_line(error):
    return " ".join(str(error).split("\n")[0].split())[:160]


def _number(name, default):
    """A variable of the launcher as a whole number that is not negative."""
    text = os.environ.get(name)
    if text is None:
        return default
    if not (text.strip().isascii() and text.strip().isdigit()):
        raise RankError(name, "a whole number in this variable of the environment", repr(text), _alone())
    return int(text)


def _checked_size():
    """Number of ranks, after a check of what the environment says about this one."""
    size = _number("WORLD_SIZE", 1)
    if size < 1:
        raise RankError("WORLD_SIZE", "at least 1", size, _alone())
    if size == 1:
        return size
    lacking = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if lacking:
        raise RankError.because(
            f"WORLD_SIZE {size}",
            f"the environment asks for {size} processes and does not set {' and '.join(lacking)}",
            f"start them with torchrun or srun, or this one alone: {_alone()}",
        )
    rank, port = _number("RANK", 0), _number("MASTER_PORT", 0)
    if rank >= size:
        raise RankError("RANK", f"a number below WORLD_SIZE {size}", rank, _alone())
    if not 0 < port < 65536:
        raise RankError("MASTER_PORT", "a port from 1 to 65535", port, _alone())
    error = _unknown(os.environ["MASTER_ADDR"], port)
    if error is not None:
        raise RankError.because(
            f"MASTER_ADDR {os.environ['MASTER_ADDR']}",
            f"no machine of this name is known here ({getattr(error, 'strerror', None) or error})",
            f"give a name or address that `getent hosts` knows, or start this process alone: {_alone()}",
        )
    return size


def _unknown(address, port):
    """The error of looking up a machine's name, or None. A name server that is busy is asked again."""
    for pause in (2, 5, None):
        try:
            socket.getaddrinfo(address, port)
            return None
        except (OSError, UnicodeError) as error:
            if pause is None or getattr(error, "errno", None) != socket.EAI_AGAIN:
                return error
        time.sleep(pause)


def _who_says_so():
    source = "SLURM_STEP_NUM_TASKS" if _from_slurm else "WORLD_SIZE"
    return f"{source} {os.environ.get(source)} in this shell asks for them"


def _alone():
    """The words that start one process in a shell that still has the variables of several."""
    names = SLURM_STEP if _from_slurm else [name for name in OF_LAUNCHER if name in os.environ]
    return f"unset {' '.join(names)}"


@contextlib.contextmanager
def told_once(rank: int):
    """For work that every rank does alike: an InputError is printed by rank 0 alone. The other ranks wait a moment and
    leave with the same exit code."""
    try:
        yield
    except InputError as error:
        if not rank or isinstance(error, RankError):
            raise
        time.sleep(3)
        raise SystemExit(EXIT_BAD_INPUT) from None


def lost_contact(error: RuntimeError) -> bool:
    """Whether a RuntimeError says only that another process has gone, so that its cause lies there."""
    message = str(error)
    return dist.is_initialized() and (
        isinstance(error, dist.DistBackendError)
        or any(part in message for part in ("Connection closed by peer", "Connection reset by peer", "Broken pipe"))
    )


def stop_ranks(ranks: Ranks) -> None:
    if ranks.size > 1 and dist.is_initialized():
        dist.destroy_process_group()


def wrap_model(model: torch.nn.Module, ranks: Ranks, compress: str = "none") -> torch.nn.Module:
    """The model for training: as it is for one rank, else in DDP, whose gradients are means over ranks. compress:
    "bf16" sends them in bfloat16, half the bytes."""
    if ranks.size == 1:
        return model
    ddp = torch.nn.parallel.DistributedDataParallel
    # the buffers are constants: no need to send them round in every pass (the option has two names over the versions)
    names = inspect.signature(ddp.__init__).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    wrapped = ddp(model, device_ids=[ranks.device] if ranks.device.type == "cuda" else None, **{buffers: False})
    if compress == "bf16":
        try:
            dist.all_reduce(torch.ones(1, dtype=torch.bfloat16, device=ranks.device))
        except RuntimeError as error:
            raise InputError.because(
                "--compress_gradients",
                f"{dist.get_backend()} cannot sum bfloat16 ({str(error).splitlines()[0]})",
                "leave it out, or use a newer torch",
            ) from None
        wrapped.register_comm_hook(None, _bf16_hook)
    return wrapped


def _bf16_hook(state, bucket):
    """torch's own hook; under its own name DDP refuses it on gloo, which can sum bfloat16 in newer versions."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

    return bf16_compress_hook(state, bucket)


def sum_over_ranks(tensor: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """Adds `tensor` up over ranks, in place, on the device; returns it."""
    if ranks.size > 1:
        dist.all_reduce(tensor)
    return tensor


def max_over_ranks(tensor: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """The largest over ranks, in place, on the device; returns it."""
    if ranks.size > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def wait_for_all(ranks: Ranks) -> None:
    """No rank goes on before all are here."""
    if ranks.size > 1:
        dist.barrier(group=ranks.host_group)


def gather_objects(value: object, ranks: Ranks) -> list:
    """[value of rank 0, of rank 1, ...] on every rank; for rare events, not for steps."""
    if ranks.size == 1:
        return [value]
    values = [None] * ranks.size
    dist.all_gather_object(values, value, group=ranks.host_group)
    return values


# --- Slurm

SLURM_STEP = ("SLURM_STEP_NUM_TASKS",)  # without it, a process takes nothing over from Slurm
_from_slurm = False  # whether the launcher's variables are those that `take_over_slurm` set


def first_host(node_list: str) -> str:
    """'node[03-07,9],gpu1' -> 'node03', as the first line of `scontrol show hostnames` has it. Containers often lack
    scontrol, so the list is read here."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", node_list)[0]
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first)


def job_port(job_id: str | int, step_id: str | int = 0) -> int:
    """A port of this job and step: jobs that follow each other do not share one."""
    return FIRST_PORT + (int(job_id) + 7919 * int(step_id)) % NUM_PORTS


def slurm_ranks(environment: dict) -> dict[str, str]:
    """{RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT} of a task in a srun step of several
    tasks; {} where torchrun has set the rank, where there is one task, or no srun. MASTER_ADDR and MASTER_PORT in
    the environment are kept. Raises InputError where Slurm's variables contradict each other."""
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return {}
    numbers = {}
    for name in ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"):
        try:
            numbers[name] = int(environment.get(name, 0))
        except ValueError:
            to_do = "unset SLURM_STEP_NUM_TASKS, or start the tasks with srun itself"
            raise RankError(name, "a whole number in this variable", repr(environment[name]), to_do) from None
    size, rank, local = numbers.values()
    if size < 2 or "SLURM_PROCID" not in environment:
        return {}
    if rank >= size:
        raise RankError(
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


def tasks_on_node(counts_text: str, node: int) -> int:
    """'2(x3),1' and the node's number in the step -> tasks there."""
    counts = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts_text):
        counts += [int(count)] * int(times or 1)
    return counts[node] if node < len(counts) else 1


def take_over_slurm() -> None:
    """Sets torch's variables from srun's in this process's environment; without srun it does nothing."""
    global _from_slurm
    found = slurm_ranks(os.environ)
    _from_slurm = _from_slurm or bool(found)
    os.environ.update(found)
