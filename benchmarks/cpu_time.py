"""A command as a child process, with the CPU seconds that it and its own children use, also while it runs (Linux).

Wall time says little on a machine that does other work besides. CPU time (user and system, over all threads and
processes) is what the command itself was given. A busy machine still changes it by some per cent: caches are shared,
and two virtual cores may be one real one.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vecset.common.cores import THREAD_VARIABLES
from vecset.common.errors import InputError
from vecset.common.signals import ENDING, catch, drop_lost_outputs, put_back

THREADS = 2  # of each command of a comparison: with another number its CPU seconds are others
ENVIRONMENT = {**dict.fromkeys(THREAD_VARIABLES, str(THREADS)), "OMP_WAIT_POLICY": "PASSIVE"}
TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1  # prctl(2): the signal that a process gets when its parent ends


@dataclass(frozen=True)
class Ended:
    """code: exit code, negative for a signal; wall_s, cpu_s: seconds from its start to its end; stopped: whether a
    signal to this process was passed on to it."""

    code: int
    wall_s: float
    cpu_s: float
    stopped: bool


class Child:
    """A running command. Its lines (stdout and stderr) go to the file `log`, and to `on_line(line, child)`.

    A signal to stop that reaches this process is passed on to the child as SIGTERM, once, and the child is waited for.
    Where this process is killed, the child gets SIGTERM."""

    def __init__(self, words: list, log: Path, environment: dict | None = None):
        self.stopped = False
        self._log = open(log, "ab")  # noqa: SIM115, closed in `wait`
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            [str(word) for word in words],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C reaches it through this process alone, once
            preexec_fn=_ends_with_its_parent,
        )

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self._began

    def cpu_s(self) -> float:
        """CPU seconds so far, of the child and of its own children."""
        return tree_cpu_seconds(self._process.pid)

    def ask_to_stop(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)

    def wait(self, on_line: Callable[[str, "Child"], None] = lambda line, child: None) -> Ended:
        """Reads its lines until it ends."""

        def pass_on(number, frame):
            if number == signal.SIGHUP:
                drop_lost_outputs()
            if not self.stopped:
                self.stopped = True
                self.ask_to_stop()

        before = catch((*ENDING, signal.SIGINT), pass_on)
        try:
            with self._log:
                for line in self._process.stdout:
                    self._log.write(line)
                    self._log.flush()
                    on_line(line.decode(errors="replace").rstrip("\n"), self)
            _, status, usage = os.wait4(self._process.pid, 0)
        except BaseException:
            self.ask_to_stop()
            raise
        finally:
            put_back(before)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return Ended(self._process.returncode, self.wall_s, usage.ru_utime + usage.ru_stime, self.stopped)


def run(words: list, log: Path, on_line=lambda line, child: None, well=(0,)) -> Ended:
    """A Python command to its end, its output in `log`. InputError where its exit code is not in `well`."""
    ended = Child([sys.executable, *words], log, ENVIRONMENT).wait(on_line)
    must_end_well(ended, words, log, well)
    return ended


def must_end_well(ended: Ended, words: list, log: Path, well: tuple) -> None:
    """Raises KeyboardInterrupt where this process was asked to stop, InputError where the command failed."""
    if ended.stopped:
        raise KeyboardInterrupt
    if ended.code not in well:
        name = next(Path(str(word)).name for word in words if word != "-m")
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        last = f": {lines[-1][:300]}" if lines else ""
        raise InputError.because(log, f"{name} ended with exit code {ended.code}{last}", "see its last lines")


def tree_cpu_seconds(pid: int) -> float:
    """CPU seconds (user and system) of a process, of its living descendants, and of those of them that have ended and
    were waited for. 0 where the process is gone."""
    parents, seconds = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                # the name, in brackets, may hold spaces and brackets: the numbers begin behind the last one
                numbers = Path("/proc", entry, "stat").read_text(errors="replace").rpartition(")")[2].split()
                parents[int(entry)] = int(numbers[1])
                seconds[int(entry)] = sum(map(int, numbers[11:15])) / TICKS
    family, new = set(), {pid} & set(parents)
    while new:
        family |= new
        new = {child for child, parent in parents.items() if parent in new} - family
    return sum(seconds[member] for member in family)


def _ends_with_its_parent():
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
