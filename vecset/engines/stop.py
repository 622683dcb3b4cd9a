"""Being asked to stop: SIGTERM (schedulers, torchrun), SIGUSR1 (Slurm's early warning) and Ctrl-C set a flag, no more.

The loop looks at the flag after each step, saves, and leaves with EXIT_STOPPED (common/errors.py). Under torchrun the launcher's own exit
code is 1 whatever its workers' is, and SIGUSR1 reaches the workers only where TORCHELASTIC_SIGNALS_TO_HANDLE names it;
`status.json` in the output folder says how the run ended in every case.
"""

import signal

EXIT_NOT_FINITE = 3  # a loss or gradient was not finite

GO_ON, SAVE, TIME_IS_UP, ASKED_TO_STOP = 0, 1, 2, 3  # the largest that a rank says holds for all


class StopRequest:
    """Catches the signals while active (use as a context manager). A second Ctrl-C does not wait."""

    signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self):
        self.asked = False

    def _catch(self, number, frame):
        if number == signal.SIGINT and self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __enter__(self):
        self._before = {s: signal.signal(s, self._catch) for s in self.signals}
        return self

    def __exit__(self, *exc):
        for number, handler in self._before.items():
            signal.signal(number, handler)
