"""Signals that ask a program to end, and a terminal that goes away. Standard library only.

SIGTERM (schedulers, `kill`) and SIGHUP (the terminal or the ssh session is closed) end a command as Ctrl-C does. A
signal that is ignored when the program starts stays ignored: that is how `nohup` works.
"""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterable, Iterator

ENDING = (signal.SIGTERM, signal.SIGHUP)
_LOST = select.POLLERR | select.POLLHUP | select.POLLNVAL


def catch(numbers: Iterable[int], handler: Callable, always: Iterable[int] = ()) -> dict:
    """Sets `handler` for the signals `numbers`, but not for those that are ignored, unless they are in `always`.
    -> {number: what was set before}, for `put_back`. In other threads than the main one nothing is set."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    heard = [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN or n in always]
    return {number: signal.signal(number, handler) for number in heard}


def put_back(before: dict) -> None:
    """Undoes `catch`."""
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def ending_as_interrupt() -> Iterator[None]:
    """Context in which the first SIGTERM or SIGHUP raises KeyboardInterrupt. Later ones do not disturb what is being
    put in order; Ctrl-C does. Inside such a context another one changes nothing."""
    if any(getattr(signal.getsignal(number), "ends_once", False) for number in ENDING):
        yield
        return
    asked = False

    def interrupt(number, frame):
        nonlocal asked
        if number == signal.SIGHUP:
            drop_lost_outputs()
        if not asked:
            asked = True
            raise KeyboardInterrupt

    interrupt.ends_once = True
    before = catch(ENDING, interrupt)
    try:
        yield
    finally:
        put_back(before)


def drop_lost_outputs() -> None:
    """Lets stdout and stderr lead nowhere where nobody can read them any more (a closed terminal, a pipe whose reader
    has ended). Otherwise the next line that is printed would end the program."""
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    for descriptor, state in poll.poll(0):
        if state & _LOST:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            if nowhere != descriptor:
                os.close(nowhere)


def print_line(text: str, file=None) -> None:
    """One line on stdout (or `file`), at once. Where nobody can read it any more it is dropped, like later ones."""
    try:
        print(text, file=file, flush=True)
    except OSError:
        drop_lost_outputs()
        with contextlib.suppress(OSError):
            print(text, file=file, flush=True)  # a disk that is full keeps failing: a line on it stops no long work
