"""A training run that is killed thirty times while it saves, and ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys

import pytest
from helpers.ball_cases import tiny_arguments, write_ball_cases
from helpers.engine_parts import assert_same_state, records

from vecset.weights.checkpoint import load_checkpoint

NURSERY = """
# Forks training runs and kills them while they save; a process of its own, so that a fork inherits no thread's lock.
# A line of stdin is one life: "kill" or "finish". Answers with the exit status and the temporary files left behind.
import os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from vecset.engines import saving
from vecset.main_ae import main
folder, words, rng, duration = Path(sys.argv[2]), sys.argv[3:], random.Random(0), 0.02
save = saving.save_checkpoint
for line in sys.stdin:
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        def telling(path, checkpoint):
            os.write(theirs, b"s")
            save(path, checkpoint)
            os.write(theirs, b"e")
        saving.save_checkpoint = telling
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        code = 1
        try:
            code = main(words)
        finally:
            os._exit(code)
    os.close(theirs)
    if line.strip() == "kill":
        for _ in range(rng.randint(0, 2)):  # whole saves before the one that is not
            assert os.read(ours, 1) == b"s"
            began = time.monotonic()
            assert os.read(ours, 1) == b"e"
            duration = time.monotonic() - began
        assert os.read(ours, 1) == b"s"
        time.sleep(rng.uniform(0, 1.1) * duration)
        os.kill(child, signal.SIGKILL)
    else:
        while os.read(ours, 4096):
            pass
    os.close(ours)
    status = os.waitpid(child, 0)[1]
    print(status, len(list(folder.glob(".tmp-*"))), flush=True)
"""


@pytest.mark.slow
def test_a_run_killed_thirty_times_while_saving_ends_with_the_same_losses(repository, tmp_path):
    """Saved after every step, so in mid-epoch too: 5 cases, batch 2, 3 steps per epoch. A code that is drawn at random
    (KL) and augmentation: both must go on as they were."""
    data = write_ball_cases(tmp_path / "data", train=5, val=2)
    words = (
        "--model",
        "learnable_vec8x4_dim128_depth2_kl",
        "--augment_rotation",
        20,
        "--epochs",
        20,
        "--eval_every",
        7,
        "--print_every",
        1,
        "--save_every_minutes",
        0,
    )
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

    def nursery(folder):
        return subprocess.Popen(
            [sys.executable, "-c", NURSERY, str(repository), str(folder), *tiny_arguments(data, folder, *words)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def live(process, how):
        process.stdin.write(f"{how}\n")
        process.stdin.flush()
        return [int(word) for word in process.stdout.readline().split()]

    with nursery(whole) as process:
        assert live(process, "finish") == [0, 0]
        process.stdin.close()
    position, left, in_mid_epoch = 0, 0, 0
    with nursery(killed) as process:
        for life in range(30):
            status, temporary = live(process, "kill")
            assert status == signal.SIGKILL, f"life {life} was not killed"
            left += temporary > 0  # the next life takes them away
            if position or (killed / "checkpoint-last.pth").exists():
                state = load_checkpoint(killed / "checkpoint-last.pth")
                assert state["global_step"] >= position and state["status"] == "running"
                position, in_mid_epoch = state["global_step"], in_mid_epoch + (0 < state["step"] < 3)
        assert live(process, "finish") == [0, 0]
        process.stdin.close()
    assert left >= 10, f"only {left} kills left a temporary file: the test shows little"
    assert in_mid_epoch >= 5 and 10 <= position < 60
    assert_same_state(*(load_checkpoint(folder / "checkpoint-last.pth") for folder in (killed, whole)))
    assert records(killed) == records(whole) and len(records(whole)) == 60 + 3
    assert json.loads((killed / "status.json").read_text())["status"] == "finished"
