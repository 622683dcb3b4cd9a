"""submit_phase1.sh asks Slurm whether an earlier chain is under way. Where Slurm does not answer, it submits none."""

import os
import subprocess
import sys

import pytest
from helpers.prepare_runs import make_maps

QUEUES = {
    "in the queue": ("echo 7 normal heart user R", 0, "under way", False),
    "forgotten": ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", 0, "", True),
    "ended": ("exit 0", 0, "", True),
    "no controller": (
        "echo 'error: Unable to contact slurm controller' >&2; exit 1",
        2,
        "contact",
        False,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("queue", QUEUES)
def test_the_queue_decides(tmp_path, repository, queue):
    text, code, words, submits = QUEUES[queue]
    programs = tmp_path / "bin"
    programs.mkdir()
    jobs = tmp_path / "jobs"
    for name, script in (("sbatch", f"echo x >>'{jobs}'\necho 9"), ("squeue", text), ("scancel", "exit 0")):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    make_maps(tmp_path / "labels", [f"h{n}.nii.gz" for n in range(4)])
    out = tmp_path / "out"
    out.mkdir()
    (out / "chain.txt").write_text("prepare 7\n")
    done = subprocess.run(
        ["bash", repository / "submit_phase1.sh", "--input_dir", tmp_path / "labels", "--output_dir", out],
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode == 0) == (code == 0) and words in done.stdout + done.stderr, done
    assert jobs.exists() == submits, done
