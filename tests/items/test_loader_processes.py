"""Processes that read cases: places where they cannot hand tensors over or cannot start, and processes that die."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers.ball_cases import write_ball_cases
from helpers.prepare_runs import command, make_maps

from vecset.common.errors import InputError
from vecset.items.loader import iterate_batches

READER = """
import resource, sys
import torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from vecset.items.dataset import CaseDataset, PointCounts
from vecset.items.loader import iterate_batches
from vecset.data.listed_case import read_split
if sys.argv[3] != "0":
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[3]),) * 2)
entries = read_split(sys.argv[2] + "/train.csv", sys.argv[2])
dataset = CaseDataset(entries, PointCounts(400, 100, 100, 100), 0, True)
keys = [[(epoch, i) for i in range(len(entries))] for epoch in range(40)]
total = sum(float(b["surface_points"].double().sum()) for b in iterate_batches(dataset, keys, 2, tell=print))
alone = sum(float(b["surface_points"].double().sum()) for b in iterate_batches(dataset, keys))
print("same" if total == alone else f"{total} {alone}")
"""
SLOW = pytest.mark.slow
NEEDS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small /dev/shm")


def small_shm(size):
    return ("unshare", "-m", "bash", "-c", f'mount -t tmpfs -o {size} tmpfs /dev/shm && exec "$@"', "small")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return write_ball_cases(tmp_path_factory.mktemp("cases"), train=4, val=1)


@pytest.mark.parametrize(
    "before, environment, open_files, told",
    [
        ((), {"TMPDIR": "{folder}/" + "/".join(["a_folder_of_a_cluster"] * 6)}, 0, ""),
        pytest.param((), {"TMPDIR": "/no/such/folder"}, 0, "", marks=SLOW),
        pytest.param(small_shm("size=256k"), {}, 0, "", marks=[NEEDS_ROOT, SLOW]),
        pytest.param(small_shm("size=4k,nr_inodes=2"), {}, 0, "cannot be started", marks=[NEEDS_ROOT, SLOW]),
        pytest.param((), {}, 12, "cannot be started (Too many open files); cases are read here", marks=SLOW),
    ],
    ids=["long TMPDIR", "no TMPDIR", "/dev/shm of 256 KB", "/dev/shm full", "few open files"],
)
def test_batches_arrive_wherever_it_runs(repository, cases, tmp_path, before, environment, open_files, told):
    environment = {name: value.format(folder=tmp_path) for name, value in environment.items()}
    if "a_folder" in environment.get("TMPDIR", ""):
        os.makedirs(environment["TMPDIR"])
    words = [*before, sys.executable, "-c", READER, repository, cases, open_files]
    answer = subprocess.run(
        list(map(str, words)),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert lines[-1] == "same" and len(lines) == 1 + bool(told) and told in lines[0]


class Deadly:
    """Cases of which the third ends its process."""

    def __init__(self, end):
        self.end = end

    def __getitem__(self, key):
        if key == 2:
            self.end()
        return {"points": np.ones(200_000) * key}


@pytest.mark.parametrize(
    "end, words",
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "DataLoader worker"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "DataLoader worker"),
        pytest.param(lambda: os._exit(3), "DataLoader worker", marks=SLOW),  # found after five seconds
    ],
    ids=["killed", "segmentation fault", "exit"],
)
def test_a_process_that_dies_ends_the_run_with_its_words(end, words):
    with pytest.raises(InputError) as caught:
        for _ in iterate_batches(Deadly(end), [[key] for key in range(8)], num_workers=2):
            pass
    line = str(caught.value)
    assert line.startswith("--num_workers 2: a process that reads cases has died (") and words in line
    assert "give fewer --num_workers" in line


def test_a_defect_in_a_process_keeps_its_traceback():
    def fail():
        raise KeyError("a defect")

    with pytest.raises(KeyError, match="a defect"):
        for _ in iterate_batches(Deadly(fail), [[key] for key in range(8)], num_workers=1):
            pass


@SLOW
def test_a_batch_that_cannot_be_sent_ends_the_run_too(monkeypatch, capfd):
    """The queue's own thread prints such an error and drops the batch, and training would wait for it for ever."""
    from multiprocessing.reduction import ForkingPickler

    parent, dumps = os.getpid(), ForkingPickler.dumps

    def failing(*arguments):
        if os.getpid() != parent:
            raise MemoryError("no memory for this batch")
        return dumps(*arguments)

    monkeypatch.setattr(ForkingPickler, "dumps", failing)
    with pytest.raises(InputError, match="has died"):
        next(iterate_batches(Deadly(lambda: None), [[0]], num_workers=1))
    assert "no memory for this batch" in capfd.readouterr().err


@SLOW
@NEEDS_ROOT
def test_label_maps_are_prepared_where_no_process_can_be_started(repository, tmp_path):
    source = make_maps(tmp_path / "in", ["a.nii.gz", "b.nii.gz"])
    words = command(repository, source, tmp_path / "out", 2, *small_shm("size=4k,nr_inodes=2"))
    answer = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count("note: processes cannot be started (No space left on device)") == 1
    assert sorted(p.name for p in (tmp_path / "out").glob("*.npz")) == ["a.npz", "b.npz"]
