"""Batches of training items, read by worker processes, which hand them over through pipes."""

import multiprocessing
import multiprocessing.queues
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from vecset.common.errors import InputError
from vecset.items.dataset import CaseDataset


def collate(items: list[dict]) -> dict[str, torch.Tensor]:
    """Items to a batch: every key stacked along a first axis B."""
    return {name: torch.from_numpy(values) for name, values in _stacked(items).items()}


def _stacked(items):
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


class _ReportingDataset(torch.utils.data.Dataset):
    """Hands a case's InputError on as an item: torch would wrap it in a worker's traceback and lose its type."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getitem__(self, key):
        try:
            return self.dataset[key]
        except InputError as error:
            return error


def _first_error(items):
    return next((item for item in items if isinstance(item, InputError)), None)


def _collate_or_error(items):
    return _first_error(items) or collate(items)


class _PackedBatch:
    """A batch as bytes, in which loader processes hand it over through a pipe.

    torch would hand tensors over in shared memory. That needs a large /dev/shm (containers have 64 MB), an open file
    per tensor, and a socket under TMPDIR whose path may have 107 bytes; where one is lacking, a thread of the worker
    fails and training waits for ever. A copy through a pipe needs none of them.
    """

    def __init__(self, items):
        self._bytes = pickle.dumps(_first_error(items) or _stacked(items), protocol=5)

    def pin_memory(self):
        """Called by torch's thread that copies batches into memory which a GPU reads directly."""
        batch = self.unpacked()
        if isinstance(batch, InputError):
            return batch
        return {name: values.pin_memory() for name, values in batch.items()}

    def unpacked(self):
        """The batch as tensors, or the InputError of one of its cases."""
        content = pickle.loads(self._bytes)
        if isinstance(content, InputError):
            return content
        return {name: torch.from_numpy(values) for name, values in content.items()}


def _end_with_its_words(error, what):
    """In place of a queue's own handler, which would print the error and drop the batch that training waits for."""
    traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(1)


def _start_loader(number):
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_with_its_words)


def _cannot_start(num_workers):
    """Why this machine cannot start so many loader processes, or None. Their queues need semaphores (files in /dev/shm)
    and two open files each; they are made here once, because torch leaves half a loader behind where it fails."""
    context, parts = multiprocessing.get_context("fork"), []
    try:
        parts.extend(context.Queue() for _ in range(2 * num_workers + 2))
        parts.append(context.Event())
        spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]  # for the cases that they read
        for descriptor in spare:
            os.close(descriptor)
    except (OSError, ImportError) as error:  # ImportError: Python's word for a system without semaphores
        return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    finally:
        for part in parts:
            if hasattr(part, "close"):
                part.close()
    return None


def iterate_batches(
    dataset: CaseDataset,
    keys: Iterable,
    num_workers: int = 0,
    pin_memory: bool = False,
    tell: Callable = lambda note: None,
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches for `keys`, an iterable of lists of (epoch, index). Workers are forked, so they share the cache that
    `dataset.load` filled. tell(note): called where the machine cannot start them and the cases are read here. Raises a
    case's InputError here, in the training process, and one where a worker has died."""
    items, obstacle = _ReportingDataset(dataset), _cannot_start(num_workers) if num_workers else None
    batches = None
    if num_workers and not obstacle:
        loader = torch.utils.data.DataLoader(
            items,
            batch_sampler=keys,
            collate_fn=_PackedBatch,
            num_workers=num_workers,
            pin_memory=pin_memory,
            worker_init_fn=_start_loader,
            multiprocessing_context="fork",
        )
        before = set(multiprocessing.active_children())
        try:
            batches = iter(loader)
        except OSError as error:  # no more processes for this user, no memory for another
            obstacle = error.strerror or str(error)
            for process in set(multiprocessing.active_children()) - before:
                process.kill()
                process.join()
    if batches is None:
        if obstacle:
            tell(f"--num_workers {num_workers}: loader processes cannot be started ({obstacle}); cases are read here")
        batches = torch.utils.data.DataLoader(
            items, batch_sampler=keys, collate_fn=_collate_or_error, pin_memory=pin_memory
        )
    try:
        for batch in batches:
            batch = batch.unpacked() if isinstance(batch, _PackedBatch) else batch
            if isinstance(batch, InputError):
                raise batch
            yield batch
    except RuntimeError as error:
        death = worker_death(error, num_workers)
        if death is None:  # a defect, which keeps its cause
            raise
        raise death from None


def worker_death(error: RuntimeError, num_workers: int) -> InputError | None:
    """The line for torch's error about a loader process that died, or None where `error` is another one. torch finds
    the death by a signal too, so the error may come from anywhere in training."""
    words = " ".join(str(error).split())
    if not num_workers or not words.startswith("DataLoader worker"):
        return None
    cause = " ".join(str(error.__cause__).split())  # which knows the signal, where torch has heard of it
    words = cause if cause.startswith("DataLoader worker") else words
    return InputError.because(
        f"--num_workers {num_workers}",
        f"a process that reads cases has died ({words[:200].rstrip('. ')})",
        "it may have run out of memory: give fewer --num_workers (0: read in the training process) and run the same "
        "command again",
    )
