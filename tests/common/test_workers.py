"""Workers end with their parent, whatever ends it and however they were started; SIGTERM acts like Ctrl-C."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.prepare_runs import children, command, make_maps
from helpers.processes import start as start_program

from vecset.common.workers import map_files

HOLDER = """
import os, sys, time
sys.path.insert(0, {root!r})
from vecset.common.errors import run_command
from vecset.common.workers import map_files

def work(number):
    os.write(1, b"%d\\n" % os.getpid())  # whole lines: print may write the number and its end apart
    time.sleep(100)

def main(argv):
    map_files(work, [1, 2, 3, 4], 2, killed=str)

if __name__ == "__main__":
    sys.exit(run_command(main))
"""


def where_made(number):
    if number == 7:
        raise ValueError("a defect")
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def test_files_are_mapped_in_order_the_first_one_here_on_request():
    told = []

    def tell(number, result):
        told.append(number)
        return str(result)

    found = map_files(where_made, [3, 1, 2], 0, killed=str, tell=tell, disable=True)
    assert list(found.items()) == [(n, str(os.getpid())) for n in (3, 1, 2)] and told == [3, 1, 2]
    found = map_files(where_made, [3, 1, 2], 1, killed=str, tell=tell, here_first=True, disable=True)
    assert list(found) == [3, 1, 2] and found[3] == str(os.getpid()) != found[1] == found[2]
    assert map_files(where_made, [], 2, killed=str, disable=True) == {}


def test_a_file_that_kills_its_process_costs_no_other_its_result():
    found = map_files(where_made, [1, 5, 2, 3], 2, killed=lambda number: f"{number} was killed", disable=True)
    assert list(found) == [1, 5, 2, 3] and found.pop(5) == "5 was killed"
    assert all(isinstance(pid, int) and pid != os.getpid() for pid in found.values())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_defect_ends_the_processes_and_is_raised(workers):
    with pytest.raises(ValueError, match="a defect"):
        map_files(where_made, [1, 7, 2], workers, killed=str, disable=True)
    assert all_gone(children(os.getpid()))


def gone(pid):
    """Whether the process has ended; one that nobody has waited for yet has."""
    try:
        with open(f"/proc/{pid}/stat") as handle:
            return handle.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def all_gone(pids, seconds=20):
    deadline = time.time() + seconds
    while time.time() < deadline and not all(map(gone, pids)):
        time.sleep(0.01)
    return all(map(gone, pids))


@pytest.mark.parametrize(
    "number, code",
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 130), (signal.SIGINT, 130), (signal.SIGHUP, 130)],
)
def test_workers_end_with_their_parent(repository, tmp_path, number, code):
    script = tmp_path / "holder.py"
    script.write_text(HOLDER.format(root=str(repository)))
    with start_program([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        workers = [int(process.stdout.readline()) for _ in range(2)]
        os.kill(process.pid, number)
        assert process.wait(timeout=30) == code
        assert all_gone(workers)
        told = process.stderr.read()
    assert "stopped; " in told or code != 130
    assert "Traceback" not in told


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_prepare_data_leaves_no_workers(repository, tmp_path, number):
    source, out = make_maps(tmp_path / "in", [f"{n}.nii.gz" for n in range(24)]), tmp_path / "out"
    process = start_program(command(repository, source, out, 2), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.time() + 60
    while len(children(process.pid)) < 2 and time.time() < deadline and process.poll() is None:
        time.sleep(0.005)
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(process.pid, number)
    assert process.wait(timeout=60) == (-number if number == signal.SIGKILL else 130) and all_gone(workers)
    assert number == signal.SIGKILL or "stopped; run the same command again" in process.communicate()[1]
