"""Rows of a benchmark in processes of their own: what one leaves behind (memory, threads, caches) changes no other."""

import json
import subprocess
import sys


def in_a_process(script: str, **settings) -> object:
    """What `script --one JSON` prints in its last line, which is JSON: the measurement of one row, with `settings` as
    the JSON. Ends this process with the row's errors where it fails (SystemExit)."""
    words = [sys.executable, script, "--one", json.dumps(settings)]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"{settings}: ended with {run.returncode} (out of memory?)\n{run.stderr[-2000:]}")
    return json.loads(run.stdout.strip().split("\n")[-1])
