"""The standard streams of a command that is started without some of them, or without a terminal."""

import os
import sys

LOG_INTERVAL_S = 10  # between two states of a progress bar in a file


def standard_streams() -> None:
    """Makes stdin, stdout and stderr usable. To be called before a command begins.

    A stream that the parent has closed (`>&-`, some daemons) gets the null device: without it, the next file that is
    opened takes its number, and what libraries print would be written into that file. A progress bar that no terminal
    shows is written at most every LOG_INTERVAL_S seconds, so that it does not fill a log.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115, for good
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", str(LOG_INTERVAL_S))
