"""A closed terminal ends a program as Ctrl-C does, and one that nohup started goes on."""

import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.processes import HEARS_SIGNALS, UNDER_NOHUP
from helpers.processes import start as start_program

PROGRAM = """
import sys, time
sys.path.insert(0, {root!r})
from vecset.common.errors import run_command
from vecset.common.signals import ending_as_interrupt, print_line

def main(argv):
    try:
        with ending_as_interrupt():
            print_line("begun")
            sys.stdin.readline()
    finally:
        open({kept!r}, "w").close()
        sys.stdin.readline()
    print_line("done")

sys.exit(run_command(main))
"""


@pytest.fixture
def program(repository, tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.format(root=str(repository), kept=str(tmp_path / "kept")))
    return path


def begun(process):
    assert process.stdout.readline() == "begun\n"


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM"])
def test_a_signal_is_an_interrupt_once_and_what_follows_is_put_in_order(program, tmp_path, name):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with start_program([sys.executable, program], **pipes) as process:
        begun(process)
        process.send_signal(getattr(signal, name))
        deadline = time.time() + 30
        while time.time() < deadline and not (tmp_path / "kept").exists():
            time.sleep(0.01)
        process.send_signal(getattr(signal, name))
        _, told = process.communicate("\n\n", timeout=30)
    assert process.returncode == 130 and told == "stopped; run the same command again to continue\n"


def test_under_nohup_a_program_goes_on(program):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with start_program([sys.executable, program], UNDER_NOHUP, **pipes) as process:
        begun(process)
        process.send_signal(signal.SIGHUP)
        out, told = process.communicate("\n\n", timeout=30)
    assert (process.returncode, out, told) == (0, "done\n", "")


def in_terminal(words, until, before=HEARS_SIGNALS):
    """Runs `words` in a terminal of its own, closes that once `until` was printed, and returns the exit code."""
    child, terminal = pty.fork()
    if not child:
        os.execvp(before[0], [*before, *map(str, words)])
    seen, deadline = b"", time.time() + 120
    while until not in seen and time.time() < deadline:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert until in seen
    return os.waitstatus_to_exitcode(status)


PRINTING = """
import sys, time
sys.path.insert(0, {root!r})
from vecset.common.errors import run_command
from vecset.common.signals import print_line

def main(argv):
    deadline = time.time() + 60
    try:
        print_line("begun")
        while time.time() < deadline and sys.stdout.isatty():
            time.sleep(0.01)
        for number in range(1000):
            print_line("a line that nobody can read")
            print_line("nor this one", sys.stderr)
    finally:
        open({kept!r}, "w").close()

sys.exit(run_command(main))
"""


@pytest.mark.parametrize("before, code", [(HEARS_SIGNALS, 130), (UNDER_NOHUP, 0)], ids=["", "nohup"])
def test_a_closed_terminal_is_no_error(repository, tmp_path, before, code):
    path = tmp_path / "program.py"
    path.write_text(PRINTING.format(root=str(repository), kept=str(tmp_path / "kept")))
    assert in_terminal([sys.executable, path], b"begun", before) == code
    assert (tmp_path / "kept").exists()


def test_a_reader_that_has_ended_costs_lines_and_not_the_run(repository, tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PRINTING.format(root=str(repository), kept=str(tmp_path / "kept")))
    with start_program([sys.executable, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        process.stderr.close()
        assert process.wait(timeout=60) == 0
    assert (tmp_path / "kept").exists()


@pytest.mark.slow
def test_training_is_saved_when_its_terminal_is_closed(repository, tmp_path):
    data = write_ball_cases(tmp_path / "cases", train=4, val=2)
    more = ("--epochs", 100_000, "--eval_every", 100_000, "--print_every", 1, "--num_workers", 1)
    words = tiny_arguments(data, tmp_path / "run", *more)
    script = repository / "vecset" / "main_ae.py"
    assert in_terminal([sys.executable, script, *words], b"step 1/2") == 75
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "stopped"
    assert (tmp_path / "run" / "checkpoint-last.pth").is_file()
