"""Workers end with their parent, whatever ends it, however they were started; SIGTERM is heard as Ctrl-C is."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.prepare_runs import children, command, make_maps
from helpers.processes import start as start_program

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
    "number, code", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 130), (signal.SIGINT, 130)]
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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
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
