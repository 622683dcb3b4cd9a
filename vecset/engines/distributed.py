"""One process or many: who this one is, and the few words that processes have to exchange.

Started by torchrun the ranks find each other by its environment, started by srun by Slurm's (slurm_ranks.py); without
either there is one rank and nothing is set up.
"""

import contextlib
import inspect
import os
import time
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from vecset.common.errors import EXIT_BAD_INPUT, InputError
from vecset.engines.slurm_ranks import take_over_slurm

_TIMEOUT = timedelta(minutes=30)  # a rank may wait this long for another: rank 0 writes checkpoints alone


@dataclass(frozen=True)
class Ranks:
    """rank of this process, number of ranks, the device it computes on, and a group for words between hosts (gloo,
    beside the NCCL group of the gradients, so that they never wait for a GPU)."""

    rank: int
    size: int
    device: torch.device
    host_group: object = None

    @property
    def main(self):
        return self.rank == 0


def environment_rank():
    """This process's rank by torchrun's or Slurm's environment, before anything is set up."""
    take_over_slurm()
    return int(os.environ.get("RANK", 0))


def start_ranks(device="auto"):
    """Sets up the process group that torchrun's or Slurm's environment describes and chooses the device: `auto` (CUDA
    where there is one), `cpu`, `cuda` or `cuda:N`. gloo on CPU, NCCL on GPU."""
    take_over_slurm()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.split(":")[0] not in ("cpu", "cuda"):
        raise InputError("--device", "auto, cpu, cuda or cuda:N", device)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            "--device", "a CUDA device that torch can use", "none", "use --device cpu, or repair the driver"
        )
    size = int(os.environ.get("WORLD_SIZE", 1))
    if device == "cuda":
        local = int(os.environ.get("LOCAL_RANK", 0))
        if "SLURM_GPUS_PER_TASK" in os.environ and torch.cuda.device_count() == 1:
            local = 0  # Slurm shows each task its own GPU alone
        if local >= torch.cuda.device_count():
            raise InputError(
                "processes per node (--nproc_per_node, --ntasks-per-node)",
                f"at most one process per GPU ({torch.cuda.device_count()} here)",
                f"process {local + 1} on this machine",
                "start fewer",
            )
        device = f"cuda:{local}"
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        return Ranks(0, 1, device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    host_group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    return Ranks(dist.get_rank(), size, device, host_group)


@contextlib.contextmanager
def told_once(rank):
    """For work that every rank does alike: its InputError is told by rank 0 alone. The others give it the time to, and
    leave with the same exit code."""
    try:
        yield
    except InputError:
        if not rank:
            raise
        time.sleep(3)
        raise SystemExit(EXIT_BAD_INPUT) from None


def lost_contact(error):
    """Whether a RuntimeError says no more than that another process has gone: its cause is the other one's."""
    words = str(error)
    return dist.is_initialized() and (
        isinstance(error, dist.DistBackendError)
        or any(part in words for part in ("Connection closed by peer", "Connection reset by peer", "Broken pipe"))
    )


def stop_ranks(ranks):
    if ranks.size > 1 and dist.is_initialized():
        dist.destroy_process_group()


def wrap_model(model, ranks, compress="none"):
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
            raise InputError(
                "--compress_gradients",
                f"bfloat16 sums by {dist.get_backend()}",
                str(error).split("\n")[0],
                "leave it out, or use a newer torch",
            ) from None
        wrapped.register_comm_hook(None, _bf16_hook)
    return wrapped


def _bf16_hook(state, bucket):
    """torch's own hook; under its own name DDP refuses it on gloo, which can sum bfloat16 in newer versions."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

    return bf16_compress_hook(state, bucket)


def sum_over_ranks(tensor, ranks):
    """Adds `tensor` up over ranks, in place, on the device; returns it."""
    if ranks.size > 1:
        dist.all_reduce(tensor)
    return tensor


def max_over_ranks(tensor, ranks):
    if ranks.size > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def wait_for_all(ranks):
    """No rank goes on before all are here."""
    if ranks.size > 1:
        dist.barrier(group=ranks.host_group)


def gather_objects(value, ranks):
    """[value of rank 0, of rank 1, ...] on every rank; for rare events, not for steps."""
    if ranks.size == 1:
        return [value]
    values = [None] * ranks.size
    dist.all_gather_object(values, value, group=ranks.host_group)
    return values


class Agreement:
    """A number on which all ranks agree once per step, without waiting for each other: every rank says its own, and at
    its next step learns the largest that was said in the step before. So all act in the same step, one step late."""

    def __init__(self, ranks):
        self.ranks, self._work, self._word = ranks, None, None

    def say(self, number):
        """Says this step's number; returns what the ranks agreed on in the step before (one rank: this step's)."""
        if self.ranks.size == 1:
            return number
        agreed = self.finish()
        self._word = torch.tensor([number], dtype=torch.int64)
        self._work = dist.all_reduce(self._word, op=dist.ReduceOp.MAX, group=self.ranks.host_group, async_op=True)
        return agreed

    def finish(self):
        """Waits for the step before; returns its number (0 where there was none)."""
        if self._work is None:
            return 0
        self._work.wait()
        self._work = None
        return int(self._word)
