"""When to save and when to stop: signals, limits of time and steps, and how ranks agree on them.

SIGTERM (schedulers, torchrun), SIGUSR1 (Slurm's early warning), SIGHUP (the terminal is closed) and Ctrl-C set a flag,
no more. The loop looks at the flag after each step, saves, and leaves with EXIT_STOPPED (common/errors.py). A signal
that is ignored at the start (nohup) stays ignored. Under torchrun the launcher's own exit code is 1 whatever its
workers' is; SIGUSR1 reaches the workers only where the launcher is told to pass it on; and SIGHUP reaches them in spite
of nohup, because torchrun sets its own handler for it. `status.json` in the output folder says how the run ended in
every case.
"""

import os
import signal
import time
from enum import IntEnum

import torch
import torch.distributed as dist

from vecset.common.signals import catch, drop_lost_outputs, put_back
from vecset.engines.distributed import Ranks

EXIT_NOT_FINITE = 3  # a loss or gradient was not finite


class StopRequest:
    """Catches the signals while active (use as a context manager). A second Ctrl-C does not wait."""

    signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)

    def __init__(self):
        self.asked = False

    def _catch(self, number, frame):
        if number == signal.SIGHUP:
            drop_lost_outputs()
        if number == signal.SIGINT and self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __enter__(self):
        # run_phase1_sbatch.sh starts torchrun with SIGUSR1 ignored, which its workers inherit: they must hear it
        of_torchrun = (signal.SIGUSR1,) if "TORCHELASTIC_RUN_ID" in os.environ else ()
        self._before = catch(self.signals, self._catch, always=of_torchrun)
        return self

    def __exit__(self, *exc):
        put_back(self._before)


class Decision(IntEnum):
    """What to do after a step. The largest that any rank wants holds for all."""

    GO_ON = 0
    SAVE = 1
    TIME_IS_UP = 2
    ASKED_TO_STOP = 3


class Agreement:
    """A number on which all ranks agree once per step, without waiting for each other: every rank says its own, and at
    its next step learns the largest that was said in the step before. So all act in the same step, one step late."""

    def __init__(self, ranks: Ranks):
        self.ranks, self._work, self._said = ranks, None, None

    def say(self, number: int) -> int:
        """Says this step's number; returns what the ranks agreed on in the step before (one rank: this step's)."""
        if self.ranks.size == 1:
            return int(number)
        agreed = self.finish()
        self._said = torch.tensor([number], dtype=torch.int64)
        self._work = dist.all_reduce(self._said, op=dist.ReduceOp.MAX, group=self.ranks.host_group, async_op=True)
        return agreed

    def finish(self) -> int:
        """Waits for the step before; returns its number (0 where there was none)."""
        if self._work is None:
            return 0
        self._work.wait()
        self._work = None
        return int(self._said)


class Limits:
    """Decides after every step, on all ranks alike, whether to go on, to save or to stop."""

    def __init__(self, ranks: Ranks, stop: StopRequest, save_every_minutes: float, max_minutes=None, max_steps=None):
        self.ranks, self.stop = ranks, stop
        self.save_every_minutes, self.max_minutes, self.max_steps = save_every_minutes, max_minutes, max_steps
        self._agreement, self._began, self._save_is_due = Agreement(ranks), time.monotonic(), False

    def after_step(self, global_step: int, seconds_since_save: float) -> Decision:
        agreed = Decision(self._agreement.say(self._wish(seconds_since_save)))
        if agreed > Decision.SAVE:
            return agreed
        if self.max_steps and global_step >= self.max_steps:
            return Decision.TIME_IS_UP
        if agreed == Decision.SAVE:
            self._save_is_due = False
        return agreed

    def _wish(self, seconds_since_save):
        # rank 0's clock decides about saving: all ranks take part in it where the optimizer is sharded
        due = self.ranks.main and not self._save_is_due and seconds_since_save >= 60 * self.save_every_minutes
        self._save_is_due |= due
        if self.stop.asked:
            return Decision.ASKED_TO_STOP
        if self.max_minutes and (time.monotonic() - self._began) / 60 >= self.max_minutes:
            return Decision.TIME_IS_UP
        return Decision.SAVE if due else Decision.GO_ON

    def finish(self) -> None:
        """Waits for the last agreement, which nobody will act on."""
        self._agreement.finish()
