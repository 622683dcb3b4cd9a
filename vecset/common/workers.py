"""Worker processes that end with their parent, and a map over files in them. No torch.

A parent that is killed cannot end its workers, and an idle worker would wait for ever; so each worker watches its
parent. SIGTERM and SIGHUP end the parent like Ctrl-C, through KeyboardInterrupt.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor
from concurrent.futures import wait as wait_futures
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait

from vecset.common.cores import THREAD_VARIABLES
from vecset.common.signals import ending_as_interrupt, print_line

PARENT_GONE = 1  # exit code of a worker whose parent has ended


def start_worker() -> None:
    """Initializer of a pool's worker: it ignores Ctrl-C and a closed terminal (the parent ends it), ends with its
    parent and uses one thread."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked worker has the parent's handler
    one_thread()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True, name="parent watch").start()


def one_thread() -> None:
    """One thread per process, unless the user has set another number. To be called before numpy is imported."""
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")


def _leave_with(sentinel):
    wait([sentinel])  # returns at once where the parent has ended already
    os._exit(PARENT_GONE)


def end_pool(pool: ProcessPoolExecutor, at_once: bool) -> None:
    """Ends a pool and waits for its processes; `at_once`: running tasks are stopped."""
    processes = list((pool._processes or {}).values())  # shutdown drops the list
    pool.shutdown(wait=False, cancel_futures=True)
    if at_once:
        for process in processes:
            process.terminate()
    for process in processes:
        process.join()


def map_files(
    work: Callable,
    files: list[Hashable],
    workers: int,
    killed: Callable,
    tell: Callable = lambda file, result: result,
    here_first: bool = False,
    **bar,
) -> dict:
    """{file: tell(file, work(file))} in the order of `files`, with a progress bar.

    workers: processes, 0: this one; killed(file) -> result: for a file whose process died of it (out of memory, say),
    which costs no other file its result; tell(file, result) -> result: called in this process as each result comes;
    here_first: the first file is done in this process before others begin, so that what it compiles is in the cache;
    bar: options of tqdm. `work` is pickled for each file, so what `tell` changes in it reaches the files that begin
    later. An exception of `work` or `tell`, Ctrl-C, SIGTERM and SIGHUP end all processes at once and raise here. Where
    the machine cannot start processes, a line says so and all files are done in this one.
    """
    from tqdm import tqdm

    results = {}
    with ending_as_interrupt(), tqdm(total=len(files), **bar) as progress:

        def done(file, result):
            results[file] = tell(file, result)
            progress.update()

        here = len(files) if workers == 0 else int(here_first)
        for file in files[:here]:
            done(file, work(file))
        try:
            suspects = _map_in_pool(work, files[here:], workers, done)
        except _NoProcesses as reason:
            progress.clear()
            print_line(f"note: processes cannot be started ({reason}): one file after another", sys.stderr)
            suspects = []
            for file in files:
                if file not in results:
                    done(file, work(file))
        for file in suspects:  # alone, so that the one to blame is known
            try:
                died = _map_in_pool(work, [file], 1, done)
            except _NoProcesses:  # not here: it may end this process, too
                died = [file]
            if died:
                done(file, killed(file))
    return {file: results[file] for file in files}


class _NoProcesses(Exception):
    """No process can be started: no semaphores (a container without /dev/shm, or a full one), too many open files or
    processes of this user, no memory for another."""


def _map_in_pool(work, files, workers, done):
    """Calls done(file, work(file)) for `files`. Returns those that were in work each time that a process died. Raises
    _NoProcesses."""
    waiting, suspects = list(files), []
    context = multiprocessing.get_context("spawn")  # a fork of a process with running threads may hang
    while waiting:
        with _starting():
            pool = ProcessPoolExecutor(min(workers, len(waiting)), mp_context=context, initializer=start_worker)
        running = {}
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    with _starting():
                        running[pool.submit(work, waiting[0])] = waiting[0]  # raises BrokenProcessPool, too
                    waiting.pop(0)
                for future in wait_futures(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()  # raises BrokenProcessPool
                    done(running.pop(future), result)
        except BrokenProcessPool:
            suspects += running.values()
        finally:
            end_pool(pool, at_once=bool(running))  # an interrupt must not wait for files in work
    return suspects


@contextlib.contextmanager
def _starting():
    try:
        yield
    except (OSError, ImportError, NotImplementedError) as error:  # the last two: Python without semaphores
        raise _NoProcesses(getattr(error, "strerror", None) or error) from None
