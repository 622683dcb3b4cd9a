"""Worker processes that end with their parent, whatever ends it. No torch.

A pool's parent that is killed outright cannot end its workers, and a worker that waits for its next task would wait for
ever; so each worker watches its parent. SIGTERM ends the parent as Ctrl-C does: through KeyboardInterrupt.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait

PARENT_GONE = 1  # exit code of a worker whose parent is gone; nobody is left to read it


def start_worker():
    """Starts a pool's worker: the parent hears Ctrl-C and ends its workers; they end with it and use one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked worker has the parent's handler
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True, name="parent watch").start()


def _leave_with(sentinel):
    wait([sentinel])  # ready at once where the parent is gone already
    os._exit(PARENT_GONE)


@contextlib.contextmanager
def sigterm_as_interrupt():
    """While it lasts, SIGTERM raises KeyboardInterrupt in the main thread; elsewhere than there it does nothing."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_pool(pool, at_once):
    """Ends a ProcessPoolExecutor and waits for its processes; `at_once`: without waiting for the tasks in work."""
    processes = list((pool._processes or {}).values())  # listed before shutdown forgets them
    pool.shutdown(wait=False, cancel_futures=True)
    if at_once:
        for process in processes:
            process.terminate()
    for process in processes:
        process.join()


@contextlib.contextmanager
def ending(pool):
    """`with` for a ProcessPoolExecutor: on an error or interrupt its workers are ended at once, not waited for."""
    try:
        yield pool
    except BaseException:
        end_pool(pool, at_once=True)
        raise
    pool.shutdown()
